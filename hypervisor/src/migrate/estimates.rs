//! What moves were expected to take, kept until the move is made, so that its report can show both.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};

use godwit_migration::{Policy, Prediction};

/// Estimates that are kept; the oldest are dropped.
const KEPT_MAX: usize = 16;

#[derive(Debug)]
struct Estimate {
    guest: String,
    peer: String,
    policy: Policy,
    prediction: Prediction,
}

/// The last estimate of each guest's move.
#[derive(Debug, Default)]
pub(super) struct Estimates(VecDeque<Estimate>);

impl Estimates {
    /// Keeps what moving `guest` to `peer` under `policy` would take, instead of what it would have taken before.
    pub(super) fn keep(&mut self, guest: &str, peer: &str, policy: Policy, prediction: Prediction) {
        self.0.retain(|estimate| estimate.guest != guest);
        if self.0.len() == KEPT_MAX {
            self.0.pop_front();
        }
        let (guest, peer) = (guest.to_string(), peer.to_string());
        self.0.push_back(Estimate { guest, peer, policy, prediction });
    }

    /// The estimate for just this move, if there is one. It is used up: the next move of the guest is another.
    pub(super) fn take(&mut self, guest: &str, peer: &str, policy: &Policy) -> Option<Prediction> {
        let index = self.0.iter().position(|estimate| estimate.guest == guest)?;
        let estimate = self.0.remove(index)?;
        (estimate.peer == peer && estimate.policy == *policy).then_some(estimate.prediction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(rounds: u32) -> Prediction {
        Prediction { rounds, ..Prediction::default() }
    }

    #[test]
    fn the_last_estimate_of_just_this_move_is_found_once() {
        let mut estimates = Estimates::default();
        let policy = Policy::default();
        estimates.keep("linux", "b", policy, rounds(1));
        estimates.keep("linux", "b", policy, rounds(2));
        assert_eq!(estimates.take("linux", "b", &policy), Some(rounds(2)));
        assert_eq!(estimates.take("linux", "b", &policy), None);
    }

    #[test]
    fn an_estimate_of_another_move_is_not_this_ones() {
        let mut estimates = Estimates::default();
        let policy = Policy::default();
        let capped = Policy { bandwidth_bytes_per_second: Some(1), ..policy };
        for (guest, peer, policy) in [("other", "b", policy), ("linux", "c", policy), ("linux", "b", capped)]
        {
            estimates.keep(guest, peer, policy, rounds(1));
        }
        assert_eq!(estimates.take("linux", "b", &policy), None);
        assert!(estimates.take("other", "b", &policy).is_some(), "each guest has its own");
    }

    #[test]
    fn the_oldest_give_way() {
        let mut estimates = Estimates::default();
        let policy = Policy::default();
        for number in 0..=KEPT_MAX {
            estimates.keep(&number.to_string(), "b", policy, rounds(1));
        }
        assert_eq!(estimates.take("0", "b", &policy), None);
        assert!(estimates.take("1", "b", &policy).is_some());
    }
}
