//! Running a tree.
//!
//! The rules of `set -e` and of what a redirection error ends are dash's.

use std::rc::Rc;

use crate::ast::{Bytes, Connector, Node, Simple};
use crate::builtins::{self, Builtin};
use crate::expand::Tilde;
use crate::parser::{self, Input};
use crate::pattern;
use crate::redirect::Saved;
use crate::shell::{Flow, Function, Locals, Opt, Shell};
use crate::system;

/// How deep commands may run inside one another: each level takes stack.
const MAX_DEPTH: u32 = 5000;
/// How deep functions may call one another, as in dash.
const MAX_FUNCTIONS: u32 = 1000;

/// How a command is run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    /// Its status is looked at by another command, so `set -e` does not apply.
    pub tested: bool,
    /// Nothing runs after it, so a program may take the shell's place.
    pub exit: bool,
}

const TESTED: Flags = Flags { tested: true, exit: false };

impl Flags {
    fn inner(self) -> Self {
        Self { exit: false, ..self }
    }
}

impl Shell {
    /// Reads commands and runs them one by one.
    pub(crate) fn run_input(&mut self, input: &mut Input, flags: Flags) -> Result<(), Flow> {
        let mut empty = true;
        loop {
            let prompts = self.interactive.then(|| self.prompts());
            input.configure(&self.env.aliases, self.env.options.has(Opt::Verbose), prompts);
            match parser::parse(input) {
                Ok(None) => break,
                Ok(Some(Node::List(nodes))) if nodes.is_empty() => {}
                Ok(Some(node)) => {
                    empty = false;
                    let flags = Flags { exit: flags.exit && input.at_end(), ..flags };
                    self.evaluate(&node, flags)?;
                }
                Err(error) => {
                    self.line = error.line;
                    let message = [b"Syntax error: ", &error.message[..]].concat();
                    return Err(self.error(&message));
                }
            }
        }
        if empty {
            self.status = 0;
        }
        Ok(())
    }

    fn prompts(&mut self) -> [Vec<u8>; 2] {
        [&b"PS1"[..], b"PS2"].map(|name| self.expand_prompt(name))
    }

    /// The value of `PS1`, `PS2` or `PS4`, expanded.
    fn expand_prompt(&mut self, name: &[u8]) -> Vec<u8> {
        let Some(value) = self.variable(name) else { return Vec::new() };
        if !value.iter().any(|byte| matches!(byte, b'$' | b'`' | b'\\')) {
            return value.to_vec();
        }
        // The expansion must not show itself.
        let options = self.env.options;
        self.env.options.set(Opt::Xtrace, false);
        let expanded =
            parser::parse_quoted(&value).ok().and_then(|word| self.expand_text(&word, Tilde::Never).ok());
        self.env.options = options;
        expanded.map_or_else(|| value.to_vec(), |text| text.to_vec())
    }

    /// Runs a command; its status is in `status`.
    pub(crate) fn evaluate(&mut self, node: &Node, flags: Flags) -> Result<(), Flow> {
        if self.depth >= MAX_DEPTH || system::stack_used(self.stack) > self.stack_limit {
            return Err(self.error(b"commands nested too deeply"));
        }
        self.depth += 1;
        let result = self.evaluate_node(node, flags);
        self.depth -= 1;
        result
    }

    fn evaluate_node(&mut self, node: &Node, flags: Flags) -> Result<(), Flow> {
        self.run_traps()?;
        if self.env.options.has(Opt::Noexec) && !self.interactive {
            return Ok(());
        }
        let mut checked = false;
        match node {
            Node::Simple(simple) => {
                checked = true;
                self.simple(simple, flags)?;
            }
            Node::List(nodes) => {
                for (at, node) in nodes.iter().enumerate() {
                    self.evaluate(node, if at + 1 == nodes.len() { flags } else { flags.inner() })?;
                }
            }
            Node::AndOr(first, rest) => {
                self.evaluate(first, TESTED)?;
                for (at, (connector, node)) in rest.iter().enumerate() {
                    if (self.status == 0) == (*connector == Connector::And) {
                        self.evaluate(node, if at + 1 == rest.len() { flags } else { TESTED })?;
                    }
                }
            }
            Node::Not(body) => {
                self.evaluate(body, TESTED)?;
                self.status = i32::from(self.status == 0);
            }
            Node::Pipeline(nodes) => {
                checked = true;
                self.pipeline(nodes, flags)?;
            }
            Node::Background(body) => self.background(body)?,
            Node::Redirected { line, body, redirections } => {
                self.set_line(*line);
                match self.redirect(redirections)? {
                    None => checked = true,
                    Some(saved) => {
                        let result = self.evaluate(body, flags.inner());
                        saved.restore();
                        result?;
                    }
                }
            }
            Node::Subshell { line, body, redirections } => {
                checked = true;
                self.set_line(*line);
                self.subshell(body, redirections, flags)?;
            }
            Node::If(arms, rest) => {
                let mut taken = None;
                for (condition, body) in arms {
                    self.evaluate(condition, TESTED)?;
                    if self.status == 0 {
                        taken = Some(body);
                        break;
                    }
                }
                match taken.or(rest.as_deref()) {
                    Some(body) => self.evaluate(body, flags)?,
                    None => self.status = 0,
                }
            }
            Node::Loop { until, condition, body } => self.repeat(*until, condition, body, flags.inner())?,
            Node::For { line, name, words, body } => {
                self.set_line(*line);
                let mut values = Vec::new();
                match words {
                    Some(words) => self.expand_words(words, &mut values)?,
                    None => values.extend(self.env.positional.iter().cloned()),
                }
                self.status = 0;
                self.env.loop_depth += 1;
                let result = values.into_iter().try_for_each(|value| {
                    self.set_variable(name, value)?;
                    let result = self.evaluate(body, flags.inner());
                    self.loop_flow(result)
                });
                self.env.loop_depth -= 1;
                end_loop(result)?;
            }
            Node::Case { line, word, arms } => {
                self.set_line(*line);
                let text = self.expand_text(word, Tilde::Start)?;
                let mut chosen = None;
                'arms: for (patterns, body) in arms {
                    for pattern in patterns {
                        let pattern = self.expand_pattern(pattern)?;
                        if pattern::matches(&pattern, &text) {
                            chosen = Some(body);
                            break 'arms;
                        }
                    }
                }
                match chosen {
                    Some(Some(body)) => self.evaluate(body, flags)?,
                    _ => self.status = 0,
                }
            }
            Node::Function { name, body } => {
                let function = Rc::new(Function::new(body.clone()));
                Rc::make_mut(&mut self.env.functions).insert(name.clone(), function);
                self.status = 0;
            }
        }
        self.run_traps()?;
        if checked && self.status != 0 && !flags.tested && self.env.options.has(Opt::Errexit) {
            return Err(Flow::Exit);
        }
        Ok(())
    }

    /// Sets the line for messages.
    pub(crate) fn set_line(&mut self, line: u32) {
        self.line = line;
    }

    fn repeat(&mut self, until: bool, condition: &Node, body: &Node, flags: Flags) -> Result<(), Flow> {
        let mut status = 0;
        self.env.loop_depth += 1;
        let result = loop {
            let result = self.evaluate(condition, TESTED);
            if let Err(flow) = self.loop_flow(result) {
                break Err(flow);
            }
            if (self.status == 0) == until {
                break Ok(());
            }
            let result = self.evaluate(body, flags);
            if let Err(flow) = self.loop_flow(result) {
                status = self.status;
                break Err(flow);
            }
            status = self.status;
        };
        self.env.loop_depth -= 1;
        if result.is_ok() || matches!(result, Err(Flow::Break(_) | Flow::Continue(_))) {
            self.status = status;
        }
        end_loop(result)
    }

    /// Goes on after a `continue` of this loop.
    fn loop_flow(&mut self, result: Result<(), Flow>) -> Result<(), Flow> {
        match result {
            Err(Flow::Continue(1)) => Ok(()),
            other => other,
        }
    }

    fn simple(&mut self, simple: &Simple, flags: Flags) -> Result<(), Flow> {
        self.set_line(simple.line);
        self.substitution_status = 0;
        let mut words: Vec<Bytes> = Vec::with_capacity(simple.words.len());
        let mut rest = simple.words.iter();
        // The first field decides how the others are expanded.
        for word in rest.by_ref() {
            self.expand_word(word, Tilde::Start, &mut words)?;
            if !words.is_empty() {
                break;
            }
        }
        let Some(first) = words.first() else { return self.assign_only(simple) };
        let mut tilde = Tilde::Start;
        if matches!(&first[..], b"export" | b"readonly" | b"local" | b"command") {
            tilde = Tilde::Argument;
        }
        for word in rest {
            let assigns = tilde == Tilde::Argument && looks_like_assignment(word);
            if assigns {
                words.push(self.expand_text(word, Tilde::Argument)?);
            } else {
                self.expand_word(word, Tilde::Start, &mut words)?;
            }
        }
        self.run_words(simple, words, flags)
    }

    /// Assignments without a command: they stay.
    fn assign_only(&mut self, simple: &Simple) -> Result<(), Flow> {
        let Some(saved) = self.redirect(&simple.redirections)? else { return Ok(()) };
        let result = self.assign(simple, &[], &saved, |shell, name, value| shell.set_variable(name, value));
        saved.restore();
        result?;
        self.status = self.substitution_status;
        Ok(())
    }

    /// Expands assignments one after the other, sets each, and shows the command with `set -x`.
    fn assign(
        &mut self,
        simple: &Simple,
        words: &[Bytes],
        saved: &Saved,
        mut set: impl FnMut(&mut Self, &[u8], Bytes) -> Result<(), Flow>,
    ) -> Result<(), Flow> {
        let trace = self.env.options.has(Opt::Xtrace);
        let mut line = Vec::new();
        for (name, word) in &simple.assignments {
            let value = self.expand_text(word, Tilde::Value)?;
            if trace {
                line.push([name, &b"="[..], &value].concat());
            }
            set(self, name, value)?;
        }
        if trace {
            line.extend(words.iter().map(|word| word.to_vec()));
            let mut text = self.expand_prompt(b"PS4");
            text.extend(line.join(&b' '));
            text.push(b'\n');
            let fd = saved.0.iter().find(|(fd, _)| *fd == 2).map_or(Some(2), |(_, copy)| *copy);
            if let Some(fd) = fd {
                let _ = self.emit(fd, &text);
            }
        }
        Ok(())
    }

    fn run_words(&mut self, simple: &Simple, mut words: Vec<Bytes>, flags: Flags) -> Result<(), Flow> {
        // `command` takes itself away: what is behind it is no function, and no special builtin in its effects.
        let mut plain = false;
        let mut default_path = false;
        let mut special = None;
        while *words[0] == *b"command" {
            let Some(prefix) = builtins::command_prefix(&words) else { break };
            special.get_or_insert(false);
            plain = true;
            default_path |= prefix.default_path;
            words.drain(..prefix.length);
        }
        let builtin = builtins::find(&words[0]);
        let is_special = special.unwrap_or_else(|| builtin.is_some_and(|builtin| builtin.special));
        if !plain
            && !is_special
            && let Some(function) = self.env.functions.get(&words[0]).cloned()
        {
            return self.call(simple, words, &function, flags.tested);
        }
        match builtin {
            Some(builtin) if *builtin.name == *b"exec" => self.exec(simple, words, is_special),
            Some(builtin) => self.run_builtin(simple, words, builtin, is_special, flags),
            None => self.external(simple, words, default_path, flags),
        }
    }

    /// Assignments before a command that last as long as it runs.
    pub(crate) fn assign_locally(
        &mut self,
        simple: &Simple,
        words: &[Bytes],
        saved: &Saved,
    ) -> Result<(), Flow> {
        self.assign(simple, words, saved, |shell, name, value| {
            shell.cover(name);
            shell.declare(name, Some(value), |variable| variable.exported = true)
        })
    }

    fn run_builtin(
        &mut self,
        simple: &Simple,
        words: Vec<Bytes>,
        builtin: &Builtin,
        special: bool,
        flags: Flags,
    ) -> Result<(), Flow> {
        let Some(saved) = self.redirect(&simple.redirections)? else {
            return if special { Err(Flow::Error) } else { Ok(()) };
        };
        let traced = !simple.assignments.is_empty() || self.env.options.has(Opt::Xtrace);
        let local = !special && !simple.assignments.is_empty();
        if local {
            self.env.locals.push(Locals::default());
        }
        let mut result = Ok(());
        if traced {
            result = if special {
                self.assign(simple, &words, &saved, |shell, name, value| shell.set_variable(name, value))
            } else {
                self.assign_locally(simple, &words, &saved)
            };
        }
        if result.is_ok() {
            let outer = self.builtin.replace(words[0].clone());
            // `local` is about the function around the command, `eval` about everything.
            result = (builtin.run)(self, &words, flags).map(|status| self.status = status);
            self.builtin = outer;
            // An error in a builtin that is not special ends the builtin.
            if result == Err(Flow::Error) && !special {
                result = Ok(());
            }
        }
        if local {
            self.uncover();
        }
        saved.restore();
        result
    }

    /// `exec`: redirections that stay, and a program in the place of the shell.
    fn exec(&mut self, simple: &Simple, words: Vec<Bytes>, special: bool) -> Result<(), Flow> {
        let Some(saved) = self.redirect(&simple.redirections)? else {
            return if special { Err(Flow::Error) } else { Ok(()) };
        };
        if let Err(flow) = self.assign(simple, &words, &saved, |shell, name, value| {
            shell.declare(name, Some(value), |variable| variable.exported |= words.len() > 1)
        }) {
            saved.restore();
            return Err(flow);
        }
        self.keep_descriptors(saved);
        let arguments = match words.get(1) {
            Some(word) if **word == *b"--" => &words[2..],
            _ => &words[1..],
        };
        self.status = 0;
        if arguments.is_empty() {
            return Ok(());
        }
        self.builtin = Some(words[0].clone());
        self.replace(arguments, false)
    }

    fn call(
        &mut self,
        simple: &Simple,
        words: Vec<Bytes>,
        function: &Function,
        tested: bool,
    ) -> Result<(), Flow> {
        let Some(saved) = self.redirect(&simple.redirections)? else { return Ok(()) };
        self.env.locals.push(Locals::default());
        let mut result = if simple.assignments.is_empty() && !self.env.options.has(Opt::Xtrace) {
            Ok(())
        } else {
            self.assign_locally(simple, &words, &saved)
        };
        if result.is_ok() {
            result = match function.body() {
                Some(body) => self.call_body(&body, words, tested),
                None => Err(self.error(b"function lost")),
            };
        }
        self.uncover();
        saved.restore();
        result
    }

    fn call_body(&mut self, body: &Node, words: Vec<Bytes>, tested: bool) -> Result<(), Flow> {
        if self.env.function_depth >= MAX_FUNCTIONS {
            let message = format!("Maximum function recursion depth ({MAX_FUNCTIONS}) reached");
            return Err(self.error(message.as_bytes()));
        }
        let positional = std::mem::replace(&mut self.env.positional, Rc::new(words[1..].to_vec()));
        let offset = std::mem::take(&mut self.env.getopts_offset);
        let loop_depth = std::mem::take(&mut self.env.loop_depth);
        self.env.function_depth += 1;
        let result = self.evaluate(body, Flags { tested, exit: false });
        self.env.function_depth -= 1;
        self.env.positional = positional;
        self.env.getopts_offset = offset;
        self.env.loop_depth = loop_depth;
        match result {
            Err(Flow::Return) => Ok(()),
            other => other,
        }
    }

    /// Runs what `(...)` holds.
    fn subshell(
        &mut self,
        body: &Rc<Node>,
        redirections: &[crate::ast::Redirection],
        flags: Flags,
    ) -> Result<(), Flow> {
        if self.needs_process(body) {
            let mut run = || -> Result<(), Flow> {
                let Some(opened) = self.open_redirections(redirections)? else { return Ok(()) };
                let pid = self.spawn_copy(body.clone(), flags.tested, opened.steps())?;
                drop(opened);
                self.status = self.wait_foreground(pid);
                Ok(())
            };
            // An error in a redirection of the subshell ends the subshell.
            let _ = run();
            return Ok(());
        }
        self.in_subshell(|shell| {
            let Some(saved) = shell.redirect(redirections)? else { return Ok(()) };
            let result = shell.evaluate(body, flags.inner());
            // Traps of the subshell's end still see its descriptors.
            shell.keep_descriptors(saved);
            result
        });
        Ok(())
    }

    /// Runs the body of `$(...)`: what it writes, without the newlines at its end.
    pub(crate) fn substitute(&mut self, body: &Rc<Node>) -> Result<Vec<u8>, Flow> {
        let outer_status = self.status;
        let output = self.capture(body)?;
        self.substitution_status = self.status;
        self.status = outer_status;
        Ok(Self::trim_output(output))
    }

    fn capture(&mut self, body: &Rc<Node>) -> Result<Vec<u8>, Flow> {
        if builtins::writes_only(self, body) {
            let outer = self.output.replace(Vec::new());
            self.in_subshell(|shell| shell.evaluate(body, Flags::default()));
            let output = std::mem::replace(&mut self.output, outer);
            return Ok(output.unwrap_or_default());
        }
        let (reader, writer) = match system::pipe() {
            Ok(ends) => ends,
            Err(error) => return Err(self.cannot_spawn(error)),
        };
        let outer = self.output.take();
        if self.needs_process(body) {
            let pid = self.spawn_copy(body.clone(), false, vec![system::Step::Duplicate(writer, 1)]);
            system::close(writer);
            self.captures.push((reader, Vec::new()));
            self.drain_capture();
            let output = self.captures.pop().map(|(_, output)| output).unwrap_or_default();
            system::close(reader);
            self.output = outer;
            self.status = self.wait_foreground(pid?);
            return Ok(output);
        }
        let mut saved = Saved::default();
        saved.keep(1);
        let _ = system::duplicate(writer, 1);
        system::close(writer);
        self.captures.push((reader, Vec::new()));
        self.in_subshell(|shell| shell.evaluate(body, Flags::default()));
        saved.restore();
        self.drain_capture();
        let output = self.captures.pop().map(|(_, output)| output).unwrap_or_default();
        system::close(reader);
        self.output = outer;
        Ok(output)
    }

    /// Reads the innermost capture to its end.
    fn drain_capture(&mut self) {
        let Some((reader, _)) = self.captures.last() else { return };
        let reader = *reader;
        let mut buffer = vec![0; 65536];
        loop {
            if self.captures.len() > 1 {
                // Only the outer ones are drained here; this one is read below.
                let inner = self.captures.pop();
                self.ready(reader, system::POLLIN);
                self.captures.extend(inner);
            }
            match system::read(reader, &mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if let Some((_, output)) = self.captures.last_mut() {
                        output.extend_from_slice(&buffer[..length]);
                    }
                }
                Err(system::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// Whether a word is `name=...`, as arguments of `export` are.
fn looks_like_assignment(word: &crate::ast::Word) -> bool {
    let Some(crate::ast::Part::Plain(text, _)) = word.0.first() else { return false };
    let length = crate::ast::name_length(text);
    length > 0 && text.get(length) == Some(&b'=')
}

/// What is left of a flow outside the loop it has ended.
fn end_loop(result: Result<(), Flow>) -> Result<(), Flow> {
    match result {
        Err(Flow::Break(1)) => Ok(()),
        Err(Flow::Break(levels)) => Err(Flow::Break(levels - 1)),
        Err(Flow::Continue(levels)) => Err(Flow::Continue(levels - 1)),
        other => other,
    }
}
