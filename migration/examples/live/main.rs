//! The engine natively under a guest that runs: moves it between two hosts of this process over loopback TCP, with a
//! connection for bulk and one for what is urgent, and says what that cost the guest.
//!
//! ```text
//! live --image FILE [--repeats N] [--report FILE.json] [NAME-PART ...]
//! ```
//!
//! Cases whose name contains one of the parts are run, all without any. The guest is that of the comparison with QEMU
//! (`guest.rs`); times are of one clock, `stall` and waits the guest's own. A case in which a page was lost or came
//! stale is *not intact*: the program fails.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod guest;
mod host;
mod memory;
mod outcome;
mod wire;

use std::io::Write;
use std::path::PathBuf;

use common::Failure;
use common::memory as maps;
use memory::Block;

/// What was asked for.
struct Arguments {
    image: PathBuf,
    repeats: usize,
    report: Option<PathBuf>,
    parts: Vec<String>,
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    // Threads sleep as long as they say, not 50 us longer. Without it figures are a little worse.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let image = maps::load(&arguments.image)?;
    let blocks = [Block::new(maps::touched(image.len())?)?, Block::new(maps::touched(image.len())?)?];
    let (mut runs, mut is_intact) = (Vec::new(), true);
    for case in cases::all() {
        let name = case.name();
        if !arguments.parts.is_empty() && !arguments.parts.iter().any(|part| name.contains(part)) {
            continue;
        }
        for _ in 0..arguments.repeats {
            let outcome = ends::run(&case, &image, blocks).map_err(|error| format!("{name}: {error}"))?;
            println!("{}", outcome.line());
            is_intact &= outcome.is_intact;
            runs.push(outcome.json());
        }
    }
    if let Some(path) = arguments.report {
        let json = format!("{{\"runs\":[\n{}\n]}}\n", runs.join(",\n"));
        std::fs::File::create(path)?.write_all(json.as_bytes())?;
    }
    if is_intact { Ok(()) } else { Err("a guest found memory that was not as it left it".into()) }
}

fn arguments() -> Result<Arguments, Failure> {
    let mut arguments = Arguments { image: PathBuf::new(), repeats: 1, report: None, parts: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--image" => arguments.image = value()?.into(),
            "--repeats" => arguments.repeats = value()?.parse()?,
            "--report" => arguments.report = Some(value()?.into()),
            _ if word.starts_with('-') => return Err(format!("unknown: {word}").into()),
            _ => arguments.parts.push(word),
        }
    }
    if arguments.image.as_os_str().is_empty() {
        return Err("usage: live --image FILE [--repeats N] [--report FILE] [NAME-PART ...]".into());
    }
    Ok(arguments)
}
