//! Echo requests, one a second.

use core::fmt::{self, Write as _};
use core::net::Ipv4Addr;
use core::time::Duration;

use super::format::Span;
use super::host::{ActionError, Host};
use super::output::Output;

/// Requests that are sent.
const REQUESTS: u16 = 4;
/// Time between an answer, or giving it up, and the next request.
const INTERVAL: Duration = Duration::from_millis(500);
/// Time after which no answer is awaited.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pinging {
    /// Look again at this time at the latest.
    Until(Duration),
    /// All is said.
    Done,
}

/// A run of echo requests.
#[derive(Debug)]
pub(super) struct Ping {
    address: Ipv4Addr,
    sent: u16,
    answered: u16,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The next request is due then.
    Resting(Duration),
    /// A request is out, sent then.
    Waiting(Duration),
}

impl Ping {
    /// Begins with the first request at the next poll.
    pub(super) fn new(address: Ipv4Addr) -> Self {
        Self { address, sent: 0, answered: 0, state: State::Resting(Duration::ZERO) }
    }

    /// Sends what is due, and prints what came.
    ///
    /// # Errors
    /// Why no request could be sent; the run is over then.
    pub(super) fn poll(
        &mut self,
        now: Duration,
        host: &mut dyn Host,
        out: &mut Output,
    ) -> Result<Pinging, ActionError> {
        match self.state {
            State::Resting(due) if now < due => return Ok(Pinging::Until(due)),
            State::Resting(_) => {
                // Answers that came too late belong to nobody.
                while host.ping_reply().is_some() {}
                self.sent += 1;
                host.ping(self.address, self.sent)?;
                self.state = State::Waiting(now);
                return Ok(Pinging::Until(now + PATIENCE));
            }
            State::Waiting(since) => {
                let reply =
                    core::iter::from_fn(|| host.ping_reply()).find(|reply| reply.sequence == self.sent);
                let address = self.address;
                let _infallible = match reply {
                    Some(reply) => {
                        self.answered += 1;
                        writeln!(out, "{address}: answer {} in {}", reply.sequence, Span(reply.round_trip))
                    }
                    None if now.saturating_sub(since) < PATIENCE => {
                        return Ok(Pinging::Until(since + PATIENCE));
                    }
                    None => writeln!(out, "{address}: no answer to {} within {}", self.sent, Span(PATIENCE)),
                };
            }
        }
        if self.sent == REQUESTS {
            let _infallible = self.summary(out);
            return Ok(Pinging::Done);
        }
        self.state = State::Resting(now + INTERVAL);
        Ok(Pinging::Until(now + INTERVAL))
    }

    /// Prints how many were answered.
    pub(super) fn summary(&self, out: &mut Output) -> fmt::Result {
        writeln!(out, "{}: {} of {} answered", self.address, self.answered, self.sent)
    }
}
