//! What the engines have in common, so that one session drives any of them.

use core::net::SocketAddrV4;

use godwit_migration::{Command, GuestRam, Input, Instant, Output, RunPermit, Source, Status, Target};

/// An engine of one side. See [`godwit_migration::io`] for the contract.
pub trait Engine {
    /// Takes one input.
    fn handle_input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam);
    /// Whether `command` would do something now.
    fn heeds(&self, command: Command) -> bool;
    /// The next thing to do.
    fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output;
    /// What is to be sent on [`godwit_migration::Channel::URGENT`] now, put into `buffer`; how long it is.
    fn poll_urgent(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize;
    /// The same on [`godwit_migration::Channel::SPOOL`].
    fn poll_spool(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize;
    /// Whether a wait should end as soon as anything arrives, whatever that costs.
    fn is_urgent(&self) -> bool;
    /// Whether the guest runs at the target and may wait for a page at any moment.
    fn is_after_switch(&self) -> bool;
    /// Where it stands.
    fn status(&self, now: Instant) -> Status;
    /// Whether it can be dropped.
    fn is_finished(&self) -> bool;
    /// Bytes of the heap that it was promised and may yet take.
    fn heap_owed(&self) -> u64;
    /// The permit of a guest that stands still although the attempt is over.
    fn take_permit(&mut self) -> Option<RunPermit>;
    /// Where the target is, if the engine was told so by another host.
    fn target_address(&self) -> Option<SocketAddrV4> {
        None
    }
}

macro_rules! engine {
    ($engine:ty) => {
        impl Engine for $engine {
            fn handle_input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam) {
                self.handle_input(now, input, ram);
            }
            fn heeds(&self, command: Command) -> bool {
                self.heeds(command)
            }
            fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output {
                self.poll_output(now, buffer, ram)
            }
            fn poll_urgent(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize {
                self.poll_urgent(now, buffer, ram)
            }
            fn poll_spool(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize {
                self.poll_spool(now, buffer, ram)
            }
            fn is_urgent(&self) -> bool {
                self.is_urgent()
            }
            fn is_after_switch(&self) -> bool {
                self.is_after_switch()
            }
            fn status(&self, now: Instant) -> Status {
                self.status(now)
            }
            fn is_finished(&self) -> bool {
                self.is_finished()
            }
            fn heap_owed(&self) -> u64 {
                self.heap_owed()
            }
            fn take_permit(&mut self) -> Option<RunPermit> {
                self.take_permit()
            }
        }
    };
}

engine!(Source);
engine!(Target);
