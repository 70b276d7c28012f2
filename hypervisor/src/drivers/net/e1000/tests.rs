//! The driver against a card that follows the manual.

use alloc::{vec, vec::Vec};

use super::{
    E1000, Error, Nic, Offload, TransmitError,
    fake::{Eeprom, MAC, SharedCard, card, sum, window},
    receive, registers, transmit,
};
use crate::drivers::{
    hal::fake::{FakeDma, FakeRegion},
    net::{Link, MacAddress, ReceivedChecksum},
};

type Driver = E1000<super::fake::Window, FakeRegion>;

fn running() -> (Driver, SharedCard) {
    let (card, dma) = card();
    let driver = E1000::new(window(&card), &dma).unwrap();
    (driver, card)
}

fn frame(length: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; length];
    frame[..6].copy_from_slice(&MAC);
    frame
}

/// An Ethernet frame with IPv4 and TCP headers whose checksum field holds the pseudo header's sum.
fn tcp_frame(payload: &[u8], length_in_sum: u16) -> Vec<u8> {
    let mut frame = frame(54, 0);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = 6;
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame[46] = 5 << 4;
    frame[47] = 0x18;
    frame.extend_from_slice(payload);
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(length_in_sum.to_be_bytes());
    let partial = sum(&pseudo);
    frame[50..52].copy_from_slice(&partial.to_be_bytes());
    frame
}

fn tcp_checksum_is_right(frame: &[u8]) -> bool {
    let mut all = frame[26..34].to_vec();
    all.extend([0, 6]);
    all.extend(((frame.len() - 34) as u16).to_be_bytes());
    all.extend(&frame[34..]);
    sum(&all) == 0xffff
}

#[test]
fn reset_leaves_the_card_running_with_its_own_address() {
    let (mut driver, card) = running();
    assert_eq!(driver.mac(), MacAddress(MAC));
    let card = card.borrow();
    assert_eq!(card.register(registers::RAL0), 0x1200_5452);
    assert_eq!(card.register(registers::RAH0), 0x8000_5634);
    assert_eq!(card.register(registers::RCTL) & 2, 2);
    assert_eq!(card.register(registers::TCTL) & 2, 2);
    assert_eq!(card.register(registers::IMS), super::CAUSES.bits());
    assert_eq!(card.register(registers::RDT), receive::DESCRIPTORS as u32 - 1);
    drop(card);
    assert_eq!(driver.link(), Link::Up { speed_mbit: Some(1000) });
}

#[test]
fn a_card_without_eeprom_keeps_the_address_it_was_given() {
    let (card, dma) = card();
    card.borrow_mut().eeprom = Eeprom::Silent;
    assert_eq!(E1000::new(window(&card), &dma).err(), Some(Error::NoAddress));
    card.borrow_mut().set(registers::RAL0, 0x1200_5452);
    card.borrow_mut().set(registers::RAH0, 0x5634);
    assert_eq!(E1000::new(window(&card), &dma).unwrap().mac(), MacAddress(MAC));
    card.borrow_mut().eeprom = Eeprom::Holds([0xff; 6]);
    assert_eq!(E1000::new(window(&card), &dma).unwrap().mac(), MacAddress(MAC));
}

#[test]
fn what_does_not_come_up_says_why() {
    let (card, dma) = card();
    card.borrow_mut().reset_sticks = true;
    assert_eq!(E1000::new(window(&card), &dma).err(), Some(Error::ResetStuck));
    card.borrow_mut().reset_sticks = false;
    assert!(matches!(E1000::new(window(&card), &FakeDma::new(4096)), Err(Error::OutOfDmaMemory(_))));
    let short = crate::drivers::hal::fake::FakeMmio::new(card, 0x1000);
    assert_eq!(E1000::new(short, &dma).err(), Some(Error::WindowTooShort));
}

#[test]
fn the_link_can_be_down() {
    let (mut driver, card) = running();
    card.borrow_mut().set(registers::STATUS, 0);
    assert_eq!(driver.link(), Link::Down);
    card.borrow_mut().set(registers::STATUS, 2 | 1 << 6);
    assert_eq!(driver.link(), Link::Up { speed_mbit: Some(100) });
}

#[test]
fn frames_are_received_in_order_across_the_ring_end() {
    let (mut driver, card) = running();
    let mut into = [0; 2048];
    for round in 0..3 * receive::DESCRIPTORS {
        let sent = frame(60 + round, round as u8);
        assert!(card.borrow_mut().deliver(&sent));
        let received = driver.receive(&mut into).unwrap();
        assert_eq!(&into[..received.length], &sent[..]);
        assert_eq!(received.tcp_checksum, ReceivedChecksum::Unknown);
    }
    assert_eq!(driver.receive(&mut into), None);
    assert_eq!(driver.counters().frames_received, 3 * receive::DESCRIPTORS as u64);
}

#[test]
fn a_full_ring_drops_at_the_card_and_recovers() {
    let (mut driver, card) = running();
    let sent = frame(64, 7);
    let taken = (0..200).filter(|_| card.borrow_mut().deliver(&sent)).count();
    assert_eq!(taken, receive::DESCRIPTORS - 1);
    let mut into = [0; 2048];
    let received = core::iter::from_fn(|| driver.receive(&mut into)).count();
    assert_eq!(received, taken);
    assert_eq!(driver.counters().receive_overruns, (200 - taken) as u64);
    assert!(card.borrow_mut().deliver(&sent));
    assert!(driver.receive(&mut into).is_some());
}

#[test]
fn damaged_short_and_long_frames_are_counted_and_skipped() {
    let (mut driver, card) = running();
    let whole = 0b111;
    {
        let mut card = card.borrow_mut();
        card.deliver_with(&frame(64, 1), whole, 1);
        card.deliver_with(&frame(13, 1), whole, 0);
        card.deliver_with(&frame(1515, 1), whole, 0);
        card.deliver_with(&[0; 0], whole, 0);
        // Three buffers of one frame.
        card.deliver_with(&frame(2048, 1), 0b101, 0);
        card.deliver_with(&frame(2048, 1), 0b101, 0);
        card.deliver_with(&frame(100, 1), whole, 0);
        card.deliver_with(&frame(1514, 2), whole, 0);
    }
    let mut into = [0; 2048];
    assert_eq!(driver.receive(&mut into).unwrap().length, 1514);
    assert_eq!(into[20], 2);
    assert_eq!(driver.receive(&mut into), None);
    assert_eq!(driver.counters().frames_bad, 7);
    assert_eq!(driver.counters().frames_received, 1);
}

#[test]
fn a_length_beyond_the_buffer_is_not_believed() {
    let (mut driver, card) = running();
    card.borrow_mut().deliver_with(&frame(4000, 1), 0b111, 0);
    assert_eq!(driver.receive(&mut [0; 8192]), None);
    assert_eq!(driver.counters().frames_bad, 1);
}

#[test]
fn only_a_stated_and_clean_checksum_counts_as_verified() {
    let (mut driver, card) = running();
    let mut into = [0; 2048];
    for (status, errors, expected) in [
        (0b10_0011, 0, ReceivedChecksum::Verified),
        (0b10_0111, 0, ReceivedChecksum::Unknown),
        (0b00_0011, 0, ReceivedChecksum::Unknown),
        (0b10_0011, 1 << 5, ReceivedChecksum::Unknown),
        (0b10_0011, 1 << 6, ReceivedChecksum::Unknown),
    ] {
        card.borrow_mut().deliver_with(&frame(64, 1), status, errors);
        assert_eq!(driver.receive(&mut into).unwrap().tcp_checksum, expected);
    }
}

#[test]
fn the_card_hears_of_emptied_buffers_in_batches() {
    let (mut driver, card) = running();
    let mut into = [0; 2048];
    for _ in 0..15 {
        card.borrow_mut().deliver(&frame(64, 1));
    }
    let before = card.borrow().register_writes;
    for _ in 0..15 {
        assert!(driver.receive(&mut into).is_some());
    }
    assert_eq!(card.borrow().register_writes, before);
    assert!(driver.receive(&mut into).is_none());
    assert_eq!(card.borrow().register_writes, before + 1);
    assert_eq!(card.borrow().register(registers::RDT), 14);
}

#[test]
fn frames_are_sent_across_the_ring_end() {
    let (mut driver, card) = running();
    for round in 0..3 * transmit::DESCRIPTORS {
        driver.transmit(&frame(60 + round, round as u8), Offload::None).unwrap();
    }
    driver.flush();
    let card = card.borrow();
    assert_eq!(card.sent.len(), 3 * transmit::DESCRIPTORS);
    assert!(card.sent.iter().enumerate().all(|(round, sent)| *sent == frame(60 + round, round as u8)));
    assert_eq!(card.contexts_seen, 1);
}

#[test]
fn a_full_transmit_ring_refuses_until_the_card_goes_on() {
    let (mut driver, card) = running();
    card.borrow_mut().transmitter_stuck = true;
    let sent = frame(64, 1);
    let taken = (0..200).take_while(|_| driver.transmit(&sent, Offload::None).is_ok()).count();
    assert!(taken > 100 && taken < transmit::DESCRIPTORS);
    assert_eq!(driver.transmit(&sent, Offload::None), Err(TransmitError::RingFull));
    assert!(!driver.can_transmit());
    card.borrow_mut().transmitter_stuck = false;
    card.borrow_mut().run_transmitter();
    assert!(driver.can_transmit());
    driver.transmit(&sent, Offload::None).unwrap();
    driver.flush();
    assert_eq!(card.borrow().sent.len(), taken + 1);
    assert!(driver.counters().transmit_full >= 3);
}

#[test]
fn the_card_completes_tcp_checksums_with_one_context() {
    let (mut driver, card) = running();
    for payload in [0, 1, 2, 1001, 1460] {
        let frame = tcp_frame(&vec![0x5a; payload], 20 + payload as u16);
        driver.transmit(&frame, Offload::TcpChecksum).unwrap();
    }
    driver.flush();
    let card = card.borrow();
    assert_eq!(card.contexts_seen, 1);
    assert_eq!(card.sent.len(), 5);
    assert!(card.sent.iter().all(|frame| tcp_checksum_is_right(frame)));
}

#[test]
fn frames_that_do_not_suit_the_card_are_refused() {
    let (mut driver, card) = running();
    for (length, offload) in
        [(13, Offload::None), (1515, Offload::None), (53, Offload::TcpChecksum), (1515, Offload::TcpChecksum)]
    {
        assert_eq!(driver.transmit(&vec![0; length], offload), Err(TransmitError::BadFrame));
    }
    driver.flush();
    assert!(card.borrow().sent.is_empty());
}

#[test]
fn the_card_hears_of_frames_in_batches_and_when_flushed() {
    let (mut driver, card) = running();
    let before = card.borrow().register_writes;
    for _ in 0..31 {
        driver.transmit(&frame(64, 1), Offload::None).unwrap();
    }
    assert_eq!(card.borrow().register_writes, before);
    driver.flush();
    driver.flush();
    assert_eq!(card.borrow().register_writes, before + 1);
    assert_eq!(card.borrow().sent.len(), 31);
    for _ in 0..32 {
        driver.transmit(&frame(64, 1), Offload::None).unwrap();
    }
    assert_eq!(card.borrow().sent.len(), 63);
}

#[test]
fn acknowledging_releases_the_line() {
    let (mut driver, card) = running();
    card.borrow_mut().deliver(&frame(64, 1));
    assert_ne!(card.borrow().register(registers::ICR), 0);
    driver.acknowledge_interrupt();
    assert_eq!(card.borrow().register(registers::ICR), 0);
    driver.request_interrupt();
    assert_ne!(card.borrow().register(registers::ICR) & card.borrow().register(registers::IMS), 0);
}

#[test]
fn dropping_the_driver_stops_the_card() {
    let (driver, card) = running();
    drop(driver);
    let card = card.borrow();
    assert_eq!(card.register(registers::RCTL) & 2, 0);
    assert_eq!(card.register(registers::TCTL) & 2, 0);
    assert_eq!(card.register(registers::IMS), 0);
}
