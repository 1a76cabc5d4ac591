//! What happened in a run: a number that is the same for the same events, and, when a failure is told, the events themselves.

use std::collections::VecDeque;

use super::super::record::hash_bytes;
use crate::id::mix;

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) hash: u64,
    lines: VecDeque<String>,
    kept: usize,
}

impl Trace {
    /// Keeps the last `kept` events as text.
    pub(super) fn kept(kept: usize) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Numbers that tell one event from another.
    pub(super) fn fold(&mut self, words: &[u64]) {
        self.hash = words.iter().fold(self.hash, |hash, word| mix(hash ^ word).wrapping_add(1));
    }

    pub(super) fn fold_bytes(&mut self, bytes: &[u8]) {
        self.fold(&[hash_bytes(bytes)]);
    }

    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.kept > 0 {
            if self.lines.len() >= self.kept {
                self.lines.pop_front();
            }
            self.lines.push_back(line());
        }
    }

    pub(super) fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
