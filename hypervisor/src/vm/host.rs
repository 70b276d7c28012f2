#![expect(unsafe_code, reason = "turning VMX on, and guest registers that live in the processor")]
//! The processor's side of running guests: VMX on each CPU, host state in a VMCS, and guest registers that
//! stay in the processor until another guest takes it.

use alloc::boxed::Box;

use godwit_vmx::capability::{Capabilities, FeatureControl};
use godwit_vmx::controls::SecondaryControls;
use godwit_vmx::field;
use godwit_vmx::fpu::{self, Components, XsaveArea};
use godwit_vmx::instruction::{self, VmFail};
use godwit_vmx::msr;
use godwit_vmx::vmcs::{Current, Vmcs, VmcsAccess};
use godwit_vmx::world_switch;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr0, Cr3, Cr4};
use x86_64::registers::model_specific::{FsBase, GsBase, Msr};
use x86_64::registers::segmentation::{CS, Segment, SegmentSelector};

use super::frames;
use crate::arch::cpu::{cpuid, try_read_msr, try_write_msr};

const CPUID_VMX: u32 = 1 << 5;
const CR4_VMXE: u64 = 1 << 13;
/// Present, and not more than what VM entry checks: the host's data segments may be null (SDM 27.2.3).
const NULL_SELECTOR: u16 = 0;

/// Reads the processor's VMX capabilities.
///
/// # Errors
/// [`godwit_vmx::capability::Unsupported`] says why there is no VMX.
pub fn probe() -> Result<Capabilities, godwit_vmx::capability::Unsupported> {
    if cpuid(1, 0).ecx & CPUID_VMX == 0 {
        return Err(godwit_vmx::capability::Unsupported::NoVmx);
    }
    Capabilities::probe(try_read_msr)
}

/// What one CPU needs to run guests; VMX is on there.
#[derive(Debug)]
pub struct VmxOn {
    _region: frames::Frame,
}

/// Why VMX could not be turned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnableError {
    /// No frame for the VMXON region.
    OutOfMemory,
    /// IA32_FEATURE_CONTROL refused the write.
    FeatureControl,
    /// VMXON was refused.
    Refused(VmFail),
}

impl core::fmt::Display for EnableError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("no memory for the VMXON region"),
            Self::FeatureControl => f.write_str("the processor refuses to let VMX be turned on"),
            Self::Refused(fail) => write!(f, "VMXON was refused: {fail}"),
        }
    }
}

impl core::error::Error for EnableError {}

/// Turns VMX on for the running CPU.
///
/// # Errors
/// [`EnableError`]; the CPU is then as before but for control-register bits without effect.
pub fn enable(capabilities: &Capabilities) -> Result<VmxOn, EnableError> {
    let region = frames::Frame::allocate().ok_or(EnableError::OutOfMemory)?;
    region.write_u32(0, capabilities.revision);
    if capabilities.feature_control == FeatureControl::Unlocked {
        let value = FeatureControl::ENABLE_AND_LOCK;
        let present = try_read_msr(msr::FEATURE_CONTROL).map(FeatureControl::from_msr);
        // SAFETY: allows VMXON, nothing else.
        let done = present == Some(FeatureControl::LockedOn)
            || unsafe { try_write_msr(msr::FEATURE_CONTROL, value) };
        if !done {
            return Err(EnableError::FeatureControl);
        }
    }
    let cr0 = capabilities.cr0.apply(Cr0::read_raw());
    // SAFETY: VMX operation forces only PE, NE and PG, all of which the host has on.
    unsafe { Cr0::write_raw(cr0) };
    let cr4 = capabilities.cr4.apply(Cr4::read_raw() | CR4_VMXE);
    // SAFETY: as above, for VMXE.
    unsafe { Cr4::write_raw(cr4) };
    // SAFETY: the frame is this value's own and begins with the revision identifier.
    unsafe { instruction::vmxon(region.address()) }.map_err(EnableError::Refused)?;
    Ok(VmxOn { _region: region })
}

/// Writes the host state of the running CPU into `vmcs`: where a VM exit leads.
///
/// `registers` is the address of the vCPU's register block.
pub fn write_host_state(vmcs: &mut Vmcs<Current>, registers: u64) {
    let gdt = x86_64::instructions::tables::sgdt();
    let idt = x86_64::instructions::tables::sidt();
    let task = crate::arch::gdt::TASK;
    vmcs.write(field::HOST_CR0, Cr0::read_raw());
    vmcs.write(field::HOST_CR3, Cr3::read_raw().0.start_address().as_u64());
    vmcs.write(field::HOST_CR4, Cr4::read_raw());
    vmcs.write(field::HOST_CS_SELECTOR, CS::get_reg().0);
    for selector in [
        field::HOST_SS_SELECTOR,
        field::HOST_DS_SELECTOR,
        field::HOST_ES_SELECTOR,
        field::HOST_FS_SELECTOR,
        field::HOST_GS_SELECTOR,
    ] {
        vmcs.write(selector, NULL_SELECTOR);
    }
    vmcs.write(field::HOST_TR_SELECTOR, task.0);
    vmcs.write(field::HOST_TR_BASE, task_base(gdt.base, task));
    vmcs.write(field::HOST_GDTR_BASE, gdt.base.as_u64());
    vmcs.write(field::HOST_IDTR_BASE, idt.base.as_u64());
    vmcs.write(field::HOST_FS_BASE, FsBase::read().as_u64());
    vmcs.write(field::HOST_GS_BASE, GsBase::read().as_u64());
    vmcs.write(field::HOST_SYSENTER_CS, 0);
    vmcs.write(field::HOST_SYSENTER_ESP, 0);
    vmcs.write(field::HOST_SYSENTER_EIP, 0);
    vmcs.write(field::HOST_PAT, read_msr(msr::PAT));
    vmcs.write(field::HOST_EFER, read_msr(msr::EFER));
    vmcs.write(field::HOST_RSP, registers);
    vmcs.write(field::HOST_RIP, world_switch::exit_address());
}

/// Base of the task-state segment that `selector` names in the table at `gdt` (SDM figure 8-4).
fn task_base(gdt: VirtAddr, selector: SegmentSelector) -> u64 {
    let descriptor: *const u64 = (gdt + u64::from(selector.index()) * 8).as_ptr();
    // SAFETY: the task register names a present 16-byte descriptor of the loaded table.
    let low = unsafe { descriptor.read_volatile() };
    // SAFETY: as above; the second half of the descriptor.
    let high = unsafe { descriptor.wrapping_add(1).read_volatile() };
    (low >> 16 & 0xff_ffff) | (low >> 56 & 0xff) << 24 | high << 32
}

/// Guest registers that the processor neither loads nor stores at a world switch, and that the host does not
/// use: they stay in the processor until another guest takes it.
#[derive(Clone, Debug, Default)]
pub struct Resident {
    /// IA32_STAR, IA32_LSTAR, IA32_CSTAR, IA32_FMASK, IA32_KERNEL_GS_BASE, IA32_TSC_AUX.
    pub msrs: [u64; 6],
    /// IA32_SPEC_CTRL, if it exists.
    pub spec_ctrl: u64,
    /// CR2.
    pub cr2: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// Extended state; boxed, since the rest moves by value.
    pub xsave: Box<XsaveArea>,
}

const RESIDENT_MSRS: [u32; 6] =
    [msr::STAR, msr::LSTAR, msr::CSTAR, msr::FMASK, msr::KERNEL_GS_BASE, msr::TSC_AUX];

/// What of [`Resident`] this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Residency {
    /// State components that are carried.
    pub components: Components,
    /// Whether IA32_SPEC_CTRL and IA32_PRED_CMD exist.
    pub speculation_control: bool,
    /// Whether IA32_TSC_AUX exists.
    pub tsc_aux: bool,
}

impl Residency {
    /// What the running processor has; `None` if it lacks XSAVE.
    #[must_use]
    pub fn probe(secondary: SecondaryControls) -> Option<Self> {
        const XSAVE: u32 = 1 << 26;
        const SPEC_CTRL: u32 = 1 << 26;
        if cpuid(1, 0).ecx & XSAVE == 0 {
            return None;
        }
        let offered = cpuid(0xd, 0);
        // PKRU stays out: guests do not have protection keys.
        let components =
            Components::supported(u64::from(offered.edx) << 32 | u64::from(offered.eax)) - Components::PKRU;
        let has_leaf_7 = cpuid(0, 0).eax >= 7;
        Some(Self {
            components,
            speculation_control: has_leaf_7 && cpuid(7, 0).edx & SPEC_CTRL != 0,
            tsc_aux: secondary.contains(SecondaryControls::ENABLE_RDTSCP) && has_tsc_aux(),
        })
    }

    fn msrs(&self) -> impl Iterator<Item = (usize, u32)> {
        let count = if self.tsc_aux { 6 } else { 5 };
        RESIDENT_MSRS.into_iter().take(count).enumerate()
    }
}

fn has_tsc_aux() -> bool {
    const RDTSCP: u32 = 1 << 27;
    cpuid(0x8000_0001, 0).edx & RDTSCP != 0
}

impl Resident {
    /// Puts the registers into the processor, with `xcr0` as the guest has it.
    ///
    /// # Safety
    /// The values were validated, and no other guest's registers are in the processor unsaved.
    pub unsafe fn load(&self, residency: &Residency, xcr0: u64) {
        for (index, number) in residency.msrs() {
            write_msr(number, self.msrs[index]);
        }
        if residency.speculation_control {
            write_msr(msr::SPEC_CTRL, self.spec_ctrl);
        }
        write_debug(self.dr, self.dr6);
        set_cr2(self.cr2);
        // SAFETY: the components are what the processor supports, with x87 among them.
        unsafe { fpu::set_xcr0(residency.components.bits()) };
        // SAFETY: the image was validated; the host keeps nothing in these registers.
        unsafe { self.xsave.restore(residency.components) };
        // SAFETY: the value was validated.
        unsafe { fpu::set_xcr0(xcr0) };
    }

    /// Takes the registers from the processor.
    ///
    /// # Safety
    /// The processor holds this guest's registers.
    pub unsafe fn save(&mut self, residency: &Residency) {
        for (index, number) in residency.msrs() {
            self.msrs[index] = read_msr(number);
        }
        if residency.speculation_control {
            self.spec_ctrl = read_msr(msr::SPEC_CTRL);
            write_msr(msr::SPEC_CTRL, 0);
        }
        (self.dr, self.dr6) = read_debug();
        self.cr2 = x86_64::registers::control::Cr2::read_raw();
        // SAFETY: the components are what the processor supports, with x87 among them.
        unsafe { fpu::set_xcr0(residency.components.bits()) };
        // SAFETY: XCR0 enables the components.
        unsafe { self.xsave.save(residency.components) };
    }
}

/// Puts a guest's registers into the processor. See [`Resident::load`].
///
/// Only [`super::machine::Machine::load`] and its neighbours call this, which keep count of whose registers are in the
/// processor; the values come from the processor itself or from a validated state.
pub(super) fn load_resident(resident: &Resident, residency: &Residency, xcr0: u64) {
    // SAFETY: see above.
    unsafe { resident.load(residency, xcr0) };
}

/// Takes a guest's registers from the processor. See [`Resident::save`] and [`load_resident`].
pub(super) fn save_resident(resident: &mut Resident, residency: &Residency) {
    // SAFETY: the callers keep count of whose registers are in the processor.
    unsafe { resident.save(residency) };
}

/// Keeps what the processor has learnt of branches so far from steering those to come: an indirect branch predictor
/// barrier, if the processor has one (the bit that says so is IA32_SPEC_CTRL's too).
pub fn bar_predictions(residency: &Residency) {
    const IBPB: u64 = 1;
    if residency.speculation_control {
        // SAFETY: a command without state, which the hypervisor relies on nothing of.
        let _ = unsafe { try_write_msr(msr::PRED_CMD, IBPB) };
    }
}

fn read_msr(number: u32) -> u64 {
    // SAFETY: only registers that exist on this processor are named here; reading them changes nothing.
    unsafe { Msr::new(number).read() }
}

fn write_msr(number: u32, value: u64) {
    // SAFETY: only registers that the host does not use are written here, with values that were validated.
    unsafe { Msr::new(number).write(value) };
}

/// Sets CR2, for a page fault that is about to be injected.
pub fn set_cr2(address: u64) {
    // SAFETY: the host looks at CR2 only in its own page-fault handler, after the processor has set it.
    unsafe { core::arch::asm!("mov cr2, {}", in(reg) address, options(nostack, nomem, preserves_flags)) };
}

/// DR6, which is the loaded guest's.
#[must_use]
pub fn dr6() -> u64 {
    read_debug().1
}

/// Sets DR6, for a debug exception that is about to be injected. The upper half of `value` is zero.
pub fn set_dr6(value: u64) {
    debug_assert!(value >> 32 == 0);
    // SAFETY: the host does not look at DR6; a value below 2^32 does not fault.
    unsafe { core::arch::asm!("mov dr6, {}", in(reg) value, options(nostack, nomem, preserves_flags)) };
}

fn write_debug(dr: [u64; 4], dr6: u64) {
    // SAFETY: breakpoints are off in the host, since every VM exit resets DR7.
    unsafe {
        core::arch::asm!(
            "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}",
            in(reg) dr[0], in(reg) dr[1], in(reg) dr[2], in(reg) dr[3], in(reg) dr6,
            options(nostack, nomem, preserves_flags),
        );
    }
}

fn read_debug() -> ([u64; 4], u64) {
    let (dr0, dr1, dr2, dr3, dr6): (u64, u64, u64, u64, u64);
    // SAFETY: reading debug registers changes nothing; DR7.GD is clear after a VM exit.
    unsafe {
        core::arch::asm!(
            "mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", "mov {}, dr6",
            out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3, out(reg) dr6,
            options(nostack, nomem, preserves_flags),
        );
    }
    ([dr0, dr1, dr2, dr3], dr6)
}

/// Lets NMIs through again after one made the guest exit: runs the host's handler, whose IRET unblocks them
/// (SDM 26.3).
pub fn handle_nmi() {
    // SAFETY: vector 2 has a handler that only counts.
    unsafe { core::arch::asm!("int 2", options(nostack)) };
}

/// Invalidates what this processor has cached of the mappings under the EPT pointer.
pub fn flush_ept(pointer: u64) {
    // SAFETY: VMX is on, and INVEPT of a single context is a required capability.
    let done = unsafe { instruction::invept(instruction::InveptScope::Single(pointer)) };
    debug_assert!(done.is_ok());
}

/// Invalidates what this processor has cached of the linear mappings of `vpid`.
pub fn flush_vpid(vpid: u16) {
    // SAFETY: VMX is on; VPIDs are used only where INVVPID of a single context exists.
    let done = unsafe { instruction::invvpid(instruction::InvvpidScope::Single(vpid)) };
    debug_assert!(done.is_ok());
}

/// Loads XCR0.
pub fn set_xcr0(value: u64) {
    // SAFETY: only values that `Components::is_valid_xcr0` accepts come here.
    unsafe { fpu::set_xcr0(value) };
}
