//! Runs this program again in the background.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Starts it under `name`. It prints to where we print and is not stopped by a Ctrl-C at the shell.
pub(crate) fn spawn(name: &str, arguments: &[String]) -> io::Result<Child> {
    Command::new("/proc/self/exe").arg0(name).args(arguments).stdin(Stdio::null()).process_group(0).spawn()
}
