//! One migration of a running guest between two hosts of this process, and what came of it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as Clock};

use godwit_migration::{
    Command, GuestAction, GuestEvent, GuestFailure, Impatience, Input, MigrationId, Necessity, PAGE_BYTES,
    Page, Policy, Purpose, Report, RunPermit, Section, Source, SourceConfig, Step, Target, TargetConfig,
    TargetPolicy,
};

use super::cases::Case;
use super::common::Failure;
use super::common::host::{self, GUEST};
use super::guest::{Guest, Registers};
use super::host::{Host, Way};
use super::memory::{Block, Memory, Ram};
use super::outcome::{Guests, Outcome};
use super::wire::{self, Lanes, Pings};

/// The rate before the migration is taken over this time.
const BEFORE: Duration = Duration::from_millis(300);
/// Pre-copy that has not come to an end by then is given up.
const PRECOPY_MAX: Duration = Duration::from_secs(15);
/// Longest time for a few sweeps that are not paced.
const SWEEPS_MAX: Duration = Duration::from_secs(20);

/// Waits until `is_so`.
fn wait_until(what: &str, is_so: impl Fn() -> bool) -> Result<(), Failure> {
    let began = Clock::now();
    while !is_so() {
        if began.elapsed() > SWEEPS_MAX {
            return Err(what.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Lets the guest go through so many sweeps as fast as it can.
fn sweep(guest: &Guest, pages: u32, sweeps: u64) -> Result<(), Failure> {
    let goal = guest.written() + u64::from(pages) * sweeps;
    guest.set_paced(false);
    let result = wait_until("the guest does not run on", || guest.written() >= goal);
    guest.set_paced(true);
    result
}

/// What the source's hypervisor does to the guest.
fn source_life<'a>(
    guest: &'a Guest,
    permit: &'a mut Option<RunPermit>,
) -> impl FnMut(GuestAction, &mut Ram) -> GuestEvent + use<'a> {
    move |action, ram| match action {
        GuestAction::StartDirtyLog => {
            ram.start_log();
            GuestEvent::DirtyLogStarted
        }
        GuestAction::HarvestDirtyLog => {
            ram.harvest();
            GuestEvent::DirtyLogHarvested
        }
        GuestAction::StopDirtyLog => GuestEvent::DirtyLogStopped,
        GuestAction::Throttle(percent) => {
            guest.throttle(percent);
            GuestEvent::Throttled
        }
        GuestAction::Pause => {
            guest.pause();
            GuestEvent::Paused(permit.take().expect("whoever runs the guest has it"))
        }
        GuestAction::SaveState => {
            let bytes = guest.registers().to_bytes();
            let section = Section { id: 1, instance: 0, version: 1, necessity: Necessity::Mandatory, bytes };
            GuestEvent::StateSaved(vec![section])
        }
        GuestAction::Run(given) => {
            *permit = Some(given);
            guest.run();
            GuestEvent::Running
        }
        GuestAction::Discard => GuestEvent::Discarded,
        action => GuestEvent::Failed(action.step(), GuestFailure::Gone),
    }
}

/// What the target's hypervisor does to it.
fn target_life<'a>(
    guest: &'a Guest,
    permit: &'a mut Option<RunPermit>,
) -> impl FnMut(GuestAction, &mut Ram) -> GuestEvent + use<'a> {
    move |action, ram| match action {
        GuestAction::Build(_) => GuestEvent::Built,
        GuestAction::RestoreState(state) => {
            match state.first().and_then(|section| Registers::from_bytes(&section.bytes)) {
                Some(registers) => {
                    guest.set_registers(registers);
                    GuestEvent::StateRestored
                }
                None => GuestEvent::Failed(Step::RestoreState, GuestFailure::Gone),
            }
        }
        GuestAction::Run(given) => {
            *permit = Some(given);
            guest.run();
            GuestEvent::Running
        }
        GuestAction::Settle => {
            ram.memory.settle();
            GuestEvent::Settled
        }
        GuestAction::Forsake => {
            ram.memory.give_up();
            GuestEvent::Forsaken
        }
        GuestAction::Discard => GuestEvent::Discarded,
        action => GuestEvent::Failed(action.step(), GuestFailure::Gone),
    }
}

/// The connections of both hosts, and what a few bytes take over them and back.
struct Paths {
    target: [Way; 2],
    source: [Way; 2],
    pings: Pings,
}

fn paths(case: &Case) -> Result<Paths, Failure> {
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [main, urgent] = [listeners[0].local_addr()?, listeners[1].local_addr()?];
    let echo = wire::echo()?;
    let [main, urgent, echo] = match case.wire {
        None => [main, urgent, echo],
        Some(wire) => {
            let lanes = Lanes::new(wire);
            [lanes.to(main, true)?, lanes.to(urgent, false)?, lanes.to(echo, false)?]
        }
    };
    let pings = Pings::to(echo)?;
    Ok(Paths { target: listeners.map(Way::Accept), source: [main, urgent].map(Way::Dial), pings })
}

fn policy(case: &Case) -> Policy {
    Policy {
        mode: case.mode,
        downtime_limit: case.downtime_limit,
        bandwidth_bytes_per_second: case.cap,
        compression: case.compression,
        duration_max: PRECOPY_MAX,
        impatience: Impatience::GiveUp,
        ..Policy::default()
    }
}

/// Moves a guest with this work; `blocks` are the memories of source and target.
pub(crate) fn run(case: &Case, image: &[u8], blocks: [Block; 2]) -> Result<Outcome, Failure> {
    blocks[0].load(image);
    blocks[1].clear();
    let [here, there] = [Memory::new(blocks[0])?, Memory::new(blocks[1])?];
    let origin = Clock::now();
    let guests = Guests {
        source: Guest::new(Arc::clone(&here), case.work, origin),
        target: Guest::new(Arc::clone(&there), case.work, origin),
    };
    let mut paths = paths(case)?;
    let round_trip = paths.pings.median()?;
    guests.source.boot();
    sweep(&guests.source, case.work.pages, 2)?;
    thread::sleep(BEFORE / 3);
    let (written, began) = (guests.source.written(), Clock::now());
    thread::sleep(BEFORE);
    let rate_before = (guests.source.written() - written) as f64 / began.elapsed().as_secs_f64();

    let (written, began) = (guests.source.written(), origin.elapsed());
    let (report, pings) = migrate(case, &guests, [&here, &there], origin, paths)?;
    let ended = origin.elapsed();
    let live = if report.is_ok() { &guests.target } else { &guests.source };
    let written = live.written() - written;
    sweep(live, case.work.pages, 2)?;
    live.pause();
    let is_intact = live.wrong_pages() == 0 && (report.is_err() || equal_outside(case, &here, &there));
    let used = (0..here.page_count()).filter(|page| !here.is_zero(Page(*page)).unwrap_or(true)).count();
    Ok(Outcome {
        is_intact,
        ram_used_bytes: (used * PAGE_BYTES) as u64,
        round_trip,
        pings,
        rate_before,
        written,
        elapsed: ended - began,
        stall: guests.stall(),
        waits: guests.waits(),
        report,
        case: case.clone(),
    })
}

/// From the start to the end, both hosts; the report, and the round trips of others meanwhile.
fn migrate(
    case: &Case,
    guests: &Guests,
    [here, there]: [&Arc<Memory>; 2],
    origin: Clock,
    paths: Paths,
) -> Result<(Result<Report, String>, Vec<Duration>), Failure> {
    let Paths { target, source, pings } = paths;
    let config = SourceConfig {
        migration: MigrationId([2; 16]),
        guest: host::guest(here.page_count())?,
        policy: policy(case),
        purpose: Purpose::Move,
    };
    let is_over = AtomicBool::new(false);
    let outcome = thread::scope(|scope| -> Result<_, String> {
        let target = scope.spawn(|| {
            run_target(Arc::clone(there), &guests.target, target, origin).map_err(|error| error.to_string())
        });
        let pings = scope.spawn(|| pings.until(&is_over));
        let mut permit = Some(RunPermit::for_new_guest(GUEST));
        let life = source_life(&guests.source, &mut permit);
        let source = Host::new(Source::new(config), Ram::new(Arc::clone(here)), origin, source, life)
            .and_then(|source| source.run(Some(Input::Command(Command::Start))));
        let target = target.join().map_err(|_| "the target has panicked")?;
        is_over.store(true, Ordering::Relaxed);
        let pings = pings.join().map_err(|_| "the pings have panicked")?;
        match (source, target) {
            (Ok(report), Ok(())) => Ok((report, pings)),
            (source, target) => {
                let errors = [source.err().map(|error| error.to_string()), target.err()];
                Err(errors.into_iter().flatten().collect::<Vec<_>>().join("; "))
            }
        }
    })?;
    Ok(outcome)
}

fn run_target(memory: Arc<Memory>, guest: &Guest, ways: [Way; 2], origin: Clock) -> Result<(), Failure> {
    let bytes = u64::from(memory.page_count()) * PAGE_BYTES as u64;
    let config = TargetConfig { host: host::capabilities(bytes, true), policy: TargetPolicy::default() };
    let mut permit = None;
    let life = target_life(guest, &mut permit);
    // Why it did not take the guest the source says, too.
    let _ = Host::new(Target::new(config), Ram::new(memory), origin, ways, life)?.run(None)?;
    Ok(())
}

/// Whether both memories are equal where the guest does not write.
fn equal_outside(case: &Case, here: &Memory, there: &Memory) -> bool {
    (0..here.page_count()).map(Page).all(|page| case.work.writes(page) || here.equals(there, page))
}
