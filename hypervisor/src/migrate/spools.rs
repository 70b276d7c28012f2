//! Pages that this host keeps for others: one session for each migration whose source leaves some here.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};

use godwit_migration::{
    Channel, Command, Event, GuestAction, GuestEvent, GuestId, GuestRam, Input, Instant, MigrationId, Output,
    Refusal, Room, RunPermit, Spool, SpoolConfig, SpoolEvent, SpoolOrder, SpoolPolicy, Status,
};

use super::account::{self, SPOOL_CONNECTIONS};
use super::arrivals::Arrival;
use super::engine::Engine;
use super::guest::{GuestHouse, Lodging};
use super::migrations::View;
use super::occurrence::{Occurrence, Side, What};
use super::session::{Session, Wakeup};
use super::streams::Streams;

/// Migrations whose pages may be kept here at one time.
pub const SPOOLS_MAX: usize = 4;
/// As many more that are told why they are turned away.
pub(super) const TURNED_AWAY_MAX: usize = 1;
/// Bytes of an address as sessions tell each other where a target is: IPv4 address and port, big-endian.
const ADDRESS_BYTES: usize = 6;

/// What a source says of its target to a spool.
#[must_use]
pub fn order(target: &str, address: SocketAddrV4) -> SpoolOrder {
    let mut bytes = address.ip().octets().to_vec();
    bytes.extend(address.port().to_be_bytes());
    SpoolOrder { target: target.to_string(), address: bytes }
}

/// Where a source says that its target is; `None` if that is no address of ours.
fn address(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [a, b, c, d, high, low] = *<&[u8; ADDRESS_BYTES]>::try_from(bytes).ok()?;
    Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

impl Engine for Spool {
    fn handle_input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam) {
        self.handle_input(now, input, ram);
    }
    fn heeds(&self, command: Command) -> bool {
        self.heeds(command)
    }
    fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output {
        self.poll_output(now, buffer, ram)
    }
    fn poll_urgent(&mut self, _now: Instant, _buffer: &mut [u8], _ram: &mut dyn GuestRam) -> usize {
        0
    }
    fn poll_spool(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize {
        self.poll_spool(now, buffer, ram)
    }
    fn is_urgent(&self) -> bool {
        false
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
        None
    }
    fn target_address(&self) -> Option<SocketAddrV4> {
        self.target_address().and_then(address)
    }
}

/// Where the pages lie. There is no guest: nothing is ever asked of one, and nothing comes from one.
struct Cellar(Box<dyn GuestRam>);

impl fmt::Debug for Cellar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cellar({} pages)", self.0.page_count())
    }
}

impl Lodging for Cellar {
    type Key = ();

    fn begin(&mut self, (): (), action: GuestAction) {
        log::error!("pages that are kept for another host were to be a guest: {}", action.step());
    }
    fn give_up(&mut self, (): ()) {}
    fn poll(&mut self, (): ()) -> Option<GuestEvent> {
        None
    }
    fn is_waiting(&self, (): ()) -> bool {
        false
    }
    fn ram(&mut self, (): ()) -> &mut dyn GuestRam {
        &mut *self.0
    }
    fn hold(&mut self, (): (), permit: RunPermit) {
        permit.revoke();
    }
}

#[derive(Debug)]
struct Kept {
    session: Session<Spool, ()>,
    cellar: Cellar,
}

impl Kept {
    fn guest(&self) -> &str {
        self.session.engine().names().map_or("", |(guest, _)| guest)
    }

    fn target(&self) -> &str {
        self.session.engine().names().map_or("", |(_, target)| target)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spools {
    policy: SpoolPolicy,
    kept: Vec<Kept>,
}

impl Spools {
    pub(super) const fn new(policy: SpoolPolicy) -> Self {
        Self { policy, kept: Vec::new() }
    }

    /// A source comes to leave pages here, for the first time or once more. `incarnation` and `room` are the host's.
    pub(super) fn admit<H: GuestHouse>(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        (incarnation, room): (u64, Room),
        house: &H,
        arrival: &Arrival,
    ) {
        let names: (MigrationId, GuestId) = (arrival.opening.migration(), arrival.opening.guest());
        let known = self.kept.iter().position(|kept| kept.session.migration() == names.0);
        let share = house.shelf_share();
        let config = SpoolConfig { incarnation, room, share, closed: None, policy: self.policy };
        let Some(index) = known.or_else(|| {
            let engine = self.engine(config)?;
            let session = Session::new(engine, (), names, arrival.peer.ip().to_string(), None);
            self.kept.push(Kept { session, cellar: Cellar(house.shelf()) });
            Some(self.kept.len() - 1)
        }) else {
            return streams.abort(arrival.stream);
        };
        let Kept { session, cellar } = &mut self.kept[index];
        session.accept(now, streams, cellar, (Channel::SPOOL, arrival.stream, &arrival.received));
    }

    /// An engine for a migration that is not known here, if it is only to say why it is turned away.
    fn engine(&self, config: SpoolConfig) -> Option<Spool> {
        let free_bytes = config.room.heap_bytes;
        let needed_bytes = account::needed(&Spool::new(config.clone()), SPOOL_CONNECTIONS, 1);
        let turned_away = self.turned_away();
        let closed = if self.kept.len() - turned_away >= SPOOLS_MAX {
            Some(Refusal::Busy)
        } else {
            (needed_bytes > free_bytes).then_some(Refusal::Heap { needed_bytes, free_bytes })
        };
        let has_place = closed.is_none() || turned_away < TURNED_AWAY_MAX;
        has_place.then(|| Spool::new(SpoolConfig { closed, ..config }))
    }

    /// Sources that are only told why they are turned away.
    pub(super) fn turned_away(&self) -> usize {
        self.kept.iter().filter(|kept| kept.session.engine().is_closed()).count()
    }

    /// How many sessions there are.
    pub(super) const fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether what the host can spare is to be told to this one anew.
    pub(super) fn awaits_deposit(&self, index: usize) -> bool {
        self.kept[index].session.engine().awaits_deposit()
    }

    /// This is what the host can spare now.
    pub(super) fn set_room(&mut self, index: usize, room: Room) {
        self.kept[index].session.engine_mut().set_room(room);
    }

    /// Bytes of the heap that all may yet take.
    pub(super) fn heap_owed(&self) -> u64 {
        let owed = |kept: &Kept| {
            let connections = if kept.session.engine().is_closed() { 0 } else { SPOOL_CONNECTIONS };
            account::owed(&kept.session, connections)
        };
        self.kept.iter().map(owed).sum()
    }

    /// Bytes of RAM that pages may yet take that were promised a place.
    pub(super) fn ram_owed(&self) -> u64 {
        self.kept.iter().map(|kept| kept.session.engine().ram_owed()).sum()
    }

    /// Does what one of them can do now.
    pub(super) fn poll(&mut self, index: usize, now: Instant, streams: &mut impl Streams) -> Wakeup {
        let Kept { session, cellar } = &mut self.kept[index];
        session.poll(now, streams, cellar)
    }

    /// Whether `command` would do something now to what is kept of `guest`; `None` if nothing is.
    pub(super) fn heeds(&self, guest: &str, command: Command) -> Option<bool> {
        let kept = self.kept.iter().find(|kept| kept.guest() == guest)?;
        Some(kept.session.heeds(command))
    }

    /// Gives `command` to the one that keeps pages of `guest`, if there is one.
    pub(super) fn command(&mut self, now: Instant, guest: &str, command: Command) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.guest() == guest) {
            kept.session.command(now, &mut kept.cellar, command);
        }
    }

    /// From now on the target of `guest`, if pages of it are kept here, is reached at another address.
    pub(super) fn redirect(&mut self, guest: &str, (peer, address): (&str, SocketAddrV4)) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.guest() == guest) {
            kept.session.redirect(peer.to_string(), address);
        }
    }

    pub(super) fn views(&self, now: Instant) -> impl Iterator<Item = View> {
        self.kept.iter().map(move |kept| View {
            guest: kept.guest().to_string(),
            copy: None,
            peer: kept.target().to_string(),
            third: Some(kept.session.peer().to_string()),
            side: Side::Spool,
            status: kept.session.status(now),
            policy: None,
        })
    }

    /// Takes what is to be told, and drops those that are over.
    pub(super) fn collect(&mut self) -> Vec<Occurrence> {
        let mut told = Vec::new();
        for kept in &mut self.kept {
            for event in kept.session.take_events() {
                if let Event::Phase(_) = event {
                    continue;
                }
                // Whoever is turned away has not said for whom the pages are.
                let is_of_source = matches!(event, Event::Spool(SpoolEvent::TurnedAway(_)));
                let peer = if is_of_source { kept.session.peer() } else { kept.target() };
                let (guest, peer): (String, String) = (kept.guest().to_string(), peer.to_string());
                let (side, what) = (Side::Spool, What::Event(Box::new(event)));
                told.push(Occurrence { guest, copy: None, peer, side, what, estimate: None });
            }
        }
        self.kept.retain(|kept| !kept.session.is_finished());
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_said_and_nothing_else_is_one() {
        let b = SocketAddrV4::new([10, 0, 0, 2].into(), 7100);
        assert_eq!(address(&order("b", b).address), Some(b));
        assert_eq!((address(&[]), address(&[1; 5]), address(&[1; 7])), (None, None, None));
    }
}
