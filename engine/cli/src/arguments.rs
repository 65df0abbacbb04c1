//! The flags, as clap reads them. What they mean is in the commands.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// Builds container images without a daemon and without privilege.
#[derive(Debug, Parser)]
#[command(name = "cooper", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArguments>),
    /// Run a command in an image's file system, as a RUN step would
    Run(Box<RunArguments>),
    /// Bring an image from its registry into the store
    Pull(PullArguments),
    /// Send an image of the store to its registry
    Push(PushArguments),
    /// Give an image of the store another name
    Tag(TagArguments),
    /// List the images of the store
    Images(ImagesArguments),
    /// Show manifest and config of an image as JSON
    Inspect(InspectArguments),
    /// Write images of the store to an archive or layout
    Save(SaveArguments),
    /// Read images from an archive or layout into the store
    Load(LoadArguments),
    /// Remove names from the store
    Rmi(RmiArguments),
    /// Remove what no name and no record needs
    Prune(PruneArguments),
    /// Keep a credential for a registry
    Login(LoginArguments),
    /// Forget a credential for a registry
    Logout(LogoutArguments),
    /// Copy an image from one registry name to another
    Copy(CopyArguments),
    /// Say step by step what works and what fails with an image's registry
    Doctor(DoctorArguments),
    /// Fill and move the cache of translated code
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Join images of several platforms
    #[command(subcommand)]
    Index(IndexCommand),
    /// Say what the code of an error or warning means
    Explain(ExplainArguments),
    /// Say which steps the last build on a store executed, and why they were not in the cache
    ExplainMiss(ExplainMissArguments),
    /// List the system calls that steps have
    Syscalls,
    /// Show the version
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Run a command in an image and keep everything that it runs as translated code
    Warm(Box<RunArguments>),
    /// Write translated code to a signed archive
    Export(CacheExportArguments),
    /// Take translated code from a signed archive
    Import(CacheImportArguments),
    /// Push translated code to a registry as a signed archive in an image
    Push(CacheRemoteArguments),
    /// Take translated code that `cache push` has pushed
    Pull(CacheRemoteArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CacheRemoteArguments {
    /// Name of the image that carries the archive
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Ed25519 key (PEM): the private one that signs, or the public one that it has to be signed with
    #[arg(long, value_name = "KEY")]
    pub(crate) key: PathBuf,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) progress: Progress,
    /// Show nothing but the digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

#[derive(Debug, Args)]
pub(crate) struct CacheExportArguments {
    /// The archive to write
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Private Ed25519 key (PEM) that signs the archive
    #[arg(long, value_name = "KEY")]
    pub(crate) key: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

#[derive(Debug, Args)]
pub(crate) struct CacheImportArguments {
    /// The archive to read
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Public Ed25519 key (PEM) that the archive has to be signed with
    #[arg(long, value_name = "KEY")]
    pub(crate) key: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

/// Where the store is, and how much is logged.
#[derive(Debug, Args)]
pub(crate) struct StoreArguments {
    /// Directory of the store
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RegistryArguments {
    /// Speak plain HTTP to this registry (repeat); loopback ones are by themselves
    #[arg(long, value_name = "HOST")]
    pub(crate) insecure_registry: Vec<String>,
    /// File with credentials, instead of those that the environment names
    #[arg(long, alias = "authfile", value_name = "FILE")]
    pub(crate) auth_file: Option<PathBuf>,
    /// Let a registry's credential go to its token service on another host (repeat)
    #[arg(long, value_name = "REGISTRY=HOST")]
    pub(crate) allow_auth_host: Vec<String>,
    /// Trust this authority for one registry, as PEM (repeat)
    #[arg(long, value_name = "HOST=FILE")]
    pub(crate) registry_ca: Vec<String>,
    /// Certificate and key to show to one registry, as PEM (repeat)
    #[arg(long, value_name = "HOST=CERT:KEY")]
    pub(crate) registry_cert: Vec<String>,
    /// Ask another place first: docker.io=mirror.local/hub (repeat, or with `;`)
    #[arg(long, value_name = "NAME=LOCATION")]
    pub(crate) registry_map: Vec<String>,
    /// Directory with containerd's HOST/hosts.toml files [default: COOPER_HOSTS_DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) hosts_dir: Option<PathBuf>,
    /// File with mirrors, as containers-registries.conf(5) has them [default: CONTAINERS_REGISTRIES_CONF]
    #[arg(long, value_name = "FILE")]
    pub(crate) registries_conf: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Verbosity {
    /// Log more (repeat); COOPER_LOG sets a filter
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// `tty` on a terminal, else `plain`
    Auto,
    /// Lines
    Plain,
    /// A display that redraws itself
    Tty,
    /// One JSON object a line
    Rawjson,
    /// Nothing
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    Default,
    None,
    Host,
}

/// When a step gets the toolbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BuiltinsMode {
    /// Where the image has no shell and lacks the program
    Auto,
    Never,
    /// Behind what the image has
    Always,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// Directory, tar file, http(s) URL of a tar or Dockerfile, or `-` for either on stdin
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: String,
    /// Dockerfile; `-` for stdin [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Name of the image (repeat)
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Value of an ARG; without a value that of the environment (repeat)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// File with a NAME=VALUE on each line, for ARG (repeat)
    #[arg(long, value_name = "FILE")]
    pub(crate) build_arg_file: Vec<PathBuf>,
    /// Label of the image (repeat)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Annotation of the manifest, or of index or manifest-descriptor, perhaps of one platform (repeat)
    #[arg(long, value_name = "[SCOPE[PLATFORM],…:]NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Platform of the image; several make an index (repeat, or commas)
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// Another context: a directory, tar file, git repository, docker-image://, oci-layout://, http(s):// or target:STAGE (repeat)
    #[arg(long, value_name = "NAME=SOURCE")]
    pub(crate) build_context: Vec<String>,
    /// Secret for RUN --mount=type=secret (repeat)
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    pub(crate) secret: Vec<String>,
    /// Network of the steps
    #[arg(long, value_enum, default_value = "default")]
    pub(crate) network: NetworkMode,
    /// Certificates (PEM) that programs in steps trust, in no layer [default: the file of SSL_CERT_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_bundle: Option<PathBuf>,
    /// When steps get the built-in shell and tools, in no layer
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) builtins: BuiltinsMode,
    /// Line for the steps' /etc/hosts (repeat)
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// What steps may ask for: network.host (repeat)
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,
    /// Use no cached results
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Use no cached results of these stages (repeat)
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Ask registries for base images that the store has
    #[arg(long)]
    pub(crate) pull: bool,
    /// Cache to look into: an image, or type=registry|local[,ref=NAME][,src=DIR] (repeat)
    #[arg(long, value_name = "SOURCE")]
    pub(crate) cache_from: Vec<String>,
    /// Cache to write: an image name, or type=registry|local|inline[,ref=NAME][,dest=DIR][,mode=min|max][,ttl=TIME][,mounts=true][,index=true] (repeat)
    #[arg(long, value_name = "DESTINATION")]
    pub(crate) cache_to: Vec<String>,
    /// Make so many of a hundred results of --cache-from again, and refuse the cache when one differs; `,run` for steps, too
    #[arg(long, value_name = "PERCENT%[,run]")]
    pub(crate) cache_verify: Option<String>,
    /// Where the result goes: type=image|registry|oci|docker|local|tar[,dest=PATH][,push=true]... (repeat)
    #[arg(short, long, value_name = "OUTPUT")]
    pub(crate) output: Vec<String>,
    /// Push the image under its names
    #[arg(long)]
    pub(crate) push: bool,
    /// Keep the image in the store, as without --output
    #[arg(long)]
    pub(crate) load: bool,
    /// SSH agent for RUN --mount=type=ssh, as `default`, and its socket if not that of SSH_AUTH_SOCK (repeat)
    #[arg(long, value_name = "ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,
    /// Memory of a step: a number with b, k, m or g
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Size of the steps' /dev/shm: a number with b, k, m or g
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// Resource limit of steps: cpu, data, fsize, memlock, nofile, nproc, stack and others (repeat)
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// Time that a step may take, as 90s, 10m, 1h
    #[arg(long, alias = "timeout", value_name = "TIME")]
    pub(crate) step_timeout: Option<String>,
    /// Only `false` yet
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) provenance: Option<String>,
    /// Only `false` yet
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) sbom: Option<String>,
    /// Write the image's digest to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write what was built to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) progress: Progress,
    /// Show nothing but the image's digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Look at the Dockerfile only, and say what is wrong with it: as text, json, sarif or gitlab
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub(crate) check: Option<String>,
    /// Do something else than building: check, outline or targets, with `,format=` as for --check
    #[arg(long, value_name = "METHOD[,format=FORMAT]")]
    pub(crate) call: Option<String>,
    /// Steps at once [default: the processors]
    #[arg(long, value_name = "COUNT")]
    pub(crate) jobs: Option<usize>,
    /// Let the store take no more than this after the build, but for what has a name: a number with k, m or g
    #[arg(long, value_name = "BYTES")]
    pub(crate) store_limit: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Accepted as in Docker; nothing that the command writes is kept in any case
    #[arg(long)]
    pub(crate) rm: bool,
    /// Accepted as in Docker; stdin is always passed on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Insist on a terminal; without it the command has one where all three standard streams are terminals
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Variable; without a value that of the environment (repeat)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    pub(crate) user: Option<String>,
    /// Host directory to see read-only (repeat)
    #[arg(short, long, value_name = "HOST:TARGET:ro")]
    pub(crate) volume: Vec<String>,
    /// Program instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Network
    #[arg(long, value_enum, default_value = "default")]
    pub(crate) network: NetworkMode,
    /// Certificates (PEM) that programs in steps trust, in no layer [default: the file of SSL_CERT_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_bundle: Option<PathBuf>,
    /// When steps get the built-in shell and tools, in no layer
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) builtins: BuiltinsMode,
    /// Line for /etc/hosts (repeat)
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// Memory: a number with b, k, m or g
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Resource limit (repeat)
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// Time that the command may take, as 90s, 10m, 1h
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    /// Ask the registry even when the store has the image
    #[arg(long)]
    pub(crate) pull: bool,
    /// Log more (repeat); COOPER_LOG sets a filter
    #[arg(long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    /// Image
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IndexCommand {
    /// Make an index of images
    Create(IndexArguments),
    /// Add images to an index
    Add(IndexArguments),
    /// Send an index to its registry
    Push(IndexPushArguments),
}

#[derive(Debug, Args)]
pub(crate) struct IndexArguments {
    /// Name of the index
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: String,
    /// Images: of the store, else of their registries (repeat)
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Annotation of the index (repeat)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

#[derive(Debug, Args)]
pub(crate) struct IndexPushArguments {
    /// Index
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainMissArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// Code as it is shown in brackets; all of them without one
    #[arg(value_name = "CODE")]
    pub(crate) code: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// Image (repeat)
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) progress: Progress,
    /// Show nothing but the digests
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

#[derive(Debug, Args)]
pub(crate) struct PushArguments {
    /// Image (repeat)
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) progress: Progress,
    /// Show nothing but the digests
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// Registry, or a namespace in one [default: docker.io]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(crate) registry: String,
    /// User
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: String,
    /// Read the password from stdin
    #[arg(long, required = true)]
    pub(crate) password_stdin: bool,
    /// Keep the credential without asking the registry whether it takes it
    #[arg(long)]
    pub(crate) no_check: bool,
    #[command(flatten)]
    pub(crate) options: RegistryArguments,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArguments {
    /// Registry, or a namespace in one [default: docker.io]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(crate) registry: String,
    /// File with credentials, instead of those that the environment names
    #[arg(long, alias = "authfile", value_name = "FILE")]
    pub(crate) auth_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    /// Copy what refers to the image, too: signatures, attestations
    #[arg(long)]
    pub(crate) referrers: bool,
    /// Image to copy
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// Its new name
    #[arg(value_name = "TO")]
    pub(crate) to: String,
    /// Copy the image of one platform instead of what the name stands for
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) progress: Progress,
    /// Show nothing but the digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Image
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

#[derive(Debug, Args)]
pub(crate) struct TagArguments {
    /// Image
    #[arg(value_name = "IMAGE")]
    pub(crate) source: String,
    /// New name
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArguments {
    /// Show digests only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Image (repeat)
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

/// Formats of `save`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    /// A tar archive as `docker save` writes it
    Docker,
    /// An OCI image layout as a tar archive
    Oci,
    /// An OCI image layout as a directory
    OciDir,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArguments {
    /// Image (repeat)
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// File or directory to write
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: PathBuf,
    /// Format
    #[arg(long, value_enum, default_value = "docker")]
    pub(crate) format: SaveFormat,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// Archive or layout to read
    #[arg(short, long, value_name = "PATH")]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArguments {
    /// Name (repeat)
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Remove all names and cached results, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Remove cached results not used for this long, as 12h or 7d
    #[arg(long, value_name = "TIME")]
    pub(crate) unused_for: Option<String>,
    /// Remove what was used longest ago until the store takes no more than this: a number with k, m or g
    #[arg(long, alias = "max-used-space", value_name = "BYTES")]
    pub(crate) keep_storage: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreArguments,
}
