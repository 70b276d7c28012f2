//! Results and flags of arithmetic and logic (SDM volume 1, section 3.4.3.1).

use crate::devices::Width;

pub(super) const CARRY: u64 = 1 << 0;
pub(super) const PARITY: u64 = 1 << 2;
pub(super) const ADJUST: u64 = 1 << 4;
pub(super) const ZERO: u64 = 1 << 6;
pub(super) const SIGN: u64 = 1 << 7;
pub(super) const DIRECTION: u64 = 1 << 10;
pub(super) const OVERFLOW: u64 = 1 << 11;
/// The six status flags.
pub(super) const STATUS: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// An operation with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    AddWithCarry,
    Subtract,
    SubtractWithBorrow,
    And,
    Or,
    ExclusiveOr,
}

/// `left` and `right` combined, and the flags with the status flags renewed.
pub(super) const fn combine(
    operation: Operation,
    width: Width,
    left: u64,
    right: u64,
    flags: u64,
) -> (u64, u64) {
    let mask = width.mask();
    let (left, right) = (left & mask, right & mask);
    let carry = flags & CARRY;
    let (result, status) = match operation {
        Operation::Add => add(width, left, right, 0),
        Operation::AddWithCarry => add(width, left, right, carry),
        Operation::Subtract => subtract(width, left, right, 0),
        Operation::SubtractWithBorrow => subtract(width, left, right, carry),
        Operation::And => (left & right, 0),
        Operation::Or => (left | right, 0),
        Operation::ExclusiveOr => (left ^ right, 0),
    };
    (result, flags & !STATUS | status | of_result(width, result))
}

const fn sign_bit(width: Width) -> u64 {
    1 << (8 * width.bytes() - 1)
}

const fn add(width: Width, left: u64, right: u64, carry: u64) -> (u64, u64) {
    let wide = left as u128 + right as u128 + carry as u128;
    let result = wide as u64 & width.mask();
    let mut status = (left ^ right ^ result) & ADJUST;
    if wide > width.mask() as u128 {
        status |= CARRY;
    }
    if (left ^ result) & (right ^ result) & sign_bit(width) != 0 {
        status |= OVERFLOW;
    }
    (result, status)
}

const fn subtract(width: Width, left: u64, right: u64, borrow: u64) -> (u64, u64) {
    let result = left.wrapping_sub(right).wrapping_sub(borrow) & width.mask();
    let mut status = (left ^ right ^ result) & ADJUST;
    if (left as u128) < right as u128 + borrow as u128 {
        status |= CARRY;
    }
    if (left ^ right) & (left ^ result) & sign_bit(width) != 0 {
        status |= OVERFLOW;
    }
    (result, status)
}

const fn of_result(width: Width, result: u64) -> u64 {
    let mut status = 0;
    if result == 0 {
        status |= ZERO;
    }
    if result & sign_bit(width) != 0 {
        status |= SIGN;
    }
    if (result as u8).count_ones().is_multiple_of(2) {
        status |= PARITY;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_flags() {
        let add = |left, right| combine(Operation::Add, Width::Byte, left, right, 0);
        assert_eq!(add(0x7f, 1), (0x80, OVERFLOW | SIGN | ADJUST));
        assert_eq!(add(0xff, 1), (0, CARRY | ZERO | PARITY | ADJUST));
        let subtract = |left, right| combine(Operation::Subtract, Width::Word, left, right, 0);
        assert_eq!(subtract(0, 1), (0xffff, CARRY | SIGN | PARITY | ADJUST));
        assert_eq!(subtract(0x8000, 1), (0x7fff, OVERFLOW | PARITY | ADJUST));
        let and = combine(Operation::And, Width::Dword, 0xf0, 0x0f, CARRY | OVERFLOW | DIRECTION);
        assert_eq!(and, (0, ZERO | PARITY | DIRECTION));
    }

    proptest! {
        #[test]
        fn sixteen_bit_arithmetic_matches_wide_arithmetic(left: u16, right: u16, carry: bool) {
            let flags = u64::from(carry);
            let at = |operation| combine(operation, Width::Word, left.into(), right.into(), flags);
            let (result, status) = at(Operation::AddWithCarry);
            let exact = u32::from(left) + u32::from(right) + u32::from(carry);
            prop_assert_eq!(result, u64::from(exact as u16));
            prop_assert_eq!(status & CARRY != 0, exact > 0xffff);
            let signed = i32::from(left as i16) + i32::from(right as i16) + i32::from(carry);
            prop_assert_eq!(status & OVERFLOW != 0, i16::try_from(signed).is_err());
            let (result, status) = at(Operation::SubtractWithBorrow);
            let exact = i32::from(left) - i32::from(right) - i32::from(carry);
            prop_assert_eq!(result, u64::from(exact as u16));
            prop_assert_eq!(status & CARRY != 0, exact < 0);
            let signed = i32::from(left as i16) - i32::from(right as i16) - i32::from(carry);
            prop_assert_eq!(status & OVERFLOW != 0, i16::try_from(signed).is_err());
        }
    }
}
