//! What the fuzz targets do, as ordinary functions: each takes any bytes and must neither panic nor hold more than its cap.
//!
//! ```text
//! cargo test --manifest-path fuzz/Cargo.toml                      replay of the corpus and of random input, on stable
//! cargo +nightly fuzz run frame_stream -- -max_total_time=60      the real thing
//! ```

use bytes::{Bytes, BytesMut};
use tribes::wire::{Frame, FrameDecoder, channel_data, frame, member_package};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("frame_stream", frame_stream),
    ("channel_data", channel_data),
    ("member_package", member_package),
    ("datagram", datagram),
    ("ack_stream", ack_stream),
    ("session_message", session_message),
];

/// A TCP connection: the first two bytes choose the cap and the size of the pieces, the rest is the stream.
pub fn frame_stream(data: &[u8]) {
    let [cap, piece, stream @ ..] = data else { return };
    let decoder = FrameDecoder::new(usize::from(*cap) * 8);
    let limit = usize::from(*cap) * 8 + frame::OVERHEAD;
    let mut buffer = BytesMut::new();
    let mut last_sender = None;
    for piece in stream.chunks(usize::from(*piece).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(Frame::Data(data))) => {
                    assert!(data.len() <= limit);
                    if let Ok(message) = channel_data::decode(&data, last_sender.as_ref()) {
                        last_sender = Some(message.sender().clone());
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        // What is left is the beginning of one frame, and the decoder knows its end before the cap is passed.
        let wanted = decoder.wanted(&buffer).expect("an error would have shown above");
        assert!(wanted.is_none_or(|wanted| buffer.len() < wanted && wanted <= limit));
        assert!(wanted.is_some() || buffer.len() < 11);
    }
}

/// A message: what is understood is written so that it is understood alike.
pub fn channel_data(data: &[u8]) {
    let Ok(message) = channel_data::decode(&Bytes::copy_from_slice(data), None) else { return };
    let written = channel_data::to_bytes(&message);
    let again = channel_data::decode(&written, Some(message.sender())).expect("our own bytes");
    assert_eq!(channel_data::to_bytes(&again), written);
    assert_eq!(again.bytes(), message.bytes());
    assert!(message.body().len() <= data.len());
}

/// A heartbeat or a goodbye.
pub fn member_package(data: &[u8]) {
    let Ok(member) = member_package::decode(data) else { return };
    let written = member_package::package(&member);
    assert!(written.len() <= data.len() && written.len() <= member_package::MAX_LEN);
    let again = member_package::decode(&written).expect("our own bytes");
    assert!(again.same_value(&member));
    assert_eq!(again.alive_millis(), member.alive_millis());
    assert_eq!(member_package::package(&again), written);
    let _ = (member.capabilities(), member.to_string(), format!("{member:?}"), member.is_leaving());
}

/// What comes in on a multicast or UDP socket.
pub fn datagram(data: &[u8]) {
    if member_package::is_package(data) {
        return member_package(data);
    }
    let mut length = 0;
    for found in frame::in_datagram(Bytes::copy_from_slice(data)) {
        let Ok(found) = found else { return };
        length += frame::OVERHEAD;
        match found {
            Frame::Data(data) => {
                length += data.len();
                channel_data(&data);
            }
            _ => length += 3,
        }
    }
    assert_eq!(length, data.len(), "without an error, every byte belongs to a frame");
}

/// What a sender reads: acknowledgements, and nothing else; the first byte chooses the size of the pieces.
pub fn ack_stream(data: &[u8]) {
    let [piece, stream @ ..] = data else { return };
    let decoder = FrameDecoder::new(3);
    let mut buffer = BytesMut::new();
    let mut taken = 0;
    for piece in stream.chunks(usize::from(*piece).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match decoder.next(&mut buffer) {
                Ok(Some(found)) => {
                    let bytes = &stream[taken..taken + before - buffer.len()];
                    taken += bytes.len();
                    assert_eq!(bytes == frame::ACK, found == Frame::Ack);
                    assert_eq!(bytes == frame::FAIL_ACK, found == Frame::FailAck);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(buffer.len() < frame::ACK.len(), "nothing but the start of an acknowledgement waits");
    }
}

/// What a peer may tell a session engine: a length, a kind and a body, again and again.
pub fn session_message(data: &[u8]) {
    tribes::testing::session_messages(data);
}
