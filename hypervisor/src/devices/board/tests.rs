use super::*;
use crate::devices::lapic::registers::{MSR_APIC_BASE, MSR_TSC_DEADLINE};
use proptest::prelude::*;

const APIC: u64 = 0xfee0_0000;
const MILLISECOND: u64 = 1_000_000;

fn at(nanos: u64) -> GuestTime {
    GuestTime::from_nanos(nanos)
}

fn config(vcpus: usize) -> BoardConfig {
    BoardConfig {
        vcpus,
        tsc_hz: 2_000_000_000,
        crystal_hz: 25_000_000,
        wall_clock_unix_seconds: 1_700_000_000,
    }
}

fn board(vcpus: usize) -> Board {
    Board::new(&config(vcpus), at(0)).unwrap()
}

fn out(board: &mut Board, port: u16, value: u8) {
    board.port_write(at(0), port, Width::Byte, u32::from(value));
}

fn apic_write(board: &mut Board, vcpu: usize, register: u64, value: u32) {
    board.mmio_write(at(0), vcpu, Gpa::new(APIC + register), Width::Dword, u64::from(value)).unwrap();
}

fn route(board: &mut Board, pin: u64, entry: u64) {
    for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
        for (register, value) in [(0x00, 0x10 + 2 * pin + half), (0x10, value)] {
            board.mmio_write(at(0), 0, Gpa::new(ioapic::BASE + register), Width::Dword, value).unwrap();
        }
    }
}

/// As Linux leaves it: local APIC on, LINT0 masked, 8259 masked.
fn symmetric(board: &mut Board) {
    apic_write(board, 0, 0xf0, 0x1ff);
    apic_write(board, 0, 0x350, 0x1_0700);
}

#[test]
fn an_impossible_machine_is_refused() {
    assert_eq!(Board::new(&config(0), at(0)).err(), Some(BoardError::Vcpus(0)));
    assert_eq!(Board::new(&config(65), at(0)).err(), Some(BoardError::Vcpus(65)));
    let bad = BoardConfig { tsc_hz: 0, ..config(1) };
    assert!(matches!(Board::new(&bad, at(0)), Err(BoardError::Frequency(_))));
}

#[test]
fn unclaimed_ports_and_memory_answer_with_all_ones() {
    let mut board = board(1);
    assert_eq!(board.port_read(at(0), 0x1234, Width::Byte), 0xff);
    assert_eq!(board.port_read(at(0), 0x1234, Width::Word), 0xffff);
    assert_eq!(board.port_read(at(0), 0xffff, Width::Dword), 0xffff_ffff);
    assert_eq!(board.port_read(at(0), 0x64, Width::Byte), 0xff, "no keyboard controller");
    assert_eq!(board.mmio_read(at(0), 0, Gpa::new(0xfed0_0000), Width::Dword), None);
    assert_eq!(board.mmio_write(at(0), 0, Gpa::new(0xfed0_0000), Width::Dword, 0), None);
    assert!(!board.claims_mmio(0, Gpa::new(0xfed0_0000)));
    assert!(board.claims_mmio(0, Gpa::new(0xfee0_0020)));
}

#[test]
fn a_serial_interrupt_reaches_the_processor_through_the_ioapic() {
    let mut board = board(1);
    symmetric(&mut board);
    route(&mut board, 4, 0x34);
    out(&mut board, 0x3f9, 0x01);
    assert_eq!(board.pending_interrupt(0), None);
    assert_eq!(board.serial_feed(b"hi"), 2);
    assert_eq!(board.pending_interrupt(0), Some(0x34));
    assert_eq!(board.acknowledge(0), Some(0x34));
    assert_eq!(board.port_read(at(0), 0x3f8, Width::Byte), u32::from(b'h'));
    assert_eq!(board.pending_interrupt(0), None, "the line never fell");
    assert_eq!(board.port_read(at(0), 0x3f8, Width::Byte), u32::from(b'i'));
    apic_write(&mut board, 0, 0xb0, 0);
    board.serial_feed(b"!");
    assert_eq!(board.pending_interrupt(0), Some(0x34));
}

#[test]
fn a_serial_interrupt_reaches_the_processor_through_the_8259() {
    let mut board = board(1);
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xef)] {
        out(&mut board, port, value);
    }
    out(&mut board, 0x3f9, 0x01);
    board.serial_feed(b"x");
    assert_eq!(board.pending_interrupt(0), Some(0x24));
    apic_write(&mut board, 0, 0x350, 0x1_0700);
    assert_eq!(board.pending_interrupt(0), None, "LINT0 is masked");
    apic_write(&mut board, 0, 0xf0, 0x1ff);
    apic_write(&mut board, 0, 0x350, 0x700);
    assert_eq!(board.acknowledge(0), Some(0x24));
    assert_eq!(board.pending_interrupt(0), None);
}

#[test]
fn the_pit_ticks_on_pin_2_at_its_deadline() {
    let mut board = board(1);
    symmetric(&mut board);
    route(&mut board, 2, 0x30);
    for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
        out(&mut board, port, value);
    }
    let due = board.next_deadline().unwrap();
    assert_eq!(due.as_nanos() / 1000, 999);
    board.advance(at(due.as_nanos() - 1));
    assert_eq!(board.pending_interrupt(0), None);
    board.advance(due);
    assert_eq!(board.acknowledge(0), Some(0x30));
    assert!(board.next_deadline().unwrap() > due);
}

#[test]
fn the_tsc_deadline_is_the_boards_deadline() {
    let mut board = board(1);
    symmetric(&mut board);
    apic_write(&mut board, 0, 0x320, 0x4_00ec);
    board.msr_write(at(0), 0, MSR_TSC_DEADLINE, 2_000_000).unwrap();
    assert_eq!(board.next_deadline(), Some(at(MILLISECOND)));
    board.advance(at(MILLISECOND));
    assert_eq!(board.pending_interrupt(0), Some(0xec));
    assert_eq!(board.next_deadline(), None);
    assert_eq!(board.msr_read(at(MILLISECOND), 0, MSR_TSC_DEADLINE), Some(0));
    assert_eq!(board.msr_read(at(0), 0, 0x802), None, "not in x2APIC mode");
    assert_eq!(board.msr_read(at(0), 0, MSR_APIC_BASE), Some(0xfee0_0900));
}

#[test]
fn the_power_button_is_level_triggered_until_handled() {
    let mut board = board(1);
    symmetric(&mut board);
    route(&mut board, 9, 0x8039);
    board.port_write(at(0), 0x602, Width::Word, 0x100);
    board.press_power_button();
    assert_eq!(board.acknowledge(0), Some(0x39));
    apic_write(&mut board, 0, 0xb0, 0);
    assert_eq!(board.acknowledge(0), Some(0x39), "still asserted");
    board.port_write(at(0), 0x600, Width::Word, 0x100);
    apic_write(&mut board, 0, 0xb0, 0);
    assert_eq!(board.pending_interrupt(0), None);
}

#[test]
fn an_end_that_the_processor_carries_out_reaches_the_ioapic_too() {
    let mut board = board(1);
    symmetric(&mut board);
    route(&mut board, 9, 0x8039);
    board.port_write(at(0), 0x602, Width::Word, 0x100);
    board.press_power_button();
    assert_eq!(board.acknowledge(0), Some(0x39));
    board.local_apic(0).end_above(0);
    assert_eq!(board.pending_interrupt(0), None);
    board.interrupt_ended(0, 0x39);
    assert_eq!(board.acknowledge(0), Some(0x39), "still asserted");
    board.port_write(at(0), 0x600, Width::Word, 0x100);
    board.local_apic(0).end_above(0);
    board.interrupt_ended(0, 0x39);
    assert_eq!(board.pending_interrupt(0), None);
}

#[test]
fn switching_off_and_resetting_become_requests() {
    let mut board = board(1);
    assert_eq!(board.take_request(), None);
    board.port_write(at(0), 0x604, Width::Word, 5 << 10 | 1 << 13);
    assert!(board.has_requests());
    assert_eq!(board.take_request(), Some(Request::Shutdown));
    for (port, value) in [(0xcf9, 0x06), (0x64, 0xfe), (0x92, 0x01)] {
        out(&mut board, port, value);
        assert_eq!(board.take_request(), Some(Request::Reset));
        assert_eq!(board.take_request(), None);
    }
}

#[test]
fn interprocessor_messages_reach_their_processors() {
    let mut board = board(3);
    for vcpu in 0..3 {
        apic_write(&mut board, vcpu, 0xf0, 0x1ff);
    }
    apic_write(&mut board, 0, 0x310, 2 << 24);
    apic_write(&mut board, 0, 0x300, 0x4055);
    assert_eq!(board.pending_interrupt(2), Some(0x55));
    assert_eq!(board.pending_interrupt(1), None);
    apic_write(&mut board, 1, 0x300, 0xc_4066);
    assert_eq!(board.pending_interrupt(0), Some(0x66));
    assert_eq!(board.pending_interrupt(1), None);
    apic_write(&mut board, 1, 0x300, 0x4_4077);
    assert_eq!(board.pending_interrupt(1), Some(0x77));
    apic_write(&mut board, 0, 0x310, 1 << 24);
    apic_write(&mut board, 0, 0x300, 0x4500);
    apic_write(&mut board, 0, 0x300, 0x469a);
    apic_write(&mut board, 0, 0x300, 0x4400);
    assert_eq!(board.take_request(), Some(Request::InitVcpu { vcpu: 1 }));
    assert_eq!(board.take_request(), Some(Request::StartVcpu { vcpu: 1, vector: 0x9a }));
    assert_eq!(board.take_request(), Some(Request::NonMaskableInterrupt { vcpu: 1 }));
    assert_eq!(board.pending_interrupt(1), None, "INIT reset its APIC");
}

#[test]
fn lowest_priority_goes_to_the_least_busy() {
    let mut board = board(2);
    for vcpu in 0..2 {
        apic_write(&mut board, vcpu, 0xf0, 0x1ff);
        apic_write(&mut board, vcpu, 0xd0, 0x0100_0000 << vcpu);
    }
    board.set_cr8(0, 3);
    board.message_signalled(0xfee0_3004, 0x0141);
    assert_eq!(board.pending_interrupt(1), Some(0x41));
    assert_eq!(board.pending_interrupt(0), None);
}

#[test]
fn reset_leaves_nothing_but_the_clock_and_the_output() {
    let mut board = board(1);
    symmetric(&mut board);
    route(&mut board, 4, 0x34);
    out(&mut board, 0x3f9, 0x03);
    out(&mut board, 0x3f8, b'x');
    board.reset(at(5));
    assert_eq!(board.pending_interrupt(0), None);
    assert_eq!(board.next_deadline(), None);
    let mut sent = [0; 4];
    assert_eq!(board.serial_take(&mut sent), 1);
    assert_eq!(board.port_read(at(0), 0x3f9, Width::Byte), 0);
    out(&mut board, 0x70, 0x09);
    assert_eq!(board.port_read(at(0), 0x71, Width::Byte), 0x23);
}

#[test]
fn a_restored_line_makes_no_edge() {
    let mut board = board(1);
    symmetric(&mut board);
    route(&mut board, 4, 0x34);
    out(&mut board, 0x3f9, 0x01);
    board.serial_feed(b"x");
    board.acknowledge(0);
    apic_write(&mut board, 0, 0xb0, 0);
    let mut copy = Board::restore(&board.save()).unwrap();
    out(&mut copy, 0x3f9, 0x01);
    assert_eq!(copy.pending_interrupt(0), None);
    out(&mut copy, 0x3f9, 0x00);
    out(&mut copy, 0x3f9, 0x01);
    assert_eq!(copy.pending_interrupt(0), Some(0x34));
}

#[test]
fn restore_refuses_another_machine() {
    let good = board(2).save();
    let mut bad = good.clone();
    bad.lapics.pop();
    assert_eq!(Board::restore(&bad).err(), Some(RestoreError::Lapics));
    let mut bad = good.clone();
    bad.chassis.vcpus = 1 << 20;
    assert!(matches!(Board::restore(&bad), Err(RestoreError::Board(BoardError::Vcpus(_)))));
    let mut bad = good;
    bad.lapics.swap(0, 1);
    assert_eq!(Board::restore(&bad).err(), Some(RestoreError::Field("lapic.id")));
}

fn any_width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::Byte), Just(Width::Word), Just(Width::Dword)]
}

proptest! {
    #[test]
    fn any_guest_is_survived_and_saved(
        script in prop::collection::vec(
            (0u8..8, prop_oneof![0u16..0x100, 0x3f0u16..0x620, 0xcf0u16..0xd00], any_width(), any::<u32>(),
             0u64..1 << 34, 0usize..2),
            0..300,
        ),
    ) {
        let mut board = board(2);
        let mut now = 0;
        for (kind, port, width, value, passed, vcpu) in script {
            now += passed;
            let time = at(now);
            let gpa = Gpa::new([APIC, ioapic::BASE][usize::from(port & 1)] + u64::from(port & 0x3f0));
            match kind {
                0 | 1 => board.port_write(time, port, width, value),
                2 => { board.port_read(time, port, width); }
                3 => { board.mmio_write(time, vcpu, gpa, Width::Dword, u64::from(value)); }
                4 => { board.mmio_read(time, vcpu, gpa, width); }
                5 => { board.msr_write(time, vcpu, 0x800 + u32::from(port & 0x3f), u64::from(value & 0xfff)); }
                6 => { board.acknowledge(vcpu); }
                _ => board.advance(time),
            }
            board.serial_feed(&value.to_le_bytes());
        }
        board.advance(at(now));
        let mut copy = Board::restore(&board.save()).unwrap();
        for vcpu in 0..2 {
            prop_assert_eq!(copy.pending_interrupt(vcpu), board.pending_interrupt(vcpu));
        }
        prop_assert_eq!(copy.next_deadline(), board.next_deadline());
        let later = at(now + (1 << 33));
        copy.advance(later);
        board.advance(later);
        prop_assert_eq!(copy.save(), board.save());
    }
}
