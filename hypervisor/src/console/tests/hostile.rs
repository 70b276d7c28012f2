//! Random bytes from the person, the guest and the serial line change nothing but the screen.

use alloc::vec::Vec;
use core::time::Duration;

use proptest::prelude::*;

use super::fake::FakeHost;
use crate::console::row::COLUMNS;
use crate::console::{ByteSink, Console};

/// A serial line that takes a few bytes, or none.
struct Slow {
    capacity: usize,
    taken: usize,
}

impl ByteSink for Slow {
    fn send(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.capacity);
        self.capacity -= taken;
        self.taken += taken;
        taken
    }
}

/// Bytes that are likely to mean something, and any others.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(alloc::vec![
        "vm ",
        "start ",
        "console ",
        "linux",
        "migrate ",
        "set ",
        "b",
        "help",
        "log 500",
        "ping b",
        "\r",
        "\n",
        "\t",
        "\x1b[A",
        "\x1b[D",
        "\x1b[3~",
        "\x1b[",
        "\x1d",
        "\x1d.",
        "\x03",
        "\x17",
        "'",
        "reboot force\r",
        "vm console linux\r",
        "migrate linux b\r",
        "clear\r",
    ]);
    let piece = prop_oneof![
        3 => word.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(b' '..=b'~', 0..120),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_are_survived(
        bytes in keys(),
        output in prop::collection::vec(any::<u8>(), 0..2_000),
        pace in 1_usize..64,
        capacity in 0_usize..400,
    ) {
        let (mut console, mut host) = (Console::new("a"), FakeHost::default());
        host.output.push(("linux".into(), output.into_iter().collect()));
        host.appetite = pace % 3;
        for (step, piece) in bytes.chunks(pace).enumerate() {
            let now = Duration::from_millis(step as u64 * 7);
            prop_assert!(console.input(piece) <= piece.len());
            let mut line = Slow { capacity, taken: 0 };
            console.poll(now, &mut host, &mut line);
            prop_assert!(line.taken <= capacity);
            prop_assert!(console.footprint() < 400 * 1024, "{}", console.footprint());
        }
    }

    #[test]
    fn the_row_never_reaches_the_last_column(bytes in prop::collection::vec(b' '..=b'~', 0..700)) {
        let (mut console, mut host) = (Console::new("a"), FakeHost::default());
        let mut terminal = super::person::Terminal::default();
        for piece in bytes.chunks(97) {
            console.input(piece);
            console.poll(Duration::ZERO, &mut host, &mut terminal);
        }
        prop_assert!(terminal.row_width() <= COLUMNS);
    }
}

#[test]
fn a_line_that_takes_nothing_bounds_what_waits() {
    struct Stuck;
    impl ByteSink for Stuck {
        fn send(&mut self, _bytes: &[u8]) -> usize {
            0
        }
    }
    let (mut console, mut host) = (Console::new("a"), FakeHost::default());
    for _ in 0..5_000 {
        console.input(b"help\r");
        console.poll(Duration::ZERO, &mut host, &mut Stuck);
    }
    assert!(console.footprint() < 400 * 1024, "{}", console.footprint());
    let mut terminal = super::person::Terminal::default();
    console.poll(Duration::ZERO, &mut host, &mut terminal);
    let shown = alloc::string::String::from_utf8(terminal.raw).unwrap();
    assert!(shown.ends_with("[cut: too much output for this line]\r\n"));
}
