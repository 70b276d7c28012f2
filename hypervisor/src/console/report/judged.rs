//! What a migration decided behind its last round, and why.

use core::fmt;

use godwit_migration::{Judgement, Next};

use super::super::format::Span;

/// As a line of the status, behind its first words.
pub(in super::super) struct Judged<'a>(pub(in super::super) &'a Judgement);

impl fmt::Display for Judged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Judgement { rounds, sent, left, downtime, limit, next } = *self.0;
        write!(f, "round {rounds} sent {sent} pages and left {left}: ")?;
        match (next, downtime) {
            (Next::Round, Some(downtime)) if downtime <= limit => {
                write!(f, "another, since they still get fewer; a stop would take {}", Span(downtime))
            }
            (Next::Round, Some(downtime)) => {
                write!(f, "another, since a stop would take {}, not {}", Span(downtime), Span(limit))
            }
            (Next::Round, None) => f.write_str("another, since it is not known yet what a stop would take"),
            (Next::Drain, _) => f.write_str("what is on its way is let arrive before it is decided"),
            (Next::Rest, _) => f.write_str("a stop would fit, but the guest first runs for a while"),
            (Next::Throttle(percent), _) => {
                write!(f, "rounds do not make them fewer, so that the guest is slowed by {percent} %")
            }
            (Next::Stop, Some(downtime)) => {
                write!(f, "the guest is stopped, which is to take {} of {}", Span(downtime), Span(limit))
            }
            (Next::Stop, None) => f.write_str("the guest is stopped"),
            (Next::StopAnyway, _) => {
                write!(f, "the guest is stopped although that will take longer than {}", Span(limit))
            }
            (Next::Switch(why), _) => write!(f, "the guest is switched, {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use core::time::Duration;

    use godwit_migration::Why;

    use super::*;

    #[test]
    fn each_decision_names_what_it_was_made_by() {
        let millis = Duration::from_millis;
        let judged = |next, downtime: Option<u64>| {
            let downtime = downtime.map(millis);
            Judged(&Judgement { rounds: 2, sent: 900, left: 40, downtime, limit: millis(300), next })
                .to_string()
        };
        for (next, downtime, words) in [
            (Next::Round, Some(20), "another, since they still get fewer; a stop would take 20 ms"),
            (Next::Round, Some(450), "another, since a stop would take 450 ms, not 300 ms"),
            (Next::Round, None, "another, since it is not known yet what a stop would take"),
            (
                Next::Throttle(35),
                Some(450),
                "rounds do not make them fewer, so that the guest is slowed by 35 %",
            ),
            (Next::Stop, Some(20), "the guest is stopped, which is to take 20 ms of 300 ms"),
            (Next::StopAnyway, None, "the guest is stopped although that will take longer than 300 ms"),
            (Next::Switch(Why::Asked), None, "the guest is switched, as was asked for"),
        ] {
            assert_eq!(judged(next, downtime), alloc::format!("round 2 sent 900 pages and left 40: {words}"));
        }
    }
}
