//! CPUID as guests see it: computed once from the allow-list, answered by a look-up.

use alloc::vec::Vec;

use godwit_vmx::fpu::Components;

use super::cpuid_features::{FEATURES, FeatureSet, Register, WORDS};

/// EAX, EBX, ECX and EDX.
pub type Registers = [u32; 4];

/// Frequency of the crystal that leaf 0x15 tells, in Hz: low enough that a guest's 32-bit arithmetic with
/// the TSC ratio does not overflow.
pub const CRYSTAL_HZ: u64 = 1_000_000;
const CRYSTAL_KHZ: u64 = CRYSTAL_HZ / 1000;

const BASIC_LAST: u32 = 0x16;
const EXTENDED_FIRST: u32 = 0x8000_0000;
const EXTENDED_LAST: u32 = 0x8000_0008;
const HYPERVISOR_FIRST: u32 = 0x4000_0000;
/// A second block, in which Linux looks for what it knows of KVM. It uses x2APIC without interrupt remapping
/// only where it finds this block, and x2APIC spares us decoding its accesses to memory.
const COMPATIBLE_FIRST: u32 = 0x4000_0100;
const COMPATIBLE_FEATURES: u32 = COMPATIBLE_FIRST + 1;
/// Port input and output needs no delays: the only KVM feature offered.
const FEATURE_NO_IO_DELAY: u32 = 1 << 1;
const SUBLEAVES_MAX: u32 = 32;
/// What a page-table entry has room for.
const PHYSICAL_BITS_MAX: u32 = 52;
/// What guests without 5-level paging can use of a linear address.
const LINEAR_BITS_MAX: u32 = 48;
const CR4_OSXSAVE: u64 = 1 << 18;
const LEAF_1_OSXSAVE: u32 = 1 << 27;
/// Bit of EDX: the number of processors in EBX counts.
const LEAF_1_HTT: u32 = 28;

/// How a leaf's registers come to be, besides the words of [`FEATURES`].
struct Leaf {
    number: u32,
    /// What of the host's registers passes.
    pass: Registers,
    /// Number of subleaves, 1 if the leaf has none.
    subleaves: u32,
    reason: &'static str,
}

const fn leaf(number: u32, pass: Registers, subleaves: u32, reason: &'static str) -> Leaf {
    Leaf { number, pass, subleaves, reason }
}

const ALL: u32 = !0;

/// Basic leaves, in order and without gaps; the rest is 0.
static BASIC: [Leaf; BASIC_LAST as usize + 1] = [
    leaf(0x0, [0, ALL, ALL, ALL], 1, "vendor; the highest leaf is ours"),
    leaf(0x1, [ALL, 0xffff, 0, 0], 1, "family, model, stepping, brand, CLFLUSH size"),
    leaf(0x2, [ALL; 4], 1, "cache descriptors"),
    leaf(0x3, [0; 4], 1, "serial number: none"),
    leaf(0x4, [0x3ff, ALL, ALL, 7], 5, "caches, shared with nobody"),
    leaf(0x5, [0; 4], 1, "no MONITOR"),
    leaf(0x6, [0; 4], 1, "power management is the host's"),
    leaf(0x7, [0; 4], 2, "feature words; the highest subleaf is ours"),
    leaf(0x8, [0; 4], 1, "reserved"),
    leaf(0x9, [0; 4], 1, "no direct cache access"),
    leaf(0xa, [0; 4], 1, "no performance monitoring"),
    leaf(0xb, [0; 4], 3, "topology is ours"),
    leaf(0xc, [0; 4], 1, "reserved"),
    leaf(0xd, [0; 4], SUBLEAVES_MAX, "XSAVE, restricted to what is carried"),
    leaf(0xe, [0; 4], 1, "reserved"),
    leaf(0xf, [0; 4], 1, "no cache monitoring"),
    leaf(0x10, [0; 4], 1, "no cache allocation"),
    leaf(0x11, [0; 4], 1, "reserved"),
    leaf(0x12, [0; 4], 1, "no SGX"),
    leaf(0x13, [0; 4], 1, "reserved"),
    leaf(0x14, [0; 4], 1, "no processor trace"),
    leaf(0x15, [0; 4], 1, "the TSC's exact frequency is ours"),
    leaf(0x16, [0; 4], 1, "the TSC's frequency, so that no guest measures it by the interval timer"),
];

/// Extended leaves, in order and without gaps.
static EXTENDED: [Leaf; (EXTENDED_LAST - EXTENDED_FIRST) as usize + 1] = [
    leaf(0x8000_0000, [0; 4], 1, "the highest leaf is ours"),
    leaf(0x8000_0001, [0; 4], 1, "feature words"),
    leaf(0x8000_0002, [ALL; 4], 1, "brand"),
    leaf(0x8000_0003, [ALL; 4], 1, "brand"),
    leaf(0x8000_0004, [ALL; 4], 1, "brand"),
    leaf(0x8000_0005, [0; 4], 1, "reserved on Intel"),
    leaf(0x8000_0006, [0, 0, ALL, 0], 1, "L2 cache"),
    leaf(0x8000_0007, [0; 4], 1, "feature word"),
    leaf(0x8000_0008, [0xffff, 0, 0, 0], 1, "address widths"),
];

/// What the policy needs to know of the host and of the guest's machine.
pub struct Basis<'a> {
    /// The host's CPUID.
    pub host: &'a dyn Fn(u32, u32) -> Registers,
    /// State components that are carried; the guest gets those whose features it sees.
    pub components: Components,
    /// Frequency of the guest's TSC, in Hz.
    pub tsc_hz: u64,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// Host features that a guest does not get: the processor's VMX controls do not let it have them, or it has not seen
    /// them where it started.
    pub withheld: FeatureSet,
}

/// A guest's CPUID.
#[derive(Clone, Debug)]
pub struct GuestCpuid {
    entries: Vec<Registers>,
    /// First entry and number of subleaves of each basic leaf.
    basic: [(u16, u16); BASIC_LAST as usize + 1],
    extended: u16,
    hypervisor: Registers,
    features: FeatureSet,
    components: Components,
    /// Bytes of an XSAVE area up to and including each component.
    area_ends: [u32; 64],
}

impl GuestCpuid {
    /// Applies the policy.
    #[must_use]
    pub fn new(basis: &Basis<'_>) -> Self {
        let mut features = FeatureSet([0; WORDS]);
        for (index, word) in FEATURES.iter().enumerate() {
            let host = (basis.host)(word.leaf, word.subleaf)[word.register as usize];
            features.0[index] = word.filter(host) & !basis.withheld.0[index];
        }
        let basis = &Basis { components: features.components(basis.components), ..*basis };
        let mut entries = Vec::new();
        let mut basic = [(0, 0); BASIC_LAST as usize + 1];
        for (rule, place) in BASIC.iter().zip(&mut basic) {
            debug_assert!(!rule.reason.is_empty());
            *place = (entries.len() as u16, rule.subleaves as u16);
            for subleaf in 0..rule.subleaves {
                entries.push(answer(rule, subleaf, basis));
            }
        }
        let extended = entries.len() as u16;
        for rule in &EXTENDED {
            entries.push(answer(rule, 0, basis));
        }
        let mut area_ends = [0; 64];
        for component in 2..64 {
            if basis.components.bits() & 1 << component != 0 {
                let [size, offset, ..] = (basis.host)(0xd, component);
                area_ends[component as usize] = size.saturating_add(offset);
            }
        }
        Self {
            entries,
            basic,
            extended,
            hypervisor: words(HYPERVISOR_FIRST, *b"GodwitGodwit"),
            features,
            components: basis.components,
            area_ends,
        }
    }

    /// The feature bits that the guest sees: what a host that takes it over must have.
    #[must_use]
    pub const fn features(&self) -> &FeatureSet {
        &self.features
    }

    /// State components that the guest may enable.
    #[must_use]
    pub const fn components(&self) -> Components {
        self.components
    }

    /// Width of a guest-physical address, in bits.
    #[must_use]
    pub fn physical_bits(&self) -> u32 {
        let [widths, ..] = self.look_up(EXTENDED_LAST, 0).unwrap_or_default();
        (widths & 0xff).min(PHYSICAL_BITS_MAX)
    }

    /// Answers CPUID of `vcpu` with EAX = `leaf` and ECX = `subleaf`; `cr4` is asked only where the answer
    /// depends on it.
    #[inline]
    pub fn query(
        &self,
        leaf: u32,
        subleaf: u32,
        vcpu: u32,
        xcr0: u64,
        cr4: impl FnOnce() -> u64,
    ) -> Registers {
        let Some(mut registers) = self.look_up(leaf, subleaf) else { return [0; 4] };
        match leaf {
            1 => {
                registers[1] |= vcpu << 24;
                if cr4() & CR4_OSXSAVE != 0 {
                    registers[2] |= LEAF_1_OSXSAVE;
                }
            }
            0xb => {
                registers[2] |= subleaf & 0xff;
                registers[3] = vcpu;
            }
            0xd if subleaf == 0 => {
                registers[1] = self.area_bytes(xcr0);
                registers[2] = self.area_bytes(self.components.bits());
            }
            _ => {}
        }
        registers
    }

    #[inline]
    fn look_up(&self, leaf: u32, subleaf: u32) -> Option<Registers> {
        let position = match leaf {
            0..=BASIC_LAST => {
                let (first, subleaves) = self.basic[leaf as usize];
                match u32::from(subleaves) {
                    1 => u32::from(first),
                    count if subleaf < count => u32::from(first) + subleaf,
                    // Topology repeats its last, invalid level for ever; other leaves end.
                    count if leaf == 0xb => u32::from(first) + count - 1,
                    _ => return None,
                }
            }
            EXTENDED_FIRST..=EXTENDED_LAST => u32::from(self.extended) + (leaf - EXTENDED_FIRST),
            HYPERVISOR_FIRST => return Some(self.hypervisor),
            COMPATIBLE_FIRST => return Some(words(COMPATIBLE_FEATURES, *b"KVMKVMKVM\0\0\0")),
            COMPATIBLE_FEATURES => return Some([FEATURE_NO_IO_DELAY, 0, 0, 0]),
            // Out of range. An Intel processor gives the highest basic leaf, which nobody wants: here it is zeros.
            _ => return None,
        };
        self.entries.get(position as usize).copied()
    }

    /// Bytes of an XSAVE area for the components that `xcr0` enables.
    fn area_bytes(&self, xcr0: u64) -> u32 {
        let mut bytes = 512 + 64;
        for component in 2..64 {
            if xcr0 & 1 << component != 0 {
                bytes = bytes.max(self.area_ends[component]);
            }
        }
        bytes
    }
}

/// EAX and a signature in EBX, ECX and EDX.
const fn words(eax: u32, signature: [u8; 12]) -> Registers {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = signature;
    [
        eax,
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u32::from_le_bytes([i, j, k, l]),
    ]
}

fn answer(rule: &Leaf, subleaf: u32, basis: &Basis<'_>) -> Registers {
    let host = (basis.host)(rule.number, subleaf);
    let mut registers = [0; 4];
    for (register, (value, mask)) in registers.iter_mut().zip(host.iter().zip(rule.pass)) {
        *register = value & mask;
    }
    for (index, word) in FEATURES.iter().enumerate() {
        if (word.leaf, word.subleaf) == (rule.number, subleaf) {
            let register = word.register as usize;
            registers[register] |= word.filter(host[register]) & !basis.withheld.0[index];
        }
    }
    match rule.number {
        0 => registers[Register::Eax as usize] = BASIC_LAST,
        1 => {
            registers[1] |= basis.vcpus << 16;
            registers[3] |= u32::from(basis.vcpus > 1) << LEAF_1_HTT;
        }
        7 if subleaf == 0 => registers[0] = 1,
        0xb => registers = topology(subleaf, basis.vcpus),
        0xd => registers = extended_state(subleaf, host, registers, basis.components),
        0x15 => registers = tsc_frequency(basis.tsc_hz),
        0x16 => registers = nominal_frequency(basis.tsc_hz),
        EXTENDED_FIRST => registers[0] = EXTENDED_LAST,
        EXTENDED_LAST => {
            let linear = (registers[0] >> 8 & 0xff).min(LINEAR_BITS_MAX);
            registers[0] = registers[0] & 0xff | linear << 8;
        }
        _ => {}
    }
    registers
}

/// Leaf 0xb: one thread per core, all cores in one package.
const fn topology(subleaf: u32, vcpus: u32) -> Registers {
    match subleaf {
        0 => [0, 1, 1 << 8, 0],
        1 => [32 - (vcpus - 1).leading_zeros(), vcpus, 2 << 8, 0],
        _ => [0; 4],
    }
}

/// Leaf 0xd for the carried components; subleaf 0 gets the sizes for the current and for the
/// widest XCR0 when asked.
fn extended_state(subleaf: u32, host: Registers, filtered: Registers, components: Components) -> Registers {
    match subleaf {
        0 => {
            let bits = components.bits();
            [bits as u32, 0, 0, (bits >> 32) as u32]
        }
        1 => [filtered[0], 0, 0, 0],
        component if components.bits() & 1 << component != 0 => [host[0], host[1], 0, 0],
        _ => [0; 4],
    }
}

/// Leaf 0x15: TSC frequency = crystal × EBX / EAX, in steps of [`told_step_khz`].
const fn tsc_frequency(tsc_hz: u64) -> Registers {
    let step = told_step_khz(tsc_hz);
    [(CRYSTAL_KHZ / step) as u32, (tsc_hz / 1000 / step) as u32, CRYSTAL_HZ as u32, 0]
}

/// What EBX of leaf 0x15 counts in: 1 kHz, or so much more that the product of crystal and EBX has 32 bits. Linux computes it
/// in so many, and some processors' TSC is faster than 4,294 MHz.
const fn told_step_khz(tsc_hz: u64) -> u64 {
    (tsc_hz / 1000 * CRYSTAL_KHZ).div_ceil(u32::MAX as u64).next_power_of_two()
}

/// Leaf 0x16: base and highest frequency, in MHz; the TSC's, as the processor's own is nobody's business.
const fn nominal_frequency(tsc_hz: u64) -> Registers {
    let megahertz = ((tsc_hz + 500_000) / 1_000_000) as u32;
    [megahertz, megahertz, 0, 0]
}

/// The frequency nearest below `tsc_hz` that leaf 0x15 can tell exactly: a machine whose devices count by it
/// agrees with its guest.
#[must_use]
pub const fn told_frequency(tsc_hz: u64) -> u64 {
    let step_hz = 1000 * told_step_khz(tsc_hz);
    tsc_hz / step_hz * step_hz
}

/// The host's CPUID.
#[must_use]
pub fn host_cpuid(leaf: u32, subleaf: u32) -> Registers {
    let registers = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [registers.eax, registers.ebx, registers.ecx, registers.edx]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(vcpus: u32) -> GuestCpuid {
        let host = |leaf: u32, subleaf: u32| match (leaf, subleaf) {
            (0xd, 2) => [256, 576, 0, 0],
            (0xd, 5) => [64, 1088, 2, 0],
            _ => [!0; 4],
        };
        GuestCpuid::new(&Basis {
            host: &host,
            components: Components::X87 | Components::SSE | Components::AVX,
            tsc_hz: 10_000_000,
            vcpus,
            withheld: FeatureSet([0; WORDS]),
        })
    }

    fn ask(cpuid: &GuestCpuid, leaf: u32, subleaf: u32) -> Registers {
        cpuid.query(leaf, subleaf, 0, 7, || 0)
    }

    #[test]
    fn the_frequency_leaf_is_exact() {
        let [eax, ebx, ecx, _] = ask(&guest(1), 0x15, 0);
        assert_eq!(u64::from(ecx) * u64::from(ebx) / u64::from(eax), 10_000_000);
        assert_eq!(nominal_frequency(9_999_887)[0], 10);
        for megahertz in [4_200, 4_300, 6_001, 16_000] {
            let told = told_frequency(megahertz * 1_000_000 + 999);
            let [eax, ebx, ecx, _] = tsc_frequency(told);
            assert!((ecx / 1000).checked_mul(ebx).is_some(), "Linux multiplies in 32 bits: {megahertz} MHz");
            assert_eq!(u64::from(ecx) * u64::from(ebx) / u64::from(eax), told);
            assert_eq!(told, megahertz * 1_000_000);
        }
    }

    #[test]
    fn osxsave_follows_cr4_and_the_area_follows_xcr0() {
        let cpuid = guest(1);
        assert_eq!(ask(&cpuid, 1, 0)[2] & LEAF_1_OSXSAVE, 0);
        assert_ne!(cpuid.query(1, 0, 0, 1, || CR4_OSXSAVE)[2] & LEAF_1_OSXSAVE, 0);
        assert_eq!(cpuid.query(0xd, 0, 0, 3, || 0)[1], 576);
        assert_eq!(cpuid.query(0xd, 0, 0, 7, || 0)[1], 832);
        assert_eq!(cpuid.query(0xd, 1, 0, 7, || 0)[1], 0, "there is no compacted area");
        assert_eq!(ask(&cpuid, 0xd, 0)[0], 7);
        assert_eq!(ask(&cpuid, 0xd, 5), [0; 4], "a component that is not carried");
    }

    /// A model without AVX-512, UMIP and self-snoop as KVM offers it, and a host that has them all.
    #[test]
    fn a_moved_guest_goes_on_seeing_what_it_has_been_shown() {
        let all = Components::all();
        let basis = |withheld| Basis {
            host: &|_, _| [!0; 4],
            components: all,
            tsc_hz: 10_000_000,
            vcpus: 1,
            withheld,
        };
        let none = FeatureSet([0; WORDS]);
        let mut lacking = none;
        (lacking.0[0], lacking.0[3], lacking.0[4]) = (1 << 27, 1 << 16, 1 << 2);
        let source = GuestCpuid::new(&basis(lacking));
        let alone = GuestCpuid::new(&basis(none));
        let moved = GuestCpuid::new(&basis(none.withholding_beyond(source.features())));
        assert_ne!(alone.features(), source.features());
        assert_eq!(moved.features(), source.features());
        assert_eq!(moved.components(), Components::X87 | Components::SSE | Components::AVX);
        for leaf in (0..=BASIC_LAST).chain(EXTENDED_FIRST..=EXTENDED_LAST) {
            for subleaf in 0..10 {
                assert_eq!(
                    ask(&moved, leaf, subleaf),
                    ask(&source, leaf, subleaf),
                    "leaf {leaf:#x}.{subleaf}"
                );
            }
        }
        assert!(source.features().missing(moved.features()).is_empty(), "it may go back");
    }

    #[test]
    fn a_guest_without_5_level_paging_has_linear_addresses_of_48_bits() {
        const LA57: u32 = 1 << 16;
        assert_eq!(ask(&guest(1), 7, 0)[2] & LA57, 0);
        assert_eq!(ask(&guest(1), 0x8000_0008, 0)[0], 48 << 8 | 0xff);
        assert_eq!(guest(1).physical_bits(), 52, "whatever the host says");
    }

    #[test]
    fn the_largest_save_area_is_that_of_all_components_that_the_guest_may_enable() {
        assert_eq!(ask(&guest(1), 0xd, 0)[2], 832);
    }

    #[test]
    fn a_guest_that_knows_kvm_finds_its_block() {
        let cpuid = guest(1);
        let [last, ebx, ecx, edx] = ask(&cpuid, COMPATIBLE_FIRST, 0);
        assert_eq!(last, COMPATIBLE_FEATURES);
        assert_eq!(ask(&cpuid, COMPATIBLE_FEATURES, 0), [FEATURE_NO_IO_DELAY, 0, 0, 0]);
        let signature = [ebx, ecx, edx].map(u32::to_le_bytes).concat();
        assert_eq!(signature, b"KVMKVMKVM\0\0\0");
    }

    #[test]
    fn leaves_out_of_range_are_zero_and_nothing_panics() {
        let cpuid = guest(1);
        for leaf in [0x17, 0x3fff_ffff, 0x4000_0001, 0x8000_0009, 0xc000_0000, u32::MAX] {
            assert_eq!(ask(&cpuid, leaf, 0), [0; 4]);
        }
        for leaf in 0..=0x20 {
            for subleaf in [0, 1, 2, 31, 32, u32::MAX] {
                let _ = ask(&cpuid, leaf, subleaf);
            }
        }
    }

    #[test]
    fn the_guest_finds_our_name_and_its_own_topology() {
        let cpuid = guest(4);
        let [highest, ebx, ecx, edx] = ask(&cpuid, HYPERVISOR_FIRST, 0);
        assert_eq!(highest, HYPERVISOR_FIRST);
        let name = [ebx, ecx, edx].map(u32::to_le_bytes).concat();
        assert_eq!(name, b"GodwitGodwit");
        assert_eq!(cpuid.query(1, 0, 3, 1, || 0)[1] >> 16, 3 << 8 | 4);
        assert_eq!(ask(&cpuid, 1, 0)[3] >> LEAF_1_HTT & 1, 1);
        assert_eq!(ask(&guest(1), 1, 0)[3] >> LEAF_1_HTT & 1, 0);
        assert_eq!(cpuid.query(0xb, 1, 3, 1, || 0), [2, 4, 2 << 8 | 1, 3]);
        assert_eq!(cpuid.query(0xb, 9, 3, 1, || 0), [0, 0, 9, 3]);
    }

    #[test]
    fn tables_are_indexed_by_leaf() {
        for (index, rule) in BASIC.iter().enumerate() {
            assert_eq!(rule.number as usize, index);
        }
        for (index, rule) in EXTENDED.iter().enumerate() {
            assert_eq!(rule.number, EXTENDED_FIRST + index as u32);
        }
    }
}
