//! The lint rules that need more than the text: the environment of base images, their platform, the ignore file.
//!
//! [`cooper_dockerfile`] reports what the text alone shows. Here the stages are walked with the variables that are set
//! at each place. What is not known - the environment of an image that is not at hand - makes a rule say nothing,
//! never something wrong.

use std::collections::BTreeSet;

use cooper_dockerfile::expand::Expander;
use cooper_dockerfile::{
    CopySource, Diagnostic, Dockerfile, InstructionKind, Rule, Severity, Stage, Word, undefined_variable,
};
use cooper_image::image::ImageRecord;
use cooper_image::platform::Platform;

use crate::build::Loaded;
use crate::remote::{SourceKind, source_kind};
use crate::request::{BuildRequest, ContextSource};
use crate::scope::platform_arguments;

/// Gives an image that is at hand, by reference and platform.
pub type ImagesAtHand<'a> = &'a dyn Fn(&str, &Platform) -> Option<ImageRecord>;

/// The names that are set at a place; none when that is not known.
type Known = Option<BTreeSet<String>>;

/// The arguments that need no `ARG` and no value.
const PREDEFINED: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Everything there is to say about a Dockerfile: the parser's findings and those of the rules here, in order.
pub fn findings(loaded: &Loaded, request: &BuildRequest, images: ImagesAtHand<'_>) -> Vec<Diagnostic> {
    let dockerfile = &loaded.dockerfile;
    let mut all = dockerfile.diagnostics.clone();
    if !dockerfile.has_errors() {
        let mut checker = Checker { loaded, request, images, findings: Vec::new() };
        checker.file();
        let check = &dockerfile.directives.check;
        for mut finding in checker.findings {
            if finding.rule().is_some_and(|rule| !check.wants(rule)) {
                continue;
            }
            if check.error {
                finding.severity = Severity::Error;
            }
            all.push(finding);
        }
        all.sort_by_key(|finding| finding.span().start);
    }
    all
}

struct Checker<'a> {
    loaded: &'a Loaded,
    request: &'a BuildRequest,
    images: ImagesAtHand<'a>,
    findings: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn dockerfile(&self) -> &Dockerfile {
        &self.loaded.dockerfile
    }

    fn file(&mut self) {
        let request = self.request;
        let mut globals = platform_arguments(&request.build_platform, &request.platform, "");
        let arguments = self.loaded.dockerfile.global_args.iter();
        let declarations = arguments.filter_map(|instruction| match &instruction.kind {
            InstructionKind::Arg(declarations) => Some(declarations),
            _ => None,
        });
        let escape = self.dockerfile().directives.escape;
        for declaration in declarations.flatten() {
            let name = declaration.name.text.clone();
            let default = declaration.default.as_ref();
            let value = request
                .build_args
                .get(&name)
                .cloned()
                .or_else(|| default.and_then(|default| globals.expand(default, escape).ok()));
            if let Some(value) = value {
                globals.set(&name, &value);
            }
        }
        let mut stages: Vec<Known> = Vec::new();
        for index in 0..self.dockerfile().stages.len() {
            let stage = self.dockerfile().stages[index].clone();
            let base = globals.expand(&stage.from.image, escape).unwrap_or_default();
            let platform = match &stage.from.platform {
                Some(word) => globals.expand(word, escape).ok().and_then(|text| text.parse().ok()),
                None => Some(request.platform.clone()),
            };
            let known = self.base(&stage, index, &base, platform.as_ref(), &stages);
            stages.push(self.stage(&stage, known));
        }
    }

    /// The names that a base sets.
    fn base(
        &mut self,
        stage: &Stage,
        index: usize,
        base: &str,
        platform: Option<&Platform>,
        stages: &[Known],
    ) -> Known {
        if self.request.named_contexts.contains_key(base) {
            return None;
        }
        if base == "scratch" {
            return Some(BTreeSet::from(["PATH".to_owned()]));
        }
        if let Some(other) = self.dockerfile().base_stage_index(base, index) {
            return stages.get(other).cloned().flatten();
        }
        let platform = platform?;
        let image = (self.images)(base, platform)?;
        let found = image.config.platform();
        if !found.satisfies(platform) {
            self.findings.push(
                Diagnostic::lint(
                    Rule::InvalidBaseImagePlatform,
                    format!("the base image `{base}` is for {found}, and {platform} is built"),
                    stage.from.image.span,
                )
                .hint("choose an image that has the platform, or set `--platform`"),
            );
        }
        let names = image.config.config.env.iter().map(|entry| entry.split('=').next().unwrap_or(entry));
        Some(names.map(str::to_owned).collect())
    }

    fn stage(&mut self, stage: &Stage, mut known: Known) -> Known {
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Arg(declarations) => {
                    for declaration in declarations {
                        self.words(declaration.default.iter(), &known);
                        set(&mut known, &declaration.name.text);
                    }
                }
                InstructionKind::Env(pairs) => {
                    self.words(pairs.iter().map(|pair| &pair.value), &known);
                    pairs.iter().for_each(|pair| set(&mut known, &pair.key.text));
                }
                InstructionKind::Label(pairs) => self.words(pairs.iter().map(|pair| &pair.value), &known),
                InstructionKind::Expose(words) | InstructionKind::Volume(words) => {
                    self.words(words.iter(), &known);
                }
                InstructionKind::User(word)
                | InstructionKind::Workdir(word)
                | InstructionKind::Stopsignal(word) => self.words([word].into_iter(), &known),
                InstructionKind::Copy(copy) => {
                    self.sources(&copy.sources, &known);
                    let flags = copy.chown.iter().chain(&copy.chmod).chain([&copy.destination]);
                    self.words(flags, &known);
                    if copy.from.is_none() {
                        self.ignored(&copy.sources);
                    }
                }
                InstructionKind::Add(add) => {
                    self.sources(&add.sources, &known);
                    let flags = add.chown.iter().chain(&add.chmod).chain([&add.destination]);
                    self.words(flags, &known);
                    self.ignored(&add.sources);
                }
                _ => {}
            }
        }
        known
    }

    fn sources(&mut self, sources: &[CopySource], known: &Known) {
        let paths = sources.iter().filter_map(|source| match source {
            CopySource::Path(word) => Some(word),
            CopySource::Heredoc(_) => None,
        });
        self.words(paths, known);
    }

    fn words<'w>(&mut self, words: impl Iterator<Item = &'w Word>, known: &Known) {
        let Some(known) = known else { return };
        let expander = Expander::new(self.dockerfile().directives.escape);
        let is_set =
            |name: &str| known.contains(name) || PREDEFINED.iter().any(|own| own.eq_ignore_ascii_case(name));
        let lookup = |name: &str| is_set(name).then(String::new);
        for word in words.filter(|word| word.text.contains('$')) {
            let Ok(expansion) = expander.expand(&word.text, &lookup) else { continue };
            for name in expansion.unmatched.iter().filter(|name| !is_set(name)) {
                self.findings.push(undefined_variable(word, name, known.iter().map(String::as_str)));
            }
        }
    }

    /// Sources of the context that the ignore file leaves out.
    fn ignored(&mut self, sources: &[CopySource]) {
        if self.loaded.ignore.is_empty() || !matches!(self.request.context, ContextSource::Directory(_)) {
            return;
        }
        for source in sources {
            let CopySource::Path(word) = source else { continue };
            let path = cooper_vfs::path::clean(word.text.as_bytes());
            if path.is_empty() || source_kind(&word.text) != SourceKind::Local {
                continue;
            }
            if self.loaded.ignore.matches(&path) && !self.loaded.ignore.may_except_below(&path) {
                self.findings.push(
                    Diagnostic::lint(
                        Rule::CopyIgnoredFile,
                        format!("`{}` is left out of the context by .dockerignore", word.text),
                        word.span,
                    )
                    .hint("take it out of .dockerignore, or copy something else"),
                );
            }
        }
    }
}

fn set(known: &mut Known, name: &str) {
    if let Some(known) = known {
        known.insert(name.to_owned());
    }
}
