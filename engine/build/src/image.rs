//! From solved vertices to an image: config, history and layers.
//!
//! Between vertices there are only trees. Here each instruction that makes a layer becomes one: the difference of the
//! file systems before and after it, written once and remembered, so that a second export writes nothing. The base's
//! layers stay the blobs they are.
//!
//! Times are deterministic: an image is as old as the newest thing in it, not as the moment of its making, and
//! `SOURCE_DATE_EPOCH` clamps every one. Two builds of the same inputs so have the same digests; steps of course see the
//! real clock, and what they write carries it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cooper_image::compression::Compression;
use cooper_image::config::{History, ImageConfig};
use cooper_image::digest::Digest;
use cooper_image::image::{Composition, ImageRecord, LayerRecord, NewLayer};
use cooper_image::layer::LayerOptions;
use cooper_image::manifest::Descriptor;
use cooper_image::store::{Keep, Store};
use cooper_vfs::Timestamp;
use cooper_vfs::tree::Tree;

use crate::cache::{self, CacheRecord};
use crate::copy::store_failed;
use crate::error::{Error, Result};
use crate::history::COMMENT;
use crate::key::{Key, KeyBuilder};
use crate::lower::{ImagePlan, LayerPlan};
use crate::report::{Event, Reporter, phase};
use crate::solve::{Output, Solution};
use crate::source::ImageProvider;
use crate::step::CancelToken;
use crate::time::{format_rfc3339, parse_rfc3339};

/// Record kind of layers.
const LAYER: &str = "layer";
/// The phase's name in the progress display.
const PHASE: &str = "making layers";

/// How the layers of an image are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFormat {
    /// The compressor of new layers.
    pub compression: Compression,
    /// Its level; the usual one without.
    pub level: Option<u32>,
    /// Whether the layers of the base are compressed like this, too. They have to be in the store then.
    pub force: bool,
}

impl From<Compression> for LayerFormat {
    fn from(compression: Compression) -> Self {
        Self { compression, level: None, force: false }
    }
}

/// How an image is put together.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// How layers are written.
    pub format: LayerFormat,
    /// Latest time that anything may carry, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Whether the config carries the results, for builds that use the image as a cache.
    pub inline_cache: bool,
}

/// Puts an image together in the store.
pub fn assemble(
    store: &Store,
    images: &dyn ImageProvider,
    plan: &ImagePlan,
    solution: &Solution,
    options: &ImageOptions,
    reporter: &dyn Reporter,
    cancel: &CancelToken,
) -> Result<ImageRecord> {
    phase(reporter, PHASE, || make(store, images, plan, solution, options, reporter, cancel))
}

fn make(
    store: &Store,
    images: &dyn ImageProvider,
    plan: &ImagePlan,
    solution: &Solution,
    options: &ImageOptions,
    reporter: &dyn Reporter,
    cancel: &CancelToken,
) -> Result<ImageRecord> {
    let clamp = |time: Timestamp| match options.source_date_epoch {
        Some(latest) if time.seconds >= latest => Timestamp::from_seconds(latest),
        _ => time,
    };
    let LayerFormat { compression, level, force } = options.format;
    let layer_options = LayerOptions { compression, level, clamp: options.source_date_epoch };
    let mut base = plan.base.as_ref().map(|source| source.image.clone());
    for layer in base.iter_mut().flat_map(|base| &mut base.layers).filter(|_| force) {
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        *layer = store.recompress_layer(layer, &layer_options)?;
    }
    let base = base.as_ref();
    let mut config = match base {
        Some(base) => base.config.clone(),
        None => ImageConfig::new(&plan.platform),
    };
    let base_time = config.created.as_deref().and_then(parse_rfc3339);
    let mut time = base_time.unwrap_or_default();
    let (mut layers, mut records) = (Vec::new(), Vec::new());
    let total = plan.history.iter().filter(|entry| entry.layer.is_some()).count() as u64;
    for entry in &plan.history {
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        if let Some(LayerPlan { before, after, result }) = entry.layer {
            let (before, after) = (solution.output(before)?, solution.output(after)?);
            time = time.max(after.time);
            let made = layer(store, images, before, after, &layer_options, cancel)?;
            let result = solution.output(result)?;
            records.extend(record(after, &made, &layer_options));
            if !Arc::ptr_eq(after, result) {
                records.extend(record(result, &made, &layer_options));
            }
            // A file system that nobody has made need not be made for the sake of its chain ID.
            let tree = result.ready_tree().cloned();
            layers.push(NewLayer { tree, ..made });
            let current = layers.len() as u64;
            reporter.event(Event::PhaseProgress { name: PHASE, what: "layers", current, total: Some(total) });
        }
        config.history.push(History {
            created: Some(format_rfc3339(clamp(time))),
            created_by: Some(entry.created_by.clone()),
            comment: Some(COMMENT.to_owned()),
            empty_layer: entry.layer.is_none().then_some(true),
            ..History::default()
        });
    }
    // An image that adds nothing to its base is as old as the base.
    if !plan.history.is_empty() || base_time.is_none() {
        config.created = Some(format_rfc3339(clamp(time)));
    }
    config.author.clone_from(&plan.author);
    config.config = plan.runtime.clone();
    // That of the base speaks of other layers.
    config.other.remove(cache::CONFIG_KEY);
    if options.inline_cache {
        let lower = base.iter().flat_map(|base| &base.layers).map(|layer| layer.descriptor.digest);
        let digests: Vec<Digest> = lower.chain(layers.iter().map(|layer| layer.descriptor.digest)).collect();
        cache::put_inline(&mut config, &records, &digests);
    }
    let annotations = options.annotations.clone();
    Ok(store.compose(Composition { base, layers: &layers, config, annotations })?)
}

/// What a cache keeps of a result; none for what nobody could find.
pub(crate) fn record(after: &Output, layer: &NewLayer, options: &LayerOptions) -> Option<CacheRecord> {
    let tree = after.known_tree().filter(|_| !after.keys.is_empty())?;
    let NewLayer { descriptor, diff_id, .. } = layer;
    Some(CacheRecord {
        keys: after.keys.clone(),
        tree: tree.clone(),
        time: after.time,
        layer: LayerRecord { descriptor: descriptor.clone(), diff_id: *diff_id },
        clamp: options.clamp,
        expires: after.expires(),
    })
}

/// The layer between two file systems: the one that was written before, or a new one.
pub(crate) fn layer(
    store: &Store,
    images: &dyn ImageProvider,
    before: &Arc<Output>,
    after: &Arc<Output>,
    options: &LayerOptions,
    cancel: &CancelToken,
) -> Result<NewLayer> {
    if let Some(layer) = after.cached_layer(before, options) {
        return Ok(layer);
    }
    let upper = after.tree(store, images, cancel)?;
    let key = layer_key(before, &upper, options);
    if let Some(bytes) = store.record(LAYER, &key.0)?
        && let Some(layer) = decode_layer(&bytes, options)
        && store.has_blob(&layer.descriptor.digest, Some(layer.descriptor.size))?
    {
        return Ok(NewLayer { tree: Some(upper), ..layer });
    }
    let lower = before.tree(store, images, cancel)?;
    let changes = Tree::diff(store, &lower, &upper).map_err(store_failed)?;
    let layer = store.write_layer(&changes, Some(&upper), options)?;
    store.put_record(LAYER, &key.0, &encode_layer(&layer), &[Keep::Blob(layer.descriptor.digest)])?;
    Ok(layer)
}

fn layer_key(before: &Output, upper: &Tree, options: &LayerOptions) -> Key {
    let mut key = KeyBuilder::new("layer");
    key.key("before", before.identity()).tree("after", &upper.id());
    key.bytes("compression", format!("{:?}", options.compression).as_bytes());
    if let Some(level) = options.level {
        key.number("level", u64::from(level));
    }
    key.option("clamp", options.clamp.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
    key.finish()
}

/// Digest, size and diff ID, one a line: records are read by no other version of us that could not read this.
fn encode_layer(layer: &NewLayer) -> Vec<u8> {
    let Descriptor { digest, size, .. } = &layer.descriptor;
    format!("{digest}\n{size}\n{}", layer.diff_id).into_bytes()
}

fn decode_layer(bytes: &[u8], options: &LayerOptions) -> Option<NewLayer> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let digest: Digest = lines.next()?.parse().ok()?;
    let size = lines.next()?.parse().ok()?;
    let diff_id: Digest = lines.next()?.parse().ok()?;
    let descriptor = Descriptor::new(options.compression.layer_media_type(), digest, size);
    Some(NewLayer { descriptor, diff_id, tree: None })
}
