//! The two hosts: what they offer, whose guest it is, and the sockets between them.

use std::net::TcpStream;
use std::time::Instant as Clock;

use godwit_migration::{
    Generation, GuestDescription, GuestId, HostCapabilities, HostShare, Instant, RamLayout, RamRange, Room,
    TscScaling,
};
use socket2::SockRef;

use super::Failure;

pub(crate) const GUEST: GuestId = GuestId([1; 16]);
/// What is handed to the kernel and taken from it at one time.
pub(crate) const SEND_BYTES: usize = 128 * 1024;
pub(crate) const RECEIVE_BYTES: usize = 64 * 1024;
/// What the kernel holds for each direction: enough that neither end waits, and little enough that what one end
/// wrote is still in the processors' cache when the other reads it.
const SOCKET_BYTES: usize = 512 * 1024;

pub(crate) fn instant(origin: Clock) -> Instant {
    Instant::from_nanos(origin.elapsed().as_nanos() as u64)
}

pub(crate) fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.set_recv_buffer_size(SOCKET_BYTES)
}

/// A guest of one processor with so many pages.
pub(crate) fn guest(pages: u32) -> Result<GuestDescription, Failure> {
    Ok(GuestDescription {
        id: GUEST,
        generation: Generation::FIRST,
        name: "image".into(),
        layout: RamLayout::new(&[RamRange { first_frame: 0, frames: pages.into() }])?,
        vcpus: 1,
        features: Vec::new(),
        tsc_hz: 1_000_000_000,
        configuration: Vec::new(),
    })
}

/// A target with room for one guest of so many bytes.
pub(crate) fn capabilities(bytes: u64, post_copy: bool) -> HostCapabilities {
    HostCapabilities {
        name: "target".into(),
        incarnation: 1,
        features: Vec::new(),
        tsc_hz: 1_000_000_000,
        tsc_scaling: TscScaling::Unavailable,
        tsc_tolerance_ppm: 0,
        room: Room { ram_bytes: bytes, heap_bytes: u64::MAX },
        share: HostShare::default(),
        vcpus_max: 1,
        closed: None,
        post_copy,
    }
}
