//! Some hosts and the switch between them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::{GuestConfig, HostConfig, MigrationConfig};
use crate::host::Host;
use crate::image::{self, Programs};
use crate::machine::{Card, Kind, Nic, OnReset, Spec, Wire};
use crate::switch::{self, PortId, Switch};
use crate::{guest, scratch};

/// Names of hosts, in order: letters, without the two that mean something else to `scripts/run`.
const NAMES: [&str; 24] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "o", "p", "r", "s", "t", "u", "v", "w",
    "x", "y", "z",
];
/// From power-on to the prompt: the firmware alone takes 10 s of a quiet processor.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(600);
/// What each host adds where all of them share one emulated processor: 40 s of a quiet one.
const BOOT_TIMEOUT_EACH: Duration = Duration::from_secs(240);

/// The most hosts a cluster can have.
pub const HOSTS_MAX: usize = NAMES.len();

/// What a cluster is made of.
pub struct Plan {
    /// Prefix of the scratch directories.
    pub name: String,
    /// The kind of all its machines.
    pub kind: Kind,
    /// One per host.
    pub hosts: Vec<HostPlan>,
}

/// One host of a plan.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// What goes into `godwit.toml`.
    pub config: HostConfig,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Bochs: instructions per virtual second.
    pub ips: u64,
    /// Replaces the generated `godwit.toml`, to try wrong ones.
    pub raw_config: Option<String>,
    /// Its network card.
    pub nic: Option<Nic>,
    /// With KVM: QEMU's processor model and its features; `None`: the processor that KVM runs on.
    pub cpu_model: Option<String>,
}

impl Plan {
    /// `count` hosts `a`, `b`, … at 10.0.0.1, 10.0.0.2, … that know each other and accept migrations.
    pub fn new(name: &str, kind: Kind, count: usize) -> Self {
        let hosts = (0..count.min(HOSTS_MAX)).map(|index| HostPlan::new(index, count)).collect();
        Self { name: name.to_owned(), kind, hosts }
    }

    /// Gives `guest` to the host with number `index`.
    pub fn guest(mut self, index: usize, guest: GuestConfig) -> Self {
        self.hosts[index].config.guests.push(guest);
        self
    }

    /// All hosts take a peer for lost that has been silent for so many seconds of their own clocks.
    pub fn set_link_timeout(&mut self, seconds: u64) {
        let settings = self.hosts.iter_mut().filter_map(|host| host.config.migration.as_mut());
        settings.for_each(|migration| migration.link_timeout_s = seconds);
    }

    /// Builds what is to be built, writes the disks and turns the machines on; does not wait for their prompts.
    ///
    /// # Errors
    /// A build, a disk or a machine failed.
    pub fn start(self) -> Result<Cluster> {
        let programs = image::programs()?;
        let switch = Switch::new();
        let mut specs = Vec::new();
        let mut ports = Vec::new();
        for (index, plan) in self.hosts.iter().enumerate() {
            let (spec, port) = self.spec(index, plan, &programs, &switch)?;
            specs.push(spec);
            ports.push(port);
        }
        let machines = self.kind.start_all(&self.name, &specs)?;
        let hosts = self.hosts.iter().zip(ports).zip(machines).enumerate();
        let hosts = hosts.map(|(index, ((plan, port), machine))| {
            Host::new(&plan.config.name, address(index), port, machine)
        });
        Ok(Cluster { hosts: hosts.collect(), switch, kind: self.kind, specs })
    }

    /// What the machine of one host is made of, its disk written, and its port on the switch.
    fn spec(
        &self,
        index: usize,
        plan: &HostPlan,
        programs: &Programs,
        switch: &Switch,
    ) -> Result<(Spec, Option<PortId>)> {
        let name = &plan.config.name;
        let label = format!("{}-{name}", self.name);
        let disk = scratch::directory(&format!("{label}-disk"))?.join("disk.img");
        let files = guest_files(&plan.config.guests)?;
        let files: Vec<(&str, &Path)> = files.iter().map(|(n, p)| (n.as_str(), p.as_path())).collect();
        let config = plan.raw_config.clone().unwrap_or_else(|| plan.config.to_toml());
        image::host_disk(&disk, programs, &config, &files)?;
        let mut spec = Spec::new(&label, &disk);
        (spec.memory_mib, spec.cpus, spec.ips) = (plan.memory_mib, plan.cpus, plan.ips);
        (spec.on_reset, spec.cpu_model) = (plan.on_reset, plan.cpu_model.clone());
        let Some(nic) = plan.nic else { return Ok((spec, None)) };
        let mac = switch::mac(index as u8 + 1);
        if !self.kind.has_switch() {
            spec.network = Some(Card { nic, mac, wire: Wire::Common });
            return Ok((spec, None));
        }
        let udp = switch.add_udp(name)?;
        spec.network = Some(Card { nic, mac, wire: Wire::Switch(udp) });
        Ok((spec, Some(udp.id)))
    }
}

impl HostPlan {
    fn new(index: usize, count: usize) -> Self {
        let others = (0..count).filter(|&other| other != index);
        let config = HostConfig {
            name: NAMES[index].to_owned(),
            address: Some(format!("{}/24", address(index))),
            migration: Some(MigrationConfig::default()),
            peers: others.map(|other| (NAMES[other].to_owned(), address(other).to_string())).collect(),
            guests: Vec::new(),
        };
        Self {
            config,
            memory_mib: 512,
            cpus: 2,
            on_reset: OnReset::End,
            ips: Spec::IPS_NETWORK,
            raw_config: None,
            nic: Some(Nic::E1000),
            cpu_model: None,
        }
    }
}

/// The address of the host with number `index`.
pub fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, index as u8 + 1)
}

/// The files that `guests` name, by name.
fn guest_files(guests: &[GuestConfig]) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    if guests.iter().any(|g| g.kernel == "vmlinuz") {
        let linux = guest::linux(&guest::cache())?;
        files.push(("vmlinuz".to_owned(), linux.kernel));
        files.push(("initrd.img".to_owned(), linux.initrd));
    }
    if guests.iter().any(|g| g.kernel == "bare.bin") {
        files.push(("bare.bin".to_owned(), guest::bare(&guest::cache())?));
    }
    Ok(files)
}

/// Running hosts. The machines are killed when it is dropped.
pub struct Cluster {
    /// The hosts, in the plan's order.
    pub hosts: Vec<Host>,
    /// The wire.
    pub switch: Switch,
    kind: Kind,
    specs: Vec<Spec>,
}

impl Cluster {
    /// Turns the machine of host `index` on again after [`Host::kill`]; does not wait for its prompt. It is as it was when it
    /// was first turned on: nothing is ever written to its disk.
    ///
    /// # Errors
    /// The machine did not start, or cannot be started without the others.
    pub fn turn_on_again(&mut self, index: usize) -> Result<()> {
        anyhow::ensure!(self.kind != Kind::KvmInBochs, "these machines are only turned on together");
        let spec = &self.specs[index];
        let machine = self.kind.start_all(&spec.name, std::slice::from_ref(spec))?.pop();
        self.hosts[index].replace_machine(machine.context("no machine was started")?);
        Ok(())
    }

    /// Waits until every host shows its prompt.
    ///
    /// # Errors
    /// One did not within [`BOOT_TIMEOUT`], or more where many hosts share one emulated processor.
    pub fn wait_for_prompts(&mut self) -> Result<()> {
        let count = self.hosts.len() as u32;
        self.hosts.iter_mut().try_for_each(|host| {
            let timeout = match host.machine.kind() {
                Kind::KvmInBochs => BOOT_TIMEOUT.max(BOOT_TIMEOUT_EACH * count),
                _ => BOOT_TIMEOUT,
            };
            host.wait_for_prompt(timeout).map(|_| ())
        })
    }
}
