//! Programs, pipelines and background commands: what runs in processes of its own.

use std::ffi::CString;
use std::rc::Rc;

use toolbox_linux::Errno;

use crate::ast::{Bytes, Node, Operation, Part, Redirection, RedirectionKind, Simple, Word};
use crate::builtins;
use crate::execute::Flags;
use crate::redirect::{Opened, message};
use crate::shell::{Flow, Opt, Shell};
use crate::system::{self, EACCES, ENOENT, ENOEXEC, ENOTDIR, SIGINT, SIGQUIT, Step};

/// Where programs are when `PATH` says nothing: `command -p`.
const DEFAULT_PATH: &[u8] = b"/usr/sbin:/usr/bin:/sbin:/bin";

/// An element of a pipeline that is being started.
struct Ends {
    input: Option<i32>,
    output: Option<i32>,
}

impl Ends {
    fn steps(&self) -> Vec<Step> {
        let end = |fd: Option<i32>, number| fd.map(|fd| Step::Duplicate(fd, number));
        end(self.input, 0).into_iter().chain(end(self.output, 1)).collect()
    }

    fn close(&self) {
        self.input.into_iter().chain(self.output).for_each(system::close);
    }
}

fn strings(words: &[Bytes]) -> Vec<CString> {
    words.iter().map(|word| CString::new(&word[..]).unwrap_or_default()).collect()
}

impl Shell {
    /// The file of a command: as it is with a slash, else the first in `PATH` that can be executed.
    pub(crate) fn locate(&mut self, name: &[u8], default_path: bool) -> Result<Bytes, Errno> {
        if name.contains(&b'/') {
            return Ok(name.into());
        }
        if let Some(found) = self.env.hashed.get(name).filter(|_| !default_path) {
            return Ok(found.clone());
        }
        let path = if default_path { Some(Bytes::from(DEFAULT_PATH)) } else { self.variable(b"PATH") };
        let mut error = ENOENT;
        for directory in path.as_deref().unwrap_or_default().split(|byte| *byte == b':') {
            let file = if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
            match system::stat(&file) {
                Ok(status) if status.is_regular() && system::access(&file, 1) => {
                    let file = Bytes::from(file);
                    if !default_path {
                        Rc::make_mut(&mut self.env.hashed).insert(name.into(), file.clone());
                    }
                    return Ok(file);
                }
                Ok(status) if status.is_regular() => error = EACCES,
                _ => {}
            }
        }
        Err(error)
    }

    /// Says that a program could not be run, and leaves 127 or 126.
    fn not_executed(&mut self, name: &[u8], error: Errno) {
        let missing = matches!(error, ENOENT | ENOTDIR | Errno(36 | 40));
        let text = if matches!(error, ENOENT | ENOTDIR) { "not found".into() } else { message(error) };
        self.status = if missing { 127 } else { 126 };
        let message = [name, b": ", text.as_bytes()].concat();
        self.warn(&message);
    }

    /// Starts a program; `None` when there is none, which has been said.
    fn start(&mut self, words: &[Bytes], default_path: bool, mut steps: Vec<Step>) -> Option<i32> {
        steps.extend(self.signal_steps());
        let environment = self.exported();
        let mut result = self.locate(&words[0], default_path).and_then(|file| {
            let result = system::spawn(&file, &strings(words), &environment, &steps);
            match result {
                Err(ENOEXEC) => self.start_script(&file, words, &environment, &steps),
                result => result,
            }
        });
        if result == Err(ENOENT) && self.env.hashed.contains_key(&words[0]) {
            // It was there before: look again.
            Rc::make_mut(&mut self.env.hashed).remove(&words[0]);
            result = self
                .locate(&words[0], default_path)
                .and_then(|file| system::spawn(&file, &strings(words), &environment, &steps));
        }
        result.map_err(|error| self.not_executed(&words[0], error)).ok()
    }

    /// A file in no format that the kernel knows is a script of this shell.
    fn start_script(
        &self,
        file: &Bytes,
        words: &[Bytes],
        environment: &[CString],
        steps: &[Step],
    ) -> Result<i32, Errno> {
        system::spawn(b"/proc/self/exe", &self.script_words(file, words), environment, steps)
    }

    fn script_words(&self, file: &Bytes, words: &[Bytes]) -> Vec<CString> {
        let head = [Bytes::from(&b"sh"[..]), file.clone()];
        strings(&[&head[..], &words[1..]].concat())
    }

    /// Runs a program in the foreground.
    pub(crate) fn external(
        &mut self,
        simple: &Simple,
        words: Vec<Bytes>,
        default_path: bool,
        flags: Flags,
    ) -> Result<(), Flow> {
        let apart = simple.assignments.is_empty();
        if !apart {
            let Some(saved) = self.redirect(&simple.redirections)? else { return Ok(()) };
            self.env.locals.push(Default::default());
            let mut result = self.assign_locally(simple, &words, &saved);
            if result.is_ok() {
                result = self.run_program(&words, default_path, Opened::default(), flags);
            }
            self.uncover();
            saved.restore();
            return result;
        }
        let Some(opened) = self.open_redirections(&simple.redirections)? else { return Ok(()) };
        if self.env.options.has(Opt::Xtrace) {
            self.assign_locally(simple, &words, &Default::default())?;
        }
        self.run_program(&words, default_path, opened, flags)
    }

    fn run_program(
        &mut self,
        words: &[Bytes],
        default_path: bool,
        opened: Opened,
        flags: Flags,
    ) -> Result<(), Flow> {
        if flags.exit && self.env.traps.is_empty() && self.undo.is_empty() && !self.interactive {
            let saved = self.make(&opened);
            saved.forget();
            drop(opened);
            return self.replace(words, default_path);
        }
        // A message about the command goes where the command's own would go.
        let redirected = opened.0.iter().any(|(fd, _)| *fd == 2);
        if redirected && self.locate(&words[0], default_path).is_err() {
            let saved = self.make(&opened);
            let error = self.locate(&words[0], default_path).err().unwrap_or(ENOENT);
            self.not_executed(&words[0], error);
            saved.restore();
            return Ok(());
        }
        let started = self.start(words, default_path, opened.steps());
        drop(opened);
        if let Some(pid) = started {
            self.status = self.wait_foreground(pid);
        }
        Ok(())
    }

    /// Becomes a program. In a subshell that runs in this process: runs it and ends the subshell.
    pub(crate) fn replace(&mut self, words: &[Bytes], default_path: bool) -> Result<(), Flow> {
        if !self.undo.is_empty() {
            if let Some(pid) = self.start(words, default_path, Vec::new()) {
                self.status = self.wait_foreground(pid);
            }
            // Nothing of the subshell is left to run its trap.
            Rc::make_mut(&mut self.env.traps).remove(&0);
            return Err(Flow::Exit);
        }
        let environment = self.exported();
        let error = match self.locate(&words[0], default_path) {
            Err(error) => error,
            Ok(file) => {
                let mask = system::set_mask(self.inherited_mask);
                let mut error = system::execute(&file, &strings(words), &environment);
                if error == ENOEXEC {
                    error =
                        system::execute(b"/proc/self/exe", &self.script_words(&file, words), &environment);
                }
                system::set_mask(mask);
                error
            }
        };
        self.not_executed(&words[0], error);
        Err(Flow::Exit)
    }

    /// Whether a command is a program, as far as its text tells.
    fn is_program(&self, node: &Node) -> bool {
        let Node::Simple(simple) = node else { return false };
        let Some(name) = simple.words.first().and_then(Word::literal) else { return false };
        builtins::find(name).is_none() && !self.env.functions.contains_key(name)
    }

    /// Whether starting a command could wait for something: a FIFO, a command substitution.
    fn may_wait(&self, simple: &Simple) -> bool {
        let words = simple.words.iter().chain(simple.assignments.iter().map(|(_, word)| word));
        let redirected = simple.redirections.iter().any(|redirection| self.redirection_may_wait(redirection));
        redirected
            || words.chain(simple.redirections.iter().map(|redirection| &redirection.word)).any(substitutes)
    }

    fn redirection_may_wait(&self, redirection: &Redirection) -> bool {
        if matches!(redirection.kind, RedirectionKind::Here | RedirectionKind::Duplicate) {
            return false;
        }
        // A name that only an expansion tells may be that of a FIFO.
        redirection.word.literal().is_none_or(|name| system::stat(name).is_ok_and(|status| status.is_fifo()))
    }

    /// Starts a command beside this process: a program directly, anything else in a copy of the shell.
    fn start_beside(&mut self, node: &Rc<Node>, mut steps: Vec<Step>, tested: bool) -> Option<i32> {
        if let Node::Simple(simple) = &**node
            && self.is_program(node)
            && simple.assignments.is_empty()
            && !self.env.options.has(Opt::Xtrace)
            && !self.may_wait(simple)
        {
            let mut pid = None;
            self.in_subshell(|shell| {
                shell.set_line(simple.line);
                let mut words = Vec::new();
                shell.expand_words(&simple.words, &mut words)?;
                let Some(opened) = shell.open_redirections(&simple.redirections)? else { return Ok(()) };
                // The message that there is no such program goes where the copy would send it.
                if shell.locate(&words[0], false).is_ok() {
                    steps.extend(opened.steps());
                    pid = shell.start(&words, false, steps.clone());
                    return Ok(());
                }
                steps.extend(opened.steps());
                pid = shell.spawn_copy(node.clone(), tested, steps.clone()).ok();
                Ok(())
            });
            return pid;
        }
        self.spawn_copy(node.clone(), tested, steps).ok()
    }

    /// Runs a pipeline. One command may run in this process: the last that is no program; the others run beside it.
    pub(crate) fn pipeline(&mut self, nodes: &[Rc<Node>], flags: Flags) -> Result<(), Flow> {
        let here = nodes.iter().rposition(|node| {
            !self.is_program(node) && !self.needs_process(node) && !matches!(**node, Node::Background(_))
        });
        let mut input = None;
        let mut pids: Vec<Option<i32>> = vec![None; nodes.len()];
        let mut statuses = vec![0; nodes.len()];
        let mut mine = None;
        for (at, node) in nodes.iter().enumerate() {
            let last = at + 1 == nodes.len();
            let (reader, writer) = if last {
                (None, None)
            } else if at == 0 && here != Some(0) && builtins::writes_only(self, node) {
                // What it writes is all it does: the next command reads that.
                let outer = self.output.replace(Vec::new());
                self.in_subshell(|shell| shell.evaluate(node, Flags { exit: false, ..flags }));
                let output = std::mem::replace(&mut self.output, outer).unwrap_or_default();
                statuses[0] = self.status;
                input = crate::redirect::here(&output).ok();
                continue;
            } else {
                match system::pipe() {
                    Ok((reader, writer)) => (Some(reader), Some(writer)),
                    Err(error) => {
                        input.into_iter().for_each(system::close);
                        return Err(self.cannot_spawn(error));
                    }
                }
            };
            let ends = Ends { input, output: writer };
            input = reader;
            if here == Some(at) {
                mine = Some((at, ends));
                continue;
            }
            pids[at] = self.start_beside(node, ends.steps(), flags.tested);
            statuses[at] = self.status;
            ends.close();
        }
        if let Some((at, ends)) = mine {
            self.run_element(&nodes[at], ends, flags);
            statuses[at] = self.status;
        }
        for (pid, status) in pids.into_iter().zip(&mut statuses) {
            if let Some(pid) = pid {
                *status = self.wait_foreground(pid);
            }
        }
        self.status = statuses[nodes.len() - 1];
        if self.env.options.has(Opt::Pipefail) {
            self.status = statuses.iter().rev().copied().find(|status| *status != 0).unwrap_or(0);
        }
        Ok(())
    }

    /// Runs an element in this process, as a subshell.
    fn run_element(&mut self, node: &Node, ends: Ends, flags: Flags) {
        let output = if ends.output.is_some() { self.output.take() } else { None };
        let guard = self.guard_pipe();
        self.in_subshell(|shell| {
            let opened = [(0, ends.input), (1, ends.output)]
                .into_iter()
                .filter_map(|(fd, end)| Some((fd, crate::redirect::Source::Opened(end?))))
                .collect();
            let opened = Opened(opened);
            let saved = shell.make(&opened);
            drop(opened);
            shell.keep_descriptors(saved);
            shell.evaluate(node, Flags { exit: false, ..flags })
        });
        self.unguard_pipe(guard);
        if output.is_some() {
            self.output = output;
        }
    }

    /// Starts a command in the background.
    pub(crate) fn background(&mut self, body: &Rc<Node>) -> Result<(), Flow> {
        self.reap();
        let mut steps = Vec::new();
        let mut null = None;
        if !self.env.options.has(Opt::Monitor) {
            steps.extend([Step::Ignore(SIGINT), Step::Ignore(SIGQUIT)]);
            null = system::open(b"/dev/null", system::O_RDONLY, 0).ok();
            steps.extend(null.map(|fd| Step::Duplicate(fd, 0)));
        }
        let pid = self.start_beside(body, steps, false);
        null.into_iter().for_each(system::close);
        if let Some(pid) = pid {
            self.env.last_background = Some(pid);
            let number = self.env.jobs.add(pid);
            if self.interactive {
                let _ = self.emit(2, format!("[{number}] {pid}\n").as_bytes());
            }
        }
        self.status = 0;
        Ok(())
    }
}

/// Whether a word has a command substitution.
fn substitutes(word: &Word) -> bool {
    word.0.iter().any(|part| match part {
        Part::Plain(..) | Part::Quoted(_) => false,
        Part::Command { .. } => true,
        Part::Arithmetic { word, .. } => substitutes(word),
        Part::Parameter { operation, .. } => match operation {
            Operation::None | Operation::Length | Operation::Bad => false,
            Operation::Default { word, .. }
            | Operation::Assign { word, .. }
            | Operation::Error { word, .. }
            | Operation::Alternative { word, .. }
            | Operation::TrimStart { word, .. }
            | Operation::TrimEnd { word, .. } => substitutes(word),
        },
    })
}
