//! A virtual processor's architectural state, saved: a type of its own, apart from the runtime structures.
//!
//! Whoever restores a state has not seen it before: [`VcpuState::validate`] checks everything that could fault
//! in the host. What only the guest would suffer from is left to the processor's checks at VM entry.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use godwit_vmx::event::{Event, EventKind};
use godwit_vmx::fpu::{Components, InvalidImage, XsaveArea};
use minicbor::{Decode, Encode};

/// Version of this structure; sections carry it.
pub const VERSION: u32 = 1;

/// A segment register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SegmentState {
    /// Selector.
    #[n(0)]
    pub selector: u16,
    /// Base address.
    #[n(1)]
    pub base: u64,
    /// Limit in bytes.
    #[n(2)]
    pub limit: u32,
    /// Access rights in the VMCS's format (SDM table 25-2).
    #[n(3)]
    pub access: u32,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TableState {
    /// Base address.
    #[n(0)]
    pub base: u64,
    /// Limit in bytes.
    #[n(1)]
    pub limit: u32,
}

/// Segments in the order of their encoding, then LDTR and TR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct SegmentsState {
    #[n(0)]
    pub es: SegmentState,
    #[n(1)]
    pub cs: SegmentState,
    #[n(2)]
    pub ss: SegmentState,
    #[n(3)]
    pub ds: SegmentState,
    #[n(4)]
    pub fs: SegmentState,
    #[n(5)]
    pub gs: SegmentState,
    #[n(6)]
    pub ldtr: SegmentState,
    #[n(7)]
    pub tr: SegmentState,
    #[n(8)]
    pub gdtr: TableState,
    #[n(9)]
    pub idtr: TableState,
}

/// Control and debug registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct ControlState {
    /// As the guest wrote it.
    #[n(0)]
    pub cr0: u64,
    #[n(1)]
    pub cr2: u64,
    #[n(2)]
    pub cr3: u64,
    /// As the guest wrote it.
    #[n(3)]
    pub cr4: u64,
    #[n(4)]
    pub xcr0: u64,
    #[n(5)]
    pub dr: [u64; 4],
    #[n(6)]
    pub dr6: u64,
    #[n(7)]
    pub dr7: u64,
    /// Page-directory-pointer entries, for PAE paging.
    #[n(8)]
    pub pdptes: [u64; 4],
}

/// Model-specific registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct MsrState {
    #[n(0)]
    pub efer: u64,
    #[n(1)]
    pub pat: u64,
    #[n(2)]
    pub debugctl: u64,
    #[n(3)]
    pub sysenter_cs: u64,
    #[n(4)]
    pub sysenter_esp: u64,
    #[n(5)]
    pub sysenter_eip: u64,
    #[n(6)]
    pub star: u64,
    #[n(7)]
    pub lstar: u64,
    #[n(8)]
    pub cstar: u64,
    #[n(9)]
    pub fmask: u64,
    #[n(10)]
    pub kernel_gs_base: u64,
    #[n(11)]
    pub tsc_aux: u64,
    #[n(12)]
    pub spec_ctrl: u64,
    #[n(13)]
    pub tsc_adjust: u64,
    #[n(14)]
    pub mtrr_def_type: u64,
}

/// What the processor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Activity {
    /// Executing instructions.
    #[default]
    #[n(0)]
    Active,
    /// Waiting in HLT.
    #[n(1)]
    Halted,
    /// Waiting for a start-up IPI.
    #[n(2)]
    WaitingForStartup,
}

/// An event that was in delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PendingEvent {
    /// Kind and vector in the format of the interruption-information field.
    #[n(0)]
    pub info: u32,
    /// Error code.
    #[n(1)]
    pub error_code: u32,
    /// Instruction length of a software event.
    #[n(2)]
    pub instruction_length: u8,
}

/// A virtual processor.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct VcpuState {
    /// RAX to R15 in the order of their encoding, RSP among them.
    #[n(0)]
    pub general: [u64; 16],
    /// Instruction pointer.
    #[n(1)]
    pub rip: u64,
    /// Flags.
    #[n(2)]
    pub rflags: u64,
    /// Control and debug registers.
    #[n(3)]
    pub control: ControlState,
    /// Segments and tables.
    #[n(4)]
    pub segments: SegmentsState,
    /// Model-specific registers.
    #[n(5)]
    pub msrs: MsrState,
    /// Interruptibility in the VMCS's format (SDM table 25-3).
    #[n(6)]
    pub interruptibility: u32,
    /// Pending debug exceptions in the VMCS's format (SDM table 25-4).
    #[n(7)]
    pub pending_debug: u64,
    /// What the processor is doing.
    #[n(8)]
    pub activity: Activity,
    /// An event that was in delivery.
    #[n(9)]
    pub pending_event: Option<PendingEvent>,
    /// A non-maskable interrupt waits.
    #[n(10)]
    pub nmi_pending: bool,
    /// XSAVE image, standard format.
    #[cbor(n(11), with = "minicbor::bytes")]
    pub xsave: Vec<u8>,
}

/// What a state is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// State components that this host carries.
    pub components: Components,
    /// CR4 bits that guests may set.
    pub cr4_allowed: u64,
    /// IA32_SPEC_CTRL bits that guests may set.
    pub spec_ctrl_allowed: u64,
}

/// Why a state cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidState {
    /// A register holds a value that this host's processor would refuse.
    Register {
        /// Which.
        name: &'static str,
        /// The value.
        value: u64,
    },
    /// The pending event cannot be injected.
    Event(u32),
    /// The extended state cannot be loaded.
    Xsave(InvalidImage),
    /// The state is of a machine with another number of processors.
    Vcpus(usize),
    /// The guest's TSC has a frequency that this host can neither run nor scale to.
    TscFrequency(u64),
}

impl fmt::Display for InvalidState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { name, value } => write!(f, "{name} holds {value:#x}, which this host refuses"),
            Self::Event(info) => write!(f, "the pending event {info:#x} cannot be delivered"),
            Self::Xsave(image) => image.fmt(f),
            Self::Vcpus(count) => write!(f, "the state is of {count} processors"),
            Self::TscFrequency(hz) => {
                write!(f, "the guest's TSC runs at {hz} Hz, which this host cannot provide")
            }
        }
    }
}

impl core::error::Error for InvalidState {}

const CR0_DEFINED: u64 = 0xe005_003f;
const EFER_DEFINED: u64 = 0xd01;
const DEBUGCTL_DEFINED: u64 = 0b11;
/// RFLAGS bits that are not reserved, and the one that is always 1.
const RFLAGS_DEFINED: u64 = 0x3f_7fd5;
pub(super) const RFLAGS_ONE: u64 = 2;
/// Blocking by STI, MOV SS and NMI.
const INTERRUPTIBILITY_DEFINED: u32 = 0b1011;

const fn is_canonical(address: u64) -> bool {
    let sign = address as i64 >> 47;
    sign == 0 || sign == -1
}

const fn is_pat(value: u64) -> bool {
    let mut byte = 0;
    while byte < 8 {
        if !matches!(value >> (8 * byte) & 0xff, 0 | 1 | 4 | 5 | 6 | 7) {
            return false;
        }
        byte += 1;
    }
    true
}

impl VcpuState {
    /// Checks what could fault in the host or weaken it, and returns the parts in the form that is loaded.
    ///
    /// # Errors
    /// [`InvalidState`] names what is wrong.
    pub fn validate(&self, limits: &Limits) -> Result<(Box<XsaveArea>, Option<Event>), InvalidState> {
        let refuse = |name, value| Err(InvalidState::Register { name, value });
        let (control, msrs) = (&self.control, &self.msrs);
        let masked = [
            ("CR0", control.cr0, CR0_DEFINED),
            ("CR4", control.cr4, limits.cr4_allowed),
            ("EFER", msrs.efer, EFER_DEFINED),
            ("IA32_DEBUGCTL", msrs.debugctl, DEBUGCTL_DEFINED),
            ("IA32_SPEC_CTRL", msrs.spec_ctrl, limits.spec_ctrl_allowed),
            ("IA32_FMASK", msrs.fmask, 0xffff_ffff),
            ("IA32_TSC_AUX", msrs.tsc_aux, 0xffff_ffff),
            ("IA32_SYSENTER_CS", msrs.sysenter_cs, 0xffff_ffff),
            ("DR6", control.dr6, 0xffff_ffff),
            ("DR7", control.dr7, 0xffff_ffff),
            ("RFLAGS", self.rflags, RFLAGS_DEFINED | RFLAGS_ONE),
            ("interruptibility", self.interruptibility.into(), INTERRUPTIBILITY_DEFINED.into()),
        ];
        for (name, value, allowed) in masked {
            if value & !allowed != 0 {
                return refuse(name, value);
            }
        }
        let addresses = [
            ("IA32_LSTAR", msrs.lstar),
            ("IA32_CSTAR", msrs.cstar),
            ("IA32_KERNEL_GS_BASE", msrs.kernel_gs_base),
            ("IA32_SYSENTER_ESP", msrs.sysenter_esp),
            ("IA32_SYSENTER_EIP", msrs.sysenter_eip),
            ("FS base", self.segments.fs.base),
            ("GS base", self.segments.gs.base),
        ];
        for (name, value) in addresses {
            if !is_canonical(value) {
                return refuse(name, value);
            }
        }
        if !is_pat(msrs.pat) {
            return refuse("IA32_PAT", msrs.pat);
        }
        if !Components::is_valid_xcr0(control.xcr0, limits.components) {
            return refuse("XCR0", control.xcr0);
        }
        let xsave = XsaveArea::from_bytes(&self.xsave, limits.components).map_err(InvalidState::Xsave)?;
        Ok((Box::new(xsave), self.event()?))
    }

    fn event(&self) -> Result<Option<Event>, InvalidState> {
        let Some(pending) = self.pending_event else { return Ok(None) };
        let length = u32::from(pending.instruction_length);
        match Event::from_info(pending.info, pending.error_code, length) {
            Some(event) if event.is_injectable() => Ok(Some(event)),
            _ => Err(InvalidState::Event(pending.info)),
        }
    }

    /// The saved form of an event in delivery.
    #[must_use]
    pub fn save_event(event: Event) -> PendingEvent {
        let software = matches!(
            event.kind,
            EventKind::SoftwareInterrupt
                | EventKind::SoftwareException
                | EventKind::PrivilegedSoftwareException
        );
        PendingEvent {
            info: event.to_info(),
            error_code: event.error_code.unwrap_or(0),
            instruction_length: if software { event.instruction_length } else { 0 },
        }
    }

    /// A processor about to execute its first instruction in 64-bit mode, as a boot protocol wants it: flat
    /// segments with these selectors, paging on with these tables, interrupts off.
    #[must_use]
    pub fn for_64_bit_entry(entry: &Entry64) -> Self {
        let mut general = [0; 16];
        general[4] = entry.rsp;
        general[6] = entry.rsi;
        let flat = |selector, access| SegmentState { selector, base: 0, limit: u32::MAX, access };
        let data = flat(entry.data_selector, ACCESS_DATA);
        Self {
            general,
            rip: entry.rip,
            rflags: RFLAGS_ONE,
            control: ControlState {
                cr0: CR0_64_BIT,
                cr3: entry.cr3,
                cr4: CR4_PAE,
                xcr0: 1,
                dr6: DR6_RESET,
                dr7: DR7_RESET,
                ..ControlState::default()
            },
            segments: SegmentsState {
                es: data,
                cs: flat(entry.code_selector, ACCESS_CODE_64),
                ss: data,
                ds: data,
                fs: data,
                gs: data,
                ldtr: SegmentState { access: ACCESS_UNUSABLE, ..SegmentState::default() },
                tr: SegmentState { selector: 0, base: 0, limit: TSS_LIMIT, access: ACCESS_TSS },
                gdtr: TableState { base: entry.gdt_base, limit: entry.gdt_limit },
                idtr: TableState::default(),
            },
            msrs: MsrState {
                efer: EFER_64_BIT,
                pat: PAT_RESET,
                mtrr_def_type: MTRRS_WRITE_BACK,
                ..MsrState::default()
            },
            interruptibility: 0,
            pending_debug: 0,
            activity: Activity::Active,
            pending_event: None,
            nmi_pending: false,
            xsave: XsaveArea::reset().as_bytes().to_vec(),
        }
    }
}

/// What [`VcpuState::for_64_bit_entry`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Entry64 {
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// RSI: the boot protocol's argument.
    pub rsi: u64,
    /// Page tables.
    pub cr3: u64,
    /// Global descriptor table.
    pub gdt_base: u64,
    /// Its limit in bytes.
    pub gdt_limit: u32,
    /// Selector of the 64-bit code segment.
    pub code_selector: u16,
    /// Selector of the data segment.
    pub data_selector: u16,
}

const CR0_64_BIT: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1;
const CR4_PAE: u64 = 1 << 5;
const EFER_64_BIT: u64 = 1 << 10 | 1 << 8;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// Enabled, write-back where no range says otherwise: as firmware leaves it.
const MTRRS_WRITE_BACK: u64 = 1 << 11 | 6;
pub(super) const DR6_RESET: u64 = 0xffff_0ff0;
pub(super) const DR7_RESET: u64 = 0x400;
const TSS_LIMIT: u32 = 0x67;
/// Present, code, readable, accessed, 64-bit, 4 KiB granularity.
const ACCESS_CODE_64: u32 = 0xa09b;
/// Present, data, writable, accessed, 32-bit, 4 KiB granularity.
const ACCESS_DATA: u32 = 0xc093;
/// Present, busy 64-bit TSS.
const ACCESS_TSS: u32 = 0x8b;
pub(super) const ACCESS_UNUSABLE: u32 = 1 << 16;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        components: Components::X87.union(Components::SSE),
        cr4_allowed: 0x37_07ff,
        spec_ctrl_allowed: 0,
    };

    pub(in super::super) fn fresh() -> VcpuState {
        VcpuState::for_64_bit_entry(&Entry64 {
            rip: 0x10_0200,
            rsp: 0,
            rsi: 0x9_0000,
            cr3: 0x8_0000,
            gdt_base: 0x7_0000,
            gdt_limit: 31,
            code_selector: 0x10,
            data_selector: 0x18,
        })
    }

    #[test]
    fn a_state_survives_its_encoding() {
        let mut state = fresh();
        state.pending_event = Some(VcpuState::save_event(Event::exception_with_code(
            godwit_vmx::event::Exception::PageFault,
            2,
        )));
        let bytes = minicbor::to_vec(&state).unwrap();
        assert_eq!(minicbor::decode::<VcpuState>(&bytes).unwrap(), state);
    }

    #[test]
    fn a_fresh_processor_is_valid() {
        let (xsave, event) = fresh().validate(&LIMITS).unwrap();
        assert_eq!(*xsave, XsaveArea::reset());
        assert_eq!(event, None);
    }

    #[test]
    fn what_would_fault_in_the_host_is_refused_by_name() {
        type Spoil = fn(&mut VcpuState);
        let wrong: [(&str, Spoil); 9] = [
            ("IA32_LSTAR", |state| state.msrs.lstar = 1 << 47),
            ("IA32_KERNEL_GS_BASE", |state| state.msrs.kernel_gs_base = 1 << 63),
            ("IA32_SPEC_CTRL", |state| state.msrs.spec_ctrl = 1),
            ("IA32_PAT", |state| state.msrs.pat = 2),
            ("XCR0", |state| state.control.xcr0 = 6),
            ("DR6", |state| state.control.dr6 = 1 << 32),
            ("CR4", |state| state.control.cr4 = 1 << 13),
            ("EFER", |state| state.msrs.efer = 1 << 12),
            ("IA32_TSC_AUX", |state| state.msrs.tsc_aux = 1 << 32),
        ];
        for (expected, spoil) in wrong {
            let mut state = fresh();
            spoil(&mut state);
            let Err(InvalidState::Register { name, .. }) = state.validate(&LIMITS) else {
                panic!("{expected}")
            };
            assert_eq!(name, expected);
        }
    }

    #[test]
    fn an_event_that_cannot_be_is_refused() {
        let mut state = fresh();
        state.pending_event = Some(PendingEvent { info: 0x8000_0700, error_code: 0, instruction_length: 0 });
        assert_eq!(state.validate(&LIMITS), Err(InvalidState::Event(0x8000_0700)));
        state.pending_event = None;
        state.xsave.pop();
        assert!(matches!(state.validate(&LIMITS), Err(InvalidState::Xsave(_))));
    }
}
