use super::registers as reg;
use super::*;
use crate::devices::{TscClock, Width};
use proptest::prelude::*;

fn clocks() -> Clocks {
    Clocks { tsc: TscClock::new(2_000_000_000).unwrap(), crystal: TscClock::new(25_000_000).unwrap() }
}

const NOW: GuestTime = GuestTime::from_nanos(1_000_000);

fn at(nanos: u64) -> GuestTime {
    GuestTime::from_nanos(nanos)
}

fn write(lapic: &mut Lapic, register: u16, value: u32) -> Effect {
    write_at(lapic, NOW, register, value)
}

fn write_at(lapic: &mut Lapic, now: GuestTime, register: u16, value: u32) -> Effect {
    lapic.mmio_write(&clocks(), now, register, Width::Dword, u64::from(value))
}

fn quiet(lapic: &mut Lapic, now: GuestTime, register: u16, value: u32) {
    assert_eq!(write_at(lapic, now, register, value), Effect::None);
}

fn read(lapic: &mut Lapic, register: u16) -> u32 {
    read_at(lapic, NOW, register)
}

fn read_at(lapic: &mut Lapic, now: GuestTime, register: u16) -> u32 {
    lapic.mmio_read(&clocks(), now, register, Width::Dword) as u32
}

fn enabled(id: u32) -> Lapic {
    let mut lapic = Lapic::new(id);
    quiet(&mut lapic, NOW, reg::SPURIOUS, 0x1ff);
    lapic
}

fn x2apic(id: u32) -> Lapic {
    let mut lapic = enabled(id);
    let base = lapic.msr_read(&clocks(), NOW, reg::MSR_APIC_BASE).unwrap();
    let effect = lapic.msr_write(&clocks(), NOW, reg::MSR_APIC_BASE, base | 1 << 10).unwrap();
    assert_eq!(effect, Effect::None);
    lapic
}

#[test]
fn reset_state_is_the_manuals() {
    let mut lapic = Lapic::new(1);
    assert_eq!(read(&mut lapic, reg::ID), 1 << 24);
    assert_eq!(read(&mut lapic, reg::VERSION), 0x0005_0014);
    assert_eq!(read(&mut lapic, reg::SPURIOUS), 0xff);
    assert_eq!(read(&mut lapic, reg::DESTINATION_FORMAT), 0xffff_ffff);
    for lvt in (reg::LVT_TIMER..=reg::LVT_ERROR).step_by(16) {
        assert_eq!(read(&mut lapic, lvt), LVT_MASKED);
    }
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.msr_read(&clocks(), NOW, reg::MSR_APIC_BASE), Ok(0xfee0_0800));
    assert!(!lapic.passes_pic());
    let mut bootstrap = Lapic::new(0);
    assert_eq!(bootstrap.msr_read(&clocks(), NOW, reg::MSR_APIC_BASE), Ok(0xfee0_0900));
    assert!(bootstrap.passes_pic());
}

#[test]
fn the_highest_vector_goes_first_and_blocks_its_class() {
    let mut lapic = enabled(0);
    lapic.accept(0x41, Trigger::Edge);
    lapic.accept(0x52, Trigger::Edge);
    assert_eq!(lapic.acknowledge(), Some(0x52));
    assert_eq!(lapic.pending(), None, "0x41 is lower than what is in service");
    lapic.accept(0x5f, Trigger::Edge);
    assert_eq!(lapic.pending(), None, "same class");
    lapic.accept(0x60, Trigger::Edge);
    assert_eq!(lapic.acknowledge(), Some(0x60));
    assert_eq!(write(&mut lapic, reg::END_OF_INTERRUPT, 0), Effect::None);
    assert_eq!(lapic.pending(), None);
    assert_eq!(write(&mut lapic, reg::END_OF_INTERRUPT, 0), Effect::None);
    assert_eq!(lapic.acknowledge(), Some(0x5f));
    assert_eq!(write(&mut lapic, reg::END_OF_INTERRUPT, 0), Effect::None);
    assert_eq!(lapic.acknowledge(), Some(0x41));
}

#[test]
fn task_priority_holds_back_and_cr8_is_its_upper_half() {
    let mut lapic = enabled(0);
    lapic.set_cr8(5);
    assert_eq!(read(&mut lapic, reg::TASK_PRIORITY), 0x50);
    lapic.accept(0x5f, Trigger::Edge);
    assert_eq!(lapic.pending(), None);
    assert_eq!(read(&mut lapic, reg::PROCESSOR_PRIORITY), 0x50);
    quiet(&mut lapic, NOW, reg::TASK_PRIORITY, 0x4f);
    assert_eq!(lapic.cr8(), 4);
    assert_eq!(lapic.pending(), Some(0x5f));
}

#[test]
fn the_end_of_a_level_interrupt_is_broadcast() {
    let mut lapic = enabled(0);
    lapic.accept(0x71, Trigger::Level);
    assert_eq!(read(&mut lapic, reg::TRIGGER_MODE + 0x30), 1 << 17);
    lapic.acknowledge();
    assert_eq!(write(&mut lapic, reg::END_OF_INTERRUPT, 0), Effect::EndOfInterrupt(0x71));
    assert_eq!(write(&mut lapic, reg::END_OF_INTERRUPT, 0), Effect::None, "nothing in service");
}

#[test]
fn interrupts_that_the_processor_ends_by_itself_are_over_as_if_the_guest_had_ended_them() {
    let mut lapic = x2apic(0);
    for vector in [0x41, 0x52, 0x63] {
        lapic.accept(vector, if vector == 0x52 { Trigger::Level } else { Trigger::Edge });
        lapic.acknowledge();
    }
    assert_eq!(lapic.ends_to_hear_of(), lapic.trigger_mode);
    lapic.accept(0x55, Trigger::Edge);
    assert_eq!(lapic.ends_to_hear_of(), VectorSet::ALL, "0x55 waits for the end of two");
    lapic.end_above(0x41);
    assert_eq!(lapic.effect_of_end(0x63), Effect::None);
    assert_eq!(lapic.effect_of_end(0x52), Effect::EndOfInterrupt(0x52));
    assert_eq!(lapic.acknowledge(), Some(0x55));
    lapic.end_above(0);
    assert_eq!(lapic.in_service(), VectorSet::EMPTY);
}

#[test]
fn a_software_disabled_apic_accepts_nothing_and_masks_its_table() {
    let mut lapic = enabled(0);
    quiet(&mut lapic, NOW, reg::LVT_TIMER, 0x30);
    quiet(&mut lapic, NOW, reg::SPURIOUS, 0xff);
    assert_eq!(read(&mut lapic, reg::LVT_TIMER), LVT_MASKED | 0x30);
    quiet(&mut lapic, NOW, reg::LVT_TIMER, 0x30);
    assert_eq!(read(&mut lapic, reg::LVT_TIMER), LVT_MASKED | 0x30);
    lapic.accept(0x41, Trigger::Edge);
    assert_eq!(lapic.pending(), None);
}

#[test]
fn illegal_vectors_and_registers_are_recorded_and_raise_the_error_interrupt() {
    let mut lapic = enabled(0);
    quiet(&mut lapic, NOW, reg::LVT_ERROR, 0xfe);
    lapic.accept(3, Trigger::Edge);
    assert_eq!(lapic.pending(), Some(0xfe));
    assert_eq!(read(&mut lapic, reg::ERROR_STATUS), 0, "latched by a write only");
    quiet(&mut lapic, NOW, reg::COMMAND_LOW, 0x0004_4005);
    quiet(&mut lapic, NOW, 0x290, 1);
    quiet(&mut lapic, NOW, reg::ERROR_STATUS, 0);
    assert_eq!(read(&mut lapic, reg::ERROR_STATUS), 0xe0);
    quiet(&mut lapic, NOW, reg::ERROR_STATUS, 0);
    assert_eq!(read(&mut lapic, reg::ERROR_STATUS), 0);
}

#[test]
fn a_one_shot_counts_the_crystal_down_once() {
    let mut lapic = enabled(0);
    quiet(&mut lapic, at(0), reg::LVT_TIMER, 0xec);
    quiet(&mut lapic, at(0), reg::DIVIDE, 0b0011); // by 16
    quiet(&mut lapic, at(0), reg::INITIAL_COUNT, 1000);
    // 16,000 ticks of 40 ns.
    assert_eq!(lapic.deadline(), at(640_000));
    assert_eq!(read_at(&mut lapic, at(320_000), reg::CURRENT_COUNT), 500);
    lapic.advance(&clocks(), at(639_999));
    assert_eq!(lapic.pending(), None);
    lapic.advance(&clocks(), at(640_000));
    assert_eq!(lapic.pending(), Some(0xec));
    assert_eq!(lapic.deadline(), GuestTime::NEVER);
    assert_eq!(read_at(&mut lapic, at(700_000), reg::CURRENT_COUNT), 0);
}

#[test]
fn a_periodic_timer_keeps_its_phase_and_coalesces_what_was_missed() {
    let mut lapic = enabled(0);
    quiet(&mut lapic, at(0), reg::LVT_TIMER, 0x2_00ec);
    quiet(&mut lapic, at(0), reg::DIVIDE, 0b1011); // by 1
    quiet(&mut lapic, at(0), reg::INITIAL_COUNT, 25_000);
    assert_eq!(lapic.deadline(), at(1_000_000));
    lapic.advance(&clocks(), at(5_300_000));
    assert_eq!(lapic.acknowledge(), Some(0xec));
    assert_eq!(lapic.deadline(), at(6_000_000));
    assert_eq!(read_at(&mut lapic, at(5_500_000), reg::CURRENT_COUNT), 12_500);
    quiet(&mut lapic, at(5_500_000), reg::INITIAL_COUNT, 0);
    assert_eq!(lapic.deadline(), GuestTime::NEVER);
}

#[test]
fn an_absurdly_fast_period_is_slowed() {
    let mut lapic = enabled(0);
    quiet(&mut lapic, at(0), reg::LVT_TIMER, 0x2_00ec);
    quiet(&mut lapic, at(0), reg::DIVIDE, 0b1011);
    quiet(&mut lapic, at(0), reg::INITIAL_COUNT, 1);
    for _ in 0..10 {
        let due = lapic.deadline();
        lapic.advance(&clocks(), due);
        assert!(lapic.deadline().since(due) >= 90_000);
    }
}

#[test]
fn the_tsc_deadline_fires_when_it_has_passed_and_reads_zero_then() {
    let mut lapic = enabled(0);
    let tsc_deadline =
        |lapic: &mut Lapic, now| lapic.msr_read(&clocks(), now, reg::MSR_TSC_DEADLINE).unwrap();
    let arm = |lapic: &mut Lapic, value| {
        assert_eq!(lapic.msr_write(&clocks(), NOW, reg::MSR_TSC_DEADLINE, value), Ok(Effect::None));
    };
    arm(&mut lapic, 77);
    assert_eq!(tsc_deadline(&mut lapic, NOW), 0, "only in TSC-deadline mode");
    quiet(&mut lapic, NOW, reg::LVT_TIMER, 0x4_00ec);
    arm(&mut lapic, 6_000_001);
    assert_eq!(tsc_deadline(&mut lapic, NOW), 6_000_001);
    // 3,000,000.5 ns: never early.
    assert_eq!(lapic.deadline(), at(3_000_001));
    lapic.advance(&clocks(), at(3_000_001));
    assert_eq!(lapic.acknowledge(), Some(0xec));
    assert_eq!(tsc_deadline(&mut lapic, at(3_000_001)), 0);
    arm(&mut lapic, 5);
    lapic.advance(&clocks(), at(3_000_002));
    assert_eq!(write(&mut lapic, reg::END_OF_INTERRUPT, 0), Effect::None);
    assert_eq!(lapic.pending(), Some(0xec), "a deadline in the past fires at once");
    arm(&mut lapic, 8_000_000);
    lapic.set_tsc_adjust(&clocks(), 2_000_000);
    assert_eq!(lapic.deadline(), at(3_000_000));
    arm(&mut lapic, 0);
    assert_eq!(lapic.deadline(), GuestTime::NEVER);
}

#[test]
fn an_expiry_under_the_mask_is_lost() {
    let mut lapic = enabled(0);
    quiet(&mut lapic, at(0), reg::LVT_TIMER, 0x1_00ec);
    quiet(&mut lapic, at(0), reg::INITIAL_COUNT, 100);
    assert_eq!(lapic.deadline(), GuestTime::NEVER);
    quiet(&mut lapic, at(1_000_000), reg::LVT_TIMER, 0xec);
    assert_eq!(lapic.deadline(), GuestTime::NEVER);
}

#[test]
fn the_command_register_becomes_a_message() {
    let mut lapic = enabled(0);
    quiet(&mut lapic, NOW, reg::COMMAND_HIGH, 3 << 24);
    let Effect::Send(message) = write(&mut lapic, reg::COMMAND_LOW, 0x0000_4641) else { panic!() };
    assert_eq!(message.destination, Destination::Physical(3));
    assert_eq!(message.mode, DeliveryMode::StartUp);
    assert_eq!(message.vector, 0x41);
    let Effect::Send(message) = write(&mut lapic, reg::COMMAND_LOW, 0x000c_48fd) else { panic!() };
    assert_eq!(message.destination, Destination::AllOthers);
    assert_eq!(write(&mut lapic, reg::COMMAND_LOW, 0x0000_8500), Effect::None, "INIT de-assert");
    assert_eq!(read(&mut lapic, reg::COMMAND_LOW) & 1 << 12, 0, "always idle");
}

#[test]
fn logical_destinations_match_flat_cluster_and_x2apic() {
    let mut lapic = enabled(2);
    quiet(&mut lapic, NOW, reg::LOGICAL_DESTINATION, 0x0400_0000);
    assert!(lapic.matches(Destination::Logical(0x0c)));
    assert!(!lapic.matches(Destination::Logical(0x03)));
    quiet(&mut lapic, NOW, reg::DESTINATION_FORMAT, 0x0fff_ffff);
    quiet(&mut lapic, NOW, reg::LOGICAL_DESTINATION, 0x2400_0000);
    assert!(lapic.matches(Destination::Logical(0x24)));
    assert!(!lapic.matches(Destination::Logical(0x14)));
    assert!(lapic.matches(Destination::Physical(2)));
    assert!(lapic.matches(Destination::Physical(0xff)));
    assert!(!lapic.matches(Destination::Physical(1)));
    let lapic = x2apic(0x21);
    assert!(lapic.matches(Destination::Logical(0x0002_0002)));
    assert!(!lapic.matches(Destination::Logical(0x0001_0002)));
    assert!(lapic.matches(Destination::Physical(0x21)));
    assert!(lapic.matches(Destination::Physical(u32::MAX)));
}

#[test]
fn x2apic_has_the_manuals_faults() {
    let mut lapic = x2apic(0);
    let clocks = clocks();
    let mut get = |msr| lapic.msr_read(&clocks, NOW, msr);
    assert_eq!(get(0x802), Ok(0));
    assert_eq!(get(0x80d), Ok(1));
    assert_eq!(get(0x80f), Ok(0x1ff));
    for absent in [0x80b, 0x80e, 0x831, 0x83f, 0x800, 0x840, 0x8ff, 0x80c, 0x809, 0x82f] {
        assert!(get(absent).is_err(), "read of {absent:#x}");
    }
    let mut put = |msr, value| lapic.msr_write(&clocks, NOW, msr, value);
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x80b, 1),
        (0x80a, 0),
        (0x808, 0x100),
        (0x828, 1),
        (0x832, 1 << 20),
        (0x838, 1 << 32),
        (0x839, 0),
        (0x80d, 0),
        (0x830, 1 << 12),
        (0x83e, 4),
        (0x83f, 0x100),
    ] {
        assert!(put(msr, value).is_err(), "write of {value:#x} to {msr:#x}");
    }
    assert_eq!(put(0x83f, 0x55), Ok(Effect::None));
    assert_eq!(put(0x80b, 0), Ok(Effect::None));
    assert_eq!(lapic.pending(), Some(0x55));
    assert_eq!(lapic.page(), u64::MAX);
}

#[test]
fn the_base_register_follows_the_manuals_state_machine() {
    let mut lapic = enabled(0);
    let clocks = clocks();
    let mut put = |value| lapic.msr_write(&clocks, NOW, reg::MSR_APIC_BASE, value).is_ok();
    assert!(!put(0xfee0_0500), "x2APIC without enable");
    assert!(!put(0xfee0_0901), "reserved bit");
    assert!(!put(1 << 52 | 0xfee0_0900));
    assert!(put(0xfed0_0900));
    assert!(put(0xfee0_0d00));
    assert!(!put(0xfee0_0900), "x2APIC to xAPIC");
    assert!(put(0xfee0_0100));
    assert!(!put(0xfee0_0d00), "disabled to x2APIC");
    assert!(put(0xfee0_0800));
    assert_eq!(lapic.msr_read(&clocks, NOW, reg::MSR_APIC_BASE), Ok(0xfee0_0900), "BSP is fixed");
    assert!(lapic.msr_read(&clocks, NOW, 0x802).is_err());
    assert_eq!(read(&mut lapic, reg::SPURIOUS), 0xff, "disabling reset it");
}

#[test]
fn lint0_in_fixed_mode_interrupts_when_the_pic_does() {
    let mut lapic = enabled(0);
    quiet(&mut lapic, NOW, 0x350, 0x31);
    assert!(!lapic.passes_pic());
    assert_eq!(lapic.lint0_rose(), None);
    assert_eq!(lapic.pending(), Some(0x31));
    quiet(&mut lapic, NOW, 0x350, 0x400);
    assert_eq!(lapic.lint0_rose().map(|message| message.mode), Some(DeliveryMode::NonMaskable));
}

#[test]
fn narrow_and_unaligned_accesses_do_no_harm() {
    let mut lapic = enabled(0);
    let clocks = clocks();
    assert_eq!(lapic.mmio_read(&clocks, NOW, 0x031, Width::Byte), 0);
    assert_eq!(lapic.mmio_read(&clocks, NOW, 0x030, Width::Byte), 0x14);
    assert_eq!(lapic.mmio_read(&clocks, NOW, 0x032, Width::Word), 0x0005);
    assert_eq!(lapic.mmio_read(&clocks, NOW, 0x034, Width::Dword), 0);
    assert_eq!(lapic.mmio_write(&clocks, NOW, 0x080, Width::Byte, 0xff), Effect::None);
    assert_eq!(lapic.mmio_write(&clocks, NOW, 0x084, Width::Dword, 0xff), Effect::None);
    assert_eq!(read(&mut lapic, reg::TASK_PRIORITY), 0);
}

#[test]
fn restore_refuses_what_no_apic_can_be() {
    let good = enabled(0).save();
    assert!(Lapic::restore(&good, 0, &clocks()).is_ok());
    assert_eq!(Lapic::restore(&good, 1, &clocks()).err(), Some("lapic.id"));
    let mut lapic = enabled(0);
    lapic.requested.insert(3);
    assert_eq!(Lapic::restore(&lapic.save(), 0, &clocks()).err(), Some("lapic.requested"));
    let mut lapic = enabled(0);
    lapic.base |= 1 << 60;
    assert_eq!(Lapic::restore(&lapic.save(), 0, &clocks()).err(), Some("lapic.base"));
    let mut lapic = enabled(0);
    lapic.lvt[2] = 1 << 30;
    assert_eq!(Lapic::restore(&lapic.save(), 0, &clocks()).err(), Some("lapic.lvt"));
}

proptest! {
    #[test]
    fn any_script_is_survived_and_saved(
        script in prop::collection::vec((0u8..6, 0u16..0x420, any::<u64>(), 0u64..1_000_000), 0..200),
    ) {
        let clocks = clocks();
        let mut lapic = enabled(0);
        let mut now = 0;
        for (kind, register, value, passed) in script {
            now += passed;
            let time = at(now);
            let msr = 0x7f0 + u32::from(register >> 4);
            match kind {
                0 => { let _ = lapic.mmio_write(&clocks, time, register & !0xf, Width::Dword, value); }
                1 => { lapic.mmio_read(&clocks, time, register, Width::Dword); }
                2 => { let _ = lapic.msr_write(&clocks, time, msr, value & 0xfff); }
                3 => { let _ = lapic.msr_read(&clocks, time, msr); }
                4 => { let _ = lapic.msr_write(&clocks, time, reg::MSR_TSC_DEADLINE, value); }
                _ => { let _ = lapic.msr_write(&clocks, time, reg::MSR_APIC_BASE, value & 0xc00 | 0xfee0_0000); }
            }
            lapic.accept(value as u8, Trigger::Level);
            lapic.advance(&clocks, time);
            if value & 1 != 0 {
                lapic.acknowledge();
            }
        }
        let copy = Lapic::restore(&lapic.save(), 0, &clocks).unwrap();
        prop_assert_eq!(copy.pending(), lapic.pending());
        prop_assert_eq!(copy.deadline(), lapic.deadline());
        prop_assert_eq!(copy.page(), lapic.page());
        prop_assert_eq!(copy.save(), lapic.save());
    }
}
