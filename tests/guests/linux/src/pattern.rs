//! `pattern start [MIB] [PAGES_PER_SECOND] | stop | status | check`: rewrites memory in the background and watches it.
//!
//! The daemon and the commands talk through files in a tmpfs: a command writes its word to `ask` and waits for `answer`.

mod daemon;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

const DIRECTORY: &str = "/run/pattern";
const ASK: &str = "/run/pattern/ask";
const ANSWER: &str = "/run/pattern/answer";
const PID: &str = "/run/pattern/pid";

const MIB_DEFAULT: u64 = 16;
const MIB_MAX: u64 = 1 << 20;
/// Generous: a machine in an emulator may need long to look through its memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

const USAGE: &str =
    "pattern: usage: pattern start [MIB] [PAGES_PER_SECOND, 0: flat out] | stop | status | check";

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let numbers = || -> Option<Vec<u64>> { words.iter().skip(1).map(|word| word.parse().ok()).collect() };
    match (words.first().copied(), numbers().as_deref()) {
        (Some("start"), Some([])) => start_here(MIB_DEFAULT, 0),
        (Some("start"), Some(&[mib])) => start_here(mib, 0),
        (Some("start"), Some(&[mib, rate])) => start_here(mib, rate),
        (Some("daemon"), Some(&[mib, rate])) => daemon::run(mib, rate),
        (Some(word @ ("stop" | "status" | "check")), Some([])) => ask(word),
        _ => {
            println!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn start_here(mib: u64, rate: u64) -> ExitCode {
    match start(mib, rate) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("pattern: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the daemon and waits until it has filled its memory.
pub(crate) fn start(mib: u64, rate: u64) -> io::Result<()> {
    if is_running() {
        return Err(io::Error::other("already running: stop it first"));
    }
    if !(1..=MIB_MAX).contains(&mib) {
        return Err(io::Error::other(format!("{mib} MiB is not in 1..{MIB_MAX}")));
    }
    let _ = fs::remove_dir_all(DIRECTORY);
    fs::create_dir_all(DIRECTORY)?;
    let mut child = crate::daemon::spawn("pattern", &["daemon".into(), mib.to_string(), rate.to_string()])?;
    while !Path::new(PID).exists() {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("the daemon ended at once: {status}; too much memory?")));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn is_running() -> bool {
    let pid = fs::read_to_string(PID).unwrap_or_default();
    !pid.is_empty() && Path::new("/proc").join(pid.trim()).exists()
}

/// Asks the daemon and prints what it answers. Fails if it does not, or says that something is wrong.
fn ask(word: &str) -> ExitCode {
    if !is_running() {
        println!("pattern: not running");
        return ExitCode::FAILURE;
    }
    let _ = fs::remove_file(ANSWER);
    if let Err(error) = put(ASK, word) {
        println!("pattern: cannot ask: {error}");
        return ExitCode::FAILURE;
    }
    let asked = Instant::now();
    while asked.elapsed() < ANSWER_TIMEOUT {
        if let Ok(answer) = fs::read_to_string(ANSWER) {
            println!("{answer}");
            return if answer.contains(" violations=0 ") { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        thread::sleep(POLL);
    }
    println!("pattern: no answer for {} s", ANSWER_TIMEOUT.as_secs());
    ExitCode::FAILURE
}

/// Makes a file that nobody sees half written.
fn put(path: &str, text: &str) -> io::Result<()> {
    let partial = format!("{path}.partial");
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}
