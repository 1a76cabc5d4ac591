//! What is shown: events, one after another; in a terminal, what each member holds is drawn below them again and again.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};

use crate::cluster::Node;
use crate::{NAMES, SESSIONS};

/// Characters of a bar that stands for all sessions: one of two members, with half of all as owner and half as backup, fills it.
const BAR: usize = 36;

const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

#[derive(Default)]
pub(crate) struct Screen {
    /// Lines below the last event.
    drawn: usize,
}

impl Screen {
    /// Adds an event. Where nothing can be drawn anew, what is held is said with it.
    pub(crate) fn tell(&mut self, event: &str, members: &[Node]) {
        println!("{}{event}", self.erase());
        if !stdout().is_terminal() {
            let held = members.iter().zip(NAMES).map(|(member, name)| format!("{name} {} + {}", member.owned, member.backups));
            println!("            held, owned + backups: {}", held.collect::<Vec<_>>().join(", "));
        }
    }

    pub(crate) fn draw(&mut self, members: &[Node], last: &str) {
        if !stdout().is_terminal() {
            return;
        }
        let mut text = String::from("\n");
        for (Node { state, owned, backups, .. }, name) in members.iter().zip(NAMES) {
            // No line is longer than a narrow terminal is wide, whatever a member holds for a moment.
            let length = |held: usize, most: usize| (held * BAR).div_ceil(SESSIONS).min(most);
            let green = length(*owned, BAR);
            let (owner, backup) = ("█".repeat(green), "░".repeat(length(*backups, BAR - green)));
            let state = format!("{state:?}").to_lowercase();
            let _ = write!(text, "  {name:6}{state:9}{GREEN}{owned:4} owned {CYAN}{backups:4} backups  ");
            let _ = writeln!(text, "{GREEN}{owner}{CYAN}{backup}{PLAIN}");
        }
        let _ = writeln!(text, "\n  {last}");
        print!("{}{text}", self.erase());
        let _ = stdout().flush();
        self.drawn = text.lines().count();
    }

    /// Green, where there are colours.
    pub(crate) fn green(&self, text: &str) -> String {
        if stdout().is_terminal() { format!("{GREEN}{text}{PLAIN}") } else { text.to_owned() }
    }

    fn erase(&mut self) -> String {
        let up = std::mem::take(&mut self.drawn);
        if up > 0 { format!("\x1b[{up}A\x1b[J") } else { String::new() }
    }
}
