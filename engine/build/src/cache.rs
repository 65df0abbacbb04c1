//! Caches outside of the store: results of earlier builds, kept as ordinary images.
//!
//! A cache is an image manifest that every registry takes. Its layers are the layers that results made on their bases;
//! its config is an image config with one key more, [`CONFIG_KEY`]: a list of [`CacheRecord`]s, which say for the keys of
//! a result which layer it is and what the file system after it is called. An image that was built with an inline
//! cache carries the same key in its own config. So one manifest and one config answer every look-up of a build, and
//! no layer is fetched for it.
//!
//! A result that was found is known by the id of its file system, which is all that later keys need. Its layer goes
//! into the image as it is, mounted or uploaded; the file system is made of it when somebody reads it, and has to be
//! the one that the record names. What a cache says is data: nothing of it is run, and a layer that makes another file
//! system fails the build.
//!
//! What must hold: records and layers come out in the order of the graph, so the same results give the same cache.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use cooper_image::config::{History, ImageConfig};
use cooper_image::digest::Digest;
use cooper_image::image::{Composition, ImageRecord, LayerRecord, NewLayer};
use cooper_image::layer::LayerOptions;
use cooper_image::layout::Layout;
use cooper_image::manifest::{Descriptor, IMAGE_LAYERS, media_type};
use cooper_image::platform::Platform;
use cooper_image::progress;
use cooper_image::store::Store;
use cooper_vfs::Timestamp;
use cooper_vfs::tree::Tree;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::graph::Operation;
use crate::key::Key;

/// The key of the config that holds the records.
pub const CONFIG_KEY: &str = "cooper.cache";
/// Version of the records. Others are passed over.
const VERSION: u32 = 1;
/// Bound on the records of one cache.
const MOST_RECORDS: usize = 64 * 1024;
/// Keys that one record may have.
const MOST_KEYS: usize = 8;
/// What the history of a cache says of each layer.
const CREATED_BY: &str = "cooper cache";

/// The result of a vertex, as a cache has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRecord {
    /// The keys that it is found by.
    pub keys: Vec<Key>,
    /// The file system: only its ids, the directories may be nowhere.
    pub tree: Tree,
    /// The time of the result.
    pub time: Timestamp,
    /// The layer between its base and it.
    pub layer: LayerRecord,
    /// The time that the layer's times were clamped to.
    pub clamp: Option<i64>,
    /// When it is not to be used any more, in seconds since 1970.
    pub expires: Option<i64>,
}

/// What a cache mount of steps held, as a cache has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRecord {
    /// The mount's name.
    pub id: String,
    /// Its file system: only the ids.
    pub tree: Tree,
    /// The layers that make it of nothing. Which file is in which follows from its contents, so most stay as they are
    /// when a few files change.
    pub layers: Vec<LayerRecord>,
}

/// The index of a layer of a base, as a cache has it: whoever trusts the cache reads single files of that layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRecord {
    /// The layer that it is of.
    pub blob: Digest,
    /// The layer that carries it.
    pub carrier: LayerRecord,
}

/// What a cache holds.
#[derive(Clone, Debug, Default)]
pub struct CacheContents {
    /// Results.
    pub records: Vec<CacheRecord>,
    /// Cache mounts.
    pub mounts: Vec<MountRecord>,
    /// Indexes of layers of bases.
    pub indexes: Vec<IndexRecord>,
}

/// Which cached results are made again, to see whether they are what the cache says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verify {
    /// How many of a hundred, chosen at random.
    pub percent: u8,
    /// Whether RUN steps are among them: whoever says so declares that they make the same files every time.
    pub steps: bool,
}

impl CacheRecord {
    /// The layer, when it is one that these options would have made.
    pub fn layer_as(&self, options: &LayerOptions) -> Option<NewLayer> {
        let kind = media_type::to_oci(&self.layer.descriptor.media_type);
        let usual = options.level.is_none();
        let same = usual && kind == options.compression.layer_media_type() && self.clamp == options.clamp;
        let LayerRecord { descriptor, diff_id } = &self.layer;
        same.then(|| NewLayer { descriptor: descriptor.clone(), diff_id: *diff_id, tree: None })
    }
}

// ---- the wire

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u32,
    records: Vec<WireRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<WireMount>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    indexes: Vec<WireIndex>,
}

#[derive(Serialize, Deserialize)]
struct WireIndex {
    blob: Digest,
    /// Number of the layer that carries it.
    layer: usize,
}

#[derive(Serialize, Deserialize)]
struct WireMount {
    id: String,
    tree: String,
    /// Numbers of the layers in the manifest.
    layers: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
struct WireRecord {
    keys: Vec<String>,
    tree: String,
    seconds: i64,
    nanoseconds: u32,
    /// Number of the layer in the manifest.
    layer: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write;
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok())
        .collect()
}

/// The records as the value of [`CONFIG_KEY`], for a manifest with these layers. Those whose layer is not among them
/// are left out.
fn to_value(contents: &CacheContents, layers: &[Digest]) -> serde_json::Value {
    let CacheContents { records, mounts, indexes } = contents;
    let place = |layer: &LayerRecord| layers.iter().position(|known| *known == layer.descriptor.digest);
    let mount = |mount: &MountRecord| {
        let layers = mount.layers.iter().map(place).collect::<Option<_>>()?;
        Some(WireMount { id: mount.id.clone(), tree: hex(&mount.tree.encode()), layers })
    };
    let mounts = mounts.iter().filter_map(mount).collect();
    let wire = |record: &CacheRecord| {
        Some(WireRecord {
            keys: record.keys.iter().map(|key| hex(&key.0)).collect(),
            tree: hex(&record.tree.encode()),
            seconds: record.time.seconds,
            nanoseconds: record.time.nanoseconds,
            layer: place(&record.layer)?,
            clamp: record.clamp,
            expires: record.expires,
        })
    };
    let index = |index: &IndexRecord| Some(WireIndex { blob: index.blob, layer: place(&index.carrier)? });
    let indexes = indexes.iter().filter_map(index).collect();
    let records = records.iter().filter_map(wire).collect();
    let wire = Wire { version: VERSION, records, mounts, indexes };
    serde_json::to_value(wire).unwrap_or_default()
}

/// The records of an image's config; none when it has no cache that we know.
///
/// # Errors
///
/// When there is one that makes no sense.
pub fn records_of(image: &ImageRecord) -> Result<Vec<CacheRecord>> {
    read(image).map(|contents| contents.records)
}

fn read(image: &ImageRecord) -> Result<CacheContents> {
    let none = || Ok(CacheContents::default());
    let Some(value) = image.config.other.get(CONFIG_KEY) else { return none() };
    let wrong = |reason: &str| Error::build(format!("the cache in the image's config is damaged: {reason}"));
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        return none();
    }
    let wire = Wire::deserialize(value).map_err(|error| wrong(&error.to_string()))?;
    if [wire.records.len(), wire.mounts.len(), wire.indexes.len()].iter().any(|count| *count > MOST_RECORDS) {
        return Err(wrong(&format!("more than {MOST_RECORDS} records")));
    }
    let layer = |number: usize| image.layers.get(number).cloned().ok_or_else(|| wrong("a layer is missing"));
    let mount = |wire: WireMount| {
        let tree = unhex(&wire.tree).and_then(|bytes| Tree::decode(&bytes).ok());
        Ok(MountRecord {
            id: wire.id,
            tree: tree.ok_or_else(|| wrong("a mount's record is none"))?,
            layers: wire.layers.into_iter().take(IMAGE_LAYERS).map(layer).collect::<Result<_>>()?,
        })
    };
    let mounts = wire.mounts.into_iter().map(mount).collect::<Result<_>>()?;
    let record = |wire: WireRecord| {
        let keys = wire.keys.iter().take(MOST_KEYS).map(|key| {
            let bytes: Option<[u8; 32]> = unhex(key).and_then(|bytes| bytes.try_into().ok());
            bytes.map(Key).ok_or_else(|| wrong("a key is none"))
        });
        let tree = unhex(&wire.tree).and_then(|bytes| Tree::decode(&bytes).ok());
        if wire.nanoseconds >= 1_000_000_000 {
            return Err(wrong("a time is none"));
        }
        Ok(CacheRecord {
            keys: keys.collect::<Result<_>>()?,
            tree: tree.ok_or_else(|| wrong("a file system's record is none"))?,
            time: Timestamp { seconds: wire.seconds, nanoseconds: wire.nanoseconds },
            layer: layer(wire.layer)?,
            clamp: wire.clamp,
            expires: wire.expires,
        })
    };
    let index = |wire: WireIndex| Ok(IndexRecord { blob: wire.blob, carrier: layer(wire.layer)? });
    let indexes = wire.indexes.into_iter().map(index).collect::<Result<_>>()?;
    Ok(CacheContents {
        records: wire.records.into_iter().map(record).collect::<Result<_>>()?,
        mounts,
        indexes,
    })
}

// ---- in

/// Caches that a build looks into, in their order.
#[derive(Debug, Default)]
pub struct ImportedCaches {
    sources: Vec<Imported>,
    /// Which results are not simply believed.
    verify: Option<Verify>,
    /// The time, in seconds since 1970, for results that are not to be used for ever.
    now: i64,
}

#[derive(Debug)]
struct Imported {
    records: BTreeMap<Key, CacheRecord>,
    mounts: BTreeMap<String, MountRecord>,
    indexes: BTreeMap<Digest, LayerRecord>,
    /// Where the layers are, when that is not a registry.
    layout: Option<Layout>,
}

impl ImportedCaches {
    /// No caches yet. `now` is the time in seconds since 1970, for results that are not to be used for ever; `verify`
    /// says which are not simply believed.
    pub fn new(now: i64, verify: Option<Verify>) -> Self {
        Self { sources: Vec::new(), verify, now }
    }

    /// Adds the cache that an image carries. Its layers are in a registry that the store knows as their origin, or in
    /// `layout`. Says how many records it has.
    ///
    /// # Errors
    ///
    /// When the records make no sense.
    pub fn add(&mut self, image: &ImageRecord, layout: Option<Layout>) -> Result<usize> {
        let mut records = BTreeMap::new();
        let CacheContents { records: found, mounts, indexes } = read(image)?;
        for record in found.into_iter().filter(|record| record.expires.is_none_or(|end| self.now < end)) {
            for key in &record.keys {
                records.insert(*key, record.clone());
            }
        }
        let count = records.len() + mounts.len() + indexes.len();
        let mounts = mounts.into_iter().map(|mount| (mount.id.clone(), mount)).collect();
        let indexes = indexes.into_iter().map(|index| (index.blob, index.carrier)).collect();
        self.sources.push(Imported { records, mounts, indexes, layout });
        Ok(count)
    }

    /// The layers that carry indexes, by what they are of. Those in a layout are copied into the store.
    ///
    /// # Errors
    ///
    /// When the store does not take a layer of a layout.
    pub fn indexes(&self, store: &Store) -> Result<BTreeMap<Digest, LayerRecord>> {
        let mut all = BTreeMap::new();
        for source in self.sources.iter().rev() {
            for (blob, carrier) in &source.indexes {
                if let Some(layout) = &source.layout {
                    store.fetch_blob(layout, &carrier.descriptor, &progress::Silent)?;
                }
                all.insert(*blob, carrier.clone());
            }
        }
        Ok(all)
    }

    /// Whether the result of this operation is to be made again; says something else every time.
    pub fn verifies(&self, operation: &Operation) -> bool {
        let Some(Verify { percent, steps }) = self.verify else { return false };
        let may = match operation {
            Operation::Run(_) => steps,
            _ => true,
        };
        // Who writes a cache must not know which results are looked at.
        may && RandomState::new().hash_one(0_u8) % 100 < u64::from(percent)
    }

    /// The layers of a cache mount. Those in a layout are copied into the store.
    ///
    /// # Errors
    ///
    /// When the store does not take a layer of a layout.
    pub fn mount(&self, store: &Store, id: &str) -> Result<Option<MountRecord>> {
        for source in &self.sources {
            let Some(mount) = source.mounts.get(id) else { continue };
            if let Some(layout) = &source.layout {
                for layer in &mount.layers {
                    store.fetch_blob(layout, &layer.descriptor, &progress::Silent)?;
                }
            }
            return Ok(Some(mount.clone()));
        }
        Ok(None)
    }

    /// Whether there is nothing to look into.
    pub fn is_empty(&self) -> bool {
        self.sources.iter().all(|source| source.records.is_empty() && source.mounts.is_empty())
    }

    /// The record of a key. A layer that is in a layout is copied into the store; one in a registry stays there.
    ///
    /// # Errors
    ///
    /// When the store does not take a layer of a layout.
    pub fn find(&self, store: &Store, key: &Key) -> Result<Option<CacheRecord>> {
        for source in &self.sources {
            let Some(record) = source.records.get(key) else { continue };
            if let Some(layout) = &source.layout {
                store.fetch_blob(layout, &record.layer.descriptor, &progress::Silent)?;
            }
            return Ok(Some(record.clone()));
        }
        Ok(None)
    }
}

// ---- out

/// Which results a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Those whose layers the image has.
    Min,
    /// All that were needed.
    Max,
}

/// Makes the image that carries records. Its layers may be elsewhere.
///
/// # Errors
///
/// Those of the store.
pub fn compose(store: &Store, contents: &CacheContents, platform: &Platform) -> Result<ImageRecord> {
    let mut layers: Vec<NewLayer> = Vec::new();
    let of_records = contents.records.iter().map(|record| &record.layer);
    let of_mounts = contents.mounts.iter().flat_map(|mount| &mount.layers);
    let of_indexes = contents.indexes.iter().map(|index| &index.carrier);
    for LayerRecord { descriptor, diff_id } in of_records.chain(of_mounts).chain(of_indexes) {
        if !layers.iter().any(|known| known.descriptor.digest == descriptor.digest) {
            let Descriptor { media_type: kind, digest, size, .. } = descriptor;
            let descriptor = Descriptor::new(media_type::to_oci(kind), *digest, *size);
            layers.push(NewLayer { descriptor, diff_id: *diff_id, tree: None });
        }
    }
    let mut config = ImageConfig::new(platform);
    // Some registries want a history entry for each layer.
    let entry = || History { created_by: Some(CREATED_BY.to_owned()), ..History::default() };
    config.history = layers.iter().map(|_| entry()).collect();
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.descriptor.digest).collect();
    config.other.insert(CONFIG_KEY.to_owned(), to_value(contents, &digests));
    let annotations = BTreeMap::new();
    Ok(store.compose(Composition { base: None, layers: &layers, config, annotations })?)
}

/// Puts the records whose layers an image has into the image's own config.
pub fn put_inline(config: &mut ImageConfig, records: &[CacheRecord], layers: &[Digest]) {
    let contents = CacheContents { records: records.to_vec(), ..CacheContents::default() };
    config.other.insert(CONFIG_KEY.to_owned(), to_value(&contents, layers));
}

/// A result that was found in a cache, whose file system may still have to be made.
#[derive(Debug)]
pub struct Found {
    /// What the cache says.
    pub record: CacheRecord,
    made: Mutex<bool>,
}

impl Found {
    /// A result that nobody has looked at.
    pub fn new(record: CacheRecord) -> Self {
        Self { record, made: Mutex::new(false) }
    }

    /// The file system; `make` makes it of its layer on the first call, others wait for it.
    ///
    /// # Errors
    ///
    /// What `make` gives; when the layer makes another file system than the cache says.
    pub fn tree(&self, make: impl FnOnce(&LayerRecord) -> Result<Tree>) -> Result<Tree> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !*made {
            let tree = make(&self.record.layer)?;
            if tree != self.record.tree {
                let layer = &self.record.layer.descriptor.digest;
                return Err(Error::build(format!("the cached layer `{layer}` is not what its cache says"))
                    .hint("build without this --cache-from, and write the cache again"));
            }
            *made = true;
        }
        Ok(self.record.tree.clone())
    }

    /// Whether the file system still has to be made.
    pub fn is_lazy(&self) -> bool {
        !*self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
