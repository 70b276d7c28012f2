//! The sources of the workspace, and which parts of them are tests.

use std::fs;
use std::path::{Path, PathBuf};

use super::mask::{is_word, mask};

/// The crates.
pub(crate) const CRATES: [&str; 5] = ["boot", "hypervisor", "migration", "tests", "vmx"];
/// Directories that hold no sources of ours.
const SKIPPED: [&str; 2] = ["target", "proptest-regressions"];

/// One source file.
pub(crate) struct Source {
    /// Relative to the workspace, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) lines: Vec<String>,
    /// With comments and strings blanked.
    pub(crate) code: Vec<String>,
    /// With everything but comments blanked.
    pub(crate) comments: Vec<String>,
    /// Which lines exist only in tests.
    pub(crate) is_test: Vec<bool>,
}

impl Source {
    /// A source with this text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let masked = mask(text);
        let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
        let code = lines(&masked.code);
        let is_whole = path.starts_with("tests/") || path.contains("/tests/") || path.contains("/benches/");
        let is_test = if is_whole { vec![true; code.len()] } else { test_lines(&code) };
        Self { path: path.into(), lines: lines(text), code, comments: lines(&masked.comments), is_test }
    }

    /// Lines of code that are not tests, with their indices.
    pub(crate) fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().zip(&self.is_test).enumerate();
        lines.filter(|(_, (_, is_test))| !**is_test).map(|(index, (line, _))| (index, line.as_str()))
    }

    /// The files or directories of modules that are declared for tests only.
    fn test_modules(&self) -> Vec<String> {
        let directory = match self.path.rsplit_once('/') {
            Some((directory, "lib.rs" | "main.rs" | "mod.rs")) => directory.to_string(),
            _ => self.path.trim_end_matches(".rs").to_string(),
        };
        let is_gate = |line: &str| line.trim_start().starts_with("#[cfg(test)]");
        let mut modules = Vec::new();
        for (index, line) in self.code.iter().enumerate().filter(|(_, line)| is_gate(line)) {
            // On the gate's own line or the next ones, behind other attributes.
            let tail = &line[line.find("]").map_or(0, |end| end + 1)..];
            let following = self.lines[index + 1..].iter().map(String::as_str);
            let given = following.clone().next().and_then(|next| next.trim().strip_prefix("#[path = \""));
            let declaration = [tail].into_iter().chain(following).find(|line| {
                let line = line.trim();
                !line.is_empty() && !line.starts_with("#[")
            });
            let Some(name) = declaration.and_then(declared_module) else { continue };
            match given.and_then(|given| given.split('"').next()) {
                Some(path) => modules.push(format!("{}/{path}", parent(&self.path))),
                None => modules.push(format!("{directory}/{name}.rs")),
            }
            modules.push(format!("{directory}/{name}/"));
        }
        modules
    }
}

/// The directory of a path.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The module's name, if the line is `mod name;` with any visibility.
fn declared_module(line: &str) -> Option<&str> {
    let (before, name) = line.trim().strip_suffix(';')?.rsplit_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then_some(name)
}

/// Which lines are within an item that is gated by `#[cfg(test)]`.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut is_test = vec![false; code.len()];
    let mut index = 0;
    while index < code.len() {
        if !code[index].trim_start().starts_with("#[cfg(test)]") {
            index += 1;
            continue;
        }
        let end = item_end(code, index, code[index].find(']').map_or(0, |at| at + 1));
        is_test[index..=end].fill(true);
        index = end + 1;
    }
    is_test
}

/// The last line of the item that begins at this line and column: where its braces are closed, or its `;`.
pub(crate) fn item_end(code: &[String], line: usize, column: usize) -> usize {
    let (mut braces, mut others) = (0_usize, 0_usize);
    for (index, text) in code.iter().enumerate().skip(line) {
        let skipped = if index == line { column } else { 0 };
        for character in text.chars().skip(skipped) {
            match character {
                '{' => braces += 1,
                '(' | '[' => others += 1,
                ')' | ']' => others = others.saturating_sub(1),
                '}' if braces == 1 && others == 0 => return index,
                '}' => braces = braces.saturating_sub(1),
                ';' if braces == 0 && others == 0 => return index,
                _ => {}
            }
        }
    }
    code.len() - 1
}

/// Where `word` stands in `line` as a whole word.
pub(crate) fn find_word(line: &str, word: &str) -> Option<usize> {
    line.match_indices(word).map(|(at, _)| at).find(|&at| {
        !line[..at].chars().next_back().is_some_and(is_word)
            && !line[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

/// All sources, and the texts of manifests.
pub(crate) struct Tree {
    pub(crate) sources: Vec<Source>,
    /// Path and text of every `Cargo.toml`.
    pub(crate) manifests: Vec<(String, String)>,
}

impl Tree {
    /// Reads the workspace.
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut paths = Vec::new();
        for name in CRATES {
            collect(&root.join(name), &mut paths);
        }
        paths.sort();
        let read = |path: &Path| fs::read_to_string(path).expect("a source is readable text");
        let relative = |path: &Path| {
            let relative = path.strip_prefix(&root).expect("it was found below the root");
            relative.to_str().expect("names are ASCII").replace('\\', "/")
        };
        let mut manifests = vec![("Cargo.toml".into(), read(&root.join("Cargo.toml")))];
        for name in CRATES {
            manifests.push((format!("{name}/Cargo.toml"), read(&root.join(name).join("Cargo.toml"))));
        }
        Self::new(paths.iter().map(|path| Source::new(&relative(path), &read(path))).collect(), manifests)
    }

    /// A workspace of these.
    pub(crate) fn new(mut sources: Vec<Source>, manifests: Vec<(String, String)>) -> Self {
        let modules: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
        for source in &mut sources {
            if modules.iter().any(|module| source.path == *module || source.path.starts_with(module)) {
                source.is_test.fill(true);
            }
        }
        Self { sources, manifests }
    }
}

/// All Rust files below a directory.
fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the workspace is readable") {
        let path = entry.expect("a directory of the workspace is readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !SKIPPED.contains(&name) {
            collect(&path, into);
        } else if name.ends_with(".rs") {
            into.push(path);
        }
    }
}

#[test]
fn gated_items_are_tests_and_the_rest_is_not() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[cfg(test)] use x;\nfn c() {}\n";
    assert_eq!(Source::new("vmx/src/x.rs", text).is_test, [false, true, true, true, true, true, false]);
}

#[test]
fn modules_declared_for_tests_are_tests() {
    let tree = Tree::new(
        vec![
            Source::new("vmx/src/ept/mod.rs", "#[cfg(test)]\npub(crate) mod fake;\nmod real;\n"),
            Source::new("vmx/src/ept/fake.rs", "fn f() {}\n"),
            Source::new("vmx/src/ept/fake/memory.rs", "fn f() {}\n"),
            Source::new("vmx/src/ept/real.rs", "#[cfg(test)]\n#[path = \"real_tests.rs\"]\nmod tests;\n"),
            Source::new("vmx/src/ept/real_tests.rs", "fn f() {}\n"),
        ],
        vec![],
    );
    let whole: Vec<bool> =
        tree.sources.iter().map(|source| source.is_test.iter().all(|test| *test)).collect();
    assert_eq!(whole, [false, true, true, true, true]);
    assert!(!tree.sources[0].is_test[2]);
}
