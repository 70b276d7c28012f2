//! What INIT and start-up messages make of a processor (SDM 9.4, table 10-1 of revision 085). Pure.

use godwit_vmx::addr::PAGE_SIZE;

use super::state::{
    ACCESS_UNUSABLE, Activity, ControlState, DR6_RESET, DR7_RESET, RFLAGS_ONE, SegmentState, SegmentsState,
    TableState, VcpuState,
};

/// CD, NW and ET.
const CR0_RESET: u64 = 0x6000_0010;
const RIP_RESET: u64 = 0xfff0;
const RDX: usize = 2;
/// What RDX holds after INIT: a family, so that software that looks finds a modern one.
const SIGNATURE: u64 = 0x600;
const REAL_MODE_LIMIT: u32 = 0xffff;
/// Present, code, readable, accessed.
const ACCESS_CODE: u32 = 0x9b;
/// Present, data, writable, accessed.
const ACCESS_DATA: u32 = 0x93;
/// Present, busy 32-bit TSS.
const ACCESS_TSS: u32 = 0x8b;
/// Paragraphs in a page: a start-up vector is a page's number, a real-mode selector a paragraph's.
const PARAGRAPHS: u16 = 256;

/// The processor as INIT leaves it: in real mode, waiting for a start-up message. INIT keeps the extended state, XCR0, the
/// time-stamp counter and every MSR but IA32_EFER, whose mode ends with paging.
#[must_use]
pub fn after_init(before: VcpuState) -> VcpuState {
    let mut general = [0; 16];
    general[RDX] = SIGNATURE;
    let segment = |selector, base, access| SegmentState { selector, base, limit: REAL_MODE_LIMIT, access };
    let data = segment(0, 0, ACCESS_DATA);
    let table = TableState { base: 0, limit: REAL_MODE_LIMIT };
    let mut msrs = before.msrs;
    msrs.efer = 0;
    VcpuState {
        general,
        rip: RIP_RESET,
        rflags: RFLAGS_ONE,
        control: ControlState {
            cr0: CR0_RESET,
            xcr0: before.control.xcr0,
            dr6: DR6_RESET,
            dr7: DR7_RESET,
            ..ControlState::default()
        },
        segments: SegmentsState {
            es: data,
            cs: segment(0xf000, 0xffff_0000, ACCESS_CODE),
            ss: data,
            ds: data,
            fs: data,
            gs: data,
            ldtr: segment(0, 0, ACCESS_UNUSABLE),
            tr: segment(0, 0, ACCESS_TSS),
            gdtr: table,
            idtr: table,
        },
        msrs,
        interruptibility: 0,
        pending_debug: 0,
        activity: Activity::WaitingForStartup,
        pending_event: None,
        nmi_pending: false,
        xsave: before.xsave,
    }
}

/// The processor as a start-up message with `vector` leaves it: about to execute the first instruction of that page. One
/// that does not wait after INIT ignores the message.
#[must_use]
pub fn after_startup(mut state: VcpuState, vector: u8) -> VcpuState {
    if state.activity == Activity::WaitingForStartup {
        state.activity = Activity::Active;
        state.rip = 0;
        state.segments.cs.selector = u16::from(vector) * PARAGRAPHS;
        state.segments.cs.base = u64::from(vector) * PAGE_SIZE;
    }
    state
}

#[cfg(test)]
mod tests {
    use godwit_vmx::fpu::Components;

    use super::super::state::Limits;
    use super::super::state::tests::fresh;
    use super::*;

    const LIMITS: Limits = Limits {
        components: Components::X87.union(Components::SSE),
        cr4_allowed: 0x37_07ff,
        spec_ctrl_allowed: 0,
    };

    #[test]
    fn init_ends_the_mode_and_keeps_what_it_must() {
        let mut before = fresh();
        before.activity = Activity::Halted;
        before.control.xcr0 = 3;
        before.msrs.tsc_adjust = 77;
        before.msrs.lstar = 0x1234;
        before.nmi_pending = true;
        before.rflags |= 1 << 9;
        before.xsave[24] = 0x80;
        let after = after_init(before.clone());
        assert_eq!((after.control.cr0, after.control.cr3, after.control.cr4), (0x6000_0010, 0, 0));
        assert_eq!((after.msrs.efer, after.rflags, after.nmi_pending), (0, 2, false));
        assert_eq!((after.msrs.tsc_adjust, after.msrs.lstar, after.control.xcr0), (77, 0x1234, 3));
        assert_eq!((after.msrs.mtrr_def_type, &after.xsave), (before.msrs.mtrr_def_type, &before.xsave));
        assert_eq!(after.activity, Activity::WaitingForStartup);
        assert!(after.validate(&LIMITS).is_ok());
    }

    #[test]
    fn a_start_up_message_names_the_page_and_counts_once() {
        let waiting = after_init(fresh());
        let started = after_startup(waiting, 0x9a);
        assert_eq!((started.segments.cs.selector, started.segments.cs.base), (0x9a00, 0x9_a000));
        assert_eq!((started.rip, started.activity), (0, Activity::Active));
        assert!(started.validate(&LIMITS).is_ok());
        assert_eq!(after_startup(started.clone(), 0x10), started, "a processor that runs ignores it");
    }
}
