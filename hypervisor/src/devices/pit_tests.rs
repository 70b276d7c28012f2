use super::*;
use proptest::prelude::*;

const MILLISECOND: u64 = 1_000_000;

fn at(nanos: u64) -> GuestTime {
    GuestTime::from_nanos(nanos)
}

fn read_count(pit: &mut Pit, now: GuestTime, channel: u16) -> u16 {
    pit.write(now, 0x43, (channel as u8) << 6);
    let low = pit.read(now, 0x40 + channel);
    u16::from_le_bytes([low, pit.read(now, 0x40 + channel)])
}

fn load(pit: &mut Pit, now: GuestTime, control: u8, count: u16) {
    pit.write(now, 0x43, control);
    let channel = u16::from(control >> 6);
    for byte in count.to_le_bytes() {
        pit.write(now, 0x40 + channel, byte);
    }
}

#[test]
fn after_reset_nothing_is_due() {
    let pit = Pit::new();
    assert_eq!(pit.deadline(), GuestTime::NEVER);
    assert_eq!(pit.read_speaker(at(0)) & SPEAKER_OUTPUT, 0);
}

/// Linux's periodic tick at 250 Hz: mode 2 with 4,773.
#[test]
fn mode_2_interrupts_periodically_without_drift() {
    let mut pit = Pit::new();
    load(&mut pit, at(0), 0x34, 4773);
    let mut due = at(0);
    for _ in 0..250 {
        due = pit.deadline();
        assert!(!pit.advance(at(due.as_nanos() - 1)));
        assert!(pit.advance(due));
    }
    // 250 * 4,773 ticks of 838.095… ns.
    assert_eq!(due.as_nanos(), 250 * 4773 * 1_000_000_000u64 / FREQUENCY_HZ + 1);
}

#[test]
fn missed_periods_count_as_one() {
    let mut pit = Pit::new();
    load(&mut pit, at(0), 0x34, 1193);
    assert!(pit.advance(at(50 * MILLISECOND)));
    assert!(!pit.advance(at(50 * MILLISECOND)));
    assert!(pit.deadline() > at(50 * MILLISECOND));
    assert!(pit.deadline() < at(51 * MILLISECOND));
}

/// Linux's one-shot clock event: mode 4.
#[test]
fn mode_4_and_mode_0_interrupt_once() {
    for control in [0x38, 0x30] {
        let mut pit = Pit::new();
        load(&mut pit, at(0), control, 11_932);
        assert_eq!(pit.deadline().as_nanos() / 1000, 10_000);
        assert!(pit.advance(at(10_001_000)));
        assert_eq!(pit.deadline(), GuestTime::NEVER);
    }
}

#[test]
fn a_fast_period_is_slowed() {
    let mut pit = Pit::new();
    load(&mut pit, at(0), 0x34, 2);
    for _ in 0..10 {
        let due = pit.deadline();
        assert!(pit.advance(due));
        assert!(pit.deadline().since(due) >= PERIOD_NANOS_MIN - 2_000);
    }
}

/// Linux's calibration: channel 2 in mode 0, gate by port 0x61, output polled there.
#[test]
fn channel_2_shows_its_output_when_the_count_ends() {
    let mut pit = Pit::new();
    pit.write_speaker(at(0), 0x01);
    load(&mut pit, at(0), 0xb0, 0x0fff);
    assert_eq!(pit.read_speaker(at(3 * MILLISECOND)) & SPEAKER_OUTPUT, 0);
    assert_eq!(read_count(&mut pit, at(2 * MILLISECOND), 2), 0x0fff - 2386);
    assert_ne!(pit.read_speaker(at(4 * MILLISECOND)) & SPEAKER_OUTPUT, 0);
}

#[test]
fn a_closed_gate_holds_the_count() {
    let mut pit = Pit::new();
    load(&mut pit, at(0), 0xb0, 1000);
    assert_eq!(read_count(&mut pit, at(5 * MILLISECOND), 2), 1000);
    pit.write_speaker(at(5 * MILLISECOND), 0x01);
    assert_eq!(pit.read_speaker(at(5 * MILLISECOND)) & SPEAKER_OUTPUT, 0);
    assert_ne!(pit.read_speaker(at(6 * MILLISECOND)) & SPEAKER_OUTPUT, 0);
}

#[test]
fn mode_3_is_a_square_wave() {
    let mut pit = Pit::new();
    pit.write_speaker(at(0), 0x01);
    load(&mut pit, at(0), 0xb6, 11_932);
    assert_ne!(pit.read_speaker(at(2 * MILLISECOND)) & SPEAKER_OUTPUT, 0);
    assert_eq!(pit.read_speaker(at(7 * MILLISECOND)) & SPEAKER_OUTPUT, 0);
    assert_ne!(pit.read_speaker(at(12 * MILLISECOND)) & SPEAKER_OUTPUT, 0);
}

#[test]
fn read_back_latches_status_then_count() {
    let mut pit = Pit::new();
    load(&mut pit, at(0), 0x34, 1000);
    pit.write(at(0), 0x43, 0xc2);
    assert_eq!(pit.read(at(0), 0x40), 0xb4);
    assert_eq!(pit.read(at(MILLISECOND), 0x40), 0xe8);
    assert_eq!(pit.read(at(2 * MILLISECOND), 0x40), 0x03, "latched, not counting");
}

#[test]
fn the_refresh_bit_toggles() {
    let pit = Pit::new();
    assert_ne!(pit.read_speaker(at(0)) & 0x10, pit.read_speaker(at(16_000)) & 0x10);
}

#[test]
fn restore_refuses_what_no_timer_can_be() {
    let mut bad = Pit::new().save();
    bad.counters[1].count = 0;
    assert_eq!(Pit::restore(&bad).err(), Some("pit.counters"));
    let mut bad = Pit::new().save();
    bad.speaker = 0x80;
    assert_eq!(Pit::restore(&bad).err(), Some("pit.speaker"));
}

proptest! {
    #[test]
    fn any_script_is_survived_and_saved(
        script in prop::collection::vec((0u8..5, 0u16..4, any::<u8>(), 0u64..1 << 45), 0..200),
    ) {
        let mut pit = Pit::new();
        let mut now = 0u64;
        for (kind, port, value, passed) in script {
            now += passed;
            match kind {
                0 => pit.write(at(now), 0x40 + port, value),
                1 => { pit.read(at(now), 0x40 + port); }
                2 => pit.write_speaker(at(now), value),
                3 => { let _ = pit.read_speaker(at(now)); }
                _ => {
                    let _ = pit.advance(at(now));
                    prop_assert!(pit.deadline() > at(now));
                }
            }
        }
        let mut copy = Pit::restore(&pit.save()).unwrap();
        prop_assert_eq!(copy.deadline(), pit.deadline());
        for port in 0..4 {
            prop_assert_eq!(copy.read(at(now), 0x40 + port), pit.read(at(now), 0x40 + port));
        }
    }
}
