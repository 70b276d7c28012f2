//! What a hostile target can do to a guest of which a copy is made: nothing.

use proptest::prelude::*;

use super::{GUEST, Host, accepted_source, encode, phase, said, say, until_sealed};
use crate::io::{Channel, Command, Input};
use crate::permit::{Generation, GuestId, RunPermit};
use crate::policy::{Identity, Purpose};
use crate::source::Source;
use crate::wire::control::{Committed, Control, Verified};

/// As [`accepted_source`], of a source that clones its guest.
fn cloning_source() -> (Host<Source>, u32) {
    let copy = Identity { id: GuestId([5; 16]), name: "copy".into() };
    accepted_source(crate::Mode::PostCopy, Purpose::Clone(copy))
}

#[test]
fn a_guest_that_is_cloned_runs_as_soon_as_the_seal_is_said() {
    let (mut host, mut sequence) = cloning_source();
    until_sealed(&mut host, &mut sequence);
    assert!(host.permit.is_some() && host.runs == 1, "nobody has answered");
    say(&mut host, Control::Verified(Verified { restore_ns: 0, stop: 0 }), &mut sequence);
    assert_eq!(phase(&host), crate::Phase::Committing);
    say(&mut host, Control::Committed(Committed { generation: 1, run_ns: 0 }), &mut sequence);
    assert_eq!(phase(&host), crate::Phase::Completed);
    assert_eq!(host.permit.as_ref().map(RunPermit::guest), Some(GUEST));
    assert!(host.ram.is_some() && host.runs == 1, "nothing of it was given away");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_guest_that_is_cloned_runs_whatever_the_target_says(all in prop::collection::vec(said(), 0..40)) {
        let (mut host, mut sequence) = cloning_source();
        if all.len().is_multiple_of(2) {
            // Half of them in the part that a move does not have.
            until_sealed(&mut host, &mut sequence);
        }
        for said in &all {
            host.give(Input::Bytes(Channel::MAIN, &encode(said, &mut sequence)));
            host.give(Input::Command(Command::Reclaim));
            host.give(Input::Command(Command::Release));
        }
        host.give(Input::Command(Command::Cancel));
        prop_assert!(host.ram.is_some());
        prop_assert_eq!(host.permit.as_ref().map(RunPermit::guest), Some(GUEST));
        prop_assert_eq!(host.permit.as_ref().map(RunPermit::generation), Some(Generation::FIRST));
    }
}
