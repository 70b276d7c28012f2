//! Whether this host can take a guest: each thing that is missing is named.

use alloc::vec::Vec;

use crate::guest::{CpuFeatures, GuestDescription, HostCapabilities, TscScaling};
use crate::reason::{REFUSALS_MAX, Refusal};

/// What speaks against the guest; empty if nothing does.
pub(crate) fn check(guest: &GuestDescription, host: &HostCapabilities) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if host.is_busy {
        refusals.push(Refusal::Busy);
    }
    if guest.vcpus > host.vcpus_max {
        refusals.push(Refusal::Vcpus { needed: guest.vcpus, max: host.vcpus_max });
    }
    if guest.layout.bytes() > host.memory_free_bytes {
        refusals
            .push(Refusal::Memory { needed_bytes: guest.layout.bytes(), free_bytes: host.memory_free_bytes });
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
            memory_free_bytes: 1 << 20,
            vcpus_max: 2,
            is_busy: false,
            post_copy: false,
        }
    }

    #[test]
    fn a_host_that_offers_everything_takes_the_guest() {
        assert_eq!(check(&guest(), &host()), []);
    }

    #[test]
    fn everything_that_is_missing_is_named() {
        let poor = HostCapabilities {
            features: vec![word(0b0100)],
            tsc_hz: 2_000_000_000,
            memory_free_bytes: 4096,
            vcpus_max: 1,
            ..host()
        };
        let refusals = check(&guest(), &poor);
        assert_eq!(
            refusals,
            [
                Refusal::Vcpus { needed: 2, max: 1 },
                Refusal::Memory { needed_bytes: 1 << 20, free_bytes: 4096 },
                Refusal::TscFrequency { guest_hz: 3_000_000_000, target_hz: 2_000_000_000 },
                Refusal::CpuFeatures(word(0b1010)),
            ]
        );
        let scaling = HostCapabilities { tsc_scaling: TscScaling::Available, ..poor };
        assert_eq!(check(&guest(), &scaling).len(), 3);
    }
}
