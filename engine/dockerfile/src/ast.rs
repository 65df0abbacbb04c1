//! The typed instructions. Words are raw: `build` expands them with the environment of their place.

use std::time::Duration;

use crate::diagnostic::{Diagnostic, Severity};
use crate::mount::MountFlag;
use crate::span::{Span, Word};

/// A parsed file. It exists for every input; `diagnostics` says what is wrong with it.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    /// The source as text. Bytes that are not UTF-8 are replaced by U+FFFD; all spans point into this.
    pub text: String,
    /// The parser directives at the top.
    pub directives: Directives,
    /// The `ARG` instructions before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// The stages in order. An instruction with an error is not in them.
    pub stages: Vec<Stage>,
    /// Errors and warnings, ordered by place.
    pub diagnostics: Vec<Diagnostic>,
}

impl Dockerfile {
    /// True when a diagnostic is an error, that is, when the file must not be built.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The errors only.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Index of the stage that `--target` or `COPY --from` names: by name (any case; the last of that name wins),
    /// else by number. Only the first `before` stages count; pass `stages.len()` for a target.
    pub fn stage_index(&self, name: &str, before: usize) -> Option<usize> {
        let known = &self.stages[..before.min(self.stages.len())];
        known
            .iter()
            .rposition(|stage| stage.name().is_some_and(|own| own.eq_ignore_ascii_case(name)))
            .or_else(|| name.parse::<usize>().ok().filter(|index| *index < known.len()))
    }

    /// Index of the stage that a `FROM` names. Unlike [`stage_index`](Self::stage_index) a number is not a stage.
    pub fn base_stage_index(&self, name: &str, before: usize) -> Option<usize> {
        let known = &self.stages[..before.min(self.stages.len())];
        known.iter().rposition(|stage| stage.name().is_some_and(|own| own.eq_ignore_ascii_case(name)))
    }

    /// The stage name that looks most like `name`, for a "did you mean" hint.
    pub fn suggest_stage(&self, name: &str) -> Option<&str> {
        crate::suggest::closest(name, self.stages.iter().filter_map(Stage::name))
    }

    /// 1-based line and column (in characters) of a byte offset.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let before = &self.text.as_bytes()[..offset];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }
}

/// The escape character, set by `# escape=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escape {
    /// `\`, the default.
    #[default]
    Backslash,
    /// `` ` ``
    Backtick,
}

impl Escape {
    /// The character.
    pub fn char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }
}

/// What the comment lines at the top of the file say to the parser.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the frontend image, as written.
    pub syntax: Option<Word>,
    /// `# escape=`
    pub escape: Escape,
    /// `# check=`
    pub check: Check,
}

/// The value of `# check=`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// `skip=all`
    pub skip_all: bool,
    /// `skip=RuleA,RuleB`
    pub skip: Vec<String>,
    /// `error=true`: lint warnings fail the build.
    pub error: bool,
    /// `experimental=all`
    pub experimental_all: bool,
    /// `experimental=RuleA,RuleB`
    pub experimental: Vec<String>,
}

/// A `FROM` and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The `FROM` instruction.
    pub from: From,
    /// The other instructions, in order.
    pub instructions: Vec<Instruction>,
    /// From the `FROM` keyword to the end of the last instruction.
    pub span: Span,
}

impl Stage {
    /// The name after `AS`, as written. Compare without regard to case.
    pub fn name(&self) -> Option<&str> {
        self.from.alias.as_ref().map(|alias| alias.text.as_str())
    }
}

/// `FROM [--platform=P] IMAGE [AS NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Image, stage name or `scratch`.
    pub image: Word,
    /// Value of `--platform`.
    pub platform: Option<Word>,
    /// The `AS` before the name, as written.
    pub as_keyword: Option<Word>,
    /// Stage name as written.
    pub alias: Option<Word>,
    /// The keyword as written.
    pub keyword: Word,
    /// The logical line.
    pub source_code: String,
    /// The whole instruction.
    pub span: Span,
}

/// One instruction other than `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What it says.
    pub kind: InstructionKind,
    /// The keyword as written.
    pub keyword: Word,
    /// The logical line: continuations joined, comments inside dropped, heredoc bodies not included.
    pub source_code: String,
    /// From the keyword to the end, heredoc bodies included.
    pub span: Span,
}

impl Instruction {
    /// The keyword in upper case.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }
}

/// The instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Vec<ArgDeclaration>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<KeyValue>),
    /// `EXPOSE`
    Expose(Vec<Word>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<KeyValue>),
    /// `MAINTAINER`
    Maintainer(Word),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<Word>),
    /// `STOPSIGNAL`
    Stopsignal(Word),
    /// `USER`
    User(Word),
    /// `VOLUME`
    Volume(Vec<Word>),
    /// `WORKDIR`
    Workdir(Word),
}

impl InstructionKind {
    /// The keyword in upper case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// A command in shell form or exec (JSON) form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// For the shell of the stage. May be empty for `CMD` and `ENTRYPOINT`.
    Shell(Word),
    /// The arguments, decoded. May be empty.
    Exec(Vec<Word>),
}

/// `NAME=VALUE` of `ENV` and `LABEL`. Both sides are expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The name, raw.
    pub key: Word,
    /// The value, raw.
    pub value: Word,
    /// True for the old form `ENV NAME VALUE`.
    pub legacy: bool,
}

/// `NAME[=DEFAULT]` of `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// The name, raw.
    pub name: Word,
    /// The default, raw.
    pub default: Option<Word>,
}

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command as on the instruction's own line.
    pub command: CommandLine,
    /// The heredoc bodies, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, repeatable.
    pub mounts: Vec<MountFlag>,
    /// `--network`
    pub network: Option<RunNetwork>,
    /// `--security`
    pub security: Option<RunSecurity>,
    /// `--device`, repeatable: the raw values.
    pub devices: Vec<Word>,
}

/// What a `RUN` gives to the system, heredocs taken into account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunCommand {
    /// An argument vector, run as it is.
    Exec(Vec<String>),
    /// A script for the shell of the stage.
    Shell(String),
    /// A file whose first line is `#!`; the step executes it. `name` is the heredoc's.
    Script {
        /// The name of the heredoc.
        name: String,
        /// The file's content.
        content: String,
    },
}

impl Run {
    /// What is to be run. A line that is nothing but one heredoc is a script of its own; other heredocs go to the
    /// shell together with the line.
    pub fn to_command(&self) -> RunCommand {
        let line = match &self.command {
            CommandLine::Exec(arguments) => {
                return RunCommand::Exec(arguments.iter().map(|argument| argument.text.clone()).collect());
            }
            CommandLine::Shell(line) => line,
        };
        let Some(first) = self.heredocs.first() else {
            return RunCommand::Shell(line.text.clone());
        };
        if crate::heredoc::is_single_heredoc(&line.text) {
            if first.content.starts_with("#!") {
                return RunCommand::Script { name: first.name.clone(), content: first.to_text() };
            }
            return RunCommand::Shell(first.to_text());
        }
        let mut script = line.text.clone();
        for heredoc in &self.heredocs {
            script.push('\n');
            script.push_str(&heredoc.content);
            script.push_str(&heredoc.name);
        }
        RunCommand::Shell(script)
    }
}

/// Value of `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNetwork {
    /// The network of the build.
    Default,
    /// Loopback only.
    None,
    /// The host's network; needs an entitlement.
    Host,
}

/// Value of `RUN --security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunSecurity {
    /// The usual sandbox.
    Sandbox,
    /// Without the sandbox; needs an entitlement.
    Insecure,
}

/// `COPY`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// At least one.
    pub sources: Vec<CopySource>,
    /// The last argument.
    pub destination: Word,
    /// `--from`: stage, image or named context. Never holds a variable.
    pub from: Option<Word>,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`, repeatable.
    pub excludes: Vec<Word>,
}

/// `ADD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// At least one.
    pub sources: Vec<CopySource>,
    /// The last argument.
    pub destination: Word,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--checksum`
    pub checksum: Option<Word>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `--unpack`
    pub unpack: Option<bool>,
    /// `--exclude`, repeatable.
    pub excludes: Vec<Word>,
}

/// A source of `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path, wildcard or (for `ADD`) URL; raw.
    Path(Word),
    /// A file given in place; its name is the heredoc's name.
    Heredoc(Heredoc),
}

/// A heredoc of `RUN`, `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter, without quotes.
    pub name: String,
    /// The lines up to the delimiter, as they stand in the file.
    pub content: String,
    /// False when a part of the delimiter was quoted: then variables stay as they are.
    pub expand: bool,
    /// `<<-`: leading tabs go away.
    pub strip_tabs: bool,
    /// The number before `<<`; 0 when there is none.
    pub file_descriptor: u32,
    /// The lines of the content.
    pub span: Span,
}

impl Heredoc {
    /// The content with leading tabs removed when `<<-` was used.
    pub fn to_text(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// `ONBUILD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The instruction to run in the build of a child image.
    pub trigger: Box<Instruction>,
    /// Its text with heredoc bodies, as the image config stores it.
    pub expression: String,
}

/// `HEALTHCHECK`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`
    None,
    /// `HEALTHCHECK [OPTIONS] CMD …`
    Check {
        /// The probe.
        command: CommandLine,
        /// `--interval`; `None` or zero inherits.
        interval: Option<Duration>,
        /// `--timeout`
        timeout: Option<Duration>,
        /// `--start-period`
        start_period: Option<Duration>,
        /// `--start-interval`
        start_interval: Option<Duration>,
        /// `--retries`
        retries: Option<u32>,
    },
}
