//! Properties of the codec: what goes in comes out, however it is cut, and whatever comes in does no harm. The vectors of the
//! real Tribes are in `tests/wire_vectors.rs`.

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::id::UniqueId;
use crate::member::{Fields, Member};
use crate::message::{Body, Message};
use crate::options::SendOptions;

fn texts() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    fn fields()(
        alive: i64, host: Option<[u8; 4]>, host_v6: [u8; 16], port: u16, secure_port: Option<u16>, udp_port: Option<u16>,
        command in texts(), domain in texts(), payload in texts(), id: [u8; 16],
    ) -> Fields {
        let host = host.map_or_else(|| IpAddr::from(host_v6), IpAddr::from);
        Fields { alive, host, port, secure_port, udp_port, command, domain, id: UniqueId::from_bytes(id), payload }
    }
}

prop_compose! {
    fn message()(
        id: [u8; 16], options: u32, timestamp: u64, sender in fields(), pieces in vec(vec(any::<u8>(), 0..60), 1..4),
    ) -> Message {
        let mut pieces = pieces.into_iter();
        let mut body = Body::from(pieces.next().expect("one piece at least"));
        pieces.for_each(|piece| body.push_back(piece));
        let options = SendOptions::from_bits(options);
        Message::from_parts(UniqueId::from_bytes(id), options, timestamp, Member::from_fields(sender), body)
    }
}

/// What a stream is made of: a message, an ack, or a fail ack.
fn stream_item() -> impl Strategy<Value = (Frame, Bytes)> {
    prop_oneof![
        4 => message().prop_map(|message| (Frame::Data(channel_data::to_bytes(&message)), frame::to_bytes(&message))),
        1 => Just((Frame::Ack, Bytes::from_static(frame::ACK))),
        1 => Just((Frame::FailAck, Bytes::from_static(frame::FAIL_ACK))),
    ]
}

/// What comes out when a stream arrives in these pieces.
fn decode_pieces<'a>(limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Frame>, WireError> {
    let decoder = FrameDecoder::new(limit);
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(frame) = decoder.next(&mut buffer)? {
            frames.push(frame);
        }
        if let Some(wanted) = decoder.wanted(&buffer)? {
            assert!(wanted <= limit + frame::OVERHEAD, "the decoder never asks for more than the cap");
            assert!(buffer.len() < wanted, "what is whole was taken");
        }
    }
    Ok(frames)
}

#[track_caller]
fn assert_same(decoded: &Message, message: &Message) {
    assert_eq!(decoded.id(), message.id());
    assert_eq!(decoded.options(), message.options());
    assert_eq!(decoded.timestamp_millis(), message.timestamp_millis());
    assert_eq!(decoded.sender().fields(), message.sender().fields());
    assert_eq!(decoded.bytes(), message.bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn members_survive_the_wire(fields in fields(), junk in texts()) {
        let package = member_package::encode(&fields);
        let decoded = member_package::decode(&package).expect("our own");
        prop_assert_eq!(decoded.fields(), &fields);
        prop_assert_eq!(decoded.package(), &package);
        let longer = [&package[..], &junk].concat();
        assert_eq!(member_package::decode(&longer).expect("what follows is ignored").package(), &package);
    }

    #[test]
    fn messages_survive_the_wire(message in message()) {
        let data = channel_data::to_bytes(&message);
        prop_assert_eq!(data.len(), channel_data::encoded_len(&message));
        assert_same(&channel_data::decode(&data, None).expect("our own"), &message);
        let known = channel_data::decode(&data, Some(message.sender())).expect("our own");
        assert_same(&known, &message);
        let stranger = Member::new(([127, 0, 0, 1], 1).into());
        assert_same(&channel_data::decode(&data, Some(&stranger)).expect("our own"), &message);
        let whole = frame::to_bytes(&message);
        prop_assert_eq!(whole.len(), frame::encoded_len(&message));
    }

    #[test]
    fn every_split_of_a_stream_gives_the_same_frames(items in vec(stream_item(), 1..4)) {
        let stream: Vec<u8> = items.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        let frames: Vec<_> = items.into_iter().map(|(frame, _)| frame).collect();
        for at in 0..=stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(decode_pieces(1 << 16, [head, tail]).as_ref(), Ok(&frames), "split at {at}");
        }
        assert_eq!(decode_pieces(1 << 16, stream.chunks(1)).as_ref(), Ok(&frames), "byte by byte");
    }

    #[test]
    fn junk_does_no_harm(junk in vec(any::<u8>(), 0..400), piece in 1..50_usize, limit in 0..500_usize) {
        let _ = decode_pieces(limit, junk.chunks(piece));
        let framed = [&frame::HEADER[..], &junk].concat();
        let _ = decode_pieces(limit, framed.chunks(piece));
        let _ = member_package::decode(&junk);
        let _ = member_package::decode(&[&member_package::BEGIN[..], &junk].concat());
        let _ = channel_data::decode(&Bytes::from(junk.clone()), None);
        frame::in_datagram(Bytes::from(junk)).for_each(drop);
    }

    #[test]
    fn what_is_cut_short_is_an_error(message in message()) {
        let package = message.sender().package().clone();
        for length in 0..package.len() {
            prop_assert!(member_package::decode(&package[..length]).is_err(), "{} of {} bytes", length, package.len());
        }
        let data = channel_data::to_bytes(&message);
        for length in 0..data.len() {
            prop_assert!(channel_data::decode(&data.slice(..length), None).is_err(), "{} of {} bytes", length, data.len());
        }
        let whole = frame::to_bytes(&message);
        for length in 0..whole.len() {
            prop_assert_eq!(decode_pieces(1 << 16, [&whole[..length]]), Ok(vec![]));
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_read_as_something_else(message in message(), at: proptest::sample::Index, flip in 1..=255_u8) {
        let mut data = channel_data::to_bytes(&message).to_vec();
        let at = at.index(data.len());
        data[at] ^= flip;
        if let Ok(other) = channel_data::decode(&Bytes::from(data), None) {
            // Whatever was understood can be sent on and is understood alike.
            let again = channel_data::to_bytes(&other);
            assert_same(&channel_data::decode(&again, None).expect("our own"), &other);
        }
        let mut whole = frame::to_bytes(&message).to_vec();
        let at = at + frame::HEADER.len() + 4;
        whole[at] ^= flip;
        let frames = decode_pieces(1 << 16, [&whole[..]]).expect("the framing is untouched");
        prop_assert_eq!(frames.len(), 1);
    }

    #[test]
    fn changed_framing_is_refused(message in message(), at in 0..18_usize, flip in 1..=255_u8) {
        let mut whole = frame::to_bytes(&message).to_vec();
        let length = whole.len();
        let at = if at < 11 { at } else { length - 18 + at };
        whole[at] ^= flip;
        // A longer length waits for more, as it must, up to the limit; everything else is an error.
        match decode_pieces(length, [&whole[..]]) {
            Err(_) => {}
            Ok(frames) => prop_assert!(frames.is_empty() && (7..11).contains(&at)),
        }
    }

    #[test]
    fn data_shares_the_memory_of_the_stream(message in message()) {
        let mut stream = BytesMut::from(&frame::to_bytes(&message)[..]);
        let range = stream.as_ptr_range();
        let Ok(Some(Frame::Data(data))) = FrameDecoder::new(1 << 16).next(&mut stream) else { panic!("a message") };
        prop_assert!(range.contains(&data.as_ptr()));
        let body = channel_data::decode(&data, None).expect("our own").bytes();
        prop_assert!(body.is_empty() || range.contains(&body.as_ptr()));
    }
}
