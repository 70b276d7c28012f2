//! A house of guests in memory, whose steps take time and can fail.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use godwit_migration::{
    Generation, GuestAction, GuestDescription, GuestEvent, GuestFailure, GuestId, GuestRam, HostCapabilities,
    HostShare, MigrationId, NoRam, PAGE_BYTES, Page, Purpose, RamLayout, RamRange, Refusal, Room, RunPermit,
    Step, TscScaling,
};

use super::super::guest::{GuestHouse, Lodging, NotMovable};
use super::super::shelf::{self, Shelf};
use super::fake_guest::{Content, Guest, Key, PAGES, Ram, content, written_page};
use crate::vm::memory::testing::HeapBlocks;

/// Polls until a step is answered.
const STEP_POLLS: u8 = 2;

/// See the module.
pub(super) struct House {
    guests: Vec<Guest>,
    no_ram: NoRam,
    next: u32,
    pub(super) incarnation: u64,
    /// It can run guests of whose memory parts are absent, and says so.
    pub(super) offers_post_copy: bool,
    /// Steps that fail when they are asked for, once each, and why.
    pub(super) failing: Vec<(Step, GuestFailure)>,
    /// Building a guest takes as long as this is set.
    pub(super) builds: bool,
    /// What guests were when they stood still, and when they began to run.
    pub(super) left: Vec<(String, Content)>,
    pub(super) started: Vec<(String, Content)>,
    /// Sessions that are over.
    pub(super) done: u32,
    /// Guests that have gone, and where.
    pub(super) departed: Vec<(String, String)>,
    /// Bytes of RAM for guests that come, of the heap, and what of that is promised to sessions.
    pub(super) ram_bytes: u64,
    pub(super) heap_bytes: u64,
    pub(super) promised_bytes: u64,
    /// What of the heap each guest takes.
    pub(super) share: HostShare,
    /// All steps that were asked for.
    pub(super) steps: Vec<Step>,
}

impl House {
    pub(super) fn new(incarnation: u64) -> Self {
        Self {
            guests: Vec::new(),
            no_ram: NoRam,
            next: 0,
            incarnation,
            offers_post_copy: true,
            failing: Vec::new(),
            builds: false,
            left: Vec::new(),
            started: Vec::new(),
            done: 0,
            departed: Vec::new(),
            ram_bytes: 1 << 30,
            heap_bytes: 1 << 30,
            promised_bytes: 0,
            share: HostShare::default(),
            steps: Vec::new(),
        }
    }

    /// A new guest that runs.
    pub(super) fn boot(&mut self, name: &str) {
        let key = self.place();
        let guest = self.guests.last_mut().expect("it was just added");
        guest.name = name.to_string();
        guest.id = GuestId([key.0 as u8 + 1; 16]);
        guest.permit = Some(RunPermit::for_new_guest(guest.id));
        let mut ram = Ram::new();
        (0..PAGES).for_each(|page| ram.guest_writes(page, content(page, 0)));
        guest.ram = Some(ram);
    }

    fn place(&mut self) -> Key {
        self.next += 1;
        let key = Key(self.next);
        self.guests.push(Guest {
            key,
            name: String::new(),
            id: GuestId([0; 16]),
            generation: Generation::FIRST,
            ram: None,
            devices: Vec::new(),
            permit: None,
            held: None,
            throttle: 0,
            is_migrating: false,
            answer: None,
            ended: false,
            writes: 0,
            pages_per_tick: 1,
        });
        key
    }

    /// Guests that run do their work.
    pub(super) fn work(&mut self) {
        for guest in self.guests.iter_mut().filter(|guest| guest.permit.is_some()) {
            for _ in 0..guest.pages_per_tick {
                let page = written_page(guest.writes + 1);
                let ram = guest.ram.as_mut().expect("it runs");
                if !ram.guest_touches(Page(page)) {
                    // What is lost ends the guest that needs it.
                    guest.ended |= core::mem::take(&mut ram.is_lost);
                    break;
                }
                guest.writes += 1;
                ram.guest_writes(page, content(page, guest.writes));
            }
        }
    }

    /// Stops a guest for good, as its own shutdown does.
    pub(super) fn end(&mut self, name: &str) {
        self.get(name).ended = true;
    }

    pub(super) fn find(&self, name: &str) -> Option<&Guest> {
        self.guests.iter().find(|guest| guest.name == name)
    }

    pub(super) fn get(&mut self, name: &str) -> &mut Guest {
        self.guests.iter_mut().find(|guest| guest.name == name).expect("a guest of that name")
    }

    pub(super) fn runs(&self, name: &str) -> bool {
        self.find(name).is_some_and(|guest| guest.permit.is_some())
    }

    /// Places that are taken, for guests and for those that are to come.
    pub(super) fn places(&self) -> usize {
        self.guests.len()
    }

    /// Names of the guests that have RAM here.
    pub(super) fn names(&self) -> Vec<&str> {
        self.guests.iter().filter(|guest| guest.ram.is_some()).map(|guest| guest.name.as_str()).collect()
    }

    /// Whether the guest is as if it had never been moved.
    pub(super) fn is_untouched(&self, name: &str) -> bool {
        self.find(name).is_some_and(|guest| {
            let log_is_off = guest.ram.as_ref().is_some_and(|ram| ram.log.is_none());
            guest.permit.is_some() && log_is_off && guest.throttle == 0 && !guest.is_migrating
        })
    }

    fn build(&mut self, key: Key, wanted: &GuestDescription) -> GuestEvent {
        let is_taken = |guest: &Guest| guest.id == wanted.id || guest.name == wanted.name;
        if self.guests.iter().any(|guest| guest.key != key && is_taken(guest) && guest.ram.is_some()) {
            return GuestEvent::Failed(Step::Build, GuestFailure::Refused([Refusal::AlreadyThere].into()));
        }
        let guest = self.of(key);
        guest.name = wanted.name.clone();
        guest.id = wanted.id;
        guest.generation = wanted.generation.next();
        guest.ram = Some(Ram::new());
        GuestEvent::Built
    }

    fn of(&mut self, key: Key) -> &mut Guest {
        self.guests.iter_mut().find(|guest| guest.key == key).expect("a session's guest")
    }

    fn answer(&mut self, key: Key, action: GuestAction) -> GuestEvent {
        let step = action.step();
        self.steps.push(step);
        if let Some(index) = self.failing.iter().position(|(failing, _)| *failing == step) {
            let (step, failure) = self.failing.remove(index);
            return match action {
                GuestAction::Run(permit) => GuestEvent::RunFailed(permit, failure),
                _ => GuestEvent::Failed(step, failure),
            };
        }
        match action {
            GuestAction::Build(wanted) => self.build(key, &wanted),
            GuestAction::SaveState => {
                let (name, content) = self.of(key).save();
                let devices = content.devices.clone();
                self.left.push((name, content));
                GuestEvent::StateSaved(devices)
            }
            GuestAction::Run(permit) => {
                let guest = self.of(key);
                guest.generation = permit.generation();
                guest.permit = Some(permit);
                let started = guest.content();
                self.started.push(started);
                GuestEvent::Running
            }
            other => self.of(key).act(other),
        }
    }
}

impl GuestHouse for House {
    fn leaving(&mut self, name: &str, _purpose: &Purpose) -> Result<(Key, GuestDescription), NotMovable> {
        let guest = self.guests.iter_mut().find(|guest| guest.name == name && guest.permit.is_some());
        let guest = guest.ok_or_else(|| NotMovable::NoSuchGuest(name.to_string()))?;
        if guest.is_migrating {
            return Err(NotMovable::WrongState(name.to_string(), "on its way already"));
        }
        guest.is_migrating = true;
        let layout = RamLayout::new(&[RamRange { first_frame: 0, frames: PAGES.into() }]);
        let description = GuestDescription {
            id: guest.id,
            generation: guest.generation,
            name: name.to_string(),
            layout: layout.expect("there are pages"),
            vcpus: 1,
            features: Vec::new(),
            tsc_hz: 1_000_000_000,
            configuration: Vec::new(),
        };
        Ok((guest.key, description))
    }

    fn arriving(&mut self, _peer: &str) -> Key {
        let key = self.place();
        self.of(key).is_migrating = true;
        key
    }

    fn done(&mut self, key: Key) {
        let guest = self.of(key);
        assert!(guest.is_migrating && guest.answer.is_none(), "a session lets go once, with nothing begun");
        guest.is_migrating = false;
        self.done += 1;
        self.guests.retain(|guest| guest.key != key || guest.ram.is_some());
    }

    fn capabilities(&self) -> HostCapabilities {
        HostCapabilities {
            name: "host".into(),
            incarnation: self.incarnation,
            features: Vec::new(),
            tsc_hz: 1_000_000_000,
            tsc_scaling: TscScaling::Unavailable,
            tsc_tolerance_ppm: 100,
            room: self.room(),
            share: self.share,
            vcpus_max: 1,
            closed: None,
            post_copy: self.offers_post_copy,
        }
    }

    fn room(&self) -> Room {
        let guests = self.guests.iter().filter(|guest| guest.ram.is_some()).count() as u64;
        Room {
            ram_bytes: self.ram_bytes.saturating_sub(guests * u64::from(PAGES) * PAGE_BYTES as u64),
            heap_bytes: self.heap_bytes.saturating_sub(self.promised_bytes + guests * self.share.bytes),
        }
    }

    fn promise_heap(&mut self, bytes: u64) {
        self.promised_bytes = bytes;
    }

    fn new_migration(&mut self) -> MigrationId {
        self.next += 1;
        MigrationId([self.next as u8; 16])
    }

    fn new_guest(&mut self) -> GuestId {
        self.next += 1;
        GuestId([0x80 | self.next as u8; 16])
    }

    fn name(&self, key: Key) -> &str {
        self.guests.iter().find(|guest| guest.key == key).map_or("", |guest| &guest.name)
    }

    fn shelf(&self) -> Box<dyn GuestRam> {
        Box::new(Shelf::new(HeapBlocks { left: 16 }))
    }

    fn shelf_share(&self) -> HostShare {
        HostShare { bytes_per_block: shelf::HEAP_BYTES_PER_BLOCK, ..HostShare::default() }
    }

    fn departed(&mut self, key: Key, peer: &str) {
        let name = self.name(key).to_string();
        self.departed.push((name, peer.to_string()));
    }
}

impl Lodging for House {
    type Key = Key;

    fn begin(&mut self, key: Key, action: GuestAction) {
        let event = self.answer(key, action);
        let before = self.of(key).answer.replace((STEP_POLLS, event));
        assert!(before.is_none(), "one step at a time");
    }

    fn give_up(&mut self, key: Key) {
        let guest = self.of(key);
        if let Some((_, answer @ GuestEvent::Built)) = &mut guest.answer {
            *answer = GuestEvent::Failed(Step::Build, GuestFailure::Gone);
            guest.ram = None;
        }
    }

    fn poll(&mut self, key: Key) -> Option<GuestEvent> {
        let is_building = self.builds;
        let guest = self.of(key);
        if is_building && matches!(guest.answer, Some((_, GuestEvent::Built))) {
            return None;
        }
        if core::mem::take(&mut guest.ended) {
            return Some(GuestEvent::Ended);
        }
        match guest.answer.take() {
            Some((0, event)) => {
                if matches!(event, GuestEvent::Discarded) {
                    // Its memory is there until the end of that step.
                    guest.ram = None;
                }
                Some(event)
            }
            Some((polls, event)) => {
                let is_starting = matches!(event, GuestEvent::Running);
                guest.answer = Some((polls - 1, event));
                if is_starting { None } else { guest.wanted() }
            }
            None => guest.wanted(),
        }
    }

    fn is_waiting(&self, key: Key) -> bool {
        let ram = self.guests.iter().find(|guest| guest.key == key).and_then(|guest| guest.ram.as_ref());
        ram.is_some_and(|ram| ram.waits_for.is_some_and(|(page, _)| ram.absent.contains(page)))
    }

    fn ram(&mut self, key: Key) -> &mut dyn GuestRam {
        match self.guests.iter_mut().find(|guest| guest.key == key).and_then(|guest| guest.ram.as_mut()) {
            Some(ram) => ram,
            None => &mut self.no_ram,
        }
    }

    fn hold(&mut self, key: Key, permit: RunPermit) {
        self.of(key).held = Some(permit);
    }
}
