//! Writes JSON objects, as much as this tool needs.

use std::fmt::{Display, Write};

/// One object, field by field.
pub(crate) struct Json(String);

impl Json {
    pub(crate) fn new() -> Self {
        Self("{".to_owned())
    }

    pub(crate) fn event(name: &str) -> Self {
        Self::new().text("event", name)
    }

    /// A string.
    pub(crate) fn text(mut self, key: &str, value: impl Display) -> Self {
        self.key(key);
        self.0.push('"');
        for char in value.to_string().chars() {
            match char {
                '"' | '\\' => self.0.extend(['\\', char]),
                char if char.is_control() => write!(self.0, "\\u{:04x}", u32::from(char)).expect("a string takes all"),
                char => self.0.push(char),
            }
        }
        self.0.push('"');
        self
    }

    /// A number, a boolean, or another value that is JSON already.
    pub(crate) fn value(mut self, key: &str, value: impl Display) -> Self {
        self.key(key);
        write!(self.0, "{value}").expect("a string takes all");
        self
    }

    pub(crate) fn list(self, key: &str, objects: impl IntoIterator<Item = Self>) -> Self {
        let objects: Vec<_> = objects.into_iter().map(Self::end).collect();
        self.value(key, format_args!("[{}]", objects.join(",")))
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn key(&mut self, key: &str) {
        let separator = if self.0.len() > 1 { "," } else { "" };
        write!(self.0, "{separator}\"{key}\":").expect("a string takes all");
    }
}
