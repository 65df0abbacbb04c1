//! One-point Dockerfiles whose results a real BuildKit recorded.
//!
//! `tests/data/conformance/TOPIC.cases` holds cases written by hand, `TOPIC.recorded` what BuildKit made of them
//! (`cooper-compare record`). A case is a Dockerfile and its sections:
//!
//! ```text
//! == directories keep their modes
//! FROM scratch
//! COPY d /x/
//! -- context
//! d/sub/ 0700
//! d/f "text\n"
//! -- mutate 0700 => 0711
//! ```
//!
//! | section | what |
//! |---|---|
//! | `-- context` | files of the context, one a line ([`files`]); their times are [`files::TIME`] |
//! | `-- archive NAME none/gz/zst` | an archive in the context, entries as above |
//! | `-- image NAME` | a Dockerfile that is built before and tagged NAME; `{id}` in names is the case's own |
//! | `-- tools NAME…` | images of these names have the tools of `tools.Dockerfile` |
//! | `-- dockerfile "…"` | the Dockerfile as one literal, where bytes matter |
//! | `-- file NAME` | the Dockerfile is this file of the context |
//! | `-- flags …` | more arguments of the build; `{context}` is the context's directory |
//! | `-- call check/outline/targets` | what `--call` prints instead of an image |
//! | `-- by-hand REASON` | the recording is written by hand, because that BuildKit is older or differs |
//! | `-- mutate OLD => NEW` | a small change of the case's text after which the result must differ |
//!
//! The model: a case's text gives a [`Plan`], a builder gives an [`Outcome`], outcomes have one textual form, which is
//! also that of the recordings. A recording holds what the build added to `busybox` or to nothing, so it does not depend
//! on the bytes of a base.

pub mod builder;
pub mod files;
pub mod outcome;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use files::Archive;
pub use outcome::Outcome;

/// The image that stands for the bases of projects.
const TOOLS: &str = "conformance-tools:latest";

/// A case as its file has it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's stem.
    pub topic: String,
    /// The case's name, unique in its topic.
    pub name: String,
    /// Everything between this head and the next one.
    pub text: String,
}

/// What a case asks to build.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The Dockerfile.
    pub dockerfile: Vec<u8>,
    /// Lines of the context.
    pub context: Vec<String>,
    /// Archives in the context.
    pub archives: Vec<Archive>,
    /// Images that are built before: name and Dockerfile.
    pub images: Vec<(String, String)>,
    /// The Dockerfile's name in the context, where it lies there.
    pub file: Option<String>,
    /// More arguments.
    pub flags: Vec<String>,
    /// The method of `--call`, where no image is built.
    pub call: Option<String>,
    /// Why the recording is written by hand.
    pub by_hand: Option<String>,
    /// What is replaced by what to see the case fail.
    pub mutate: Option<(String, String)>,
}

/// A plan's files on the disk.
#[derive(Debug)]
pub struct Prepared {
    /// The context.
    pub context: PathBuf,
    /// The Dockerfile.
    pub dockerfile: PathBuf,
    /// Names and Dockerfiles of images to build before.
    pub images: Vec<(String, PathBuf)>,
    /// More arguments, with the context's directory filled in.
    pub flags: Vec<String>,
}

/// Where the cases lie.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/conformance")
}

/// The topics in their order.
pub fn topics() -> Result<Vec<String>> {
    let mut topics = Vec::new();
    for entry in fs::read_dir(folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cases") {
            topics.push(path.file_stem().context("a name")?.to_string_lossy().into_owned());
        }
    }
    topics.sort();
    Ok(topics)
}

/// The cases of a topic.
pub fn cases(topic: &str) -> Result<Vec<Case>> {
    let text = fs::read_to_string(folder().join(format!("{topic}.cases")))?;
    let cases: Vec<Case> =
        blocks(&text).into_iter().map(|(name, text)| Case { topic: topic.to_owned(), name, text }).collect();
    let names: std::collections::BTreeSet<&String> = cases.iter().map(|case| &case.name).collect();
    ensure!(names.len() == cases.len(), "{topic}: two cases have one name");
    Ok(cases)
}

/// The recordings of a topic: name -> text.
pub fn recordings(topic: &str) -> Result<BTreeMap<String, String>> {
    match fs::read_to_string(folder().join(format!("{topic}.recorded"))) {
        Ok(text) => Ok(blocks(&text).into_iter().collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error.into()),
    }
}

/// Writes the recordings of a topic.
pub fn write_recordings(topic: &str, recordings: &BTreeMap<String, String>) -> Result<()> {
    let text: String = recordings.iter().map(|(name, text)| format!("== {name}\n{text}")).collect();
    Ok(fs::write(folder().join(format!("{topic}.recorded")), text)?)
}

/// The parts below `== NAME` lines.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some(name) = line.strip_prefix("== ") {
            blocks.push((name.trim().to_owned(), String::new()));
        } else if let Some((_, block)) = blocks.last_mut() {
            block.push_str(line);
        }
    }
    blocks
}

impl Case {
    /// What the case asks for.
    pub fn plan(&self) -> Result<Plan> {
        Plan::parse(&self.text, &self.id()).with_context(|| format!("{}: {}", self.topic, self.name))
    }

    /// The same after its small change.
    pub fn mutated(&self) -> Result<Plan> {
        let (old, new) = self.plan()?.mutate.with_context(|| format!("{}: no mutation", self.name))?;
        let body = self.text.split("-- mutate ").next().unwrap_or_default();
        ensure!(body.contains(&old), "{}: nothing to mutate: {old}", self.name);
        Plan::parse(&body.replacen(&old, &new, 1), &format!("{}-mutated", self.id()))
    }

    /// A name for images of this case.
    fn id(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        format!("{}-{}", self.topic, self.name).chars().map(plain).collect::<String>().replace("--", "-")
    }
}

impl Plan {
    fn parse(text: &str, id: &str) -> Result<Self> {
        let mut plan = Self::default();
        let mut section = Section::Dockerfile;
        for line in text.split_inclusive('\n') {
            if let Some(head) = line.strip_prefix("-- ") {
                section = plan.open(head.trim_end_matches('\n'), id)?;
                continue;
            }
            match section {
                Section::Dockerfile => {
                    plan.dockerfile.extend_from_slice(line.replace("{id}", id).as_bytes());
                }
                Section::Context => plan.context.push(line.trim_end().to_owned()),
                Section::Archive => {
                    let archive = plan.archives.last_mut().context("an archive")?;
                    archive.entries.push(line.trim_end().to_owned());
                }
                Section::Image => {
                    plan.images.last_mut().context("an image")?.1.push_str(&line.replace("{id}", id));
                }
                Section::Done if line.trim().is_empty() => {}
                Section::Done => bail!("text after a section of one line: {line}"),
            }
        }
        Ok(plan)
    }

    fn open(&mut self, head: &str, id: &str) -> Result<Section> {
        let (word, rest) = head.split_once(' ').unwrap_or((head, ""));
        match word {
            "context" => return Ok(Section::Context),
            "archive" => {
                self.archives.push(Archive::new(rest)?);
                return Ok(Section::Archive);
            }
            "image" => {
                self.images.push((rest.replace("{id}", id), String::new()));
                return Ok(Section::Image);
            }
            "tools" => {
                self.images.push((TOOLS.to_owned(), fs::read_to_string(folder().join("tools.Dockerfile"))?));
                for name in rest.split_whitespace() {
                    self.flags.push("--build-context".to_owned());
                    self.flags.push(format!("{name}=docker-image://{TOOLS}"));
                }
            }
            "dockerfile" => self.dockerfile = files::words(rest)?.concat(),
            "file" => self.file = Some(rest.to_owned()),
            "flags" => {
                for word in files::words(rest)? {
                    self.flags.push(String::from_utf8(word)?.replace("{id}", id));
                }
            }
            "call" => self.call = Some(rest.to_owned()),
            "by-hand" => self.by_hand = Some(rest.to_owned()),
            "mutate" => {
                let (old, new) = rest.split_once(" => ").context("mutate OLD => NEW")?;
                self.mutate = Some((old.to_owned(), new.to_owned()));
            }
            other => bail!("unknown section {other}"),
        }
        Ok(Section::Done)
    }

    /// Writes the plan's files below a directory.
    pub fn prepare(&self, at: &Path) -> Result<Prepared> {
        // BuildKit takes over what it was sent before under this name, where size and time are the same.
        let unique = at.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let context = at.join(format!("context-{unique}"));
        let dockerfile = self.file.as_ref().map_or_else(|| at.join("Dockerfile"), |name| context.join(name));
        files::write(&context, &self.context, &self.archives)?;
        if self.file.is_none() {
            fs::write(&dockerfile, &self.dockerfile)?;
        }
        let mut images = Vec::new();
        for (number, (name, text)) in self.images.iter().enumerate() {
            let path = at.join(format!("Dockerfile.{number}"));
            fs::write(&path, text)?;
            images.push((name.clone(), path));
        }
        let here = context.to_string_lossy();
        let flags = self.flags.iter().map(|flag| flag.replace("{context}", &here)).collect();
        Ok(Prepared { context, dockerfile, images, flags })
    }
}

/// Which section a line belongs to.
#[derive(Clone, Copy)]
enum Section {
    Dockerfile,
    Context,
    Archive,
    Image,
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "FROM {id}\nCOPY a /\n-- context\na \"x\"\n-- flags --build-arg \"A=b c\"\n-- mutate \"x\" => \"y\"\n";

    fn case() -> Case {
        Case { topic: "t".to_owned(), name: "a case".to_owned(), text: TEXT.to_owned() }
    }

    #[test]
    fn sections_are_told_apart() -> Result<()> {
        let plan = case().plan()?;
        assert_eq!(plan.dockerfile, b"FROM t-a-case\nCOPY a /\n");
        assert_eq!(plan.context, ["a \"x\""]);
        assert_eq!(plan.flags, ["--build-arg", "A=b c"]);
        Ok(())
    }

    #[test]
    fn a_mutation_changes_the_text_before_it() -> Result<()> {
        assert_eq!(case().mutated()?.context, ["a \"y\""]);
        let lost = Case { text: TEXT.replace("mutate \"x\"", "mutate \"z\""), ..case() };
        assert!(lost.mutated().is_err());
        Ok(())
    }
}
