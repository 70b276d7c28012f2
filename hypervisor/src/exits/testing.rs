//! A processor, a machine and memory of plain values, for tests of handlers on the host.

use godwit_vmx::addr::Gpa;
use godwit_vmx::capability::FixedBits;
use godwit_vmx::exit::{Exit, REASONS};
use godwit_vmx::fpu::Components;
use godwit_vmx::tsc::TscMapping;
use godwit_vmx::vmcs::FakeVmcs;
use godwit_vmx::world_switch::GuestRegisters;

use super::context::{Context, CpuContext, GuestClock, Outcome, Policy};
use super::cpuid::{Basis, CRYSTAL_HZ, GuestCpuid};
use super::cpuid_features::{FeatureSet, WORDS};
use crate::devices::board::{Board, BoardConfig};
use crate::devices::{GuestTime, TscClock};
use crate::guest_memory::CpuMemory;
pub(crate) use crate::guest_memory::tests::Ram as FlatMemory;

/// Everything a [`Context`] borrows.
pub(crate) struct Fixture {
    pub(crate) vmcs: FakeVmcs,
    pub(crate) cpu: CpuContext,
    pub(crate) board: Board,
    pub(crate) memory: FlatMemory,
    pub(crate) clock: GuestClock,
    pub(crate) policy: Policy,
}

pub(crate) const TSC_HZ: u64 = 1_000_000_000;

/// A policy over a host that has everything.
pub(crate) fn policy() -> Policy {
    let cpuid = GuestCpuid::new(&Basis {
        host: &|_, _| [!0; 4],
        components: Components::X87 | Components::SSE | Components::AVX,
        tsc_hz: TSC_HZ,
        vcpus: 1,
        withheld: FeatureSet([0; WORDS]),
    });
    Policy {
        cpuid,
        arch_capabilities: 0,
        speculation_control: false,
        tsc_hz: TSC_HZ,
        cr0: FixedBits { must_be_1: 0x8000_0021, may_be_1: 0xffff_ffff },
        cr4: FixedBits { must_be_1: 0x2000, may_be_1: 0x37_67ff },
        cr4_guest: 0x37_07bf,
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let config = BoardConfig {
            vcpus: 1,
            tsc_hz: TSC_HZ,
            crystal_hz: CRYSTAL_HZ,
            wall_clock_unix_seconds: 1_700_000_000,
        };
        Self {
            vmcs: FakeVmcs::new(),
            cpu: CpuContext {
                registers: GuestRegisters::default(),
                index: 0,
                xcr0: 1,
                tsc_adjust: 0,
                mtrr_def_type: 0,
                nmi_pending: false,
                attention: false,
                counts: [0; REASONS],
                wild_accesses: 0,
            },
            board: Board::new(&config, GuestTime::ZERO).unwrap(),
            memory: FlatMemory::new(0x10_000),
            clock: GuestClock { mapping: TscMapping::IDENTITY, clock: TscClock::new(TSC_HZ).unwrap() },
            policy: policy(),
        }
    }

    pub(crate) fn context(&mut self) -> Context<'_, FakeVmcs, FlatMemory> {
        Context {
            vmcs: &mut self.vmcs,
            cpu: &mut self.cpu,
            board: &mut self.board,
            memory: &self.memory,
            clock: &self.clock,
            policy: &self.policy,
        }
    }

    /// Handles `exit` as whoever runs the processor does: the outcome, or the absent page that it waits for.
    pub(crate) fn handle(&mut self, exit: Exit) -> Result<Outcome, Gpa> {
        let memory = CpuMemory::new(&self.memory);
        let mut context = Context {
            vmcs: &mut self.vmcs,
            cpu: &mut self.cpu,
            board: &mut self.board,
            memory: &memory,
            clock: &self.clock,
            policy: &self.policy,
        };
        let outcome = super::handle(&mut context, exit);
        memory.take_touched().map_or(Ok(outcome), Err)
    }
}
