//! Figures as the console prints them (`hypervisor/src/console/format.rs`), read back.

use std::time::Duration;

/// `41 ms`, `12.3 s`, `4 min 10 s`.
pub fn span(text: &str) -> Option<Duration> {
    let mut words = text.split_whitespace();
    let mut total = Duration::ZERO;
    while let Some(number) = words.next() {
        let number: f64 = number.parse().ok()?;
        let unit = match words.next()? {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * unit).ok()?;
    }
    Some(total)
}

/// `38.2 MiB`, in bytes; as exact as three digits can be.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let power = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|&known| known == unit)?;
    let number: f64 = number.parse().ok()?;
    Some((number * 1_024_f64.powi(i32::try_from(power).ok()?)) as u64)
}

/// The number that follows `name` and `=` in `text`.
pub fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let prefix = format!("{name}=");
    text.split_whitespace().find_map(|word| word.strip_prefix(prefix.as_str()))
}

/// A guest's exits, as `vm info` prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// All of them.
    pub total: u64,
    /// The guest has been running for so long by its own clock.
    pub uptime: Duration,
    /// By cause, the most frequent first.
    pub by_cause: Vec<(String, u64)>,
}

impl Exits {
    /// Reads them from what `vm info` printed.
    pub fn parse(info: &str) -> Option<Self> {
        let uptime = info.lines().find_map(|line| span(line.strip_prefix("uptime ")?))?;
        let mut lines = info.lines().skip_while(|line| !line.starts_with("VM exits "));
        let total = lines.next()?.strip_prefix("VM exits ")?.trim().parse().ok()?;
        let causes = lines.map_while(|line| {
            let (cause, count) = line.strip_prefix("  ")?.trim().rsplit_once(' ')?;
            Some((cause.trim().to_owned(), count.parse().ok()?))
        });
        Some(Self { total, uptime, by_cause: causes.collect() })
    }

    /// What has come since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |cause: &str| earlier.by_cause.iter().find(|(name, _)| name == cause);
        let news = |(cause, count): &(String, u64)| {
            let count = count.saturating_sub(before(cause).map_or(0, |(_, count)| *count));
            (count > 0).then(|| (cause.clone(), count))
        };
        let mut by_cause: Vec<_> = self.by_cause.iter().filter_map(news).collect();
        by_cause.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self {
            total: self.total.saturating_sub(earlier.total),
            uptime: self.uptime.saturating_sub(earlier.uptime),
            by_cause,
        }
    }

    /// `port 12, CPUID 3`.
    #[must_use]
    pub fn causes(&self) -> String {
        let causes: Vec<_> = self.by_cause.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        causes.join(", ")
    }
}

/// The last line of a migration at its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The line.
    pub line: String,
    /// From the command to the guest's release.
    pub total: Duration,
    /// The guest's standstill.
    pub downtime: Duration,
    /// Rounds of pre-copy.
    pub rounds: u32,
    /// On the wire.
    pub sent_bytes: u64,
    /// Pages sent after the stun.
    pub pages_in_downtime: u64,
    /// What the lines before say: pages by kind, the downtime's causes, the digest.
    pub details: String,
}

impl Moved {
    /// Reads the lines that a migration ends with; `line` is the last, `before` what came before it.
    pub fn parse(before: &str, line: &str) -> Option<Self> {
        let field = |name: &str| {
            let rest = &line[line.find(name)? + name.len()..];
            Some(rest.split(',').next()?.trim())
        };
        let start = before.find("pages: ")?;
        let details = before[start..].trim_end().to_owned();
        let in_downtime = details.lines().next()?.rsplit(';').next()?;
        line.ends_with("verified").then_some(())?;
        Some(Self {
            line: line.to_owned(),
            total: span(field("total ")?)?,
            downtime: span(field("downtime ")?)?,
            rounds: field("rounds ")?.parse().ok()?,
            sent_bytes: bytes(field("sent ")?)?,
            pages_in_downtime: in_downtime.split_whitespace().next()?.parse().ok()?,
            details,
        })
    }

    /// One cause of the downtime: `verify`, `commit`, …
    #[must_use]
    pub fn part(&self, name: &str) -> Option<Duration> {
        self.span_after(&format!(" + {name} "))
    }

    /// Half of the times that the guest waited for a page were at most this.
    #[must_use]
    pub fn median_wait(&self) -> Option<Duration> {
        self.span_after("waits: p50 ")
    }

    /// 99 of 100 of them.
    #[must_use]
    pub fn tail_wait(&self) -> Option<Duration> {
        self.span_after(", p99 ")
    }

    /// The longest of them.
    #[must_use]
    pub fn longest_wait(&self) -> Option<Duration> {
        self.span_after(", max ")
    }

    /// From the switch until all memory was there.
    #[must_use]
    pub fn last_page_after(&self) -> Option<Duration> {
        self.span_after("last page after ")
    }

    fn span_after(&self, text: &str) -> Option<Duration> {
        let (_, rest) = self.details.split_once(text)?;
        span(rest.split([',', ';', '+', '\n']).next()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_in_all_units() {
        for (text, seconds) in [("4.1 ms", 0.0041), ("12.3 s", 12.3), ("4 min 10 s", 250.0), ("0 us", 0.0)] {
            assert!((span(text).unwrap().as_secs_f64() - seconds).abs() < 1e-9, "{text}");
        }
        assert_eq!(span("soon"), None);
    }

    #[test]
    fn sizes_are_read_in_all_units() {
        assert_eq!(bytes("999 B"), Some(999));
        assert_eq!(bytes("1.50 KiB"), Some(1_536));
        assert_eq!(bytes("38.2 MB"), None);
    }

    #[test]
    fn values_are_found_by_name() {
        assert_eq!(value("guest: ready uptime=12.34 tsc_ready=99", "uptime"), Some("12.34"));
        assert_eq!(value("uptime", "uptime"), None);
    }

    #[test]
    fn exits_are_read_and_compared() {
        let info = |total, port, halts| {
            format!(
                "name          linux\nuptime        12.5 s\nVM exits      {total}\n  \
                 I/O instruction               {port}\n  HLT                            {halts}\n"
            )
        };
        let before = Exits::parse(&info(30, 20, 10)).unwrap();
        assert_eq!(before.causes(), "I/O instruction 20, HLT 10");
        let mut after = Exits::parse(&info(37, 20, 17)).unwrap();
        after.uptime += Duration::from_secs(2);
        let news = after.since(&before);
        assert_eq!((news.total, news.uptime, news.causes()), (7, Duration::from_secs(2), "HLT 7".to_owned()));
        assert_eq!(Exits::parse("error: no guest"), None);
    }

    #[test]
    fn the_end_of_a_migration_is_read() {
        let before = "pre-copy 2: sent 30.0 MiB\n\
            pages: 23558 zero, 210 whole, 9000 compressed, 120 known, 11 unchanged; 41 while stopped\n\
            downtime: 41 ms = pause 1.0 ms + dirty log 2.0 ms + last pages 10 ms\n\
            \x20 + devices 1.5 ms + verify 20 ms + commit 6.0 ms\n\
            digest: 0123456789abcdef at both ends\n\
            after the switch: 8192 pages, as was asked for\n\
            \x20 last page after 4.2 s; the guest waited 59 times\n\
            \x20 waits: p50 58 ms, p99 508 ms, max 508 ms, 3.9 s in all\n";
        let line = "linux moved to b: total 12.3 s, downtime 41 ms, rounds 4, sent 38.2 MiB, verified";
        let moved = Moved::parse(before, line).unwrap();
        assert_eq!((moved.rounds, moved.pages_in_downtime), (4, 41));
        assert_eq!(moved.downtime, Duration::from_millis(41));
        assert!(moved.details.starts_with("pages: ") && moved.details.ends_with("in all"));
        let parts = ["last pages", "verify", "commit"].map(|name| moved.part(name).unwrap().as_millis());
        assert_eq!((parts, moved.part("lunch")), ([10, 20, 6], None));
        let ms = |millis| Some(Duration::from_millis(millis));
        assert_eq!(
            (moved.median_wait(), moved.tail_wait(), moved.longest_wait()),
            (ms(58), ms(508), ms(508))
        );
        assert_eq!(moved.last_page_after(), ms(4_200));
        assert_eq!(Moved::parse(before, &line.replace(", verified", "")), None);
        let after_two_in_vain = line.replace("rounds 4", "stops 3, rounds 4");
        let before = format!(
            "{before}stops: 3, 642 ms in all, the longest 301 ms; called back: 2 too late for the commit\n"
        );
        let moved = Moved::parse(&before, &after_two_in_vain).unwrap();
        assert_eq!((moved.rounds, moved.downtime), (4, Duration::from_millis(41)));
    }
}
