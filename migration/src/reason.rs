//! Why a migration did not happen: who is to blame and what to do.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::guest::CpuFeatures;
use crate::io::Step;
use crate::ram::RamFailure;

/// Most reasons in one refusal; further ones are left out.
pub const REFUSALS_MAX: usize = 32;
/// Longest text in a refusal or failure; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 160;

/// Who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The person who asked for it.
    Operator,
    /// This host.
    Here,
    /// The other host.
    Peer,
    /// The network between the hosts.
    Link,
    /// The guest.
    Guest,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "operator",
            Self::Here => "this host",
            Self::Peer => "the other host",
            Self::Link => "network",
            Self::Guest => "guest",
        })
    }
}

/// One reason why a target does not take a guest, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The two speak no common version of the protocol.
    Version {
        /// Lowest and highest version that the source speaks.
        source: (u16, u16),
        /// Lowest and highest version that the target speaks.
        target: (u16, u16),
    },
    /// CPU features that the guest has been shown are missing at the target.
    CpuFeatures(CpuFeatures),
    /// The target's TSC has another frequency and it cannot scale.
    TscFrequency {
        /// The guest's, in hertz.
        guest_hz: u64,
        /// The target's, in hertz.
        target_hz: u64,
    },
    /// Too little free memory.
    Memory {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// Too little of the host's heap for what is noted about the guest while it is moved, and for the connections.
    Heap {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes that can be spared.
        free_bytes: u64,
    },
    /// More vCPUs than the target gives to one guest.
    Vcpus {
        /// Needed.
        needed: u32,
        /// Most possible.
        max: u32,
    },
    /// A guest of that name, or that very guest, is there already.
    AlreadyThere,
    /// A guest of that name has no machine there, but its last migration is still open.
    StillOpen,
    /// The target is already taking as many guests as it can.
    Busy,
    /// It cannot run a guest whose memory has not all arrived, and the mode needs that.
    PostCopy,
    /// A mandatory record of this number is not known to the target.
    UnknownRecord(u16),
    /// The target could not build the guest, in its own words (at most [`TEXT_BYTES_MAX`] bytes).
    Host(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { source, target } => write!(
                f,
                "no common protocol version: source speaks {}-{}, target {}-{}",
                source.0, source.1, target.0, target.1
            ),
            Self::CpuFeatures(missing) => write!(f, "the target lacks {missing}"),
            Self::TscFrequency { guest_hz, target_hz } => {
                write!(
                    f,
                    "the guest's TSC runs at {guest_hz} Hz, the target's at {target_hz} Hz without scaling"
                )
            }
            Self::Memory { needed_bytes, free_bytes } => {
                write!(f, "{} KiB of memory needed, {} KiB free", needed_bytes / 1024, free_bytes / 1024)
            }
            Self::Heap { needed_bytes, free_bytes } => write!(
                f,
                "{} KiB of that host's heap needed for tables and connections, {} KiB to spare: wait until other moves there \
                 are over, or stop a guest there",
                needed_bytes.div_ceil(1024),
                free_bytes / 1024
            ),
            Self::Vcpus { needed, max } => write!(f, "{needed} vCPUs needed, {max} possible"),
            Self::AlreadyThere => f.write_str("a guest of that name is there already"),
            Self::StillOpen => f.write_str(
                "the last migration of a guest of that name is still open there: 'migrate status' there shows it, and \
                 'migrate release' there ends one whose other host is gone",
            ),
            Self::Busy => f.write_str("the target is taking as many guests as it can"),
            Self::PostCopy => f.write_str("the target cannot run a guest before all of its memory is there"),
            Self::UnknownRecord(kind) => write!(f, "the target does not know mandatory record {kind}"),
            Self::Host(text) => f.write_str(text),
        }
    }
}

/// Why a step of the guest's life cycle failed at its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestFailure {
    /// The host has too little memory.
    OutOfMemory,
    /// The host refuses the guest for reasons of its own.
    Refused(Vec<Refusal>),
    /// A device section is unknown or invalid: its id, instance and version.
    Section {
        /// Which device.
        id: u32,
        /// Which of several.
        instance: u32,
        /// The version that came.
        version: u32,
    },
    /// The guest is no longer there.
    Gone,
    /// The host's own words (at most [`TEXT_BYTES_MAX`] bytes).
    Host(String),
}

impl fmt::Display for GuestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Refused(refusals) => list(f, refusals),
            Self::Section { id, instance, version } => {
                write!(f, "device section {id}.{instance} version {version} is unknown or invalid")
            }
            Self::Gone => f.write_str("the guest is gone"),
            Self::Host(text) => f.write_str(text),
        }
    }
}

/// What made a byte stream unacceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFault {
    /// It does not begin with the protocol's magic number.
    Magic,
    /// A checksum is wrong.
    Checksum,
    /// A length exceeds its bound.
    Length,
    /// A field has a value that it cannot have.
    Value,
    /// A frame came that has no place in this phase.
    Unexpected,
    /// A page's content does not have the identity that the source named.
    PageIdentity,
    /// A frame's sequence number is not the next one.
    Sequence,
}

impl fmt::Display for StreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "it is not a migration stream",
            Self::Checksum => "a checksum is wrong",
            Self::Length => "a length exceeds its bound",
            Self::Value => "a field has an impossible value",
            Self::Unexpected => "a frame came out of turn",
            Self::PageIdentity => "a page arrived with other content than was sent",
            Self::Sequence => "a frame is missing, repeated or out of order",
        })
    }
}

/// Why a migration ended without the guest moving. At the source the guest goes on; at the target it is
/// discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// Somebody asked for it, here or at the other host.
    Cancelled,
    /// The target does not take the guest.
    Refused(Vec<Refusal>),
    /// The connection could not be made or was lost.
    LinkLost,
    /// The other host did not answer in time; what was waited for took longer than this.
    PeerSilent(Duration),
    /// The target's answer is in a version of the protocol that this host does not speak.
    Version {
        /// The version of the answer; 0 says that the target found none that both speak.
        answered: u16,
        /// Lowest and highest version that this host speaks.
        spoken: (u16, u16),
    },
    /// The other host ended it for a reason that this version does not know.
    PeerAborted(u16),
    /// What came from the other host is not the protocol.
    Stream(StreamFault),
    /// The other host says that what we sent is not the protocol.
    PeerStream(StreamFault),
    /// The guest writes faster than pages can be sent, the throttle did not help, and the policy says give up.
    NotConverging {
        /// Rounds made.
        rounds: u32,
        /// Pages that were still to be sent.
        pages_left: u32,
        /// Pages that the guest dirties per second.
        dirty_pages_per_second: u64,
        /// Bytes per second that the link carries.
        bytes_per_second: u64,
    },
    /// The downtime limit is shorter than what a stop takes that has nothing to send: round trips, a pause.
    LimitTooShort {
        /// What was asked for.
        limit: Duration,
        /// The least possible.
        least: Duration,
    },
    /// The guest was stopped as often as the policy allows, and no stop was over within the downtime limit.
    LimitOverrun {
        /// What was asked for.
        limit: Duration,
        /// How many stops there were.
        stops: u32,
        /// For how long the guest stood still in all of them together.
        stood_still: Duration,
    },
    /// A step of the guest's life cycle failed at this host.
    Guest(Step, GuestFailure),
    /// A step failed at the other host.
    PeerGuest(Step, GuestFailure),
    /// A page could not be read or written at this host.
    Ram(RamFailure),
    /// The other host has no memory left.
    PeerOutOfMemory,
    /// What the target holds is not what the source sent.
    DigestMismatch,
    /// The saved device state exceeds the protocol's bounds.
    StateTooLarge,
    /// The guest stopped by itself while it was being moved.
    GuestEnded,
    /// It was to be found out what a migration would take, and it was.
    OnlyEstimated,
    /// The target died after the switch, and the guest with it; a person had it go on at the source from where it was
    /// switched.
    TargetLost,
    /// A person ended a clone after the target had been told to run the copy: it may run there.
    CopyMayRun,
    /// The target was told to run a copy, and does not know of that any more: it was restarted, or out of reach for longer than
    /// it waits.
    CopyUnknown,
    /// The hypervisor broke the engine's contract (answered a step that was not asked for, or gave a permit of
    /// another guest).
    Contract,
}

impl AbortReason {
    /// Who can do something about it.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Cancelled | Self::OnlyEstimated | Self::LimitTooShort { .. } | Self::CopyMayRun => {
                Blame::Operator
            }
            Self::LinkLost => Blame::Link,
            Self::Refused(_)
            | Self::TargetLost
            | Self::CopyUnknown
            | Self::Version { .. }
            | Self::PeerSilent(_)
            | Self::PeerAborted(_)
            | Self::Stream(_)
            | Self::PeerGuest(..)
            | Self::PeerOutOfMemory => Blame::Peer,
            Self::PeerStream(_) | Self::Guest(..) | Self::Ram(_) | Self::StateTooLarge | Self::Contract => {
                Blame::Here
            }
            Self::DigestMismatch | Self::LimitOverrun { .. } => Blame::Link,
            Self::NotConverging { .. } | Self::GuestEnded => Blame::Guest,
        }
    }

    /// What a person can do about it, as a sentence goes on; `None` if it is what a person wanted.
    #[must_use]
    pub const fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Cancelled | Self::OnlyEstimated => return None,
            Self::Refused(_) => "remove what the target names, or choose another target",
            Self::LinkLost => "check the network and that the target listens, then migrate again",
            Self::PeerSilent(_) => "check that the other host is alive, then migrate again",
            Self::Version { .. } => {
                "run releases on both hosts that have a version of the protocol in common"
            }
            Self::PeerAborted(_) => "look at the other host's log",
            Self::Stream(_) | Self::PeerStream(_) => {
                "check that both hosts run matching releases, and the network"
            }
            Self::NotConverging { .. } => {
                "migrate with --mode hybrid or postcopy, raise the downtime limit or the bandwidth, or wait until the guest is quieter"
            }
            Self::LimitOverrun { .. } => {
                "raise the downtime limit, or migrate when the network loses less and the guest is quieter"
            }
            Self::LimitTooShort { .. } => "raise the downtime limit above what this network allows",
            Self::Guest(..) | Self::Ram(_) | Self::Contract => "look at this host's log",
            Self::PeerGuest(..) => "look at the other host's log",
            Self::PeerOutOfMemory => "free memory at the target, or choose another target",
            Self::DigestMismatch => "migrate again; if it comes back, test memory and network of both hosts",
            Self::StateTooLarge => "report it: the guest has more device state than the protocol allows",
            Self::GuestEnded => "start the guest, then migrate it",
            Self::CopyMayRun => {
                "look at the other host whether the copy runs there, and stop it if nobody wants it"
            }
            Self::CopyUnknown => {
                "look at the other host whether the copy runs there; if it does not, clone again"
            }
            Self::TargetLost => "what the guest did at the target is lost: look after what depends on it",
        })
    }
}

impl fmt::Display for AbortReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::OnlyEstimated => f.write_str("it was only to be estimated"),
            Self::Refused(refusals) => {
                f.write_str("refused: ")?;
                list(f, refusals)
            }
            Self::LinkLost => f.write_str("the connection was lost or could not be made"),
            Self::PeerSilent(waited) => write!(f, "the other host was silent for {} ms", waited.as_millis()),
            Self::Version { answered, spoken } => write!(
                f,
                "the target answered in version {answered} of the protocol, this host speaks {}-{}",
                spoken.0, spoken.1
            ),
            Self::PeerAborted(code) => write!(f, "the other host ended it (code {code})"),
            Self::Stream(fault) => write!(f, "bad data from the other host: {fault}"),
            Self::PeerStream(fault) => write!(f, "the other host received bad data: {fault}"),
            Self::NotConverging { rounds, pages_left, dirty_pages_per_second, bytes_per_second } => write!(
                f,
                "does not converge: {pages_left} pages left after {rounds} rounds, the guest dirties \
                 {dirty_pages_per_second} pages/s, the link carries {bytes_per_second} B/s"
            ),
            Self::LimitTooShort { limit, least } => write!(
                f,
                "the downtime limit of {} ms cannot be kept: {} ms go by without a page to send",
                limit.as_millis(),
                least.as_millis()
            ),
            Self::LimitOverrun { limit, stops, stood_still } => write!(
                f,
                "no stop was over within the downtime limit of {} ms: {stops} were called back, {} ms in all",
                limit.as_millis(),
                stood_still.as_millis()
            ),
            Self::Guest(step, failure) => write!(f, "{step} failed: {failure}"),
            Self::PeerGuest(step, failure) => write!(f, "{step} failed at the other host: {failure}"),
            Self::Ram(failure) => write!(f, "{failure}"),
            Self::PeerOutOfMemory => f.write_str("the other host is out of memory"),
            Self::DigestMismatch => f.write_str("what arrived is not what was sent"),
            Self::StateTooLarge => f.write_str("the saved device state is too large"),
            Self::GuestEnded => f.write_str("the guest stopped meanwhile"),
            Self::CopyMayRun => {
                f.write_str("cancelled after the other host had been told to run the copy: it may run there")
            }
            Self::CopyUnknown => f.write_str(
                "the other host was told to run the copy and knows nothing of it any more (restarted, or out of reach for \
                 long): it may run there",
            ),
            Self::TargetLost => f.write_str("the target was lost after the switch"),
            Self::Contract => f.write_str("internal error: the engine's contract was broken"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, refusals: &[Refusal]) -> fmt::Result {
    for (index, refusal) in refusals.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        write!(f, "{separator}{refusal}")?;
    }
    Ok(())
}
