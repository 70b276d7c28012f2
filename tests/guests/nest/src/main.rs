//! The program of the Linux in Bochs that puts the serial lines of the machines in it on one serial port.
//!
//! `lines PORT DIRECTORY COUNT`: the lines are the Unix sockets `DIRECTORY/0`, `DIRECTORY/1`, …, on each of which one QEMU is
//! waited for. They are there when `DIRECTORY/ready` is. The port must be set to raw bytes.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, io};

use godwit_guest_nest::line::Manner;
use godwit_guest_nest::trunk::{self, Opener, Stream};

/// Virtual time passes up to twenty times as fast as the lab's.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the lab sends waits in the kernel's buffers, of 4 KiB and more, when this program is not run for a while.
const WINDOW: u16 = 256;
/// QEMU writes a byte at a time. To take each by itself would cost the one processor some 50,000 instructions a byte.
const GATHERS: Duration = Duration::from_millis(4);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, directory, count] = &arguments[..] else {
        eprintln!("lines: usage: lines PORT DIRECTORY COUNT");
        return ExitCode::FAILURE;
    };
    match run(port, Path::new(directory), count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lines: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(port: &str, directory: &Path, count: &str) -> io::Result<()> {
    let count: u16 = count.parse().map_err(|_| io::Error::other(format!("{count} is no number of lines")))?;
    let say = |what: &Path, error: io::Error| io::Error::other(format!("{}: {error}", what.display()));
    fs::create_dir_all(directory).map_err(|error| say(directory, error))?;
    let openers = (0..count).map(|number| listen(directory.join(number.to_string())));
    let openers: Vec<Opener> = openers.collect::<io::Result<_>>()?;
    let output =
        File::options().read(true).write(true).open(port).map_err(|error| say(Path::new(port), error))?;
    let trunk = Stream { input: Box::new(output.try_clone()?), output: Box::new(output) };
    fs::write(directory.join("ready"), "")?;
    let manner = Manner { speaks_first: true, window: WINDOW, patience: PATIENCE };
    trunk::run(trunk, openers, manner, GATHERS, Arc::new(|text| eprintln!("lines: {text}")))
}

/// A line whose QEMU connects to `path`.
fn listen(path: PathBuf) -> io::Result<Opener> {
    let listener = UnixListener::bind(&path)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    Ok(Box::new(move || {
        let (stream, _) = listener.accept()?;
        Ok(Stream { input: Box::new(stream.try_clone()?), output: Box::new(stream) })
    }))
}
