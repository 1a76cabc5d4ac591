//! Every byte sequence that the real Tribes was seen to write: our encoders write the same, our decoders read them back.
//!
//! `wire_corpus/` holds them, one a file; a file stays there for ever, so that every later version decodes it too.

use std::net::SocketAddr;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use tribes::wire::{Frame, FrameDecoder, WireError, channel_data, frame, member_package};
use tribes::{Body, Member, Message, SendOptions, UniqueId};

/// The bytes of a file of the corpus: hex digits on any number of lines, `#` begins a comment.
fn corpus(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire_corpus").join(name).with_extension("hex");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(digits.len().is_multiple_of(2), "{name} has half a byte");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits")).collect()
}

fn counting(from: u8) -> UniqueId {
    UniqueId::from_bytes(std::array::from_fn(|index| from + u8::try_from(index).expect("sixteen of them")))
}

fn member(address: &str, alive: i64) -> Member {
    let address: SocketAddr = address.parse().expect("an address");
    Member::new(address).with_id(counting(0)).with_alive_millis(alive)
}

fn m1() -> Member {
    member("127.0.0.1:4000", 1000)
}

fn captured(alive: i64) -> Member {
    let id = [0xac, 0x4d, 0xfa, 0xeb, 0x33, 0x7f, 0x49, 0xf9, 0x97, 0x55, 0x0f, 0xcd, 0x45, 0xfa, 0xaa, 0xad];
    member("127.0.0.1:4700", alive).with_id(UniqueId::from_bytes(id)).with_domain("dom").with_payload("pay")
}

#[track_caller]
fn assert_member(name: &str, expected: &Member) {
    let bytes = corpus(name);
    let decoded = member_package::decode(&bytes).expect("a package");
    assert_eq!(decoded, *expected);
    assert!(decoded.same_value(expected), "{decoded:?}");
    assert_eq!(decoded.alive_millis(), expected.alive_millis());
    assert_eq!(member_package::package(expected), bytes);
}

#[track_caller]
fn assert_message(decoded: &Message, expected: &Message) {
    assert_eq!(decoded.id(), expected.id());
    assert_eq!(decoded.options(), expected.options());
    assert_eq!(decoded.timestamp_millis(), expected.timestamp_millis());
    assert_eq!(decoded.sender(), expected.sender());
    assert_eq!(decoded.bytes(), expected.bytes());
}

fn only_frame(bytes: Bytes) -> Frame {
    let mut stream = BytesMut::from(bytes);
    let frame = FrameDecoder::new(1024).next(&mut stream).expect("good framing").expect("a whole frame");
    assert!(stream.is_empty());
    frame
}

fn ping() -> Message {
    Message::from_parts(counting(0x20), SendOptions::from_bits(3), 1_700_000_000_000, m1(), Body::from("ping"))
}

#[test]
fn member_packages() {
    assert_member("member-m1", &m1());
    let m2 = member("10.1.2.3:4001", 0x0102_0304_0506_0708)
        .with_secure_port(Some(4002))
        .with_udp_port(Some(45564))
        .with_domain("staging")
        .with_payload("hello")
        .with_id(counting(0xf0));
    assert_member("member-m2", &m2);
    assert_member("member-m4-ipv6", &member("[::1]:4000", 0));
}

#[test]
fn goodbyes() {
    let m3 = m1().with_alive_millis(5000).leaving();
    assert!(m3.is_leaving());
    assert_member("member-m3-goodbye", &m3);
}

#[test]
fn a_heartbeat_is_the_package_with_another_alive_time() {
    assert_eq!(member_package::heartbeat(&captured(0), 1009), corpus("member-capture-heartbeat"));
}

#[test]
fn channel_data() {
    let bytes = corpus("channel-data-ping");
    let message = channel_data::decode(&bytes, None).expect("a message");
    assert_message(&message, &ping());
    assert_eq!(channel_data::to_bytes(&ping()), bytes);
    assert_eq!(channel_data::encoded_len(&ping()), 121);
}

#[test]
fn frames() {
    let bytes = corpus("frame-ping");
    assert_eq!(only_frame(bytes.clone()), Frame::Data(corpus("channel-data-ping")));
    assert_eq!(frame::to_bytes(&ping()), bytes);
    assert_eq!(frame::encoded_len(&ping()), 135 + 4, "as the reference counts");
}

#[test]
fn acknowledgements() {
    assert_eq!(corpus("frame-ack"), frame::ACK[..]);
    assert_eq!(corpus("frame-fail-ack"), frame::FAIL_ACK[..]);
    assert_eq!(only_frame(corpus("frame-ack")), Frame::Ack);
    assert_eq!(only_frame(corpus("frame-fail-ack")), Frame::FailAck);
}

#[test]
fn the_capture_of_a_real_node() {
    assert_member("member-capture-heartbeat", &captured(1009));
    assert_member("member-capture-goodbye", &captured(3230).leaving());
    let bytes = corpus("frame-capture-broadcast");
    let Frame::Data(data) = only_frame(bytes.clone()) else { panic!("not a message") };
    let message = channel_data::decode(&data, None).expect("a message");
    assert_eq!(message.options(), SendOptions::BYTE_MESSAGE | SendOptions::MULTICAST);
    assert_eq!(message.timestamp_millis(), 0x0000_01a2_01bd_7f45);
    assert_eq!(message.bytes(), "mc");
    assert_eq!(message.sender(), &captured(0));
    assert_eq!(message.sender().alive_millis(), 2019);
    assert_eq!(frame::to_bytes(&message), bytes);
}

#[test]
fn a_tribes_node_shows_no_capabilities() {
    assert_eq!(captured(0).capabilities(), tribes::Capabilities::NONE);
}

/// The promise of the corpus: whatever was once on the wire is read, and written again as it was.
#[test]
fn the_whole_corpus_survives_a_round_trip() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire_corpus");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let bytes = corpus(&name);
        let again = match name.split('-').next().unwrap() {
            "member" => member_package::package(&member_package::decode(&bytes).expect(&name)),
            "channel" => channel_data::to_bytes(&channel_data::decode(&bytes, None).expect(&name)),
            "frame" => match only_frame(bytes.clone()) {
                Frame::Ack => Bytes::from_static(frame::ACK),
                Frame::FailAck => Bytes::from_static(frame::FAIL_ACK),
                Frame::Data(data) => frame::to_bytes(&channel_data::decode(&data, None).expect(&name)),
                other => panic!("{name}: {other:?}"),
            },
            kind => panic!("{name}: no decoder for {kind}"),
        };
        assert_eq!(again, bytes, "{name}");
        files += 1;
    }
    assert!(files >= 11, "the corpus only grows");
}

#[test]
fn trailing_bytes_are_tolerated_where_tribes_tolerates_them() {
    let mut package = corpus("member-m2").to_vec();
    package.extend_from_slice(b"junk");
    assert_eq!(member_package::decode(&package).expect("a package").payload(), "hello");
    let mut data = corpus("channel-data-ping").to_vec();
    data.extend_from_slice(b"junk");
    assert_eq!(channel_data::decode(&data.into(), None).expect("a message").bytes(), "ping");
}

#[test]
fn any_alive_time_is_accepted() {
    for alive in [i64::MIN, -1, 0, 1_800_000_000_000, i64::MAX] {
        let package = member_package::heartbeat(&m1(), alive);
        assert_eq!(member_package::decode(&package).expect("a package").alive_millis(), alive);
    }
}

/// `bytes` with others in place of those at `at`.
fn patched(name: &str, at: usize, with: &[u8]) -> Bytes {
    let mut bytes = corpus(name).to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes.into()
}

#[test]
fn hostile_members_are_refused() {
    let decode = |at, with: &[u8]| member_package::decode(&patched("member-m1", at, with)).expect_err("hostile");
    let part = tribes::wire::Part::Member;
    assert_eq!(decode(0, b"X"), WireError::Begin(part));
    assert_eq!(decode(67, b"X"), WireError::End(part));
    for length in [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 0x40]] {
        assert_eq!(decode(10, &length), WireError::Length(part), "the package's own length");
        assert_eq!(decode(39, &length), WireError::Length(part), "the command's length, bounded by the package");
        assert_eq!(decode(43, &length), WireError::Length(part), "the domain's");
        assert_eq!(decode(63, &length), WireError::Length(part), "the payload's");
    }
    assert_eq!(decode(10, &[0, 0, 0, 0x34]), WireError::End(part), "one byte short");
    assert_eq!(decode(34, &[5]), WireError::Host(5));
    assert_eq!(decode(34, &[0x84]), WireError::Host(0x84));
    assert_eq!(decode(22, &[0, 1, 0, 0]), WireError::Port(65536));
    assert_eq!(decode(30, &[0xff, 0xff, 0xff, 0xfe]), WireError::Port(-2));
}

#[test]
fn a_member_longer_than_tribes_makes_them_is_refused() {
    let fits = m1().with_payload(vec![7; member_package::MAX_LEN - 77]);
    assert_eq!(member_package::decode(&member_package::package(&fits)).as_ref(), Ok(&fits));
    let long = fits.with_domain("d");
    let error = member_package::decode(&member_package::package(&long)).expect_err("too long");
    assert_eq!(error, WireError::MemberTooLarge(65_536));
    assert_eq!(error.to_string(), "a Member package of 65536 bytes is above the limit of 65535");
}

#[test]
fn hostile_messages_are_refused() {
    let decode = |at, with: &[u8]| channel_data::decode(&patched("channel-data-ping", at, with), None).expect_err("hostile");
    let part = tribes::wire::Part::ChannelData;
    for length in [[0xff; 4], [0x7f, 0xff, 0xff, 0xff]] {
        assert_eq!(decode(12, &length), WireError::Length(part), "the id's length");
        assert_eq!(decode(32, &length), WireError::Length(part), "the sender's length");
        assert_eq!(decode(113, &length), WireError::Length(part), "the body's length");
    }
    assert_eq!(decode(113, &[0, 0, 0, 5]), WireError::Length(part), "one byte more than there is");
    assert_eq!(decode(12, &[0, 0, 0, 15]), WireError::MessageId(15));
    assert_eq!(decode(32, &[0; 4]), WireError::Begin(tribes::wire::Part::Member), "Tribes requires a sender as well");
}

#[test]
fn hostile_frames_are_refused_as_soon_as_they_show() {
    let next = |bytes: &[u8]| FrameDecoder::new(121).next(&mut BytesMut::from(bytes));
    let part = tribes::wire::Part::Frame;
    assert_eq!(next(b"FLT2001"), Err(WireError::Begin(part)));
    assert_eq!(next(b"X"), Err(WireError::Begin(part)));
    assert_eq!(next(b"FLT2002\xff\xff\xff\xff"), Err(WireError::Length(part)));
    assert_eq!(next(b"FLT2002\x00\x00\x00\x7a"), Err(WireError::TooLarge { announced: 122, limit: 121 }));
    assert_eq!(next(b"FLT2002\x00\x00\x00\x79"), Ok(None), "the limit itself");
    assert_eq!(next(&patched("frame-ping", 138, b"X")), Err(WireError::End(part)));
    assert_eq!(next(b"FLT2002\x00\x00\x00\x00TLF2003"), Ok(Some(Frame::Data(Bytes::new()))), "a frame, though no message");
}

#[test]
fn a_datagram_holds_whole_frames_or_is_refused() {
    let two = [corpus("frame-ping"), corpus("frame-ack")].concat();
    let frames = |bytes: &[u8]| frame::in_datagram(Bytes::copy_from_slice(bytes)).collect::<Result<Vec<_>, _>>();
    assert_eq!(frames(&two), Ok(vec![Frame::Data(corpus("channel-data-ping")), Frame::Ack]));
    assert_eq!(frames(b""), Ok(vec![]));
    assert_eq!(frames(&two[..two.len() - 1]), Err(WireError::Length(tribes::wire::Part::Frame)));
    let first = frame::in_datagram(BytesMut::from(&two[..150])).next().expect("a frame");
    assert!(first.is_ok(), "what came whole is not lost");
}

/// `docs/WIRE.md` explains the corpus piece by piece; two spaces end the hex digits of a line.
#[test]
fn the_documented_bytes_are_those_of_the_corpus() {
    let page = include_str!("../docs/WIRE.md");
    let mut blocks = 0;
    for block in page.split("```hex ").skip(1) {
        let (block, _) = block.split_once("```").expect("the block ends");
        let (name, lines) = block.split_once('\n').expect("a name and bytes");
        let digits = lines.lines().flat_map(|line| line.split("  ").next()).flat_map(|line| line.chars().filter(|c| *c != ' '));
        let bytes: String = corpus(name).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digits.collect::<String>(), bytes, "{name}");
        blocks += 1;
    }
    assert_eq!(blocks, 11, "the page shows every file");
}
