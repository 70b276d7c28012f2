//! Which pages are in the frames that are under way on a connection: what is known of a page is settled when the other end has
//! taken its frame in.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::ram::{PAGE_BYTES, Page};
use crate::wire::frame::HEADER_BYTES;
use crate::wire::record::{PACK_NUMBER_BYTES, RECORD_BYTES, Record};

/// The pages of a frame, in runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(Vec<(Page, u16)>);

impl Runs {
    /// The pages that a frame of ours carries.
    pub(super) fn of(frame: &[u8]) -> Self {
        let mut runs = Vec::new();
        let mut rest = &frame[HEADER_BYTES.min(frame.len())..];
        while let Some((head, body)) = rest.split_first_chunk::<RECORD_BYTES>()
            && let Ok(received) = Record::decode(head)
        {
            let behind = match received.record {
                Record::Zero { first, count } => {
                    runs.push((first, count));
                    0
                }
                Record::Raw { first, count } => {
                    runs.push((first, count));
                    usize::from(count) * PAGE_BYTES
                }
                Record::Pack { count, bytes } => {
                    let (numbers, _) = body.as_chunks::<PACK_NUMBER_BYTES>();
                    let numbers = numbers.iter().take(count.into());
                    runs.extend(numbers.map(|number| (Page(u32::from_le_bytes(*number)), 1)));
                    bytes as usize
                }
                Record::Similar { page, bytes, .. } => {
                    runs.push((page, 1));
                    bytes.into()
                }
            };
            rest = body.get(behind..).unwrap_or_default();
        }
        Self(runs)
    }

    /// The pages.
    pub(super) fn pages(&self) -> impl Iterator<Item = Page> + '_ {
        let numbers = |(first, count): &(Page, u16)| first.0..first.0.saturating_add((*count).into());
        self.0.iter().flat_map(numbers).map(Page)
    }
}

/// Pages of frames that are under way on one connection, each frame by the byte with which it ends.
#[derive(Debug, Default)]
pub(super) struct UnderWay(VecDeque<(u64, Runs)>);

impl UnderWay {
    /// A frame with these pages ends with byte `end` of the connection.
    pub(super) fn add(&mut self, end: u64, runs: Runs) {
        self.0.push_back((end, runs));
    }

    /// The pages of the next frame that was taken in, of so many bytes.
    pub(super) fn took(&mut self, bytes: u64) -> Option<Runs> {
        self.0.pop_front_if(|(end, _)| *end <= bytes).map(|(_, runs)| runs)
    }

    /// All pages that are under way.
    pub(super) fn pages(&self) -> impl Iterator<Item = Page> + '_ {
        self.0.iter().flat_map(|(_, runs)| runs.pages())
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Batch;
    use super::*;
    use crate::identity::Identity;
    use std::vec;

    #[test]
    fn the_pages_of_a_frame_are_found_in_it() {
        let mut buffer = vec![0; 64 * 1024];
        let mut batch = Batch::new(&mut buffer);
        let identity = Identity::of(&[1; PAGE_BYTES]);
        for page in [3, 4] {
            batch.slot(Page(page)).fill(1);
            batch.raw(Page(page), identity);
        }
        (9..12).for_each(|page| batch.zero(Page(page)));
        let pack = [(Page(20), identity), (Page(7), identity)];
        batch.pack(&pack, |into| Some(into[..50].len())).unwrap();
        batch.similar(Page(1), Page(0), identity, &[1, 2, 3]);
        batch.zero(Page(30));
        let length = batch.finish(0);
        let found: Vec<_> = Runs::of(&buffer[..length]).pages().collect();
        assert_eq!(found, [3, 4, 9, 10, 11, 20, 7, 1, 30].map(Page));
    }
}
