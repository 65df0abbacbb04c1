//! Bringing what was built to its outputs.

use std::io::Write;

use cooper_build::build::{Builder, Built};
use cooper_build::report::{Reporter, phase};
use cooper_build::source::{StoreImages, Transfers};
use cooper_build::step::CancelToken;
use cooper_build::{Error, export};
use cooper_image::export::Export;
use cooper_image::image::{ImageRecord, tag_name};
use cooper_image::manifest::Descriptor;
use cooper_image::platform::Platform;
use cooper_image::reference::Reference;
use cooper_image::store::Store;
use cooper_vfs::tree::Tree;
use serde_json::{Map, Value, json};

use super::annotations::Annotations;
use super::references;
use crate::failure::Failure;
use crate::outputs::{Destination, Kind, Output};

/// Brings a built result to its outputs.
pub(super) struct Delivery<'a> {
    pub(super) store: &'a Store,
    pub(super) images: &'a StoreImages<'a>,
    pub(super) builder: Builder<'a>,
    /// One a platform.
    pub(super) built: &'a [Built<'a>],
    /// Whether the result is an index.
    pub(super) multiple: bool,
    pub(super) annotations: &'a Annotations,
    pub(super) tags: &'a [Reference],
}

/// An image or index that was made.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) descriptor: Descriptor,
    records: Vec<ImageRecord>,
    names: Vec<String>,
}

impl Delivered {
    /// What `--metadata-file` holds, with buildx's keys.
    pub(super) fn metadata(&self) -> Map<String, Value> {
        let digest = self.descriptor.digest.to_string();
        let mut metadata = Map::new();
        let mut descriptor = json!({
            "mediaType": self.descriptor.media_type,
            "digest": digest,
            "size": self.descriptor.size,
        });
        if let Some(annotations) = &self.descriptor.annotations {
            descriptor["annotations"] = json!(annotations);
        }
        if let [record] = self.records.as_slice()
            && record.descriptor.digest == self.descriptor.digest
        {
            let config = record.manifest.config.digest.to_string();
            metadata.insert("containerimage.config.digest".into(), config.into());
            let Platform { os, architecture, .. } = record.config.platform();
            descriptor["platform"] = json!({ "architecture": architecture, "os": os });
        }
        metadata.insert("containerimage.descriptor".into(), descriptor);
        metadata.insert("containerimage.digest".into(), digest.into());
        if !self.names.is_empty() {
            metadata.insert("image.name".into(), self.names.join(",").into());
        }
        metadata
    }
}

impl Delivery<'_> {
    pub(super) fn deliver(&self, output: &Output, clamp: Option<i64>) -> Result<Option<Delivered>, Failure> {
        let (reporter, cancel) = (self.builder.reporter, self.builder.cancel);
        match &output.kind {
            Kind::Local { destination, split } => {
                for built in self.built {
                    let tree = built.tree()?;
                    let to = match split.unwrap_or(self.multiple) {
                        true => destination.join(platform_directory(built.platform())),
                        false => destination.clone(),
                    };
                    export::write_directory(self.store, &tree, &to, reporter, cancel)?;
                }
                Ok(None)
            }
            Kind::Tar { destination, split } => {
                let tree = self.joined_tree(split.unwrap_or(self.multiple))?;
                write_to(destination, &mut |out| export::write_tar(self.store, &tree, clamp, out))?;
                Ok(None)
            }
            Kind::Image { names, push, keep } => {
                let names = self.names("name", names)?;
                let made = self.make(output, &names)?;
                if *push && names.is_empty() {
                    return Err(Failure::usage("nothing to push to: the image has no name (--tag or name=)"));
                }
                if *keep {
                    self.complete(&made)?;
                }
                // A base that the registry mounts need not be here, and then nothing here has the name.
                if self.is_complete(&made)? {
                    for name in &names {
                        for record in &made.records {
                            self.store.tag_image(name, record)?;
                        }
                        if self.multiple {
                            self.store.set_tag(&tag_name(name), "", &made.descriptor.digest)?;
                        }
                    }
                }
                if *push {
                    for name in &names {
                        let to = if output.by_digest { digest_reference(name, &made)? } else { name.clone() };
                        push_image(self.store, self.images, &made.descriptor, &to, reporter, cancel)?;
                    }
                }
                Ok(Some(made))
            }
            Kind::Oci { destination, directory, names } => {
                let names = self.names("name", names)?;
                let made = self.make(output, &names)?;
                self.complete(&made)?;
                let export = [Export { descriptor: made.descriptor.clone(), names }];
                let transfers = Transfers::new(reporter, "export", cancel);
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
                Ok(Some(made))
            }
            Kind::Docker { destination, names } => {
                let names = self.names("name", names)?;
                let made = self.make(output, &names)?;
                self.complete(&made)?;
                let export = [Export { descriptor: made.descriptor.clone(), names }];
                let transfers = Transfers::new(reporter, "export", cancel);
                write_to(destination, &mut |out| {
                    Ok(cooper_image::archive::write_docker(self.store, &export, out, &transfers)?)
                })?;
                Ok(Some(made))
            }
        }
    }

    /// Puts the images together, and the index where there is to be one.
    fn make(&self, output: &Output, names: &[Reference]) -> Result<Delivered, Failure> {
        let mut records = Vec::new();
        for built in self.built {
            if let Some(base) = built.base().filter(|_| output.format.force) {
                self.images.complete(base, self.builder.cancel)?;
            }
            let mut record = built.image(output.format, &output.annotations)?;
            if output.docker_types {
                record = self.with_docker_types(&record)?;
            }
            let annotations = self.annotations.of_descriptor(built.platform());
            record.descriptor.annotations = Some(annotations).filter(|found| !found.is_empty());
            records.push(record);
        }
        let descriptor = match (self.multiple, records.as_slice()) {
            (false, [only]) => only.descriptor.clone(),
            _ => {
                let mut descriptor = self.store.compose_index(&records, self.annotations.of_index())?;
                // Seen where something lists the index: in the `index.json` of a layout, in the metadata file.
                let own = self.annotations.of_index_descriptor();
                descriptor.annotations = Some(own).filter(|found| !found.is_empty());
                descriptor
            }
        };
        let mut shown: Vec<String> = names.iter().map(Reference::to_string).collect();
        if output.canonical {
            let canonical = names.iter().map(|name| format!("{}@{}", name.name(), descriptor.digest));
            shown.extend(canonical.collect::<Vec<_>>());
        }
        Ok(Delivered { descriptor, records, names: shown })
    }

    /// The image with Docker's media types. A list of several platforms would need others still.
    fn with_docker_types(&self, record: &ImageRecord) -> Result<ImageRecord, Failure> {
        if self.multiple {
            return Err(Failure::usage("oci-mediatypes=false is for one platform"));
        }
        Ok(self.store.with_docker_types(record)?)
    }

    /// Fetches what the images need of their bases and is not here.
    fn complete(&self, made: &Delivered) -> Result<(), Failure> {
        for record in &made.records {
            self.images.complete(record, self.builder.cancel)?;
        }
        if self.multiple {
            self.store.complete_index(&made.descriptor)?;
        }
        Ok(())
    }

    fn is_complete(&self, made: &Delivered) -> Result<bool, Failure> {
        for record in &made.records {
            if self.store.image_media_type(record.digest())?.is_none() {
                return Ok(false);
            }
        }
        Ok(self.store.image_media_type(&made.descriptor.digest)?.is_some())
    }

    /// The file system, or one in which each platform's has a directory of its own.
    fn joined_tree(&self, split: bool) -> Result<Tree, Failure> {
        if !split {
            return Ok(self.built[0].tree()?);
        }
        let mut builder = cooper_vfs::tree::TreeBuilder::new(self.store);
        for built in self.built {
            let entry = built.tree()?.root_entry();
            let name = platform_directory(built.platform());
            builder.put(name.as_bytes(), entry).map_err(cooper_build::copy::store_failed)?;
        }
        Ok(builder.finish().map_err(cooper_build::copy::store_failed)?)
    }

    fn names(&self, flag: &str, names: &[String]) -> Result<Vec<Reference>, Failure> {
        let mut all = self.tags.to_vec();
        all.extend(references(flag, names)?);
        Ok(all)
    }
}

/// `linux_arm64_v8`
fn platform_directory(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

fn digest_reference(name: &Reference, made: &Delivered) -> Result<Reference, Failure> {
    Ok(format!("{}@{}", name.name(), made.descriptor.digest).parse()?)
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

/// Pushes an image or index of the store under one name.
pub(crate) fn push_image(
    store: &Store,
    images: &StoreImages<'_>,
    root: &Descriptor,
    name: &Reference,
    reporter: &dyn Reporter,
    cancel: &CancelToken,
) -> Result<(), Failure> {
    let shown = format!("push {name}");
    let pushed = phase(reporter, &shown, || {
        let transfers = Transfers::new(reporter, &shown, cancel);
        let client = images.client()?;
        let pushed = client.push(store, root, name, &transfers);
        images.pass_warnings_on(&client);
        pushed.map_err(|error| {
            let fault = Error::from_image(&error);
            Error::new(fault, format!("cannot push `{name}`")).caused_by(error)
        })
    });
    Ok(pushed?)
}
