//! What can panic, outside tests: nothing that a guest, a peer or a disk decides.

use super::Violation;
use super::source::{Source, Tree};

/// Where `expect` may stand, and why it can be nobody's fault but the programmer's, or the machine's before
/// anything else runs.
const EXPECTS: [(&str, &str); 9] = [
    ("hypervisor/src/bring_up/", "nothing can go on without it, and no guest or peer exists yet"),
    ("hypervisor/src/arch/", "bring-up has set it up before its first use, once per CPU"),
    ("hypervisor/src/mm/", "bring-up has set it up before its first use"),
    (
        "hypervisor/src/drivers/net/virtio_net/hal.rs",
        "addresses of memory that this driver has allocated itself",
    ),
    (
        "migration/src/codec/lz/",
        "arrays with room behind all that an index reaches, which was checked before",
    ),
    ("migration/src/source/batch.rs", "the caller made sure of the room"),
    ("migration/src/wire/", "lengths within bounds that were checked before, or are the code's own"),
    ("migration/examples/", "a developer's measurement, not shipped"),
    ("hypervisor/src/platform/acpi.rs", "the direct map is not at address 0"),
];

/// No `unwrap`: it says nothing.
pub(crate) fn unwraps(source: &Source) -> Vec<Violation> {
    let found =
        source.shipped().filter(|(_, line)| line.contains(".unwrap()") || line.contains(".unwrap_err()"));
    found.map(|(index, _)| Violation::at(source, index, "unwrap outside tests")).collect()
}

/// No `expect` that is not listed above.
pub(crate) fn expects(source: &Source) -> Vec<Violation> {
    if EXPECTS.iter().any(|(place, _)| source.path.starts_with(place)) {
        return vec![];
    }
    let what = "expect outside tests and not listed in tests/tests/tidy/panics.rs";
    expecting(source).into_iter().map(|index| Violation::at(source, index, what)).collect()
}

/// Lines that call `expect` outside tests.
fn expecting(source: &Source) -> Vec<usize> {
    let calls = |line: &str| line.contains(".expect(") || line.contains(".expect_err(");
    source.shipped().filter(|(_, line)| calls(line)).map(|(index, _)| index).collect()
}

/// No allowance for what is no longer there.
pub(crate) fn unused_allowances(tree: &Tree) -> Vec<Violation> {
    let is_used = |place: &str| {
        let mut sources = tree.sources.iter().filter(|source| source.path.starts_with(place));
        sources.any(|source| !expecting(source).is_empty())
    };
    let unused = EXPECTS.iter().filter(|(place, _)| !is_used(place));
    let violation = |(place, _): &(&str, &str)| Violation {
        path: "tests/tests/tidy/panics.rs".into(),
        line: 1,
        what: format!("{place} is allowed expect and has none"),
    };
    unused.map(violation).collect()
}

#[test]
fn unwraps_are_found_outside_tests_only() {
    let text = "fn f() { x.unwrap(); }\n// .unwrap()\n#[cfg(test)]\nmod tests { fn f() { x.unwrap() } }\n";
    assert_eq!(unwraps(&Source::new("vmx/src/x.rs", text)).len(), 1);
    assert!(unwraps(&Source::new("tests/src/x.rs", text)).is_empty());
}

#[test]
fn expects_are_found_unless_listed() {
    let text = "#[expect(dead_code)]\nfn f() { x.expect(\"y\"); }\n";
    assert_eq!(expects(&Source::new("vmx/src/x.rs", text)).len(), 1);
    let listed = "hypervisor/src/mm/x.rs";
    assert!(expects(&Source::new(listed, text)).is_empty());
    let tree = Tree::new(vec![Source::new(listed, text)], vec![]);
    assert_eq!(unused_allowances(&tree).len(), EXPECTS.len() - 1);
}
