//! Layers: changes to a file system as a tar archive.
//!
//! [`scan()`] reads a layer once - digest, decompressor, diff ID, tar, contents into a pack - and gives what it would
//! do, [`Operations`]; [`apply()`] does that to a tree. So the layers of an image are scanned in parallel and applied in
//! order. [`write()`] is the way back: changes to tar to diff ID to compressor to digest, in one pass. This module is
//! the only place where OCI's layer rules (image spec 1.1, layer.md) meet the tree.
//!
//! What must hold: any bytes give a tree or an error that names the entry, with memory and disk bounded by [`Limits`];
//! nothing of a layer can be read before all of it was verified; and the same changes give the same bytes.

pub mod apply;
pub mod index;
pub mod scan;
pub mod tar;
pub mod write;

pub use apply::{apply, apply_below};
pub use index::LayerIndex;
pub use scan::{Expected, Limits, Operation, Operations, inspect, scan, scan_archive};
pub(crate) use write::recompress;
pub use write::{LayerOptions, Place, Written, write};

/// Prefix of the names that remove something (layer.md, whiteouts).
pub const WHITEOUT: &[u8] = b".wh.";
/// Prefix of AUFS's own names, which mean nothing any more; only [`OPAQUE`] does.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// The name that hides everything that lower layers have in its directory.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
