//! What an exit handler may touch.

use godwit_vmx::addr::{Gpa, Gva};
use godwit_vmx::controls::EntryControls;
use godwit_vmx::event::Event;
use godwit_vmx::exit::REASONS;
use godwit_vmx::field;
use godwit_vmx::tsc::{self, TscMapping};
use godwit_vmx::vmcs::VmcsAccess;
use godwit_vmx::world_switch::GuestRegisters;

use crate::devices::board::Board;
use crate::devices::{GuestTime, TscClock};
use crate::guest_memory::{GuestMemory, MemoryError};

use super::cpuid::GuestCpuid;
use super::debug::Conditions;
use super::stop::StopReason;
use super::translate::{Large, Mode, PageFault, Paging, Privilege, Purpose, Untranslated};

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const EFER_NXE: u64 = 1 << 11;
const CS_LONG: u32 = 1 << 13;

/// The clock of a virtual machine: its time-stamp counter before any processor's TSC_ADJUST.
#[derive(Clone, Copy, Debug)]
pub struct GuestClock {
    /// How the machine's TSC follows the host's.
    pub mapping: TscMapping,
    /// How the machine's TSC makes time.
    pub clock: TscClock,
}

impl GuestClock {
    /// The machine's TSC now.
    #[inline(always)]
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.mapping.guest(tsc::host())
    }

    /// The machine's time now.
    #[inline(always)]
    #[must_use]
    pub fn now(&self) -> GuestTime {
        self.clock.time_of(self.ticks())
    }

    /// The host TSC at which `time` has come.
    #[must_use]
    pub fn host_tsc_of(&self, time: GuestTime) -> u64 {
        self.mapping.host(self.clock.ticks_reaching(time))
    }
}

/// State of a virtual processor that is not in its VMCS.
#[derive(Debug)]
pub struct CpuContext {
    /// General registers but RSP.
    pub registers: GuestRegisters,
    /// Which processor of its machine this is.
    pub index: usize,
    /// Extended control register 0.
    pub xcr0: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u64,
    /// A non-maskable interrupt waits.
    pub nmi_pending: bool,
    /// The board was touched, or something else happened after which interrupts, deadlines and requests must
    /// be looked at before the next entry.
    pub attention: bool,
    /// Exits by basic reason.
    pub counts: [u64; REASONS],
    /// Accesses to addresses and ports where nobody answers.
    pub wild_accesses: u64,
}

/// What the machine lets its guests see, the same for all processors.
#[derive(Clone, Debug)]
pub struct Policy {
    /// CPUID.
    pub cpuid: GuestCpuid,
    /// IA32_ARCH_CAPABILITIES.
    pub arch_capabilities: u64,
    /// Whether IA32_SPEC_CTRL and IA32_PRED_CMD exist and are let through.
    pub speculation_control: bool,
    /// Frequency of the guest's TSC, in Hz.
    pub tsc_hz: u64,
    /// CR0 bits that VMX operation forces.
    pub cr0: godwit_vmx::capability::FixedBits,
    /// CR4 bits that VMX operation forces.
    pub cr4: godwit_vmx::capability::FixedBits,
    /// CR4 bits that the guest may change without an exit.
    pub cr4_guest: u64,
}

/// One processor at an exit, its machine and the rules.
pub struct Context<'a, V, M> {
    /// The processor's VMCS.
    pub vmcs: &'a mut V,
    /// The rest of the processor.
    pub cpu: &'a mut CpuContext,
    /// The machine's devices.
    pub board: &'a mut Board,
    /// The machine's memory.
    pub memory: &'a M,
    /// The machine's clock.
    pub clock: &'a GuestClock,
    /// The rules.
    pub policy: &'a Policy,
}

/// What is to be done after an exit was handled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Go on where the guest is.
    Resume,
    /// The instruction is done: go on after it.
    Skip,
    /// As [`Outcome::Skip`], for an instruction whose length was found by decoding it.
    Advance(u8),
    /// Deliver this event at the instruction.
    Inject(Event),
    /// Deliver a page fault at the instruction, with CR2.
    PageFault(PageFault),
    /// Deliver a debug exception where the guest is, with DR6.
    DebugException(Conditions),
    /// The instruction is done; the processor waits for an interrupt.
    Block,
    /// XSETBV: load [`CpuContext::xcr0`], then go on after the instruction.
    LoadXcr0,
    /// The way in which linear addresses are translated has changed: forget what the processor has cached of that, then go on
    /// after the instruction.
    ForgetTranslations,
    /// TSC or TSC_ADJUST changed: renew the TSC offset, then go on after the instruction.
    RenewTscOffset,
    /// An access to RAM that the tables do not allow as they are.
    RamViolation(godwit_vmx::exit::EptViolation),
    /// The page-modification log is full.
    LogFull,
    /// The host wants the processor: an interrupt waits, or the slice is over.
    Yield(Yield),
    /// The machine stops.
    Stop(StopReason),
}

/// Why the guest gave the processor back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yield {
    /// An interrupt for the host waits.
    Interrupt,
    /// A non-maskable interrupt for the host has arrived; NMIs are blocked until IRET.
    Nmi,
    /// The preemption timer ran out.
    Timer,
    /// It spins, waiting for another processor of its machine; the PAUSE is done.
    Spin,
}

/// Whether the processor is in long mode (EFER.LMA).
#[must_use]
pub fn is_long_mode(vmcs: &impl VmcsAccess) -> bool {
    vmcs.read(field::ENTRY_CONTROLS) & EntryControls::IA32E_MODE_GUEST.bits() != 0
}

/// Whether the processor executes 64-bit code: in long mode, by a code segment with the L flag.
#[must_use]
pub fn is_64_bit_code(vmcs: &impl VmcsAccess) -> bool {
    vmcs.read(field::GUEST_CS_ACCESS_RIGHTS) & CS_LONG != 0 && is_long_mode(vmcs)
}

impl<V: VmcsAccess, M: GuestMemory> Context<'_, V, M> {
    /// Where the guest is.
    #[must_use]
    pub fn rip(&self) -> Gva {
        Gva::new(self.vmcs.read(field::GUEST_RIP))
    }

    /// The general register with encoding `index`, RSP among them.
    #[must_use]
    pub fn general(&self, index: u8) -> u64 {
        self.cpu.registers.get(index).unwrap_or_else(|| self.vmcs.read(field::GUEST_RSP))
    }

    /// Sets the general register with encoding `index`, RSP among them.
    pub fn set_general(&mut self, index: u8, value: u64) {
        match self.cpu.registers.get_mut(index) {
            Some(register) => *register = value,
            None => self.vmcs.write(field::GUEST_RSP, value),
        }
    }

    /// The guest-physical address of `address`, by the guest's own tables. If that is RAM, its content is there:
    /// who translates all addresses first can then do all the rest without having to wait.
    ///
    /// # Errors
    /// [`Untranslated`]: a fault as the processor would raise it, or something has not come yet.
    pub fn translate(&self, address: Gva, purpose: Purpose) -> Result<Gpa, Untranslated> {
        let place = self.paging().translate(self.memory, address, purpose, self.privilege())?;
        match self.memory.check_present(place) {
            Err(MemoryError::Absent(_)) => Err(Untranslated::Absent),
            Ok(()) | Err(MemoryError::NotRam { .. }) => Ok(place),
        }
    }

    /// The guest's paging, as it is now.
    #[must_use]
    pub fn paging(&self) -> Paging {
        let cr0 = self.vmcs.read(field::GUEST_CR0);
        let cr4 = self.vmcs.read(field::GUEST_CR4);
        let mode = if cr0 & CR0_PG == 0 {
            Mode::Unpaged
        } else if self.in_long_mode() {
            Mode::FourLevel
        } else if cr4 & CR4_PAE != 0 {
            let pointers =
                [field::GUEST_PDPTE0, field::GUEST_PDPTE1, field::GUEST_PDPTE2, field::GUEST_PDPTE3];
            Mode::Pae(pointers.map(|pointer| self.vmcs.read(pointer)))
        } else {
            Mode::Legacy { large: if cr4 & CR4_PSE != 0 { Large::Allowed } else { Large::Ignored } }
        };
        Paging {
            mode,
            cr3: self.vmcs.read(field::GUEST_CR3),
            write_protect: cr0 & CR0_WP != 0,
            no_execute: self.vmcs.read(field::GUEST_EFER) & EFER_NXE != 0,
        }
    }

    /// The guest's privilege: the descriptor privilege level of SS is the CPL (SDM 25.4.1).
    #[must_use]
    pub fn privilege(&self) -> Privilege {
        if self.vmcs.read(field::GUEST_SS_ACCESS_RIGHTS) >> 5 & 3 == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        }
    }

    /// Whether the processor is in long mode (EFER.LMA).
    #[must_use]
    pub fn in_long_mode(&self) -> bool {
        is_long_mode(self.vmcs)
    }
}

#[cfg(test)]
mod tests {
    use godwit_vmx::tsc::UNITY;

    use super::*;

    /// What guests write into IA32_TSC_DEADLINE to want no interrupt, where a second has less nanoseconds than ticks.
    #[test]
    fn the_end_of_a_guests_time_never_comes_on_its_host() {
        let clock = TscClock::new(3_000_000_000).unwrap();
        let time = clock.time_reached(u64::MAX);
        assert!(time < GuestTime::NEVER, "so that it is a deadline");
        for guest_began in [0, 1 << 20, 1 << 45] {
            let clock = GuestClock { mapping: TscMapping::anchored(UNITY, guest_began, 0), clock };
            assert!(clock.host_tsc_of(time) > 1 << 62);
        }
    }
}
