//! Starts `\vmlinuz` with `\initrd.img` and the command line in `\cmdline`, by the boot protocol's 64-bit entry point, and
//! writes the time stamp counter to COM1 just before: that is where a guest is entered, too.
//!
//! Not by the kernel's own UEFI entry, since that decompresses the kernel before it leaves the boot services, and what
//! comes before is the firmware's time.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "memory of the firmware, the serial port, the way into the kernel")]

extern crate alloc;

use core::arch::asm;
use core::fmt::{self, Write};
use core::{mem, slice};

use uefi::boot::{self, AllocateType, MemoryType};
use uefi::fs::FileSystem;
use uefi::mem::memory_map::MemoryMapMut;
use uefi::table::cfg::ConfigTableEntry;
use uefi::{CStr16, Status, cstr16, system};

mod zero_page;

use zero_page::{Kernel, ZeroPage};

const PAGE: usize = 4096;
const BELOW_4_GIB: AllocateType = AllocateType::MaxAddress(u32::MAX as u64);
const ENTRY_OFFSET: u64 = 0x200;

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

#[uefi::entry]
fn main() -> Status {
    match start() {
        Ok(never) => never,
        Err(error) => error.status(),
    }
}

fn start() -> uefi::Result<Status> {
    uefi::helpers::init()?;
    let mut volume = FileSystem::new(boot::get_image_file_system(boot::image_handle())?);
    let mut read = |name: &CStr16| volume.read(name).map_err(|_| Status::NOT_FOUND);
    let (image, initrd) = (read(cstr16!("\\vmlinuz"))?, read(cstr16!("\\initrd.img"))?);
    let command_line = read(cstr16!("\\cmdline"))?;
    let kernel = Kernel(&image);
    let place = place_of(&kernel)?;
    place[..kernel.payload().len()].copy_from_slice(kernel.payload());
    let entry = place.as_ptr() as u64 + ENTRY_OFFSET;
    let page = pages(BELOW_4_GIB, PAGE)?;
    let initrd = (copy(&initrd)?, initrd.len());
    // The memory behind it is zero.
    let command_line = copy(command_line.trim_ascii())?;
    let zero_page = page.as_ptr() as u64;
    let mut page = ZeroPage(page);
    page.describe(&kernel, initrd, command_line, rsdp());
    drop(image);
    drop(volume);
    // SAFETY: nothing of the firmware's services is used from here on; what is still held is forgotten.
    let mut map = unsafe { boot::exit_boot_services(None) };
    // SAFETY: an interrupt handler of the firmware must not run any more.
    unsafe { asm!("cli", options(nomem, nostack)) };
    map.sort();
    page.map(&map);
    mem::forget(map);
    // SAFETY: reading the counter changes nothing.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    let _ = writeln!(Com1, "\ndirect: kernel entered tsc={tsc}");
    // SAFETY: the kernel lies at its place, RSI has the zero page's address, and the firmware maps memory to itself.
    unsafe { asm!("cld", "jmp {}", in(reg) entry, in("rsi") zero_page, options(noreturn)) };
}

/// Memory for the kernel: where it prefers to be, or else somewhere as aligned as it asks.
fn place_of(kernel: &Kernel<'_>) -> uefi::Result<&'static mut [u8]> {
    let size = kernel.init_size();
    if let Ok(place) = pages(AllocateType::Address(kernel.preferred_address()), size) {
        return Ok(place);
    }
    let alignment = kernel.alignment();
    let place = pages(BELOW_4_GIB, size + alignment as usize)?;
    let start = place.as_ptr() as u64;
    let skip = (start.next_multiple_of(alignment) - start) as usize;
    Ok(&mut place[skip..skip + size])
}

/// Zeroed pages for `bytes` bytes, which are kept.
fn pages(place: AllocateType, bytes: usize) -> uefi::Result<&'static mut [u8]> {
    let count = bytes.div_ceil(PAGE);
    let start = boot::allocate_pages(place, MemoryType::LOADER_DATA, count)?;
    // SAFETY: the firmware has just given these pages to us alone.
    unsafe { start.write_bytes(0, count * PAGE) };
    // SAFETY: as above, and they are never given back.
    Ok(unsafe { slice::from_raw_parts_mut(start.as_ptr(), count * PAGE) })
}

/// The address of a copy of `bytes`, with a zero behind it.
fn copy(bytes: &[u8]) -> uefi::Result<u64> {
    let place = pages(BELOW_4_GIB, bytes.len() + 1)?;
    place[..bytes.len()].copy_from_slice(bytes);
    Ok(place.as_ptr() as u64)
}

/// The ACPI tables' root pointer, 0 if the firmware has none.
fn rsdp() -> u64 {
    system::with_config_table(|tables| {
        let table = tables.iter().find(|table| table.guid == ConfigTableEntry::ACPI2_GUID);
        table.map_or(0, |table| table.address as u64)
    })
}

struct Com1;

impl Write for Com1 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            loop {
                let status: u8;
                // SAFETY: the port's status register has no side effects that matter here.
                unsafe { asm!("in al, dx", in("dx") LINE_STATUS, out("al") status, options(nomem, nostack)) };
                if status & TRANSMITTER_EMPTY != 0 {
                    break;
                }
            }
            // SAFETY: sends a byte; the firmware is done with the port.
            unsafe { asm!("out dx, al", in("dx") DATA, in("al") byte, options(nomem, nostack)) };
        }
        Ok(())
    }
}
