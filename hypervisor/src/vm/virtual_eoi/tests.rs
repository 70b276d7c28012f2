use alloc::vec::Vec;
use core::cell::RefCell;

use godwit_vmx::vmcs::FakeVmcs;
use proptest::prelude::*;

use super::*;
use crate::devices::irq::Trigger;
use crate::devices::lapic::{Clocks, Effect};
use crate::devices::{GuestTime, TscClock};

const APIC_BASE: u32 = 0x1b;
const SPURIOUS: u32 = 0x80f;
const TASK_PRIORITY: u32 = 0x808;
const END_OF_INTERRUPT: u32 = 0x80b;
const BASE_XAPIC: u64 = 0xfee0_0900;
const BASE_X2APIC: u64 = 0xfee0_0d00;
const BITMAPS: MsrBitmaps = MsrBitmaps { exiting: 0x1000, passing: 0x2000 };
const PAGE: u64 = 0x3000;
const NOW: GuestTime = GuestTime::ZERO;

fn clocks() -> Clocks {
    Clocks { tsc: TscClock::new(2_000_000_000).unwrap(), crystal: TscClock::new(25_000_000).unwrap() }
}

fn write(lapic: &mut Lapic, msr: u32, value: u64) -> Effect {
    lapic.msr_write(&clocks(), NOW, msr, value).unwrap()
}

fn set(lapic: &mut Lapic, msr: u32, value: u64) {
    assert_eq!(write(lapic, msr, value), Effect::None);
}

fn x2apic() -> Lapic {
    let mut lapic = Lapic::new(0);
    set(&mut lapic, APIC_BASE, BASE_X2APIC);
    set(&mut lapic, SPURIOUS, 0x1ff);
    lapic
}

/// A page of plain memory, with rubbish in it as another guest might have left it.
struct FakePage(RefCell<Vec<u32>>);

impl FakePage {
    fn new() -> Self {
        Self(RefCell::new(alloc::vec![!0; 1024]))
    }

    fn in_service(&self) -> VectorSet {
        let mut set = VectorSet::EMPTY;
        for vector in 0..=u8::MAX {
            let word = self.0.borrow()[(0x100 + 16 * (usize::from(vector) / 32)) / 4];
            if word >> (vector % 32) & 1 != 0 {
                set.insert(vector);
            }
        }
        set
    }

    fn clear(&self, vector: u8) {
        self.0.borrow_mut()[(0x100 + 16 * (usize::from(vector) / 32)) / 4] &= !(1 << (vector % 32));
    }
}

impl ApicPage for FakePage {
    fn physical(&self) -> u64 {
        PAGE
    }

    fn write(&self, word: usize, value: u32) {
        self.0.borrow_mut()[word] = value;
    }
}

/// A host with a processor that ends interrupts.
struct Host {
    vmcs: FakeVmcs,
    primary: u32,
    eoi: VirtualEoi<FakePage>,
}

impl Host {
    fn new() -> Self {
        Self { vmcs: FakeVmcs::new(), primary: 0, eoi: VirtualEoi::new(FakePage::new(), BITMAPS) }
    }

    fn show(&mut self, lapic: &Lapic) {
        self.eoi.show(&mut self.vmcs, &mut self.primary, lapic);
    }

    fn is_on(&self) -> bool {
        let (primary, secondary) =
            (self.vmcs.read(field::PRIMARY_CONTROLS), self.vmcs.read(field::SECONDARY_CONTROLS));
        assert_eq!(primary, self.primary);
        assert_eq!(
            primary & PRIMARY != 0,
            secondary & SECONDARY == SECONDARY,
            "one does not go without the other"
        );
        primary & PRIMARY != 0
    }

    /// EOI virtualization as SDM 30.1.4 has it: the vector, if there is an exit.
    fn end_of_interrupt(&mut self) -> Option<u8> {
        assert_eq!(self.vmcs.read(field::MSR_BITMAP), BITMAPS.passing);
        let status = self.vmcs.read(field::GUEST_INTERRUPT_STATUS);
        assert_eq!(status & 0xff, 0, "nothing that the processor could deliver");
        let vector = (status >> 8) as u8;
        self.eoi.page.clear(vector);
        let serving = self.eoi.page.in_service().highest().unwrap_or(0);
        self.vmcs.set(field::GUEST_INTERRUPT_STATUS, u16::from(serving) << 8);
        let bitmap = self.vmcs.read(EXIT_BITMAPS[usize::from(vector / 64)]);
        (bitmap >> (vector % 64) & 1 != 0).then_some(vector)
    }

    /// After an exit, of an end of an interrupt or any other: what the exit's handler finds.
    fn exit(&mut self, lapic: &mut Lapic, ended: Option<u8>) -> Effect {
        if let Some(serving) = self.eoi.ended(&self.vmcs) {
            lapic.end_above(serving);
        }
        ended.map_or(Effect::None, |vector| lapic.effect_of_end(vector))
    }
}

fn taken(lapic: &mut Lapic, vector: u8, trigger: Trigger) {
    lapic.accept(vector, trigger);
    assert_eq!(lapic.acknowledge(), Some(vector));
}

#[test]
fn the_end_of_an_interrupt_is_the_processors_and_is_found_at_the_next_exit() {
    let (mut host, mut lapic) = (Host::new(), x2apic());
    host.show(&lapic);
    assert!(host.is_on());
    assert_eq!(host.vmcs.read(field::VIRTUAL_APIC_ADDRESS), PAGE);
    taken(&mut lapic, 0x41, Trigger::Edge);
    taken(&mut lapic, 0x62, Trigger::Edge);
    host.show(&lapic);
    assert_eq!(host.vmcs.read(field::GUEST_INTERRUPT_STATUS), 0x6200);
    assert_eq!(host.end_of_interrupt(), None);
    assert_eq!(host.exit(&mut lapic, None), Effect::None);
    assert_eq!(lapic.in_service().highest(), Some(0x41));
    assert_eq!(host.end_of_interrupt(), None);
    assert_eq!(host.exit(&mut lapic, None), Effect::None);
    assert!(lapic.in_service().is_empty());
    // One end too many is nobody's.
    assert_eq!(host.end_of_interrupt(), None);
    assert_eq!(host.eoi.ended(&host.vmcs), None);
}

#[test]
fn the_end_of_a_level_interrupt_is_heard_of() {
    let (mut host, mut lapic) = (Host::new(), x2apic());
    taken(&mut lapic, 0x39, Trigger::Level);
    host.show(&lapic);
    let exit = host.end_of_interrupt();
    assert_eq!(exit, Some(0x39));
    assert_eq!(host.exit(&mut lapic, exit), Effect::EndOfInterrupt(0x39));
    // The vector comes as an edge now.
    taken(&mut lapic, 0x39, Trigger::Edge);
    host.show(&lapic);
    assert_eq!(host.end_of_interrupt(), None);
}

#[test]
fn an_end_for_which_another_interrupt_waits_is_heard_of_at_once() {
    let (mut host, mut lapic) = (Host::new(), x2apic());
    taken(&mut lapic, 0x51, Trigger::Edge);
    host.show(&lapic);
    // It comes while the guest serves the other, and is of the same class.
    lapic.accept(0x52, Trigger::Edge);
    assert_eq!(lapic.pending(), None);
    host.show(&lapic);
    let exit = host.end_of_interrupt();
    assert_eq!(exit, Some(0x51));
    assert_eq!(host.exit(&mut lapic, exit), Effect::None);
    assert_eq!(lapic.acknowledge(), Some(0x52));
    host.show(&lapic);
    assert_eq!(host.end_of_interrupt(), None, "nobody waits any more");
}

#[test]
fn only_x2apic_mode_has_it() {
    let (mut host, mut lapic) = (Host::new(), Lapic::new(0));
    host.vmcs.set(field::MSR_BITMAP, BITMAPS.exiting);
    host.vmcs.set(field::SECONDARY_CONTROLS, SecondaryControls::ENABLE_PML.bits());
    host.show(&lapic);
    assert!(!host.is_on());
    set(&mut lapic, APIC_BASE, BASE_X2APIC);
    set(&mut lapic, SPURIOUS, 0x1ff);
    taken(&mut lapic, 0x41, Trigger::Edge);
    host.show(&lapic);
    assert!(host.is_on());
    set(&mut lapic, APIC_BASE, BASE_XAPIC & !(1 << 11));
    host.show(&lapic);
    assert!(!host.is_on());
    assert_eq!(host.vmcs.read(field::MSR_BITMAP), BITMAPS.exiting);
    assert_eq!(host.vmcs.read(field::SECONDARY_CONTROLS), SecondaryControls::ENABLE_PML.bits());
    assert_eq!(host.eoi.ended(&host.vmcs), None, "what the VMCS still says means nothing");
}

/// What may happen while a guest runs, is interrupted, and moves.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A message arrives at the host.
    Accept(u8, Trigger),
    /// The guest writes its task priority, which exits.
    Priority(u8),
    /// The guest can take an interrupt, and takes what there is.
    Take,
    /// The guest ends this many interrupts, unless an exit comes between, and goes on to some exit.
    End(u8),
    /// It moves, to a host with or without all this.
    Move { has_virtual_eoi: bool },
    /// It turns its APIC off and on again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (16_u8.., any::<bool>()).prop_map(|(vector, level)| {
            Step::Accept(vector, if level { Trigger::Level } else { Trigger::Edge })
        }),
        1 => any::<u8>().prop_map(Step::Priority),
        4 => Just(Step::Take),
        4 => (1_u8..4).prop_map(Step::End),
        1 => any::<bool>().prop_map(|has_virtual_eoi| Step::Move { has_virtual_eoi }),
        1 => Just(Step::Restart),
    ]
}

/// A guest's APIC on a host that may have a processor that ends interrupts, beside one that has no such thing.
struct World {
    lapic: Lapic,
    host: Option<Host>,
    plain: Lapic,
}

impl World {
    /// Both do the same.
    fn both<R: PartialEq + core::fmt::Debug>(&mut self, act: impl Fn(&mut Lapic) -> R) -> R {
        let result = act(&mut self.lapic);
        assert_eq!(result, act(&mut self.plain));
        result
    }

    fn end(&mut self, count: u8) {
        for _ in 0..count {
            let expected = write(&mut self.plain, END_OF_INTERRUPT, 0);
            let Some(host) = &mut self.host else {
                assert_eq!(write(&mut self.lapic, END_OF_INTERRUPT, 0), expected);
                continue;
            };
            match host.end_of_interrupt() {
                // Without an exit there must have been nothing to do.
                None => assert_eq!((expected, self.plain.pending()), (Effect::None, None)),
                exit => {
                    assert_eq!(host.exit(&mut self.lapic, exit), expected);
                    return;
                }
            }
        }
        if let Some(host) = &mut self.host {
            assert_eq!(host.exit(&mut self.lapic, None), Effect::None);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Accept(vector, trigger) => self.both(|lapic| lapic.accept(vector, trigger)),
            Step::Priority(value) => self.both(|lapic| set(lapic, TASK_PRIORITY, value.into())),
            Step::Take => {
                self.both(Lapic::acknowledge);
            }
            Step::End(count) => self.end(count),
            Step::Move { has_virtual_eoi } => {
                self.lapic = Lapic::restore(&self.lapic.save(), 0, &clocks()).unwrap();
                self.host = match self.host.take() {
                    // The same host again, into the same VMCS: a stop that was called back.
                    Some(mut host) if has_virtual_eoi => {
                        (host.vmcs, host.primary) = (FakeVmcs::new(), 0);
                        host.eoi.forget();
                        Some(host)
                    }
                    _ => has_virtual_eoi.then(Host::new),
                };
            }
            Step::Restart => {
                self.both(|lapic| set(lapic, APIC_BASE, BASE_XAPIC & !(1 << 11)));
                if let Some(host) = &mut self.host {
                    host.show(&self.lapic);
                    assert!(!host.is_on());
                }
                self.both(|lapic| set(lapic, APIC_BASE, BASE_XAPIC));
                self.both(|lapic| set(lapic, APIC_BASE, BASE_X2APIC));
                self.both(|lapic| set(lapic, SPURIOUS, 0x1ff));
            }
        }
    }

    /// Before each entry the copy is made like the truth, and the truth is what it would be without a copy.
    fn enter(&mut self) {
        assert_eq!(self.lapic.save(), self.plain.save());
        assert_eq!(self.lapic.pending(), self.plain.pending());
        if let Some(host) = &mut self.host {
            host.show(&self.lapic);
            assert!(host.is_on());
            assert_eq!(host.eoi.page.in_service(), self.lapic.in_service());
        }
    }
}

proptest! {
    #[test]
    fn no_interrupt_is_lost_or_doubled(
        steps in prop::collection::vec(step(), 0..200),
        has_virtual_eoi: bool,
    ) {
        let mut world = World {
            lapic: x2apic(),
            host: has_virtual_eoi.then(Host::new),
            plain: x2apic(),
        };
        world.enter();
        for step in steps {
            world.take(step);
            world.enter();
        }
    }
}
