//! Register accesses of the local APIC: by memory, by MSR, and the registers behind both.

use super::registers as reg;
use super::registers::{
    BASE_ADDRESS, BASE_BOOTSTRAP, BASE_ENABLE, BASE_X2APIC, COMMAND_WRITABLE, ERROR_ILLEGAL_REGISTER,
    ERROR_SEND_ILLEGAL_VECTOR, LVT_MASKED, LVT_WRITABLE, MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC_FIRST,
    MSR_X2APIC_LAST, SPURIOUS_WRITABLE, SPURIOUS_WRITABLE_X2, TIMER,
};
use super::{Clocks, Effect, Face, Lapic, NO_PAGE, TimerMode};
use crate::devices::irq::{DeliveryMode, Destination, FIRST_LEGAL_VECTOR, Message, Trigger};
use crate::devices::{GuestTime, Width};

/// Why an MSR access is refused: the guest gets #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Lapic {
    /// Reads `width` bytes at `offset` of the register page. Registers are 32 bits at 16-byte steps; the
    /// bytes between them read as zero.
    #[inline]
    pub fn mmio_read(&mut self, clocks: &Clocks, now: GuestTime, offset: u16, width: Width) -> u64 {
        let within = offset & 0xf;
        if within >= 4 {
            return 0;
        }
        let value = match self.read(clocks, now, offset & 0xff0) {
            Some(value) => value,
            None => {
                self.raise_error(ERROR_ILLEGAL_REGISTER);
                0
            }
        };
        u64::from(value) >> (8 * within) & width.mask()
    }

    /// Writes at `offset` of the register page. Only aligned 32-bit writes mean something (SDM 11.4.1);
    /// of a wider one, the low half.
    #[inline]
    pub fn mmio_write(
        &mut self,
        clocks: &Clocks,
        now: GuestTime,
        offset: u16,
        width: Width,
        value: u64,
    ) -> Effect {
        if offset & 0xf != 0 || width < Width::Dword {
            return Effect::None;
        }
        let value = value as u32;
        match offset & 0xff0 {
            // Any value ends the interrupt by memory; by MSR it must be zero.
            reg::END_OF_INTERRUPT => self.end_of_interrupt(),
            reg::COMMAND_LOW => self.send(self.command & !0xffff_ffff | u64::from(value)),
            reg::COMMAND_HIGH => {
                self.command = self.command & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32;
                Effect::None
            }
            reg::LOGICAL_DESTINATION => {
                self.logical_destination = value & 0xff00_0000;
                Effect::None
            }
            reg::DESTINATION_FORMAT => {
                self.destination_format = value | 0x0fff_ffff;
                Effect::None
            }
            register => {
                if self.write(clocks, now, register, value).is_err() {
                    self.raise_error(ERROR_ILLEGAL_REGISTER);
                }
                Effect::None
            }
        }
    }

    /// Reads an MSR of this APIC.
    ///
    /// # Errors
    /// [`Refused`] where the processor gives #GP.
    #[inline]
    pub fn msr_read(&mut self, clocks: &Clocks, now: GuestTime, msr: u32) -> Result<u64, Refused> {
        match msr {
            MSR_APIC_BASE => Ok(self.base),
            MSR_TSC_DEADLINE => Ok(self.timer.tsc_deadline(clocks, now)),
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.face == Face::X2Apic => {
                match register_of(msr).ok_or(Refused)? {
                    reg::COMMAND_LOW => Ok(self.command),
                    // Written only, or not there by MSR.
                    reg::COMMAND_HIGH
                    | reg::DESTINATION_FORMAT
                    | reg::ARBITRATION_PRIORITY
                    | reg::REMOTE_READ
                    | reg::END_OF_INTERRUPT => Err(Refused),
                    register => self.read(clocks, now, register).map(u64::from).ok_or(Refused),
                }
            }
            _ => Err(Refused),
        }
    }

    /// Writes an MSR of this APIC.
    ///
    /// # Errors
    /// [`Refused`] where the processor gives #GP.
    #[inline]
    pub fn msr_write(
        &mut self,
        clocks: &Clocks,
        now: GuestTime,
        msr: u32,
        value: u64,
    ) -> Result<Effect, Refused> {
        match msr {
            MSR_TSC_DEADLINE => {
                self.timer.write_tsc_deadline(clocks, value);
                Ok(Effect::None)
            }
            MSR_APIC_BASE => self.write_base(value).map(|()| Effect::None),
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.face == Face::X2Apic => {
                self.x2apic_write(clocks, now, register_of(msr).ok_or(Refused)?, value)
            }
            _ => Err(Refused),
        }
    }

    fn x2apic_write(
        &mut self,
        clocks: &Clocks,
        now: GuestTime,
        register: u16,
        value: u64,
    ) -> Result<Effect, Refused> {
        if register == reg::COMMAND_LOW {
            if value & 0xffff_ffff & !u64::from(COMMAND_WRITABLE) != 0 {
                return Err(Refused);
            }
            return Ok(self.send(value));
        }
        let low = u32::try_from(value).map_err(|_| Refused)?;
        match register {
            reg::END_OF_INTERRUPT if low == 0 => Ok(self.end_of_interrupt()),
            reg::SELF_IPI if low <= 0xff => Ok(self.send_to_itself(low as u8)),
            reg::ERROR_STATUS if low != 0 => Err(Refused),
            reg::TASK_PRIORITY if low > 0xff => Err(Refused),
            reg::SPURIOUS if low & !SPURIOUS_WRITABLE_X2 != 0 => Err(Refused),
            reg::DIVIDE if low & !0xb != 0 => Err(Refused),
            reg::LVT_TIMER..=reg::LVT_ERROR if low & !LVT_WRITABLE[lvt_index(register)] != 0 => Err(Refused),
            _ => self.write(clocks, now, register, low).map(|()| Effect::None),
        }
    }

    /// Reads a register that both faces have; `None` if there is none at this offset.
    #[inline]
    fn read(&mut self, clocks: &Clocks, now: GuestTime, register: u16) -> Option<u32> {
        let x2apic = self.face == Face::X2Apic;
        Some(match register {
            reg::TASK_PRIORITY => u32::from(self.task_priority),
            reg::COMMAND_LOW => self.command as u32,
            reg::COMMAND_HIGH => (self.command >> 32) as u32,
            reg::IN_SERVICE..=reg::IN_SERVICE_LAST => self.in_service.register(index_in_set(register)),
            reg::TRIGGER_MODE..=reg::TRIGGER_MODE_LAST => self.trigger_mode.register(index_in_set(register)),
            reg::REQUESTED..=reg::REQUESTED_LAST => self.requested.register(index_in_set(register)),
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[lvt_index(register)],
            reg::CURRENT_COUNT => self.timer.current_count(clocks, now),
            reg::INITIAL_COUNT => self.timer.initial_count(),
            reg::DIVIDE => self.timer.divide(),
            reg::ID if x2apic => self.id,
            reg::ID => self.id << 24,
            reg::VERSION => reg::VERSION_VALUE,
            reg::PROCESSOR_PRIORITY | reg::ARBITRATION_PRIORITY => u32::from(self.processor_priority()),
            reg::LOGICAL_DESTINATION if x2apic => self.x2apic_logical_id(),
            reg::LOGICAL_DESTINATION => self.logical_destination,
            reg::DESTINATION_FORMAT => self.destination_format,
            reg::SPURIOUS => self.spurious,
            reg::ERROR_STATUS => u32::from(self.error_status),
            // Write-only and obsolete registers read as zero by memory.
            reg::END_OF_INTERRUPT | reg::REMOTE_READ => 0,
            _ => return None,
        })
    }

    /// Writes a register that both faces have.
    fn write(&mut self, clocks: &Clocks, now: GuestTime, register: u16, value: u32) -> Result<(), Refused> {
        match register {
            reg::TASK_PRIORITY => self.set_task_priority(value as u8),
            reg::INITIAL_COUNT => self.timer.write_initial_count(clocks, now, value),
            reg::LVT_TIMER..=reg::LVT_ERROR => self.write_lvt(clocks, now, lvt_index(register), value),
            reg::DIVIDE => self.timer.write_divide(clocks, now, value),
            reg::SPURIOUS => self.write_spurious(clocks, now, value),
            reg::ERROR_STATUS => {
                self.error_status = core::mem::take(&mut self.errors);
            }
            // Read-only; by memory the write is ignored.
            reg::ID | reg::VERSION if self.face == Face::XApic => {}
            _ => return Err(Refused),
        }
        Ok(())
    }

    fn write_lvt(&mut self, clocks: &Clocks, now: GuestTime, index: usize, value: u32) {
        let mut entry = value & LVT_WRITABLE[index];
        if !self.software_enabled() {
            entry |= LVT_MASKED;
        }
        self.lvt[index] = entry;
        if index == TIMER {
            self.timer.configure(clocks, now, TimerMode::of(entry), entry & LVT_MASKED != 0);
        }
    }

    fn write_spurious(&mut self, clocks: &Clocks, now: GuestTime, value: u32) {
        self.spurious = value & SPURIOUS_WRITABLE;
        if !self.software_enabled() {
            // SDM 11.4.7.2: all entries are masked and stay so.
            for index in 0..self.lvt.len() {
                self.write_lvt(clocks, now, index, self.lvt[index]);
            }
        }
    }

    fn write_base(&mut self, value: u64) -> Result<(), Refused> {
        if value & !(BASE_ADDRESS | BASE_BOOTSTRAP | BASE_ENABLE | BASE_X2APIC) != 0 {
            return Err(Refused);
        }
        let face = Face::of(value).ok_or(Refused)?;
        match (self.face, face) {
            // SDM figure 11-20: x2APIC is entered from xAPIC only and left only to disabled.
            (Face::Disabled, Face::X2Apic) | (Face::X2Apic, Face::XApic) => return Err(Refused),
            (Face::XApic | Face::X2Apic, Face::Disabled) => {
                self.reset_registers();
            }
            (Face::XApic, Face::X2Apic) => self.command = 0,
            _ => {}
        }
        // Which processor is the bootstrap processor is not the guest's to change.
        self.base = value & !BASE_BOOTSTRAP | self.base & BASE_BOOTSTRAP;
        self.enter_face(face);
        Ok(())
    }

    /// Shows `face`, with the register page where the base register says.
    pub(super) const fn enter_face(&mut self, face: Face) {
        self.face = face;
        self.page = if matches!(face, Face::XApic) { self.base & BASE_ADDRESS } else { NO_PAGE };
    }

    fn send_to_itself(&mut self, vector: u8) -> Effect {
        if vector < FIRST_LEGAL_VECTOR {
            self.raise_error(ERROR_SEND_ILLEGAL_VECTOR);
        } else {
            self.accept(vector, Trigger::Edge);
        }
        Effect::None
    }

    /// A write of the interrupt command register sends a message.
    fn send(&mut self, command: u64) -> Effect {
        let low = command as u32 & COMMAND_WRITABLE;
        let high = (command >> 32) as u32;
        self.command = u64::from(high) << 32 | u64::from(low);
        let vector = low as u8;
        let mode = DeliveryMode::of(low);
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < FIRST_LEGAL_VECTOR => {
                self.raise_error(ERROR_SEND_ILLEGAL_VECTOR);
                return Effect::None;
            }
            DeliveryMode::External | DeliveryMode::Reserved => return Effect::None,
            // INIT level de-assert: obsolete, ignored by every processor since the Pentium 4.
            DeliveryMode::Init if low & (1 << 14) == 0 => return Effect::None,
            _ => {}
        }
        let address = if self.face == Face::X2Apic { high } else { high >> 24 };
        let destination = match low >> 18 & 3 {
            0 if low & 1 << 11 == 0 => Destination::Physical(address),
            0 => Destination::Logical(address),
            1 => Destination::Itself,
            2 => Destination::All,
            _ => Destination::AllOthers,
        };
        Effect::Send(Message { destination, mode, trigger: Trigger::Edge, vector })
    }
}

/// Register behind an x2APIC MSR; `None` above the last one.
const fn register_of(msr: u32) -> Option<u16> {
    let index = msr - MSR_X2APIC_FIRST;
    if index > 0x3f { None } else { Some((index << 4) as u16) }
}

const fn lvt_index(register: u16) -> usize {
    ((register - reg::LVT_TIMER) >> 4) as usize
}

const fn index_in_set(register: u16) -> usize {
    (register >> 4 & 7) as usize
}
