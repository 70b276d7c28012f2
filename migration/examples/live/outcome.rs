//! What came of a migration, for people and programs.

use std::time::Duration;

use godwit_migration::Report;

use super::cases::Case;
use super::guest::Guest;

const MIB: f64 = 1024.0 * 1024.0;

/// The guest at both hosts.
pub(crate) struct Guests {
    pub(crate) source: Guest,
    pub(crate) target: Guest,
}

impl Guests {
    /// From the last page written at the source to the first at the target.
    pub(crate) fn stall(&self) -> Option<Duration> {
        let (last, first) = (self.source.watch.last()?, self.target.watch.first()?);
        Some(first.saturating_sub(last))
    }

    /// The guest's waits for pages, ascending.
    pub(crate) fn waits(&self) -> Vec<Duration> {
        let mut waits = self.target.waits.lock().expect("nobody panics with it").clone();
        waits.sort();
        waits
    }
}

/// See the module.
pub(crate) struct Outcome {
    pub(crate) case: Case,
    /// The report, or why the guest stayed where it was.
    pub(crate) report: Result<Report, String>,
    pub(crate) is_intact: bool,
    /// Of pages that are not zero, at the end.
    pub(crate) ram_used_bytes: u64,
    /// Of a few bytes on the idle wire.
    pub(crate) round_trip: Duration,
    /// The same during the migration, ascending.
    pub(crate) pings: Vec<Duration>,
    /// Pages per second before the migration.
    pub(crate) rate_before: f64,
    /// Pages that the guest wrote from the start of the migration to its end, and how long that was.
    pub(crate) written: u64,
    pub(crate) elapsed: Duration,
    pub(crate) stall: Option<Duration>,
    pub(crate) waits: Vec<Duration>,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Of times in ascending order.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(index).copied().map_or(0.0, ms)
}

impl Outcome {
    fn blocked(&self) -> Duration {
        self.waits.iter().sum()
    }

    fn rate_during(&self) -> f64 {
        self.written as f64 / self.elapsed.as_secs_f64()
    }

    /// Work that the guest would have done in that time and did not.
    fn lost_work_ms(&self) -> f64 {
        let rate = f64::from(self.case.work.pages_per_second);
        ms(self.elapsed) - self.written as f64 / rate * 1000.0
    }

    fn why(&self) -> String {
        match &self.report {
            Err(reason) => reason.clone(),
            Ok(report) => match report.post_copy.and_then(|post_copy| post_copy.why) {
                None => String::new(),
                Some(why) => format!("switched: {why}"),
            },
        }
    }

    pub(crate) fn line(&self) -> String {
        let intact = if self.is_intact { "intact" } else { "NOT INTACT" };
        let rates = format!("{:.0} → {:.0} pages/s", self.rate_before, self.rate_during());
        let Ok(report) = &self.report else {
            return format!("{}: not moved: {}; {intact}, {rates}", self.case.name(), self.why());
        };
        let why = self.why();
        format!(
            "{}: {:.0} ms, down {:.1} ms, stall {:.1} ms, blocked {:.1} ms in {} waits \
             (p50 {:.2}, p99 {:.2}, max {:.2} ms; round trip {:.2}, meanwhile p50 {:.2}, p99 {:.2}), \
             {:.0} MiB on the wire of {:.0} in use, {} rounds, \
             {rates}, lost {:.0} ms of work, throttle {} %, {intact}{}{why}",
            self.case.name(),
            ms(report.total),
            ms(report.downtime.total),
            self.stall.map_or(0.0, ms),
            ms(self.blocked()),
            self.waits.len(),
            percentile(&self.waits, 50),
            percentile(&self.waits, 99),
            percentile(&self.waits, 100),
            ms(self.round_trip),
            percentile(&self.pings, 50),
            percentile(&self.pings, 99),
            (report.bytes_sent + report.bytes_received) as f64 / MIB,
            self.ram_used_bytes as f64 / MIB,
            report.rounds,
            self.lost_work_ms(),
            report.throttle_percent_peak,
            if why.is_empty() { "" } else { "; " },
        )
    }

    pub(crate) fn json(&self) -> String {
        let case = &self.case;
        let head = format!(
            "{{\"name\":\"{}\",\"group\":\"{}\",\"mode\":\"{}\",\"working_set_mib\":{},\"pages_s\":{},\"cap\":{},\
             \"limit_ms\":{},\"compressed\":{},\"wired\":{},\"intact\":{},\"rate_before\":{:.0},\"rate_during\":{:.0},\
             \"lost_work_ms\":{:.1},\"round_trip_ms\":{:.4},\
             \"ping_p50_ms\":{:.4},\"ping_p99_ms\":{:.4},\"ram_used_mib\":{:.1},\"why\":\"{}\"",
            case.name(),
            case.group,
            case.mode.name(),
            case.working_set_mib(),
            case.work.pages_per_second,
            case.cap.unwrap_or(0),
            case.downtime_limit.as_millis(),
            case.compression == godwit_migration::Compression::Adaptive,
            case.wire.is_some(),
            self.is_intact,
            self.rate_before,
            self.rate_during(),
            self.lost_work_ms(),
            ms(self.round_trip),
            percentile(&self.pings, 50),
            percentile(&self.pings, 99),
            self.ram_used_bytes as f64 / MIB,
            self.why(),
        );
        let Ok(report) = &self.report else { return head + ",\"done\":false}" };
        let post_copy = report.post_copy;
        let engine = post_copy.map(|post_copy| post_copy.waits).unwrap_or_default();
        let tail = format!(
            ",\"done\":true,\"total_ms\":{:.1},\"downtime_ms\":{:.3},\"stall_ms\":{:.3},\"blocked_ms\":{:.3},\
             \"waits\":{},\"wait_p50_ms\":{:.4},\"wait_p99_ms\":{:.4},\"wait_max_ms\":{:.4},\
             \"engine_p50_ms\":{:.4},\"engine_p99_ms\":{:.4},\"engine_waits\":{},\
             \"wire_mib\":{:.2},\"rounds\":{},\"stops\":{},\"throttle_percent\":{},\"absent_pages\":{},\"filling_ms\":{:.1}}}",
            ms(report.total),
            ms(report.downtime.total),
            self.stall.map_or(0.0, ms),
            ms(self.blocked()),
            self.waits.len(),
            percentile(&self.waits, 50),
            percentile(&self.waits, 99),
            percentile(&self.waits, 100),
            ms(engine.median),
            ms(engine.p99),
            engine.count,
            (report.bytes_sent + report.bytes_received) as f64 / MIB,
            report.rounds,
            report.stops.count,
            report.throttle_percent_peak,
            post_copy.map_or(0, |post_copy| post_copy.pages),
            post_copy.map_or(0.0, |post_copy| ms(post_copy.filling)),
        );
        head + &tail
    }
}
