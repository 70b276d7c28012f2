//! What this host tells another about a guest and about itself.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use godwit_boot::config::VCPUS_MAX;
use godwit_migration::{
    CpuFeatures, CpuidRegister, GuestDescription, HostCapabilities, HostShare, Room, TscScaling,
};
use minicbor::{Decode, Encode};

use super::record::{Origin, Record};
use crate::exits::cpuid_features::{FEATURES, FeatureSet, Register, WORDS};
use crate::migrate::ram;
use crate::vm;
use crate::vm::handle::OUTPUT_BYTES_MAX;

/// Difference of two hosts' TSC frequencies that is not worth scaling: what calibration gets wrong.
const TSC_TOLERANCE_PPM: u32 = 250;

/// The part of a guest's description that only hypervisors understand.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Build {
    #[n(0)]
    memory_bytes: u64,
    #[n(1)]
    kernel: String,
    #[n(2)]
    command_line: String,
}

/// What a target learns about `record`'s guest; `None` if it has no machine.
pub(super) fn of_guest(record: &Record) -> Option<GuestDescription> {
    let ram = record.ram.ram()?;
    let shown = record.origin().shown?;
    let build = Build {
        memory_bytes: record.origin().memory_bytes,
        kernel: record.origin().kernel.clone(),
        command_line: record.origin().command_line.clone(),
    };
    Some(GuestDescription {
        id: record.id,
        generation: record.generation,
        name: record.name().to_string(),
        layout: ram::layout(ram.pages()).ok()?,
        vcpus: record.origin().vcpus,
        features: features(&shown.features),
        tsc_hz: shown.tsc_hz,
        // Encoding to memory cannot fail.
        configuration: minicbor::to_vec(&build).unwrap_or_default(),
    })
}

/// The origin of the guest that `description` describes, or `None` if its configuration is not understood.
pub(super) fn origin(description: &GuestDescription, from: Option<String>) -> Option<Origin> {
    let build: Build = minicbor::decode(&description.configuration).ok()?;
    // The RAM that pages are sent for is the RAM that is built.
    (build.memory_bytes == description.layout.bytes()).then_some(Origin {
        memory_bytes: build.memory_bytes,
        vcpus: description.vcpus,
        kernel: build.kernel,
        command_line: build.command_line,
        arrived_from: from,
        shown: None,
    })
}

/// What of the heap a guest takes beside what the engine notes: what it writes to its console, its devices and what people see;
/// the state of its processors; and for each block of its RAM bitmaps and where the block is.
const SHARE: HostShare =
    HostShare { bytes: 3 * OUTPUT_BYTES_MAX as u64, bytes_per_vcpu: 32 << 10, bytes_per_block: 512 };

/// What this host offers.
pub(super) fn of_host(
    name: &str,
    incarnation: u64,
    machines: Option<&vm::platform::Platform>,
    room: Room,
) -> HostCapabilities {
    HostCapabilities {
        name: name.to_string(),
        incarnation,
        features: machines.map_or_else(Vec::new, |machines| features(&machines.features())),
        tsc_hz: machines.map_or(0, |machines| machines.tsc_hz),
        tsc_scaling: match machines {
            Some(machines) if machines.can_scale_tsc() => TscScaling::Available,
            _ => TscScaling::Unavailable,
        },
        tsc_tolerance_ppm: TSC_TOLERANCE_PPM,
        room,
        share: SHARE,
        vcpus_max: VCPUS_MAX,
        closed: None,
        post_copy: machines.is_some(),
    }
}

/// The features in a guest's description, which it has been shown; words that this build does not know are for its
/// admission to refuse.
pub(super) fn shown(described: &[CpuFeatures]) -> FeatureSet {
    let mut set = FeatureSet([0; WORDS]);
    for (word, bits) in FEATURES.iter().zip(&mut set.0) {
        let same = |features: &&CpuFeatures| {
            (features.leaf, features.subleaf, features.register)
                == (word.leaf, word.subleaf, wire_register(word.register))
        };
        *bits = described.iter().find(same).map_or(0, |features| features.bits);
    }
    set
}

const fn wire_register(register: Register) -> CpuidRegister {
    match register {
        Register::Eax => CpuidRegister::Eax,
        Register::Ebx => CpuidRegister::Ebx,
        Register::Ecx => CpuidRegister::Ecx,
        Register::Edx => CpuidRegister::Edx,
    }
}

fn features(set: &FeatureSet) -> Vec<CpuFeatures> {
    let words = FEATURES.iter().zip(set.0);
    words
        .filter(|(_, bits)| *bits != 0)
        .map(|(word, bits)| CpuFeatures {
            leaf: word.leaf,
            subleaf: word.subleaf,
            register: wire_register(word.register),
            bits,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::memory::BITMAP_BYTES_PER_BLOCK;

    #[test]
    fn what_is_noted_about_a_guest_is_in_its_share() {
        // The list of blocks, and of frames put by for tables.
        assert!(SHARE.bytes_per_block > BITMAP_BYTES_PER_BLOCK as u64 + 16 + 8);
        assert!(SHARE.bytes > 2 * OUTPUT_BYTES_MAX as u64 + size_of::<crate::devices::board::Board>() as u64);
        let vcpu = size_of::<vm::vcpu::Vcpu>() + 2 * size_of::<vm::state::VcpuState>() + 2 * 4096;
        assert!(SHARE.bytes_per_vcpu > vcpu as u64, "{vcpu}");
    }

    #[test]
    fn what_a_guest_has_been_shown_arrives_as_it_was_sent() {
        let mut sent = FeatureSet([0; WORDS]);
        for (index, bits) in sent.0.iter_mut().enumerate() {
            *bits = 1 << index;
        }
        sent.0[2] = 0;
        assert_eq!(shown(&features(&sent)), sent);
    }
}
