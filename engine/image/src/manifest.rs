//! Manifests and indexes: the documents that tie blobs together.
//!
//! The types follow OCI image spec 1.1 (descriptor.md, manifest.md, image-index.md); the Docker schema 2 media types
//! are read as what they are, the older spelling of the same documents, and OCI is written. The types are our own
//! rather than `oci-spec`'s: what is read here decides what runs, so keys that contradict each other are refused
//! (a document with both `layers` and `manifests`, a media type that is not the one it was served with), and keys
//! that we do not know are kept.
//!
//! What must hold: the bytes of a document that came from elsewhere are never re-made from these types. They are
//! kept and passed on as they were, and only documents of our own are serialised, in one fixed key order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::platform::Platform;

/// Bound on a manifest or index, in bytes; the distribution spec asks registries to take 4 MiB.
pub const MANIFEST_BYTES: u64 = 4 << 20;
/// Bound on an image config, in bytes.
pub const CONFIG_BYTES: u64 = 8 << 20;
/// Bound on the layers of one image. Docker stops at 127; others go a little further.
pub const IMAGE_LAYERS: usize = 1024;
/// Bound on the entries of one index.
pub const INDEX_ENTRIES: usize = 4096;
/// Bound on indexes inside indexes.
pub const INDEX_DEPTH: usize = 4;

/// The media types that we read and write.
pub mod media_type {
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An OCI layer, not compressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// An OCI layer in gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// An OCI layer in zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// The empty JSON object, where a config is not meant to be looked at.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// Docker's schema 2 image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, always gzip.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's layer, not compressed.
    pub const DOCKER_LAYER_PLAIN: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's first schema, which has no config and is refused by name.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// The signed form of [`DOCKER_SCHEMA1`].
    pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// What a pull says that it accepts, in order of preference.
    pub const ACCEPTED: [&str; 4] = [INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

    /// Whether a media type names an index or manifest list.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_INDEX)
    }

    /// Whether a media type names an image manifest.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether a media type names an image config.
    pub fn is_config(media_type: &str) -> bool {
        matches!(media_type, CONFIG | DOCKER_CONFIG)
    }

    /// Whether a media type names a layer with files that we can read.
    pub fn is_layer(media_type: &str) -> bool {
        matches!(media_type, LAYER | LAYER_GZIP | LAYER_ZSTD | DOCKER_LAYER | DOCKER_LAYER_PLAIN)
    }

    /// Whether a media type names a foreign layer, whose bytes lie elsewhere; those are never fetched.
    pub fn is_foreign_layer(media_type: &str) -> bool {
        media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
    }

    /// The OCI spelling of a Docker media type; others are returned as they are.
    pub fn to_oci(media_type: &str) -> &str {
        match media_type {
            DOCKER_MANIFEST => MANIFEST,
            DOCKER_INDEX => INDEX,
            DOCKER_CONFIG => CONFIG,
            DOCKER_LAYER => LAYER_GZIP,
            DOCKER_LAYER_PLAIN => LAYER,
            other => other,
        }
    }
}

/// What a blob is, which it is and how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the blob is.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// Which blob it is.
    pub digest: Digest,
    /// Length of the blob, in bytes.
    pub size: u64,
    /// Other places that are said to have the blob. Never fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact the manifest is, in an index.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Keys that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Descriptor {
    /// Describes bytes in memory.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Makes a descriptor of its three necessary parts.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: None,
            annotations: None,
            platform: None,
            artifact_type: None,
            other: BTreeMap::new(),
        }
    }

    /// Whether it describes an attestation that BuildKit keeps next to an image in an index.
    pub fn is_attestation(&self) -> bool {
        let named = |annotations: &BTreeMap<String, String>| {
            annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
        };
        self.annotations.as_ref().is_some_and(named)
    }
}

/// An image manifest: one config and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// The document's own media type; the OCI spec lets it be left out.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, when it is no image.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Keys that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Manifest {
    /// Makes an OCI image manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: None,
            other: BTreeMap::new(),
        }
    }

    /// The document's bytes, the same for the same manifest.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Refuses what is not an image that we can read: other artifacts, foreign layers, unknown layer types.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] or [`Error::Unsupported`], naming the media type.
    pub fn check_is_image(&self) -> Result<()> {
        if !media_type::is_config(&self.config.media_type) {
            let kind = crate::error::printable(self.config.media_type.as_bytes());
            return Err(Error::document("manifest", format!("not an image: its config is `{kind}`")));
        }
        for layer in &self.layers {
            let kind = crate::error::printable(layer.media_type.as_bytes());
            if media_type::is_foreign_layer(&layer.media_type) || layer.urls.is_some() {
                return Err(Error::Unsupported { what: format!("a foreign layer (`{kind}` with urls)") });
            }
            if !media_type::is_layer(&layer.media_type) {
                return Err(Error::Unsupported { what: format!("a layer of type `{kind}`") });
            }
        }
        Ok(())
    }
}

/// An index: manifests for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// The document's own media type; the OCI spec lets it be left out.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, when it is no image.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Keys that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Index {
    /// Makes an OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: None,
            other: BTreeMap::new(),
        }
    }

    /// The document's bytes, the same for the same index.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Finds the first entry for a platform. Attestations are passed over; an entry that names no platform is taken
    /// only when it is alone.
    ///
    /// # Errors
    ///
    /// [`Error::NoPlatform`] with what there is.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor> {
        let images: Vec<&Descriptor> =
            self.manifests.iter().filter(|entry| !entry.is_attestation()).collect();
        let matching = images.iter().find(|entry| {
            entry.platform.as_ref().map_or(images.len() == 1, |platform| platform.satisfies(wanted))
        });
        matching.copied().ok_or_else(|| {
            let mut available: Vec<String> =
                images.iter().filter_map(|entry| entry.platform.as_ref().map(Platform::to_string)).collect();
            available.sort();
            available.dedup();
            let available = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
            Error::NoPlatform { wanted: wanted.to_string(), available }
        })
    }
}

/// A manifest or an index, whichever the bytes were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image manifest.
    Manifest(Box<Manifest>),
    /// An index.
    Index(Box<Index>),
}

impl Document {
    /// Parses bytes that were served or described as `served_as`; an empty string when nobody said.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] when the bytes or the lists in them are too long, [`Error::Unsupported`] for Docker's schema 1,
    /// [`Error::Document`] for everything that is not exactly one of a manifest and an index.
    pub fn parse(bytes: &[u8], served_as: &str) -> Result<Self> {
        if bytes.len() as u64 > MANIFEST_BYTES {
            return Err(Error::Limit {
                what: "manifest".to_owned(),
                name: "MANIFEST_BYTES",
                limit: MANIFEST_BYTES,
            });
        }
        let keys: Keys =
            serde_json::from_slice(bytes).map_err(|error| Error::document("manifest", error.to_string()))?;
        let schema1 = [media_type::DOCKER_SCHEMA1, media_type::DOCKER_SCHEMA1_SIGNED];
        if keys.schema_version == Some(1) || schema1.contains(&served_as) {
            return Err(Error::Unsupported { what: "Docker's image manifest schema 1".to_owned() });
        }
        if keys.schema_version != Some(2) {
            return Err(Error::document("manifest", "schemaVersion must be 2"));
        }
        let own = keys.media_type.as_deref().unwrap_or_default();
        let known = |kind: &str| media_type::is_index(kind) || media_type::is_manifest(kind);
        if known(served_as) && !own.is_empty() && own != served_as {
            let own = crate::error::printable(own.as_bytes());
            return Err(Error::document(
                "manifest",
                format!("it says `{own}` but was served as `{served_as}`"),
            ));
        }
        let kind = if known(own) { own } else { served_as };
        match (keys.config.is_some() || keys.layers.is_some(), keys.manifests.is_some()) {
            (true, true) => Err(Error::document("manifest", "it has both layers and manifests")),
            (false, false) => Err(Error::document("manifest", "it has neither layers nor manifests")),
            (true, false) if media_type::is_index(kind) => {
                Err(Error::document("index", "it has layers, as a manifest has"))
            }
            (false, true) if media_type::is_manifest(kind) => {
                Err(Error::document("manifest", "it has manifests, as an index has"))
            }
            (true, false) => parse_manifest(bytes).map(|manifest| Self::Manifest(Box::new(manifest))),
            (false, true) => parse_index(bytes).map(|index| Self::Index(Box::new(index))),
        }
    }
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest> {
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|error| Error::document("manifest", error.to_string()))?;
    if manifest.layers.len() > IMAGE_LAYERS {
        let what = "the list of layers".to_owned();
        return Err(Error::Limit { what, name: "IMAGE_LAYERS", limit: IMAGE_LAYERS as u64 });
    }
    Ok(manifest)
}

fn parse_index(bytes: &[u8]) -> Result<Index> {
    let index: Index =
        serde_json::from_slice(bytes).map_err(|error| Error::document("index", error.to_string()))?;
    if index.manifests.len() > INDEX_ENTRIES {
        let what = "the index".to_owned();
        return Err(Error::Limit { what, name: "INDEX_ENTRIES", limit: INDEX_ENTRIES as u64 });
    }
    Ok(index)
}

/// The keys that tell a manifest from an index. A key given twice is an error of the derived reader.
#[derive(Deserialize)]
struct Keys {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u32>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have string keys only and write to memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn descriptor_json(extra: &str) -> String {
        format!(r#"{{"mediaType":"m","digest":"{DIGEST}","size":3{extra}}}"#)
    }

    #[test]
    fn contradictions_are_refused() {
        let one = descriptor_json("");
        let check = |body: &str, served_as: &str, reason: &str| {
            let body = body.replace("ONE", &one);
            let error = Document::parse(body.as_bytes(), served_as).expect_err(&body).to_string();
            assert!(error.contains(reason), "{body}: {error}");
        };
        let manifest = r#"{"schemaVersion":2,"config":ONE,"layers":[]}"#;
        check(
            r#"{"schemaVersion":2,"config":ONE,"layers":[],"manifests":[]}"#,
            "",
            "both layers and manifests",
        );
        check(r#"{"schemaVersion":2}"#, "", "neither layers nor manifests");
        check(manifest, media_type::INDEX, "as a manifest has");
        check(r#"{"schemaVersion":2,"manifests":[]}"#, media_type::MANIFEST, "as an index has");
        check(
            &manifest.replace("2,", &format!(r#"2,"mediaType":"{}","#, media_type::DOCKER_MANIFEST)),
            media_type::MANIFEST,
            "but was served as",
        );
        check(r#"{"schemaVersion":1}"#, "", "schema 1 is not supported");
        check(r#"{"schemaVersion":3,"layers":[]}"#, "", "schemaVersion must be 2");
        check(r#"{"schemaVersion":2,"layers":[],"layers":[]}"#, "", "duplicate field");
        check(&manifest.replace("ONE", &one.replace("sha256:ba", "sha256:/.")), "", "invalid digest");
        check("[]", "", "invalid manifest");
        check("", "", "invalid manifest");
    }

    #[test]
    fn unknown_keys_survive() {
        let config = descriptor_json(r#","x":{"y":1}"#);
        let body = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"z":[1]}}"#);
        let Document::Manifest(manifest) = Document::parse(body.as_bytes(), "").unwrap() else {
            panic!("a manifest")
        };
        assert_eq!(String::from_utf8(manifest.to_bytes()).unwrap(), body);
    }

    #[test]
    fn the_platform_is_found_and_attestations_are_not_images() {
        let entry = |platform: &str, note: Option<&str>| {
            let mut descriptor = Descriptor::of(media_type::MANIFEST, platform.as_bytes());
            descriptor.platform = Some(platform.parse().unwrap());
            descriptor.annotations =
                note.map(|note| BTreeMap::from([("vnd.docker.reference.type".to_owned(), note.to_owned())]));
            descriptor
        };
        let index = Index::new(vec![
            entry("linux/arm64/v8", None),
            entry("unknown/unknown", Some("attestation-manifest")),
            entry("linux/amd64", None),
        ]);
        let found = index.select(&Platform::linux_amd64()).unwrap();
        assert_eq!(found.digest, Digest::of(b"linux/amd64"));
        let error = index.select(&"linux/s390x".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image for platform linux/s390x: the index has linux/amd64, linux/arm64/v8"
        );
        let mut alone = entry("linux/arm64", None);
        alone.platform = None;
        assert!(Index::new(vec![alone]).select(&Platform::linux_amd64()).is_ok());
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        /// Valid documents with a few bytes changed, since random bytes are hardly ever JSON.
        #[test]
        fn no_document_makes_the_reader_panic(changes in proptest::collection::vec((0_usize..2000, proptest::num::u8::ANY), 0..6)) {
            let descriptor = descriptor_json(r#","annotations":{"a":"b"},"platform":{"os":"linux","architecture":"arm64"}"#);
            let documents = [
                format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor},{descriptor}]}}"#),
                format!(r#"{{"schemaVersion":2,"manifests":[{descriptor},{descriptor}],"annotations":null}}"#),
                r#"{"config":{"Env":["A=b"],"Volumes":{"/x":{}}},"rootfs":{"type":"layers"},"history":[{}]}"#.to_owned(),
            ];
            for document in documents {
                let mut bytes = document.into_bytes();
                for (at, byte) in &changes {
                    let at = at % bytes.len();
                    bytes[at] = *byte;
                }
                for kind in [media_type::MANIFEST, media_type::INDEX, ""] {
                    if let Ok(Document::Index(index)) = Document::parse(&bytes, kind) {
                        let _ = index.select(&Platform::linux_amd64());
                    }
                }
                let _ = crate::config::ImageConfig::parse(&bytes);
            }
        }
    }

    #[test]
    fn only_images_count_as_images() {
        let config = Descriptor::of(media_type::DOCKER_CONFIG, b"{}");
        let check = |config: &str, layer: &str, reason: Option<&str>| {
            let config = Descriptor::of(config, b"{}");
            let result = Manifest::new(config, vec![Descriptor::of(layer, b"")]).check_is_image();
            match reason {
                None => result.expect(layer),
                Some(reason) => assert!(result.unwrap_err().to_string().contains(reason)),
            }
        };
        check(&config.media_type, media_type::DOCKER_LAYER, None);
        check(media_type::CONFIG, media_type::LAYER_ZSTD, None);
        check(media_type::EMPTY, media_type::LAYER, Some("not an image"));
        check(media_type::CONFIG, "application/x-thing", Some("a layer of type `application/x-thing`"));
        check(
            media_type::CONFIG,
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Some("foreign layer"),
        );
    }
}
