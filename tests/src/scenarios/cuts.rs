//! Wires that are cut at one message of a move, whenever that comes: in which phase the connection is lost is no matter of
//! luck.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xxhash_rust::xxh64::Xxh64;

use super::moves::{SWEEPER, runs_only_at, sweeps};
use crate::cluster::Cluster;
use crate::figures;
use crate::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT, Outcome};
use crate::suite::eventually;

// Messages, as docs/migration-protocol.md numbers them.
const REPLY: u16 = 2;
const VERIFIED: u16 = 8;
const COMMIT: u16 = 9;
const COMMITTED: u16 = 10;
const COMPLETE: u16 = 20;
const HEADER_BYTES: usize = 24;
/// What is covered by the check behind it, with the body.
const CHECKED_BYTES: usize = 16;
const CHECK_SEED: u64 = 0x6672_616d;
const ETHERNET_BYTES: usize = 14;

/// The usual limit, and what the steps of a guest's life cycle may take that are under way by then: a stop is called back
/// when no more than a round trip of the limit is left.
const STOP_MAX: Duration = Duration::from_millis(300 + 100);

/// The target has accepted.
pub(super) fn reply(frame: &[u8]) -> bool {
    carries(frame, REPLY)
}

/// The target is ready to run the guest.
pub(super) fn verified(frame: &[u8]) -> bool {
    carries(frame, VERIFIED)
}

/// The source tells the target to run it.
pub(super) fn commit(frame: &[u8]) -> bool {
    carries(frame, COMMIT)
}

/// It runs.
pub(super) fn committed(frame: &[u8]) -> bool {
    carries(frame, COMMITTED)
}

/// All of its memory has come.
pub(super) fn complete(frame: &[u8]) -> bool {
    carries(frame, COMPLETE)
}

/// Whether a whole message of this kind is in the TCP segment that an Ethernet frame carries.
fn carries(frame: &[u8], kind: u16) -> bool {
    let Some(payload) = segment(frame) else { return false };
    payload
        .windows(2)
        .enumerate()
        .any(|(at, found)| found == kind.to_le_bytes() && is_message(&payload[at..]))
}

fn segment(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let is_tcp = *packet.first()? >> 4 == 4 && *packet.get(9)? == 6;
    let length = u16::from_be_bytes(*packet.get(2..)?.first_chunk()?).into();
    let segment = packet.get(usize::from(packet[0] & 15) * 4..length).filter(|_| is_tcp)?;
    segment.get(usize::from(*segment.get(12)? >> 4) * 4..)
}

fn is_message(bytes: &[u8]) -> bool {
    let Some((header, behind)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return false };
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let Some(body) = behind.get(..length) else { return false };
    let mut check = Xxh64::new(CHECK_SEED);
    check.update(&header[..CHECKED_BYTES]);
    check.update(body);
    header[CHECKED_BYTES..] == check.digest().to_le_bytes()
}

/// The sweeper runs at host b and is to go to a. What is lost before the commit leaves it at b, where it goes on.
pub(super) fn before_the_commit(cluster: &mut Cluster) -> Result<()> {
    let port = cluster.hosts[0].port.context("no port")?;
    for (at, what) in
        [(reply as fn(&[u8]) -> bool, "the answer"), (verified, "the word that all is verified")]
    {
        cluster.switch.cut_at(port, at);
        let outcome = cluster.hosts[1].migrate(SWEEPER, "a", MOVE_TIMEOUT);
        cluster.switch.mend(port);
        let Outcome::Failed(line) = outcome? else { bail!("it moved without {what}") };
        println!("     without {what}: {line}");
        ensure!(line.contains("the guest goes on here"), "{line}");
        sweeps(&mut cluster.hosts[1])?;
    }
    // A target that was ready holds what it has, and a person there is told what decides.
    let a = &mut cluster.hosts[0];
    println!("     {}", a.serial().expect_line("was lost before it said to run it", MOVE_TIMEOUT)?);
    a.serial().expect_line(&format!("'migrate takeover {SWEEPER}'"), COMMAND_TIMEOUT)?;
    a.wait_for_prompt(COMMAND_TIMEOUT).map(|_| ())
}

/// The sweeper runs at host b and goes to a, in one attempt: its first stop finds the wire cut and is called back; then the
/// commit is lost, and then its answer.
pub(super) fn around_the_commit(cluster: &mut Cluster) -> Result<()> {
    let port = cluster.hosts[0].port.context("no port")?;
    cluster.switch.cut_at(port, verified);
    cluster.hosts[1].begin_migrate(SWEEPER, "a")?;
    let called_back = cluster.hosts[1].serial().expect_line("stop 1 was called back after ", MOVE_TIMEOUT);
    cluster.switch.mend(port);
    stood_still(&called_back?)?;

    cluster.switch.cut_at(port, commit);
    is_held(&mut cluster.hosts[1])?;
    ensure!(!runs(&mut cluster.hosts[0])?, "it was not told to run");
    cluster.switch.mend(port);

    cluster.switch.cut_at(port, committed);
    is_held(&mut cluster.hosts[1])?;
    eventually(COMMAND_TIMEOUT, || {
        ensure!(runs(&mut cluster.hosts[0])?, "it was told to run, and does not");
        Ok(())
    })?;
    cluster.switch.mend(port);

    let Outcome::Moved(moved) = cluster.hosts[1].finish_migrate(SWEEPER, "a", MOVE_TIMEOUT)? else {
        bail!("it did not move")
    };
    println!("     {}", moved.line);
    ensure!(moved.details.contains("called back: "), "{}", moved.details);
    runs_only_at(cluster, SWEEPER, 0)?;
    sweeps(&mut cluster.hosts[0])
}

/// For how long the guest stood still by that line.
fn stood_still(line: &str) -> Result<()> {
    println!("     {line}");
    let (_, rest) = line.split_once(" called back after ").context("no time")?;
    let time = rest.split(',').next().and_then(figures::span).with_context(|| line.to_owned())?;
    ensure!(time <= STOP_MAX, "{time:?}: {line}");
    Ok(())
}

/// The source does not know who has the guest, does not run it, and says what a person could.
pub(super) fn is_held(source: &mut Host) -> Result<()> {
    println!("     {}", source.serial().expect_line("was told to run it and did not answer", MOVE_TIMEOUT)?);
    source.serial().expect_line(&format!("'migrate reclaim {SWEEPER}'"), COMMAND_TIMEOUT)?;
    source.serial().expect_line(&format!("'migrate release {SWEEPER}'"), COMMAND_TIMEOUT)?;
    Ok(())
}

fn runs(host: &mut Host) -> Result<bool> {
    Ok(host.guest_state(SWEEPER)?.is_some_and(|(state, _)| state == "running"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), [1, 0]].concat();
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        let mut check = Xxh64::new(CHECK_SEED);
        check.update(&bytes);
        check.update(body);
        bytes.extend(check.digest().to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_BYTES];
        let mut header = [0; 20];
        (header[0], header[9]) = (0x45, 6);
        header[2..4].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        frame.extend(header);
        let mut header = [0; 20];
        header[12] = 0x50;
        frame.extend(header);
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_message_is_found_wherever_it_is_in_a_segment() {
        let payload = [message(5, &[1; 9]), message(COMMIT, &[2; 5])].concat();
        assert!(commit(&frame(&payload)) && !committed(&frame(&payload)));
        assert!(!commit(&frame(&payload[..payload.len() - 1])), "it is not whole");
        assert!(commit(&[frame(&payload), vec![0; 6]].concat()), "short frames are filled up");
        let mut damaged = payload;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(!commit(&frame(&damaged)) && !commit(&[]) && !commit(&frame(&[])));
    }
}
