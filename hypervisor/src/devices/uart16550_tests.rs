use super::*;
use proptest::prelude::*;

const THR: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCR: u16 = 7;

#[test]
fn reset_state_is_idle_and_ready() {
    let mut uart = Uart16550::new();
    assert_eq!(uart.read(IIR), 0x01);
    assert_eq!(uart.read(LSR), 0x60);
    assert_eq!(uart.read(MSR), 0xb0);
    assert!(!uart.interrupt_level());
}

/// The probes of Linux's 8250 driver, in its order, end at a plain 16550A.
#[test]
fn linux_autoconfiguration_finds_a_16550a() {
    let mut uart = Uart16550::new();
    uart.write(IER, 0);
    assert_eq!(uart.read(IER) & 0x0f, 0);
    uart.write(IER, 0x0f);
    assert_eq!(uart.read(IER), 0x0f);
    uart.write(IER, 0xff);
    assert_eq!(uart.read(IER), 0x0f, "bit 6 must not stick or it looks like an XScale");
    uart.write(IER, 0);
    uart.write(MCR, 0x1a);
    assert_eq!(uart.read(MSR) & 0xf0, 0x90, "loopback of RTS and OUT2");
    uart.write(MCR, 0x08);
    uart.write(LCR, 0xbf);
    uart.write(FCR, 0);
    uart.write(LCR, 0);
    uart.write(FCR, 0x01);
    assert_eq!(uart.read(IIR) >> 6, 3);
    uart.write(LCR, 0x80);
    assert_ne!(uart.read(IIR), 0, "zero here looks like a 16650's EFR");
    uart.write(FCR, 0x21);
    assert_eq!(uart.read(IIR) >> 5, 6, "bit 5 set looks like a 16750");
    uart.write(LCR, 0);
    uart.write(SCR, 0xa5);
    assert_eq!(uart.read(SCR), 0xa5);
}

/// Linux's test for parts that do not raise THRE again when it is enabled a second time.
#[test]
fn enabling_the_empty_interrupt_raises_it_each_time() {
    let mut uart = Uart16550::new();
    for _ in 0..2 {
        uart.write(IER, 0x02);
        assert!(uart.interrupt_level());
        assert_eq!(uart.read(IIR), 0x02);
        assert_eq!(uart.read(IIR), 0x01, "reading it clears it");
        uart.write(IER, 0);
    }
}

#[test]
fn a_byte_sent_reaches_the_host_and_raises_empty_again() {
    let mut uart = Uart16550::new();
    uart.write(IER, 0x02);
    uart.read(IIR);
    assert!(!uart.interrupt_level());
    uart.write(THR, b'x');
    assert!(uart.interrupt_level());
    let mut out = [0; 4];
    assert_eq!(uart.take(&mut out), 1);
    assert_eq!(out[0], b'x');
}

#[test]
fn a_full_queue_holds_the_guest_back_until_the_host_takes() {
    let mut uart = Uart16550::new();
    let mut sent = 0;
    while uart.read(LSR) & 0x20 != 0 {
        for _ in 0..FIFO_BYTES {
            uart.write(THR, b'a');
            sent += 1;
        }
        assert!(sent <= TRANSMIT_QUEUE_BYTES);
    }
    uart.write(IER, 0x02);
    assert!(!uart.interrupt_level(), "no room, so no promise of room");
    for _ in 0..100 {
        uart.write(THR, b'b');
    }
    let mut out = [0; TRANSMIT_QUEUE_BYTES];
    assert_eq!(uart.take(&mut out), TRANSMIT_QUEUE_BYTES);
    assert_eq!(out[..sent].iter().filter(|byte| **byte == b'a').count(), sent);
    assert!(uart.interrupt_level());
    assert_eq!(uart.read(LSR) & 0x60, 0x60);
}

#[test]
fn received_bytes_interrupt_by_trigger_level_or_time_out() {
    let mut uart = Uart16550::new();
    uart.write(FCR, 0x81);
    uart.write(IER, 0x01);
    assert_eq!(uart.feed(b"ab"), 2);
    assert_eq!(uart.read(IIR) & 0x0f, 0x0c);
    assert_eq!(uart.feed(b"cdefgh"), 6);
    assert_eq!(uart.read(IIR) & 0x0f, 0x04);
    for expected in b"abcdefgh" {
        assert_eq!(uart.read(LSR) & 1, 1);
        assert_eq!(uart.read(0), *expected);
    }
    assert_eq!(uart.read(LSR) & 1, 0);
    assert!(!uart.interrupt_level());
}

#[test]
fn input_beyond_the_queue_is_refused_not_lost() {
    let mut uart = Uart16550::new();
    assert_eq!(uart.feed(&[7; 1000]), RECEIVE_QUEUE_BYTES);
    assert_eq!(uart.feed(&[7; 1000]), 0);
    uart.read(0);
    assert_eq!(uart.feed(&[7; 1000]), 1);
}

#[test]
fn loopback_returns_bytes_and_reports_overrun() {
    let mut uart = Uart16550::new();
    uart.write(MCR, 0x10);
    uart.write(THR, 0x55);
    assert_eq!(uart.waiting(), 0);
    uart.write(THR, 0x66);
    assert_eq!(uart.read(LSR) & 0x03, 0x03);
    assert_eq!(uart.read(LSR) & 0x02, 0, "reading clears overrun");
    assert_eq!(uart.read(0), 0x55);
}

#[test]
fn the_interrupt_line_is_gated_by_out2() {
    let mut uart = Uart16550::new();
    uart.write(IER, 0x02);
    assert!(uart.interrupt_level());
    uart.write(MCR, 0);
    assert!(!uart.interrupt_level());
}

#[test]
fn the_divisor_latch_hides_data_and_enable() {
    let mut uart = Uart16550::new();
    uart.write(LCR, 0x83);
    uart.write(0, 0x34);
    uart.write(1, 0x12);
    assert_eq!((uart.read(0), uart.read(1)), (0x34, 0x12));
    uart.write(LCR, 0x03);
    assert_eq!(uart.read(IER), 0);
    assert_eq!(uart.waiting(), 0);
}

#[test]
fn restore_refuses_what_no_port_can_be() {
    let good = Uart16550::new().save();
    let bad = UartState { transmit: alloc::vec![0; TRANSMIT_QUEUE_BYTES + 1], ..good.clone() };
    assert_eq!(Uart16550::restore(&bad).err(), Some("uart.transmit"));
    let bad = UartState { interrupt_enable: 0xf0, ..good };
    assert_eq!(Uart16550::restore(&bad).err(), Some("uart.interrupt_enable"));
}

proptest! {
    #[test]
    fn any_script_is_survived_and_saved(script in prop::collection::vec((0u16..16, any::<u8>(), any::<bool>()), 0..200)) {
        let mut uart = Uart16550::new();
        for (offset, value, write) in script {
            if write {
                uart.write(offset, value);
            } else {
                uart.read(offset);
            }
            uart.feed(&[value]);
        }
        let mut copy = Uart16550::restore(&uart.save()).unwrap();
        prop_assert_eq!(copy.interrupt_level(), uart.interrupt_level());
        for offset in 0..8 {
            prop_assert_eq!(copy.read(offset), uart.read(offset));
        }
    }
}
