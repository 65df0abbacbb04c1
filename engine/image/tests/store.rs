//! The store: what survives faults, who may remove what, and several users at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "looks at the store's files from outside")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use cooper_image::config::ImageConfig;
use cooper_image::export::Export;
use cooper_image::image::{Composition, GZIP_LAYER, ImageRecord};
use cooper_image::layer::Limits;
use cooper_image::layout::{self, Layout};
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::reference::Reference;
use cooper_image::store::write::{Gate, Write};
use cooper_image::store::{Durability, Keep, PruneOptions, Store, StoreOptions, TagsToo};
use cooper_image::{Result, random, validate};
use cooper_vfs::{ContentStore, Tree};

const KEEP: PruneOptions = PruneOptions { unused_records: None, tags: TagsToo::Keep };
const NOTHING: PruneOptions = PruneOptions { unused_records: Some(Duration::ZERO), tags: TagsToo::Remove };

fn open(path: &Path) -> Store {
    Store::open(path, &StoreOptions::plain()).unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Lets so many writes through, then fails: once as a full disk does, or for good as a dead process does.
#[derive(Debug)]
struct Fault {
    left: AtomicI64,
    dead: bool,
}

impl Gate for Fault {
    fn permit(&self, _: Write) -> io::Result<()> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            0 => Err(io::ErrorKind::StorageFull.into()),
            _ if self.dead => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

fn build(store: &Store, layout: &Layout) -> Result<ImageRecord> {
    let base = store.import(layout, layout.select(None)?, &Platform::linux_amd64(), &Silent)?;
    let lower = store.ensure_tree(&base, &Limits::DEFAULT, &Silent)?;
    store.tag_image(&reference("base:1"), &base)?;
    let upper = random::change_tree(store, Some(&lower), &mut random::Random::new(4))?;
    let changes =
        Tree::diff(store, &lower, &upper).map_err(|error| cooper_image::Error::io("diff", error))?;
    let layer = store.write_layer(&changes, Some(&upper), &GZIP_LAYER)?;
    store.put_record("step", b"key", &upper.encode(), &[Keep::Tree(upper.clone())])?;
    let config = ImageConfig { history: Vec::new(), ..base.config.clone() };
    let made = store.compose(Composition {
        base: Some(&base),
        layers: &[layer],
        config,
        annotations: BTreeMap::new(),
    })?;
    store.tag_image(&reference("made:1"), &made)?;
    Ok(made)
}

/// Every tag names a complete, valid image, and every record's tree is whole.
fn check_promises(store: &Store) {
    for tag in store.tags().unwrap() {
        let image = validate::image(store, &tag.digest).unwrap();
        let tree = store.ensure_tree(&image, &Limits::DEFAULT, &Silent).unwrap();
        read_all(store, &tree);
    }
    if let Some(tree) = store.record("step", b"key").unwrap() {
        read_all(store, &Tree::decode(&tree).unwrap());
    }
}

fn read_all(store: &Store, tree: &Tree) {
    for item in tree.walk(store) {
        if let cooper_vfs::NodeKind::File { content, size } = item.unwrap().entry.kind {
            let bytes = store.open(&content).unwrap().read_all().unwrap();
            assert_eq!(bytes.len() as u64, size);
            assert_eq!(cooper_vfs::ContentId::of(&bytes), content);
        }
    }
}

fn base_layout(path: &Path) -> Layout {
    let store = open(&path.join("origin"));
    let image = random::image(&store, 11, 2).unwrap();
    let export = Export { descriptor: image.descriptor, names: Vec::new() };
    layout::write(&store, &path.join("layout"), &[export], &Silent).unwrap();
    Layout::open(&path.join("layout")).unwrap()
}

#[test]
fn a_fault_at_any_write_leaves_only_complete_images() {
    for dead in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let layout = base_layout(directory.path());
        let whole = build(&open(&directory.path().join("whole")), &layout).unwrap();
        let mut writes = 0;
        loop {
            let path = directory.path().join(format!("store{writes}"));
            let gate = Arc::new(Fault { left: AtomicI64::new(writes), dead });
            let options = StoreOptions { durability: Durability::Power, gate: Some(gate) };
            let faulty = Store::open(&path, &options).and_then(|store| build(&store, &layout));
            let store = open(&path);
            check_promises(&store);
            let again = build(&store, &layout).unwrap();
            assert_eq!(again, whole, "after a fault at write {writes}");
            check_promises(&store);
            drop(store);
            fs::remove_dir_all(&path).unwrap();
            // A full disk may go unnoticed where only cleaning up failed.
            if faulty.is_ok() && (dead || writes > 20) {
                break;
            }
            // Every write at the beginning, where each is of another kind; then steps, to keep the test short.
            writes += if dead && writes < 24 { 1 } else { 7 };
        }
        assert!(writes > 30, "the build has more writes than {writes}");
    }
}

#[test]
fn a_tag_needs_a_complete_image() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let missing = cooper_image::digest::Digest::of(b"nothing");
    let error = store.set_tag("docker.io/library/a:1", "linux/amd64", &missing).unwrap_err().to_string();
    assert_eq!(error, format!("image `{missing}` not found"));
    let image = random::image(&store, 1, 1).unwrap();
    store.tag_image(&reference("a:1"), &image).unwrap();
    assert_eq!(store.find(&reference("a:1"), &Platform::linux_amd64()).unwrap(), Some(image.clone()));
    assert_eq!(store.find(&reference("a:1"), &"linux/arm64".parse().unwrap()).unwrap(), None);
    assert_eq!(store.find(&reference("a:2"), &Platform::linux_amd64()).unwrap(), None);
    assert!(store.remove_tag("docker.io/library/a:1").unwrap());
    assert!(!store.remove_tag("docker.io/library/a:1").unwrap());
}

#[test]
fn prune_keeps_what_is_named_and_removes_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    {
        let layout = base_layout(directory.path());
        let store = open(&path);
        build(&store, &layout).unwrap();
        random::image(&store, 99, 2).unwrap();
    }
    let store = open(&path);
    let pruned = store.prune(&KEEP).unwrap();
    assert_eq!((pruned.tags, pruned.records, pruned.images), (0, 0, 1));
    assert!(
        pruned.blobs >= 3 && pruned.packs >= 1 && pruned.directories >= 1 && pruned.bytes > 0,
        "{pruned:?}"
    );
    check_promises(&store);
    assert_eq!(store.tags().unwrap().len(), 2);
    drop(store);
    let store = open(&path);
    assert_eq!(store.prune(&KEEP).unwrap(), cooper_image::store::Pruned::default());
    drop(store);
    let store = open(&path);
    let pruned = store.prune(&NOTHING).unwrap();
    assert_eq!((pruned.tags, pruned.records, pruned.images), (2, 1, 2));
    assert_eq!(fs::read_dir(path.join("packs")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(path.join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn what_a_running_process_holds_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let layout = base_layout(directory.path());
    drop(build(&open(&path), &layout).unwrap());
    // A store has a lease of its own, so two of them are as two processes.
    let holder = open(&path);
    let tree = Tree::decode(&holder.record("step", b"key").unwrap().unwrap()).unwrap();
    let image = holder.find(&reference("made:1"), &Platform::linux_amd64()).unwrap().unwrap();
    let pruner = open(&path);
    pruner.prune(&NOTHING).unwrap();
    read_all(&holder, &tree);
    validate::image(&holder, image.digest()).unwrap();
    drop(holder);
    let pruned = pruner.prune(&NOTHING).unwrap();
    assert!(pruned.packs > 0 && pruned.images == 1, "{pruned:?}");
    assert!(pruner.image(image.digest()).unwrap().is_none());
}

#[test]
fn what_a_step_leaves_is_held_by_the_process_it_worked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let parent = open(path);
    let lease = parent.lease_name().to_owned();
    let step = Store::open_joining(path, &StoreOptions::plain(), &lease).unwrap();
    let tree = random::change_tree(&step, None, &mut random::Random::new(3)).unwrap();
    drop(step);
    let other = open(path);
    other.prune(&NOTHING).unwrap();
    read_all(&parent, &tree);
    drop(parent);
    let error = Store::open_joining(path, &StoreOptions::plain(), &lease).unwrap_err().to_string();
    assert!(error.contains("cannot open `"), "{error}");
    let error = Store::open_joining(path, &StoreOptions::plain(), "../x").unwrap_err().to_string();
    assert!(error.contains("the name of the lease"), "{error}");
    assert!(other.prune(&NOTHING).unwrap().packs > 0);
}

#[test]
fn what_a_dead_process_left_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    drop(open(path));
    fs::create_dir_all(path.join("work/dead")).unwrap();
    fs::write(path.join("work/dead/0"), "unfinished").unwrap();
    fs::write(path.join("work/dead.lock"), "").unwrap();
    let living = open(path);
    let spool = living.spool().unwrap();
    assert!(!path.join("work/dead").exists() && !path.join("work/dead.lock").exists());
    let other = open(path);
    assert_eq!(fs::read_dir(path.join("work")).unwrap().count(), 4, "the leases of both stay");
    drop(spool);
    drop((living, other));
    assert_eq!(fs::read_dir(path.join("work")).unwrap().count(), 0);
}

#[test]
fn a_damaged_index_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let layout = base_layout(directory.path());
    let store = open(&path);
    let made = build(&store, &layout).unwrap();
    let tree = store.ensure_tree(&made, &Limits::DEFAULT, &Silent).unwrap();
    let content = tree
        .walk(&store)
        .find_map(|item| match item.unwrap().entry.kind {
            cooper_vfs::NodeKind::File { content, size } if size > 0 => Some(content),
            _ => None,
        })
        .unwrap();
    drop(store);
    fs::write(
        path.join("index.sqlite"),
        "this is no database, but it is long enough to be looked at".repeat(100),
    )
    .unwrap();
    let store = open(&path);
    assert!(store.open(&content).is_ok(), "packs are recorded again");
    assert!(store.tags().unwrap().is_empty());
    assert_eq!(build(&store, &layout).unwrap(), made);
    check_promises(&store);
}

#[test]
fn several_processes_build_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let layout = base_layout(directory.path());
    let records: Vec<ImageRecord> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| build(&open(&path), &layout).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(records.iter().all(|record| record == &records[0]));
    check_promises(&open(&path));
}

#[test]
fn spools_become_packs_without_a_copy_and_large_contents_lie_on_pages() {
    use cooper_vfs::Backing;
    use std::os::unix::fs::{FileExt, MetadataExt};
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let spool = store.spool().unwrap();
    let bytes = vec![7; 10_000];
    spool.file.write_all_at(&bytes, 0).unwrap();
    spool.file.write_all_at(b"behind the end", 10_000).unwrap();
    let inode = spool.file.metadata().unwrap().ino();
    let id = cooper_vfs::ContentId::of(&bytes);
    let mut pack = store.pack().unwrap();
    pack.adopt(spool, id, 10_000).unwrap();
    let small = pack.add_bytes(b"small").unwrap();
    let large = pack.add_bytes(&[9; 5000]).unwrap();
    assert_eq!(pack.add_bytes(&[9; 5000]).unwrap(), large);
    assert!(store.open(&id).is_err(), "nothing is readable before the pack is finished");
    pack.finish().unwrap();
    let check = |id, expected: &[u8]| {
        let content = store.open(&id).unwrap();
        assert_eq!(content.read_all().unwrap(), expected);
        let Backing::File { file, offset } = content.backing else { panic!("a file") };
        if expected.len() >= 4096 {
            assert_eq!(offset % 4096, 0);
            let mut rest = vec![1; expected.len().next_multiple_of(4096) - expected.len()];
            file.read_exact_at(&mut rest, offset + expected.len() as u64).unwrap();
            assert!(rest.iter().all(|byte| *byte == 0), "zeros up to the page's end");
        }
        file.metadata().unwrap().ino()
    };
    assert_eq!(check(id, &bytes), inode, "the spool's file is the pack");
    check(small, b"small");
    check(large, &[9; 5000]);
}

#[test]
fn a_store_that_cannot_be_made_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("store"), &StoreOptions::plain()).unwrap_err().to_string();
    assert!(error.starts_with("cannot create `") && error.contains("file/store/blobs"), "{error}");
}

#[test]
fn a_store_that_is_too_large_loses_what_was_used_longest_ago_and_nothing_that_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Store::open(directory.path(), &StoreOptions::plain()).unwrap();
    let bytes = |seed: u8| vec![seed; 1 << 20];
    {
        let store = open();
        for seed in 0..8 {
            let blob = store.put_blob(&bytes(seed)).unwrap();
            store.put_record("test", &[seed], b"", &[Keep::Blob(blob)]).unwrap();
        }
    }
    let store = open();
    let held = cooper_image::digest::Digest::of(&bytes(3));
    assert!(store.has_blob(&held, None).unwrap());
    // All were used in the same second, so one look removes them all, but for the one that this process holds.
    let pruned = store.prune_to(3 << 20).unwrap();
    assert_eq!((pruned.records, pruned.blobs), (8, 7));
    assert!(store.usage().unwrap().total() < 3 << 20);
    assert!(store.has_blob(&held, None).unwrap());
    // What is there already small enough stays as it is.
    assert_eq!(store.prune_to(3 << 20).unwrap().blobs, 0);
}
