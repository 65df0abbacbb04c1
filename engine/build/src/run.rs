//! `RUN`: from the instruction to a [`StepRequest`], and from its outcome to the next tree.
//!
//! What must hold: the key covers the command, the environment, the directory, the user, the policy, and the mounts
//! with the contents they show. It does not cover secrets, proxies, limits and what cache mounts hold.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cooper_dockerfile::Sharing;
use cooper_vfs::content::ContentStore;
use cooper_vfs::tree::{Entry, NodeKind, Tree};

use crate::copy::{accounts, store_failed};
use crate::error::{Error, Fault, OutputTail, Result};
use crate::key::{Key, KeyBuilder};
use crate::request::Network;
use crate::step::{
    Bytes, CancelToken, NetworkPolicy, OutputStream, Record, Secret, Stdin, StepError, StepLimits, StepMount,
    StepMountSource, StepOutcome, StepOutput, StepRequest, StepRunner, TreeRecord,
};

/// The search path of a step whose image sets none, as in Docker.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The host name that a step sees, so that results do not depend on the machine.
pub const HOSTNAME: &str = "buildkitsandbox";
/// Where heredoc scripts with an interpreter of their own are mounted, as in BuildKit.
pub const SCRIPT_DIRECTORY: &str = "/dev/pipes";

/// A `RUN`, its words expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOperation {
    /// What is executed.
    pub arguments: Vec<String>,
    /// A heredoc that is an executable file: its name and bytes.
    pub script: Option<(String, Vec<u8>)>,
    /// The variables, in order.
    pub environment: Vec<(String, String)>,
    /// More variables, that are in no key.
    pub proxies: Vec<(String, String)>,
    /// Absolute and clean.
    pub working_directory: String,
    /// As `USER` says.
    pub user: String,
    /// `--mount`
    pub mounts: Vec<RunMount>,
    /// `--network`
    pub network: Network,
}

/// A mount of a `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMount {
    /// Absolute and clean; empty for a secret that is only a variable.
    pub target: String,
    /// What is mounted.
    pub kind: RunMountKind,
}

/// What a [`RunMount`] shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunMountKind {
    /// Part of another file system.
    Bind {
        /// Which of the vertex's inputs.
        input: usize,
        /// Absolute path in it.
        source: String,
        /// Writes are refused, else thrown away.
        read_only: bool,
    },
    /// A directory that is kept between builds.
    Cache {
        /// Its name.
        id: String,
        /// What it first holds: an input and a path in it.
        from: Option<(usize, String)>,
        /// Who may use it at once.
        sharing: Sharing,
        /// Writes are refused.
        read_only: bool,
        /// Mode, user and group of the directory when it is new.
        ownership: (u16, u32, u32),
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0 is no limit of its own.
        size: u64,
        /// Writes are refused.
        read_only: bool,
    },
    /// A secret of the request.
    Secret {
        /// Its name.
        id: String,
        /// Fails without it.
        required: bool,
        /// The variable that holds it.
        variable: Option<String>,
        /// Mode, user and group of the file.
        ownership: (u16, u32, u32),
    },
    /// An SSH agent of the request.
    Ssh {
        /// Its name.
        id: String,
        /// Fails without it.
        required: bool,
        /// Mode, user and group of the socket.
        ownership: (u16, u32, u32),
    },
}

/// What of a request all its steps share.
#[derive(Debug)]
pub struct StepContext<'a> {
    /// Runs steps.
    pub runner: &'a dyn StepRunner,
    /// SSH agents by name: their sockets on the host.
    pub agents: &'a BTreeMap<String, PathBuf>,
    /// Where trees are.
    pub store: &'a dyn ContentStore,
    /// Secrets by id.
    pub secrets: &'a BTreeMap<String, Secret>,
    /// `--add-host`
    pub extra_hosts: &'a [(String, IpAddr)],
    /// Loopback and link-local addresses that are allowed.
    pub network_allow: &'a [IpAddr],
    /// Bounds.
    pub limits: &'a StepLimits,
    /// Size of `/dev/shm`, in bytes.
    pub shared_memory_bytes: Option<u64>,
    /// Ends the step.
    pub cancel: &'a CancelToken,
}

/// Keeps what cache mounts hold.
pub trait CacheMounts {
    /// The tree of a cache; none when it is new.
    fn load(&self, id: &str) -> Result<Option<Tree>>;
    /// Replaces it.
    fn save(&self, id: &str, tree: &Tree) -> Result<()>;
}

impl RunOperation {
    /// Adds everything to `key` that decides the result, but the base.
    pub fn add_to_key(
        &self,
        key: &mut KeyBuilder,
        extra_hosts: &[(String, IpAddr)],
        input: &dyn Fn(usize, &str) -> Result<Key>,
    ) -> Result<()> {
        key.strings("arguments", &self.arguments);
        key.list("script", usize::from(self.script.is_some()));
        if let Some((name, contents)) = &self.script {
            key.bytes("name", name.as_bytes()).bytes("contents", contents);
        }
        key.list("environment", self.environment.len());
        for (name, value) in &self.environment {
            key.bytes("name", name.as_bytes()).bytes("value", value.as_bytes());
        }
        key.bytes("directory", self.working_directory.as_bytes());
        key.bytes("user", self.user.as_bytes());
        key.bytes("network", self.network.name().as_bytes());
        key.list("hosts", extra_hosts.len());
        for (name, address) in extra_hosts {
            key.bytes("name", name.as_bytes()).bytes("address", address.to_string().as_bytes());
        }
        key.list("mounts", self.mounts.len());
        for mount in &self.mounts {
            key.bytes("target", mount.target.as_bytes());
            mount.kind.add_to_key(key, input)?;
        }
        Ok(())
    }

    /// Makes the request.
    fn request(
        &self,
        context: &StepContext<'_>,
        base: &Tree,
        inputs: &dyn Fn(usize) -> Result<Tree>,
        caches: &dyn CacheMounts,
    ) -> Result<StepRequest> {
        let account = accounts(context.store, base)?.account(&self.user).map_err(|error| {
            Error::build(format!("cannot run as `{}`: {error}", self.user))
                .hint("create the user in an earlier RUN, or give numbers")
        })?;
        let mut environment: Vec<(Bytes, Bytes)> = Vec::new();
        let mut set = |name: &str, value: &[u8], replace: bool| match environment
            .iter_mut()
            .find(|(own, _)| own.0 == name.as_bytes())
        {
            Some((_, old)) if replace => *old = Bytes::from(value),
            Some(_) => {}
            None => environment.push((name.into(), value.into())),
        };
        for (name, value) in &self.environment {
            set(name, value.as_bytes(), true);
        }
        for (name, value) in &self.proxies {
            set(name, value.as_bytes(), false);
        }
        let mut mounts = Vec::new();
        mounts.extend(context.shared_memory_bytes.map(|size| StepMount {
            target: "/dev/shm".into(),
            source: StepMountSource::Tmpfs { size: Some(size), mode: 0o1777 },
            read_only: false,
        }));
        for mount in &self.mounts {
            if let RunMountKind::Secret { id, variable: Some(variable), required, .. } = &mount.kind {
                match context.secrets.get(id) {
                    Some(secret) => set(variable, secret.expose(), true),
                    None if *required => return Err(no_secret(id)),
                    None => {}
                }
            }
            mounts.extend(mount.resolve(context, inputs, caches)?);
        }
        if let Some(mount) = self.mounts.iter().find(|mount| matches!(mount.kind, RunMountKind::Ssh { .. })) {
            set("SSH_AUTH_SOCK", mount.target.as_bytes(), false);
        }
        set("PATH", DEFAULT_PATH.as_bytes(), false);
        set("HOME", &account.home, false);
        if let Some((name, contents)) = &self.script {
            mounts.push(StepMount {
                target: format!("{SCRIPT_DIRECTORY}/{name}").into(),
                source: StepMountSource::File {
                    contents: Secret::new(contents.clone()),
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                },
                read_only: true,
            });
        }
        Ok(StepRequest {
            base: TreeRecord(Bytes(base.encode())),
            arguments: self.arguments.iter().map(|argument| argument.as_str().into()).collect(),
            environment,
            working_directory: self.working_directory.as_str().into(),
            user: account.user,
            mounts,
            network: match self.network {
                Network::None => NetworkPolicy::None,
                Network::Default => NetworkPolicy::Default { allow: context.network_allow.to_vec() },
                Network::Host => {
                    let loopback =
                        [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
                    let allow = loopback.iter().chain(context.network_allow).copied().collect();
                    NetworkPolicy::Default { allow }
                }
            },
            hostname: HOSTNAME.into(),
            extra_hosts: context.extra_hosts.to_vec(),
            limits: context.limits.clone(),
            stdin: Stdin::Null,
            record: Record::Layer,
        })
    }

    /// Runs the step; returns the tree after it.
    pub fn execute(
        &self,
        context: &StepContext<'_>,
        base: &Tree,
        inputs: &dyn Fn(usize) -> Result<Tree>,
        caches: &dyn CacheMounts,
        output: &mut (dyn FnMut(OutputStream, &[u8]) + Send),
    ) -> Result<Tree> {
        let request = self.request(context, base, inputs, caches)?;
        let mut tee = Tee { tail: OutputTail::default(), output };
        let outcome = context.runner.run(&request, &mut tee, context.cancel);
        let lines = tee.tail.finish();
        let outcome = outcome.map_err(|error| step_failed(error).output(lines.clone()))?;
        for (id, tree) in &outcome.caches {
            caches.save(id, &decode(tree)?)?;
        }
        self.check(&outcome, lines)?;
        decode(&outcome.tree)
    }

    fn check(&self, outcome: &StepOutcome, lines: Vec<String>) -> Result<()> {
        if let Some(hit) = &outcome.limit {
            let fault = if hit.limit == crate::step::Limit::Time { Fault::TimedOut } else { Fault::Limit };
            return Err(Error::new(fault, hit.to_string()).output(lines));
        }
        if outcome.exit.success() {
            return Ok(());
        }
        let command = shorten(&self.arguments.join(" "));
        let mut error = Error::build(format!("`{command}` did not succeed: {}", outcome.exit)).output(lines);
        let unimplemented: Vec<String> =
            outcome.unimplemented.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        if let Some(hint) = outcome.hints.first() {
            error = error.hint(hint.clone());
        } else if !unimplemented.is_empty() {
            let calls = unimplemented.join(", ");
            error = error.hint(format!("the step asked for system calls that there are not yet: {calls}"));
        }
        Err(error)
    }
}

/// A failure to run a step as the build's error.
pub fn step_failed(error: StepError) -> Error {
    match error {
        StepError::Cancelled => Error::cancelled(),
        StepError::Execute { ref hint, .. } => {
            let built = Error::build(error.to_string());
            match hint {
                Some(hint) => built.hint(hint.clone()),
                None => built,
            }
        }
        StepError::Unsupported(_) => Error::build(error.to_string()),
        StepError::Start(source) => Error::host("cannot start the step's process", source),
        StepError::Died(_) => Error::new(Fault::Bug, error.to_string()),
        StepError::Store(_) => Error::new(Fault::Host, error.to_string()),
    }
}

/// A tree from a step's answer.
pub fn decode(record: &TreeRecord) -> Result<Tree> {
    Tree::decode(record.0.as_slice()).map_err(|error| {
        Error::new(Fault::Bug, "the step answered with a tree that cannot be read").caused_by(error)
    })
}

fn no_secret(id: &str) -> Error {
    Error::build(format!("the step requires the secret `{id}`"))
        .hint(format!("pass it with `--secret id={id},src=FILE`"))
}

/// A command for one line of an error.
fn shorten(command: &str) -> String {
    const LONGEST: usize = 120;
    let line = command.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(LONGEST).collect();
    if cut.len() < command.trim_end().len() { format!("{cut}…") } else { cut }
}

struct Tee<'a> {
    tail: OutputTail,
    output: &'a mut (dyn FnMut(OutputStream, &[u8]) + Send),
}

impl StepOutput for Tee<'_> {
    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        self.tail.push(bytes);
        (self.output)(stream, bytes);
    }
}

impl RunMountKind {
    fn add_to_key(&self, key: &mut KeyBuilder, input: &dyn Fn(usize, &str) -> Result<Key>) -> Result<()> {
        match self {
            Self::Bind { input: index, source, read_only } => {
                key.bytes("mount", b"bind").key("contents", &input(*index, source)?);
                key.number("read only", u64::from(*read_only));
            }
            Self::Cache { id, read_only, ownership, .. } => {
                key.bytes("mount", b"cache").bytes("id", id.as_bytes());
                key.number("read only", u64::from(*read_only));
                add_ownership(key, *ownership);
            }
            Self::Tmpfs { size, read_only } => {
                key.bytes("mount", b"tmpfs").number("size", *size).number("read only", u64::from(*read_only));
            }
            // Which keys an agent holds is no more part of the result than what a secret says.
            Self::Ssh { id, required, ownership } => {
                key.bytes("mount", b"ssh").bytes("id", id.as_bytes());
                key.number("required", u64::from(*required));
                add_ownership(key, *ownership);
            }
            Self::Secret { id, required, variable, ownership } => {
                key.bytes("mount", b"secret").bytes("id", id.as_bytes());
                key.number("required", u64::from(*required));
                key.option("variable", variable.as_deref().map(str::as_bytes));
                add_ownership(key, *ownership);
            }
        }
        Ok(())
    }
}

fn add_ownership(key: &mut KeyBuilder, (mode, uid, gid): (u16, u32, u32)) {
    key.number("mode", u64::from(mode)).number("uid", u64::from(uid)).number("gid", u64::from(gid));
}

impl RunMount {
    fn resolve(
        &self,
        context: &StepContext<'_>,
        inputs: &dyn Fn(usize) -> Result<Tree>,
        caches: &dyn CacheMounts,
    ) -> Result<Option<StepMount>> {
        let (source, read_only) = match &self.kind {
            RunMountKind::Bind { input, source, read_only } => {
                let (tree, path) = sub_path(context.store, &inputs(*input)?, source)?;
                (StepMountSource::Tree { tree: TreeRecord(Bytes(tree.encode())), path }, *read_only)
            }
            RunMountKind::Cache { id, from, ownership, read_only, .. } => {
                let tree = match caches.load(id)? {
                    Some(tree) => tree,
                    None => new_cache(context.store, from.as_ref(), inputs, *ownership)?,
                };
                let tree = TreeRecord(Bytes(tree.encode()));
                (StepMountSource::Cache { id: id.clone(), tree, path: "/".into() }, *read_only)
            }
            RunMountKind::Tmpfs { size, read_only } => {
                let size = (*size > 0).then_some(*size);
                (StepMountSource::Tmpfs { size, mode: 0o1777 }, *read_only)
            }
            RunMountKind::Ssh { id, required, ownership: (mode, uid, gid) } => match context.agents.get(id) {
                Some(socket) => {
                    let host = Bytes::from(socket.as_os_str().as_bytes());
                    (StepMountSource::Socket { host, mode: *mode, uid: *uid, gid: *gid }, false)
                }
                None if *required => {
                    return Err(Error::build(format!("the step requires the SSH agent `{id}`"))
                        .hint(format!("pass it with `--ssh {id}`, where SSH_AUTH_SOCK names its socket")));
                }
                None => return Ok(None),
            },
            RunMountKind::Secret { id, required, ownership: (mode, uid, gid), .. } => {
                if self.target.is_empty() {
                    return Ok(None);
                }
                match context.secrets.get(id) {
                    Some(secret) => {
                        let (mode, uid, gid) = (*mode, *uid, *gid);
                        (StepMountSource::File { contents: secret.clone(), mode, uid, gid }, true)
                    }
                    None if *required => return Err(no_secret(id)),
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(StepMount { target: self.target.as_str().into(), source, read_only }))
    }
}

/// A path of a tree with links followed, as something that can be mounted.
fn sub_path(store: &dyn ContentStore, tree: &Tree, source: &str) -> Result<(Tree, Bytes)> {
    let found = tree.lookup_following(store, source.as_bytes()).map_err(store_failed)?;
    let Some((path, _)) = found else {
        return Err(Error::build(format!("`{source}` is not in the source of the mount")));
    };
    Ok((tree.clone(), Bytes([b"/", path.as_slice()].concat())))
}

/// What a mount of a path shows, without times.
pub fn sub_path_key(store: &dyn ContentStore, tree: &Tree, source: &str) -> Result<Key> {
    let mut key = KeyBuilder::new("mounted");
    match tree.lookup_following(store, source.as_bytes()).map_err(store_failed)? {
        None => {
            key.option("entry", None);
        }
        Some((_, entry)) => {
            let metadata = &entry.metadata;
            add_ownership(&mut key, (metadata.mode, metadata.uid, metadata.gid));
            match &entry.kind {
                NodeKind::Directory { content, .. } => key.content_tree("directory", content),
                NodeKind::File { content, .. } => key.content("file", content),
                other => key.bytes("other", format!("{other:?}").as_bytes()),
            };
        }
    }
    Ok(key.finish())
}

fn new_cache(
    store: &dyn ContentStore,
    from: Option<&(usize, String)>,
    inputs: &dyn Fn(usize) -> Result<Tree>,
    (mode, uid, gid): (u16, u32, u32),
) -> Result<Tree> {
    let mut tree = Tree::empty(store).map_err(store_failed)?;
    (tree.root.mode, tree.root.uid, tree.root.gid) = (mode, uid, gid);
    let Some((input, source)) = from else { return Ok(tree) };
    let found = inputs(*input)?.lookup_following(store, source.as_bytes()).map_err(store_failed)?;
    match found {
        Some((_, Entry { kind: NodeKind::Directory { exact, content }, .. })) => {
            Ok(Tree { exact, content, ..tree })
        }
        Some(_) => Err(Error::build(format!("`{source}` of the cache mount is not a directory"))),
        None => Err(Error::build(format!("`{source}` is not in the source of the cache mount"))),
    }
}
