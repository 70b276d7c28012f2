//! Starts `\vmlinuz.efi` with the command line in `\cmdline`, and writes the time stamp counter to COM1 at the moment
//! the kernel leaves the boot services: that is where it would be entered as a guest, too.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "an event of the firmware, the serial port and the time stamp counter")]

extern crate alloc;

use core::arch::asm;
use core::ffi::c_void;
use core::fmt::{self, Write};
use core::ptr::NonNull;

use alloc::vec::Vec;
use uefi::boot::{self, EventType, LoadImageSource, Tpl};
use uefi::fs::FileSystem;
use uefi::proto::BootPolicy;
use uefi::proto::device_path::DevicePath;
use uefi::proto::device_path::build::{DevicePathBuilder, media::FilePath};
use uefi::proto::loaded_image::LoadedImage;
use uefi::{CString16, Event, Status, cstr16};

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

#[uefi::entry]
fn main() -> Status {
    match start() {
        Ok(()) => Status::SUCCESS,
        Err(error) => error.status(),
    }
}

fn start() -> uefi::Result {
    uefi::helpers::init()?;
    let us = boot::image_handle();
    let mut volume = FileSystem::new(boot::get_image_file_system(us)?);
    let text = volume.read_to_string(cstr16!("\\cmdline")).map_err(|_| Status::NOT_FOUND)?;
    let command_line = CString16::try_from(text.trim()).map_err(|_| Status::INVALID_PARAMETER)?;
    drop(volume);
    let device = boot::open_protocol_exclusive::<LoadedImage>(us)?.device().ok_or(Status::NOT_FOUND)?;
    let mut buffer = Vec::new();
    let path = {
        let of_device = boot::open_protocol_exclusive::<DevicePath>(device)?;
        let mut builder = DevicePathBuilder::with_vec(&mut buffer);
        for node in of_device.node_iter() {
            builder = builder.push(&node).map_err(|_| Status::BUFFER_TOO_SMALL)?;
        }
        let file = FilePath { path_name: cstr16!("\\vmlinuz.efi") };
        let builder = builder.push(&file).map_err(|_| Status::BUFFER_TOO_SMALL)?;
        builder.finalize().map_err(|_| Status::BUFFER_TOO_SMALL)?
    };
    let source = LoadImageSource::FromDevicePath { device_path: path, boot_policy: BootPolicy::ExactMatch };
    let kernel = boot::load_image(us, source)?;
    {
        let mut image = boot::open_protocol_exclusive::<LoadedImage>(kernel)?;
        // SAFETY: the options outlive the image, which never returns.
        unsafe { image.set_load_options(command_line.as_ptr().cast(), command_line.num_bytes() as u32) };
    }
    let kind = EventType::SIGNAL_EXIT_BOOT_SERVICES;
    // SAFETY: the handler touches the serial port only.
    unsafe { boot::create_event(kind, Tpl::NOTIFY, Some(leaving), None) }?;
    boot::start_image(kernel)
}

unsafe extern "efiapi" fn leaving(_event: Event, _context: Option<NonNull<c_void>>) {
    // SAFETY: reading the counter changes nothing.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    let _ = writeln!(Com1, "\ndirect: kernel entered tsc={tsc}");
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
