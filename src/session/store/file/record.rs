//! The form of a record's file, as pure functions.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | the magic `TRBRECRD` |
//! | 4 | version of the form, 1 |
//! | 4 | checksum: CRC-32 (as in zip and PNG) of the version, the length, the key and the record |
//! | 8 | length of the record |
//! | | the record, and nothing behind it |
//!
//! Numbers are big-endian. The key is in the file's name; it is under the checksum so that a file under another one's name, which
//! would be one user's session under another's id, is noticed.

use thiserror::Error;

/// Bytes before the record.
pub(super) const HEADER_LEN: usize = 24;

const MAGIC: [u8; 8] = *b"TRBRECRD";
const VERSION: u32 = 1;

/// What stands before a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    checksum: u32,
    /// Bytes of the record.
    pub(super) len: u64,
}

impl Header {
    /// The header of this record under this key.
    pub(super) fn new(key: &[u8], record: &[u8]) -> Self {
        let len = record.len() as u64;
        Self { checksum: checksum(len, key, record), len }
    }

    pub(super) fn encode(self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_be_bytes());
        header[12..16].copy_from_slice(&self.checksum.to_be_bytes());
        header[16..].copy_from_slice(&self.len.to_be_bytes());
        header
    }

    /// Reads a header; `size` is that of the whole file.
    pub(super) fn decode(header: &[u8; HEADER_LEN], size: u64) -> Result<Self, Fault> {
        let (magic, fields) = header.split_first_chunk::<8>().expect("a header is longer");
        if *magic != MAGIC {
            return Err(Fault::Foreign);
        }
        let number = |at: usize| fields[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        match number(0) {
            VERSION => {}
            0 => return Err(Fault::Foreign),
            version => return Err(Fault::Newer(version)),
        }
        let len = u64::from(number(8)) << 32 | u64::from(number(12));
        if len.checked_add(HEADER_LEN as u64) != Some(size) {
            return Err(Fault::Length { len, size });
        }
        Ok(Self { checksum: number(4), len })
    }

    /// Whether this is the record that was saved under this key.
    pub(super) fn check(self, key: &[u8], record: &[u8]) -> Result<(), Fault> {
        if self == Self::new(key, record) { Ok(()) } else { Err(Fault::Checksum) }
    }
}

/// Why a file is not read.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(super) enum Fault {
    #[error("the checksum is wrong")]
    Checksum,
    #[error("this is no record of this store")]
    Foreign,
    #[error("the record should have {len} bytes, and the file has {size} with its header of {HEADER_LEN}")]
    Length { len: u64, size: u64 },
    /// Not damaged: it waits for the program that wrote it.
    #[error("the form has version {0}, and this program knows up to {VERSION}")]
    Newer(u32),
    #[error("the file ends within its header of {HEADER_LEN} bytes")]
    Short,
}

fn checksum(len: u64, key: &[u8], record: &[u8]) -> u32 {
    let key_len = key.len() as u64;
    let parts: [&[u8]; 5] = [&VERSION.to_be_bytes(), &len.to_be_bytes(), &key_len.to_be_bytes(), key, record];
    !parts.iter().fold(!0, |crc, part| crc32(crc, part))
}

/// The reversed polynomial of CRC-32.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// What each byte does to the checksum.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ POLYNOMIAL };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Goes on with a checksum; begins with all ones, and the end is inverted.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Reads a whole file, as the store does.
    fn decode(file: &[u8], key: &[u8]) -> Result<Vec<u8>, Fault> {
        let (header, record) = file.split_first_chunk().ok_or(Fault::Short)?;
        let header = Header::decode(header, file.len() as u64)?;
        header.check(key, record)?;
        Ok(record.to_vec())
    }

    fn encode(key: &[u8], record: &[u8]) -> Vec<u8> {
        [&Header::new(key, record).encode()[..], record].concat()
    }

    #[test]
    fn the_form_stays() {
        let file = encode(b"key", b"record");
        let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5452425245435244000000011c397e5b00000000000000067265636f7264");
    }

    #[test]
    fn versions_are_told_from_damage() {
        let mut file = encode(b"key", b"record");
        file[11] = 2;
        assert_eq!(decode(&file, b"key"), Err(Fault::Newer(2)));
        file[11] = 0;
        assert_eq!(decode(&file, b"key"), Err(Fault::Foreign));
        assert_eq!(decode(&[0; 100], b"key"), Err(Fault::Foreign));
        assert_eq!(decode(b"", b"key"), Err(Fault::Short));
    }

    #[test]
    fn a_length_beyond_all_files_is_a_fault() {
        let mut file = encode(b"key", b"record");
        file[16..24].fill(0xff);
        assert_eq!(decode(&file, b"key"), Err(Fault::Length { len: u64::MAX, size: 30 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_checksum_is_crc_32(bytes in vec(any::<u8>(), 0..300), at: prop::sample::Index) {
            let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(!crc32(crc32(!0, head), tail), crc32fast::hash(&bytes));
        }

        #[test]
        fn a_record_survives_its_form(key in vec(any::<u8>(), 1..65), record in vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(decode(&encode(&key, &record), &key), Ok(record));
        }

        #[test]
        fn what_is_cut_or_longer_is_a_fault(record in vec(any::<u8>(), 0..100), more in vec(any::<u8>(), 1..50)) {
            let file = encode(b"key", &record);
            for length in 0..file.len() {
                prop_assert!(decode(&file[..length], b"key").is_err(), "{} of {} bytes", length, file.len());
            }
            prop_assert!(decode(&[file, more].concat(), b"key").is_err());
        }

        #[test]
        fn a_changed_byte_is_a_fault(record in vec(any::<u8>(), 0..100), at: prop::sample::Index, flip in 1..=255_u8) {
            let mut file = encode(b"key", &record);
            let at = at.index(file.len());
            file[at] ^= flip;
            prop_assert!(decode(&file, b"key").is_err());
        }

        #[test]
        fn another_key_is_a_fault(key in vec(any::<u8>(), 1..65), other in vec(any::<u8>(), 1..65)) {
            prop_assume!(key != other);
            prop_assert_eq!(decode(&encode(&key, b"record"), &other), Err(Fault::Checksum));
        }

        /// Two different (key, record) pairs whose bytes in a row are the same are told apart.
        #[test]
        fn key_and_record_do_not_run_into_each_other(bytes in vec(any::<u8>(), 2..40), at: prop::sample::Index) {
            let (key, record) = bytes.split_at(1 + at.index(bytes.len() - 1));
            let header = Header::new(key, record);
            prop_assert_eq!(header.check(&key[..key.len() - 1], &bytes[key.len() - 1..]), Err(Fault::Checksum));
        }

        #[test]
        fn junk_does_no_harm(junk in vec(any::<u8>(), 0..200), version in 0..3_u32, len in 0..200_u64) {
            prop_assert!(decode(&junk, b"key").is_err());
            let fields = [&version.to_be_bytes()[..], &[0; 4], &len.to_be_bytes()].concat();
            let _ = decode(&[&MAGIC[..], &fields, &junk].concat(), b"key");
            prop_assert!(decode(&[&MAGIC[..], &junk].concat(), b"key").is_err());
        }

        /// Whatever is understood is what would be written.
        #[test]
        fn a_header_that_is_read_is_written_alike(fields: [u8; 12], size: u64) {
            let mut header = [0; HEADER_LEN];
            header[..8].copy_from_slice(&MAGIC);
            header[8..12].copy_from_slice(&VERSION.to_be_bytes());
            header[12..].copy_from_slice(&fields);
            let len = u64::from_be_bytes(*fields.last_chunk().expect("eight of twelve"));
            for size in [size, len.wrapping_add(HEADER_LEN as u64)] {
                if let Ok(read) = Header::decode(&header, size) {
                    prop_assert_eq!(read.encode(), header);
                    prop_assert_eq!(read.len + HEADER_LEN as u64, size);
                }
            }
        }
    }
}
