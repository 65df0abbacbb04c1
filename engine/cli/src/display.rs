//! Progress on stderr: lines, a display that redraws itself, JSON, or nothing.
//!
//! A display is a [`Reporter`]: it gets events from several threads and adds what the engine does not know, the time.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cooper_build::graph::VertexId;
use cooper_build::report::{Event, Finish, Reporter};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::arguments::Progress;

/// Lines of a running step that the terminal display shows.
const SHOWN_LINES: usize = 5;
/// Bytes of such a line.
const SHOWN_BYTES: usize = 160;
/// Time between two looks at the clock of the terminal display.
const TICK: Duration = Duration::from_millis(100);
/// Pause between two plain lines about the same transfer.
const TRANSFER_PAUSE: Duration = Duration::from_secs(5);

/// Makes the display that was asked for.
pub(crate) fn display(progress: Progress, quiet: bool) -> Box<dyn Reporter> {
    let terminal = std::io::stderr().is_terminal();
    match progress {
        _ if quiet => Box::new(cooper_build::report::Silent),
        Progress::Quiet => Box::new(cooper_build::report::Silent),
        Progress::Rawjson => Box::new(Json { started: Instant::now() }),
        Progress::Tty => Box::new(Terminal::new()),
        Progress::Auto if terminal => Box::new(Terminal::new()),
        Progress::Plain | Progress::Auto => Box::new(Plain::default()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is being shown: a vertex, or a phase outside of the graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Vertex(VertexId),
    Phase(String),
}

fn finish_text(how: &Finish) -> &'static str {
    match how {
        Finish::Cached => "CACHED",
        Finish::Done => "DONE",
        Finish::Failed => "ERROR",
        Finish::Cancelled => "CANCELED",
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// A count of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count}B") } else { format!("{value:.1}{}", UNITS[unit]) }
}

fn amount(what: &str, current: u64, total: Option<u64>) -> String {
    let show = |count| if matches!(what, "files" | "layers") { format!("{count}") } else { bytes(count) };
    match total {
        Some(total) => format!("{what} {} / {}", show(current), show(total)),
        None if current == 0 => what.to_owned(),
        None => format!("{what} {}", show(current)),
    }
}

/// Text of a guest for the terminal: without what could move the cursor.
fn harmless(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

// ---- lines

/// Numbered lines, as `docker build --progress plain` has them.
#[derive(Default)]
struct Plain(Mutex<PlainState>);

#[derive(Default)]
struct PlainState {
    names: BTreeMap<VertexId, String>,
    items: BTreeMap<Item, PlainItem>,
    next: usize,
}

struct PlainItem {
    number: usize,
    started: Instant,
    /// The start of a line whose end has not come.
    partial: Vec<u8>,
    transferred: Option<Instant>,
    /// The last line about a transfer: it is not said twice.
    said: String,
}

impl fmt::Debug for Plain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Plain")
    }
}

impl PlainState {
    fn start(&mut self, item: Item, name: &str) {
        self.next += 1;
        let number = self.next;
        crate::complain(&format!("#{number} {name}"));
        let started = Instant::now();
        let item_state =
            PlainItem { number, started, partial: Vec::new(), transferred: None, said: String::new() };
        self.items.insert(item, item_state);
    }

    fn finish(&mut self, item: &Item, how: &Finish) {
        self.flush(item);
        let Some(item) = self.items.remove(item) else { return };
        let time = match how {
            Finish::Done => format!(" {}", seconds(item.started.elapsed())),
            _ => String::new(),
        };
        crate::complain(&format!("#{} {}{time}", item.number, finish_text(how)));
    }

    fn output(&mut self, item: &Item, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(entry) = self.items.get_mut(item) else { return };
            entry.partial.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            if piece.ends_with(b"\n") || entry.partial.len() > 64 << 10 {
                self.line(item);
            }
        }
    }

    fn flush(&mut self, item: &Item) {
        if self.items.get(item).is_some_and(|entry| !entry.partial.is_empty()) {
            self.line(item);
        }
    }

    fn line(&mut self, item: &Item) {
        let Some(entry) = self.items.get_mut(item) else { return };
        let text = harmless(entry.partial.strip_suffix(b"\r").unwrap_or(&entry.partial));
        entry.partial.clear();
        crate::complain(&format!("#{} {:.3} {text}", entry.number, entry.started.elapsed().as_secs_f64()));
    }

    fn transfer(&mut self, item: &Item, what: &str, current: u64, total: Option<u64>) {
        let Some(entry) = self.items.get_mut(item) else { return };
        let complete = total == Some(current) && current > 0;
        let due = entry.transferred.is_none_or(|last| last.elapsed() >= TRANSFER_PAUSE);
        let text = amount(what, current, total);
        if what != "files" && what != "layers" && (complete || due) && entry.said != text {
            entry.transferred = Some(Instant::now());
            crate::complain(&format!("#{} {text}", entry.number));
            entry.said = text;
        }
    }
}

impl Reporter for Plain {
    fn event(&self, event: Event<'_>) {
        let mut state = lock(&self.0);
        match event {
            Event::Planned { vertices } => state.names.extend(vertices.iter().cloned()),
            Event::Started { vertex } => {
                let name = state.names.get(&vertex).cloned().unwrap_or_default();
                state.start(Item::Vertex(vertex), &name);
            }
            Event::Progress { vertex, what, current, total } => {
                state.transfer(&Item::Vertex(vertex), what, current, total);
            }
            Event::Output { vertex, bytes, .. } => state.output(&Item::Vertex(vertex), bytes),
            Event::VertexNote { vertex, text } => {
                let number = state.items.get(&Item::Vertex(vertex)).map_or(0, |item| item.number);
                crate::complain(&format!("#{number} {}", harmless(text.as_bytes())));
            }
            Event::Finished { vertex, how } => state.finish(&Item::Vertex(vertex), &how),
            Event::PhaseStarted { name } => state.start(Item::Phase(name.to_owned()), name),
            Event::PhaseNote { name, text } => {
                let number = state.items.get(&Item::Phase(name.to_owned())).map_or(0, |item| item.number);
                crate::complain(&format!("#{number} {text}"));
            }
            Event::PhaseProgress { name, what, current, total } => {
                state.transfer(&Item::Phase(name.to_owned()), what, current, total);
            }
            Event::PhaseFinished { name, how } => state.finish(&Item::Phase(name.to_owned()), &how),
            Event::Warning { text } => crate::complain(text),
        }
    }
}

// ---- terminal

/// A line for everything that runs, with its last output below, and a line for everything that is done.
struct Terminal {
    bars: MultiProgress,
    state: Mutex<TerminalState>,
}

#[derive(Default)]
struct TerminalState {
    names: BTreeMap<VertexId, String>,
    running: BTreeMap<Item, TerminalItem>,
}

struct TerminalItem {
    bar: ProgressBar,
    name: String,
    started: Instant,
    lines: std::collections::VecDeque<String>,
    partial: Vec<u8>,
    transfers: BTreeMap<String, String>,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Terminal")
    }
}

impl TerminalItem {
    fn redraw(&self) {
        let mut text = self.name.clone();
        for transfer in self.transfers.values().take(SHOWN_LINES) {
            text.push_str("\n    ");
            text.push_str(transfer);
        }
        for line in &self.lines {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        self.bar.set_message(text);
    }

    fn output(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = SHOWN_BYTES.saturating_sub(self.partial.len());
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if piece.ends_with(b"\n") {
                if self.lines.len() == SHOWN_LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(harmless(self.partial.trim_ascii_end()));
                self.partial.clear();
            }
        }
        self.redraw();
    }
}

impl Terminal {
    fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(15));
        Self { bars, state: Mutex::default() }
    }

    fn start(&self, item: Item, name: &str) {
        let bar = self.bars.add(ProgressBar::new_spinner());
        // The template is a constant of ours; a version that cannot read it draws its own.
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {elapsed:>4} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        let item_state = TerminalItem {
            bar,
            name: name.to_owned(),
            started: Instant::now(),
            lines: std::collections::VecDeque::new(),
            partial: Vec::new(),
            transfers: BTreeMap::new(),
        };
        item_state.redraw();
        lock(&self.state).running.insert(item, item_state);
    }

    fn finish(&self, item: &Item, how: &Finish) {
        let Some(done) = lock(&self.state).running.remove(item) else { return };
        done.bar.finish_and_clear();
        self.bars.remove(&done.bar);
        let mark = match how {
            Finish::Cached => "=",
            Finish::Done => "+",
            Finish::Failed => "!",
            Finish::Cancelled => "-",
        };
        let line =
            format!("{mark} {:>6} {} {}", seconds(done.started.elapsed()), finish_text(how), done.name);
        // A terminal that cannot be written to shows nothing; the build goes on.
        drop(self.bars.println(line));
    }

    fn change(&self, item: &Item, change: impl FnOnce(&mut TerminalItem)) {
        if let Some(entry) = lock(&self.state).running.get_mut(item) {
            change(entry);
        }
    }

    fn transfer(&self, item: &Item, what: &str, current: u64, total: Option<u64>) {
        self.change(item, |entry| {
            if total == Some(current) && current > 0 {
                entry.transfers.remove(what);
            } else {
                let bar =
                    total.filter(|total| *total > 0).map_or(String::new(), |total| bar_text(current, total));
                entry.transfers.insert(what.to_owned(), format!("{bar}{}", amount(what, current, total)));
            }
            entry.redraw();
        });
    }
}

fn bar_text(current: u64, total: u64) -> String {
    const WIDTH: u64 = 20;
    let filled = (current.min(total).saturating_mul(WIDTH) / total) as usize;
    format!("[{}{}] ", "=".repeat(filled), " ".repeat(WIDTH as usize - filled))
}

impl Reporter for Terminal {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Planned { vertices } => lock(&self.state).names.extend(vertices.iter().cloned()),
            Event::Started { vertex } => {
                let name = lock(&self.state).names.get(&vertex).cloned().unwrap_or_default();
                self.start(Item::Vertex(vertex), &name);
            }
            Event::Progress { vertex, what, current, total } => {
                self.transfer(&Item::Vertex(vertex), what, current, total);
            }
            Event::Output { vertex, bytes, .. } => {
                self.change(&Item::Vertex(vertex), |entry| entry.output(bytes));
            }
            Event::VertexNote { vertex, text } => {
                self.change(&Item::Vertex(vertex), |entry| entry.output(format!("{text}\n").as_bytes()));
            }
            Event::Finished { vertex, how } => self.finish(&Item::Vertex(vertex), &how),
            Event::PhaseStarted { name } => self.start(Item::Phase(name.to_owned()), name),
            Event::PhaseNote { name, text } => {
                self.change(&Item::Phase(name.to_owned()), |entry| {
                    entry.output(format!("{text}\n").as_bytes());
                });
            }
            Event::PhaseProgress { name, what, current, total } => {
                self.transfer(&Item::Phase(name.to_owned()), what, current, total);
            }
            Event::PhaseFinished { name, how } => self.finish(&Item::Phase(name.to_owned()), &how),
            Event::Warning { text } => drop(self.bars.println(text)),
        }
    }
}

// ---- JSON

/// One object a line, with the milliseconds since the start.
#[derive(Debug)]
struct Json {
    started: Instant,
}

impl Reporter for Json {
    fn event(&self, event: Event<'_>) {
        use serde_json::json;
        let mut value = match event {
            Event::Planned { vertices } => {
                let vertices: Vec<_> =
                    vertices.iter().map(|(id, name)| json!({ "vertex": id.0, "name": name })).collect();
                json!({ "event": "planned", "vertices": vertices })
            }
            Event::Started { vertex } => json!({ "event": "started", "vertex": vertex.0 }),
            Event::Progress { vertex, what, current, total } => {
                json!({ "event": "progress", "vertex": vertex.0, "what": what, "current": current, "total": total })
            }
            Event::Output { vertex, stream, bytes } => {
                let text = String::from_utf8_lossy(bytes);
                json!({ "event": "output", "vertex": vertex.0, "stream": stream, "data": text })
            }
            Event::VertexNote { vertex, text } => {
                json!({ "event": "note", "vertex": vertex.0, "text": harmless(text.as_bytes()) })
            }
            Event::Finished { vertex, how } => {
                json!({ "event": "finished", "vertex": vertex.0, "result": finish_text(&how).to_lowercase() })
            }
            Event::PhaseStarted { name } => json!({ "event": "started", "phase": name }),
            Event::PhaseNote { name, text } => json!({ "event": "note", "phase": name, "text": text }),
            Event::PhaseProgress { name, what, current, total } => {
                json!({ "event": "progress", "phase": name, "what": what, "current": current, "total": total })
            }
            Event::PhaseFinished { name, how } => {
                json!({ "event": "finished", "phase": name, "result": finish_text(&how).to_lowercase() })
            }
            Event::Warning { text } => json!({ "event": "warning", "text": text }),
        };
        value["milliseconds"] = json!(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let mut err = std::io::stderr().lock();
        drop(writeln!(err, "{value}"));
    }
}
