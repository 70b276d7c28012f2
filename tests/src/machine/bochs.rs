//! Bochs 2.7 as Debian packages it: the debugger build, driven by a configuration file and one debugger command.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{FIRMWARE, Kind, Machine, Nic, OUTPUT_LOG, Spec, missing_file, wait_until_plugged_in};
use crate::process::Process;
use crate::scratch;
use crate::serial::Serial;
use crate::switch::mac_text;

const PROGRAM: &str = "/usr/bin/bochs-bin";
const VGA_BIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";

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
        let text = configuration(spec, serial.port())?;
        fs::write(scratch.join("bochsrc"), text)?;
        fs::write(scratch.join("debugger"), "c\n")?;
        let arguments = ["-q", "-f", "bochsrc", "-rc", "debugger"].map(str::to_owned);
        let output = File::create(scratch.join(OUTPUT_LOG))?;
        let errors = output.try_clone()?;
        let process = Process::start(PROGRAM, &arguments, |command| {
            command.current_dir(&scratch).stdout(output).stderr(errors);
        })
        .context("bochs-bin")?;
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

/// The text of `bochsrc`. `error: action=ignore`, or the log grows by a line per EPT violation. No speaker and no sound
/// drivers: where ALSA finds no card, Debian's Bochs overflows a buffer in its mixer and is killed at start.
fn configuration(spec: &Spec, serial_port: u16) -> Result<String> {
    let disk = fs::canonicalize(&spec.disk).with_context(|| spec.disk.display().to_string())?;
    let network = match &spec.network {
        None => String::new(),
        Some((Nic::E1000, mac, port)) => format!(
            "e1000: card=0, enabled=1, mac={}, ethmod=socket, ethdev={}\n",
            mac_text(mac),
            port.machine
        ),
        Some((Nic::VirtioNet, ..)) => bail!("Bochs has no virtio-net card"),
    };
    let Spec { memory_mib, cpus, ips, .. } = spec;
    Ok(format!(
        "plugin_ctrl: unmapped=1, biosdev=1, serial=1, speaker=0, e1000={nic}\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         config_interface: textconfig\n\
         display_library: rfb, options=\"timeout=0\"\n\
         memory: guest={memory_mib}, host={memory_mib}\n\
         romimage: file={FIRMWARE}\n\
         vgaromimage: file={VGA_BIOS}\n\
         cpu: model=corei7_skylake_x, count={cpus}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1\n\
         pci: enabled=1, chipset=i440fx\n\
         clock: sync=none\n\
         com1: enabled=1, mode=socket-client, dev=localhost:{serial_port}\n\
         port_e9_hack: enabled=1\n\
         log: bochs.log\n\
         debugger_log: -\n\
         panic: action=report\n\
         error: action=ignore\n\
         info: action=ignore\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, path={disk}, mode=volatile, journal=disk.journal\n\
         {network}\
         boot: disk\n",
        nic = u8::from(spec.network.is_some()),
        disk = disk.display(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{UdpPort, mac};

    #[test]
    fn the_card_is_wired_to_its_port() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let mut spec = Spec::new("a", disk.path());
        assert!(configuration(&spec, 4000).unwrap().contains("e1000=0"));
        let port = UdpPort { id: 0, machine: 20_000, switch: 20_001 };
        spec.network = Some((Nic::E1000, mac(1), port));
        let text = configuration(&spec, 4000).unwrap();
        assert!(text.contains("mac=b0:c4:20:00:00:01, ethmod=socket, ethdev=20000\n"));
        assert!(text.contains("dev=localhost:4000\n"));
        spec.network = Some((Nic::VirtioNet, mac(1), port));
        assert!(configuration(&spec, 4000).is_err());
    }
}
