//! The two ends: an engine, a socket, and a guest that stands still.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command as Process, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant as Clock};

use godwit_migration::{
    Channel, Command, Compression, Event, GuestAction, GuestEvent, GuestRam, Input, MigrationId, Output,
    Policy, Purpose, Report, RunPermit, Source, SourceConfig, Target, TargetConfig, TargetPolicy,
};

use super::common::Failure;
use super::common::host::{self, GUEST, RECEIVE_BYTES, SEND_BYTES, instant, tune};
use super::measure::{self, Run};
use super::ram::Ram;
use super::window::Window;

/// What the life cycle of a guest that does nothing answers.
fn answer(action: GuestAction, permit: &mut Option<RunPermit>) -> GuestEvent {
    match action {
        GuestAction::Build(_) => GuestEvent::Built,
        GuestAction::StartDirtyLog => GuestEvent::DirtyLogStarted,
        GuestAction::HarvestDirtyLog => GuestEvent::DirtyLogHarvested,
        GuestAction::StopDirtyLog => GuestEvent::DirtyLogStopped,
        GuestAction::Throttle(_) => GuestEvent::Throttled,
        GuestAction::Pause => GuestEvent::Paused(permit.take().expect("it is paused once")),
        GuestAction::SaveState => GuestEvent::StateSaved(Vec::new()),
        GuestAction::RestoreState(_) => GuestEvent::StateRestored,
        GuestAction::Run(given) => {
            *permit = Some(given);
            GuestEvent::Running
        }
        GuestAction::Discard => GuestEvent::Discarded,
        GuestAction::Settle => GuestEvent::Settled,
        GuestAction::Forsake => GuestEvent::Forsaken,
    }
}

/// Moves `ram` to a new target process; what it cost, and the RAM back.
pub(crate) fn source(mut ram: Ram, mode: Compression) -> Result<(Run, Ram), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let bytes = ram.bytes().len();
    let mut child = Process::new(std::env::current_exe()?)
        .args(["--target", &port, &bytes.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let (stream, _) = listener.accept()?;
    tune(&stream)?;
    let (cpu, lo, clock) = (measure::cpu_seconds(), measure::loopback_bytes(), Clock::now());
    let report = drive_source(&mut ram, &stream, mode)?;
    let seconds = clock.elapsed().as_secs_f64();
    let (cpu_source, lo_bytes) = (measure::cpu_seconds() - cpu, measure::loopback_bytes() - lo);
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("the target has no output")?).read_line(&mut line)?;
    child.wait()?;
    let (cpu_target, hash) = line.trim().split_once(' ').ok_or("the target said nothing")?;
    let is_equal = hash == ram.hash().to_string();
    let run = Run {
        mode,
        ram_bytes: bytes as u64,
        seconds,
        cpu_source,
        cpu_target: cpu_target.parse()?,
        lo_bytes,
        report,
        is_equal,
    };
    Ok((run, ram))
}

fn drive_source(ram: &mut Ram, stream: &TcpStream, mode: Compression) -> Result<Report, Failure> {
    let guest = host::guest(ram.page_count())?;
    let policy = Policy { compression: mode, ..Policy::default() };
    let mut engine =
        Source::new(SourceConfig { migration: MigrationId([2; 16]), guest, policy, purpose: Purpose::Move });
    let mut permit = Some(RunPermit::for_new_guest(GUEST));
    // What the target says is short and rare: a thread of its own waits for it.
    let (said, heard) = mpsc::channel();
    let mut reader = stream.try_clone()?;
    let listener = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            if said.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let origin = Clock::now();
    let (mut window, mut position) = (Window::new(SEND_BYTES), 0);
    let mut writer = stream;
    engine.handle_input(instant(origin), Input::Command(Command::Start), ram);
    let outcome = loop {
        while let Ok(bytes) = heard.try_recv() {
            engine.handle_input(instant(origin), Input::Bytes(Channel::MAIN, &bytes), ram);
        }
        let now = instant(origin);
        let buffer = window.at(position);
        match engine.poll_output(now, buffer, ram) {
            Output::Transmit { len, .. } => {
                writer.write_all(&buffer[..len])?;
                position += len as u64;
            }
            Output::Connect(_) => engine.handle_input(now, Input::LinkUp(Channel::MAIN), ram),
            Output::Disconnect(_) | Output::HangUp(_) => {}
            Output::Guest(action) => {
                let event = answer(action, &mut permit);
                engine.handle_input(now, Input::Guest(event), ram);
            }
            Output::Event(Event::Completed(report)) => break Ok(report),
            Output::Event(Event::Aborted(reason, _)) => break Err(reason.to_string()),
            Output::Event(_) => {}
            Output::Timeout(at) => {
                let wait = Duration::from_nanos(at.since(now).as_nanos().min(1_000_000_000) as u64);
                match heard.recv_timeout(wait) {
                    Ok(bytes) => {
                        engine.handle_input(instant(origin), Input::Bytes(Channel::MAIN, &bytes), ram);
                    }
                    Err(_) => engine.handle_input(instant(origin), Input::Timeout, ram),
                }
            }
        }
    };
    stream.shutdown(Shutdown::Both)?;
    listener.join().map_err(|_| "the listener has panicked")?;
    Ok(*outcome?)
}

/// The target process: takes one guest, prints its CPU seconds and the hash of its RAM.
pub(crate) fn target(port: u16, bytes: usize) -> Result<(), Failure> {
    let mut ram = Ram::zero(bytes)?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    tune(&stream)?;
    let cpu = measure::cpu_seconds();
    let host = host::capabilities(bytes as u64, false);
    let mut engine = Target::new(TargetConfig { host, policy: TargetPolicy::default() });
    let mut permit = None;
    let origin = Clock::now();
    let (mut sent, mut window, mut position) = (vec![0; SEND_BYTES], Window::new(RECEIVE_BYTES), 0);
    engine.handle_input(instant(origin), Input::LinkUp(Channel::MAIN), &mut ram);
    while !engine.is_finished() {
        let now = instant(origin);
        match engine.poll_output(now, &mut sent, &mut ram) {
            Output::Transmit { len, .. } => stream.write_all(&sent[..len])?,
            Output::Connect(_) | Output::Disconnect(_) | Output::HangUp(_) => {}
            Output::Guest(action) => {
                let event = answer(action, &mut permit);
                engine.handle_input(now, Input::Guest(event), &mut ram);
            }
            Output::Event(_) => {}
            Output::Timeout(_) => {
                let received = window.at(position);
                match stream.read(received)? {
                    0 => engine.handle_input(instant(origin), Input::LinkDown(Channel::MAIN), &mut ram),
                    length => {
                        let bytes = Input::Bytes(Channel::MAIN, &received[..length]);
                        engine.handle_input(instant(origin), bytes, &mut ram);
                        position += length as u64;
                    }
                }
            }
        }
    }
    println!("{} {}", measure::cpu_seconds() - cpu, ram.hash());
    Ok(())
}
