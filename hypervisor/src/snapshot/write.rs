//! Writing a snapshot.

use alloc::vec::Vec;

use minicbor::Encode;

use super::{BODY_BYTES_MAX, FLAG_MANDATORY, FORMAT, Kind, MAGIC, Need, SECTION_HEADER_BYTES, SnapshotError};

/// A snapshot being written.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// A snapshot without sections.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = Vec::with_capacity(8 * 1024);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        Self { bytes }
    }

    /// Adds a section.
    ///
    /// # Errors
    /// [`SnapshotError::SectionTooLarge`] if `body` is longer than a reader accepts.
    pub fn section<T: Encode<()>>(
        &mut self,
        kind: Kind,
        instance: u16,
        need: Need,
        body: &T,
    ) -> Result<(), SnapshotError> {
        let start = self.bytes.len();
        let flags = if need == Need::Mandatory { FLAG_MANDATORY } else { 0 };
        self.bytes.extend_from_slice(&kind.name.0);
        self.bytes.extend_from_slice(&instance.to_le_bytes());
        self.bytes.extend_from_slice(&kind.version.to_le_bytes());
        self.bytes.extend_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 6]);
        let written = minicbor::encode(body, &mut self.bytes);
        let body_bytes = self.bytes.len() - start - SECTION_HEADER_BYTES;
        if written.is_err() || body_bytes > BODY_BYTES_MAX {
            self.bytes.truncate(start);
            return Err(SnapshotError::SectionTooLarge(kind.name));
        }
        let length = (body_bytes as u32).to_le_bytes();
        self.bytes[start + SECTION_HEADER_BYTES - 4..start + SECTION_HEADER_BYTES].copy_from_slice(&length);
        Ok(())
    }

    /// The snapshot.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
