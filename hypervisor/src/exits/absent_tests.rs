//! Handlers and memory that has not come yet: they wait with nothing done, and then do all.

use std::format;
use std::string::String;
use std::vec::Vec;

use godwit_vmx::addr::Gpa;
use godwit_vmx::controls::EntryControls;
use godwit_vmx::exit::{ControlRegisterAccess, EptViolation, Exit, IoAccess, IoDirection};
use godwit_vmx::field;
use proptest::prelude::*;

use super::Outcome;
use super::testing::Fixture;
use crate::devices::board::BoardState;

const CODE: u64 = 0x1000;
const COM1: u16 = 0x3f8;
const LAPIC: u64 = 0xfee0_0000;
const CS_LONG: u32 = 1 << 13;
const CR0_PG_PE: u64 = 1 << 31 | 1;
const CR4_PAE: u64 = 1 << 5;
const EFER_LMA: u64 = 1 << 10;
const PRESENT_WRITABLE: u64 = 0b11;

/// Everything that a handler can change.
fn state(fixture: &Fixture) -> (String, Vec<u8>, BoardState, usize, u64) {
    let processor = format!("{:?} {:?} {}", fixture.vmcs, fixture.cpu.registers, fixture.cpu.xcr0);
    let waiting = fixture.board.serial_waiting();
    (processor, fixture.memory.content(), fixture.board.save(), waiting, fixture.cpu.wild_accesses)
}

/// With each of `pages` absent the exit waits for it, nothing having changed, and ends as with everything there.
#[track_caller]
fn assert_waits(prepare: impl Fn() -> Fixture, exit: Exit, pages: &[u64]) {
    let mut there = prepare();
    let expected = there.handle(exit).unwrap();
    for page in pages {
        let mut late = prepare();
        late.memory.absent.set(Some(*page));
        let before = state(&late);
        assert_eq!(late.handle(exit), Err(Gpa::new(page << 12)), "it waits for page {page}");
        assert!(state(&late) == before, "nothing was done without page {page}");
        late.memory.absent.set(None);
        assert_eq!(late.handle(exit), Ok(expected.clone()));
        assert!(state(&late) == state(&there), "all is as if page {page} had been there");
    }
    let mut elsewhere = prepare();
    elsewhere.memory.absent.set(Some(15));
    assert_eq!(elsewhere.handle(exit), Ok(expected), "a page that is not needed is not waited for");
}

/// A guest in 64-bit mode about to execute `code` at `at`, linear address by its own tables: pages 8 to 11 are these, the
/// first 2 MiB are mapped to themselves page by page, and the local APIC is.
fn paged(at: u64, code: &[u8]) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.memory.put(at, code);
    let next = |page: u64| page << 12 | PRESENT_WRITABLE;
    fixture.memory.put_u64(0x8000, next(9));
    fixture.memory.put_u64(0x9000, next(10));
    fixture.memory.put_u64(0x9018, next(12));
    fixture.memory.put_u64(0xa000, next(11));
    fixture.memory.put_u64(0xc000 + (LAPIC >> 21 & 511) * 8, LAPIC | PRESENT_WRITABLE | 1 << 7);
    for page in 0..16 {
        fixture.memory.put_u64(0xb000 + page * 8, next(page));
    }
    fixture.vmcs.set(field::GUEST_RIP, at);
    fixture.vmcs.set(field::GUEST_CR0, CR0_PG_PE);
    fixture.vmcs.set(field::GUEST_CR3, 0x8000);
    fixture.vmcs.set(field::GUEST_CR4, CR4_PAE);
    fixture.vmcs.set(field::GUEST_EFER, EFER_LMA);
    fixture.vmcs.set(field::GUEST_CS_ACCESS_RIGHTS, CS_LONG);
    fixture.vmcs.set(field::ENTRY_CONTROLS, EntryControls::IA32E_MODE_GUEST.bits());
    fixture
}

fn violation(address: u64) -> Exit {
    Exit::EptViolation(EptViolation::decode(1, address, 0))
}

#[test]
fn an_access_to_a_device_waits_for_its_code_and_its_tables() {
    // mov [rdi], eax
    let store = || {
        let mut fixture = paged(CODE, &[0x89, 0x07]);
        (fixture.cpu.registers.rdi, fixture.cpu.registers.rax) = (LAPIC + 0x80, 0x20);
        fixture
    };
    // The processor has walked to the device itself: only the code's way is walked again.
    assert_waits(store, violation(LAPIC + 0x80), &[1, 8, 9, 10, 11]);
    // add [rdi], rax: the decoder's way, which walks to the operand too
    let add = || {
        let mut fixture = paged(CODE, &[0x01, 0x47, 0x00]);
        (fixture.cpu.registers.rdi, fixture.cpu.registers.rax) = (LAPIC + 0x80, 0x10);
        fixture
    };
    assert_waits(add, violation(LAPIC + 0x80), &[1, 8, 9, 10, 11, 12]);
}

#[test]
fn code_over_two_pages_waits_for_both() {
    let load = || {
        let mut fixture = paged(CODE + 0xffd, &[0x8b, 0x87, 0x20, 0, 0, 0]);
        fixture.cpu.registers.rdi = LAPIC;
        fixture
    };
    assert_waits(load, violation(LAPIC + 0x20), &[1, 2, 8, 11]);
}

#[test]
fn a_string_move_between_a_device_and_memory_waits_for_the_memory() {
    let at = |source, target| {
        move || {
            let mut fixture = paged(CODE, &[0xa5]);
            (fixture.cpu.registers.rsi, fixture.cpu.registers.rdi) = (source, target);
            fixture
        }
    };
    assert_waits(at(LAPIC + 0x30, 0x5000), violation(LAPIC + 0x30), &[1, 5, 11, 12]);
    assert_waits(at(LAPIC + 0x30, 0x5ffe), violation(LAPIC + 0x30), &[5, 6]);
    assert_waits(at(0x5000, LAPIC + 0x80), violation(LAPIC + 0x80), &[1, 5, 11, 12]);
}

#[test]
fn where_nobody_is_an_access_is_counted_once() {
    // mov eax, [rdi], beyond RAM and devices
    let load = || {
        let mut fixture = paged(CODE, &[0x8b, 0x07]);
        fixture.cpu.registers.rdi = 0xd000_0000;
        fixture
    };
    assert_waits(load, violation(0xd000_0000), &[1, 8, 11]);
}

#[test]
fn ram_that_has_not_come_is_left_to_the_owner_of_the_tables() {
    let mut fixture = paged(CODE, &[0x89, 0x07]);
    fixture.memory.absent.set(Some(3));
    let exit = violation(0x3000);
    let Exit::EptViolation(violation) = exit else { panic!() };
    assert_eq!(fixture.handle(exit), Ok(Outcome::RamViolation(violation)));
}

const fn string_access(direction: IoDirection, repeated: bool) -> Exit {
    Exit::Io(IoAccess { port: COM1, size: 1, direction, is_string: true, is_repeated: repeated })
}

#[test]
fn a_string_output_waits_for_its_string() {
    let outs = || {
        let mut fixture = paged(CODE, &[0x6e]);
        fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, 2 << 7 | 3 << 15);
        fixture.memory.put(0x5000, b"x");
        fixture.cpu.registers.rsi = 0x5000;
        fixture
    };
    assert_waits(outs, string_access(IoDirection::Out, false), &[5, 8, 9, 10, 11]);
}

#[test]
fn a_string_input_takes_nothing_from_the_port_before_there_is_a_place_for_it() {
    let ins = || {
        let mut fixture = paged(CODE, &[0x6c]);
        fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, 2 << 7);
        assert_eq!(fixture.board.serial_feed(b"yz"), 2);
        fixture.cpu.registers.rdi = 0x5000;
        fixture
    };
    assert_waits(ins, string_access(IoDirection::In, false), &[5, 8, 9, 10, 11]);
}

#[test]
fn paging_is_turned_on_only_with_its_pointers() {
    let moving = |control| Exit::ControlRegister(ControlRegisterAccess::MovTo { control, register: 3 });
    let real = || {
        let mut fixture = Fixture::new();
        for index in 0..4 {
            fixture.memory.put_u64(0x5fe0 + index * 8, (0x1000 * index) | 1);
        }
        fixture.vmcs.set(field::GUEST_CR3, 0x5fe0);
        fixture
    };
    let on = || {
        let mut fixture = real();
        fixture.vmcs.set(field::GUEST_CR4, CR4_PAE);
        fixture.cpu.registers.rbx = CR0_PG_PE;
        fixture
    };
    assert_waits(on, moving(0), &[5]);
    let pae = || {
        let mut fixture = real();
        fixture.vmcs.set(field::GUEST_CR0, CR0_PG_PE);
        fixture.cpu.registers.rbx = CR4_PAE;
        fixture
    };
    assert_waits(pae, moving(4), &[5]);
    let mut fixture = pae();
    assert_eq!(fixture.handle(moving(4)), Ok(Outcome::ForgetTranslations));
    assert_eq!(format!("{:?}", fixture.context().paging().mode), "Pae([1, 4097, 8193, 12289])");
}

#[test]
fn paging_whose_pointers_are_nowhere_is_not_turned_on() {
    let mut fixture = Fixture::new();
    fixture.vmcs.set(field::GUEST_CR3, 0x8000_0000);
    fixture.vmcs.set(field::GUEST_CR4, CR4_PAE);
    fixture.cpu.registers.rbx = CR0_PG_PE;
    let before = state(&fixture);
    let exit = Exit::ControlRegister(ControlRegisterAccess::MovTo { control: 0, register: 3 });
    assert!(matches!(fixture.handle(exit), Ok(Outcome::Inject(_))));
    assert!(state(&fixture) == before, "an instruction that faults has done nothing");
}

proptest! {
    /// Whatever is repeated goes on where it stopped: every byte goes over the port once, in order.
    #[test]
    fn a_repeated_string_waits_in_its_middle(
        start in 0x4f80_u64..0x5080, count in 0_u64..200, absent in 4_u64..7, out: bool, backwards: bool,
    ) {
        let prepare = || {
            let mut fixture = paged(CODE, &[0xf3, 0x6c]);
            fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, 2 << 7 | if out { 3 << 15 } else { 0 });
            fixture.vmcs.set(field::GUEST_RFLAGS, if backwards { 1 << 10 } else { 0 });
            let registers = &mut fixture.cpu.registers;
            (registers.rsi, registers.rdi, registers.rcx) = (start, start, count);
            let text: Vec<u8> = (0..255).collect();
            if out { fixture.memory.put(start - 0x70, &text); } else { fixture.board.serial_feed(&text); }
            fixture
        };
        let direction = if out { IoDirection::Out } else { IoDirection::In };
        let (mut there, mut late) = (prepare(), prepare());
        late.memory.absent.set(Some(absent));
        for fixture in [&mut there, &mut late] {
            loop {
                match fixture.handle(string_access(direction, true)) {
                    Ok(Outcome::Skip) => break,
                    Ok(Outcome::Resume) => {}
                    Err(page) => {
                        prop_assert_eq!(page, Gpa::new(absent << 12));
                        fixture.memory.absent.set(None);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        prop_assert!(state(&late) == state(&there));
        let (mut one, mut other) = ([0; 256], [0; 256]);
        let (first, second) = (there.board.serial_take(&mut one), late.board.serial_take(&mut other));
        prop_assert_eq!(&one[..first], &other[..second]);
    }
}
