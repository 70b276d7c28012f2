//! The card's address: from the EEPROM by EERD (13.4.4), else what the firmware left in the first receive
//! address register.

use super::registers::{EERD, RAH_VALID, RAH0, RAL0};
use crate::drivers::{hal::Mmio, net::MacAddress};

/// Start a read.
const EERD_START: u32 = 1 << 0;
/// The read has finished.
const EERD_DONE: u32 = 1 << 4;
/// Where the word's address goes.
const EERD_ADDRESS_SHIFT: u32 = 8;
/// Where the word comes out.
const EERD_DATA_SHIFT: u32 = 16;
/// Looks at EERD before the EEPROM is given up; a word takes about 60 µs and a look about one.
const EERD_POLLS_MAX: u32 = 10_000;

/// Reads the address that the card owns; `None` if neither place holds a unicast address.
pub(super) fn mac<M: Mmio>(registers: &M) -> Option<MacAddress> {
    from_eeprom(registers).or_else(|| from_receive_address(registers))
}

fn from_eeprom<M: Mmio>(registers: &M) -> Option<MacAddress> {
    let mut address = [0; 6];
    for (word_index, pair) in address.chunks_exact_mut(2).enumerate() {
        pair.copy_from_slice(&word(registers, word_index as u32)?.to_le_bytes());
    }
    Some(MacAddress(address)).filter(|mac| mac.is_unicast())
}

fn word<M: Mmio>(registers: &M, index: u32) -> Option<u16> {
    registers.write_u32(EERD, EERD_START | index << EERD_ADDRESS_SHIFT);
    for _ in 0..EERD_POLLS_MAX {
        let value = registers.read_u32(EERD);
        if value & EERD_DONE != 0 {
            return Some((value >> EERD_DATA_SHIFT) as u16);
        }
    }
    None
}

fn from_receive_address<M: Mmio>(registers: &M) -> Option<MacAddress> {
    let [a, b, c, d] = registers.read_u32(RAL0).to_le_bytes();
    let [e, f, ..] = registers.read_u32(RAH0).to_le_bytes();
    Some(MacAddress([a, b, c, d, e, f])).filter(|mac| mac.is_unicast())
}

/// Makes the card accept frames for `mac`.
pub(super) fn program<M: Mmio>(registers: &M, mac: MacAddress) {
    let [a, b, c, d, e, f] = mac.0;
    registers.write_u32(RAL0, u32::from_le_bytes([a, b, c, d]));
    registers.write_u32(RAH0, u32::from_le_bytes([e, f, 0, 0]) | RAH_VALID);
}
