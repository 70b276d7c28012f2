//! Echo requests, and what becomes of them.

use core::fmt::{self, Write as _};
use core::net::Ipv4Addr;

use super::format::Span;
use super::host::{ActionError, Host, PingEvent};
use super::output::Output;

/// Requests that are sent.
const REQUESTS: u16 = 4;

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pinging {
    /// Requests are out, or to be sent.
    Busy,
    /// All is said.
    Done,
}

/// A run of echo requests.
#[derive(Debug)]
pub(super) struct Ping {
    address: Ipv4Addr,
    answered: u16,
    settled: u16,
}

impl Ping {
    /// Begins.
    ///
    /// # Errors
    /// Why no request can be sent.
    pub(super) fn begin(address: Ipv4Addr, host: &mut dyn Host) -> Result<Self, ActionError> {
        host.ping(address, REQUESTS)?;
        Ok(Self { address, answered: 0, settled: 0 })
    }

    /// Prints what came.
    pub(super) fn poll(&mut self, host: &mut dyn Host, out: &mut Output) -> Pinging {
        // A request ends in one event, and there is one for the end of all.
        for _ in 0..=REQUESTS {
            let address = self.address;
            let _infallible = match host.next_ping_event() {
                None => return Pinging::Busy,
                Some(PingEvent::Answer { sequence, round_trip }) => {
                    self.answered += 1;
                    self.settled += 1;
                    writeln!(out, "{address}: answer {sequence} in {}", Span(round_trip))
                }
                Some(PingEvent::Silence { sequence }) => {
                    self.settled += 1;
                    writeln!(out, "{address}: no answer to {sequence}")
                }
                Some(PingEvent::Finished) => {
                    let _infallible = self.summary(out);
                    return Pinging::Done;
                }
            };
        }
        Pinging::Busy
    }

    /// Stops before the end.
    pub(super) fn stop(&self, host: &mut dyn Host, out: &mut Output) {
        host.stop_ping();
        let _infallible = self.summary(out);
    }

    fn summary(&self, out: &mut Output) -> fmt::Result {
        writeln!(out, "{}: {} of {} answered", self.address, self.answered, self.settled)
    }
}
