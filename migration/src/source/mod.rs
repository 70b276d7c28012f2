//! The source's engine: one attempt to move one guest away from this host.

use crate::guest::GuestDescription;
use crate::io::{Input, Output};
use crate::permit::{MigrationId, RunPermit};
use crate::policy::Policy;
use crate::ram::GuestRam;
use crate::status::Status;
use crate::time::Instant;

/// What a source engine is made from.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Chosen at random, never used before.
    pub migration: MigrationId,
    /// The guest.
    pub guest: GuestDescription,
    /// Limits and choices.
    pub policy: Policy,
}

/// One attempt to move one guest away from this host.
#[derive(Debug)]
pub struct Source {
    config: SourceConfig,
    permit: Option<RunPermit>,
}

impl Source {
    /// An engine that waits for [`crate::Command::Start`].
    #[must_use]
    pub fn new(config: SourceConfig) -> Self {
        Self { config, permit: None }
    }

    /// Takes one input. Drain [`Source::poll_output`] afterwards. Before and after the guest exists here pass
    /// [`crate::NoRam`].
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
        unreachable!("the engine's body follows: {}", self.config.migration)
    }

    /// Whether the attempt is over and the engine can be dropped.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        false
    }

    /// The permit of a guest that stands still at this host although the attempt is over
    /// ([`crate::Event::Held`]).
    pub fn take_permit(&mut self) -> Option<RunPermit> {
        self.permit.take()
    }
}
