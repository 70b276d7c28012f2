//! A table of the configuration, read key by key, with errors that know their place.

use alloc::{
    format,
    string::{String, ToString},
};
use core::ops::{Range, RangeInclusive};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::{ConfigError, Problem};
use crate::fixed::Text;

/// The text that is parsed, and what to call it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let end = span.start.min(self.text.len());
        1 + self.text.as_bytes()[..end].iter().filter(|&&byte| byte == b'\n').count()
    }

    pub(super) fn error(&self, span: &Range<usize>, key: String, problem: Problem) -> ConfigError {
        ConfigError { file: self.file.to_string(), line: self.line(span), key, problem }
    }
}

/// One `[section]`, or one of several `[[section]]`s.
pub(super) struct Section<'a> {
    source: Source<'a>,
    name: &'static str,
    span: Range<usize>,
    table: &'a DeTable<'a>,
}

type Value<'a> = &'a Spanned<DeValue<'a>>;

impl<'a> Section<'a> {
    /// The section `name`, which may have the keys `known` and no others.
    pub(super) fn new(
        source: Source<'a>,
        name: &'static str,
        span: Range<usize>,
        table: &'a DeTable<'a>,
        known: &'static [&'static str],
    ) -> Result<Self, ConfigError> {
        let section = Self { source, name, span, table };
        for (key, _) in table {
            if !known.contains(&key.get_ref().as_ref()) {
                let problem = Problem::Unknown { expected: known };
                return Err(source.error(&key.span(), section.path(key.get_ref()), problem));
            }
        }
        Ok(section)
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_string() } else { format!("{}.{key}", self.name) }
    }

    /// An error about `key`, at its value or else at the section.
    pub(super) fn error(&self, key: &str, problem: Problem) -> ConfigError {
        let span = self.get(key).map_or(self.span.clone(), Spanned::span);
        self.source.error(&span, self.path(key), problem)
    }

    /// The value of `key` is not what was expected.
    pub(super) fn wrong(&self, key: &str, expected: &'static str) -> ConfigError {
        let found = self.get(key).map_or(String::from("nothing"), |value| describe(value.get_ref()));
        self.error(key, Problem::Wrong { expected, found })
    }

    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    /// The section inside this one called `name`.
    pub(super) fn table(
        &self,
        name: &'static str,
        known: &'static [&'static str],
    ) -> Result<Option<Section<'a>>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Table(table) => Section::new(self.source, name, value.span(), table, known).map(Some),
            _ => Err(self.wrong(name, "a section in brackets")),
        }
    }

    /// The sections inside this one called `name`, in order.
    pub(super) fn tables(
        &self,
        name: &'static str,
        known: &'static [&'static str],
        mut each: impl FnMut(Section<'a>) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        const EXPECTED: &str = "a section in double brackets";
        let Some(value) = self.get(name) else { return Ok(()) };
        let DeValue::Array(items) = value.get_ref() else { return Err(self.wrong(name, EXPECTED)) };
        for item in items.iter() {
            let DeValue::Table(table) = item.get_ref() else { return Err(self.wrong(name, EXPECTED)) };
            each(Section::new(self.source, name, item.span(), table, known)?)?;
        }
        Ok(())
    }

    /// The text of `key`, which must not be empty nor have control characters.
    pub(super) fn text<const N: usize>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<Text<N>>, ConfigError> {
        let Some(text) = self.string(key, expected)? else { return Ok(None) };
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(self.wrong(key, expected));
        }
        Text::new(text).map(Some).map_err(|_| self.wrong(key, expected))
    }

    /// The text of `key`, whatever it is.
    pub(super) fn string(&self, key: &str, expected: &'static str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(key).map(Spanned::get_ref) {
            None => Ok(None),
            Some(DeValue::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, expected)),
        }
    }

    /// The number of `key`, within `range`.
    pub(super) fn number(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
        expected: &'static str,
    ) -> Result<Option<u32>, ConfigError> {
        match self.get(key).map(Spanned::get_ref) {
            None => Ok(None),
            Some(DeValue::Integer(number)) => u32::from_str_radix(number.as_str(), number.radix())
                .ok()
                .filter(|number| range.contains(number))
                .map(Some)
                .ok_or_else(|| self.wrong(key, expected)),
            Some(_) => Err(self.wrong(key, expected)),
        }
    }

    /// The flag `key`.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(key).map(Spanned::get_ref) {
            None => Ok(None),
            Some(DeValue::Boolean(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }
}

/// A value as the person wrote it, shortened.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let short: String = text.chars().take(40).collect();
            let dots = if short.len() < text.len() { "…" } else { "" };
            format!("\"{}{dots}\"", short.escape_debug())
        }
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => String::from("a date"),
        DeValue::Array(_) => String::from("a list"),
        DeValue::Table(_) => String::from("a section"),
    }
}
