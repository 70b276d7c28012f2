//! Whose branches a CPU's predictors have learnt: what one machine teaches them must not steer another.

/// See the module's documentation. Machines are known by numbers that differ while they live.
#[derive(Debug, Default)]
pub(super) struct Predictors {
    /// The machine that ran last, if it lives.
    taught_by: Option<usize>,
}

/// What is owed before a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    /// Nothing: it ran last.
    Nothing,
    /// A barrier: another may have run last.
    Barrier,
}

impl Predictors {
    /// Machine `machine` is about to run.
    #[must_use]
    pub(super) fn pass_to(&mut self, machine: usize) -> Owed {
        match self.taught_by.replace(machine) {
            Some(before) if before == machine => Owed::Nothing,
            _ => Owed::Barrier,
        }
    }

    /// A machine has ended, and its number may become another's.
    pub(super) const fn distrust(&mut self) {
        self.taught_by = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_follows_another_is_owed_a_barrier_once() {
        let mut predictors = Predictors::default();
        let owed = [1, 1, 1, 2, 2, 1].map(|machine| predictors.pass_to(machine));
        use Owed::{Barrier, Nothing};
        assert_eq!(owed, [Barrier, Nothing, Nothing, Barrier, Nothing, Barrier]);
    }

    #[test]
    fn a_machine_that_gets_the_number_of_one_that_has_ended_is_another() {
        let mut predictors = Predictors::default();
        assert_eq!(predictors.pass_to(1), Owed::Barrier);
        predictors.distrust();
        assert_eq!(predictors.pass_to(1), Owed::Barrier);
    }
}
