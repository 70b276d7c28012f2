use super::*;
use proptest::prelude::*;

const SECOND: u64 = NANOS_PER_SECOND;
/// 2024-02-29 23:59:58 UTC.
const BASE: u64 = 1_709_251_198;

fn at(nanos: u64) -> GuestTime {
    GuestTime::from_nanos(nanos)
}

fn get(rtc: &mut Rtc, now: u64, register: u8) -> u8 {
    rtc.write(at(now), 0x70, register);
    rtc.read(at(now), 0x71)
}

fn put(rtc: &mut Rtc, now: u64, register: u8, value: u8) {
    rtc.write(at(now), 0x70, register | 0x80);
    rtc.write(at(now), 0x71, value);
}

fn date(rtc: &mut Rtc, now: u64) -> [u8; 7] {
    [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS].map(|register| get(rtc, now, register))
}

#[test]
fn shows_the_wall_clock_in_decimal_over_a_leap_day() {
    let mut rtc = Rtc::new(BASE, at(0));
    assert_eq!(date(&mut rtc, 0), [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58]);
    assert_eq!(date(&mut rtc, 2 * SECOND), [0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00]);
    assert_eq!(get(&mut rtc, 0, WEEKDAY), 5);
    assert_eq!(get(&mut rtc, 0, D), D_VALID);
}

#[test]
fn warns_before_it_changes() {
    let mut rtc = Rtc::new(BASE, at(0));
    assert_eq!(get(&mut rtc, 0, A), 0x26);
    assert_eq!(get(&mut rtc, SECOND - 100_000, A), 0xa6);
    assert_eq!(get(&mut rtc, SECOND, A), 0x26);
}

#[test]
fn binary_and_twelve_hours() {
    let mut rtc = Rtc::new(BASE, at(0));
    put(&mut rtc, 0, B, B_BINARY);
    assert_eq!(get(&mut rtc, 0, HOURS), 11 | HOUR_AFTERNOON);
    assert_eq!(get(&mut rtc, 0, MINUTES), 59);
    put(&mut rtc, 0, HOURS, 12);
    put(&mut rtc, 0, B, B_24_HOURS);
    assert_eq!(get(&mut rtc, 0, HOURS), 0, "twelve in the morning is midnight");
}

#[test]
fn a_set_clock_runs_on_from_what_was_written() {
    let mut rtc = Rtc::new(BASE, at(0));
    put(&mut rtc, 5 * SECOND, B, B_24_HOURS | B_SET);
    for (register, value) in [
        (CENTURY, 0x19),
        (YEAR, 0x99),
        (MONTH, 0x12),
        (DAY, 0x31),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ] {
        put(&mut rtc, 5 * SECOND, register, value);
    }
    assert_eq!(get(&mut rtc, 9 * SECOND, SECONDS), 0x59, "it stands while it is set");
    put(&mut rtc, 9 * SECOND, B, B_24_HOURS);
    assert_eq!(date(&mut rtc, 10 * SECOND), [0x20, 0, 0x01, 0x01, 0, 0, 0]);
}

#[test]
fn the_update_interrupt_comes_each_second_until_it_is_read() {
    let mut rtc = Rtc::new(BASE, at(0));
    put(&mut rtc, SECOND / 2, B, B_24_HOURS | UPDATED);
    assert_eq!(rtc.deadline(), at(SECOND));
    rtc.advance(at(SECOND));
    assert!(rtc.interrupt_level());
    assert_eq!(rtc.deadline(), GuestTime::NEVER, "nothing more to tell");
    assert_eq!(get(&mut rtc, SECOND, C), C_REQUEST | UPDATED | PERIODIC);
    assert!(!rtc.interrupt_level());
    assert_eq!(rtc.deadline(), at(2 * SECOND));
}

#[test]
fn the_periodic_interrupt_follows_the_rate() {
    let mut rtc = Rtc::new(BASE, at(0));
    put(&mut rtc, 0, B, B_24_HOURS | PERIODIC);
    // 1,024 Hz.
    assert_eq!(rtc.deadline(), at(976_563));
    rtc.advance(at(10_000_000));
    assert_eq!(get(&mut rtc, 10_000_000, C), C_REQUEST | PERIODIC);
    assert_eq!(rtc.deadline(), at(10_742_188), "missed periods are one");
    put(&mut rtc, 10_000_000, A, 0x20);
    assert_eq!(rtc.deadline(), GuestTime::NEVER);
}

#[test]
fn the_alarm_matches_its_fields_and_ignores_the_others() {
    let mut rtc = Rtc::new(BASE, at(0));
    put(&mut rtc, 0, HOURS_ALARM, 0x00);
    put(&mut rtc, 0, MINUTES_ALARM, 0x00);
    put(&mut rtc, 0, SECONDS_ALARM, 0x03);
    put(&mut rtc, 0, B, B_24_HOURS | ALARM);
    assert_eq!(rtc.deadline(), at(5 * SECOND));
    rtc.advance(at(5 * SECOND));
    assert_eq!(get(&mut rtc, 5 * SECOND, C) & (C_REQUEST | ALARM), C_REQUEST | ALARM);
    assert_eq!(rtc.deadline(), at((5 + 86_400) * SECOND));
    put(&mut rtc, 6 * SECOND, HOURS_ALARM, 0xff);
    put(&mut rtc, 6 * SECOND, MINUTES_ALARM, 0xff);
    assert_eq!(rtc.deadline(), at(65 * SECOND));
    put(&mut rtc, 6 * SECOND, SECONDS_ALARM, 0x75);
    assert_eq!(rtc.deadline(), GuestTime::NEVER, "no such second");
}

#[test]
fn memory_holds_and_read_only_bytes_do_not() {
    let mut rtc = Rtc::new(BASE, at(0));
    put(&mut rtc, 0, 0x40, 0x5a);
    put(&mut rtc, 0, D, 0);
    put(&mut rtc, 0, A, 0xff);
    assert_eq!(get(&mut rtc, 0, 0x40), 0x5a);
    assert_eq!(get(&mut rtc, 0, D), D_VALID);
    assert_eq!(get(&mut rtc, 0, A), 0x7f);
    assert_eq!(rtc.read(at(0), 0x70), 0xff);
}

#[test]
fn restore_refuses_what_no_clock_can_be() {
    let good = Rtc::new(BASE, at(0)).save();
    assert_eq!(Rtc::restore(&RtcState { index: 0x80, ..good.clone() }).err(), Some("rtc.index"));
    let bad = RtcState { base_unix_seconds: i64::MIN, ..good };
    assert_eq!(Rtc::restore(&bad).err(), Some("rtc.base_unix_seconds"));
}

proptest! {
    #[test]
    fn any_script_is_survived_and_saved(
        script in prop::collection::vec((0u8..3, 0u8..0x36, any::<u8>(), 0u64..1 << 40), 0..100),
        end in any::<u64>(),
    ) {
        let mut rtc = Rtc::new(BASE, at(0));
        let mut now = 0u64;
        for (kind, register, value, passed) in script {
            now = now.saturating_add(passed);
            match kind {
                0 => put(&mut rtc, now, register, value),
                1 => { get(&mut rtc, now, register); }
                _ => rtc.advance(at(now)),
            }
        }
        let mut copy = Rtc::restore(&rtc.save()).unwrap();
        prop_assert_eq!(copy.interrupt_level(), rtc.interrupt_level());
        prop_assert_eq!(copy.deadline(), rtc.deadline());
        rtc.advance(at(end));
        copy.advance(at(end));
        prop_assert_eq!(copy.save(), rtc.save());
    }
}
