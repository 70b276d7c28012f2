//! The rules of the house, as a test: who may name whom, how large files and functions may be, where `unsafe`
//! and panics may be. Each rule's own tests show that it finds what it forbids.
//!
//! Rules look at text, not at syntax trees: a source is masked first ([`source`]), so that comments and strings
//! do not count as code.

#[path = "tidy/crates.rs"]
mod crates;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/mask.rs"]
mod mask;
#[path = "tidy/panics.rs"]
mod panics;
#[path = "tidy/roots.rs"]
mod roots;
#[path = "tidy/size.rs"]
mod size;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/unsafety.rs"]
mod unsafety;
#[path = "tidy/words.rs"]
mod words;

use std::fmt;

use source::{Source, Tree};

/// A rule that a line breaks.
struct Violation {
    path: String,
    /// From 1.
    line: usize,
    what: String,
}

impl Violation {
    /// A violation in this source, `index` lines from its begin.
    fn at(source: &Source, index: usize, what: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line: index + 1, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// A rule over one source.
type Rule = fn(&Source) -> Vec<Violation>;

/// The rules that look at one source at a time.
const RULES: [Rule; 10] = [
    size::files,
    size::functions,
    size::lines,
    panics::unwraps,
    panics::expects,
    words::postponed,
    unsafety::islands,
    unsafety::comments,
    layers::rooms,
    layers::crates,
];

/// Fails with all violations, so that they are mended together.
fn hold(violations: Vec<Violation>) {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} violations of the house rules:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn every_source_keeps_the_rules() {
    let tree = Tree::read();
    assert!(tree.sources.len() > 40, "only {} sources were found", tree.sources.len());
    hold(tree.sources.iter().flat_map(|source| RULES.iter().flat_map(|rule| rule(source))).collect());
}

#[test]
fn every_crate_keeps_the_rules() {
    let tree = Tree::read();
    let mut violations = roots::lints(&tree);
    violations.extend(roots::forbidding(&tree));
    violations.extend(crates::dependencies(&tree));
    violations.extend(panics::unused_allowances(&tree));
    hold(violations);
}
