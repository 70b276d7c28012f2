//! What crates may depend on. What the engine may know is decided by what it can reach.

use super::Violation;
use super::source::Tree;

/// Crates, and all that they may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 3] = [
    ("migration", &["log", "lz4_flex", "minicbor", "rapidhash", "snow", "xxhash-rust", "zerocopy"]),
    ("vmx", &["bitflags", "raw-cpuid", "x86_64"]),
    ("boot", &["bitflags", "elf", "log", "serde", "toml", "uefi", "x86_64"]),
];

/// No crate depends on what it must not know.
pub(crate) fn dependencies(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, allowed) in MAY_DEPEND_ON {
        let path = format!("{name}/Cargo.toml");
        let Some((path, text)) = tree.manifests.iter().find(|(found, _)| *found == path) else { continue };
        for (index, dependency) in listed(text) {
            if !allowed.contains(&dependency) {
                let what = format!("{name} must not depend on {dependency}");
                violations.push(Violation { path: path.clone(), line: index + 1, what });
            }
        }
    }
    violations
}

/// The dependencies of a manifest that are not for tests only, with their lines.
fn listed(text: &str) -> Vec<(usize, &str)> {
    let mut is_in = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            is_in = section.ends_with("dependencies]") && !section.contains("dev-");
        } else if is_in && !line.is_empty() && !line.starts_with('#') {
            found.push((index, line.split(['.', '=', ' ']).next().unwrap_or_default()));
        }
    }
    found
}

#[test]
fn a_dependency_that_is_not_listed_is_found() {
    let manifest = |dependency: &str| {
        let text =
            format!("[dependencies]\nlog = \"1\"\n{dependency}\n[dev-dependencies]\nproptest = \"1\"\n");
        dependencies(&Tree::new(vec![], vec![("migration/Cargo.toml".into(), text)]))
    };
    assert!(manifest("zerocopy.workspace = true").is_empty());
    assert_eq!(manifest("smoltcp.workspace = true").len(), 1);
    assert_eq!(manifest("[target.x.dependencies]\nx86_64 = \"1\"").len(), 1);
}
