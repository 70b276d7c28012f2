//! Wraps a freestanding program into a bzImage, so that whatever boots Linux boots it.
//!
//! Three ways in, as in Linux' own images (Linux, `Documentation/arch/x86/boot.rst`, protocol 2.12):
//! * the 64-bit entry, 0x200 bytes into the program (XLF_KERNEL_64), with the zero page in RSI;
//! * the 32-bit entry, the program's first byte, with the zero page in ESI;
//! * the real-mode entry, [`REAL_MODE_STUB`], which makes the setup sectors the zero page and goes on at the 32-bit one.
//!
//! The program is not relocatable: a loader has to put it at the preferred address, [`LOAD_ADDRESS`].

use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;

/// Where the program is linked and must be loaded: 1 MiB, which is also where old loaders put any bzImage.
pub const LOAD_ADDRESS: u64 = 0x10_0000;
/// Distance of the 64-bit entry from the program's first byte.
pub const ENTRY_64_OFFSET: u64 = 0x200;

/// A page: the setup sectors can serve as the zero page.
const SETUP_SIZE: usize = 4096;
/// Far more than any test guest needs; a guard against a linker gone astray.
const PROGRAM_SIZE_MAX: u64 = 16 << 20;
const SECTOR: usize = 512;

const PROTOCOL_2_12: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
const COMMAND_LINE_SIZE_MAX: u32 = 2047;

/// The header's end in protocol 2.12, and the stub's place behind it.
const STUB_OFFSET: usize = 0x268;
const GDT_OFFSET: usize = 0x2b0;
const GDT_LIMIT: u16 = 0x1f;
/// The protocol's `__BOOT_CS` and `__BOOT_DS`: flat, 4 GiB.
const CODE_DESCRIPTOR: u64 = 0x00cf_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

/// 16-bit code. The loader enters it with DS at the boot sector, hence with DS * 16 at the zero page to be.
#[rustfmt::skip]
const REAL_MODE_STUB: &[u8] = &[
    0xfa,                                     // cli
    0x66, 0x31, 0xc0,                         // xor  eax, eax
    0x8c, 0xd8,                               // mov  ax, ds
    0x66, 0xc1, 0xe0, 0x04,                   // shl  eax, 4
    0x66, 0x89, 0xc6,                         // mov  esi, eax            the zero page
    0x66, 0x05, 0xb0, 0x02, 0x00, 0x00,       // add  eax, GDT_OFFSET
    0x66, 0xa3, 0xd2, 0x02,                   // mov  [GDT_OFFSET + 0x22], eax
    0x66, 0x0f, 0x01, 0x16, 0xd0, 0x02,       // lgdt [GDT_OFFSET + 0x20]
    0x0f, 0x20, 0xc0,                         // mov  eax, cr0
    0x0c, 0x01,                               // or   al, 1
    0x0f, 0x22, 0xc0,                         // mov  cr0, eax
    0x66, 0xea, 0x00, 0x00, 0x10, 0x00, 0x10, 0x00, // jmp 0x10:LOAD_ADDRESS
];

/// A program as it stands in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flat {
    /// What is loaded at [`LOAD_ADDRESS`].
    pub bytes: Vec<u8>,
    /// Bytes of memory it needs from there, at least as many as `bytes` has; those behind `bytes` need not be zero.
    pub memory_size: u64,
}

/// Turns a statically linked ELF executable into the bytes that its segments have in memory.
///
/// # Errors
///
/// If it is not such a file, is not linked at [`LOAD_ADDRESS`] with its entry at [`ENTRY_64_OFFSET`], or is too large.
pub fn flatten(elf: &[u8]) -> Result<Flat> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(elf).context("not an ELF file")?;
    let segments = file.segments().context("an ELF file without segments")?;
    let mut flat = Flat { bytes: Vec::new(), memory_size: 0 };
    for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0) {
        let offset = segment.p_paddr.checked_sub(LOAD_ADDRESS).context("a segment below the load address")?;
        let end = offset.checked_add(segment.p_memsz).context("a segment that wraps around")?;
        ensure!(end <= PROGRAM_SIZE_MAX, "the program ends {end:#x} bytes behind its load address");
        flat.memory_size = flat.memory_size.max(end);
        let data = file.segment_data(&segment).context("a segment that is cut off")?;
        let offset = usize::try_from(offset)?;
        let data_end = offset + data.len();
        if flat.bytes.len() < data_end {
            flat.bytes.resize(data_end, 0);
        }
        flat.bytes[offset..data_end].copy_from_slice(data);
    }
    let entry = file.ehdr.e_entry;
    ensure!(entry == LOAD_ADDRESS + ENTRY_64_OFFSET, "the entry is at {entry:#x}");
    ensure!(flat.bytes.len() as u64 > ENTRY_64_OFFSET, "the program ends before its entry");
    Ok(flat)
}

/// Writes the bzImage: setup sectors, then the program.
///
/// # Errors
///
/// If the program is empty or larger than its memory.
pub fn wrap(program: &Flat) -> Result<Vec<u8>> {
    let length = program.bytes.len();
    ensure!(length > 0 && length as u64 <= program.memory_size, "the program does not fit into its memory");
    let padded = length.next_multiple_of(16);
    let mut image = vec![0; SETUP_SIZE];
    let mut put = |offset: usize, value: &[u8]| image[offset..offset + value.len()].copy_from_slice(value);
    put(0x1f1, &[u8::try_from(SETUP_SIZE / SECTOR - 1)?]);
    put(0x1f4, &u32::try_from(padded / 16)?.to_le_bytes());
    put(0x1fe, &0xaa55_u16.to_le_bytes());
    put(0x200, &[0xeb, u8::try_from(STUB_OFFSET - 0x202)?]);
    put(0x202, b"HdrS");
    put(0x206, &PROTOCOL_2_12.to_le_bytes());
    put(0x211, &[LOADED_HIGH]);
    put(0x214, &u32::try_from(LOAD_ADDRESS)?.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x1000_u32.to_le_bytes());
    put(0x236, &XLF_KERNEL_64.to_le_bytes());
    put(0x238, &COMMAND_LINE_SIZE_MAX.to_le_bytes());
    put(0x258, &LOAD_ADDRESS.to_le_bytes());
    put(0x260, &u32::try_from(program.memory_size.next_multiple_of(4096))?.to_le_bytes());
    put(STUB_OFFSET, REAL_MODE_STUB);
    put(GDT_OFFSET + 0x10, &CODE_DESCRIPTOR.to_le_bytes());
    put(GDT_OFFSET + 0x18, &DATA_DESCRIPTOR.to_le_bytes());
    put(GDT_OFFSET + 0x20, &GDT_LIMIT.to_le_bytes());
    image.extend_from_slice(&program.bytes);
    image.resize(SETUP_SIZE + padded, 0);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<const N: usize>(image: &[u8], offset: usize) -> [u8; N] {
        image[offset..offset + N].try_into().unwrap()
    }

    fn program() -> Flat {
        Flat { bytes: (0..=255).cycle().take(1000).collect(), memory_size: 5000 }
    }

    #[test]
    fn the_header_says_what_a_64_bit_loader_reads() {
        let image = wrap(&program()).unwrap();
        assert_eq!(u16::from_le_bytes(field(&image, 0x1fe)), 0xaa55);
        assert_eq!(&image[0x202..0x206], b"HdrS");
        assert!(u16::from_le_bytes(field(&image, 0x206)) >= 0x020c, "xloadflags need 2.12");
        assert_eq!(image[0x211] & 1, 1, "loaded high");
        assert_eq!(u16::from_le_bytes(field(&image, 0x236)) & 1, 1, "a 64-bit entry");
        assert_eq!(image[0x234], 0, "not relocatable");
        assert_eq!(u64::from_le_bytes(field(&image, 0x258)), LOAD_ADDRESS);
        assert_eq!(u32::from_le_bytes(field(&image, 0x260)), 8192, "memory in whole pages");
    }

    #[test]
    fn the_program_follows_the_setup_sectors() {
        let program = program();
        let image = wrap(&program).unwrap();
        let start = (usize::from(image[0x1f1]) + 1) * 512;
        assert_eq!(&image[start..start + program.bytes.len()], &program.bytes[..]);
        let paragraphs = u32::from_le_bytes(field(&image, 0x1f4)) as usize;
        assert_eq!(image.len(), start + paragraphs * 16);
    }

    #[test]
    fn the_header_ends_where_the_jump_goes() {
        let image = wrap(&program()).unwrap();
        assert_eq!(image[0x200], 0xeb, "a short jump");
        let target = 0x202 + usize::from(image[0x201]);
        assert_eq!(&image[target..target + REAL_MODE_STUB.len()], REAL_MODE_STUB);
        assert!(target + REAL_MODE_STUB.len() <= GDT_OFFSET, "the stub does not reach into its GDT");
    }

    #[test]
    fn the_stub_names_the_places_that_the_image_has() {
        let operand = |at: usize| usize::from(u16::from_le_bytes(field(REAL_MODE_STUB, at)));
        assert_eq!(operand(15), GDT_OFFSET);
        assert_eq!(operand(21), GDT_OFFSET + 0x22);
        assert_eq!(operand(27), GDT_OFFSET + 0x20);
        assert_eq!(u64::from(u32::from_le_bytes(field(REAL_MODE_STUB, 39))), LOAD_ADDRESS);
    }

    #[test]
    fn an_empty_program_and_one_larger_than_its_memory_are_refused() {
        assert!(wrap(&Flat { bytes: vec![], memory_size: 4096 }).is_err());
        assert!(wrap(&Flat { bytes: vec![0; 100], memory_size: 99 }).is_err());
    }

    #[test]
    fn what_is_not_our_elf_file_is_refused() {
        assert!(flatten(b"MZ").is_err());
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(flatten(&own).is_err(), "a host executable is linked elsewhere");
    }
}
