//! What the board asks of the machine's owner, kept in fixed space however often a guest asks.

use super::VCPUS_MAX;

/// Something the machine's owner must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The guest switched the machine off.
    Shutdown,
    /// The guest asked for a reset of the whole machine.
    Reset,
    /// Put a processor into its state after INIT, where it waits for a start-up IPI. Its local APIC has
    /// been reset already.
    InitVcpu {
        /// Which processor.
        vcpu: usize,
    },
    /// Start a processor that waits after INIT, in real mode at `vector << 12`; ignore it if it does not
    /// wait.
    StartVcpu {
        /// Which processor.
        vcpu: usize,
        /// Page of the entry point.
        vector: u8,
    },
    /// Deliver a non-maskable interrupt.
    NonMaskableInterrupt {
        /// Which processor.
        vcpu: usize,
    },
}

/// Requests not yet taken: each kind once, or once per processor.
#[derive(Debug)]
pub(super) struct Requests {
    /// Whether any is waiting.
    any: bool,
    shutdown: bool,
    reset: bool,
    init: u64,
    start: u64,
    start_vectors: [u8; VCPUS_MAX],
    non_maskable: u64,
}

impl Requests {
    pub(super) const fn new() -> Self {
        Self {
            any: false,
            shutdown: false,
            reset: false,
            init: 0,
            start: 0,
            start_vectors: [0; VCPUS_MAX],
            non_maskable: 0,
        }
    }

    #[inline]
    pub(super) const fn any(&self) -> bool {
        self.any
    }

    pub(super) const fn add(&mut self, request: Request) {
        self.any = true;
        match request {
            Request::Shutdown => self.shutdown = true,
            Request::Reset => self.reset = true,
            Request::InitVcpu { vcpu } => {
                self.init |= 1 << vcpu;
                // An INIT cancels a start that came before it.
                self.start &= !(1 << vcpu);
            }
            Request::StartVcpu { vcpu, vector } => {
                // Only the first start-up message after an INIT counts.
                if self.start & 1 << vcpu == 0 {
                    self.start |= 1 << vcpu;
                    self.start_vectors[vcpu] = vector;
                }
            }
            Request::NonMaskableInterrupt { vcpu } => self.non_maskable |= 1 << vcpu,
        }
    }

    /// The next request: the machine's before a processor's, INIT before start.
    pub(super) const fn take(&mut self) -> Option<Request> {
        if !self.any {
            return None;
        }
        if self.shutdown {
            self.shutdown = false;
            return Some(Request::Shutdown);
        }
        if self.reset {
            self.reset = false;
            return Some(Request::Reset);
        }
        if let Some(vcpu) = take_lowest(&mut self.init) {
            return Some(Request::InitVcpu { vcpu });
        }
        if let Some(vcpu) = take_lowest(&mut self.start) {
            return Some(Request::StartVcpu { vcpu, vector: self.start_vectors[vcpu] });
        }
        if let Some(vcpu) = take_lowest(&mut self.non_maskable) {
            return Some(Request::NonMaskableInterrupt { vcpu });
        }
        self.any = false;
        None
    }
}

const fn take_lowest(set: &mut u64) -> Option<usize> {
    if *set == 0 {
        return None;
    }
    let lowest = set.trailing_zeros() as usize;
    *set &= *set - 1;
    Some(lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_requests_are_one_and_come_in_order() {
        let mut requests = Requests::new();
        for _ in 0..1000 {
            requests.add(Request::InitVcpu { vcpu: 63 });
            requests.add(Request::StartVcpu { vcpu: 63, vector: 0x9a });
            requests.add(Request::StartVcpu { vcpu: 63, vector: 0x11 });
            requests.add(Request::NonMaskableInterrupt { vcpu: 0 });
        }
        requests.add(Request::Reset);
        assert_eq!(requests.take(), Some(Request::Reset));
        assert_eq!(requests.take(), Some(Request::InitVcpu { vcpu: 63 }));
        assert_eq!(requests.take(), Some(Request::StartVcpu { vcpu: 63, vector: 0x9a }));
        assert_eq!(requests.take(), Some(Request::NonMaskableInterrupt { vcpu: 0 }));
        assert_eq!(requests.take(), None);
        assert!(!requests.any());
    }
}
