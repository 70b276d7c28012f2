//! One host: an engine, its two connections, and one thread that waits for whatever comes first.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant as Clock};

use godwit_migration::{
    Channel, Event, GuestAction, GuestEvent, GuestRam, Input, Instant, Output, Report, Source, Target,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::common::Failure;
use super::common::host::{RECEIVE_BYTES, SEND_BYTES, instant, tune};
use super::memory::Ram;

const CHANNELS: [Channel; 2] = [Channel::URGENT, Channel::MAIN];
/// A host that hears nothing for so long has lost its migration.
const PATIENCE: Duration = Duration::from_secs(60);

/// Either role.
pub(crate) trait Engine {
    fn handle_input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam);
    fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output;
    fn poll_urgent(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize;
}

macro_rules! engine {
    ($role:ty) => {
        impl Engine for $role {
            fn handle_input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam) {
                <$role>::handle_input(self, now, input, ram);
            }
            fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output {
                <$role>::poll_output(self, now, buffer, ram)
            }
            fn poll_urgent(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize {
                <$role>::poll_urgent(self, now, buffer, ram)
            }
        }
    };
}

engine!(Source);
engine!(Target);

/// How a channel's connection comes about.
pub(crate) enum Way {
    Dial(SocketAddr),
    Accept(TcpListener),
}

struct Link {
    way: Way,
    stream: Option<TcpStream>,
    out: Vec<u8>,
    /// What of `out` is still to be sent.
    pending: std::ops::Range<usize>,
}

impl Link {
    fn new(way: Way) -> Result<Self, Failure> {
        if let Way::Accept(listener) = &way {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { way, stream: None, out: vec![0; SEND_BYTES], pending: 0..0 })
    }

    /// Whether the network has taken everything, or there is none.
    const fn is_free(&self) -> bool {
        self.pending.start == self.pending.end
    }

    /// Sends what can be sent now; `false` if the connection is lost.
    fn flush(&mut self) -> bool {
        while let (false, Some(stream)) = (self.pending.is_empty(), &mut self.stream) {
            match stream.write(&self.out[self.pending.clone()]) {
                Ok(count) => self.pending.start += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn send(&mut self, len: usize) -> bool {
        self.pending = 0..len;
        self.flush()
    }

    fn take(&mut self, stream: TcpStream) -> Result<(), Failure> {
        tune(&stream)?;
        stream.set_nonblocking(true)?;
        (self.stream, self.pending) = (Some(stream), 0..0);
        Ok(())
    }

    /// Closes the connection, at once or when both ends have said everything.
    fn close(&mut self, is_at_once: bool) {
        if let Some(mut stream) = self.stream.take()
            && !is_at_once
        {
            // The peer may have gone already. What it still says is read, or the kernel would take back what we said.
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let _ = stream.write_all(&self.out[self.pending.clone()]);
            let _ = stream.shutdown(Shutdown::Write);
            while let Ok(1..) = stream.read(&mut [0; 1024]) {}
        }
        self.pending = 0..0;
    }
}

/// What the host's hypervisor does to the guest.
type Act<'a> = Box<dyn FnMut(GuestAction, &mut Ram) -> GuestEvent + 'a>;

/// See the module.
pub(crate) struct Host<'a, E> {
    engine: E,
    ram: Ram,
    origin: Clock,
    links: [Link; 2],
    act: Act<'a>,
    received: Vec<u8>,
    heard_at: Clock,
}

/// The place of a channel in [`Host::links`].
const fn slot(channel: Channel) -> usize {
    channel.0 as usize
}

impl<'a, E: Engine> Host<'a, E> {
    pub(crate) fn new(
        engine: E,
        ram: Ram,
        origin: Clock,
        ways: [Way; 2],
        act: impl FnMut(GuestAction, &mut Ram) -> GuestEvent + 'a,
    ) -> Result<Self, Failure> {
        let [main, urgent] = ways;
        let links = [Link::new(main)?, Link::new(urgent)?];
        let (received, heard_at) = (vec![0; RECEIVE_BYTES], Clock::now());
        Ok(Self { engine, ram, origin, links, act: Box::new(act), received, heard_at })
    }

    fn input(&mut self, input: Input<'_>) {
        self.engine.handle_input(instant(self.origin), input, &mut self.ram);
    }

    /// Runs to the end, from `first`; the report, or why the guest has not moved.
    pub(crate) fn run(mut self, first: Option<Input<'_>>) -> Result<Result<Report, String>, Failure> {
        if let Some(input) = first {
            self.input(input);
        }
        loop {
            self.accept()?;
            for channel in CHANNELS {
                self.receive(channel)?;
            }
            for page in self.ram.memory.take_wanted() {
                self.input(Input::Guest(GuestEvent::PageWanted(page)));
            }
            let mut until = Some(instant(self.origin));
            match self.step(true)? {
                Step::Sent => match self.step(false)? {
                    Step::Over(outcome) => return Ok(outcome.map(|report| *report)),
                    Step::Sent | Step::Wait(_) => {}
                },
                Step::Wait(at) => until = Some(at),
                Step::Over(outcome) => return Ok(outcome.map(|report| *report)),
            }
            if self.send_urgent() {
                continue;
            }
            self.wait(until)?;
        }
    }

    /// Does what the engine wants until it has sent something on the main connection or has to wait.
    fn step(&mut self, may_send: bool) -> Result<Step, Failure> {
        let main = slot(Channel::MAIN);
        loop {
            if !self.links[main].flush() {
                self.lose(Channel::MAIN);
            }
            let now = instant(self.origin);
            let mut out = std::mem::take(&mut self.links[main].out);
            let buffer = if may_send && self.links[main].is_free() { &mut out[..] } else { &mut [] };
            let output = self.engine.poll_output(now, buffer, &mut self.ram);
            self.links[main].out = out;
            match output {
                Output::Transmit { len, .. } => {
                    if !self.links[main].send(len) {
                        self.lose(Channel::MAIN);
                    }
                    return Ok(Step::Sent);
                }
                Output::Connect(channel) => self.connect(channel)?,
                Output::Disconnect(channel) => self.links[slot(channel)].close(false),
                Output::HangUp(channel) => self.links[slot(channel)].close(true),
                Output::Guest(action) => {
                    let event = (self.act)(action, &mut self.ram);
                    self.input(Input::Guest(event));
                }
                Output::Event(Event::Completed(report)) => return Ok(Step::Over(Ok(report))),
                Output::Event(Event::Aborted(reason, _)) => return Ok(Step::Over(Err(reason.to_string()))),
                Output::Event(Event::Interrupted) => {
                    return Err("a connection was lost after the switch".into());
                }
                Output::Event(_) => {}
                Output::Timeout(at) if at > now => return Ok(Step::Wait(at)),
                Output::Timeout(_) => self.input(Input::Timeout),
            }
        }
    }

    /// Sends what somebody waits for; whether there was anything.
    fn send_urgent(&mut self) -> bool {
        let link = &mut self.links[slot(Channel::URGENT)];
        if !link.flush() {
            self.lose(Channel::URGENT);
            return true;
        }
        if !link.is_free() {
            return false;
        }
        let len = self.engine.poll_urgent(instant(self.origin), &mut link.out, &mut self.ram);
        if len > 0 && !link.send(len) {
            self.lose(Channel::URGENT);
        }
        len > 0
    }

    fn lose(&mut self, channel: Channel) {
        self.links[slot(channel)].close(true);
        self.input(Input::LinkDown(channel));
    }

    fn connect(&mut self, channel: Channel) -> Result<(), Failure> {
        let link = &mut self.links[slot(channel)];
        let Way::Dial(address) = &link.way else { return Err("a target does not connect".into()) };
        let stream = TcpStream::connect(address)?;
        link.take(stream)?;
        self.input(Input::LinkUp(channel));
        Ok(())
    }

    fn accept(&mut self) -> Result<(), Failure> {
        for channel in CHANNELS {
            let link = &mut self.links[slot(channel)];
            let Way::Accept(listener) = &link.way else { continue };
            match listener.accept() {
                Ok((stream, _)) => {
                    link.take(stream)?;
                    self.input(Input::LinkUp(channel));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes what has come on a connection, once.
    fn receive(&mut self, channel: Channel) -> Result<(), Failure> {
        let Some(stream) = &mut self.links[slot(channel)].stream else { return Ok(()) };
        match stream.read(&mut self.received) {
            Ok(0) => self.lose(channel),
            Ok(count) => {
                self.heard_at = Clock::now();
                let received = std::mem::take(&mut self.received);
                self.input(Input::Bytes(channel, &received[..count]));
                self.received = received;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.lose(channel),
        }
        if self.heard_at.elapsed() > PATIENCE { Err("nothing is heard any more".into()) } else { Ok(()) }
    }

    /// Until a connection can be read or, where something is pending, written, somebody wants a page, or it is time.
    fn wait(&self, until: Option<Instant>) -> Result<(), Failure> {
        let memory = &self.ram.memory;
        let mut waited = vec![PollFd::from_borrowed_fd(memory.doorbell(), PollFlags::IN)];
        for link in &self.links {
            if let Way::Accept(listener) = &link.way {
                waited.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
            }
            if let Some(stream) = &link.stream {
                let wish = if link.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                waited.push(PollFd::from_borrowed_fd(stream.as_fd(), wish | PollFlags::IN));
            }
        }
        let longest = Duration::from_secs(1);
        let time = until.map_or(longest, |at| at.since(instant(self.origin)).min(longest));
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        poll(&mut waited, Some(&time))?;
        Ok(())
    }
}

/// What [`Host::step`] came to.
enum Step {
    /// Something was sent: more may follow at once.
    Sent,
    /// Nothing to do until then.
    Wait(Instant),
    /// The attempt is over.
    Over(Result<Box<Report>, String>),
}
