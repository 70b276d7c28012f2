//! Who runs next: round robin over those that can. Pure.

/// Position of the last one that ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunQueue {
    last: usize,
}

/// What a look at everybody found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one runs.
    Run {
        /// Which.
        position: usize,
        /// How many others could run too.
        others: usize,
    },
    /// Nobody can before this time, [`u64::MAX`] if only an event changes that.
    Wait(u64),
}

impl RunQueue {
    /// Chooses among `count`, of which `ready` says that they can run, or when they can.
    pub fn choose(&mut self, count: usize, mut ready: impl FnMut(usize) -> Result<(), u64>) -> Choice {
        let mut chosen = None;
        let mut others = 0;
        let mut earliest = u64::MAX;
        for step in 1..=count {
            let position = (self.last + step) % count;
            match ready(position) {
                Ok(()) if chosen.is_none() => chosen = Some(position),
                Ok(()) => others += 1,
                Err(time) => earliest = earliest.min(time),
            }
        }
        match chosen {
            Some(position) => {
                self.last = position;
                Choice::Run { position, others }
            }
            None => Choice::Wait(earliest),
        }
    }
}

/// Which machine, by its position, and which of its processors sits on `seat`: all processors of all machines have one, in
/// order. `processors` says how many each machine has.
pub fn occupant(processors: impl Iterator<Item = usize>, seat: usize) -> Option<(usize, usize)> {
    let mut first = 0;
    for (position, count) in processors.enumerate() {
        if seat < first + count {
            return Some((position, seat - first));
        }
        first += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_has_a_seat() {
        let seats: alloc::vec::Vec<_> = (0..5).map(|seat| occupant([1, 2, 0, 1].into_iter(), seat)).collect();
        assert_eq!(seats, [Some((0, 0)), Some((1, 0)), Some((1, 1)), Some((3, 0)), None]);
    }

    #[test]
    fn everybody_who_can_gets_a_turn() {
        let mut queue = RunQueue::default();
        let mut turns = [0; 4];
        for _ in 0..30 {
            match queue.choose(4, |position| if position == 2 { Err(7) } else { Ok(()) }) {
                Choice::Run { position, others } => {
                    assert_eq!(others, 2);
                    turns[position] += 1;
                }
                Choice::Wait(_) => panic!("three can run"),
            }
        }
        assert_eq!(turns, [10, 10, 0, 10]);
    }

    #[test]
    fn when_nobody_can_the_earliest_deadline_counts() {
        let mut queue = RunQueue::default();
        assert_eq!(queue.choose(3, |position| Err(100 - position as u64)), Choice::Wait(98));
        assert_eq!(queue.choose(0, |_| Ok(())), Choice::Wait(u64::MAX));
    }
}
