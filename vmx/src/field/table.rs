//! The fields, in the order of SDM appendix B.

use super::{Bits16, Bits32, Bits64, Field, Natural, ReadOnly, ReadWrite};

/// Virtual-processor identifier.
pub const VPID: Field<Bits16, ReadWrite> = Field::new(0x0);
/// Guest ES selector.
pub const GUEST_ES_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0x800);
/// Guest CS selector.
pub const GUEST_CS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0x802);
/// Guest SS selector.
pub const GUEST_SS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0x804);
/// Guest DS selector.
pub const GUEST_DS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0x806);
/// Guest FS selector.
pub const GUEST_FS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0x808);
/// Guest GS selector.
pub const GUEST_GS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0x80a);
/// Guest LDTR selector.
pub const GUEST_LDTR_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0x80c);
/// Guest TR selector.
pub const GUEST_TR_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0x80e);
/// Guest interrupt status.
pub const GUEST_INTERRUPT_STATUS: Field<Bits16, ReadWrite> = Field::new(0x810);
/// Next entry of the page-modification log, counting down.
pub const PML_INDEX: Field<Bits16, ReadWrite> = Field::new(0x812);
/// Host ES selector.
pub const HOST_ES_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0xc00);
/// Host CS selector.
pub const HOST_CS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0xc02);
/// Host SS selector.
pub const HOST_SS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0xc04);
/// Host DS selector.
pub const HOST_DS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0xc06);
/// Host FS selector.
pub const HOST_FS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0xc08);
/// Host GS selector.
pub const HOST_GS_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0xc0a);
/// Host TR selector.
pub const HOST_TR_SELECTOR: Field<Bits16, ReadWrite> = Field::new(0xc0c);
/// Physical address of the bitmap of ports 0 to 0x7fff.
pub const IO_BITMAP_A: Field<Bits64, ReadWrite> = Field::new(0x2000);
/// Physical address of the bitmap of ports 0x8000 to 0xffff.
pub const IO_BITMAP_B: Field<Bits64, ReadWrite> = Field::new(0x2002);
/// Physical address of the MSR bitmaps.
pub const MSR_BITMAP: Field<Bits64, ReadWrite> = Field::new(0x2004);
/// VM-exit MSR-store area.
pub const EXIT_MSR_STORE_ADDRESS: Field<Bits64, ReadWrite> = Field::new(0x2006);
/// VM-exit MSR-load area.
pub const EXIT_MSR_LOAD_ADDRESS: Field<Bits64, ReadWrite> = Field::new(0x2008);
/// VM-entry MSR-load area.
pub const ENTRY_MSR_LOAD_ADDRESS: Field<Bits64, ReadWrite> = Field::new(0x200a);
/// Physical address of the page-modification log.
pub const PML_ADDRESS: Field<Bits64, ReadWrite> = Field::new(0x200e);
/// What is added to the (scaled) TSC.
pub const TSC_OFFSET: Field<Bits64, ReadWrite> = Field::new(0x2010);
/// Physical address of the virtual-APIC page.
pub const VIRTUAL_APIC_ADDRESS: Field<Bits64, ReadWrite> = Field::new(0x2012);
/// Physical address of the APIC-access page.
pub const APIC_ACCESS_ADDRESS: Field<Bits64, ReadWrite> = Field::new(0x2014);
/// EPT pointer.
pub const EPT_POINTER: Field<Bits64, ReadWrite> = Field::new(0x201a);
/// EOI-exit bitmap: vectors 0 to 63.
pub const EOI_EXIT_BITMAP_0: Field<Bits64, ReadWrite> = Field::new(0x201c);
/// EOI-exit bitmap: vectors 64 to 127.
pub const EOI_EXIT_BITMAP_1: Field<Bits64, ReadWrite> = Field::new(0x201e);
/// EOI-exit bitmap: vectors 128 to 191.
pub const EOI_EXIT_BITMAP_2: Field<Bits64, ReadWrite> = Field::new(0x2020);
/// EOI-exit bitmap: vectors 192 to 255.
pub const EOI_EXIT_BITMAP_3: Field<Bits64, ReadWrite> = Field::new(0x2022);
/// Which components make XSAVES and XRSTORS exit.
pub const XSS_EXITING_BITMAP: Field<Bits64, ReadWrite> = Field::new(0x202c);
/// TSC multiplier, 48 fraction bits.
pub const TSC_MULTIPLIER: Field<Bits64, ReadWrite> = Field::new(0x2032);
/// Guest-physical address of an EPT exit.
pub const GUEST_PHYSICAL_ADDRESS: Field<Bits64, ReadOnly> = Field::new(0x2400);
/// Shadow VMCS, or all ones.
pub const VMCS_LINK_POINTER: Field<Bits64, ReadWrite> = Field::new(0x2800);
/// Guest IA32_DEBUGCTL.
pub const GUEST_DEBUGCTL: Field<Bits64, ReadWrite> = Field::new(0x2802);
/// Guest IA32_PAT.
pub const GUEST_PAT: Field<Bits64, ReadWrite> = Field::new(0x2804);
/// Guest IA32_EFER.
pub const GUEST_EFER: Field<Bits64, ReadWrite> = Field::new(0x2806);
/// Guest IA32_PERF_GLOBAL_CTRL.
pub const GUEST_PERF_GLOBAL_CTRL: Field<Bits64, ReadWrite> = Field::new(0x2808);
/// Guest PDPTE 0.
pub const GUEST_PDPTE0: Field<Bits64, ReadWrite> = Field::new(0x280a);
/// Guest PDPTE 1.
pub const GUEST_PDPTE1: Field<Bits64, ReadWrite> = Field::new(0x280c);
/// Guest PDPTE 2.
pub const GUEST_PDPTE2: Field<Bits64, ReadWrite> = Field::new(0x280e);
/// Guest PDPTE 3.
pub const GUEST_PDPTE3: Field<Bits64, ReadWrite> = Field::new(0x2810);
/// Host IA32_PAT.
pub const HOST_PAT: Field<Bits64, ReadWrite> = Field::new(0x2c00);
/// Host IA32_EFER.
pub const HOST_EFER: Field<Bits64, ReadWrite> = Field::new(0x2c02);
/// Pin-based VM-execution controls.
pub const PIN_CONTROLS: Field<Bits32, ReadWrite> = Field::new(0x4000);
/// Primary processor-based VM-execution controls.
pub const PRIMARY_CONTROLS: Field<Bits32, ReadWrite> = Field::new(0x4002);
/// Exceptions that exit, a bit per vector.
pub const EXCEPTION_BITMAP: Field<Bits32, ReadWrite> = Field::new(0x4004);
/// Page-fault error-code mask.
pub const PAGE_FAULT_ERROR_MASK: Field<Bits32, ReadWrite> = Field::new(0x4006);
/// Page-fault error-code match.
pub const PAGE_FAULT_ERROR_MATCH: Field<Bits32, ReadWrite> = Field::new(0x4008);
/// CR3-target count.
pub const CR3_TARGET_COUNT: Field<Bits32, ReadWrite> = Field::new(0x400a);
/// VM-exit controls.
pub const EXIT_CONTROLS: Field<Bits32, ReadWrite> = Field::new(0x400c);
/// VM-exit MSR-store count.
pub const EXIT_MSR_STORE_COUNT: Field<Bits32, ReadWrite> = Field::new(0x400e);
/// VM-exit MSR-load count.
pub const EXIT_MSR_LOAD_COUNT: Field<Bits32, ReadWrite> = Field::new(0x4010);
/// VM-entry controls.
pub const ENTRY_CONTROLS: Field<Bits32, ReadWrite> = Field::new(0x4012);
/// VM-entry MSR-load count.
pub const ENTRY_MSR_LOAD_COUNT: Field<Bits32, ReadWrite> = Field::new(0x4014);
/// Event to inject.
pub const ENTRY_INTERRUPTION_INFO: Field<Bits32, ReadWrite> = Field::new(0x4016);
/// Error code to inject.
pub const ENTRY_EXCEPTION_ERROR_CODE: Field<Bits32, ReadWrite> = Field::new(0x4018);
/// Instruction length for injected software events.
pub const ENTRY_INSTRUCTION_LENGTH: Field<Bits32, ReadWrite> = Field::new(0x401a);
/// TPR threshold.
pub const TPR_THRESHOLD: Field<Bits32, ReadWrite> = Field::new(0x401c);
/// Secondary processor-based VM-execution controls.
pub const SECONDARY_CONTROLS: Field<Bits32, ReadWrite> = Field::new(0x401e);
/// Most TSC ticks between two PAUSEs of one loop.
pub const PLE_GAP: Field<Bits32, ReadWrite> = Field::new(0x4020);
/// TSC ticks that a loop of PAUSEs may take before it exits.
pub const PLE_WINDOW: Field<Bits32, ReadWrite> = Field::new(0x4022);
/// VM-instruction error.
pub const INSTRUCTION_ERROR: Field<Bits32, ReadOnly> = Field::new(0x4400);
/// Exit reason.
pub const EXIT_REASON: Field<Bits32, ReadOnly> = Field::new(0x4402);
/// Event that caused the exit.
pub const EXIT_INTERRUPTION_INFO: Field<Bits32, ReadOnly> = Field::new(0x4404);
/// Error code of the event that caused the exit.
pub const EXIT_INTERRUPTION_ERROR_CODE: Field<Bits32, ReadOnly> = Field::new(0x4406);
/// Event that was being delivered at the exit.
pub const IDT_VECTORING_INFO: Field<Bits32, ReadOnly> = Field::new(0x4408);
/// Error code of the event that was being delivered.
pub const IDT_VECTORING_ERROR_CODE: Field<Bits32, ReadOnly> = Field::new(0x440a);
/// Length of the exiting instruction.
pub const EXIT_INSTRUCTION_LENGTH: Field<Bits32, ReadOnly> = Field::new(0x440c);
/// Operands of the exiting instruction.
pub const EXIT_INSTRUCTION_INFO: Field<Bits32, ReadOnly> = Field::new(0x440e);
/// Guest ES limit.
pub const GUEST_ES_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x4800);
/// Guest CS limit.
pub const GUEST_CS_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x4802);
/// Guest SS limit.
pub const GUEST_SS_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x4804);
/// Guest DS limit.
pub const GUEST_DS_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x4806);
/// Guest FS limit.
pub const GUEST_FS_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x4808);
/// Guest GS limit.
pub const GUEST_GS_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x480a);
/// Guest LDTR limit.
pub const GUEST_LDTR_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x480c);
/// Guest TR limit.
pub const GUEST_TR_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x480e);
/// Guest GDTR limit.
pub const GUEST_GDTR_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x4810);
/// Guest IDTR limit.
pub const GUEST_IDTR_LIMIT: Field<Bits32, ReadWrite> = Field::new(0x4812);
/// Guest ES access rights.
pub const GUEST_ES_ACCESS_RIGHTS: Field<Bits32, ReadWrite> = Field::new(0x4814);
/// Guest CS access rights.
pub const GUEST_CS_ACCESS_RIGHTS: Field<Bits32, ReadWrite> = Field::new(0x4816);
/// Guest SS access rights.
pub const GUEST_SS_ACCESS_RIGHTS: Field<Bits32, ReadWrite> = Field::new(0x4818);
/// Guest DS access rights.
pub const GUEST_DS_ACCESS_RIGHTS: Field<Bits32, ReadWrite> = Field::new(0x481a);
/// Guest FS access rights.
pub const GUEST_FS_ACCESS_RIGHTS: Field<Bits32, ReadWrite> = Field::new(0x481c);
/// Guest GS access rights.
pub const GUEST_GS_ACCESS_RIGHTS: Field<Bits32, ReadWrite> = Field::new(0x481e);
/// Guest LDTR access rights.
pub const GUEST_LDTR_ACCESS_RIGHTS: Field<Bits32, ReadWrite> = Field::new(0x4820);
/// Guest TR access rights.
pub const GUEST_TR_ACCESS_RIGHTS: Field<Bits32, ReadWrite> = Field::new(0x4822);
/// Guest interruptibility state.
pub const GUEST_INTERRUPTIBILITY: Field<Bits32, ReadWrite> = Field::new(0x4824);
/// Guest activity state.
pub const GUEST_ACTIVITY: Field<Bits32, ReadWrite> = Field::new(0x4826);
/// Guest SMBASE.
pub const GUEST_SMBASE: Field<Bits32, ReadWrite> = Field::new(0x4828);
/// Guest IA32_SYSENTER_CS.
pub const GUEST_SYSENTER_CS: Field<Bits32, ReadWrite> = Field::new(0x482a);
/// VMX-preemption timer.
pub const PREEMPTION_TIMER_VALUE: Field<Bits32, ReadWrite> = Field::new(0x482e);
/// Host IA32_SYSENTER_CS.
pub const HOST_SYSENTER_CS: Field<Bits32, ReadWrite> = Field::new(0x4c00);
/// CR0 bits that the host owns.
pub const CR0_MASK: Field<Natural, ReadWrite> = Field::new(0x6000);
/// CR4 bits that the host owns.
pub const CR4_MASK: Field<Natural, ReadWrite> = Field::new(0x6002);
/// What the guest reads of CR0 bits that the host owns.
pub const CR0_SHADOW: Field<Natural, ReadWrite> = Field::new(0x6004);
/// What the guest reads of CR4 bits that the host owns.
pub const CR4_SHADOW: Field<Natural, ReadWrite> = Field::new(0x6006);
/// Exit qualification.
pub const EXIT_QUALIFICATION: Field<Natural, ReadOnly> = Field::new(0x6400);
/// Guest-linear address of the exit.
pub const GUEST_LINEAR_ADDRESS: Field<Natural, ReadOnly> = Field::new(0x640a);
/// Guest CR0.
pub const GUEST_CR0: Field<Natural, ReadWrite> = Field::new(0x6800);
/// Guest CR3.
pub const GUEST_CR3: Field<Natural, ReadWrite> = Field::new(0x6802);
/// Guest CR4.
pub const GUEST_CR4: Field<Natural, ReadWrite> = Field::new(0x6804);
/// Guest ES base.
pub const GUEST_ES_BASE: Field<Natural, ReadWrite> = Field::new(0x6806);
/// Guest CS base.
pub const GUEST_CS_BASE: Field<Natural, ReadWrite> = Field::new(0x6808);
/// Guest SS base.
pub const GUEST_SS_BASE: Field<Natural, ReadWrite> = Field::new(0x680a);
/// Guest DS base.
pub const GUEST_DS_BASE: Field<Natural, ReadWrite> = Field::new(0x680c);
/// Guest FS base.
pub const GUEST_FS_BASE: Field<Natural, ReadWrite> = Field::new(0x680e);
/// Guest GS base.
pub const GUEST_GS_BASE: Field<Natural, ReadWrite> = Field::new(0x6810);
/// Guest LDTR base.
pub const GUEST_LDTR_BASE: Field<Natural, ReadWrite> = Field::new(0x6812);
/// Guest TR base.
pub const GUEST_TR_BASE: Field<Natural, ReadWrite> = Field::new(0x6814);
/// Guest GDTR base.
pub const GUEST_GDTR_BASE: Field<Natural, ReadWrite> = Field::new(0x6816);
/// Guest IDTR base.
pub const GUEST_IDTR_BASE: Field<Natural, ReadWrite> = Field::new(0x6818);
/// Guest DR7.
pub const GUEST_DR7: Field<Natural, ReadWrite> = Field::new(0x681a);
/// Guest RSP.
pub const GUEST_RSP: Field<Natural, ReadWrite> = Field::new(0x681c);
/// Guest RIP.
pub const GUEST_RIP: Field<Natural, ReadWrite> = Field::new(0x681e);
/// Guest RFLAGS.
pub const GUEST_RFLAGS: Field<Natural, ReadWrite> = Field::new(0x6820);
/// Guest pending debug exceptions.
pub const GUEST_PENDING_DEBUG: Field<Natural, ReadWrite> = Field::new(0x6822);
/// Guest IA32_SYSENTER_ESP.
pub const GUEST_SYSENTER_ESP: Field<Natural, ReadWrite> = Field::new(0x6824);
/// Guest IA32_SYSENTER_EIP.
pub const GUEST_SYSENTER_EIP: Field<Natural, ReadWrite> = Field::new(0x6826);
/// Host CR0.
pub const HOST_CR0: Field<Natural, ReadWrite> = Field::new(0x6c00);
/// Host CR3.
pub const HOST_CR3: Field<Natural, ReadWrite> = Field::new(0x6c02);
/// Host CR4.
pub const HOST_CR4: Field<Natural, ReadWrite> = Field::new(0x6c04);
/// Host FS base.
pub const HOST_FS_BASE: Field<Natural, ReadWrite> = Field::new(0x6c06);
/// Host GS base.
pub const HOST_GS_BASE: Field<Natural, ReadWrite> = Field::new(0x6c08);
/// Host TR base.
pub const HOST_TR_BASE: Field<Natural, ReadWrite> = Field::new(0x6c0a);
/// Host GDTR base.
pub const HOST_GDTR_BASE: Field<Natural, ReadWrite> = Field::new(0x6c0c);
/// Host IDTR base.
pub const HOST_IDTR_BASE: Field<Natural, ReadWrite> = Field::new(0x6c0e);
/// Host IA32_SYSENTER_ESP.
pub const HOST_SYSENTER_ESP: Field<Natural, ReadWrite> = Field::new(0x6c10);
/// Host IA32_SYSENTER_EIP.
pub const HOST_SYSENTER_EIP: Field<Natural, ReadWrite> = Field::new(0x6c12);
/// Host RSP.
pub const HOST_RSP: Field<Natural, ReadWrite> = Field::new(0x6c14);
/// Host RIP.
pub const HOST_RIP: Field<Natural, ReadWrite> = Field::new(0x6c16);
