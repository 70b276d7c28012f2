//! What happens in one run of the world: all of it follows from the seed.

use std::time::Duration;

use godwit_migration::{
    Compression, Identity, Impatience, Mode, Overrun, Policy, Purpose, SpoolPolicy, Step, TargetPolicy,
};

use super::COPY;
use super::guest::Contents;
use super::link::{Noise, Wire};
use super::random::Random;
use super::third::SpoolPlan;

/// Something that befalls the world after so many transmitted messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection breaks.
    Cut,
    /// Only one of them breaks: the urgent one, or the other.
    CutOne {
        is_urgent: bool,
    },
    /// Nothing arrives for so long, in both directions.
    Freeze(Duration),
    /// The source's host dies; after so long it is back without memory.
    CrashSource(Duration),
    /// The target's host dies.
    CrashTarget(Duration),
    /// A person cancels at the source, or at the target.
    CancelAtSource,
    CancelAtTarget,
    /// A person caps the wire at so many bytes a second.
    Cap(u64),
    /// A person wants this mode now.
    Mode(Mode),
    /// The guest stops by itself.
    GuestEnds,
    /// The target becomes unreachable for so long.
    Partition(Duration),
    /// The connections of the third host break.
    CutSpool,
    /// The third host dies; after so long it is back without memory.
    CrashSpool(Duration),
    /// It cannot be reached for so long.
    PartitionSpool(Duration),
}

impl Fault {
    /// Whether the guest moves all the same: it is the third host's alone, or nothing that goes wrong.
    pub(crate) const fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::CutSpool | Self::CrashSpool(_) | Self::PartitionSpool(_) | Self::Cap(_) | Self::Mode(_)
        )
    }
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) pages: u32,
    pub(crate) working_set: u64,
    /// Of those that write each waits for a page of its own.
    pub(crate) vcpus: usize,
    /// The guest writes few pages at a time, and then others.
    pub(crate) drifts: bool,
    pub(crate) contents: Contents,
    pub(crate) write_period: Duration,
    pub(crate) wire: Wire,
    pub(crate) policy: Policy,
    pub(crate) purpose: Purpose,
    pub(crate) target_policy: TargetPolicy,
    pub(crate) buffer_bytes: usize,
    /// In ascending order of messages.
    pub(crate) faults: Vec<(u64, Fault)>,
    /// Steps that fail, each once.
    pub(crate) failing_steps: Vec<Step>,
    /// How often such a step is done before it fails.
    pub(crate) failing_after: u32,
    pub(crate) step_latency_us: u64,
    /// Pages that the target has memory for.
    pub(crate) target_pages: u32,
    /// Whether the target can run a guest whose memory is not all there.
    pub(crate) offers_post_copy: bool,
    /// A person at the target takes a source that is only out of reach for dead.
    pub(crate) gives_up_early: bool,
    /// A third host is to keep what goes after the switch, too.
    pub(crate) spool: Option<SpoolPlan>,
    /// So many messages after the third host has said that the source may die it does, and is back after so long.
    pub(crate) dies_when_spooled: Option<(u64, Duration)>,
    pub(crate) spool_policy: SpoolPolicy,
}

impl Plan {
    /// A world without faults.
    pub(crate) fn calm(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xca1f);
        let pages = random.between(1, 120) as u32;
        let wire = Wire {
            latency: random.micros(20, 20_000),
            ns_per_byte: random.between(10, 400),
            stall: Duration::ZERO,
            noise: Noise::default(),
        };
        let policy = Policy {
            downtime_limit: Duration::from_millis(random.between(20, 400)),
            bandwidth_bytes_per_second: random.one_in(3).then(|| random.between(2_000_000, 20_000_000)),
            impatience: Impatience::StopAnyway,
            compression: if random.one_in(4) { Compression::Off } else { Compression::Adaptive },
            peer_timeout: Duration::from_secs(2),
            rounds_max: 20,
            ..Policy::default()
        };
        let mut plan = Self {
            seed,
            pages,
            working_set: random.between(1, pages.into()),
            vcpus: 1,
            drifts: false,
            contents: Contents::Mixed,
            write_period: random.micros(100, 20_000),
            wire,
            policy,
            purpose: Purpose::Move,
            target_policy: TargetPolicy {
                peer_timeout: Duration::from_secs(3),
                hold: Duration::from_secs(40),
            },
            buffer_bytes: *random.pick(&[16 * 1024, 20_000, 64 * 1024, 256 * 1024]),
            faults: Vec::new(),
            failing_steps: Vec::new(),
            failing_after: 0,
            step_latency_us: random.between(1, 20_000),
            target_pages: u32::MAX,
            offers_post_copy: true,
            gives_up_early: false,
            spool: None,
            dies_when_spooled: None,
            spool_policy: SpoolPolicy {
                peer_timeout: Duration::from_secs(2),
                grace: Duration::from_secs(1),
                hold: Duration::from_secs(40),
            },
        };
        // Drawn apart, so that a seed's other properties are what they were before there was a ceiling.
        let mut random = Random::new(seed ^ 0xce11);
        plan.policy.overrun = Overrun::Resume { stops_max: random.between(1, 4) as u32 };
        if random.one_in(3) {
            plan.wire.noise.stall = random.between(3, 30);
            plan.wire.stall = random.micros(20_000, 600_000);
        }
        let mut random = Random::new(seed ^ 0x9057);
        plan.policy.mode = *random.pick(&Mode::ALL);
        if random.one_in(10) {
            plan.offers_post_copy = false;
            plan.policy.mode = *random.pick(&[Mode::Auto, Mode::PreCopy]);
        }
        let mut random = Random::new(seed ^ 0x5900);
        if random.one_in(3) {
            plan.spool = Some(SpoolPlan { pages: u32::MAX / 2, is_busy: false });
        }
        plan
    }

    /// A world without faults, whose wire loses segments so often that a stop may well overrun its limit.
    pub(crate) fn lossy(seed: u64) -> Self {
        let mut plan = Self::calm(seed);
        let mut random = Random::new(seed ^ 0x1055);
        plan.policy.mode = Mode::PreCopy;
        plan.wire.noise.stall = random.between(10, 40);
        plan.policy.overrun = Overrun::Resume { stops_max: 6 };
        // A lost segment is not a silent host.
        plan.policy.peer_timeout = Duration::from_secs(10);
        plan.target_policy.peer_timeout = Duration::from_secs(10);
        plan.wire.stall = plan.policy.downtime_limit * random.between(1, 3) as u32;
        plan
    }

    /// The same world, in which the guest is not moved but cloned.
    pub(crate) fn cloning(self) -> Self {
        let copy = Identity { id: COPY, name: "linux-clone".into() };
        Self { purpose: Purpose::Clone(copy), ..self }
    }

    /// Whether the guest is cloned.
    pub(crate) fn is_clone(&self) -> bool {
        matches!(self.purpose, Purpose::Clone(_))
    }

    /// A world in which much goes wrong.
    pub(crate) fn wild(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x317d);
        let mut plan = Self::calm(seed);
        for _ in 0..random.below(3) {
            let fault = Self::fault(&mut random);
            plan.faults.push((random.between(1, 40), fault));
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        if random.one_in(4) {
            let times = random.between(5, 60);
            let noise = &mut plan.wire.noise;
            match random.below(5) {
                0 => noise.corrupt = times,
                1 => noise.drop = times,
                2 => noise.repeat = times,
                3 => noise.swap = times,
                _ => *noise = Noise { corrupt: times, drop: times, repeat: times, swap: times, ..*noise },
            }
        }
        const STEPS: [Step; 11] = [
            Step::Build,
            Step::StartDirtyLog,
            Step::HarvestDirtyLog,
            Step::StopDirtyLog,
            Step::Throttle,
            Step::Pause,
            Step::SaveState,
            Step::RestoreState,
            Step::Run,
            Step::Settle,
            Step::Discard,
        ];
        if random.one_in(3) {
            plan.failing_steps.push(*random.pick(&STEPS));
        }
        if random.one_in(10) {
            plan.target_pages = random.below(plan.pages.into()) as u32;
        }
        if random.one_in(3) {
            plan.policy.impatience = Impatience::GiveUp;
        }
        plan.with_a_spool_in_trouble();
        plan
    }

    /// Often what the guest writes moves on, and a person who cannot leave the cap alone is at the source.
    pub(crate) fn restless(mut self) -> Self {
        let mut random = Random::new(self.seed ^ 0x70e);
        self.drifts = random.one_in(3);
        self.contents =
            *random.pick(&[Contents::Mixed, Contents::MostlyNoise, Contents::HalfNoise, Contents::Recurring]);
        for _ in 0..if random.one_in(3) { random.between(1, 3) } else { 0 } {
            self.faults.push((random.between(2, 30), Fault::Cap(random.between(300_000, 5_000_000))));
        }
        for _ in 0..if random.one_in(4) { random.between(1, 3) } else { 0 } {
            // One that the target cannot do is refused.
            let modes = if self.offers_post_copy { &Mode::ALL[..] } else { &[Mode::Auto, Mode::PreCopy] };
            self.faults.push((random.between(2, 40), Fault::Mode(*random.pick(modes))));
        }
        self.vcpus = random.between(1, 4) as usize;
        self.faults.sort_by_key(|(at, _)| *at);
        self
    }

    /// The third host may have too little memory, or something else against it; and often the source dies after the switch.
    fn with_a_spool_in_trouble(&mut self) {
        let mut random = Random::new(self.seed ^ 0x59001);
        let Some(spool) = &mut self.spool else { return };
        if random.one_in(8) {
            spool.pages = random.below(self.pages.into()) as u32;
        }
        spool.is_busy = random.one_in(20);
        let time = random.micros(1000, 8_000_000);
        if random.one_in(3) {
            // Enough memory, and little enough haste, that there is a time at which all is at one of two hosts.
            self.policy.mode = *random.pick(&[Mode::PostCopy, Mode::Hybrid]);
            self.offers_post_copy = true;
            self.pages = random.between(48, 100) as u32;
            self.write_period = Duration::from_millis(30);
            self.policy.compression = Compression::Off;
            self.policy.bandwidth_bytes_per_second = Some(400_000);
            self.buffer_bytes = 16 * 1024;
            self.dies_when_spooled = Some((random.below(8), time));
        }
        if random.one_in(3) {
            let faults = [Fault::CutSpool, Fault::CrashSpool(time), Fault::PartitionSpool(time)];
            self.faults.push((random.between(8, 50), *random.pick(&faults)));
        }
        if random.one_in(3) {
            self.faults.push((random.between(10, 50), Fault::CrashSource(time)));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn fault(random: &mut Random) -> Fault {
        let time = random.micros(1000, 8_000_000);
        match random.below(12) {
            0..=2 => Fault::Cut,
            10 => Fault::CutOne { is_urgent: true },
            11 => Fault::CutOne { is_urgent: false },
            3 => Fault::Freeze(time),
            4 => Fault::CrashSource(time),
            5 => Fault::CrashTarget(time),
            6 => Fault::CancelAtSource,
            7 => Fault::CancelAtTarget,
            8 => Fault::GuestEnds,
            _ => Fault::Partition(time),
        }
    }

    /// Whether anything may keep the guest from moving.
    pub(crate) fn is_calm(&self) -> bool {
        let Noise { corrupt, drop, repeat, swap, stall: _ } = self.wire.noise;
        self.faults.iter().all(|(_, fault)| fault.is_harmless())
            && self.dies_when_spooled.is_none()
            && self.failing_steps.is_empty()
            && corrupt + drop + repeat + swap == 0
            && self.target_pages >= self.pages
            && self.policy.impatience == Impatience::StopAnyway
    }
}
