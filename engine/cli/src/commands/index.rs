//! `cooper index`: images of several platforms under one name.

use std::process::ExitCode;

use cooper_build::source::{ImageProvider, StoreImages};
use cooper_build::step::CancelToken;
use cooper_image::image::{ImageRecord, tag_name};
use cooper_image::manifest::{Descriptor, media_type};
use cooper_image::platform::Platform;
use cooper_image::reference::Reference;
use cooper_image::store::Store;

use super::build::{push_image, references};
use super::values;
use crate::arguments::{IndexArguments, IndexCommand, IndexPushArguments, Progress};
use crate::display::display;
use crate::environment::{open_store, start_logging};
use crate::failure::Failure;
use crate::signals::cancel_on_signals;

/// Runs one of the commands.
pub(crate) fn index(command: IndexCommand) -> Result<ExitCode, Failure> {
    match command {
        IndexCommand::Create(arguments) => make(&arguments, Vec::new()),
        IndexCommand::Add(arguments) => {
            let store = open_store(&arguments.store)?;
            let there = existing(&store, &name(&arguments.name)?)?;
            drop(store);
            make(&arguments, there)
        }
        IndexCommand::Push(arguments) => push(&arguments),
    }
}

fn name(text: &str) -> Result<Reference, Failure> {
    let mut names = references("name", &[text.to_owned()])?;
    names.pop().ok_or_else(|| Failure::usage("no name"))
}

/// The digest that a tag has as an index, and the images in it.
fn find(store: &Store, name: &Reference) -> Result<(Descriptor, Vec<ImageRecord>), Failure> {
    let tags = store.tag(&tag_name(name))?;
    let missing = || Failure::usage(format!("the store has no index `{}`", name.familiar()));
    let tag = tags.iter().find(|tag| tag.platform.is_empty()).ok_or_else(missing)?;
    let index = store.index(&tag.digest)?.ok_or_else(missing)?;
    let size = index.to_bytes().len() as u64;
    let mut records = Vec::new();
    for entry in &index.manifests {
        let record = store.image(&entry.digest)?.ok_or_else(|| {
            Failure::usage(format!("the store does not hold all of `{}`: {}", name.familiar(), entry.digest))
        })?;
        records.push(record);
    }
    Ok((Descriptor::new(media_type::INDEX, tag.digest, size), records))
}

fn existing(store: &Store, name: &Reference) -> Result<Vec<ImageRecord>, Failure> {
    Ok(find(store, name)?.1)
}

fn make(arguments: &IndexArguments, mut records: Vec<ImageRecord>) -> Result<ExitCode, Failure> {
    start_logging(arguments.verbosity.verbose);
    let name = name(&arguments.name)?;
    let annotations = values::pairs("--annotation", &arguments.annotation)?;
    let store = open_store(&arguments.store)?;
    let cancel = CancelToken::new();
    cancel_on_signals(&cancel);
    let display = display(Progress::Auto, false);
    let options = crate::registries::options(&arguments.registry)?;
    let images = StoreImages::new(&store, options, &*display);
    for text in &arguments.images {
        for record in images_of(&store, &images, text, &cancel)? {
            let platform = record.config.platform();
            records.retain(|other| !other.config.platform().satisfies(&platform));
            records.push(record);
        }
    }
    let descriptor = store.compose_index(&records, annotations)?;
    for record in &records {
        store.tag_image(&name, record)?;
    }
    store.set_tag(&tag_name(&name), "", &descriptor.digest)?;
    drop(display);
    crate::say(&descriptor.digest.to_string());
    Ok(ExitCode::SUCCESS)
}

/// All images that a name stands for: each platform's of the store, else the one that its registry has for us.
fn images_of(
    store: &Store,
    images: &StoreImages<'_>,
    text: &str,
    cancel: &CancelToken,
) -> Result<Vec<ImageRecord>, Failure> {
    let reference: Reference = text.parse()?;
    let mut found = Vec::new();
    if reference.digest().is_none() {
        for tag in store.tag(&tag_name(&reference))? {
            found.extend(store.image(&tag.digest)?);
        }
    }
    if found.is_empty() {
        found.push(images.resolve(text, &Platform::linux_amd64(), false, cancel)?);
    }
    Ok(found)
}

fn push(arguments: &IndexPushArguments) -> Result<ExitCode, Failure> {
    start_logging(arguments.verbosity.verbose);
    let name = name(&arguments.name)?;
    let store = open_store(&arguments.store)?;
    let (descriptor, _) = find(&store, &name)?;
    let cancel = CancelToken::new();
    cancel_on_signals(&cancel);
    let display = display(Progress::Auto, false);
    let options = crate::registries::options(&arguments.registry)?;
    let images = StoreImages::new(&store, options, &*display);
    push_image(&store, &images, &descriptor, &name, &*display, &cancel)?;
    drop(display);
    crate::say(&descriptor.digest.to_string());
    Ok(ExitCode::SUCCESS)
}
