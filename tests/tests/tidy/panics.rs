//! What can panic, outside tests: nothing that a guest, a peer or a disk decides.

use super::Violation;
use super::source::{Source, Tree};

/// Files that may call `expect`, how often, and why that cannot be anyone's fault but the programmer's.
const EXPECTS: [(&str, usize, &str); 4] = [
    ("hypervisor/src/mm/frames.rs", 1, "the frame allocator is set up before anything that could ask it"),
    ("hypervisor/src/mm/mmio.rs", 1, "the address space is set up before the first driver"),
    ("hypervisor/src/arch/apic.rs", 1, "the local APIC is enabled before its first use"),
    ("hypervisor/src/arch/gdt.rs", 1, "each CPU takes its tables once"),
];

/// No `unwrap`: it says nothing.
pub(crate) fn unwraps(source: &Source) -> Vec<Violation> {
    let found =
        source.shipped().filter(|(_, line)| line.contains(".unwrap()") || line.contains(".unwrap_err()"));
    found.map(|(index, _)| Violation::at(source, index, "unwrap outside tests")).collect()
}

/// No `expect` that is not listed above.
pub(crate) fn expects(source: &Source) -> Vec<Violation> {
    let allowed = EXPECTS.iter().find(|(path, ..)| *path == source.path).map_or(0, |(_, count, _)| *count);
    let found = expecting(source);
    if found.len() <= allowed {
        return vec![];
    }
    let what = format!("expect outside tests; {allowed} listed in tests/tests/tidy/panics.rs");
    found.into_iter().map(|index| Violation::at(source, index, what.clone())).collect()
}

/// Lines that call `expect` outside tests.
fn expecting(source: &Source) -> Vec<usize> {
    let calls = |line: &str| line.contains(".expect(") || line.contains(".expect_err(");
    source.shipped().filter(|(_, line)| calls(line)).map(|(index, _)| index).collect()
}

/// No allowance for what is no longer there.
pub(crate) fn unused_allowances(tree: &Tree) -> Vec<Violation> {
    let used =
        |path: &str| tree.sources.iter().find(|source| source.path == path).map(|s| expecting(s).len());
    let unused = EXPECTS.iter().filter(|(path, count, _)| used(path) != Some(*count));
    let violation = |(path, count, _): &(&str, usize, &str)| Violation {
        path: "tests/tests/tidy/panics.rs".into(),
        line: 1,
        what: format!("{path} is allowed {count} expects and has {}", used(path).unwrap_or(0)),
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
    let listed = EXPECTS[0].0;
    assert!(expects(&Source::new(listed, text)).is_empty());
    assert_eq!(expects(&Source::new(listed, &text.repeat(EXPECTS[0].1 + 1))).len(), EXPECTS[0].1 + 1);
    let tree = Tree::new(vec![Source::new(listed, "")], vec![]);
    assert_eq!(unused_allowances(&tree).len(), EXPECTS.len());
}
