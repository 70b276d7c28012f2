//! The person's side: line editor, parser, commands, progress and guest-console multiplexing.
