//! The wires: from devices' lines to the interrupt controllers, and from those to the local APICs.

use super::requests::Request;
use super::{Board, GuestTime};
use crate::devices::ioapic::Pins;
use crate::devices::irq::{DeliveryMode, Destination, Line, Message, Trigger};

impl Board {
    /// Carries a device's line to the controllers if its level has changed.
    #[inline]
    pub(super) fn sync(&mut self, line: Line, level: bool) {
        let bit = 1u16 << line.irq;
        if (self.lines & bit != 0) != level {
            self.lines ^= bit;
            self.set_line(line, level);
        }
    }

    pub(super) fn sync_uart(&mut self) {
        let level = self.uart.interrupt_level();
        self.sync(Line::COM1, level);
    }

    pub(super) fn sync_rtc(&mut self) {
        let level = self.rtc.interrupt_level();
        self.sync(Line::CLOCK, level);
    }

    pub(super) fn sync_pm(&mut self) {
        let level = self.pm.interrupt_level();
        self.sync(Line::SCI, level);
    }

    /// An edge of the PIT.
    pub(super) fn pulse_timer(&mut self) {
        self.set_line(Line::TIMER, false);
        self.set_line(Line::TIMER, true);
    }

    fn set_line(&mut self, line: Line, level: bool) {
        self.pic.set_line(line.irq, level);
        self.sync_pic();
        if let Some(message) = self.ioapic.set_line(line.gsi, level) {
            self.deliver(None, message);
        }
    }

    /// Tells LINT0 of the processors that the 8259s' output rose. ExtINT mode needs no telling: there the
    /// output itself is looked at.
    pub(super) fn sync_pic(&mut self) {
        let output = self.pic.output();
        if output == self.pic_output {
            return;
        }
        self.pic_output = output;
        if !output {
            return;
        }
        for vcpu in 0..self.lapics.len() {
            if let Some(message) = self.lapics[vcpu].lint0_rose() {
                self.deliver(Some(vcpu), message);
            }
        }
    }

    /// Lets the pins whose level still asks send again.
    pub(super) fn service_ioapic(&mut self, mut pins: Pins) {
        while pins != 0 {
            let pin = pins.trailing_zeros() as u8;
            pins &= pins - 1;
            if let Some(message) = self.ioapic.service(pin) {
                self.deliver(None, message);
            }
        }
    }

    /// Brings a message to those it is for.
    pub(super) fn deliver(&mut self, sender: Option<usize>, message: Message) {
        if let Destination::Itself = message.destination {
            if let Some(sender) = sender {
                self.deliver_to(sender, message);
            }
            return;
        }
        let others_only = matches!(message.destination, Destination::AllOthers);
        let mut least_busy: Option<usize> = None;
        for vcpu in 0..self.lapics.len() {
            if others_only && sender == Some(vcpu) || !self.lapics[vcpu].matches(message.destination) {
                continue;
            }
            if message.mode != DeliveryMode::LowestPriority {
                self.deliver_to(vcpu, message);
            } else if least_busy
                .is_none_or(|best| self.lapics[vcpu].arbitration() < self.lapics[best].arbitration())
            {
                least_busy = Some(vcpu);
            }
        }
        if let Some(vcpu) = least_busy {
            self.deliver_to(vcpu, message);
        }
    }

    fn deliver_to(&mut self, vcpu: usize, message: Message) {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.lapics[vcpu].accept(message.vector, message.trigger);
            }
            DeliveryMode::NonMaskable => self.requests.add(Request::NonMaskableInterrupt { vcpu }),
            DeliveryMode::Init => {
                self.lapics[vcpu].init();
                self.refresh_deadline();
                self.requests.add(Request::InitVcpu { vcpu });
            }
            DeliveryMode::StartUp => {
                self.requests.add(Request::StartVcpu { vcpu, vector: message.vector });
            }
            // There is no system-management mode, and ExtINT comes through LINT0 only.
            DeliveryMode::SystemManagement | DeliveryMode::External | DeliveryMode::Reserved => {}
        }
    }

    /// A message that a device sends by itself, as an MSI: for devices on the PCI bus.
    pub fn message_signalled(&mut self, address: u64, data: u32) {
        let id = (address >> 12 & 0xff) as u32;
        let destination =
            if address & 1 << 2 != 0 { Destination::Logical(id) } else { Destination::Physical(id) };
        let trigger = if data & 1 << 15 != 0 { Trigger::Level } else { Trigger::Edge };
        self.deliver(
            None,
            Message { destination, mode: DeliveryMode::of(data), trigger, vector: data as u8 },
        );
    }

    /// Finds the earliest of all deadlines.
    pub(super) fn refresh_deadline(&mut self) {
        let devices = self.pit.deadline().earlier(self.rtc.deadline()).earlier(self.pm.deadline());
        self.deadline = self.lapics.iter().fold(devices, |least, lapic| least.earlier(lapic.deadline()));
    }

    /// Lets everything fire that is due by `now`.
    #[cold]
    pub(super) fn advance_due(&mut self, now: GuestTime) {
        for lapic in &mut self.lapics {
            lapic.advance(&self.clocks, now);
        }
        if self.pit.advance(now) {
            self.pulse_timer();
        }
        self.rtc.advance(now);
        self.sync_rtc();
        self.pm.advance(now);
        self.sync_pm();
        self.refresh_deadline();
    }
}
