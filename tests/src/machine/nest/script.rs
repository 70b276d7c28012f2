//! The disk of the lab's that the Linux in Bochs finds beside its own: a script that starts QEMU, and the machines' disks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::super::qemu::{kvm_cpu, network};
use super::super::{OnReset, Spec};

/// The script's place: what `tests/guests/nest/init` reads.
const SCRIPT_BYTES: u64 = 64 * 1024;
/// Disks begin at multiples of this.
const ALIGNMENT: u64 = 64 * 1024;
/// Whole cylinders of 16 heads and 63 sectors, which is what Bochs assumes.
const CYLINDER_BYTES: u64 = 16 * 63 * 512;

/// Writes the disk for `machines`, each with the image of its disk, into the empty file `path`.
///
/// # Errors
/// The script is too long, an image cannot be read, or the disk not be written.
pub(super) fn write(path: &Path, machines: &[Spec]) -> Result<()> {
    let mut disk = File::create(path).with_context(|| path.display().to_string())?;
    let mut script = format!("lines {}\n", machines.len());
    let mut offset = SCRIPT_BYTES;
    for (index, machine) in machines.iter().enumerate() {
        let length = copy(&machine.disk, &mut disk, offset)
            .with_context(|| format!("copying {}", machine.disk.display()))?;
        script.push_str(&line(index, machine, offset, length));
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

/// The line that starts machine `index`.
fn line(index: usize, machine: &Spec, offset: u64, length: u64) -> String {
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
        Some(card) => arguments.extend(network(card, &wire(index))),
    }
    format!("machine {} {index} {}\n", machine.name, arguments.join(" "))
}

/// QEMU's `-netdev` for machine `index`: a port of the Linux's bridge, which the script's `machine` makes. A bridge gives
/// a frame only to whom it is for, where a multicast group would wake every QEMU for each. Without a header that offers the
/// machine's card what those of other back-ends do not do.
fn wire(index: usize) -> String {
    format!("tap,ifname=wire{index},script=no,downscript=no,vnet_hdr=off")
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
            script.starts_with("lines 2\nmachine m0 0 -machine q35,accel=kvm -cpu host,+vmx"),
            "{script}"
        );
        let second = SCRIPT_BYTES as usize + 4 * ALIGNMENT as usize;
        let place = format!("offset={second},size={}", content.len());
        assert!(script.lines().nth(2).unwrap().contains(&place), "{script}");
        assert_eq!(disk[second..second + content.len()], content);
        assert_eq!(disk.len() as u64 % CYLINDER_BYTES, 0);
    }

    #[test]
    fn every_machine_has_its_port_of_the_bridge_and_its_line() {
        let machines = machines(12, Path::new("x"));
        let text = line(11, &machines[11], 0, 512);
        assert!(text.starts_with("machine m11 11 "), "{text}");
        assert!(text.contains("-netdev tap,ifname=wire11,"), "{text}");
    }

    #[test]
    fn a_script_that_is_too_long_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::write(&image, [7; 512]).unwrap();
        let error = write(&directory.path().join("disk"), &machines(200, &image)).unwrap_err();
        assert!(error.to_string().contains("200 machines"), "{error}");
    }
}
