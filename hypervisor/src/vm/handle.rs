//! What everybody but its owner holds of a machine.
//!
//! Commands go through a mailbox with one slot: whoever fills it gets a ticket and polls for the reply. The owner
//! looks into it at every turn of its loop, on whichever CPU that is; with one CPU, requester and owner are the
//! same loop and nothing waits for anything.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use godwit_migration::RunPermit;
use godwit_vmx::ept::EptError;
use godwit_vmx::exit::REASONS;

use super::lifecycle::{Impossible, State};
use super::machine::MachineState;
use super::memory::GuestRam;
use super::state::InvalidState;
use crate::devices::board::RestoreError;
use crate::exits::StopReason;
use crate::sync::{Level, Lock};

/// Bytes of a guest's output kept for whoever looks.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of input that wait for a guest.
pub const INPUT_BYTES_MAX: usize = 4096;

/// What a machine can be told.
#[derive(Debug)]
pub enum Command {
    /// Run. A permit comes with it unless the machine still has its own.
    Run(Option<RunPermit>),
    /// Stand still until [`Command::Run`]; the machine keeps its permit.
    Pause,
    /// Stand still for the last part of a migration; the permit comes with the reply.
    Stun,
    /// End.
    Stop(StopReason),
    /// Press the power button.
    PowerButton,
    /// Begin to record writes, for a migration.
    StartDirtyLog,
    /// Publish what was written.
    HarvestDirtyLog,
    /// Stop recording.
    StopDirtyLog,
    /// Keep the machine from running for this percentage of the time.
    Throttle(u8),
    /// Save processors and devices of a machine that stands still.
    Save,
    /// Restore them into a machine that has not run.
    Restore(Box<MachineState>),
    /// Everything that was absent has come: make the machine's tables as they are without post-copy.
    Settle,
    /// What is absent will never come: end the machine when it needs that.
    Forsake,
    /// Tell figures.
    Inspect,
}

/// What became of a command.
#[derive(Debug)]
pub enum Reply {
    /// It is done.
    Done,
    /// [`Command::Stun`] is done.
    Stunned(RunPermit),
    /// [`Command::Save`] is done.
    Saved(Box<MachineState>),
    /// [`Command::Inspect`] is done.
    Figures(Box<Figures>),
    /// It is not done, and nothing has changed; a permit that came with it comes back.
    Refused(Refusal, Option<RunPermit>),
}

/// Why a command was not carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The machine is not where that can be done.
    Impossible(Impossible),
    /// It has no permit to run.
    NoPermit,
    /// Its tables could not be changed.
    Tables(EptError),
    /// A processor's state is invalid.
    Processor(InvalidState),
    /// The devices' state is invalid.
    Devices(RestoreError),
    /// The processor refused the machine's control structure.
    Vmcs,
    /// So many pages of its memory have not come yet.
    Absent(usize),
    /// The machine is gone.
    Gone,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Impossible(why) => why.fmt(f),
            Self::NoPermit => f.write_str("the guest may not run here: its permit is elsewhere"),
            Self::Tables(why) => why.fmt(f),
            Self::Processor(why) => why.fmt(f),
            Self::Devices(why) => why.fmt(f),
            Self::Vmcs => f.write_str("the processor refuses the guest's control structure"),
            Self::Absent(pages) => write!(f, "{pages} pages of the guest's memory have not come yet"),
            Self::Gone => f.write_str("the guest is gone"),
        }
    }
}

impl core::error::Error for Refusal {}

/// Figures of a machine, for people and benchmarks.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Exits by basic reason, of all processors.
    pub exits: [u64; REASONS],
    /// Accesses where nobody answers.
    pub wild_accesses: u64,
    /// TSC ticks of the host spent in the guest and in handling its exits.
    pub run_ticks: u64,
    /// The machine's TSC.
    pub tsc: u64,
    /// Percentage of time that it is kept from running.
    pub throttle: u8,
    /// How dirty pages are found here.
    pub dirty_source: &'static str,
    /// Host TSC at the first entry, 0 before.
    pub first_entry_tsc: u64,
}

/// Proof of a command in the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// Why a command did not get into the mailbox; it comes back.
#[derive(Debug)]
pub enum Unsent {
    /// Another is not finished: try again later.
    Busy(Command),
    /// The machine has ended, and nobody looks into its mailbox any more.
    Gone(Command),
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Waiting(Option<Ticket>, Command),
    InWork(Option<Ticket>),
    Answered(Ticket, Reply),
}

#[derive(Debug, Default)]
struct Mailbox {
    slot: Slot,
    next: u64,
    /// The owner has let go of the machine.
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Serial {
    output: VecDeque<u8>,
    /// Bytes that were dropped because nobody took them in time.
    lost: u64,
    input: VecDeque<u8>,
}

/// What is shared about a machine. See [`VmHandle`].
#[derive(Debug)]
pub struct Shared {
    name: String,
    memory_bytes: u64,
    vcpus: u32,
    /// CPU whose loop owns the machine.
    owner: AtomicUsize,
    mailbox: Lock<Mailbox>,
    serial: Lock<Serial>,
    state: Lock<State>,
    ram: Lock<Option<Arc<GuestRam>>>,
    /// Tells a CPU's loop that there is something to do.
    kick: fn(usize),
}

/// A machine as everybody may hold it.
pub type VmHandle = Arc<Shared>;

impl Shared {
    /// What is shared about a machine named `name` that is owned by CPU `owner`; `kick` wakes a CPU's loop.
    #[must_use]
    pub fn new(
        name: &str,
        vcpus: u32,
        ram: Arc<GuestRam>,
        state: State,
        owner: usize,
        kick: fn(usize),
    ) -> Self {
        Self {
            name: String::from(name),
            memory_bytes: ram.bytes(),
            vcpus,
            owner: AtomicUsize::new(owner),
            mailbox: Lock::new(Level::Guest, Mailbox::default()),
            serial: Lock::new(Level::Guest, Serial::default()),
            state: Lock::new(Level::Guest, state),
            ram: Lock::new(Level::Guest, Some(ram)),
            kick,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of its RAM.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Number of its processors.
    #[must_use]
    pub const fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// The CPU whose loop owns it.
    #[must_use]
    pub fn owner(&self) -> usize {
        self.owner.load(Ordering::Relaxed)
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Its RAM, until it has ended.
    #[must_use]
    pub fn ram(&self) -> Option<Arc<GuestRam>> {
        self.ram.lock().clone()
    }

    /// Has the owner look after the machine: something has come that a processor of it waits for.
    pub fn wake(&self) {
        (self.kick)(self.owner());
    }

    /// Gives the owner a command.
    ///
    /// # Errors
    /// [`Unsent`] with the command.
    pub fn submit(&self, command: Command) -> Result<Ticket, Unsent> {
        let ticket = self.put(command, Interest::Reply)?;
        (self.kick)(self.owner());
        Ok(ticket)
    }

    /// Gives the owner a command whose reply nobody waits for.
    ///
    /// # Errors
    /// [`Unsent`] with the command.
    pub fn tell(&self, command: Command) -> Result<(), Unsent> {
        self.put(command, Interest::None)?;
        (self.kick)(self.owner());
        Ok(())
    }

    fn put(&self, command: Command, interest: Interest) -> Result<Ticket, Unsent> {
        let mut mailbox = self.mailbox.lock();
        if mailbox.is_closed {
            return Err(Unsent::Gone(command));
        }
        if !matches!(mailbox.slot, Slot::Empty) {
            return Err(Unsent::Busy(command));
        }
        mailbox.next += 1;
        let ticket = Ticket(mailbox.next);
        let waits = matches!(interest, Interest::Reply).then_some(ticket);
        mailbox.slot = Slot::Waiting(waits, command);
        Ok(ticket)
    }

    /// The reply to the command with `ticket`, once, when there is one.
    #[must_use]
    pub fn poll(&self, ticket: Ticket) -> Option<Reply> {
        let mut mailbox = self.mailbox.lock();
        match core::mem::take(&mut mailbox.slot) {
            Slot::Answered(answered, reply) if answered == ticket => Some(reply),
            other => {
                mailbox.slot = other;
                None
            }
        }
    }

    /// Whether a command waits for the owner.
    pub(crate) fn has_command(&self) -> bool {
        matches!(self.mailbox.lock().slot, Slot::Waiting(..))
    }

    /// The owner takes the command that waits.
    pub(crate) fn take_command(&self) -> Option<Command> {
        let mut mailbox = self.mailbox.lock();
        match core::mem::take(&mut mailbox.slot) {
            Slot::Waiting(ticket, command) => {
                mailbox.slot = Slot::InWork(ticket);
                Some(command)
            }
            other => {
                mailbox.slot = other;
                None
            }
        }
    }

    /// The owner answers the command that it took.
    pub(crate) fn answer(&self, reply: Reply) {
        let mut mailbox = self.mailbox.lock();
        mailbox.slot = match core::mem::take(&mut mailbox.slot) {
            Slot::InWork(Some(ticket)) => Slot::Answered(ticket, reply),
            Slot::InWork(None) => Slot::Empty,
            other => other,
        };
    }

    /// The owner has let go of the machine, which has ended: whoever waits for an answer gets one now, and nobody can
    /// ask any more. A permit that was on its way to the machine comes back.
    pub(crate) fn close(&self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.is_closed = true;
        let (ticket, permit) = match core::mem::take(&mut mailbox.slot) {
            Slot::Waiting(Some(ticket), Command::Run(permit)) => (ticket, permit),
            Slot::Waiting(Some(ticket), _) | Slot::InWork(Some(ticket)) => (ticket, None),
            Slot::Empty | Slot::Waiting(None, _) | Slot::InWork(None) => return,
            answered @ Slot::Answered(..) => {
                mailbox.slot = answered;
                return;
            }
        };
        mailbox.slot = Slot::Answered(ticket, Reply::Refused(Refusal::Gone, permit));
    }

    /// Whether the machine has ended and its owner has let go of it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.mailbox.lock().is_closed
    }

    /// The owner publishes where the machine is.
    pub(crate) fn publish(&self, state: &State) {
        let ended = matches!(state, State::Stopped(_));
        *self.state.lock() = state.clone();
        if ended {
            let ram = self.ram.lock().take();
            // Freeing takes other locks: not under this one.
            drop(ram);
        }
    }

    /// The owner hands on what the guest has sent; the oldest is lost if nobody takes it. Returns whether there was
    /// nothing before.
    pub(crate) fn put_output(&self, bytes: &[u8]) -> bool {
        let mut serial = self.serial.lock();
        let was_empty = serial.output.is_empty();
        let excess = (serial.output.len() + bytes.len()).saturating_sub(OUTPUT_BYTES_MAX);
        let excess = excess.min(serial.output.len());
        serial.output.drain(..excess);
        serial.lost += excess as u64;
        serial.output.extend(bytes);
        was_empty
    }

    /// Takes what the guest has sent to its serial port: the number of bytes moved.
    pub fn take_output(&self, into: &mut [u8]) -> usize {
        let mut serial = self.serial.lock();
        let count = into.len().min(serial.output.len());
        for (place, byte) in into.iter_mut().zip(serial.output.drain(..count)) {
            *place = byte;
        }
        count
    }

    /// Sends `bytes` to the guest's serial port: the number that there was room for.
    pub fn feed_input(&self, bytes: &[u8]) -> usize {
        let mut serial = self.serial.lock();
        let count = bytes.len().min(INPUT_BYTES_MAX - serial.input.len().min(INPUT_BYTES_MAX));
        serial.input.extend(&bytes[..count]);
        drop(serial);
        (self.kick)(self.owner());
        count
    }

    /// The owner moves input on: `accept` takes as much as it can of what it is shown.
    pub(crate) fn move_input(&self, accept: impl FnOnce(&[u8]) -> usize) {
        let mut serial = self.serial.lock();
        if serial.input.is_empty() {
            return;
        }
        let count = accept(serial.input.make_contiguous());
        serial.input.drain(..count);
    }
}

enum Interest {
    Reply,
    None,
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::super::memory::BLOCK_BYTES;
    use super::super::memory::testing::HeapBlocks;
    use super::*;

    fn shared() -> Shared {
        let ram = GuestRam::new(&mut HeapBlocks { left: 1 }, BLOCK_BYTES, 1).unwrap();
        Shared::new("linux", 1, Arc::new(ram), State::Created, 0, |_| {})
    }

    #[test]
    fn a_reply_reaches_only_whoever_asked() {
        let shared = shared();
        let ticket = shared.submit(Command::Pause).unwrap();
        assert!(matches!(shared.submit(Command::Inspect), Err(Unsent::Busy(Command::Inspect))));
        assert!(shared.poll(ticket).is_none());
        assert!(matches!(shared.take_command(), Some(Command::Pause)));
        assert!(shared.take_command().is_none());
        shared.answer(Reply::Done);
        assert!(shared.poll(Ticket(99)).is_none());
        assert!(matches!(shared.poll(ticket), Some(Reply::Done)));
        assert!(shared.poll(ticket).is_none());
        assert!(shared.submit(Command::Inspect).is_ok());
    }

    #[test]
    fn a_command_without_interest_leaves_the_mailbox_free() {
        let shared = shared();
        shared.tell(Command::Pause).unwrap();
        assert!(shared.take_command().is_some());
        shared.answer(Reply::Done);
        assert!(shared.submit(Command::Inspect).is_ok());
    }

    #[test]
    fn whoever_waits_when_the_machine_ends_gets_an_answer() {
        for begun in [false, true] {
            let shared = shared();
            let ticket = shared.submit(Command::Pause).unwrap();
            if begun {
                assert!(shared.take_command().is_some());
            }
            shared.close();
            assert!(matches!(shared.poll(ticket), Some(Reply::Refused(Refusal::Gone, None))));
            assert!(matches!(shared.submit(Command::Inspect), Err(Unsent::Gone(Command::Inspect))));
            assert!(matches!(shared.tell(Command::Pause), Err(Unsent::Gone(Command::Pause))));
        }
    }

    #[test]
    fn an_answer_given_before_the_end_can_still_be_fetched() {
        let shared = shared();
        let ticket = shared.submit(Command::Stop(StopReason::Requested)).unwrap();
        let _ = shared.take_command();
        shared.answer(Reply::Done);
        shared.close();
        assert!(matches!(shared.poll(ticket), Some(Reply::Done)));
    }

    #[test]
    fn a_permit_on_its_way_to_a_machine_that_ends_comes_back() {
        let shared = shared();
        let permit = RunPermit::for_new_guest(godwit_migration::GuestId([1; 16]));
        let ticket = shared.submit(Command::Run(Some(permit))).unwrap();
        shared.close();
        assert!(matches!(shared.poll(ticket), Some(Reply::Refused(Refusal::Gone, Some(_)))));
    }

    #[test]
    fn output_that_nobody_takes_is_bounded_and_the_newest_stays() {
        let shared = shared();
        assert!(shared.put_output(&vec![b'a'; OUTPUT_BYTES_MAX]));
        assert!(!shared.put_output(b"bc"));
        let mut all = vec![0; OUTPUT_BYTES_MAX + 10];
        assert_eq!(shared.take_output(&mut all), OUTPUT_BYTES_MAX);
        assert_eq!(&all[OUTPUT_BYTES_MAX - 3..OUTPUT_BYTES_MAX], b"abc");
    }

    #[test]
    fn input_is_bounded_and_moved_on_in_order() {
        let shared = shared();
        assert_eq!(shared.feed_input(&[7; INPUT_BYTES_MAX + 5]), INPUT_BYTES_MAX);
        assert_eq!(shared.feed_input(b"x"), 0);
        shared.move_input(|bytes| bytes.len() - 1);
        shared.move_input(|bytes| {
            assert_eq!(bytes, [7]);
            1
        });
    }

    #[test]
    fn the_ram_of_an_ended_machine_is_given_back() {
        let shared = shared();
        assert!(shared.ram().is_some());
        shared.publish(&State::Stopped(StopReason::Shutdown));
        assert!(shared.ram().is_none());
    }
}
