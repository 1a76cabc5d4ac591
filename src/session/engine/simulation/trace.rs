//! What happened in a run: a number that is the same for the same events, and, when a failure is told, the events themselves.

use std::collections::VecDeque;

use super::super::record::hash_bytes;
use crate::id::mix;

/// Events that are kept.
const KEPT: usize = 4000;

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) hash: u64,
    lines: Option<VecDeque<String>>,
}

impl Trace {
    pub(super) fn kept() -> Self {
        Self { hash: 0, lines: Some(VecDeque::new()) }
    }

    /// Numbers that tell one event from another.
    pub(super) fn fold(&mut self, words: &[u64]) {
        self.hash = words.iter().fold(self.hash, |hash, word| mix(hash ^ word).wrapping_add(1));
    }

    pub(super) fn fold_bytes(&mut self, bytes: &[u8]) {
        self.fold(&[hash_bytes(bytes)]);
    }

    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            if lines.len() >= KEPT {
                lines.pop_front();
            }
            lines.push_back(line());
        }
    }

    pub(super) fn text(&self) -> String {
        self.lines.iter().flatten().map(|line| format!("{line}\n")).collect()
    }
}
