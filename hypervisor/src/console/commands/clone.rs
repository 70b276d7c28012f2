//! `clone`: a copy of a guest at another host.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Write as _;

use godwit_boot::config::is_name;

use super::super::host::{Host, Tuning};
use super::super::output::Output;
use super::super::view::MigrationView;
use super::{CommandError, Errand, Next, guest_named, known};

/// How a clone is made, and why not in other ways, as a sentence goes on behind the copy's name.
pub const CLONE_MODE: &str =
    "in mode precopy: the guest itself runs on here, and changes what its copy would still lack";
/// The same as what a word is not.
pub(in super::super) const CLONE_MODES: &str =
    "a mode for a clone, only precopy is: the guest runs on here, and changes what its copy would still lack";

/// `clone GUEST HOST [OPTIONS]`.
pub(super) fn begin(
    (guest, peer): (&str, &str),
    copy: Option<&str>,
    tunings: &[Tuning],
    host: &mut dyn Host,
    out: &mut Output,
) -> Result<Next, CommandError> {
    let guest = guest_named(guest, host)?;
    let peer = known("host", peer, host.peers().into_iter().map(|peer| peer.name).collect())?;
    let copy = copy.map_or_else(|| format!("{guest}-clone"), ToString::to_string);
    if copy == guest || !is_name(&copy) {
        return Err(CommandError::NoName(copy));
    }
    host.clone_guest(&guest, &peer, &copy, tunings)?;
    writeln!(out, "cloning {guest} to {peer} as {copy}; Ctrl-C comes back to the prompt, the clone goes on")?;
    Ok(Next::Watch { guest, peer, errand: Errand::Clone })
}

/// What is being done with the guest.
pub(super) fn errand(guest: &str, host: &dyn Host) -> Errand {
    let is_cloned = |migration: &MigrationView| migration.guest == guest && migration.copy.is_some();
    if host.migrations().iter().any(is_cloned) { Errand::Clone } else { Errand::Move }
}

/// ` as COPY`, if there is one.
pub(in super::super) fn as_copy(copy: Option<&str>) -> String {
    copy.map_or_else(String::new, |copy| format!(" as {copy}"))
}
