//! Printing and parsing agree: what a model of a Dockerfile says is printed in one of the many ways in which it may be
//! written (case of keywords, blanks, continued lines, comments and empty lines in them, line ends), and parsed again.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use cooper_dockerfile::{
    CommandLine, Copy, CopySource, Escape, Healthcheck, Instruction, InstructionKind, KeyValue, RunNetwork,
    Word, parse,
};
use proptest::prelude::*;

/// An instruction as one means it; the parts are texts without blanks, unless they say so.
#[derive(Clone, Debug)]
enum Model {
    Run {
        mounts: Vec<String>,
        no_network: bool,
        command: Command,
    },
    Copy {
        chown: Option<String>,
        chmod: Option<String>,
        from: bool,
        link: bool,
        excludes: Vec<String>,
        paths: Vec<String>,
        json: bool,
    },
    Inline {
        names: Vec<(String, Vec<String>, bool)>,
        destination: String,
    },
    Pairs {
        keyword: &'static str,
        pairs: Vec<(String, String)>,
    },
    Arg(Vec<(String, Option<String>)>),
    Words {
        keyword: &'static str,
        words: Vec<String>,
    },
    Command {
        keyword: &'static str,
        command: Command,
    },
    Healthcheck {
        retries: Option<u32>,
        command: Command,
    },
}

#[derive(Clone, Debug)]
enum Command {
    /// Words with single blanks between.
    Shell(Vec<String>),
    /// Any texts.
    Exec(Vec<String>),
}

fn word() -> impl Strategy<Value = String> {
    "[a-z0-9./_-]{0,3}[a-z0-9._/]"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_]{0,4}"
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        prop::collection::vec("[a-z0-9./$_]{1,5}", 1..5).prop_map(Command::Shell),
        prop::collection::vec("[ -~é\t\n]{0,6}", 1..4).prop_map(Command::Exec),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    let value = "[a-zA-Z0-9./:$_-]{0,6}";
    prop_oneof![
        (prop::collection::vec(name(), 0..3), any::<bool>(), command()).prop_map(
            |(ids, no_network, command)| {
                let mounts = ids.iter().map(|id| format!("type=cache,id={id},target=/{id}")).collect();
                Model::Run { mounts, no_network, command }
            }
        ),
        (
            prop::option::of("[0-9]{1,4}(:[0-9]{1,4})?"),
            prop::option::of("0?[0-7]{3}"),
            (any::<bool>(), any::<bool>(), any::<bool>()),
            prop::collection::vec(name(), 0..3),
            prop::collection::vec(word(), 2..5)
        )
            .prop_map(|(chown, chmod, (from, link, json), excludes, paths)| Model::Copy {
                chown,
                chmod,
                from,
                link,
                excludes,
                paths,
                json
            }),
        (
            prop::collection::vec((name(), prop::collection::vec("[ -~]{0,8}", 0..4), any::<bool>()), 1..3),
            word()
        )
            .prop_map(|(names, destination)| {
                let names = names.into_iter().enumerate().map(|(index, (name, lines, quoted))| {
                    // A line may not be the name, nor seem to be one more instruction's heredoc.
                    let lines = lines.into_iter().map(|line| format!("-{line}")).collect();
                    (format!("{}{index}", name.to_uppercase()), lines, quoted)
                });
                Model::Inline { names: names.collect(), destination: format!("/{destination}/") }
            }),
        (prop::sample::select(vec!["ENV", "LABEL"]), prop::collection::vec((name(), value), 1..4))
            .prop_map(|(keyword, pairs)| Model::Pairs { keyword, pairs }),
        prop::collection::vec((name(), prop::option::of(value)), 1..4).prop_map(Model::Arg),
        (prop::sample::select(vec!["WORKDIR", "USER", "STOPSIGNAL"]), word())
            .prop_map(|(keyword, word)| Model::Words { keyword, words: vec![word] }),
        prop::collection::vec("[0-9]{1,4}(/udp)?", 1..4)
            .prop_map(|words| Model::Words { keyword: "EXPOSE", words }),
        prop::collection::vec(word(), 1..4).prop_map(|words| Model::Words { keyword: "VOLUME", words }),
        (prop::sample::select(vec!["CMD", "ENTRYPOINT"]), command())
            .prop_map(|(keyword, command)| Model::Command { keyword, command }),
        (prop::option::of(1..9u32), command())
            .prop_map(|(retries, command)| Model::Healthcheck { retries, command }),
    ]
}

/// How something is written, decided by numbers that are used one after the other.
struct Writer<'a> {
    text: String,
    choices: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    escape: char,
    line_end: &'static str,
}

impl Writer<'_> {
    fn choose(&mut self, count: usize) -> usize {
        usize::from(*self.choices.next().unwrap()) % count
    }

    fn keyword(&mut self, keyword: &str) {
        let written = match self.choose(3) {
            0 => keyword.to_owned(),
            1 => keyword.to_lowercase(),
            _ => keyword
                .chars()
                .enumerate()
                .map(|(at, c)| if at % 2 == 0 { c } else { c.to_ascii_lowercase() })
                .collect(),
        };
        self.text.push_str(&written);
    }

    /// Between two words: blanks, or the line goes on.
    fn gap(&mut self) {
        let (escape, end) = (self.escape, self.line_end);
        let gap = match self.choose(7) {
            0..3 => " ".to_owned(),
            3 => " \t ".to_owned(),
            4 => format!(" {escape}{end}"),
            5 => format!(" {escape}{end}  # a comment {escape}{end}"),
            _ => format!(" {escape} {end}{end}   "),
        };
        self.text.push_str(&gap);
    }

    fn words(&mut self, words: &[String]) {
        for word in words {
            self.gap();
            self.text.push_str(word);
        }
    }

    fn json(&mut self, words: &[String]) {
        self.gap();
        let shown: Vec<String> = words.iter().map(|word| json_text(word)).collect();
        let separator = [",", ", ", " ,"][self.choose(3)];
        self.text.push_str(&format!("[{}]", shown.join(separator)));
    }

    fn command(&mut self, command: &Command) {
        match command {
            // A blank more would be part of the command.
            Command::Shell(words) => {
                self.gap();
                self.text.push_str(&words.join(" "));
            }
            Command::Exec(words) => self.json(words),
        }
    }

    fn end(&mut self) {
        self.text.push_str(self.line_end);
        match self.choose(4) {
            0 => self.text.push_str(self.line_end),
            1 => self.text.push_str(&format!("  # between{}", self.line_end)),
            _ => {}
        }
    }

    fn instruction(&mut self, model: &Model) {
        let mut after = String::new();
        match model {
            Model::Run { mounts, no_network, command } => {
                self.keyword("RUN");
                let mut flags: Vec<String> = mounts.iter().map(|mount| format!("--mount={mount}")).collect();
                flags.extend(no_network.then(|| "--network=none".to_owned()));
                self.words(&flags);
                self.command(command);
            }
            Model::Copy { chown, chmod, from, link, excludes, paths, json } => {
                self.keyword("COPY");
                let mut flags = Vec::new();
                flags.extend(chown.iter().map(|chown| format!("--chown={chown}")));
                flags.extend(from.then(|| "--from=base".to_owned()));
                flags.extend(link.then(|| "--link".to_owned()));
                flags.extend(excludes.iter().map(|exclude| format!("--exclude={exclude}")));
                flags.extend(chmod.iter().map(|chmod| format!("--chmod={chmod}")));
                self.words(&flags);
                if *json { self.json(paths) } else { self.words(paths) }
            }
            Model::Inline { names, destination } => {
                self.keyword("COPY");
                for (name, lines, quoted) in names {
                    self.gap();
                    self.text.push_str(&if *quoted { format!("<<\"{name}\"") } else { format!("<<{name}") });
                    let body: String = lines.iter().map(|line| format!("{line}{}", self.line_end)).collect();
                    after.push_str(&format!("{body}{name}{}", self.line_end));
                }
                self.words(std::slice::from_ref(destination));
            }
            Model::Pairs { keyword, pairs } => {
                self.keyword(keyword);
                let words: Vec<String> =
                    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
                self.words(&words);
            }
            Model::Arg(declarations) => {
                self.keyword("ARG");
                let show = |(name, default): &(String, Option<String>)| match default {
                    Some(default) => format!("{name}={default}"),
                    None => name.clone(),
                };
                self.words(&declarations.iter().map(show).collect::<Vec<_>>());
            }
            Model::Words { keyword, words } => {
                self.keyword(keyword);
                self.words(words);
            }
            Model::Command { keyword, command } => {
                self.keyword(keyword);
                self.command(command);
            }
            Model::Healthcheck { retries, command } => {
                self.keyword("HEALTHCHECK");
                let flags: Vec<String> =
                    retries.iter().map(|retries| format!("--retries={retries}")).collect();
                self.words(&flags);
                self.gap();
                self.text.push_str("CMD");
                self.command(command);
            }
        }
        if after.is_empty() {
            return self.end();
        }
        self.text.push_str(self.line_end);
        self.text.push_str(&after);
    }
}

fn json_text(word: &str) -> String {
    let mut shown = String::from("\"");
    for character in word.chars() {
        match character {
            '"' => shown.push_str("\\\""),
            '\\' => shown.push_str("\\\\"),
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            character => shown.push(character),
        }
    }
    shown.push('"');
    shown
}

/// One form for both sides.
fn shape_of_model(model: &Model, line_end: &str) -> String {
    let command = |command: &Command| match command {
        Command::Shell(words) => format!("shell {:?}", words.join(" ")),
        Command::Exec(words) => format!("exec {words:?}"),
    };
    match model {
        Model::Run { mounts, no_network, command: run } => {
            format!("RUN {mounts:?} {no_network} {}", command(run))
        }
        Model::Copy { chown, chmod, from, link, excludes, paths, .. } => {
            format!("COPY {chown:?} {chmod:?} {from} {link} {excludes:?} {paths:?}")
        }
        Model::Inline { names, destination } => {
            let shown = names.iter().map(|(name, lines, quoted)| {
                let body: String = lines.iter().map(|line| format!("{line}{line_end}")).collect();
                format!("{name} {} {body:?}", !quoted)
            });
            format!("INLINE {:?} {destination}", shown.collect::<Vec<_>>())
        }
        Model::Pairs { keyword, pairs } => format!("{keyword} {pairs:?}"),
        Model::Arg(declarations) => format!("ARG {declarations:?}"),
        Model::Words { keyword, words } => format!("{keyword} {words:?}"),
        Model::Command { keyword, command: line } => format!("{keyword} {}", command(line)),
        Model::Healthcheck { retries, command: line } => format!("HEALTHCHECK {retries:?} {}", command(line)),
    }
}

fn shape_of_instruction(instruction: &Instruction) -> String {
    let texts = |words: &[Word]| words.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    let text = |word: &Option<Word>| word.as_ref().map(|word| word.text.clone());
    let command = |line: &CommandLine| match line {
        CommandLine::Shell(line) => format!("shell {:?}", line.text),
        CommandLine::Exec(words) => format!("exec {:?}", texts(words)),
    };
    let pairs = |pairs: &[KeyValue]| {
        pairs.iter().map(|pair| (pair.key.text.clone(), pair.value.text.clone())).collect::<Vec<_>>()
    };
    let name = instruction.name();
    match &instruction.kind {
        InstructionKind::Run(run) => {
            let mounts: Vec<String> = run.mounts.iter().map(|mount| mount.value.text.clone()).collect();
            format!("RUN {mounts:?} {} {}", run.network == Some(RunNetwork::None), command(&run.command))
        }
        InstructionKind::Copy(copy) => shape_of_copy(copy),
        InstructionKind::Env(env) => format!("{name} {:?}", pairs(env)),
        InstructionKind::Label(labels) => format!("{name} {:?}", pairs(labels)),
        InstructionKind::Arg(declarations) => {
            let shown: Vec<_> =
                declarations.iter().map(|one| (one.name.text.clone(), text(&one.default))).collect();
            format!("ARG {shown:?}")
        }
        InstructionKind::Workdir(word) | InstructionKind::User(word) | InstructionKind::Stopsignal(word) => {
            format!("{name} {:?}", texts(std::slice::from_ref(word)))
        }
        InstructionKind::Expose(words) | InstructionKind::Volume(words) => {
            format!("{name} {:?}", texts(words))
        }
        InstructionKind::Cmd(line) | InstructionKind::Entrypoint(line) => format!("{name} {}", command(line)),
        InstructionKind::Healthcheck(Healthcheck::Check { command: line, retries, .. }) => {
            format!("HEALTHCHECK {retries:?} {}", command(line))
        }
        other => format!("{other:?}"),
    }
}

fn shape_of_copy(copy: &Copy) -> String {
    let text = |word: &Option<Word>| word.as_ref().map(|word| word.text.clone());
    let mut paths = Vec::new();
    let mut inline = Vec::new();
    for source in &copy.sources {
        match source {
            CopySource::Path(word) => paths.push(word.text.clone()),
            CopySource::Heredoc(heredoc) => {
                inline.push(format!("{} {} {:?}", heredoc.name, heredoc.expand, heredoc.content));
            }
        }
    }
    if !inline.is_empty() {
        return format!("INLINE {inline:?} {}", copy.destination.text);
    }
    paths.push(copy.destination.text.clone());
    let excludes: Vec<String> = copy.excludes.iter().map(|word| word.text.clone()).collect();
    let (chown, chmod) = (text(&copy.chown), text(&copy.chmod));
    format!("COPY {chown:?} {chmod:?} {} {} {excludes:?} {paths:?}", copy.from.is_some(), copy.link)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_parsed(
        models in prop::collection::vec(model(), 1..8),
        choices in prop::collection::vec(any::<u8>(), 8..64),
        backtick in any::<bool>(),
        crlf in any::<bool>(),
    ) {
        let escape = if backtick { '`' } else { '\\' };
        let line_end = if crlf { "\r\n" } else { "\n" };
        let mut writer = Writer { text: String::new(), choices: choices.iter().cycle(), escape, line_end };
        if backtick {
            writer.text.push_str("# escape=`");
            writer.text.push_str(line_end);
        }
        writer.text.push_str(&format!("FROM scratch AS base{line_end}FROM scratch{line_end}"));
        for model in &models {
            writer.instruction(model);
        }
        let file = parse(writer.text.as_bytes());
        prop_assert!(!file.has_errors(), "{}\n{:?}", writer.text, file.diagnostics);
        prop_assert_eq!(file.directives.escape == Escape::Backtick, backtick);
        let found: Vec<String> = file.stages[1].instructions.iter().map(shape_of_instruction).collect();
        // Heredocs end their lines as the file does, or with a line feed alone.
        let wanted: Vec<String> = models.iter().map(|model| shape_of_model(model, line_end)).collect();
        prop_assert_eq!(found, wanted, "{}", writer.text);
    }
}
