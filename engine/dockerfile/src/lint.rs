//! What only the whole file can show: stages that need themselves, and the lint rules of the Dockerfile reference.
//!
//! A rule that needs the base image or the context is named here, and reported by whoever has them.

use std::collections::BTreeMap;

use crate::ast::{Check, CommandLine, Copy, Dockerfile, From, Instruction, InstructionKind, KeyValue, Stage};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::expand::Expander;
use crate::parser::MAX_DIAGNOSTICS;
use crate::span::{Span, Word};

/// Longer values of global arguments are taken as unknown, in bytes.
const MAX_VALUE_BYTES: usize = 4096;
/// Steps of pattern matching in one value.
const MAX_VALUE_STEPS: usize = 100_000;
/// Later global arguments are taken as unknown.
const MAX_GLOBAL_ARGUMENTS: usize = 1000;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A lint rule, by the name that `# check=skip=` uses.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The rule's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

rules! {
    /// Stage names should be in lower case.
    StageNameCasing,
    /// `FROM` and `AS` should be in the same case.
    FromAsCasing,
    /// A continued line is followed by an empty one.
    NoEmptyContinuation,
    /// Instructions should be all in upper or all in lower case.
    ConsistentInstructionCasing,
    /// Two stages have one name.
    DuplicateStageName,
    /// `scratch` and `context` cannot be stage names.
    ReservedStageName,
    /// Signals do not reach a program that a shell starts.
    JSONArgsRecommended,
    /// `MAINTAINER` is deprecated.
    MaintainerDeprecated,
    /// A variable in `FROM` that no global `ARG` declares.
    UndefinedArgInFrom,
    /// A relative `WORKDIR` without a base.
    WorkdirRelativePath,
    /// A variable that nothing sets; needs the image's environment.
    UndefinedVar,
    /// Only the last `CMD`, `ENTRYPOINT` or `HEALTHCHECK` of a stage counts.
    MultipleInstructionsDisallowed,
    /// `ENV NAME VALUE` instead of `ENV NAME=VALUE`.
    LegacyKeyValueFormat,
    /// The base image is for another platform; needs the image.
    InvalidBaseImagePlatform,
    /// `FROM --platform=$TARGETPLATFORM` is the default.
    RedundantTargetPlatform,
    /// A name that looks like a secret.
    SecretsUsedInArgOrEnv,
    /// A base image name that is empty or broken with the default arguments.
    InvalidDefaultArgInFrom,
    /// `FROM --platform` with a constant.
    FromPlatformFlagConstDisallowed,
    /// A source of `COPY` that the ignore file leaves out; needs the context.
    CopyIgnoredFile,
    /// The comment before an `ARG` or `FROM` does not begin with its name; only with `# check=experimental=`.
    InvalidDefinitionDescription,
    /// The protocol of `EXPOSE` should be in lower case.
    ExposeProtoCasing,
    /// `EXPOSE` takes no address and no host port.
    ExposeInvalidFormat,
}

/// Adds what the whole file shows; applies `# check=`.
pub(crate) fn check(dockerfile: &mut Dockerfile) {
    let mut findings = Findings(Vec::new());
    let names = StageNames::new(&dockerfile.stages);
    circular_stages(dockerfile, &names, &mut findings);
    instruction_casing(dockerfile, &mut findings);
    descriptions(dockerfile, &mut findings);
    stage_names(&dockerfile.stages, &mut findings);
    base_images(dockerfile, &mut findings);
    let mut seen: Vec<StageFacts> = Vec::new();
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        let base = names.before(&stage.from.image.text, index);
        let inherited = base.and_then(|base| seen.get(base)).copied().unwrap_or_default();
        seen.push(check_stage(stage, inherited, &mut findings));
    }
    for arguments in &dockerfile.global_args {
        secrets(arguments, &mut findings);
    }
    dockerfile.diagnostics.append(&mut findings.0);
    let check = &dockerfile.directives.check;
    dockerfile.diagnostics.retain(|diagnostic| match diagnostic.code {
        Code::Lint(rule) => check.wants(rule),
        _ => true,
    });
    if check.error {
        for diagnostic in &mut dockerfile.diagnostics {
            if matches!(diagnostic.code, Code::Lint(_)) {
                diagnostic.severity = Severity::Error;
            }
        }
    }
}

/// A comment that ends right before an `ARG` or a named `FROM` describes it, and begins with its name.
fn descriptions(dockerfile: &Dockerfile, findings: &mut Findings) {
    if !dockerfile.directives.check.wants(Rule::InvalidDefinitionDescription) {
        return;
    }
    let mut definitions: Vec<(Span, Vec<&str>)> = Vec::new();
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    for instruction in dockerfile.global_args.iter().chain(instructions) {
        if let InstructionKind::Arg(declarations) = &instruction.kind {
            let names = declarations.iter().map(|declaration| declaration.name.text.as_str()).collect();
            definitions.push((instruction.keyword.span, names));
        }
    }
    for stage in &dockerfile.stages {
        definitions.extend(stage.name().map(|name| (stage.from.keyword.span, vec![name])));
    }
    for (span, names) in definitions {
        let before = &dockerfile.text[..span.start];
        let Some(line) =
            before.trim_end_matches([' ', '\t']).strip_suffix('\n').and_then(|text| text.rsplit('\n').next())
        else {
            continue;
        };
        let Some(comment) = line.trim().strip_prefix('#') else { continue };
        if let Some(first) = comment.split_whitespace().next().filter(|first| !names.contains(first)) {
            findings.push(
                warning(
                    Rule::InvalidDefinitionDescription,
                    format!("the comment before this describes `{first}`"),
                    span,
                )
                .hint("begin the comment with the name it describes, or put an empty line after it"),
            );
        }
    }
}

/// Reports `COPY --from=` with the number of a stage that is not there.
fn unknown_numbers(stages: &[Stage], findings: &mut Findings) {
    for instruction in stages.iter().flat_map(|stage| &stage.instructions) {
        let InstructionKind::Copy(Copy { from: Some(from), .. }) = &instruction.kind else { continue };
        let is_number = !from.text.is_empty() && from.text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && from.text.parse().ok().is_none_or(|number: usize| number >= stages.len()) {
            findings.push(
                Diagnostic::error(
                    Code::UnknownStage,
                    format!("there is no stage number {}", from.text),
                    from.span,
                )
                .hint(format!("the stages have the numbers 0 to {}", stages.len() - 1)),
            );
        }
    }
}

/// What was found; it stops growing at the limit.
struct Findings(Vec<Diagnostic>);

impl Findings {
    fn push(&mut self, diagnostic: Diagnostic) {
        if !self.is_full() {
            self.0.push(diagnostic);
        }
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MAX_DIAGNOSTICS
    }
}

/// The stages by name in lower case, in order.
struct StageNames(BTreeMap<String, Vec<usize>>);

impl StageNames {
    fn new(stages: &[Stage]) -> Self {
        let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, stage) in stages.iter().enumerate() {
            if let Some(name) = stage.name() {
                names.entry(name.to_ascii_lowercase()).or_default().push(index);
            }
        }
        Self(names)
    }

    /// The last stage of that name before the stage `limit`.
    fn before(&self, name: &str, limit: usize) -> Option<usize> {
        let stages = self.0.get(&name.to_ascii_lowercase())?;
        let end = stages.partition_point(|index| *index < limit);
        end.checked_sub(1).map(|last| stages[last])
    }
}

fn warning(rule: Rule, message: impl Into<String>, span: Span) -> Diagnostic {
    Diagnostic::warning(Code::Lint(rule), message, span)
}

impl Check {
    /// True when a rule is to be reported.
    pub fn wants(&self, rule: Rule) -> bool {
        let has = |names: &[String]| names.iter().any(|name| name == rule.name());
        let is_on =
            rule != Rule::InvalidDefinitionDescription || self.experimental_all || has(&self.experimental);
        is_on && !self.skip_all && !has(&self.skip)
    }
}

/// The warning for a variable of `word` that nothing sets, for whoever knows the environment. `known` are the names
/// that are set, for a suggestion.
pub fn undefined_variable<'a>(word: &Word, name: &str, known: impl Iterator<Item = &'a str>) -> Diagnostic {
    warning(Rule::UndefinedVar, format!("nothing sets the variable `{name}`"), word.span)
        .did_you_mean(crate::suggest::closest(name, known))
}

/// What a stage hands on to the stages that are FROM it.
#[derive(Clone, Copy, Default)]
struct StageFacts {
    has_workdir: bool,
    has_shell: bool,
}

fn check_stage(stage: &Stage, inherited: StageFacts, findings: &mut Findings) -> StageFacts {
    let mut facts = inherited;
    let mut last: BTreeMap<&'static str, Span> = BTreeMap::new();
    for instruction in stage.instructions.iter().rev() {
        let single = matches!(
            instruction.kind,
            InstructionKind::Cmd(_) | InstructionKind::Entrypoint(_) | InstructionKind::Healthcheck(_)
        );
        if !single {
            continue;
        }
        let name = instruction.name();
        match last.get(name) {
            Some(later) => findings.push(
                warning(
                    Rule::MultipleInstructionsDisallowed,
                    format!("only the last {name} of a stage counts"),
                    instruction.keyword.span,
                )
                .also(*later, "this one counts"),
            ),
            None => {
                last.insert(name, instruction.keyword.span);
            }
        }
    }
    for instruction in &stage.instructions {
        check_instruction(instruction, &mut facts, findings);
    }
    facts
}

fn check_instruction(instruction: &Instruction, facts: &mut StageFacts, findings: &mut Findings) {
    let name = instruction.name();
    let keyword = instruction.keyword.span;
    match &instruction.kind {
        InstructionKind::Shell(_) => facts.has_shell = true,
        InstructionKind::Cmd(CommandLine::Shell(_)) | InstructionKind::Entrypoint(CommandLine::Shell(_))
            if !facts.has_shell =>
        {
            findings.push(
                warning(
                    Rule::JSONArgsRecommended,
                    format!("{name} in shell form keeps signals from the program"),
                    keyword,
                )
                .hint(format!("write the arguments as a JSON array: `{name} [\"program\", \"argument\"]`")),
            );
        }
        InstructionKind::Maintainer(_) => findings.push(
            warning(Rule::MaintainerDeprecated, "MAINTAINER is deprecated", keyword)
                .hint("use `LABEL org.opencontainers.image.authors=…`"),
        ),
        InstructionKind::Workdir(path) => {
            let is_relative = !path.text.trim_start_matches(['"', '\'']).starts_with(['/', '$']);
            if is_relative && !facts.has_workdir {
                findings.push(
                    warning(
                        Rule::WorkdirRelativePath,
                        "a relative WORKDIR depends on the base image",
                        path.span,
                    )
                    .hint("begin the path with `/`"),
                );
            }
            facts.has_workdir = true;
        }
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            if let Some(KeyValue { key, legacy: true, .. }) = pairs.first() {
                findings.push(
                    warning(
                        Rule::LegacyKeyValueFormat,
                        format!("{name} in the old form without `=`"),
                        keyword.to(key.span),
                    )
                    .hint(format!("write `{name} {}=VALUE`", key.text)),
                );
            }
            secrets(instruction, findings);
        }
        InstructionKind::Arg(_) => secrets(instruction, findings),
        InstructionKind::Expose(ports) => ports.iter().for_each(|port| expose(port, findings)),
        InstructionKind::Onbuild(onbuild) => {
            check_instruction(&onbuild.trigger, &mut facts.clone(), findings);
        }
        _ => {}
    }
}

fn expose(port: &Word, findings: &mut Findings) {
    if port.text.contains('$') {
        return;
    }
    if let Some((_, protocol)) = port.text.split_once('/')
        && protocol.chars().any(|character| character.is_ascii_uppercase())
    {
        findings.push(warning(
            Rule::ExposeProtoCasing,
            format!("the protocol should be in lower case: `{protocol}`"),
            port.span,
        ));
    }
    if port.text.contains(':') {
        findings.push(
            warning(
                Rule::ExposeInvalidFormat,
                format!("EXPOSE takes no address and no host port: `{}`", port.text),
                port.span,
            )
            .hint("write `EXPOSE PORT` or `EXPOSE PORT/PROTOCOL`"),
        );
    }
}

/// Parts of a variable's name that tell of a secret.
const SECRET_WORDS: &[&str] =
    &["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

fn secrets(instruction: &Instruction, findings: &mut Findings) {
    let names: Vec<&Word> = match &instruction.kind {
        InstructionKind::Arg(declarations) => {
            declarations.iter().map(|declaration| &declaration.name).collect()
        }
        InstructionKind::Env(pairs) => pairs.iter().map(|pair| &pair.key).collect(),
        _ => Vec::new(),
    };
    for name in names {
        let lower = name.text.to_ascii_lowercase();
        let has = |wanted: &[&str]| lower.split('_').any(|part| wanted.contains(&part));
        if has(SECRET_WORDS) && !has(&["public"]) {
            findings.push(
                warning(
                    Rule::SecretsUsedInArgOrEnv,
                    format!("{} `{}` would keep a secret in the image", instruction.name(), name.text),
                    name.span,
                )
                .hint("use `RUN --mount=type=secret,id=…`"),
            );
        }
    }
}

fn instruction_casing(dockerfile: &Dockerfile, findings: &mut Findings) {
    let stages = dockerfile.stages.iter().flat_map(|stage| {
        std::iter::once(&stage.from.keyword).chain(stage.instructions.iter().map(|i| &i.keyword))
    });
    let keywords: Vec<&Word> = dockerfile.global_args.iter().map(|i| &i.keyword).chain(stages).collect();
    let lower = keywords.iter().filter(|word| word.text == word.text.to_ascii_lowercase()).count();
    let upper = keywords.iter().filter(|word| word.text == word.text.to_ascii_uppercase()).count();
    for word in keywords {
        let expected =
            if lower > upper { word.text.to_ascii_lowercase() } else { word.text.to_ascii_uppercase() };
        if word.text != expected {
            findings.push(
                warning(
                    Rule::ConsistentInstructionCasing,
                    format!("`{}` is not in the case of the other instructions", word.text),
                    word.span,
                )
                .hint(format!("write `{expected}`")),
            );
        }
    }
}

fn stage_names(stages: &[Stage], findings: &mut Findings) {
    let mut seen: BTreeMap<String, Span> = BTreeMap::new();
    for stage in stages {
        let From { alias: Some(alias), as_keyword: Some(as_keyword), keyword, .. } = &stage.from else {
            continue;
        };
        let lower = alias.text.to_ascii_lowercase();
        if alias.text != lower {
            findings.push(
                warning(
                    Rule::StageNameCasing,
                    format!("the stage name `{}` should be in lower case", alias.text),
                    alias.span,
                )
                .hint(format!("write `{lower}`")),
            );
        }
        let is_upper = |word: &Word| word.text == word.text.to_ascii_uppercase();
        let is_lower = |word: &Word| word.text == word.text.to_ascii_lowercase();
        if (is_upper(keyword) && !is_upper(as_keyword)) || (is_lower(keyword) && !is_lower(as_keyword)) {
            findings.push(warning(
                Rule::FromAsCasing,
                format!("`{}` and `{}` are not in the same case", keyword.text, as_keyword.text),
                as_keyword.span,
            ));
        }
        if matches!(lower.as_str(), "scratch" | "context") {
            findings.push(warning(
                Rule::ReservedStageName,
                format!("the stage name `{}` is reserved", alias.text),
                alias.span,
            ));
        }
        if let Some(first) = seen.insert(lower, alias.span) {
            findings.push(
                warning(
                    Rule::DuplicateStageName,
                    format!("two stages have the name `{}`", alias.text),
                    alias.span,
                )
                .also(first, "first used here"),
            );
        }
    }
}

/// Stands for a value that is not known here.
const UNKNOWN: &str = "unknown";

/// Variables that exist in `FROM` without an `ARG`.
const PLATFORM_ARGUMENTS: &[&str] = &[
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

fn base_images(dockerfile: &Dockerfile, findings: &mut Findings) {
    let expander = Expander::new(dockerfile.directives.escape).limits(MAX_VALUE_BYTES, MAX_VALUE_STEPS);
    let mut defaults: BTreeMap<String, Option<String>> = BTreeMap::new();
    let declarations = dockerfile.global_args.iter().flat_map(|instruction| match &instruction.kind {
        InstructionKind::Arg(declarations) => declarations.as_slice(),
        _ => &[],
    });
    for (count, declaration) in declarations.enumerate() {
        let lookup = |name: &str| value_of(&defaults, name);
        let value = declaration.default.as_ref().map(|default| {
            let expansion = (count < MAX_GLOBAL_ARGUMENTS)
                .then(|| expander.expand(&default.text, &lookup).ok())
                .flatten();
            expansion.map_or_else(|| UNKNOWN.to_owned(), |expansion| expansion.text)
        });
        defaults.insert(declaration.name.text.clone(), value);
    }
    for stage in &dockerfile.stages {
        if findings.is_full() {
            return;
        }
        let From { image, platform, .. } = &stage.from;
        for word in [Some(image), platform.as_ref()].into_iter().flatten() {
            undefined_arguments(word, expander, &defaults, findings);
        }
        let lookup = |name: &str| value_of(&defaults, name);
        if image.text.contains('$')
            && let Ok(expansion) = expander.expand(&image.text, &lookup)
            && !looks_like_image(&expansion.text)
            && expansion.unmatched.iter().all(|name| defaults.contains_key(name))
        {
            findings.push(
                warning(
                    Rule::InvalidDefaultArgInFrom,
                    format!("with the default arguments the image name is `{}`", expansion.text),
                    image.span,
                )
                .hint("give the ARG a default"),
            );
        }
        if let Some(platform) = platform {
            platform_flag(stage, platform, findings);
        }
    }
}

fn value_of(defaults: &BTreeMap<String, Option<String>>, name: &str) -> Option<String> {
    match defaults.get(name) {
        Some(value) => value.clone(),
        None => PLATFORM_ARGUMENTS.contains(&name).then(|| UNKNOWN.to_owned()),
    }
}

fn undefined_arguments(
    word: &Word,
    expander: Expander,
    defaults: &BTreeMap<String, Option<String>>,
    findings: &mut Findings,
) {
    let Ok(expansion) = expander.expand(&word.text, &|name| value_of(defaults, name)) else { return };
    for name in expansion.unmatched.iter().filter(|name| !defaults.contains_key(*name)) {
        let known = defaults.keys().map(String::as_str).chain(PLATFORM_ARGUMENTS.iter().copied());
        findings.push(
            warning(
                Rule::UndefinedArgInFrom,
                format!("FROM uses `{name}`, which no ARG before the first FROM declares"),
                word.span,
            )
            .did_you_mean(crate::suggest::closest(name, known)),
        );
    }
}

/// A cheap look at an image name: what an empty argument leaves behind.
fn looks_like_image(name: &str) -> bool {
    let separators = ['/', ':', '@'];
    !name.is_empty()
        && !name.starts_with(separators)
        && !name.ends_with(separators)
        && !["//", "::", "/:", "/@", ":@"].iter().any(|gap| name.contains(gap))
}

fn platform_flag(stage: &Stage, platform: &Word, findings: &mut Findings) {
    if matches!(platform.text.as_str(), "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
        findings.push(
            warning(
                Rule::RedundantTargetPlatform,
                "`--platform=$TARGETPLATFORM` is what FROM does without it",
                platform.span,
            )
            .hint("remove the flag"),
        );
    }
    // A stage for each platform has the platform in its name.
    let named = |part: &str| stage.name().is_some_and(|name| name.to_ascii_lowercase().contains(part));
    if !platform.text.contains('$') && !platform.text.split('/').any(named) {
        findings.push(
            warning(
                Rule::FromPlatformFlagConstDisallowed,
                format!("FROM has a constant platform: `{}`", platform.text),
                platform.span,
            )
            .hint("use `$BUILDPLATFORM` or `$TARGETPLATFORM`, or build with `--platform`"),
        );
    }
}

/// Whether the search for circles has met a stage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    OnPath,
    Done,
}

/// Reports stages that need themselves. `FROM` looks only backwards, `--from` at all stages.
fn circular_stages(dockerfile: &Dockerfile, names: &StageNames, findings: &mut Findings) {
    let stages = &dockerfile.stages;
    unknown_numbers(stages, findings);
    let needs: Vec<Vec<(usize, Span)>> =
        stages.iter().enumerate().map(|(index, stage)| needs(names, stages.len(), index, stage)).collect();
    let mut marks = vec![Mark::New; stages.len()];
    for start in 0..stages.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // An explicit stack: (stage, next edge to look at).
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        marks[start] = Mark::OnPath;
        while let Some((stage, edge)) = path.last_mut() {
            let Some((next, span)) = needs[*stage].get(*edge).copied() else {
                marks[*stage] = Mark::Done;
                path.pop();
                continue;
            };
            *edge += 1;
            match marks[next] {
                Mark::Done => {}
                Mark::New => {
                    marks[next] = Mark::OnPath;
                    path.push((next, 0));
                }
                Mark::OnPath => {
                    let name = stages[next].name().map_or_else(|| next.to_string(), str::to_owned);
                    findings.push(
                        Diagnostic::error(Code::CircularStage, format!("stage `{name}` needs itself"), span)
                            .label("needed here")
                            .also(stages[next].from.span, "the stage"),
                    );
                    return;
                }
            }
        }
    }
}

/// The stages that a stage needs, and where it says so.
fn needs(names: &StageNames, count: usize, index: usize, stage: &Stage) -> Vec<(usize, Span)> {
    let base = &stage.from.image;
    let mut found = Vec::new();
    found.extend(names.before(&base.text, index).map(|needed| (needed, base.span)));
    for instruction in &stage.instructions {
        let sources: Vec<&Word> = match &instruction.kind {
            InstructionKind::Copy(copy) => copy.from.iter().collect(),
            InstructionKind::Run(run) => run
                .mounts
                .iter()
                .flat_map(|mount| &mount.options)
                .filter(|option| option.key.text == "from")
                .filter_map(|option| option.value.as_ref())
                .collect(),
            _ => Vec::new(),
        };
        for word in sources {
            let by_number = || word.text.parse().ok().filter(|number| *number < count);
            let needed = names.before(&word.text, count).or_else(by_number);
            found.extend(needed.map(|needed| (needed, word.span)));
        }
    }
    found
}
