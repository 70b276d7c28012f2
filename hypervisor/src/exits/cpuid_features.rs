//! The processor features that guests may see: an allow-list, a reason per row.
//!
//! A feature is here if its state is saved, restored and migrated, or if it has none; everything else is
//! hidden, whatever a future processor adds.

use core::fmt;

use godwit_vmx::fpu::Components;

/// A register of a CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Where a feature's bit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The host's bit.
    Host,
    /// Ours to give: emulated, whatever the host has.
    Emulated,
}

/// One word of feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Leaf.
    pub leaf: u32,
    /// Subleaf.
    pub subleaf: u32,
    /// Register.
    pub register: Register,
    /// Bits taken from the host.
    pub host: &'static [(u8, &'static str)],
    /// Bits that are always set.
    pub emulated: &'static [(u8, &'static str)],
    /// Why these and no others.
    pub reason: &'static str,
}

/// Number of feature words.
pub const WORDS: usize = 12;

/// Every feature bit that a guest may see.
pub static FEATURES: [Word; WORDS] = [
    Word {
        leaf: 1,
        subleaf: 0,
        register: Register::Edx,
        host: &[
            (0, "fpu"),
            (1, "vme"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (7, "mce"),
            (8, "cx8"),
            (11, "sep"),
            (13, "pge"),
            (14, "mca"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
            (27, "ss"),
        ],
        emulated: &[(9, "apic"), (12, "mtrr")],
        reason: "no debug store or thermal control; the APIC and MTRRs are emulated; HTT follows the number of processors",
    },
    Word {
        leaf: 1,
        subleaf: 0,
        register: Register::Ecx,
        host: &[
            (0, "sse3"),
            (1, "pclmulqdq"),
            (9, "ssse3"),
            (12, "fma"),
            (13, "cx16"),
            (17, "pcid"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (22, "movbe"),
            (23, "popcnt"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
        ],
        emulated: &[(21, "x2apic"), (24, "tsc_deadline"), (31, "hypervisor")],
        reason: "no MONITOR, VMX, SMX, thermal or performance monitoring; OSXSAVE follows the guest's CR4",
    },
    Word {
        leaf: 6,
        subleaf: 0,
        register: Register::Eax,
        host: &[],
        emulated: &[(2, "arat")],
        reason: "the emulated APIC timer never stops; power management is the host's",
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Ebx,
        host: &[
            (0, "fsgsbase"),
            (3, "bmi1"),
            (5, "avx2"),
            (7, "smep"),
            (8, "bmi2"),
            (9, "erms"),
            (10, "invpcid"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (20, "smap"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
        emulated: &[(1, "tsc_adjust")],
        reason: "no HLE, RTM, MPX, SGX, processor trace or cache allocation: their state is not carried",
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Ecx,
        host: &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (6, "avx512_vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (14, "avx512_vpopcntdq"),
            (22, "rdpid"),
            (27, "movdiri"),
            (28, "movdir64b"),
        ],
        emulated: &[],
        reason: "instructions without state of their own; no protection keys, CET, WAITPKG or 5-level paging",
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Edx,
        host: &[
            (4, "fsrm"),
            (10, "md_clear"),
            (14, "serialize"),
            (26, "spec_ctrl"),
            (27, "stibp"),
            (29, "arch_capabilities"),
            (31, "ssbd"),
        ],
        emulated: &[],
        reason: "mitigations whose registers are let through and switched with the guest",
    },
    Word {
        leaf: 7,
        subleaf: 1,
        register: Register::Eax,
        host: &[(4, "avx_vnni"), (5, "avx512_bf16"), (10, "fzrm"), (11, "fsrs"), (12, "fsrc")],
        emulated: &[],
        reason: "instructions without state of their own",
    },
    Word {
        leaf: 0xd,
        subleaf: 1,
        register: Register::Eax,
        host: &[(0, "xsaveopt"), (2, "xgetbv1")],
        emulated: &[],
        // Bochs 2.7 saves the components above SSE 160 bytes before where its XRSTOR looks for them, so that a guest
        // that uses XSAVEC gets wrong vector registers back whenever another of its processes has run.
        reason: "no compacted images: XSAVES would save state that is not carried, XSAVEC is wrong on Bochs",
    },
    Word {
        leaf: 0x8000_0001,
        subleaf: 0,
        register: Register::Ecx,
        host: &[(0, "lahf_lm"), (5, "abm"), (8, "3dnowprefetch")],
        emulated: &[],
        reason: "instructions without state of their own",
    },
    Word {
        leaf: 0x8000_0001,
        subleaf: 0,
        register: Register::Edx,
        host: &[(11, "syscall"), (20, "nx"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm")],
        emulated: &[],
        reason: "long mode and what belongs to it",
    },
    Word {
        leaf: 0x8000_0007,
        subleaf: 0,
        register: Register::Edx,
        host: &[],
        emulated: &[(8, "constant_tsc")],
        reason: "the guest's TSC is its only clock, and it is kept steady across hosts",
    },
    Word {
        leaf: 0x8000_0008,
        subleaf: 0,
        register: Register::Ebx,
        host: &[(9, "wbnoinvd")],
        emulated: &[],
        reason: "instructions without state of their own",
    },
];

impl Word {
    const fn mask(bits: &[(u8, &str)]) -> u32 {
        let mut mask = 0;
        let mut index = 0;
        while index < bits.len() {
            mask |= 1 << bits[index].0;
            index += 1;
        }
        mask
    }

    /// What the guest sees of a register whose host value is `host`.
    #[must_use]
    pub const fn filter(&self, host: u32) -> u32 {
        host & Self::mask(self.host) | Self::mask(self.emulated)
    }

    fn name(&self, bit: u8) -> Option<&'static str> {
        self.host.iter().chain(self.emulated).find(|row| row.0 == bit).map(|row| row.1)
    }
}

/// The feature bits that a guest sees, in the order of [`FEATURES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSet(pub [u32; WORDS]);

impl FeatureSet {
    /// Hides what `shown` lacks as well: a guest that moves goes on seeing what it has been shown, whatever its new host has.
    #[must_use]
    pub fn withholding_beyond(mut self, shown: &Self) -> Self {
        for (withheld, shown) in self.0.iter_mut().zip(&shown.0) {
            *withheld |= !shown;
        }
        self
    }

    /// Whether the feature of `bit` is in it.
    #[must_use]
    pub fn has(&self, leaf: u32, register: Register, bit: u32) -> bool {
        let word = |word: &Word| (word.leaf, word.subleaf, word.register) == (leaf, 0, register);
        FEATURES.iter().position(word).is_some_and(|index| self.0[index] & 1 << bit != 0)
    }

    /// Those of the state components `carried` that belong to a feature in it: a component without its feature cannot be
    /// used (SDM volume 1, 13.3), and another host may not have it.
    #[must_use]
    pub fn components(&self, carried: Components) -> Components {
        let mut components = Components::X87 | Components::SSE;
        if self.has(1, Register::Ecx, 28) {
            components |= Components::AVX;
        }
        if self.has(7, Register::Ebx, 16) {
            components |= Components::OPMASK | Components::ZMM_HIGH | Components::HIGH_ZMM;
        }
        components & carried
    }

    /// What this set lacks of `wanted`.
    #[must_use]
    pub fn missing(&self, wanted: &Self) -> Missing {
        let mut words = [0; WORDS];
        for (word, (have, want)) in words.iter_mut().zip(self.0.iter().zip(&wanted.0)) {
            *word = want & !have;
        }
        Missing(words)
    }
}

/// Features that one host has and another lacks; names itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(pub [u32; WORDS]);

impl Missing {
    /// Whether nothing is missing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (word, bits) in FEATURES.iter().zip(self.0) {
            for bit in (0..32).filter(|bit| bits & 1 << bit != 0) {
                f.write_str(separator)?;
                match word.name(bit) {
                    Some(name) => f.write_str(name)?,
                    None => write!(f, "bit {bit} of leaf {:#x}", word.leaf)?,
                }
                separator = ", ";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn no_word_or_bit_is_listed_twice() {
        for (index, word) in FEATURES.iter().enumerate() {
            let twin = |other: &Word| {
                (other.leaf, other.subleaf, other.register) == (word.leaf, word.subleaf, word.register)
            };
            assert!(!FEATURES[index + 1..].iter().any(twin));
            let bits = word.host.len() + word.emulated.len();
            assert_eq!((Word::mask(word.host) | Word::mask(word.emulated)).count_ones() as usize, bits);
        }
    }

    #[test]
    fn what_is_not_listed_is_hidden() {
        let ecx = FEATURES[1].filter(!0);
        assert_eq!(ecx & (1 << 5), 0, "VMX");
        assert_eq!(ecx & (1 << 3), 0, "MONITOR");
        assert_ne!(FEATURES[1].filter(0) & (1 << 31), 0, "hypervisor");
    }

    #[test]
    fn guests_save_their_state_in_the_standard_format_only() {
        let word = FEATURES.iter().find(|word| (word.leaf, word.subleaf) == (0xd, 1)).unwrap();
        assert_eq!(word.filter(!0) & (1 << 1), 0, "XSAVEC");
        assert_eq!(word.filter(!0) & (1 << 3), 0, "XSAVES");
        assert_ne!(word.filter(!0) & 1, 0, "XSAVEOPT, which is as quick");
    }

    #[test]
    fn components_follow_their_features() {
        let carried = Components::all();
        let mut features = FeatureSet([0; WORDS]);
        assert_eq!(features.components(carried), Components::X87 | Components::SSE);
        features.0[1] = 1 << 28;
        assert_eq!(features.components(carried), Components::X87 | Components::SSE | Components::AVX);
        features.0[3] = 1 << 16;
        assert_eq!(
            features.components(carried),
            carried - Components::PKRU,
            "guests are shown no protection keys"
        );
        assert_eq!(
            features.components(Components::X87 | Components::SSE).bits(),
            3,
            "never more than is carried"
        );
    }

    #[test]
    fn a_missing_feature_is_named() {
        let mut full = FeatureSet([0; WORDS]);
        full.0[3] = 1 << 5 | 1 << 29;
        let none = FeatureSet([0; WORDS]);
        assert_eq!(none.missing(&full).to_string(), "avx2, sha_ni");
        assert!(full.missing(&none).is_empty());
    }
}
