//! Frames as a pcap file (the classic format, link type Ethernet), for Wireshark and tcpdump.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];
const SNAP_BYTES: u32 = 65_535;
const LINK_ETHERNET: u32 = 1;

pub(super) struct Capture {
    file: BufWriter<File>,
}

impl Capture {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&header())?;
        Ok(Self { file })
    }

    /// A full disk must not stop the wire: errors end in a short file.
    pub(super) fn write(&mut self, frame: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut record = Vec::with_capacity(16 + frame.len());
        for word in [now.as_secs() as u32, now.subsec_micros(), frame.len() as u32, frame.len() as u32] {
            record.extend_from_slice(&word.to_le_bytes());
        }
        record.extend_from_slice(frame);
        let _ = self.file.write_all(&record);
    }
}

fn header() -> Vec<u8> {
    let mut header = MAGIC_MICROSECONDS.to_le_bytes().to_vec();
    header.extend(VERSION.iter().flat_map(|v| v.to_le_bytes()));
    header.extend([0; 8]);
    header.extend(SNAP_BYTES.to_le_bytes());
    header.extend(LINK_ETHERNET.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_has_the_classic_layout() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut capture = Capture::create(file.path()).unwrap();
        capture.write(&[0xab; 60]);
        drop(capture);
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 60);
        assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        assert_eq!(bytes[24 + 8..24 + 12], 60_u32.to_le_bytes());
        assert_eq!(bytes[40..], [0xab; 60]);
    }
}
