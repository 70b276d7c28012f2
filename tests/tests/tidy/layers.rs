//! Who may name whom inside the hypervisor, and which crates each room may name.

use super::Violation;
use super::mask::is_word;
use super::source::{Source, find_word};

/// Rooms, and the rooms that they must not name. A room that is not listed may name every other.
const MUST_NOT_NAME: [(&str, &[&str]); 17] = [
    (
        "sync",
        &[
            "mm", "platform", "drivers", "net", "devices", "vm", "exits", "sched", "migrate", "console",
            "host",
        ],
    ),
    (
        "arch",
        &["platform", "net", "devices", "emulate", "vm", "exits", "sched", "migrate", "console", "host"],
    ),
    ("mm", &["platform", "net", "devices", "emulate", "vm", "exits", "sched", "migrate", "console", "host"]),
    ("platform", &["net", "devices", "emulate", "vm", "exits", "sched", "migrate", "console", "host"]),
    (
        "drivers",
        &["devices", "emulate", "vm", "exits", "net", "sched", "migrate", "console", "host", "guest"],
    ),
    ("net", &["devices", "emulate", "vm", "exits", "sched", "migrate", "console", "host", "guest"]),
    (
        "devices",
        &["arch", "mm", "platform", "drivers", "net", "vm", "exits", "sched", "migrate", "console", "host"],
    ),
    (
        "emulate",
        &["arch", "mm", "platform", "drivers", "net", "vm", "exits", "sched", "migrate", "console", "host"],
    ),
    ("guest", &["arch", "mm", "platform", "drivers", "net", "exits", "sched", "migrate", "console", "host"]),
    (
        "guest_memory",
        &["arch", "mm", "platform", "drivers", "net", "vm", "exits", "sched", "migrate", "console"],
    ),
    (
        "snapshot",
        &["arch", "mm", "platform", "drivers", "net", "exits", "sched", "migrate", "console", "host"],
    ),
    ("exits", &["drivers", "net", "sched", "migrate", "console", "host"]),
    ("vm", &["drivers", "net", "sched", "migrate", "console", "host"]),
    ("migrate", &["arch", "mm", "drivers", "console", "host"]),
    ("guests", &["drivers", "net", "console", "host"]),
    ("sched", &["net", "drivers", "migrate", "console", "host"]),
    (
        "console",
        &[
            "arch", "mm", "sync", "platform", "drivers", "net", "devices", "emulate", "guest", "vm", "exits",
            "sched", "migrate", "host",
        ],
    ),
];

/// Crates, and the only places that may name them.
const NAMED_ONLY_IN: [(&str, &[&str]); 11] = [
    ("smoltcp", &["hypervisor/src/net/", "hypervisor/src/net.rs", "tests/"]),
    ("acpi", &["hypervisor/src/platform/"]),
    (
        "spin",
        &["hypervisor/src/sync/", "hypervisor/src/arch/", "hypervisor/src/mm/", "hypervisor/src/platform/"],
    ),
    ("uart_16550", &["hypervisor/src/arch/"]),
    ("linked_list_allocator", &["hypervisor/src/mm/"]),
    ("volatile", &["hypervisor/src/mm/", "hypervisor/src/arch/", "hypervisor/src/drivers/"]),
    ("virtio_drivers", &["hypervisor/src/drivers/"]),
    ("pci_types", &["hypervisor/src/platform/", "hypervisor/src/drivers/"]),
    ("acpi_tables", &["hypervisor/src/guest/"]),
    ("iced_x86", &["hypervisor/src/emulate/"]),
    ("uefi", &["boot/src/loader", "boot/src/main.rs", "tests/guests/"]),
];

/// Names that reach instructions of the processor, and where they may stand.
const INSTRUCTIONS: [&str; 5] =
    ["asm!", "naked_asm!", "global_asm!", "x86_64::instructions", "x86_64::registers"];
const INSTRUCTION_ROOMS: [&str; 8] = [
    "vmx/src/",
    "boot/src/loader/",
    "hypervisor/src/arch/",
    "hypervisor/src/bring_up/",
    "hypervisor/src/main.rs",
    "hypervisor/src/mm/",
    // The host's own state, which each VMCS carries, and copies of guest RAM at the speed of the memory.
    "hypervisor/src/vm/host.rs",
    "hypervisor/src/vm/memory.rs",
];

/// No room names a room that it must not.
pub(crate) fn rooms(source: &Source) -> Vec<Violation> {
    let Some(inside) = source.path.strip_prefix("hypervisor/src/") else { return vec![] };
    let room = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let forbidden = MUST_NOT_NAME.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, rooms)| rooms);
    let mut violations = Vec::new();
    for (index, named) in named_rooms(source) {
        if forbidden.contains(&named.as_str()) {
            violations.push(Violation::at(source, index, format!("{room} must not name {named}")));
        }
    }
    violations
}

/// The rooms that a source names by `crate::`, also in a group, with the lines.
fn named_rooms(source: &Source) -> Vec<(usize, String)> {
    let text = source.code.join("\n");
    let mut named = Vec::new();
    for (at, root) in text.match_indices("crate::") {
        if text[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let line = text[..at].matches('\n').count();
        let behind = text[at + root.len()..].trim_start();
        let names = match behind.strip_prefix('{') {
            Some(group) => group_heads(group),
            None => vec![first_word(behind)],
        };
        named.extend(names.into_iter().map(|name| (line, name)));
    }
    named
}

/// The first words of the members of a `use` group, whose opening brace is gone already.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut begin) = (0_usize, Vec::new(), 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                heads.push(first_word(group[begin..at].trim_start()));
                begin = at + 1;
                if character == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}

/// No crate and no instruction is named where it must not be.
pub(crate) fn crates(source: &Source) -> Vec<Violation> {
    let stands_in = |places: &[&str]| places.iter().any(|place| source.path.starts_with(place));
    let mut violations = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        for (name, places) in NAMED_ONLY_IN {
            if names_crate(line, name) && !stands_in(places) && !has_module(source, name) {
                violations.push(Violation::at(source, index, format!("{name} is named only in {places:?}")));
            }
        }
        for name in INSTRUCTIONS {
            let is_named = line.match_indices(name).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(is_word)
            });
            if is_named && !stands_in(&INSTRUCTION_ROOMS) && !source.path.starts_with("tests/") {
                violations.push(Violation::at(
                    source,
                    index,
                    format!("{name} outside {INSTRUCTION_ROOMS:?}"),
                ));
            }
        }
    }
    violations
}

/// Whether the line names the crate in a path or a `use`; a module of the same name does not count.
fn names_crate(line: &str, name: &str) -> bool {
    let uses = |prefix: &str| {
        let used = line.trim_start().strip_prefix(prefix).and_then(|tail| tail.strip_prefix(name));
        used.is_some_and(|tail| tail.starts_with("::") || tail.starts_with(';') || tail.starts_with(" as "))
    };
    let path = format!("{name}::");
    let in_path = line.match_indices(&path).any(|(at, _)| {
        let before = &line[..at];
        // `super::acpi::x` and `my_acpi::x` are other things.
        !before.ends_with("::") && !before.chars().next_back().is_some_and(is_word)
    });
    uses("use ") || uses("pub use ") || in_path
}

/// Whether the source means a module of ours by this name.
fn has_module(source: &Source, name: &str) -> bool {
    let text = source.code.join(" ");
    let statements = text.split(';').map(str::trim_start);
    let mut local = statements.filter(|s| {
        ["use super::", "use crate::", "use self::", "mod ", "pub mod "]
            .iter()
            .any(|begin| s.starts_with(begin))
    });
    local.any(|statement| find_word(statement, name).is_some())
}

#[test]
fn forbidden_edges_are_found_however_they_are_written() {
    for (path, text, count) in [
        ("hypervisor/src/devices/x.rs", "use crate::drivers::net;", 1),
        ("hypervisor/src/devices/x.rs", "use crate::{guest_memory::GuestMemory, sched};", 1),
        ("hypervisor/src/devices/x.rs", "use crate::{\n    net::{a, b},\n    vm,\n};", 2),
        ("hypervisor/src/devices/x.rs", "fn f() { crate::arch::halt() }", 1),
        ("hypervisor/src/devices/x.rs", "// crate::arch\nuse crate::guest_memory::GuestMemory;", 0),
        ("hypervisor/src/drivers/net/e1000.rs", "use crate::devices::x;", 1),
        ("hypervisor/src/drivers/net/e1000.rs", "use super::hal; use crate::mm::dma;", 0),
        ("hypervisor/src/guest_memory.rs", "use crate::vm::x;", 1),
        ("hypervisor/src/main.rs", "use godwit_hypervisor::{console, vm};", 0),
        ("vmx/src/x.rs", "use crate::net;", 0),
    ] {
        assert_eq!(rooms(&Source::new(path, text)).len(), count, "{path}: {text}");
    }
}

#[test]
fn crates_and_instructions_off_their_places_are_found() {
    for (path, text, count) in [
        ("hypervisor/src/console/x.rs", "use smoltcp::iface;", 1),
        ("hypervisor/src/net/phy.rs", "use smoltcp::iface;", 0),
        ("hypervisor/src/vm/x.rs", "let x = acpi::AcpiTables::new();", 1),
        ("hypervisor/src/vm/x.rs", "let x = super::acpi::tables(); my_acpi::x()", 0),
        ("hypervisor/src/guest/x.rs", "use super::{acpi, layout};\nlet x = acpi::tables();", 0),
        ("hypervisor/src/devices/x.rs", "asm!(\"\")", 1),
        ("hypervisor/src/devices/x.rs", "x86_64::instructions::hlt()", 1),
        ("hypervisor/src/arch/x.rs", "asm!(\"\")", 0),
    ] {
        assert_eq!(crates(&Source::new(path, text)).len(), count, "{path}: {text}");
    }
}
