//! The lab's own host as the target of a move: this build's engine on the wire, without a guest behind it. It leaves one step
//! unanswered, and so keeps the source where a real host would be for an instant.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use godwit_boot::config::VCPUS_MAX;
use godwit_migration::{
    Channel, CpuFeatures, CpuidRegister, GuestAction, GuestEvent, GuestRam, HostCapabilities, HostShare,
    Input, OUTPUT_BYTES_MIN, Output, PAGE_BYTES, Page, PageBitmap, PageBytes, RamFailure, Room, Step, Target,
    TargetConfig, TargetPolicy, TscScaling,
};

use super::{LAB_NAME, MIGRATION_PORT};
use crate::host::{COMMAND_TIMEOUT, MOVE_TIMEOUT};
use crate::peer::{Connection, Peer, PeerError};

/// How long a read from the wire waits before the engine hears that time goes by.
const PATIENCE: Duration = Duration::from_millis(20);

/// Takes one move and answers it up to `stalls_at`, until `is_over`; then it is gone from the wire.
///
/// # Errors
/// Nobody connected, or the connection broke otherwise than by the source's will.
pub(super) fn serve(peer: &mut Peer, stalls_at: Step, is_over: &AtomicBool) -> Result<()> {
    let connection = peer.accept(MIGRATION_PORT, MOVE_TIMEOUT).context("nobody connected")?;
    let mut lab = Lab { engine: engine(), ram: Ram::default(), stalls_at, begun: Instant::now() };
    lab.handle(Input::LinkUp(Channel::MAIN));
    while !is_over.load(Ordering::Relaxed) {
        match peer.receive(connection, PATIENCE) {
            Ok(bytes) if bytes.is_empty() => peer.serve(PATIENCE),
            Ok(bytes) => lab.handle(Input::Bytes(Channel::MAIN, &bytes)),
            Err(PeerError::Timeout) => lab.handle(Input::Timeout),
            // The source has hung up.
            Err(PeerError::Reset) => peer.serve(PATIENCE),
            Err(error) => return Err(error.into()),
        }
        lab.answer(peer, connection)?;
    }
    peer.close(connection);
    Ok(())
}

/// Accepts one move and says nothing until `is_over`.
///
/// # Errors
/// Nobody connected.
pub(super) fn say_nothing(peer: &mut Peer, is_over: &AtomicBool) -> Result<()> {
    let connection = peer.accept(MIGRATION_PORT, MOVE_TIMEOUT).context("nobody connected")?;
    while !is_over.load(Ordering::Relaxed) {
        peer.serve(PATIENCE);
    }
    peer.close(connection);
    Ok(())
}

/// A target that takes whatever comes.
pub(super) fn engine() -> Target {
    let host = HostCapabilities {
        name: LAB_NAME.into(),
        incarnation: 1,
        features: all_features(),
        tsc_hz: 1,
        tsc_scaling: TscScaling::Available,
        tsc_tolerance_ppm: 0,
        room: Room { ram_bytes: 1 << 40, heap_bytes: 1 << 40 },
        share: HostShare::default(),
        vcpus_max: VCPUS_MAX,
        closed: None,
        post_copy: false,
    };
    Target::new(TargetConfig { host, policy: TargetPolicy::default() })
}

/// Every bit of every leaf that a guest may have been shown.
fn all_features() -> Vec<CpuFeatures> {
    let leaves = (0..0x20).chain(0x8000_0000..0x8000_0010);
    let registers = [CpuidRegister::Eax, CpuidRegister::Ebx, CpuidRegister::Ecx, CpuidRegister::Edx];
    leaves
        .flat_map(|leaf| (0..4).map(move |subleaf| (leaf, subleaf)))
        .flat_map(|(leaf, subleaf)| {
            registers.map(|register| CpuFeatures { leaf, subleaf, register, bits: u32::MAX })
        })
        .collect()
}

struct Lab {
    engine: Target,
    ram: Ram,
    stalls_at: Step,
    begun: Instant,
}

impl Lab {
    fn now(&self) -> godwit_migration::Instant {
        godwit_migration::Instant::from_nanos(self.begun.elapsed().as_nanos() as u64)
    }

    fn handle(&mut self, input: Input<'_>) {
        self.engine.handle_input(self.now(), input, &mut self.ram);
    }

    /// Says and does what the engine wants.
    fn answer(&mut self, peer: &mut Peer, connection: Connection) -> Result<()> {
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        loop {
            match self.engine.poll_output(self.now(), &mut buffer, &mut self.ram) {
                Output::Transmit { len, .. } => {
                    match peer.send(connection, &buffer[..len], COMMAND_TIMEOUT) {
                        Ok(()) | Err(PeerError::Reset) => {}
                        Err(error) => return Err(error).context("answering"),
                    }
                }
                Output::Guest(action) if action.step() == self.stalls_at => {}
                Output::Guest(action) => {
                    let done = self.done(action)?;
                    self.handle(Input::Guest(done));
                }
                Output::Timeout(_) => return Ok(()),
                Output::Connect(_) | Output::Disconnect(_) | Output::HangUp(_) | Output::Event(_) => {}
            }
        }
    }

    fn done(&mut self, action: GuestAction) -> Result<GuestEvent> {
        Ok(match action {
            GuestAction::Build(guest) => {
                self.ram.page_count = guest.layout.page_count();
                GuestEvent::Built
            }
            GuestAction::RestoreState(_) => GuestEvent::StateRestored,
            GuestAction::Discard => GuestEvent::Discarded,
            other => bail!("the lab runs no guest, and was asked for {}", other.step()),
        })
    }
}

/// Memory of which only what was written is there.
#[derive(Default)]
struct Ram {
    page_count: u32,
    written: HashMap<Page, Box<PageBytes>>,
}

impl GuestRam for Ram {
    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        match self.written.get(&page) {
            Some(bytes) => into.copy_from_slice(&bytes[..]),
            None => *into = [0; PAGE_BYTES],
        }
        Ok(())
    }

    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        self.written.insert(page, Box::new(*from));
        Ok(())
    }

    fn take_dirty(&mut self, _into: &mut PageBitmap) {}
}
