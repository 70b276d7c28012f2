//! Refusals and abort reasons on the wire: a code, numbers and a text, so that an older peer can at least name
//! the code.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use minicbor::{Decode, Encode};

use crate::guest::{CpuFeatures, CpuidRegister};
use crate::io::Step;
use crate::reason::{AbortReason, GuestFailure, REFUSALS_MAX, Refusal, StreamFault, TEXT_BYTES_MAX};

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RefusalBody {
    #[n(0)]
    code: u16,
    #[n(1)]
    numbers: [u64; 4],
    #[n(2)]
    text: String,
}

/// One abort, or one failed step.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct AbortBody {
    #[n(0)]
    code: u16,
    #[n(1)]
    numbers: [u64; 4],
    #[n(2)]
    text: String,
    #[n(3)]
    refusals: Vec<RefusalBody>,
}

const REFUSAL_VERSION: u16 = 1;
const REFUSAL_FEATURES: u16 = 2;
const REFUSAL_TSC: u16 = 3;
const REFUSAL_MEMORY: u16 = 4;
const REFUSAL_VCPUS: u16 = 5;
const REFUSAL_ALREADY_THERE: u16 = 6;
const REFUSAL_BUSY: u16 = 7;
const REFUSAL_UNKNOWN_RECORD: u16 = 8;
const REFUSAL_HOST: u16 = 9;
const REFUSAL_POST_COPY: u16 = 10;
const REFUSAL_HEAP: u16 = 11;
const REFUSAL_STILL_OPEN: u16 = 12;

/// At most [`REFUSALS_MAX`] of them, each text cut to [`TEXT_BYTES_MAX`].
pub(crate) fn refusals_to_wire(refusals: &[Refusal]) -> Vec<RefusalBody> {
    refusals.iter().take(REFUSALS_MAX).map(refusal_to_wire).collect()
}

pub(crate) fn refusals_from_wire(bodies: &[RefusalBody]) -> Vec<Refusal> {
    bodies.iter().take(REFUSALS_MAX).map(refusal_from_wire).collect()
}

fn refusal_to_wire(refusal: &Refusal) -> RefusalBody {
    // Older releases tell of what they do not know by its text.
    let words = match refusal {
        Refusal::Heap { .. } | Refusal::StillOpen => refusal.to_string(),
        _ => String::new(),
    };
    let (code, numbers, text) = match refusal {
        Refusal::Version { source, target } => {
            (REFUSAL_VERSION, [source.0.into(), source.1.into(), target.0.into(), target.1.into()], "")
        }
        Refusal::CpuFeatures(CpuFeatures { leaf, subleaf, register, bits }) => {
            let numbers =
                [u64::from(*leaf), u64::from(*subleaf), register.to_wire().into(), u64::from(*bits)];
            (REFUSAL_FEATURES, numbers, "")
        }
        Refusal::TscFrequency { guest_hz, target_hz } => (REFUSAL_TSC, [*guest_hz, *target_hz, 0, 0], ""),
        Refusal::Memory { needed_bytes, free_bytes } => {
            (REFUSAL_MEMORY, [*needed_bytes, *free_bytes, 0, 0], "")
        }
        Refusal::Heap { needed_bytes, free_bytes } => {
            (REFUSAL_HEAP, [*needed_bytes, *free_bytes, 0, 0], words.as_str())
        }
        Refusal::StillOpen => (REFUSAL_STILL_OPEN, [0; 4], words.as_str()),
        Refusal::Vcpus { needed, max } => (REFUSAL_VCPUS, [u64::from(*needed), u64::from(*max), 0, 0], ""),
        Refusal::AlreadyThere => (REFUSAL_ALREADY_THERE, [0; 4], ""),
        Refusal::Busy => (REFUSAL_BUSY, [0; 4], ""),
        Refusal::PostCopy => (REFUSAL_POST_COPY, [0; 4], ""),
        Refusal::UnknownRecord(kind) => (REFUSAL_UNKNOWN_RECORD, [u64::from(*kind), 0, 0, 0], ""),
        Refusal::Host(text) => (REFUSAL_HOST, [0; 4], text.as_str()),
    };
    RefusalBody { code, numbers, text: cut(text) }
}

fn refusal_from_wire(body: &RefusalBody) -> Refusal {
    let [a, b, c, d] = body.numbers;
    let small = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let medium = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let register = u8::try_from(c).ok().and_then(CpuidRegister::from_wire).unwrap_or(CpuidRegister::Eax);
    match body.code {
        REFUSAL_VERSION => Refusal::Version { source: (small(a), small(b)), target: (small(c), small(d)) },
        REFUSAL_FEATURES => Refusal::CpuFeatures(CpuFeatures {
            leaf: medium(a),
            subleaf: medium(b),
            register,
            bits: medium(d),
        }),
        REFUSAL_TSC => Refusal::TscFrequency { guest_hz: a, target_hz: b },
        REFUSAL_MEMORY => Refusal::Memory { needed_bytes: a, free_bytes: b },
        REFUSAL_HEAP => Refusal::Heap { needed_bytes: a, free_bytes: b },
        REFUSAL_STILL_OPEN => Refusal::StillOpen,
        REFUSAL_VCPUS => Refusal::Vcpus { needed: medium(a), max: medium(b) },
        REFUSAL_ALREADY_THERE => Refusal::AlreadyThere,
        REFUSAL_BUSY => Refusal::Busy,
        REFUSAL_POST_COPY => Refusal::PostCopy,
        REFUSAL_UNKNOWN_RECORD => Refusal::UnknownRecord(small(a)),
        _ => Refusal::Host(cut(&body.text)),
    }
}

/// `text` cut to [`TEXT_BYTES_MAX`] at a character's end, control characters replaced.
fn cut(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    let mut all = String::new();
    for c in text.chars().map(printable) {
        if all.len() + c.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        all.push(c);
    }
    all
}

const STEPS: [Step; 12] = [
    Step::Build,
    Step::StartDirtyLog,
    Step::HarvestDirtyLog,
    Step::StopDirtyLog,
    Step::Throttle,
    Step::Pause,
    Step::SaveState,
    Step::RestoreState,
    Step::Run,
    Step::Discard,
    Step::Settle,
    Step::Forsake,
];

const FAULTS: [StreamFault; 7] = [
    StreamFault::Magic,
    StreamFault::Checksum,
    StreamFault::Length,
    StreamFault::Value,
    StreamFault::Unexpected,
    StreamFault::PageIdentity,
    StreamFault::Sequence,
];

fn number_of<T: PartialEq>(all: &[T], one: &T) -> u64 {
    all.iter().position(|other| other == one).unwrap_or(0) as u64
}

fn of_number<T: Copy>(all: &[T], number: u64) -> Option<T> {
    usize::try_from(number).ok().and_then(|number| all.get(number)).copied()
}

const ABORT_CANCELLED: u16 = 1;
const ABORT_REFUSED: u16 = 2;
const ABORT_LINK_LOST: u16 = 3;
const ABORT_SILENT: u16 = 4;
const ABORT_STREAM: u16 = 5;
const ABORT_NOT_CONVERGING: u16 = 6;
const ABORT_STEP: u16 = 7;
const ABORT_STEP_SECTION: u16 = 8;
const ABORT_STEP_REFUSED: u16 = 9;
const ABORT_MEMORY: u16 = 10;
const ABORT_DIGEST: u16 = 11;
const ABORT_GUEST_ENDED: u16 = 12;
const ABORT_INTERNAL: u16 = 13;
const ABORT_STEP_MEMORY: u16 = 14;
const ABORT_STEP_GONE: u16 = 15;
const ABORT_ESTIMATED: u16 = 16;

impl AbortBody {
    /// Our reason as the other host is told.
    pub(crate) fn to_wire(reason: &AbortReason) -> Self {
        let plain = |code, numbers| Self { code, numbers, text: String::new(), refusals: Vec::new() };
        match reason {
            // The target need not know why its source changed its mind.
            AbortReason::OnlyEstimated => plain(ABORT_ESTIMATED, [0; 4]),
            AbortReason::Cancelled
            | AbortReason::LimitTooShort { .. }
            | AbortReason::LimitOverrun { .. }
            | AbortReason::TargetLost
            | AbortReason::CopyMayRun => plain(ABORT_CANCELLED, [0; 4]),
            AbortReason::Refused(refusals) => {
                Self { refusals: refusals_to_wire(refusals), ..plain(ABORT_REFUSED, [0; 4]) }
            }
            // A refusal has the place for both versions, and every release can name it.
            AbortReason::Version { answered, spoken } => {
                let refusal = Refusal::Version { source: *spoken, target: (*answered, *answered) };
                Self { refusals: refusals_to_wire(&[refusal]), ..plain(ABORT_REFUSED, [0; 4]) }
            }
            AbortReason::LinkLost => plain(ABORT_LINK_LOST, [0; 4]),
            AbortReason::PeerSilent(waited) => {
                plain(ABORT_SILENT, [u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), 0, 0, 0])
            }
            AbortReason::Stream(fault) => plain(ABORT_STREAM, [number_of(&FAULTS, fault), 0, 0, 0]),
            AbortReason::NotConverging { rounds, pages_left, dirty_pages_per_second, bytes_per_second } => {
                let numbers =
                    [u64::from(*rounds), u64::from(*pages_left), *dirty_pages_per_second, *bytes_per_second];
                plain(ABORT_NOT_CONVERGING, numbers)
            }
            AbortReason::Guest(step, failure) => Self::step_to_wire(*step, failure),
            AbortReason::Ram(crate::ram::RamFailure::OutOfMemory(_)) => plain(ABORT_MEMORY, [0; 4]),
            AbortReason::DigestMismatch => plain(ABORT_DIGEST, [0; 4]),
            AbortReason::GuestEnded => plain(ABORT_GUEST_ENDED, [0; 4]),
            AbortReason::Ram(_)
            | AbortReason::CopyUnknown
            | AbortReason::StateTooLarge
            | AbortReason::Contract
            | AbortReason::PeerAborted(_)
            | AbortReason::PeerStream(_)
            | AbortReason::PeerGuest(..)
            | AbortReason::PeerOutOfMemory => plain(ABORT_INTERNAL, [0; 4]),
        }
    }

    /// A failed step.
    pub(crate) fn step_to_wire(step: Step, failure: &GuestFailure) -> Self {
        let number = number_of(&STEPS, &step);
        let plain = |code, numbers| Self { code, numbers, text: String::new(), refusals: Vec::new() };
        match failure {
            GuestFailure::OutOfMemory => plain(ABORT_STEP_MEMORY, [number, 0, 0, 0]),
            GuestFailure::Gone => plain(ABORT_STEP_GONE, [number, 0, 0, 0]),
            GuestFailure::Refused(refusals) => {
                Self { refusals: refusals_to_wire(refusals), ..plain(ABORT_STEP_REFUSED, [number, 0, 0, 0]) }
            }
            GuestFailure::Section { id, instance, version } => {
                plain(ABORT_STEP_SECTION, [number, u64::from(*id), u64::from(*instance), u64::from(*version)])
            }
            GuestFailure::Host(text) => Self { text: cut(text), ..plain(ABORT_STEP, [number, 0, 0, 0]) },
        }
    }

    /// The other host's reason as we tell it.
    pub(crate) fn reason(&self) -> AbortReason {
        let [a, b, c, d] = self.numbers;
        let medium = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let step = || of_number(&STEPS, a).unwrap_or(Step::Run);
        match self.code {
            ABORT_CANCELLED => AbortReason::Cancelled,
            ABORT_ESTIMATED => AbortReason::OnlyEstimated,
            ABORT_REFUSED => AbortReason::Refused(refusals_from_wire(&self.refusals)),
            ABORT_LINK_LOST => AbortReason::LinkLost,
            ABORT_SILENT => AbortReason::PeerSilent(Duration::from_nanos(a)),
            ABORT_STREAM => {
                of_number(&FAULTS, a).map_or(AbortReason::PeerAborted(self.code), AbortReason::PeerStream)
            }
            ABORT_NOT_CONVERGING => AbortReason::NotConverging {
                rounds: medium(a),
                pages_left: medium(b),
                dirty_pages_per_second: c,
                bytes_per_second: d,
            },
            ABORT_STEP => AbortReason::PeerGuest(step(), GuestFailure::Host(cut(&self.text).to_string())),
            ABORT_STEP_SECTION => {
                let failure =
                    GuestFailure::Section { id: medium(b), instance: medium(c), version: medium(d) };
                AbortReason::PeerGuest(step(), failure)
            }
            ABORT_STEP_REFUSED => {
                AbortReason::PeerGuest(step(), GuestFailure::Refused(refusals_from_wire(&self.refusals)))
            }
            ABORT_STEP_MEMORY => AbortReason::PeerGuest(step(), GuestFailure::OutOfMemory),
            ABORT_STEP_GONE => AbortReason::PeerGuest(step(), GuestFailure::Gone),
            ABORT_MEMORY => AbortReason::PeerOutOfMemory,
            ABORT_DIGEST => AbortReason::DigestMismatch,
            ABORT_GUEST_ENDED => AbortReason::GuestEnded,
            code => AbortReason::PeerAborted(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_told_which_versions_do_not_fit() {
        let reason = AbortReason::Version { answered: 7, spoken: (1, 2) };
        let told = AbortBody::to_wire(&reason).reason();
        let refusal = Refusal::Version { source: (1, 2), target: (7, 7) };
        assert_eq!(told, AbortReason::Refused([refusal].into()));
    }

    #[test]
    fn a_source_that_does_not_know_a_refusal_has_it_in_words() {
        for refusal in [Refusal::Heap { needed_bytes: 3 << 20, free_bytes: 1 << 20 }, Refusal::StillOpen] {
            let said = refusal_to_wire(&refusal);
            assert_eq!(refusal_from_wire(&said), refusal);
            let unknown = refusal_from_wire(&RefusalBody { code: 999, ..said });
            assert_eq!(unknown, Refusal::Host(cut(&refusal.to_string())));
            assert_eq!(unknown.to_string(), refusal.to_string(), "all of it");
        }
    }
}
