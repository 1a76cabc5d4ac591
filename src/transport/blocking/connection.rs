//! One outgoing connection: writes a frame, reads its acknowledgement.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;

use crate::clock;
use crate::wire::{Frame, FrameDecoder};

pub(super) struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub(super) fn open(address: SocketAddr, connect_timeout: Duration, write_timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, connect_timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(write_timeout))?;
        Ok(Self { stream })
    }

    /// Another handle, to end the connection with.
    pub(super) fn handle(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Whether the peer has ended the connection, or sent something that nobody asked for.
    pub(super) fn is_over(&self) -> bool {
        let looked = self.stream.set_nonblocking(true).and_then(|()| self.stream.peek(&mut [0]));
        let open = looked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        !open || self.stream.set_nonblocking(false).is_err()
    }

    pub(super) fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(frame)
    }

    /// Ends the connection when the peer has read everything, or the time is over: what goes over the next one comes later.
    pub(super) fn finish(mut self, timeout: Duration) -> io::Result<()> {
        let start = clock::now();
        self.stream.shutdown(Shutdown::Write)?;
        loop {
            let left = clock::left(start, timeout);
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut [0; 64]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }

    /// The acknowledgement of what was written last: whether it is positive.
    pub(super) fn read_ack(&mut self, timeout: Duration) -> io::Result<bool> {
        let start = clock::now();
        let decoder = FrameDecoder::new(3);
        let (mut buffer, mut chunk) = (BytesMut::new(), [0; 64]);
        loop {
            let left = clock::left(start, timeout);
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            match decoder.next(&mut buffer) {
                // More than was asked for: the next answer could not be told from it.
                Ok(Some(_)) if !buffer.is_empty() => return Err(ErrorKind::InvalidData.into()),
                Ok(Some(Frame::Ack)) => return Ok(true),
                Ok(Some(Frame::FailAck)) => return Ok(false),
                Ok(Some(Frame::Data(_))) | Err(_) => return Err(ErrorKind::InvalidData.into()),
                Ok(None) => {}
            }
        }
    }
}

/// Whether an error says that the time is over, in whatever words the system has for it.
pub(super) fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock)
}
