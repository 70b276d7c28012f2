//! Frames: a kind, a line, a place in its stream, bytes, and a checksum over all of that.
//!
//! A frame is encoded so that it holds no byte 0 (consistent overhead byte stuffing: each 0 is replaced by the distance to
//! the next one), and ends with one. Whatever happens to the bytes, the next 0 begins a new frame.

/// Bytes of a line in one frame: with all else, one block of the encoding.
pub const DATA_BYTES_MAX: usize = 240;

/// Ends every frame.
pub const END: u8 = 0;

/// The longest run of bytes without a 0 that one length byte describes.
const RUN_BYTES_MAX: usize = 254;
/// Kind, line, offset.
const HEAD_BYTES: usize = 7;
const CHECKSUM_BYTES: usize = 4;
const BODY_BYTES_MAX: usize = HEAD_BYTES + DATA_BYTES_MAX + CHECKSUM_BYTES;
/// A length byte for each run, and one before the first.
const ENCODED_BYTES_MAX: usize = BODY_BYTES_MAX + BODY_BYTES_MAX / RUN_BYTES_MAX + 1;

const DATA: u8 = 1;
const ACK: u8 = 2;

/// What the trunk carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a line. None ask for an [`Ack`](Self::Ack).
    Data {
        /// The line's number.
        line: u16,
        /// How many bytes the line had before these, modulo 2^32.
        offset: u32,
        /// [`DATA_BYTES_MAX`] at most.
        bytes: Vec<u8>,
    },
    /// How far a line has come, and how far it may go.
    Ack {
        /// The line's number.
        line: u16,
        /// All bytes before this offset have come.
        received: u32,
        /// Bytes before this offset may be sent.
        limit: u32,
    },
}

impl Frame {
    /// Appends the frame, encoded, with its end.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(BODY_BYTES_MAX);
        match self {
            Self::Data { line, offset, bytes } => {
                body.push(DATA);
                body.extend(line.to_le_bytes());
                body.extend(offset.to_le_bytes());
                body.extend(bytes);
            }
            Self::Ack { line, received, limit } => {
                body.push(ACK);
                body.extend(line.to_le_bytes());
                body.extend(received.to_le_bytes());
                body.extend(limit.to_le_bytes());
            }
        }
        body.extend(checksum(&body).to_le_bytes());
        stuff(&body, into);
        into.push(END);
    }

    /// Reads what [`Self::encode`] has written, without its end.
    ///
    /// # Errors
    /// It is not that.
    fn decode(encoded: &[u8]) -> Result<Self, Damaged> {
        let body = unstuff(encoded).ok_or(Damaged)?;
        let (body, sum) = body.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Damaged)?;
        if checksum(body) != u32::from_le_bytes(*sum) {
            return Err(Damaged);
        }
        let (head, bytes) = body.split_first_chunk::<HEAD_BYTES>().ok_or(Damaged)?;
        let [kind, line_low, line_high, offset @ ..] = *head;
        let (line, offset) = (u16::from_le_bytes([line_low, line_high]), u32::from_le_bytes(offset));
        match kind {
            DATA if bytes.len() <= DATA_BYTES_MAX => Ok(Self::Data { line, offset, bytes: bytes.to_vec() }),
            ACK => {
                let limit = u32::from_le_bytes(bytes.try_into().map_err(|_| Damaged)?);
                Ok(Self::Ack { line, received: offset, limit })
            }
            _ => Err(Damaged),
        }
    }
}

/// Bytes between two ends that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Finds frames in a stream of bytes, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct Decoder {
    encoded: Vec<u8>,
    /// More has come since the last end than any frame has.
    is_overlong: bool,
}

impl Decoder {
    /// Takes the next bytes; gives the frames that they complete, and what is none.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Result<Frame, Damaged>> {
        let mut frames = Vec::new();
        for &byte in bytes {
            if byte != END {
                self.is_overlong |= self.encoded.len() == ENCODED_BYTES_MAX;
                if !self.is_overlong {
                    self.encoded.push(byte);
                }
                continue;
            }
            if self.is_overlong {
                frames.push(Err(Damaged));
            } else if !self.encoded.is_empty() {
                frames.push(Frame::decode(&self.encoded));
            }
            self.encoded.clear();
            self.is_overlong = false;
        }
        frames
    }
}

/// Appends `body` without its zeros.
fn stuff(body: &[u8], into: &mut Vec<u8>) {
    for run in body.split(|byte| *byte == 0) {
        let mut rest = run;
        while rest.len() >= RUN_BYTES_MAX {
            let (full, behind) = rest.split_at(RUN_BYTES_MAX);
            into.push(u8::MAX);
            into.extend(full);
            rest = behind;
        }
        into.push(rest.len() as u8 + 1);
        into.extend(rest);
    }
}

/// Puts the zeros back; `None` if a run is cut off.
fn unstuff(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&length, behind)) = rest.split_first() {
        let (run, behind) = behind.split_at_checked(usize::from(length).checked_sub(1)?)?;
        body.extend(run);
        rest = behind;
        if length != u8::MAX && !rest.is_empty() {
            body.push(0);
        }
    }
    Some(body)
}

/// CRC-32 as in Ethernet, a bit at a time: frames are short and few.
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: &[u8]) -> Frame {
        Frame::Data { line: 7, offset: 0x0100_0000, bytes: bytes.to_vec() }
    }

    fn encoded(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    }

    fn frames() -> Vec<Frame> {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        vec![
            data(b""),
            data(b"a> version\r\n"),
            data(&[0; DATA_BYTES_MAX]),
            data(&[0xff; DATA_BYTES_MAX]),
            data(&all[..DATA_BYTES_MAX]),
            data(&all[16..]),
            Frame::Ack { line: u16::MAX, received: u32::MAX, limit: 0 },
            Frame::Ack { line: 0, received: 0x0101_0101, limit: 0x0202_0202 },
        ]
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn frames_are_found_again_in_whatever_pieces_they_come() {
        let stream: Vec<u8> = frames().iter().flat_map(encoded).collect();
        for size in [1, 2, 3, 7, 300, stream.len()] {
            let mut decoder = Decoder::default();
            let found: Vec<_> = stream.chunks(size).flat_map(|chunk| decoder.feed(chunk)).collect();
            assert_eq!(found, frames().into_iter().map(Ok).collect::<Vec<_>>(), "pieces of {size}");
        }
    }

    #[test]
    fn an_encoded_frame_ends_with_its_only_zero_and_is_no_longer_than_allowed() {
        for frame in frames() {
            let bytes = encoded(&frame);
            assert_eq!(bytes.iter().position(|byte| *byte == END), Some(bytes.len() - 1), "{frame:?}");
            assert!(bytes.len() - 1 <= ENCODED_BYTES_MAX, "{frame:?}");
        }
    }

    #[test]
    fn runs_of_any_length_are_stuffed_and_put_back() {
        for length in 0..600 {
            for zeros in [0, 1, 2, 253, 254, 255] {
                let mut body = vec![9; length];
                body.resize(length + zeros, 0);
                body.extend(vec![5; length % 7]);
                let mut stuffed = Vec::new();
                stuff(&body, &mut stuffed);
                assert!(!stuffed.contains(&0));
                assert_eq!(unstuff(&stuffed).unwrap_or_default(), body, "{length} bytes, {zeros} zeros");
            }
        }
    }

    #[test]
    fn a_lost_byte_costs_one_frame_and_a_lost_end_two() {
        let (first, second, third) = (data(b"one"), data(b"two"), data(b"three"));
        let whole: Vec<u8> = [&first, &second, &third].into_iter().flat_map(encoded).collect();
        let end_of_first = encoded(&first).len() - 1;
        for lost in 0..whole.len() - encoded(&third).len() - 1 {
            let mut stream = whole.clone();
            stream.remove(lost);
            let found = Decoder::default().feed(&stream);
            assert_eq!(found.last(), Some(&Ok(third.clone())), "without byte {lost}");
            let intact = found.iter().filter(|frame| frame.is_ok()).count();
            assert_eq!(intact, 2 - usize::from(lost == end_of_first), "byte {lost}");
        }
    }

    #[test]
    fn no_flipped_bit_passes_for_a_frame() {
        for frame in frames() {
            let bytes = encoded(&frame);
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                damaged.push(END);
                let found = Decoder::default().feed(&damaged);
                assert!(found.iter().all(Result::is_err), "bit {bit} of {frame:?}: {found:?}");
            }
        }
    }

    #[test]
    fn noise_is_refused_keeps_no_memory_and_hides_nothing_behind_it() {
        let mut decoder = Decoder::default();
        let mut random = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 56) as u8
        })
        .take(1 << 20)
        .collect();
        assert!(decoder.feed(&noise).iter().all(Result::is_err));
        assert!(decoder.feed(&vec![1; 1 << 20]).is_empty());
        assert!(decoder.encoded.capacity() <= 4 * ENCODED_BYTES_MAX, "{}", decoder.encoded.capacity());
        assert_eq!(decoder.feed(&[END]), [Err(Damaged)]);
        assert_eq!(decoder.feed(&encoded(&data(b"x"))), [Ok(data(b"x"))]);
    }

    #[test]
    fn well_formed_bytes_that_mean_nothing_are_refused() {
        for body in [&[][..], &[DATA], &[3, 0, 0, 0, 0, 0, 0], &[ACK, 0, 0, 0, 0, 0, 0, 1, 2, 3]] {
            let mut whole = body.to_vec();
            whole.extend(checksum(body).to_le_bytes());
            let mut bytes = Vec::new();
            stuff(&whole, &mut bytes);
            bytes.push(END);
            assert_eq!(Decoder::default().feed(&bytes), [Err(Damaged)], "{body:?}");
        }
    }
}
