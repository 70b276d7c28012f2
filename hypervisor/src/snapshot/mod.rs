//! Saved state: versioned sections, apart from the runtime structures.
//!
//! A snapshot is a header and a row of sections. A section has a name, an instance (which processor, which
//! disk), a version, and a body in CBOR whose fields have numbers: an older reader skips fields it does not
//! know, a newer one fills in what is missing. A section says whether it may be skipped: one that is unknown
//! and mandatory refuses the whole snapshot by its name.
//!
//! ```text
//! header   magic "GDWT" (4)  format (2)  zero (2)
//! section  name (12)  instance (2)  version (2)  flags (2)  zero (2)  length (4)  body (length)
//! ```
//!
//! All numbers are little-endian. What is read comes from a peer and is hostile: lengths are checked against
//! [`BODY_BYTES_MAX`] and [`SECTIONS_MAX`] before they are used.
#![forbid(unsafe_code)]

pub mod board;
mod read;
mod write;

use core::fmt;

pub use read::Sections;
pub use write::Writer;

/// Longest body of a section, in bytes.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Most sections of a snapshot.
pub const SECTIONS_MAX: usize = 1024;
/// Longest snapshot that is looked at, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 4 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"GDWT";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 8;
const NAME_BYTES: usize = 12;
const SECTION_HEADER_BYTES: usize = NAME_BYTES + 12;
const FLAG_MANDATORY: u16 = 1 << 0;

/// Name of a kind of section: 1 to 12 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; NAME_BYTES]);

impl Name {
    /// The name `text`.
    ///
    /// # Panics
    /// If it is empty or longer than 12 bytes: names are constants.
    #[must_use]
    pub const fn new(text: &str) -> Self {
        let text = text.as_bytes();
        assert!(!text.is_empty() && text.len() <= NAME_BYTES, "a section's name has 1 to 12 bytes");
        let mut bytes = [0; NAME_BYTES];
        let mut index = 0;
        while index < text.len() {
            bytes[index] = text[index];
            index += 1;
        }
        Self(bytes)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A peer may have sent anything: only what can be printed is.
        let text = self.0.iter().take_while(|byte| **byte != 0);
        text.copied()
            .map(|byte| if byte.is_ascii_graphic() { char::from(byte) } else { '?' })
            .try_for_each(|character| fmt::Write::write_char(f, character))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A kind of section that this version knows: its name, and the version of its body that it writes and the
/// newest that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name.
    pub name: Name,
    /// Version.
    pub version: u16,
}

impl Kind {
    /// The kind `name` in version `version`.
    #[must_use]
    pub const fn new(name: &str, version: u16) -> Self {
        Self { name: Name::new(name), version }
    }
}

/// Whether a reader that does not know a section may go on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It must refuse the snapshot.
    Mandatory,
    /// It may skip the section.
    Optional,
}

/// Why a snapshot is not written or not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// Not a snapshot, or one of another format.
    Format,
    /// It ends within a section.
    Truncated,
    /// It is larger, or has more sections, than any snapshot.
    TooLarge,
    /// A section is larger than any section.
    SectionTooLarge(Name),
    /// A section is there twice.
    Duplicate(Name, u16),
    /// A section that is needed is not there.
    Missing(Name, u16),
    /// A section is of a newer version than this hypervisor knows.
    Newer(Name, u16),
    /// A section's body is not what its version says.
    Malformed(Name),
    /// A section that must be understood is not known here.
    Unknown(Name),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str("the saved state is not in a format that is known here"),
            Self::Truncated => f.write_str("the saved state is cut short"),
            Self::TooLarge => f.write_str("the saved state is too large"),
            Self::SectionTooLarge(name) => write!(f, "the saved state's section {name} is too large"),
            Self::Duplicate(name, instance) => {
                write!(f, "the saved state has section {name} {instance} twice")
            }
            Self::Missing(name, instance) => write!(f, "the saved state lacks section {name} {instance}"),
            Self::Newer(name, version) => {
                write!(f, "the saved state's section {name} has version {version}, which is not known here")
            }
            Self::Malformed(name) => write!(f, "the saved state's section {name} is malformed"),
            Self::Unknown(name) => write!(f, "the saved state needs {name}, which is not known here"),
        }
    }
}

impl core::error::Error for SnapshotError {}

#[cfg(test)]
mod tests;
