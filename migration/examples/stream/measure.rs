//! What a run cost.

use std::time::Instant;

use godwit_migration::{Compression, PAGE_BYTES, Report, is_zero};

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;
/// The kernel's USER_HZ, the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What this machine can do at most.
pub(crate) struct Reference {
    pub(crate) memcpy_mib_s: f64,
    pub(crate) zero_scan_mib_s: f64,
}

impl Reference {
    pub(crate) fn json(&self) -> String {
        let Self { memcpy_mib_s, zero_scan_mib_s } = self;
        format!("\"memcpy_mib_s\":{memcpy_mib_s:.0},\"zero_scan_mib_s\":{zero_scan_mib_s:.0}")
    }
}

/// Measures memcpy of, and a scan for zero pages over, the image.
pub(crate) fn reference(image: &[u8]) -> Reference {
    let part = &image[..image.len().min(512 << 20)];
    // From page to page: a copy a few bytes off the source's place in its page takes several times as long on some
    // processors, and would say nothing of copying pages.
    let mut copy = vec![1u8; part.len() + PAGE_BYTES];
    let gap = copy.as_ptr().align_offset(PAGE_BYTES);
    let copy = &mut copy[gap..gap + part.len()];
    let rate = |mut work: Box<dyn FnMut() + '_>| {
        let best = (0..3).map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        });
        part.len() as f64 / MIB / best.fold(f64::MAX, f64::min)
    };
    let memcpy_mib_s = rate(Box::new(|| {
        copy.copy_from_slice(part);
        std::hint::black_box(&*copy);
    }));
    let (pages, _) = part.as_chunks();
    let zero_scan_mib_s = rate(Box::new(|| {
        std::hint::black_box(pages.iter().filter(|page| is_zero(page)).count());
    }));
    Reference { memcpy_mib_s, zero_scan_mib_s }
}

/// User and system CPU seconds of this process so far.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks =
        |index: usize| fields.split_whitespace().nth(index).and_then(|field| field.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_SECOND
}

/// Bytes that the loopback has received so far.
pub(crate) fn loopback_bytes() -> u64 {
    let table = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = table.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// One migration.
pub(crate) struct Run {
    pub(crate) mode: Compression,
    pub(crate) ram_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_source: f64,
    pub(crate) cpu_target: f64,
    pub(crate) lo_bytes: u64,
    pub(crate) report: Report,
    pub(crate) is_equal: bool,
}

impl Run {
    fn name(&self) -> &'static str {
        match self.mode {
            Compression::Off => "plain",
            Compression::Adaptive => "compressed",
        }
    }

    fn cpu_per_gib(&self) -> f64 {
        (self.cpu_source + self.cpu_target) / (self.ram_bytes as f64 / GIB)
    }

    fn wire_mib(&self) -> f64 {
        (self.report.bytes_sent + self.report.bytes_received) as f64 / MIB
    }

    pub(crate) fn line(&self) -> String {
        let pages = &self.report.pages;
        format!(
            "{}: {:.2} CPU s per GiB (source {:.2} s, target {:.2} s), {:.1} MiB on the wire (lo {:.1}), {:.0} ms; \
             pages: {} zero, {} raw, {} compressed, {} referenced; digest verified, RAM equal: {}",
            self.name(),
            self.cpu_per_gib(),
            self.cpu_source,
            self.cpu_target,
            self.wire_mib(),
            self.lo_bytes as f64 / MIB,
            self.seconds * 1000.0,
            pages.zero,
            pages.raw,
            pages.compressed,
            pages.referenced,
            self.is_equal,
        )
    }

    pub(crate) fn json(&self) -> String {
        let pages = &self.report.pages;
        format!(
            "{{\"mode\":\"{}\",\"ram_mib\":{:.0},\"cpu_s_per_gib\":{:.3},\"cpu_source_s\":{:.2},\
             \"cpu_target_s\":{:.2},\"wire_mib\":{:.1},\"lo_mib\":{:.1},\"total_ms\":{:.0},\"downtime_ms\":{:.2},\
             \"pages_zero\":{},\"pages_raw\":{},\"pages_compressed\":{},\"pages_referenced\":{},\
             \"digest\":\"{:016x}\",\"ram_equal\":{}}}",
            self.name(),
            self.ram_bytes as f64 / MIB,
            self.cpu_per_gib(),
            self.cpu_source,
            self.cpu_target,
            self.wire_mib(),
            self.lo_bytes as f64 / MIB,
            self.seconds * 1000.0,
            self.report.downtime.total.as_secs_f64() * 1000.0,
            pages.zero,
            pages.raw,
            pages.compressed,
            pages.referenced,
            self.report.digest,
            self.is_equal,
        )
    }
}
