//! Words that say that something is left for later: it is done, or written down where it is planned.

use super::Violation;
use super::source::{Source, find_word};

const POSTPONING: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];
const MACROS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// Nothing is postponed in a comment or by a macro.
pub(crate) fn postponed(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, (comment, code)) in source.comments.iter().zip(&source.code).enumerate() {
        let words = POSTPONING.iter().filter(|word| find_word(comment, word).is_some());
        let macros = MACROS.iter().filter(|name| code.contains(*name));
        violations
            .extend(words.chain(macros).map(|found| Violation::at(source, index, format!("{found} left"))));
    }
    violations
}

#[test]
fn postponing_words_are_found_in_comments_and_macros_in_code() {
    for (text, count) in [
        ("// TODO: later", 1),
        ("/// FIXME", 1),
        ("fn f() { todo!() }", 1),
        ("let x = \"TODO\";", 0),
        ("// the TODOLIST, todo!", 0),
    ] {
        assert_eq!(postponed(&Source::new("vmx/src/x.rs", text)).len(), count, "{text}");
    }
}
