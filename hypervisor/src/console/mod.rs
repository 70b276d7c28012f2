//! The person's side: a shell on a serial line.
//!
//! [`Console`] is a state machine without hardware: bytes go in through [`Console::input`], and
//! [`Console::poll`] does what they ask of a [`Host`], the console's view of the machine, and hands what is to be
//! shown to a [`ByteSink`]. It never blocks and never waits: whatever takes long (a migration, a ping, a slow
//! serial line) is looked at again at the next poll.
//!
//! ```text
//! bytes ─▶ keys ─▶ editor ─▶ tokens ─▶ parse ─▶ commands ─▶ Host
//!                    │                              │
//!                   row ◀── progress, notices ──────┴─▶ output ─▶ ByteSink
//! guests' UARTS ─▶ scrollback ─▶ mux
//! ```
//!
//! Invariants: everything that input, a guest or a peer can grow has a named bound; one row of the terminal is
//! ever rewritten, and only with carriage return, backspace and spaces, so that a dumb terminal and a log file
//! both stay readable; bytes of a guest reach the terminal only while a person is attached to it.
#![forbid(unsafe_code)]

mod commands;
mod complete;
mod editor;
mod format;
mod help;
mod history;
mod host;
mod keys;
mod mux;
mod options;
mod output;
mod parse;
mod ping;
mod progress;
mod report;
mod row;
mod scrollback;
mod session;
mod spool;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod values;
pub mod view;
mod watch;

pub use commands::clone::CLONE_MODE;
pub use format::{Bytes, Rate, Span};
pub use host::{ActionError, Capability, Host, Notice, PingEvent, Tuning};
pub use output::ByteSink;
pub use session::Console;
