//! Values with units, as people type them.

use core::time::Duration;

use godwit_migration::Mode;

/// A cap on the wire, in bytes per second, from `100` or `100mbit` (megabits per second, as in godwit.toml),
/// `12MiB` or `500KiB` (per second, with or without `/s`); 0, `none` and `off` lift it. `None`: not a bandwidth.
pub(super) fn bandwidth(text: &str) -> Option<Option<u64>> {
    if text.eq_ignore_ascii_case("none") || text.eq_ignore_ascii_case("off") {
        return Some(None);
    }
    let (number, unit) = split(text)?;
    let unit = unit.strip_suffix("/s").unwrap_or(unit);
    let bytes_per_unit = match () {
        () if unit.is_empty() || unit.eq_ignore_ascii_case("mbit") => 125_000,
        () if unit.eq_ignore_ascii_case("kbit") => 125,
        () if unit.eq_ignore_ascii_case("gbit") => 125_000_000,
        () if unit.eq_ignore_ascii_case("kib") => 1 << 10,
        () if unit.eq_ignore_ascii_case("mib") => 1 << 20,
        () if unit.eq_ignore_ascii_case("gib") => 1 << 30,
        () => return None,
    };
    let bytes = number.checked_mul(bytes_per_unit)?;
    Some((bytes > 0).then_some(bytes))
}

/// A time from `300` or `300ms` (milliseconds), `2s`; at least a millisecond, at most an hour.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match () {
        () if unit.is_empty() || unit.eq_ignore_ascii_case("ms") => number,
        () if unit.eq_ignore_ascii_case("s") => number.checked_mul(1_000)?,
        () => return None,
    };
    (1..=3_600_000).contains(&millis).then(|| Duration::from_millis(millis))
}

/// A mode of moving memory, by its name.
pub(super) fn mode(text: &str) -> Option<Mode> {
    Mode::ALL.into_iter().find(|mode| text.eq_ignore_ascii_case(mode.name()))
}

/// A number and what follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::{bandwidth, duration};

    #[test]
    fn bandwidths_have_units_and_can_be_lifted() {
        for (text, bytes) in [
            ("100", Some(Some(12_500_000))),
            ("100mbit", Some(Some(12_500_000))),
            ("8Kbit/s", Some(Some(1_000))),
            ("12MiB/s", Some(Some(12 << 20))),
            ("0", Some(None)),
            ("none", Some(None)),
            ("fast", None),
            ("10 parsec", None),
            ("99999999999999999999", None),
            ("18446744073709551615gib", None),
            ("", None),
        ] {
            assert_eq!(bandwidth(text), bytes, "{text}");
        }
    }

    #[test]
    fn times_are_milliseconds_unless_they_say_otherwise() {
        for (text, time) in [
            ("300", Some(Duration::from_millis(300))),
            ("2s", Some(Duration::from_secs(2))),
            ("0", None),
            ("9999s", None),
            ("ms", None),
        ] {
            assert_eq!(duration(text), time, "{text}");
        }
    }
}
