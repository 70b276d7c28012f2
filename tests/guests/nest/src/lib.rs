//! Many serial lines on one, the trunk: what the lab and the Linux in Bochs share of it.
//!
//! ```text
//! QEMU ── Unix socket ─┐                                            ┌─ TCP ── the lab's `Serial` of machine 0
//! QEMU ── Unix socket ─┼─ `lines` ── ttyS1 ══ Bochs ══ TCP ── lab ──┼─ TCP ── … of machine 1
//! QEMU ── Unix socket ─┘             (the trunk)                    └─ …
//! ```
//!
//! * [`frame`]: what the trunk carries, how its bytes are found again after damaged ones.
//! * [`line`]: one end of one line: what was sent and not confirmed, what may be sent, what has come.
//! * [`trunk`]: the threads that join streams to such ends. Both sides run it.
//!
//! Neither side loses a byte: nothing is sent that the other has not made room for, and what it does not confirm is
//! sent again.
#![forbid(unsafe_code)]

pub mod frame;
pub mod line;
pub mod trunk;
