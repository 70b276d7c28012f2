//! The programs of the Linux test guest, one executable under several names; `tests/README.md` says what they print.

mod boot;
mod daemon;
mod data;
mod heartbeat;
mod options;
mod pattern;
mod ticks;
mod tsc;

use std::env;
use std::process::ExitCode;

use data::Verdict;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().collect();
    let called = if arguments.is_empty() { String::new() } else { arguments.remove(0) };
    let mut name = called.rsplit('/').next().unwrap_or_default().to_owned();
    if name == "guest" && !arguments.is_empty() {
        name = arguments.remove(0);
    }
    match name.as_str() {
        "boot" => boot::run(&arguments),
        "heartbeat" => heartbeat::run(&arguments),
        "pattern" => pattern::run(&arguments),
        "ticks" => ticks::run(&arguments),
        "tsc" => {
            println!("{}", tsc::now());
            ExitCode::SUCCESS
        }
        "verify" => verify(),
        _ => {
            println!("guest: usage: guest boot|heartbeat|pattern|ticks|tsc|verify …");
            ExitCode::FAILURE
        }
    }
}

/// `verify`: is the data what it was?
fn verify() -> ExitCode {
    match data::verify() {
        Ok(Verdict::Same(sum)) => {
            println!("verify: ok {sum:016x}");
            return ExitCode::SUCCESS;
        }
        Ok(Verdict::Different { expected, found, pages, first }) => {
            let first = first.map_or(String::new(), |first| format!(", the first is page {first}"));
            println!("verify: DIFFERENT {found:016x}, was {expected}: {pages} pages changed{first}");
        }
        Err(error) => println!("verify: the data cannot be read: {error}"),
    }
    ExitCode::FAILURE
}
