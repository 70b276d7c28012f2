//! What migrations may yet take of the host's heap, so that nobody is promised what another will need.
//!
//! A session is let in only if the heap can spare all that it may ever need: its engine's tables, its buffers and its
//! connections, also those that it makes anew when they are lost. From then on that is promised to it. So a guest after its switch
//! is never without a connection or without memory because of those that came later, and no number of peers takes what the host
//! needs to live.

use super::arrivals::WAITING_MAX;
use super::engine::Engine;
use super::migrations::{DEFERRED_MAX, SESSIONS_MAX, TURNED_AWAY_MAX};
use super::session::Session;
use super::spools;
use super::wire::OUTPUT_BYTES;
use crate::net::stream::{CLOSING_MAX, STREAM_BYTES, STREAMS_MAX};

/// Connections of a source: the main one, the urgent one, and one to a spool if it has one.
pub(super) const SOURCE_CONNECTIONS: usize = 2;
/// Connections of a target: those of the source, and one from a spool, which nobody announces.
pub(super) const TARGET_CONNECTIONS: usize = 3;
/// Connections of a spool: from the source, to the target.
pub(super) const SPOOL_CONNECTIONS: usize = 2;
/// Arrivals that are only told something.
const ANSWERED_MAX: usize = TURNED_AWAY_MAX + 1 + spools::TURNED_AWAY_MAX;
/// Connections that are there without a session: undecided ones and one that takes the place of such a one, those that wait for
/// an earlier attempt to be undone, and those that are being closed.
const LOOSE_CONNECTIONS: usize = WAITING_MAX + 1 + DEFERRED_MAX + CLOSING_MAX;

const _: () = assert!(
    SESSIONS_MAX * (SOURCE_CONNECTIONS + 1 + TARGET_CONNECTIONS)
        + spools::SPOOLS_MAX * SPOOL_CONNECTIONS
        + ANSWERED_MAX
        + LOOSE_CONNECTIONS
        <= STREAMS_MAX
);

/// Bytes that are kept beside those of sessions where nobody may come: for connections that are being closed.
pub(super) const FOR_NO_STRANGERS: u64 = connections(CLOSING_MAX);

/// Bytes of so many connections.
const fn connections(count: usize) -> u64 {
    (count * STREAM_BYTES) as u64
}

/// Bytes that are kept for what nobody has to be let in for: connections that say what they are about, and that are told why they
/// are turned away. `loose` of the former are there, and so many sessions for the latter.
pub(super) fn for_strangers(loose: usize, answered: usize) -> u64 {
    let answers = ANSWERED_MAX.saturating_sub(answered) as u64;
    connections(LOOSE_CONNECTIONS.saturating_sub(loose))
        + answers * (2 * OUTPUT_BYTES as u64 + connections(1))
}

/// Bytes that a session of at most so many connections may yet take.
pub(super) fn owed<E: Engine, K: Copy>(session: &Session<E, K>, connections_max: usize) -> u64 {
    if session.engine().is_finished() {
        return 0;
    }
    let to_come = connections_max.saturating_sub(session.connections());
    session.engine().heap_owed() + connections(to_come) + (connections_max * OUTPUT_BYTES) as u64
}

/// Bytes that a session needs that begins now with this engine, with so many connections, of which it has `there`.
pub(super) fn needed(engine: &impl Engine, connections_max: usize, there: usize) -> u64 {
    let outputs = ((connections_max + 1) * OUTPUT_BYTES) as u64;
    engine.heap_owed() + connections(connections_max - there) + outputs
}
