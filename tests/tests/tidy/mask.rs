//! Telling code from comments and strings.

/// A text with everything but one kind of thing blanked out; lines and columns stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Masked {
    /// Only code: comments and the insides of strings and characters are blank.
    pub(crate) code: String,
    /// Only comments.
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    /// How deep block comments are nested.
    BlockComment(usize),
    /// Inside `"…"`.
    Text,
    /// Inside a raw string with this many `#`.
    RawText(usize),
}

/// Separates code from comments.
pub(crate) fn mask(text: &str) -> Masked {
    let characters: Vec<char> = text.chars().collect();
    let mut masked = Masked { code: String::new(), comments: String::new() };
    let mut state = State::Code;
    let mut index = 0;
    while index < characters.len() {
        let rest = &characters[index..];
        let (next, length, is_code) =
            step(state, rest, index.checked_sub(1).map(|before| characters[before]));
        for &character in &rest[..length] {
            let is_comment = matches!(state, State::LineComment | State::BlockComment(_))
                || matches!(next, State::LineComment | State::BlockComment(_));
            let blank = if character == '\n' { '\n' } else { ' ' };
            masked.code.push(if is_code { character } else { blank });
            masked.comments.push(if is_comment { character } else { blank });
        }
        state = next;
        index += length;
    }
    masked
}

/// The state after what `rest` begins with, how many characters that is, and whether it counts as code.
fn step(state: State, rest: &[char], before: Option<char>) -> (State, usize, bool) {
    match (state, rest) {
        (State::Code, ['/', '/', ..]) => (State::LineComment, 2, false),
        (State::Code, ['/', '*', ..]) => (State::BlockComment(1), 2, false),
        (State::Code, ['"', ..]) => (State::Text, 1, true),
        (State::Code, ['r', ..]) if !before.is_some_and(is_word) || before == Some('b') => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            match rest.get(1 + hashes) {
                Some('"') => (State::RawText(hashes), 2 + hashes, true),
                _ => (State::Code, 1, true),
            }
        }
        (State::Code, ['\'', '\\', _, tail @ ..]) => {
            let inside = tail.iter().take_while(|c| **c != '\'').count();
            (State::Code, (inside + 4).min(rest.len()), false)
        }
        (State::Code, ['\'', _, '\'', ..]) => (State::Code, 3, false),
        (State::Code, _) => (State::Code, 1, true),
        (State::LineComment, ['\n', ..]) => (State::Code, 1, false),
        (State::LineComment, _) => (State::LineComment, 1, false),
        (State::BlockComment(depth), ['/', '*', ..]) => (State::BlockComment(depth + 1), 2, false),
        (State::BlockComment(1), ['*', '/', ..]) => (State::Code, 2, false),
        (State::BlockComment(depth), ['*', '/', ..]) => (State::BlockComment(depth - 1), 2, false),
        (State::BlockComment(depth), _) => (State::BlockComment(depth), 1, false),
        (State::Text, ['\\', _, ..]) => (State::Text, 2, false),
        (State::Text, ['"', ..]) => (State::Code, 1, true),
        (State::Text, _) => (State::Text, 1, false),
        (State::RawText(hashes), ['"', tail @ ..])
            if tail.iter().take_while(|c| **c == '#').count() >= hashes =>
        {
            (State::Code, 1 + hashes, true)
        }
        (State::RawText(hashes), _) => (State::RawText(hashes), 1, false),
    }
}

/// Whether the character can be part of a name.
pub(crate) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[test]
fn comments_and_strings_are_not_code() {
    for (text, code) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"x("a // \" b") y"#, r#"x("         ") y"#),
        ("r#\"a \" b\"# c", "r#\"     \"# c"),
        ("for 'a' in '\\'' &'static str", "for     in      &'static str"),
        ("br\"x\" + var\"y\"", "br\" \" + var\" \""),
    ] {
        assert_eq!(mask(text).code, code, "{text}");
    }
}

#[test]
fn comments_keep_their_place() {
    assert_eq!(mask("a // b\n/* c */ d").comments, "  // b\n/* c */  ");
}
