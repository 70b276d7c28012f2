//! Who is let in, and what the host can spare for one that comes.

use alloc::string::ToString;

use godwit_migration::wire::opening::Opening;
use godwit_migration::{
    Channel, Command, HostCapabilities, Instant, Phase, Refusal, Room, Target, TargetConfig,
};

use super::super::account::{self, SOURCE_CONNECTIONS, TARGET_CONNECTIONS};
use super::super::arrivals::Arrival;
use super::super::guest::GuestHouse;
use super::super::session::Session;
use super::super::streams::Streams;
use super::{DEFERRED_MAX, Migrations, SESSIONS_MAX, TURNED_AWAY_MAX};

impl<K: Copy> Migrations<K> {
    /// Whether an earlier attempt to take this guest in is to be undone first. One that was held for its source is
    /// cancelled: by beginning anew the source says that the guest is its own.
    pub(super) fn must_wait<H: GuestHouse<Key = K>>(
        &mut self,
        now: Instant,
        house: &mut H,
        arrival: &Arrival,
    ) -> bool {
        let Opening::Begin { migration, guest } = arrival.opening else {
            return false;
        };
        let mut is_there = false;
        let earlier = |session: &&mut Session<Target, K>| {
            session.subject() == guest && session.migration() != migration
        };
        for session in self.incoming.iter_mut().filter(earlier) {
            match session.status(now).phase {
                Phase::CommitUnknown => {
                    session.command(now, house, Command::Cancel);
                    is_there = true;
                }
                Phase::Aborting | Phase::Aborted => is_there = true,
                _ => {}
            }
        }
        is_there && self.deferred.len() < DEFERRED_MAX
    }

    pub(super) fn admit<H: GuestHouse<Key = K>>(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut H,
        arrival: Arrival,
    ) {
        let migration = arrival.opening.migration();
        let channel = match arrival.opening {
            Opening::Urgent { .. } => Channel::URGENT,
            Opening::Offer { .. } => Channel::SPOOL,
            Opening::Begin { .. } | Opening::Resolve { .. } => Channel::MAIN,
            Opening::Spool { .. } => {
                let room = self.room(house);
                let incarnation = house.capabilities().incarnation;
                return self.spools.admit(now, streams, (incarnation, room), house, &arrival);
            }
        };
        let known = self.incoming.iter().position(|session| session.migration() == migration);
        // A further channel of a migration that is not accepted yet, is over, or never was.
        let is_stray = |index: usize| {
            let engine = self.incoming[index].engine();
            channel != Channel::MAIN && (engine.awaits_guest() || engine.is_finished())
        };
        if known.map_or(channel != Channel::MAIN, is_stray) {
            return streams.abort(arrival.stream);
        }
        let Some(index) = known.or_else(|| self.begin_target(house, &arrival)) else {
            return streams.abort(arrival.stream);
        };
        let session = &mut self.incoming[index];
        if channel == Channel::SPOOL {
            session.set_third(arrival.peer.ip().to_string(), None);
        }
        session.accept(now, streams, house, (channel, arrival.stream, &arrival.received));
    }

    /// Makes a session for an arrival of a migration that is not known here, if it is only to say why it is turned away; its
    /// place. `None` if not even that is possible.
    fn begin_target<H: GuestHouse<Key = K>>(&mut self, house: &mut H, arrival: &Arrival) -> Option<usize> {
        let (migration, subject) = (arrival.opening.migration(), arrival.opening.guest());
        let room = self.room(house);
        let config = TargetConfig {
            host: HostCapabilities { room, ..house.capabilities() },
            policy: self.settings.target,
        };
        let is_asked = matches!(arrival.opening, Opening::Resolve { .. });
        let dropped = self.dropped.iter().find(|(dropped, _)| *dropped == migration);
        let mut engine = match dropped {
            Some((_, why)) if is_asked => Target::for_dropped(config, migration, why.clone()),
            _ => Target::new(config),
        };
        let needed_bytes = account::needed(&engine, TARGET_CONNECTIONS, 1);
        let open = self.incoming.iter().filter(|session| !session.engine().is_closed()).count();
        if open >= SESSIONS_MAX {
            engine.close(Refusal::Busy);
        } else if needed_bytes > room.heap_bytes {
            engine.close(Refusal::Heap { needed_bytes, free_bytes: room.heap_bytes });
        }
        // One more place for a source that asks what became of its guest.
        let turned_away_max = TURNED_AWAY_MAX + usize::from(is_asked);
        if engine.is_closed() && self.incoming.len() - open >= turned_away_max {
            return None;
        }
        let peer = arrival.peer.ip().to_string();
        let guest = house.arriving(&peer);
        self.incoming.push(Session::new(engine, guest, (migration, subject), peer, None));
        Some(self.incoming.len() - 1)
    }

    /// What the host can spare when all that is under way has had what it was promised. Guests that are started here leave
    /// that alone from now on, too.
    pub(super) fn room<H: GuestHouse<Key = K>>(&self, house: &mut H) -> Room {
        let outgoing = self.outgoing.iter().map(|outgoing| {
            let connections = SOURCE_CONNECTIONS + usize::from(outgoing.session.third().is_some());
            account::owed(&outgoing.session, connections)
        });
        let incoming = self.incoming.iter().map(|session| {
            let connections = if session.engine().is_closed() { 0 } else { TARGET_CONNECTIONS };
            account::owed(session, connections)
        });
        let answered = self.incoming.iter().filter(|session| session.engine().is_closed()).count();
        let loose = self.arrivals.len() + self.deferred.len();
        let strangers = match self.settings.port {
            Some(_) => account::for_strangers(loose, answered + self.spools.turned_away()),
            None => account::FOR_NO_STRANGERS,
        };
        house.promise_heap(outgoing.chain(incoming).sum::<u64>() + self.spools.heap_owed() + strangers);
        let Room { ram_bytes, heap_bytes } = house.room();
        Room { ram_bytes: ram_bytes.saturating_sub(self.spools.ram_owed()), heap_bytes }
    }
}
