//! A virtual machine as its owner has it.
//!
//! One CPU's loop owns a machine and is the only one to touch it. It carries out commands from the mailbox between runs;
//! [`super::run`] runs its processors. While the machine does not run, its clock stands still.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use godwit_migration::RunPermit;
use godwit_vmx::ept::EptError;
use godwit_vmx::io_bitmap::IoBitmaps;
use godwit_vmx::msr_bitmap::MsrBitmap;
use godwit_vmx::tsc::{self, TscMapping, UNITY};
use godwit_vmx::vmcs::{Current, Vmcs};

use super::frames::Frame;
use super::handle::{Refusal, Reply, VmHandle};
use super::host;
use super::lifecycle::{Input, State};
use super::memory::GuestRam;
use super::platform::Platform;
use super::processors::Called;
use super::slot::{Loaded, VmcsSlot};
use super::state::{InvalidState, VcpuState};
use super::tables::Tables;
use super::throttle::{Share, Throttle};
use super::vcpu::{Structures, Vcpu};
use super::virtual_eoi::{MsrBitmaps, VirtualEoi};
use crate::devices::GuestTime;
use crate::devices::board::{Board, BoardState};
use crate::exits::{GuestClock, Policy, StopReason, msr};

/// Linux writes to this port to let time pass; what the machine's port does with it harms nobody, and an exit would cost
/// more than the pause.
const DELAY_PORT: u16 = 0x80;

/// A machine, saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineState {
    /// The machine's TSC.
    pub tsc: u64,
    /// Frequency of that TSC, in Hz.
    pub tsc_hz: u64,
    /// A person paused it.
    pub paused: bool,
    /// Processors.
    pub vcpus: Vec<VcpuState>,
    /// Devices.
    pub board: BoardState,
}

/// A machine that is built but has no owner yet: may go to another CPU.
#[derive(Debug)]
pub struct Blueprint {
    /// What is shared about it.
    pub handle: VmHandle,
    /// RAM.
    pub ram: Arc<GuestRam>,
    /// Devices. They and the policy take kilobytes: they are boxed where they are made, so that a machine on its way
    /// to its CPU does not.
    pub board: Box<Board>,
    /// What its guest sees.
    pub policy: Box<Policy>,
    /// First state of each processor.
    pub vcpus: Vec<VcpuState>,
    /// Where it is in its life.
    pub state: State,
}

impl Blueprint {
    /// Ends a machine that no CPU can take over.
    pub fn refuse(self) {
        end(&self.handle, StopReason::NotTaken);
    }
}

/// A machine. See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    pub(super) handle: VmHandle,
    pub(super) ram: Arc<GuestRam>,
    pub(super) board: Box<Board>,
    pub(super) policy: Box<Policy>,
    pub(super) clock: GuestClock,
    pub(super) tables: Tables,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) platform: &'static Platform,
    pub(super) state: State,
    pub(super) timer: Timer,
    pub(super) throttle: Throttle,
    pub(super) run_ticks: u64,
    pub(super) first_entry_tsc: u64,
    /// The machine's TSC while its clock stands still.
    pub(super) frozen: Option<u64>,
    pub(super) permit: Option<RunPermit>,
    bitmaps: Bitmaps,
    pub(super) tsc_multiplier: u64,
    /// The processor whose registers are in this CPU.
    pub(super) loaded: Option<usize>,
    pub(super) called: Called,
}

/// When the board wants to be looked at: its own time, and the host's TSC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    pub(super) deadline: Option<GuestTime>,
    pub(super) host_tsc: u64,
}

#[derive(Debug)]
struct Bitmaps {
    msr: Frame,
    /// The same with ends of interrupts let through, where the processor carries them out.
    msr_passing_eoi: Option<Frame>,
    io: [Frame; 2],
}

impl Bitmaps {
    fn new(policy: &Policy, platform: &Platform) -> Option<Self> {
        let mut msrs = MsrBitmap::intercept_all();
        msr::fill_bitmap(&mut msrs, policy);
        let mut passing = msrs.clone();
        msr::pass_end_of_interrupt(&mut passing);
        let mut ports = IoBitmaps::intercept_all();
        ports.pass_through(DELAY_PORT);
        let frame = |words: &[u64]| {
            let frame = Frame::allocate()?;
            frame.fill(words);
            Some(frame)
        };
        let [low, high] = ports.pages();
        let msr_passing_eoi = if platform.has_virtual_eoi() { Some(frame(passing.words())?) } else { None };
        Some(Self { msr: frame(msrs.words())?, msr_passing_eoi, io: [frame(low)?, frame(high)?] })
    }

    /// The two between which a processor that carries out ends of interrupts is to choose.
    fn msrs(&self) -> Option<MsrBitmaps> {
        let address = |frame: &Frame| frame.address().as_u64();
        let passing = address(self.msr_passing_eoi.as_ref()?);
        Some(MsrBitmaps { exiting: address(&self.msr), passing })
    }
}

impl Machine {
    /// Takes a machine over for the running CPU, on which VMX is on.
    ///
    /// # Errors
    /// What is missing; the machine has then ended, and its mailbox is closed.
    pub fn adopt(blueprint: Blueprint, platform: &'static Platform) -> Result<Self, Refusal> {
        let handle = Arc::clone(&blueprint.handle);
        Self::assemble(blueprint, platform).inspect_err(|refusal| {
            end(
                &handle,
                match refusal {
                    Refusal::Tables(EptError::OutOfFrames) => StopReason::OutOfMemory,
                    _ => StopReason::NotTaken,
                },
            );
        })
    }

    fn assemble(blueprint: Blueprint, platform: &'static Platform) -> Result<Self, Refusal> {
        let Blueprint { handle, ram, board, policy, vcpus, state } = blueprint;
        let multiplier = multiplier(platform, policy.tsc_hz).map_err(Refusal::Processor)?;
        let bitmaps = Bitmaps::new(&policy, platform).ok_or(Refusal::Tables(EptError::OutOfFrames))?;
        let tables = Tables::new(Arc::clone(&ram), platform.accessed_dirty(), platform.dirty_source)
            .map_err(Refusal::Tables)?;
        let clock = GuestClock { mapping: TscMapping { multiplier, offset: 0 }, clock: board.clock() };
        let mut machine = Self {
            handle,
            ram,
            board,
            policy,
            clock,
            tables,
            vcpus: Vec::new(),
            platform,
            state,
            timer: Timer { deadline: None, host_tsc: u64::MAX },
            throttle: Throttle::new(platform.tsc_hz),
            run_ticks: 0,
            first_entry_tsc: 0,
            frozen: Some(0),
            permit: None,
            bitmaps,
            tsc_multiplier: multiplier,
            loaded: None,
            called: Called::default(),
        };
        match machine.equip(vcpus) {
            Ok(()) => Ok(machine),
            Err(refusal) => {
                machine.give_back();
                Err(refusal)
            }
        }
    }

    /// Gives it processors in these states.
    fn equip(&mut self, states: Vec<VcpuState>) -> Result<(), Refusal> {
        let limits = self.platform.limits(&self.policy);
        for (index, state) in states.into_iter().enumerate() {
            let parts = state.validate(&limits).map_err(Refusal::Processor)?;
            let slot =
                VmcsSlot::new(self.platform.capabilities.revision).map_err(|_refused| Refusal::Vmcs)?;
            let mut vcpu = Vcpu::new(index, slot, self.platform, Box::new(state), parts);
            if let Some(bitmaps) = self.bitmaps.msrs() {
                let page = Frame::allocate().ok_or(Refusal::Tables(EptError::OutOfFrames))?;
                vcpu.virtual_eoi = Some(Box::new(VirtualEoi::new(page, bitmaps)));
            }
            self.vcpus.push(vcpu);
        }
        Ok(())
    }

    /// What is shared about it.
    #[must_use]
    pub const fn handle(&self) -> &VmHandle {
        &self.handle
    }

    /// Where it is in its life.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// TSC ticks of the host that it has taken so far, handling its exits included.
    #[must_use]
    pub const fn run_ticks(&self) -> u64 {
        self.run_ticks
    }

    /// Whether its throttle lets it run at host TSC `now`.
    #[must_use]
    pub const fn share(&self, now: u64) -> Share {
        self.throttle.share(now)
    }

    /// Puts the registers of processor `index` into this CPU. No other machine's registers may be in it.
    ///
    /// # Errors
    /// [`Refusal::Vmcs`] if the processor refuses the control structure.
    pub(super) fn load(&mut self, index: usize) -> Result<(), Refusal> {
        if self.loaded == Some(index) {
            return Ok(());
        }
        self.unload();
        let structures = Structures {
            ept_pointer: self.tables.pointer(),
            msr_bitmap: self.bitmaps.msr.address().as_u64(),
            io_bitmaps: [0, 1].map(|half: usize| self.bitmaps.io[half].address().as_u64()),
            pml: self.tables.log_address(),
            tsc_multiplier: self.tsc_multiplier,
            catch_spinning: self.vcpus.len() > 1 && self.platform.can_catch_spinning(),
        };
        let Some(vcpu) = self.vcpus.get_mut(index) else { return Err(Refusal::Gone) };
        let loaded = vcpu.slot.load().map_err(|_refused| Refusal::Vmcs)?;
        vcpu.vpid_to_flush(loaded).into_iter().for_each(host::flush_vpid);
        let Some(vmcs) = vcpu.slot.current() else { return Err(Refusal::Vmcs) };
        if loaded == Loaded::Fresh {
            let registers = core::ptr::from_ref(&vcpu.context.registers) as u64;
            host::write_host_state(vmcs, registers);
            self.tables.distrust();
        }
        if let Some(state) = vcpu.pending.take() {
            Vcpu::fill(vmcs, &state, self.platform, &self.policy, &structures, vcpu.vpid);
            vcpu.primary = self.platform.controls.primary.bits();
            if let Some(eoi) = &mut vcpu.virtual_eoi {
                eoi.forget();
            }
            self.tables.arm(vmcs);
        }
        host::load_resident(&vcpu.resident, &self.platform.residency, vcpu.context.xcr0);
        self.loaded = Some(index);
        self.renew_tsc_offset(index);
        Ok(())
    }

    /// Takes the registers out of this CPU again, so that another processor or machine may have it. All processors log
    /// their writes in one page, so none leaves anything there.
    pub fn unload(&mut self) {
        let Some(index) = self.loaded.take() else { return };
        if let Some(vcpu) = self.vcpus.get_mut(index) {
            host::save_resident(&mut vcpu.resident, &self.platform.residency);
            drain(vcpu, &mut self.tables);
            vcpu.slot.park();
        }
    }

    /// Takes over what the processor that is loaded has logged. The others left nothing when they were unloaded.
    pub(super) fn drain_log(&mut self) {
        if let Some(vcpu) = self.loaded.and_then(|index| self.vcpus.get_mut(index)) {
            drain(vcpu, &mut self.tables);
        }
    }

    /// Carries out `act` with the VMCS of every processor in turn.
    pub(super) fn with_each_vmcs(
        &mut self,
        mut act: impl FnMut(&mut Tables, &mut Vmcs<Current>),
    ) -> Result<(), Refusal> {
        for index in 0..self.vcpus.len() {
            self.load(index)?;
            let Some(vmcs) = self.vcpus[index].slot.current() else { return Err(Refusal::Vmcs) };
            act(&mut self.tables, vmcs);
        }
        Ok(())
    }

    /// Writes the TSC offset of processor `index`, whose VMCS is current.
    pub(super) fn renew_tsc_offset(&mut self, index: usize) {
        use godwit_vmx::vmcs::VmcsAccess;
        let Some(vcpu) = self.vcpus.get_mut(index) else { return };
        let offset = self.clock.mapping.offset.wrapping_add(vcpu.context.tsc_adjust);
        if let Some(vmcs) = vcpu.slot.current() {
            vmcs.write(godwit_vmx::field::TSC_OFFSET, offset);
        }
    }

    /// Moves along in its life and tells everybody.
    pub(super) fn step(&mut self, input: Input) -> Result<(), Refusal> {
        let next = self.state.clone().after(input).map_err(Refusal::Impossible)?;
        if next.runs() != self.state.runs() {
            if next.runs() { self.thaw() } else { self.freeze() }
        }
        if next != self.state {
            self.state = next;
            self.handle.publish(&self.state);
        }
        Ok(())
    }

    fn freeze(&mut self) {
        if self.frozen.is_none() {
            self.frozen = Some(self.clock.ticks());
        }
    }

    fn thaw(&mut self) {
        if let Some(ticks) = self.frozen.take() {
            self.clock.mapping = TscMapping::anchored(self.tsc_multiplier, tsc::host(), ticks);
            self.timer = Timer { deadline: None, host_tsc: u64::MAX };
            for index in 0..self.vcpus.len() {
                self.vcpus[index].context.attention = true;
                self.renew_tsc_offset(index);
            }
        }
    }

    /// Ends it.
    pub(super) fn stop(&mut self, reason: StopReason) {
        self.hand_on_output();
        self.unload();
        if let Some(permit) = self.permit.take() {
            permit.revoke();
        }
        let stopped = self.step(Input::Stop(reason));
        debug_assert!(stopped.is_ok(), "a machine can always be stopped");
    }

    /// The machine's TSC, running or not.
    pub(super) fn tsc(&self) -> u64 {
        self.frozen.unwrap_or_else(|| self.clock.ticks())
    }

    /// Whether a command waits in the mailbox.
    #[must_use]
    pub fn has_command(&self) -> bool {
        self.handle.has_command()
    }

    /// Carries out the command that waits in the mailbox, if there is one. No other machine's registers are in this CPU
    /// then.
    pub fn serve(&mut self) {
        if let Some(command) = self.handle.take_command() {
            let reply = self.carry_out(command).unwrap_or_else(|refusal| Reply::Refused(refusal, None));
            self.handle.answer(reply);
        }
        let board = &mut self.board;
        let mut fed = false;
        self.handle.move_input(|bytes| {
            fed = true;
            board.serial_feed(bytes)
        });
        if fed {
            self.attend_all();
        }
    }

    pub(super) fn attend_all(&mut self) {
        for vcpu in &mut self.vcpus {
            vcpu.context.attention = true;
        }
    }

    /// Moves what the guest has sent to where others can take it. Returns whether somebody should be told.
    pub fn hand_on_output(&mut self) -> bool {
        let mut buffer = [0; 512];
        let mut news = false;
        while self.board.serial_waiting() > 0 {
            let count = self.board.serial_take(&mut buffer);
            if count == 0 {
                break;
            }
            news |= self.handle.put_output(&buffer[..count]);
        }
        news
    }

    /// Gives everything back and closes the mailbox. It has ended.
    pub fn destroy(self) {
        let handle = Arc::clone(&self.handle);
        self.give_back();
        handle.close();
    }

    fn give_back(mut self) {
        self.unload();
        for vcpu in &mut self.vcpus {
            vcpu.slot.clear();
        }
        self.tables.destroy();
    }
}

/// Takes over what a processor has logged.
fn drain(vcpu: &mut Vcpu, tables: &mut Tables) {
    if let Some(vmcs) = vcpu.slot.current() {
        tables.drain(vmcs);
    }
}

/// Ends a machine that nobody has taken over.
fn end(handle: &VmHandle, reason: StopReason) {
    handle.publish(&State::Stopped(reason));
    handle.close();
}

/// The multiplier by which a guest's TSC runs at `tsc_hz` here.
pub(super) fn multiplier(platform: &Platform, tsc_hz: u64) -> Result<u64, InvalidState> {
    /// Below this difference the host's own TSC is taken: calibration is no better.
    const TOLERANCE_PPM: u64 = 250;
    let difference = tsc_hz.abs_diff(platform.tsc_hz);
    if u128::from(difference) * 1_000_000 <= u128::from(platform.tsc_hz) * u128::from(TOLERANCE_PPM) {
        return Ok(UNITY);
    }
    let refused = InvalidState::TscFrequency(tsc_hz);
    if !platform.can_scale_tsc() {
        return Err(refused);
    }
    tsc::multiplier(tsc_hz, platform.tsc_hz).ok_or(refused)
}

#[cfg(test)]
mod tests {
    use super::super::builder::tests::blueprint;
    use super::super::handle::Command;
    use super::super::lifecycle::State;
    use super::super::vcpu::tests::platform;
    use super::*;

    #[test]
    fn what_is_moved_by_value_is_small() {
        assert!(size_of::<Blueprint>() <= 512, "{}", size_of::<Blueprint>());
        assert!(size_of::<Machine>() <= 768, "{}", size_of::<Machine>());
        assert!(size_of::<Vcpu>() <= 512, "{}", size_of::<Vcpu>());
        assert!(size_of::<Command>() <= 128, "{}", size_of::<Command>());
        assert!(size_of::<Reply>() <= 128, "{}", size_of::<Reply>());
    }

    #[test]
    fn a_machine_that_no_cpu_can_take_ends_and_answers() {
        let platform: &'static Platform = Box::leak(Box::new(Platform {
            // Without TSC scaling a guest of another frequency cannot run.
            capabilities: godwit_vmx::capability::Capabilities {
                secondary: godwit_vmx::controls::Allowed { must_be_1: 0, may_be_1: 0 },
                ..platform().capabilities
            },
            ..platform()
        }));
        let (handle, blueprint) = blueprint(platform.tsc_hz * 2);
        let ticket = handle.submit(Command::Pause).unwrap();
        let refusal = Machine::adopt(blueprint, platform).unwrap_err();
        assert!(matches!(refusal, Refusal::Processor(InvalidState::TscFrequency(_))));
        assert_eq!(handle.state(), State::Stopped(StopReason::NotTaken));
        assert!(matches!(handle.poll(ticket), Some(Reply::Refused(Refusal::Gone, None))));
        assert!(handle.is_closed());
    }

    #[test]
    fn a_refused_blueprint_ends_too() {
        let (handle, blueprint) = blueprint(1_000_000_000);
        let ticket = handle.submit(Command::Run(None)).unwrap();
        blueprint.refuse();
        assert!(matches!(handle.poll(ticket), Some(Reply::Refused(Refusal::Gone, None))));
    }
}
