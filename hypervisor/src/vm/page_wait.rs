//! A processor's wait for a page that has not come. Pure.

use godwit_vmx::addr::{Gpa, Gva};

use super::absent::{AbsentPages, Wait};
use super::memory::GuestRam;
use crate::exits::StopReason;

/// What a processor waits for, and where it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageWait {
    page: usize,
    /// The instruction that is executed again when the page is there.
    rip: Gva,
}

impl PageWait {
    /// Processor `index`, at `rip`, has touched page `page`. `None`: it has come meanwhile.
    ///
    /// # Errors
    /// [`StopReason::PageLost`] if it will never come.
    pub fn begin(
        absent: &AbsentPages,
        index: usize,
        page: usize,
        rip: Gva,
    ) -> Result<Option<Self>, StopReason> {
        let wait = Self { page, rip };
        match absent.wait(index, page) {
            Wait::Over => Ok(None),
            Wait::Noted => Ok(Some(wait)),
            Wait::Lost => Err(wait.in_vain()),
        }
    }

    /// Whether the processor is to be run: the page has come, or never will.
    #[must_use]
    pub fn is_over(&self, absent: &AbsentPages) -> bool {
        !absent.is_absent(self.page) || absent.is_lost()
    }

    /// Ends the wait of processor `index`, which is about to run. The page that it may touch then; `None` if that has
    /// still not come: it is touched again, and waited for again.
    ///
    /// # Errors
    /// [`StopReason::PageLost`] if it will never come.
    pub fn end(self, absent: &AbsentPages, index: usize) -> Result<Option<usize>, StopReason> {
        absent.end_wait(index);
        match absent.is_absent(self.page) {
            false => Ok(Some(self.page)),
            true if absent.is_lost() => Err(self.in_vain()),
            true => Ok(None),
        }
    }

    /// Where the page is for the guest.
    #[must_use]
    pub const fn address(&self) -> Gpa {
        GuestRam::address_of(self.page)
    }

    const fn in_vain(self) -> StopReason {
        StopReason::PageLost { page: self.address(), rip: self.rip }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    const RIP: Gva = Gva::new(0x1234);

    #[test]
    fn a_processor_runs_again_when_its_page_has_come_and_no_other() {
        let absent = AbsentPages::new(64, 2).unwrap();
        absent.set([3, 4].into_iter());
        let wait = PageWait::begin(&absent, 1, 3, RIP).unwrap().unwrap();
        assert!(!absent.publish(4) && !wait.is_over(&absent));
        assert_eq!(wait.end(&absent, 1), Ok(None), "run too early it only waits again");
        let wait = PageWait::begin(&absent, 1, 3, RIP).unwrap().unwrap();
        assert!(absent.publish(3) && wait.is_over(&absent));
        assert_eq!(wait.end(&absent, 1), Ok(Some(3)));
        assert_eq!(PageWait::begin(&absent, 1, 3, RIP), Ok(None));
        absent.clear();
        assert!(wait.is_over(&absent), "nothing is waited for after the end");
    }

    #[test]
    fn a_page_that_will_never_come_ends_the_guest_that_needs_it_and_no_other() {
        let absent = AbsentPages::new(64, 2).unwrap();
        absent.set([3, 4].into_iter());
        let wait = PageWait::begin(&absent, 0, 3, RIP).unwrap().unwrap();
        absent.forsake();
        assert!(wait.is_over(&absent));
        let reason = wait.end(&absent, 0).unwrap_err();
        assert!(
            reason
                .to_string()
                .starts_with("the page at guest-physical 0x3000, which it needed at rip 0x1234")
        );
        assert!(!reason.is_orderly());
        let page = Gpa::new(0x4000);
        assert_eq!(PageWait::begin(&absent, 1, 4, RIP), Err(StopReason::PageLost { page, rip: RIP }));
        assert_eq!(PageWait::begin(&absent, 1, 5, RIP), Ok(None), "what is there can be touched");
    }
}
