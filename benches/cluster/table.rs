//! Rows of figures, what they should be, and how they are printed: for a terminal, and as Markdown for `docs/BENCHMARKS.md`.
//! Each benchmark has a `Side` of its own: the columns.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use crate::side::Side;

/// What ours has to reach.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    bound: f64,
    at_least: bool,
    /// The side whose figure of the same round the bound is a multiple of; none where the bound stands for itself.
    of: Option<Side>,
}

impl Target {
    pub(crate) const fn most(bound: f64, of: Side) -> Self {
        Self { bound, at_least: false, of: Some(of) }
    }

    pub(crate) const fn least(bound: f64, of: Side) -> Self {
        Self { bound, at_least: true, of: Some(of) }
    }

    pub(crate) const fn below(bound: f64) -> Self {
        Self { bound, at_least: false, of: None }
    }
}

/// How a figure is written.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Micros,
    Seconds,
    Rate,
    Percent,
    Mebibytes,
    Bytes,
    Nanos,
    Number,
    /// A number that need not be whole.
    Fraction,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Micros => format!("{value:.1} µs"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Rate if value >= 999_500.0 => format!("{:.2}M", value / 1e6),
            Self::Rate if value >= 9_995.0 => format!("{:.1}k", value / 1e3),
            Self::Rate => format!("{value:.0}"),
            Self::Percent => format!("{value:.3} %"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Bytes => format!("{value:.0} B"),
            Self::Nanos => format!("{value:.0} ns"),
            Self::Number => format!("{value:.0}"),
            Self::Fraction => format!("{value:.2}"),
        }
    }
}

/// One measure of one case: the figures of all sides, round by round.
pub(crate) struct Row {
    case: &'static str,
    title: String,
    unit: Unit,
    targets: &'static [Target],
    figures: [Vec<f64>; Side::ALL.len()],
}

impl Row {
    pub(crate) fn new(case: &'static str, title: impl Into<String>, unit: Unit, targets: &'static [Target]) -> Self {
        Self { case, title: title.into(), unit, targets, figures: Default::default() }
    }

    pub(crate) fn add(&mut self, side: Side, figure: f64) {
        self.figures[side as usize].push(figure);
    }

    fn cell(&self, side: Side) -> String {
        Spread::of(self.figures[side as usize].clone()).map_or_else(|| "–".to_owned(), |spread| self.unit.write(spread.median))
    }

    /// Ours over another side, within each round.
    fn ratio(&self, other: Side) -> Option<Spread> {
        let [ours, other] = [Side::Ours, other].map(|side| &self.figures[side as usize]);
        Spread::of(ours.iter().zip(other).map(|(ours, other)| ours / other).collect())
    }

    fn verdict(&self, target: &Target) -> String {
        let sign = if target.at_least { '≥' } else { '≤' };
        let (bound, reached) = match target.of {
            None => (self.unit.write(target.bound), Spread::of(self.figures[Side::Ours as usize].clone())),
            // A small bound reads better as a fraction.
            Some(of) if target.bound < 0.1 => (format!("1/{:.0} × {}", 1.0 / target.bound, of.title()), self.ratio(of)),
            Some(of) => (format!("{} × {}", target.bound, of.title()), self.ratio(of)),
        };
        let word = match reached {
            None => "not measured",
            Some(spread) if (spread.median >= target.bound) == target.at_least || spread.median == target.bound => "met",
            Some(_) => "**missed**",
        };
        format!("{sign} {bound}: {word}")
    }

    fn cells(&self) -> Vec<String> {
        let ratio = |other| self.ratio(other).map_or_else(|| "–".to_owned(), Spread::write);
        let verdicts: Vec<_> = self.targets.iter().map(|target| self.verdict(target)).collect();
        let mut cells = vec![self.case.to_owned(), self.title.clone()];
        cells.extend(Side::ALL.map(|side| self.cell(side)));
        cells.extend(Side::COMPARED.map(ratio));
        cells.push(verdicts.join("; "));
        cells
    }
}

/// Median, smallest and largest of some figures.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.retain(|figure| figure.is_finite());
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) };
        Some(Self { median, least, most })
    }

    fn write(self) -> String {
        let digits = if self.most < 0.1 { 3 } else { 2 };
        format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}

/// Those before the figures: which case, and what of it.
const LABELS: usize = 2;

fn head() -> Vec<String> {
    let mut head = ["case", "what"].map(str::to_owned).to_vec();
    head.extend(Side::ALL.map(|side| side.title().to_owned()));
    head.extend(Side::COMPARED.map(|side| format!("ours ÷ {} (min to max)", side.title())));
    head.push("target".to_owned());
    head
}

/// The table with its columns in line.
pub(crate) fn text(rows: &[Row]) -> String {
    let lines: Vec<_> = [head()].into_iter().chain(rows.iter().map(Row::cells)).collect();
    let widths: Vec<_> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut out = String::new();
    for line in &lines {
        for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let gap = " ".repeat(width - cell.chars().count());
            let (before, after) =
                if (LABELS..LABELS + Side::ALL.len()).contains(&index) { (gap.as_str(), "") } else { ("", gap.as_str()) };
            let _ = write!(out, "{before}{cell}{after}  ");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out.replace("**", "")
}

/// The same in Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let head = head();
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let cells = row.cells();
        let _ = writeln!(out, "| `{}` | {} |", cells[0], cells[1..].join(" | "));
    }
    out
}

/// Where the figures were taken.
pub(crate) fn machine(rounds: usize, pinned: &str) -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("processor unknown", |(_, model)| model.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!(
        "{processors} × {model}, Linux {}, {}, Java: {}; rounds: {rounds}, processors {pinned}, load at the end {load}",
        kernel.trim(),
        first_line("rustc", "--version"),
        first_line("java", "-version"),
    )
}

/// Java tells its version on standard error.
fn first_line(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("none").to_owned()
}
