//! Subshells without `fork`.
//!
//! Where POSIX has a subshell, dash forks. A WebAssembly stack cannot be forked, so there are two ways, and no program can
//! tell which was taken:
//!
//! - **in this process**: the environment is copied (it is shared until one side writes), the commands run, and what they changed is
//!   undone: variables and functions with the copy; working directory, umask and descriptors from an [`Undo`]. This is for `(...)`,
//!   `$(...)` and one command of a pipeline, whose pipes are served while this process waits (`jobs.rs`);
//! - **in a copy of the shell**: a new process of the same program is given the environment and the tree to run in
//!   binary form through a pipe. This is for what runs beside this process (`&`, the other commands of a pipeline) and for what changes the process in ways
//!   that cannot be undone: limits, traps.

use std::ffi::CString;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::ast::{Bytes, Node, Part};
use crate::redirect::Saved;
use crate::shell::{Env, Flow, Shell, Trap};
use crate::system::{self, O_DIRECTORY, O_PATH, O_RDONLY, SignalSet, Step};

/// The first argument of a copy.
pub(crate) const COPY_ARGUMENT: &[u8] = b"--subshell";
/// How deep functions are followed when a tree is searched.
const SEARCH_DEPTH: u32 = 4;

/// What a subshell in this process has to undo, and the environment outside it.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    pub env: Env,
    directory: Option<i32>,
    mask: Option<u32>,
    pub descriptors: Saved,
    trapped: SignalSet,
}

/// What a copy of the shell is given.
#[derive(Serialize, Deserialize)]
struct Handover {
    env: Env,
    zero: Bytes,
    root_process: i32,
    status: i32,
    line: u32,
    inherited_mask: u64,
    tested: bool,
    body: Rc<Node>,
}

impl Shell {
    /// Runs something in a subshell in this process; its status is left in `status`.
    pub(crate) fn in_subshell(&mut self, run: impl FnOnce(&mut Self) -> Result<(), Flow>) {
        let inner = self.env.of_subshell();
        let outer = std::mem::replace(&mut self.env, inner);
        let undo = Undo { env: outer, trapped: std::mem::take(&mut self.trapped), ..Undo::default() };
        self.undo.push(undo);
        let in_trap = std::mem::take(&mut self.in_trap);
        let (line, depth, builtin) = (self.line, self.depth, self.builtin.clone());
        // However it ended, the subshell is over.
        let _ = run(self);
        self.run_exit_trap();
        self.status &= 0xff;
        self.depth = depth;
        self.builtin = builtin;
        self.in_trap = in_trap;
        self.line = line;
        let Some(undo) = self.undo.pop() else { return };
        let inner = std::mem::replace(&mut self.env, undo.env);
        let added: Vec<i32> =
            inner.traps.keys().filter(|signal| !self.env.traps.contains_key(signal)).copied().collect();
        for signal in added {
            self.apply_trap(signal, None);
        }
        self.trapped = undo.trapped;
        if let Some(directory) = undo.directory {
            let _ = system::fchdir(directory);
            system::close(directory);
        }
        if let Some(mask) = undo.mask {
            system::umask(mask);
        }
        undo.descriptors.restore();
    }

    /// Before the working directory changes.
    pub(crate) fn keep_directory(&mut self) {
        if let Some(undo) = self.undo.last_mut()
            && undo.directory.is_none()
        {
            let open = |flags| system::open(b".", flags | O_DIRECTORY, 0);
            undo.directory = open(O_PATH).or_else(|_| open(O_RDONLY)).ok();
        }
    }

    /// Before the umask changes.
    pub(crate) fn keep_mask(&mut self, mask: u32) {
        if let Some(undo) = self.undo.last_mut() {
            undo.mask.get_or_insert(mask);
        }
    }

    /// After `exec` has redirected descriptors for good: for good ends with the subshell.
    pub(crate) fn keep_descriptors(&mut self, saved: Saved) {
        match self.undo.last_mut() {
            None => saved.forget(),
            Some(undo) => {
                for (fd, copy) in saved.0 {
                    if undo.descriptors.0.iter().any(|(kept, _)| *kept == fd) {
                        copy.into_iter().for_each(system::close);
                    } else {
                        undo.descriptors.0.push((fd, copy));
                    }
                }
            }
        }
    }

    /// Whether a tree needs a process of its own: it changes the process in a way that cannot be undone, or a signal would do
    /// to the shell what it should do to the subshell alone.
    pub(crate) fn needs_process(&self, node: &Node) -> bool {
        let caught = |(signal, trap): (&i32, &Trap)| *signal != 0 && *trap != Trap::Ignore;
        self.env.traps.iter().any(caught) || self.search(node, SEARCH_DEPTH)
    }

    fn search(&self, node: &Node, functions: u32) -> bool {
        let any = |nodes: &[Node]| nodes.iter().any(|node| self.search(node, functions));
        match node {
            Node::Simple(simple) => {
                let Some(name) = simple.words.first().and_then(|word| word.literal()) else { return false };
                match name {
                    b"trap" => simple.words.len() > 1 && !only_exit(&simple.words[1..]),
                    b"ulimit" => simple.words.len() > 1,
                    _ if functions == 0 => false,
                    _ => {
                        let function = self.env.functions.get(name).and_then(|function| function.body());
                        function.is_some_and(|body| self.search(&body, functions - 1))
                    }
                }
            }
            Node::Pipeline(nodes) => nodes.iter().any(|node| self.search(node, functions)),
            Node::List(nodes) => any(nodes),
            Node::AndOr(first, rest) => {
                self.search(first, functions) || rest.iter().any(|(_, node)| self.search(node, functions))
            }
            Node::Not(body) | Node::Redirected { body, .. } | Node::For { body, .. } => {
                self.search(body, functions)
            }
            // These have an environment of their own.
            Node::Background(_) | Node::Subshell { .. } | Node::Function { .. } => false,
            Node::If(arms, rest) => {
                arms.iter().any(|(condition, body)| {
                    self.search(condition, functions) || self.search(body, functions)
                }) || rest.as_ref().is_some_and(|body| self.search(body, functions))
            }
            Node::Loop { condition, body, .. } => {
                self.search(condition, functions) || self.search(body, functions)
            }
            Node::Case { arms, .. } => {
                arms.iter().filter_map(|(_, body)| body.as_ref()).any(|body| self.search(body, functions))
            }
        }
    }

    /// Starts a copy of the shell that runs `body`: its pid.
    pub(crate) fn spawn_copy(
        &mut self,
        body: Rc<Node>,
        tested: bool,
        mut steps: Vec<Step>,
    ) -> Result<i32, Flow> {
        let handover = Handover {
            env: self.env.of_subshell(),
            zero: self.zero.clone(),
            root_process: self.root_process,
            status: self.status,
            line: self.line,
            inherited_mask: self.inherited_mask.0,
            tested,
            body,
        };
        let encoded = postcard::to_stdvec(&handover).unwrap_or_default();
        let (reader, writer) = match system::pipe() {
            Ok(ends) => ends,
            Err(error) => return Err(self.cannot_spawn(error)),
        };
        steps.push(Step::Keep(reader));
        steps.extend(self.signal_steps());
        let argument = CString::new(COPY_ARGUMENT).unwrap_or_default();
        let arguments = [
            CString::new(&self.zero[..]).unwrap_or_default(),
            argument,
            CString::new(reader.to_string()).unwrap_or_default(),
        ];
        let result = system::spawn(b"/proc/self/exe", &arguments, &self.exported(), &steps);
        system::close(reader);
        let guard = self.guard_pipe();
        if result.is_ok() {
            // The copy reads before it does anything else, so this ends; unless it was killed, which its status tells.
            let mut rest = &encoded[..];
            while let Ok(written @ 1..) = system::write(writer, rest) {
                rest = &rest[written..];
            }
        }
        system::close(writer);
        self.unguard_pipe(guard);
        result.map_err(|error| self.cannot_spawn(error))
    }

    pub(crate) fn cannot_spawn(&mut self, error: toolbox_linux::Errno) -> Flow {
        let message = format!("Cannot fork: {}", crate::redirect::message(error));
        self.error(message.as_bytes())
    }

    /// What a child does so that signals are what they were for the shell.
    pub(crate) fn signal_steps(&self) -> Vec<Step> {
        if system::mask() == self.inherited_mask { Vec::new() } else { vec![Step::Mask(self.inherited_mask)] }
    }

    /// Lets a write to a pipe without readers be an error for the subshell that makes it, not the end of the process.
    pub(crate) fn guard_pipe(&mut self) -> SignalSet {
        let before = system::mask();
        system::set_mask(before.with(system::SIGPIPE));
        self.guarded += 1;
        before
    }

    pub(crate) fn unguard_pipe(&mut self, before: SignalSet) {
        self.guarded -= 1;
        if !before.has(system::SIGPIPE) {
            while system::take_signal(SignalSet::default().with(system::SIGPIPE), Some([0, 0])).is_some() {}
        }
        system::set_mask(before);
    }
}

/// Whether arguments of `trap` are about the end of the shell alone.
fn only_exit(arguments: &[crate::ast::Word]) -> bool {
    let name = |word: &crate::ast::Word| word.literal().is_some_and(|text| matches!(text, b"EXIT" | b"0"));
    let dashes = matches!(arguments[0].0.as_slice(), [Part::Plain(text, _)] if **text == *b"--");
    let rest = &arguments[usize::from(dashes)..];
    rest.len() >= 2 && rest[1..].iter().all(name)
}

/// The life of a copy: what it was given comes from descriptor `fd`.
pub(crate) fn run_copy(fd: i32) -> i32 {
    let mut encoded = Vec::new();
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = system::read(fd, &mut buffer) {
        encoded.extend_from_slice(&buffer[..length]);
    }
    system::close(fd);
    let Ok(handover) = postcard::from_bytes::<Handover>(&encoded) else { return 2 };
    let mut shell = Shell::new(handover.zero);
    shell.env = handover.env;
    shell.root_process = handover.root_process;
    shell.status = handover.status;
    shell.line = handover.line;
    shell.inherited_mask = SignalSet(handover.inherited_mask);
    // However it ends, its status is the copy's.
    let _ = shell.evaluate(&handover.body, crate::execute::Flags { tested: handover.tested, exit: true });
    shell.run_exit_trap();
    shell.status
}
