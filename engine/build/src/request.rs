//! What a build is asked to do: one plain value, made by the command line.
//!
//! Nothing in this crate reads flags, the environment or the clock; whoever makes the request has done so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use cooper_image::platform::Platform;
use cooper_vfs::tree::Tree;

use crate::step::{Secret, StepLimits};

/// Bound on the size of a Dockerfile, in bytes, as the parser has it.
pub const DOCKERFILE_BYTES: u64 = cooper_dockerfile::MAX_SOURCE_BYTES as u64;
/// Bound on the size of a secret, in bytes; the same as BuildKit's.
pub const SECRET_BYTES: u64 = 500 << 10;

/// Everything that says what is to be built.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// Where `COPY` and `ADD` take files from.
    pub context: ContextSource,
    /// `--build-context`: name and source; overrides images and stages of that name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// The stage to build; the last one without it.
    pub target: Option<String>,
    /// `--build-arg`, in the order given; the last of a name counts.
    pub build_args: BTreeMap<String, String>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--annotation` for the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The platform of the result.
    pub platform: Platform,
    /// The platform of this machine, for `BUILDPLATFORM`.
    pub build_platform: Platform,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// `--ssh`: agents by name, their sockets on the host.
    pub agents: BTreeMap<String, PathBuf>,
    /// `--network`
    pub network: Network,
    /// `--allow network.host`: steps may ask for this machine's own network.
    pub allow_network_host: bool,
    /// Loopback or link-local addresses that steps may reach.
    pub network_allow: Vec<IpAddr>,
    /// `--add-host`
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// What of the cache may be used.
    pub cache: CacheUse,
    /// Whether the image carries its results, for builds that use it as a cache.
    pub inline_cache: bool,
    /// Ask the registry even where a local image has the name.
    pub pull: bool,
    /// Bounds of every step.
    pub limits: StepLimits,
    /// Size of the steps' `/dev/shm`, in bytes.
    pub shared_memory_bytes: Option<u64>,
    /// Latest time that anything recorded may carry, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// How many vertices run at once.
    pub jobs: usize,
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// A host file.
    File(PathBuf),
    /// A path in the context, for contexts that are archives.
    InContext(String),
    /// The text itself, and what to call it.
    Text {
        /// For messages.
        name: String,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// Where the files of a context are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A host directory.
    Directory(PathBuf),
    /// A host file with a tar archive, plain or compressed.
    TarFile(PathBuf),
    /// Files that were fetched into the store, by the name to call them.
    Tree {
        /// For messages.
        name: String,
        /// The files.
        tree: Tree,
    },
    /// No files.
    Empty,
}

/// What a named context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// Files.
    Files(ContextSource),
    /// An image: a reference, or `oci-layout://PATH[:TAG]`.
    Image(String),
    /// A stage of the Dockerfile itself, by name or number.
    Stage(String),
}

/// `--network` of a build or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The host's, within the policy.
    Default,
    /// Loopback only.
    None,
    /// The host's, its loopback too.
    Host,
}

impl Network {
    /// The name on the command line, and in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

/// What of the cache may be used. Results are recorded in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// Everything.
    All,
    /// Nothing (`--no-cache`).
    Nothing,
    /// Everything but the stages of these names or numbers (`--no-cache-filter`).
    Without(BTreeSet<String>),
}
