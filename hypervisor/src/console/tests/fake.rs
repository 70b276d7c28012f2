//! A pretended machine: host `a` with the guests `linux` and `idle`, and the peers `b` and `far`.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use godwit_migration::{Downtime, PageCounts, Phase, Purpose, Status, Stops};

use crate::console::view::{
    AddressSource, CountersView, CpuState, CpuView, Decision, GuestState, GuestView, HeapView, LinkView,
    LoadView, LogLine, MachineView, MemView, MigrationPort, MigrationView, NetView, PciView, PeerView, Side,
    StackView, VersionView, VmxView,
};
use crate::console::{ActionError, Capability, Host, Notice, PingEvent, Tuning};

/// All that a test can set and look at.
pub(super) struct FakeHost {
    pub(super) guests: Vec<GuestView>,
    pub(super) migrations: Vec<MigrationView>,
    pub(super) notices: VecDeque<Notice>,
    pub(super) log_lines: VecDeque<LogLine>,
    pub(super) output: Vec<(String, VecDeque<u8>)>,
    pub(super) typed: Vec<u8>,
    /// How many bytes the guest takes of what is typed.
    pub(super) appetite: usize,
    pub(super) net: Option<NetView>,
    pub(super) vmx: VmxView,
    pub(super) pings: VecDeque<PingEvent>,
    pub(super) problems: Vec<String>,
    /// What was asked, in words.
    pub(super) asked: Vec<String>,
}

/// A guest of 128 MiB.
pub(super) fn guest(name: &str, state: GuestState) -> GuestView {
    GuestView {
        name: name.to_string(),
        state,
        reason: None,
        memory_bytes: 128 << 20,
        vcpus: 1,
        cpu: (state == GuestState::Running).then_some(1),
        uptime: Duration::from_millis(12_300),
        entered: Some(Duration::from_millis(2_500)),
        exits: 4_711,
        exits_by_cause: vec![("external interrupt", 4_000), ("CPUID", 711)],
        kernel: "vmlinuz".into(),
        command_line: "console=ttyS0 quiet".into(),
        absent_pages: 0,
        absent_are_lost: false,
        waits: Vec::new(),
        arrived_from: None,
    }
}

/// `linux` on its way to `b`.
pub(in super::super) fn migration(phase: Phase, round: u32, sent_mib: u64) -> MigrationView {
    let status = Status {
        phase,
        round,
        pages_total: 32_768,
        pages_left: 3_072,
        pages: PageCounts::default(),
        bytes_sent: sent_mib << 20,
        bytes_received: 80,
        dirty_pages_per_second: 100,
        bytes_per_second: 9 << 20,
        throttle_percent: 0,
        downtime_estimate: Some(Duration::from_millis(250)),
        remaining_estimate: Some(Duration::from_millis(1_300)),
        elapsed: Duration::from_secs(4),
        downtime: Downtime::default(),
        stops: Stops::default(),
        judgement: None,
        post_copy: None,
    };
    MigrationView {
        mode: godwit_migration::Mode::Auto,
        guest: "linux".into(),
        copy: None,
        peer: "b".into(),
        third: None,
        side: Side::Source,
        status,
        bandwidth_limit: None,
        downtime_limit: Duration::from_millis(300),
    }
}

/// A log line.
pub(super) fn log_line(level: log::Level, text: &str) -> LogLine {
    LogLine { at: Duration::from_millis(1_234), level, text: text.into() }
}

impl Default for FakeHost {
    fn default() -> Self {
        let net = NetView {
            driver: "e1000",
            mac: [0x52, 0x54, 0, 0, 0, 1],
            link: LinkView::Up(Some(1_000)),
            address: Some((Ipv4Addr::new(10, 0, 0, 1), 24)),
            source: AddressSource::Configured,
            gateway: None,
            sent: CountersView { frames: 12, bytes: 3_000, dropped: 0 },
            received: CountersView { frames: 20, bytes: 9_000, dropped: 1 },
            streams: vec![],
            migration_port: MigrationPort::Closed,
        };
        Self {
            guests: vec![guest("linux", GuestState::Running), guest("idle", GuestState::Stopped)],
            migrations: vec![],
            notices: VecDeque::new(),
            log_lines: VecDeque::new(),
            output: vec![],
            typed: vec![],
            appetite: usize::MAX,
            net: Some(net),
            vmx: VmxView::Ready(vec!["EPT", "PML"]),
            pings: VecDeque::new(),
            problems: vec![],
            asked: vec![],
        }
    }
}

impl FakeHost {
    /// The guest writes to its serial port.
    pub(super) fn guest_writes(&mut self, name: &str, text: &str) {
        if !self.output.iter().any(|(guest, _)| guest == name) {
            self.output.push((name.to_string(), VecDeque::new()));
        }
        for (guest, bytes) in &mut self.output {
            if guest == name {
                bytes.extend(text.as_bytes());
            }
        }
    }

    fn change(&mut self, name: &str, action: &'static str, state: GuestState) -> Result<(), ActionError> {
        self.asked.push(alloc::format!("{action} {name}"));
        let guest = self.guests.iter_mut().find(|guest| guest.name == name);
        let guest = guest.ok_or_else(|| ActionError::NoSuchGuest(name.to_string()))?;
        if guest.state == state {
            return Err(ActionError::WrongState { guest: name.to_string(), state, action });
        }
        guest.state = state;
        Ok(())
    }
}

fn take(bytes: &mut VecDeque<u8>, into: &mut [u8]) -> usize {
    let length = bytes.len().min(into.len());
    for (to, from) in into.iter_mut().zip(bytes.drain(..length)) {
        *to = from;
    }
    length
}

impl Host for FakeHost {
    fn name(&self) -> &str {
        "a"
    }

    fn version(&self) -> VersionView {
        VersionView { version: "0.1.0", profile: "debug", uptime: Duration::from_secs(75) }
    }

    fn problems(&self) -> Vec<String> {
        self.problems.clone()
    }

    fn guests(&self) -> Vec<GuestView> {
        self.guests.clone()
    }

    fn start(&mut self, guest: &str) -> Result<(), ActionError> {
        self.change(guest, "start", GuestState::Running)
    }

    fn stop(&mut self, guest: &str) -> Result<(), ActionError> {
        self.change(guest, "stop", GuestState::Stopped)
    }

    fn pause(&mut self, guest: &str) -> Result<(), ActionError> {
        self.change(guest, "pause", GuestState::Paused)
    }

    fn resume(&mut self, guest: &str) -> Result<(), ActionError> {
        self.change(guest, "resume", GuestState::Running)
    }

    fn guest_output(&mut self, guest: &str, into: &mut [u8]) -> usize {
        let output = self.output.iter_mut().find(|(name, _)| name == guest);
        output.map_or(0, |(_, bytes)| take(bytes, into))
    }

    fn next_guest_output(&mut self, except: Option<&str>, into: &mut [u8]) -> Option<(String, usize)> {
        let mut others = self.output.iter_mut().filter(|(name, _)| Some(name.as_str()) != except);
        let (name, bytes) = others.find(|(_, bytes)| !bytes.is_empty())?;
        Some((name.clone(), take(bytes, into)))
    }

    fn guest_input(&mut self, _guest: &str, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.appetite);
        self.typed.extend_from_slice(&bytes[..taken]);
        taken
    }

    fn peers(&self) -> Vec<PeerView> {
        let peer = |name: &str, last| PeerView {
            name: name.to_string(),
            address: core::net::SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 7100),
        };
        vec![peer("b", 2), peer("far", 77)]
    }

    fn recover(&mut self, guest: &str, peer: Option<&str>) -> Result<(), ActionError> {
        self.asked.push(alloc::format!("recover {guest} {peer:?}"));
        Ok(())
    }

    fn migrate(
        &mut self,
        guest: &str,
        peer: &str,
        tunings: &[Tuning],
        purpose: Purpose,
        spool: Option<&str>,
    ) -> Result<(), ActionError> {
        if purpose == Purpose::Estimate {
            self.asked.push(alloc::format!("estimate {guest} {peer}"));
            return Ok(());
        }
        let with = if tunings.is_empty() { String::new() } else { alloc::format!(" {tunings:?}") };
        let with = spool.map_or(with.clone(), |spool| alloc::format!("{with} and {spool}"));
        self.asked.push(alloc::format!("migrate {guest} {peer}{with}"));
        if !self.migrations.is_empty() {
            return Err(ActionError::AlreadyMigrating(guest.to_string()));
        }
        self.migrations.push(migration(Phase::Connecting, 0, 0));
        Ok(())
    }

    fn clone_guest(
        &mut self,
        guest: &str,
        peer: &str,
        copy: &str,
        tunings: &[Tuning],
    ) -> Result<(), ActionError> {
        self.asked.push(alloc::format!("clone {guest} {peer} {copy} {tunings:?}"));
        let view = migration(Phase::Connecting, 0, 0);
        self.migrations.push(MigrationView { copy: Some(copy.to_string()), ..view });
        Ok(())
    }

    fn migrations(&self) -> Vec<MigrationView> {
        self.migrations.clone()
    }

    fn cancel(&mut self, guest: &str) -> Result<(), ActionError> {
        self.asked.push(alloc::format!("cancel {guest}"));
        Ok(())
    }

    fn decide(&mut self, guest: &str, decision: Decision) -> Result<(), ActionError> {
        self.asked.push(alloc::format!("{decision:?} {guest}"));
        Ok(())
    }

    fn tune(&mut self, guest: Option<&str>, tuning: Tuning) -> Result<(), ActionError> {
        self.asked.push(alloc::format!("tune {guest:?} {tuning:?}"));
        Ok(())
    }

    fn network(&mut self) -> Result<NetView, ActionError> {
        self.net.clone().ok_or_else(|| ActionError::Unavailable {
            capability: Capability::Network,
            why: "no network card was found".into(),
        })
    }

    fn ping(&mut self, address: Ipv4Addr, requests: u16) -> Result<(), ActionError> {
        self.asked.push(alloc::format!("ping {address} {requests}"));
        Ok(())
    }

    fn next_ping_event(&mut self) -> Option<PingEvent> {
        self.pings.pop_front()
    }

    fn stop_ping(&mut self) {
        self.asked.push("stop ping".into());
    }

    fn memory(&self) -> MemView {
        MemView {
            total_bytes: 512 << 20,
            free_bytes: 360 << 20,
            hypervisor_bytes: 24 << 20,
            guest_bytes: 128 << 20,
            file_bytes: 12 << 20,
            heap: HeapView { used_bytes: 1 << 20, total_bytes: 8 << 20, spare_bytes: 5 << 20 },
            stacks: StackView { deepest_bytes: 80 << 10, size_bytes: 256 << 10 },
        }
    }

    fn machine(&self) -> MachineView {
        let cpu = |index| CpuView {
            index,
            apic_id: index * 2,
            state: CpuState::Online,
            load: Some(match index {
                0 => LoadView { guests_percent: 0, host_percent: 7, idle_percent: 93 },
                _ => LoadView { guests_percent: 60, host_percent: 7, idle_percent: 33 },
            }),
            guests: if index == 1 { vec!["linux".into()] } else { vec![] },
        };
        MachineView {
            brand: "Example CPU".into(),
            tsc_hz: 3_500_000_000,
            vmx: self.vmx.clone(),
            cpus: vec![cpu(0), cpu(1)],
        }
    }

    fn pci(&self) -> Vec<PciView> {
        let function = |device, kind, driver| PciView {
            address: alloc::format!("0000:00:{device:02x}.0"),
            vendor_id: 0x8086,
            device_id: 0x100e,
            kind,
            driver,
        };
        vec![function(0, "host bridge", None), function(2, "Ethernet", Some("e1000"))]
    }

    fn log(&self, lines: usize, level: log::LevelFilter) -> Vec<LogLine> {
        let all = [log_line(log::Level::Info, "link is up"), log_line(log::Level::Warn, "odd\x1b[2J frame")];
        let found: Vec<_> = all.into_iter().filter(|line| line.level <= level).collect();
        found[found.len().saturating_sub(lines)..].to_vec()
    }

    fn next_log_line(&mut self) -> Option<LogLine> {
        self.log_lines.pop_front()
    }

    fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn reboot(&mut self) {
        self.asked.push("reboot".into());
    }
}
