//! Model-specific registers: an allow-list, a reason per row. What is not listed does not exist: #GP.

use godwit_vmx::event::Event;
use godwit_vmx::field;
use godwit_vmx::msr;
use godwit_vmx::msr_bitmap::{Access, MsrBitmap};
use godwit_vmx::vmcs::VmcsAccess;

use super::context::{Context, Outcome, Policy};
use crate::guest_memory::GuestMemory;

/// What happens when the guest reads or writes a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The processor does it, on the guest's own copy.
    PassThrough,
    /// As [`Rule::PassThrough`] if the processor has speculation controls, else the register does not exist.
    Speculation,
    /// Reads go to the processor's copy of the guest's value; writes have an effect of their own.
    Efer,
    /// As [`Rule::Efer`], for the TSC.
    Tsc,
    /// The board's local APIC answers.
    Board,
    /// As [`Rule::Board`]; read without asking for the time.
    ApicBase,
    /// Reads give this value; writes are #GP.
    Constant(u64),
    /// Reads give this value; writes are dropped.
    Fixed(u64),
    /// IA32_ARCH_CAPABILITIES.
    ArchCapabilities,
    /// IA32_TSC_ADJUST.
    TscAdjust,
    /// IA32_DEBUGCTL.
    DebugControl,
    /// IA32_MTRR_DEF_TYPE.
    MtrrDefaultType,
}

/// Fast strings on; branch trace store and precise event sampling not available.
const MISC_ENABLE: u64 = 1 << 0 | 1 << 11 | 1 << 12;
/// Microcode revision 1: mitigations ask for the register, blacklists do not match it.
const MICROCODE_REVISION: u64 = 1 << 32;
/// Locked, VMX off.
const FEATURE_CONTROL: u64 = 1;
const PLATFORM_ID: u32 = 0x17;
const PLATFORM_INFO: u32 = 0xce;
const MISC_FEATURES_ENABLES: u32 = 0x140;
/// Last-branch records and branch single-step.
const DEBUGCTL_ALLOWED: u64 = 0b11;
const MTRR_DEF_TYPE_ALLOWED: u64 = 1 << 11 | 0xff;

const EFER_SCE: u64 = 1 << 0;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const CR0_PG: u64 = 1 << 31;

struct Row {
    first: u32,
    last: u32,
    rule: Rule,
    reason: &'static str,
}

const fn row(number: u32, rule: Rule, reason: &'static str) -> Row {
    Row { first: number, last: number, rule, reason }
}

/// In ascending order.
const ROWS: &[Row] = &[
    row(msr::TSC, Rule::Tsc, "reads are offset by the processor; a write moves TSC_ADJUST"),
    row(PLATFORM_ID, Rule::Constant(0), "read with the microcode revision"),
    row(msr::APIC_BASE, Rule::ApicBase, "the local APIC's own"),
    row(msr::FEATURE_CONTROL, Rule::Constant(FEATURE_CONTROL), "no VMX, no SGX for guests"),
    row(msr::TSC_ADJUST, Rule::TscAdjust, "moves the guest's TSC and says by how much"),
    row(msr::SPEC_CTRL, Rule::Speculation, "mitigations switch it at every kernel entry; ours is 0"),
    row(msr::PRED_CMD, Rule::Speculation, "a barrier, without state"),
    row(msr::BIOS_SIGN_ID, Rule::Fixed(MICROCODE_REVISION), "written before it is read"),
    row(PLATFORM_INFO, Rule::Constant(0), "no turbo, no CPUID faulting"),
    row(msr::MTRR_CAP, Rule::Constant(0), "no variable or fixed ranges: EPT decides the type"),
    row(msr::ARCH_CAPABILITIES, Rule::ArchCapabilities, "which attacks this processor is immune to"),
    row(MISC_FEATURES_ENABLES, Rule::Fixed(0), "no CPUID faulting, no ring-3 MWAIT"),
    Row {
        first: msr::SYSENTER_CS,
        last: msr::SYSENTER_EIP,
        rule: Rule::PassThrough,
        reason: "in the VMCS; the host does not use SYSENTER",
    },
    row(msr::MCG_CAP, Rule::Constant(0), "no machine-check banks: errors are the host's"),
    row(msr::MCG_STATUS, Rule::Fixed(0), "no machine check in progress"),
    row(msr::MISC_ENABLE, Rule::Fixed(MISC_ENABLE), "power and prefetch settings are the host's"),
    row(msr::DEBUGCTL, Rule::DebugControl, "in the VMCS; no branch trace"),
    row(msr::PAT, Rule::PassThrough, "in the VMCS"),
    row(msr::MTRR_DEF_TYPE, Rule::MtrrDefaultType, "remembered, without effect: EPT decides the type"),
    row(msr::TSC_DEADLINE, Rule::Board, "the local APIC's timer"),
    Row {
        first: msr::X2APIC_FIRST,
        last: msr::X2APIC_LAST,
        rule: Rule::Board,
        reason: "the local APIC's registers",
    },
    row(msr::EFER, Rule::Efer, "in the VMCS; LMA and reserved bits are checked"),
    Row {
        first: msr::STAR,
        last: msr::FMASK,
        rule: Rule::PassThrough,
        reason: "switched with the guest; the host does not use SYSCALL",
    },
    Row { first: msr::FS_BASE, last: msr::GS_BASE, rule: Rule::PassThrough, reason: "in the VMCS" },
    Row {
        first: msr::KERNEL_GS_BASE,
        last: msr::TSC_AUX,
        rule: Rule::PassThrough,
        reason: "switched with the guest; the host does not use SWAPGS or RDTSCP",
    },
];

/// Registers from `FIRST` on: one more than the index in [`ROWS`] of the row that has it, or 0. A look-up instead of a
/// search, since guests wait for it.
struct Index<const FIRST: u32, const COUNT: usize>([u8; COUNT]);

impl<const FIRST: u32, const COUNT: usize> Index<FIRST, COUNT> {
    const fn new() -> Self {
        assert!(ROWS.len() < u8::MAX as usize);
        let mut places = [0; COUNT];
        let mut row = 0;
        while row < ROWS.len() {
            assert!(!ROWS[row].reason.is_empty());
            let mut number = ROWS[row].first;
            while number <= ROWS[row].last {
                if number >= FIRST && ((number - FIRST) as usize) < COUNT {
                    places[(number - FIRST) as usize] = row as u8 + 1;
                }
                number += 1;
            }
            row += 1;
        }
        Self(places)
    }

    #[inline(always)]
    fn row(&self, number: u32) -> Option<&'static Row> {
        let place = *self.0.get(number.wrapping_sub(FIRST) as usize)?;
        ROWS.get(usize::from(place).checked_sub(1)?)
    }
}

static LOW: Index<0, { msr::X2APIC_LAST as usize + 1 }> = Index::new();
static HIGH: Index<{ msr::EFER }, { (msr::TSC_AUX - msr::EFER) as usize + 1 }> = Index::new();

/// The rule for a register, or `None` if it does not exist.
#[inline(always)]
fn rule(number: u32) -> Option<Rule> {
    let row = if number <= msr::X2APIC_LAST { LOW.row(number) } else { HIGH.row(number) };
    row.map(|row| row.rule)
}

/// The MSR bitmap that lets through what the table says.
pub fn fill_bitmap(bitmap: &mut MsrBitmap, policy: &Policy) {
    for row in ROWS {
        for number in row.first..=row.last {
            match row.rule {
                Rule::PassThrough => {
                    bitmap.pass_through(number, Access::Read);
                    bitmap.pass_through(number, Access::Write);
                }
                Rule::Speculation if policy.speculation_control => {
                    bitmap.pass_through(number, Access::Write);
                    if number != msr::PRED_CMD {
                        bitmap.pass_through(number, Access::Read);
                    }
                }
                Rule::Tsc | Rule::Efer => bitmap.pass_through(number, Access::Read),
                _ => {}
            }
        }
    }
}

/// Lets the ends of interrupts through, for a guest in x2APIC mode for which the processor carries them out.
pub fn pass_end_of_interrupt(bitmap: &mut MsrBitmap) {
    bitmap.pass_through(msr::X2APIC_EOI, Access::Write);
}

/// RDMSR of a register that is not let through.
#[inline]
pub fn read<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>) -> Outcome {
    let number = context.cpu.registers.rcx as u32;
    let Some(value) = value_of(context, number) else {
        return Outcome::Inject(Event::general_protection());
    };
    context.cpu.registers.rax = value & 0xffff_ffff;
    context.cpu.registers.rdx = value >> 32;
    Outcome::Skip
}

#[inline]
fn value_of<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>, number: u32) -> Option<u64> {
    Some(match rule(number)? {
        Rule::ApicBase => context.board.apic_base(context.cpu.index),
        Rule::Board => {
            let now = context.clock.now();
            context.board.msr_read(now, context.cpu.index, number)?
        }
        Rule::Constant(value) | Rule::Fixed(value) => value,
        Rule::ArchCapabilities => {
            // Exists only if CPUID says so; otherwise reading it is #GP.
            (context.policy.arch_capabilities != 0).then_some(context.policy.arch_capabilities)?
        }
        Rule::TscAdjust => context.cpu.tsc_adjust,
        Rule::DebugControl => context.vmcs.read(field::GUEST_DEBUGCTL),
        Rule::MtrrDefaultType => context.cpu.mtrr_def_type,
        Rule::Efer => context.vmcs.read(field::GUEST_EFER),
        Rule::Tsc => context.clock.ticks().wrapping_add(context.cpu.tsc_adjust),
        // The bitmap lets these through; they come here only where it does not, that is, they do not exist.
        Rule::PassThrough | Rule::Speculation => return None,
    })
}

/// WRMSR of a register that is not let through.
#[inline]
pub fn write<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>) -> Outcome {
    let registers = &context.cpu.registers;
    let number = registers.rcx as u32;
    let value = registers.rdx << 32 | registers.rax & 0xffff_ffff;
    let fault = Outcome::Inject(Event::general_protection());
    let done = match rule(number) {
        Some(Rule::Board | Rule::ApicBase) => {
            context.cpu.attention = true;
            let now = context.clock.now();
            context.board.msr_write(now, context.cpu.index, number, value).is_some()
        }
        Some(Rule::Fixed(_)) => true,
        Some(Rule::Efer) => write_efer(context, value),
        Some(Rule::Tsc) => {
            let present = context.clock.ticks().wrapping_add(context.cpu.tsc_adjust);
            return adjust_tsc(context, context.cpu.tsc_adjust.wrapping_add(value.wrapping_sub(present)));
        }
        Some(Rule::TscAdjust) => return adjust_tsc(context, value),
        Some(Rule::DebugControl) => {
            let allowed = value & !DEBUGCTL_ALLOWED == 0;
            if allowed {
                context.vmcs.write(field::GUEST_DEBUGCTL, value);
            }
            allowed
        }
        Some(Rule::MtrrDefaultType) => {
            let allowed = value & !MTRR_DEF_TYPE_ALLOWED == 0 && matches!(value & 0xff, 0 | 1 | 4 | 5 | 6);
            if allowed {
                context.cpu.mtrr_def_type = value;
            }
            allowed
        }
        Some(Rule::Constant(_) | Rule::ArchCapabilities | Rule::PassThrough | Rule::Speculation) | None => {
            false
        }
    };
    if done { Outcome::Skip } else { fault }
}

fn adjust_tsc<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>, adjust: u64) -> Outcome {
    context.cpu.tsc_adjust = adjust;
    context.board.set_tsc_adjust(context.cpu.index, adjust as i64);
    context.cpu.attention = true;
    Outcome::RenewTscOffset
}

/// Whether the write is one that the processor would accept (SDM 2.2.1); LMA is the processor's.
fn write_efer<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>, value: u64) -> bool {
    let present = context.vmcs.read(field::GUEST_EFER);
    let paging = context.vmcs.read(field::GUEST_CR0) & CR0_PG != 0;
    let reserved = value & !(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) != 0;
    let changes_mode = (value ^ present) & EFER_LME != 0;
    if reserved || (paging && changes_mode) {
        return false;
    }
    context.vmcs.write(field::GUEST_EFER, value & !EFER_LMA | present & EFER_LMA);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::testing::Fixture;

    fn read_of(fixture: &mut Fixture, number: u32) -> Option<u64> {
        fixture.cpu.registers.rcx = u64::from(number);
        fixture.cpu.registers.rax = 0xdead;
        match read(&mut fixture.context()) {
            Outcome::Skip => Some(fixture.cpu.registers.rdx << 32 | fixture.cpu.registers.rax),
            outcome => {
                assert_eq!(outcome, Outcome::Inject(Event::general_protection()));
                assert_eq!(fixture.cpu.registers.rax, 0xdead, "a fault changes no register");
                None
            }
        }
    }

    fn write_to(fixture: &mut Fixture, number: u32, value: u64) -> Outcome {
        fixture.cpu.registers.rcx = u64::from(number);
        fixture.cpu.registers.rax = value & 0xffff_ffff;
        fixture.cpu.registers.rdx = value >> 32;
        write(&mut fixture.context())
    }

    #[test]
    fn rows_are_in_order_and_have_reasons() {
        for pair in ROWS.windows(2) {
            assert!(pair[0].last < pair[1].first);
        }
        assert!(ROWS.iter().all(|row| row.first <= row.last));
    }

    #[test]
    fn every_row_is_found_by_its_numbers_and_only_by_them() {
        for row in ROWS {
            assert_eq!(rule(row.first), Some(row.rule));
            assert_eq!(rule(row.last), Some(row.rule));
        }
        let listed = |number: u32| ROWS.iter().any(|row| (row.first..=row.last).contains(&number));
        for number in (0..0x2000).chain(0xc000_0000..0xc000_2000).chain([0x4000_0000, u32::MAX]) {
            assert_eq!(rule(number).is_some(), listed(number), "{number:#x}");
        }
    }

    #[test]
    fn the_apics_base_reads_as_the_board_has_it() {
        let mut fixture = Fixture::new();
        let now = fixture.context().clock.now();
        let expected = fixture.context().board.msr_read(now, 0, msr::APIC_BASE);
        assert_eq!(read_of(&mut fixture, msr::APIC_BASE), expected);
    }

    #[test]
    fn an_unknown_register_faults_and_leaves_the_registers() {
        let mut fixture = Fixture::new();
        for number in [0x2, 0x11, 0x198, 0x4000_0000, 0x4b56_4d00, 0xc001_0015, u32::MAX] {
            assert_eq!(read_of(&mut fixture, number), None);
            assert_eq!(write_to(&mut fixture, number, 0), Outcome::Inject(Event::general_protection()));
        }
    }

    #[test]
    fn efer_keeps_lma_and_refuses_a_change_of_mode_while_paging() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::GUEST_CR0, CR0_PG | 1);
        fixture.vmcs.set(field::GUEST_EFER, EFER_LME | EFER_LMA);
        let all = EFER_SCE | EFER_LME | EFER_NXE;
        assert_eq!(write_to(&mut fixture, msr::EFER, all), Outcome::Skip);
        assert_eq!(read_of(&mut fixture, msr::EFER), Some(all | EFER_LMA));
        let fault = Outcome::Inject(Event::general_protection());
        assert_eq!(write_to(&mut fixture, msr::EFER, EFER_SCE), fault);
        assert_eq!(write_to(&mut fixture, msr::EFER, all | 1 << 14), fault);
    }

    #[test]
    fn a_write_of_the_tsc_moves_the_adjustment_by_the_same_amount() {
        let mut fixture = Fixture::new();
        assert_eq!(write_to(&mut fixture, msr::TSC_ADJUST, 1 << 40), Outcome::RenewTscOffset);
        assert_eq!(read_of(&mut fixture, msr::TSC_ADJUST), Some(1 << 40));
        let before = read_of(&mut fixture, msr::TSC).unwrap();
        assert_eq!(write_to(&mut fixture, msr::TSC, before), Outcome::RenewTscOffset);
        let drift = (1_u64 << 40).wrapping_sub(fixture.cpu.tsc_adjust);
        assert!(drift < 1 << 36, "only the time between read and write is lost");
    }

    #[test]
    fn the_bitmap_lets_through_what_the_table_says() {
        let mut fixture = Fixture::new();
        let mut bitmap = MsrBitmap::intercept_all();
        fill_bitmap(&mut bitmap, &fixture.policy);
        assert!(!bitmap.intercepts(msr::KERNEL_GS_BASE, Access::Write));
        assert!(!bitmap.intercepts(msr::TSC, Access::Read));
        assert!(bitmap.intercepts(msr::TSC, Access::Write));
        assert!(bitmap.intercepts(msr::EFER, Access::Write));
        assert!(bitmap.intercepts(msr::SPEC_CTRL, Access::Write));
        fixture.policy.speculation_control = true;
        fill_bitmap(&mut bitmap, &fixture.policy);
        assert!(!bitmap.intercepts(msr::SPEC_CTRL, Access::Read));
        assert!(bitmap.intercepts(msr::PRED_CMD, Access::Read));
        let before = bitmap.clone();
        pass_end_of_interrupt(&mut bitmap);
        for number in msr::X2APIC_FIRST..=msr::X2APIC_LAST {
            assert!(before.intercepts(number, Access::Write) && bitmap.intercepts(number, Access::Read));
            assert_eq!(bitmap.intercepts(number, Access::Write), number != msr::X2APIC_EOI);
        }
    }
}
