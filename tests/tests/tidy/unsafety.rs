//! `unsafe` stays on its islands, and every use says why it is sound.

use super::Violation;
use super::source::{Source, find_word};

/// Where files may opt in: what touches hardware, page tables or the firmware, and what has no safe word.
const ISLANDS: [&str; 13] = [
    "boot/src/loader/",
    "hypervisor/src/bring_up/",
    "tests/guests/",
    "hypervisor/src/arch/",
    "hypervisor/src/mm/",
    "hypervisor/src/platform/",
    "hypervisor/src/drivers/hal",
    "hypervisor/src/drivers/net/virtio",
    "hypervisor/src/vm/",
    "hypervisor/src/main.rs",
    "hypervisor/src/sync/",
    "vmx/src/",
    "migration/examples/stream/prefetch.rs",
];
/// The line with which a file opts in.
const OPT_IN: &str = "#![expect(unsafe_code";
/// Lines above an `unsafe` in which its comment may begin.
const REACH: usize = 12;

/// `unsafe` stands only in files of the islands that opt in.
pub(crate) fn islands(source: &Source) -> Vec<Violation> {
    let is_island = ISLANDS.iter().any(|island| source.path.starts_with(island));
    let opts_in = source.code.iter().any(|line| line.starts_with(OPT_IN));
    let mut violations = Vec::new();
    if opts_in && !is_island {
        violations.push(Violation::at(source, 0, "unsafe code outside the islands"));
    }
    if !opts_in {
        // Tests of an island inherit its opting in.
        let found = source.code.iter().enumerate().filter(|(_, line)| find_word(line, "unsafe").is_some());
        let found = found.filter(|(index, _)| !(is_island && source.is_test[*index]));
        violations.extend(found.map(|(index, _)| {
            Violation::at(
                source,
                index,
                "unsafe in a file that does not begin with #![expect(unsafe_code, reason)]",
            )
        }));
    }
    violations
}

/// Every `unsafe` block and implementation has its SAFETY comment above or beside it.
pub(crate) fn comments(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        let Some(at) = find_word(line, "unsafe") else { continue };
        let behind = line[at + "unsafe".len()..].trim_start();
        // Functions and traits state their contract in their documentation; attributes need none.
        if !(behind.is_empty() || behind.starts_with('{') || behind.starts_with("impl")) {
            continue;
        }
        let above = source.comments[index.saturating_sub(REACH)..=index].iter();
        if !above.rev().any(|comment| comment.contains("SAFETY:")) {
            violations.push(Violation::at(source, index, "unsafe without a SAFETY comment"));
        }
    }
    violations
}

#[test]
fn unsafe_is_found_off_the_islands() {
    let naked = "fn f() { unsafe { x() } }";
    let opted = "#![expect(unsafe_code, reason = \"x\")]\nfn f() { unsafe { x() } }";
    for (path, text, count) in [
        ("hypervisor/src/arch/x.rs", naked, 1),
        ("hypervisor/src/arch/x.rs", opted, 0),
        ("hypervisor/src/devices/x.rs", naked, 1),
        ("hypervisor/src/devices/x.rs", opted, 1),
        ("hypervisor/src/devices/x.rs", "// unsafe\nfn unsafely() { \"unsafe\" }", 0),
    ] {
        assert_eq!(islands(&Source::new(path, text)).len(), count, "{path}: {text}");
    }
}

#[test]
fn a_missing_safety_comment_is_found() {
    for (text, count) in [
        ("let x = unsafe { y() };", 1),
        ("// SAFETY: y is fine.\nlet x = unsafe { y() };", 0),
        ("unsafe impl Send for X {}", 1),
        ("/// # Safety\n/// Never.\npub unsafe fn f() {}", 0),
        ("// SAFETY: too far.\n\n\n\n\n\n\n\n\n\n\n\n\n\nlet x = unsafe { y() };", 1),
    ] {
        assert_eq!(comments(&Source::new("vmx/src/x.rs", text)).len(), count, "{text}");
    }
}
