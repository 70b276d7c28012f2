//! Live migration as a sans-IO engine.
//!
//! No hardware, no clock, no sockets, no `unsafe`: time is an argument, bytes go in and out of buffers, guest
//! memory and devices are traits passed per call. The same code runs on the metal, in a seeded simulation and
//! natively on a developer's machine.
//!
//! One [`Source`] or [`Target`] is one attempt to move one guest; nothing is shared between them, so any number
//! may exist at once. [`io`] holds the contract that a session keeps with them, [`permit`] the value that makes
//! two owners of one guest impossible. The wire and the hand-over are written down in
//! `docs/migration-protocol.md`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bitmap;
mod codec;
pub mod device;
mod endpoint;
pub mod guest;
pub mod heap;
#[cfg(test)]
mod hostile;
mod identity;
pub mod io;
mod latency;
pub mod permit;
pub mod policy;
mod progress;
pub mod ram;
pub mod reason;
pub mod source;
pub mod spool;
pub mod status;
pub mod target;
pub mod time;
mod urgent;
pub mod wire;
mod zero;

pub use bitmap::PageBitmap;
pub use device::{DeviceState, Necessity, Section};
pub use guest::{CpuFeatures, CpuidRegister, GuestDescription, HostCapabilities, TscScaling};
pub use heap::{HostShare, Room};
pub use io::{Channel, Command, Event, GuestAction, GuestEvent, Input, OUTPUT_BYTES_MIN, Output, Step};
pub use permit::{Generation, GuestId, MigrationId, RunPermit};
pub use policy::{
    Compression, Identity, Impatience, Mode, Overrun, Policy, Purpose, SpoolPolicy, TargetPolicy,
};
pub use ram::{GuestRam, NoRam, PAGE_BYTES, Page, PageBytes, RamFailure, RamLayout, RamRange};
pub use reason::{AbortReason, Blame, GuestFailure, Refusal, StreamFault};
pub use source::{Source, SourceConfig, SpoolOrder};
pub use spool::{Spool, SpoolConfig, SpoolEnd, SpoolEvent, SpoolTrouble};
pub use status::{
    Downtime, Judgement, Next, PageCounts, Phase, PostCopy, Prediction, Recall, Report, Spooled, Stage,
    Status, Stops, Waits, Why,
};
pub use target::{Target, TargetConfig};
pub use time::Instant;
pub use wire::opening::Opening;
pub use zero::is_zero;
