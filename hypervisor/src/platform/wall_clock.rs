//! The wall clock: the CMOS real-time clock (MC146818), which keeps UTC here.

use crate::arch::cmos::read;

const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const UPDATING: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
/// Reads of a clock that is always updating; more than an update takes.
const TRIES: usize = 100_000;

/// Registers of the clock: seconds, minutes, hours, day, month, year.
const REGISTERS: [u8; 6] = [0x00, 0x02, 0x04, 0x07, 0x08, 0x09];

/// Seconds since 1970-01-01 UTC; 0 if the clock's content is no date.
#[must_use]
pub fn unix_seconds() -> u64 {
    for _ in 0..TRIES {
        if read(STATUS_A) & UPDATING != 0 {
            continue;
        }
        let first = REGISTERS.map(read);
        if read(STATUS_A) & UPDATING == 0 && first == REGISTERS.map(read) {
            return decode(first, read(STATUS_B));
        }
    }
    0
}

fn decode([seconds, minutes, hours, day, month, year]: [u8; 6], status: u8) -> u64 {
    let number =
        |value: u8| u64::from(if status & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) });
    let afternoon = status & HOURS_24 == 0 && hours & 0x80 != 0;
    let mut hour = number(if status & HOURS_24 == 0 { hours & 0x7f } else { hours });
    if status & HOURS_24 == 0 {
        hour = hour % 12 + if afternoon { 12 } else { 0 };
    }
    let (day, month, year) = (number(day), number(month), 2000 + number(year));
    if !(1..=31).contains(&day) || !(1..=12).contains(&month) {
        return 0;
    }
    days_since_1970(year, month, day) * 86_400 + hour * 3_600 + number(minutes) * 60 + number(seconds)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counted in years that begin in March.
const fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    days - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_seconds() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        // 2026-11-23 04:05:06 UTC.
        assert_eq!(decode([0x06, 0x05, 0x04, 0x23, 0x11, 0x26], HOURS_24), 1_795_406_706);
        assert_eq!(decode([6, 5, 4, 23, 11, 26], HOURS_24 | BINARY), 1_795_406_706);
    }

    #[test]
    fn twelve_hour_clocks_are_understood() {
        let midnight = decode([0, 0, 0x12, 1, 1, 0x26], 0);
        assert_eq!(decode([0, 0, 0x92, 1, 1, 0x26], 0), midnight + 12 * 3600);
        assert_eq!(decode([0, 0, 0x81, 1, 1, 0x26], 0), midnight + 13 * 3600);
    }

    #[test]
    fn nonsense_is_no_date() {
        assert_eq!(decode([0xff; 6], 0), 0);
    }
}
