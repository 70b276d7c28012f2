//! Civil dates: the proleptic Gregorian calendar, days counted from 1970-01-01.

/// A day and a time of day, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// Year, 0 to 9999.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute.
    pub minute: u8,
    /// Second.
    pub second: u8,
}

/// Seconds in a day.
pub const SECONDS_PER_DAY: i64 = 86_400;
/// 0000-03-01 in days from 1970-01-01: eras of 400 years are counted from a first of March.
const ERA_ORIGIN_DAYS: i64 = -719_468;
const DAYS_PER_ERA: i64 = 146_097;
/// First second of the year 0.
pub const UNIX_SECONDS_MIN: i64 = -62_167_219_200;
/// Last second of the year 9999.
pub const UNIX_SECONDS_MAX: i64 = 253_402_300_799;

impl DateTime {
    /// The date `unix_seconds` after 1970-01-01 00:00:00, kept within the years 0 to 9999.
    #[must_use]
    pub fn from_unix(unix_seconds: i64) -> Self {
        let unix_seconds = unix_seconds.clamp(UNIX_SECONDS_MIN, UNIX_SECONDS_MAX);
        let days = unix_seconds.div_euclid(SECONDS_PER_DAY) - ERA_ORIGIN_DAYS;
        let time = unix_seconds.rem_euclid(SECONDS_PER_DAY);
        let era = days.div_euclid(DAYS_PER_ERA);
        let day_of_era = days.rem_euclid(DAYS_PER_ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self {
            year: year as u16,
            month: month as u8,
            day: day as u8,
            hour: (time / 3_600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    /// Seconds from 1970-01-01 00:00:00. A field beyond its range counts on into the next larger one.
    #[must_use]
    pub fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted_month = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * DAYS_PER_ERA + day_of_era + ERA_ORIGIN_DAYS;
        let time = i64::from(self.hour) * 3_600 + i64::from(self.minute) * 60 + i64::from(self.second);
        days * SECONDS_PER_DAY + time
    }

    /// Day of the week, 1 for Sunday to 7 for Saturday.
    #[must_use]
    pub fn weekday(self) -> u8 {
        // 1970-01-01 was a Thursday.
        ((self.to_unix().div_euclid(SECONDS_PER_DAY) + 4).rem_euclid(7) + 1) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        for (unix, text) in [
            (0, (1970, 1, 1, 5)),
            (951_782_400, (2000, 2, 29, 3)),
            (1_735_689_599, (2024, 12, 31, 3)),
            (4_107_542_400, (2100, 3, 1, 2)),
        ] {
            let date = DateTime::from_unix(unix);
            assert_eq!((date.year, date.month, date.day, date.weekday()), text);
        }
        let last = DateTime::from_unix(i64::MAX);
        assert_eq!((last.year, last.month, last.day, last.second), (9999, 12, 31, 59));
        assert_eq!(DateTime::from_unix(i64::MIN).year, 0);
    }

    proptest! {
        #[test]
        fn conversion_round_trips(unix in UNIX_SECONDS_MIN..=UNIX_SECONDS_MAX) {
            prop_assert_eq!(DateTime::from_unix(unix).to_unix(), unix);
        }

        #[test]
        fn nonsense_is_survived(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8) {
            let date = DateTime { year, month, day, hour, minute, second };
            let _ = date.to_unix();
            prop_assert!((1..=7).contains(&date.weekday()));
        }
    }
}
