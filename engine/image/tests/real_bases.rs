//! Real base images, where the environment names them: `COOPER_TEST_LAYOUTS` holds layout directories, separated by
//! colons.

#![allow(clippy::disallowed_methods, reason = "a test reads its environment and host files")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "tells how long ingest took")]

use std::time::Instant;

use cooper_image::layer::Limits;
use cooper_image::layout::Layout;
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::store::{Store, StoreOptions};

#[test]
fn layouts_are_imported_and_ingested() {
    let layouts = std::env::var("COOPER_TEST_LAYOUTS").unwrap_or_default();
    for path in layouts.split(':').filter(|path| !path.is_empty()) {
        let directory = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let store = Store::open(directory.path(), &StoreOptions::plain()).unwrap();
        eprintln!("{path}: open {:?}", start.elapsed());
        let layout = Layout::open(path.as_ref()).unwrap();
        let start = Instant::now();
        let root = layout.select(None).unwrap();
        let image = store.import(&layout, root, &Platform::linux_amd64(), &Silent).unwrap();
        eprintln!("{path}: import {:?}", start.elapsed());
        let start = Instant::now();
        let tree = store.ensure_tree(&image, &Limits::DEFAULT, &Silent).unwrap();
        eprintln!("{path}: ingest {:?}", start.elapsed());
        let start = Instant::now();
        let count = tree.walk(&store).collect::<Result<Vec<_>, _>>().unwrap().len();
        eprintln!("{path}: {count} entries, walked in {:?}", start.elapsed());
        drop(store);
        let start = Instant::now();
        let store = Store::open(directory.path(), &StoreOptions::plain()).unwrap();
        let image = store.image(image.digest()).unwrap().unwrap();
        let again = store.ensure_tree(&image, &Limits::DEFAULT, &Silent).unwrap();
        eprintln!("{path}: known base opened and found in {:?}", start.elapsed());
        assert_eq!(again, tree);
        assert!(
            again.lookup(&store, b"bin/sh").unwrap().is_some()
                || again.lookup(&store, b"bin").unwrap().is_some()
        );
    }
}
