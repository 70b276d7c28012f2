//! The lab's end of the serial port that carries the lines of all machines: takes them apart, one stream each.
//!
//! A machine's [`Serial`](crate::serial::Serial) listens, as for any machine; what connects to it is this.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use godwit_guest_nest::line::Manner;
use godwit_guest_nest::trunk::{self, Opener, Report, Stream};

use crate::lock;

/// Nothing is lost on the way, and a Linux that is slow only gets again what it has: rather long than short.
const PATIENCE: Duration = Duration::from_secs(5);
/// What fits on the way between two answers, at the speed of the port.
const WINDOW: u16 = 2048;

/// Connects to each of `serials` and listens for the port that carries them; gives where. When that ends, so do they.
/// What is unusual is written to the file `log`.
///
/// # Errors
/// A serial line or the port cannot be opened, or the file not be made.
pub(super) fn listen(serials: &[u16], log: &Path) -> io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let log = Mutex::new(File::create(log)?);
    // A log that cannot be written must not end the lines.
    let report: Report = Arc::new(move |text| drop(writeln!(lock(&log), "{text}")));
    let lines = serials.iter().map(|serial| TcpStream::connect(("127.0.0.1", *serial)));
    let lines: Vec<TcpStream> = lines.collect::<io::Result<_>>()?;
    thread::spawn(move || {
        if let Err(error) = serve(&listener, &lines, &report) {
            report(&format!("the serial lines have ended: {error}"));
        }
        for line in lines {
            // It may be closed already.
            let _ = line.shutdown(Shutdown::Both);
        }
    });
    Ok(port)
}

fn serve(listener: &TcpListener, lines: &[TcpStream], report: &Report) -> io::Result<()> {
    let (port, _) = listener.accept()?;
    let openers = lines.iter().map(|line| -> io::Result<Opener> {
        let line = stream(line)?;
        Ok(Box::new(move || Ok(line)))
    });
    let openers = openers.collect::<io::Result<_>>()?;
    let manner = Manner { speaks_first: false, window: WINDOW, patience: PATIENCE };
    trunk::run(stream(&port)?, openers, manner, Duration::ZERO, Arc::clone(report))
}

fn stream(socket: &TcpStream) -> io::Result<Stream> {
    socket.set_nodelay(true)?;
    Ok(Stream { input: Box::new(socket.try_clone()?), output: Box::new(socket.try_clone()?) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use godwit_guest_nest::frame::Frame;

    use super::*;
    use crate::serial::{Serial, SerialError};

    const SOON: Duration = Duration::from_secs(60);

    /// Serial lines whose machines are in a Linux that is not there, and that Linux's port.
    fn lines(count: usize) -> (Vec<Serial>, TcpStream, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let serial = |number| Serial::listen(&directory.path().join(format!("serial{number}.log"))).unwrap();
        let serials: Vec<Serial> = (0..count).map(serial).collect();
        let ports: Vec<u16> = serials.iter().map(Serial::port).collect();
        let port = listen(&ports, &directory.path().join("lines.log")).unwrap();
        (serials, TcpStream::connect(("127.0.0.1", port)).unwrap(), directory)
    }

    /// The other side, as the program in the Linux runs it: `machines` are what its QEMUs have.
    fn linux(port: &TcpStream, count: usize) -> Vec<UnixStream> {
        let (machines, sockets): (Vec<_>, Vec<_>) = (0..count).map(|_| UnixStream::pair().unwrap()).unzip();
        let opener = |socket: UnixStream| -> Opener {
            Box::new(move || {
                Ok(Stream { input: Box::new(socket.try_clone()?), output: Box::new(socket.try_clone()?) })
            })
        };
        let openers = sockets.into_iter().map(opener).collect();
        let port = stream(port).unwrap();
        let manner = Manner { speaks_first: true, window: 64, patience: PATIENCE };
        thread::spawn(move || trunk::run(port, openers, manner, Duration::ZERO, Arc::new(|_| ())));
        machines
    }

    #[test]
    fn to_a_test_each_of_many_machines_has_a_serial_line_of_its_own() {
        let (mut serials, port, _directory) = lines(7);
        let mut machines = linux(&port, 7);
        for (number, machine) in machines.iter_mut().enumerate() {
            write!(machine, "\x1b[2JI am {number}\r\n{number}> ").unwrap();
        }
        for (number, serial) in serials.iter_mut().enumerate().rev() {
            assert_eq!(serial.expect_line("I am", SOON).unwrap(), format!("I am {number}"));
            serial.expect(&format!("{number}> "), SOON).unwrap();
            assert_eq!(serial.pending(), "");
        }
        let long = "x".repeat(1_000);
        for (number, (machine, serial)) in machines.iter_mut().zip(&mut serials).enumerate() {
            let typed = format!("\x1d{long}{number}\r");
            serial.write(typed.as_bytes()).unwrap();
            let mut got = vec![0; typed.len()];
            machine.set_read_timeout(Some(SOON)).unwrap();
            io::Read::read_exact(machine, &mut got).unwrap();
            assert_eq!(String::from_utf8(got).unwrap(), typed);
        }
    }

    #[test]
    fn a_linux_that_is_gone_closes_its_machines_lines() {
        let (mut serials, port, _directory) = lines(2);
        drop(port);
        for serial in &mut serials {
            assert!(matches!(serial.expect("> ", SOON), Err(SerialError::Closed { .. })));
        }
    }

    #[test]
    fn a_port_that_talks_nonsense_says_nothing_to_a_machine_and_is_noted() {
        let (mut serials, mut port, directory) = lines(1);
        let mut bytes = b"[    0.000000] Linux version 6.1\r\n\0".to_vec();
        Frame::Data { line: 0, offset: 0, bytes: b"a> ".to_vec() }.encode(&mut bytes);
        port.write_all(&bytes).unwrap();
        assert_eq!(serials[0].expect("a> ", SOON).unwrap(), "");
        let log = std::fs::read_to_string(directory.path().join("lines.log")).unwrap();
        assert!(log.contains("damaged bytes"), "{log}");
    }

    #[test]
    fn the_port_hears_nothing_before_it_has_spoken() {
        let (serials, mut port, _directory) = lines(1);
        port.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        while !serials[0].is_connected() {
            thread::sleep(Duration::from_millis(5));
        }
        serials[0].write(b"too early").unwrap();
        let mut heard = Vec::new();
        let _ = io::Read::read_to_end(&mut port, &mut heard);
        assert!(heard.is_empty(), "{heard:?}");
    }
}
