//! A disk with one EFI system partition: an MBR (type 0xEF) and a FAT32 file system (UEFI 2.10, 13.3.2).

use std::fs::{File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

const SECTOR_BYTES: u64 = 512;
/// The partition starts at 1 MiB.
const FIRST_SECTOR: u64 = 2_048;
const CLUSTER_BYTES: u64 = 2_048;
/// FAT32 has at least this many clusters; fewer, and readers take it for FAT16.
const CLUSTERS_MIN: u64 = 65_525 + 1_000;
/// Whole cylinders of 16 heads and 63 sectors, which is what emulators assume.
const CYLINDER_BYTES: u64 = 16 * 63 * SECTOR_BYTES;
const TYPE_EFI_SYSTEM: u8 = 0xef;

/// One file of the disk.
#[derive(Clone, Debug)]
pub struct Content {
    path: String,
    bytes: Vec<u8>,
}

impl Content {
    /// A file at `path`, its directories separated by slashes.
    pub fn new(path: &str, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), bytes }
    }

    /// Where it is on the disk.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Writes the disk to `path`, in place of what is there, whole or not at all; returns its length in bytes. The file is
/// sparse, and at least the size of the smallest FAT32 is free on the disk.
///
/// # Errors
/// Input or output failed.
pub fn create(path: &Path, contents: &[Content]) -> io::Result<u64> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let partial = tempfile::Builder::new()
        .prefix(".disk-")
        // What the umask leaves of it, as with any other file; otherwise only the owner could read the disk.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory.unwrap_or(Path::new(".")))?;
    write(partial.reopen()?, contents)?;
    let disk = partial.persist(path)?;
    Ok(disk.metadata()?.len())
}

/// Writes the disk into the empty file `disk`, which stays sparse.
fn write(mut disk: File, contents: &[Content]) -> io::Result<()> {
    let used: u64 = contents.iter().map(|c| (c.bytes.len() as u64).next_multiple_of(CLUSTER_BYTES)).sum();
    let clusters = CLUSTERS_MIN + used / CLUSTER_BYTES + contents.len() as u64 * 4;
    let wanted = FIRST_SECTOR * SECTOR_BYTES + clusters * (CLUSTER_BYTES + 2 * 4);
    let bytes = wanted.next_multiple_of(CYLINDER_BYTES);
    let sectors = bytes / SECTOR_BYTES - FIRST_SECTOR;
    disk.set_len(bytes)?;
    disk.write_all(&master_boot_record(sectors as u32))?;
    let mut partition = Partition { disk, position: 0, length: sectors * SECTOR_BYTES };
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(CLUSTER_BYTES as u32)
        .total_sectors(sectors as u32)
        .volume_label(*b"GODWIT     ");
    fatfs::format_volume(&mut partition, options)?;
    let volume = FileSystem::new(partition, FsOptions::new())?;
    for content in contents {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", content.path));
        put(&volume, content).map_err(named)?;
    }
    volume.unmount()
}

fn put(volume: &FileSystem<Partition>, content: &Content) -> io::Result<()> {
    let mut directory = volume.root_dir();
    let mut names = content.path.split('/').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_some() {
            directory = directory.create_dir(name)?;
        } else {
            let mut file = directory.create_file(name)?;
            file.truncate()?;
            file.write_all(&content.bytes)?;
        }
    }
    Ok(())
}

fn master_boot_record(sectors: u32) -> [u8; SECTOR_BYTES as usize] {
    const FIRST_ENTRY: usize = 446;
    // "Use the LBA fields": what tools write when the cylinder does not fit.
    const CHS_BEYOND: [u8; 3] = [0xfe, 0xff, 0xff];
    let mut record = [0; SECTOR_BYTES as usize];
    let mut entry = vec![0];
    entry.extend(CHS_BEYOND);
    entry.push(TYPE_EFI_SYSTEM);
    entry.extend(CHS_BEYOND);
    entry.extend((FIRST_SECTOR as u32).to_le_bytes());
    entry.extend(sectors.to_le_bytes());
    record[FIRST_ENTRY..FIRST_ENTRY + 16].copy_from_slice(&entry);
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    record
}

/// The part of the disk that the file system may use.
struct Partition {
    disk: File,
    position: u64,
    length: u64,
}

impl Partition {
    fn seek_disk(&mut self) -> io::Result<usize> {
        self.disk.seek(SeekFrom::Start(FIRST_SECTOR * SECTOR_BYTES + self.position))?;
        Ok(self.length.saturating_sub(self.position) as usize)
    }
}

impl Read for Partition {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.seek_disk()?.min(buffer.len());
        let count = self.disk.read(&mut buffer[..left])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Partition {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let left = self.seek_disk()?.min(buffer.len());
        let count = self.disk.write(&buffer[..left])?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }
}

impl Seek for Partition {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// The bytes of the file at `path` on the disk in the file `disk`.
#[cfg(test)]
pub(super) fn read_back(disk: &Path, path: &str) -> Vec<u8> {
    let disk = File::options().read(true).write(true).open(disk).unwrap();
    let length = disk.metadata().unwrap().len() - FIRST_SECTOR * SECTOR_BYTES;
    let volume = FileSystem::new(Partition { disk, position: 0, length }, FsOptions::new()).unwrap();
    assert_eq!(volume.fat_type(), FatType::Fat32);
    let mut bytes = Vec::new();
    volume.root_dir().open_file(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(contents: &[Content]) -> File {
        let file = tempfile::tempfile().unwrap();
        write(file.try_clone().unwrap(), contents).unwrap();
        file
    }

    #[test]
    fn the_disk_has_one_efi_partition_in_whole_cylinders() {
        let mut file = disk(&[]);
        let length = file.metadata().unwrap().len();
        let mut record = [0; 512];
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_exact(&mut record).unwrap();
        assert_eq!((record[450], record[510], record[511]), (0xef, 0x55, 0xaa));
        assert_eq!(record[454..458], 2048_u32.to_le_bytes());
        let sectors = u32::from_le_bytes(record[458..462].try_into().unwrap());
        assert_eq!((u64::from(sectors) + FIRST_SECTOR) * SECTOR_BYTES, length);
        assert_eq!(length % CYLINDER_BYTES, 0);
    }

    #[test]
    fn files_are_found_where_they_were_put() {
        let kernel: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 251) as u8).collect();
        let contents = [
            Content::new("EFI/BOOT/BOOTX64.EFI", b"loader".to_vec()),
            Content::new("godwit/godwit.toml", b"[host]\n".to_vec()),
            Content::new("godwit/vmlinuz", kernel.clone()),
        ];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        std::fs::write(&path, "what was there before").unwrap();
        let length = create(&path, &contents).unwrap();
        assert_eq!(length, path.metadata().unwrap().len());
        assert!(read_back(&path, "godwit/vmlinuz") == kernel);
        assert_eq!(read_back(&path, "efi/boot/bootx64.efi"), b"loader");
    }

    #[test]
    fn the_disk_grows_with_what_is_on_it_and_has_room_left() {
        let length = |contents: &[Content]| disk(contents).metadata().unwrap().len();
        let (empty, file) = (length(&[]), 8 << 20);
        assert!(empty >= 64 << 20, "{empty}");
        let full = length(&[Content::new("godwit/initrd.img", vec![0; file])]);
        assert!(full + CYLINDER_BYTES >= empty + file as u64, "{full}");
    }

    #[test]
    fn a_disk_that_cannot_be_written_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        std::fs::write(&path, "as before").unwrap();
        let error = create(&path, &[Content::new("godwit/a:b", vec![])]).unwrap_err();
        assert!(error.to_string().starts_with("godwit/a:b: "), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"as before");
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "no partial disk stays");
    }
}
