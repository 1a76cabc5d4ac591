//! The id of a session: 128 random bits, and the text that travels in a cookie.

use std::fmt;
use std::str::FromStr;

use crate::id::random_bytes;

/// The id of a session: 128 bits of the system's random number generator. Whoever has it is the user, so it is a secret.
///
/// Its text is 22 characters of base64url without padding: letters, digits, `-` and `_`, so it goes as it is into cookies and
/// URLs, and never has the `.` at which a [`route`](super::route) begins. Each id has exactly one text.
///
/// `Debug` shows the first four characters only, for logs; `Display` writes it all.
///
/// ```
/// use tribes::session::SessionId;
///
/// let id = SessionId::random();
/// let cookie = id.to_string();
/// assert_eq!(cookie.len(), 22);
/// assert_eq!(cookie.parse(), Ok(id));
///
/// let id = SessionId::from_bytes([0xff; 16]);
/// assert_eq!(id.to_string(), "_____________________w");
/// assert_eq!(format!("{id:?}"), "SessionId(____…)");
/// ```
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// The id made of these bytes. For ids that are stored or received; a new session takes a [`random`](Self::random) one.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A new id, from the system's random number generator.
    ///
    /// # Panics
    ///
    /// When the operating system has no source of randomness.
    #[must_use]
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// The bytes of the id: what is replicated, and a key for a [`Store`](super::store::Store).
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The text, in ASCII.
    fn text(self) -> [u8; TEXT_LEN] {
        let bits = u128::from_be_bytes(self.0);
        let mut text = [0; TEXT_LEN];
        for (at, character) in text.iter_mut().enumerate() {
            let shift = FIRST_SHIFT - BITS * at as i32;
            let digit = if shift < 0 { bits << -shift } else { bits >> shift };
            *character = ALPHABET[(digit & 0x3f) as usize];
        }
        text
    }
}

/// As [`from_bytes`](SessionId::from_bytes).
impl From<[u8; 16]> for SessionId {
    fn from(bytes: [u8; 16]) -> Self {
        Self::from_bytes(bytes)
    }
}

/// The number that the bytes are, the highest first: for frameworks whose ids are numbers.
///
/// ```
/// use tribes::session::SessionId;
///
/// let id = SessionId::random();
/// assert_eq!(SessionId::from(u128::from(id)), id);
/// ```
impl From<u128> for SessionId {
    fn from(number: u128) -> Self {
        Self(number.to_be_bytes())
    }
}

impl From<SessionId> for [u8; 16] {
    fn from(id: SessionId) -> Self {
        id.0
    }
}

impl From<SessionId> for u128 {
    fn from(id: SessionId) -> Self {
        Self::from_be_bytes(id.0)
    }
}

/// Characters of the text of an id.
const TEXT_LEN: usize = 22;
/// Bits of one character.
const BITS: i32 = 6;
/// How far right the bits of the first character stand from the left. The last character has a negative shift: two bits of the
/// id, and four that are zero.
const FIRST_SHIFT: i32 = 128 - BITS;
/// Bits of the last character that carry nothing.
const SPARE: u8 = 0x0f;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn digit(character: char) -> Option<u8> {
    match character {
        'A'..='Z' => Some(character as u8 - b'A'),
        'a'..='z' => Some(character as u8 - b'a' + 26),
        '0'..='9' => Some(character as u8 - b'0' + 52),
        '-' => Some(62),
        '_' => Some(63),
        _ => None,
    }
}

/// Takes the 22 characters that [`Display`](fmt::Display) writes, and nothing else.
impl FromStr for SessionId {
    type Err = ParseSessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('.') {
            return Err(ParseSessionIdError::Route);
        }
        if text.len() != TEXT_LEN {
            return Err(ParseSessionIdError::Length(text.len()));
        }
        let (mut bits, mut last) = (0_u128, 0);
        for (at, character) in text.chars().enumerate() {
            last = digit(character).ok_or(ParseSessionIdError::Character { at })?;
            bits = if at < TEXT_LEN - 1 { bits << BITS | u128::from(last) } else { bits << 2 | u128::from(last >> 4) };
        }
        if last & SPARE != 0 {
            return Err(ParseSessionIdError::NotCanonical);
        }
        Ok(Self(bits.to_be_bytes()))
    }
}

/// 22 characters of base64url. The padding and precision of a format are ignored: an id is written whole or not at all.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).expect("the alphabet is ASCII"))
    }
}

/// The first four characters: enough to find a session in a log, not enough to take it over.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({}…)", str::from_utf8(&self.text()[..4]).expect("the alphabet is ASCII"))
    }
}

/// Why a text is no [`SessionId`]. The message does not repeat the text, which may be most of a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSessionIdError {
    /// A character that no id has.
    #[error("a session id has letters, digits, `-` and `_` only, unlike the character at {at}")]
    Character {
        /// Where it stands, counted in characters from 0.
        at: usize,
    },
    /// More or fewer than 22 bytes; this many.
    #[error("a session id has 22 characters, not {0}")]
    Length(usize),
    /// The last character has bits that belong to no id. Taking it would give one session several texts.
    #[error("the last character of a session id is one of A, Q, g and w")]
    NotCanonical,
    /// There is a `.`, so there may be a route.
    #[error("a session id has no `.`; take the route off with `session::route::strip` first")]
    Route,
}

#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
mod serde {
    use std::fmt;

    use serde::de::{self, Deserialize, Deserializer, Visitor};
    use serde::ser::{Serialize, Serializer};

    use super::SessionId;

    /// The text where people read the format, the bytes where they do not. It is the whole id, which is a secret.
    impl Serialize for SessionId {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
        }
    }

    impl<'de> Deserialize<'de> for SessionId {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            if deserializer.is_human_readable() {
                deserializer.deserialize_str(IdVisitor)
            } else {
                deserializer.deserialize_bytes(IdVisitor)
            }
        }
    }

    struct IdVisitor;

    impl Visitor<'_> for IdVisitor {
        type Value = SessionId;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a session id: 22 characters, or 16 bytes")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<SessionId, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<SessionId, E> {
            let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| E::invalid_length(bytes.len(), &self))?;
            Ok(SessionId::from_bytes(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const COUNTED: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn the_text_is_base64url() {
        for (bytes, text) in [
            ([0; 16], "AAAAAAAAAAAAAAAAAAAAAA"),
            ([0xff; 16], "_____________________w"),
            (COUNTED, "AAECAwQFBgcICQoLDA0ODw"),
            (*b"\xfb\xef\xbe\xfb\xef\xbe\xfb\xef\xbe\xfb\xef\xbe\xfb\xef\xbe\x01", "--------------------AQ"),
        ] {
            assert_eq!(SessionId::from_bytes(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(SessionId::from_bytes(bytes)));
        }
    }

    #[test]
    fn what_is_no_id_is_refused_with_the_reason() {
        let parse = |text: &str| text.parse::<SessionId>().expect_err(text);
        assert_eq!(parse(""), ParseSessionIdError::Length(0));
        assert_eq!(parse("AAECAwQFBgcICQoLDA0OD"), ParseSessionIdError::Length(21));
        assert_eq!(parse("AAECAwQFBgcICQoLDA0ODw=="), ParseSessionIdError::Length(24));
        assert_eq!(parse("AAECAwQFBgcICQoLDA0ODw.node1"), ParseSessionIdError::Route);
        for character in ['+', '/', '=', ' ', '\0', '~', '@', '[', '`', '{'] {
            let text = format!("AAEC{character}wQFBgcICQoLDA0ODw");
            assert_eq!(parse(&text), ParseSessionIdError::Character { at: 4 }, "{text}");
        }
        assert_eq!(parse("AAEéwQFBgcICQoLDA0ODw"), ParseSessionIdError::Character { at: 3 });
        assert!(parse("AAECAwQFBgcICQoLDA0ODw.node1").to_string().contains("route::strip"));
    }

    #[test]
    fn an_id_has_one_text() {
        let accepted: String = ALPHABET
            .iter()
            .map(|last| char::from(*last))
            .filter(|last| format!("AAECAwQFBgcICQoLDA0OD{last}").parse::<SessionId>().is_ok())
            .collect();
        assert_eq!(accepted, "AQgw");
        assert_eq!("AAECAwQFBgcICQoLDA0ODx".parse::<SessionId>(), Err(ParseSessionIdError::NotCanonical));
    }

    #[test]
    fn debug_keeps_the_secret() {
        let id = SessionId::from_bytes(COUNTED);
        assert_eq!(format!("{id:?} {:?}", Some(id)), "SessionId(AAEC…) Some(SessionId(AAEC…))");
        assert!(!format!("{id:#?}").contains("AAECA"));
    }

    #[test]
    fn an_id_is_a_number_and_bytes() {
        let id = SessionId::from(COUNTED);
        assert_eq!(u128::from(id), 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f);
        assert_eq!(SessionId::from(u128::from(id)), id);
        assert_eq!(<[u8; 16]>::from(id), COUNTED);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn an_id_is_text_for_people_and_bytes_for_machines() {
        let id = SessionId::from_bytes(COUNTED);
        let text = serde_json::to_string(&id).expect("it can be written");
        assert_eq!(text, "\"AAECAwQFBgcICQoLDA0ODw\"");
        assert_eq!(serde_json::from_str::<SessionId>(&text).expect("it can be read"), id);
        let bytes = rmp_serde::to_vec(&id).expect("it can be written");
        assert_eq!(bytes.len(), 18, "a byte says that bytes come, another how many");
        assert_eq!(rmp_serde::from_slice::<SessionId>(&bytes).expect("it can be read"), id);
        let error = serde_json::from_str::<SessionId>("\"AAEC\"").expect_err("too short").to_string();
        assert!(error.contains("22 characters") && !error.contains("AAEC"), "{error}");
        assert!(rmp_serde::from_slice::<SessionId>(&bytes[..17]).is_err());
    }

    #[test]
    fn random_ids_differ() {
        let ids: HashSet<_> = (0..1000).map(|_| SessionId::random()).collect();
        assert_eq!(ids.len(), 1000);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_id_survives_its_text(bytes: [u8; 16]) {
            let id = SessionId::from_bytes(bytes);
            let text = id.to_string();
            prop_assert_eq!(text.len(), TEXT_LEN);
            prop_assert!(text.bytes().all(|byte| ALPHABET.contains(&byte)));
            prop_assert_eq!(text.parse(), Ok(id));
            prop_assert_eq!(id.as_bytes(), &bytes);
        }

        #[test]
        fn what_is_understood_is_written_alike(text in "[A-Za-z0-9_-]{21}[AQgw]|[ -~é]{18,24}|.{0,30}") {
            if let Ok(id) = text.parse::<SessionId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
