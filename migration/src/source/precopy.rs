//! From the hello to the last page: rounds of pages while the guest runs, and the rest when it stands still.

use alloc::vec::Vec;
use core::time::Duration;

use super::batch::Batch;
use super::convergence::{Decision, Measured};
use super::rate::time_for;
use super::round::{EndSaid, Round};
use super::sender::{Filled, Sender};
use super::state::{Sections, State, Stopped};
use super::{Source, Streamed};
use crate::device::{DeviceState, Necessity, is_bounded};
use crate::endpoint::keepalive;
use crate::io::{Channel, Event, GuestAction, OUTPUT_BYTES_MIN};
use crate::permit::RunPermit;
use crate::policy::{Mode, Purpose};
use crate::ram::{GuestRam, PAGE_BYTES};
use crate::reason::{AbortReason, Refusal};
use crate::status::Phase;
use crate::time::Instant;
use crate::wire::control::{
    CHUNK_BYTES_MAX, Control, Progress, RoundEnd, Seal, SectionPart, frame, guest_digest, section_digest,
};
use crate::wire::frame::Kind;
use crate::wire::hello::{Hello, Reply};
use crate::wire::opening::{Greeting, Opening};
use crate::wire::reasons::refusals_from_wire;
use crate::wire::{VERSION_MAX, VERSION_MIN, VERSION_URGENT_PROGRESS};

/// How often the log is harvested within a long round, so that what was dirtied again ahead of the cursor goes
/// once.
const HARVEST_PERIOD: Duration = Duration::from_millis(1000);
/// Rounds with fewer pages left than this are not interrupted by a harvest.
const HARVEST_PAGES_MIN: u32 = 1024;
/// The same in a round that passes over what is written.
const HARVEST_PERIOD_PASSING_OVER: Duration = Duration::from_millis(250);
const HARVEST_PAGES_MIN_PASSING_OVER: u32 = 64;

pub(super) fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl Source {
    /// Says who we are and what the guest is.
    pub(super) fn greet(&mut self, now: Instant) {
        let hello = Hello::new(&self.guest, milliseconds(self.policy.peer_timeout));
        if hello.guest().is_err() {
            return self.abort(now, AbortReason::Contract);
        }
        let opening = Opening::Begin { migration: self.migration, guest: self.guest.id };
        self.endpoint.greet(Greeting { opening, version_min: VERSION_MIN, version_max: VERSION_MAX });
        self.endpoint.say(Control::Hello(hello));
        self.state = State::Negotiating;
        self.endpoint.enter(Phase::Negotiating);
    }

    /// The target has answered.
    pub(super) fn on_reply(
        &mut self,
        now: Instant,
        reply: &Reply,
        ram: &mut dyn GuestRam,
    ) -> Result<(), AbortReason> {
        if !reply.refusals.is_empty() {
            return Err(AbortReason::Refused(refusals_from_wire(&reply.refusals)));
        }
        if !(VERSION_MIN..=VERSION_MAX).contains(&reply.version) {
            let spoken = (VERSION_MIN, VERSION_MAX);
            return Err(AbortReason::Version { answered: reply.version, spoken });
        }
        if ram.page_count() != self.guest.layout.page_count() {
            return Err(AbortReason::Contract);
        }
        self.target_patience = Duration::from_millis(reply.peer_timeout_ms.into());
        if let Some(link) = &mut self.endpoint.link {
            link.keepalive = keepalive(self.policy.peer_timeout, self.target_patience);
        }
        self.serving.is_offered = reply.post_copy;
        self.serving.is_urgent_answered = reply.version >= VERSION_URGENT_PROGRESS;
        if !reply.post_copy && matches!(self.policy.mode, Mode::PostCopy | Mode::Hybrid) {
            return Err(AbortReason::Refused([Refusal::PostCopy].into()));
        }
        if self.can_switch() {
            self.endpoint.urgent.connect();
        }
        self.sender = Some(Sender::new(ram.page_count(), self.policy.compression).map_err(AbortReason::Ram)?);
        self.state = State::StartingLog;
        self.endpoint.act(GuestAction::StartDirtyLog);
        self.dirty.begin(now);
        Ok(())
    }

    /// The log is on: every page goes once.
    pub(super) fn begin_first_round(&mut self, now: Instant) {
        self.endpoint.enter(Phase::PreCopy);
        self.round.first_began_at = Some(now);
        self.round.harvest_asked_at = now;
        self.dirty.begin(now);
        self.round.bytes_before = self.endpoint.link.as_ref().map_or(0, |link| link.sent);
        if self.purpose == Purpose::Estimate {
            self.begin_estimate(now);
        } else if self.policy.mode == Mode::PostCopy && self.can_switch() {
            self.state = State::Harvesting;
            self.harvest(now);
        } else {
            self.begin_round(now);
        }
    }

    pub(super) fn begin_round(&mut self, now: Instant) {
        let is_only = self.is_only_round();
        let Some(sender) = &mut self.sender else { return };
        sender.begin_round();
        if is_only {
            sender.pass_over_rewritten();
        }
        let counts = sender.counts();
        self.round = Round {
            number: self.round.number + 1,
            pages: sender.pending().len(),
            bytes_before: self.endpoint.bytes().0,
            pages_before: counts.sent() - counts.zero,
            ..self.round
        };
        self.round.harvest_asked_at = now;
        self.state = State::Sending;
        self.endpoint.tell(Event::Round { round: self.round.number, pages: self.round.pages });
    }

    /// Whether there is one round, and then the switch.
    fn is_only_round(&self) -> bool {
        self.policy.mode == Mode::Hybrid && self.can_switch()
    }

    /// When the log is worth a harvest within the round.
    pub(super) fn harvest_due_at(&self) -> Instant {
        let (period, pages_min) = match self.is_only_round() {
            true => (HARVEST_PERIOD_PASSING_OVER, HARVEST_PAGES_MIN_PASSING_OVER),
            false => (HARVEST_PERIOD, HARVEST_PAGES_MIN),
        };
        let left = self.sender.as_ref().map_or(0, |sender| sender.pending().len());
        if left < pages_min || self.endpoint.outstanding().is_some() {
            return Instant::NEVER;
        }
        self.round.harvest_asked_at.after(period)
    }

    pub(super) fn harvest_meanwhile(&mut self, now: Instant) {
        if now >= self.harvest_due_at() {
            self.harvest(now);
        }
    }

    pub(super) fn harvest(&mut self, now: Instant) {
        if self.endpoint.outstanding().is_none() {
            self.round.harvest_asked_at = now;
            self.endpoint.act(GuestAction::HarvestDirtyLog);
        }
    }

    /// A harvest is there.
    pub(super) fn on_harvested(&mut self, now: Instant, ram: &mut dyn GuestRam) {
        if self.on_probe_harvested(now, ram) {
            return;
        }
        let Some(sender) = &mut self.sender else { return };
        let pages = sender.take_dirty(ram);
        self.dirty.harvested(pages, now);
        self.round.harvest_time = now.since(self.round.harvest_asked_at);
        match self.state {
            State::Harvesting => self.decide(now),
            State::Stopped(Stopped::Harvesting, _) => self.on_last_harvest(now),
            State::Resuming(_) => self.resume(),
            State::Sending if self.is_round_in_vain() => {
                self.say_round_end(now, 0);
                self.state = State::Harvesting;
                self.decide(now);
            }
            // A round is under way: its harvests are only merged.
            _ => {}
        }
    }

    /// Whether what the round would still send is to go after the switch: a person has said so meanwhile.
    fn is_round_in_vain(&self) -> bool {
        self.policy.mode == Mode::PostCopy && self.can_switch()
    }

    /// The limits have changed: what they say of a round under way is seen at its next harvest, which is asked for now.
    pub(super) fn reconsider_round(&mut self, now: Instant) {
        if matches!(self.state, State::Sending) && self.is_round_in_vain() {
            self.harvest(now);
        }
    }

    fn decide(&mut self, now: Instant) {
        let measured = Measured {
            rounds: self.round.number,
            pages_left: self.pages_left(),
            pages_of_round: self.round.pages,
            queued_bytes: self.queued_bytes(),
            downtime: self.downtime_estimate(),
            downtime_unqueued: self.downtime_with(0),
            least_downtime: self.least_downtime(),
            throttle: self.throttle,
            recalls: self.ceiling.stops.recalls(),
            rest: self.ceiling.rest(now),
            elapsed: self.round.first_began_at.map_or(Duration::ZERO, |began| now.since(began)),
            can_switch: self.can_switch(),
        };
        let decision = self.convergence.decide(&measured, &self.policy);
        self.judgement = decision.judgement(&measured, &self.policy);
        match decision {
            Decision::Round => self.begin_round(now),
            Decision::Drain => self.state = State::Draining,
            Decision::Rest => self.state = State::Resting,
            Decision::Stop => self.pause(now),
            Decision::Switch(why) => {
                self.decide_to_switch(why);
                self.pause(now);
            }
            Decision::StopAnyway => {
                self.ceiling.is_overruled = true;
                self.endpoint.tell(Event::LimitOverruled);
                self.pause(now);
            }
            Decision::Throttle(percent) => {
                self.throttle_wanted = percent;
                self.throttle_peak = self.throttle_peak.max(percent);
                self.endpoint.tell(Event::Throttle(percent));
                self.state = State::Throttling;
                self.endpoint.act(GuestAction::Throttle(percent));
            }
            Decision::LimitTooShort => {
                let reason = AbortReason::LimitTooShort {
                    limit: self.policy.downtime_limit,
                    least: self.least_downtime(),
                };
                self.abort(now, reason);
            }
            Decision::GiveUp => {
                let reason = AbortReason::NotConverging {
                    rounds: self.round.number,
                    pages_left: self.pages_left(),
                    dirty_pages_per_second: self.dirty.rate(),
                    bytes_per_second: self.bandwidth.rate().unwrap_or(0),
                };
                self.abort(now, reason);
            }
        }
    }

    pub(super) fn pages_left(&self) -> u32 {
        self.sender.as_ref().map_or(0, Sender::left)
    }

    /// Bytes that a page which is not zero costs on the wire, from the last round.
    pub(super) fn bytes_per_page(&self) -> u64 {
        let counts = self.sender.as_ref().map(Sender::counts).unwrap_or_default();
        let pages = (counts.sent() - counts.zero).saturating_sub(self.round.pages_before);
        let bytes = self.endpoint.bytes().0.saturating_sub(self.round.bytes_before);
        bytes.checked_div(pages).map_or(PAGE_BYTES as u64, |bytes| bytes.clamp(32, PAGE_BYTES as u64 + 64))
    }

    /// Bytes of pages that are not known to have arrived.
    fn queued_bytes(&self) -> u64 {
        if self.round.ends_answered >= self.round.ends {
            return 0;
        }
        self.bandwidth.in_flight(self.endpoint.link.as_ref().map_or(0, |link| link.sent))
    }

    /// Expected downtime if the guest were stopped now.
    pub(super) fn downtime_estimate(&self) -> Option<Duration> {
        let sent = self.endpoint.link.as_ref().map_or(0, |link| link.sent);
        self.downtime_with(self.bandwidth.in_flight(sent))
    }

    /// Expected downtime if the guest were stopped now and `queued` bytes were under way.
    fn downtime_with(&self, queued: u64) -> Option<Duration> {
        let pages = u64::from(self.pages_left()) * self.bytes_per_page();
        let measured = self.bandwidth.rate();
        let rate = match (measured, self.policy.bandwidth_bytes_per_second) {
            (Some(measured), Some(cap)) => measured.min(cap),
            (Some(measured), None) => measured,
            (None, _) => return None,
        };
        Some(time_for(queued + pages, rate).saturating_add(self.least_downtime()))
    }

    /// What a stop takes that has nothing to send: a pause and a harvest, and two round trips (verified,
    /// committed). A clone's waits for neither.
    fn least_downtime(&self) -> Duration {
        let round_trip = if self.is_clone() { Duration::ZERO } else { self.bandwidth.round_trip() };
        self.round.harvest_time.saturating_add(round_trip).saturating_mul(2)
    }

    fn pause(&mut self, now: Instant) {
        self.marks.asked = Some(now);
        self.state = State::Pausing;
        self.endpoint.enter(Phase::StopAndCopy);
        self.endpoint.act(GuestAction::Pause);
    }

    pub(super) fn on_paused(&mut self, now: Instant, permit: RunPermit) {
        self.marks.paused = Some(now);
        let is_ours = (permit.guest(), permit.generation()) == self.paused_as;
        self.state = State::Stopped(Stopped::Harvesting, permit);
        if !is_ours {
            self.abort(now, AbortReason::Contract);
        } else if !self.recall_if_overrun(now) {
            self.harvest(now);
        }
    }

    fn on_last_harvest(&mut self, now: Instant) {
        self.marks.harvested = Some(now);
        let Some(sender) = &mut self.sender else { return };
        sender.begin_round();
        self.pages_in_downtime = sender.pending().len();
        if let State::Stopped(stopped, _) = &mut self.state {
            *stopped = Stopped::Saving;
        }
        self.endpoint.act(GuestAction::SaveState);
    }

    pub(super) fn on_saved(&mut self, now: Instant, state: DeviceState) {
        self.marks.saved = Some(now);
        if !is_bounded(&state, self.guest.vcpus) {
            return self.abort(now, AbortReason::StateTooLarge);
        }
        if let State::Stopped(stopped @ Stopped::Saving, _) = &mut self.state {
            *stopped = Stopped::Sending(Sections { state, index: 0, offset: 0, pages_are_sent: false });
        }
        self.declare_absent(now);
    }

    /// The target says how far it is.
    pub(super) fn on_progress(&mut self, now: Instant, progress: &Progress) {
        let sent = self.endpoint.link.as_ref().map_or(0, |link| link.sent);
        self.round.ends_answered = progress.rounds;
        if let Some(said) = self.round.end_said
            && progress.rounds >= said.round
        {
            self.round.end_said = None;
            self.bandwidth.saw_round_trip(now.since(said.at), said.queued_bytes);
        }
        self.bandwidth.took(progress.bytes, sent, now);
        self.serving.window.took(progress.bytes, now);
        self.spool_sees_progress(now, Channel::MAIN, progress.bytes);
        if matches!(self.state, State::Draining) && progress.rounds >= self.round.ends {
            self.state = State::Harvesting;
            self.harvest(now);
        }
    }

    /// Puts the next pages or sections into the buffer.
    pub(super) fn stream(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Streamed {
        let is_switch = self.serving.why.is_some();
        let wants_pages = match &self.state {
            State::Serving(None) => return self.stream_push(now, buffer, ram),
            State::Stopped(Stopped::Saving, _) if is_switch => false,
            State::Probing(_) if self.round.ends > 0 => false,
            State::Sending | State::Probing(_) | State::Stopped(Stopped::Saving, _) => {
                self.endpoint.link.is_some()
            }
            State::Stopped(Stopped::Sending(sections), _) if sections.pages_are_sent => {
                if let Some(len) = self.stream_absent(now, buffer) {
                    return Streamed::Transmit(len);
                }
                return self.stream_sections(now, buffer);
            }
            State::Stopped(Stopped::Sending(_), _) => true,
            _ => false,
        };
        if !wants_pages {
            return Streamed::Wait(Instant::NEVER);
        }
        if matches!(self.state, State::Stopped(Stopped::Saving, _)) && self.pages_left() == 0 {
            return Streamed::Wait(Instant::NEVER);
        }
        let ready_at = self.bucket.ready_at(now);
        if ready_at > now {
            return Streamed::Wait(ready_at);
        }
        self.stream_pages(now, buffer, ram)
    }

    fn stream_pages(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Streamed {
        let (Some(sender), Some(link)) = (&mut self.sender, &mut self.endpoint.link) else {
            return Streamed::Wait(Instant::NEVER);
        };
        let longest = self.bucket.frame_bytes(buffer.len(), OUTPUT_BYTES_MIN);
        let mut batch = Batch::new(&mut buffer[..longest]);
        sender.hurry(self.bucket.is_out_of_reach());
        let filled = match sender.fill(ram, &mut batch, usize::MAX) {
            Ok(filled) => filled,
            Err(failure) => {
                self.abort(now, AbortReason::Ram(failure));
                return Streamed::Changed;
            }
        };
        let len = if batch.is_empty() {
            0
        } else {
            self.bandwidth.sending(now);
            batch.finish(link.next_sequence())
        };
        self.bucket.spend(len, now);
        if filled == Filled::RoundDone {
            self.on_round_done(now, len);
        }
        match (len, filled) {
            (0, Filled::RoundDone) => Streamed::Changed,
            // Nothing needed a byte so far: let the caller breathe, then go on.
            (0, Filled::More) => Streamed::Wait(now),
            _ => Streamed::Transmit(len),
        }
    }

    /// All pages of a round, or of the stop, are on their way, or in the frame of this length that goes next.
    fn on_round_done(&mut self, now: Instant, last_frame: usize) {
        match &mut self.state {
            State::Probing(_) if self.round.ends == 0 => self.say_round_end(now, last_frame),
            State::Sending => {
                self.say_round_end(now, last_frame);
                self.state = State::Harvesting;
                self.harvest(now);
            }
            State::Stopped(Stopped::Sending(sections), _) => {
                sections.pages_are_sent = true;
                self.marks.pages = Some(now);
                self.say_round_end(now, last_frame);
            }
            _ => {}
        }
    }

    /// Asks the target to say when it has all that was sent, and the frame of `last_frame` bytes that goes before the question.
    pub(super) fn say_round_end(&mut self, now: Instant, last_frame: usize) {
        self.round.ends += 1;
        if self.round.end_said.is_none() {
            let sent = self.endpoint.link.as_ref().map_or(0, |link| link.sent) + last_frame as u64;
            let queued_bytes = self.bandwidth.in_flight(sent);
            self.round.end_said = Some(EndSaid { round: self.round.ends, at: now, queued_bytes });
        }
        self.endpoint.say(Control::RoundEnd(RoundEnd { round: self.round.ends }));
    }

    fn stream_sections(&mut self, now: Instant, buffer: &mut [u8]) -> Streamed {
        let (State::Stopped(stopped @ Stopped::Sending(_), _), Some(link)) =
            (&mut self.state, &mut self.endpoint.link)
        else {
            return Streamed::Wait(Instant::NEVER);
        };
        let Stopped::Sending(sections) = stopped else { return Streamed::Wait(Instant::NEVER) };
        if let Some(section) = sections.state.get(sections.index) {
            let rest = section.bytes.get(sections.offset..).unwrap_or_default();
            let bytes = &rest[..rest.len().min(CHUNK_BYTES_MAX)];
            let part = SectionPart {
                id: section.id,
                instance: section.instance,
                version: section.version,
                is_mandatory: section.necessity == Necessity::Mandatory,
                total_bytes: section.bytes.len() as u32,
                offset: sections.offset as u32,
                bytes,
            };
            let len = frame(Kind::Section, link.next_sequence(), &part, buffer);
            sections.offset += bytes.len();
            if sections.offset == section.bytes.len() {
                (sections.index, sections.offset) = (sections.index + 1, 0);
            }
            self.bandwidth.sending(now);
            return Streamed::Transmit(len);
        }
        let ram = self.sender.as_ref().map_or(0, Sender::digest);
        self.digest = guest_digest(ram, self.guest.layout.page_count(), section_digest(&sections.state));
        let (sections_count, stop) = (sections.state.len() as u32, self.ceiling.stops.recalls());
        let seal = Seal { digest: self.digest, sections: sections_count, stop, absent: self.serving.absent };
        sections.state = Vec::new();
        *stopped = Stopped::Verifying;
        self.marks.sealed = Some(now);
        self.endpoint.say(Control::Seal(seal));
        self.endpoint.enter(Phase::Verifying);
        self.part_from_copy();
        Streamed::Changed
    }

    /// Expected time until the guest has moved; `None` if it is unknown or does not converge.
    pub(super) fn remaining_estimate(&self) -> Option<Duration> {
        let rate = self.bandwidth.rate()?;
        let pages_per_second = rate / self.bytes_per_page().max(1);
        let gain = pages_per_second.checked_sub(self.dirty.rate()).filter(|gain| *gain > 0)?;
        let time = Duration::from_secs(u64::from(self.pages_left())).as_nanos() / u128::from(gain);
        Some(Duration::from_nanos(u64::try_from(time).ok()?))
    }
}
