//! The host bridge: ports 0xcf8 and 0xcfc, and bus 0 with nothing on it but the bridge itself.
//!
//! Reference: PCI Local Bus specification 3.0, section 3.2.2.3.2.

use minicbor::{Decode, Encode};

use super::config::{ConfigSpace, Identity};
use crate::devices::Width;

const ADDRESS_ENABLE: u32 = 1 << 31;
/// Enable, bus, device, function, register.
const ADDRESS_BITS: u32 = 0x80ff_fffc;
/// A bridge that no driver claims: Intel's id for a virtual host bridge.
const BRIDGE: Identity = Identity { vendor: 0x8086, device: 0x0d57, class: 0x06_0000, revision: 0 };

/// The host bridge.
#[derive(Debug)]
pub struct PciHost {
    address: u32,
    bridge: ConfigSpace,
}

/// Saved state of a [`PciHost`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PciHostState {
    #[n(0)]
    address: u32,
}

impl Default for PciHost {
    fn default() -> Self {
        Self::new()
    }
}

impl PciHost {
    /// The bridge after reset.
    #[must_use]
    pub const fn new() -> Self {
        Self { address: 0, bridge: ConfigSpace::new(BRIDGE) }
    }

    /// Reads port 0xcf8 as a double word.
    #[must_use]
    pub const fn read_address(&self) -> u32 {
        self.address
    }

    /// Writes port 0xcf8 as a double word.
    pub const fn write_address(&mut self, value: u32) {
        self.address = value & ADDRESS_BITS;
    }

    /// Reads ports 0xcfc to 0xcff.
    #[must_use]
    pub fn read_data(&self, port: u16, width: Width) -> u32 {
        let register = match self.function() {
            Some(function) => function.read(self.address as u8),
            None => u32::MAX,
        };
        register >> (8 * (port & 3)) & width.mask() as u32
    }

    /// Writes ports 0xcfc to 0xcff.
    pub fn write_data(&mut self, port: u16, width: Width, value: u32) {
        let shift = 8 * (port & 3);
        let offset = self.address as u8;
        let mask = (width.mask() as u32) << shift;
        if self.function().is_some() {
            self.bridge.write(offset, mask, value << shift);
        }
    }

    /// The function that the address selects, if there is one.
    const fn function(&self) -> Option<&ConfigSpace> {
        if self.address & !0xff == ADDRESS_ENABLE { Some(&self.bridge) } else { None }
    }

    /// The state to carry to another host.
    #[must_use]
    pub const fn save(&self) -> PciHostState {
        let Self { address, bridge: _ } = self;
        PciHostState { address: *address }
    }

    /// A bridge in the state `saved`.
    ///
    /// # Errors
    /// The name of the first field that no bridge can have.
    pub fn restore(saved: &PciHostState) -> Result<Self, &'static str> {
        if saved.address & !ADDRESS_BITS != 0 {
            return Err("pci.address");
        }
        Ok(Self { address: saved.address, ..Self::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Linux's check of mechanism 1, and its scan of bus 0.
    #[test]
    fn linux_finds_mechanism_1_and_only_the_bridge() {
        let mut host = PciHost::new();
        host.write_address(0x8000_0000);
        assert_eq!(host.read_address(), 0x8000_0000);
        let mut found = 0;
        for function in 0..256 {
            host.write_address(0x8000_0000 | function << 8);
            if host.read_data(0xcfc, Width::Dword) != u32::MAX {
                found += 1;
                assert_eq!(host.read_data(0xcfc, Width::Word), 0x8086);
            }
            host.write_address(0x8000_0008 | function << 8);
            if function == 0 {
                assert_eq!(host.read_data(0xcfe, Width::Word), 0x0600);
            }
        }
        assert_eq!(found, 1);
    }

    #[test]
    fn nothing_answers_while_disabled() {
        let mut host = PciHost::new();
        host.write_address(0);
        assert_eq!(host.read_data(0xcfc, Width::Dword), u32::MAX);
    }

    #[test]
    fn restore_refuses_reserved_address_bits() {
        assert_eq!(PciHost::restore(&PciHostState { address: 1 }).err(), Some("pci.address"));
    }

    proptest! {
        #[test]
        fn any_script_is_survived_and_saved(script in prop::collection::vec((any::<bool>(), any::<u32>()), 0..50)) {
            let mut host = PciHost::new();
            for (address, value) in script {
                if address {
                    host.write_address(value);
                } else {
                    host.write_data(0xcfc + (value as u16 & 3), Width::Dword, value);
                    let _ = host.read_data(0xcfc + (value as u16 & 3), Width::Byte);
                }
            }
            let copy = PciHost::restore(&host.save()).unwrap();
            prop_assert_eq!(copy.read_data(0xcfc, Width::Dword), host.read_data(0xcfc, Width::Dword));
        }
    }
}
