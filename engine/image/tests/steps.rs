//! What a step did to a root file system over the store, as a layer, makes the step's tree again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cooper_image::compression::Compression;
use cooper_image::layer::{self, Expected, LayerOptions, Limits};
use cooper_image::random::Random;
use cooper_image::store::{Store, StoreOptions};
use cooper_vfs::*;
use proptest::prelude::*;

/// A clock that goes on by a second and a bit with every look.
#[derive(Debug)]
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: self.0.fetch_add(1, Ordering::Relaxed), nanoseconds: 7 }
    }
}

fn path(random: &mut Random) -> Vec<u8> {
    const NAMES: [&str; 6] = ["a", "b", "c", "dir", "x y", "ä"];
    let depth = 1 + random.below(3);
    let names: Vec<&str> = (0..depth).map(|_| NAMES[random.below(6) as usize]).collect();
    names.join("/").into_bytes()
}

/// One call of a program. Whether it works does not matter.
fn call(world: &RootFs, walk: &Walk<'_>, random: &mut Random) -> Result<(), Errno> {
    let root = walk.root;
    let (one, other) = (path(random), path(random));
    match random.below(12) {
        0 | 1 => world.make_directory(walk, root, &one, 0o755).map(drop),
        2 => world.symlink(walk, b"a/b", root, &one).map(drop),
        3 => world.link(walk, root, &one, Follow::No, root, &other),
        4 => world.unlink(walk, root, &one),
        5 => world.remove_directory(walk, root, &one),
        6 => world.rename(walk, root, &one, root, &other, RenameFlags::empty()),
        7 => world.resolve(walk, root, &one, Follow::No)?.set_mode(walk, (random.number() & 0o7777) as u16),
        8 => world.resolve(walk, root, &one, Follow::No)?.set_owner(walk, Some(70_000), Some(5)),
        9 => world.make_node(walk, root, &one, 0o010_644, 0).map(drop),
        _ => {
            let flags = OpenFlags::CREAT | OpenFlags::RDWR;
            if let Opened::File(file) = world.open(walk, root, &one, flags, 0o644)?.opened {
                let size = [0, 3, 5000, 70_000][random.below(4) as usize];
                file.write_at(random.below(6000), &random.bytes(size))?;
            }
            Ok(())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_step_as_a_layer_makes_the_steps_tree(seed in any::<u64>(), calls in 1_usize..60) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path(), &StoreOptions::plain()).unwrap());
        let mut random = Random::new(seed);
        let credentials = Credentials::root();
        let mut lower = Tree::empty(&*store).unwrap();
        for step in 0..3 {
            let clock = Arc::new(Ticking(AtomicI64::new(1_700_000_000 + step * 1000)));
            let world =
                RootFs::new(lower.clone(), Arc::clone(&store) as Arc<dyn ContentStore>, clock, RootFsLimits::ORDINARY)
                    .unwrap();
            let root = world.root();
            let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
            for _ in 0..calls {
                // Most fail: the names are few and the calls blind.
                let _ = call(&world, &walk, &mut random);
            }
            let StepChanges { tree, changes } = world.finish().unwrap();
            let options = LayerOptions { compression: Compression::Gzip, level: None, clamp: None };
            let mut bytes = Vec::new();
            let written = layer::write(&*store, &changes, &options, &mut bytes).unwrap();
            let expected =
                Expected { digest: Some(written.digest), size: Some(written.size), diff_id: Some(written.diff_id) };
            let operations = layer::scan(&store, &bytes[..], &expected, &Limits::DEFAULT).unwrap();
            let again = layer::apply(&*store, Some(&lower), &operations).unwrap();
            let show = |tree: &Tree| tree.walk(&*store).map(|item| format!("{:?}", item.unwrap())).collect::<Vec<_>>();
            prop_assert_eq!(show(&again), show(&tree));
            prop_assert_eq!(&again, &tree);
            lower = tree;
        }
    }
}
