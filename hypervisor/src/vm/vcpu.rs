//! A virtual processor: its VMCS, the registers beside it, and moving both to and from a saved state.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU16, Ordering};

use godwit_vmx::controls::{EntryControls, SecondaryControls};
use godwit_vmx::event::{Event, Exception};
use godwit_vmx::exit::REASONS;
use godwit_vmx::field::{self, Bits16, Bits32, Field, Natural, ReadWrite};
use godwit_vmx::fpu::XsaveArea;
use godwit_vmx::pml;
use godwit_vmx::tsc::UNITY;
use godwit_vmx::vmcs::VmcsAccess;
use godwit_vmx::world_switch::GuestRegisters;

use super::host::Resident;
use super::page_wait::PageWait;
use super::platform::Platform;
use super::slot::{Loaded, VmcsSlot};
use super::state::{Activity, ControlState, MsrState, SegmentState, SegmentsState, TableState, VcpuState};
use super::virtual_eoi::VirtualEoi;
use crate::exits::control_register::{CR0_HOST_OWNED, real_cr0, real_cr4};
use crate::exits::{CpuContext, Policy};

const EFER_LMA: u64 = 1 << 10;
/// Machine checks are the host's; alignment checks and debug exceptions would loop in the processor if their delivery
/// raised them again, with no exit for the host to step in (CVE-2015-5307, CVE-2015-8104).
const EXCEPTIONS: u32 = 1 << Exception::MachineCheck as u32
    | 1 << Exception::AlignmentCheck as u32
    | 1 << Exception::Debug as u32;
const LINK_NONE: u64 = u64::MAX;

/// Virtual-processor identifiers are given out in turn; 0 is the host's.
static NEXT_VPID: AtomicU16 = AtomicU16::new(1);

/// A virtual processor.
#[derive(Debug)]
pub struct Vcpu {
    /// What exit handlers see of it; its address is in the VMCS.
    pub context: Box<CpuContext>,
    /// Its VMCS.
    pub slot: VmcsSlot,
    /// Registers that stay in the processor while it is this guest's.
    pub resident: Resident,
    /// An event to deliver at the next entry.
    pub event: Option<Event>,
    /// What it is doing.
    pub activity: Activity,
    /// It is halted with interrupts off: nothing wakes it but an NMI or INIT.
    pub deaf: bool,
    /// What it waits for, whatever its activity: a page that has not come.
    pub waits_for: Option<PageWait>,
    /// What the primary controls in the VMCS are.
    pub primary: u32,
    /// Its virtual-processor identifier, if translations are tagged.
    pub vpid: Option<u16>,
    /// Its ends of interrupts, if the processor carries them out.
    pub virtual_eoi: Option<Box<VirtualEoi>>,
    /// A state that goes into the VMCS when that is next current.
    pub pending: Option<Box<VcpuState>>,
}

/// Physical addresses that a VMCS names.
#[derive(Clone, Copy, Debug)]
pub struct Structures {
    /// EPT pointer.
    pub ept_pointer: u64,
    /// MSR bitmap.
    pub msr_bitmap: u64,
    /// I/O bitmaps.
    pub io_bitmaps: [u64; 2],
    /// Page-modification log, if there is one.
    pub pml: Option<u64>,
    /// TSC multiplier.
    pub tsc_multiplier: u64,
    /// Whether a processor that spins exits: there are others to which it gives way.
    pub catch_spinning: bool,
}

/// PAUSEs that are not further apart than this many ticks are of one loop: as far as that goes, the processor's own
/// makers and every hypervisor agree.
const SPIN_GAP_TICKS: u32 = 128;
/// A loop that takes longer than this many ticks waits for somebody who does not run.
const SPIN_TICKS_MAX: u32 = 4096;

type Segment =
    (Field<Bits16, ReadWrite>, Field<Natural, ReadWrite>, Field<Bits32, ReadWrite>, Field<Bits32, ReadWrite>);

/// In the order of [`SegmentsState`].
const SEGMENTS: [Segment; 8] = [
    (field::GUEST_ES_SELECTOR, field::GUEST_ES_BASE, field::GUEST_ES_LIMIT, field::GUEST_ES_ACCESS_RIGHTS),
    (field::GUEST_CS_SELECTOR, field::GUEST_CS_BASE, field::GUEST_CS_LIMIT, field::GUEST_CS_ACCESS_RIGHTS),
    (field::GUEST_SS_SELECTOR, field::GUEST_SS_BASE, field::GUEST_SS_LIMIT, field::GUEST_SS_ACCESS_RIGHTS),
    (field::GUEST_DS_SELECTOR, field::GUEST_DS_BASE, field::GUEST_DS_LIMIT, field::GUEST_DS_ACCESS_RIGHTS),
    (field::GUEST_FS_SELECTOR, field::GUEST_FS_BASE, field::GUEST_FS_LIMIT, field::GUEST_FS_ACCESS_RIGHTS),
    (field::GUEST_GS_SELECTOR, field::GUEST_GS_BASE, field::GUEST_GS_LIMIT, field::GUEST_GS_ACCESS_RIGHTS),
    (
        field::GUEST_LDTR_SELECTOR,
        field::GUEST_LDTR_BASE,
        field::GUEST_LDTR_LIMIT,
        field::GUEST_LDTR_ACCESS_RIGHTS,
    ),
    (field::GUEST_TR_SELECTOR, field::GUEST_TR_BASE, field::GUEST_TR_LIMIT, field::GUEST_TR_ACCESS_RIGHTS),
];

impl Vcpu {
    /// Processor `index` of a machine, which will begin in `state` (validated, its extended state in `xsave`).
    #[must_use]
    pub fn new(
        index: usize,
        slot: VmcsSlot,
        platform: &Platform,
        state: Box<VcpuState>,
        parts: (Box<XsaveArea>, Option<Event>),
    ) -> Self {
        let context = CpuContext {
            registers: GuestRegisters::default(),
            index,
            xcr0: 1,
            tsc_adjust: 0,
            mtrr_def_type: 0,
            nmi_pending: false,
            attention: true,
            counts: [0; REASONS],
            wild_accesses: 0,
        };
        let vpid = platform.controls.has_vpid().then(next_vpid);
        let mut vcpu = Self {
            context: Box::new(context),
            slot,
            resident: Resident::default(),
            event: None,
            activity: Activity::Active,
            deaf: false,
            waits_for: None,
            primary: platform.controls.primary.bits(),
            vpid,
            virtual_eoi: None,
            pending: None,
        };
        vcpu.restore(state, parts);
        vcpu
    }

    /// Takes over a state, validated, with its extended state and event as [`VcpuState::validate`] gives them. The
    /// VMCS follows when it is next current.
    pub fn restore(&mut self, state: Box<VcpuState>, (xsave, event): (Box<XsaveArea>, Option<Event>)) {
        let context = &mut *self.context;
        for (index, value) in (0..).zip(state.general) {
            if let Some(register) = context.registers.get_mut(index) {
                *register = value;
            }
        }
        context.xcr0 = state.control.xcr0;
        context.tsc_adjust = state.msrs.tsc_adjust;
        context.mtrr_def_type = state.msrs.mtrr_def_type;
        context.nmi_pending = state.nmi_pending;
        context.attention = true;
        let msrs = &state.msrs;
        self.resident = Resident {
            msrs: [msrs.star, msrs.lstar, msrs.cstar, msrs.fmask, msrs.kernel_gs_base, msrs.tsc_aux],
            spec_ctrl: msrs.spec_ctrl,
            cr2: state.control.cr2,
            dr: state.control.dr,
            dr6: state.control.dr6,
            xsave,
        };
        self.event = event;
        self.activity = state.activity;
        self.deaf = false;
        self.waits_for = None;
        self.pending = Some(state);
    }

    /// The identifier whose translations this CPU is to forget, now that the VMCS is `loaded`: they may be of the
    /// identifier's last bearer, or of the state before the one that is about to go into the VMCS.
    #[must_use]
    pub fn vpid_to_flush(&self, loaded: Loaded) -> Option<u16> {
        self.vpid.filter(|_vpid| loaded == Loaded::Fresh || self.pending.is_some())
    }

    /// Saves the processor's state. Its VMCS is current, [`Self::resident`] up to date, and it does not run.
    #[must_use]
    pub fn save(&self, vmcs: &impl VmcsAccess) -> VcpuState {
        // A wait is no state: whatever waits is executed again. Whether it is deaf follows from its flags.
        let Self {
            context,
            slot: _,
            resident,
            event,
            activity,
            deaf: _,
            waits_for: _,
            primary: _,
            vpid: _,
            virtual_eoi: _,
            pending: _,
        } = self;
        let CpuContext {
            registers,
            index: _,
            xcr0,
            tsc_adjust,
            mtrr_def_type,
            nmi_pending,
            attention: _,
            counts: _,
            wild_accesses: _,
        } = &**context;
        let mut general = [0; 16];
        for (number, place) in (0..).zip(&mut general) {
            *place = registers.get(number).unwrap_or_else(|| vmcs.read(field::GUEST_RSP));
        }
        let Resident { msrs, spec_ctrl, cr2: _, dr: _, dr6: _, xsave } = resident;
        let [star, lstar, cstar, fmask, kernel_gs_base, tsc_aux] = *msrs;
        VcpuState {
            general,
            rip: vmcs.read(field::GUEST_RIP),
            rflags: vmcs.read(field::GUEST_RFLAGS),
            control: save_control(vmcs, *xcr0, resident),
            segments: save_segments(vmcs),
            msrs: MsrState {
                efer: vmcs.read(field::GUEST_EFER),
                pat: vmcs.read(field::GUEST_PAT),
                debugctl: vmcs.read(field::GUEST_DEBUGCTL),
                sysenter_cs: vmcs.read(field::GUEST_SYSENTER_CS).into(),
                sysenter_esp: vmcs.read(field::GUEST_SYSENTER_ESP),
                sysenter_eip: vmcs.read(field::GUEST_SYSENTER_EIP),
                star,
                lstar,
                cstar,
                fmask,
                kernel_gs_base,
                tsc_aux,
                spec_ctrl: *spec_ctrl,
                tsc_adjust: *tsc_adjust,
                mtrr_def_type: *mtrr_def_type,
            },
            interruptibility: vmcs.read(field::GUEST_INTERRUPTIBILITY),
            pending_debug: vmcs.read(field::GUEST_PENDING_DEBUG),
            activity: *activity,
            pending_event: event.map(VcpuState::save_event),
            nmi_pending: *nmi_pending,
            xsave: xsave.as_bytes().to_vec(),
        }
    }

    /// Fills a VMCS that has just become current for the first time, or takes over a restored state.
    pub fn fill(
        vmcs: &mut impl VmcsAccess,
        state: &VcpuState,
        platform: &Platform,
        policy: &Policy,
        structures: &Structures,
        vpid: Option<u16>,
    ) {
        write_controls(vmcs, platform, policy, structures, vpid);
        vmcs.write(field::GUEST_CR0, real_cr0(state.control.cr0, policy.cr0));
        vmcs.write(field::CR0_SHADOW, state.control.cr0);
        vmcs.write(field::GUEST_CR4, real_cr4(state.control.cr4, policy.cr4));
        vmcs.write(field::CR4_SHADOW, state.control.cr4);
        vmcs.write(field::GUEST_CR3, state.control.cr3);
        vmcs.write(field::GUEST_DR7, state.control.dr7);
        for (pdpte, value) in PDPTES.into_iter().zip(state.control.pdptes) {
            vmcs.write(pdpte, value);
        }
        vmcs.write(field::GUEST_RSP, state.general[4]);
        vmcs.write(field::GUEST_RIP, state.rip);
        vmcs.write(field::GUEST_RFLAGS, state.rflags);
        load_segments(vmcs, &state.segments);
        let msrs = &state.msrs;
        vmcs.write(field::GUEST_EFER, msrs.efer);
        vmcs.write(field::GUEST_PAT, msrs.pat);
        vmcs.write(field::GUEST_DEBUGCTL, msrs.debugctl);
        vmcs.write(field::GUEST_SYSENTER_CS, msrs.sysenter_cs as u32);
        vmcs.write(field::GUEST_SYSENTER_ESP, msrs.sysenter_esp);
        vmcs.write(field::GUEST_SYSENTER_EIP, msrs.sysenter_eip);
        let long = if msrs.efer & EFER_LMA != 0 { EntryControls::IA32E_MODE_GUEST.bits() } else { 0 };
        vmcs.write(field::ENTRY_CONTROLS, platform.controls.entry.bits() | long);
        vmcs.write(field::GUEST_INTERRUPTIBILITY, state.interruptibility);
        vmcs.write(field::GUEST_PENDING_DEBUG, state.pending_debug);
        vmcs.write(field::GUEST_ACTIVITY, 0);
        vmcs.write(field::ENTRY_INTERRUPTION_INFO, 0);
        vmcs.write(field::VMCS_LINK_POINTER, LINK_NONE);
    }
}

const PDPTES: [Field<field::Bits64, ReadWrite>; 4] =
    [field::GUEST_PDPTE0, field::GUEST_PDPTE1, field::GUEST_PDPTE2, field::GUEST_PDPTE3];

/// The VMX-preemption timer, exceptions, bitmaps: what does not change while the guest runs.
fn write_controls(
    vmcs: &mut impl VmcsAccess,
    platform: &Platform,
    policy: &Policy,
    structures: &Structures,
    vpid: Option<u16>,
) {
    let controls = &platform.controls;
    let mut secondary = controls.secondary;
    if structures.tsc_multiplier != UNITY {
        vmcs.write(field::TSC_MULTIPLIER, structures.tsc_multiplier);
        secondary |= SecondaryControls::USE_TSC_SCALING;
    }
    if structures.catch_spinning {
        vmcs.write(field::PLE_GAP, SPIN_GAP_TICKS);
        vmcs.write(field::PLE_WINDOW, SPIN_TICKS_MAX);
        secondary |= SecondaryControls::PAUSE_LOOP_EXITING;
    }
    vmcs.write(field::PIN_CONTROLS, controls.pin.bits());
    vmcs.write(field::PRIMARY_CONTROLS, controls.primary.bits());
    vmcs.write(field::SECONDARY_CONTROLS, secondary.bits());
    vmcs.write(field::EXIT_CONTROLS, controls.exit.bits());
    vmcs.write(field::EXCEPTION_BITMAP, EXCEPTIONS);
    vmcs.write(field::PAGE_FAULT_ERROR_MASK, 0);
    vmcs.write(field::PAGE_FAULT_ERROR_MATCH, 0);
    vmcs.write(field::CR3_TARGET_COUNT, 0);
    vmcs.write(field::EXIT_MSR_STORE_COUNT, 0);
    vmcs.write(field::EXIT_MSR_LOAD_COUNT, 0);
    vmcs.write(field::ENTRY_MSR_LOAD_COUNT, 0);
    vmcs.write(field::CR0_MASK, CR0_HOST_OWNED);
    vmcs.write(field::CR4_MASK, !policy.cr4_guest);
    vmcs.write(field::MSR_BITMAP, structures.msr_bitmap);
    vmcs.write(field::IO_BITMAP_A, structures.io_bitmaps[0]);
    vmcs.write(field::IO_BITMAP_B, structures.io_bitmaps[1]);
    vmcs.write(field::EPT_POINTER, structures.ept_pointer);
    if let Some(vpid) = vpid {
        vmcs.write(field::VPID, vpid);
    }
    if let Some(log) = structures.pml {
        vmcs.write(field::PML_ADDRESS, log);
        vmcs.write(field::PML_INDEX, pml::EMPTY_INDEX);
    }
}

/// Control and debug registers: those in the VMCS and those that stay in the processor.
fn save_control(vmcs: &impl VmcsAccess, xcr0: u64, resident: &Resident) -> ControlState {
    ControlState {
        cr0: shown(vmcs.read(field::GUEST_CR0), vmcs.read(field::CR0_SHADOW), vmcs.read(field::CR0_MASK)),
        cr2: resident.cr2,
        cr3: vmcs.read(field::GUEST_CR3),
        cr4: shown(vmcs.read(field::GUEST_CR4), vmcs.read(field::CR4_SHADOW), vmcs.read(field::CR4_MASK)),
        xcr0,
        dr: resident.dr,
        dr6: resident.dr6,
        dr7: vmcs.read(field::GUEST_DR7),
        pdptes: PDPTES.map(|pdpte| vmcs.read(pdpte)),
    }
}

fn save_segments(vmcs: &impl VmcsAccess) -> SegmentsState {
    let [es, cs, ss, ds, fs, gs, ldtr, tr] = SEGMENTS.map(|(selector, base, limit, access)| SegmentState {
        selector: vmcs.read(selector),
        base: vmcs.read(base),
        limit: vmcs.read(limit),
        access: vmcs.read(access),
    });
    let gdtr =
        TableState { base: vmcs.read(field::GUEST_GDTR_BASE), limit: vmcs.read(field::GUEST_GDTR_LIMIT) };
    let idtr =
        TableState { base: vmcs.read(field::GUEST_IDTR_BASE), limit: vmcs.read(field::GUEST_IDTR_LIMIT) };
    SegmentsState { es, cs, ss, ds, fs, gs, ldtr, tr, gdtr, idtr }
}

fn load_segments(vmcs: &mut impl VmcsAccess, state: &SegmentsState) {
    let SegmentsState { es, cs, ss, ds, fs, gs, ldtr, tr, gdtr, idtr } = *state;
    for (fields, segment) in SEGMENTS.into_iter().zip([es, cs, ss, ds, fs, gs, ldtr, tr]) {
        let (selector, base, limit, access) = fields;
        vmcs.write(selector, segment.selector);
        vmcs.write(base, segment.base);
        vmcs.write(limit, segment.limit);
        vmcs.write(access, segment.access);
    }
    vmcs.write(field::GUEST_GDTR_BASE, gdtr.base);
    vmcs.write(field::GUEST_GDTR_LIMIT, gdtr.limit);
    vmcs.write(field::GUEST_IDTR_BASE, idtr.base);
    vmcs.write(field::GUEST_IDTR_LIMIT, idtr.limit);
}

/// A control register as the guest reads it.
const fn shown(real: u64, shadow: u64, mask: u64) -> u64 {
    real & !mask | shadow & mask
}

fn next_vpid() -> u16 {
    loop {
        let vpid = NEXT_VPID.fetch_add(1, Ordering::Relaxed);
        if vpid != 0 {
            return vpid;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use godwit_vmx::event::Exception;
    use godwit_vmx::preemption_timer::PreemptionTimer;
    use godwit_vmx::vmcs::FakeVmcs;

    use super::super::controls::Controls;
    use super::super::controls::tests::kvm;
    use super::super::dirty::DirtySource;
    use super::super::host::Residency;
    use super::super::state::Entry64;
    use super::*;
    use crate::exits::testing::policy;
    use godwit_vmx::fpu::Components;

    pub(crate) fn platform() -> Platform {
        let capabilities = kvm();
        Platform {
            capabilities,
            controls: Controls::negotiate(&capabilities).unwrap(),
            residency: Residency {
                components: Components::X87 | Components::SSE,
                speculation_control: false,
                tsc_aux: true,
            },
            timer: PreemptionTimer::new(5),
            dirty_source: DirtySource::Pml,
            tsc_hz: 1_000_000_000,
        }
    }

    fn state() -> VcpuState {
        let mut state = VcpuState::for_64_bit_entry(&Entry64 {
            rip: 0x100_0200,
            rsp: 0x8000,
            rsi: 0x9_0000,
            cr3: 0x8_0000,
            gdt_base: 0x7_0000,
            gdt_limit: 31,
            code_selector: 0x10,
            data_selector: 0x18,
        });
        state.control.cr2 = 0xdead_b000;
        state.control.cr4 |= 1 << 6;
        state.msrs.lstar = 0xffff_ffff_8100_0000;
        state.msrs.tsc_adjust = 77;
        state.interruptibility = 1;
        state.activity = Activity::Halted;
        state.nmi_pending = true;
        state.general[15] = 15;
        state
    }

    const STRUCTURES: Structures = Structures {
        ept_pointer: 0x5e,
        msr_bitmap: 0x1000,
        io_bitmaps: [0x2000, 0x3000],
        pml: None,
        tsc_multiplier: UNITY,
        catch_spinning: false,
    };

    #[test]
    fn what_is_restored_is_what_was_saved() {
        let (platform, policy, state) = (platform(), policy(), state());
        let parts = state.validate(&platform.limits(&policy)).unwrap();
        let mut vcpu = Vcpu::new(0, VmcsSlot::Gone, &platform, Box::new(state.clone()), parts);
        let structures = Structures { pml: Some(0x4000), catch_spinning: true, ..STRUCTURES };
        let mut vmcs = FakeVmcs::new();
        let pending = vcpu.pending.take().unwrap();
        Vcpu::fill(&mut vmcs, &pending, &platform, &policy, &structures, vcpu.vpid);
        assert_eq!(vcpu.save(&vmcs), state);
        assert_eq!(vmcs.read(field::PML_INDEX), pml::EMPTY_INDEX);
        let spinning = SecondaryControls::PAUSE_LOOP_EXITING.bits();
        assert_ne!(vmcs.read(field::SECONDARY_CONTROLS) & spinning, 0);
        assert_eq!((vmcs.read(field::PLE_GAP), vmcs.read(field::PLE_WINDOW)), (128, 4096));
        assert_eq!(vmcs.read(field::EXCEPTION_BITMAP), 1 << 18 | 1 << 17 | 1 << 1);
        assert_ne!(vmcs.read(field::ENTRY_CONTROLS) & EntryControls::IA32E_MODE_GUEST.bits(), 0);
        assert_eq!(vmcs.read(field::GUEST_CR4) & (1 << 13), 1 << 13, "VMXE is on in truth");
    }

    #[test]
    fn a_processor_that_waits_to_be_started_is_restored_as_one() {
        let (platform, policy) = (platform(), policy());
        let waiting = super::super::startup::after_init(state());
        let parts = waiting.validate(&platform.limits(&policy)).unwrap();
        let mut vcpu = Vcpu::new(1, VmcsSlot::Gone, &platform, Box::new(waiting.clone()), parts);
        let mut vmcs = FakeVmcs::new();
        let pending = vcpu.pending.take().unwrap();
        Vcpu::fill(&mut vmcs, &pending, &platform, &policy, &STRUCTURES, vcpu.vpid);
        assert_eq!(vcpu.save(&vmcs), waiting);
        assert_eq!(vmcs.read(field::GUEST_CR0) & (1 << 31 | 1), 0, "real mode");
        assert_eq!(vmcs.read(field::ENTRY_CONTROLS) & EntryControls::IA32E_MODE_GUEST.bits(), 0);
        assert_eq!(vmcs.read(field::SECONDARY_CONTROLS) & SecondaryControls::PAUSE_LOOP_EXITING.bits(), 0);
    }

    /// A source that calls its stop back makes another later: the target restores again, over what it restored before.
    #[test]
    fn a_second_restore_replaces_all_of_the_first() {
        let (platform, policy, second) = (platform(), policy(), state());
        let mut first = VcpuState::for_64_bit_entry(&Entry64 {
            rip: 0x200,
            rsp: 1,
            rsi: 2,
            cr3: 0x3000,
            gdt_base: 0x4000,
            gdt_limit: 5,
            code_selector: 0x8,
            data_selector: 0x20,
        });
        first.general[3] = 33;
        first.control.dr = [1, 2, 3, 4];
        first.msrs.kernel_gs_base = 6;
        first.pending_event =
            Some(VcpuState::save_event(Event::exception_with_code(Exception::PageFault, 2)));
        let validated = |state: &VcpuState| state.validate(&platform.limits(&policy)).unwrap();
        let mut vcpu = Vcpu::new(0, VmcsSlot::Gone, &platform, Box::new(state()), validated(&state()));
        let mut vmcs = FakeVmcs::new();
        vcpu.restore(Box::new(first.clone()), validated(&first));
        let pending = vcpu.pending.take().unwrap();
        Vcpu::fill(&mut vmcs, &pending, &platform, &policy, &STRUCTURES, vcpu.vpid);
        assert_eq!(vcpu.save(&vmcs), first);
        vcpu.restore(Box::new(second.clone()), validated(&second));
        let pending = vcpu.pending.take().unwrap();
        Vcpu::fill(&mut vmcs, &pending, &platform, &policy, &STRUCTURES, vcpu.vpid);
        assert_eq!(vcpu.save(&vmcs), second);
    }

    #[test]
    fn translations_of_another_cpu_or_of_a_state_that_is_gone_are_forgotten() {
        let (platform, policy) = (platform(), policy());
        let parts = || state().validate(&platform.limits(&policy)).unwrap();
        let mut vcpu = Vcpu::new(0, VmcsSlot::Gone, &platform, Box::new(state()), parts());
        let vpid = vcpu.vpid;
        assert!(vpid.is_some());
        vcpu.pending = None;
        assert_eq!(vcpu.vpid_to_flush(Loaded::Again), None);
        assert_eq!(vcpu.vpid_to_flush(Loaded::Fresh), vpid);
        vcpu.restore(Box::new(state()), parts());
        assert_eq!(vcpu.vpid_to_flush(Loaded::Again), vpid, "INIT, or a state that was received");
        vcpu.vpid = None;
        assert_eq!(vcpu.vpid_to_flush(Loaded::Fresh), None, "nothing is tagged");
    }

    #[test]
    fn identifiers_are_never_the_hosts() {
        NEXT_VPID.store(u16::MAX, Ordering::Relaxed);
        assert_eq!(next_vpid(), u16::MAX);
        assert_eq!(next_vpid(), 1);
    }
}
