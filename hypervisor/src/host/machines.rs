//! What runs guests on this host: found once, by whichever CPU comes first.

use alloc::string::{String, ToString};

use crate::arch::cpu::try_read_msr;
use crate::exits::cpuid::host_cpuid;
use crate::platform::time;
use crate::sync::Once;
use crate::vm::platform::Platform;
use crate::vm::weaknesses::Weaknesses;

static MACHINES: Once<Result<Platform, String>> = Once::new();

/// What runs guests.
///
/// # Errors
/// Why nothing does, for a person.
pub(super) fn get() -> Result<&'static Platform, String> {
    let found = MACHINES.call_once(|| {
        let clock = time::clock().ok_or("the clock is not calibrated")?;
        let platform = Platform::probe(clock.frequency_hz()).map_err(|error| error.to_string())?;
        crate::emulate::init();
        log::warn!("{}", Weaknesses::ask(host_cpuid, try_read_msr));
        Ok(platform)
    });
    found.as_ref().map_err(String::clone)
}
