//! The engine natively: moves a RAM image between two processes over loopback TCP and says what it cost.
//!
//! ```text
//! stream --image FILE [--mode plain|compressed] [--repeats N] [--report FILE.json]
//! ```
//!
//! The source is this process, the target a child of it. CPU seconds are user + system of both, from the start of
//! the migration to its completion, in the kernel's 10 ms ticks; loading the image and comparing RAM afterwards
//! are outside of that. Both ends' RAM is touched before, as a host's is that recycles it. Bytes are counted by
//! the engine; `lo_mib` is the loopback's own counter, headers and acknowledgements included, exact where
//! nothing else uses it (`unshare -n`). memcpy and zero scan of the same image are measured in the same run.

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod measure;
mod prefetch;
mod ram;
mod window;

use std::io::Write;
use std::path::PathBuf;

use common::Failure;
use godwit_migration::Compression;

/// What was asked for.
struct Arguments {
    image: PathBuf,
    modes: Vec<Compression>,
    repeats: usize,
    report: Option<PathBuf>,
}

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    if let [flag, port, bytes] = &words.by_ref().collect::<Vec<_>>()[..]
        && flag == "--target"
    {
        return ends::target(port.parse()?, bytes.parse()?);
    }
    let arguments = arguments()?;
    let image = ram::Ram::from_file(&arguments.image)?;
    let reference = measure::reference(image.bytes());
    println!("memcpy {:.0} MiB/s, zero scan {:.0} MiB/s", reference.memcpy_mib_s, reference.zero_scan_mib_s);
    let mut image = Some(image);
    let mut runs = Vec::new();
    for mode in &arguments.modes {
        for _ in 0..arguments.repeats {
            let ram = image.take().expect("each run gives it back");
            let (run, ram) = ends::source(ram, *mode)?;
            println!("{}", run.line());
            runs.push(run);
            image = Some(ram);
        }
    }
    if let Some(path) = arguments.report {
        let runs: Vec<_> = runs.iter().map(measure::Run::json).collect();
        let json = format!("{{{},\"runs\":[\n{}\n]}}\n", reference.json(), runs.join(",\n"));
        std::fs::File::create(path)?.write_all(json.as_bytes())?;
    }
    Ok(())
}

fn arguments() -> Result<Arguments, Failure> {
    let both = vec![Compression::Off, Compression::Adaptive];
    let mut arguments = Arguments { image: PathBuf::new(), modes: both, repeats: 1, report: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--image" => arguments.image = value.into(),
            "--repeats" => arguments.repeats = value.parse()?,
            "--report" => arguments.report = Some(value.into()),
            "--mode" if value == "plain" => arguments.modes = vec![Compression::Off],
            "--mode" if value == "compressed" => arguments.modes = vec![Compression::Adaptive],
            _ => return Err(format!("unknown: {word} {value}").into()),
        }
    }
    if arguments.image.as_os_str().is_empty() {
        return Err(
            "usage: stream --image FILE [--mode plain|compressed] [--repeats N] [--report FILE]".into()
        );
    }
    Ok(arguments)
}
