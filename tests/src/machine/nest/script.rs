//! The disk of the lab's that the Linux in Bochs finds beside its own: a script that starts QEMU, and the machines' disks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::super::qemu::{datagrams, kvm_cpu, network};
use super::super::{OnReset, Spec};

/// The script's place: what `tests/guests/nest/init` reads.
const SCRIPT_BYTES: u64 = 64 * 1024;
/// Disks begin at multiples of this.
const ALIGNMENT: u64 = 64 * 1024;
/// Whole cylinders of 16 heads and 63 sectors, which is what Bochs assumes.
const CYLINDER_BYTES: u64 = 16 * 63 * 512;
/// The loopback's group that is the wire of more than two machines.
const GROUP: &str = "socket,mcast=230.0.0.1:7100,localaddr=127.0.0.1";
/// The wire of two machines: UDP ports of the one and the other.
const PAIR: [u16; 2] = [7_100, 7_101];

/// Writes the disk for `machines`, each with the image of its disk, into the empty file `path`.
///
/// # Errors
/// The script is too long, an image cannot be read, or the disk not be written.
pub(super) fn write(path: &Path, machines: &[Spec]) -> Result<()> {
    let mut disk = File::create(path).with_context(|| path.display().to_string())?;
    let mut script = String::new();
    let mut offset = SCRIPT_BYTES;
    for (index, machine) in machines.iter().enumerate() {
        let length = copy(&machine.disk, &mut disk, offset)
            .with_context(|| format!("copying {}", machine.disk.display()))?;
        script.push_str(&line(index, machines, offset, length));
        offset = (offset + length).next_multiple_of(ALIGNMENT);
    }
    ensure!(script.len() as u64 <= SCRIPT_BYTES, "{} machines are too many for one script", machines.len());
    script.push_str(&"\n".repeat(SCRIPT_BYTES as usize - script.len()));
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(script.as_bytes())?;
    disk.set_len(offset.next_multiple_of(CYLINDER_BYTES))?;
    Ok(())
}

/// Copies `source` to `offset` of `disk` and leaves holes where it is zero; gives its length.
fn copy(source: &Path, disk: &mut File, offset: u64) -> io::Result<u64> {
    let mut source = File::open(source)?;
    let mut chunk = vec![0; ALIGNMENT as usize];
    let mut copied = 0;
    loop {
        let length = source.read(&mut chunk)?;
        if length == 0 {
            return Ok(copied);
        }
        if chunk[..length].iter().any(|byte| *byte != 0) {
            disk.seek(SeekFrom::Start(offset + copied))?;
            disk.write_all(&chunk[..length])?;
        }
        copied += length as u64;
    }
}

/// The line that starts machine `index`. The first serial port of the Linux is its console.
fn line(index: usize, machines: &[Spec], offset: u64, length: u64) -> String {
    let machine = &machines[index];
    let mut arguments = vec![
        "-machine q35,accel=kvm".to_owned(),
        format!("-cpu {} -smp {} -m {}", kvm_cpu(machine), machine.cpus, machine.memory_mib),
        "-nodefaults -no-user-config -display none -vga none -monitor none".to_owned(),
        "-bios /firmware/OVMF.fd".to_owned(),
        "-blockdev driver=host_device,filename=/dev/sdc,node-name=lab,read-only=on".to_owned(),
        format!("-blockdev driver=raw,file=lab,node-name=disk,offset={offset},size={length},read-only=on"),
        "-device virtio-blk-pci,drive=disk".to_owned(),
    ];
    if machine.on_reset == OnReset::End {
        arguments.push("-no-reboot".to_owned());
    }
    match &machine.network {
        None => arguments.push("-nic none".to_owned()),
        Some(card) => arguments.extend(network(card, &wire(index, machines))),
    }
    format!("machine {} /dev/ttyS{} {}\n", machine.name, index + 1, arguments.join(" "))
}

/// QEMU's `-netdev` for machine `index`. A group works for any number, but gives every machine its own frames back,
/// which two can do without.
fn wire(index: usize, machines: &[Spec]) -> String {
    let wired: Vec<usize> = (0..machines.len()).filter(|&other| machines[other].network.is_some()).collect();
    match wired[..] {
        [first, _] => {
            let [local, remote] = if index == first { PAIR } else { [PAIR[1], PAIR[0]] };
            format!("dgram,{}", datagrams(local, remote))
        }
        _ => GROUP.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Card, Nic, Wire};
    use super::*;
    use crate::switch::mac;

    fn machines(count: u8, disk: &Path) -> Vec<Spec> {
        let machine = |number| {
            let mut spec = Spec::new(&format!("m{number}"), disk);
            spec.network = Some(Card { nic: Nic::E1000, mac: mac(number), wire: Wire::Common });
            spec
        };
        (0..count).map(machine).collect()
    }

    #[test]
    fn the_script_says_where_each_disk_is() {
        let directory = tempfile::tempdir().unwrap();
        let (image, path) = (directory.path().join("image"), directory.path().join("disk"));
        let mut content = vec![0; 3 * ALIGNMENT as usize + 512];
        *content.last_mut().unwrap() = 7;
        std::fs::write(&image, &content).unwrap();
        write(&path, &machines(2, &image)).unwrap();
        let disk = std::fs::read(&path).unwrap();
        let script = String::from_utf8_lossy(&disk[..SCRIPT_BYTES as usize]).into_owned();
        assert!(
            script.starts_with("machine m0 /dev/ttyS1 -machine q35,accel=kvm -cpu host,+vmx"),
            "{script}"
        );
        let second = SCRIPT_BYTES as usize + 4 * ALIGNMENT as usize;
        let place = format!("offset={second},size={}", content.len());
        assert!(script.lines().nth(1).unwrap().contains(&place), "{script}");
        assert_eq!(disk[second..second + content.len()], content);
        assert_eq!(disk.len() as u64 % CYLINDER_BYTES, 0);
    }

    #[test]
    fn two_machines_are_wired_to_each_other() {
        let machines = machines(2, Path::new("x"));
        assert!(
            wire(0, &machines)
                .contains("local.port=7100,remote.type=inet,remote.host=127.0.0.1,remote.port=7101")
        );
        assert!(
            wire(1, &machines)
                .contains("local.port=7101,remote.type=inet,remote.host=127.0.0.1,remote.port=7100")
        );
    }

    #[test]
    fn more_machines_share_a_group() {
        let machines = machines(3, Path::new("x"));
        assert_eq!(wire(0, &machines), GROUP);
        assert_eq!(wire(2, &machines), GROUP);
    }
}
