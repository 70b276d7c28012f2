//! Frames as they are on the wire, and the messages of the model in them. Kinds and bodies are read here by what
//! `docs/migration-protocol.md` says of them, not by the engine's own code.

use minicbor::Decoder;

use super::parts::{Fate, Message};

const OPENING_BYTES: usize = 64;
const HEADER_BYTES: usize = 24;

/// What a frame is, or an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Frame(u16),
    /// By its intent.
    Opening(u8),
}

const REPLY: u16 = 2;
const PAGES: u16 = 3;
const ROUND_END: u16 = 4;
const PROGRESS: u16 = 5;
const SECTION: u16 = 6;
const PING: u16 = 15;
const ABSENT: u16 = 17;

/// Frames in the order in which they were sent.
#[derive(Debug, Default)]
pub(crate) struct Frames(Vec<(Kind, Vec<u8>)>);

impl Frames {
    /// Adds what an engine transmits: whole frames, perhaps behind an opening.
    pub(crate) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (kind, length) = if bytes.starts_with(b"Godwit\x1a\n") {
                (Kind::Opening(bytes[12]), OPENING_BYTES)
            } else {
                let body = u32::from_le_bytes(*bytes[4..].first_chunk().expect("a header is whole"));
                (Kind::Frame(u16::from_le_bytes([bytes[0], bytes[1]])), HEADER_BYTES + body as usize)
            };
            let (frame, rest) = bytes.split_at(length);
            self.0.push((kind, frame.to_vec()));
            bytes = rest;
        }
    }

    /// The bytes of each of these messages, with what came before it and decides nothing; and what came behind the last.
    pub(crate) fn into_messages(self, messages: &[Message]) -> (Vec<(Message, Vec<u8>)>, Self) {
        let mut expected = messages.iter().copied().peekable();
        let (mut said, mut before) = (Vec::new(), Vec::new());
        for (kind, frame) in self.0 {
            if let Some(message) = expected.next_if(|message| kind == kind_of(*message)) {
                let lacks = before.iter().any(|(kind, _)| *kind == Kind::Frame(ABSENT));
                assert_eq!(read(message, &frame, lacks), message, "what a message says");
                before.push((kind, frame));
                said.push((message, before.drain(..).flat_map(|(_, frame)| frame).collect()));
            } else {
                assert!(decides_nothing(kind), "{kind:?} is said, of {messages:?}");
                before.push((kind, frame));
            }
        }
        assert_eq!(expected.next(), None, "is not said, of {messages:?}");
        (said, Self(before))
    }
}

const fn decides_nothing(kind: Kind) -> bool {
    matches!(kind, Kind::Opening(1) | Kind::Frame(PAGES | ROUND_END | PROGRESS | SECTION | PING | ABSENT))
}

/// The frame that stands for a message.
fn kind_of(message: Message) -> Kind {
    Kind::Frame(match message {
        Message::Begin { .. } => 1,
        Message::Reply { .. } => REPLY,
        Message::Pages => PAGES,
        Message::Round => ROUND_END,
        Message::Progress => PROGRESS,
        Message::Seal { .. } => 7,
        Message::Verified { .. } => 8,
        Message::Commit(_) => 9,
        Message::Committed(_) => 10,
        Message::Returned => 11,
        Message::Release => 12,
        Message::Outcome(_) => 13,
        Message::Abort => 14,
        Message::Recall => 16,
        Message::Pushed => 19,
        Message::Complete => 20,
        Message::Resolve(_) => return Kind::Opening(2),
    })
}

/// What the frame says, where the message has numbers.
fn read(message: Message, frame: &[u8], lacks: bool) -> Message {
    let number = |key| field(&frame[HEADER_BYTES..], key).unwrap_or(0) as u8;
    match message {
        Message::Begin { generation, attempt } => {
            // The attempt is in the opening before it.
            let is_his = field(&frame[HEADER_BYTES..], 1).is_none_or(|said| said == u64::from(generation));
            assert!(is_his, "the hello's generation");
            Message::Begin { generation, attempt }
        }
        Message::Resolve(_) => Message::Resolve(frame[16]),
        Message::Seal { work, .. } => Message::Seal { stop: number(2), work, absent: number(3) > 0 },
        Message::Verified { .. } => Message::Verified { stop: number(1) },
        Message::Commit(_) => Message::Commit(number(0)),
        Message::Committed(_) => Message::Committed(number(0)),
        Message::Outcome(_) => Message::Outcome(match number(0) {
            0 => Fate::Prepared,
            1 => Fate::Owned { lacks },
            2 => Fate::Unknown,
            3 => Fate::Starting,
            fate => panic!("fate {fate}"),
        }),
        other => other,
    }
}

/// The number at a key of a CBOR map.
fn field(body: &[u8], key: u32) -> Option<u64> {
    let mut decoder = Decoder::new(body);
    for _ in 0..decoder.map().ok()?? {
        if decoder.u32().ok()? == key {
            return decoder.u64().ok();
        }
        decoder.skip().ok()?;
    }
    None
}
