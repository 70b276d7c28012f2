//! `heartbeat [SECONDS]`: prints the guest's clocks that often, for ever.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::{daemon, tsc};

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let Ok(seconds) = arguments.first().map_or(Ok(1), |text| text.parse::<u64>()) else {
        println!("heartbeat: usage: heartbeat [SECONDS]");
        return ExitCode::FAILURE;
    };
    loop {
        println!("heartbeat: uptime={} tsc={}", uptime(), tsc::now());
        thread::sleep(Duration::from_secs(seconds.max(1)));
    }
}

/// Starts it in the background.
pub(crate) fn start(seconds: u64) -> io::Result<()> {
    daemon::spawn("heartbeat", &[seconds.to_string()]).map(|_| ())
}

/// Seconds since the kernel started, as text with two decimals.
pub(crate) fn uptime() -> String {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
