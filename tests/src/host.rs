//! One running Godwit host, used as a person uses it: commands on its console, guests' consoles through it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::figures::Moved;
use crate::machine::Machine;
use crate::serial::{Serial, SerialError};
use crate::switch::PortId;

/// From a command to the prompt, when nothing slow is asked.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest move of a test guest that goes well.
pub const MOVE_TIMEOUT: Duration = Duration::from_secs(600);
/// A prompt that nothing follows for so long is the last word.
const PROMPT_SETTLES: Duration = Duration::from_millis(60);
/// How often a wait for a prompt looks whether the machine is still there: some end without closing their serial line.
const LOOKS_AFTER: Duration = Duration::from_secs(2);
/// Nothing the console still has to say takes longer.
const RECOVERY: Duration = Duration::from_secs(2);
/// Typed while attached to a guest: back to the host's prompt.
const DETACH: &[u8] = b"\x1d.";
/// The Linux guest's prompt.
pub const GUEST_PROMPT: &str = "guest# ";

/// How a move ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The guest runs at the other host.
    Moved(Moved),
    /// It began and failed; the line that says why.
    Failed(String),
    /// The console refused it; the line that says why.
    Refused(String),
}

impl Outcome {
    /// The figures of a move that went well.
    ///
    /// # Errors
    /// It did not.
    pub fn moved(self) -> Result<Moved> {
        match self {
            Self::Moved(moved) => Ok(moved),
            Self::Failed(line) | Self::Refused(line) => bail!("{line}"),
        }
    }
}

/// One running host.
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port on the switch, if it has a card.
    pub port: Option<PortId>,
    /// The machine under it.
    pub machine: Box<dyn Machine>,
}

impl Host {
    /// A host that has just been turned on.
    pub fn new(name: &str, address: Ipv4Addr, port: Option<PortId>, machine: Box<dyn Machine>) -> Self {
        let mut host = Self { name: name.to_owned(), address, port, machine };
        host.serial().fail_on("PANIC");
        host
    }

    /// From now on the host is on `machine`, which has just been turned on.
    pub(crate) fn replace_machine(&mut self, machine: Box<dyn Machine>) {
        self.machine = machine;
        self.serial().fail_on("PANIC");
    }

    /// Its serial console.
    pub fn serial(&mut self) -> &mut Serial {
        self.machine.serial()
    }

    /// Waits for the prompt, with nothing behind it; returns what came before it.
    ///
    /// The host may say something unasked at any moment and paint the prompt and a half-typed line anew: only a prompt
    /// that stays the last word counts.
    ///
    /// # Errors
    /// It did not come in time.
    pub fn wait_for_prompt(&mut self, timeout: Duration) -> Result<String> {
        let prompt = format!("{}> ", self.name);
        let deadline = Instant::now() + timeout;
        loop {
            let found = |text: &str| {
                let before = text.strip_suffix(&prompt)?;
                (before.is_empty() || before.ends_with('\n')).then(|| (before.to_owned(), 0))
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let expected = format!("prompt {prompt:?}");
            let mut outcome = self.serial().expect_with(&expected, left.min(LOOKS_AFTER), found);
            if let Err(SerialError::Timeout { waited, .. }) = &mut outcome {
                if left > LOOKS_AFTER && self.machine.is_running() {
                    continue;
                }
                *waited = timeout.saturating_sub(deadline.saturating_duration_since(Instant::now()));
            }
            let before = self.explained(outcome, "waiting for the prompt")?;
            std::thread::sleep(PROMPT_SETTLES);
            if self.serial().pending().len() == before.len() + prompt.len() {
                self.serial().skip_pending();
                return Ok(before);
            }
        }
    }

    /// Types `line` and returns what it printed, without the echo.
    ///
    /// # Errors
    /// The prompt did not come back in time.
    pub fn command(&mut self, line: &str, timeout: Duration) -> Result<String> {
        self.enter(line)?;
        self.wait_for_prompt(timeout).with_context(|| format!("{}> {line}", self.name))
    }

    /// A quick command that must not be refused.
    ///
    /// # Errors
    /// It was, or the prompt did not come back in time.
    pub fn succeed(&mut self, line: &str) -> Result<String> {
        let output = self.command(line, COMMAND_TIMEOUT)?;
        ensure!(!output.contains("error: "), "{}> {line}\n{output}", self.name);
        Ok(output)
    }

    /// Types `line` and Enter; what was printed before Enter counts as seen.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn enter(&mut self, line: &str) -> Result<()> {
        let serial = self.serial();
        serial.send(line)?;
        serial.skip_pending();
        Ok(serial.write(b"\r")?)
    }

    /// The state of `guest` in `vm list` and what stands behind it, or `None` if it is not listed.
    ///
    /// # Errors
    /// The console did not answer.
    pub fn guest_state(&mut self, guest: &str) -> Result<Option<(String, String)>> {
        let list = self.succeed("vm list")?;
        let row = list.lines().find(|line| line.split_whitespace().next() == Some(guest));
        Ok(row.map(|row| {
            let state = row.split_whitespace().nth(1).unwrap_or_default().to_owned();
            (state, row.to_owned())
        }))
    }

    /// Fails unless `guest` is in `state`.
    ///
    /// # Errors
    /// It is in another, or not there.
    pub fn expect_state(&mut self, guest: &str, state: &str) -> Result<String> {
        match self.guest_state(guest)? {
            Some((found, row)) if found == state => Ok(row),
            Some((_, row)) => bail!("host {}: {guest} should be {state}: {row}", self.name),
            None => bail!("host {}: there is no {guest}", self.name),
        }
    }

    /// Attaches to the console of `guest` and waits for `text`, in its last lines or after.
    ///
    /// # Errors
    /// The host refused, or the text did not come in time.
    pub fn attach(&mut self, guest: &str, text: &str, timeout: Duration) -> Result<String> {
        self.enter(&format!("vm console {guest}"))?;
        let banner = self.serial().expect_any(&["comes back]\n", "error: "], COMMAND_TIMEOUT);
        let (which, _) = self.explained(banner, "attaching")?;
        let rest = self.serial().pending();
        ensure!(which == 0, "host {} does not attach to {guest}: {rest}", self.name);
        if text.is_empty() {
            return Ok(String::new());
        }
        let outcome = self.serial().expect_line(text, timeout);
        self.explained(outcome, guest)
    }

    /// Comes back from a guest's console.
    ///
    /// # Errors
    /// The prompt did not come.
    pub fn detach(&mut self) -> Result<()> {
        self.serial().write(DETACH)?;
        self.wait_for_prompt(COMMAND_TIMEOUT).map(|_| ())
    }

    /// Types `line` at the Linux guest's shell, to which the console is attached; returns what it printed.
    ///
    /// # Errors
    /// The guest's prompt did not come in time.
    pub fn guest_command(&mut self, line: &str, timeout: Duration) -> Result<String> {
        // What is shown again of earlier output must not be taken for the answer.
        self.serial().settle(PROMPT_SETTLES, RECOVERY);
        self.serial().skip_pending();
        self.serial().send(line)?;
        // A busy guest echoes late.
        let echo = self.serial().expect(line, timeout);
        self.explained(echo, &format!("the echo of {line:?}"))?;
        self.serial().write(b"\r")?;
        let prompt = format!("\n{GUEST_PROMPT}");
        let outcome = self.serial().expect(&prompt, timeout);
        let output = self.explained(outcome, &format!("{GUEST_PROMPT}{line}"))?;
        Ok(output.trim_matches('\n').to_owned())
    }

    /// Types `migrate GUEST PEER` and waits until it has ended.
    ///
    /// # Errors
    /// It did not end in time, or its report cannot be read.
    pub fn migrate(&mut self, guest: &str, peer: &str, timeout: Duration) -> Result<Outcome> {
        self.begin_migrate(guest, peer)?;
        self.finish_migrate(guest, peer, timeout)
    }

    /// Types `migrate GUEST PEER`; the console then shows progress.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn begin_migrate(&mut self, guest: &str, peer: &str) -> Result<()> {
        self.enter(&format!("migrate {guest} {peer}"))
    }

    /// Waits until a move of `guest` to `peer` has ended and the prompt is back.
    ///
    /// # Errors
    /// It did not end in time, or its report cannot be read.
    pub fn finish_migrate(&mut self, guest: &str, peer: &str, timeout: Duration) -> Result<Outcome> {
        let ends = (format!("{guest} moved to {peer}: "), format!("migration of {guest} to {peer} failed: "));
        self.finish(ends, &format!("migrate {guest} {peer}"), timeout)
    }

    /// Clones `guest` to `peer` under the name `copy` and waits for the end: the guest itself goes on here.
    ///
    /// # Errors
    /// It did not end in time, or its report cannot be read.
    pub fn clone_guest(&mut self, guest: &str, peer: &str, copy: &str, timeout: Duration) -> Result<Outcome> {
        let command = format!("clone {guest} {peer} --name {copy}");
        self.enter(&command)?;
        let ends = (
            format!("{guest} cloned to {peer} as {copy}: "),
            format!("clone of {guest} to {peer} as {copy} failed: "),
        );
        self.finish(ends, &command, timeout)
    }

    /// Waits for a line that begins with one of the two ends of what `command` began, and for the prompt.
    fn finish(
        &mut self,
        (moved, failed): (String, String),
        command: &str,
        timeout: Duration,
    ) -> Result<Outcome> {
        let find = |text: &str| {
            let mut start = 0;
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let (before, end) = (&text[..start], start + line.len());
                let line = line.trim_end();
                if line.starts_with(&moved) {
                    return Some((Ok((before.to_owned(), line.to_owned())), end));
                } else if line.starts_with(&failed) {
                    return Some((Err(Outcome::Failed(line.to_owned())), end));
                } else if line.starts_with("error: ") {
                    return Some((Err(Outcome::Refused(line.to_owned())), end));
                }
                start = end;
            }
            None
        };
        let outcome = self.serial().expect_with("end of the migration", timeout, find);
        let outcome = self.explained(outcome, command)?;
        self.wait_for_prompt(COMMAND_TIMEOUT)?;
        match outcome {
            Ok((before, line)) => match Moved::parse(&before, &line) {
                Some(moved) => Ok(Outcome::Moved(moved)),
                None => bail!("the report of a migration cannot be read: {line}\n{before}"),
            },
            Err(outcome) => Ok(outcome),
        }
    }

    /// Takes its machine's power away.
    pub fn kill(&mut self) {
        self.machine.kill();
    }

    /// Back to a prompt from wherever a failed check left the console.
    ///
    /// # Errors
    /// The host does not answer.
    pub fn recover(&mut self) -> Result<()> {
        for bytes in [DETACH, b"\x03"] {
            self.serial().write(bytes)?;
            std::thread::sleep(RECOVERY);
        }
        self.serial().skip_pending();
        self.command("version", COMMAND_TIMEOUT).map(|_| ())
    }

    /// Adds the host's name, and what the emulator said if the machine has ended.
    fn explained<T>(&mut self, outcome: Result<T, SerialError>, doing: &str) -> Result<T> {
        match outcome {
            Ok(value) => Ok(value),
            Err(error) => {
                let mut context = format!("host {}, {doing}", self.name);
                if !self.machine.is_running() {
                    let output = std::fs::read_to_string(self.machine.scratch().join("output.log"));
                    let output = output.unwrap_or_default();
                    let last: Vec<_> = output.lines().rev().take(5).collect();
                    let last: String = last.into_iter().rev().map(|line| format!("\n  {line}")).collect();
                    context.push_str(&format!(" (its machine has ended:{last})"));
                }
                Err(error).context(context)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;
    use std::path::Path;

    use super::*;
    use crate::machine::Kind;

    /// A machine whose serial line stays open whatever happens to it.
    struct Stub {
        serial: Serial,
        runs: bool,
        _line: TcpStream,
        directory: tempfile::TempDir,
    }

    impl Machine for Stub {
        fn kind(&self) -> Kind {
            Kind::KvmInBochs
        }

        fn serial(&mut self) -> &mut Serial {
            &mut self.serial
        }

        fn is_running(&mut self) -> bool {
            self.runs
        }

        fn kill(&mut self) {
            self.runs = false;
        }

        fn scratch(&self) -> &Path {
            self.directory.path()
        }
    }

    fn host(output: &str, runs: bool) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let serial = Serial::listen(&directory.path().join("serial.log")).unwrap();
        let mut line = TcpStream::connect(("127.0.0.1", serial.port())).unwrap();
        line.write_all(output.as_bytes()).unwrap();
        let stub = Stub { serial, runs, _line: line, directory };
        Host::new("a", Ipv4Addr::LOCALHOST, None, Box::new(stub))
    }

    #[test]
    fn a_machine_that_has_ended_is_not_waited_for() {
        let start = Instant::now();
        let error = host("booting\n", false).wait_for_prompt(Duration::from_secs(600)).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(60));
        assert!(format!("{error:#}").contains("its machine has ended"), "{error:#}");
    }

    #[test]
    fn a_slow_machine_is_waited_for_as_long_as_asked() {
        let start = Instant::now();
        let error = host("booting\n", true).wait_for_prompt(Duration::from_secs(5)).unwrap_err();
        assert!(start.elapsed() >= Duration::from_secs(5));
        assert!(format!("{error:#}").contains("within 5 s"), "{error:#}");
        assert_eq!(host("booting\na> ", true).wait_for_prompt(Duration::from_secs(60)).unwrap(), "booting\n");
    }
}
