//! A function's configuration space: 256 bytes, of which each bit is writable or not.
//!
//! Reference: PCI Local Bus specification 3.0, section 6.1.

/// 32-bit registers in a configuration space.
const REGISTERS: usize = 64;

/// What identifies a function.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, sub-class and programming interface, in bits 23:0.
    pub class: u32,
    /// Revision.
    pub revision: u8,
}

/// Configuration space of one function with a type 0 header.
#[derive(Debug)]
pub struct ConfigSpace {
    registers: [u32; REGISTERS],
    writable: [u32; REGISTERS],
}

impl ConfigSpace {
    /// A space that shows `identity` and in which nothing can be written.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        let mut registers = [0; REGISTERS];
        registers[0] = (identity.device as u32) << 16 | identity.vendor as u32;
        registers[2] = identity.class << 8 | identity.revision as u32;
        Self { registers, writable: [0; REGISTERS] }
    }

    /// Lets the guest write the bits `mask` of the register at byte `offset`.
    #[must_use]
    pub const fn with_writable(mut self, offset: u8, mask: u32) -> Self {
        self.writable[(offset >> 2) as usize] = mask;
        self
    }

    /// Reads the register that holds byte `offset`.
    #[must_use]
    pub const fn read(&self, offset: u8) -> u32 {
        self.registers[(offset >> 2) as usize]
    }

    /// Writes the bits `mask` of the register that holds byte `offset`, as far as they are writable.
    pub const fn write(&mut self, offset: u8, mask: u32, value: u32) {
        let index = (offset >> 2) as usize;
        let mask = mask & self.writable[index];
        self.registers[index] = self.registers[index] & !mask | value & mask;
    }

    /// The registers, to be saved.
    pub const fn registers(&self) -> &[u32; REGISTERS] {
        &self.registers
    }

    /// Takes over the writable bits of `saved`.
    pub fn restore(&mut self, saved: &[u32; REGISTERS]) {
        for (index, register) in self.registers.iter_mut().enumerate() {
            *register = *register & !self.writable[index] | saved[index] & self.writable[index];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_bits_change() {
        let identity = Identity { vendor: 0x8086, device: 0x0d57, class: 0x06_0000, revision: 0 };
        let mut space = ConfigSpace::new(identity).with_writable(4, 0x0000_0407);
        space.write(0, u32::MAX, 0);
        space.write(4, u32::MAX, u32::MAX);
        assert_eq!(space.read(0), 0x0d57_8086);
        assert_eq!(space.read(7), 0x0000_0407);
        space.write(4, 0x0000_ff00, 0);
        assert_eq!(space.read(4), 0x0000_0007);
        assert_eq!(space.read(8), 0x0600_0000);
    }
}
