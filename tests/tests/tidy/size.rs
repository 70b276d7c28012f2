//! Files that can be read in one sitting, functions that fit a screen.

use super::Violation;
use super::source::{Source, find_word, item_end};

/// Lines of a file.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, from its name to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Columns of a line. The formatter keeps code below 110; this is for what it leaves alone.
const COLUMNS_MAX: usize = 140;

/// No file is too long.
pub(crate) fn files(source: &Source) -> Vec<Violation> {
    let lines = source.lines.len();
    if lines <= FILE_LINES_MAX {
        return vec![];
    }
    vec![Violation::at(source, lines - 1, format!("a file of {lines} lines; {FILE_LINES_MAX} are allowed"))]
}

/// No function is too long.
pub(crate) fn functions(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        let Some(column) = find_word(line, "fn") else { continue };
        // `fn` without a name is a type.
        let name: String =
            line[column + 2..].trim_start().chars().take_while(|c| super::mask::is_word(*c)).collect();
        if name.is_empty() {
            continue;
        }
        let lines = item_end(&source.code, index, column) + 1 - index;
        if lines > FUNCTION_LINES_MAX {
            let what = format!("function {name} of {lines} lines; {FUNCTION_LINES_MAX} are allowed");
            violations.push(Violation::at(source, index, what));
        }
    }
    violations
}

/// No line is too long.
pub(crate) fn lines(source: &Source) -> Vec<Violation> {
    let columns = source.lines.iter().map(|line| line.chars().count());
    let long = columns.enumerate().filter(|(_, columns)| *columns > COLUMNS_MAX);
    long.map(|(index, columns)| Violation::at(source, index, format!("a line of {columns} columns")))
        .collect()
}

#[cfg(test)]
fn function_of(lines: usize) -> Source {
    let body = "    x();\n".repeat(lines - 2);
    Source::new("vmx/src/x.rs", &format!("type F = fn(u8);\npub fn long(a: [u8; 3]) {{\n{body}}}\n"))
}

#[test]
fn long_functions_are_found_and_short_ones_are_not() {
    assert!(functions(&function_of(FUNCTION_LINES_MAX)).is_empty());
    let found = functions(&function_of(FUNCTION_LINES_MAX + 1));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "vmx/src/x.rs:2: function long of 71 lines; 70 are allowed");
}

#[test]
fn long_files_and_lines_are_found() {
    assert!(files(&Source::new("vmx/src/x.rs", &"x\n".repeat(FILE_LINES_MAX))).is_empty());
    assert_eq!(files(&Source::new("vmx/src/x.rs", &"x\n".repeat(FILE_LINES_MAX + 1))).len(), 1);
    assert_eq!(lines(&Source::new("vmx/src/x.rs", &"x".repeat(COLUMNS_MAX + 1))).len(), 1);
}
