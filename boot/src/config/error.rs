//! What can be wrong with `godwit.toml`, said so that a person can mend it.

use alloc::string::String;
use core::fmt;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the person calls it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key with its section, for example `guest.memory_mib`; empty if it is about the file as a whole.
    pub key: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong at a place of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is not TOML.
    Syntax {
        /// What the TOML parser says.
        message: String,
    },
    /// No such key.
    Unknown {
        /// The keys there are.
        expected: &'static [&'static str],
    },
    /// A key that must be there is not.
    Missing {
        /// What it should hold.
        expected: &'static str,
    },
    /// A value of the wrong kind or out of range.
    Wrong {
        /// What it should hold.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A name given twice.
    Duplicate {
        /// The name.
        name: String,
    },
    /// More sections of a kind than there is room for.
    TooMany {
        /// How many there may be.
        limit: usize,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        match &self.problem {
            Problem::Syntax { message } => f.write_str(message),
            Problem::Unknown { expected } => {
                f.write_str("unknown key; expected one of ")?;
                for (index, key) in expected.iter().enumerate() {
                    write!(f, "{}{key}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Problem::Missing { expected } => write!(f, "is missing; expected {expected}"),
            Problem::Wrong { expected, found } => write!(f, "expected {expected}, found {found}"),
            Problem::Duplicate { name } => write!(f, "\"{name}\" is taken already; expected another name"),
            Problem::TooMany { limit } => write!(f, "expected at most {limit} such sections"),
        }
    }
}

impl core::error::Error for ConfigError {}
