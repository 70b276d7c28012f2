//! One guest in memory: RAM with a dirty log, devices, and the permit while it runs.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use godwit_migration::{
    DeviceState, Generation, GuestAction, GuestEvent, GuestId, GuestRam, Necessity, PAGE_BYTES, Page,
    PageBitmap, PageBytes, RamFailure, RunPermit, Section,
};

/// Pages of each guest.
pub(super) const PAGES: u32 = 300;
/// Pages that guests write to, the first ones.
const WRITTEN_PAGES: u64 = 40;
/// Names a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) u32);

/// A guest's RAM and dirty log.
pub(super) struct Ram {
    pages: Vec<Box<PageBytes>>,
    pub(super) log: Option<PageBitmap>,
    published: PageBitmap,
    /// What has not come yet.
    pub(super) absent: PageBitmap,
    /// Those will never come.
    pub(super) is_lost: bool,
    /// The page that the guest waits for, and whether that was told.
    pub(super) waits_for: Option<(Page, bool)>,
}

impl Ram {
    pub(super) fn new() -> Self {
        let pages = (0..PAGES).map(|_| Box::new([0; PAGE_BYTES])).collect();
        let (published, absent) = (PageBitmap::empty(PAGES), PageBitmap::empty(PAGES));
        Self { pages, log: None, published, absent, is_lost: false, waits_for: None }
    }

    /// The guest touches a page: whether it may go on.
    pub(super) fn guest_touches(&mut self, page: Page) -> bool {
        let is_absent = self.absent.contains(page);
        match self.waits_for {
            Some((waited, _)) if is_absent => assert_eq!(waited, page, "a processor waits for one page"),
            _ => self.waits_for = is_absent.then_some((page, false)),
        }
        !is_absent
    }

    pub(super) fn guest_writes(&mut self, page: u32, content: PageBytes) {
        *self.pages[page as usize] = content;
        if let Some(log) = &mut self.log {
            log.insert(Page(page));
        }
    }
}

impl GuestRam for Ram {
    fn page_count(&self) -> u32 {
        PAGES
    }

    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        *into = **self.pages.get(page.0 as usize).ok_or(RamFailure::OutOfRange(page))?;
        Ok(())
    }

    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        **self.pages.get_mut(page.0 as usize).ok_or(RamFailure::OutOfRange(page))? = *from;
        Ok(())
    }

    fn take_dirty(&mut self, into: &mut PageBitmap) {
        into.merge(&self.published);
        self.published.clear();
    }

    fn set_absent(&mut self, absent: &PageBitmap) -> Result<(), RamFailure> {
        (self.absent, self.waits_for) = (absent.clone(), None);
        Ok(())
    }

    fn publish(&mut self, page: Page) {
        self.absent.remove(page);
    }
}

/// What a guest consists of at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pages: Vec<Box<PageBytes>>,
    pub(super) devices: DeviceState,
}

/// A guest, or a place for one.
pub(super) struct Guest {
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) id: GuestId,
    pub(super) generation: Generation,
    pub(super) ram: Option<Ram>,
    pub(super) devices: DeviceState,
    /// There exactly while it runs.
    pub(super) permit: Option<RunPermit>,
    pub(super) held: Option<RunPermit>,
    pub(super) throttle: u8,
    pub(super) is_migrating: bool,
    pub(super) answer: Option<(u8, GuestEvent)>,
    pub(super) ended: bool,
    pub(super) writes: u64,
    /// Pages that it writes in each millisecond.
    pub(super) pages_per_tick: u32,
}

impl Guest {
    /// Every page is as the guest wrote it last.
    #[track_caller]
    pub(super) fn assert_memory(&self) {
        let ram = self.ram.as_ref().expect("it is there");
        let mut last = [0; PAGES as usize];
        (1..=self.writes).for_each(|write| last[written_page(write) as usize] = write);
        for (page, write) in (0..).zip(last) {
            assert!(*ram.pages[page as usize] == content(page, write), "page {page} of write {write}");
        }
    }

    pub(super) fn content(&self) -> (String, Content) {
        let pages = self.ram.as_ref().expect("it is there").pages.clone();
        (self.name.clone(), Content { pages, devices: self.devices.clone() })
    }

    /// That it waits for a page, once.
    pub(super) fn wanted(&mut self) -> Option<GuestEvent> {
        let (page, told) = self.ram.as_mut()?.waits_for.as_mut()?;
        (!core::mem::replace(told, true)).then_some(GuestEvent::PageWanted(*page))
    }

    pub(super) fn save(&mut self) -> (String, Content) {
        assert!(self.permit.is_none(), "devices are saved of a guest that stands still");
        let bytes = self.writes.to_le_bytes().iter().copied().cycle().take(20_000).collect();
        let necessity = Necessity::Mandatory;
        self.devices = [Section { id: 1, instance: 0, version: 1, necessity, bytes }].into();
        self.content()
    }

    pub(super) fn act(&mut self, action: GuestAction) -> GuestEvent {
        let ram = self.ram.as_mut().expect("it is there");
        match action {
            GuestAction::StartDirtyLog => {
                ram.log = Some(PageBitmap::empty(PAGES));
                GuestEvent::DirtyLogStarted
            }
            GuestAction::HarvestDirtyLog => {
                let log = ram.log.as_mut().expect("the log is on");
                ram.published.merge(log);
                log.clear();
                GuestEvent::DirtyLogHarvested
            }
            GuestAction::StopDirtyLog => {
                ram.log = None;
                ram.published.clear();
                GuestEvent::DirtyLogStopped
            }
            GuestAction::Throttle(percent) => {
                self.throttle = percent;
                GuestEvent::Throttled
            }
            GuestAction::Pause => GuestEvent::Paused(self.permit.take().expect("it runs until it is paused")),
            GuestAction::Settle => {
                assert!(self.permit.is_some() && ram.absent.is_empty(), "all has come while it runs");
                GuestEvent::Settled
            }
            GuestAction::Forsake => {
                ram.is_lost = true;
                GuestEvent::Forsaken
            }
            GuestAction::RestoreState(state) => {
                self.writes = writes_in(&state);
                self.devices = state;
                GuestEvent::StateRestored
            }
            GuestAction::Discard => {
                assert!(self.permit.is_none(), "a running guest is not discarded");
                GuestEvent::Discarded
            }
            other => panic!("answered elsewhere: {other:?}"),
        }
    }
}

/// How often a guest had written when its devices were saved.
fn writes_in(state: &DeviceState) -> u64 {
    state
        .first()
        .and_then(|section| section.bytes.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The page that a guest writes to with its write of this number.
pub(super) const fn written_page(write: u64) -> u32 {
    (write * 7 % WRITTEN_PAGES) as u32
}

/// What a guest writes to a page: some zero, some text, some without any order.
pub(super) fn content(page: u32, write: u64) -> PageBytes {
    let mut bytes = [0; PAGE_BYTES];
    let mut word = (u64::from(page) + 1) * 0x9e37_79b9 + write * 0x85eb_ca6b;
    match (u64::from(page) + write) % 3 {
        0 => {}
        1 => bytes.iter_mut().zip(b"a line of a log, ".iter().cycle()).for_each(|(to, from)| *to = *from),
        _ => bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|to| {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *to = word.to_le_bytes();
        }),
    }
    bytes[8..16].copy_from_slice(&write.to_le_bytes());
    bytes
}
