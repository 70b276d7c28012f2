//! The part of the network that migrations use.

use core::net::SocketAddrV4;

use crate::net::Network;
use crate::net::stream::{Accepted, Error, Received, State, StreamId};

/// Byte streams to other hosts. See [`crate::net::stream`], whose methods these are.
pub trait Streams {
    /// Begins a connection.
    ///
    /// # Errors
    /// Why it cannot even begin.
    fn connect(&mut self, peer: SocketAddrV4) -> Result<StreamId, Error>;
    /// Takes a connection that came in on `port`.
    fn accept(&mut self, port: u16) -> Option<Accepted>;
    /// How a stream is.
    ///
    /// # Errors
    /// If it was given up.
    fn state(&mut self, id: StreamId) -> Result<State, Error>;
    /// Queues as much as there is room for and returns how much.
    ///
    /// # Errors
    /// Why nothing can be sent any more.
    fn send(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, Error>;
    /// Copies out what has arrived.
    ///
    /// # Errors
    /// Why nothing will arrive any more.
    fn receive(&mut self, id: StreamId, into: &mut [u8]) -> Result<Received, Error>;
    /// Ends the stream after what was queued.
    fn close(&mut self, id: StreamId);
    /// Ends the stream at once.
    fn abort(&mut self, id: StreamId);
}

impl Streams for Network {
    fn connect(&mut self, peer: SocketAddrV4) -> Result<StreamId, Error> {
        self.connect(peer)
    }
    fn accept(&mut self, port: u16) -> Option<Accepted> {
        self.accept(port)
    }
    fn state(&mut self, id: StreamId) -> Result<State, Error> {
        self.stream_state(id)
    }
    fn send(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, Error> {
        self.send(id, bytes)
    }
    fn receive(&mut self, id: StreamId, into: &mut [u8]) -> Result<Received, Error> {
        self.receive(id, into)
    }
    fn close(&mut self, id: StreamId) {
        // The only error is that it was given up before: then there is nothing left to do.
        let _ = self.close(id);
    }
    fn abort(&mut self, id: StreamId) {
        let _ = self.abort(id);
    }
}
