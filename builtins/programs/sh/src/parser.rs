//! From text to tree, a complete command at a time.
//!
//! The grammar is that of POSIX, chapter 2.10, and where POSIX leaves it open, dash's. A command is parsed when it is
//! about to run, because it may depend on those before it: aliases take effect on the next line, and an error in line 10 does not keep lines 1
//! to 9 from running. The parser of bash that Cooper's design named first, `brush-parser`, parses a whole program at
//! once, into strings of UTF-8, and takes syntax of bash for what it is not in `sh`; so this is a parser of its own.
//!
//! Nesting is bounded ([`MAX_DEPTH`]), for each level is a level of the stack, here and when the tree is run.

mod input;
mod word;

use std::rc::Rc;

pub(crate) use input::{Aliases, Input};

use crate::ast::{Bytes, Connector, Node, Part, Redirection, RedirectionKind, Simple, Word, is_name};

/// How deep commands, substitutions and quotes may be nested in one another.
pub(crate) const MAX_DEPTH: u32 = 200;

/// What is wrong with the text, and in which line.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub line: u32,
    pub message: Vec<u8>,
}

type Result<T> = std::result::Result<T, SyntaxError>;

/// The words that are part of the grammar where a command may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyword {
    Not,
    Case,
    Do,
    Done,
    Elif,
    Else,
    Esac,
    Fi,
    For,
    If,
    In,
    Then,
    Until,
    While,
    Open,
    Close,
}

const KEYWORDS: [(&str, Keyword); 16] = [
    ("!", Keyword::Not),
    ("case", Keyword::Case),
    ("do", Keyword::Do),
    ("done", Keyword::Done),
    ("elif", Keyword::Elif),
    ("else", Keyword::Else),
    ("esac", Keyword::Esac),
    ("fi", Keyword::Fi),
    ("for", Keyword::For),
    ("if", Keyword::If),
    ("in", Keyword::In),
    ("then", Keyword::Then),
    ("until", Keyword::Until),
    ("while", Keyword::While),
    ("{", Keyword::Open),
    ("}", Keyword::Close),
];

/// Whether `text` is a word of the grammar, as `command -v` and `type` ask.
pub(crate) fn is_keyword(text: &[u8]) -> bool {
    KEYWORDS.iter().any(|(word, _)| word.as_bytes() == text)
}

#[derive(Debug)]
enum Token {
    End,
    Newline,
    Semicolon,
    Background,
    And,
    Or,
    Pipe,
    Open,
    Close,
    EndCase,
    Keyword(Keyword),
    Word { word: Word, quoted: bool },
    Redirection { fd: Option<u8>, operator: Operator },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    /// The descriptor it is about when it names none.
    File {
        kind: RedirectionKind,
        fd: u8,
    },
    Here {
        strip: bool,
    },
}

impl Token {
    fn name(&self) -> String {
        let text = match self {
            Self::End => return "end of file".into(),
            Self::Newline => return "newline".into(),
            Self::Word { .. } => return "word".into(),
            Self::Redirection { .. } => return "redirection".into(),
            Self::Semicolon => ";",
            Self::Background => "&",
            Self::And => "&&",
            Self::Or => "||",
            Self::Pipe => "|",
            Self::Open => "(",
            Self::Close => ")",
            Self::EndCase => ";;",
            Self::Keyword(keyword) => {
                KEYWORDS.iter().find(|(_, other)| other == keyword).map_or("", |(text, _)| *text)
            }
        };
        format!("\"{text}\"")
    }

    fn is(&self, keyword: Keyword) -> bool {
        matches!(self, Self::Keyword(other) if *other == keyword)
    }
}

/// What the next token may be, besides itself.
#[derive(Clone, Copy, Default)]
struct Expect {
    keywords: bool,
    aliases: bool,
    newlines: bool,
}

const COMMAND: Expect = Expect { keywords: true, aliases: true, newlines: false };
const COMMAND_AFTER_NEWLINES: Expect = Expect { newlines: true, ..COMMAND };
const KEYWORD_AFTER_NEWLINES: Expect = Expect { keywords: true, aliases: false, newlines: true };
const WORD: Expect = Expect { keywords: false, aliases: false, newlines: false };

/// A here-document whose text has not been read yet, because it begins after the next newline.
struct PendingHere {
    delimiter: Vec<u8>,
    quoted: bool,
    strip: bool,
    slot: usize,
}

/// Parses commands from an [`Input`].
pub(crate) struct Parser<'a> {
    input: &'a mut Input,
    pushed_back: Option<Token>,
    depth: u32,
    pending: Vec<PendingHere>,
    /// The texts of here-documents, by slot; put into the tree when the command is complete.
    texts: Vec<Word>,
}

/// The next complete command: `None` at the end of the text; an empty list for an empty line.
pub(crate) fn parse(input: &mut Input) -> Result<Option<Node>> {
    let mut parser = Parser { input, pushed_back: None, depth: 0, pending: Vec::new(), texts: Vec::new() };
    parser.input.start_command();
    let mut node = match parser.next(COMMAND)? {
        Token::End => return Ok(None),
        Token::Newline => return Ok(Some(Node::List(Vec::new()))),
        token => {
            parser.push_back(token);
            parser.list(Ends::Newline)?
        }
    };
    parser.fill_here_documents(&mut node);
    Ok(Some(node))
}

/// Parses a text that stands between double quotes, as a here-document does: for `PS1` and `PS4`.
pub(crate) fn parse_quoted(text: &[u8]) -> Result<Word> {
    let mut input = Input::text(text);
    let mut parser =
        Parser { input: &mut input, pushed_back: None, depth: 0, pending: Vec::new(), texts: Vec::new() };
    parser.here_text()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// The list is a command of its own.
    Newline,
    /// The list is part of something that ends with a word of the grammar.
    Keyword { empty: bool },
}

impl Parser<'_> {
    fn error<T>(&self, message: impl Into<Vec<u8>>) -> Result<T> {
        Err(SyntaxError { line: self.input.line(), message: message.into() })
    }

    fn unexpected<T>(&self, found: &Token) -> Result<T> {
        self.error(format!("{} unexpected", found.name()))
    }

    fn expected<T>(&self, found: &Token, wanted: &Token) -> Result<T> {
        self.error(format!("{} unexpected (expecting {})", found.name(), wanted.name()))
    }

    fn push_back(&mut self, token: Token) {
        self.pushed_back = Some(token);
    }

    fn require(&mut self, keyword: Keyword) -> Result<()> {
        match self.next(KEYWORD_AFTER_NEWLINES)? {
            token if token.is(keyword) => Ok(()),
            token => self.expected(&token, &Token::Keyword(keyword)),
        }
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return self.error("nested too deeply");
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// The next token, seen as the place wants it seen.
    fn next(&mut self, expect: Expect) -> Result<Token> {
        loop {
            let mut aliases = expect.aliases;
            let token = match self.pushed_back.take() {
                Some(token) => token,
                None => {
                    let token = self.read_token()?;
                    aliases |= self.input.take_alias_continues();
                    token
                }
            };
            if expect.newlines && matches!(token, Token::Newline) {
                continue;
            }
            let Token::Word { word, quoted: false } = &token else { return Ok(token) };
            let Some(text) = word.literal() else { return Ok(token) };
            if expect.keywords
                && let Some((_, keyword)) = KEYWORDS.iter().find(|(name, _)| name.as_bytes() == text)
            {
                return Ok(Token::Keyword(*keyword));
            }
            if aliases && self.input.push_alias(text) {
                continue;
            }
            return Ok(token);
        }
    }

    fn list(&mut self, ends: Ends) -> Result<Node> {
        let expect = if ends == Ends::Newline { COMMAND } else { COMMAND_AFTER_NEWLINES };
        let mut commands = Vec::new();
        loop {
            match self.next(expect)? {
                Token::Newline => break,
                token => {
                    let over = match ends {
                        Ends::Newline => matches!(token, Token::End),
                        Ends::Keyword { empty } => {
                            matches!(token, Token::End)
                                || ((empty || !commands.is_empty()) && ends_list(&token))
                        }
                    };
                    self.push_back(token);
                    if over {
                        break;
                    }
                }
            }
            let command = self.and_or()?;
            let token = self.next(WORD)?;
            commands.push(if matches!(token, Token::Background) {
                Node::Background(Rc::new(command))
            } else {
                command
            });
            match token {
                Token::Semicolon | Token::Background => {}
                token @ (Token::Newline | Token::End) => self.push_back(token),
                token if ends == Ends::Newline => return self.unexpected(&token),
                token => {
                    self.push_back(token);
                    break;
                }
            }
        }
        Ok(match commands.len() {
            1 => commands.remove(0),
            _ => Node::List(commands),
        })
    }

    fn and_or(&mut self) -> Result<Node> {
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            let connector = match self.next(WORD)? {
                Token::And => Connector::And,
                Token::Or => Connector::Or,
                token => {
                    self.push_back(token);
                    break;
                }
            };
            let token = self.next(COMMAND_AFTER_NEWLINES)?;
            self.push_back(token);
            rest.push((connector, self.pipeline()?));
        }
        Ok(if rest.is_empty() { first } else { Node::AndOr(Box::new(first), rest) })
    }

    fn pipeline(&mut self) -> Result<Node> {
        let token = self.next(COMMAND)?;
        let negate = token.is(Keyword::Not);
        if !negate {
            self.push_back(token);
        }
        let mut commands = vec![self.nested(Self::command)?];
        loop {
            match self.next(WORD)? {
                Token::Pipe => {
                    let token = self.next(COMMAND_AFTER_NEWLINES)?;
                    self.push_back(token);
                    commands.push(self.nested(Self::command)?);
                }
                token => {
                    self.push_back(token);
                    break;
                }
            }
        }
        let node = if commands.len() == 1 {
            commands.remove(0)
        } else {
            Node::Pipeline(commands.into_iter().map(Rc::new).collect())
        };
        Ok(if negate { Node::Not(Box::new(node)) } else { node })
    }

    fn command(&mut self) -> Result<Node> {
        let line = self.input.line();
        let node = match self.next(COMMAND)? {
            Token::Keyword(Keyword::If) => self.if_command()?,
            Token::Keyword(keyword @ (Keyword::While | Keyword::Until)) => {
                let condition = Box::new(self.list_until_keyword()?);
                self.require(Keyword::Do)?;
                let body = Box::new(self.list_until_keyword()?);
                self.require(Keyword::Done)?;
                Node::Loop { until: keyword == Keyword::Until, condition, body }
            }
            Token::Keyword(Keyword::For) => self.for_command()?,
            Token::Keyword(Keyword::Case) => self.case_command()?,
            Token::Keyword(Keyword::Open) => {
                let body = self.list_until_keyword()?;
                self.require(Keyword::Close)?;
                body
            }
            Token::Open => {
                let body = Rc::new(self.list_until_keyword()?);
                match self.next(KEYWORD_AFTER_NEWLINES)? {
                    Token::Close => {}
                    token => return self.expected(&token, &Token::Close),
                }
                Node::Subshell { line, body, redirections: Vec::new() }
            }
            token @ (Token::Word { .. } | Token::Redirection { .. }) => {
                self.push_back(token);
                return self.simple_command();
            }
            token => return self.unexpected(&token),
        };
        let redirections = self.redirections()?;
        Ok(match node {
            Node::Subshell { line, body, .. } => Node::Subshell { line, body, redirections },
            node if redirections.is_empty() => node,
            node => Node::Redirected { line, body: Box::new(node), redirections },
        })
    }

    /// The list inside a compound command: at least one command.
    fn list_until_keyword(&mut self) -> Result<Node> {
        self.list(Ends::Keyword { empty: false })
    }

    fn redirections(&mut self) -> Result<Vec<Redirection>> {
        let mut redirections = Vec::new();
        loop {
            match self.next(Expect { keywords: true, aliases: true, newlines: false })? {
                Token::Redirection { fd, operator } => redirections.push(self.redirection(fd, operator)?),
                token => {
                    self.push_back(token);
                    return Ok(redirections);
                }
            }
        }
    }

    fn if_command(&mut self) -> Result<Node> {
        let mut arms = Vec::new();
        loop {
            let condition = self.list_until_keyword()?;
            self.require(Keyword::Then)?;
            arms.push((condition, self.list_until_keyword()?));
            match self.next(KEYWORD_AFTER_NEWLINES)? {
                Token::Keyword(Keyword::Elif) => {}
                Token::Keyword(Keyword::Else) => {
                    let body = self.list_until_keyword()?;
                    self.require(Keyword::Fi)?;
                    return Ok(Node::If(arms, Some(Box::new(body))));
                }
                token if token.is(Keyword::Fi) => return Ok(Node::If(arms, None)),
                token => return self.expected(&token, &Token::Keyword(Keyword::Fi)),
            }
        }
    }

    fn for_command(&mut self) -> Result<Node> {
        let name = match self.next(WORD)? {
            Token::Word { word, quoted: false } if word.literal().is_some_and(is_name) => {
                Bytes::from(word.literal().unwrap_or_default())
            }
            _ => return self.error("Bad for loop variable"),
        };
        let line = self.input.line();
        let token = self.next(KEYWORD_AFTER_NEWLINES)?;
        let mut words = None;
        match token {
            Token::Keyword(Keyword::In) => {
                let mut list = Vec::new();
                loop {
                    match self.next(WORD)? {
                        Token::Word { word, .. } => list.push(word),
                        Token::Semicolon | Token::Newline => break,
                        token => return self.unexpected(&token),
                    }
                }
                words = Some(list);
            }
            Token::Semicolon => {}
            token => self.push_back(token),
        }
        self.require(Keyword::Do)?;
        let body = Box::new(self.list_until_keyword()?);
        self.require(Keyword::Done)?;
        Ok(Node::For { line, name, words, body })
    }

    fn case_command(&mut self) -> Result<Node> {
        let line = self.input.line();
        let word = match self.next(WORD)? {
            Token::Word { word, .. } => word,
            token => return self.expected(&token, &Token::Word { word: Word::default(), quoted: false }),
        };
        self.require(Keyword::In)?;
        let mut arms = Vec::new();
        let mut token = self.next(KEYWORD_AFTER_NEWLINES)?;
        while !token.is(Keyword::Esac) {
            if matches!(token, Token::Open) {
                token = self.next(WORD)?;
            }
            let mut patterns = Vec::new();
            loop {
                match token {
                    Token::Word { word, .. } => patterns.push(word),
                    Token::Keyword(_) => {
                        let text = token.name();
                        let text = text.trim_matches('"').as_bytes();
                        patterns.push(Word(vec![Part::Plain(text.into(), false)]));
                    }
                    token => return self.expected(&token, &Token::Close),
                }
                match self.next(WORD)? {
                    Token::Pipe => token = self.next(WORD)?,
                    Token::Close => break,
                    token => return self.expected(&token, &Token::Close),
                }
            }
            let body = self.list(Ends::Keyword { empty: true })?;
            let empty = matches!(&body, Node::List(commands) if commands.is_empty());
            arms.push((patterns, (!empty).then_some(body)));
            token = self.next(KEYWORD_AFTER_NEWLINES)?;
            if matches!(token, Token::EndCase) {
                token = self.next(KEYWORD_AFTER_NEWLINES)?;
            } else if !token.is(Keyword::Esac) {
                return self.expected(&token, &Token::EndCase);
            }
        }
        Ok(Node::Case { line, word, arms })
    }

    fn simple_command(&mut self) -> Result<Node> {
        let mut simple = Simple { line: self.input.line(), ..Simple::default() };
        loop {
            let first = simple.words.is_empty();
            let token = self.next(Expect { aliases: first, ..WORD })?;
            match token {
                Token::Word { word, .. } => {
                    if first {
                        simple.line =
                            if simple.assignments.is_empty() { self.input.line() } else { simple.line };
                    }
                    match if first { assignment(&word) } else { None } {
                        Some(length) => simple.assignments.push(split_assignment(word, length)),
                        None => simple.words.push(word),
                    }
                }
                Token::Redirection { fd, operator } => {
                    simple.redirections.push(self.redirection(fd, operator)?)
                }
                Token::Open
                    if simple.words.len() == 1
                        && simple.assignments.is_empty()
                        && simple.redirections.is_empty() =>
                {
                    match self.next(WORD)? {
                        Token::Close => {}
                        token => return self.expected(&token, &Token::Close),
                    }
                    let Some(name) = simple.words[0].literal().filter(|name| is_name(name)) else {
                        return self.error("Bad function name");
                    };
                    if crate::builtins::is_special(name) {
                        return self.error("Bad function name");
                    }
                    let name = Bytes::from(name);
                    let token = self.next(COMMAND_AFTER_NEWLINES)?;
                    self.push_back(token);
                    let body = Rc::new(self.nested(Self::command)?);
                    return Ok(Node::Function { name, body });
                }
                token => {
                    self.push_back(token);
                    return Ok(Node::Simple(simple));
                }
            }
        }
    }

    fn redirection(&mut self, fd: Option<u8>, operator: Operator) -> Result<Redirection> {
        let (word, quoted) = match self.next(WORD)? {
            Token::Word { word, quoted } => (word, quoted),
            token => return self.unexpected(&token),
        };
        match operator {
            Operator::File { kind, fd: usual } => Ok(Redirection { fd: fd.unwrap_or(usual), kind, word }),
            Operator::Here { strip } => {
                let slot = self.texts.len();
                self.texts.push(Word::default());
                let delimiter = word::source_text(&word);
                self.pending.push(PendingHere { delimiter, quoted, strip, slot });
                let word = Word(vec![Part::Parameter {
                    quoted: true,
                    name: crate::ast::Parameter::Positional(slot),
                    operation: crate::ast::Operation::Bad,
                }]);
                Ok(Redirection { fd: fd.unwrap_or(0), kind: RedirectionKind::Here, word })
            }
        }
    }

    /// Reads the texts of the here-documents that the line before has begun.
    fn read_pending(&mut self) -> Result<()> {
        for here in std::mem::take(&mut self.pending) {
            let text = self.here_document(&here)?;
            self.texts[here.slot] = text;
        }
        Ok(())
    }

    fn fill_here_documents(&mut self, node: &mut Node) {
        if !self.texts.is_empty() {
            let texts = &mut self.texts;
            visit_redirections(node, &mut |redirection| {
                if redirection.kind == RedirectionKind::Here
                    && let [Part::Parameter { name: crate::ast::Parameter::Positional(slot), .. }] =
                        redirection.word.0.as_slice()
                    && let Some(text) = texts.get_mut(*slot)
                {
                    redirection.word = std::mem::take(text);
                }
            });
        }
    }
}

fn ends_list(token: &Token) -> bool {
    use Keyword::{Close, Do, Done, Elif, Else, Esac, Fi, Then};
    matches!(token, Token::Close | Token::EndCase | Token::End)
        || matches!(token, Token::Keyword(Close | Do | Done | Elif | Else | Esac | Fi | Then))
}

/// The length of the name when the word is an assignment.
fn assignment(word: &Word) -> Option<usize> {
    let Some(Part::Plain(text, _)) = word.0.first() else { return None };
    let length = crate::ast::name_length(text);
    (length > 0 && text.get(length) == Some(&b'=')).then_some(length)
}

fn split_assignment(word: Word, length: usize) -> (Bytes, Word) {
    let mut parts = word.0;
    let Some(Part::Plain(text, special)) = parts.first() else { return (Bytes::from(&b""[..]), Word(parts)) };
    let name = Bytes::from(&text[..length]);
    let rest = &text[length + 1..];
    if rest.is_empty() {
        parts.remove(0);
    } else {
        parts[0] = Part::Plain(rest.into(), *special);
    }
    (name, Word(parts))
}

/// Calls `visit` for each redirection of a tree that is still being built, but for those of command substitutions, which were
/// complete when they were parsed.
fn visit_redirections(node: &mut Node, visit: &mut dyn FnMut(&mut Redirection)) {
    let shared = |body: &mut Rc<Node>, visit: &mut dyn FnMut(&mut Redirection)| {
        if let Some(node) = Rc::get_mut(body) {
            visit_redirections(node, visit);
        }
    };
    match node {
        Node::Simple(simple) => simple.redirections.iter_mut().for_each(visit),
        Node::Pipeline(nodes) => nodes.iter_mut().for_each(|node| shared(node, visit)),
        Node::List(nodes) => nodes.iter_mut().for_each(|node| visit_redirections(node, visit)),
        Node::AndOr(first, rest) => {
            visit_redirections(first, visit);
            rest.iter_mut().for_each(|(_, node)| visit_redirections(node, visit));
        }
        Node::Background(body) | Node::Function { body, .. } => shared(body, visit),
        Node::Redirected { body, redirections, .. } => {
            visit_redirections(body, visit);
            redirections.iter_mut().for_each(visit);
        }
        Node::Subshell { body, redirections, .. } => {
            shared(body, visit);
            redirections.iter_mut().for_each(visit);
        }
        Node::If(arms, rest) => {
            for (condition, body) in arms {
                visit_redirections(condition, visit);
                visit_redirections(body, visit);
            }
            if let Some(body) = rest {
                visit_redirections(body, visit);
            }
        }
        Node::Loop { condition, body, .. } => {
            visit_redirections(condition, visit);
            visit_redirections(body, visit);
        }
        Node::Not(body) | Node::For { body, .. } => visit_redirections(body, visit),
        Node::Case { arms, .. } => {
            arms.iter_mut()
                .filter_map(|(_, body)| body.as_mut())
                .for_each(|body| visit_redirections(body, visit));
        }
    }
}
