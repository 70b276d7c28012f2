//! The spool's engine: a third host keeps pages of one migration that the target lacks, so that it can finish without the
//! source.
//!
//! The source leaves pages here once the guest runs at the target ([`keeping`]). If the source is lost for longer than a
//! grace, they are offered to the target ([`offering`]), which takes them only while it has no source. There is no permit
//! here and no way to one: a spool never runs anything.

mod event;
#[cfg(test)]
pub(crate) mod hostile;
mod keeping;
mod offering;
mod shelf;

use crate::bitmap::PageBitmap;
use crate::endpoint::Endpoint;
use crate::guest::NAME_BYTES_MAX;
use crate::heap::{HostShare, Room};
use crate::io::{Channel, Command, Event, Input, OUTPUT_BYTES_MIN, Output};
use crate::permit::{GuestId, MigrationId};
use crate::policy::SpoolPolicy;
use crate::progress::Told;
use crate::ram::{GuestRam, PAGE_BYTES};
use crate::reason::Refusal;
use crate::status::{Phase, PostCopy, Spooled, Status, Waits};
use crate::target::receiver::Receiver;
use crate::time::Instant;
use crate::wire::deposit::Deposit;
pub use event::{SpoolEnd, SpoolEvent, SpoolTrouble};
use keeping::Stage;
use offering::Offering;
use shelf::Shelf;

const _: () = assert!(NAME_BYTES_MAX * 2 + crate::wire::deposit::ADDRESS_BYTES_MAX < 1024);

/// What a spool engine is made from.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// A number that is different after each boot of this host.
    pub incarnation: u64,
    /// What the host can spare for the pages.
    pub room: Room,
    /// What the store takes of the host's heap, by the RAM of the guest.
    pub share: HostShare,
    /// Why it keeps no more pages at all just now.
    pub closed: Option<Refusal>,
    /// Limits.
    pub policy: SpoolPolicy,
}

/// Pages of one migration, kept for its target.
///
/// The store that is passed with every call is a [`GuestRam`] of any number of pages, of which only those that were
/// written before are read.
#[derive(Debug)]
pub struct Spool {
    config: SpoolConfig,
    migration: Option<MigrationId>,
    guest: Option<GuestId>,
    /// What was agreed with the source; none before.
    deposit: Option<Deposit>,
    /// The connection from the source.
    source: Endpoint,
    /// The connection to the target.
    target: Endpoint,
    stage: Stage,
    receiver: Option<Receiver>,
    /// Pages that take up memory; those that are here, whole and checked.
    written: PageBitmap,
    held: PageBitmap,
    digest: Option<u64>,
    offering: Offering,
    told: Told,
    heard_at: Instant,
    began_at: Option<Instant>,
    is_over: bool,
}

impl Spool {
    /// An engine for a connection that was just accepted: give it [`Input::LinkUp`] for [`Channel::SPOOL`], then what
    /// arrives.
    #[must_use]
    pub fn new(config: SpoolConfig) -> Self {
        Self {
            config,
            migration: None,
            guest: None,
            deposit: None,
            source: Endpoint::on(Channel::SPOOL, Phase::Spooling),
            target: Endpoint::new(Phase::Spooling),
            stage: Stage::Opening,
            receiver: None,
            written: PageBitmap::empty(0),
            held: PageBitmap::empty(0),
            digest: None,
            offering: Offering::default(),
            told: Told::default(),
            heard_at: Instant::ORIGIN,
            began_at: None,
            is_over: false,
        }
    }

    /// The migration that it belongs to, once the source has named it.
    #[must_use]
    pub const fn migration(&self) -> Option<MigrationId> {
        self.migration
    }

    /// The guest's name and the target's, as the source says them; at most [`NAME_BYTES_MAX`] bytes each.
    #[must_use]
    pub fn names(&self) -> Option<(&str, &str)> {
        self.deposit.as_ref().map(|deposit| (deposit.guest.as_str(), deposit.target.as_str()))
    }

    /// Where the target is, in the words of the source's session.
    #[must_use]
    pub fn target_address(&self) -> Option<&[u8]> {
        self.deposit.as_ref().map(|deposit| &deposit.address[..])
    }

    /// Pages that are here.
    #[must_use]
    pub const fn pages(&self) -> u32 {
        self.held.len()
    }

    /// Which they are.
    #[must_use]
    pub const fn held(&self) -> &PageBitmap {
        &self.held
    }

    /// Whether everything is here, by the source's word, that the target could lack.
    #[must_use]
    pub const fn is_filled(&self) -> bool {
        self.digest.is_some()
    }

    /// Whether the source's connection stands.
    #[must_use]
    pub const fn has_source(&self) -> bool {
        self.source.link.is_some()
    }

    /// Whether `command` would do something now.
    #[must_use]
    pub const fn heeds(&self, command: Command) -> bool {
        match command {
            Command::Release => !self.is_over,
            Command::Retry => self.is_asking(),
            Command::Start | Command::Cancel | Command::Tune(_) | Command::Reclaim | Command::TakeOver => {
                false
            }
        }
    }

    /// Takes one input. Drain [`Self::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>, store: &mut dyn GuestRam) {
        match input {
            Input::Bytes(Channel::MAIN, bytes) => self.receive_target(now, bytes),
            Input::Bytes(_, bytes) => self.receive_source(now, bytes, store),
            Input::LinkUp(Channel::MAIN) => self.on_target_up(now),
            Input::LinkUp(_) => self.on_source_up(now),
            Input::LinkDown(Channel::MAIN) => self.on_target_down(now),
            Input::LinkDown(_) => self.on_source_down(now),
            Input::Timeout => self.on_time(now),
            Input::Command(Command::Release) => self.dismiss(),
            Input::Command(Command::Retry) => self.offer_now(now),
            Input::Command(_) | Input::Guest(_) => {}
        }
    }

    /// The next thing to do. `buffer` holds the bytes of [`Output::Transmit`], which are the target's; with an empty one
    /// nothing is transmitted.
    ///
    /// # Panics
    /// If `buffer` is neither empty nor [`OUTPUT_BYTES_MIN`] long.
    pub fn poll_output(&mut self, now: Instant, buffer: &mut [u8], store: &mut dyn GuestRam) -> Output {
        assert!(
            buffer.is_empty() || buffer.len() >= OUTPUT_BYTES_MIN,
            "the contract asks for a longer buffer"
        );
        if let Some(output) = self.source.poll(now, &mut []) {
            return output;
        }
        if let Some(output) = self.target.poll(now, buffer) {
            return output;
        }
        if !buffer.is_empty() {
            let len = self.stream(now, buffer, store);
            if len > 0 {
                return self.target.transmitted(now, len);
            }
            // It may have given the target up.
            if let Some(output) = self.target.poll(now, &mut []) {
                return output;
            }
        }
        Output::Timeout(self.deadline())
    }

    /// Puts what is to be sent to the source now into `buffer`, at least [`OUTPUT_BYTES_MIN`] long, and says how much that
    /// is; 0 if there is nothing.
    pub fn poll_spool(&mut self, now: Instant, buffer: &mut [u8], _store: &mut dyn GuestRam) -> usize {
        self.answer_source(now, buffer)
    }

    /// Whether a guest runs at the target and may wait at any moment for a page that is here.
    #[must_use]
    pub fn is_after_switch(&self) -> bool {
        self.offering.is_giving()
    }

    /// Whether the pages are gone and the engine can be dropped.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.is_over
    }

    /// Where it stands: pages that came, and bytes.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let (to_source, to_target) = (self.source.bytes(), self.target.bytes());
        Status {
            phase: Phase::Spooling,
            round: 0,
            pages_total: self.deposit.as_ref().map_or(0, |deposit| deposit.pages),
            pages_left: self.offering.pages_left(),
            pages: self.receiver.as_ref().map(Receiver::counts).unwrap_or_default(),
            bytes_sent: to_source.0 + to_target.0,
            bytes_received: to_source.1 + to_target.1,
            dirty_pages_per_second: 0,
            bytes_per_second: 0,
            throttle_percent: 0,
            downtime_estimate: None,
            remaining_estimate: None,
            elapsed: self.began_at.map_or(core::time::Duration::ZERO, |began| now.since(began)),
            downtime: crate::status::Downtime::default(),
            stops: crate::status::Stops::default(),
            judgement: None,
            post_copy: self.deposit.as_ref().map(|deposit| PostCopy {
                why: None,
                pages: deposit.absent,
                filling: core::time::Duration::ZERO,
                waits: Waits::default(),
                interruptions: 0,
                is_whole: self.is_filled(),
                spool: Some(Spooled {
                    pages: self.held.len(),
                    left: self.offering.pages_left(),
                    whole_after: None,
                    is_connected: self.has_source(),
                }),
            }),
        }
    }

    fn tell(&mut self, event: SpoolEvent) {
        self.target.tell(Event::Spool(event));
    }

    /// Whether the source has not said yet what is to be kept; as [`crate::Target::awaits_guest`].
    #[must_use]
    pub const fn awaits_deposit(&self) -> bool {
        self.deposit.is_none() && !self.is_over
    }

    /// Whether it is only to say why no pages are kept.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.config.closed.is_some()
    }

    /// This is what the host can spare now.
    pub const fn set_room(&mut self, room: Room) {
        self.config.room = room;
    }

    /// Bytes of RAM that the store may yet take.
    #[must_use]
    pub fn ram_owed(&self) -> u64 {
        let absent = self.deposit.as_ref().filter(|_| !self.is_over).map_or(0, |deposit| deposit.absent);
        // Pages of zeros are here and take none.
        let here = self.held.len().max(self.written.len());
        u64::from(absent.saturating_sub(here)) * PAGE_BYTES as u64
    }

    pub(crate) fn pages_of_guest(&self) -> Option<u32> {
        self.deposit.as_ref().map(|deposit| deposit.pages)
    }

    pub(crate) const fn store_share(&self) -> HostShare {
        self.config.share
    }

    /// Bytes of the heap that the sets have. What the store has is not known here.
    pub(crate) fn sets_held(&self) -> u64 {
        let receiver = self.receiver.as_ref().map_or(0, Receiver::bytes);
        self.written.bytes() + self.held.bytes() + self.offering.bytes() + receiver
    }

    /// Lets everything go.
    fn end(&mut self, why: SpoolEnd) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        self.receiver = None;
        (self.written, self.held) = (PageBitmap::empty(0), PageBitmap::empty(0));
        self.offering = Offering::default();
        self.source.close();
        self.target.hang_up();
        self.tell(SpoolEvent::Over(why));
    }

    fn on_time(&mut self, now: Instant) {
        self.source.keep_alive(now);
        self.target.keep_alive(now);
        let patience = self.config.policy.peer_timeout;
        if now >= self.source.silent_at(patience) {
            self.source.hang_up();
            self.on_source_down(now);
        }
        if now >= self.target.silent_at(patience) {
            self.give_up_target(now);
        }
        self.offer_on_time(now);
        if now >= self.expires_at() {
            self.end(SpoolEnd::Expired);
        }
    }

    /// When the pages have been kept for long enough without a word of anybody.
    fn expires_at(&self) -> Instant {
        let is_alone = self.source.link.is_none() && !self.is_over;
        if is_alone { self.heard_at.after(self.config.policy.hold) } else { Instant::NEVER }
    }

    /// When [`Self::on_time`] has something to do.
    fn deadline(&self) -> Instant {
        let patience = self.config.policy.peer_timeout;
        let links = self.source.silent_at(patience).min(self.target.silent_at(patience));
        let pings = self.source.ping_at().min(self.target.ping_at());
        links.min(pings).min(self.offering.due_at()).min(self.expires_at())
    }
}
