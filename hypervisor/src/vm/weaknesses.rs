//! Known weaknesses of processors through which a guest may learn what is another's or the host's, or stop the host, and
//! against which this hypervisor does nothing: no L1D flush and no VERW before an entry, guests of different owners on
//! sibling hyperthreads, executable pages of 2 MiB, no guard around the host's own indirect branches.
//!
//! A processor tells only what it is free of (IA32_ARCH_CAPABILITIES, SDM volume 4, table 2-2), so one that tells nothing
//! counts as open. Left out are weaknesses that guests cannot use here, since they have no device of the host's (MMIO
//! stale data), and those that microcode alone mitigates.

use core::fmt;

use godwit_vmx::msr;

use crate::exits::cpuid::Registers;

/// Bits of CPUID leaf 7: RTM in EBX, IA32_ARCH_CAPABILITIES in EDX.
const RTM: u32 = 1 << 11;
const HAS_ARCH_CAPABILITIES: u32 = 1 << 29;
/// Bits of IA32_ARCH_CAPABILITIES.
const RDCL_NO: u64 = 1 << 0;
const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
const MDS_NO: u64 = 1 << 5;
const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
const TAA_NO: u64 = 1 << 8;
const RFDS_NO: u64 = 1 << 27;
const RFDS_CLEAR: u64 = 1 << 28;

/// What a processor says of itself.
#[derive(Clone, Copy, Debug)]
struct Told {
    has_rtm: bool,
    arch_capabilities: u64,
}

impl Told {
    fn has(&self, bits: u64) -> bool {
        self.arch_capabilities & bits != 0
    }
}

/// A weakness's name, and whether a processor that says this is open to it.
type Row = (&'static str, fn(&Told) -> bool);

const TABLE: [Row; 6] = [
    // No bit tells of a processor that is free of it; barriers between guests do not guard the host.
    ("Spectre v2", |_| true),
    // A hypervisor below that flushes at every entry says so by the second bit.
    ("L1TF", |told| !told.has(RDCL_NO | SKIP_L1DFL_VMENTRY)),
    ("MDS", |told| !told.has(MDS_NO)),
    ("TAA", |told| told.has_rtm && !told.has(TAA_NO)),
    // Few processors have it; those that do can clear the buffers in question.
    ("RFDS", |told| told.has(RFDS_CLEAR) && !told.has(RFDS_NO)),
    ("iTLB multihit", |told| !told.has(IF_PSCHANGE_MC_NO)),
];

/// What a processor is open to; as text, the warning that a person is given.
#[derive(Clone, Copy, Debug)]
pub struct Weaknesses(Told);

impl Weaknesses {
    /// Asks a processor, by its CPUID and its model-specific registers, of which none is read that CPUID does not tell of.
    #[must_use]
    pub fn ask(cpuid: impl Fn(u32, u32) -> Registers, read_msr: impl FnOnce(u32) -> Option<u64>) -> Self {
        let [highest, ..] = cpuid(0, 0);
        let [_, ebx, _, edx] = if highest >= 7 { cpuid(7, 0) } else { [0; 4] };
        let is_told = edx & HAS_ARCH_CAPABILITIES != 0;
        let arch_capabilities = if is_told { read_msr(msr::ARCH_CAPABILITIES).unwrap_or(0) } else { 0 };
        Self(Told { has_rtm: ebx & RTM != 0, arch_capabilities })
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        TABLE.iter().filter(|(_, is_open)| is_open(&self.0)).map(|(name, _)| *name)
    }
}

impl fmt::Display for Weaknesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.names().count();
        f.write_str("as far as it says, this CPU is open to ")?;
        for (index, name) in self.names().enumerate() {
            f.write_str(match index {
                0 => "",
                _ if index + 1 == count => " and ",
                _ => ", ",
            })?;
            f.write_str(name)?;
        }
        f.write_str(", which this hypervisor does not mitigate: run only guests that trust each other")
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    fn names(ebx: u32, edx: u32, arch_capabilities: u64) -> Vec<&'static str> {
        let cpuid = |leaf, _| if leaf == 7 { [0, ebx, 0, edx] } else { [7, 0, 0, 0] };
        Weaknesses::ask(cpuid, |_| Some(arch_capabilities)).names().collect()
    }

    #[test]
    fn who_tells_nothing_counts_as_open_and_is_not_asked_for_what_it_lacks() {
        let unread = |_| unreachable!("there is no such register");
        let old = Weaknesses::ask(|_, _| [6, 0, 0, u32::MAX], unread);
        assert_eq!(old.names().collect::<Vec<_>>(), ["Spectre v2", "L1TF", "MDS", "iTLB multihit"]);
        let silent = Weaknesses::ask(|_, _| [7, RTM, 0, !HAS_ARCH_CAPABILITIES], unread);
        assert!(silent.names().any(|name| name == "TAA"));
        let absent = Weaknesses::ask(|_, _| [7, 0, 0, HAS_ARCH_CAPABILITIES], |_| None);
        assert_eq!(absent.names().count(), 4);
    }

    #[test]
    fn each_immunity_takes_its_own_weakness_off_the_list() {
        let open = |bits| names(RTM, HAS_ARCH_CAPABILITIES, bits);
        let all = open(RFDS_CLEAR);
        assert_eq!(all, TABLE.map(|(name, _)| name));
        for (bit, name) in
            [(0, "L1TF"), (3, "L1TF"), (5, "MDS"), (6, "iTLB multihit"), (8, "TAA"), (27, "RFDS")]
        {
            let left: Vec<_> = all.iter().copied().filter(|other| *other != name).collect();
            assert_eq!(open(RFDS_CLEAR | 1 << bit), left);
        }
        assert!(!open(0).contains(&"RFDS"));
        assert_eq!(names(0, HAS_ARCH_CAPABILITIES, u64::MAX), ["Spectre v2"]);
    }

    #[test]
    fn the_warning_names_them_in_a_line() {
        let told = |arch_capabilities| Weaknesses(Told { has_rtm: true, arch_capabilities }).to_string();
        assert_eq!(
            told(RDCL_NO | TAA_NO | MDS_NO),
            "as far as it says, this CPU is open to Spectre v2 and iTLB multihit, which this hypervisor does not mitigate: \
             run only guests that trust each other"
        );
        assert!(told(RFDS_CLEAR).contains(" Spectre v2, L1TF, MDS, TAA, RFDS and iTLB multihit, "));
        assert!(told(RFDS_CLEAR).len() <= 200, "the log cuts lines off");
    }
}
