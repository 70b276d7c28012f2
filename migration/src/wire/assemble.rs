//! Cuts a byte stream into units: opening, control frames, records and their content. A unit that arrives whole
//! is handed on in place; only one that arrives in pieces is collected, so the memory used is bounded by the
//! largest unit.

use alloc::vec::Vec;

use super::frame::{FrameKind, HEADER_BYTES, Header, Kind};
use super::opening::{Greeting, OPENING_BYTES};
use super::record::{RECORD_BYTES, Received, Record};
use crate::ram::PAGE_BYTES;
use crate::reason::{AbortReason, Refusal, StreamFault};

/// A piece of the stream that can be acted on.
#[derive(Debug)]
pub(crate) enum Unit<'a> {
    /// How the connection begins.
    Opening(Greeting),
    /// A control frame's body.
    Control(Kind, &'a [u8]),
    /// A record; its content, if it has any, follows.
    Record(Received),
    /// A page of a raw record, or all that belongs to another one.
    Content(&'a [u8]),
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Opening,
    Header,
    Body(Header, [u8; HEADER_BYTES]),
    /// A record of a page frame of which so many bytes are left.
    Record(usize),
    /// `chunks` more pieces of `chunk` bytes, then the rest of the page frame.
    Content {
        chunk: usize,
        chunks: usize,
        frame_left: usize,
    },
}

/// The receiving end of one connection.
#[derive(Debug)]
pub(crate) struct Assembler {
    expect: Expect,
    collected: Vec<u8>,
    /// The collected bytes have been handed out and are to be dropped.
    is_stale: bool,
    sequence: u32,
}

impl Assembler {
    /// For a connection on which the other side speaks first.
    pub(crate) fn for_target() -> Self {
        Self { expect: Expect::Opening, collected: Vec::new(), is_stale: false, sequence: 0 }
    }

    /// For a connection that we opened.
    pub(crate) fn for_source() -> Self {
        Self { expect: Expect::Header, ..Self::for_target() }
    }

    /// The next unit, taken from the front of `input`; `None` when `input` is used up.
    pub(crate) fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Unit<'a>>, AbortReason> {
        loop {
            let need = self.need();
            let expect = self.expect;
            if self.is_stale {
                self.collected.clear();
                self.is_stale = false;
            }
            if !self.collected.is_empty() || input.len() < need {
                let missing = need - self.collected.len();
                let (now, later) = input.split_at(missing.min(input.len()));
                // No more than the largest unit, whatever the order in which units come.
                self.collected.reserve_exact(missing);
                self.collected.extend_from_slice(now);
                *input = later;
                if self.collected.len() < need {
                    return Ok(None);
                }
                self.is_stale = true;
            }
            let is_collected = self.is_stale;
            match expect {
                Expect::Header => {
                    let bytes: &[u8] = if is_collected { &self.collected } else { take(input, need) };
                    let bytes = *bytes.first_chunk().expect("a header is so long");
                    self.expect = self.after_header(bytes)?;
                }
                Expect::Opening => {
                    self.expect = Expect::Header;
                    let bytes: &[u8] = if is_collected { &self.collected } else { take(input, need) };
                    let bytes = bytes.first_chunk().expect("an opening is so long");
                    return Greeting::decode(bytes)
                        .map(|it| Some(Unit::Opening(it)))
                        .map_err(AbortReason::Stream);
                }
                Expect::Body(header, header_bytes) => {
                    self.expect = Expect::Header;
                    if header.kind == FrameKind::Optional {
                        if !is_collected {
                            take(input, need);
                        }
                        continue;
                    }
                    let bytes: &[u8] = if is_collected { &self.collected } else { take(input, need) };
                    return control(header, &header_bytes, bytes);
                }
                Expect::Record(frame_left) => {
                    let bytes = if is_collected { &self.collected } else { take(input, need) };
                    let bytes = bytes.first_chunk().expect("a record is so long");
                    let received = Record::decode(bytes).map_err(AbortReason::Stream)?;
                    self.expect = after_record(received.record, frame_left - RECORD_BYTES)?;
                    return Ok(Some(Unit::Record(received)));
                }
                Expect::Content { chunk, chunks, frame_left } => {
                    self.expect = match chunks - 1 {
                        0 => next_record(frame_left)?,
                        chunks => Expect::Content { chunk, chunks, frame_left },
                    };
                    let bytes = if is_collected { &self.collected } else { take(input, need) };
                    return Ok(Some(Unit::Content(bytes)));
                }
            }
        }
    }

    /// How many frames have come as a whole.
    pub(crate) const fn frames_ended(&self) -> u32 {
        match self.expect {
            Expect::Opening | Expect::Header => self.sequence,
            Expect::Body(..) | Expect::Record(_) | Expect::Content { .. } => self.sequence.wrapping_sub(1),
        }
    }

    fn need(&self) -> usize {
        match self.expect {
            Expect::Opening => OPENING_BYTES,
            Expect::Header => HEADER_BYTES,
            Expect::Body(header, _) => header.body_bytes,
            Expect::Record(_) => RECORD_BYTES,
            Expect::Content { chunk, .. } => chunk,
        }
    }

    fn after_header(&mut self, bytes: [u8; HEADER_BYTES]) -> Result<Expect, AbortReason> {
        let header = Header::decode(&bytes).map_err(AbortReason::Stream)?;
        if header.sequence != self.sequence {
            return Err(AbortReason::Stream(StreamFault::Sequence));
        }
        self.sequence = self.sequence.wrapping_add(1);
        match header.kind {
            FrameKind::Known(Kind::Pages) => next_record(header.body_bytes),
            _ => Ok(Expect::Body(header, bytes)),
        }
    }
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (now, later) = input.split_at(count);
    *input = later;
    now
}

fn control<'a>(
    header: Header,
    bytes: &[u8; HEADER_BYTES],
    body: &'a [u8],
) -> Result<Option<Unit<'a>>, AbortReason> {
    header.check_body(bytes, body).map_err(AbortReason::Stream)?;
    match header.kind {
        FrameKind::Known(kind) => Ok(Some(Unit::Control(kind, body))),
        FrameKind::Mandatory(number) => Err(AbortReason::Refused([Refusal::UnknownRecord(number)].into())),
        FrameKind::Optional => Ok(None),
    }
}

fn next_record(frame_left: usize) -> Result<Expect, AbortReason> {
    match frame_left {
        0 => Ok(Expect::Header),
        RECORD_BYTES.. => Ok(Expect::Record(frame_left)),
        _ => Err(AbortReason::Stream(StreamFault::Length)),
    }
}

fn after_record(record: Record, frame_left: usize) -> Result<Expect, AbortReason> {
    let (chunk, chunks) = match record {
        Record::Zero { .. } => (0, 0),
        Record::Raw { count, .. } => (PAGE_BYTES, usize::from(count)),
        Record::Pack { bytes, .. } => (bytes as usize, 1),
        Record::Similar { bytes, .. } => (usize::from(bytes), 1),
    };
    let Some(frame_left) = frame_left.checked_sub(chunk * chunks) else {
        return Err(AbortReason::Stream(StreamFault::Length));
    };
    if chunks == 0 { next_record(frame_left) } else { Ok(Expect::Content { chunk, chunks, frame_left }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::ram::Page;
    use crate::wire::record::Fold;
    use proptest::prelude::*;
    use std::format;
    use std::string::String;
    use std::vec;

    fn stream() -> Vec<u8> {
        let mut body = Vec::new();
        let mut fold = Fold::default();
        body.extend_from_slice(&Record::Zero { first: Page(3), count: 9 }.encode(fold));
        fold.add(Identity(77));
        body.extend_from_slice(&Record::Raw { first: Page(1), count: 2 }.encode(fold));
        body.extend_from_slice(&[5; 2 * PAGE_BYTES]);
        body.extend_from_slice(&Record::Similar { page: Page(8), reference: Page(1), bytes: 0 }.encode(fold));
        body.extend_from_slice(&Record::Pack { count: 1, bytes: 9 }.encode(fold));
        body.extend_from_slice(&[6; 9]);
        let mut all = Vec::new();
        all.extend_from_slice(&Header::encode(Kind::Ping, 0, &[]));
        all.extend_from_slice(&Header::encode(Kind::Pages, 1, &body));
        all.extend_from_slice(&body);
        all.extend_from_slice(&Header::encode(Kind::Seal, 2, &[1, 2, 3]));
        all.extend_from_slice(&[1, 2, 3]);
        all
    }

    fn read(stream: &[u8], cuts: &[usize]) -> Result<Vec<String>, AbortReason> {
        let mut assembler = Assembler::for_source();
        let (mut seen, mut rest) = (vec![], stream);
        for cut in cuts.iter().chain([&usize::MAX]) {
            let (mut now, later) = rest.split_at((*cut).min(rest.len()));
            rest = later;
            while let Some(unit) = assembler.next(&mut now)? {
                seen.push(match unit {
                    Unit::Content(bytes) => format!("content {} x {:?}", bytes.len(), bytes.first()),
                    unit => format!("{unit:?}"),
                });
            }
            assert!(now.is_empty());
        }
        Ok(seen)
    }

    proptest! {
        #[test]
        fn portions_make_no_difference(cuts in prop::collection::vec(0usize..5000, 0..40)) {
            let whole = read(&stream(), &[]).unwrap();
            prop_assert_eq!(whole.len(), 10);
            prop_assert_eq!(read(&stream(), &cuts).unwrap(), whole);
        }

        #[test]
        fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..9000, cut in 0usize..400) {
            let mut stream = stream();
            let at = at.min(stream.len());
            stream.splice(at.., bytes);
            let _ = read(&stream, &[cut]);
        }
    }

    #[test]
    fn a_repeated_frame_is_noticed() {
        let mut stream = Header::encode(Kind::Ping, 0, &[]).to_vec();
        stream.extend_from_slice(&Header::encode(Kind::Ping, 0, &[]));
        assert_eq!(read(&stream, &[]), Err(AbortReason::Stream(StreamFault::Sequence)));
    }
}
