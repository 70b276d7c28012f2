//! INS and OUTS: port input and output of strings, one element at a time (SDM volume 2).
//!
//! A repeated instruction does a bounded number of elements per exit and then lets the guest execute it again
//! with the registers advanced, so that interrupts get their turn as on the processor.
//!
//! The exit comes before the processor has looked at the memory operand (SDM 26.1.1): segments, canonical addresses and
//! paging are checked here. Accessed and dirty flags are not set, and SMAP is not heeded.

use godwit_vmx::addr::{Gpa, Gva, PAGE_SIZE};
use godwit_vmx::event::{Event, Exception};
use godwit_vmx::exit::{IoAccess, IoDirection};
use godwit_vmx::field::{self, Bits32, Field, Natural, ReadWrite};
use godwit_vmx::vmcs::VmcsAccess;

use super::context::{Context, Outcome, is_64_bit_code};
use super::translate::{PageFault, Purpose, Untranslated};
use crate::devices::Width;
use crate::guest_memory::{GuestMemory, MemoryError};

/// Most elements per exit.
const ELEMENTS_MAX: u64 = 64;
/// Most bytes of an element.
const ELEMENT_BYTES_MAX: usize = 4;
const DIRECTION_FLAG: u64 = 1 << 10;
const VIRTUAL_8086: u64 = 1 << 17;
const CR0_PE: u64 = 1 << 0;

/// Base, limit and access rights.
type Segment = (Field<Natural, ReadWrite>, Field<Bits32, ReadWrite>, Field<Bits32, ReadWrite>);

/// Segments by their numbers in the instruction-information field.
const ES: usize = 0;
const SS: usize = 2;
const FS: usize = 4;
const SEGMENTS: [Segment; 6] = [
    (field::GUEST_ES_BASE, field::GUEST_ES_LIMIT, field::GUEST_ES_ACCESS_RIGHTS),
    (field::GUEST_CS_BASE, field::GUEST_CS_LIMIT, field::GUEST_CS_ACCESS_RIGHTS),
    (field::GUEST_SS_BASE, field::GUEST_SS_LIMIT, field::GUEST_SS_ACCESS_RIGHTS),
    (field::GUEST_DS_BASE, field::GUEST_DS_LIMIT, field::GUEST_DS_ACCESS_RIGHTS),
    (field::GUEST_FS_BASE, field::GUEST_FS_LIMIT, field::GUEST_FS_ACCESS_RIGHTS),
    (field::GUEST_GS_BASE, field::GUEST_GS_LIMIT, field::GUEST_GS_ACCESS_RIGHTS),
];
/// Access rights (SDM table 25-2): the type's bits, the default size, and unusable.
const RIGHTS_READABLE_OR_WRITABLE: u32 = 1 << 1;
const RIGHTS_EXPAND_DOWN: u32 = 1 << 2;
const RIGHTS_CODE: u32 = 1 << 3;
const RIGHTS_BIG: u32 = 1 << 14;
const RIGHTS_UNUSABLE: u32 = 1 << 16;

/// Why an element could not be moved.
enum Stuck {
    /// The segment or the address forbids it.
    Segment(Event),
    Fault(PageFault),
    /// Not in RAM: such an access makes no sense and is answered as a bad address.
    NoMemory,
    /// The memory has not come yet: what is left is done when it is there.
    Absent,
}

impl From<Untranslated> for Stuck {
    fn from(why: Untranslated) -> Self {
        match why {
            Untranslated::Fault(fault) => Self::Fault(fault),
            Untranslated::Absent => Self::Absent,
        }
    }
}

impl From<MemoryError> for Stuck {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::NotRam { .. } => Self::NoMemory,
            MemoryError::Absent(_) => Self::Absent,
        }
    }
}

pub(super) fn handle<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    access: IoAccess,
    width: Width,
) -> Outcome {
    let mask = address_mask(context);
    let count = if access.is_repeated { context.cpu.registers.rcx & mask } else { 1 };
    let backwards = context.vmcs.read(field::GUEST_RFLAGS) & DIRECTION_FLAG != 0;
    let step = if backwards { (width.bytes() as u64).wrapping_neg() } else { width.bytes() as u64 };
    context.cpu.attention = true;
    for _ in 0..count.min(ELEMENTS_MAX) {
        match element(context, access, width, mask) {
            Ok(()) => {}
            Err(Stuck::Segment(event)) => return Outcome::Inject(event),
            Err(Stuck::Fault(fault)) => return Outcome::PageFault(fault),
            Err(Stuck::NoMemory) => return Outcome::Inject(Event::general_protection()),
            Err(Stuck::Absent) => return Outcome::Resume,
        }
        let registers = &mut context.cpu.registers;
        let index = match access.direction {
            IoDirection::In => &mut registers.rdi,
            IoDirection::Out => &mut registers.rsi,
        };
        *index = *index & !mask | index.wrapping_add(step) & mask;
        if access.is_repeated {
            let left = registers.rcx.wrapping_sub(1);
            registers.rcx = registers.rcx & !mask | left & mask;
        }
    }
    if count > ELEMENTS_MAX { Outcome::Resume } else { Outcome::Skip }
}

fn element<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    access: IoAccess,
    width: Width,
    mask: u64,
) -> Result<(), Stuck> {
    let registers = &context.cpu.registers;
    let (offset, purpose) = match access.direction {
        IoDirection::In => (registers.rdi & mask, Purpose::Write),
        IoDirection::Out => (registers.rsi & mask, Purpose::Read),
    };
    let linear = linear_address(context, access.direction, offset, width).map_err(Stuck::Segment)?;
    let bytes_total = width.bytes().min(ELEMENT_BYTES_MAX);
    let (first, second) = places(context, linear, bytes_total, purpose)?;
    let mut bytes = [0; ELEMENT_BYTES_MAX];
    // Read first: an address that is no RAM, or none yet, must not cost the port a byte.
    let (head, tail) = bytes[..bytes_total].split_at_mut(first.1);
    context.memory.read(first.0, head)?;
    if let Some(second) = second {
        context.memory.read(second, tail)?;
    }
    let now = context.clock.now();
    match access.direction {
        IoDirection::Out => {
            context.board.port_write(now, access.port, width, u32::from_le_bytes(bytes));
        }
        IoDirection::In => {
            let value = context.board.port_read(now, access.port, width).to_le_bytes();
            let (head, tail) = value[..bytes_total].split_at(first.1);
            context.memory.write(first.0, head)?;
            if let Some(second) = second {
                context.memory.write(second, tail)?;
            }
        }
    }
    Ok(())
}

/// Where the `bytes` bytes at `linear` are: the first of them and how many follow it, and the rest if it lies in the next
/// page.
fn places<V: VmcsAccess, M: GuestMemory>(
    context: &Context<'_, V, M>,
    linear: Gva,
    bytes: usize,
    purpose: Purpose,
) -> Result<((Gpa, usize), Option<Gpa>), Stuck> {
    let room = (PAGE_SIZE - linear.as_u64() % PAGE_SIZE) as usize;
    let first = (context.translate(linear, purpose)?, bytes.min(room));
    if bytes <= room {
        return Ok((first, None));
    }
    let mut next = linear.wrapping_add(room as u64);
    if !is_64_bit_code(context.vmcs) {
        next = Gva::new(next.as_u64() & 0xffff_ffff);
    }
    Ok((first, Some(context.translate(next, purpose)?)))
}

/// The linear address of an element at `offset` of the operand's segment: ES for INS; for OUTS the instruction-information
/// field names it.
///
/// # Errors
/// The exception that the processor would raise.
fn linear_address<V: VmcsAccess, M: GuestMemory>(
    context: &Context<'_, V, M>,
    direction: IoDirection,
    offset: u64,
    width: Width,
) -> Result<Gva, Event> {
    let segment = match direction {
        IoDirection::In => ES,
        IoDirection::Out => context.vmcs.read(field::EXIT_INSTRUCTION_INFO) as usize >> 15 & 7,
    };
    let fault = if segment == SS {
        Event::exception_with_code(Exception::StackFault, 0)
    } else {
        Event::general_protection()
    };
    let (base, limit, rights) = SEGMENTS.get(segment).ok_or(fault)?;
    let last = width.bytes() as u64 - 1;
    if is_64_bit_code(context.vmcs) {
        let base = if segment < FS { 0 } else { context.vmcs.read(*base) };
        let linear = base.wrapping_add(offset);
        let canonical = is_canonical(linear) && is_canonical(linear.wrapping_add(last));
        return if canonical { Ok(Gva::new(linear)) } else { Err(fault) };
    }
    let (base, limit) = (context.vmcs.read(*base), context.vmcs.read(*limit).into());
    let rights = context.vmcs.read(*rights);
    let allowed = !has_rights(context) || rights_allow(rights, direction);
    if !allowed || !is_within(offset, last, limit, rights) {
        return Err(fault);
    }
    Ok(Gva::new(base.wrapping_add(offset) & 0xffff_ffff))
}

/// Whether the processor heeds what segments allow: not in real and in virtual-8086 mode.
fn has_rights<V: VmcsAccess, M: GuestMemory>(context: &Context<'_, V, M>) -> bool {
    context.vmcs.read(field::GUEST_CR0) & CR0_PE != 0
        && context.vmcs.read(field::GUEST_RFLAGS) & VIRTUAL_8086 == 0
}

const fn rights_allow(rights: u32, direction: IoDirection) -> bool {
    let is_code = rights & RIGHTS_CODE != 0;
    let is_granted = rights & RIGHTS_READABLE_OR_WRITABLE != 0;
    let allowed = match direction {
        IoDirection::In => !is_code && is_granted,
        IoDirection::Out => !is_code || is_granted,
    };
    rights & RIGHTS_UNUSABLE == 0 && allowed
}

/// Whether the bytes from `offset` to `offset + last` are within a segment's limit (SDM 5.3).
const fn is_within(offset: u64, last: u64, limit: u64, rights: u32) -> bool {
    if rights & (RIGHTS_CODE | RIGHTS_EXPAND_DOWN) == RIGHTS_EXPAND_DOWN {
        let top = if rights & RIGHTS_BIG != 0 { 0xffff_ffff } else { 0xffff };
        return offset > limit && offset.saturating_add(last) <= top;
    }
    offset.saturating_add(last) <= limit
}

const fn is_canonical(address: u64) -> bool {
    let sign = address as i64 >> 47;
    sign == 0 || sign == -1
}

/// What of the index registers the instruction uses: the address size of the instruction-information field.
fn address_mask<V: VmcsAccess, M: GuestMemory>(context: &Context<'_, V, M>) -> u64 {
    match context.vmcs.read(field::EXIT_INSTRUCTION_INFO) >> 7 & 7 {
        0 => 0xffff,
        1 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::testing::Fixture;

    const CR0_PE: u64 = 1 << 0;
    const WRITABLE_DATA: u32 = 0x93;
    /// By RSI or RDI; OUTS reads by DS.
    const ADDRESSES_64: u32 = 2 << 7 | 3 << 15;
    const ADDRESSES_32: u32 = 1 << 7 | 3 << 15;

    fn outs(repeated: bool) -> IoAccess {
        IoAccess { port: 0x3f8, size: 1, direction: IoDirection::Out, is_string: true, is_repeated: repeated }
    }

    fn ins() -> IoAccess {
        // The address of a configuration register, which can be read back in any width.
        IoAccess { port: 0xcf8, size: 4, direction: IoDirection::In, is_string: true, is_repeated: false }
    }

    /// A guest with flat segments, unpaged.
    fn flat(information: u32) -> Fixture {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, information);
        fixture.vmcs.set(field::GUEST_CR0, CR0_PE);
        for (limit, rights) in [
            (field::GUEST_ES_LIMIT, field::GUEST_ES_ACCESS_RIGHTS),
            (field::GUEST_SS_LIMIT, field::GUEST_SS_ACCESS_RIGHTS),
            (field::GUEST_DS_LIMIT, field::GUEST_DS_ACCESS_RIGHTS),
        ] {
            fixture.vmcs.set(limit, u32::MAX);
            fixture.vmcs.set(rights, WRITABLE_DATA);
        }
        fixture
    }

    #[test]
    fn a_repeated_output_sends_every_byte_and_advances_the_registers() {
        let mut fixture = flat(ADDRESSES_64);
        fixture.memory.put(0x100, b"hello");
        fixture.cpu.registers.rsi = 0x100;
        fixture.cpu.registers.rcx = 5;
        assert_eq!(handle(&mut fixture.context(), outs(true), Width::Byte), Outcome::Skip);
        assert_eq!((fixture.cpu.registers.rsi, fixture.cpu.registers.rcx), (0x105, 0));
        let mut sent = [0; 8];
        let count = fixture.board.serial_take(&mut sent);
        assert_eq!(&sent[..count], b"hello");
    }

    #[test]
    fn a_long_string_is_done_in_portions() {
        let mut fixture = flat(ADDRESSES_64);
        fixture.cpu.registers.rcx = 100;
        assert_eq!(handle(&mut fixture.context(), outs(true), Width::Byte), Outcome::Resume);
        assert_eq!(fixture.cpu.registers.rcx, 100 - ELEMENTS_MAX);
        assert_eq!(handle(&mut fixture.context(), outs(true), Width::Byte), Outcome::Skip);
        assert_eq!(fixture.cpu.registers.rcx, 0);
    }

    #[test]
    fn a_string_outside_ram_faults_without_touching_the_port() {
        let mut fixture = flat(ADDRESSES_64);
        fixture.cpu.registers.rsi = 0xffff_0000;
        let outcome = handle(&mut fixture.context(), outs(false), Width::Byte);
        assert_eq!(outcome, Outcome::Inject(Event::general_protection()));
        assert_eq!(fixture.board.serial_waiting(), 0);
    }

    /// Linear pages 4 and 5 are pages 9 and 6, by tables of the oldest kind in pages 1 and 2.
    fn scattered() -> Fixture {
        let mut fixture = flat(ADDRESSES_32);
        fixture.memory.put(0x1000, &[0x07, 0x20, 0, 0]);
        fixture.memory.put(0x2010, &[0x07, 0x90, 0, 0, 0x07, 0x60, 0, 0]);
        fixture.vmcs.set(field::GUEST_CR0, 1 << 31 | CR0_PE);
        fixture.vmcs.set(field::GUEST_CR3, 0x1000);
        fixture
    }

    #[test]
    fn an_element_over_two_pages_goes_to_both() {
        const VALUE: u32 = 0x8012_34cc;
        let mut fixture = scattered();
        fixture.board.port_write(fixture.clock.now(), 0xcf8, Width::Dword, VALUE);
        fixture.cpu.registers.rdi = 0x4ffd;
        assert_eq!(handle(&mut fixture.context(), ins(), Width::Dword), Outcome::Skip);
        let content = fixture.memory.content();
        let [first, second, third, last] = VALUE.to_le_bytes();
        assert_eq!(&content[0x9ffd..0xa001], &[first, second, third, 0], "not on to the next page of memory");
        assert_eq!(content[0x6000], last);
        let mut fixture = scattered();
        fixture.memory.put(0x9fff, &[0x12, 0x99]);
        fixture.memory.put(0x6000, &[0x34, 0x56, 0x80]);
        fixture.cpu.registers.rsi = 0x4fff;
        let access = IoAccess { direction: IoDirection::Out, ..ins() };
        assert_eq!(handle(&mut fixture.context(), access, Width::Dword), Outcome::Skip);
        let written = fixture.board.port_read(fixture.clock.now(), 0xcf8, Width::Dword);
        assert_eq!(written, 0x8056_3412 & 0x80ff_fffc, "as the register keeps it");
    }

    #[test]
    fn of_an_element_over_two_pages_nothing_is_done_without_the_second() {
        let mut fixture = scattered();
        fixture.memory.put(0x2014, &[0; 4]);
        fixture.cpu.registers.rdi = 0x4ffe;
        let before = fixture.memory.content();
        let outcome = handle(&mut fixture.context(), ins(), Width::Dword);
        assert_eq!(outcome, Outcome::PageFault(PageFault { code: 2, address: Gva::new(0x5000) }));
        assert!(fixture.memory.content() == before);
        assert_eq!(fixture.cpu.registers.rdi, 0x4ffe);
    }

    /// The processor leaves these to whoever carries the instruction out (SDM 26.1.1).
    #[test]
    fn segments_are_heeded() {
        type Change = fn(&mut Fixture);
        let protection = Event::general_protection();
        let changes: [(Change, Event); 5] = [
            (|fixture| fixture.vmcs.set(field::GUEST_DS_LIMIT, 0x100), protection),
            (|fixture| fixture.vmcs.set(field::GUEST_DS_ACCESS_RIGHTS, 1 << 16), protection),
            // Code that may only be executed.
            (|fixture| fixture.vmcs.set(field::GUEST_DS_ACCESS_RIGHTS, 0x99), protection),
            // Expand-down: all but what is up to the limit.
            (|fixture| fixture.vmcs.set(field::GUEST_DS_ACCESS_RIGHTS, 0x4097), protection),
            (
                |fixture| {
                    fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, 1 << 7 | 2 << 15);
                    fixture.vmcs.set(field::GUEST_SS_LIMIT, 0x100);
                },
                Event::exception_with_code(Exception::StackFault, 0),
            ),
        ];
        for (change, event) in changes {
            let mut fixture = flat(ADDRESSES_32);
            fixture.cpu.registers.rsi = 0x101;
            change(&mut fixture);
            assert_eq!(handle(&mut fixture.context(), outs(false), Width::Byte), Outcome::Inject(event));
            assert_eq!(fixture.board.serial_waiting(), 0);
        }
        let mut fixture = flat(ADDRESSES_32);
        fixture.vmcs.set(field::GUEST_ES_ACCESS_RIGHTS, 0x91);
        let outcome = handle(&mut fixture.context(), ins(), Width::Dword);
        assert_eq!(outcome, Outcome::Inject(protection), "a segment that is read only");
        let mut fixture = flat(ADDRESSES_32);
        fixture.vmcs.set(field::GUEST_DS_BASE, 0xffff_ff00);
        fixture.cpu.registers.rsi = 0x180;
        fixture.memory.put(0x80, b"x");
        assert_eq!(handle(&mut fixture.context(), outs(false), Width::Byte), Outcome::Skip, "4 GiB wrap");
    }

    #[test]
    fn in_64_bit_mode_addresses_are_flat_and_canonical_and_elsewhere_in_long_mode_segments_count() {
        use godwit_vmx::controls::EntryControls;
        let mut fixture = flat(ADDRESSES_64);
        fixture.vmcs.set(field::ENTRY_CONTROLS, EntryControls::IA32E_MODE_GUEST.bits());
        fixture.vmcs.set(field::GUEST_DS_BASE, 0x200);
        fixture.vmcs.set(field::GUEST_DS_LIMIT, 0x100);
        fixture.memory.put(0x210, b"x");
        fixture.cpu.registers.rsi = 0x10;
        assert_eq!(handle(&mut fixture.context(), outs(false), Width::Byte), Outcome::Skip);
        let mut sent = [0; 8];
        assert_eq!((fixture.board.serial_take(&mut sent), sent[0]), (1, b'x'), "32-bit code");
        fixture.vmcs.set(field::GUEST_CS_ACCESS_RIGHTS, 1 << 13);
        fixture.memory.put(0x1000, b"y");
        fixture.cpu.registers.rsi = 0x1000;
        assert_eq!(handle(&mut fixture.context(), outs(false), Width::Byte), Outcome::Skip);
        assert_eq!((fixture.board.serial_take(&mut sent), sent[0]), (1, b'y'), "64-bit code");
        fixture.cpu.registers.rsi = 1 << 47;
        let outcome = handle(&mut fixture.context(), outs(false), Width::Byte);
        assert_eq!(outcome, Outcome::Inject(Event::general_protection()));
    }
}
