//! How the hypervisor's ELF image is to be laid into memory.

use core::fmt;

use elf::{ElfBytes, abi, endian::LittleEndian, segment::ProgramHeader};

use crate::{
    fixed::List,
    handoff::IMAGE_BASE,
    paging::{Access, PAGE},
};

/// Most segments an image may have.
pub const SEGMENTS_MAX: usize = 8;
/// Most bytes an image may take in memory.
pub const LENGTH_MAX: u64 = 64 << 20;

/// One segment: whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts, in bytes from the image's first page.
    pub offset: u64,
    /// Bytes in memory, in whole pages.
    pub length: u64,
    /// Where its content starts in the file.
    pub file_start: usize,
    /// Bytes of content; the rest is zero.
    pub file_length: usize,
    /// What may be done with it.
    pub access: Access,
}

/// The whole image.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Linear address of its first page.
    pub base: u64,
    /// Bytes in memory, in whole pages.
    pub length: u64,
    /// Linear address of its entry point.
    pub entry: u64,
    /// Its segments.
    pub segments: List<Segment, SEGMENTS_MAX>,
}

/// The file is not an image that this loader can load.
#[derive(Debug)]
pub enum ImageError {
    /// It is not an ELF file.
    Format(elf::ParseError),
    /// It is for another machine or of another kind.
    Kind,
    /// A segment is outside of the file, of the addresses for the image, or not page-aligned.
    Segment,
    /// A segment is writable and executable.
    WritableCode,
    /// The entry point is not in code.
    Entry,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(error) => write!(f, "not an ELF file: {error}"),
            Self::Kind => f.write_str("not a static x86-64 executable"),
            Self::Segment => f.write_str("a segment lies where none can"),
            Self::WritableCode => f.write_str("a segment is both writable and executable"),
            Self::Entry => f.write_str("the entry point is not in code"),
        }
    }
}

impl core::error::Error for ImageError {}

impl Layout {
    /// How the image in `file` is to be laid into memory.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn of(file: &[u8]) -> Result<Self, ImageError> {
        let parsed = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(ImageError::Format)?;
        if parsed.ehdr.e_machine != abi::EM_X86_64 || parsed.ehdr.e_type != abi::ET_EXEC {
            return Err(ImageError::Kind);
        }
        let table = parsed.segments().ok_or(ImageError::Kind)?;
        let loaded = || table.iter().filter(|header| header.p_type == abi::PT_LOAD && header.p_memsz > 0);
        let base = loaded().map(|header| header.p_vaddr).min().ok_or(ImageError::Kind)?;
        if base < IMAGE_BASE {
            return Err(ImageError::Segment);
        }
        const FILLER: Segment =
            Segment { offset: 0, length: 0, file_start: 0, file_length: 0, access: Access::Read };
        let mut layout = Self { base, length: 0, entry: parsed.ehdr.e_entry, segments: List::new(FILLER) };
        for header in loaded() {
            let segment = segment(&header, base, file.len())?;
            // In ascending order and apart, so that no page has two kinds of access.
            if segment.offset < layout.length {
                return Err(ImageError::Segment);
            }
            layout.length = segment.offset + segment.length;
            layout.segments.push(segment).map_err(|_| ImageError::Segment)?;
        }
        let entry = layout.entry.wrapping_sub(base);
        let in_code = |segment: &Segment| {
            segment.access == Access::ReadExecute
                && (segment.offset..segment.offset + segment.length).contains(&entry)
        };
        if layout.segments.as_slice().iter().any(in_code) { Ok(layout) } else { Err(ImageError::Entry) }
    }
}

fn segment(header: &ProgramHeader, base: u64, file_length: usize) -> Result<Segment, ImageError> {
    let offset = header.p_vaddr - base;
    let content_end = header.p_offset.checked_add(header.p_filesz);
    if !offset.is_multiple_of(PAGE)
        || header.p_filesz > header.p_memsz
        || header.p_memsz > LENGTH_MAX
        || offset > LENGTH_MAX
        || content_end.is_none_or(|end| end > file_length as u64)
    {
        return Err(ImageError::Segment);
    }
    let access = match (header.p_flags & abi::PF_W != 0, header.p_flags & abi::PF_X != 0) {
        (true, true) => return Err(ImageError::WritableCode),
        (true, false) => Access::ReadWrite,
        (false, true) => Access::ReadExecute,
        (false, false) => Access::Read,
    };
    Ok(Segment {
        offset,
        length: header.p_memsz.next_multiple_of(PAGE),
        file_start: header.p_offset as usize,
        file_length: header.p_filesz as usize,
        access,
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// An ELF file with the given (flags, address, content length, memory length) segments.
    fn image(segments: &[(u32, u64, u64, u64)], entry: u64) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        for half in [abi::ET_EXEC, abi::EM_X86_64] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        file.extend_from_slice(&1u32.to_le_bytes());
        for word in [entry, 64, 0] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&0u32.to_le_bytes());
        for half in [64, 56, segments.len() as u16, 0, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        for &(flags, address, content, memory) in segments {
            file.extend_from_slice(&abi::PT_LOAD.to_le_bytes());
            file.extend_from_slice(&flags.to_le_bytes());
            for word in [0, address, address, content, memory, PAGE] {
                file.extend_from_slice(&word.to_le_bytes());
            }
        }
        file
    }

    const R: u32 = abi::PF_R;
    const RX: u32 = abi::PF_R | abi::PF_X;
    const RW: u32 = abi::PF_R | abi::PF_W;

    #[test]
    fn segments_become_whole_pages_with_one_access_each() {
        let file = image(
            &[
                (RX, IMAGE_BASE, 100, 100),
                (R, IMAGE_BASE + PAGE, 8, 8),
                (RW, IMAGE_BASE + 2 * PAGE, 16, 5000),
            ],
            IMAGE_BASE + 4,
        );
        let layout = Layout::of(&file).unwrap();
        assert_eq!((layout.base, layout.length), (IMAGE_BASE, 4 * PAGE));
        let access: Vec<_> = layout.segments.as_slice().iter().map(|s| (s.access, s.length)).collect();
        let expected = [(Access::ReadExecute, PAGE), (Access::Read, PAGE), (Access::ReadWrite, 2 * PAGE)];
        assert_eq!(access, expected);
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        let writable_code = image(&[(RX | RW, IMAGE_BASE, 1, 1)], IMAGE_BASE);
        assert!(matches!(Layout::of(&writable_code), Err(ImageError::WritableCode)));
        let low = image(&[(RX, 0x10_0000, 1, 1)], 0x10_0000);
        assert!(matches!(Layout::of(&low), Err(ImageError::Segment)));
        let shared_page = image(&[(RX, IMAGE_BASE, 1, PAGE + 1), (RW, IMAGE_BASE + PAGE, 1, 1)], IMAGE_BASE);
        assert!(matches!(Layout::of(&shared_page), Err(ImageError::Segment)));
        let beyond_the_file = image(&[(RX, IMAGE_BASE, 1 << 20, 1 << 20)], IMAGE_BASE);
        assert!(matches!(Layout::of(&beyond_the_file), Err(ImageError::Segment)));
        let entry_in_data =
            image(&[(RX, IMAGE_BASE, 1, 1), (RW, IMAGE_BASE + PAGE, 1, 1)], IMAGE_BASE + PAGE);
        assert!(matches!(Layout::of(&entry_in_data), Err(ImageError::Entry)));
        assert!(matches!(Layout::of(b"MZ"), Err(ImageError::Format(_))));
    }
}
