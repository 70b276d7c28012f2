use alloc::string::ToString;

use super::*;

const WHOLE: &str = r#"
[host]
name = "a"
[network]
address = "10.0.0.1/24"
gateway = "10.0.0.254"
[migration]
listen = true
port = 7101
bandwidth_mbit = 100
downtime_limit_ms = 200
link_timeout_s = 60
mode = "hybrid"
stops_max = 0
[[peer]]
name = "b"
address = "10.0.0.2"
[[peer]]
name = "c"
address = "10.0.0.3:99"
[[guest]]
name = "linux"
kernel = "vmlinuz"
initrd = "initrd.img"
command_line = "console=ttyS0 quiet"
memory_mib = 128
vcpus = 1
start = true
[[guest]]
name = "small"
kernel = "boot/vmlinuz"
memory_mib = 16
"#;

fn complaint(text: &str) -> String {
    parse("godwit.toml", text).unwrap_err().to_string()
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let configuration = parse("godwit.toml", WHOLE).unwrap();
    assert_eq!(configuration.host_name.as_str(), "a");
    assert_eq!(
        configuration.network(),
        Some(Network::Static {
            address: Ipv4Addr::new(10, 0, 0, 1),
            prefix_length: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 0, 254)),
        })
    );
    assert_eq!(
        configuration.migration(),
        Migration {
            listen: true,
            port: 7101,
            bandwidth_mbit: Some(100),
            downtime_limit_ms: 200,
            link_timeout_s: 60,
            mode: MemoryMode::Hybrid,
            stops_max: 0,
        }
    );
    let [b, c] = configuration.peers() else { panic!("two peers") };
    assert_eq!((b.name.as_str(), b.address(), b.port), ("b", Ipv4Addr::new(10, 0, 0, 2), 7100));
    assert_eq!((c.name.as_str(), c.port), ("c", 99));
    let [linux, small] = configuration.guests() else { panic!("two guests") };
    assert_eq!((linux.kernel.as_str(), linux.initrd()), ("vmlinuz", Some("initrd.img")));
    assert_eq!(linux.command_line.as_str(), "console=ttyS0 quiet");
    assert_eq!((linux.memory_mib, linux.vcpus, linux.start()), (128, 1, true));
    assert_eq!((small.initrd(), small.vcpus, small.start()), (None, 1, false));
}

#[test]
fn an_empty_file_is_the_default() {
    let configuration = parse("godwit.toml", "").unwrap();
    assert_eq!(configuration.network(), None);
    assert_eq!(
        configuration.migration(),
        Migration {
            listen: false,
            port: 7100,
            bandwidth_mbit: None,
            downtime_limit_ms: 300,
            link_timeout_s: 8,
            mode: MemoryMode::Auto,
            stops_max: 6,
        }
    );
    assert!(configuration.guests().is_empty() && configuration.peers().is_empty());
}

#[test]
fn an_error_names_file_line_key_and_what_is_expected() {
    assert_eq!(
        complaint("[host]\nname = \"a\"\n[migration]\nbandwith_mbit = 3\n"),
        "godwit.toml:4: migration.bandwith_mbit: unknown key; expected one of \
         listen, port, bandwidth_mbit, downtime_limit_ms, link_timeout_s, mode, stops_max"
    );
    assert_eq!(
        complaint("[migration]\nmode = \"fast\"\n"),
        "godwit.toml:2: migration.mode: expected one of \"auto\", \"precopy\", \"postcopy\", \"hybrid\", found \"fast\""
    );
    assert_eq!(
        complaint("[[guest]]\nname = \"g\"\nkernel = \"k\"\nmemory_mib = \"lots\"\n"),
        "godwit.toml:4: guest.memory_mib: expected MiB from 16 to 1048576, found \"lots\""
    );
    assert_eq!(
        complaint("\n[[guest]]\nname = \"g\"\nmemory_mib = 64\n"),
        "godwit.toml:2: guest.kernel: is missing; expected a file's path on the volume, relative to \
         godwit.toml, of 1 to 256 bytes"
    );
    assert_eq!(
        complaint("[hots]\n"),
        "godwit.toml:1: hots: unknown key; expected one of host, network, migration, peer, guest"
    );
    assert!(complaint("[host]\nname = \n").starts_with("godwit.toml:2: "));
}

#[test]
fn values_out_of_range_are_refused() {
    for (text, line) in [
        ("[network]\naddress = \"10.0.0.1\"", 2),
        ("[network]\naddress = \"10.0.0.1/33\"", 2),
        ("[network]\naddress = \"224.0.0.1/24\"", 2),
        ("[network]\naddress = \"10.0.0.1/24\"\ngateway = \"10.0.1.254\"", 3),
        ("[network]\naddress = \"dhcp\"\ngateway = \"10.0.1.254\"", 3),
        ("[network]\n", 1),
        ("network = 1", 1),
        ("[migration]\nport = 0", 2),
        ("[migration]\nport = -1", 2),
        ("[migration]\nlisten = 1", 2),
        ("[[peer]]\nname = \"b\"\naddress = \"10.0.0.2:0\"", 3),
        ("[[peer]]\nname = \"b c\"\naddress = \"10.0.0.2\"", 2),
        ("[peer]\nname = \"b\"", 1),
        ("[[guest]]\nname = \"g\"\nkernel = \"../k\"\nmemory_mib = 64", 3),
        ("[[guest]]\nname = \"g\"\nkernel = \"/k\"\nmemory_mib = 64", 3),
        ("[[guest]]\nname = \"status\"\nkernel = \"k\"\nmemory_mib = 64", 2),
        ("[[guest]]\nname = \"g\"\nkernel = \"k\"\nmemory_mib = 64\nvcpus = 0", 5),
        ("[[guest]]\nname = \"g\"\nkernel = \"k\"\nmemory_mib = 64\nvcpus = 17", 5),
    ] {
        assert_eq!(parse("f", text).unwrap_err().line, line, "{text}");
    }
}

#[test]
fn a_name_is_taken_once() {
    let text = "[[peer]]\nname = \"b\"\naddress = \"10.0.0.2\"\n";
    let twice = [text, text].concat();
    assert_eq!(complaint(&twice), "godwit.toml:5: peer.name: \"b\" is taken already; expected another name");
}

#[test]
fn more_sections_than_fit_are_refused() {
    let text: String = (0..=PEERS_MAX)
        .map(|index| alloc::format!("[[peer]]\nname = \"p{index}\"\naddress = \"10.0.0.2\"\n"))
        .collect();
    assert_eq!(parse("f", &text).unwrap_err().problem, Problem::TooMany { limit: PEERS_MAX });
}

#[test]
fn bytes_that_are_no_text_are_refused_at_their_line() {
    let error = parse_bytes("godwit.toml", b"[host]\nname = \"a\xff\"\n").unwrap_err();
    assert_eq!(error.to_string(), "godwit.toml:2: this is not UTF-8 text");
    assert_eq!(parse_bytes("godwit.toml", WHOLE.as_bytes()).unwrap().guests().len(), 2);
}
