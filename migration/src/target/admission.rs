//! Whether this host can take a guest: each thing that is missing is named.

use alloc::vec::Vec;

use super::receiver::Receiver;
use super::{State, Target};
use crate::guest::{CpuFeatures, GuestDescription, HostCapabilities, TscScaling};
use crate::heap::{HostShare, Room};
use crate::reason::{REFUSALS_MAX, Refusal};

impl Target {
    /// Whether the source has not described its guest yet: what the host can spare is to be told anew ([`Self::set_room`]) before
    /// anything that arrives, or it would be promised twice.
    #[must_use]
    pub const fn awaits_guest(&self) -> bool {
        matches!(self.state, State::Opening | State::Hello)
    }

    /// The host takes no guest at all, for this reason.
    pub fn close(&mut self, why: Refusal) {
        self.host.closed = Some(why);
    }

    /// Whether it is only to say why no guest is taken.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.host.closed.is_some()
    }

    /// This is what the host can spare now.
    pub const fn set_room(&mut self, room: Room) {
        self.host.room = room;
    }

    /// Whether the guest has begun to run here.
    pub(crate) const fn is_restored(&self) -> bool {
        matches!(self.state, State::Filling | State::Forsaking | State::Owner | State::Released)
    }

    /// What the host takes of its heap for the guest, beside the engine.
    pub(crate) const fn host_share(&self) -> HostShare {
        self.host.share
    }

    /// Bytes of the heap that the guest has, here and at the host.
    pub(crate) fn tables_held(&self) -> u64 {
        // While it builds the guest it takes that bit by bit, the last of it at the end.
        let built = self.guest.as_ref().filter(|_| self.is_built);
        let host = built.map_or(0, |guest| self.host.share.of(guest.layout.page_count(), guest.vcpus));
        host + self.receiver.as_ref().map_or(0, Receiver::bytes)
    }
}

/// What speaks against the guest, for which `heap_bytes` of the heap are needed; empty if nothing does.
pub(crate) fn check(guest: &GuestDescription, heap_bytes: u64, host: &HostCapabilities) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    refusals.extend(host.closed.clone());
    if guest.vcpus > host.vcpus_max {
        refusals.push(Refusal::Vcpus { needed: guest.vcpus, max: host.vcpus_max });
    }
    let Room { ram_bytes, heap_bytes: heap_free_bytes } = host.room;
    if guest.layout.bytes() > ram_bytes {
        refusals.push(Refusal::Memory { needed_bytes: guest.layout.bytes(), free_bytes: ram_bytes });
    }
    let is_named = matches!(host.closed, Some(Refusal::Heap { .. }));
    if heap_bytes > heap_free_bytes && !is_named {
        refusals.push(Refusal::Heap { needed_bytes: heap_bytes, free_bytes: heap_free_bytes });
    }
    if host.tsc_scaling == TscScaling::Unavailable
        && !is_near(guest.tsc_hz, host.tsc_hz, host.tsc_tolerance_ppm)
    {
        refusals.push(Refusal::TscFrequency { guest_hz: guest.tsc_hz, target_hz: host.tsc_hz });
    }
    refusals.extend(guest.features.iter().filter_map(|needed| missing(*needed, &host.features)));
    refusals.truncate(REFUSALS_MAX);
    refusals
}

/// The bits of `needed` that no word of `offered` has.
fn missing(needed: CpuFeatures, offered: &[CpuFeatures]) -> Option<Refusal> {
    let same = |word: &&CpuFeatures| {
        (word.leaf, word.subleaf, word.register) == (needed.leaf, needed.subleaf, needed.register)
    };
    let bits = offered.iter().filter(same).fold(needed.bits, |bits, word| bits & !word.bits);
    (bits != 0).then_some(Refusal::CpuFeatures(CpuFeatures { bits, ..needed }))
}

fn is_near(guest_hz: u64, host_hz: u64, tolerance_ppm: u32) -> bool {
    u128::from(guest_hz.abs_diff(host_hz)) * 1_000_000 <= u128::from(host_hz) * u128::from(tolerance_ppm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::CpuidRegister;
    use crate::permit::{Generation, GuestId};
    use crate::ram::{RamLayout, RamRange};
    use std::vec;

    fn word(bits: u32) -> CpuFeatures {
        CpuFeatures { leaf: 7, subleaf: 0, register: CpuidRegister::Ebx, bits }
    }

    fn guest() -> GuestDescription {
        GuestDescription {
            id: GuestId([1; 16]),
            generation: Generation::FIRST,
            name: "linux".into(),
            layout: RamLayout::new(&[RamRange { first_frame: 0, frames: 256 }]).unwrap(),
            vcpus: 2,
            features: vec![word(0b1110)],
            tsc_hz: 3_000_000_000,
            configuration: vec![],
        }
    }

    fn host() -> HostCapabilities {
        HostCapabilities {
            name: "b".into(),
            incarnation: 1,
            features: vec![word(0b0110), word(0b1001)],
            tsc_hz: 3_000_100_000,
            tsc_scaling: TscScaling::Unavailable,
            tsc_tolerance_ppm: 100,
            room: Room { ram_bytes: 1 << 20, heap_bytes: 5000 },
            share: HostShare::default(),
            vcpus_max: 2,
            closed: None,
            post_copy: false,
        }
    }

    #[test]
    fn a_host_that_offers_everything_takes_the_guest() {
        assert_eq!(check(&guest(), 5000, &host()), []);
    }

    #[test]
    fn everything_that_is_missing_is_named() {
        let poor = HostCapabilities {
            features: vec![word(0b0100)],
            tsc_hz: 2_000_000_000,
            room: Room { ram_bytes: 4096, heap_bytes: 4999 },
            vcpus_max: 1,
            closed: Some(Refusal::Busy),
            ..host()
        };
        let refusals = check(&guest(), 5000, &poor);
        assert_eq!(
            refusals,
            [
                Refusal::Busy,
                Refusal::Vcpus { needed: 2, max: 1 },
                Refusal::Memory { needed_bytes: 1 << 20, free_bytes: 4096 },
                Refusal::Heap { needed_bytes: 5000, free_bytes: 4999 },
                Refusal::TscFrequency { guest_hz: 3_000_000_000, target_hz: 2_000_000_000 },
                Refusal::CpuFeatures(word(0b1010)),
            ]
        );
        let scaling = HostCapabilities { tsc_scaling: TscScaling::Available, ..poor };
        assert_eq!(check(&guest(), 5000, &scaling).len(), 5);
    }
}
