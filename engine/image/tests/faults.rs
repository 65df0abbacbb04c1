//! Pushes and pulls through a proxy that cuts, corrupts and refuses at random, from seeds: always the right image or a
//! clear failure, never a wrong tag. And registries that mean no good.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "the long run is asked for by the environment")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use cooper_image::fake::{Access, Action, FakeRegistry};
use cooper_image::image::ImageRecord;
use cooper_image::manifest::{Descriptor, Manifest, media_type};
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::random::{self, Random};
use cooper_image::reference::Reference;
use cooper_image::registry::auth::{Credential, Keychain};
use cooper_image::registry::{Client, ClientOptions};
use cooper_image::store::{Store, StoreOptions};
use cooper_image::{Error, Result, validate};

/// Seeds of one run, and of one with `COOPER_TESTS_FULL=1`. Every seed is one push and one pull.
const SEEDS: [u64; 2] = [60, 1000];
/// Bytes of a connection after which it may be disturbed.
const FARTHEST: u64 = 6000;

struct Scratch {
    store: Store,
    _directory: tempfile::TempDir,
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &StoreOptions::plain()).unwrap();
    Scratch { store, _directory: directory }
}

fn client() -> Client {
    let first_wait = Duration::from_micros(100);
    let stall = Duration::from_millis(500);
    Client::new(ClientOptions { first_wait, stall, ..ClientOptions::anonymous() }).unwrap()
}

fn pull(client: &Client, store: &Store, reference: &Reference) -> Result<ImageRecord> {
    let remote = client.resolve(reference)?;
    store.import(&remote, remote.root(), &Platform::linux_amd64(), &Silent)
}

/// What happens to a connection.
enum Trouble {
    None,
    /// It ends after so many bytes of the answers.
    Cut(u64),
    /// This byte of the answers is another one.
    Corrupt(u64),
    /// Nothing comes after so many bytes of the answers, until the client has had enough.
    Stall(u64),
    /// The first request is answered by the proxy itself.
    Answer(&'static str),
}

fn trouble(random: &mut Random) -> Trouble {
    match random.below(40) {
        20 => Trouble::Stall(random.below(FARTHEST)),
        0..=7 => Trouble::Cut(random.below(FARTHEST)),
        8..=11 => Trouble::Corrupt(random.below(FARTHEST)),
        12..=15 => Trouble::Answer("429 Busy"),
        16..=19 => Trouble::Answer("500 Broken"),
        _ => Trouble::None,
    }
}

/// Stands between a client and a registry.
struct Proxy {
    address: SocketAddr,
    seed: Arc<AtomicU64>,
}

impl Proxy {
    fn start(registry: &FakeRegistry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seed) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let (behind, seeds) = (registry.name(), Arc::clone(&seed));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut random = Random::new(seeds.fetch_add(0x9e37_79b9, Ordering::Relaxed));
                let (trouble, behind) = (trouble(&mut random), behind.clone());
                // A connection that fails is what this is for.
                thread::spawn(move || drop(relay(&stream, &behind, &trouble)));
            }
        });
        Self { address, seed }
    }
}

fn relay(client: &TcpStream, registry: &str, trouble: &Trouble) -> io::Result<()> {
    if let Trouble::Answer(status) = trouble {
        let mut head = [0; 16 << 10];
        let _ = (&mut &*client).read(&mut head)?;
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        (&mut &*client).write_all(answer.as_bytes())?;
        return client.shutdown(Shutdown::Both);
    }
    let server = TcpStream::connect(registry)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            drop(io::copy(&mut &*client, &mut &server));
            drop(server.shutdown(Shutdown::Write));
        });
        let mut buffer = [0; 4096];
        let mut done = 0_u64;
        while let Ok(count @ 1..) = (&mut &server).read(&mut buffer) {
            let mut bytes = buffer[..count].to_vec();
            let end = done + count as u64;
            match trouble {
                Trouble::Cut(at) if *at < end => {
                    bytes.truncate(usize::try_from(at.saturating_sub(done)).unwrap());
                    drop((&mut &*client).write_all(&bytes));
                    break;
                }
                Trouble::Stall(at) if *at < end => {
                    bytes.truncate(usize::try_from(at.saturating_sub(done)).unwrap());
                    drop((&mut &*client).write_all(&bytes));
                    // The other direction ends when the client closes the connection.
                    drop(io::copy(&mut &server, &mut io::sink()));
                    break;
                }
                Trouble::Corrupt(at) if (done..end).contains(at) => {
                    bytes[usize::try_from(at - done).unwrap()] ^= 0x15;
                }
                _ => {}
            }
            if (&mut &*client).write_all(&bytes).is_err() {
                break;
            }
            done = end;
        }
        drop(client.shutdown(Shutdown::Both));
        drop(server.shutdown(Shutdown::Both));
    });
    Ok(())
}

#[test]
fn through_a_bad_network_comes_the_right_image_or_a_clear_failure() {
    let Scratch { store, _directory } = scratch();
    let images: Vec<ImageRecord> = (0..8).map(|seed| random::image(&store, seed, 3).unwrap()).collect();
    let mut good = [0, 0];
    let seeds = SEEDS[usize::from(std::env::var("COOPER_TESTS_FULL").is_ok_and(|value| value == "1"))];
    for seed in 0..seeds {
        let registry = FakeRegistry::start(Access::Open).unwrap();
        let proxy = Proxy::start(&registry);
        proxy.seed.store(seed << 20, Ordering::Relaxed);
        let image = &images[(seed % 8) as usize];
        let name: Reference = format!("{}/app:1", proxy.address).parse().unwrap();
        let pushed = client().push(&store, &image.descriptor, &name, &Silent);
        // Whatever became of the push: the tag is not there, or it is the image, whole.
        match registry.manifest("app", "1") {
            Some(bytes) => {
                assert_eq!(cooper_image::digest::Digest::of(&bytes), *image.digest(), "seed {seed}");
                let Scratch { store: fresh, _directory } = scratch();
                let straight: Reference = format!("{}/app:1", registry.name()).parse().unwrap();
                if seed % 10 == 0 {
                    assert_eq!(pull(&client(), &fresh, &straight).unwrap(), *image, "seed {seed}");
                }
            }
            None => assert!(pushed.is_err(), "seed {seed}: a push that is done leaves its tag"),
        }
        match pushed {
            Ok(()) => good[0] += 1,
            Err(error) => assert!(matches!(error, Error::Registry { .. } | Error::Auth { .. }), "{error:?}"),
        }
        client()
            .push(&store, &image.descriptor, &format!("{}/app:1", registry.name()).parse().unwrap(), &Silent)
            .unwrap();
        let Scratch { store: fresh, _directory } = scratch();
        match pull(&client(), &fresh, &name) {
            Ok(pulled) => {
                assert_eq!(pulled, *image, "seed {seed}");
                good[1] += 1;
                if seed % 10 == 0 {
                    validate::image(&fresh, pulled.digest()).unwrap();
                }
            }
            Err(_) => assert!(fresh.image(image.digest()).unwrap().is_none(), "seed {seed}"),
        }
    }
    // A client that gave up at the first trouble would get hardly any through.
    assert!(good.iter().all(|count| *count > seeds / 2), "{good:?} of {seeds}");
}

/// A registry with one image, `app:1`.
fn with_image() -> (FakeRegistry, Reference, ImageRecord) {
    let registry = FakeRegistry::start(Access::Open).unwrap();
    let Scratch { store, _directory } = scratch();
    let image = random::image(&store, 7, 2).unwrap();
    let name: Reference = format!("{}/app:1", registry.name()).parse().unwrap();
    client().push(&store, &image.descriptor, &name, &Silent).unwrap();
    (registry, name, image)
}

#[test]
fn bodies_that_do_not_end_are_cut_off_and_those_that_stop_are_given_up() {
    let check = |path: &dyn Fn(&ImageRecord) -> String, action: Action, reasons: &[&str]| {
        let (registry, name, image) = with_image();
        registry.fail("GET", &path(&image), 1000, action);
        let stall = Duration::from_millis(50);
        let first_wait = Duration::from_micros(100);
        let client = Client::new(ClientOptions { stall, first_wait, ..ClientOptions::anonymous() }).unwrap();
        let Scratch { store, _directory } = scratch();
        let error = pull(&client, &store, &name).unwrap_err().to_string();
        assert!(reasons.iter().any(|reason| error.contains(reason)), "{error}");
    };
    let manifest = |_: &ImageRecord| "/manifests/".to_owned();
    let layer = |image: &ImageRecord| image.layers[0].descriptor.digest.to_string();
    let config = |image: &ImageRecord| image.manifest.config.digest.to_string();
    check(&manifest, Action::Endless, &["has more than 4194304 bytes"]);
    check(&layer, Action::Endless, &["wrong size"]);
    check(&config, Action::Endless, &["wrong size"]);
    check(&manifest, Action::Stall, &["timed out"]);
    check(&layer, Action::Stall, &["timed out", "wrong size"]);
}

#[test]
fn a_credential_never_leaves_for_another_host() {
    let (name, password) = ("me".to_owned(), "s3cret".to_owned());
    let evil = FakeRegistry::start(Access::Open).unwrap();
    let elsewhere =
        |path: &str| format!("http://localhost:{}{path}", evil.name().rsplit(':').next().unwrap());
    let location = |path: &str| vec![("Location".to_owned(), elsewhere(path))];
    let realm = format!("Bearer realm=\"{}\",service=\"x\"", elsewhere("/token"));
    let challenge = vec![("WWW-Authenticate".to_owned(), realm)];
    let cases: [(&'static str, &str, Action); 5] = [
        ("GET", "/manifests/", Action::Status(307, location("/v2/app/manifests/1"))),
        ("GET", "/blobs/", Action::Status(307, location("/v2/app/blobs/x"))),
        ("GET", "/manifests/", Action::Status(401, challenge.clone())),
        ("POST", "/uploads/", Action::Status(202, location("/v2/app/blobs/uploads/1"))),
        ("HEAD", "/blobs/", Action::Status(401, challenge)),
    ];
    for (method, path, action) in cases {
        let registry = FakeRegistry::start(Access::Basic(name.clone(), password.clone())).unwrap();
        let mut keychain = Keychain::empty();
        keychain.insert(&registry.name(), Credential::password(&name, &password));
        let first_wait = Duration::from_micros(100);
        let client =
            Client::new(ClientOptions { keychain, first_wait, ..ClientOptions::anonymous() }).unwrap();
        let Scratch { store, _directory } = scratch();
        let image = random::image(&store, 7, 2).unwrap();
        let app: Reference = format!("{}/app:1", registry.name()).parse().unwrap();
        client.push(&store, &image.descriptor, &app, &Silent).unwrap();
        registry.fail(method, path, 1000, action.clone());
        let Scratch { store: fresh, _directory } = scratch();
        let results = [
            pull(&client, &fresh, &app).map(drop),
            client.push(
                &store,
                &image.descriptor,
                &format!("{}/other:2", registry.name()).parse().unwrap(),
                &Silent,
            ),
        ];
        assert!(results.iter().any(Result::is_err), "{method} {path} {action:?}");
        for error in results.into_iter().filter_map(Result::err) {
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
    }
    for seen in evil.seen() {
        assert_eq!(seen.authorization, None, "{} {}", seen.method, seen.path);
        assert!(!seen.path.contains("s3cret"));
    }
}

#[test]
fn other_places_that_a_manifest_names_are_never_asked() {
    let (registry, _, image) = with_image();
    let evil = FakeRegistry::start(Access::Open).unwrap();
    let mut manifest = Manifest::new(image.manifest.config.clone(), image.manifest.layers.clone());
    manifest.layers[0].urls = Some(vec![format!("http://{}/v2/x/blobs/y", evil.name())]);
    registry.put_manifest("app", "urls", media_type::MANIFEST, &manifest.to_bytes());
    let foreign = Descriptor {
        media_type: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned(),
        ..image.manifest.layers[0].clone()
    };
    let manifest = Manifest::new(image.manifest.config.clone(), vec![foreign]);
    registry.put_manifest("app", "foreign", media_type::MANIFEST, &manifest.to_bytes());
    for tag in ["urls", "foreign"] {
        let name: Reference = format!("{}/app:{tag}", registry.name()).parse().unwrap();
        let Scratch { store, _directory } = scratch();
        let error = pull(&client(), &store, &name).unwrap_err().to_string();
        assert!(error.contains("a foreign layer"), "{error}");
    }
    assert!(evil.seen().is_empty());
}
