//! The program as a tree.
//!
//! Everything is bytes, as in every file name and variable of Linux. The tree is what the parser makes, what is
//! executed, and what a copy of the shell is given when a process of its own is needed; it never changes.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

/// Bytes that are shared instead of copied.
pub(crate) type Bytes = Rc<[u8]>;

/// A command of any kind.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Node {
    /// Assignments, words, redirections.
    Simple(Simple),
    /// Two or more commands, joined by `|`.
    Pipeline(Vec<Rc<Node>>),
    /// Commands joined by `&&` and `||`, which bind alike and from the left.
    AndOr(Box<Node>, Vec<(Connector, Node)>),
    /// Commands one after the other.
    List(Vec<Node>),
    /// `! command`.
    Not(Box<Node>),
    /// `command &`
    Background(Rc<Node>),
    /// A compound command with redirections.
    Redirected { line: u32, body: Box<Node>, redirections: Vec<Redirection> },
    /// `( list )`.
    Subshell { line: u32, body: Rc<Node>, redirections: Vec<Redirection> },
    /// `if`: conditions with their lists, and what `else` has.
    If(Vec<(Node, Node)>, Option<Box<Node>>),
    /// `while` and `until`.
    Loop { until: bool, condition: Box<Node>, body: Box<Node> },
    /// `for`; without `in`, over the positional parameters.
    For { line: u32, name: Bytes, words: Option<Vec<Word>>, body: Box<Node> },
    /// `case`.
    Case { line: u32, word: Word, arms: Vec<(Vec<Word>, Option<Node>)> },
    /// `name() body`.
    Function { name: Bytes, body: Rc<Node> },
}

/// What joins two commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Connector {
    /// `&&`
    And,
    /// `||`
    Or,
}

/// A simple command.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Simple {
    pub line: u32,
    pub assignments: Vec<(Bytes, Word)>,
    pub words: Vec<Word>,
    pub redirections: Vec<Redirection>,
}

/// A redirection of descriptor `fd`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Redirection {
    pub fd: u8,
    pub kind: RedirectionKind,
    pub word: Word,
}

/// What a redirection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RedirectionKind {
    /// `<`
    Read,
    /// `>`
    Write,
    /// `>|`
    Clobber,
    /// `>>`
    Append,
    /// `<>`
    ReadWrite,
    /// `<&` and `>&`, which do the same
    Duplicate,
    /// `<<` and `<<-`: the word is the text
    Here,
}

/// A word: parts that stand side by side.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Word(pub Vec<Part>);

/// A piece of a word.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Text without quotes; `true` when it has bytes that pathname or tilde expansion may look at.
    Plain(Bytes, bool),
    /// Text with quotes; when empty, a field of its own all the same.
    Quoted(Bytes),
    /// A parameter; `quoted` between double quotes.
    Parameter { quoted: bool, name: Parameter, operation: Operation },
    /// `$(...)` and backquotes.
    Command { quoted: bool, body: Option<Rc<Node>> },
    /// `$((...))`.
    Arithmetic { quoted: bool, word: Word },
}

/// The name of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Parameter {
    /// A variable.
    Variable(Bytes),
    /// `$1`, `${10}`
    Positional(usize),
    /// `$@ $* $# $? $- $$ $! $0`
    Special(u8),
}

/// What `${...}` does with its parameter.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Operation {
    /// `$name`
    None,
    /// `${#name}`
    Length,
    /// `${name-word}`; `colon` in each: an empty value counts as none
    Default { colon: bool, word: Word },
    /// `${name=word}`
    Assign { colon: bool, word: Word },
    /// `${name?word}`
    Error { colon: bool, word: Word },
    /// `${name+word}`
    Alternative { colon: bool, word: Word },
    /// `${name#word}`, `${name##word}`
    TrimStart { longest: bool, word: Word },
    /// `${name%word}`, `${name%%word}`
    TrimEnd { longest: bool, word: Word },
    /// What is no parameter expansion at all: an error when it is expanded.
    Bad,
}

impl Word {
    /// The text of a word that is plain text alone.
    pub(crate) fn literal(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [Part::Plain(text, _)] => Some(text),
            _ => None,
        }
    }
}

/// Whether `text` is a name: letters, digits, underscores, no digit first.
pub(crate) fn is_name(text: &[u8]) -> bool {
    name_length(text) == text.len() && !text.is_empty()
}

/// How many bytes of `text`, from its start, are a name.
pub(crate) fn name_length(text: &[u8]) -> usize {
    if text.first().is_some_and(u8::is_ascii_digit) {
        return 0;
    }
    text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count()
}
