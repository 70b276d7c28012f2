//! `godwit.toml` of the hosts a test starts.

use std::fmt::Write;

use crate::guest::LinuxFiles;

/// What a host is told. [`HostConfig::to_toml`] gives the file.
#[derive(Clone, Debug, Default)]
pub struct HostConfig {
    /// The host's name, which is also its prompt.
    pub name: String,
    /// Address with prefix length, or `dhcp`; `None`: no `[network]` table.
    pub address: Option<String>,
    /// Present: a `[migration]` table.
    pub migration: Option<MigrationConfig>,
    /// Names and addresses of the other hosts.
    pub peers: Vec<(String, String)>,
    /// The guests.
    pub guests: Vec<GuestConfig>,
}

/// The `[migration]` table.
#[derive(Clone, Debug)]
pub struct MigrationConfig {
    /// Whether the port is open.
    pub listen: bool,
    /// Megabits per second; 0: no cap.
    pub bandwidth_mbit: u64,
    /// The longest acceptable stun.
    pub downtime_limit_ms: u64,
    /// Silence of a peer after which the link counts as lost, by the host's own clock: an emulated host's runs
    /// many times too fast while it idles, so that this must be long there.
    pub link_timeout_s: u64,
}

/// A `[[guest]]` table.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// The guest's name.
    pub name: String,
    /// Kernel, a file beside `godwit.toml`.
    pub kernel: String,
    /// Initial RAM disk, beside it too.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub command_line: String,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub vcpus: u32,
    /// Started with the host.
    pub start: bool,
}

impl Default for MigrationConfig {
    fn default() -> Self {
        Self { listen: true, bandwidth_mbit: 0, downtime_limit_ms: 300, link_timeout_s: 60 }
    }
}

impl GuestConfig {
    /// The Debian guest of the lab, not started with the host.
    pub fn linux(name: &str, memory_mib: u64) -> Self {
        Self {
            name: name.to_owned(),
            kernel: "vmlinuz".to_owned(),
            initrd: Some("initrd.img".to_owned()),
            command_line: LinuxFiles::COMMAND_LINE.to_owned(),
            memory_mib,
            vcpus: 1,
            start: false,
        }
    }

    /// A guest whose kernel is the lab's bare-metal program, with `behaviour` as its command line.
    pub fn bare(name: &str, behaviour: &str) -> Self {
        Self {
            name: name.to_owned(),
            kernel: "bare.bin".to_owned(),
            initrd: None,
            command_line: behaviour.to_owned(),
            memory_mib: 16,
            vcpus: 1,
            start: false,
        }
    }
}

impl HostConfig {
    /// The text of `godwit.toml`.
    pub fn to_toml(&self) -> String {
        let mut text = format!("[host]\nname = {}\n", quoted(&self.name));
        if let Some(address) = &self.address {
            put(&mut text, format_args!("\n[network]\naddress = {}\n", quoted(address)));
        }
        if let Some(m) = &self.migration {
            put(&mut text, format_args!("\n[migration]\nlisten = {}\n", m.listen));
            put(&mut text, format_args!("bandwidth_mbit = {}\n", m.bandwidth_mbit));
            put(&mut text, format_args!("downtime_limit_ms = {}\n", m.downtime_limit_ms));
            put(&mut text, format_args!("link_timeout_s = {}\n", m.link_timeout_s));
        }
        for (name, address) in &self.peers {
            let (name, address) = (quoted(name), quoted(address));
            put(&mut text, format_args!("\n[[peer]]\nname = {name}\naddress = {address}\n"));
        }
        for guest in &self.guests {
            guest.write(&mut text);
        }
        text
    }
}

impl GuestConfig {
    fn write(&self, text: &mut String) {
        let (name, kernel) = (quoted(&self.name), quoted(&self.kernel));
        put(text, format_args!("\n[[guest]]\nname = {name}\nkernel = {kernel}\n"));
        if let Some(initrd) = &self.initrd {
            put(text, format_args!("initrd = {}\n", quoted(initrd)));
        }
        put(text, format_args!("command_line = {}\n", quoted(&self.command_line)));
        put(
            text,
            format_args!(
                "memory_mib = {}\nvcpus = {}\nstart = {}\n",
                self.memory_mib, self.vcpus, self.start
            ),
        );
    }
}

fn put(text: &mut String, piece: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(piece);
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_written() {
        let config = HostConfig {
            name: "a".into(),
            address: Some("10.0.0.1/24".into()),
            migration: Some(MigrationConfig::default()),
            peers: vec![("b".into(), "10.0.0.2".into())],
            guests: vec![GuestConfig::linux("linux", 128)],
        };
        let expected = r#"[host]
name = "a"

[network]
address = "10.0.0.1/24"

[migration]
listen = true
bandwidth_mbit = 0
downtime_limit_ms = 300
link_timeout_s = 60

[[peer]]
name = "b"
address = "10.0.0.2"

[[guest]]
name = "linux"
kernel = "vmlinuz"
initrd = "initrd.img"
command_line = "console=ttyS0 quiet panic=-1 cryptomgr.notests clearcpuid=smap,erms,fsrm"
memory_mib = 128
vcpus = 1
start = false
"#;
        assert_eq!(config.to_toml(), expected);
    }

    #[test]
    fn quotes_in_values_are_escaped() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
