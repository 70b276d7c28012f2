//! Whole sessions: a person types at a [`super::Console`] over a pretended machine, and whole screens are
//! compared.

mod clone;
pub(super) mod fake;
mod guests;
mod hostile;
mod machine;
mod migrate;
mod person;
mod shell;
