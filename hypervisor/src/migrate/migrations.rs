//! All migrations of this host, out and in. Who is let in is in [`admission`].

mod admission;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddrV4;

use godwit_migration::{
    AbortReason, Command, Event, Identity, Instant, MigrationId, Policy, Prediction, Purpose, Source,
    SourceConfig, SpoolPolicy, Status, Target, TargetPolicy,
};

use super::account::{self, SOURCE_CONNECTIONS};
use super::arrivals::{Arrival, Arrivals, Stranger};
use super::engine::Engine;
use super::estimates::Estimates;
use super::guest::{GuestHouse, NotMovable};
use super::occurrence::{Occurrence, Side, What};
use super::session::{Session, Wakeup};
use super::spools::{self, Spools};
use super::streams::Streams;

/// Migrations out, and as many in, at one time.
pub const SESSIONS_MAX: usize = 8;
/// Arrivals beyond those that are told why they are turned away; more than so many at one time are cut off.
pub(super) const TURNED_AWAY_MAX: usize = 2;
/// Arrivals that may wait at one time until an earlier attempt of their guest is undone.
pub(super) const DEFERRED_MAX: usize = 4;
/// Occurrences kept until somebody takes them; the oldest are dropped.
const OCCURRENCES_MAX: usize = 64;
/// Undone arrivals that are remembered.
const DROPPED_MAX: usize = 32;

/// What the configuration says about migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The port at which guests may come; `None`: none may.
    pub port: Option<u16>,
    /// Limits of outgoing migrations, unless changed for one.
    pub policy: Policy,
    /// Limits of incoming ones.
    pub target: TargetPolicy,
    /// Limits for pages that are kept for other hosts.
    pub spool: SpoolPolicy,
}

/// Why a migration cannot even begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The guest is being moved already.
    AlreadyMigrating(String),
    /// As many guests as possible are being moved.
    TooMany,
    /// The guest cannot be moved now.
    NotMovable(NotMovable),
    /// The host's heap cannot spare what is noted about a guest while it is moved.
    Heap {
        /// The guest.
        guest: String,
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes that can be spared.
        free_bytes: u64,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyMigrating(guest) => write!(f, "{guest} is already being moved or cloned"),
            Self::TooMany => {
                write!(f, "{SESSIONS_MAX} guests are being moved already: wait for one to arrive")
            }
            Self::NotMovable(why) => why.fmt(f),
            Self::Heap { guest, needed_bytes, free_bytes } => write!(
                f,
                "{guest} cannot be moved or cloned now: {} KiB of this host's heap needed for tables and connections, {} KiB \
                 to spare: wait until other moves are over, or stop a guest",
                needed_bytes.div_ceil(1024),
                free_bytes / 1024
            ),
        }
    }
}

impl core::error::Error for StartError {}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unheeded {
    /// There is no such migration.
    NotMigrating(String),
    /// There is, and it stands where the command has no meaning.
    OutOfPlace(Box<View>),
}

impl fmt::Display for Unheeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMigrating(guest) => write!(f, "{guest} is not being moved"),
            Self::OutOfPlace(view) => write!(f, "{} is in phase {}", view.guest, view.status.phase),
        }
    }
}

impl core::error::Error for Unheeded {}

/// One migration, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The guest that moves; empty until an arriving one has said its name.
    pub guest: String,
    /// The name of the copy, if the guest stays at the source and a copy of it is made; known to the source alone.
    pub copy: Option<String>,
    /// The other host.
    pub peer: String,
    /// The third host, if there is one; at a spool the source.
    pub third: Option<String>,
    /// Which end this host is.
    pub side: Side,
    /// The engine's figures.
    pub status: Status,
    /// The limits in force, at the source.
    pub policy: Option<Policy>,
}

#[derive(Debug)]
struct Outgoing<K> {
    session: Session<Source, K>,
    guest: String,
    /// The copy's name, if the guest stays.
    copy: Option<String>,
    policy: Policy,
    /// What it was expected to take, if that was asked for.
    estimate: Option<Prediction>,
}

/// See the module.
#[derive(Debug)]
pub struct Migrations<K> {
    settings: Settings,
    outgoing: Vec<Outgoing<K>>,
    incoming: Vec<Session<Target, K>>,
    spools: Spools,
    arrivals: Arrivals,
    /// Arrivals whose guest is still being discarded here from an earlier attempt.
    deferred: Vec<Arrival>,
    occurrences: VecDeque<Occurrence>,
    /// Arrivals that were undone here, the last ones: their sources may ask yet.
    dropped: VecDeque<(MigrationId, AbortReason)>,
    estimates: Estimates,
}

impl<K: Copy> Migrations<K> {
    /// No migrations yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            spools: Spools::new(settings.spool),
            settings,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            arrivals: Arrivals::default(),
            deferred: Vec::new(),
            occurrences: VecDeque::new(),
            dropped: VecDeque::new(),
            estimates: Estimates::default(),
        }
    }

    /// The limits of migrations that begin from now on.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.settings.policy
    }

    /// What the configuration says, with the changes made since.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Begins to move `guest` to the host `peer` at `address`, and to leave what goes after a switch with the host `spool`
    /// as well.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed.
    pub fn start<H: GuestHouse<Key = K>>(
        &mut self,
        now: Instant,
        house: &mut H,
        guest: &str,
        (peer, address): (&str, SocketAddrV4),
        (policy, purpose): (Policy, Purpose),
        spool: Option<(&str, SocketAddrV4)>,
    ) -> Result<(), StartError> {
        if self.outgoing.iter().any(|outgoing| outgoing.guest == guest) {
            return Err(StartError::AlreadyMigrating(guest.to_string()));
        }
        if self.outgoing.len() >= SESSIONS_MAX {
            return Err(StartError::TooMany);
        }
        let (key, description) = house.leaving(guest, &purpose).map_err(StartError::NotMovable)?;
        let migration = house.new_migration();
        let policy = purpose.bound(policy);
        let copy = match &purpose {
            Purpose::Clone(copy) => Some(copy.name.clone()),
            Purpose::Move | Purpose::Estimate => None,
        };
        let is_move = purpose == Purpose::Move;
        let mut engine = Source::new(SourceConfig { migration, guest: description, policy, purpose });
        if spool.is_some() {
            engine = engine.with_spool(spools::order(peer, address));
        }
        let room = self.room(house);
        let connections = SOURCE_CONNECTIONS + usize::from(spool.is_some());
        let needed_bytes = account::needed(&engine, connections, 0);
        if needed_bytes > room.heap_bytes {
            house.done(key);
            let (guest, free_bytes) = (guest.to_string(), room.heap_bytes);
            return Err(StartError::Heap { guest, needed_bytes, free_bytes });
        }
        let names = (migration, engine.guest().id);
        let mut session = Session::new(engine, key, names, peer.to_string(), Some(address));
        if let Some((spool, address)) = spool {
            session.set_third(spool.to_string(), Some(address));
        }
        session.command(now, house, Command::Start);
        let estimate = is_move.then(|| self.estimates.take(guest, peer, &policy)).flatten();
        self.outgoing.push(Outgoing { session, guest: guest.to_string(), copy, policy, estimate });
        Ok(())
    }

    /// Begins to make a copy of `guest`, called `name`, at the host `peer` at `address`.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed.
    pub fn start_clone<H: GuestHouse<Key = K>>(
        &mut self,
        now: Instant,
        house: &mut H,
        guest: &str,
        to: (&str, SocketAddrV4),
        (policy, name): (Policy, &str),
    ) -> Result<(), StartError> {
        let copy = Identity { id: house.new_guest(), name: name.to_string() };
        self.start(now, house, guest, to, (policy, Purpose::Clone(copy)), None)
    }

    /// The name of the copy that is being made of `guest`, if one is.
    #[must_use]
    pub fn copy_of(&self, guest: &str) -> Option<&str> {
        self.outgoing.iter().find(|outgoing| outgoing.guest == guest)?.copy.as_deref()
    }

    /// From now on the outgoing migration of `guest`, or whoever keeps pages of it here, reaches the target at another
    /// address.
    ///
    /// # Errors
    /// [`Unheeded`] if there is none, or it has no target that could be lost.
    pub fn redirect<H: GuestHouse<Key = K>>(
        &mut self,
        now: Instant,
        house: &H,
        guest: &str,
        (peer, address): (&str, SocketAddrV4),
    ) -> Result<(), Unheeded> {
        self.check(now, house, guest, Command::Retry)?;
        if let Some(outgoing) = self.outgoing.iter_mut().find(|outgoing| outgoing.guest == guest) {
            outgoing.session.redirect(peer.to_string(), address);
            outgoing.session.engine_mut().retarget(spools::order(peer, address));
        } else {
            self.spools.redirect(guest, (peer, address));
        }
        Ok(())
    }

    /// Gives `command` to the migration of `guest`, out or in, or to whoever keeps pages of it here.
    ///
    /// # Errors
    /// [`Unheeded`] if there is none, or it would change nothing.
    pub fn command<H: GuestHouse<Key = K>>(
        &mut self,
        now: Instant,
        house: &mut H,
        guest: &str,
        command: Command,
    ) -> Result<(), Unheeded> {
        self.check(now, house, guest, command)?;
        if let Some(outgoing) = self.outgoing.iter_mut().find(|outgoing| outgoing.guest == guest) {
            if let Command::Tune(policy) = command {
                outgoing.policy = policy;
            }
            outgoing.session.command(now, house, command);
        } else if let Some(incoming) =
            self.incoming.iter_mut().find(|session| house.name(session.guest()) == guest)
        {
            incoming.command(now, house, command);
        } else {
            self.spools.command(now, guest, command);
        }
        Ok(())
    }

    /// Whether `command` would do something now to the migration of `guest`, in the order in which one is looked for.
    fn check<H: GuestHouse<Key = K>>(
        &self,
        now: Instant,
        house: &H,
        guest: &str,
        command: Command,
    ) -> Result<(), Unheeded> {
        let out = self.outgoing.iter().find(|outgoing| outgoing.guest == guest);
        let arriving = || self.incoming.iter().find(|session| house.name(session.guest()) == guest);
        let is_heeded = out
            .map(|outgoing| outgoing.session.heeds(command))
            .or_else(|| arriving().map(|session| session.heeds(command)))
            .or_else(|| self.spools.heeds(guest, command));
        match is_heeded {
            Some(true) => Ok(()),
            Some(false) => {
                let view = self.views(now, house).into_iter().find(|view| view.guest == guest);
                let unknown = || Unheeded::NotMigrating(guest.to_string());
                Err(view.map_or_else(unknown, |view| Unheeded::OutOfPlace(Box::new(view))))
            }
            None => Err(Unheeded::NotMigrating(guest.to_string())),
        }
    }

    /// The limits in force for the outgoing migration of `guest`.
    #[must_use]
    pub fn policy_of(&self, guest: &str) -> Option<Policy> {
        self.outgoing.iter().find(|outgoing| outgoing.guest == guest).map(|outgoing| outgoing.policy)
    }

    /// Does what can be done now.
    pub fn poll<H: GuestHouse<Key = K>>(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut H,
    ) -> Wakeup {
        self.welcome(now, streams, house);
        let mut wakeup = Wakeup::At(self.arrivals.deadline(now));
        for outgoing in &mut self.outgoing {
            wakeup = wakeup.min(outgoing.session.poll(now, streams, house));
        }
        for index in 0..self.incoming.len() {
            if self.incoming[index].engine().awaits_guest() {
                // What was there when it connected may have been promised to another since.
                let room = self.room(house);
                self.incoming[index].engine_mut().set_room(room);
            }
            wakeup = wakeup.min(self.incoming[index].poll(now, streams, house));
        }
        for index in 0..self.spools.len() {
            if self.spools.awaits_deposit(index) {
                let room = self.room(house);
                self.spools.set_room(index, room);
            }
            wakeup = wakeup.min(self.spools.poll(index, now, streams));
        }
        let has_dropped = self.collect(house);
        self.room(house);
        if has_dropped && !self.deferred.is_empty() { Wakeup::Now } else { wakeup }
    }

    /// All migrations, out, in, and those of which pages are kept here.
    #[must_use]
    pub fn views<H: GuestHouse<Key = K>>(&self, now: Instant, house: &H) -> Vec<View> {
        let out = self.outgoing.iter().map(|outgoing| View {
            guest: outgoing.guest.clone(),
            copy: outgoing.copy.clone(),
            peer: outgoing.session.peer().to_string(),
            third: outgoing.session.third().map(ToString::to_string),
            side: Side::Source,
            status: outgoing.session.status(now),
            policy: Some(outgoing.policy),
        });
        let arriving = self.incoming.iter().map(|session| View {
            guest: house.name(session.guest()).to_string(),
            copy: None,
            peer: session.peer().to_string(),
            third: session.third().map(ToString::to_string),
            side: Side::Target,
            status: session.status(now),
            policy: None,
        });
        out.chain(arriving).chain(self.spools.views(now)).collect()
    }

    /// Takes the next thing to tell.
    pub fn next_occurrence(&mut self) -> Option<Occurrence> {
        self.occurrences.pop_front()
    }

    fn welcome<H: GuestHouse<Key = K>>(&mut self, now: Instant, streams: &mut impl Streams, house: &mut H) {
        let Some(port) = self.settings.port else {
            return;
        };
        let deferred = core::mem::take(&mut self.deferred).into_iter().map(Ok);
        for arrival in deferred.chain(self.arrivals.poll(now, streams, port)) {
            match arrival {
                Ok(arrival) if self.must_wait(now, house, &arrival) => self.deferred.push(arrival),
                Ok(arrival) => self.admit(now, streams, house, arrival),
                Err(Stranger { peer, why }) => self.tell(Occurrence {
                    guest: String::new(),
                    copy: None,
                    peer: peer.to_string(),
                    side: Side::Target,
                    what: What::Stranger(why),
                    estimate: None,
                }),
            }
        }
    }

    /// Takes what the sessions tell, and drops those that are over; whether there was one.
    fn collect<H: GuestHouse<Key = K>>(&mut self, house: &mut H) -> bool {
        let mut told = Vec::new();
        for outgoing in &mut self.outgoing {
            for event in outgoing.session.take_events() {
                let peer = speaker(&outgoing.session, &event);
                let mut estimate = None;
                match &event {
                    Event::Completed(_) => {
                        if outgoing.copy.is_none() {
                            house.departed(outgoing.session.guest(), &peer);
                        }
                        estimate = outgoing.estimate;
                    }
                    Event::Estimated(prediction) => {
                        self.estimates.keep(&outgoing.guest, &peer, outgoing.policy, *prediction);
                    }
                    _ => {}
                }
                told.push(Occurrence {
                    guest: outgoing.guest.clone(),
                    copy: outgoing.copy.clone(),
                    peer,
                    side: Side::Source,
                    what: What::Event(Box::new(event)),
                    estimate,
                });
            }
        }
        for session in &mut self.incoming {
            for event in session.take_events() {
                let guest = house.name(session.guest()).to_string();
                let peer = speaker(session, &event);
                let (side, what) = (Side::Target, What::Event(Box::new(event)));
                told.push(Occurrence { guest, copy: None, peer, side, what, estimate: None });
            }
        }
        told.extend(self.spools.collect());
        told.into_iter().for_each(|occurrence| self.tell(occurrence));
        for session in self.incoming.iter().filter(|session| session.is_finished()) {
            if let Some((migration, why)) = session.engine().dropped()
                && self.dropped.iter().all(|(dropped, _)| *dropped != migration)
            {
                if self.dropped.len() == DROPPED_MAX {
                    self.dropped.pop_front();
                }
                self.dropped.push_back((migration, why.clone()));
            }
        }
        let before = self.outgoing.len() + self.incoming.len();
        self.outgoing.retain(|outgoing| keep(&outgoing.session, house));
        self.incoming.retain(|session| keep(session, house));
        self.outgoing.len() + self.incoming.len() < before
    }

    fn tell(&mut self, occurrence: Occurrence) {
        if self.occurrences.len() == OCCURRENCES_MAX {
            self.occurrences.pop_front();
        }
        self.occurrences.push_back(occurrence);
    }
}

/// The host that an event is about.
fn speaker<E: Engine, K: Copy>(session: &Session<E, K>, event: &Event) -> String {
    let third = session.third().filter(|_| matches!(event, Event::Spool(_)));
    third.unwrap_or_else(|| session.peer()).to_string()
}

/// Whether a session goes on; lets go of its guest if not.
fn keep<E: Engine, H: GuestHouse>(session: &Session<E, H::Key>, house: &mut H) -> bool {
    if session.is_finished() {
        house.done(session.guest());
    }
    !session.is_finished()
}
