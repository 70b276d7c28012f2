//! Offsets and fields of the local APIC's registers (SDM table 11-1).
//!
//! The same numbers serve both faces: xAPIC register `offset` is x2APIC MSR `0x800 + offset / 16`.

pub(super) const ID: u16 = 0x020;
pub(super) const VERSION: u16 = 0x030;
pub(super) const TASK_PRIORITY: u16 = 0x080;
pub(super) const ARBITRATION_PRIORITY: u16 = 0x090;
pub(super) const PROCESSOR_PRIORITY: u16 = 0x0a0;
pub(super) const END_OF_INTERRUPT: u16 = 0x0b0;
pub(super) const REMOTE_READ: u16 = 0x0c0;
pub(super) const LOGICAL_DESTINATION: u16 = 0x0d0;
pub(super) const DESTINATION_FORMAT: u16 = 0x0e0;
pub(super) const SPURIOUS: u16 = 0x0f0;
pub(super) const IN_SERVICE: u16 = 0x100;
pub(super) const IN_SERVICE_LAST: u16 = 0x170;
pub(super) const TRIGGER_MODE: u16 = 0x180;
pub(super) const TRIGGER_MODE_LAST: u16 = 0x1f0;
pub(super) const REQUESTED: u16 = 0x200;
pub(super) const REQUESTED_LAST: u16 = 0x270;
pub(super) const ERROR_STATUS: u16 = 0x280;
pub(super) const COMMAND_LOW: u16 = 0x300;
pub(super) const COMMAND_HIGH: u16 = 0x310;
pub(super) const LVT_TIMER: u16 = 0x320;
pub(super) const LVT_ERROR: u16 = 0x370;
pub(super) const INITIAL_COUNT: u16 = 0x380;
pub(super) const CURRENT_COUNT: u16 = 0x390;
pub(super) const DIVIDE: u16 = 0x3e0;
pub(super) const SELF_IPI: u16 = 0x3f0;

/// Version 0x14 with six local vector table entries, without EOI-broadcast suppression.
pub(super) const VERSION_VALUE: u32 = 5 << 16 | 0x14;

pub(super) const SPURIOUS_ENABLE: u32 = 1 << 8;
/// Vector, software enable, focus checking.
pub(super) const SPURIOUS_WRITABLE: u32 = 0x3ff;
/// Focus checking does not exist in x2APIC mode.
pub(super) const SPURIOUS_WRITABLE_X2: u32 = 0x1ff;

pub(super) const LVT_MASKED: u32 = 1 << 16;
/// Indices of the entries, in register order.
pub(super) const TIMER: usize = 0;
pub(super) const LINT0: usize = 3;
pub(super) const ERROR: usize = 5;
pub(super) const LVT_ENTRIES: usize = 6;
/// What a guest can set in each entry (SDM figure 11-8). Delivery status and remote IRR read zero.
pub(super) const LVT_WRITABLE: [u32; LVT_ENTRIES] = [
    0x0007_00ff, // timer: mode, mask, vector
    0x0001_07ff, // thermal: mask, delivery mode, vector
    0x0001_07ff, // performance counters
    0x0001_a7ff, // LINT0: mask, trigger, polarity, delivery mode, vector
    0x0001_a7ff, // LINT1
    0x0001_00ff, // error: mask, vector
];

pub(super) const ERROR_SEND_ILLEGAL_VECTOR: u8 = 1 << 5;
pub(super) const ERROR_RECEIVE_ILLEGAL_VECTOR: u8 = 1 << 6;
pub(super) const ERROR_ILLEGAL_REGISTER: u8 = 1 << 7;

/// Vector, mode, destination mode, level, trigger, shorthand. Delivery status (bit 12) reads zero.
pub(super) const COMMAND_WRITABLE: u32 = 0x000c_cfff;

/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// First MSR of the x2APIC range.
pub const MSR_X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const MSR_X2APIC_LAST: u32 = 0x8ff;

pub(super) const BASE_BOOTSTRAP: u64 = 1 << 8;
pub(super) const BASE_X2APIC: u64 = 1 << 10;
pub(super) const BASE_ENABLE: u64 = 1 << 11;
pub(super) const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where the register page is after reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
