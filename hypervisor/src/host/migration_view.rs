//! Migrations for the console.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use godwit_boot::config::{Configuration, MemoryMode};
use godwit_migration::{
    AbortReason, Command, Event, Instant, Mode, Overrun, PAGE_BYTES, Page, Phase, Policy, Refusal, SpoolEnd,
    SpoolEvent, SpoolPolicy, TargetPolicy,
};

use crate::console::view::{
    Aftermath, MigrationEstimate, MigrationFailure, MigrationReport, MigrationView, Remark, Side,
};
use crate::console::{ActionError, Notice, Tuning};
use crate::guests::{Guests, Key};
use crate::migrate::{self, Migrations, Occurrence, Unheeded, What};
use crate::vm::memory::GuestRam;

const BITS_PER_BYTE: u64 = 8;

/// The configuration's word on migrations.
pub(super) fn settings(configuration: &Configuration) -> migrate::Settings {
    let wanted = configuration.migration();
    let peer_timeout = Duration::from_secs(u64::from(wanted.link_timeout_s));
    let policy = Policy {
        downtime_limit: Duration::from_millis(u64::from(wanted.downtime_limit_ms)),
        bandwidth_bytes_per_second: wanted
            .bandwidth_mbit
            .map(|mbit| u64::from(mbit) * 1_000_000 / BITS_PER_BYTE),
        peer_timeout,
        mode: match wanted.mode {
            MemoryMode::Auto => Mode::Auto,
            MemoryMode::PreCopy => Mode::PreCopy,
            MemoryMode::PostCopy => Mode::PostCopy,
            MemoryMode::Hybrid => Mode::Hybrid,
        },
        overrun: match wanted.stops_max {
            0 => Overrun::CarryThrough,
            stops_max => Overrun::Resume { stops_max: stops_max.into() },
        },
        ..Policy::default()
    };
    let target = TargetPolicy { peer_timeout, ..TargetPolicy::default() };
    let spool = SpoolPolicy { peer_timeout, ..SpoolPolicy::default() };
    migrate::Settings { port: wanted.listen.then_some(wanted.port), policy, target, spool }
}

/// The policy that `tuning` makes of `policy`.
pub(super) fn tuned(policy: Policy, tuning: Tuning) -> Policy {
    match tuning {
        Tuning::Bandwidth(limit) => Policy { bandwidth_bytes_per_second: limit, ..policy },
        Tuning::Downtime(limit) => Policy { downtime_limit: limit, ..policy },
        Tuning::Mode(mode) => Policy { mode, ..policy },
    }
}

/// All migrations.
pub(super) fn all(
    migrations: &Migrations<Key>,
    guests: &Guests,
    now: Instant,
    configuration: &Configuration,
) -> Vec<MigrationView> {
    let views = migrations.views(now, guests);
    views
        .into_iter()
        .map(|view| {
            let policy = view.policy.unwrap_or_default();
            MigrationView {
                guest: view.guest,
                copy: view.copy,
                peer: peer_name(configuration, &view.peer),
                third: view.third.map(|third| peer_name(configuration, &third)),
                side: side(view.side),
                status: view.status,
                mode: policy.mode,
                bandwidth_limit: policy.bandwidth_bytes_per_second,
                downtime_limit: policy.downtime_limit,
            }
        })
        .collect()
}

/// What a person is told of an occurrence; `None` for what the progress line shows anyway.
pub(super) fn notice(occurrence: Occurrence, configuration: &Configuration) -> Option<Notice> {
    let Occurrence { guest, copy, peer, side: end, what, estimate } = occurrence;
    let peer = peer_name(configuration, &peer);
    let remark = |remark| Some(Notice::Migration { guest: guest.clone(), peer: peer.clone(), remark });
    let event = match what {
        What::Event(event) => *event,
        What::Stranger(why) => {
            log::warn!("a connection from {peer} to the migration port was refused: {why}");
            return None;
        }
    };
    match event {
        Event::Completed(report) => {
            let report = *report;
            let side = side(end);
            Some(Notice::Moved(Box::new(MigrationReport { guest, copy, peer, side, report, estimate })))
        }
        // It has been told.
        Event::Aborted(AbortReason::OnlyEstimated, _) => None,
        Event::Aborted(reason, _) => Some(Notice::MigrationFailed(MigrationFailure {
            guest: if guest.is_empty() { "a guest".into() } else { guest },
            peer,
            // Where the guest was to come to there is nothing to be done.
            advice: if end == migrate::Side::Source { reason.advice() } else { None },
            reason: why_not(&reason, copy.as_deref()),
            copy,
            aftermath: match end {
                migrate::Side::Source => Aftermath::GoesOn,
                migrate::Side::Target | migrate::Side::Spool => Aftermath::Discarded,
            },
        })),
        Event::Held(failure) => Some(Notice::MigrationFailed(MigrationFailure {
            guest,
            copy,
            peer,
            reason: failure.to_string(),
            advice: Some(how_to_try_again(end)),
            aftermath: Aftermath::Held,
        })),
        Event::CancelTooLate => remark(Remark::CancelTooLate),
        Event::Recalled(recall) => remark(Remark::Recalled(recall)),
        Event::LimitOverruled => remark(Remark::LimitOverruled),
        Event::CommitUnknown if copy.is_some() => remark(Remark::CopyUnknown),
        Event::CommitUnknown if end == migrate::Side::Target => remark(Remark::CommitAwaited),
        Event::CommitUnknown => remark(Remark::CommitUnknown),
        Event::TargetForgot => remark(Remark::TargetForgot),
        Event::TargetLost => remark(Remark::TargetLost),
        Event::Estimated(prediction) => {
            Some(Notice::Estimated(Box::new(MigrationEstimate { guest, peer, prediction })))
        }
        Event::Switching(why) => remark(Remark::Switching(why)),
        Event::Interrupted if end == migrate::Side::Target => remark(Remark::SourceCutOff),
        Event::Interrupted => remark(Remark::TargetCutOff),
        Event::Reconnected => remark(Remark::Reconnected),
        Event::DigestDiffers => remark(Remark::DigestDiffers),
        Event::Spool(event) => of_spool(guest, peer, event),
        Event::MemoryLost { pages, ranges } => {
            let address = |page: Page| GuestRam::frame_of(page.0 as usize).as_u64() * PAGE_BYTES as u64;
            let ranges = ranges.into_iter().map(|(first, count)| (address(first), count)).collect();
            Some(Notice::MemoryLost { guest, peer, pages, ranges })
        }
        Event::CleanupFailed(step, failure) => {
            log::warn!("{guest}: {step} failed after its migration: {failure}");
            None
        }
        Event::Phase(_) | Event::Round { .. } | Event::Throttle(_) | Event::Arrived(_) => None,
    }
}

/// What a person is told of an occurrence with a spool.
fn of_spool(guest: String, peer: String, event: SpoolEvent) -> Option<Notice> {
    if let SpoolEvent::TurnedAway(why) = &event {
        log::warn!("pages that {peer} wanted to leave here were turned away: {why}");
        return None;
    }
    log::info!("{guest}, spool, {peer}: {event:?}");
    // Nothing of it was ever here.
    let is_told = event != SpoolEvent::Over(SpoolEnd::NeverBegun);
    is_told.then_some(Notice::Spool { guest, peer, event })
}

/// What has a guest go on that is held because it could not be run.
const fn how_to_try_again(end: migrate::Side) -> &'static str {
    match end {
        migrate::Side::Target => "'migrate takeover' tries again",
        migrate::Side::Source | migrate::Side::Spool => "'vm resume' tries again",
    }
}

/// Why an attempt ended, for a person.
fn why_not(reason: &AbortReason, copy: Option<&str>) -> String {
    match (reason, copy) {
        (AbortReason::Refused(refusals), Some(copy)) if refusals.contains(&Refusal::AlreadyThere) => {
            format!("there is a guest named {copy} already: choose another name with --name")
        }
        _ => reason.to_string(),
    }
}

/// Why `command` changed nothing, for a person.
pub(super) fn unheeded(why: Unheeded, command: Command, configuration: &Configuration) -> ActionError {
    match why {
        Unheeded::NotMigrating(guest) => ActionError::NotMigrating(guest),
        Unheeded::OutOfPlace(view) => {
            let peer = peer_name(configuration, &view.peer);
            ActionError::Refused(out_of_place(&view.guest, &peer, (view.side, view.status.phase), command))
        }
    }
}

/// What is in the way of `command` for a migration of `guest` that stands there.
fn out_of_place(guest: &str, peer: &str, (side, phase): (migrate::Side, Phase), command: Command) -> String {
    use migrate::Side;
    let way = if side == Side::Target { "from" } else { "to" };
    match (command, side, phase) {
        (Command::Cancel, Side::Source, Phase::Committing) => {
            format!("too late to cancel: {peer} may run {guest} already")
        }
        (Command::Cancel, Side::Source, Phase::CommitUnknown) => format!(
            "too late to cancel: {peer} may run {guest} already; it is asked, and if it does not know, \
             'migrate reclaim' or 'migrate release' decides"
        ),
        (Command::Cancel, Side::Source, _) => format!("too late to cancel: {guest} runs at {peer}"),
        (Command::Cancel, Side::Target, _) => format!("too late to cancel: {guest} runs here"),
        (Command::Cancel, Side::Spool, _) => {
            format!("pages of {guest} are kept here for {peer}: 'migrate release {guest}' drops them")
        }
        (Command::Retry, Side::Target, _) => {
            format!("the source asks, not the target: 'migrate recover {guest}' at {peer}")
        }
        (Command::Retry, ..) => {
            format!("there is nobody to ask: the way of {guest} to {peer} is in phase {phase}")
        }
        (Command::Reclaim | Command::Release | Command::TakeOver, ..) => {
            format!("there is nothing to decide: the way of {guest} {way} {peer} is in phase {phase}")
        }
        (Command::Start | Command::Tune(_), ..) => {
            format!("it is too late: the way of {guest} {way} {peer} is in phase {phase}")
        }
    }
}

/// Why nobody has to decide over a guest of which a copy is made.
pub(super) fn undecidable(guest: &str, copy: &str) -> String {
    format!(
        "{guest} runs here, whatever becomes of {copy}: there is nothing to decide; 'migrate cancel {guest}' ends it"
    )
}

/// The name that the configuration gives to the host at `address`, or else the address.
fn peer_name(configuration: &Configuration, address: &str) -> String {
    let named = configuration.peers().iter().find(|peer| peer.address().to_string() == address);
    named.map_or_else(|| address.to_string(), |peer| peer.name.as_str().to_string())
}

const fn side(side: migrate::Side) -> Side {
    match side {
        migrate::Side::Source => Side::Source,
        migrate::Side::Target => Side::Target,
        migrate::Side::Spool => Side::Spool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_waited_for_as_long_as_the_configuration_says() {
        let configuration = Configuration::default();
        let settings = settings(&configuration);
        let seconds = Duration::from_secs(u64::from(configuration.migration().link_timeout_s));
        assert_eq!((settings.policy.peer_timeout, settings.target.peer_timeout), (seconds, seconds));
    }

    #[test]
    fn the_configuration_is_what_moves_go_by() {
        let of = |section: &str| {
            let text = format!("[host]\nname = \"a\"\n[migration]\n{section}\n");
            settings(&godwit_boot::config::parse("godwit.toml", &text).unwrap())
        };
        let told =
            of("listen = true\nport = 7200\nbandwidth_mbit = 8\ndowntime_limit_ms = 70\nstops_max = 3");
        assert_eq!(told.port, Some(7200));
        assert_eq!(told.policy.bandwidth_bytes_per_second, Some(1_000_000));
        assert_eq!(told.policy.downtime_limit, Duration::from_millis(70));
        assert_eq!(told.policy.overrun, Overrun::Resume { stops_max: 3 });
        let untold = of("stops_max = 0");
        assert_eq!((untold.port, untold.policy.bandwidth_bytes_per_second), (None, None));
        assert_eq!(untold.policy.overrun, Overrun::CarryThrough);
        for mode in Mode::ALL {
            assert_eq!(of(&format!("mode = \"{}\"", mode.name())).policy.mode, mode);
        }
    }

    #[test]
    fn a_command_that_changes_nothing_says_why() {
        use migrate::Side::{Source, Spool, Target};
        let said = |place, command| out_of_place("linux", "b", place, command);
        for (place, command, wanted) in [
            ((Source, Phase::PostCopy), Command::Cancel, "too late to cancel: linux runs at b"),
            ((Source, Phase::Committing), Command::Cancel, "too late to cancel: b may run linux already"),
            ((Target, Phase::PostCopy), Command::Cancel, "too late to cancel: linux runs here"),
            (
                (Spool, Phase::Spooling),
                Command::Cancel,
                "pages of linux are kept here for b: 'migrate release linux' drops them",
            ),
            (
                (Source, Phase::PreCopy),
                Command::Reclaim,
                "there is nothing to decide: the way of linux to b is in phase pre-copy",
            ),
            (
                (Target, Phase::PreCopy),
                Command::TakeOver,
                "there is nothing to decide: the way of linux from b is in phase pre-copy",
            ),
            (
                (Target, Phase::Recovering),
                Command::Retry,
                "the source asks, not the target: 'migrate recover linux' at b",
            ),
        ] {
            assert_eq!(said(place, command), wanted);
        }
    }

    /// Which words decide differs between the two ends, and a person may be at either.
    #[test]
    fn each_end_is_told_of_its_own_loss() {
        use migrate::Side::{Source, Target};
        let told = |side, event: Event| {
            let what = What::Event(Box::new(event));
            let (guest, peer) = ("linux".to_string(), "b".to_string());
            let occurrence = Occurrence { guest, copy: None, peer, side, what, estimate: None };
            notice(occurrence, &Configuration::default()).expect("a person is told")
        };
        for (side, event, wanted) in [
            (Source, Event::CommitUnknown, Remark::CommitUnknown),
            (Target, Event::CommitUnknown, Remark::CommitAwaited),
            (Source, Event::Interrupted, Remark::TargetCutOff),
            (Target, Event::Interrupted, Remark::SourceCutOff),
        ] {
            let Notice::Migration { remark, .. } = told(side, event) else { panic!("a remark") };
            assert_eq!(remark, wanted);
        }
        for (side, advice) in
            [(Source, "'vm resume' tries again"), (Target, "'migrate takeover' tries again")]
        {
            let held = told(side, Event::Held(godwit_migration::GuestFailure::OutOfMemory));
            let Notice::MigrationFailed(failure) = held else { panic!("it is held") };
            assert_eq!((failure.advice, failure.aftermath), (Some(advice), Aftermath::Held));
        }
    }
}
