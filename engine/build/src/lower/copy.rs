//! `COPY` and `ADD`: from the words to vertices.
//!
//! A remote source of `ADD` is a vertex of its own. With `--link` the copy is made beside the image, on nothing, and
//! merged into it; its layer then is the same on every base.

use cooper_dockerfile::{Add, Copy, CopySource, Heredoc, Instruction, InstructionKind, Span, Word};

use super::stage::StepNames;
use super::{HistoryPlan, LayerPlan, Lowering, Origin, StageState, absolute};
use crate::context::Wanted;
use crate::copy::{CopyOperation, Source};
use crate::error::{Error, Result};
use crate::git::{GitAddress, GitSource};
use crate::graph::{Operation, Vertex, VertexId};
use crate::history;
use crate::mode::ModeChange;
use crate::remote::{self, Checksum, RemoteFile, SourceKind};

/// The words of a `COPY` or `ADD`, expanded.
pub(super) struct CopyParts {
    instruction: &'static str,
    sources: Vec<Part>,
    destination: String,
    chown: Option<String>,
    chmod: Option<(String, Span)>,
    from: Option<(Origin, Span)>,
    link: bool,
    parents: bool,
    excludes: Vec<String>,
}

/// A source as it is written.
enum Part {
    Path { path: String, unpack: bool },
    Remote { file: RemoteFile, unpack: bool, span: Span },
    Git { source: GitSource, text: String, span: Span },
    Inline { name: String, contents: Vec<u8> },
}

impl CopyParts {
    fn created_by(&self) -> String {
        let mut words = vec![self.instruction.to_owned()];
        words.extend(self.chown.as_ref().map(|chown| format!("--chown={chown}")));
        words.extend(self.chmod.as_ref().map(|(chmod, _)| format!("--chmod={chmod}")));
        for source in &self.sources {
            words.push(match source {
                Part::Path { path, .. } => path.clone(),
                Part::Remote { file, .. } => file.url.clone(),
                Part::Git { text, .. } => text.clone(),
                Part::Inline { name, .. } => format!("<<{name}"),
            });
        }
        words.push(self.destination.clone());
        history::with_layer(&words.join(" "))
    }

    /// Names in `--chown` are looked up in the image, so such a copy cannot be made beside it.
    fn links(&self) -> bool {
        let is_number = |id: &str| id.bytes().all(|byte| byte.is_ascii_digit());
        self.link && self.chown.as_ref().is_none_or(|chown| chown.split(':').all(is_number))
    }
}

impl Lowering<'_> {
    pub(super) fn copy_parts(&mut self, state: &StageState, copy: &Copy, index: usize) -> Result<CopyParts> {
        let from = match &copy.from {
            Some(from) => Some((self.origin(&from.text, index, from.span)?, from.span)),
            None => None,
        };
        let sources = copy.sources.iter().map(|source| {
            Ok(match source {
                CopySource::Path(word) => {
                    Part::Path { path: self.expand(&state.variables, word)?, unpack: false }
                }
                CopySource::Heredoc(heredoc) => self.inline(state, heredoc)?,
            })
        });
        Ok(CopyParts {
            instruction: "COPY",
            sources: sources.collect::<Result<_>>()?,
            destination: self.expand(&state.variables, &copy.destination)?,
            chown: self.expand_option(state, copy.chown.as_ref())?,
            chmod: self.chmod(state, copy.chmod.as_ref())?,
            from,
            link: copy.link,
            parents: copy.parents,
            excludes: raw(&copy.excludes),
        })
    }

    pub(super) fn add_parts(&mut self, state: &StageState, add: &Add) -> Result<CopyParts> {
        let checksum = match &add.checksum {
            Some(word) => Some((self.expand(&state.variables, word)?, word.span)),
            None => None,
        };
        let mut sources = Vec::new();
        for source in &add.sources {
            let word = match source {
                CopySource::Heredoc(heredoc) => {
                    sources.push(self.inline(state, heredoc)?);
                    continue;
                }
                CopySource::Path(word) => word,
            };
            let text = self.expand(&state.variables, word)?;
            sources.push(match remote::source_kind(&text) {
                SourceKind::Local => Part::Path { path: text, unpack: add.unpack.unwrap_or(true) },
                SourceKind::Http => {
                    let checksum =
                        checksum.as_ref().map(|(text, span)| self.checksum(text, *span)).transpose()?;
                    let file = RemoteFile::new(&text, checksum);
                    Part::Remote { file, unpack: add.unpack.unwrap_or(false), span: word.span }
                }
                SourceKind::Git => {
                    let source = self.git_source(&text, word.span, checksum.as_ref(), add)?;
                    Part::Git { source, text, span: word.span }
                }
            });
        }
        if let Some((_, span)) = checksum
            && !matches!(sources.as_slice(), [Part::Remote { .. } | Part::Git { .. }])
        {
            return Err(Error::build("`--checksum` is for exactly one source with a URL").at(self.file, span));
        }
        Ok(CopyParts {
            instruction: "ADD",
            sources,
            destination: self.expand(&state.variables, &add.destination)?,
            chown: self.expand_option(state, add.chown.as_ref())?,
            chmod: self.chmod(state, add.chmod.as_ref())?,
            from: None,
            link: add.link,
            parents: false,
            excludes: raw(&add.excludes),
        })
    }

    fn checksum(&self, text: &str, span: Span) -> Result<Checksum> {
        let parsed = text.parse().map_err(|error: cooper_image::Error| {
            Error::build(format!("invalid checksum: `{text}`"))
                .caused_by(error)
                .hint("a checksum is `sha256:` and 64 hexadecimal digits")
                .at(self.file, span)
        });
        parsed.map(Checksum)
    }

    /// A repository: its address, the commit that is insisted on, and whether its `.git` is wanted.
    fn git_source(
        &self,
        text: &str,
        span: Span,
        checksum: Option<&(String, Span)>,
        add: &Add,
    ) -> Result<GitSource> {
        let wrong = |reason: String, span: Span| {
            let message = format!("invalid address of a repository: {reason}");
            Error::build(message).at(self.file, span)
        };
        let mut address = GitAddress::parse(text).map_err(|reason| wrong(reason, span))?;
        if let Some((wanted, place)) = checksum {
            if wanted.len() < 7 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(Error::build(format!("invalid checksum: `{wanted}`"))
                    .hint("the checksum of a repository is the id of its commit, or 7 digits of it at least")
                    .at(self.file, *place));
            }
            match &address.checksum {
                Some(known) if known != wanted => {
                    return Err(wrong(format!("two commits: `{known}` and `{wanted}`"), *place));
                }
                _ => address.checksum = Some(wanted.clone()),
            }
            address.reference.get_or_insert_with(|| wanted.clone());
        }
        let keep_git_dir = match (add.keep_git_dir, address.keep_git_dir) {
            (Some(flag), Some(query)) if flag != query => {
                return Err(wrong(
                    "`keep-git-dir` says something else than `--keep-git-dir`".to_owned(),
                    span,
                ));
            }
            (flag, query) => flag.or(query).unwrap_or(false),
        };
        Ok(GitSource { address, keep_git_dir })
    }

    fn chmod(&self, state: &StageState, word: Option<&Word>) -> Result<Option<(String, Span)>> {
        word.map(|word| Ok((self.expand(&state.variables, word)?, word.span))).transpose()
    }

    fn expand_option(&self, state: &StageState, word: Option<&Word>) -> Result<Option<String>> {
        word.map(|word| self.expand(&state.variables, word)).transpose()
    }

    fn inline(&self, state: &StageState, heredoc: &Heredoc) -> Result<Part> {
        let mut text = heredoc.to_text();
        if heredoc.expand {
            let expanded = state.variables.expand_heredoc(&text);
            text = expanded.map_err(|error| self.expand_failed(error, heredoc.span))?;
        }
        Ok(Part::Inline { name: heredoc.name.clone(), contents: text.into_bytes() })
    }

    pub(super) fn copy(
        &mut self,
        state: &mut StageState,
        index: usize,
        instruction: &Instruction,
        steps: &mut StepNames,
        parts: CopyParts,
    ) -> Result<()> {
        let created_by = parts.created_by();
        let links = parts.links();
        let base = if links { self.scratch()? } else { state.root };
        let mut inputs = vec![base];
        let mode = match &parts.chmod {
            Some((text, span)) => Some(ModeChange::parse(text).ok_or_else(|| {
                Error::build(format!("invalid mode: `{text}`"))
                    .hint("a mode is octal, as 0755, or symbolic, as u=rwX,go=r")
                    .at(self.file, *span)
            })?),
            None => None,
        };
        let mut destination = absolute(state, &parts.destination);
        let is_directory = parts.destination.ends_with('/')
            || parts.destination.ends_with("/.")
            || parts.destination == "."
            || parts.parents;
        if is_directory && !destination.ends_with('/') {
            destination.push('/');
        }
        let sources = self.copy_inputs(parts.sources, parts.from, parts.parents, &mut inputs)?;
        let operation = CopyOperation {
            sources,
            destination,
            owner: parts.chown,
            mode,
            parents: parts.parents,
            excludes: parts.excludes,
        };
        let shown = created_by.trim_end_matches(" # buildkit").to_owned();
        let vertex = Vertex {
            operation: Operation::Copy(operation),
            inputs,
            name: steps.next(&with_from(&shown, instruction)),
            span: Some(instruction.span),
            use_cache: self.use_cache(index),
        };
        if !links {
            return self.layer(state, created_by, vertex);
        }
        let name = format!("{} (merge)", vertex.name);
        let after = self.add(vertex)?;
        let merged = Vertex {
            operation: Operation::Merge,
            inputs: vec![state.root, after],
            name,
            span: Some(instruction.span),
            use_cache: self.use_cache(index),
        };
        state.root = self.add(merged)?;
        let layer = Some(LayerPlan { before: base, after, result: state.root });
        state.history.push(HistoryPlan { created_by, layer });
        Ok(())
    }

    /// Adds the vertices that the sources need to `inputs`.
    fn copy_inputs(
        &mut self,
        parts: Vec<Part>,
        from: Option<(Origin, Span)>,
        parents: bool,
        inputs: &mut Vec<VertexId>,
    ) -> Result<Vec<Source>> {
        // The pivot of `--parents` is a name of its own; else `..` is taken by the text alone, as BuildKit does.
        let named = |path: &str| if parents { path.to_owned() } else { clean(path) };
        let paths: Vec<String> = parts
            .iter()
            .filter_map(|part| if let Part::Path { path, .. } = part { Some(named(path)) } else { None })
            .collect();
        let want = |wanted: &mut Wanted| {
            paths
                .iter()
                .for_each(|path| wanted.add_pattern(if parents { wanted_of_parents(path) } else { path }));
        };
        let input = match (paths.is_empty(), from) {
            (true, _) => None,
            (false, Some((origin, span))) => Some(self.vertex_of(origin, span, &want)?),
            (false, None) => {
                let (id, wanted) = self.context("")?;
                want(wanted);
                Some(id)
            }
        };
        let files = inputs.len();
        inputs.extend(input);
        let mut sources = Vec::new();
        for part in parts {
            sources.push(match part {
                Part::Path { path, unpack } => Source::Path { input: files, path: named(&path), unpack },
                Part::Inline { name, contents } => Source::Inline { name, contents },
                Part::Remote { file, unpack, span } => {
                    let name = format!("download {}", file.url);
                    let operation = Operation::Remote(std::sync::Arc::new(file));
                    inputs.push(self.source_vertex(name, operation, Some(span))?);
                    Source::Remote { input: inputs.len() - 1, unpack }
                }
                Part::Git { source, span, .. } => {
                    let name = format!("fetch {}", source.address);
                    let operation = Operation::Git(std::sync::Arc::new(source));
                    inputs.push(self.source_vertex(name, operation, Some(span))?);
                    // What is in the repository, not the repository.
                    Source::Path { input: inputs.len() - 1, path: "/".to_owned(), unpack: false }
                }
            });
        }
        Ok(sources)
    }
}

/// The patterns of `--exclude`, in which BuildKit replaces no variables.
fn raw(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

/// A source with no `..` in it, which stops at the root.
fn clean(path: &str) -> String {
    if !path.split('/').any(|name| name == "..") {
        return path.to_owned();
    }
    String::from_utf8_lossy(&cooper_vfs::path::clean(path.as_bytes())).into_owned()
}

/// What of the context a pattern with `**` can match: everything below the names before it.
fn wanted_of_parents(pattern: &str) -> &str {
    match pattern.split('/').position(|name| name.contains("**")) {
        None => pattern,
        Some(count) => {
            let length: usize = pattern.split('/').take(count).map(|name| name.len() + 1).sum();
            pattern[..length.saturating_sub(1)].trim_end_matches('/')
        }
    }
}

/// Puts the `--from` back that BuildKit leaves out of the history.
fn with_from(shown: &str, instruction: &Instruction) -> String {
    let InstructionKind::Copy(Copy { from: Some(from), .. }) = &instruction.kind else {
        return shown.to_owned();
    };
    match shown.split_once(' ') {
        Some((keyword, rest)) => format!("{keyword} --from={} {rest}", from.text),
        None => shown.to_owned(),
    }
}
