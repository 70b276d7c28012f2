//! The target's engine: one attempt to take one guest over.

use crate::guest::HostCapabilities;
use crate::io::{Input, Output};
use crate::permit::RunPermit;
use crate::policy::TargetPolicy;
use crate::ram::GuestRam;
use crate::status::Status;
use crate::time::Instant;

/// What a target engine is made from.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// What this host offers right now.
    pub host: HostCapabilities,
    /// Limits and choices.
    pub policy: TargetPolicy,
}

/// One attempt to take one guest over.
#[derive(Debug)]
pub struct Target {
    config: TargetConfig,
    permit: Option<RunPermit>,
}

impl Target {
    /// An engine for a connection that was just accepted: give it [`Input::LinkUp`], then what arrives.
    #[must_use]
    pub fn new(config: TargetConfig) -> Self {
        Self { config, permit: None }
    }

    /// Takes one input. Drain [`Target::poll_output`] afterwards. Before the guest is built and after it is
    /// discarded pass [`crate::NoRam`].
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam) {
        let _ = (now, input, ram);
    }

    /// The next thing to do. `buffer` holds the bytes of [`Output::Transmit`].
    ///
    /// # Panics
    /// If `buffer` is shorter than [`crate::OUTPUT_BYTES_MIN`].
    pub fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output {
        let _ = (now, buffer, ram);
        Output::Timeout(Instant::NEVER)
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let _ = now;
        unreachable!("the engine's body follows: {}", self.config.host.name)
    }

    /// Whether the attempt is over and the engine can be dropped. A target that has taken a guest over is
    /// finished when the source has let go of its copy; until then it must be kept to answer the source.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        false
    }

    /// The permit of a guest that stands still here although the attempt is over ([`crate::Event::Held`]).
    pub fn take_permit(&mut self) -> Option<RunPermit> {
        self.permit.take()
    }
}
