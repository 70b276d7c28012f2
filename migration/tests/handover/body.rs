//! A guest of few pages, whose first says what the guest has done.

use godwit_migration::{
    DeviceState, GuestId, GuestRam, Necessity, PAGE_BYTES, Page, PageBitmap, PageBytes, RamFailure,
    RunPermit, Section,
};

use super::parts::{Body, Generation, Work};

pub(crate) const GUEST: GuestId = GuestId([0x67; 16]);
pub(crate) const PAGES: u32 = 6;

/// See the module.
#[derive(Debug)]
pub(crate) struct LiveGuest {
    pages: [Box<PageBytes>; PAGES as usize],
    log: Option<PageBitmap>,
    published: PageBitmap,
    absent: PageBitmap,
    /// Present exactly while the guest runs here, or is left to a person.
    pub(crate) permit: Option<RunPermit>,
}

impl LiveGuest {
    fn filled_with(byte: u8, permit: Option<RunPermit>) -> Self {
        let none = || PageBitmap::empty(PAGES);
        Self {
            pages: std::array::from_fn(|_| Box::new([byte; PAGE_BYTES])),
            log: None,
            published: none(),
            absent: none(),
            permit,
        }
    }

    pub(crate) fn start_log(&mut self) {
        self.log = Some(PageBitmap::empty(PAGES));
    }

    pub(crate) fn harvest(&mut self) {
        let log = self.log.as_mut().expect("a harvest is asked for only while the log is on");
        self.published.merge(&std::mem::replace(log, PageBitmap::empty(PAGES)));
    }

    pub(crate) fn stop_log(&mut self) {
        self.log = None;
        self.published.clear();
    }

    pub(crate) fn devices(&self) -> DeviceState {
        let bytes = vec![self.pages[0][0]; 16];
        vec![Section { id: 1, instance: 0, version: 1, necessity: Necessity::Mandatory, bytes }]
    }
}

impl Body for LiveGuest {
    fn born() -> Self {
        Self::filled_with(0xaa, Some(RunPermit::for_new_guest(GUEST)))
    }

    fn built() -> Self {
        Self::filled_with(0, None)
    }

    fn works(&mut self, work: Work) {
        if !self.absent.contains(Page(0)) {
            self.pages[0][0] = work;
            if let Some(log) = &mut self.log {
                log.insert(Page(0));
            }
        }
    }

    fn holds(&self, work: Work) -> bool {
        self.absent.contains(Page(0)) || self.pages[0][0] == work && self.pages[1][1] == 0xaa
    }

    fn is_run_in(&self, generation: Option<Generation>) -> bool {
        self.permit.as_ref().map(|permit| permit.generation().0) == generation.map(u64::from)
    }
}

impl GuestRam for LiveGuest {
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

    fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        let content = self.pages.get(page.0 as usize).ok_or(RamFailure::OutOfRange(page))?;
        Ok(godwit_migration::is_zero(content))
    }

    fn take_dirty(&mut self, into: &mut PageBitmap) {
        into.merge(&self.published);
        self.published.clear();
    }

    fn set_absent(&mut self, absent: &PageBitmap) -> Result<(), RamFailure> {
        self.absent = absent.clone();
        Ok(())
    }

    fn publish(&mut self, page: Page) {
        assert!(self.absent.remove(page), "{page} is published once");
    }
}
