use super::alu::{CARRY, DIRECTION, ZERO};
use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const CODE: u64 = 0x1000;
const DEVICE: u64 = 0xfee0_0000;
const NOT_PRESENT: u64 = 0xdead_0000;

/// One page of code, RAM that remembers bytes, and a device that records its accesses.
#[derive(Clone, Debug, PartialEq)]
struct Fake {
    registers: [u64; 16],
    rip: u64,
    rflags: u64,
    code_size: CodeSize,
    memory: std::collections::BTreeMap<u64, u8>,
    device: u64,
    accesses: Vec<(u64, Width, Option<u64>)>,
    fetches: usize,
    /// Number of a page that has not come.
    absent: Option<u64>,
}

impl Fake {
    fn new(code: &[u8]) -> Self {
        let memory = code.iter().enumerate().map(|(offset, byte)| (CODE + offset as u64, *byte)).collect();
        Self {
            registers: [0; 16],
            rip: CODE,
            rflags: 2,
            code_size: CodeSize::Bits64,
            memory,
            device: 0x1122_3344_5566_7788,
            accesses: Vec::new(),
            fetches: 0,
            absent: None,
        }
    }

    fn is_device(address: u64) -> bool {
        address & !0xfff == DEVICE
    }
}

impl Machine for Fake {
    fn register(&self, number: usize) -> u64 {
        self.registers[number]
    }

    fn set_register(&mut self, number: usize, value: u64) {
        self.registers[number] = value;
    }

    fn rip(&self) -> u64 {
        self.rip
    }

    fn rflags(&self) -> u64 {
        self.rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }

    fn code_size(&self) -> CodeSize {
        self.code_size
    }

    fn segment_base(&self, segment: Segment) -> u64 {
        if segment == Segment::Gs { 0x10_0000 } else { 0 }
    }

    fn translate(&mut self, address: Gva, purpose: Purpose) -> Result<Gpa, Fault> {
        if address.as_u64() & !0xffff == NOT_PRESENT {
            return Err(Fault::Page { address, code: u32::from(purpose == Purpose::Write) << 1 });
        }
        if self.absent == Some(address.as_u64() / PAGE) {
            return Err(Fault::Absent);
        }
        Ok(Gpa::new(address.as_u64()))
    }

    fn fetch(&mut self, address: Gpa, into: &mut [u8]) -> bool {
        self.fetches += 1;
        for (offset, byte) in (0..).zip(into) {
            *byte = self.memory.get(&address.as_u64().wrapping_add(offset)).copied().unwrap_or(0x90);
        }
        true
    }

    fn read(&mut self, address: Gpa, width: Width) -> u64 {
        let address = address.as_u64();
        if Self::is_device(address) {
            self.accesses.push((address & 0xfff, width, None));
            return self.device & width.mask();
        }
        (0..width.bytes() as u64).rev().fold(0, |value, offset| {
            value << 8 | u64::from(self.memory.get(&address.wrapping_add(offset)).copied().unwrap_or(0))
        })
    }

    fn write(&mut self, address: Gpa, width: Width, value: u64) {
        let address = address.as_u64();
        if Self::is_device(address) {
            self.accesses.push((address & 0xfff, width, Some(value)));
            self.device = value;
            return;
        }
        for (offset, byte) in (0..).zip(&value.to_le_bytes()[..width.bytes()]) {
            self.memory.insert(address.wrapping_add(offset), *byte);
        }
    }
}

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;

/// Runs `code` with RDI at the device.
fn run(code: &[u8], prepare: impl FnOnce(&mut Fake)) -> (Fake, Result<Completion, EmulateError>) {
    let mut fake = Fake::new(code);
    fake.registers[RDI] = DEVICE;
    prepare(&mut fake);
    let result = emulate(&mut fake, Gpa::new(DEVICE));
    if let Ok(Completion::Done(length)) = result {
        assert_eq!(usize::from(length), code.len());
    }
    (fake, result)
}

fn done(code: &[u8], prepare: impl FnOnce(&mut Fake)) -> Fake {
    let (fake, result) = run(code, prepare);
    assert!(matches!(result, Ok(Completion::Done(_))), "{code:02x?}: {result:?}");
    fake
}

#[test]
fn moves_to_registers_fill_them_as_the_processor_does() {
    let full = |fake: &mut Fake| fake.registers[RAX] = u64::MAX;
    for (code, expected) in [
        (&[0x8b, 0x07][..], 0x5566_7788),                           // mov eax, [rdi]
        (&[0x48, 0x8b, 0x07], 0x1122_3344_5566_7788),               // mov rax, [rdi]
        (&[0x66, 0x8b, 0x07], 0xffff_ffff_ffff_7788),               // mov ax, [rdi]
        (&[0x8a, 0x07], 0xffff_ffff_ffff_ff88),                     // mov al, [rdi]
        (&[0x8a, 0x27], 0xffff_ffff_ffff_88ff),                     // mov ah, [rdi]
        (&[0x0f, 0xb6, 0x07], 0x88),                                // movzx eax, byte [rdi]
        (&[0x0f, 0xb7, 0x07], 0x7788),                              // movzx eax, word [rdi]
        (&[0x0f, 0xbe, 0x07], 0xffff_ff88),                         // movsx eax, byte [rdi]
        (&[0x48, 0x0f, 0xbe, 0x07], 0xffff_ffff_ffff_ff88),         // movsx rax, byte [rdi]
        (&[0x48, 0x63, 0x07], 0x5566_7788),                         // movsxd rax, [rdi]
        (&[0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x10], 0x5566_7788), // mov eax, [0x10000000]
    ] {
        // The last one's address is where the fault says, as its displacement cannot be high.
        let fake = done(code, full);
        assert_eq!(fake.registers[RAX], expected, "{code:02x?}");
    }
}

#[test]
fn moves_to_memory_have_the_width_of_the_instruction() {
    let prepare = |fake: &mut Fake| fake.registers[RAX] = 0x8877_6655_4433_2211;
    for (code, width, value) in [
        (&[0x89, 0x07][..], Width::Dword, 0x4433_2211), // mov [rdi], eax
        (&[0x48, 0x89, 0x07], Width::Qword, 0x8877_6655_4433_2211), // mov [rdi], rax
        (&[0x66, 0x89, 0x07], Width::Word, 0x2211),     // mov [rdi], ax
        (&[0x88, 0x27], Width::Byte, 0x22),             // mov [rdi], ah
        (&[0xc7, 0x07, 1, 2, 3, 0x84], Width::Dword, 0x8403_0201), // mov dword [rdi], imm
        (&[0x48, 0xc7, 0x07, 1, 2, 3, 0x84], Width::Qword, 0xffff_ffff_8403_0201),
        (&[0xc6, 0x07, 0x99], Width::Byte, 0x99), // mov byte [rdi], imm
        (&[0x0f, 0xc3, 0x07], Width::Dword, 0x4433_2211), // movnti [rdi], eax
    ] {
        assert_eq!(done(code, prepare).accesses, [(0, width, Some(value))], "{code:02x?}");
    }
}

#[test]
fn the_absolute_accumulator_form_is_known() {
    let mut code = std::vec![0xa1]; // mov eax, [moffs64]
    code.extend((DEVICE + 0x20).to_le_bytes());
    let fake = done(&code, |_| {});
    assert_eq!(fake.accesses, [(0x20, Width::Dword, None)]);
    assert_eq!(fake.registers[RAX], 0x5566_7788);
}

#[test]
fn arithmetic_reads_changes_and_writes() {
    let prepare = |fake: &mut Fake| fake.device = 0xf0;
    for (code, result, flags) in [
        (&[0x83, 0x0f, 0x0f][..], 0xff, 0x06),    // or dword [rdi], 15
        (&[0x83, 0x27, 0x0f], 0, 0x46),           // and
        (&[0x83, 0x07, 0x10], 0x100, 0x06),       // add
        (&[0x83, 0x2f, 0x70], 0x80, 0x02),        // sub
        (&[0x83, 0x37, 0xff], 0xffff_ff0f, 0x86), // xor with -1
        (&[0xff, 0x07], 0xf1, 0x02),              // inc
        (&[0xf7, 0x17], 0xffff_ff0f, 0x02),       // not: no flags
        (&[0xf0, 0x83, 0x0f, 0x0f], 0xff, 0x06),  // lock or
    ] {
        let fake = done(code, prepare);
        assert_eq!(fake.accesses, [(0, Width::Dword, None), (0, Width::Dword, Some(result))], "{code:02x?}");
        assert_eq!(fake.rflags & !0x10, flags, "{code:02x?}");
    }
}

#[test]
fn comparisons_only_read() {
    let prepare = |fake: &mut Fake| fake.device = 5;
    let fake = done(&[0x83, 0x3f, 0x05], prepare); // cmp dword [rdi], 5
    assert_eq!((fake.rflags & ZERO, fake.accesses.len()), (ZERO, 1));
    let fake = done(&[0xf6, 0x07, 0x02], prepare); // test byte [rdi], 2
    assert_eq!((fake.rflags & ZERO, fake.accesses.len()), (ZERO, 1));
}

#[test]
fn exchanges_swap_and_compare() {
    let fake = done(&[0x87, 0x07], |fake| fake.registers[RAX] = 9); // xchg [rdi], eax
    assert_eq!((fake.device, fake.registers[RAX]), (9, 0x5566_7788));
    let prepare = |fake: &mut Fake| (fake.device, fake.registers[RCX]) = (7, 3);
    let fake = done(&[0x0f, 0xb1, 0x0f], prepare); // cmpxchg [rdi], ecx: differs
    assert_eq!((fake.device, fake.registers[RAX], fake.rflags & ZERO), (7, 7, 0));
    let fake = done(&[0x0f, 0xb1, 0x0f], |fake| {
        prepare(fake);
        fake.registers[RAX] = 7;
    });
    assert_eq!((fake.device, fake.rflags & ZERO), (3, ZERO));
    let fake = done(&[0x0f, 0xc1, 0x0f], prepare); // xadd [rdi], ecx
    assert_eq!((fake.device, fake.registers[RCX]), (10, 7));
}

#[test]
fn bit_tests_reach_beyond_their_operand_by_register() {
    let fake = done(&[0x0f, 0xba, 0x2f, 0x09], |fake| fake.device = 0); // bts dword [rdi], 9
    assert_eq!((fake.device, fake.rflags & CARRY), (0x200, 0));
    let prepare = |fake: &mut Fake| {
        fake.registers[RDI] = DEVICE + 0x100;
        fake.registers[RAX] = 0x45;
        fake.device = 0x20;
    };
    let fake = done(&[0x0f, 0xa3, 0x07], prepare); // bt [rdi], eax: bit 69 is bit 5 of the third
    assert_eq!(fake.accesses, [(0x108, Width::Dword, None)]);
    assert_eq!(fake.rflags & CARRY, CARRY);
    let fake = done(&[0x0f, 0xb3, 0x07], |fake| {
        prepare(fake);
        fake.registers[RAX] = (-27i64) as u64; // btr with bit -27: bit 5 of the one before
    });
    assert_eq!(fake.accesses[1], (0xfc, Width::Dword, Some(0)));
}

#[test]
fn string_moves_advance_their_registers() {
    let fake = done(&[0xf3, 0xab], |fake| {
        // rep stosd
        (fake.registers[RAX], fake.registers[RCX]) = (0xabcd, 3);
    });
    assert_eq!(fake.accesses.len(), 3);
    assert_eq!(fake.accesses[2], (8, Width::Dword, Some(0xabcd)));
    assert_eq!((fake.registers[RDI], fake.registers[RCX]), (DEVICE + 12, 0));
    let fake = done(&[0xa5], |fake| {
        // movsd from the device to RAM, backwards
        fake.rflags |= DIRECTION;
        (fake.registers[RSI], fake.registers[RDI]) = (DEVICE + 0x10, 0x5000);
    });
    assert_eq!(fake.accesses, [(0x10, Width::Dword, None)]);
    assert_eq!(fake.memory[&0x5000], 0x88);
    assert_eq!((fake.registers[RSI], fake.registers[RDI]), (DEVICE + 0xc, 0x4ffc));
    let fake = done(&[0xf3, 0xa4], |_| {}); // rep movsb with a count of zero
    assert!(fake.accesses.is_empty());
}

#[test]
fn long_repetitions_are_done_in_parts() {
    let (fake, result) = run(&[0xf3, 0xaa], |fake| fake.registers[RCX] = 100); // rep stosb
    assert_eq!(result, Ok(Completion::Again));
    assert_eq!(fake.registers[RCX], 100 - STRING_ELEMENTS_MAX);
    assert_eq!(fake.registers[RDI], DEVICE + STRING_ELEMENTS_MAX);
}

#[test]
fn faults_are_the_processors_and_change_nothing() {
    let fault = |code: u32| Fault::Page { address: Gva::new(NOT_PRESENT), code };
    // movsd from the device to nowhere: the device is not read in vain.
    let (fake, result) = run(&[0xa5], |fake| {
        (fake.registers[RSI], fake.registers[RDI]) = (DEVICE, NOT_PRESENT);
    });
    assert_eq!(result, Err(EmulateError::Fault(fault(2))));
    assert!(fake.accesses.is_empty());
    assert_eq!(fake.registers[RSI], DEVICE);
    let (_, result) = run(&[0x8b, 0x07], |fake| fake.rip = NOT_PRESENT);
    assert_eq!(result, Err(EmulateError::Fault(fault(0))));
}

#[test]
fn segments_and_scaled_indices_make_the_address() {
    // mov al, gs:[rdi + rcx*4 + 0x10]
    let fake = done(&[0x65, 0x8a, 0x44, 0x8f, 0x10], |fake| {
        fake.registers[RDI] = DEVICE - 0x10_0000;
        fake.registers[RCX] = 3;
    });
    assert_eq!(fake.accesses, [(0x1c, Width::Byte, None)]);
}

#[test]
fn other_modes_decode_by_their_own_rules() {
    let fake = done(&[0x89, 0x17], |fake| {
        // mov [edi], edx in a 32-bit segment
        fake.code_size = CodeSize::Bits32;
        fake.registers[RDX] = 5;
    });
    assert_eq!(fake.accesses, [(0, Width::Dword, Some(5))]);
    let fake = done(&[0x67, 0x66, 0x89, 0x17], |fake| {
        // the same in a 16-bit segment
        fake.code_size = CodeSize::Bits16;
        fake.registers[RDX] = 6;
    });
    assert_eq!(fake.accesses, [(0, Width::Dword, Some(6))]);
}

#[test]
fn an_access_over_a_page_border_is_done_by_bytes() {
    let fake = done(&[0x8b, 0x17], |fake| fake.registers[RDI] = DEVICE + 0xffe);
    // The fast path is not taken as the address that trapped is told to be the page's start here.
    assert!(fake.accesses.len() <= 2);
    let fake = done(&[0x66, 0x8b, 0x17], |fake| fake.registers[RDI] = DEVICE + 0xfff);
    assert_eq!(fake.accesses, [(0xfff, Width::Byte, None)]);
}

#[test]
fn what_is_not_known_is_told_with_its_bytes() {
    let (_, result) = run(&[0x0f, 0x10, 0x07], |_| {}); // movups xmm0, [rdi]
    let Err(EmulateError::Unsupported(bytes)) = result else { panic!("{result:?}") };
    assert_eq!(&bytes.as_slice()[..3], [0x0f, 0x10, 0x07]);
    let (_, result) = run(&[0xff, 0x37], |_| {}); // push [rdi]
    assert!(matches!(result, Err(EmulateError::Unsupported(_))));
}

#[test]
fn code_at_the_end_of_a_page_is_fetched_from_both() {
    let mut fake = Fake::new(&[]);
    for (offset, byte) in [0x8b, 0x87, 0x20, 0, 0, 0].into_iter().enumerate() {
        fake.memory.insert(0x1ffd + offset as u64, byte);
    }
    fake.rip = 0x1ffd;
    fake.registers[RDI] = DEVICE;
    assert_eq!(emulate(&mut fake, Gpa::new(DEVICE + 0x20)), Ok(Completion::Done(6)));
    assert_eq!(fake.accesses, [(0x20, Width::Dword, None)]);
    assert_eq!(fake.fetches, 2);
}

/// Executes the instruction to its end; what it waits for comes as soon as it waits.
fn to_the_end(fake: &mut Fake) -> Result<Completion, EmulateError> {
    let mut waits = 0;
    for _ in 0..8 {
        match emulate(fake, Gpa::new(DEVICE)) {
            Ok(Completion::Again) => {}
            Err(EmulateError::Fault(Fault::Absent)) => {
                waits += 1;
                fake.absent = None;
            }
            other => {
                assert!(waits <= 1, "one page is absent");
                (fake.fetches, fake.absent) = (0, None);
                return other;
            }
        }
    }
    panic!("the repetitions are few")
}

#[test]
fn a_device_is_not_read_for_a_target_that_has_not_come() {
    for (target, absent) in [(0x5000, 5), (0x5ffe, 6)] {
        // movsd
        let (fake, result) = run(&[0xa5], |fake| {
            (fake.registers[RSI], fake.registers[RDI], fake.absent) = (DEVICE, target, Some(absent));
        });
        assert_eq!(result, Err(EmulateError::Fault(Fault::Absent)));
        assert!(fake.accesses.is_empty());
        assert_eq!((fake.registers[RSI], fake.registers[RDI]), (DEVICE, target));
    }
}

#[test]
fn an_instruction_that_has_not_come_whole_waits() {
    // mov eax, [rdi+0x20], over two pages
    for absent in [1, 2] {
        let mut fake = Fake::new(&[]);
        for (offset, byte) in [0x8b, 0x87, 0x20, 0, 0, 0].into_iter().enumerate() {
            fake.memory.insert(0x1ffd + offset as u64, byte);
        }
        (fake.rip, fake.registers[RDI], fake.absent) = (0x1ffd, DEVICE, Some(absent));
        let result = emulate(&mut fake, Gpa::new(DEVICE + 0x20));
        assert_eq!(result, Err(EmulateError::Fault(Fault::Absent)));
        assert!(fake.accesses.is_empty());
    }
}

/// Instructions over memory, without their ModR/M byte or with all of it.
const OVER_MEMORY: [&[u8]; 24] = [
    &[0x89, 0x17],
    &[0x8b, 0x17],
    &[0x48, 0x8b, 0x3f],
    &[0x48, 0x01, 0x17],
    &[0x48, 0x87, 0x17],
    &[0x0f, 0xc1, 0x17],
    &[0x48, 0x0f, 0xb1, 0x17],
    &[0xff, 0x07],
    &[0xf7, 0x1f],
    &[0x0f, 0xab, 0x17],
    &[0x0f, 0xbb, 0x17],
    &[0x0f, 0xa3, 0x17],
    &[0x38, 0x17],
    &[0x0f, 0xb6, 0x17],
    &[0x48, 0x63, 0x17],
    &[0xc7, 0x07, 1, 2, 3, 4],
    &[0xa4],
    &[0x48, 0xa5],
    &[0xf3, 0xa4],
    &[0xf3, 0x48, 0xa5],
    &[0xf3, 0x66, 0xa5],
    &[0xf3, 0xab],
    &[0xf3, 0x48, 0xad],
    &[0xaa],
];

fn any_place() -> impl Strategy<Value = u64> {
    let offset = prop_oneof![0_u64..64, 0xfc0_u64..0x1000];
    (prop_oneof![Just(0x5000), Just(0x6000), Just(DEVICE), Just(DEVICE - 0x1000)], offset)
        .prop_map(|(page, offset)| page + offset)
}

fn any_code_size() -> impl Strategy<Value = CodeSize> {
    prop_oneof![Just(CodeSize::Bits16), Just(CodeSize::Bits32), Just(CodeSize::Bits64)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_bytes_are_survived(
        code: [u8; 15], registers: [u64; 16], rflags: u64, size in any_code_size(), rip: u64, near in 0u64..0x1000,
    ) {
        let mut fake = Fake::new(&code);
        fake.registers = registers;
        (fake.rflags, fake.code_size) = (rflags, size);
        let _ = emulate(&mut fake, Gpa::new(DEVICE + near));
        prop_assert!(fake.accesses.len() as u64 <= 2 * 8 * STRING_ELEMENTS_MAX);
        fake.rip = rip;
        let _ = emulate(&mut fake, Gpa::new(DEVICE + near));
    }

    /// An instruction that has to wait for a page does, in the end, what it does with everything there: no device
    /// register is read or written twice, and none too few.
    #[test]
    fn waiting_for_a_page_changes_nothing(
        code in prop::sample::select(&OVER_MEMORY[..]), source in any_place(), target in any_place(),
        count in 0_u64..150, values: [u64; 2], backwards: bool, at in prop_oneof![Just(CODE), Just(0x1ff9), Just(0x1fff)],
        absent in prop::sample::select(&[1, 2, 4, 5, 6, 7, DEVICE / PAGE - 1, DEVICE / PAGE - 2][..]),
    ) {
        let mut there = Fake::new(&[]);
        there.memory.extend(code.iter().enumerate().map(|(offset, byte)| (at + offset as u64, *byte)));
        there.rip = at;
        [there.registers[RAX], there.registers[RDX]] = values;
        [there.registers[RSI], there.registers[RDI], there.registers[RCX]] = [source, target, count];
        there.rflags |= if backwards { DIRECTION } else { 0 };
        let mut late = Fake { absent: Some(absent), ..there.clone() };
        prop_assert_eq!(to_the_end(&mut late), to_the_end(&mut there));
        prop_assert_eq!(late, there);
    }

    /// The fast path does what the decoder does.
    #[test]
    fn the_fast_path_agrees_with_the_decoder(
        rex in prop_oneof![Just(None), (0x40u8..0x50).prop_map(Some)],
        opcode in prop_oneof![Just(0x89u8), Just(0x8b), Just(0xc7)],
        rest: [u8; 10], registers: [u64; 16],
    ) {
        let mut code: Vec<u8> = rex.into_iter().collect();
        code.push(opcode);
        code.extend(rest);
        let mut slow = Fake::new(&code);
        slow.registers = registers;
        let fetched = fetch(&mut slow).unwrap();
        let mut fast = slow.clone();
        // What the processor would report: the address of the memory operand.
        let mut decoder = Decoder::with_ip(64, fetched.as_slice(), CODE, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let operand = u32::from(opcode == 0x8b);
        let Some(address) = operand::linear_address(&slow, &instruction, operand) else { return Ok(()) };
        let address = address.as_u64();
        prop_assume!(address & !0xffff != NOT_PRESENT && address % PAGE <= PAGE - 4);
        if let Some(done) = fast::execute(&mut fast, &fetched, Gpa::new(address)) {
            prop_assert_eq!(emulate_decoded(&mut slow, &fetched), Ok(done));
            prop_assert_eq!(fast, slow);
        }
    }
}
