use std::string::ToString;
use std::vec;

use proptest::prelude::*;

use super::testing::HeapBlocks;
use super::*;

fn ram(blocks: u64) -> GuestRam {
    GuestRam::new(&mut HeapBlocks { left: blocks as usize }, blocks * BLOCK_BYTES, 1).unwrap()
}

#[test]
fn what_is_written_is_read_across_blocks() {
    let ram = ram(2);
    let address = Gpa::new(BLOCK_BYTES - 3);
    ram.write(address, b"godwit").unwrap();
    let mut bytes = [0; 6];
    ram.read(address, &mut bytes).unwrap();
    assert_eq!(&bytes, b"godwit");
    assert_eq!(ram.read_u64(Gpa::new(BLOCK_BYTES - 8)).unwrap().to_le_bytes()[5..], *b"god");
    assert_eq!(ram.read_u64(Gpa::new(BLOCK_BYTES - 3)).unwrap().to_le_bytes()[..6], *b"godwit");
}

#[test]
fn what_is_no_ram_is_refused_whole() {
    let ram = ram(1);
    let mut bytes = [0xaa; 16];
    for address in [VGA_START - 8, VGA_START, VGA_END - 1, BLOCK_BYTES - 8, BLOCK_BYTES, u64::MAX - 4] {
        assert!(ram.read(Gpa::new(address), &mut bytes).is_err());
        assert_eq!(bytes, [0xaa; 16]);
        assert!(ram.write(Gpa::new(address), &bytes).is_err());
    }
    let mut across = vec![0; 0x4_0000];
    assert!(ram.read(Gpa::new(VGA_START - 0x1_0000), &mut across).is_err());
    assert!(ram.read(Gpa::new(VGA_END), &mut across).is_ok());
    assert!(ram.read(Gpa::new(VGA_START), &mut []).is_err());
}

#[test]
fn every_write_of_the_host_is_in_the_dirty_log() {
    let ram = ram(1);
    ram.dirty().enable();
    ram.write(Gpa::new(0x1fff), &[1, 2]).unwrap();
    assert!(ram.write_page(7, &[9; 4096]));
    ram.dirty().harvest(|_| {});
    assert_eq!(ram.dirty().take_word(0), 1 << 1 | 1 << 2 | 1 << 7);
    assert!(!ram.write_page(512, &[0; 4096]));
}

#[test]
fn nothing_of_the_guest_s_reads_or_writes_what_has_not_come() {
    let ram = ram(2);
    ram.absent().set([1, 511, 512].into_iter());
    let at = |page: u64| MemoryError::Absent(Gpa::new(page * PAGE_SIZE));
    let mut bytes = [7; 16];
    for (address, page) in [(0x1000, 1), (0xff8, 1), (0x1ff8, 1), (BLOCK_BYTES - 8, 511), (BLOCK_BYTES, 512)]
    {
        assert_eq!(ram.read(Gpa::new(address), &mut bytes), Err(at(page)));
        assert_eq!(ram.write(Gpa::new(address), &bytes), Err(at(page)));
    }
    assert_eq!(ram.read_u64(Gpa::new(0x1008)), Err(at(1)));
    assert_eq!(ram.check_present(Gpa::new(0x1fff)), Err(at(1)));
    assert!(ram.contains(Gpa::new(0x1000)) && !ram.contains(Gpa::new(2 * BLOCK_BYTES)));
    assert!(ram.check_present(Gpa::new(0x2000)).is_ok() && ram.check_present(Gpa::new(u64::MAX)).is_ok());
    assert_eq!(bytes, [7; 16]);
    // Migration does all the same, and what it brought is there when it says so.
    assert!(ram.write_page(1, &[9; 4096]));
    assert!(!ram.absent().publish(1));
    assert_eq!(ram.read_u64(Gpa::new(0x1008)), Ok(0x0909_0909_0909_0909));
    assert!(ram.read(Gpa::new(0xff8), &mut bytes).is_ok());
}

#[test]
fn every_page_but_the_vga_window_s_is_backed() {
    let ram = ram(1);
    let base = ram.backing(0).unwrap();
    assert_eq!(ram.backing(0x9f), Some(base + 0x9_f000));
    assert_eq!((ram.backing(0xa0), ram.backing(0xbf), ram.backing(512)), (None, None, None));
    assert_eq!(ram.backing(511), Some(base + 511 * PAGE_SIZE));
}

#[test]
fn zero_pages_are_recognised() {
    let ram = ram(1);
    assert_eq!(ram.is_zero_page(3), Some(true));
    ram.write(Gpa::new(0x3fff), &[1]).unwrap();
    assert_eq!(ram.is_zero_page(3), Some(false));
    assert_eq!(ram.is_zero_page(4), Some(true));
    assert_eq!(ram.is_zero_page(512), None);
}

#[test]
fn fetching_ahead_changes_nothing_and_stays_within_the_guest() {
    let ram = ram(1);
    ram.write(Gpa::new(3 * PAGE_SIZE), &[1]).unwrap();
    for page in [3, 511, 512, usize::MAX >> 12] {
        ram.prefetch_page(page);
    }
    assert_eq!((ram.is_zero_page(3), ram.is_zero_page(511)), (Some(false), Some(true)));
}

#[test]
fn a_host_without_memory_keeps_nothing() {
    let mut source = HeapBlocks { left: 2 };
    let error = GuestRam::new(&mut source, 3 * BLOCK_BYTES, 1).unwrap_err();
    assert_eq!(error, RamError::OutOfMemory { wanted: 3 * BLOCK_BYTES, available: 2 * BLOCK_BYTES });
    assert!(matches!(GuestRam::new(&mut source, 12345, 1), Err(RamError::Size(12345))));
}

/// A host with more RAM than its heap has room to describe; none of it can be had.
struct SmallHeap {
    table_bytes: usize,
}

impl BlockSource for SmallHeap {
    fn blocks_free(&self) -> usize {
        1 << 30
    }

    fn table_bytes_free(&self) -> usize {
        self.table_bytes
    }

    fn allocate(&mut self) -> Option<Block> {
        None
    }

    fn release(_block: Block) {
        unreachable!("none was given");
    }
}

#[test]
fn a_host_whose_heap_cannot_describe_a_guest_refuses_it_before_taking_any_memory() {
    let bytes = 256 << 30;
    let needed = 256 * (3 * (32 << 10) + (8 << 10)) + 8;
    let error = GuestRam::new(&mut SmallHeap { table_bytes: needed - 1 }, bytes, 1).unwrap_err();
    assert_eq!(error, RamError::NoTables(bytes));
    assert_eq!(error.to_string(), "the host has no memory left for the tables of a guest of 262144 MiB");
    let error = GuestRam::new(&mut SmallHeap { table_bytes: needed }, bytes, 1).unwrap_err();
    assert_eq!(error, RamError::OutOfMemory { wanted: bytes, available: 0 });
}

#[test]
fn memory_that_is_not_there_is_not_begun_with() {
    let mut source = HeapBlocks { left: 2 };
    let wanted = RAM_BYTES_MAX;
    let error = GuestRam::new(&mut source, wanted, 1).unwrap_err();
    assert_eq!((error, source.left), (RamError::OutOfMemory { wanted, available: 2 * BLOCK_BYTES }, 2));
}

#[test]
fn pages_above_the_gap_go_on_counting() {
    assert_eq!(GuestRam::frame_of(0xb_ffff), Gfn::new(0xb_ffff));
    assert_eq!(GuestRam::frame_of(0xc_0000), Gfn::new(0x10_0000));
}

proptest! {
    #[test]
    fn any_range_is_answered(address in 0_u64..3 * BLOCK_BYTES, length in 0_usize..5000) {
        let ram = ram(2);
        let data = vec![0x5a; length];
        let mut back = vec![0; length];
        if ram.write(Gpa::new(address), &data).is_ok() {
            ram.read(Gpa::new(address), &mut back).unwrap();
            prop_assert_eq!(back, data);
        } else {
            prop_assert!(ram.read(Gpa::new(address), &mut back).is_err());
        }
    }
}
