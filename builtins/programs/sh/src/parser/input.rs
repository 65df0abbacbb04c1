//! The text that is parsed: a string, or a descriptor that is read a line at a time.

use std::collections::HashMap;
use std::rc::Rc;

use crate::ast::Bytes;
use crate::system;

/// Names and texts of `alias`.
pub(crate) type Aliases = HashMap<Bytes, Bytes>;

/// An alias whose text is being read in place of its name.
#[derive(Debug)]
struct Replacement {
    name: Bytes,
    text: Bytes,
    position: usize,
}

/// A source of text.
#[derive(Debug)]
pub(crate) struct Input {
    text: Vec<u8>,
    position: usize,
    /// Where more text comes from. Nothing is read ahead of the line that is needed, since commands read the same descriptor.
    descriptor: Option<i32>,
    line: u32,
    replacements: Vec<Replacement>,
    /// An alias that ended with a blank: the next word may be an alias too.
    alias_continues: bool,
    aliases: Rc<Aliases>,
    /// Lines are shown as they are read: up to here, they were.
    verbose: bool,
    /// Only lines of files are shown.
    is_file: bool,
    shown: usize,
    /// Shown before a line is read from a terminal: at its start, then when a command goes on.
    prompts: Option<[Vec<u8>; 2]>,
    continues: bool,
}

impl Input {
    /// Text that is all there.
    pub(crate) fn text(text: &[u8]) -> Self {
        Self::of(text.to_vec(), None)
    }

    /// Text that a file had.
    pub(crate) fn file(text: Vec<u8>) -> Self {
        Self { is_file: true, ..Self::of(text, None) }
    }

    /// Text that a descriptor has.
    pub(crate) fn descriptor(fd: i32) -> Self {
        Self { is_file: true, ..Self::of(Vec::new(), Some(fd)) }
    }

    fn of(text: Vec<u8>, descriptor: Option<i32>) -> Self {
        Self {
            text,
            position: 0,
            descriptor,
            line: 1,
            replacements: Vec::new(),
            alias_continues: false,
            aliases: Rc::default(),
            verbose: false,
            is_file: false,
            shown: 0,
            prompts: None,
            continues: false,
        }
    }

    /// Text inside this one, with its line and its aliases.
    pub(super) fn inner(&self, text: &[u8]) -> Self {
        let mut inner = Self::text(text);
        inner.line = self.line;
        inner.aliases = self.aliases.clone();
        inner
    }

    /// The text, as one that begins in that line.
    pub(super) fn at_line(mut self, line: u32) -> Self {
        self.line = line;
        self
    }

    /// Sets what commands have changed since the last one was parsed.
    pub(crate) fn configure(&mut self, aliases: &Rc<Aliases>, verbose: bool, prompts: Option<[Vec<u8>; 2]>) {
        self.aliases = aliases.clone();
        self.verbose = verbose && self.is_file;
        self.prompts = prompts;
    }

    /// The line that is being read, from 1.
    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    /// Whether all text has been read.
    pub(crate) fn at_end(&mut self) -> bool {
        self.descriptor.is_none() && self.replacements.is_empty() && self.position >= self.text.len()
    }

    /// Gives up the rest of a line, after an error at a terminal.
    pub(crate) fn skip_line(&mut self) {
        self.replacements.clear();
        self.position = self.text.len();
    }

    pub(super) fn start_command(&mut self) {
        self.continues = false;
        if self.descriptor.is_some() && self.position == self.text.len() {
            self.text.clear();
            self.position = 0;
            self.shown = 0;
        }
    }

    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(replacement) = self.replacements.last() {
            if let Some(byte) = replacement.text.get(replacement.position) {
                return Some(*byte);
            }
            self.alias_continues = matches!(replacement.text.last(), Some(b' ' | b'\t'));
            self.replacements.pop();
        }
        if self.position >= self.text.len() {
            self.refill();
        }
        self.text.get(self.position).copied()
    }

    /// The byte after the next one, as far as it is known without reading more.
    pub(super) fn peek_second(&mut self) -> Option<u8> {
        self.peek()?;
        match self.replacements.last() {
            Some(replacement) => replacement.text.get(replacement.position + 1).copied(),
            None => self.text.get(self.position + 1).copied(),
        }
    }

    pub(super) fn bump(&mut self) {
        if let Some(replacement) = self.replacements.last_mut() {
            replacement.position += 1;
        } else if let Some(byte) = self.text.get(self.position) {
            self.line += u32::from(*byte == b'\n');
            if self.verbose && self.position >= self.shown {
                let rest = &self.text[self.position..];
                let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
                let _ = system::write(2, &rest[..length]);
                self.shown = self.position + length;
            }
            self.position += 1;
        }
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.bump();
        Some(byte)
    }

    /// The next byte, with `\` and newline taken away before it.
    pub(super) fn peek_joined(&mut self) -> Option<u8> {
        while self.peek() == Some(b'\\') && self.peek_second() == Some(b'\n') {
            self.bump();
            self.bump();
        }
        self.peek()
    }

    /// Puts the text of an alias in place of its name; not inside its own text.
    pub(super) fn push_alias(&mut self, name: &[u8]) -> bool {
        let Some((name, text)) = self.aliases.get_key_value(name) else { return false };
        if self.replacements.iter().any(|replacement| replacement.name == *name) {
            return false;
        }
        self.replacements.push(Replacement { name: name.clone(), text: text.clone(), position: 0 });
        true
    }

    /// Whether the blanks before the token that was just read ended an alias.
    pub(super) fn take_alias_continues(&mut self) -> bool {
        std::mem::take(&mut self.alias_continues)
    }

    fn refill(&mut self) {
        let Some(fd) = self.descriptor else { return };
        if let Some(prompts) = &self.prompts {
            let _ = system::write(2, &prompts[usize::from(self.continues)]);
            self.continues = true;
        }
        let mut byte = [0];
        loop {
            match system::read(fd, &mut byte) {
                Ok(1) => self.text.push(byte[0]),
                Err(system::EINTR) => continue,
                _ => {
                    self.descriptor = None;
                    return;
                }
            }
            if byte[0] == b'\n' {
                return;
            }
        }
    }
}
