//! The registry client against the registry in this process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use cooper_image::config::ImageConfig;
use cooper_image::fake::{Access, Action, FakeRegistry};
use cooper_image::image::{Composition, ImageRecord, NewLayer};
use cooper_image::layer::Limits;
use cooper_image::manifest::{Descriptor, Index, media_type};
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::pull::{PullPolicy, resolve};
use cooper_image::reference::Reference;
use cooper_image::registry::auth::{Credential, Keychain, Secret};
use cooper_image::registry::mirrors::Mirror;
use cooper_image::registry::{Client, ClientOptions};
use cooper_image::store::{Store, StoreOptions};
use cooper_image::{Error, Result, random, validate};

struct Scratch {
    store: Store,
    _directory: tempfile::TempDir,
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &StoreOptions::plain()).unwrap();
    Scratch { store, _directory: directory }
}

fn client(keychain: Keychain) -> Client {
    let first_wait = Duration::from_millis(1);
    Client::new(ClientOptions { keychain, first_wait, ..ClientOptions::anonymous() }).unwrap()
}

fn anonymous() -> Client {
    client(Keychain::empty())
}

fn known(registry: &FakeRegistry, name: &str, password: &str) -> Client {
    let mut keychain = Keychain::empty();
    keychain.insert(&registry.name(), Credential::password(name, password));
    client(keychain)
}

fn reference(registry: &FakeRegistry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.name()).parse().unwrap()
}

fn pull(client: &Client, store: &Store, reference: &Reference) -> Result<ImageRecord> {
    let remote = client.resolve(reference)?;
    store.import(&remote, remote.root(), &Platform::linux_amd64(), &Silent)
}

fn push(client: &Client, store: &Store, image: &ImageRecord, reference: &Reference) -> Result<()> {
    client.push(store, &image.descriptor, reference, &Silent)
}

/// A registry with one image, `app:1`, and the image.
fn with_image(access: Access) -> (FakeRegistry, ImageRecord) {
    let registry = FakeRegistry::start(access.clone()).unwrap();
    let Scratch { store, _directory } = scratch();
    let image = random::image(&store, 7, 3).unwrap();
    let client = match &access {
        Access::Open | Access::Anonymous => anonymous(),
        Access::Basic(name, password) | Access::Bearer(name, password) => known(&registry, name, password),
        Access::Identity(token) => {
            let mut keychain = Keychain::empty();
            keychain.insert(&registry.name(), Credential::Identity { token: Secret::new(token) });
            client(keychain)
        }
    };
    push(&client, &store, &image, &reference(&registry, "app:1")).unwrap();
    (registry, image)
}

#[test]
fn a_pushed_image_comes_back_the_same() {
    let (name, password) = ("me".to_owned(), "s3cret".to_owned());
    for access in
        [Access::Open, Access::Basic(name.clone(), password.clone()), Access::Bearer(name, password)]
    {
        let (registry, image) = with_image(access.clone());
        assert_eq!(registry.tags("app"), ["1"]);
        let Scratch { store, _directory } = scratch();
        let open = matches!(access, Access::Open | Access::Anonymous);
        let client = if open { anonymous() } else { known(&registry, "me", "s3cret") };
        let pulled = pull(&client, &store, &reference(&registry, "app:1")).unwrap();
        assert_eq!(pulled, image);
        validate::image(&store, pulled.digest()).unwrap();
        let by_digest = reference(&registry, &format!("app@{}", image.digest()));
        assert_eq!(pull(&client, &store, &by_digest).unwrap(), image);
    }
}

#[test]
fn credentials_are_asked_for_and_named_when_wrong() {
    let secret = || Access::Bearer("me".to_owned(), "s3cret".to_owned());
    let check = |access: Access, name: Option<&str>, reason: &str| {
        let (registry, _) = with_image(access);
        let client = name.map_or_else(anonymous, |name| known(&registry, name, "wrong"));
        let Scratch { store, _directory } = scratch();
        let error = pull(&client, &store, &reference(&registry, "app:1")).unwrap_err();
        assert!(matches!(error, Error::Auth { .. }), "{error:?}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(reason) && !text.contains("wrong"), "{text}");
    };
    check(secret(), Some("me"), "token service answers 401");
    check(secret(), None, "token service answers 401");
    check(Access::Basic("me".to_owned(), "s3cret".to_owned()), Some("me"), "fake: UNAUTHORIZED");
    check(Access::Basic("me".to_owned(), "s3cret".to_owned()), None, "none is known");
}

#[test]
fn a_blob_elsewhere_is_fetched_without_authorization() {
    let (registry, image) = with_image(Access::Bearer("me".to_owned(), "s3cret".to_owned()));
    let elsewhere = FakeRegistry::start(Access::Open).unwrap();
    let Scratch { store, _directory } = scratch();
    let client = known(&registry, "me", "s3cret");
    let blob = &image.layers[1].descriptor.digest;
    let bytes = {
        let Scratch { store, _directory } = scratch();
        random::image(&store, 7, 3).unwrap();
        store.blob_bytes(blob, 1 << 20).unwrap()
    };
    elsewhere.put_blob("x", &bytes);
    let location = format!("http://{}/v2/x/blobs/{blob}", elsewhere.name());
    registry.fail("GET", &blob.to_string(), 1, Action::Status(307, vec![("Location".to_owned(), location)]));
    assert_eq!(pull(&client, &store, &reference(&registry, "app:1")).unwrap(), image);
    assert_eq!(elsewhere.seen().len(), 1);
    assert!(elsewhere.seen().iter().all(|seen| seen.authorization.is_none()), "{:?}", elsewhere.seen());
    assert!(registry.seen().iter().any(|seen| seen.authorization.is_some()));
}

#[test]
fn a_realm_elsewhere_gets_nothing_from_a_registry_without_tls() {
    let (registry, _) = with_image(Access::Open);
    let challenge = "Bearer realm=\"http://evil.example/token\",service=\"x\"".to_owned();
    registry.fail(
        "GET",
        "/manifests/1",
        1,
        Action::Status(401, vec![("WWW-Authenticate".to_owned(), challenge)]),
    );
    let Scratch { store, _directory } = scratch();
    let error = pull(&known(&registry, "me", "s3cret"), &store, &reference(&registry, "app:1")).unwrap_err();
    assert!(error.to_string().contains("`http://evil.example/token` is refused"), "{error}");
}

#[test]
fn uploads_to_elsewhere_carry_no_authorization() {
    let registry = FakeRegistry::start(Access::Basic("me".to_owned(), "s3cret".to_owned())).unwrap();
    let elsewhere = FakeRegistry::start(Access::Open).unwrap();
    let Scratch { store, _directory } = scratch();
    let image = random::image(&store, 3, 1).unwrap();
    let location = format!("http://{}/v2/x/blobs/uploads/99", elsewhere.name());
    // The first POST is answered with the challenge; the second sends the upload away.
    let client = known(&registry, "me", "s3cret");
    let missing = pull(&client, &store, &reference(&registry, "x:1")).unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }));
    registry.fail("POST", "/uploads/", 1000, Action::Status(202, vec![("Location".to_owned(), location)]));
    assert!(push(&client, &store, &image, &reference(&registry, "app:1")).is_err());
    assert!(!elsewhere.seen().is_empty());
    assert!(elsewhere.seen().iter().all(|seen| seen.authorization.is_none()));
    assert!(registry.tags("app").is_empty());
}

#[test]
fn busy_registries_and_broken_connections_are_tried_again() {
    let (registry, image) = with_image(Access::Open);
    let blob = |number: usize| image.layers[number].descriptor.digest.to_string();
    registry.fail("GET", "/manifests/", 2, Action::Status(503, Vec::new()));
    registry.fail("GET", &blob(0), 2, Action::Status(429, vec![("Retry-After".to_owned(), "0".to_owned())]));
    registry.fail("GET", &blob(1), 3, Action::Cut(10));
    registry.fail("GET", &blob(2), 1, Action::Hang);
    let Scratch { store, _directory } = scratch();
    assert_eq!(pull(&anonymous(), &store, &reference(&registry, "app:1")).unwrap(), image);
    validate::image(&store, image.digest()).unwrap();
}

#[test]
fn pushes_survive_lost_uploads_and_say_when_they_cannot() {
    let registry = FakeRegistry::start(Access::Open).unwrap();
    let Scratch { store, _directory } = scratch();
    let image = random::image(&store, 5, 2).unwrap();
    registry.fail("PUT", "/uploads/", 2, Action::Status(404, Vec::new()));
    registry.fail("PUT", "/uploads/", 1, Action::Hang);
    registry.fail("PUT", "/manifests/", 1, Action::Status(500, Vec::new()));
    push(&anonymous(), &store, &image, &reference(&registry, "app:1")).unwrap();
    assert_eq!(registry.tags("app"), ["1"]);
    registry.fail("PUT", "/manifests/", 1, Action::Status(403, Vec::new()));
    let error = push(&anonymous(), &store, &image, &reference(&registry, "app:2")).unwrap_err().to_string();
    assert!(error.starts_with("cannot push `127.0.0.1:") && error.contains("fake: FAULT"), "{error}");
    assert_eq!(registry.tags("app"), ["1"]);
}

#[test]
fn wrong_bytes_are_refused_and_nothing_is_recorded() {
    let check = |path: &dyn Fn(&ImageRecord) -> String, by_digest: bool, reason: &str| {
        let (registry, image) = with_image(Access::Open);
        registry.fail("GET", &path(&image), 9, Action::Garble);
        let Scratch { store, _directory } = scratch();
        let rest = if by_digest { format!("app@{}", image.digest()) } else { "app:1".to_owned() };
        let error = pull(&anonymous(), &store, &reference(&registry, &rest)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(store.image(image.digest()).unwrap().is_none());
        assert!(store.tags().unwrap().is_empty());
    };
    check(&|image| image.layers[1].descriptor.digest.to_string(), false, "wrong digest");
    check(&|image| image.manifest.config.digest.to_string(), false, "wrong digest");
    check(&|_| "/manifests/".to_owned(), true, "wrong digest");
    check(&|_| "/manifests/".to_owned(), false, "wrong digest");
}

#[test]
fn blobs_are_sent_once_and_mounted_where_the_base_came_from() {
    let (registry, image) = with_image(Access::Open);
    let Scratch { store, _directory } = scratch();
    let client = anonymous();
    let base = reference(&registry, "app:1");
    let image = {
        let pulled = pull(&client, &store, &base).unwrap();
        assert_eq!(pulled, image);
        pulled
    };
    let uploads = registry.count("PUT", "/uploads/");
    push(&client, &store, &image, &reference(&registry, "app:again")).unwrap();
    assert_eq!(registry.count("PUT", "/uploads/"), uploads, "blobs that are there are not sent");
    push(&client, &store, &image, &reference(&registry, "other:1")).unwrap();
    assert_eq!(registry.count("PUT", "/uploads/"), uploads, "blobs of the base are mounted");
    assert_eq!(registry.tags("other"), ["1"]);
    // A mount that the registry does not do is an upload.
    let blobs: Vec<_> = image.layers.iter().map(|layer| &layer.descriptor.digest).collect();
    store.note_origin(blobs, &reference(&registry, "nowhere:1").name()).unwrap();
    registry.fail("POST", "/third/", 2, Action::Status(400, Vec::new()));
    push(&client, &store, &image, &reference(&registry, "third:1")).unwrap();
    assert_eq!(registry.tags("third"), ["1"]);
}

#[test]
fn the_platform_of_an_index_is_pulled_and_found_again_by_the_index() {
    let registry = FakeRegistry::start(Access::Open).unwrap();
    let Scratch { store, _directory } = scratch();
    let client = anonymous();
    let one = random::image(&store, 1, 1).unwrap();
    let two = random::image(&store, 2, 2).unwrap();
    let root = store.compose_index(std::slice::from_ref(&one), BTreeMap::new()).unwrap();
    client.push(&store, &root, &reference(&registry, "multi:1"), &Silent).unwrap();
    assert_eq!(registry.manifest("multi", "1"), registry.manifest("multi", &root.digest.to_string()));
    push(&client, &store, &two, &reference(&registry, "multi:arm")).unwrap();
    let mut entries = vec![two.descriptor.clone(), one.descriptor.clone()];
    entries[0].platform = Some("linux/arm64".parse().unwrap());
    entries[1].platform = Some(Platform::linux_amd64());
    let index = Index::new(entries).to_bytes();
    registry.put_manifest("multi", "both", media_type::INDEX, &index);
    let Scratch { store, _directory } = scratch();
    let by_tag = reference(&registry, "multi:both");
    assert_eq!(pull(&client, &store, &by_tag).unwrap(), one);
    let by_digest = reference(&registry, &format!("multi@{}", cooper_image::digest::Digest::of(&index)));
    assert_eq!(store.find(&by_digest, &Platform::linux_amd64()).unwrap(), Some(one.clone()));
    assert_eq!(store.find(&by_digest, &"linux/arm64".parse().unwrap()).unwrap(), None);
    let wanted: Platform = "linux/s390x".parse().unwrap();
    let remote = client.resolve(&by_tag).unwrap();
    let error = store.import(&remote, remote.root(), &wanted, &Silent).unwrap_err().to_string();
    assert_eq!(error, "no image for platform linux/s390x: the index has linux/amd64, linux/arm64");
}

#[test]
fn a_base_that_nobody_reads_is_mounted_and_never_fetched() {
    let (registry, base) = with_image(Access::Open);
    let Scratch { store, _directory } = scratch();
    let client = anonymous();
    let remote = client.resolve(&reference(&registry, "app:1")).unwrap();
    let lazy = store.import_lazily(&remote, remote.root(), &Platform::linux_amd64()).unwrap();
    assert_eq!(lazy, base);
    assert!(!store.is_complete(&lazy).unwrap() && store.image(lazy.digest()).unwrap().is_none());
    assert!(store.tag_image(&reference(&registry, "app:1"), &lazy).is_err(), "a tag needs a complete image");
    let name = reference(&registry, "app:1");
    store.tag_lazily(&name, &Platform::linux_amd64(), &lazy).unwrap();
    assert_eq!(store.find_lazy(&name, &Platform::linux_amd64()).unwrap(), Some(base.clone()));
    let config = lazy.config.clone();
    let top = Composition {
        base: Some(&lazy),
        layers: &[],
        config,
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
    };
    let image = store.compose(top).unwrap();
    push(&client, &store, &image, &reference(&registry, "other/app:2")).unwrap();
    assert_eq!(registry.tags("other/app"), ["2"]);
    for layer in &base.layers {
        assert_eq!(registry.count("GET", &layer.descriptor.digest.to_string()), 0);
    }
    // Another registry cannot mount them, so they are fetched on the way.
    let elsewhere = FakeRegistry::start(Access::Open).unwrap();
    push(&client, &store, &image, &reference(&elsewhere, "app:3")).unwrap();
    assert_eq!(elsewhere.tags("app"), ["3"]);
    client.complete(&store, &image, &Silent).unwrap();
    validate::image(&store, image.digest()).unwrap();
}

#[test]
fn a_layer_is_ingested_while_it_arrives_and_believed_when_it_is_verified() {
    let (registry, base) = with_image(Access::Open);
    let Scratch { store, _directory } = scratch();
    let client = anonymous();
    let remote = client.resolve(&reference(&registry, "app:1")).unwrap();
    let lazy = store.import_lazily(&remote, remote.root(), &Platform::linux_amd64()).unwrap();
    let tree = |store: &Store| store.ensure_tree_from(Some(&remote), &lazy, &Limits::DEFAULT, &Silent);
    registry.fail("GET", &base.layers[1].descriptor.digest.to_string(), 1, Action::Garble);
    let error = tree(&store).unwrap_err().to_string();
    assert!(error.contains("wrong digest"), "{error}");
    let first = tree(&store).unwrap();
    assert!(store.is_complete(&lazy).unwrap());
    let Scratch { store: other, _directory } = scratch();
    let pulled = pull(&client, &other, &reference(&registry, "app:1")).unwrap();
    assert_eq!(other.ensure_tree(&pulled, &Limits::DEFAULT, &Silent).unwrap(), first);
}

#[test]
fn a_registry_gets_the_way_of_uploading_that_it_takes() {
    let check = |faults: &[(&'static str, &str, u16)], whole: usize, patches: bool| {
        let registry = FakeRegistry::start(Access::Open).unwrap();
        for (method, path, status) in faults {
            registry.fail(method, path, 1000, Action::Status(*status, Vec::new()));
        }
        let Scratch { store, _directory } = scratch();
        let image = random::image(&store, 5, 2).unwrap();
        push(&anonymous(), &store, &image, &reference(&registry, "app:1")).unwrap();
        assert_eq!(registry.tags("app"), ["1"], "{faults:?}");
        assert_eq!(registry.count("PATCH", "/uploads/") > 0, patches, "{faults:?}");
        assert!(registry.count("PUT", "/uploads/") >= whole);
    };
    check(&[], 3, false);
    check(&[("PUT-BODY", "/uploads/", 405)], 3, true);
    check(&[("PUT-BODY", "/uploads/", 404)], 3, true);
    check(&[("PUT-BODY", "/uploads/", 413)], 3, true);
    check(&[("PUT-BODY", "/uploads/", 405), ("PATCH-WHOLE", "/uploads/", 416)], 3, true);
}

#[test]
fn an_upload_in_chunks_goes_on_where_the_registry_is() {
    let registry = FakeRegistry::start(Access::Open).unwrap();
    registry.fail("PUT-BODY", "/uploads/", 1000, Action::Status(413, Vec::new()));
    let Scratch { store, _directory } = scratch();
    let bytes = random::Random::new(9).bytes(9 << 20);
    let digest = store.put_blob(&bytes).unwrap();
    let config = ImageConfig::new(&Platform::linux_amd64());
    let layer = NewLayer {
        descriptor: Descriptor::new(media_type::LAYER, digest, bytes.len() as u64),
        diff_id: digest,
        tree: None,
    };
    let layers = [layer];
    let image = store
        .compose(Composition { base: None, layers: &layers, config, annotations: BTreeMap::new() })
        .unwrap();
    registry.fail("PATCH", "/uploads/", 1, Action::Status(500, Vec::new()));
    registry.fail("PATCH", "/uploads/", 1, Action::Hang);
    push(&anonymous(), &store, &image, &reference(&registry, "app:1")).unwrap();
    assert_eq!(registry.tags("app"), ["1"]);
    assert!(registry.count("GET", "/uploads/") >= 1, "it was asked where it is");
    assert!(registry.count("PATCH", "/uploads/") >= 4);
}

#[test]
fn identity_tokens_are_exchanged_and_tokens_kept_per_scope() {
    let (registry, image) = with_image(Access::Identity("refresh".to_owned()));
    let mut keychain = Keychain::empty();
    let token = Secret::new("refresh");
    keychain.insert(&registry.name(), Credential::Identity { token });
    let client = client(keychain);
    let Scratch { store, _directory } = scratch();
    assert_eq!(pull(&client, &store, &reference(&registry, "app:1")).unwrap(), image);
    assert_eq!(registry.count("POST", "/token"), 2, "one for the push, one for the pull");
    assert_eq!(registry.count("GET", "/token"), 0);
}

#[test]
fn a_mirror_serves_digests_and_says_what_a_tag_means_only_when_allowed() {
    let (registry, image) = with_image(Access::Open);
    let (mirror, other) = with_image(Access::Open);
    assert_eq!(image, other);
    let with = |resolves: bool| {
        let mut options =
            ClientOptions { first_wait: Duration::from_millis(1), ..ClientOptions::anonymous() };
        let rule = Mirror {
            prefix: registry.name(),
            location: mirror.name(),
            resolves,
            insecure: true,
            says_namespace: true,
        };
        options.mirrors.add(rule).unwrap();
        Client::new(options).unwrap()
    };
    let name = reference(&registry, "app:1");
    let (before, before_mirror) = (registry.seen().len(), mirror.seen().len());
    let Scratch { store, _directory } = scratch();
    assert_eq!(pull(&with(false), &store, &name).unwrap(), image);
    assert_eq!(registry.seen().len() - before, 1, "the tag");
    assert_eq!(mirror.seen().len() - before_mirror, 4, "the blobs");
    let before = registry.seen().len();
    let Scratch { store, _directory } = scratch();
    assert_eq!(pull(&with(true), &store, &name).unwrap(), image);
    assert_eq!(registry.seen().len(), before);
    // A mirror that lacks it or fails is passed over.
    mirror.fail("GET", "/v2/", 1000, Action::Status(404, Vec::new()));
    let Scratch { store, _directory } = scratch();
    assert_eq!(pull(&with(true), &store, &name).unwrap(), image);
}

#[test]
fn warnings_of_a_registry_reach_the_user_once() {
    let (registry, _) = with_image(Access::Open);
    registry.warn("this name is old");
    let client = anonymous();
    let Scratch { store, _directory } = scratch();
    pull(&client, &store, &reference(&registry, "app:1")).unwrap();
    let expected = format!("registry `{}` says: this name is old", registry.name());
    assert_eq!(client.take_warnings(), [expected]);
    assert!(client.take_warnings().is_empty());
}

#[test]
fn what_is_missing_is_named() {
    let registry = FakeRegistry::start(Access::Open).unwrap();
    let Scratch { store, _directory } = scratch();
    let reference = reference(&registry, "no/such:tag");
    let error = pull(&anonymous(), &store, &reference).unwrap_err();
    assert_eq!(error.to_string(), format!("image `{reference}` not found"));
    let nobody: Reference = "127.0.0.1:1/x:y".parse().unwrap();
    let error = pull(&anonymous(), &store, &nobody).unwrap_err().to_string();
    assert!(error.starts_with("cannot pull `127.0.0.1:1/x:y`: cannot connect"), "{error}");
}

#[test]
fn the_policy_says_when_the_registry_is_asked() {
    let (registry, first) = with_image(Access::Open);
    let Scratch { store, _directory } = scratch();
    let (client, name) = (anonymous(), reference(&registry, "app:1"));
    let get = |policy| resolve(&store, &client, &name, &Platform::linux_amd64(), policy, &Silent);
    assert!(get(PullPolicy::Never).unwrap_err().to_string().contains("in the store not found"));
    assert_eq!(get(PullPolicy::Missing).unwrap(), first);
    let asked = registry.seen().len();
    assert_eq!(get(PullPolicy::Missing).unwrap(), first);
    assert_eq!(get(PullPolicy::Never).unwrap(), first);
    assert_eq!(registry.seen().len(), asked);
    let second = random::image(&store, 8, 2).unwrap();
    push(&client, &store, &second, &name).unwrap();
    assert_eq!(get(PullPolicy::Missing).unwrap(), first);
    assert_eq!(get(PullPolicy::Always).unwrap(), second);
    assert_eq!(get(PullPolicy::Never).unwrap(), second);
}

#[test]
fn a_loopback_registry_may_be_called_by_name() {
    let (registry, image) = with_image(Access::Open);
    let Scratch { store, _directory } = scratch();
    let port = registry.name().rsplit(':').next().unwrap().to_owned();
    let name: Reference = format!("localhost:{port}/app:1").parse().unwrap();
    assert_eq!(pull(&anonymous(), &store, &name).unwrap(), image);
}
