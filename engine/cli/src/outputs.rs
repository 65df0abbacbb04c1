//! `--output`: where the result of a build goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cooper_build::image::LayerFormat;
use cooper_image::compression::Compression;

use crate::failure::Failure;

/// One `--output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// What is written.
    pub(crate) kind: Kind,
    /// How layers are written.
    pub(crate) format: LayerFormat,
    /// Whether the media types are Docker's.
    pub(crate) docker_types: bool,
    /// More annotations of the manifest.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Pushed under its digest, and no tag.
    pub(crate) by_digest: bool,
    /// Its name with its digest is told, too.
    pub(crate) canonical: bool,
    /// The registries of its names are spoken to in plain HTTP.
    pub(crate) insecure: bool,
}

impl Output {
    /// Without anything special.
    pub(crate) fn plain(kind: Kind) -> Self {
        let annotations = BTreeMap::new();
        Self {
            kind,
            format: Compression::Gzip.into(),
            docker_types: false,
            annotations,
            by_digest: false,
            canonical: false,
            insecure: false,
        }
    }

    /// The hosts that are spoken to in plain HTTP because this output says so.
    pub(crate) fn insecure_hosts(&self) -> Vec<String> {
        let Kind::Image { names, .. } = &self.kind else { return Vec::new() };
        let hosts = names.iter().filter(|_| self.insecure).filter_map(|name| name.split('/').next());
        hosts.map(str::to_owned).collect()
    }
}

/// What is written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The image in the store, under these names besides those of `--tag`; perhaps pushed.
    /// A pushed one that is not kept is only in the registry when its base was never fetched.
    Image { names: Vec<String>, push: bool, keep: bool },
    /// An OCI layout: a directory, or an archive.
    Oci { destination: Destination, directory: Option<bool>, names: Vec<String> },
    /// An archive as `docker load` reads it.
    Docker { destination: Destination, names: Vec<String> },
    /// The file system in a directory.
    Local { destination: PathBuf, split: Option<bool> },
    /// The file system in an archive.
    Tar { destination: Destination, split: Option<bool> },
}

/// Where an archive goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A file.
    Path(PathBuf),
    /// stdout.
    Stdout,
}

/// The keys of each type, besides `type`; `annotation.NAME` goes with those that have `annotation`.
const KEYS: &[(&str, &[&str])] = &[
    (
        "image",
        &[
            "name",
            "push",
            "compression",
            "oci-mediatypes",
            "store",
            "annotation",
            "push-by-digest",
            "name-canonical",
            "registry.insecure",
            "force-compression",
            "compression-level",
            "rewrite-timestamp",
        ],
    ),
    (
        "registry",
        &[
            "name",
            "compression",
            "oci-mediatypes",
            "annotation",
            "push-by-digest",
            "name-canonical",
            "registry.insecure",
            "force-compression",
            "compression-level",
            "rewrite-timestamp",
        ],
    ),
    (
        "oci",
        &[
            "dest",
            "tar",
            "name",
            "compression",
            "oci-mediatypes",
            "annotation",
            "force-compression",
            "compression-level",
            "rewrite-timestamp",
        ],
    ),
    (
        "docker",
        &["dest", "name", "compression", "compression-level", "force-compression", "rewrite-timestamp"],
    ),
    ("local", &["dest", "platform-split"]),
    ("tar", &["dest", "platform-split"]),
];

/// Keys of buildx that may only say what is done anyway.
const FIXED: &[(&str, bool, &str)] = &[
    ("store", true, "the image is always in the store"),
    ("rewrite-timestamp", true, "with SOURCE_DATE_EPOCH all times of new layers are clamped"),
];

/// Reads `type=oci,dest=PATH`, a directory, or `-`.
pub(crate) fn parse(text: &str) -> Result<Output, Failure> {
    let usage = |reason: String| Failure::usage(format!("invalid --output `{text}`: {reason}"));
    if !text.contains('=') {
        let kind = match text {
            "-" => Kind::Tar { destination: Destination::Stdout, split: None },
            path => Kind::Local { destination: path.into(), split: None },
        };
        return Ok(Output::plain(kind));
    }
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    let mut last: Option<&str> = None;
    for field in text.split(',') {
        match field.split_once('=') {
            Some((key, value)) => {
                if fields.insert(key.trim(), value).is_some() {
                    return Err(usage(format!("`{key}` stands twice")));
                }
                last = Some(key);
            }
            None => {
                return Err(usage(format!("`{field}` after `{}` has no value", last.unwrap_or("the start"))));
            }
        }
    }
    let kind = fields.remove("type").ok_or_else(|| usage("it has no type".to_owned()))?;
    let Some((_, keys)) = KEYS.iter().find(|(name, _)| *name == kind) else {
        let known: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
        return Err(usage(format!("`{kind}` is not one of {}", known.join(", "))));
    };
    let mut annotations = BTreeMap::new();
    if keys.contains(&"annotation") {
        for (key, value) in &fields {
            if let Some(name) = key.strip_prefix("annotation.") {
                annotations.insert(name.to_owned(), (*value).to_owned());
            }
        }
        fields.retain(|key, _| !key.starts_with("annotation."));
    }
    if let Some(unknown) = fields.keys().find(|key| !keys.contains(key) || **key == "annotation") {
        return Err(usage(format!("type {kind} has no `{unknown}` here; it has {}", keys.join(", "))));
    }
    let flag = |key: &str| match fields.get(key) {
        None => Ok(None),
        Some(&"true" | &"1") => Ok(Some(true)),
        Some(&"false" | &"0") => Ok(Some(false)),
        Some(other) => Err(usage(format!("`{key}={other}` is neither true nor false"))),
    };
    for (key, only, reason) in FIXED {
        if flag(key)?.is_some_and(|value| value != *only) {
            return Err(usage((*reason).to_owned()));
        }
    }
    let compression = match fields.get("compression").copied() {
        None | Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some("uncompressed") => Compression::None,
        Some(other) => {
            return Err(usage(format!("compression `{other}` is not one of gzip, zstd, uncompressed")));
        }
    };
    let level = match fields.get("compression-level").map(|text| text.parse::<u32>()) {
        None => None,
        Some(Ok(level)) if compression.has_level(level) => Some(level),
        Some(_) => {
            return Err(usage(
                "`compression-level` is not one of gzip's 0 to 9 or zstd's 1 to 22".to_owned(),
            ));
        }
    };
    let names: Vec<String> =
        fields.get("name").map(|name| name.split('|').map(str::to_owned).collect()).unwrap_or_default();
    let destination = || match fields.get("dest") {
        None => Err(usage("it needs `dest`".to_owned())),
        Some(&"-") => Ok(Destination::Stdout),
        Some(path) => Ok(Destination::Path(path.into())),
    };
    let kind = match kind {
        "image" => Kind::Image { names, push: flag("push")?.unwrap_or(false), keep: true },
        "registry" => Kind::Image { names, push: true, keep: false },
        "oci" => Kind::Oci { destination: destination()?, directory: flag("tar")?.map(|tar| !tar), names },
        "docker" => Kind::Docker { destination: destination()?, names },
        "local" => match destination()? {
            Destination::Path(destination) => Kind::Local { destination, split: flag("platform-split")? },
            Destination::Stdout => return Err(usage("a directory cannot be stdout".to_owned())),
        },
        _ => Kind::Tar { destination: destination()?, split: flag("platform-split")? },
    };
    let docker_types = flag("oci-mediatypes")?.is_some_and(|oci| !oci);
    let is_set = |key: &str| flag(key).map(|value| value.unwrap_or(false));
    Ok(Output {
        by_digest: is_set("push-by-digest")?,
        canonical: is_set("name-canonical")?,
        insecure: is_set("registry.insecure")?,
        docker_types,
        kind,
        format: LayerFormat { compression, level, force: is_set("force-compression")? },
        annotations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_or_refused() {
        let check = |text: &str, kind: Kind| {
            assert_eq!(parse(text).ok().map(|output| output.kind), Some(kind), "{text}");
        };
        let path = |path: &str| Destination::Path(path.into());
        check("out", Kind::Local { destination: "out".into(), split: None });
        check("-", Kind::Tar { destination: Destination::Stdout, split: None });
        check(
            "type=oci,dest=x,tar=false",
            Kind::Oci { destination: path("x"), directory: Some(true), names: vec![] },
        );
        check(
            "type=registry,name=a|b",
            Kind::Image { names: vec!["a".into(), "b".into()], push: true, keep: false },
        );
        check("type=docker,dest=-", Kind::Docker { destination: Destination::Stdout, names: vec![] });
        let refused = |text: &str, part: &str| match parse(text) {
            Err(Failure::Engine(error)) => assert!(error.to_string().contains(part), "{error}"),
            other => panic!("{text}: {other:?}"),
        };
        let read =
            parse("type=image,name=h/a,push-by-digest=true,registry.insecure=true,annotation.x=1").ok();
        let read = read.expect("an output");
        assert!(read.by_digest && read.insecure_hosts() == ["h"] && read.annotations["x"] == "1");
        let read = parse("type=oci,dest=x,compression=zstd,compression-level=19,force-compression=true").ok();
        let expected = LayerFormat { compression: Compression::Zstd, level: Some(19), force: true };
        assert_eq!(read.map(|output| output.format), Some(expected));
        refused("type=oci,dest=x,compression-level=10", "`compression-level` is not one of");
        refused("type=oci,dest=x,compression=uncompressed,compression-level=1", "`compression-level`");
        refused("type=local,dest=x,annotation.x=1", "has no `annotation.x`");
        refused("type=oci", "it needs `dest`");
        refused("type=squash,dest=x", "`squash` is not one of");
        refused("type=oci,dest=x,level=9", "type oci has no `level`");
        refused("type=oci,dest=x,tar=maybe", "neither true nor false");
        refused("dest=x", "it has no type");
        refused("type=tar,dest=x,y", "`y` after `dest` has no value");
        refused("type=oci,dest=x,compression=lz4", "compression `lz4`");
    }
}
