//! The guest's description and the target's answer, as CBOR.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{Decode, Encode};

use super::reasons::RefusalBody;
use crate::guest::{
    CONFIGURATION_BYTES_MAX, CpuFeatures, CpuidRegister, FEATURES_MAX, GuestDescription, NAME_BYTES_MAX,
    VCPUS_MAX,
};
use crate::permit::{Generation, GuestId};
use crate::ram::{RAM_RANGES_MAX, RamLayout, RamRange};
use crate::reason::StreamFault;

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RangeBody {
    #[n(0)]
    first_frame: u64,
    #[n(1)]
    frames: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct FeaturesBody {
    #[n(0)]
    leaf: u32,
    #[n(1)]
    subleaf: u32,
    #[n(2)]
    register: u8,
    #[n(3)]
    bits: u32,
}

/// A source's description of its guest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Hello {
    #[n(0)]
    id: [u8; 16],
    #[n(1)]
    generation: u64,
    #[n(2)]
    name: String,
    #[n(3)]
    ranges: Vec<RangeBody>,
    #[n(4)]
    vcpus: u32,
    #[n(5)]
    features: Vec<FeaturesBody>,
    #[n(6)]
    tsc_hz: u64,
    #[cbor(n(7), with = "minicbor::bytes")]
    configuration: Vec<u8>,
    /// How long the source waits for a sign of life.
    #[n(8)]
    pub(crate) peer_timeout_ms: u32,
}

/// A target's answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Reply {
    /// The version to be spoken; the highest that the target speaks if there is no common one, beside a refusal.
    #[n(0)]
    pub(crate) version: u16,
    /// Empty: accepted.
    #[n(1)]
    pub(crate) refusals: Vec<RefusalBody>,
    /// Of the target host.
    #[n(2)]
    pub(crate) incarnation: u64,
    /// How long the target waits for a sign of life.
    #[n(3)]
    pub(crate) peer_timeout_ms: u32,
    /// Whether it can run a guest of whose RAM parts are absent.
    #[cbor(n(4), default)]
    pub(crate) post_copy: bool,
}

impl CpuidRegister {
    pub(crate) const fn to_wire(self) -> u8 {
        match self {
            Self::Eax => 0,
            Self::Ebx => 1,
            Self::Ecx => 2,
            Self::Edx => 3,
        }
    }

    pub(crate) const fn from_wire(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Eax),
            1 => Some(Self::Ebx),
            2 => Some(Self::Ecx),
            3 => Some(Self::Edx),
            _ => None,
        }
    }
}

impl Hello {
    pub(crate) fn new(guest: &GuestDescription, peer_timeout_ms: u32) -> Self {
        let GuestDescription { id, generation, name, layout, vcpus, features, tsc_hz, configuration } = guest;
        let range = |range: &RamRange| RangeBody { first_frame: range.first_frame, frames: range.frames };
        let word = |word: &CpuFeatures| FeaturesBody {
            leaf: word.leaf,
            subleaf: word.subleaf,
            register: word.register.to_wire(),
            bits: word.bits,
        };
        Self {
            id: id.0,
            generation: generation.0,
            name: name.clone(),
            ranges: layout.ranges().iter().map(range).collect(),
            vcpus: *vcpus,
            features: features.iter().map(word).collect(),
            tsc_hz: *tsc_hz,
            configuration: configuration.clone(),
            peer_timeout_ms,
        }
    }

    /// The description, its bounds checked.
    pub(crate) fn guest(&self) -> Result<GuestDescription, StreamFault> {
        let name_fits = (1..=NAME_BYTES_MAX).contains(&self.name.len());
        let vcpus_fit = (1..=VCPUS_MAX).contains(&self.vcpus);
        let lists_fit = self.ranges.len() <= RAM_RANGES_MAX && self.features.len() <= FEATURES_MAX;
        if !name_fits || !vcpus_fit || !lists_fit || self.configuration.len() > CONFIGURATION_BYTES_MAX {
            return Err(StreamFault::Length);
        }
        // It is shown on consoles.
        if self.name.chars().any(char::is_control) {
            return Err(StreamFault::Value);
        }
        let range = |range: &RangeBody| RamRange { first_frame: range.first_frame, frames: range.frames };
        let ranges: Vec<RamRange> = self.ranges.iter().map(range).collect();
        Ok(GuestDescription {
            id: GuestId(self.id),
            generation: Generation(self.generation),
            name: self.name.clone(),
            layout: RamLayout::new(&ranges).map_err(|_| StreamFault::Value)?,
            vcpus: self.vcpus,
            features: self.features.iter().map(features).collect::<Result<_, _>>()?,
            tsc_hz: self.tsc_hz,
            configuration: self.configuration.clone(),
        })
    }
}

fn features(word: &FeaturesBody) -> Result<CpuFeatures, StreamFault> {
    let register = CpuidRegister::from_wire(word.register).ok_or(StreamFault::Value)?;
    Ok(CpuFeatures { leaf: word.leaf, subleaf: word.subleaf, register, bits: word.bits })
}
