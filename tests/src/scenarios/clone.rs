//! A guest of which a copy is made at the other host.

use anyhow::{Context, Result, bail, ensure};

use super::moves::{SWEEPER, guest_sweeps};
use crate::cluster::Cluster;
use crate::host::{COMMAND_TIMEOUT, MOVE_TIMEOUT, Outcome};
use crate::suite::eventually;

/// What the copy is called.
const COPY: &str = "sweeper-2";

/// The sweeper runs at host a. A copy of it begins at host b in the middle of a sweep, and both find their memory as each has
/// left it. A second copy of that name is refused. The
/// copy is stopped at the end.
pub(super) fn sweeper_is_cloned(cluster: &mut Cluster) -> Result<()> {
    let cloned = cluster.hosts[0].clone_guest(SWEEPER, "b", COPY, MOVE_TIMEOUT)?.moved()?;
    println!("     {}", cloned.line);
    cluster.hosts[0].expect_state(SWEEPER, "running")?;
    cluster.hosts[1].expect_state(COPY, "running")?;
    guest_sweeps(&mut cluster.hosts[0], SWEEPER).context("the guest itself")?;
    guest_sweeps(&mut cluster.hosts[1], COPY).context("its copy")?;
    let again = cluster.hosts[0].clone_guest(SWEEPER, "b", COPY, MOVE_TIMEOUT)?;
    let Outcome::Failed(line) = again else { bail!("there are two of one name: {again:?}") };
    ensure!(line.contains("there is a guest named sweeper-2 already"), "{line}");
    println!("     {line}");
    cluster.hosts[1].succeed(&format!("vm stop {COPY}"))?;
    eventually(COMMAND_TIMEOUT, || match cluster.hosts[1].guest_state(COPY)? {
        Some((state, row)) if state != "stopped" => bail!("it is not gone: {row}"),
        _ => Ok(()),
    })
}
