//! A guest's extended page tables, and the dirty log that lives in them.

use alloc::sync::Arc;

use godwit_vmx::addr::Gfn;
use godwit_vmx::controls::SecondaryControls;
use godwit_vmx::ept::{AccessedDirty, Ept, EptError, Flush};
use godwit_vmx::exit::EptViolation;
use godwit_vmx::field;
use godwit_vmx::pml;
use godwit_vmx::vmcs::VmcsAccess;

use super::dirty::DirtySource;
use super::frames::{Frame, TableFrames};
use super::memory::GuestRam;
use super::{holes, host};

/// See the module's documentation. Changed only while no processor of the guest runs.
#[derive(Debug)]
pub struct Tables {
    ept: Ept,
    frames: TableFrames,
    ram: Arc<GuestRam>,
    source: DirtySource,
    log: Option<Frame>,
    flush_due: bool,
    /// Something may be unmapped: it has not come yet, or it has and was not touched.
    has_holes: bool,
}

/// What is to be done about a violation at an address that is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Resolution {
    /// The guest may go on.
    GoOn,
    /// It waits for the page of this number.
    Wait(usize),
    /// The host has no memory left for the table that it needs.
    OutOfFrames,
    /// The tables allow the access, or never will.
    Unexplained,
}

impl Tables {
    /// Tables that map all of `ram`.
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`]; nothing is kept.
    pub fn new(
        ram: Arc<GuestRam>,
        accessed_dirty: AccessedDirty,
        source: DirtySource,
    ) -> Result<Self, EptError> {
        let mut frames = TableFrames::default();
        let log = match source {
            DirtySource::Pml => Some(Frame::allocate().ok_or(EptError::OutOfFrames)?),
            DirtySource::DirtyFlags | DirtySource::WriteProtect => None,
        };
        let mut ept = Ept::new(&mut frames, accessed_dirty)?;
        match holes::reveal(&mut ept, &mut frames, &ram) {
            // A flush is due in any case: the root may be where another guest's was.
            Ok(_flush) => Ok(Self { ept, frames, ram, source, log, flush_due: true, has_holes: false }),
            Err(error) => {
                ept.destroy(&mut frames);
                Err(error)
            }
        }
    }

    /// The EPT pointer.
    #[must_use]
    pub fn pointer(&self) -> u64 {
        self.ept.pointer()
    }

    /// Physical address of the page-modification log, if there is one.
    #[must_use]
    pub fn log_address(&self) -> Option<u64> {
        self.log.as_ref().map(|log| log.address().as_u64())
    }

    /// Makes this processor forget what it has cached of mappings that have changed. Due before each entry.
    #[inline]
    pub fn flush(&mut self) {
        if self.flush_due {
            self.flush_due = false;
            host::flush_ept(self.ept.pointer());
            self.ept.reclaim(&mut self.frames);
        }
    }

    /// Makes the next [`Self::flush`] due whatever changed: the guest comes to a processor that may hold old mappings.
    pub const fn distrust(&mut self) {
        self.flush_due = true;
    }

    fn owe(&mut self, flush: Flush) {
        self.flush_due |= flush.defer();
    }

    fn all(&self) -> core::ops::Range<Gfn> {
        Gfn::new(0)..self.ram.end().frame()
    }

    /// Starts to record writes; each processor is then to be armed ([`Self::arm`]).
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`]; nothing is recorded then.
    pub fn start_log(&mut self) -> Result<(), EptError> {
        self.reveal()?;
        let all = self.all();
        match self.ept.split_all(&mut self.frames, all.clone()) {
            Ok(flush) => self.owe(flush),
            Err((error, flush)) => {
                let flush = flush.and(self.ept.collapse_all(&self.frames, all));
                self.owe(flush);
                return Err(error);
            }
        }
        self.ram.dirty().enable();
        let flush = match self.source {
            DirtySource::Pml | DirtySource::DirtyFlags => self.ept.harvest_dirty(&self.frames, all, |_| {}),
            DirtySource::WriteProtect => self.ept.protect_all(&self.frames, all),
        };
        self.owe(flush);
        Ok(())
    }

    /// Has the processor whose VMCS is current log its writes, if writes are recorded and it can.
    pub fn arm(&self, vmcs: &mut impl VmcsAccess) {
        if self.is_logging() {
            vmcs.write(field::PML_INDEX, pml::EMPTY_INDEX);
            set_logging(vmcs, Logging::On);
        }
    }

    /// Whether processors log their writes.
    fn is_logging(&self) -> bool {
        self.log.is_some() && self.ram.dirty().is_enabled()
    }

    /// Publishes what was written since the last harvest and arms the tables for the next. No processor has anything in
    /// its log ([`Self::drain`]).
    pub fn harvest(&mut self) {
        let all = self.all();
        let Self { ept, frames, ram, source, .. } = self;
        let dirty = ram.dirty();
        let mut owed = false;
        match source {
            DirtySource::Pml => dirty.harvest(|page| {
                owed |= ept.clear_dirty(frames, GuestRam::frame_of(page)).defer();
            }),
            DirtySource::DirtyFlags => {
                owed = ept
                    .harvest_dirty(frames, all, |touched| {
                        mark(ram, touched.first, touched.frames);
                    })
                    .defer();
                dirty.harvest(|_| {});
            }
            DirtySource::WriteProtect => dirty.harvest(|page| {
                owed |= ept.protect(frames, GuestRam::frame_of(page)).defer();
            }),
        }
        self.flush_due |= owed;
    }

    /// Takes over what the processor has logged, and empties its log.
    pub fn drain(&mut self, vmcs: &mut impl VmcsAccess) {
        let Some(log) = self.log.as_ref().filter(|_| self.is_logging()) else { return };
        for position in pml::written(vmcs.read(field::PML_INDEX)) {
            mark(&self.ram, pml::frame(log.read_u64(position)), 1);
        }
        vmcs.write(field::PML_INDEX, pml::EMPTY_INDEX);
    }

    /// Has the processor whose VMCS is current no longer log its writes.
    pub fn disarm(&self, vmcs: &mut impl VmcsAccess) {
        set_logging(vmcs, Logging::Off);
    }

    /// Stops recording and makes large pages of small ones again. All processors are disarmed.
    pub fn stop_log(&mut self) {
        let all = self.all();
        self.ram.dirty().disable();
        self.ept.allow_all(&self.frames, all.clone());
        let flush = self.ept.collapse_all(&self.frames, all);
        self.owe(flush);
    }

    /// Takes what is absent out of the tables, and puts back what no longer is. The guest stands still.
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`] if the host could run out of memory for tables on the way; nothing has changed then.
    pub fn conceal(&mut self) -> Result<(), EptError> {
        if !self.ram.absent().is_on() {
            return self.reveal();
        }
        if !self.frames.put_by(holes::blocks_with_holes(&self.ram)) {
            return Err(EptError::OutOfFrames);
        }
        (self.has_holes, self.flush_due) = (true, true);
        let flush = holes::conceal(&mut self.ept, &mut self.frames, &self.ram)?;
        self.owe(flush);
        Ok(())
    }

    /// Maps all of RAM again as if nothing had ever been absent; nothing is.
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`]; what was mapped stays so.
    pub fn reveal(&mut self) -> Result<(), EptError> {
        if self.has_holes {
            let flush = holes::reveal(&mut self.ept, &mut self.frames, &self.ram)?;
            self.owe(flush);
            self.has_holes = false;
            self.frames.give_back(0);
        }
        Ok(())
    }

    /// Lets the guest touch page `page`, which has come.
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`].
    pub fn admit(&mut self, page: usize) -> Result<(), EptError> {
        if self.has_holes && self.ept.lookup(&self.frames, GuestRam::frame_of(page)).is_none() {
            holes::map_around(&mut self.ept, &mut self.frames, &self.ram, page)?;
        }
        Ok(())
    }

    /// Answers a violation at an address that is RAM.
    pub fn resolve(&mut self, violation: &EptViolation) -> Resolution {
        let frame = violation.address.frame();
        if self.has_holes && self.ept.lookup(&self.frames, frame).is_none() {
            let Some(page) = self.ram.page_of(violation.address) else { return Resolution::Unexplained };
            if self.ram.absent().is_absent(page) {
                return Resolution::Wait(page);
            }
            return match self.admit(page) {
                Ok(()) => Resolution::GoOn,
                Err(_) => Resolution::OutOfFrames,
            };
        }
        if violation.is_write {
            let Some(touched) = self.ept.allow_write(&self.frames, frame) else {
                return Resolution::Unexplained;
            };
            mark(&self.ram, touched.first, touched.frames);
            return Resolution::GoOn;
        }
        // Mapped after all: another processor's change, or a mapping that this one had cached.
        match self.ept.lookup(&self.frames, frame) {
            Some(_) => Resolution::GoOn,
            None => Resolution::Unexplained,
        }
    }

    /// Gives all tables back. The guest runs nowhere any more.
    pub fn destroy(self) {
        let Self { ept, mut frames, ram: _, source: _, log: _, flush_due: _, has_holes: _ } = self;
        host::flush_ept(ept.pointer());
        ept.destroy(&mut frames);
    }
}

fn mark(ram: &GuestRam, first: Gfn, frames: u64) {
    for frame in first.as_u64()..first.as_u64() + frames {
        if let Some(page) = Gfn::new(frame).address().and_then(|address| ram.page_of(address)) {
            ram.dirty().mark(page);
        }
    }
}

enum Logging {
    On,
    Off,
}

fn set_logging(vmcs: &mut impl VmcsAccess, logging: Logging) {
    let enable = SecondaryControls::ENABLE_PML.bits();
    let before = vmcs.read(field::SECONDARY_CONTROLS);
    let after = match logging {
        Logging::On => before | enable,
        Logging::Off => before & !enable,
    };
    if after != before {
        vmcs.write(field::SECONDARY_CONTROLS, after);
    }
}
