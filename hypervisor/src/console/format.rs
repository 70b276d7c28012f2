//! Figures for people: sizes, rates and times, with three digits that matter.

use core::fmt;
use core::time::Duration;

/// A size in bytes, with binary units: `38.2 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A rate in bytes per second: `9.20 MiB/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

/// The same, short, for a crowded line: `9.20M/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShortRate(pub(super) u64);

/// A time: `41 ms`, `12.3 s`, `4 min 10 s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Units of 1024, by prefix.
const PREFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// A value below 1000 in hundredths, and its prefix.
fn scale(bytes: u64) -> (u64, &'static str) {
    let mut unit = 0;
    let mut hundredths = u128::from(bytes) * 100;
    while hundredths >= 99_950 && unit + 1 < PREFIXES.len() {
        hundredths = (hundredths + 512) >> 10;
        unit += 1;
    }
    // Below 2^64 bytes and seven prefixes it is below 100,000.
    (u64::try_from(hundredths).unwrap_or(u64::MAX), PREFIXES[unit])
}

/// Three digits that matter: `9.20`, `38.2`, `382`.
fn three_digits(f: &mut impl fmt::Write, hundredths: u64) -> fmt::Result {
    match hundredths {
        0..1_000 => write!(f, "{}.{:02}", hundredths / 100, hundredths % 100),
        1_000..9_995 => write!(f, "{}.{}", (hundredths + 5) / 100, (hundredths + 5) % 100 / 10),
        _ => write!(f, "{}", (hundredths + 50) / 100),
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match scale(self.0) {
            (_, "") => write!(f, "{} B", self.0),
            (hundredths, prefix) => {
                three_digits(f, hundredths)?;
                write!(f, " {prefix}B")
            }
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}

impl fmt::Display for ShortRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match scale(self.0) {
            (_, "") => write!(f, "{}B/s", self.0),
            (hundredths, prefix) => {
                three_digits(f, hundredths)?;
                write!(f, "{}/s", &prefix[..1])
            }
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let seconds = self.0.as_secs();
        match micros {
            0..1_000 => write!(f, "{micros} us"),
            1_000..10_000 => write!(f, "{}.{} ms", micros / 1_000, micros % 1_000 / 100),
            10_000..1_000_000 => write!(f, "{} ms", micros / 1_000),
            1_000_000..60_000_000 => write!(f, "{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
            _ if seconds < 3_600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ if seconds < 86_400 => write!(f, "{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
        }
    }
}

/// `text` for a terminal: control characters and what is not ASCII become `?`. What a peer or a guest names
/// must not move the cursor.
pub(super) fn printable(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use core::time::Duration;

    use super::{Bytes, Rate, ShortRate, Span, printable};

    #[test]
    fn sizes_have_three_digits_that_matter() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "0.98 KiB"),
            (1_536, "1.50 KiB"),
            (10 * 1024, "10.0 KiB"),
            (40_055_603, "38.2 MiB"),
            (99_990 * 1024 / 1_000, "100 KiB"),
            (999 << 20, "999 MiB"),
            (1_000 << 20, "0.98 GiB"),
            (2 << 30, "2.00 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text, "{bytes}");
        }
    }

    #[test]
    fn rates_come_long_and_short() {
        assert_eq!(Rate(9_646_899).to_string(), "9.20 MiB/s");
        assert_eq!(ShortRate(9_646_899).to_string(), "9.20M/s");
        assert_eq!(ShortRate(12).to_string(), "12B/s");
    }

    #[test]
    fn times_use_the_unit_a_person_would() {
        for (micros, text) in [
            (0, "0 us"),
            (999, "999 us"),
            (4_150, "4.1 ms"),
            (41_000, "41 ms"),
            (12_340_000, "12.3 s"),
            (250_000_000, "4 min 10 s"),
            (7_500_000_000, "2 h 5 min"),
            (200_000_000_000, "2 d 7 h"),
        ] {
            assert_eq!(Span(Duration::from_micros(micros)).to_string(), text);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2J\u{e9}\n").collect::<alloc::string::String>(), "a?[2J??");
    }
}
