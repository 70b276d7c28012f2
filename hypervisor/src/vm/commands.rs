//! What a machine does when it is told: the commands of its mailbox.

use alloc::boxed::Box;
use alloc::vec::Vec;

use godwit_migration::RunPermit;
use godwit_vmx::exit::REASONS;
use godwit_vmx::tsc::TscMapping;

use super::handle::{Command, Figures, Refusal, Reply};
use super::host;
use super::lifecycle::Input;
use super::machine::{Machine, MachineState, Timer, multiplier};
use super::state::{InvalidState, VcpuState};
use crate::devices::board::Board;
use crate::exits::GuestClock;

impl Machine {
    /// Carries `command` out, or leaves everything as it was. No other machine's registers are in this CPU.
    pub(super) fn carry_out(&mut self, command: Command) -> Result<Reply, Refusal> {
        match command {
            Command::Run(permit) => return Ok(self.run_command(permit)),
            Command::Pause => self.step(Input::Pause)?,
            Command::Stun => {
                // Looked at before the step, so that a refusal changes nothing.
                if self.permit.is_none() {
                    return Err(Refusal::NoPermit);
                }
                self.step(Input::Stun)?;
                self.unload();
                return self.permit.take().map(Reply::Stunned).ok_or(Refusal::NoPermit);
            }
            Command::Stop(reason) => self.stop(reason),
            Command::PowerButton => {
                self.board.press_power_button();
                self.attend_all();
            }
            Command::StartDirtyLog => self.start_dirty_log()?,
            Command::HarvestDirtyLog => {
                self.drain_log();
                self.tables.harvest();
            }
            Command::StopDirtyLog => {
                if self.ram.dirty().is_enabled() {
                    self.with_each_vmcs(|tables, vmcs| tables.disarm(vmcs))?;
                    self.tables.stop_log();
                }
                self.throttle.set(0);
                self.step(Input::EndMove)?;
            }
            Command::Throttle(percent) => self.throttle.set(percent),
            Command::Save => return self.save().map(Reply::Saved),
            Command::Restore(state) => self.restore(state)?,
            Command::Settle => self.settle()?,
            // Who waits is run once more, and ends the machine.
            Command::Forsake => self.ram.absent().forsake(),
            Command::Inspect => return Ok(Reply::Figures(Box::new(self.figures()))),
        }
        Ok(Reply::Done)
    }

    fn run_command(&mut self, permit: Option<RunPermit>) -> Reply {
        if permit.is_none() && self.permit.is_none() {
            return Reply::Refused(Refusal::NoPermit, None);
        }
        // A permit comes from whoever starts a machine or moves it, and none from a person.
        let input = if permit.is_some() { Input::Start } else { Input::Resume };
        if let Err(refusal) = self.step(input) {
            return Reply::Refused(refusal, permit);
        }
        if permit.is_some() {
            self.permit = permit;
        }
        Reply::Done
    }

    /// Everything has come.
    fn settle(&mut self) -> Result<(), Refusal> {
        match self.ram.absent().left() {
            0 => {}
            pages => return Err(Refusal::Absent(pages)),
        }
        self.tables.reveal().map_err(Refusal::Tables)?;
        self.ram.absent().clear();
        Ok(())
    }

    fn start_dirty_log(&mut self) -> Result<(), Refusal> {
        match self.ram.absent().left() {
            0 => {}
            pages => return Err(Refusal::Absent(pages)),
        }
        self.state.clone().after(Input::BeginMove).map_err(Refusal::Impossible)?;
        self.tables.start_log().map_err(Refusal::Tables)?;
        if let Err(refusal) = self.with_each_vmcs(|tables, vmcs| tables.arm(vmcs)) {
            self.tables.stop_log();
            return Err(refusal);
        }
        self.step(Input::BeginMove)
    }

    /// Its state; it stands still, so that nothing changes meanwhile.
    fn save(&mut self) -> Result<Box<MachineState>, Refusal> {
        if self.state.runs() {
            let state = self.state.clone();
            return Err(Refusal::Impossible(super::lifecycle::Impossible { state, input: Input::Stun }));
        }
        let mut vcpus = Vec::new();
        for index in 0..self.vcpus.len() {
            vcpus.push(self.save_vcpu(index)?);
        }
        self.unload();
        let (tsc, tsc_hz) = (self.tsc(), self.policy.tsc_hz);
        let paused = self.state.is_paused();
        Ok(Box::new(MachineState { tsc, tsc_hz, paused, vcpus, board: self.board.save() }))
    }

    /// The state of processor `index`, which is loaded for that.
    pub(super) fn save_vcpu(&mut self, index: usize) -> Result<VcpuState, Refusal> {
        self.load(index)?;
        let vcpu = &mut self.vcpus[index];
        host::save_resident(&mut vcpu.resident, &self.platform.residency);
        host::load_resident(&vcpu.resident, &self.platform.residency, vcpu.context.xcr0);
        let Some(vmcs) = vcpu.slot.as_current() else { return Err(Refusal::Vmcs) };
        Ok(vcpu.save(vmcs))
    }

    /// Takes over a state. Everything is checked before anything changes.
    fn restore(&mut self, state: Box<MachineState>) -> Result<(), Refusal> {
        let MachineState { tsc, tsc_hz, paused, ref vcpus, ref board } = *state;
        let arrive = Input::Arrive { paused };
        self.state.clone().after(arrive.clone()).map_err(Refusal::Impossible)?;
        if vcpus.len() != self.vcpus.len() {
            return Err(Refusal::Processor(InvalidState::Vcpus(vcpus.len())));
        }
        let multiplier = multiplier(self.platform, tsc_hz).map_err(Refusal::Processor)?;
        let shown = Some(self.policy.cpuid.features());
        let policy = Box::new(self.platform.policy(vcpus.len() as u32, tsc_hz, shown));
        let limits = self.platform.limits(&policy);
        let mut parts = Vec::new();
        for vcpu in vcpus {
            parts.push(vcpu.validate(&limits).map_err(Refusal::Processor)?);
        }
        let mut board = Box::new(Board::restore(board).map_err(Refusal::Devices)?);
        if board.vcpus() != vcpus.len() {
            return Err(Refusal::Processor(InvalidState::Vcpus(board.vcpus())));
        }
        for (index, vcpu) in vcpus.iter().enumerate() {
            board.set_tsc_adjust(index, vcpu.msrs.tsc_adjust as i64);
        }
        self.tables.conceal().map_err(Refusal::Tables)?;
        self.unload();
        for (vcpu, (state, parts)) in self.vcpus.iter_mut().zip(state.vcpus.into_iter().zip(parts)) {
            vcpu.restore(Box::new(state), parts);
        }
        self.clock = GuestClock { mapping: TscMapping { multiplier, offset: 0 }, clock: board.clock() };
        self.tsc_multiplier = multiplier;
        self.board = board;
        self.policy = policy;
        self.frozen = Some(tsc);
        self.timer = Timer { deadline: None, host_tsc: u64::MAX };
        self.step(arrive)
    }

    fn figures(&self) -> Figures {
        let mut exits = [0; REASONS];
        let mut wild_accesses = 0;
        for vcpu in &self.vcpus {
            wild_accesses += vcpu.context.wild_accesses;
            for (sum, count) in exits.iter_mut().zip(vcpu.context.counts) {
                *sum += count;
            }
        }
        Figures {
            exits,
            wild_accesses,
            run_ticks: self.run_ticks,
            tsc: self.tsc(),
            throttle: self.throttle.percent(),
            dirty_source: self.platform.dirty_source.name(),
            first_entry_tsc: self.first_entry_tsc,
        }
    }
}
