//! Redirections.

use crate::ast::{Bytes, Redirection, RedirectionKind};
use crate::expand::Tilde;
use crate::shell::{Flow, Opt, Shell};
use crate::system::{self, Errno, O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, Step};

/// What a descriptor becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// A file that was opened for it.
    Opened(i32),
    /// The same as another.
    Same(i32),
    Closed,
}

/// Redirections that have been opened but not made: the shell makes them in itself, or in a child.
#[derive(Debug, Default)]
pub(crate) struct Opened(pub Vec<(i32, Source)>);

impl Opened {
    /// As what a child does.
    pub(crate) fn steps(&self) -> Vec<Step> {
        self.0
            .iter()
            .map(|(fd, source)| match source {
                Source::Opened(from) | Source::Same(from) => Step::Duplicate(*from, *fd),
                Source::Closed => Step::Close(*fd),
            })
            .collect()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for (_, source) in &self.0 {
            if let Source::Opened(fd) = source {
                system::close(*fd);
            }
        }
    }
}

/// What descriptors were before they were redirected: copies, `None` for one that was closed.
#[derive(Debug, Default)]
pub(crate) struct Saved(pub Vec<(i32, Option<i32>)>);

impl Saved {
    /// Keeps what a descriptor is, once.
    pub(crate) fn keep(&mut self, fd: i32) {
        if !self.0.iter().any(|(kept, _)| *kept == fd) {
            self.0.push((fd, system::save(fd).ok()));
        }
    }

    pub(crate) fn restore(self) {
        for (fd, copy) in self.0.into_iter().rev() {
            match copy {
                Some(copy) => {
                    let _ = system::duplicate(copy, fd);
                    system::close(copy);
                }
                None => system::close(fd),
            }
        }
    }

    /// Gives the copies up: the redirections stay.
    pub(crate) fn forget(self) {
        self.0.into_iter().filter_map(|(_, copy)| copy).for_each(system::close);
    }
}

/// What dash says of an error with a file.
pub(crate) fn describe(error: Errno, create: bool) -> String {
    match error.0 {
        2 | 20 if create => "Directory nonexistent".into(),
        2 | 20 => "No such file".into(),
        _ => message(error),
    }
}

/// The text of an errno.
pub(crate) fn message(error: Errno) -> String {
    let text = match error.0 {
        1 => "Operation not permitted",
        2 => "No such file or directory",
        3 => "No such process",
        5 => "Input/output error",
        6 => "No such device or address",
        7 => "Argument list too long",
        8 => "Exec format error",
        9 => "Bad file descriptor",
        10 => "No child processes",
        11 => "Resource temporarily unavailable",
        12 => "Cannot allocate memory",
        13 => "Permission denied",
        16 => "Device or resource busy",
        17 => "File exists",
        20 => "Not a directory",
        21 => "Is a directory",
        22 => "Invalid argument",
        23 => "Too many open files in system",
        24 => "Too many open files",
        26 => "Text file busy",
        27 => "File too large",
        28 => "No space left on device",
        30 => "Read-only file system",
        32 => "Broken pipe",
        36 => "File name too long",
        40 => "Too many levels of symbolic links",
        number => return format!("Error {number}"),
    };
    text.into()
}

impl Shell {
    /// Expands and opens redirections. `Ok(None)`: one failed, which has been said.
    pub(crate) fn open_redirections(&mut self, list: &[Redirection]) -> Result<Option<Opened>, Flow> {
        let mut opened = Opened::default();
        let mut expanded = Vec::with_capacity(list.len());
        for redirection in list {
            let tilde = if redirection.kind == RedirectionKind::Here { Tilde::Never } else { Tilde::Start };
            let text = self.expand_text(&redirection.word, tilde)?;
            if redirection.kind == RedirectionKind::Duplicate
                && *text != *b"-"
                && !matches!(&text[..], [b'0'..=b'9'])
            {
                return Err(self.error(b"Syntax error: Bad fd number"));
            }
            expanded.push((i32::from(redirection.fd), redirection.kind, text));
        }
        for (fd, kind, text) in expanded {
            let source = match self.source(kind, &text, &opened) {
                Ok(source) => source,
                Err(text) => {
                    self.warn(text.as_slice());
                    self.status = 2;
                    return Ok(None);
                }
            };
            opened.0.push((fd, source));
        }
        Ok(Some(opened))
    }

    fn source(&self, kind: RedirectionKind, text: &Bytes, before: &Opened) -> Result<Source, Vec<u8>> {
        let open = |flags: i64, create: bool| {
            system::open(text, flags, 0o666).map(Source::Opened).map_err(|error| {
                let verb = if create { &b"cannot create "[..] } else { b"cannot open " };
                [verb, text, b": ", describe(error, create).as_bytes()].concat()
            })
        };
        match kind {
            RedirectionKind::Read => open(O_RDONLY, false),
            RedirectionKind::ReadWrite => open(O_RDWR | O_CREAT, true),
            RedirectionKind::Append => open(O_WRONLY | O_CREAT | O_APPEND, true),
            RedirectionKind::Write if self.env.options.has(Opt::Noclobber) => {
                // Devices can be written to; a file that is there cannot.
                match system::stat(text) {
                    Ok(status) if status.is_regular() => {
                        Err([b"cannot create ", &text[..], b": File exists"].concat())
                    }
                    Ok(_) => open(O_WRONLY, true),
                    Err(_) => open(O_WRONLY | O_CREAT | O_EXCL, true),
                }
            }
            RedirectionKind::Write | RedirectionKind::Clobber => open(O_WRONLY | O_CREAT | O_TRUNC, true),
            RedirectionKind::Duplicate if **text == *b"-" => Ok(Source::Closed),
            RedirectionKind::Duplicate => {
                let from = i32::from(text[0] - b'0');
                let earlier = before.0.iter().rev().find(|(fd, _)| *fd == from);
                let open = match earlier {
                    Some((_, source)) => !matches!(source, Source::Closed),
                    None => system::is_open(from),
                };
                if open {
                    Ok(Source::Same(from))
                } else {
                    Err([text, &b": Bad file descriptor"[..]].concat())
                }
            }
            RedirectionKind::Here => {
                here(text).map(Source::Opened).map_err(|error| message(error).into_bytes())
            }
        }
    }

    /// Makes redirections in the shell itself.
    pub(crate) fn make(&mut self, opened: &Opened) -> Saved {
        let mut saved = Saved::default();
        for (fd, source) in &opened.0 {
            saved.keep(*fd);
            match source {
                Source::Opened(from) | Source::Same(from) => {
                    let _ = system::duplicate(*from, *fd);
                }
                Source::Closed => system::close(*fd),
            }
        }
        saved
    }

    /// Opens and makes redirections. `Ok(None)`: one failed.
    pub(crate) fn redirect(&mut self, list: &[Redirection]) -> Result<Option<Saved>, Flow> {
        if list.is_empty() {
            return Ok(Some(Saved::default()));
        }
        let Some(opened) = self.open_redirections(list)? else { return Ok(None) };
        Ok(Some(self.make(&opened)))
    }
}

/// A descriptor from which a text is read: a pipe when it holds the text, else a file in memory.
pub(crate) fn here(text: &[u8]) -> Result<i32, Errno> {
    if text.len() <= 4096 {
        let (reader, writer) = system::pipe()?;
        system::write(writer, text)?;
        system::close(writer);
        return Ok(reader);
    }
    let file = system::memory_file()?;
    let mut rest = text;
    while !rest.is_empty() {
        rest = &rest[system::write(file, rest)?..];
    }
    system::rewind(file)?;
    Ok(file)
}
