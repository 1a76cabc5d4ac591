//! Every target on the golden corpus, on inputs that once failed, and on random changes of both: no nightly compiler needed.
//!
//! `TRIBES_SEED` sets the seed of the changes; a failure prints target, seed and input.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use tribes_fuzz::TARGETS;

const CHANGES: u64 = 4000;

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % u64::try_from(bound.max(1)).unwrap()) as usize
    }
}

/// What the real Tribes was seen to write; and the bare files under `fuzz/regressions`, each an input that once failed.
fn inputs() -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut inputs: Vec<Vec<u8>> = files(&here.join("../tests/wire_corpus"))
        .iter()
        .map(|text| {
            let text = std::str::from_utf8(text).unwrap();
            let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
        })
        .collect();
    assert!(!inputs.is_empty());
    inputs.extend(files(&here.join("regressions")));
    inputs.push(Vec::new());
    inputs
}

fn files(directory: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One of the inputs or several in a row, with a few bytes changed, taken out or put in.
fn changed(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    // The first bytes are knobs of the stream targets.
    let mut bytes: Vec<u8> = (0..random.below(3)).map(|_| random.next() as u8).collect();
    for _ in 0..=random.below(3) {
        bytes.extend(&inputs[random.below(inputs.len())]);
    }
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            1 if !bytes.is_empty() => drop(bytes.remove(at)),
            2 => bytes.insert(at, [0, 0x7f, 0x80, 0xff][random.below(4)]),
            _ => bytes.truncate(bytes.len() - random.below(bytes.len() / 4 + 1)),
        }
    }
    bytes
}

#[test]
fn every_target_takes_anything() {
    let seed = std::env::var("TRIBES_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let inputs = inputs();
    for (name, target) in TARGETS {
        let mut random = Random(seed);
        for round in 0..inputs.len() as u64 + CHANGES {
            let input = match inputs.get(round as usize) {
                Some(input) => input.clone(),
                None => changed(&inputs, &mut random),
            };
            let outcome = catch_unwind(|| target(&input));
            assert!(outcome.is_ok(), "{name} failed, seed {seed}, input {input:02x?}");
        }
    }
}
