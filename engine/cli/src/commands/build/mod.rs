#![allow(
    clippy::disallowed_methods,
    reason = "the command line reads and writes the files that its flags name"
)]
//! `cooper build`.
//!
//! The flags become one request a platform ([`request`]); each is built over one store, and the results go to every
//! output ([`delivery`]), as one image or as an index of several.

mod annotations;
mod check;
mod delivery;
mod request;
mod stdin;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use cooper_build::build::{Builder, Built, load};
use cooper_build::source::StoreImages;
use cooper_build::step::CancelToken;
use cooper_build::{Error, Fault, export};
use cooper_image::platform::Platform;
use cooper_image::reference::Reference;
use cooper_image::store::Store;

use super::values;
use crate::arguments::BuildArguments;
use crate::environment;
use crate::failure::Failure;
use crate::outputs::{self, Destination, Kind, Output};
use crate::{caches, display, registries, runner, signals};

use delivery::{Delivered, Delivery};
pub(crate) use delivery::{push_image, write_to};

/// Runs the command.
pub(crate) fn build(arguments: BuildArguments) -> Result<ExitCode, Failure> {
    environment::start_logging(arguments.verbosity.verbose);
    refuse(&arguments)?;
    let call = check::Call::parse(arguments.check.as_deref(), arguments.call.as_deref())?;
    let outputs = outputs(&arguments)?;
    let tags: Vec<Reference> = references("--tag", &arguments.tag)?;
    let verify = arguments.cache_verify.as_deref().map(caches::parse_verify).transpose()?;
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
    // Before anything is read from stdin: a build that waits for its context can be ended, too.
    let cancel = CancelToken::new();
    signals::cancel_on_signals(&cancel);
    let display = display::display(arguments.progress, arguments.quiet);
    let mut options = registries::options(&arguments.registry)?;
    options.insecure.extend(outputs.iter().flat_map(Output::insecure_hosts));
    let images = StoreImages::new(&store, options, &*display);
    let mut prepared = request::prepare(&arguments, &store, &images, &*display, &cancel)?;
    for request in &mut prepared.requests {
        request.inline_cache = cache_to.contains(&caches::To::Inline);
    }
    let prepared = prepared;
    let loaded = load(&store, &prepared.requests[0], &cancel)?;
    if let Some(call) = call {
        return call.run(&store, &loaded, &prepared.requests[0]);
    }
    let multiple = prepared.requests.len() > 1
        || prepared.requests[0].build_args.get("BUILDKIT_MULTI_PLATFORM").is_some_and(|value| is_true(value));
    if !multiple {
        prepared.annotations.without_index()?;
    }
    if multiple && outputs.iter().any(|output| matches!(output.kind, Kind::Docker { .. })) {
        return Err(Failure::usage("type=docker holds one platform: use type=oci"));
    }
    let runner = runner::runner(&store, arguments.ca_bundle.as_deref(), arguments.builtins)?;
    let platforms: Vec<&Platform> = prepared.requests.iter().map(|request| &request.platform).collect();
    let imported = caches::import(&store, &images, &cache_from, &platforms, verify, &*display);
    let builder = Builder {
        store: &store,
        images: &images,
        runner: &*runner,
        reporter: &*display,
        cancel: &cancel,
        caches: &imported,
    };
    let built = prepared.requests.iter().map(|request| builder.build(request, &loaded));
    let built = built.collect::<cooper_build::Result<Vec<Built<'_>>>>()?;
    let delivery = Delivery {
        store: &store,
        images: &images,
        builder,
        built: &built,
        multiple,
        annotations: &prepared.annotations,
        tags: &tags,
    };
    let mut delivered = None;
    for output in &outputs {
        if let Some(result) = delivery.deliver(output, prepared.requests[0].source_date_epoch)? {
            delivered.get_or_insert(result);
        }
    }
    caches::export(&store, &images, &built, &cache_to, &*display, &cancel)?;
    drop(display);
    if let Some(limit) = limit {
        collect(&store, limit)?;
    }
    report(&arguments, delivered.as_ref())?;
    Ok(ExitCode::SUCCESS)
}

/// Brings the store below its limit. What has a name stays, and what this build holds.
fn collect(store: &Store, limit: u64) -> Result<(), Failure> {
    store.prune_to(limit)?;
    let left = store.usage()?.total();
    if left > limit {
        let left = display::bytes(left);
        crate::complain(&format!(
            "warning: the store takes {left}, more than --store-limit: names and this build hold it"
        ));
    }
    Ok(())
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "true")
}

/// Flags that are read so that they can be refused by name.
fn refuse(arguments: &BuildArguments) -> Result<(), Failure> {
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
    let image = |push| Output::plain(Kind::Image { names: Vec::new(), push, keep });
    if arguments.push || arguments.load || outputs.is_empty() {
        outputs.push(image(arguments.push));
    }
    let stdout = |output: &&Output| match &output.kind {
        Kind::Oci { destination, .. } | Kind::Docker { destination, .. } | Kind::Tar { destination, .. } => {
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

/// Writes the files and the line that tell what was built.
fn report(arguments: &BuildArguments, delivered: Option<&Delivered>) -> Result<(), Failure> {
    let digest = delivered.map(|delivered| delivered.descriptor.digest.to_string());
    if let Some(path) = &arguments.iidfile {
        write_small(path, digest.clone().unwrap_or_default().as_bytes())?;
    }
    if let Some(path) = &arguments.metadata_file {
        let metadata = delivered.map(Delivered::metadata).unwrap_or_default();
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
