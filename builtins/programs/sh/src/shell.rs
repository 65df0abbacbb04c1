//! The state of the shell.
//!
//! [`Env`] is what POSIX calls the shell execution environment, as far as it is not the kernel's: a subshell gets a copy, which costs nothing
//! until one of both changes, and what it changes is gone when it ends. [`Shell`] is the process around it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ast::{Bytes, Node, is_name};
use crate::jobs::Jobs;
use crate::parser::Aliases;
use crate::subshell::Undo;
use crate::system::{self, SignalSet};

/// Why a command did not simply end. The status is in [`Shell::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// `break` of so many loops
    Break(u32),
    /// `continue` of the loop that is so many loops out
    Continue(u32),
    /// `return`
    Return,
    /// `exit`, or `set -e`
    Exit,
    /// An error that ends a shell without a terminal
    Error,
}

/// An option of `set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opt {
    Errexit,
    Noglob,
    Ignoreeof,
    Interactive,
    Monitor,
    Noexec,
    Stdin,
    Xtrace,
    Verbose,
    Vi,
    Emacs,
    Noclobber,
    Allexport,
    Notify,
    Nounset,
    Nolog,
    Debug,
    Pipefail,
}

/// Name, letter and option; `$-` has them from the last to the first.
pub(crate) const OPTIONS: [(&str, u8, Opt); 18] = [
    ("errexit", b'e', Opt::Errexit),
    ("noglob", b'f', Opt::Noglob),
    ("ignoreeof", b'I', Opt::Ignoreeof),
    ("interactive", b'i', Opt::Interactive),
    ("monitor", b'm', Opt::Monitor),
    ("noexec", b'n', Opt::Noexec),
    ("stdin", b's', Opt::Stdin),
    ("xtrace", b'x', Opt::Xtrace),
    ("verbose", b'v', Opt::Verbose),
    ("vi", b'V', Opt::Vi),
    ("emacs", b'E', Opt::Emacs),
    ("noclobber", b'C', Opt::Noclobber),
    ("allexport", b'a', Opt::Allexport),
    ("notify", b'b', Opt::Notify),
    ("nounset", b'u', Opt::Nounset),
    ("nolog", 0, Opt::Nolog),
    ("debug", 0, Opt::Debug),
    ("pipefail", 0, Opt::Pipefail),
];

/// Which options are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options(u32);

impl Options {
    pub(crate) fn has(self, option: Opt) -> bool {
        self.0 & 1 << option as u32 != 0
    }
    pub(crate) fn set(&mut self, option: Opt, on: bool) {
        self.0 = self.0 & !(1 << option as u32) | u32::from(on) << option as u32;
    }
    /// `$-`
    pub(crate) fn letters(self) -> Vec<u8> {
        OPTIONS
            .iter()
            .rev()
            .filter(|(_, letter, option)| *letter != 0 && self.has(*option))
            .map(|(_, letter, _)| *letter)
            .collect()
    }
}

/// A variable.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Variable {
    pub value: Option<Bytes>,
    pub exported: bool,
    pub readonly: bool,
}

/// A function: its tree, or the tree's binary form until it is called.
#[derive(Debug, Default)]
pub(crate) struct Function {
    tree: OnceCell<Rc<Node>>,
    encoded: OnceCell<Bytes>,
}

impl Function {
    pub(crate) fn new(body: Rc<Node>) -> Self {
        Self { tree: OnceCell::from(body), encoded: OnceCell::new() }
    }
    /// The body; `None` when the binary form is broken.
    pub(crate) fn body(&self) -> Option<Rc<Node>> {
        if let Some(tree) = self.tree.get() {
            return Some(tree.clone());
        }
        let tree: Rc<Node> = postcard::from_bytes(self.encoded.get()?).ok()?;
        Some(self.tree.get_or_init(|| tree).clone())
    }
}

impl Serialize for Function {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let encoded = self.encoded.get_or_init(|| {
            let tree = self.tree.get().map(|tree| postcard::to_stdvec(tree).unwrap_or_default());
            tree.unwrap_or_default().into()
        });
        encoded.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Function {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let encoded = Bytes::deserialize(deserializer)?;
        Ok(Self { tree: OnceCell::new(), encoded: OnceCell::from(encoded) })
    }
}

/// What a trap does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trap {
    Ignore,
    Run(Bytes),
}

/// The shell execution environment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Env {
    pub variables: Rc<HashMap<Bytes, Variable>>,
    pub functions: Rc<HashMap<Bytes, Rc<Function>>>,
    pub aliases: Rc<Aliases>,
    pub positional: Rc<Vec<Bytes>>,
    pub options: Options,
    /// By number of the signal; 0 is the end of the shell.
    pub traps: Rc<BTreeMap<i32, Trap>>,
    pub last_background: Option<i32>,
    /// Where `getopts` is inside an argument that holds several options.
    pub getopts_offset: usize,
    /// What the working directory is called.
    pub directory: Bytes,
    /// How many functions, and files of `.`, are being run.
    pub function_depth: u32,
    pub loop_depth: u32,
    pub dot_depth: u32,
    /// Variables that `local` covers, for each function that is being run.
    #[serde(skip)]
    pub locals: Vec<Locals>,
    #[serde(skip)]
    pub jobs: Jobs,
    /// Where commands were found.
    #[serde(skip)]
    pub hashed: Rc<HashMap<Bytes, Bytes>>,
}

/// What `local` has covered in one function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locals {
    pub variables: Vec<(Bytes, Option<Variable>)>,
    pub options: Option<Options>,
}

/// The shell.
pub(crate) struct Shell {
    pub env: Env,
    pub status: i32,
    /// `$0`
    pub zero: Bytes,
    /// `$$`, which subshells share.
    pub root_process: i32,
    /// The line of the command that is being run.
    pub line: u32,
    /// The builtin that is being run, for its messages.
    pub builtin: Option<Bytes>,
    /// Status of the last command substitution.
    pub substitution_status: i32,
    /// How many commands are being run inside one another.
    pub depth: u32,
    /// What the subshells that run in this process have to undo when they end.
    pub undo: Vec<Undo>,
    /// Reading ends of the command substitutions that run in this process, and what they have written.
    pub captures: Vec<(i32, Vec<u8>)>,
    /// Where builtins write instead of descriptor 1.
    pub output: Option<Vec<u8>>,
    /// Signals that were blocked when the shell began; what its children get.
    pub inherited_mask: SignalSet,
    /// Signals that are blocked because a trap waits for them.
    pub trapped: SignalSet,
    pub interactive: bool,
    /// Whether the trap of the end of the shell has been run.
    pub exiting: bool,
    /// Signals that were taken and whose traps have not run yet.
    pub taken: Vec<i32>,
    pub in_trap: bool,
    /// Where the stack was when the shell began, and how much of it commands may take.
    pub(crate) stack: usize,
    pub(crate) stack_limit: usize,
    /// How many of the subshells that run in this process are ended by writing to a pipe without readers.
    pub guarded: u32,
}

impl Shell {
    pub(crate) fn new(zero: Bytes) -> Self {
        Self {
            env: Env::default(),
            status: 0,
            zero,
            root_process: system::process_id(),
            line: 1,
            builtin: None,
            substitution_status: 0,
            depth: 0,
            undo: Vec::new(),
            captures: Vec::new(),
            output: None,
            inherited_mask: system::mask(),
            trapped: SignalSet::default(),
            interactive: false,
            exiting: false,
            taken: Vec::new(),
            in_trap: false,
            stack: system::stack_position(),
            stack_limit: system::stack_limit(),
            guarded: 0,
        }
    }

    /// Takes the variables of the process's environment; names that are none stay behind, as in dash.
    pub(crate) fn import(&mut self, environment: impl Iterator<Item = (Bytes, Bytes)>) {
        let variables = Rc::make_mut(&mut self.env.variables);
        let mut preset = |name: &str, value: Bytes| {
            variables.insert(name.as_bytes().into(), Variable { value: Some(value), ..Variable::default() });
        };
        preset("IFS", Bytes::from(&b" \t\n"[..]));
        preset("OPTIND", Bytes::from(&b"1"[..]));
        preset("PATH", Bytes::from(&b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"[..]));
        preset("PS1", Bytes::from(if system::effective_user_id() == 0 { &b"# "[..] } else { b"$ " }));
        preset("PS2", Bytes::from(&b"> "[..]));
        preset("PS4", Bytes::from(&b"+ "[..]));
        for (name, value) in environment.filter(|(name, _)| is_name(name) && **name != *b"IFS") {
            variables.insert(name, Variable { value: Some(value), exported: true, readonly: false });
        }
        let mut preset = |name: &str, value: Bytes| {
            let variable = variables.entry(name.as_bytes().into()).or_default();
            variable.value = Some(value);
        };
        preset("OPTIND", Bytes::from(&b"1"[..]));
        preset("PPID", system::parent_id().to_string().into_bytes().into());
        let named = variables.get(&b"PWD"[..]).and_then(|variable| variable.value.clone());
        let same = |named: &Bytes| {
            let (Ok(there), Ok(here)) = (system::stat(named), system::stat(b".")) else { return false };
            named.starts_with(b"/") && (there.device, there.inode) == (here.device, here.inode)
        };
        self.env.directory = match named.filter(same) {
            Some(named) => named,
            None => system::working_directory().unwrap_or_default().into(),
        };
        let variable = variables.entry(Bytes::from(&b"PWD"[..])).or_default();
        variable.value = Some(self.env.directory.clone());
    }

    /// The value of a variable.
    pub(crate) fn variable(&self, name: &[u8]) -> Option<Bytes> {
        if let Some(variable) = self.env.variables.get(name) {
            if name == b"LINENO" && !variable.readonly && variable.value.as_deref() == Some(b"") {
                return Some(self.line.to_string().into_bytes().into());
            }
            return variable.value.clone();
        }
        (name == b"LINENO").then(|| self.line.to_string().into_bytes().into())
    }

    /// Sets a variable.
    pub(crate) fn set_variable(&mut self, name: &[u8], value: Bytes) -> Result<(), Flow> {
        let export = self.env.options.has(Opt::Allexport);
        self.declare(name, Some(value), |variable| variable.exported |= export)
    }

    /// Sets a variable, its value when there is one, and more about it.
    pub(crate) fn declare(
        &mut self,
        name: &[u8],
        value: Option<Bytes>,
        change: impl FnOnce(&mut Variable),
    ) -> Result<(), Flow> {
        let variables = Rc::make_mut(&mut self.env.variables);
        let variable = match variables.get_mut(name) {
            Some(variable) => variable,
            None => variables.entry(name.into()).or_default(),
        };
        if variable.readonly && value.is_some() {
            let message = [name, b": is read only"].concat();
            return Err(self.error(&message));
        }
        if value.is_some() {
            variable.value = value;
        }
        change(variable);
        self.noticed(name);
        Ok(())
    }

    /// What hangs on some variables.
    pub(crate) fn noticed(&mut self, name: &[u8]) {
        match name {
            b"PATH" => self.env.hashed = Rc::default(),
            b"OPTIND" => self.env.getopts_offset = 0,
            _ => {}
        }
    }

    /// Removes a variable.
    pub(crate) fn unset(&mut self, name: &[u8]) -> Result<(), Flow> {
        if self.env.variables.get(name).is_some_and(|variable| variable.readonly) {
            let message = [name, b": is read only"].concat();
            return Err(self.error(&message));
        }
        if self.env.variables.contains_key(name) {
            Rc::make_mut(&mut self.env.variables).remove(name);
            self.noticed(name);
        }
        Ok(())
    }

    /// Makes a variable local to the function that is being run: once, with the value it has.
    pub(crate) fn cover(&mut self, name: &[u8]) {
        let old = self.env.variables.get(name).cloned();
        if let Some(locals) = self.env.locals.last_mut()
            && !locals.variables.iter().any(|(other, _)| **other == *name)
        {
            locals.variables.push((name.into(), old));
        }
    }

    /// Ends the innermost layer of local variables.
    pub(crate) fn uncover(&mut self) {
        let Some(locals) = self.env.locals.pop() else { return };
        if locals.variables.is_empty() && locals.options.is_none() {
            return;
        }
        let variables = Rc::make_mut(&mut self.env.variables);
        let mut names = Vec::new();
        for (name, old) in locals.variables.into_iter().rev() {
            match old {
                Some(old) => variables.insert(name.clone(), old),
                None => variables.remove(&name),
            };
            names.push(name);
        }
        names.iter().for_each(|name| self.noticed(name));
        if let Some(options) = locals.options {
            self.env.options = options;
        }
    }

    /// What programs get as their environment, sorted.
    pub(crate) fn exported(&self) -> Vec<std::ffi::CString> {
        let mut strings: Vec<Vec<u8>> = self
            .env
            .variables
            .iter()
            .filter(|(_, variable)| variable.exported)
            .filter_map(|(name, variable)| Some([name, &b"="[..], variable.value.as_deref()?].concat()))
            .collect();
        strings.sort_unstable();
        strings.into_iter().filter_map(|string| std::ffi::CString::new(string).ok()).collect()
    }

    /// Writes a message as dash does: `$0`, the line, the builtin.
    pub(crate) fn warn(&mut self, message: &[u8]) {
        let mut text = [&self.zero, &b": "[..], self.line.to_string().as_bytes(), b": "].concat();
        if let Some(builtin) = &self.builtin {
            text.extend_from_slice(builtin);
            text.extend_from_slice(b": ");
        }
        text.extend_from_slice(message);
        text.push(b'\n');
        // Nobody is left to be told when this fails.
        let _ = self.emit(2, &text);
    }

    /// An error: the message, status 2.
    pub(crate) fn error(&mut self, message: &[u8]) -> Flow {
        self.fail(message, 2)
    }

    /// An error with a status.
    pub(crate) fn fail(&mut self, message: &[u8], status: i32) -> Flow {
        self.warn(message);
        self.status = status;
        Flow::Error
    }
}
