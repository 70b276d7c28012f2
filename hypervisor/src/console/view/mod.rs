//! What the console knows of the machine: plain data, copied out of the rooms that own it.
//!
//! Byte counts are `u64` bytes, rates are bytes per second, times are [`core::time::Duration`]; a field says so
//! where its type does not.

mod guest;
mod machine;
mod migration;
mod net;

pub use guest::{GuestState, GuestView};
pub use machine::{
    CpuState, CpuView, HeapView, LoadView, LogLine, MachineView, MemView, PciView, StackView, VersionView,
    VmxView,
};
pub use migration::{
    Aftermath, Decision, MigrationEstimate, MigrationFailure, MigrationReport, MigrationView, Remark, Side,
};
pub use net::{AddressSource, CountersView, LinkView, MigrationPort, NetView, PeerView, StreamView};
