//! Caches outside of the store: what a fresh store takes from them, and what it does not have to read.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::Bench;
use cooper_build::cache::{self, CacheContents, CacheMode, CacheRecord};
use cooper_build::report::Finish;
use cooper_image::export::Export;
use cooper_image::image::ImageRecord;
use cooper_image::layout::{self, Layout};
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;

const DOCKERFILE: &str = "FROM scratch AS tools\nRUN write /bin/tool t\nRUN write /bin/other o\n\
    FROM scratch\nCOPY f /in/\nRUN write /x 1\nWORKDIR /w\nCOPY --from=tools /bin/tool /usr/\nRUN touch /w/y\n";

/// A bench with an empty store and the context of all these tests.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.file("f", "1", 0o644).settle();
    bench
}

/// Builds on an empty store and writes the cache to a layout.
fn cached(mode: CacheMode) -> (Bench, ImageRecord, PathBuf) {
    let mut bench = bench();
    let (image, records) = bench.build_for_cache(DOCKERFILE, mode);
    let path = bench.context().join("../cache");
    write(&bench, &records, &path);
    (bench, image, path)
}

fn write(bench: &Bench, records: &[CacheRecord], path: &Path) {
    let carrier = cache::compose(
        &bench.store,
        &CacheContents { records: records.to_vec(), ..CacheContents::default() },
        &Platform::linux_amd64(),
    )
    .unwrap();
    let export = [Export { descriptor: carrier.descriptor, names: Vec::new() }];
    layout::write(&bench.store, path, &export, &Silent).unwrap();
}

/// Lets a bench look into a layout; says how many keys it has.
fn look_into(bench: &mut Bench, path: &Path) -> usize {
    let layout = Layout::open(path).unwrap();
    let root = layout.select(None).unwrap().clone();
    let image = bench.store.import_lazily(&layout, &root, &Platform::linux_amd64()).unwrap();
    bench.caches.add(&image, Some(layout)).unwrap()
}

fn executed(bench: &Bench) -> usize {
    bench.notes.finished.lock().unwrap().iter().filter(|(_, how)| *how == Finish::Cached).count()
}

#[test]
fn a_fresh_store_takes_every_result_from_a_cache_and_reads_no_layer() {
    let (first, image, path) = cached(CacheMode::Max);
    assert_eq!(first.steps(), 4);
    let mut fresh = bench();
    assert_eq!(look_into(&mut fresh, &path), 8, "seven results, one of them with two keys");
    let (again, records) = fresh.build_for_cache(DOCKERFILE, CacheMode::Max);
    assert_eq!(fresh.steps(), 0);
    assert_eq!(executed(&fresh), 7);
    assert_eq!(again.digest(), image.digest());
    assert!(fresh.table.uppers.lock().unwrap().is_empty(), "no layer was read");
    assert_eq!(records.len(), 7, "what was found goes on to the next cache");
}

#[test]
fn a_change_makes_the_file_systems_that_it_needs_and_no_others() {
    let (_first, _, path) = cached(CacheMode::Max);
    let mut fresh = bench();
    look_into(&mut fresh, &path);
    let changed = DOCKERFILE.replace("touch /w/y", "touch /w/z");
    let result = fresh.build(&changed);
    assert_eq!(fresh.steps(), 1);
    // The layers of the stage that is only copied from are not among them.
    assert_eq!(fresh.table.uppers.lock().unwrap().len(), 4);
    let mut alone = bench();
    let expected = alone.build(&changed);
    assert_eq!(result.image.digest(), expected.image.digest());
    assert_eq!(fresh.list(&result.tree), alone.list(&expected.tree));
    // What was made is in the store now: no cache is needed for it again.
    fresh.caches = cache::ImportedCaches::default();
    fresh.build(&changed);
    assert_eq!(fresh.steps(), 3, "but for the stage whose layers were never fetched");
}

#[test]
fn the_smaller_cache_has_the_results_of_the_image_only() {
    let (_first, image, path) = cached(CacheMode::Min);
    let mut fresh = bench();
    assert_eq!(look_into(&mut fresh, &path), 6);
    let (again, _) = fresh.build_for_cache(DOCKERFILE, CacheMode::Min);
    assert_eq!(fresh.steps(), 2, "the stage that is copied from");
    assert_eq!(again.digest(), image.digest());
}

#[test]
fn an_image_carries_its_own_results_and_a_build_on_it_does_not() {
    let mut bench = bench();
    bench.request.inline_cache = true;
    let (image, _) = bench.build_for_cache(DOCKERFILE, CacheMode::Min);
    assert_eq!(cache::records_of(&image).unwrap().len(), 5);
    bench.table.images.lock().unwrap().insert("carrier".to_owned(), image.clone());
    bench.request.inline_cache = false;
    let (derived, _) = bench.build_for_cache("FROM carrier\nRUN touch /more\n", CacheMode::Min);
    assert!(!derived.config.other.contains_key(cache::CONFIG_KEY));
    bench.request.inline_cache = true;
    let (derived, _) = bench.build_for_cache("FROM carrier\nRUN touch /more\n", CacheMode::Min);
    let records = cache::records_of(&derived).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].layer, derived.layers[5]);
}

#[test]
fn a_cache_that_lies_is_found_out_when_it_is_read() {
    let mut bench = bench();
    let (_, mut records) = bench.build_for_cache(DOCKERFILE, CacheMode::Max);
    let other = records[1].layer.clone();
    records[0].layer = other;
    let path = bench.context().join("../cache");
    write(&bench, &records, &path);
    let mut fresh = self::bench();
    look_into(&mut fresh, &path);
    let error = fresh.failure(&DOCKERFILE.replace("write /bin/other o", "write /bin/other p"));
    assert!(error.contains("is not what its cache says"), "{error}");
}

#[test]
fn damaged_records_are_refused_and_those_of_another_version_passed_over() {
    let (bench, _, _) = cached(CacheMode::Max);
    let (_, records) = {
        let mut again = self::bench();
        again.build_for_cache(DOCKERFILE, CacheMode::Max)
    };
    let good = cache::compose(
        &bench.store,
        &CacheContents { records: records.clone(), ..CacheContents::default() },
        &Platform::linux_amd64(),
    )
    .unwrap();
    assert_eq!(cache::records_of(&good).unwrap(), records);
    let check = |change: &dyn Fn(&mut serde_json::Value), expected: Option<&str>| {
        let mut image = good.clone();
        change(image.config.other.get_mut(cache::CONFIG_KEY).unwrap());
        let found = cache::records_of(&image);
        match (expected, found) {
            (None, found) => assert!(found.unwrap().is_empty()),
            (Some(expected), found) => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
        }
    };
    check(&|value| value["version"] = 2.into(), None);
    check(&|value| value["version"] = "1".into(), None);
    check(&|value| value["records"] = 1.into(), Some("invalid type"));
    check(&|value| value["records"][0]["layer"] = 99.into(), Some("a layer is missing"));
    check(&|value| value["records"][0]["tree"] = "00".into(), Some("a file system's record is none"));
    check(&|value| value["records"][0]["keys"][0] = "zz".into(), Some("a key is none"));
    check(&|value| value["records"][0]["nanoseconds"] = 1_000_000_000.into(), Some("a time is none"));
}
