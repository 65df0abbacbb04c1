//! The socket between the solver and whatever runs a step.
//!
//! A `RUN` instruction, a `cooper run` and a plugin all become one [`StepRequest`]: a plain value that says everything
//! about the step, already resolved. The solver has looked up the user in the image's `/etc/passwd`, chosen the working
//! directory, put together the environment and the mounts, and decided the policy and the limits. A [`StepRunner`] runs
//! it and answers with a [`StepOutcome`], the step's changes being a tree in the store. Both are serializable, because
//! the runner that ships starts a process of its own for each step and hands the request over a descriptor.
//!
//! What must hold: a runner changes nothing but the store, and there only adds; it uses nothing that the request does
//! not name (no environment, no credentials, no host path); the same runner may run several requests at once from
//! several threads; and dropping an outcome loses nothing but the step's work. Times are the real clock's: clamping to
//! `SOURCE_DATE_EPOCH` happens when layers are written, not here.
//!
//! Paths, arguments and variables are bytes ([`Bytes`]), as Linux has them. On the wire such a value is a JSON string
//! where it is UTF-8, and an array of numbers where it is not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Runs one step at a time per call; may be called from several threads at once.
pub trait StepRunner: Send + Sync + fmt::Debug {
    /// Runs `request` to its end.
    ///
    /// What the step writes goes to `output` as it comes. A step that ended by itself, well or badly, is `Ok`; so is one
    /// that a limit ended ([`StepOutcome::limit`]). When `cancel` fires the runner ends every process of the step and
    /// answers [`StepError::Cancelled`].
    fn run(
        &self,
        request: &StepRequest,
        output: &mut dyn StepOutput,
        cancel: &CancelToken,
    ) -> Result<StepOutcome, StepError>;
}

/// Where a step's output goes while it runs.
pub trait StepOutput: Send {
    /// Takes bytes the step wrote; `stream` says where. The bytes need not be whole lines nor UTF-8.
    fn write(&mut self, stream: OutputStream, bytes: &[u8]);
}

/// One of the two descriptors that carry a step's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Everything about a step: what runs, as whom, where, and what it may touch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRequest {
    /// The root file system the step starts from, in the store of the runner.
    pub base: TreeRecord,
    /// The program and its arguments. An element 0 without a slash is looked up by the `PATH` of `environment`, inside.
    pub arguments: Vec<Bytes>,
    /// The whole environment, in order; no name twice. The runner adds only what makes programs find the certificates
    /// that its own configuration says they trust.
    pub environment: Vec<(Bytes, Bytes)>,
    /// Absolute path. Made if it is missing, with the step's user as its owner and mode 0755.
    pub working_directory: Bytes,
    /// Virtual credentials, resolved.
    pub user: StepUser,
    /// Mounts, to be made in this order, so that a later one may lie inside an earlier one.
    pub mounts: Vec<StepMount>,
    /// What of the network the step may reach. A loopback of its own it always has.
    pub network: NetworkPolicy,
    /// What `uname` and `/etc/hostname` say.
    pub hostname: Bytes,
    /// More lines for `/etc/hosts`, from `--add-host`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Bounds of the step.
    pub limits: StepLimits,
    /// What descriptor 0 is.
    pub stdin: Stdin,
    /// Whether the changes are wanted.
    pub record: Record,
}

/// A finished tree in the store: the bytes of its record as `cooper_vfs` encodes them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TreeRecord(pub Bytes);

impl fmt::Debug for TreeRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TreeRecord({} bytes)", self.0.0.len())
    }
}

/// The virtual user a step runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, sorted, without doubles.
    pub groups: Vec<u32>,
}

/// One mount of a step. A missing target is made for the time of the step and is not a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepMount {
    /// Absolute path in the step's root.
    pub target: Bytes,
    /// What is seen there.
    pub source: StepMountSource,
    /// Writing below the target is EROFS.
    pub read_only: bool,
}

/// What a [`StepMount`] shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StepMountSource {
    /// A path of a tree in the store. Without `read_only` the step may write, and what it wrote is thrown away.
    Tree {
        /// The tree.
        tree: TreeRecord,
        /// Absolute path in it; `/` is the whole tree. A file is mounted on a file.
        path: Bytes,
    },
    /// A cache that outlives the step: the tree it starts from; the tree it became is in [`StepOutcome::caches`].
    Cache {
        /// Name under which the outcome answers.
        id: String,
        /// What the cache held before.
        tree: TreeRecord,
        /// Absolute path in the tree.
        path: Bytes,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Bytes it may hold; `None` leaves it to the step's spool limit.
        size: Option<u64>,
        /// Permission bits of its root.
        mode: u16,
    },
    /// One file with these contents.
    File {
        /// Contents; not shown by `Debug`, because secrets come this way.
        contents: Secret,
        /// Permission bits.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A socket of which every connection is one to a local socket of the host: an SSH agent. The one host path that a
    /// runner is told; it opens connections to it, and nothing else.
    Socket {
        /// The socket's path on the host.
        host: Bytes,
        /// Permission bits.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What of the network a step may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NetworkPolicy {
    /// Only the step's own loopback.
    None,
    /// The host's network without its loopback and link-local addresses, but for those in `allow`.
    Default {
        /// Addresses that are allowed although they are loopback or link-local (for tests and local proxies).
        allow: Vec<IpAddr>,
    },
}

/// Bounds of a step; `None` is the runner's default, which it takes from the pod's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepLimits {
    /// Memory of all processes together, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads alive at once.
    pub processes: Option<u32>,
    /// Open descriptors of one process (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// Bytes written to files and alive at once.
    pub spool_bytes: Option<u64>,
    /// Bytes of output.
    pub output_bytes: Option<u64>,
    /// Wall time.
    pub time: Option<Duration>,
    /// Processors the step sees and uses.
    pub cpus: Option<u32>,
    /// Other resource limits by their `ulimit` names (`core`, `stack`, ...): soft and hard value.
    pub ulimits: BTreeMap<String, (u64, u64)>,
}

/// What descriptor 0 of a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// The descriptor 0 of the process that called the runner (`cooper run`).
    Inherit,
    /// A terminal of the step's own, for all three standard descriptors: the caller's descriptor 0 is the keyboard, and
    /// everything is output on [`OutputStream::Stdout`] (`cooper run` at a terminal).
    Terminal {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
}

/// Whether the step's changes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The outcome carries the tree with the changes, durable in the store.
    Layer,
    /// The changes are thrown away; the outcome's tree is the base.
    Discard,
}

/// How a step ended and what it left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepOutcome {
    /// How its first process ended.
    pub exit: Exit,
    /// The root file system after the step. The base when it failed or was to be discarded.
    pub tree: TreeRecord,
    /// How many paths the step changed, for the progress display.
    pub changes: u64,
    /// What the cache mounts became, by id.
    pub caches: BTreeMap<String, TreeRecord>,
    /// The limit that ended the step, if one did.
    pub limit: Option<LimitHit>,
    /// System calls that the kernel does not have and how often they were tried, for the error of a failed step.
    pub unimplemented: Vec<(String, u64)>,
    /// Next actions a user could take, one sentence each (`the program is for aarch64: ...`).
    pub hints: Vec<String>,
    /// Guest instructions run, 0 when not counted.
    pub instructions: u64,
    /// Largest memory of all processes together, in bytes, 0 when not measured.
    pub peak_memory_bytes: u64,
    /// Files read, written and spooled, in bytes, 0 when not measured.
    pub spooled_bytes: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It called `exit` with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl Exit {
    /// The code a shell would show: 128 and the number for a signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }

    /// Says whether the step did its work.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code: {code}"),
            Self::Signal(signal) => write!(formatter, "killed by signal: {signal}"),
        }
    }
}

/// A limit that ended a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitHit {
    /// Which one.
    pub limit: Limit,
    /// Its value, in the limit's unit (bytes, a count, milliseconds).
    pub value: u64,
}

/// The limits of a step, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// [`StepLimits::memory_bytes`]
    Memory,
    /// [`StepLimits::processes`]
    Processes,
    /// [`StepLimits::open_files`]
    OpenFiles,
    /// [`StepLimits::spool_bytes`]
    Spool,
    /// [`StepLimits::output_bytes`]
    Output,
    /// [`StepLimits::time`], in milliseconds
    Time,
}

impl fmt::Display for LimitHit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = match self.limit {
            Limit::Memory => ("memory", "bytes"),
            Limit::Processes => ("processes", "processes and threads"),
            Limit::OpenFiles => ("open files", "descriptors"),
            Limit::Spool => ("written files", "bytes"),
            Limit::Output => ("output", "bytes"),
            Limit::Time => {
                let time = Duration::from_millis(self.value);
                return write!(formatter, "the step's limit on time was reached: {time:?}");
            }
        };
        write!(formatter, "the step's limit on {name} was reached: {} {unit}", self.value)
    }
}

/// A step that could not be run, or of which nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The build was cancelled; every process of the step has been ended.
    #[error("cancelled")]
    Cancelled,
    /// The first program of the step cannot be executed. The fault is the Dockerfile's or the image's.
    #[error("cannot execute `{program}`: {reason}")]
    Execute {
        /// Element 0 of the arguments, as UTF-8 as far as it is.
        program: String,
        /// Linux's word for it, or what the kernel knows better.
        reason: String,
        /// Whether there is no such file (exit code 127) or it is none that can be executed (126).
        missing: bool,
        /// A next action, when there is a good one.
        hint: Option<String>,
    },
    /// The request needs what this runner does not have. Nothing ran.
    #[error("steps cannot have {0} yet")]
    Unsupported(String),
    /// The process of the step could not be started, or talking to it failed.
    #[error("cannot start the step's process")]
    Start(#[source] std::io::Error),
    /// The process of the step ended without an outcome: killed from outside, out of memory, or our bug.
    #[error("the step's process ended without an answer: {0}")]
    Died(String),
    /// The store could not be read or written while the step ran.
    #[error("the store failed during the step: {0}")]
    Store(String),
}

// ---- bytes and secrets

/// A byte string: a guest's path, argument or variable. UTF-8 by habit only.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Text for people; what is not UTF-8 is replaced.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", self.0.escape_ascii())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut sequence = serializer.serialize_seq(Some(self.0.len()))?;
        for byte in &self.0 {
            sequence.serialize_element(byte)?;
        }
        sequence.end()
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;

        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or an array of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes::from(text))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Bytes, E> {
                Ok(Bytes::from(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Bytes, A::Error> {
                // The length hint is the sender's word, so it only bounds what is set aside at once.
                let mut bytes = Vec::with_capacity(sequence.size_hint().unwrap_or(0).min(4096));
                while let Some(byte) = sequence.next_element()? {
                    bytes.push(byte);
                }
                Ok(Bytes(bytes))
            }
        }

        deserializer.deserialize_any(BytesVisitor)
    }
}

/// Bytes that no log and no error may show.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Bytes);

impl Secret {
    /// Wraps `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Bytes(bytes))
    }

    /// The bytes, for the one place that hands them to the step.
    pub fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("...")
    }
}

// ---- cancelling

/// A switch that many hold and anyone may turn, once, to end a build.
#[derive(Clone, Default)]
pub struct CancelToken {
    state: Arc<CancelState>,
}

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    callbacks: Mutex<Callbacks>,
}

#[derive(Default)]
struct Callbacks {
    next: u64,
    waiting: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
}

impl CancelToken {
    /// A token that nothing has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels; the callbacks run here, once. Not for signal handlers: it takes a lock.
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::SeqCst);
        let waiting = std::mem::take(&mut self.callbacks().waiting);
        for callback in waiting.into_values() {
            callback();
        }
    }

    /// Says whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// Runs `callback` when the token is cancelled (at once if it is already), unless the answer is dropped before.
    ///
    /// The runner ends the step's process in it.
    #[must_use = "dropping the subscription forgets the callback"]
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) -> CancelSubscription {
        let mut callbacks = self.callbacks();
        let id = callbacks.next;
        callbacks.next += 1;
        callbacks.waiting.insert(id, Box::new(callback));
        // Read under the lock: a cancel either sees the callback in the map or is seen here.
        let now = if self.is_cancelled() { callbacks.waiting.remove(&id) } else { None };
        drop(callbacks);
        if let Some(callback) = now {
            callback();
        }
        CancelSubscription { token: self.clone(), id }
    }

    fn callbacks(&self) -> std::sync::MutexGuard<'_, Callbacks> {
        self.state.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CancelToken({})", self.is_cancelled())
    }
}

/// Keeps a callback of [`CancelToken::on_cancel`] waiting.
#[derive(Debug)]
pub struct CancelSubscription {
    token: CancelToken,
    id: u64,
}

impl Drop for CancelSubscription {
    fn drop(&mut self) {
        self.token.callbacks().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn bytes_are_a_string_where_they_can_be() {
        let check = |bytes: &[u8], json: &str| {
            let value = Bytes::from(bytes);
            assert_eq!(serde_json::to_string(&value).expect("serializes"), json);
            assert_eq!(serde_json::from_str::<Bytes>(json).expect("parses"), value);
        };
        check(b"", r#""""#);
        check("/ä".as_bytes(), r#""/ä""#);
        check(b"\xff\0", "[255,0]");
    }

    #[test]
    fn a_request_survives_the_wire() {
        let request = StepRequest {
            base: TreeRecord(Bytes(vec![1, 2, 255])),
            arguments: vec!["/bin/sh".into(), "-c".into(), Bytes(vec![0xff])],
            environment: vec![("PATH".into(), "/bin".into())],
            working_directory: "/".into(),
            user: StepUser { uid: 1, gid: 2, groups: vec![3] },
            mounts: vec![StepMount {
                target: "/run/secrets/key".into(),
                source: StepMountSource::File {
                    contents: Secret::new(b"hush".to_vec()),
                    mode: 0o400,
                    uid: 0,
                    gid: 0,
                },
                read_only: true,
            }],
            network: NetworkPolicy::Default { allow: vec![] },
            hostname: "build".into(),
            extra_hosts: vec![("db".to_owned(), IpAddr::from([10, 0, 0, 1]))],
            limits: StepLimits { time: Some(Duration::from_millis(1500)), ..StepLimits::default() },
            stdin: Stdin::Null,
            record: Record::Layer,
        };
        let wire = serde_json::to_vec(&request).expect("serializes");
        assert_eq!(serde_json::from_slice::<StepRequest>(&wire).expect("parses"), request);
        assert!(!format!("{request:?}").contains("hush"));
    }

    #[test]
    fn cancelling_runs_each_waiting_callback_once() {
        let token = CancelToken::new();
        let count = Arc::new(AtomicU32::new(0));
        let add = |amount: u32| {
            let count = Arc::clone(&count);
            move || {
                count.fetch_add(amount, Ordering::SeqCst);
            }
        };
        let _kept = token.on_cancel(add(1));
        drop(token.on_cancel(add(10)));
        token.cancel();
        token.cancel();
        let _late = token.on_cancel(add(100));
        assert_eq!(count.load(Ordering::SeqCst), 101);
    }

    #[test]
    fn limits_and_exits_are_told_in_words() {
        assert_eq!(Exit::Signal(9).code(), 137);
        assert_eq!(Exit::Code(3).to_string(), "exit code: 3");
        let hit = LimitHit { limit: Limit::Memory, value: 4096 };
        assert_eq!(hit.to_string(), "the step's limit on memory was reached: 4096 bytes");
    }
}
