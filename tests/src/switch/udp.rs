//! Ports of machines in other processes: one raw Ethernet frame per UDP datagram on the loopback.
//!
//! An emulator takes one frame per poll and the kernel drops what does not fit into its socket's buffer, so the
//! switch asks the kernel how full that buffer is (`/proc/net/udp`) and holds frames back instead.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use super::queue::Queue;
use super::{FRAME_BYTES_MAX, Inner, PortId};

/// Bytes of kernel memory we are ready to fill in a machine's socket: below the default `rmem_default` of 208 KiB.
const BACKLOG_BYTES_MAX: usize = 128 * 1024;
/// How often a full buffer is looked at again.
const FULL_PATIENCE: Duration = Duration::from_millis(1);
/// How often an idle receiver looks whether the switch has stopped.
const STOP_PATIENCE: Duration = Duration::from_millis(200);
/// Where the search for free pairs starts; below Linux's ephemeral ports.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A socket on an odd port P + 1 whose neighbour P is free; returns P as well.
pub(super) fn bind_pair() -> io::Result<(UdpSocket, u16)> {
    let span = (LAST_PORT - FIRST_PORT) / 2;
    let start = (std::process::id() as u16).wrapping_mul(37) % span;
    for _ in 0..span {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let machine = FIRST_PORT + (start.wrapping_add(step) % span) * 2;
        let Ok(ours) = UdpSocket::bind((Ipv4Addr::LOCALHOST, machine + 1)) else { continue };
        // Machines bind all addresses, so that is what must be free.
        if UdpSocket::bind((Ipv4Addr::UNSPECIFIED, machine)).is_ok() {
            return Ok((ours, machine));
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no pair of free UDP ports"))
}

/// Starts the two threads of a port. They end with the switch.
pub(super) fn start(
    socket: UdpSocket,
    machine: u16,
    id: PortId,
    queue: Arc<Queue>,
    inner: &Arc<Inner>,
) -> io::Result<()> {
    socket.set_read_timeout(Some(STOP_PATIENCE))?;
    let sender = socket.try_clone()?;
    let inner = Arc::clone(inner);
    let stop = Arc::clone(&inner);
    thread::spawn(move || {
        let mut buffer = [0; FRAME_BYTES_MAX + 1];
        while !inner.stopping() {
            if let Ok(length) = socket.recv(&mut buffer) {
                inner.accept(id, &buffer[..length]);
            }
        }
    });
    thread::spawn(move || {
        let mut backlog = Backlog::default();
        while let Some(frame) = queue.pop() {
            while !backlog.has_room(frame.len()) && !stop.stopping() {
                backlog.observe(receive_queue(machine).unwrap_or(0));
                if !backlog.has_room(frame.len()) {
                    thread::sleep(FULL_PATIENCE);
                }
            }
            backlog.add(frame.len());
            let _ = sender.send_to(&frame, (Ipv4Addr::LOCALHOST, machine));
        }
    });
    Ok(())
}

/// An upper estimate of what waits in the machine's socket, corrected only when it says "full".
#[derive(Default)]
struct Backlog {
    bytes: usize,
}

impl Backlog {
    fn has_room(&self, length: usize) -> bool {
        self.bytes + kernel_bytes(length) <= BACKLOG_BYTES_MAX
    }

    fn add(&mut self, length: usize) {
        self.bytes += kernel_bytes(length);
    }

    fn observe(&mut self, bytes: usize) {
        self.bytes = bytes;
    }
}

/// What the kernel charges for a datagram: its buffer, rounded up, and its descriptor.
fn kernel_bytes(length: usize) -> usize {
    (length + 512).next_power_of_two() + 512
}

fn receive_queue(port: u16) -> Option<usize> {
    parse_receive_queue(&fs::read_to_string("/proc/net/udp").ok()?, port)
}

/// The `rx_queue` of the socket bound to `port` in the text of `/proc/net/udp`.
fn parse_receive_queue(text: &str, port: u16) -> Option<usize> {
    let suffix = format!(":{port:04X}");
    let line = text
        .lines()
        .skip(1)
        .find(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&suffix)))?;
    let queues = line.split_whitespace().nth(4)?;
    usize::from_str_radix(queues.split(':').nth(1)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_much_waits_in_a_socket() {
        let machine = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = machine.local_addr().unwrap().port();
        assert_eq!(receive_queue(port), Some(0));
        machine.send_to(&[0; 1514], (Ipv4Addr::LOCALHOST, port)).unwrap();
        let waiting = receive_queue(port).unwrap();
        assert!((1514..=kernel_bytes(1514)).contains(&waiting), "{waiting}");
    }

    #[test]
    fn a_socket_that_is_not_there_has_no_queue() {
        assert_eq!(parse_receive_queue("  sl  local_address\n", 7), None);
    }
}
