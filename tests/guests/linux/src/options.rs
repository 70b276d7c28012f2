//! Options of ours on the kernel's command line, all beginning with `godwit.`.

use std::fs;

/// What the command line asks of the guest's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// `godwit.data_mib=N`: size of the data that is kept in a tmpfs. 0: none.
    pub(crate) data_mib: u64,
    /// `godwit.pattern=MIB,PAGES_PER_SECOND`: start the pattern at boot; rate 0 is flat out.
    pub(crate) pattern: Option<(u64, u64)>,
    /// `godwit.heartbeat=SECONDS`: print the uptime that often.
    pub(crate) heartbeat_s: Option<u64>,
    /// `godwit.start_tsc=TICKS`: the TSC when the kernel was entered, for whoever measures the way to the shell.
    pub(crate) start_tsc: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { data_mib: 32, pattern: None, heartbeat_s: None, start_tsc: None }
    }
}

/// Reads the running kernel's command line. One that cannot be read has no options.
pub(crate) fn read() -> Options {
    let (options, errors) = parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    errors.iter().for_each(|error| println!("guest: {error}"));
    options
}

/// Gives the options and, in words, what was not understood.
fn parse(command_line: &str) -> (Options, Vec<String>) {
    let mut options = Options::default();
    let mut errors = Vec::new();
    for option in command_line.split_whitespace().filter(|word| word.starts_with("godwit.")) {
        if set(&mut options, option).is_none() {
            errors.push(format!("{option} on the kernel's command line is not understood"));
        }
    }
    (options, errors)
}

fn set(options: &mut Options, option: &str) -> Option<()> {
    let (name, value) = option.split_once('=')?;
    let number = |text: &str| text.parse::<u64>().ok();
    match name {
        "godwit.data_mib" => options.data_mib = number(value)?,
        "godwit.pattern" => {
            let (mib, rate) = value.split_once(',').unwrap_or((value, "0"));
            options.pattern = Some((number(mib)?, number(rate)?));
        }
        "godwit.heartbeat" => options.heartbeat_s = Some(number(value)?),
        "godwit.start_tsc" => options.start_tsc = Some(number(value)?),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_left_alone() {
        assert_eq!(parse("console=ttyS0 quiet panic=-1\n"), (Options::default(), vec![]));
    }

    #[test]
    fn options_are_read() {
        let line =
            "quiet godwit.data_mib=0 godwit.pattern=16,1000 godwit.heartbeat=1 godwit.start_tsc=12345678901";
        let options = Options {
            data_mib: 0,
            pattern: Some((16, 1000)),
            heartbeat_s: Some(1),
            start_tsc: Some(12_345_678_901),
        };
        assert_eq!(parse(line), (options, vec![]));
        assert_eq!(parse("godwit.pattern=8").0.pattern, Some((8, 0)), "flat out");
    }

    #[test]
    fn nonsense_is_named() {
        let (options, errors) = parse("godwit.data_mib=lots godwit.speed=9 godwit.pattern=1,2,3");
        assert_eq!(options, Options::default());
        assert_eq!(errors.len(), 3);
        assert!(errors[0].contains("godwit.data_mib=lots"));
    }
}
