//! The forwarding table: which address was last seen on which port.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::PortId;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// An address that has been silent for this long is flooded again.
const AGE_MAX: Duration = Duration::from_secs(300);
/// No more addresses than this are remembered.
const ENTRIES_MAX: usize = 1_024;

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Port(PortId),
    Flood,
    /// Its target is on the port it came from.
    Nowhere,
}

#[derive(Default)]
pub(super) struct Table {
    seen: HashMap<Mac, (PortId, Instant)>,
}

impl Table {
    /// Forgets every address seen on `port`.
    pub(super) fn forget(&mut self, port: PortId) {
        self.seen.retain(|_, (seen_on, _)| *seen_on != port);
    }

    /// Learns the sender of `frame` and says where it goes.
    pub(super) fn route(&mut self, frame: &[u8], from: PortId, now: Instant) -> Route {
        let (Some(target), Some(source)) = (address(frame, 0), address(frame, 6)) else {
            return Route::Nowhere;
        };
        let known = self.seen.contains_key(&source);
        if !is_group(&source) && (known || self.seen.len() < ENTRIES_MAX) {
            self.seen.insert(source, (from, now));
        }
        match self.seen.get(&target) {
            _ if is_group(&target) => Route::Flood,
            Some((port, _)) if *port == from => Route::Nowhere,
            Some((port, when)) if now.saturating_duration_since(*when) <= AGE_MAX => Route::Port(*port),
            _ => Route::Flood,
        }
    }
}

fn address(frame: &[u8], offset: usize) -> Option<Mac> {
    frame.get(offset..offset + 6)?.try_into().ok()
}

fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];
    const ALL: Mac = [0xff; 6];

    fn frame(target: Mac, source: Mac) -> Vec<u8> {
        [target, source].concat()
    }

    #[test]
    fn unknown_targets_are_flooded_and_known_ones_are_not() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert_eq!(table.route(&frame(B, A), 0, now), Route::Flood);
        assert_eq!(table.route(&frame(A, B), 1, now), Route::Port(0));
        assert_eq!(table.route(&frame(B, A), 0, now), Route::Port(1));
    }

    #[test]
    fn an_address_that_moves_is_followed() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.route(&frame(ALL, A), 0, now);
        table.route(&frame(ALL, A), 2, now);
        assert_eq!(table.route(&frame(A, B), 1, now), Route::Port(2));
    }

    #[test]
    fn addresses_of_an_unplugged_port_are_flooded_again() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.route(&frame(ALL, A), 0, now);
        table.forget(0);
        assert_eq!(table.route(&frame(A, B), 1, now), Route::Flood);
    }

    #[test]
    fn a_frame_is_not_sent_back_where_it_came_from() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.route(&frame(ALL, A), 0, now);
        assert_eq!(table.route(&frame(A, B), 0, now), Route::Nowhere);
    }

    #[test]
    fn silent_addresses_age_and_group_addresses_are_never_learnt() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.route(&frame(B, A), 0, now);
        table.route(&frame(B, ALL), 0, now);
        assert_eq!(table.route(&frame(ALL, B), 1, now), Route::Flood);
        let late = now + AGE_MAX + Duration::from_secs(1);
        assert_eq!(table.route(&frame(A, B), 1, late), Route::Flood);
    }
}
