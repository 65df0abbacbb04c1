#![allow(
    clippy::disallowed_methods,
    reason = "the command line reads and writes the files that its flags name"
)]
//! `cooper build`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cooper_build::archive;
use cooper_build::build::{Builder, Built, Loaded, load};
use cooper_build::export;
use cooper_build::report::phase;
use cooper_build::request::{
    BuildRequest, CacheUse, ContextSource, DOCKERFILE_BYTES, DockerfileSource, NamedContext, SECRET_BYTES,
};
use cooper_build::source::{StoreImages, Transfers};
use cooper_build::step::{CancelToken, Secret};
use cooper_build::{Error, Fault};
use cooper_dockerfile::Severity;
use cooper_image::compression::Compression;
use cooper_image::export::Export;
use cooper_image::image::ImageRecord;
use cooper_image::platform::Platform;
use cooper_image::reference::Reference;
use cooper_image::store::Store;

use super::values;
use crate::arguments::BuildArguments;
use crate::environment::{self, default_jobs};
use crate::failure::{Failure, style};
use crate::outputs::{self, Destination, Kind, Output};
use crate::{caches, display, registries, runner, signals};

/// Bound on a context that comes on stdin, in bytes.
const STDIN_BYTES: u64 = 64 << 30;

/// Runs the command.
pub(crate) fn build(arguments: BuildArguments) -> Result<ExitCode, Failure> {
    environment::start_logging(arguments.verbosity.verbose);
    refuse(&arguments)?;
    let outputs = outputs(&arguments)?;
    let tags: Vec<Reference> = references("--tag", &arguments.tag)?;
    let cache_from: Vec<caches::From> =
        arguments.cache_from.iter().map(|text| caches::parse_from(text)).collect::<Result<_, _>>()?;
    let cache_to: Vec<caches::To> =
        arguments.cache_to.iter().map(|text| caches::parse_to(text)).collect::<Result<_, _>>()?;
    let limit =
        arguments.store_limit.as_deref().map(|text| values::size("--store-limit", text)).transpose()?;
    let store = environment::open_store(&arguments.store)?;
    if let Some(limit) = limit {
        store.prune_to(limit)?;
    }
    let mut prepared = request(&arguments, &store)?;
    if let Some(epoch) = source_date_epoch(&prepared.request)? {
        prepared.request.source_date_epoch = Some(epoch);
    }
    prepared.request.inline_cache = cache_to.contains(&caches::To::Inline);
    let request = &prepared.request;
    let cancel = CancelToken::new();
    signals::cancel_on_signals(&cancel);
    let loaded = load(&store, request, &cancel)?;
    if arguments.check {
        return Ok(check(&loaded));
    }
    let runner = runner::runner(&store)?;
    let display = display::display(arguments.progress, arguments.quiet);
    let options = registries::options(&arguments.registry)?;
    let images = StoreImages::new(&store, options, &*display);
    let caches = caches::import(&store, &images, &cache_from, &request.platform, &*display);
    let builder = Builder {
        store: &store,
        images: &images,
        runner: &*runner,
        reporter: &*display,
        cancel: &cancel,
        caches: &caches,
    };
    let built = builder.build(request, &loaded)?;
    let delivery =
        Delivery { store: &store, images: &images, builder, built: &built, tags: &tags, cancel: &cancel };
    let mut image = None;
    for output in &outputs {
        if let Some(record) = delivery.deliver(output, request.source_date_epoch)? {
            image.get_or_insert(record);
        }
    }
    caches::export(&store, &images, &built, &cache_to, &request.platform, &*display, &cancel)?;
    drop(display);
    if let Some(limit) = limit {
        store.prune_to(limit)?;
        let left = store.usage()?.total();
        if left > limit {
            let left = display::bytes(left);
            crate::complain(&format!(
                "warning: the store takes {left}, more than --store-limit: names and this build hold it"
            ));
        }
    }
    report(&arguments, &tags, image.as_ref())?;
    Ok(ExitCode::SUCCESS)
}

/// Flags that are read so that they can be refused by name.
fn refuse(arguments: &BuildArguments) -> Result<(), Failure> {
    let given =
        [("--ssh", !arguments.ssh.is_empty()), ("more than one --platform", arguments.platform.len() > 1)];
    if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
        return Err(Failure::unsupported(flag));
    }
    for (flag, value) in [("--provenance", &arguments.provenance), ("--sbom", &arguments.sbom)] {
        match value.as_deref() {
            None | Some("false" | "0") => {}
            Some(other) => return Err(Failure::unsupported(&format!("{flag}={other}"))),
        }
    }
    Ok(())
}

fn outputs(arguments: &BuildArguments) -> Result<Vec<Output>, Failure> {
    let mut outputs: Vec<Output> =
        arguments.output.iter().map(|text| outputs::parse(text)).collect::<Result<_, _>>()?;
    let keep = arguments.load || !arguments.push;
    let image =
        |push| Output { kind: Kind::Image { names: Vec::new(), push, keep }, compression: Compression::Gzip };
    if arguments.push || arguments.load || outputs.is_empty() {
        outputs.push(image(arguments.push));
    }
    let stdout = |output: &&Output| match &output.kind {
        Kind::Oci { destination, .. } | Kind::Docker { destination, .. } | Kind::Tar { destination } => {
            *destination == Destination::Stdout
        }
        Kind::Image { .. } | Kind::Local { .. } => false,
    };
    let to_stdout = outputs.iter().filter(stdout).count();
    if to_stdout > 1 || to_stdout == 1 && arguments.quiet {
        return Err(Failure::usage("stdout can take one result only"));
    }
    if to_stdout == 1 && std::io::stdout().is_terminal() {
        return Err(Failure::usage("an archive is not written to a terminal"));
    }
    Ok(outputs)
}

/// Parses names.
pub(crate) fn references(flag: &str, names: &[String]) -> Result<Vec<Reference>, Failure> {
    let parse = |name: &String| {
        let reference: Reference = name.parse().map_err(|error: cooper_image::Error| {
            Failure::Engine(Error::new(Fault::Usage, format!("invalid {flag} `{name}`")).caused_by(error))
        })?;
        if reference.digest().is_some() {
            return Err(Failure::usage(format!("invalid {flag} `{name}`: a new name has no digest")));
        }
        Ok(reference)
    };
    names.iter().map(parse).collect()
}

fn source_date_epoch(request: &BuildRequest) -> Result<Option<i64>, Failure> {
    let Some(text) = request.build_args.get("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = text.parse::<i64>().ok().filter(|seconds| *seconds >= 0);
    let wrong = || Failure::usage(format!("invalid SOURCE_DATE_EPOCH `{text}`: expected seconds since 1970"));
    parsed.map(Some).ok_or_else(wrong)
}

// ---- the request

/// A request, and the files it needs while it is worked on.
struct Prepared {
    request: BuildRequest,
    /// The context that came on stdin.
    _spool: Option<tempfile::NamedTempFile>,
}

fn request(arguments: &BuildArguments, store: &Store) -> Result<Prepared, Failure> {
    let (context, dockerfile, spool) = sources(arguments, store)?;
    let platform = match arguments.platform.first() {
        Some(text) => text.parse()?,
        None => Platform::linux_amd64(),
    };
    let cache = match (arguments.no_cache, arguments.no_cache_filter.as_slice()) {
        (true, _) => CacheUse::Nothing,
        (false, []) => CacheUse::All,
        (false, stages) => CacheUse::Without(stages.iter().cloned().collect()),
    };
    let request = BuildRequest {
        dockerfile,
        context,
        named_contexts: named_contexts(&arguments.build_context)?,
        target: arguments.target.clone(),
        build_args: build_args(&arguments.build_arg)?,
        labels: values::pairs("--label", &arguments.label)?,
        annotations: annotations(&arguments.annotation)?,
        platform,
        build_platform: Platform::linux_amd64(),
        secrets: secrets(&arguments.secret)?,
        network: values::network(arguments.network),
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
        source_date_epoch: None,
        jobs: arguments.jobs.unwrap_or_else(default_jobs).max(1),
    };
    Ok(Prepared { request, _spool: spool })
}

type Sources = (ContextSource, DockerfileSource, Option<tempfile::NamedTempFile>);

fn sources(arguments: &BuildArguments, store: &Store) -> Result<Sources, Failure> {
    let context = arguments.context.as_str();
    let file = arguments.file.as_deref();
    let remote = ["http://", "https://", "git://", "ssh://", "git@", "s3://", "gs://"];
    if remote.iter().any(|scheme| context.starts_with(scheme)) {
        return Err(Failure::unsupported(&format!("the remote context `{context}`")));
    }
    if context == "-" {
        if file == Some("-") {
            return Err(Failure::usage("context and Dockerfile cannot both be stdin"));
        }
        return stdin_context(file, store);
    }
    let path = PathBuf::from(context);
    let metadata = std::fs::metadata(&path).map_err(|error| {
        Failure::Engine(
            Error::new(Fault::Usage, format!("cannot use the context `{context}`")).caused_by(error),
        )
    })?;
    let from_archive = !metadata.is_dir();
    let dockerfile = match file {
        Some("-") => text_dockerfile(read_stdin(DOCKERFILE_BYTES)?),
        Some(file) if from_archive => DockerfileSource::InContext(file.to_owned()),
        None if from_archive => DockerfileSource::InContext("Dockerfile".to_owned()),
        Some(file) => DockerfileSource::File(file.into()),
        None => DockerfileSource::File(path.join("Dockerfile")),
    };
    let context = if from_archive { ContextSource::TarFile(path) } else { ContextSource::Directory(path) };
    Ok((context, dockerfile, None))
}

fn text_dockerfile(bytes: Vec<u8>) -> DockerfileSource {
    DockerfileSource::Text { name: "Dockerfile".to_owned(), bytes }
}

fn stdin_failed(error: std::io::Error) -> Failure {
    Failure::Engine(Error::host("cannot read stdin", error))
}

fn read_stdin(limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(stdin_failed)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::Engine(Error::new(Fault::Limit, format!("stdin has more than {limit} bytes"))));
    }
    Ok(bytes)
}

/// An archive is the context; anything else is a Dockerfile without one.
fn stdin_context(file: Option<&str>, store: &Store) -> Result<Sources, Failure> {
    let (head, reader) = archive::peek(std::io::stdin().lock()).map_err(stdin_failed)?;
    if archive::detect_head(&head).is_none() {
        if file.is_some() {
            return Err(Failure::usage("stdin is not a tar archive, and --file names a file in one"));
        }
        let mut bytes = Vec::new();
        reader.take(DOCKERFILE_BYTES + 1).read_to_end(&mut bytes).map_err(stdin_failed)?;
        return Ok((ContextSource::Empty, text_dockerfile(bytes), None));
    }
    // Beside the store, which is the one place that can be written in any case.
    let spool = tempfile::Builder::new().prefix("context-").tempfile_in(store.path());
    let mut spool =
        spool.map_err(|error| Failure::Engine(Error::host("cannot keep the context from stdin", error)))?;
    let copied =
        std::io::copy(&mut reader.take(STDIN_BYTES + 1), spool.as_file_mut()).map_err(stdin_failed)?;
    if copied > STDIN_BYTES {
        return Err(Failure::Engine(Error::new(
            Fault::Limit,
            format!("the context has more than {STDIN_BYTES} bytes"),
        )));
    }
    let dockerfile = DockerfileSource::InContext(file.unwrap_or("Dockerfile").to_owned());
    Ok((ContextSource::TarFile(spool.path().to_owned()), dockerfile, Some(spool)))
}

fn named_contexts(texts: &[String]) -> Result<BTreeMap<String, NamedContext>, Failure> {
    let mut contexts = BTreeMap::new();
    for (name, source) in values::pairs("--build-context", texts)? {
        let context = if let Some(reference) = source.strip_prefix("docker-image://") {
            NamedContext::Image(reference.to_owned())
        } else if let Some((scheme, _)) = source.split_once("://") {
            return Err(Failure::unsupported(&format!("--build-context with `{scheme}://`")));
        } else if source.starts_with("target:") {
            return Err(Failure::unsupported("--build-context with `target:`"));
        } else {
            NamedContext::Directory(source.into())
        };
        contexts.insert(name, context);
    }
    Ok(contexts)
}

fn build_args(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut arguments = BTreeMap::new();
    if let Some(epoch) = environment::variable("SOURCE_DATE_EPOCH") {
        arguments.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for text in texts {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), environment::variable(text)),
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("invalid --build-arg `{text}`: expected NAME[=VALUE]")));
        }
        // As in Docker: a name without a value that the environment does not have is not given at all.
        if let Some(value) = value {
            arguments.insert(name.to_owned(), value);
        }
    }
    Ok(arguments)
}

/// Annotations go to the manifest; other places are refused by name.
fn annotations(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut annotations = BTreeMap::new();
    for (key, value) in values::pairs("--annotation", texts)? {
        let key = match key.split_once(':') {
            Some(("manifest", key)) => key.to_owned(),
            Some((place @ ("index" | "manifest-descriptor" | "index-descriptor"), _)) => {
                return Err(Failure::unsupported(&format!("--annotation for `{place}`")));
            }
            _ => key,
        };
        annotations.insert(key, value);
    }
    Ok(annotations)
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

// ---- results

/// Shows what is wrong with the Dockerfile; the findings are the result.
fn check(loaded: &Loaded) -> ExitCode {
    let mut findings = loaded.render(Severity::Error, style());
    findings.extend(loaded.render(Severity::Warning, style()));
    if findings.is_empty() {
        crate::complain("the Dockerfile has no findings");
        return ExitCode::SUCCESS;
    }
    crate::say(&findings.join("\n\n"));
    ExitCode::from(3)
}

/// Brings a built result to its outputs.
struct Delivery<'a> {
    store: &'a Store,
    images: &'a StoreImages<'a>,
    builder: Builder<'a>,
    built: &'a Built<'a>,
    tags: &'a [Reference],
    cancel: &'a CancelToken,
}

impl Delivery<'_> {
    fn deliver(&self, output: &Output, clamp: Option<i64>) -> Result<Option<ImageRecord>, Failure> {
        match &output.kind {
            Kind::Local { destination } => {
                let tree = self.built.tree()?;
                export::write_directory(self.store, &tree, destination, self.builder.reporter, self.cancel)?;
                Ok(None)
            }
            Kind::Tar { destination } => {
                let tree = self.built.tree()?;
                write_to(destination, &mut |out| export::write_tar(self.store, &tree, clamp, out))?;
                Ok(None)
            }
            Kind::Image { names, push, keep } => {
                let names = self.names("name", names)?;
                let image = self.built.image(output.compression)?;
                if *push && names.is_empty() {
                    return Err(Failure::usage("nothing to push to: the image has no name (--tag or name=)"));
                }
                if *keep {
                    self.images.complete(&image, self.cancel)?;
                }
                // A base that the registry mounts need not be here, and then nothing here has the name.
                if self.store.image_media_type(image.digest())?.is_some() {
                    for name in &names {
                        self.store.tag_image(name, &image)?;
                    }
                }
                if *push {
                    names.iter().try_for_each(|name| {
                        push_image(self.store, self.images, &image, name, self.builder.reporter, self.cancel)
                    })?;
                }
                Ok(Some(image))
            }
            Kind::Oci { destination, directory, names } => {
                let names = self.names("name", names)?;
                let image = self.built.image(output.compression)?;
                self.images.complete(&image, self.cancel)?;
                let export = [Export { descriptor: image.descriptor.clone(), names }];
                let transfers = Transfers::new(self.builder.reporter, "export", self.cancel);
                match (destination, directory) {
                    (Destination::Path(path), Some(true)) => {
                        cooper_image::layout::write(self.store, path, &export, &transfers)?;
                    }
                    (Destination::Path(path), None) if export::is_directory_path(path) => {
                        cooper_image::layout::write(self.store, path, &export, &transfers)?;
                    }
                    (Destination::Stdout, Some(true)) => {
                        return Err(Failure::usage("a layout directory cannot be stdout"));
                    }
                    _ => write_to(destination, &mut |out| {
                        Ok(cooper_image::archive::write_oci(self.store, &export, out, &transfers)?)
                    })?,
                }
                Ok(Some(image))
            }
            Kind::Docker { destination, names } => {
                let names = self.names("name", names)?;
                let image = self.built.image(output.compression)?;
                self.images.complete(&image, self.cancel)?;
                let export = [Export { descriptor: image.descriptor.clone(), names }];
                let transfers = Transfers::new(self.builder.reporter, "export", self.cancel);
                write_to(destination, &mut |out| {
                    Ok(cooper_image::archive::write_docker(self.store, &export, out, &transfers)?)
                })?;
                Ok(Some(image))
            }
        }
    }

    fn names(&self, flag: &str, names: &[String]) -> Result<Vec<Reference>, Failure> {
        let mut all = self.tags.to_vec();
        all.extend(references(flag, names)?);
        Ok(all)
    }
}

/// Writes an archive to a file, as a whole, or to stdout.
pub(crate) fn write_to(
    destination: &Destination,
    write: &mut dyn FnMut(&mut dyn Write) -> cooper_build::Result<()>,
) -> Result<(), Failure> {
    let failed = |error| Error::host("cannot write the archive", error);
    let mut buffered = |out: &mut dyn Write| -> cooper_build::Result<()> {
        let mut out = std::io::BufWriter::with_capacity(256 << 10, out);
        write(&mut out)?;
        out.flush().map_err(failed)
    };
    match destination {
        Destination::Path(path) => Ok(export::write_whole(path, |file| buffered(file))?),
        Destination::Stdout => Ok(buffered(&mut std::io::stdout().lock())?),
    }
}

/// Pushes an image of the store under one name.
pub(crate) fn push_image(
    store: &Store,
    images: &StoreImages<'_>,
    image: &ImageRecord,
    name: &Reference,
    reporter: &dyn cooper_build::report::Reporter,
    cancel: &CancelToken,
) -> Result<(), Failure> {
    let shown = format!("push {name}");
    let pushed = phase(reporter, &shown, || {
        let transfers = Transfers::new(reporter, &shown, cancel);
        let client = images.client()?;
        let pushed = client.push(store, &image.descriptor, name, &transfers);
        images.pass_warnings_on(&client);
        pushed.map_err(|error| {
            let fault = Error::from_image(&error);
            Error::new(fault, format!("cannot push `{name}`")).caused_by(error)
        })
    });
    Ok(pushed?)
}

/// Writes the files and the line that tell what was built.
fn report(
    arguments: &BuildArguments,
    tags: &[Reference],
    image: Option<&ImageRecord>,
) -> Result<(), Failure> {
    let digest = image.map(|image| image.digest().to_string());
    if let Some(path) = &arguments.iidfile {
        let text = digest.clone().unwrap_or_default();
        write_small(path, text.as_bytes())?;
    }
    if let Some(path) = &arguments.metadata_file {
        let mut metadata = serde_json::Map::new();
        if let Some(image) = image {
            let names: Vec<String> = tags.iter().map(Reference::to_string).collect();
            metadata.insert(
                "containerimage.config.digest".into(),
                image.manifest.config.digest.to_string().into(),
            );
            metadata.insert(
                "containerimage.descriptor".into(),
                serde_json::json!({
                    "mediaType": image.descriptor.media_type,
                    "digest": image.digest().to_string(),
                    "size": image.descriptor.size,
                }),
            );
            metadata.insert("containerimage.digest".into(), image.digest().to_string().into());
            if !names.is_empty() {
                metadata.insert("image.name".into(), names.join(",").into());
            }
        }
        let text = serde_json::to_string_pretty(&metadata).unwrap_or_default();
        write_small(path, format!("{text}\n").as_bytes())?;
    }
    if arguments.quiet
        && let Some(digest) = digest
    {
        crate::say(&digest);
    }
    Ok(())
}

fn write_small(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error| Error::host(format!("cannot write `{}`", path.display()), error);
    Ok(export::write_whole(path, |file| file.write_all(bytes).map_err(failed))?)
}
