//! The processor's first state: 64-bit mode on an identity map of the first 4 GiB.
//!
//! Reference: Linux boot protocol, "64-bit boot protocol"; SDM volume 3, chapters 3 to 5 (revision 085).

use godwit_vmx::addr::Gpa;

use crate::guest_memory::{GuestMemory, MemoryError};

/// Where the descriptor table is.
pub const GDT: u64 = 0x1000;
/// Where the zero page is.
pub const ZERO_PAGE: u64 = 0x2000;
/// Where the first stack ends.
const STACK_END: u64 = 0x9000;
/// Where the page tables are: level 4, level 3, then four of level 2.
pub const PAGE_TABLES: u64 = 0x9000;
/// Where the command line is.
pub const COMMAND_LINE: u64 = 0x1_0000;

const PAGE: u64 = 4096;
/// Gigabytes mapped.
const GIGABYTES: u64 = 4;
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
/// Entries 0 and 1 are empty, as Linux expects code at 0x10 and data at 0x18.
const GDT_ENTRIES: [u64; 6] = [
    0,
    0,
    0x00af_9b00_0000_ffff, // code, 64-bit
    0x00cf_9300_0000_ffff, // data
    0x0000_8b00_0000_0067, // task state at 0, busy
    0,
];
/// Access rights in the layout of a VMCS (SDM table 25-2).
const CODE_RIGHTS: u32 = 0xa09b;
const DATA_RIGHTS: u32 = 0xc093;
const TASK_RIGHTS: u32 = 0x008b;
const UNUSABLE_RIGHTS: u32 = 1 << 16;

const CR0_PROTECTED: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_EXTENSION: u64 = 1 << 5;
const EFER_LONG_ENABLE: u64 = 1 << 8;
const EFER_LONG_ACTIVE: u64 = 1 << 10;
const RFLAGS_FIXED: u64 = 1 << 1;

/// A segment register, as a VMCS holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Access rights in the layout of a VMCS; bit 16 is "unusable".
    pub access_rights: u32,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRegister {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
}

/// Registers to begin with. Those not named are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Address of the zero page.
    pub rsi: u64,
    /// Flags: interrupts are off.
    pub rflags: u64,
    /// Protected mode with paging.
    pub cr0: u64,
    /// Address of the page tables.
    pub cr3: u64,
    /// Physical-address extension.
    pub cr4: u64,
    /// Long mode.
    pub efer: u64,
    /// Code segment.
    pub cs: Segment,
    /// DS, ES, SS, FS and GS.
    pub data: Segment,
    /// Task register.
    pub tr: Segment,
    /// LDT register: unusable.
    pub ldtr: Segment,
    /// Descriptor table.
    pub gdtr: TableRegister,
    /// Interrupt table: empty, an exception here ends the guest.
    pub idtr: TableRegister,
}

impl EntryState {
    /// The state that enters a kernel at `rip`.
    #[must_use]
    pub const fn at(rip: u64) -> Self {
        Self {
            rip,
            rsp: STACK_END,
            rsi: ZERO_PAGE,
            rflags: RFLAGS_FIXED,
            cr0: CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_NUMERIC_ERROR | CR0_PAGING,
            cr3: PAGE_TABLES,
            cr4: CR4_PHYSICAL_EXTENSION,
            efer: EFER_LONG_ENABLE | EFER_LONG_ACTIVE,
            cs: Segment { selector: CODE_SELECTOR, base: 0, limit: u32::MAX, access_rights: CODE_RIGHTS },
            data: Segment { selector: DATA_SELECTOR, base: 0, limit: u32::MAX, access_rights: DATA_RIGHTS },
            tr: Segment { selector: TASK_SELECTOR, base: 0, limit: 0x67, access_rights: TASK_RIGHTS },
            ldtr: Segment { selector: 0, base: 0, limit: 0, access_rights: UNUSABLE_RIGHTS },
            gdtr: TableRegister { base: GDT, limit: 8 * GDT_ENTRIES.len() as u32 - 1 },
            idtr: TableRegister { base: 0, limit: 0 },
        }
    }
}

/// Writes descriptor table and page tables: the first 4 GiB mapped to themselves in pages of 2 MiB.
///
/// # Errors
/// [`MemoryError`] if the guest has no memory there.
pub fn write_tables(memory: &impl GuestMemory) -> Result<(), MemoryError> {
    for (index, entry) in (0..).zip(GDT_ENTRIES) {
        memory.write(Gpa::new(GDT + 8 * index), &entry.to_le_bytes())?;
    }
    let level_3 = PAGE_TABLES + PAGE;
    let level_2 = level_3 + PAGE;
    write_table(memory, PAGE_TABLES, |index| if index == 0 { level_3 | PRESENT | WRITABLE } else { 0 })?;
    write_table(memory, level_3, |index| {
        if index < GIGABYTES { (level_2 + index * PAGE) | PRESENT | WRITABLE } else { 0 }
    })?;
    for gigabyte in 0..GIGABYTES {
        write_table(memory, level_2 + gigabyte * PAGE, |index| {
            gigabyte << 30 | index << 21 | PRESENT | WRITABLE | LARGE
        })?;
    }
    Ok(())
}

fn write_table(
    memory: &impl GuestMemory,
    address: u64,
    entry: impl Fn(u64) -> u64,
) -> Result<(), MemoryError> {
    let mut table = [0; PAGE as usize];
    for (index, bytes) in (0..).zip(table.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&entry(index).to_le_bytes());
    }
    memory.write(Gpa::new(address), &table)
}
