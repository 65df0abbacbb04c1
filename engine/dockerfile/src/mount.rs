//! `RUN --mount=…`.
//!
//! Values may hold variables, so a mount is read in two steps: the parser makes a [`MountFlag`] and reports what is
//! wrong whatever the variables are; [`MountFlag::resolve`] makes the [`Mount`] when the environment is known.

use crate::diagnostic::{Code, Diagnostic};
use crate::span::{Span, Word};
use crate::suggest;

/// A mount as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// The whole value of the flag.
    pub value: Word,
    /// Its comma-separated fields.
    pub options: Vec<MountOption>,
}

/// `key` or `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOption {
    /// In lower case.
    pub key: Word,
    /// Raw.
    pub value: Option<Word>,
}

/// A mount whose variables are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// `type=bind`, also without a type: a part of the context, a stage or an image. Writes are discarded.
    Bind {
        /// Stage, image or named context; the build context without it.
        from: Option<String>,
        /// Path in it; its root without it.
        source: Option<String>,
        /// Relative paths begin at the working directory; empty is the working directory itself.
        target: String,
        /// True unless `rw` is given.
        read_only: bool,
    },
    /// `type=cache`: kept between builds.
    Cache {
        /// The target path without it.
        id: Option<String>,
        /// As in `Bind`.
        target: String,
        /// First content: stage, image or named context.
        from: Option<String>,
        /// Path in `from`.
        source: Option<String>,
        /// How several steps use it at once.
        sharing: Sharing,
        /// False unless `ro` is given.
        read_only: bool,
        /// Owner and mode of the directory when it is made.
        ownership: Ownership,
    },
    /// `type=tmpfs`
    Tmpfs {
        /// As in `Bind`.
        target: String,
        /// Limit in bytes; 0 is none.
        size: u64,
        /// False unless `ro` is given.
        read_only: bool,
    },
    /// `type=secret`
    Secret {
        /// Name of the secret: `id`, else `source`, else the last part of `target`, else of `env`.
        id: String,
        /// Where the file is; none when only `env` is given.
        target: Option<String>,
        /// The variable that holds it.
        env: Option<String>,
        /// Whether the step fails without the secret.
        required: bool,
        /// Of the file; mode 0400 without it.
        ownership: Ownership,
    },
    /// `type=ssh`
    Ssh {
        /// Which agent; `default` without it.
        id: Option<String>,
        /// Where the socket is.
        target: Option<String>,
        /// Whether the step fails without the agent.
        required: bool,
        /// Of the socket; mode 0600 without it.
        ownership: Ownership,
    },
}

/// `uid`, `gid`, `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ownership {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Several steps write at once.
    #[default]
    Shared,
    /// A second step gets another one.
    Private,
    /// A second step waits.
    Locked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const KINDS: &[(&str, Kind)] = &[
    ("bind", Kind::Bind),
    ("cache", Kind::Cache),
    ("tmpfs", Kind::Tmpfs),
    ("secret", Kind::Secret),
    ("ssh", Kind::Ssh),
];

const SHARING: &[(&str, Sharing)] =
    &[("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

/// Key as written, the key it means, and the mount types that know it.
const KEYS: &[(&str, &str, &[Kind])] = &[
    ("type", "type", &[Kind::Bind, Kind::Cache, Kind::Tmpfs, Kind::Secret, Kind::Ssh]),
    ("from", "from", &[Kind::Bind, Kind::Cache]),
    ("source", "source", &[Kind::Bind, Kind::Cache, Kind::Secret]),
    ("src", "source", &[Kind::Bind, Kind::Cache, Kind::Secret]),
    ("target", "target", &[Kind::Bind, Kind::Cache, Kind::Tmpfs, Kind::Secret, Kind::Ssh]),
    ("dst", "target", &[Kind::Bind, Kind::Cache, Kind::Tmpfs, Kind::Secret, Kind::Ssh]),
    ("destination", "target", &[Kind::Bind, Kind::Cache, Kind::Tmpfs, Kind::Secret, Kind::Ssh]),
    // A secret and a socket are never written to, so asking for read-only says nothing new.
    ("readonly", "readonly", &[Kind::Bind, Kind::Cache, Kind::Tmpfs, Kind::Secret, Kind::Ssh]),
    ("ro", "readonly", &[Kind::Bind, Kind::Cache, Kind::Tmpfs, Kind::Secret, Kind::Ssh]),
    ("readwrite", "readwrite", &[Kind::Bind, Kind::Cache, Kind::Tmpfs]),
    ("rw", "readwrite", &[Kind::Bind, Kind::Cache, Kind::Tmpfs]),
    ("id", "id", &[Kind::Cache, Kind::Secret, Kind::Ssh]),
    ("sharing", "sharing", &[Kind::Cache]),
    ("required", "required", &[Kind::Secret, Kind::Ssh]),
    ("size", "size", &[Kind::Tmpfs]),
    ("mode", "mode", &[Kind::Cache, Kind::Secret, Kind::Ssh]),
    ("uid", "uid", &[Kind::Cache, Kind::Secret, Kind::Ssh]),
    ("gid", "gid", &[Kind::Cache, Kind::Secret, Kind::Ssh]),
    ("env", "env", &[Kind::Secret]),
];

/// Keys that may stand without a value.
const BARE_KEYS: &[&str] = &["readonly", "ro", "readwrite", "rw", "required"];

fn invalid(message: impl Into<String>, span: Span) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(Code::InvalidMount, message, span))
}

fn invalid_value(key: &str, value: &str, span: Span) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(
        Code::InvalidValue,
        format!("invalid value for mount option `{key}`: `{value}`"),
        span,
    ))
}

impl MountFlag {
    /// Splits the value of the flag and checks what does not depend on variables.
    pub(crate) fn parse(value: Word) -> Result<Self, Box<Diagnostic>> {
        let mut options = Vec::new();
        for field in split_fields(&value)? {
            let (key, option_value) = match crate::words::split_assignment(&field) {
                Some((key, value)) => (key, Some(value)),
                None => (field, None),
            };
            options
                .push(MountOption { key: Word::new(key.text.to_lowercase(), key.span), value: option_value });
        }
        let flag = Self { value, options };
        for option in &flag.options {
            flag.check_key(option)?;
        }
        if !flag
            .options
            .iter()
            .any(|option| option.value.as_ref().is_some_and(|value| value.text.contains('$')))
        {
            flag.resolve(&mut |word| Ok(word.text.clone()))?;
        }
        Ok(flag)
    }

    fn check_key(&self, option: &MountOption) -> Result<(), Box<Diagnostic>> {
        let key = option.key.text.as_str();
        if !KEYS.iter().any(|(known, _, _)| *known == key) {
            let suggestion = suggest::closest(key, KEYS.iter().map(|(known, _, _)| *known));
            return Err(Box::new(
                Diagnostic::error(
                    Code::UnknownMountOption,
                    format!("unknown mount option `{key}`"),
                    option.key.span,
                )
                .did_you_mean(suggestion),
            ));
        }
        match &option.value {
            None if !BARE_KEYS.contains(&key) => {
                Err(invalid(format!("mount option `{key}` needs a value"), option.key.span))
            }
            Some(value) if key == "from" && value.text.contains('$') => Err(Box::new(
                Diagnostic::error(
                    Code::VariableNotSupported,
                    "mount option `from` does not take variables",
                    value.span,
                )
                .hint("give the image a name with `FROM … AS name` and use the name"),
            )),
            _ => Ok(()),
        }
    }

    /// Makes the mount; `expand` replaces the variables of a value.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&Word) -> Result<String, Box<Diagnostic>>,
    ) -> Result<Mount, Box<Diagnostic>> {
        let mut values = Vec::new();
        for option in &self.options {
            let value = match &option.value {
                Some(word) => Some((expand(word)?, word.span)),
                None => None,
            };
            let meaning = KEYS.iter().find(|(known, _, _)| *known == option.key.text);
            let Some((written, key, kinds)) = meaning else { continue };
            values.push(Given { written, key, kinds, value, span: option.key.span });
        }
        let kind = match values.iter().rfind(|given| given.key == "type") {
            None => Kind::Bind,
            Some(given) => lookup(given, KINDS, Code::UnknownMountType, "unknown mount type")?,
        };
        let kind_name = KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name);
        if let Some(wrong) = values.iter().find(|given| !given.kinds.contains(&kind)) {
            return Err(Box::new(Diagnostic::error(
                Code::UnknownMountOption,
                format!("mount option `{}` is not for type `{kind_name}`", wrong.written),
                wrong.span,
            )));
        }
        Options(values).into_mount(kind, self.value.span)
    }
}

/// An option after expansion.
struct Given {
    written: &'static str,
    key: &'static str,
    kinds: &'static [Kind],
    value: Option<(String, Span)>,
    span: Span,
}

impl Given {
    fn place(&self) -> Span {
        self.value.as_ref().map_or(self.span, |(_, span)| *span)
    }
}

fn lookup<T: Copy>(
    given: &Given,
    table: &'static [(&'static str, T)],
    code: Code,
    what: &str,
) -> Result<T, Box<Diagnostic>> {
    let value = given.value.as_ref().map_or("", |(value, _)| value.as_str());
    table.iter().find(|(name, _)| name.eq_ignore_ascii_case(value)).map(|(_, found)| *found).ok_or_else(
        || {
            let names: Vec<String> = table.iter().map(|(name, _)| format!("`{name}`")).collect();
            let diagnostic = Diagnostic::error(code, format!("{what}: `{value}`"), given.place());
            Box::new(match suggest::closest(value, table.iter().map(|(name, _)| *name)) {
                Some(suggestion) => diagnostic.hint(format!("did you mean `{suggestion}`?")),
                None => diagnostic.hint(format!("it is one of {}", names.join(", "))),
            })
        },
    )
}

struct Options(Vec<Given>);

impl Options {
    fn text(&self, key: &str) -> Option<String> {
        self.0.iter().rfind(|given| given.key == key)?.value.as_ref().map(|(value, _)| value.clone())
    }

    /// A text that is not empty; an empty one counts as not given.
    fn filled(&self, key: &str) -> Option<String> {
        self.text(key).filter(|value| !value.is_empty())
    }

    fn bool_of(given: &Given) -> Result<bool, Box<Diagnostic>> {
        match &given.value {
            None => Ok(true),
            Some((value, span)) => {
                parse_bool(value).ok_or_else(|| invalid_value(given.written, value, *span))
            }
        }
    }

    fn bool(&self, key: &str) -> Result<bool, Box<Diagnostic>> {
        self.0.iter().rfind(|given| given.key == key).map_or(Ok(false), Self::bool_of)
    }

    /// The last of `ro` and `rw` counts.
    fn read_only(&self, default: bool) -> Result<bool, Box<Diagnostic>> {
        match self.0.iter().rfind(|given| matches!(given.key, "readonly" | "readwrite")) {
            None => Ok(default),
            Some(given) => Ok(Self::bool_of(given)? == (given.key == "readonly")),
        }
    }

    fn number(&self, key: &str, radix: u32) -> Result<Option<u32>, Box<Diagnostic>> {
        let Some(given) = self.0.iter().rfind(|given| given.key == key) else { return Ok(None) };
        let Some((value, span)) = &given.value else { return Ok(None) };
        let digits = !value.is_empty() && value.chars().all(|character| character.is_digit(radix));
        match u32::from_str_radix(value, radix) {
            Ok(number) if digits => Ok(Some(number)),
            _ => Err(invalid_value(key, value, *span)),
        }
    }

    fn ownership(&self) -> Result<Ownership, Box<Diagnostic>> {
        Ok(Ownership {
            mode: self.number("mode", 8)?,
            uid: self.number("uid", 10)?,
            gid: self.number("gid", 10)?,
        })
    }

    fn into_mount(self, kind: Kind, span: Span) -> Result<Mount, Box<Diagnostic>> {
        let target = self.text("target").unwrap_or_default();
        Ok(match kind {
            Kind::Bind => Mount::Bind {
                from: self.filled("from"),
                source: self.filled("source"),
                target,
                read_only: self.read_only(true)?,
            },
            Kind::Cache => Mount::Cache {
                id: self.filled("id"),
                target,
                from: self.filled("from"),
                source: self.filled("source"),
                sharing: match self.0.iter().rfind(|given| given.key == "sharing") {
                    None => Sharing::default(),
                    Some(given) => lookup(given, SHARING, Code::InvalidValue, "unknown cache sharing")?,
                },
                read_only: self.read_only(false)?,
                ownership: self.ownership()?,
            },
            Kind::Tmpfs => Mount::Tmpfs {
                target,
                size: match self.0.iter().rfind(|given| given.key == "size") {
                    None => 0,
                    Some(given) => {
                        let size = self.text("size").unwrap_or_default();
                        parse_size(&size).ok_or_else(|| invalid_value("size", &size, given.place()))?
                    }
                },
                read_only: self.read_only(false)?,
            },
            Kind::Secret => self.into_secret(span)?,
            Kind::Ssh => Mount::Ssh {
                id: self.filled("id"),
                target: self.filled("target"),
                required: self.bool("required")?,
                ownership: self.ownership()?,
            },
        })
    }

    fn into_secret(self, span: Span) -> Result<Mount, Box<Diagnostic>> {
        let (id, source) = (self.filled("id"), self.filled("source"));
        let (target, env) = (self.filled("target"), self.filled("env"));
        if id.is_some() && source.is_some() {
            return Err(invalid("a secret mount takes `id` or `source`, not both", span));
        }
        let last_part =
            |path: &String| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        let name = id.or(source).or_else(|| target.as_ref().map(last_part)).or_else(|| env.clone());
        let Some(id) = name.filter(|id| !id.is_empty()) else {
            return Err(Box::new(
                invalid("a secret mount needs the name of a secret", span).hint("add `id=NAME`"),
            ));
        };
        let target = match (target, &env) {
            (None, None) => Some(format!("/run/secrets/{}", last_part(&id))),
            (target, _) => target,
        };
        Ok(Mount::Secret { target, env, required: self.bool("required")?, ownership: self.ownership()?, id })
    }
}

/// Splits the comma-separated fields; a field in double quotes may hold commas, and `""` in it is a quote.
fn split_fields(value: &Word) -> Result<Vec<Word>, Box<Diagnostic>> {
    let text = value.text.as_str();
    if text.is_empty() {
        return Err(invalid("a mount needs options", value.span));
    }
    let exact = value.span.end - value.span.start == text.len();
    let place = |start: usize, end: usize| {
        if exact { Span::new(value.span.start + start, value.span.start + end) } else { value.span }
    };
    let mut fields = Vec::new();
    let mut position = 0;
    loop {
        let start = position;
        let mut field = String::new();
        if let Some(quoted) = text[start..].strip_prefix('"') {
            position += 1;
            let mut rest = quoted;
            loop {
                let length = rest
                    .find('"')
                    .ok_or_else(|| invalid("a quote is not closed", place(start, text.len())))?;
                field.push_str(&rest[..length]);
                rest = &rest[length + 1..];
                position += length + 1;
                if !rest.starts_with('"') {
                    break;
                }
                field.push('"');
                rest = &rest[1..];
                position += 1;
            }
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(invalid("text follows a closing quote", place(position, text.len())));
            }
        } else {
            let length = text[start..].find(',').unwrap_or(text.len() - start);
            field.push_str(&text[start..start + length]);
            position += length;
            if field.contains('"') {
                return Err(invalid("a quote stands inside a field", place(start, position)));
            }
        }
        fields.push(Word::new(field, place(start, position)));
        if position == text.len() {
            return Ok(fields);
        }
        position += 1;
    }
}

/// The spellings of a truth value that Go's `strconv.ParseBool` knows.
pub(crate) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A size in bytes with an optional binary unit: `512`, `64k`, `1.5g`, `2MiB`.
fn parse_size(text: &str) -> Option<u64> {
    let digits =
        text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start().to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let bytes = number * (1u64 << shift) as f64;
    (bytes.is_finite() && (0.0..9.0e18).contains(&bytes)).then_some(bytes as u64)
}
