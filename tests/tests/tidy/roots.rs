//! Lints are on for every crate, and rooms that need no `unsafe` forbid it.

use super::Violation;
use super::source::{CRATES, Tree};

/// Lines of the workspace's manifest.
const WORKSPACE_LINES: [&str; 5] = [
    "unsafe_code = \"deny\"",
    "unsafe_op_in_unsafe_fn = \"deny\"",
    "missing_docs = \"warn\"",
    "undocumented_unsafe_blocks = \"warn\"",
    "multiple_unsafe_ops_per_block = \"warn\"",
];
/// Files that forbid `unsafe` for all below them, and how many there are.
const FORBIDDING: [&str; 7] = [
    "boot/src/lib.rs",
    "hypervisor/src/console/mod.rs",
    "hypervisor/src/devices/mod.rs",
    "hypervisor/src/emulate/mod.rs",
    "hypervisor/src/net/mod.rs",
    "hypervisor/src/snapshot/mod.rs",
    "migration/src/lib.rs",
];

/// The workspace's lints are there, and every crate takes them.
pub(crate) fn lints(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut wants = |path: &str, wanted: &str| {
        let found = tree.manifests.iter().find(|(found, _)| found == path);
        if !found.is_some_and(|(_, text)| text.replace("\r\n", "\n").contains(wanted)) {
            let what = format!("lacks {wanted:?}");
            violations.push(Violation { path: path.into(), line: 1, what });
        }
    };
    WORKSPACE_LINES.iter().for_each(|line| wants("Cargo.toml", line));
    CRATES.iter().for_each(|name| wants(&format!("{name}/Cargo.toml"), "[lints]\nworkspace = true"));
    violations
}

/// Rooms that need no `unsafe` forbid it.
pub(crate) fn forbidding(tree: &Tree) -> Vec<Violation> {
    let forbids = |path: &str| {
        let source = tree.sources.iter().find(|source| source.path == path);
        source.is_some_and(|source| source.code.iter().any(|line| line == "#![forbid(unsafe_code)]"))
    };
    let lacking = FORBIDDING.iter().filter(|path| !forbids(path));
    let violation = |path: &&str| Violation {
        path: (*path).into(),
        line: 1,
        what: "lacks #![forbid(unsafe_code)]".into(),
    };
    lacking.map(violation).collect()
}

#[test]
fn missing_lines_are_found() {
    let manifests = |text: &str| {
        let paths =
            ["Cargo.toml".to_string()].into_iter().chain(CRATES.map(|name| format!("{name}/Cargo.toml")));
        paths.map(|path| (path, text.to_string())).collect()
    };
    let all = WORKSPACE_LINES.join("\n") + "\n[lints]\nworkspace = true\n";
    assert!(lints(&Tree::new(vec![], manifests(&all))).is_empty());
    assert_eq!(lints(&Tree::new(vec![], manifests(""))).len(), WORKSPACE_LINES.len() + CRATES.len());
}

#[test]
fn a_room_that_does_not_forbid_is_found() {
    use super::source::Source;
    let source = |path: &&str| Source::new(path, "//! Room.\n#![forbid(unsafe_code)]\n");
    let mut sources: Vec<Source> = FORBIDDING.iter().map(source).collect();
    assert!(forbidding(&Tree::new(sources, vec![])).is_empty());
    sources = vec![Source::new(FORBIDDING[0], "// #![forbid(unsafe_code)]\n")];
    assert_eq!(forbidding(&Tree::new(sources, vec![])).len(), FORBIDDING.len());
}
