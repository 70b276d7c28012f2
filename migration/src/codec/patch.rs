//! The differences of one page from another: runs of 1 to 16 bytes, each behind a 16-bit head (offset in the
//! low 12 bits, length less one in the high 4).

use crate::ram::{PAGE_BYTES, PageBytes};
use crate::reason::StreamFault;

const RUN_BYTES_MAX: usize = 16;
/// Equal bytes between two differences that are cheaper carried along than skipped.
const GAP_BYTES: usize = 2;

/// Writes the differences of `page` from `reference` to the front of `into`; their length, `None` if they do
/// not fit.
pub(crate) fn diff(reference: &PageBytes, page: &PageBytes, into: &mut [u8]) -> Option<usize> {
    const { assert!(PAGE_BYTES == 1 << 12) };
    let (old_words, _) = reference.as_chunks::<8>();
    let (new_words, _) = page.as_chunks::<8>();
    let (mut length, mut done) = (0, 0);
    for (index, (old, new)) in old_words.iter().zip(new_words).enumerate() {
        if old == new {
            continue;
        }
        for at in index * 8..index * 8 + 8 {
            if at < done || reference[at] == page[at] {
                continue;
            }
            let end = run_end(reference, page, at);
            let run = end - at;
            let head = (at | ((run - 1) << 12)) as u16;
            let slot = into.get_mut(length..length + 2 + run)?;
            slot[..2].copy_from_slice(&head.to_le_bytes());
            slot[2..].copy_from_slice(&page[at..end]);
            length += 2 + run;
            done = end;
        }
    }
    Some(length)
}

/// Where the run of differences that begins at `at` ends.
fn run_end(reference: &PageBytes, page: &PageBytes, at: usize) -> usize {
    let limit = (at + RUN_BYTES_MAX).min(PAGE_BYTES);
    let mut end = at + 1;
    for next in at + 1..limit {
        if next > end + GAP_BYTES {
            break;
        }
        if reference[next] != page[next] {
            end = next + 1;
        }
    }
    end
}

/// Applies differences to a page.
pub(crate) fn apply(mut patch: &[u8], page: &mut PageBytes) -> Result<(), StreamFault> {
    while let Some((head, rest)) = patch.split_first_chunk::<2>() {
        let head = usize::from(u16::from_le_bytes(*head));
        let (at, run) = (head & (PAGE_BYTES - 1), (head >> 12) + 1);
        let (from, rest) = rest.split_at_checked(run).ok_or(StreamFault::Value)?;
        page.get_mut(at..at + run).ok_or(StreamFault::Value)?.copy_from_slice(from);
        patch = rest;
    }
    if patch.is_empty() { Ok(()) } else { Err(StreamFault::Value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn differences_applied_give_the_page(seed in any::<u8>(), changes in prop::collection::vec((0usize..4096, any::<u8>()), 0..60)) {
            let reference = [seed; PAGE_BYTES];
            let mut page = reference;
            changes.iter().for_each(|&(at, value)| page[at] = value);
            let mut buffer = [0; 256];
            let length = diff(&reference, &page, &mut buffer).unwrap();
            prop_assert!(length <= changes.len() * 3);
            let mut back = reference;
            apply(&buffer[..length], &mut back).unwrap();
            prop_assert_eq!(back, page);
        }

        #[test]
        fn any_patch_is_applied_without_panic(patch in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = apply(&patch, &mut [0; PAGE_BYTES]);
        }
    }

    #[test]
    fn too_many_differences_are_given_up() {
        assert_eq!(diff(&[0; PAGE_BYTES], &[1; PAGE_BYTES], &mut [0; 512]), None);
    }
}
