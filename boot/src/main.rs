//! Godwit's loader: a UEFI application.
//!
//! It reads `\godwit\godwit.toml` and what that names from the volume it was itself loaded from, lays the
//! hypervisor into memory, leaves the firmware behind and jumps. Something wrong with the configuration or a
//! guest's files does not stop it: the hypervisor comes up and says what is wrong. Only without a hypervisor
//! does it give up, with the reason on the firmware's console.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "loader/files.rs"]
mod files;
#[path = "loader/handoff.rs"]
mod handoff;
#[path = "loader/memory.rs"]
mod memory;
#[path = "loader/start.rs"]
mod start;

use uefi::{Status, boot, println};

use crate::{files::Volume, handoff::Preparation};

/// The firmware resets the machine after five minutes unless told not to.
const WATCHDOG_OFF_S: usize = 0;

#[uefi::entry]
fn main() -> Status {
    let entry_tsc = start::read_tsc();
    if uefi::helpers::init().is_err() || boot::set_watchdog_timer(WATCHDOG_OFF_S, 0x1_0000, None).is_err() {
        return Status::UNSUPPORTED;
    }
    let error = match prepare(entry_tsc) {
        Ok(preparation) => start::leave(preparation),
        Err(error) => error,
    };
    println!("godwit: cannot start: {error}");
    boot::stall(core::time::Duration::from_secs(5));
    Status::LOAD_ERROR
}

fn prepare(entry_tsc: u64) -> Result<Preparation, files::LoadError> {
    let mut volume = Volume::open()?;
    let mut preparation = Preparation::new(entry_tsc)?;
    preparation.configure(&mut volume);
    preparation.load_image(&mut volume)?;
    preparation.load_files(&mut volume);
    preparation.find_tables();
    Ok(preparation)
}
