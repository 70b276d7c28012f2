//! What runs guests on this host: found once, by whichever CPU comes first.

use alloc::string::{String, ToString};

use crate::platform::time;
use crate::sync::Once;
use crate::vm::platform::Platform;

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
        Ok(platform)
    });
    found.as_ref().map_err(String::clone)
}
