#![expect(unsafe_code, reason = "plays the device: reads and writes memory by address, as a device does")]
//! The driver against a device that walks its queues as virtio 1.2, section 2.7 lays them out.

use alloc::{rc::Rc, vec, vec::Vec};
use core::{cell::RefCell, ptr::NonNull};
use std::alloc::{Layout, alloc_zeroed, dealloc};

use virtio_drivers::{
    BufferDirection, Hal, PhysAddr,
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Error, QUEUE_LENGTH, VirtioNet};
use crate::drivers::net::{MacAddress, Nic, Offload, Received, ReceivedChecksum, TransmitError};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const HEADER: usize = 12;
const VERSION_1: u64 = 1 << 32;

struct FakeHal;

fn pages_layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * 4096, 4096).unwrap()
}

// SAFETY: the host's allocator gives zeroed, aligned memory that is nobody else's; addresses are pointers.
unsafe impl Hal for FakeHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty.
        let at = NonNull::new(unsafe { alloc_zeroed(pages_layout(pages)) }).unwrap();
        (at.as_ptr().expose_provenance() as u64, at)
    }

    unsafe fn dma_dealloc(_start: PhysAddr, at: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: it was allocated with the same layout.
        unsafe { dealloc(at.as_ptr(), pages_layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(_start: PhysAddr, _length: usize) -> NonNull<u8> {
        unreachable!("the fake transport has no registers")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as u64
    }

    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

fn read<T: Copy>(address: u64) -> T {
    let at = core::ptr::with_exposed_provenance::<T>(address as usize);
    // SAFETY: the driver gave the device this address, in a queue or a descriptor, and has not taken it back.
    unsafe { at.read_volatile() }
}

fn write<T: Copy>(address: u64, value: T) {
    let at = core::ptr::with_exposed_provenance_mut::<T>(address as usize);
    // SAFETY: as above.
    unsafe { at.write_volatile(value) };
}

/// One queue as the device sees it.
#[derive(Clone, Copy, Default)]
struct Queue {
    descriptors: u64,
    available: u64,
    used: u64,
    taken: u16,
    finished: u16,
}

impl Queue {
    /// The next buffer that the driver has lent: its descriptor, address and length.
    fn next(&mut self) -> Option<(u16, u64, u32)> {
        if self.taken == read::<u16>(self.available + 2) {
            return None;
        }
        let slot = u64::from(self.taken % QUEUE_LENGTH as u16);
        self.taken = self.taken.wrapping_add(1);
        let head: u16 = read(self.available + 4 + 2 * slot);
        let descriptor = self.descriptors + 16 * u64::from(head);
        Some((head, read(descriptor), read(descriptor + 8)))
    }

    fn finish(&mut self, head: u32, length: u32) {
        let slot = u64::from(self.finished % QUEUE_LENGTH as u16);
        write(self.used + 4 + 8 * slot, head);
        write(self.used + 8 + 8 * slot, length);
        self.finished = self.finished.wrapping_add(1);
        write(self.used + 2, self.finished);
    }
}

#[derive(Default)]
struct Device {
    mac: [u8; 6],
    queues: [Queue; 2],
    status: u32,
    stuck: bool,
    interrupts_acknowledged: usize,
    sent: Vec<Vec<u8>>,
}

impl Device {
    fn transmit_all(&mut self) {
        while !self.stuck
            && let Some((head, address, length)) = self.queues[1].next()
        {
            let bytes = (0..u64::from(length)).map(|at| read(address + at)).collect();
            self.sent.push(bytes);
            self.queues[1].finish(u32::from(head), 0);
        }
    }

    /// A frame arrives, with `claimed` as the length that the device reports; false if no buffer is there.
    fn deliver_claiming(&mut self, frame: &[u8], claimed: u32) -> bool {
        let Some((head, address, length)) = self.queues[0].next() else { return false };
        assert!(HEADER + frame.len() <= length as usize);
        for (at, byte) in frame.iter().enumerate() {
            write(address + (HEADER + at) as u64, *byte);
        }
        self.queues[0].finish(u32::from(head), claimed);
        true
    }

    fn deliver(&mut self, frame: &[u8]) -> bool {
        self.deliver_claiming(frame, (HEADER + frame.len()) as u32)
    }
}

#[derive(Clone)]
struct FakeTransport(Rc<RefCell<Device>>);

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }
    fn read_device_features(&mut self) -> u64 {
        VERSION_1 | 1 << 5
    }
    fn write_driver_features(&mut self, features: u64) {
        assert_eq!(features & !(VERSION_1 | 1 << 5), 0, "features that were not offered");
    }
    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        256
    }
    fn notify(&mut self, queue: u16) {
        if queue == 1 {
            self.0.borrow_mut().transmit_all();
        }
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.0.borrow().status)
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.0.borrow_mut().status = status.bits();
    }
    fn set_guest_page_size(&mut self, _size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        available: PhysAddr,
        used: PhysAddr,
    ) {
        assert_eq!(size as usize, QUEUE_LENGTH);
        self.0.borrow_mut().queues[usize::from(queue)] =
            Queue { descriptors, available, used, taken: 0, finished: 0 };
    }
    fn queue_unset(&mut self, queue: u16) {
        self.0.borrow_mut().queues[usize::from(queue)] = Queue::default();
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.borrow().queues[usize::from(queue)].descriptors != 0
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.0.borrow_mut().interrupts_acknowledged += 1;
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut space = self.0.borrow().mac.to_vec();
        space.resize(64, 0);
        Ok(T::read_from_bytes(&space[offset..offset + size_of::<T>()]).unwrap())
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> virtio_drivers::Result<()> {
        Ok(())
    }
}

type Driver = VirtioNet<FakeHal, FakeTransport>;

fn running() -> (Driver, Rc<RefCell<Device>>) {
    let device = Rc::new(RefCell::new(Device { mac: MAC, ..Device::default() }));
    (Driver::new(FakeTransport(device.clone())).unwrap(), device)
}

#[test]
fn the_card_comes_up_with_its_address() {
    let (driver, device) = running();
    assert_eq!(driver.mac(), MacAddress(MAC));
    assert_eq!(device.borrow().status, 0b1111);
}

#[test]
fn a_card_without_an_address_is_refused() {
    let device = Rc::new(RefCell::new(Device::default()));
    assert_eq!(Driver::new(FakeTransport(device)).err(), Some(Error::NoAddress));
}

#[test]
fn frames_are_received_in_order_across_the_queue_end() {
    let (mut driver, device) = running();
    let mut into = [0; 1514];
    for round in 0..3 * QUEUE_LENGTH {
        let frame = vec![round as u8; 60 + round];
        assert!(device.borrow_mut().deliver(&frame));
        let expected = Received { length: frame.len(), tcp_checksum: ReceivedChecksum::Unknown };
        assert_eq!(driver.receive(&mut into), Some(expected));
        assert_eq!(&into[..frame.len()], &frame[..]);
    }
    assert_eq!(driver.receive(&mut into), None);
}

#[test]
fn every_buffer_comes_back_to_the_device() {
    let (mut driver, device) = running();
    for _ in 0..3 {
        let taken = (0..2 * QUEUE_LENGTH).filter(|_| device.borrow_mut().deliver(&[7; 64])).count();
        assert_eq!(taken, QUEUE_LENGTH);
        let received = core::iter::from_fn(|| driver.receive(&mut [0; 1514])).count();
        assert_eq!(received, QUEUE_LENGTH);
    }
}

#[test]
fn lengths_that_cannot_be_are_counted_and_skipped() {
    let (mut driver, device) = running();
    for claimed in [0, 5, HEADER as u32, HEADER as u32 + 13, 2049, 5000, u32::MAX] {
        assert!(device.borrow_mut().deliver_claiming(&[1; 100], claimed));
    }
    device.borrow_mut().deliver(&[2; 1514]);
    assert_eq!(driver.receive(&mut [0; 1514]).unwrap().length, 1514);
    assert_eq!(driver.receive(&mut [0; 1514]), None);
    assert_eq!(driver.counters().frames_bad, 7);
}

#[test]
fn frames_are_sent_after_an_empty_header() {
    let (mut driver, device) = running();
    for round in 0..3 * QUEUE_LENGTH {
        driver.transmit(&vec![round as u8; 60 + round], Offload::None).unwrap();
    }
    let device = device.borrow();
    assert_eq!(device.sent.len(), 3 * QUEUE_LENGTH);
    for (round, sent) in device.sent.iter().enumerate() {
        assert_eq!(sent[..HEADER], [0; HEADER]);
        assert_eq!(sent[HEADER..], vec![round as u8; 60 + round]);
    }
}

#[test]
fn a_full_queue_refuses_until_the_device_goes_on() {
    let (mut driver, device) = running();
    device.borrow_mut().stuck = true;
    let taken = (0..500).take_while(|_| driver.transmit(&[1; 64], Offload::None).is_ok()).count();
    assert!(taken > 100 && taken <= QUEUE_LENGTH);
    assert!(!driver.can_transmit());
    assert_eq!(driver.transmit(&[1; 64], Offload::None), Err(TransmitError::RingFull));
    device.borrow_mut().stuck = false;
    device.borrow_mut().transmit_all();
    assert!(driver.can_transmit());
    driver.transmit(&[1; 64], Offload::None).unwrap();
    assert_eq!(device.borrow().sent.len(), taken + 1);
}

#[test]
fn what_does_not_suit_the_card_is_refused() {
    let (mut driver, device) = running();
    assert_eq!(driver.transmit(&[1; 13], Offload::None), Err(TransmitError::BadFrame));
    assert_eq!(driver.transmit(&[1; 1515], Offload::None), Err(TransmitError::BadFrame));
    assert_eq!(driver.transmit(&[1; 100], Offload::TcpChecksum), Err(TransmitError::BadFrame));
    assert!(device.borrow().sent.is_empty());
}

#[test]
fn acknowledging_reads_the_interrupt_status() {
    let (mut driver, device) = running();
    driver.acknowledge_interrupt();
    assert_eq!(device.borrow().interrupts_acknowledged, 1);
}
