//! Contents that are not in packs: files that go straight into a layer, and files of layers that nobody fetched.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cooper_image::digest::Digest;
use cooper_image::image::{GZIP_LAYER, LayerRecord};
use cooper_image::layer::apply;
use cooper_image::store::located::{Elsewhere, RemoteBlobs};
use cooper_image::store::{Batch, PruneOptions, Store, StoreOptions, TagsToo};
use cooper_image::{Result, random};
use cooper_vfs::tree::NodeKind;
use cooper_vfs::{Backing, Content, ContentId, ContentStore, Entry, Metadata, Tree, TreeBuilder};

const NOTHING_OLD: PruneOptions =
    PruneOptions { unused_records: Some(std::time::Duration::ZERO), tags: TagsToo::Keep };

fn open(path: &Path) -> Store {
    Store::open(path, &StoreOptions::plain()).unwrap()
}

/// Files that somebody else has.
#[derive(Debug)]
struct Files(Vec<Vec<u8>>);

impl Elsewhere for Files {
    fn open(&self, id: &ContentId) -> io::Result<Option<Content>> {
        let found = self.0.iter().find(|bytes| ContentId::of(bytes) == *id);
        Ok(found.map(|bytes| Content {
            backing: Backing::Bytes(Arc::from(bytes.as_slice())),
            length: bytes.len() as u64,
        }))
    }
}

/// A tree with these files, whose contents are in no store.
fn tree_of(store: &Store, files: &[Vec<u8>]) -> Tree {
    let mut builder = TreeBuilder::new(store);
    for (number, bytes) in files.iter().enumerate() {
        let kind = NodeKind::File { content: ContentId::of(bytes), size: bytes.len() as u64 };
        let entry = Entry { name: Vec::new(), metadata: Metadata::root_owned(0o644), kind };
        builder.put(format!("f{number}").as_bytes(), entry).unwrap();
    }
    builder.finish().unwrap()
}

fn files() -> Vec<Vec<u8>> {
    let mut random = random::Random::new(3);
    [10, 5000, 9_000_000, 1, 900_000].iter().map(|size| random.bytes(*size)).collect()
}

fn packs(path: &Path) -> usize {
    #[allow(clippy::disallowed_methods, reason = "looks at the store's files from outside")]
    std::fs::read_dir(path.join("packs")).unwrap().count()
}

#[test]
fn files_from_elsewhere_go_into_a_layer_without_a_pack_and_are_read_out_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let files = files();
    let tree;
    {
        let store = open(directory.path());
        store.add_elsewhere(Arc::new(Files(files.clone())));
        let empty = Tree::empty(&store).unwrap();
        tree = tree_of(&store, &files);
        let changes = Tree::diff(&store, &empty, &tree).unwrap();
        let layer = store.write_layer(&changes, Some(&tree), &GZIP_LAYER).unwrap();
        assert_eq!(packs(directory.path()), 0);
        // The same bytes as by way of a pack.
        let other = tempfile::tempdir().unwrap();
        let packed = open(other.path());
        let mut pack = packed.pack().unwrap();
        for bytes in &files {
            pack.add_bytes(bytes).unwrap();
        }
        pack.finish().unwrap();
        tree_of(&packed, &files);
        let again = packed.write_layer(&changes, Some(&tree), &GZIP_LAYER).unwrap();
        assert_eq!(again.descriptor, layer.descriptor);
        let keep = [cooper_image::store::Keep::Tree(tree.clone())];
        store.put_record("result", b"key", b"value", &keep).unwrap();
    }
    // Another process, without those files: what keeps the tree keeps the blob.
    let store = open(directory.path());
    let keep = PruneOptions { unused_records: None, tags: TagsToo::Keep };
    store.prune(&keep).unwrap();
    for bytes in &files {
        let content = store.open(&ContentId::of(bytes)).unwrap();
        assert!(content.read_all().unwrap() == *bytes, "{}", bytes.len());
    }
    drop(store);
    let store = open(directory.path());
    store.prune(&NOTHING_OLD).unwrap();
    assert!(store.open(&ContentId::of(&files[1])).is_err(), "nobody keeps it any more");
}

#[test]
fn a_file_that_changed_meanwhile_is_an_error() {
    #[derive(Debug)]
    struct Liar;
    impl Elsewhere for Liar {
        fn open(&self, _: &ContentId) -> io::Result<Option<Content>> {
            Ok(Some(Content { backing: Backing::Bytes(Arc::from(&b"other"[..])), length: 5 }))
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.add_elsewhere(Arc::new(Liar));
    let tree = tree_of(&store, &[b"bytes".to_vec()]);
    let changes = Tree::diff(&store, &Tree::empty(&store).unwrap(), &tree).unwrap();
    let error = store.write_layer(&changes, Some(&tree), &GZIP_LAYER).unwrap_err().to_string();
    assert!(error.contains("f0"), "{error}");
    assert!(store.open(&ContentId::of(b"bytes")).is_err());
}

/// The blobs of another store, as a registry that sends ranges.
#[derive(Debug)]
struct Registry {
    store: Store,
    ranges: Mutex<Vec<Range<u64>>>,
    fetched: Mutex<usize>,
}

impl RemoteBlobs for Registry {
    fn range(&self, _: &[String], blob: &Digest, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let bytes = self.store.blob_bytes(blob, u64::MAX)?;
        self.ranges.lock().unwrap().push(range.clone());
        Ok(Some(bytes[range.start as usize..range.end as usize].to_vec()))
    }

    fn fetch(&self, store: &Store, blob: &Digest, _: u64) -> Result<()> {
        *self.fetched.lock().unwrap() += 1;
        store.put_blob(&self.store.blob_bytes(blob, u64::MAX)?).map(drop)
    }
}

/// A layer with these files in a registry, and a store that knows only its index.
fn indexed(files: &[Vec<u8>], at: &Path, registry: &Path) -> (Store, Arc<Registry>, Tree, Digest) {
    let theirs = open(registry);
    theirs.add_elsewhere(Arc::new(Files(files.to_vec())));
    let tree = tree_of(&theirs, files);
    let changes = Tree::diff(&theirs, &Tree::empty(&theirs).unwrap(), &tree).unwrap();
    let made = theirs.write_layer(&changes, Some(&tree), &GZIP_LAYER).unwrap();
    let layer = LayerRecord { descriptor: made.descriptor, diff_id: made.diff_id };
    let carrier = theirs.index_layer(&layer).unwrap().unwrap();
    let carrier = LayerRecord { descriptor: carrier.descriptor, diff_id: carrier.diff_id };
    let store = open(at);
    store.put_blob(&theirs.blob_bytes(&carrier.descriptor.digest, u64::MAX).unwrap()).unwrap();
    let index = store.read_index(&layer, &carrier).unwrap();
    let batch = Batch::new(&store);
    let found = apply(&batch, None, &index.operations).unwrap();
    batch.commit().unwrap();
    assert_eq!(found, tree);
    store.locate_in_blob(&index.blob, &index.operations.places, &index.points).unwrap();
    store.hold_tree(&found).unwrap();
    let registry = Arc::new(Registry { store: theirs, ranges: Mutex::default(), fetched: Mutex::default() });
    store.set_remote_blobs(Arc::clone(&registry) as _);
    (store, registry, found, layer.descriptor.digest)
}

#[test]
fn a_file_of_a_layer_is_read_by_a_range_of_its_blob() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = files();
    let (store, registry, _, blob) = indexed(&files, here.path(), there.path());
    let read = |bytes: &[u8]| store.open(&ContentId::of(bytes)).unwrap().read_all().unwrap();
    assert!(read(&files[4]) == files[4]);
    let ranges = registry.ranges.lock().unwrap().clone();
    assert_eq!(ranges.len(), 1);
    assert!(ranges[0].end - ranges[0].start < 5_000_000, "{ranges:?}");
    assert!(!store.has_blob(&blob, None).unwrap());
    // What lies beside it came along.
    assert!(read(&files[3]) == files[3]);
    assert_eq!(registry.ranges.lock().unwrap().len(), 1);
    assert_eq!(*registry.fetched.lock().unwrap(), 0);
}

#[test]
fn many_reads_fetch_the_blob() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut random = random::Random::new(9);
    // Each is larger than a span, so none comes along with another.
    let files: Vec<Vec<u8>> = (0..26).map(|_| random.bytes(4_300_000)).collect();
    let (store, registry, _, blob) = indexed(&files, here.path(), there.path());
    for bytes in &files {
        assert!(store.open(&ContentId::of(bytes)).unwrap().read_all().unwrap() == *bytes);
    }
    assert_eq!(*registry.fetched.lock().unwrap(), 1);
    assert!(store.has_blob(&blob, None).unwrap());
}

#[test]
fn an_index_that_lies_about_a_file_is_found_out_when_it_is_read() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = files();
    let (store, _registry, _, blob) = indexed(&files, here.path(), there.path());
    let lie = ContentId::of(b"what it is not");
    let place = cooper_image::layer::Place { id: lie, offset: 512, length: 10 };
    let points = cooper_image::compression::seek::SeekPoints::plain(1 << 20);
    store.locate_in_blob(&blob, &[place], &points).unwrap();
    let error = store.open(&lie).unwrap_err().to_string();
    assert!(error.contains("is not what the layer holds"), "{error}");
}

#[test]
fn a_step_asks_the_build_for_what_it_may_not_fetch() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = files();
    let (store, registry, _, _) = indexed(&files, here.path(), there.path());
    let id = ContentId::of(&files[2]);
    let step = Store::open_joining(here.path(), &StoreOptions::plain(), store.lease_name()).unwrap();
    assert!(step.open(&id).is_err(), "nobody answers");
    let read = store.serving_contents(|| step.open(&id).unwrap().read_all().unwrap()).unwrap();
    assert!(read == files[2]);
    assert_eq!(registry.ranges.lock().unwrap().len(), 1);
}
