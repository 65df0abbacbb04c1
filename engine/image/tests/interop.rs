//! Registries as they are: each one's known ways (the [`Quirk`]s), and that an image comes and goes all the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use cooper_image::config::{History, ImageConfig};
use cooper_image::digest::{Algorithm, Digest, Hasher};
use cooper_image::fake::{Access, Action, FakeRegistry, Quirk};
use cooper_image::image::{Composition, ImageRecord, NewLayer};
use cooper_image::manifest::{Descriptor, Document, Index, Manifest, media_type};
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::random::Random;
use cooper_image::reference::Reference;
use cooper_image::registry::auth::{Credential, Keychain};
use cooper_image::registry::{Client, ClientOptions};
use cooper_image::store::{Store, StoreOptions};
use cooper_image::{Error, Result};

struct Scratch {
    store: Store,
    _directory: tempfile::TempDir,
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &StoreOptions::plain()).unwrap();
    Scratch { store, _directory: directory }
}

fn client(registry: &FakeRegistry) -> Client {
    let mut keychain = Keychain::empty();
    keychain.insert(&registry.name(), Credential::password("me", "s3cret"));
    let first_wait = Duration::from_micros(100);
    Client::new(ClientOptions { keychain, first_wait, ..ClientOptions::anonymous() }).unwrap()
}

fn reference(registry: &FakeRegistry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.name()).parse().unwrap()
}

fn pull(client: &Client, store: &Store, reference: &Reference) -> Result<ImageRecord> {
    let remote = client.resolve(reference)?;
    store.import(&remote, remote.root(), &Platform::linux_amd64(), &Silent)
}

/// An image with one layer of 9 MiB, so that it takes several chunks; not an archive, for nobody looks.
fn image(store: &Store, seed: u64) -> ImageRecord {
    let bytes = Random::new(seed).bytes(9 << 20);
    let digest = store.put_blob(&bytes).unwrap();
    let descriptor = Descriptor::new(media_type::LAYER, digest, bytes.len() as u64);
    let layers = [NewLayer { descriptor, diff_id: digest, tree: None }];
    let mut config = ImageConfig::new(&Platform::linux_amd64());
    config.history.push(History { created_by: Some("a test".to_owned()), ..History::default() });
    store.compose(Composition { base: None, layers: &layers, config, annotations: BTreeMap::new() }).unwrap()
}

/// A registry of the world: who may use it, and its ways.
struct Row {
    name: &'static str,
    access: Access,
    quirks: &'static [Quirk],
}

fn bearer() -> Access {
    Access::Bearer("me".to_owned(), "s3cret".to_owned())
}

fn basic() -> Access {
    Access::Basic("me".to_owned(), "s3cret".to_owned())
}

fn rows() -> Vec<Row> {
    use Quirk::*;
    let row = |name, access, quirks| Row { name, access, quirks };
    vec![
        row("GHCR", bearer(), &[SmallChunks, ForgetsUploads, LimitsRequests, NoReferrers]),
        row("GHCR with uploads in pieces", bearer(), &[NoWholeUploads, SmallChunks, NoReferrers]),
        row("Docker Hub", bearer(), &[NoReferrers]),
        row("Harbor", bearer(), &[ProxyStumbles]),
        row("GitLab", bearer(), &[TokenStumbles, NoTokensForMounts, NoReferrers]),
        row("ECR", basic(), &[NoLocation, NoIndexes, ImmutableTags]),
        row("Google", bearer(), &[PagedReferrers]),
        row("Quay", bearer(), &[WantsImageConfig]),
        row("Artifactory", basic(), &[NoWholeUploads, WantsHistory]),
        row("distribution", basic(), &[NoReferrers]),
        row("Gitea", bearer(), &[NoIndexes, NoPatches, NoMounts]),
        row("one that only seems to keep referrers", bearer(), &[EmptyReferrers]),
    ]
}

#[test]
fn every_registry_takes_and_gives_an_image_and_mounts_it() {
    let Scratch { store, _directory } = scratch();
    let image = image(&store, 1);
    for Row { name, access, quirks } in rows() {
        let registry = FakeRegistry::start(access).unwrap();
        registry.behave(quirks);
        let client = client(&registry);
        let check = |result: Result<()>| result.unwrap_or_else(|error| panic!("{name}: {error}"));
        let app = reference(&registry, "dockerhub-proxy/app:1");
        check(client.push(&store, &image.descriptor, &app, &Silent));
        // The same once more: nothing is sent, and a tag that may not change need not.
        let sent = registry.count("PUT", "/uploads/");
        check(client.push(&store, &image.descriptor, &app, &Silent));
        assert_eq!(registry.count("PUT", "/uploads/"), sent, "{name}");
        check(client.push(&store, &image.descriptor, &reference(&registry, "team/other:2"), &Silent));
        let fresh = scratch();
        let pulled = pull(&client, &fresh.store, &app).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(pulled, image, "{name}");
        let manifests = registry.count("GET", "/manifests/");
        let most = if quirks.contains(&Quirk::ProxyStumbles) { 3 } else { 2 };
        assert!(manifests <= most, "{name}: a manifest was asked for {manifests} times");
    }
}

#[test]
fn a_signature_is_found_by_what_it_signs_on_every_registry() {
    for Row { name, access, quirks } in rows() {
        // A registry without indexes cannot keep the list of the fallback, so nothing can be found there.
        let hopeless = quirks.contains(&Quirk::NoIndexes) && quirks.contains(&Quirk::NoReferrers);
        assert!(!hopeless, "{name}: no row is that poor");
        let Scratch { store, _directory } = scratch();
        let image = image(&store, 2);
        let registry = FakeRegistry::start(access).unwrap();
        registry.behave(quirks);
        let client = client(&registry);
        let app = reference(&registry, "team/app:1");
        let mut signatures = Vec::new();
        for number in 0..5_u8 {
            let layer = store.put_blob(&[number; 10]).unwrap();
            let config = store.put_blob(b"{}").unwrap();
            let layer = Descriptor::new("application/octet-stream", layer, 10);
            let kind = if quirks.contains(&Quirk::WantsImageConfig) {
                media_type::CONFIG
            } else {
                media_type::EMPTY
            };
            let mut manifest = Manifest::new(Descriptor::new(kind, config, 2), vec![layer]);
            manifest.artifact_type = Some(format!("application/x.test{}", number % 2));
            manifest.subject = Some(image.descriptor.clone());
            let bytes = manifest.to_bytes();
            let digest = store.put_blob(&bytes).unwrap();
            signatures.push(Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64));
        }
        // Artifactory takes only images, whatever they are.
        let takes = !quirks.contains(&Quirk::WantsHistory);
        for signature in &signatures {
            let by_digest = reference(&registry, &format!("team/app@{}", signature.digest));
            let pushed = client.push(&store, signature, &by_digest, &Silent);
            assert_eq!(pushed.is_ok(), takes, "{name}: {pushed:?}");
        }
        if !takes {
            continue;
        }
        let subject = image.digest();
        assert!(
            registry.manifest("team/app", &subject.to_string()).is_some(),
            "{name}: the subject came first"
        );
        let all = client.referrers(&app, subject, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut expected: Vec<Digest> = signatures.iter().map(|signature| signature.digest).collect();
        expected.sort();
        assert_eq!(all.iter().map(|entry| entry.digest).collect::<Vec<_>>(), expected, "{name}");
        let some = client.referrers(&app, subject, Some("application/x.test1")).unwrap();
        assert_eq!(some.len(), 2, "{name}");
        assert!(client.referrers(&app, &Digest::of(b"nobody"), None).unwrap().is_empty(), "{name}");
        // A list that cannot be read is a failure, and never "nothing".
        registry.fail("GET", "/referrers/", 1, Action::Status(403, Vec::new()));
        assert!(client.referrers(&app, subject, None).is_err(), "{name}");
    }
}

#[test]
fn a_list_of_referrers_without_end_is_given_up() {
    let registry = FakeRegistry::start(Access::Open).unwrap();
    registry.behave(&[Quirk::EndlessReferrers]);
    let error = client(&registry).referrers(&reference(&registry, "app:1"), &Digest::of(b"x"), None);
    assert!(matches!(error, Err(Error::Limit { name: "MOST_PAGES", .. })), "{error:?}");
    let registry = FakeRegistry::start(Access::Open).unwrap();
    registry.fail("GET", "/referrers/", 100, Action::Endless);
    let error = client(&registry).referrers(&reference(&registry, "app:1"), &Digest::of(b"x"), None);
    assert!(error.is_ok_and(|found| found.is_empty()), "what is no index is no list");
    // A hundred thousand entries on one page.
    let registry = FakeRegistry::start(Access::Open).unwrap();
    let entry = Descriptor::of(media_type::MANIFEST, b"x");
    let index = Index::new(vec![entry; 100_000]).to_bytes();
    let subject = Digest::of(b"x");
    registry.put_manifest("app", &format!("sha256-{}", subject.hex()), media_type::INDEX, &index);
    let error = client(&registry).referrers(&reference(&registry, "app:1"), &subject, None).unwrap_err();
    assert!(error.to_string().contains("has more than 4194304 bytes"), "{error}");
}

#[test]
fn a_tag_that_may_not_change_is_named_when_it_would() {
    let Scratch { store, _directory } = scratch();
    let (one, two) = (image(&store, 1), image(&store, 2));
    let registry = FakeRegistry::start(Access::Open).unwrap();
    registry.behave(&[Quirk::ImmutableTags]);
    let (client, app) = (client(&registry), reference(&registry, "app:1"));
    client.push(&store, &one.descriptor, &app, &Silent).unwrap();
    let error = client.push(&store, &two.descriptor, &app, &Silent).unwrap_err().to_string();
    assert!(error.contains("tag invalid"), "{error}");
    let kept = registry.manifest("app", "1").unwrap();
    assert_eq!(Digest::of(&kept), *one.digest());
}

#[test]
fn digests_are_of_the_algorithm_that_they_name() {
    let sha512 = |bytes: &[u8]| {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(bytes);
        hasher.finish()
    };
    let registry = FakeRegistry::start(Access::Open).unwrap();
    let Scratch { store, _directory } = scratch();
    let put = |bytes: &[u8]| {
        let digest = sha512(bytes);
        let mut writer = store.blob_writer(&digest, Some(bytes.len() as u64)).unwrap();
        std::io::Write::write_all(&mut writer, bytes).unwrap();
        writer.finish().unwrap();
        digest
    };
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        sha512(b"layer")
    );
    let layer = Descriptor::new(media_type::LAYER, put(b"layer"), 5);
    let config = Descriptor::new(media_type::CONFIG, put(config.as_bytes()), config.len() as u64);
    let bytes = Manifest::new(config, vec![layer]).to_bytes();
    let root = Descriptor::new(media_type::MANIFEST, put(&bytes), bytes.len() as u64);
    let by_digest = reference(&registry, &format!("app@{}", root.digest));
    client(&registry).push(&store, &root, &by_digest, &Silent).unwrap();
    let fresh = scratch();
    let pulled = pull(&client(&registry), &fresh.store, &by_digest).unwrap();
    assert_eq!(pulled.digest(), &root.digest);
    assert_eq!(pulled.layers[0].diff_id, sha512(b"layer"));
    assert!(fresh.store.is_complete(&pulled).unwrap());
}

/// What a registry may answer with that is not what it was asked for.
#[test]
fn documents_that_lie_are_refused() {
    let check = |kind: &str, body: &dyn Fn(&str) -> String, reason: &str| {
        let registry = FakeRegistry::start(Access::Open).unwrap();
        let Scratch { store, _directory } = scratch();
        let image = image(&store, 1);
        let app = reference(&registry, "app:1");
        client(&registry).push(&store, &image.descriptor, &app, &Silent).unwrap();
        let honest = String::from_utf8(registry.manifest("app", "1").unwrap()).unwrap();
        registry.put_manifest("app", "1", kind, body(&honest).as_bytes());
        let fresh = scratch();
        let error = pull(&client(&registry), &fresh.store, &app).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(fresh.store.image(image.digest()).unwrap().is_none());
        let before = registry.seen().len();
        assert!(
            registry.seen()[..before].iter().all(|seen| !seen.path.contains("..")),
            "{:?}",
            registry.seen()
        );
    };
    let manifest = media_type::MANIFEST;
    check(manifest, &|text| text.replacen('{', r#"{"manifests":[],"#, 1), "both layers and manifests");
    check(media_type::INDEX, &str::to_owned, "was served as");
    check(manifest, &|text| text.replacen('{', r#"{"schemaVersion":2,"#, 1), "duplicate field");
    let digest = |text: &str| {
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), "").unwrap() else { panic!() };
        manifest.layers[0].digest.to_string()
    };
    check(
        manifest,
        &|text| text.replace(&digest(text), "sha256:../../../etc/passwd"),
        "wrong number of digits",
    );
    check(
        manifest,
        &|text| text.replace(&digest(text), &format!("md5:{}", "0".repeat(32))),
        "sha256 or sha512",
    );
    check(manifest, &|text| text.replace(&digest(text), &digest(text).replace("sha256", "sha512")), "digits");
    check(manifest, &|text| text.replacen("\"size\":9437184", "\"size\":9437183", 1), "wrong size");
    check(manifest, &|text| text.replacen("\"size\":9437184", "\"size\":9437185", 1), "wrong size");
}
