//! `scripts/run`: hosts to play with, their consoles on this terminal.
//!
//! With `--do` it types commands and leaves, for use by scripts.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use godwit_tests::cluster::{Cluster, HOSTS_MAX, Plan};
use godwit_tests::config::GuestConfig;
use godwit_tests::host::Host;
use godwit_tests::machine::{Kind, Nic};

/// Ctrl-].
const ESCAPE: u8 = 0x1d;
const HELP: &str =
    "Ctrl-] then a, b, ...: that host's console; n: the next; q: quit; . or Ctrl-]: pass on to the host";
/// How much of a console is shown when one switches to it.
const RECENT_BYTES: usize = 1_500;

/// Boots hosts and gives you their consoles.
#[derive(Parser)]
#[command(bin_name = "scripts/run")]
struct Arguments {
    /// bochs, kvm (directly or in Bochs), kvm-in-bochs or tcg; the best one that works here unless given
    #[arg(long)]
    machine: Option<Kind>,
    /// How many hosts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=HOSTS_MAX as i64))]
    hosts: u8,
    /// RAM of the Linux guest that host a has, in MiB; 0: no guest, and none is downloaded
    #[arg(long, default_value_t = 128)]
    guest_memory: u64,
    /// Give host a one more guest: the bare-metal program with this behaviour (may be repeated)
    #[arg(long, value_name = "BEHAVIOUR")]
    bare: Vec<String>,
    /// Virtual CPUs of each guest
    #[arg(long, default_value_t = 1)]
    vcpus: u32,
    /// RAM of a host in MiB
    #[arg(long, default_value_t = 512)]
    memory: u32,
    /// Processors of a host
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// virtio-net cards instead of e1000 (QEMU only)
    #[arg(long)]
    virtio: bool,
    /// Write all frames on the wire to this file
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Type COMMAND at HOST, wait for its prompt, go on; leave after the last (may be repeated)
    #[arg(long = "do", value_name = "HOST: COMMAND")]
    orders: Vec<Order>,
    /// The longest a `--do` command may take, in seconds
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// A command to type, and the host to type it at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    host: String,
    command: String,
}

impl FromStr for Order {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, command) = text.split_once(": ").ok_or("expected HOST: COMMAND, like \"a: vm list\"")?;
        Ok(Self { host: host.to_owned(), command: command.to_owned() })
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let kind = arguments.machine.unwrap_or_else(Kind::best);
    if arguments.pcap.is_some() && !kind.has_switch() {
        bail!("--pcap: the wire of machines on {kind} does not pass through here");
    }
    let mut plan = Plan::new("run", kind, arguments.hosts.into());
    let hosts: Vec<&str> = plan.hosts.iter().map(|host| host.config.name.as_str()).collect();
    if let Some(problem) = problem_with(&arguments.orders, &hosts) {
        Arguments::command().error(ErrorKind::InvalidValue, problem).exit();
    }
    if arguments.orders.is_empty() && !io::stdin().is_terminal() {
        bail!("standard input is not a terminal: use --do, see --help");
    }
    for host in &mut plan.hosts {
        host.nic = Some(if arguments.virtio { Nic::VirtioNet } else { Nic::E1000 });
        (host.memory_mib, host.cpus) = (arguments.memory, arguments.cpus);
    }
    if arguments.guest_memory > 0 {
        let linux = GuestConfig::linux("linux", arguments.guest_memory);
        plan = plan.guest(0, GuestConfig { vcpus: arguments.vcpus, ..linux });
    }
    for behaviour in &arguments.bare {
        let name = behaviour.split(' ').next().unwrap_or(behaviour);
        let bare = GuestConfig::bare(name, behaviour);
        plan = plan.guest(0, GuestConfig { vcpus: arguments.vcpus, memory_mib: 32, ..bare });
    }
    eprintln!("building the image …");
    let mut cluster = plan.start()?;
    if let Some(file) = &arguments.pcap {
        cluster.switch.capture(file).with_context(|| file.display().to_string())?;
    }
    for host in &mut cluster.hosts {
        let transcript = host.serial().transcript().display().to_string();
        eprintln!("host {} on {kind}: {transcript}", host.name);
    }
    if arguments.orders.is_empty() {
        interactive(&mut cluster)
    } else {
        scripted(&mut cluster, &arguments.orders, Duration::from_secs(arguments.patience))
    }
}

/// What is wrong with `orders` where there are these `hosts`.
fn problem_with(orders: &[Order], hosts: &[&str]) -> Option<String> {
    let order = orders.iter().find(|order| !hosts.contains(&order.host.as_str()))?;
    Some(format!("--do \"{}: {}\": the hosts are {}", order.host, order.command, hosts.join(", ")))
}

fn scripted(cluster: &mut Cluster, orders: &[Order], patience: Duration) -> Result<()> {
    for host in &mut cluster.hosts {
        let name = host.name.clone();
        host.serial().set_tap(Some(Box::new(move |line| println!("{name}| {line}"))));
    }
    cluster.wait_for_prompts()?;
    for Order { host: name, command } in orders {
        let host = cluster.hosts.iter_mut().find(|h| h.name == *name);
        host.with_context(|| format!("no host {name}"))?.command(command, patience)?;
    }
    Ok(())
}

fn interactive(cluster: &mut Cluster) -> Result<()> {
    let _terminal = RawTerminal::enter()?;
    let keys = keys();
    let mut current = 0;
    attach(&mut cluster.hosts, current);
    loop {
        match keys.recv_timeout(Duration::from_millis(500)) {
            Ok(ESCAPE) => match keys.recv()? {
                b'q' => return Ok(()),
                b'n' => current = (current + 1) % cluster.hosts.len(),
                // The host's own escape, from a guest's console back to its shell, is Ctrl-] too.
                key @ (ESCAPE | b'.') => {
                    let both = [ESCAPE, key];
                    let passed = if key == ESCAPE { &both[..1] } else { &both[..] };
                    let _ = cluster.hosts[current].serial().write(passed);
                    continue;
                }
                key => match cluster.hosts.iter().position(|h| h.name.as_bytes() == [key]) {
                    Some(index) => current = index,
                    None => {
                        say(HELP);
                        continue;
                    }
                },
            },
            Ok(key) => {
                let _ = cluster.hosts[current].serial().write(&[key]);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {
                if cluster.hosts.iter_mut().all(|host| !host.machine.is_running()) {
                    say("all machines have ended");
                    return Ok(());
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        attach(&mut cluster.hosts, current);
    }
}

/// Shows the console of host `current` and no other.
fn attach(hosts: &mut [Host], current: usize) {
    for host in hosts.iter_mut() {
        host.serial().set_raw(None);
    }
    say(&format!("host {}; {HELP}", hosts[current].name));
    let serial = hosts[current].serial();
    let text = serial.text();
    let mut start = text.len().saturating_sub(RECENT_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    print!("{}", text[start..].replace('\n', "\r\n"));
    let _ = io::stdout().flush();
    serial.set_raw(Some(Box::new(io::stdout())));
}

fn say(text: &str) {
    print!("\r\n[{text}]\r\n");
    let _ = io::stdout().flush();
}

/// What is typed, byte by byte, from a thread of its own.
fn keys() -> Receiver<u8> {
    let (sender, keys) = channel();
    thread::spawn(move || {
        for byte in io::stdin().lock().bytes().map_while(Result::ok) {
            if sender.send(byte).is_err() {
                return;
            }
        }
    });
    keys
}

/// The terminal without line editing and echo, until dropped.
struct RawTerminal {
    saved: String,
}

impl RawTerminal {
    fn enter() -> Result<Self> {
        let saved = stty(&["-g"])?;
        stty(&["raw", "-echo"])?;
        Ok(Self { saved: saved.trim().to_owned() })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = stty(&[&self.saved]);
        println!();
    }
}

fn stty(arguments: &[&str]) -> Result<String> {
    let output = Command::new("stty").args(arguments).stdin(Stdio::inherit()).output().context("stty")?;
    if !output.status.success() {
        bail!("stty {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_a_host_that_there_is() {
        let order: Order = "a: migrate linux b".parse().unwrap();
        assert_eq!((order.host.as_str(), order.command.as_str()), ("a", "migrate linux b"));
        let error = Arguments::try_parse_from(["run", "--do", "help"]).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        let orders = [order, "c: help".parse().unwrap()];
        assert_eq!(problem_with(&orders[..1], &["a", "b"]), None);
        let problem = problem_with(&orders, &["a", "b"]).unwrap();
        assert_eq!(problem, "--do \"c: help\": the hosts are a, b");
    }
}
