//! The prompt: greeting, editing, completion, errors, and what is printed above.

use alloc::format;
use alloc::string::String;

use super::fake::{FakeHost, log_line};
use super::person::Person;

#[test]
fn the_greeting_says_where_one_is_and_what_is_missing() {
    let host = FakeHost { problems: alloc::vec!["no network card was found".into()], ..FakeHost::default() };
    let mut person = Person::unread(host);
    assert_eq!(
        person.sees(),
        "\nGodwit 0.1.0 on a; 'help' lists the commands\n! no network card was found\na>"
    );
}

#[test]
fn help_lists_every_command_and_shows_one_in_full() {
    let mut person = Person::new();
    let all = person.asks("help");
    for name in ["vm", "migrate", "net", "ping", "mem", "cpu", "pci", "log", "version", "reboot", "help"] {
        assert!(all.contains(&format!("\n  {name} ")), "{name} in {all}");
    }
    let one = person.asks("help migrate");
    assert!(one.contains("  migrate GUEST HOST "), "{one}");
    assert!(one.contains("bandwidth VALUE"), "{one}");
}

#[test]
fn a_slip_is_answered_with_what_was_meant() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("migrat linux b"),
        "a> migrat linux b\nerror: unknown command 'migrat'; did you mean 'migrate'? 'help' lists all\na>"
    );
    assert_eq!(
        person.asks("vm start linx"),
        "a> vm start linx\nerror: no guest named 'linx'; did you mean 'linux'? guests: linux, idle\na>"
    );
    assert_eq!(
        person.asks("vm start windows"),
        "a> vm start windows\nerror: no guest named 'windows'; guests: linux, idle\na>"
    );
    assert_eq!(
        person.asks("migrate linux c"),
        "a> migrate linux c\nerror: no host named 'c'; hosts: b, far\na>"
    );
    assert_eq!(person.asks("vm pause"), "a> vm pause\nusage: vm pause GUEST\na>");
}

#[test]
fn a_line_is_edited_in_the_middle() {
    let mut person = Person::new();
    person.types("vm strt linux\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[Da");
    assert_eq!(person.sees(), "a> vm start linux");
    person.types("\x01\x0bmem");
    assert_eq!(person.sees(), "a> mem");
    person.types("\x03");
    assert_eq!(person.sees(), "a> mem^C\na>");
    person.types("version\r\x1b[A");
    assert_eq!(person.sees(), "a> version\nGodwit 0.1.0 (debug) on a, up 1 min 15 s\na> version");
}

#[test]
fn a_line_longer_than_the_row_shifts_and_still_arrives() {
    let mut person = Person::new();
    let name = "x".repeat(60);
    person.types(&format!("vm start {name} and more words behind"));
    let shown = person.sees();
    assert!(shown.starts_with("a> ") && shown.ends_with(" behind") && shown.len() < 80, "{shown}");
    person.types("\r");
    assert!(person.sees().ends_with("usage: vm start GUEST\na>"));
}

#[test]
fn tab_completes_commands_words_and_names() {
    let mut person = Person::new();
    for (typed, line) in [
        ("mi\t", "a> migrate"),
        ("migrate l\t", "a> migrate linux"),
        ("migrate linux f\t", "a> migrate linux far"),
        ("migrate set li\tb\t", "a> migrate set linux bandwidth"),
        ("clo\tli\tb\t--n\t", "a> clone linux b --name"),
        ("migrate linux b --mode a\t--sp\tfa\t", "a> migrate linux b --mode auto --spool far"),
        (
            "migrate linux b --mode auto --\t",
            "a> migrate linux b --mode auto --\n--bandwidth  --downtime-limit  --spool\na> migrate linux b --mode auto --",
        ),
        ("vm st\t", "a> vm st\nstart  stop\na> vm st"),
        ("vm start i\t", "a> vm start idle"),
        ("help p\t", "a> help p\npci  ping\na> help p"),
        ("ping b\t", "a> ping b"),
        ("log w\t", "a> log warn"),
        ("quux \t", "a> quux"),
    ] {
        person.types(typed);
        assert_eq!(person.sees(), line, "{typed}");
        person.types("\x03");
        person.sees();
    }
}

#[test]
fn log_lines_come_above_the_line_that_is_being_typed() {
    let mut person = Person::new();
    person.types("vm sta");
    person.sees();
    person.host.log_lines.push_back(log_line(log::Level::Warn, "link is down"));
    assert_eq!(person.sees(), "[    1.234] WARN  link is down\na> vm sta");
    person.types("rt idle\r");
    assert_eq!(person.sees(), "a> vm start idle\nidle starts; 'vm console idle' attaches to it\na>");
}

#[test]
fn several_lines_at_once_are_done_one_after_the_other() {
    let mut person = Person::new();
    person.types("version\rvm pause linux\nversion\r\n");
    let shown = person.sees();
    assert_eq!(shown.matches("Godwit 0.1.0").count(), 2, "{shown}");
    assert!(shown.contains("linux is paused"), "{shown}");
}

#[test]
fn only_what_fits_the_queue_is_taken() {
    let mut person = Person::new();
    let taken = person.console.input(&[b'x'; 5_000]);
    assert!((500..=2_000).contains(&taken), "{taken}");
    assert_eq!(person.console.input(b"y"), 0);
}

#[test]
fn a_host_name_cannot_break_the_prompt() {
    let mut console = crate::console::Console::new("\u{1b}[2Jé very long name of a host that goes on and on");
    let mut terminal = super::person::Terminal::default();
    console.poll(core::time::Duration::ZERO, &mut FakeHost::default(), &mut terminal);
    let shown = String::from_utf8(terminal.raw).unwrap();
    assert!(shown.ends_with("?[2J? very long nam> "), "{shown:?}");
}
