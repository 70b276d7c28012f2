//! What is done when a guest comes out: the only match on exits.
//!
//! Handlers see the processor, its machine and the policy as a [`Context`] that is generic over the VMCS and
//! the guest's memory, so that they run on fakes on the host. They answer with an [`Outcome`]; whoever runs the
//! processor (`vm`) acts on it. RIP advances in one place, there.
//!
//! What a guest does has the architected result, or at worst stops that guest with a [`StopReason`].

use godwit_vmx::event::{Event, EventKind, Exception};
use godwit_vmx::exit::{Exit, Reason};
use godwit_vmx::field;
use godwit_vmx::fpu::Components;
use godwit_vmx::vmcs::VmcsAccess;

use crate::guest_memory::GuestMemory;

#[cfg(test)]
mod absent_tests;
pub mod context;
pub mod control_register;
pub mod cpuid;
pub mod cpuid_features;
pub mod debug;
mod mmio;
pub mod msr;
mod port;
pub mod stop;
mod string_port;
#[cfg(test)]
pub(crate) mod testing;
pub mod translate;

pub use context::{Context, CpuContext, GuestClock, Outcome, Policy, Yield};
pub use mmio::check_delivery;
pub use stop::StopReason;

const RFLAGS_IF: u64 = 1 << 9;
const DEBUG: u8 = Exception::Debug as u8;
const MACHINE_CHECK: u8 = Exception::MachineCheck as u8;

/// Handles exits that guests wait for most, that have nothing to decode and touch the processor alone; `None` for any
/// other, which is [`handle`]'s. `reason` is the exit-reason field.
#[inline(always)]
pub fn handle_at_once<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    reason: u32,
) -> Option<Outcome> {
    const CPUID: u32 = Reason::Cpuid as u32;
    const RDMSR: u32 = Reason::Rdmsr as u32;
    match reason {
        CPUID => Some(cpuid(context)),
        RDMSR => Some(msr::read(context)),
        _ => None,
    }
}

/// Handles one exit.
#[inline(always)]
pub fn handle<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>, exit: Exit) -> Outcome {
    match exit {
        Exit::Cpuid => cpuid(context),
        Exit::Rdmsr => msr::read(context),
        Exit::Wrmsr => msr::write(context),
        Exit::Io(access) => port::handle(context, access),
        Exit::EptViolation(violation) => mmio::handle(context, violation),
        Exit::Hlt => halt(context),
        Exit::ExternalInterrupt(_) => Outcome::Yield(Yield::Interrupt),
        Exit::PreemptionTimer => Outcome::Yield(Yield::Timer),
        Exit::InterruptWindow | Exit::NmiWindow => {
            context.cpu.attention = true;
            Outcome::Resume
        }
        Exit::VirtualizedEoi(vector) => {
            context.cpu.attention = true;
            context.board.interrupt_ended(context.cpu.index, vector);
            Outcome::Resume
        }
        Exit::ControlRegister(access) => control_register::handle(context, access),
        Exit::ExceptionOrNmi(event) => exception(context, event),
        Exit::PmlFull => Outcome::LogFull,
        Exit::Xsetbv => xsetbv(context),
        Exit::Pause => Outcome::Yield(Yield::Spin),
        Exit::Invd | Exit::Wbinvd => Outcome::Skip,
        Exit::Rdpmc => Outcome::Inject(Event::general_protection()),
        Exit::Vmcall | Exit::Mwait | Exit::Monitor | Exit::Forbidden(_) => {
            Outcome::Inject(Event::invalid_opcode())
        }
        Exit::TripleFault => Outcome::Stop(StopReason::TripleFault { rip: context.rip() }),
        Exit::EntryFailure(Reason::EntryFailureMachineCheck, _) => Outcome::Stop(StopReason::MachineCheck),
        Exit::InitSignal
        | Exit::StartupIpi(_)
        | Exit::TaskSwitch(_)
        | Exit::Invlpg
        | Exit::Rdtsc
        | Exit::Rdtscp
        | Exit::DebugRegister(_)
        | Exit::EntryFailure(..)
        | Exit::MonitorTrapFlag
        | Exit::TprBelowThreshold
        | Exit::ApicAccess(_)
        | Exit::ApicWrite(_)
        | Exit::DescriptorTable(_)
        | Exit::EptMisconfiguration(_)
        | Exit::Unexpected(_)
        | Exit::Unknown(_) => Outcome::Stop(StopReason::UnhandledExit { exit, rip: context.rip() }),
    }
}

#[inline(always)]
fn cpuid<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>) -> Outcome {
    let (registers, vmcs) = (&mut context.cpu.registers, &*context.vmcs);
    let [eax, ebx, ecx, edx] = context.policy.cpuid.query(
        registers.rax as u32,
        registers.rcx as u32,
        context.cpu.index as u32,
        context.cpu.xcr0,
        || vmcs.read(field::GUEST_CR4),
    );
    registers.rax = eax.into();
    registers.rbx = ebx.into();
    registers.rcx = ecx.into();
    registers.rdx = edx.into();
    Outcome::Skip
}

/// HLT waits for an interrupt; with interrupts off only an NMI or another processor can end it, and if there is neither the
/// guest has stopped itself.
fn halt<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>) -> Outcome {
    let interruptible = context.vmcs.read(field::GUEST_RFLAGS) & RFLAGS_IF != 0;
    if interruptible || context.cpu.nmi_pending || context.board.vcpus() > 1 {
        Outcome::Block
    } else {
        Outcome::Stop(StopReason::HaltedForGood { rip: context.rip() })
    }
}

/// NMIs and machine checks are the host's; every other exception that was asked for goes back to the guest.
fn exception<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    event: Option<Event>,
) -> Outcome {
    match event {
        Some(Event { kind: EventKind::Nmi, .. }) => Outcome::Yield(Yield::Nmi),
        Some(Event { kind: EventKind::HardwareException, vector: MACHINE_CHECK, .. }) => {
            Outcome::Stop(StopReason::MachineCheck)
        }
        Some(event) if event.vector == DEBUG => debug::handle(context, event),
        Some(event) => Outcome::Inject(event),
        None => Outcome::Resume,
    }
}

fn xsetbv<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>) -> Outcome {
    let registers = &context.cpu.registers;
    let value = registers.rdx << 32 | registers.rax & 0xffff_ffff;
    let supported = context.policy.cpuid.components();
    if registers.rcx as u32 != 0 || !Components::is_valid_xcr0(value, supported) {
        return Outcome::Inject(Event::general_protection());
    }
    context.cpu.xcr0 = value;
    Outcome::LoadXcr0
}

#[cfg(test)]
mod tests {
    use godwit_vmx::addr::Gva;
    use proptest::prelude::*;

    use super::testing::Fixture;
    use super::*;

    #[test]
    fn cpuid_fills_all_four_registers_and_is_done() {
        let mut fixture = Fixture::new();
        fixture.cpu.registers.rax = 0xffff_ffff_4000_0000;
        fixture.cpu.registers.rbx = !0;
        assert_eq!(handle(&mut fixture.context(), Exit::Cpuid), Outcome::Skip);
        assert_eq!(fixture.cpu.registers.rax, 0x4000_0000);
        assert_eq!(fixture.cpu.registers.rbx, u64::from(u32::from_le_bytes(*b"Godw")));
    }

    #[test]
    fn what_is_handled_at_once_is_handled_as_always() {
        for (reason, exit) in [(10, Exit::Cpuid), (31, Exit::Rdmsr)] {
            for number in [0x1, 0x1b, 0x10a, 0x4000_0000] {
                let (mut quick, mut slow) = (Fixture::new(), Fixture::new());
                quick.cpu.registers.rax = number;
                quick.cpu.registers.rcx = number;
                slow.cpu.registers = quick.cpu.registers.clone();
                let outcome = handle_at_once(&mut quick.context(), reason).unwrap();
                assert_eq!(outcome, handle(&mut slow.context(), exit));
                assert_eq!(quick.cpu.registers.rax, slow.cpu.registers.rax);
                assert_eq!(quick.cpu.registers.rdx, slow.cpu.registers.rdx);
                assert!(!quick.cpu.attention);
            }
        }
        let mut fixture = Fixture::new();
        for reason in [0, 12, 30, 32, 48, 1 << 31 | 10, u32::MAX] {
            assert_eq!(handle_at_once(&mut fixture.context(), reason), None);
        }
    }

    #[test]
    fn an_end_of_interrupt_of_which_the_processor_tells_has_the_board_looked_at() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::EXIT_QUALIFICATION, 0x39);
        let exit = Exit::decode(45, &fixture.vmcs);
        assert_eq!(exit, Exit::VirtualizedEoi(0x39));
        assert!(!exit.may_interrupt_delivery(), "it comes behind an instruction");
        assert_eq!(handle(&mut fixture.context(), exit), Outcome::Resume, "which is done");
        assert!(fixture.cpu.attention);
    }

    #[test]
    fn halt_waits_only_if_something_can_end_it() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::GUEST_RIP, 0x1234);
        let stuck = StopReason::HaltedForGood { rip: Gva::new(0x1234) };
        assert_eq!(handle(&mut fixture.context(), Exit::Hlt), Outcome::Stop(stuck));
        fixture.cpu.nmi_pending = true;
        assert_eq!(handle(&mut fixture.context(), Exit::Hlt), Outcome::Block);
        fixture.cpu.nmi_pending = false;
        fixture.vmcs.set(field::GUEST_RFLAGS, RFLAGS_IF | 2);
        assert_eq!(handle(&mut fixture.context(), Exit::Hlt), Outcome::Block);
    }

    #[test]
    fn xsetbv_is_checked() {
        let mut fixture = Fixture::new();
        fixture.cpu.registers.rax = 7;
        assert_eq!(handle(&mut fixture.context(), Exit::Xsetbv), Outcome::LoadXcr0);
        assert_eq!(fixture.cpu.xcr0, 7);
        fixture.cpu.registers.rax = 6;
        let fault = Outcome::Inject(Event::general_protection());
        assert_eq!(handle(&mut fixture.context(), Exit::Xsetbv), fault);
        fixture.cpu.registers.rax = 7;
        fixture.cpu.registers.rcx = 1;
        assert_eq!(handle(&mut fixture.context(), Exit::Xsetbv), fault);
        assert_eq!(fixture.cpu.xcr0, 7);
    }

    #[test]
    fn a_triple_fault_and_an_unknown_exit_stop_the_guest_with_words() {
        use std::string::ToString;
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::GUEST_RIP, 0x10_0000);
        let Outcome::Stop(reason) = handle(&mut fixture.context(), Exit::TripleFault) else { panic!() };
        assert_eq!(reason.to_string(), "triple fault at rip 0x100000");
        let Outcome::Stop(reason) = handle(&mut fixture.context(), Exit::Unknown(0x99)) else { panic!() };
        assert!(reason.to_string().contains("unknown exit reason 0x99"));
    }

    proptest! {
        #[test]
        fn no_exit_panics(reason in 0_u32..80, qualification: u64, registers: [u64; 4], address: u64, info: u32) {
            let mut fixture = Fixture::new();
            fixture.vmcs.set(field::EXIT_QUALIFICATION, qualification);
            fixture.vmcs.set(field::GUEST_PHYSICAL_ADDRESS, address & 0xf_ffff_ffff);
            fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, info);
            let general = &mut fixture.cpu.registers;
            [general.rax, general.rcx, general.rdx, general.rsi] = registers;
            let exit = Exit::decode(reason, &fixture.vmcs);
            let _ = handle(&mut fixture.context(), exit);
        }
    }
}
