//! Images: the nouns of OCI, and every place that images come from and go to.
//!
//! The nouns are [`reference`](mod@reference), [`digest`], [`platform`], [`manifest`] and [`config`]. A [`layer`] is
//! read once, streaming, into a pack and a list of operations, which make a [`cooper_vfs::Tree`] of the tree below; and
//! it is written in one pass from the changes of a step. The [`store`] keeps blobs, packs, directory objects,
//! trees, images and tags for all processes of a node. [`mod@import`] and [`image`] are what the rest of cooper calls:
//! import from an [`image::Source`], a tree of an image, a new image of an old one. Sources and sinks are OCI layouts
//! ([`layout`]), [`archive`]s and registries ([`registry`]). [`fake`], [`random`] and [`validate`] are for tests.
//!
//! Source of truth: blobs are named by their digests and never change; everything else in the store can be made
//! again from them, but for tags and the records of other crates.
//!
//! What must hold:
//! - nothing that came from outside is used before its digest and size were checked;
//! - a name (tag, image record, chain ID) is written after everything that it speaks of;
//! - the same inputs give the same bytes: no clock, no map order, fixed compressors;
//! - host files are touched in [`store`], [`layout`] and [`archive`] only, credentials in [`registry::auth`] only.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod archive;
pub mod compression;
pub mod config;
pub mod digest;
pub mod error;
pub mod export;
pub mod fake;
pub mod image;
pub mod import;
pub mod layer;
pub mod layout;
pub mod manifest;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod random;
pub mod reference;
pub mod registry;
pub mod store;
pub mod validate;
mod wire;

pub use error::{Error, ErrorKind, Result};
