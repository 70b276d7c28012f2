//! "Did you mean …?": the nearest of a few names.

use alloc::vec::Vec;

/// Longer names are not compared: the work is bounded by the square of this.
const NAME_MAX: usize = 48;

/// The candidate that a person most probably meant by `typed`: one that it begins, or else one that is few
/// slips (a letter wrong, missing, added or swapped with its neighbour) away.
pub(super) fn nearest<'a>(typed: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = match typed.len() {
        0 => return None,
        1..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    candidates
        .filter_map(|candidate| {
            let slips = if typed.len() >= 2 && candidate.starts_with(typed) {
                0
            } else {
                distance(typed, candidate)?
            };
            (slips <= slips_max && slips < candidate.len()).then_some((slips, candidate))
        })
        .min_by_key(|&(slips, _)| slips)
        .map(|(_, candidate)| candidate)
}

/// Number of slips between two words, without regard to case (optimal string alignment); `None` if one is too
/// long to be compared.
fn distance(left: &str, right: &str) -> Option<usize> {
    if left.len() > NAME_MAX || right.len() > NAME_MAX {
        return None;
    }
    let (left, right) = (left.as_bytes(), right.as_bytes());
    // Three rows of the table of distances between prefixes: two letters back, one back, this one.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut row = Vec::with_capacity(right.len() + 1);
        row.push(i);
        for j in 1..=right.len() {
            let same = left[i - 1].eq_ignore_ascii_case(&right[j - 1]);
            let mut slips = (last[j - 1] + usize::from(!same)).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                slips = slips.min(before[j - 2] + 1);
            }
            row.push(slips);
        }
        before = core::mem::replace(&mut last, row);
    }
    last.last().copied()
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn slips_are_counted() {
        for (left, right, slips) in [
            ("", "abc", 3),
            ("linx", "linux", 1),
            ("lniux", "linux", 1),
            ("LINUX", "linux", 0),
            ("mem", "cpu", 3),
        ] {
            assert_eq!(distance(left, right), Some(slips), "{left} {right}");
        }
    }

    #[test]
    fn the_nearest_is_suggested_and_a_stranger_is_not() {
        let names = ["migrate", "mem", "net", "linux"];
        for (typed, meant) in [
            ("migrat", Some("migrate")),
            ("mig", Some("migrate")),
            ("mrm", Some("mem")),
            ("linx", Some("linux")),
            ("windows", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, names.into_iter()), meant, "{typed}");
        }
    }
}
