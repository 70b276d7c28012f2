//! What a target says to its source.

use crate::reason::StreamFault;
use crate::wire::assemble::Unit;
use crate::wire::control::{self, Committed, Complete, Outcome, Progress, Verified, Want};
use crate::wire::frame::Kind;
use crate::wire::hello::Reply;
use crate::wire::reasons::AbortBody;

/// What a target says.
#[derive(Debug)]
pub(super) enum Message {
    Reply(Reply),
    Progress(Progress),
    Verified(Verified),
    Committed(Committed),
    Returned(AbortBody),
    Outcome(Outcome),
    Abort(AbortBody),
    Ping,
    Want(Want),
    Complete(Complete),
}

/// What a unit of the main connection says.
pub(super) fn message(unit: Unit<'_>) -> Result<Message, StreamFault> {
    let Unit::Control(kind, body) = unit else { return Err(StreamFault::Unexpected) };
    Ok(match kind {
        Kind::Reply => Message::Reply(control::decode(body)?),
        Kind::Progress => Message::Progress(control::decode(body)?),
        Kind::Verified => Message::Verified(control::decode(body)?),
        Kind::Committed => Message::Committed(control::decode(body)?),
        Kind::Returned => Message::Returned(control::decode(body)?),
        Kind::Outcome => Message::Outcome(control::decode(body)?),
        Kind::Abort => Message::Abort(control::decode(body)?),
        Kind::Ping => Message::Ping,
        Kind::Want => Message::Want(control::decode(body)?),
        Kind::Complete => Message::Complete(control::decode(body)?),
        Kind::Hello
        | Kind::Pages
        | Kind::RoundEnd
        | Kind::Section
        | Kind::Seal
        | Kind::Commit
        | Kind::Release
        | Kind::Recall
        | Kind::Absent
        | Kind::Pushed
        | Kind::Deposit
        | Kind::Holds
        | Kind::Spent => return Err(StreamFault::Unexpected),
    })
}
