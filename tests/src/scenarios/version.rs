//! A host of another version: this build's own target engine, which is told that the source is of another.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_migration::wire::opening::OPENING_BYTES;
use godwit_migration::{Channel, Input, NoRam, OUTPUT_BYTES_MIN, Output};
use xxhash_rust::xxh64::xxh64;

use super::lab_target;
use crate::host::COMMAND_TIMEOUT;
use crate::peer::{Connection, Peer};

/// A version of the protocol that no build speaks.
const FOREIGN_VERSION: u16 = 999;
/// Where the opening has its versions and its check (docs/migration-protocol.md).
const VERSIONS: core::ops::Range<usize> = 8..12;
const CHECK: usize = 56;
const CHECK_SEED: u64 = 0x6f70_656e;

/// Answers the source on `connection` as a target does whose versions its own are foreign to.
///
/// # Errors
/// The source did not say how it begins, or what the target says could not be sent.
pub(super) fn refuse(peer: &mut Peer, connection: Connection) -> Result<()> {
    let mut said = Vec::new();
    while said.len() < OPENING_BYTES {
        said.extend(peer.receive(connection, COMMAND_TIMEOUT).context("the opening")?);
    }
    let opening = said.first_chunk_mut::<OPENING_BYTES>().context("the opening is short")?;
    make_foreign(opening)?;
    let answer = answer(&said)?;
    peer.send(connection, &answer, COMMAND_TIMEOUT).context("answering")?;
    peer.serve(Duration::from_secs(1));
    peer.close(connection);
    Ok(())
}

/// Replaces the versions in an opening.
fn make_foreign(opening: &mut [u8; OPENING_BYTES]) -> Result<()> {
    let check = |opening: &[u8; OPENING_BYTES]| xxh64(&opening[..CHECK], CHECK_SEED).to_le_bytes();
    ensure!(opening[CHECK..] == check(opening), "the opening is not what the protocol's page says");
    let [low, high] = FOREIGN_VERSION.to_le_bytes();
    opening[VERSIONS].copy_from_slice(&[low, high, low, high]);
    let foreign = check(opening);
    opening[CHECK..].copy_from_slice(&foreign);
    Ok(())
}

/// What a target says to a source that says `said`.
fn answer(said: &[u8]) -> Result<Vec<u8>> {
    let mut target = lab_target::engine();
    let begun = Instant::now();
    let now = || godwit_migration::Instant::from_nanos(begun.elapsed().as_nanos() as u64);
    target.handle_input(now(), Input::LinkUp(Channel::MAIN), &mut NoRam);
    target.handle_input(now(), Input::Bytes(Channel::MAIN, said), &mut NoRam);
    let (mut answer, mut buffer) = (Vec::new(), vec![0; OUTPUT_BYTES_MIN]);
    loop {
        match target.poll_output(now(), &mut buffer, &mut NoRam) {
            Output::Transmit { len, .. } => answer.extend_from_slice(&buffer[..len]),
            Output::Guest(action) => bail!("the target wants {action:?} of a guest that it cannot know"),
            Output::Timeout(_) | Output::Disconnect(_) | Output::HangUp(_) => return Ok(answer),
            Output::Connect(_) | Output::Event(_) => {}
        }
    }
}
