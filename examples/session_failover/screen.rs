//! What is shown: events, one after another; in a terminal, what each member holds is drawn below them again and again.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};

use crate::cluster::Node;
use crate::{NAMES, SESSIONS};

/// Characters of a bar that stands for all sessions.
const BAR: usize = 36;

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
            println!("          owned + backups: {}", held.collect::<Vec<_>>().join(", "));
        }
    }

    pub(crate) fn draw(&mut self, members: &[Node], last: &str) {
        if !stdout().is_terminal() {
            return;
        }
        let mut text = String::from("\n");
        for (Node { state, owned, backups, .. }, name) in members.iter().zip(NAMES) {
            let bar = |of: &str, held: usize| of.repeat((held * BAR).div_ceil(SESSIONS));
            let state = format!("{state:?}").to_lowercase();
            let _ = write!(text, "  {name:6}{state:10}{owned:4} owned {backups:4} backups  ");
            let _ = writeln!(text, "\x1b[32m{}\x1b[36m{}\x1b[0m", bar("█", *owned), bar("░", *backups));
        }
        let _ = writeln!(text, "\n  {last}");
        print!("{}{text}", self.erase());
        let _ = stdout().flush();
        self.drawn = text.lines().count();
    }

    fn erase(&mut self) -> String {
        let up = std::mem::take(&mut self.drawn);
        if up > 0 { format!("\x1b[{up}A\x1b[J") } else { String::new() }
    }
}
