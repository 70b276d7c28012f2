//! Bochs 2.7 as Debian packages it: the debugger build, driven by a configuration file and one debugger command.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{
    Card, FIRMWARE, Kind, Machine, Nic, OUTPUT_LOG, Spec, Wire, missing_file, wait_until_plugged_in,
};
use crate::process::Process;
use crate::scratch;
use crate::serial::Serial;
use crate::switch::{Mac, mac_text};

const PROGRAM: &str = "/usr/bin/bochs-bin";
const VGA_BIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";
/// Firmware for disks without UEFI.
pub(super) const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";

/// What Bochs machines lack here, if anything.
pub(super) fn missing() -> Option<String> {
    missing_file(&[PROGRAM], "bochs")
        .or_else(|| missing_file(&[VGA_BIOS, BIOS], "bochsbios"))
        .or_else(|| missing_file(&[FIRMWARE], "ovmf"))
}

/// A Bochs process.
pub struct Bochs {
    process: Process,
    serial: Serial,
    scratch: PathBuf,
}

impl Bochs {
    /// Boots the disk of `spec`.
    ///
    /// # Errors
    /// A network card Bochs does not have, or the process did not start.
    pub fn start(spec: &Spec) -> Result<Self> {
        let scratch = scratch::directory(&spec.name).context("scratch directory")?;
        let serial = Serial::listen(&scratch.join("serial.log"))?;
        let disk = fs::canonicalize(&spec.disk).with_context(|| spec.disk.display().to_string())?;
        let process = launch(&scratch, &Configuration::new(spec, &disk.as_path(), &serial.port())?)?;
        let mut machine = Self { process, serial, scratch };
        wait_until_plugged_in(&mut machine)?;
        Ok(machine)
    }
}

impl Machine for Bochs {
    fn kind(&self) -> Kind {
        Kind::Bochs
    }

    fn serial(&mut self) -> &mut Serial {
        &mut self.serial
    }

    fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    fn scratch(&self) -> &Path {
        &self.scratch
    }
}

/// What a `bochsrc` says that differs between machines.
pub(super) struct Configuration<'a> {
    /// Firmware image.
    pub rom: &'a str,
    /// RAM in MiB, [`MEMORY_MIB_MAX`] at most.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Emulated instructions per virtual second.
    pub ips: u64,
    /// TCP ports that COM1 and its followers connect to, four at most.
    pub serial_ports: &'a [u16],
    /// Disk images, [`DISKS_MAX`] at most; never written to.
    pub disks: &'a [&'a Path],
    /// Address of the network card, and the UDP port it binds.
    pub network: Option<(&'a Mac, u16)>,
}

/// RAM that a machine can have: what is above gives way to the devices below 4 GiB.
pub(super) const MEMORY_MIB_MAX: u32 = 3_072;
/// RAM that Bochs allocates, however much the machine has. Of what is touched beyond that, some is in a file.
const MEMORY_MIB_ALLOCATED_MAX: u32 = 2_048;
/// Instructions that a processor executes before it is another's turn: the most that Bochs allows, since each turn has its price.
const QUANTUM: u32 = 32;
/// Two channels with two disks each.
const DISKS_MAX: usize = 4;
const DISK_PLACES: [&str; DISKS_MAX] = ["ata0-master", "ata0-slave", "ata1-master", "ata1-slave"];

impl<'a> Configuration<'a> {
    /// For a machine that boots the disk of `spec` with UEFI.
    fn new(spec: &'a Spec, disk: &'a &'a Path, serial_port: &'a u16) -> Result<Self> {
        let network = match &spec.network {
            None => None,
            Some(Card { nic: Nic::E1000, mac, wire: Wire::Switch(port) }) => Some((mac, port.machine)),
            Some(Card { nic: Nic::VirtioNet, .. }) => bail!("Bochs has no virtio-net card"),
            Some(Card { wire: Wire::Common, .. }) => bail!("Bochs machines meet at the lab's switch only"),
        };
        Ok(Self {
            rom: FIRMWARE,
            memory_mib: spec.memory_mib,
            cpus: spec.cpus,
            ips: spec.ips,
            serial_ports: std::slice::from_ref(serial_port),
            disks: std::slice::from_ref(disk),
            network,
        })
    }

    /// The text of `bochsrc`. `error: action=ignore`, or the log grows by a line per EPT violation. No speaker and no
    /// sound drivers: where ALSA finds no card, Debian's Bochs overflows a buffer in its mixer and is killed at start. Both disk channels,
    /// or OVMF waits half a minute of the machine's time for one that is not there.
    fn text(&self) -> String {
        let Self { rom, memory_mib, cpus, ips, serial_ports, disks, network } = self;
        let allocated_mib = MEMORY_MIB_ALLOCATED_MAX.min(*memory_mib);
        let mut text = format!(
            "plugin_ctrl: unmapped=1, biosdev=1, serial=1, speaker=0, e1000={nic}\n\
             sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
             config_interface: textconfig\n\
             display_library: rfb, options=\"timeout=0\"\n\
             memory: guest={memory_mib}, host={allocated_mib}\n\
             romimage: file={rom}\n\
             vgaromimage: file={VGA_BIOS}\n\
             cpu: model=corei7_skylake_x, count={cpus}, ips={ips}, quantum={QUANTUM}, reset_on_triple_fault=0, ignore_bad_msrs=1\n\
             pci: enabled=1, chipset=i440fx\n\
             clock: sync=none\n\
             port_e9_hack: enabled=1\n\
             log: bochs.log\n\
             debugger_log: -\n\
             panic: action=report\n\
             error: action=ignore\n\
             info: action=ignore\n\
             ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
             ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n\
             boot: disk\n",
            nic = u8::from(network.is_some()),
        );
        for (number, port) in (1..).zip(*serial_ports) {
            text.push_str(&format!("com{number}: enabled=1, mode=socket-client, dev=localhost:{port}\n"));
        }
        for (number, (disk, place)) in disks.iter().zip(DISK_PLACES).enumerate() {
            let disk = disk.display();
            text.push_str(&format!(
                "{place}: type=disk, path={disk}, mode=volatile, journal=disk{number}.journal\n"
            ));
        }
        if let Some((mac, port)) = network {
            let mac = mac_text(mac);
            text.push_str(&format!("e1000: card=0, enabled=1, mac={mac}, ethmod=socket, ethdev={port}\n"));
        }
        text
    }
}

/// Starts Bochs in `scratch`, which gets its files.
///
/// # Errors
/// A file could not be written, or the process did not start.
pub(super) fn launch(scratch: &Path, configuration: &Configuration) -> Result<Process> {
    fs::write(scratch.join("bochsrc"), configuration.text())?;
    fs::write(scratch.join("debugger"), "c\n")?;
    let arguments = ["-q", "-f", "bochsrc", "-rc", "debugger"].map(str::to_owned);
    let output = File::create(scratch.join(OUTPUT_LOG))?;
    let errors = output.try_clone()?;
    Process::start(PROGRAM, &arguments, |command| {
        command.current_dir(scratch).stdout(output).stderr(errors);
    })
    .context("bochs-bin")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{UdpPort, mac};

    #[test]
    fn the_card_is_wired_to_its_port() {
        let disk = Path::new("/disk");
        let mut spec = Spec::new("a", disk);
        let text =
            |spec: &Spec| Configuration::new(spec, &disk, &4000).map(|configuration| configuration.text());
        assert!(text(&spec).unwrap().contains("e1000=0"));
        let port = UdpPort { id: 0, machine: 20_000, switch: 20_001 };
        let card = Card { nic: Nic::E1000, mac: mac(1), wire: Wire::Switch(port) };
        spec.network = Some(card.clone());
        let with_card = text(&spec).unwrap();
        assert!(with_card.contains("mac=b0:c4:20:00:00:01, ethmod=socket, ethdev=20000\n"));
        assert!(with_card.contains("com1: enabled=1, mode=socket-client, dev=localhost:4000\n"));
        spec.network = Some(Card { nic: Nic::VirtioNet, ..card.clone() });
        assert!(text(&spec).is_err());
        spec.network = Some(Card { wire: Wire::Common, ..card });
        assert!(text(&spec).is_err());
    }

    #[test]
    fn every_disk_and_serial_port_has_its_place() {
        let disks = ["/one", "/two", "/three"].map(Path::new);
        let configuration = Configuration {
            rom: BIOS,
            memory_mib: 64,
            cpus: 1,
            ips: 1,
            serial_ports: &[4001, 4002],
            disks: &disks,
            network: None,
        };
        let text = configuration.text();
        assert!(text.contains("com2: enabled=1, mode=socket-client, dev=localhost:4002\n"), "{text}");
        assert!(text.contains("ata1-master: type=disk, path=/three, mode=volatile, journal=disk2.journal\n"));
        assert!(text.contains("ata1: enabled=1"), "even without a disk there: OVMF waits for the channel");
    }
}
