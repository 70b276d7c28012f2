//! The wire: a learning Ethernet switch whose ports can lose, delay, cap and cut.
//!
//! Machines connect over UDP, one raw Ethernet frame per datagram ([`udp`]): the emulator binds port P and sends to
//! P + 1, which is ours. Endpoints inside the lab connect over a channel ([`Endpoint`]). Each port has an ingress
//! and an egress [`link::Link`], pure models of a wire that take the time as an argument; only this file and [`udp`]
//! know threads and sockets.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lock;

pub mod link;
mod pcap;
mod queue;
mod table;
mod udp;

pub use link::Conditions;
use link::{Link, Verdict};
use pcap::Capture;
use queue::Queue;
pub use table::Mac;
use table::{Route, Table};

/// Frames shorter than an Ethernet header or longer than this are dropped.
pub const FRAME_BYTES_MAX: usize = 1_518;
const HEADER_BYTES: usize = 14;

/// A port's number.
pub type PortId = usize;

/// What went through a port, seen from its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames that the machine sent and the switch took.
    pub sent_frames: u64,
    /// Their bytes, headers included.
    pub sent_bytes: u64,
    /// Frames queued towards the machine.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames lost on purpose, cut, malformed or over a queue's bound, in both directions.
    pub dropped_frames: u64,
}

struct Port {
    name: String,
    ingress: Mutex<Link>,
    egress: Mutex<Link>,
    queue: Arc<Queue>,
    statistics: Mutex<Statistics>,
}

struct Inner {
    ports: Mutex<Vec<Arc<Port>>>,
    table: Mutex<Table>,
    capture: Mutex<Option<Capture>>,
    tripwire: Mutex<Option<Tripwire>>,
    stopping: AtomicBool,
}

/// Which port is cut, and at which frame.
struct Tripwire {
    port: PortId,
    is_it: fn(&[u8]) -> bool,
}

/// A switch; it stops when dropped.
pub struct Switch {
    inner: Arc<Inner>,
}

/// The lab's own end of a port.
pub struct Endpoint {
    /// The port.
    pub id: PortId,
    inner: Arc<Inner>,
    frames: Receiver<Vec<u8>>,
}

/// The UDP numbers a machine needs to reach its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPort {
    /// The switch's port.
    pub id: PortId,
    /// The machine binds this one.
    pub machine: u16,
    /// The machine sends to this one: always `machine + 1`.
    pub switch: u16,
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Switch {
    /// A switch without ports.
    pub fn new() -> Self {
        let inner = Inner {
            ports: Mutex::default(),
            table: Mutex::default(),
            capture: Mutex::default(),
            tripwire: Mutex::default(),
            stopping: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds a port for a machine that speaks Ethernet over UDP.
    ///
    /// # Errors
    /// No pair of free UDP ports was found.
    pub fn add_udp(&self, name: &str) -> io::Result<UdpPort> {
        let (socket, machine) = udp::bind_pair()?;
        let (id, queue) = self.inner.add(name);
        udp::start(socket, machine, id, queue, &self.inner)?;
        Ok(UdpPort { id, machine, switch: machine + 1 })
    }

    /// Adds a port whose other end is in this process.
    pub fn add_endpoint(&self, name: &str) -> Endpoint {
        let (id, queue) = self.inner.add(name);
        let (sender, frames) = channel();
        std::thread::spawn(move || deliver(&queue, &sender));
        Endpoint { id, inner: Arc::clone(&self.inner), frames }
    }

    /// Sets the wire of `port`, for both directions. Frames under way keep the conditions they entered with.
    pub fn set(&self, port: PortId, conditions: Conditions) {
        self.inner.set(port, conditions);
    }

    /// Cuts the wire of `port`: what it sends and what is sent to it vanishes.
    pub fn cut(&self, port: PortId) {
        self.inner.cut(port);
    }

    /// Cuts the wire of `port` when a frame enters the switch, anywhere, that `is_it` says is the one: it is the first that
    /// vanishes. Once; [`Self::mend`] mends it, and ends the waiting for such a frame.
    pub fn cut_at(&self, port: PortId, is_it: fn(&[u8]) -> bool) {
        *lock(&self.inner.tripwire) = Some(Tripwire { port, is_it });
    }

    /// Mends the wire of `port`: no loss, no delay, no cap.
    pub fn mend(&self, port: PortId) {
        lock(&self.inner.tripwire).take_if(|tripwire| tripwire.port == port);
        self.set(port, Conditions::default());
    }

    /// What went through `port` so far.
    pub fn statistics(&self, port: PortId) -> Statistics {
        self.inner.port(port).map(|p| *lock(&p.statistics)).unwrap_or_default()
    }

    /// Writes every frame that enters the switch from now on to `file`, in pcap format.
    ///
    /// # Errors
    /// The file could not be created.
    pub fn capture(&self, file: &Path) -> io::Result<()> {
        *lock(&self.inner.capture) = Some(Capture::create(file)?);
        Ok(())
    }

    /// One line per port: name and statistics.
    pub fn summary(&self) -> String {
        let ports = lock(&self.inner.ports).clone();
        let line = |p: &Arc<Port>| {
            let s = *lock(&p.statistics);
            let (sent, received) = (s.sent_bytes / 1024, s.received_bytes / 1024);
            format!(
                "{}: sent {sent} KiB, received {received} KiB, dropped {} frames\n",
                p.name, s.dropped_frames
            )
        };
        ports.iter().map(line).collect()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
        // Finishes the file, though threads may hold the switch a moment longer.
        lock(&self.inner.capture).take();
        for port in lock(&self.inner.ports).iter() {
            port.queue.close();
        }
    }
}

impl Endpoint {
    /// Sends a frame into the switch.
    pub fn send(&self, frame: &[u8]) {
        self.inner.accept(self.id, frame);
    }

    /// The next frame, waiting at most `timeout`.
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.frames.recv_timeout(timeout).ok()
    }
}

impl Drop for Endpoint {
    /// The plug is pulled: addresses behind it may turn up elsewhere.
    fn drop(&mut self) {
        lock(&self.inner.table).forget(self.id);
        if let Some(port) = self.inner.port(self.id) {
            port.queue.close();
        }
    }
}

impl Inner {
    fn add(&self, name: &str) -> (PortId, Arc<Queue>) {
        let mut ports = lock(&self.ports);
        let seed = ports.len() as u64 + 1;
        let now = Instant::now();
        let queue = Arc::new(Queue::default());
        ports.push(Arc::new(Port {
            name: name.to_owned(),
            ingress: Mutex::new(Link::new(2 * seed, now)),
            egress: Mutex::new(Link::new(2 * seed + 1, now)),
            queue: Arc::clone(&queue),
            statistics: Mutex::default(),
        }));
        (ports.len() - 1, queue)
    }

    fn port(&self, id: PortId) -> Option<Arc<Port>> {
        lock(&self.ports).get(id).cloned()
    }

    fn set(&self, port: PortId, conditions: Conditions) {
        let now = Instant::now();
        if let Some(port) = self.port(port) {
            lock(&port.ingress).set(conditions, now);
            lock(&port.egress).set(conditions, now);
        }
    }

    fn cut(&self, port: PortId) {
        self.set(port, Conditions { cut: true, ..Conditions::default() });
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Takes a frame that the machine on `from` sent.
    fn accept(&self, from: PortId, frame: &[u8]) {
        let Some(port) = self.port(from) else { return };
        let now = Instant::now();
        if let Some(tripped) = lock(&self.tripwire).take_if(|tripwire| (tripwire.is_it)(frame)) {
            self.cut(tripped.port);
        }
        let arrival = match frame.len() {
            HEADER_BYTES..=FRAME_BYTES_MAX => lock(&port.ingress).pass(frame.len(), now),
            _ => Verdict::Drop,
        };
        let Verdict::At(arrival) = arrival else {
            lock(&port.statistics).dropped_frames += 1;
            return;
        };
        {
            let mut statistics = lock(&port.statistics);
            statistics.sent_frames += 1;
            statistics.sent_bytes += frame.len() as u64;
        }
        if let Some(capture) = lock(&self.capture).as_mut() {
            capture.write(frame);
        }
        let route = lock(&self.table).route(frame, from, now);
        match route {
            Route::Port(to) => self.forward(to, frame, arrival),
            Route::Flood => {
                let count = lock(&self.ports).len();
                for to in (0..count).filter(|&to| to != from) {
                    self.forward(to, frame, arrival);
                }
            }
            Route::Nowhere => {}
        }
    }

    fn forward(&self, to: PortId, frame: &[u8], arrival: Instant) {
        let Some(port) = self.port(to) else { return };
        let verdict = lock(&port.egress).pass(frame.len(), arrival);
        let queued = match verdict {
            Verdict::At(due) => port.queue.push(due, frame),
            Verdict::Drop => false,
        };
        let mut statistics = lock(&port.statistics);
        if queued {
            statistics.received_frames += 1;
            statistics.received_bytes += frame.len() as u64;
        } else {
            statistics.dropped_frames += 1;
        }
    }
}

fn deliver(queue: &Queue, sender: &Sender<Vec<u8>>) {
    while let Some(frame) = queue.pop() {
        if sender.send(frame).is_err() {
            return;
        }
    }
}

/// Names of MAC addresses, for generated machines: locally administered, one per number.
pub fn mac(number: u8) -> Mac {
    [0xb0, 0xc4, 0x20, 0, 0, number]
}

/// `mac` as text.
pub fn mac_text(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests;
