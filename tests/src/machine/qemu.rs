//! QEMU 7.2 or newer: with KVM where nested VMX really works, and with TCG, which has no VMX.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::kvm_exits::KvmExits;
use super::{
    Card, FIRMWARE, Kind, Machine, Nic, OUTPUT_LOG, OnReset, Spec, Wire, kvm_log, missing_file,
    wait_until_plugged_in,
};
use crate::process::Process;
use crate::scratch;
use crate::serial::Serial;
use crate::switch::mac_text;

/// QEMU as Debian installs it.
pub(super) const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";

/// How QEMU executes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's processor, with VMX for the machine.
    Kvm,
    /// Translation.
    Tcg,
}

/// What any QEMU machine lacks here.
pub(super) fn missing() -> Option<String> {
    missing_file(&[PROGRAM], "qemu-system-x86").or_else(|| missing_file(&[FIRMWARE], "ovmf"))
}

/// What KVM with VMX for its guests lacks here. The existence of `/dev/kvm` proves nothing: ask the processor, the
/// module, and KVM itself.
pub(super) fn missing_for_kvm() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let nested = fs::read_to_string("/sys/module/kvm_intel/parameters/nested").ok();
    if let Some(reason) = missing_for_nested(&cpuinfo, nested.as_deref()) {
        return Some(reason);
    }
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/kvm cannot be opened: {error}")),
    }
}

fn missing_for_nested(cpuinfo: &str, nested: Option<&str>) -> Option<String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    if !flags.split_whitespace().any(|flag| flag == "vmx") {
        return Some("the processor offers no VMX".into());
    }
    match nested.map(str::trim) {
        Some("Y" | "1") => None,
        Some(_) => Some("kvm_intel is loaded without nested=1".into()),
        None => Some("the kvm_intel module is not loaded".into()),
    }
}

/// A QEMU process.
pub struct Qemu {
    process: Process,
    serial: Serial,
    scratch: PathBuf,
    accelerator: Accelerator,
    /// Where KVM's log about it begins.
    log_marker: Option<String>,
}

impl Qemu {
    /// Boots the disk of `spec`.
    ///
    /// # Errors
    /// The process did not start.
    pub fn start(spec: &Spec, accelerator: Accelerator) -> Result<Self> {
        let scratch = scratch::directory(&spec.name).context("scratch directory")?;
        let serial = Serial::listen(&scratch.join("serial.log"))?;
        let disk = fs::canonicalize(&spec.disk).with_context(|| spec.disk.display().to_string())?;
        let arguments = arguments(spec, &disk, accelerator, serial.port())?;
        fs::write(scratch.join("arguments"), arguments.join("\n"))?;
        let log_marker = match accelerator {
            Accelerator::Kvm => kvm_log::mark(&spec.name).ok(),
            Accelerator::Tcg => None,
        };
        let output = File::create(scratch.join(OUTPUT_LOG))?;
        let errors = output.try_clone()?;
        let process = Process::start(PROGRAM, &arguments, |command| {
            command.current_dir(&scratch).stdout(output).stderr(errors);
        })
        .context("qemu-system-x86_64")?;
        let mut machine = Self { process, serial, scratch, accelerator, log_marker };
        wait_until_plugged_in(&mut machine)?;
        Ok(machine)
    }
}

impl Machine for Qemu {
    fn kind(&self) -> Kind {
        match self.accelerator {
            Accelerator::Kvm => Kind::QemuKvm,
            Accelerator::Tcg => Kind::QemuTcg,
        }
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

    fn kvm_log(&mut self) -> Result<String> {
        let marker = self.log_marker.as_deref();
        kvm_log::read(
            marker.context("there is no KVM under it, or the kernel's log cannot be written: run as root")?,
        )
    }

    fn kvm_exits(&mut self) -> Result<KvmExits> {
        KvmExits::of(self.process.id())
    }
}

fn arguments(spec: &Spec, disk: &Path, accelerator: Accelerator, serial_port: u16) -> Result<Vec<String>> {
    let (accelerator, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", kvm_cpu(spec)),
        Accelerator::Tcg => ("tcg", "max"),
    };
    let mut arguments = vec![
        "-machine".to_owned(),
        format!("pc,accel={accelerator}"),
        "-cpu".to_owned(),
        cpu.to_owned(),
        "-smp".to_owned(),
        spec.cpus.to_string(),
        "-m".to_owned(),
        spec.memory_mib.to_string(),
        "-bios".to_owned(),
        FIRMWARE.to_owned(),
        "-drive".to_owned(),
        format!("if=ide,format=raw,snapshot=on,file={}", disk.display()),
        "-chardev".to_owned(),
        format!("socket,id=com1,host=127.0.0.1,port={serial_port}"),
        "-serial".to_owned(),
        "chardev:com1".to_owned(),
    ];
    let fixed = "-nodefaults -no-user-config -display none -vga none -monitor none";
    arguments.extend(fixed.split(' ').map(str::to_owned));
    if spec.on_reset == OnReset::End {
        arguments.push("-no-reboot".to_owned());
    }
    match &spec.network {
        None => arguments.extend(["-nic", "none"].map(str::to_owned)),
        Some(card) => {
            let netdev = match card.wire {
                Wire::Switch(port) => format!("dgram,{}", datagrams(port.machine, port.switch)),
                Wire::Common => bail!("this machine's QEMU meets others at the lab's switch only"),
            };
            arguments.extend(network(card, &netdev));
        }
    }
    Ok(arguments)
}

/// The processor that a machine with KVM gets.
pub(super) fn kvm_cpu(spec: &Spec) -> &str {
    spec.cpu_model.as_deref().unwrap_or("host,+vmx")
}

/// A wire of one frame per UDP datagram on the loopback, from one port to another.
pub(super) fn datagrams(local: u16, remote: u16) -> String {
    format!(
        "local.type=inet,local.host=127.0.0.1,local.port={local},\
         remote.type=inet,remote.host=127.0.0.1,remote.port={remote}"
    )
}

/// The arguments for a card on the wire `netdev`.
pub(super) fn network(card: &Card, netdev: &str) -> [String; 4] {
    let device = match card.nic {
        Nic::E1000 => "e1000",
        Nic::VirtioNet => "virtio-net-pci",
    };
    let device = format!("{device},netdev=wire,mac={},romfile=", mac_text(&card.mac));
    ["-netdev".to_owned(), format!("{netdev},id=wire"), "-device".to_owned(), device]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{UdpPort, mac};

    #[test]
    fn a_processor_without_vmx_is_named_before_the_module() {
        let reason = missing_for_nested("flags\t\t: fpu svm\n", None).unwrap();
        assert!(reason.contains("no VMX"));
    }

    #[test]
    fn the_module_must_offer_nesting() {
        let cpuinfo = "model name: x\nflags\t\t: fpu vmx\n";
        assert_eq!(missing_for_nested(cpuinfo, Some("Y\n")), None);
        assert!(missing_for_nested(cpuinfo, Some("N\n")).unwrap().contains("nested"));
        assert!(missing_for_nested(cpuinfo, None).unwrap().contains("not loaded"));
    }

    #[test]
    fn the_card_is_wired_to_its_port() {
        let mut spec = Spec::new("a", Path::new("disk"));
        let port = UdpPort { id: 0, machine: 20_000, switch: 20_001 };
        spec.network = Some(Card { nic: Nic::VirtioNet, mac: mac(1), wire: Wire::Switch(port) });
        let text = arguments(&spec, Path::new("disk"), Accelerator::Tcg, 4000).unwrap().join(" ");
        assert!(text.contains("local.port=20000,remote.type=inet,remote.host=127.0.0.1,remote.port=20001"));
        assert!(text.contains("virtio-net-pci,netdev=wire,mac=b0:c4:20:00:00:01"));
    }
}
