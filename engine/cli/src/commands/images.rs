#![allow(
    clippy::disallowed_methods,
    reason = "the command line reads and writes the files that its flags name"
)]
//! Images of the store: pull, push, tag, list, inspect, save, load, remove, prune.

use std::process::ExitCode;

use cooper_build::report::{Reporter, Silent};
use cooper_build::source::{StoreImages, Transfers};
use cooper_build::step::CancelToken;
use cooper_build::{Error, Fault};
use cooper_image::archive::Archive;
use cooper_image::digest::Digest;
use cooper_image::export::Export;
use cooper_image::image::{ImageRecord, Source};
use cooper_image::layer::Limits;
use cooper_image::layout::Layout;
use cooper_image::manifest::Descriptor;
use cooper_image::platform::Platform;
use cooper_image::reference::Reference;
use cooper_image::store::{PruneOptions, Store, TagsToo};

use super::build::{push_image, references, write_to};
use super::values::{self, table};
use crate::arguments::{
    ImagesArguments, InspectArguments, LoadArguments, PruneArguments, PullArguments, PushArguments,
    RmiArguments, SaveArguments, SaveFormat, TagArguments,
};
use crate::display::{bytes, display};
use crate::environment::{open_store, start_logging};
use crate::failure::Failure;
use crate::outputs::Destination;
use crate::registries;
use crate::signals::cancel_on_signals;

/// Parses a name of an image that may have a digest.
pub(crate) fn reference(name: &str) -> Result<Reference, Failure> {
    name.parse().map_err(|error: cooper_image::Error| {
        Failure::Engine(Error::new(Fault::Usage, format!("invalid image name `{name}`")).caused_by(error))
    })
}

fn platform(text: Option<&str>) -> Result<Platform, Failure> {
    Ok(text.map_or(Ok(Platform::linux_amd64()), str::parse)?)
}

/// Finds an image of the store by name, or by digest alone.
pub(crate) fn find(store: &Store, name: &str, platform: &Platform) -> Result<Option<ImageRecord>, Failure> {
    if let Ok(digest) = name.parse::<Digest>() {
        return Ok(store.image(&digest)?);
    }
    Ok(store.find(&reference(name)?, platform)?)
}

fn find_or_fail(store: &Store, name: &str, platform: &Platform) -> Result<ImageRecord, Failure> {
    find(store, name, platform)?.ok_or_else(|| {
        let error = Error::new(Fault::Usage, format!("the store has no image `{name}`"));
        Failure::Engine(error.hint(format!("run `cooper pull {name}`, or look at `cooper images`")))
    })
}

/// `cooper pull`
pub(crate) fn pull(arguments: PullArguments) -> Result<ExitCode, Failure> {
    start_logging(arguments.verbosity.verbose);
    let platform = platform(arguments.platform.as_deref())?;
    let store = open_store(&arguments.store)?;
    let cancel = CancelToken::new();
    cancel_on_signals(&cancel);
    let display = display(arguments.progress, arguments.quiet);
    let options = registries::options(&arguments.registry)?;
    let images = StoreImages::new(&store, options, &*display);
    for name in &arguments.images {
        let record = images.pull(&reference(name)?, &platform, &cancel)?;
        crate::say(&record.digest().to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// `cooper push`
pub(crate) fn push(arguments: PushArguments) -> Result<ExitCode, Failure> {
    start_logging(arguments.verbosity.verbose);
    let platform = platform(arguments.platform.as_deref())?;
    let store = open_store(&arguments.store)?;
    let cancel = CancelToken::new();
    cancel_on_signals(&cancel);
    let display = display(arguments.progress, arguments.quiet);
    let options = registries::options(&arguments.registry)?;
    let images = StoreImages::new(&store, options, &*display);
    for name in &arguments.images {
        let reference = reference(name)?;
        let record = find_or_fail(&store, name, &platform)?;
        push_image(&store, &images, &record.descriptor, &reference, &*display, &cancel)?;
        crate::say(&record.digest().to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// `cooper tag`
pub(crate) fn tag(arguments: TagArguments) -> Result<ExitCode, Failure> {
    let store = open_store(&arguments.store)?;
    let record = find_or_fail(&store, &arguments.source, &Platform::linux_amd64())?;
    for name in references("name", &[arguments.target])? {
        store.tag_image(&name, &record)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `cooper images`
pub(crate) fn images(arguments: ImagesArguments) -> Result<ExitCode, Failure> {
    let store = open_store(&arguments.store)?;
    let tags = store.tags()?;
    if arguments.quiet {
        for tag in &tags {
            crate::say(&tag.digest.to_string());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["NAME", "PLATFORM", "DIGEST", "SIZE", "CREATED"].map(str::to_owned)];
    for tag in &tags {
        let record = store.image(&tag.digest)?;
        let size =
            record.as_ref().map(|record| record.layers.iter().map(|layer| layer.descriptor.size).sum());
        let created = record.and_then(|record| record.config.created);
        let name = tag.name.parse::<Reference>().map_or_else(|_| tag.name.clone(), |name| name.familiar());
        rows.push([
            name,
            if tag.platform.is_empty() { "(index)".to_owned() } else { tag.platform.clone() },
            tag.digest.to_string(),
            size.map_or_else(|| "-".to_owned(), bytes),
            created.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    crate::say(&table(&rows));
    Ok(ExitCode::SUCCESS)
}

/// `cooper inspect`
pub(crate) fn inspect(arguments: InspectArguments) -> Result<ExitCode, Failure> {
    let store = open_store(&arguments.store)?;
    let mut shown = Vec::new();
    for name in &arguments.images {
        let record = find_or_fail(&store, name, &Platform::linux_amd64())?;
        shown.push(serde_json::json!({
            "name": name,
            "digest": record.digest().to_string(),
            "manifest": record.manifest,
            "config": record.config,
        }));
    }
    crate::say(&serde_json::to_string_pretty(&shown).unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

/// `cooper save`
pub(crate) fn save(arguments: SaveArguments) -> Result<ExitCode, Failure> {
    let store = open_store(&arguments.store)?;
    let mut exports: Vec<Export> = Vec::new();
    for name in &arguments.images {
        let record = find_or_fail(&store, name, &Platform::linux_amd64())?;
        let named =
            reference(name).ok().filter(|found| found.digest().is_none() && name.parse::<Digest>().is_err());
        match exports.iter_mut().find(|export| export.descriptor.digest == *record.digest()) {
            Some(export) => export.names.extend(named),
            None => {
                exports.push(Export { descriptor: record.descriptor, names: named.into_iter().collect() });
            }
        }
    }
    let (cancel, reporter) = (CancelToken::new(), Silent);
    cancel_on_signals(&cancel);
    let transfers = Transfers::new(&reporter, "save", &cancel);
    if arguments.format == SaveFormat::OciDir {
        cooper_image::layout::write(&store, &arguments.output, &exports, &transfers)?;
        return Ok(ExitCode::SUCCESS);
    }
    let destination = match arguments.output.as_os_str().to_str() {
        Some("-") => Destination::Stdout,
        _ => Destination::Path(arguments.output.clone()),
    };
    write_to(&destination, &mut |out| {
        let written = match arguments.format {
            SaveFormat::Docker => cooper_image::archive::write_docker(&store, &exports, out, &transfers),
            SaveFormat::Oci | SaveFormat::OciDir => {
                cooper_image::archive::write_oci(&store, &exports, out, &transfers)
            }
        };
        Ok(written?)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `cooper load`
pub(crate) fn load(arguments: LoadArguments) -> Result<ExitCode, Failure> {
    let store = open_store(&arguments.store)?;
    let (cancel, reporter) = (CancelToken::new(), Silent);
    cancel_on_signals(&cancel);
    let path = &arguments.input;
    if path.is_dir() {
        let layout = Layout::open(path)?;
        let entries: Vec<(Descriptor, Vec<String>)> =
            layout.entries().iter().map(|entry| (entry.clone(), layout_names(entry))).collect();
        return import(&store, &layout, entries, &reporter, &cancel);
    }
    let archive = Archive::open(&store, path)?;
    let entries: Vec<(Descriptor, Vec<String>)> =
        archive.entries().iter().map(|entry| (entry.clone(), archive.names(entry))).collect();
    import(&store, &archive, entries, &reporter, &cancel)
}

fn layout_names(entry: &Descriptor) -> Vec<String> {
    let annotations = entry.annotations.as_ref();
    let name = annotations.and_then(|annotations| annotations.get(cooper_image::export::FULL_NAME));
    name.cloned().into_iter().collect()
}

fn import(
    store: &Store,
    source: &dyn Source,
    entries: Vec<(Descriptor, Vec<String>)>,
    reporter: &dyn Reporter,
    cancel: &CancelToken,
) -> Result<ExitCode, Failure> {
    let transfers = Transfers::new(reporter, "load", cancel);
    let mut loaded = 0;
    for (entry, names) in entries {
        if entry.is_attestation() {
            continue;
        }
        let wanted = entry.platform.clone().unwrap_or_else(Platform::linux_amd64);
        let record = store.import(source, &entry, &wanted, &transfers)?;
        // An archive is somebody's word for what is in it: diff IDs and layers are checked before it gets a name.
        store.ensure_tree(&record, &Limits::DEFAULT, &transfers)?;
        loaded += 1;
        for name in &names {
            let reference = reference(name)?;
            store.tag_image(&reference, &record)?;
            crate::say(&reference.familiar());
        }
        if names.is_empty() {
            crate::say(&record.digest().to_string());
        }
    }
    if loaded == 0 {
        return Err(Failure::Engine(Error::build("there is no image in the archive or layout")));
    }
    Ok(ExitCode::SUCCESS)
}

/// `cooper rmi`
pub(crate) fn rmi(arguments: RmiArguments) -> Result<ExitCode, Failure> {
    let store = open_store(&arguments.store)?;
    for name in &arguments.images {
        let names: Vec<String> = match name.parse::<Digest>() {
            Ok(digest) => {
                store.tags()?.into_iter().filter(|tag| tag.digest == digest).map(|tag| tag.name).collect()
            }
            Err(_) => vec![cooper_image::image::tag_name(&reference(name)?)],
        };
        let mut removed = false;
        for name in &names {
            removed |= store.remove_tag(name)?;
        }
        if !removed {
            return Err(Failure::usage(format!("the store has no image `{name}`")));
        }
        crate::say(name);
    }
    Ok(ExitCode::SUCCESS)
}

/// `cooper prune`
pub(crate) fn prune(arguments: PruneArguments) -> Result<ExitCode, Failure> {
    let store = open_store(&arguments.store)?;
    let unused_records = match &arguments.unused_for {
        Some(text) => Some(values::duration("--unused-for", text)?),
        None => arguments.all.then_some(std::time::Duration::ZERO),
    };
    let tags = if arguments.all { TagsToo::Remove } else { TagsToo::Keep };
    let mut pruned = store.prune(&PruneOptions { unused_records, tags })?;
    if let Some(text) = &arguments.keep_storage {
        let more = store.prune_to(values::size("--keep-storage", text)?)?;
        pruned.records += more.records;
        pruned.images += more.images;
        pruned.blobs += more.blobs;
        pruned.packs += more.packs;
        pruned.bytes += more.bytes;
    }
    crate::say(&format!(
        "removed {} names, {} cached results, {} images, {} blobs, {} packs: {}",
        pruned.tags,
        pruned.records,
        pruned.images,
        pruned.blobs,
        pruned.packs,
        bytes(pruned.bytes)
    ));
    Ok(ExitCode::SUCCESS)
}
