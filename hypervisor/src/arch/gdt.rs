#![expect(unsafe_code, reason = "loading descriptor tables and segment registers")]
//! Segments and the task-state segment of one CPU, with a stack of its own for each exception that may strike
//! when the current stack is not to be trusted.

use x86_64::VirtAddr;
use x86_64::instructions::{segmentation::Segment, tables::load_tss};
use x86_64::registers::segmentation::{CS, DS, ES, SS};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Bytes of each interrupt stack.
const STACK_SIZE: usize = 16 * 1024;

/// Code segment of the hypervisor; the first descriptor after the null one.
pub const CODE: SegmentSelector = SegmentSelector::new(1, x86_64::PrivilegeLevel::Ring0);
/// Data segment of the hypervisor.
pub const DATA: SegmentSelector = SegmentSelector::new(2, x86_64::PrivilegeLevel::Ring0);
/// Task-state segment of the CPU.
pub const TASK: SegmentSelector = SegmentSelector::new(3, x86_64::PrivilegeLevel::Ring0);

/// Which interrupt stack an exception uses: an index into the interrupt stack table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Stack {
    /// Non-maskable interrupt.
    NonMaskable = 0,
    /// Double fault.
    DoubleFault = 1,
    /// Machine check.
    MachineCheck = 2,
    /// Page fault, so that a stack that ran over is reported.
    PageFault = 3,
}

const STACKS: usize = 4;

/// Memory for the interrupt stacks of one CPU, in words of 16 bytes, their alignment.
pub type StackMemory = [u128];

/// Length of the [`StackMemory`] of one CPU, in words of 16 bytes.
pub const STACK_WORDS: usize = STACKS * STACK_SIZE / 16;

/// Descriptor tables of one CPU.
pub struct Tables {
    gdt: GlobalDescriptorTable<8>,
    tss: TaskStateSegment,
}

static BOOT: spin::Mutex<Tables> = spin::Mutex::new(Tables::new());
static BOOT_STACKS: spin::Mutex<[u128; STACK_WORDS]> = spin::Mutex::new([0; STACK_WORDS]);

/// The boot CPU's interrupt stacks.
///
/// # Panics
/// If they were taken before.
pub fn boot_stacks() -> &'static mut StackMemory {
    let guard = BOOT_STACKS.try_lock().expect("the boot CPU's stacks are taken once");
    let stacks: &'static mut [u128; STACK_WORDS] = spin::MutexGuard::leak(guard);
    stacks
}

/// The boot CPU's tables, to be loaded once.
///
/// # Panics
/// If they were taken before.
pub fn boot_tables() -> &'static mut Tables {
    spin::MutexGuard::leak(BOOT.try_lock().expect("the boot CPU's tables are taken once"))
}

impl core::fmt::Debug for Tables {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Tables")
    }
}

impl Tables {
    /// Tables not loaded yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { gdt: GlobalDescriptorTable::empty(), tss: TaskStateSegment::new() }
    }

    /// Fills the tables and loads them into the running CPU.
    ///
    /// # Safety
    /// Called with interrupts off, by the CPU that is to own these tables.
    ///
    /// # Panics
    /// If `stacks` is not of [`STACK_WORDS`] words.
    pub unsafe fn load(&'static mut self, stacks: &'static mut StackMemory) {
        assert_eq!(stacks.len(), STACK_WORDS, "a stack for each value of `Stack`");
        for (index, stack) in stacks.chunks_exact(STACK_SIZE / 16).enumerate() {
            self.tss.interrupt_stack_table[index] = VirtAddr::from_ptr(stack.as_ptr_range().end);
        }
        self.gdt = GlobalDescriptorTable::empty();
        self.gdt.append(Descriptor::kernel_code_segment());
        self.gdt.append(Descriptor::kernel_data_segment());
        self.gdt.append(Descriptor::tss_segment(&self.tss));
        self.gdt.load();
        // SAFETY: CODE names the code segment just loaded.
        unsafe { CS::set_reg(CODE) };
        for set in [SS::set_reg, DS::set_reg, ES::set_reg] {
            // SAFETY: DATA names the data segment just loaded.
            unsafe { set(DATA) };
        }
        // SAFETY: TASK names an available TSS descriptor.
        unsafe { load_tss(TASK) };
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}
