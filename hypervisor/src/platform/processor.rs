//! What the processors are, for a person.

use core::fmt;

use heapless::String;
use raw_cpuid::CpuId;

/// Bytes of a processor's name.
const NAME_MAX: usize = 64;

/// The processors, which are taken to be alike.
#[derive(Clone, Debug, Default)]
pub struct Processor {
    /// Its name.
    pub name: String<NAME_MAX>,
    /// Whether it has VMX.
    pub has_vmx: bool,
    /// Whether its TSC ticks at one rate whatever it does.
    pub has_invariant_tsc: bool,
    /// Whether a hypervisor is below this one.
    pub is_virtual: bool,
}

impl Processor {
    /// Asks the running CPU.
    #[must_use]
    pub fn ask() -> Self {
        let cpuid = CpuId::new();
        let mut name = String::new();
        let brand = cpuid.get_processor_brand_string();
        let brand = brand.as_ref().map_or("unknown processor", |brand| brand.as_str().trim());
        for character in brand.chars() {
            // What does not fit is cut off.
            let _ = name.push(character);
        }
        let features = cpuid.get_feature_info();
        Self {
            name,
            has_vmx: features.as_ref().is_some_and(|features| features.has_vmx()),
            is_virtual: features.as_ref().is_some_and(|features| features.has_hypervisor()),
            has_invariant_tsc: cpuid
                .get_advanced_power_mgmt_info()
                .is_some_and(|power| power.has_invariant_tsc()),
        }
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vmx = if self.has_vmx { "VMX" } else { "no VMX: guests cannot run here" };
        write!(f, "{}, {vmx}", self.name)
    }
}
