//! Reading a snapshot.

use alloc::vec::Vec;

use minicbor::Decode;
use minicbor::decode::Decoder;

use super::{
    BODY_BYTES_MAX, FLAG_MANDATORY, FORMAT, HEADER_BYTES, Kind, MAGIC, NAME_BYTES, Name, Need,
    SECTION_HEADER_BYTES, SECTIONS_MAX, SNAPSHOT_BYTES_MAX, SnapshotError,
};

/// One section as it was received.
#[derive(Clone, Copy, Debug)]
struct Section<'a> {
    name: Name,
    instance: u16,
    version: u16,
    need: Need,
    body: &'a [u8],
    taken: bool,
}

/// The sections of a snapshot, to be taken one by one. What nobody takes must be optional.
#[derive(Debug)]
pub struct Sections<'a> {
    sections: Vec<Section<'a>>,
}

impl<'a> Sections<'a> {
    /// Splits `bytes` into sections.
    ///
    /// # Errors
    /// [`SnapshotError`] if it is no snapshot, is cut short, or exceeds a bound.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotError::TooLarge);
        }
        let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(SnapshotError::Format)?;
        if header[..4] != MAGIC || header[4..6] != FORMAT.to_le_bytes() {
            return Err(SnapshotError::Format);
        }
        let mut sections: Vec<Section<'a>> = Vec::new();
        while !rest.is_empty() {
            if sections.len() == SECTIONS_MAX {
                return Err(SnapshotError::TooLarge);
            }
            let (section, after) = Section::split(rest)?;
            let same = |other: &Section<'_>| (other.name, other.instance) == (section.name, section.instance);
            if sections.iter().any(same) {
                return Err(SnapshotError::Duplicate(section.name, section.instance));
            }
            sections.push(section);
            rest = after;
        }
        Ok(Self { sections })
    }

    /// Takes a section that must be there.
    ///
    /// # Errors
    /// [`SnapshotError`] if it is not there, is newer than `kind`, or malformed.
    pub fn take<T: for<'b> Decode<'b, ()>>(&mut self, kind: Kind, instance: u16) -> Result<T, SnapshotError> {
        self.take_if_present(kind, instance)?.ok_or(SnapshotError::Missing(kind.name, instance))
    }

    /// Takes a section that may be there.
    ///
    /// # Errors
    /// [`SnapshotError`] if it is newer than `kind` or malformed.
    pub fn take_if_present<T: for<'b> Decode<'b, ()>>(
        &mut self,
        kind: Kind,
        instance: u16,
    ) -> Result<Option<T>, SnapshotError> {
        let wanted = |section: &&mut Section<'_>| (section.name, section.instance) == (kind.name, instance);
        let Some(section) = self.sections.iter_mut().find(wanted) else { return Ok(None) };
        if section.version > kind.version {
            // A newer optional section is as good as an unknown one.
            return match section.need {
                Need::Mandatory => Err(SnapshotError::Newer(kind.name, section.version)),
                Need::Optional => Ok(None),
            };
        }
        section.taken = true;
        let mut decoder = Decoder::new(section.body);
        let body = decoder.decode().map_err(|_error| SnapshotError::Malformed(kind.name))?;
        if decoder.position() != section.body.len() {
            return Err(SnapshotError::Malformed(kind.name));
        }
        Ok(Some(body))
    }

    /// Checks that everything that must be understood was taken.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`] with the name of the first mandatory section that was not.
    pub fn finish(self) -> Result<(), SnapshotError> {
        let left = |section: &&Section<'_>| !section.taken && section.need == Need::Mandatory;
        match self.sections.iter().find(left) {
            Some(section) => Err(SnapshotError::Unknown(section.name)),
            None => Ok(()),
        }
    }
}

impl<'a> Section<'a> {
    /// The first section of `bytes` and what follows it.
    fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), SnapshotError> {
        let (header, rest) =
            bytes.split_first_chunk::<SECTION_HEADER_BYTES>().ok_or(SnapshotError::Truncated)?;
        let mut name = Name([0; NAME_BYTES]);
        name.0.copy_from_slice(&header[..NAME_BYTES]);
        let number = |offset: usize| u16::from_le_bytes([header[offset], header[offset + 1]]);
        let length = u32::from(number(NAME_BYTES + 8)) | u32::from(number(NAME_BYTES + 10)) << 16;
        let length = length as usize;
        if length > BODY_BYTES_MAX {
            return Err(SnapshotError::SectionTooLarge(name));
        }
        let (body, after) = rest.split_at_checked(length).ok_or(SnapshotError::Truncated)?;
        let need =
            if number(NAME_BYTES + 4) & FLAG_MANDATORY != 0 { Need::Mandatory } else { Need::Optional };
        let section = Self {
            name,
            instance: number(NAME_BYTES),
            version: number(NAME_BYTES + 2),
            need,
            body,
            taken: false,
        };
        Ok((section, after))
    }
}
