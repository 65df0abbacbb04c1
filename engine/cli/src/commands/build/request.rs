#![allow(clippy::disallowed_methods, reason = "the command line reads the files that its flags name")]
//! From the flags of `cooper build` to a request.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use cooper_build::archive;
use cooper_build::git::{self, GitAddress, GitContext, GitSource};
use cooper_build::remote::{SourceKind, context_kind, shown};
use cooper_build::report::{Reporter, phase};
use cooper_build::request::{
    BuildRequest, CacheUse, ContextSource, DOCKERFILE_BYTES, DockerfileSource, NamedContext, SECRET_BYTES,
};
use cooper_build::source::{LAYOUT_SCHEME, StoreImages};
use cooper_build::step::{CancelToken, Secret};
use cooper_build::{Error, Fault};
use cooper_image::platform::Platform;
use cooper_image::store::Store;

use super::annotations::Annotations;
use super::stdin::Stdin;
use crate::arguments::{BuildArguments, NetworkMode};
use crate::commands::values;
use crate::environment::{self, default_jobs};
use crate::failure::Failure;

/// Bound on a context that comes as one file, in bytes.
const CONTEXT_BYTES: u64 = 64 << 30;
/// Bound on a file of build arguments, in bytes.
const ARGUMENT_FILE_BYTES: u64 = 1 << 20;

/// The requests of a build, one a platform, and the files they need while they are worked on.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) requests: Vec<BuildRequest>,
    pub(super) annotations: Annotations,
    /// Contexts that came as a stream.
    _spools: Vec<tempfile::NamedTempFile>,
}

/// Reads everything that the flags name.
pub(super) fn prepare(
    arguments: &BuildArguments,
    store: &Store,
    images: &StoreImages<'_>,
    reporter: &dyn Reporter,
    cancel: &CancelToken,
) -> Result<Prepared, Failure> {
    let build_args = build_args(arguments)?;
    let secrets = secrets(&arguments.secret)?;
    let keep_git_dir =
        build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|value| super::is_true(value));
    let (spools, secrets_given) = (Vec::new(), &secrets);
    let mut reader = Reader { store, images, cancel, reporter, secrets: secrets_given, keep_git_dir, spools };
    let (context, dockerfile) = reader.sources(arguments)?;
    let named_contexts = reader.named_contexts(&arguments.build_context)?;
    let cache = match (arguments.no_cache, arguments.no_cache_filter.as_slice()) {
        (true, _) => CacheUse::Nothing,
        (false, []) => CacheUse::All,
        (false, stages) => CacheUse::Without(stages.iter().cloned().collect()),
    };
    let allow_network_host = entitlements(&arguments.allow)?;
    if arguments.network == NetworkMode::Host && !allow_network_host {
        return Err(Failure::usage("--network host needs `--allow network.host`"));
    }
    let annotations = Annotations::parse(&arguments.annotation)?;
    let source_date_epoch = source_date_epoch(&build_args)?;
    let request = BuildRequest {
        dockerfile,
        context,
        named_contexts,
        target: arguments.target.clone(),
        build_args,
        labels: values::labels(&arguments.label)?,
        annotations: BTreeMap::new(),
        platform: Platform::linux_amd64(),
        build_platform: Platform::linux_amd64(),
        secrets: secrets.clone(),
        agents: agents(&arguments.ssh)?,
        network: values::network(arguments.network),
        allow_network_host,
        network_allow: Vec::new(),
        extra_hosts: values::hosts(&arguments.add_host)?,
        cache,
        inline_cache: false,
        pull: arguments.pull,
        limits: values::limits(
            arguments.memory.as_deref(),
            &arguments.ulimit,
            arguments.step_timeout.as_deref(),
            "--step-timeout",
        )?,
        shared_memory_bytes: match &arguments.shm_size {
            Some(text) => Some(values::size("--shm-size", text)?),
            None => None,
        },
        source_date_epoch,
        jobs: arguments.jobs.unwrap_or_else(default_jobs).max(1),
    };
    let mut requests = Vec::new();
    for platform in platforms(&arguments.platform)? {
        let annotations = annotations.of_manifest(&platform);
        requests.push(BuildRequest { platform, annotations, ..request.clone() });
    }
    Ok(Prepared { requests, annotations, _spools: reader.spools })
}

fn platforms(texts: &[String]) -> Result<Vec<Platform>, Failure> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in texts {
        let platform: Platform = text.parse()?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::linux_amd64());
    }
    Ok(platforms)
}

/// Says whether steps may ask for the host's network.
fn entitlements(texts: &[String]) -> Result<bool, Failure> {
    let mut network_host = false;
    for text in texts {
        match text.as_str() {
            "network.host" => network_host = true,
            "security.insecure" => {
                return Err(Failure::usage(
                    "--allow security.insecure is refused: no step ever runs on the machine itself",
                ));
            }
            other => return Err(Failure::unsupported(&format!("--allow {other}"))),
        }
    }
    Ok(network_host)
}

struct Reader<'a> {
    store: &'a Store,
    images: &'a StoreImages<'a>,
    cancel: &'a CancelToken,
    reporter: &'a dyn Reporter,
    secrets: &'a BTreeMap<String, Secret>,
    /// Whether contexts keep their `.git`: `BUILDKIT_CONTEXT_KEEP_GIT_DIR`.
    keep_git_dir: bool,
    spools: Vec<tempfile::NamedTempFile>,
}

impl Reader<'_> {
    fn sources(&mut self, arguments: &BuildArguments) -> Result<(ContextSource, DockerfileSource), Failure> {
        let context = arguments.context.as_str();
        let file = arguments.file.as_deref();
        if context == "-" {
            if file == Some("-") {
                return Err(Failure::usage("context and Dockerfile cannot both be stdin"));
            }
            let stdin = Stdin::new(self.cancel);
            return self.stream(Box::new(stdin), "stdin", file);
        }
        match context_kind(context) {
            SourceKind::Local => {}
            SourceKind::Http => {
                let reader = self.open(context)?;
                return self.stream(reader, &shown(context), file);
            }
            SourceKind::Git => {
                let dockerfile = match file {
                    Some("-") => text_dockerfile(self.read_stdin(DOCKERFILE_BYTES)?),
                    file => DockerfileSource::InContext(file.unwrap_or("Dockerfile").to_owned()),
                };
                return Ok((self.repository(context)?, dockerfile));
            }
        }
        if let Some((scheme, _)) = context.split_once("://") {
            return Err(Failure::unsupported(&format!("a context with `{scheme}://`")));
        }
        let path = PathBuf::from(context);
        let metadata = std::fs::metadata(&path).map_err(|error| {
            Failure::Engine(
                Error::new(Fault::Usage, format!("cannot use the context `{context}`")).caused_by(error),
            )
        })?;
        let from_archive = !metadata.is_dir();
        let dockerfile = match file {
            Some("-") => text_dockerfile(self.read_stdin(DOCKERFILE_BYTES)?),
            Some(file) if from_archive => DockerfileSource::InContext(file.to_owned()),
            None if from_archive => DockerfileSource::InContext("Dockerfile".to_owned()),
            Some(file) => DockerfileSource::File(file.into()),
            None => DockerfileSource::File(path.join("Dockerfile")),
        };
        let context =
            if from_archive { ContextSource::TarFile(path) } else { ContextSource::Directory(path) };
        Ok((context, dockerfile))
    }

    /// Fetches the files of a repository into the store.
    fn repository(&self, text: &str) -> Result<ContextSource, Failure> {
        let wrong = |reason| Failure::usage(format!("invalid address of a repository: {reason}"));
        let address = GitAddress::parse(text).map_err(wrong)?;
        if address.is_ssh() {
            return Err(Failure::unsupported(&format!("a git repository by SSH (`{address}`)")));
        }
        let keep_git_dir = address.keep_git_dir.unwrap_or(self.keep_git_dir);
        let source = GitSource { address, keep_git_dir };
        let name = source.address.to_string();
        let context = GitContext {
            store: self.store,
            provider: self.images,
            secrets: self.secrets,
            progress: &|_, _, _| {},
            cancel: self.cancel,
        };
        let tree = phase(self.reporter, &format!("fetch {name}"), || git::load(&source, context))?;
        self.store.hold_tree(&tree)?;
        Ok(ContextSource::Tree { name, tree })
    }

    fn open(&self, url: &str) -> Result<Box<dyn Read + Send>, Failure> {
        let failed = |error: cooper_image::Error| {
            let error = Error::new(Fault::Usage, format!("cannot fetch `{}`", shown(url))).caused_by(error);
            Failure::Engine(error)
        };
        let received = self.images.client()?.download(url, None, None).map_err(failed)?;
        let received = received.ok_or_else(|| Failure::usage(format!("`{}` gives nothing", shown(url))))?;
        Ok(Box::new(received))
    }

    fn read_stdin(&self, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let read = Stdin::new(self.cancel).take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.failed("stdin", error))?;
        if bytes.len() as u64 > limit {
            let message = format!("stdin has more than {limit} bytes");
            return Err(Failure::Engine(Error::new(Fault::Limit, message)));
        }
        Ok(bytes)
    }

    fn failed(&self, what: &str, error: std::io::Error) -> Failure {
        if self.cancel.is_cancelled() {
            return Failure::Engine(Error::cancelled());
        }
        Failure::Engine(Error::host(format!("cannot read {what}"), error))
    }

    /// An archive is the context; anything else is a Dockerfile without one.
    fn stream(
        &mut self,
        stream: Box<dyn Read + Send>,
        what: &str,
        file: Option<&str>,
    ) -> Result<(ContextSource, DockerfileSource), Failure> {
        let (head, reader) = archive::peek(stream).map_err(|error| self.failed(what, error))?;
        if archive::detect_head(&head).is_none() {
            if file.is_some() {
                let message = format!("{what} is not a tar archive, and --file names a file in one");
                return Err(Failure::usage(message));
            }
            let mut bytes = Vec::new();
            let read = reader.take(DOCKERFILE_BYTES + 1).read_to_end(&mut bytes);
            read.map_err(|error| self.failed(what, error))?;
            return Ok((ContextSource::Empty, text_dockerfile(bytes)));
        }
        let path = self.spool(reader, what)?;
        let dockerfile = match file {
            Some("-") => text_dockerfile(self.read_stdin(DOCKERFILE_BYTES)?),
            file => DockerfileSource::InContext(file.unwrap_or("Dockerfile").to_owned()),
        };
        Ok((ContextSource::TarFile(path), dockerfile))
    }

    /// Keeps a stream beside the store, which is the one place that can be written in any case.
    fn spool(&mut self, reader: impl Read, what: &str) -> Result<PathBuf, Failure> {
        let spool = tempfile::Builder::new().prefix("context-").tempfile_in(self.store.path());
        let mut spool =
            spool.map_err(|error| Failure::Engine(Error::host("cannot keep the context", error)))?;
        let copied = std::io::copy(&mut reader.take(CONTEXT_BYTES + 1), spool.as_file_mut());
        if copied.map_err(|error| self.failed(what, error))? > CONTEXT_BYTES {
            let message = format!("the context has more than {CONTEXT_BYTES} bytes");
            return Err(Failure::Engine(Error::new(Fault::Limit, message)));
        }
        let path = spool.path().to_owned();
        self.spools.push(spool);
        Ok(path)
    }

    fn named_contexts(&mut self, texts: &[String]) -> Result<BTreeMap<String, NamedContext>, Failure> {
        let mut contexts = BTreeMap::new();
        for (name, source) in values::pairs("--build-context", texts)? {
            let context = self.named_context(&source)?;
            contexts.insert(name, context);
        }
        Ok(contexts)
    }

    fn named_context(&mut self, source: &str) -> Result<NamedContext, Failure> {
        if let Some(reference) = source.strip_prefix("docker-image://") {
            return Ok(NamedContext::Image(reference.to_owned()));
        }
        if source.starts_with(LAYOUT_SCHEME) {
            return Ok(NamedContext::Image(source.to_owned()));
        }
        if let Some(stage) = source.strip_prefix("target:") {
            return Ok(NamedContext::Stage(stage.to_owned()));
        }
        match context_kind(source) {
            SourceKind::Git => Ok(NamedContext::Files(self.repository(source)?)),
            SourceKind::Http => {
                let reader = self.open(source)?;
                let path = self.spool(reader, &shown(source))?;
                Ok(NamedContext::Files(ContextSource::TarFile(path)))
            }
            SourceKind::Local => {
                if let Some((scheme, _)) = source.split_once("://") {
                    return Err(Failure::unsupported(&format!("--build-context with `{scheme}://`")));
                }
                let path = PathBuf::from(source);
                Ok(NamedContext::Files(if path.is_file() {
                    ContextSource::TarFile(path)
                } else {
                    ContextSource::Directory(path)
                }))
            }
        }
    }
}

fn source_date_epoch(build_args: &BTreeMap<String, String>) -> Result<Option<i64>, Failure> {
    let Some(text) = build_args.get("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = text.parse::<i64>().ok().filter(|seconds| *seconds >= 0);
    let wrong = || Failure::usage(format!("invalid SOURCE_DATE_EPOCH `{text}`: expected seconds since 1970"));
    parsed.map(Some).ok_or_else(wrong)
}

fn text_dockerfile(bytes: Vec<u8>) -> DockerfileSource {
    DockerfileSource::Text { name: "Dockerfile".to_owned(), bytes }
}

fn build_args(arguments: &BuildArguments) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    if let Some(epoch) = environment::variable("SOURCE_DATE_EPOCH") {
        found.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for path in &arguments.build_arg_file {
        argument_file(path, &mut found)?;
    }
    for text in &arguments.build_arg {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), environment::variable(text)),
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("invalid --build-arg `{text}`: expected NAME[=VALUE]")));
        }
        // As in Docker: a name without a value that the environment does not have is not given at all.
        if let Some(value) = value {
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

/// Reads a `NAME=VALUE` from each line; empty lines and those that begin with `#` do not count.
fn argument_file(path: &Path, found: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    let bytes = cooper_build::context::read_small(path, ARGUMENT_FILE_BYTES)?;
    let bytes =
        bytes.ok_or_else(|| Failure::usage(format!("there is no --build-arg-file `{}`", path.display())))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("the --build-arg-file `{}` is not UTF-8", path.display())))?;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                found.insert(name.trim().to_owned(), value.to_owned());
            }
            _ => {
                let place = format!("{}:{}", path.display(), number + 1);
                return Err(Failure::usage(format!("{place}: expected NAME=VALUE, found `{line}`")));
            }
        }
    }
    Ok(())
}

/// `--ssh default`, `--ssh ID=SOCKET`
fn agents(texts: &[String]) -> Result<BTreeMap<String, PathBuf>, Failure> {
    use std::os::unix::fs::FileTypeExt;
    let mut agents = BTreeMap::new();
    for text in texts {
        let (id, socket) = match text.split_once('=') {
            Some((id, socket)) => (id, Some(socket.to_owned())),
            None => (text.as_str(), environment::variable("SSH_AUTH_SOCK")),
        };
        if id.is_empty() {
            return Err(Failure::usage(format!("invalid --ssh `{text}`: expected ID[=SOCKET]")));
        }
        let Some(socket) = socket.filter(|socket| !socket.is_empty()) else {
            return Err(Failure::usage(format!("--ssh {id}: SSH_AUTH_SOCK names no agent")));
        };
        let socket = std::path::absolute(&socket)
            .map_err(|error| Failure::Engine(Error::host(format!("cannot use --ssh `{text}`"), error)))?;
        let metadata = std::fs::metadata(&socket)
            .map_err(|error| Failure::Engine(Error::host(format!("cannot use --ssh `{text}`"), error)))?;
        if !metadata.file_type().is_socket() {
            let message = format!("--ssh `{text}`: a key file is not supported, an agent's socket is");
            return Err(Failure::Engine(
                Error::new(Fault::Usage, message)
                    .hint("add the key to an agent with `ssh-add`, and pass `--ssh default`"),
            ));
        }
        agents.insert(id.to_owned(), socket);
    }
    Ok(agents)
}

fn secrets(texts: &[String]) -> Result<BTreeMap<String, Secret>, Failure> {
    let mut secrets = BTreeMap::new();
    for text in texts {
        let (id, secret) = secret(text)?;
        secrets.insert(id, secret);
    }
    Ok(secrets)
}

fn secret(text: &str) -> Result<(String, Secret), Failure> {
    // The text may hold a path, never a secret, so it may be shown.
    let wrong = |reason: &str| Failure::usage(format!("invalid --secret `{text}`: {reason}"));
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE fields"))?;
        match key {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "type" if matches!(value, "file" | "env") => kind = Some(value),
            _ => return Err(wrong(&format!("`{field}` is not known"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("it has no id"))?;
    if kind == Some("env") && variable.is_none() {
        variable = source.take();
    }
    let bytes = match (source, variable) {
        (Some(_), Some(_)) => return Err(wrong("it has both a file and a variable")),
        (Some(path), None) => secret_file(Path::new(path))?,
        (None, Some(name)) => variable_bytes(name).ok_or_else(|| wrong("the variable is not set"))?,
        // As in Docker: the id names a variable, else a file.
        (None, None) => match variable_bytes(id) {
            Some(bytes) => bytes,
            None => secret_file(Path::new(id))?,
        },
    };
    if bytes.len() as u64 > SECRET_BYTES {
        return Err(wrong(&format!("it is longer than {SECRET_BYTES} bytes")));
    }
    Ok((id.to_owned(), Secret::new(bytes)))
}

fn variable_bytes(name: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(name).map(OsStringExt::into_vec)
}

fn secret_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let found = cooper_build::context::read_small(path, SECRET_BYTES)?;
    found.ok_or_else(|| Failure::usage(format!("there is no secret file `{}`", path.display())))
}
