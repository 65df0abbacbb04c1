//! Images without meaning, for tests.
//!
//! Everything follows from a seed: the same seed gives the same image. The images are small and have what images
//! have: several layers, files small and large, links of both kinds, devices, attributes, whiteouts.

use cooper_vfs::{ContentStore, Entry, Metadata, NodeKind, Timestamp, Tree, TreeBuilder};

use crate::config::{History, ImageConfig};
use crate::error::{Error, Result};
use crate::image::{Composition, GZIP_LAYER, ImageRecord, NewLayer};
use crate::platform::Platform;
use crate::store::Store;

/// A small generator of numbers (splitmix64); good enough to make images differ.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.number().to_le_bytes()).take(count).collect()
    }

    fn name(&mut self) -> Vec<u8> {
        // Few names, so that things meet; some with bytes that archives find hard.
        const NAMES: [&[u8]; 12] = [
            b"a", b"b", b"c", b"bin", b"etc", b"lib", b"x y", b"\xc3\xa4", b"\xff\xfe", b"n\nl", b".hidden",
            b"a-rather-long-name-that-does-not-fit-into-the-hundred-bytes-of-an-archive's-name-field-at-all-in-any-directory",
        ];
        NAMES[self.below(NAMES.len() as u64) as usize].to_vec()
    }

    fn metadata(&mut self) -> Metadata {
        let mut metadata = Metadata::root_owned([0o644, 0o755, 0o4755, 0o1777, 0][self.below(5) as usize]);
        metadata.uid = [0, 1000, 3_000_000, u32::MAX - 1][self.below(4) as usize];
        metadata.gid = [0, 1000, 3_000_000][self.below(3) as usize];
        metadata.mtime =
            Timestamp { seconds: self.below(4_000_000_000).cast_signed() - 1000, nanoseconds: 0 };
        if self.below(4) == 0 {
            let value = self.bytes(20);
            metadata.xattrs.insert(b"user.some".to_vec(), value);
        }
        metadata
    }
}

/// Changes a tree at random, in a few places.
///
/// # Errors
///
/// What the store gives.
pub fn change_tree(store: &dyn ContentStore, lower: Option<&Tree>, random: &mut Random) -> Result<Tree> {
    let failed = |error| Error::io("cannot change a tree", error);
    let mut builder = match lower {
        Some(tree) => TreeBuilder::from_tree(store, tree),
        None => TreeBuilder::new(store),
    };
    let mut pack = store.pack().map_err(failed)?;
    for _ in 0..=random.below(24) {
        let mut path = Vec::new();
        for _ in 0..=random.below(3) {
            if !path.is_empty() {
                let there = builder.get(&path).map_err(failed)?;
                if !there.is_some_and(|entry| entry.kind.is_directory()) {
                    builder.remove(&path).map_err(failed)?;
                    let metadata = random.metadata();
                    builder.put_directory(&path, metadata).map_err(failed)?;
                }
                path.push(b'/');
            }
            path.extend(random.name());
        }
        let mut metadata = random.metadata();
        let there = builder.get(&path).map_err(failed)?;
        let kind = match random.below(9) {
            0 => {
                builder.remove(&path).map_err(failed)?;
                continue;
            }
            1 if there.as_ref().is_some_and(|entry| entry.kind.is_directory()) => {
                builder.make_opaque(&path).map_err(failed)?;
                continue;
            }
            2 if there.as_ref().is_some_and(|entry| matches!(entry.kind, NodeKind::File { .. })) => {
                builder.set_metadata(&path, metadata).map_err(failed)?;
                continue;
            }
            3 if there.as_ref().is_some_and(|entry| !entry.kind.is_directory()) => {
                let mut other = path.clone();
                other.extend_from_slice(b"-link");
                builder.remove(&other).map_err(failed)?;
                builder.hard_link(&other, &path).map_err(failed)?;
                continue;
            }
            4 => NodeKind::Symlink { target: random.name() },
            5 => NodeKind::CharacterDevice { major: 1, minor: random.below(9) as u32 },
            6 => NodeKind::Fifo,
            _ => {
                let size = [0, 1, 511, 512, 4095, 4096, 9000][random.below(7) as usize];
                let bytes = random.bytes(size);
                let content = pack.add_bytes(&bytes).map_err(failed)?;
                NodeKind::File { content, size: size as u64 }
            }
        };
        if !matches!(kind, NodeKind::File { .. }) {
            // Linux has `user.` attributes on files and directories only.
            metadata.xattrs.clear();
        }
        builder.remove(&path).map_err(failed)?;
        builder.put(&path, Entry { name: Vec::new(), metadata, kind }).map_err(failed)?;
    }
    pack.finish().map_err(failed)?;
    builder.finish().map_err(failed)
}

/// Makes an image with so many layers in a store.
///
/// # Errors
///
/// What the store gives.
pub fn image(store: &Store, seed: u64, layers: usize) -> Result<ImageRecord> {
    let mut random = Random::new(seed);
    let mut config = ImageConfig::new(&Platform::linux_amd64());
    config.config.env = vec![format!("SEED={seed}")];
    let mut made: Vec<NewLayer> = Vec::new();
    let mut lower = Tree::empty(store).map_err(|error| Error::io("cannot make the empty tree", error))?;
    for number in 0..layers {
        let upper = change_tree(store, Some(&lower), &mut random)?;
        let changes =
            Tree::diff(store, &lower, &upper).map_err(|error| Error::io("cannot compare trees", error))?;
        made.push(store.write_layer(&changes, Some(&upper), &GZIP_LAYER)?);
        config.history.push(History { created_by: Some(format!("layer {number}")), ..History::default() });
        lower = upper;
    }
    store.compose(Composition { base: None, layers: &made, config, annotations: Default::default() })
}
