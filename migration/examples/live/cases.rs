//! What is moved, and over what.

use std::time::Duration;

use godwit_migration::{Compression, Mode};

use super::guest::Work;
use super::wire::Wire;

const SLOW: u64 = 100_000_000;
const FAST: u64 = 1_000_000_000;
const PAGES_OF_A_MIB: u32 = 256;

/// One migration.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) group: &'static str,
    pub(crate) mode: Mode,
    pub(crate) work: Work,
    /// The engine's own cap.
    pub(crate) cap: Option<u64>,
    pub(crate) downtime_limit: Duration,
    pub(crate) compression: Compression,
    /// Between the two hosts; nothing but the loopback otherwise.
    pub(crate) wire: Option<Wire>,
}

impl Case {
    /// The live cases of the comparison with QEMU, and their names but for the mode.
    fn like_qemu(mode: Mode, mib: u32, pages_per_second: u32, cap: u64, limit_ms: u64) -> Self {
        let work = Work {
            pages: mib * PAGES_OF_A_MIB,
            pages_per_second,
            is_scattered: false,
            catch_up: Duration::from_millis(20),
        };
        Self {
            group: "qemu",
            mode,
            work,
            cap: Some(cap),
            downtime_limit: Duration::from_millis(limit_ms),
            compression: Compression::Adaptive,
            wire: None,
        }
    }

    /// All modes over one wire of 100 MB/s whose round trip takes 2 ms, with a guest that makes no time good that it
    /// stood still.
    fn on_a_wire(mode: Mode, mib: u32, is_scattered: bool) -> Self {
        let like = Self::like_qemu(mode, mib, 40_000, SLOW, 300);
        let wire = Wire {
            bytes_per_second: SLOW,
            one_way: Duration::from_millis(1),
            queue: Duration::from_millis(4),
        };
        let work = Work { is_scattered, catch_up: Duration::from_millis(2), ..like.work };
        let group = if is_scattered { "faults" } else { "wire" };
        Self { group, work, cap: None, wire: Some(wire), ..like }
    }

    pub(crate) fn working_set_mib(&self) -> u32 {
        self.work.pages / PAGES_OF_A_MIB
    }

    pub(crate) fn name(&self) -> String {
        let over = match (self.wire, self.cap) {
            (Some(wire), _) => format!(
                "wire of {} MB/s and {} ms",
                wire.bytes_per_second / 1_000_000,
                (wire.one_way * 2).as_millis()
            ),
            (None, Some(cap)) => format!("cap {} MB/s", cap / 1_000_000),
            (None, None) => "no cap".into(),
        };
        format!(
            "{}, W {} MiB, {}k pages/s{}, {over}, limit {} ms{}",
            self.mode.name(),
            self.working_set_mib(),
            self.work.pages_per_second / 1000,
            if self.work.is_scattered { " all over" } else { "" },
            self.downtime_limit.as_millis(),
            if self.compression == Compression::Off { ", plain" } else { "" },
        )
    }
}

pub(crate) fn all() -> Vec<Case> {
    let sets = [8, 64, 192];
    let mut cases = Vec::new();
    for (rate, cap, limits) in
        [(10_000, SLOW, &[300, 30][..]), (40_000, FAST, &[300, 30]), (40_000, SLOW, &[300])]
    {
        for limit in limits {
            cases.extend(sets.map(|mib| Case::like_qemu(Mode::Auto, mib, rate, cap, *limit)));
        }
    }
    for mode in [Mode::PreCopy, Mode::Hybrid, Mode::PostCopy] {
        cases.extend(sets.map(|mib| Case::like_qemu(mode, mib, 40_000, SLOW, 300)));
    }
    // 5, 25 and 75 % of 256 MiB.
    for mib in [13, 64, 192] {
        cases.extend(
            [Mode::PreCopy, Mode::Hybrid, Mode::PostCopy, Mode::Auto]
                .map(|mode| Case::on_a_wire(mode, mib, false)),
        );
    }
    for mode in [Mode::Hybrid, Mode::PostCopy] {
        let compressed = Case::on_a_wire(mode, 64, false);
        cases.push(Case { compression: Compression::Off, ..compressed });
        cases.push(Case::on_a_wire(mode, 192, true));
        cases.push(Case { wire: None, cap: Some(SLOW), ..Case::on_a_wire(mode, 192, true) });
    }
    cases
}
