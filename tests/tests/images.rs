//! Images in other hands, and other people's images in ours: our layers unpacked by umoci, our layouts, archives and
//! pushes read by skopeo, and theirs read by us. Works on the library, since it compares with trees.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use cooper_image::compression::Compression;
use cooper_image::export::Export;
use cooper_image::image::{Composition, ImageRecord};
use cooper_image::layer::{LayerOptions, Limits};
use cooper_image::layout::{self, Layout};
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::random::{Random, change_tree};
use cooper_image::reference::Reference;
use cooper_image::registry::auth::Credential;
use cooper_image::registry::{Client, ClientOptions, HostCertificates};
use cooper_image::store::{Store, StoreOptions};
use cooper_image::{archive, validate};
use cooper_tests::bases::Base;
use cooper_tests::machine::Need;
use cooper_tests::process;
use cooper_tests::registry::{Access, ForwardProxy, PASSWORD, Registry, USER, Wire};
use cooper_tests::suite::{self, case};
use cooper_vfs::{ContentStore, NodeKind, Tree};

fn main() -> ExitCode {
    let peers = [Need::BUSYBOX, Need::SKOPEO, Need::UMOCI, Need::Root];
    let registry = [Need::BUSYBOX, Need::SKOPEO, Need::UMOCI, Need::REGISTRY, Need::Root];
    let secure = [&registry[..], &[Need::OPENSSL]].concat();
    let debian = [Need::Debian];
    let cases = vec![
        case("a base is imported, ingested and found again", &[Need::BUSYBOX], || base(Base::Busybox)),
        case("a Debian base is imported, ingested and found again", &debian, || base(Base::Debian)),
        case("others unpack what our trees say", &peers, unpacked),
        case("others read our archives, and we theirs", &peers, archives),
        case("others pull what we push, and we what they push", &registry, || {
            exchanged(Access::Anonymous, Wire::Plain)
        }),
        case("the same with a password", &registry, || exchanged(Access::Basic, Wire::Plain)),
        case("the same over TLS, with a password", &secure, || exchanged(Access::Basic, Wire::Tls)),
        case("the same with tokens of a service", &secure, || exchanged(Access::Token, Wire::Plain)),
        case("behind a proxy, and by way of a mirror", &secure, proxy_and_mirror),
    ];
    suite::main("images", cases)
}

/// A store in a directory of its own.
struct Scratch {
    store: Store,
    directory: tempfile::TempDir,
}

fn scratch() -> Result<Scratch> {
    let directory = tempfile::Builder::new().prefix("cooper-images-").tempdir_in("/tmp")?;
    let store = Store::open(&directory.path().join("store"), &StoreOptions::plain())?;
    Ok(Scratch { store, directory })
}

impl Scratch {
    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

fn import(store: &Store, base: Base) -> Result<ImageRecord> {
    let layout = Layout::open(&base.image()?.layout)?;
    Ok(store.import(&layout, layout.select(Some("latest"))?, &Platform::linux_amd64(), &Silent)?)
}

fn base(base: Base) -> Result<()> {
    let Scratch { store, directory } = scratch()?;
    let image = import(&store, base)?;
    let tree = store.ensure_tree(&image, &Limits::DEFAULT, &Silent)?;
    validate::image(&store, image.digest())?;
    store.tag_image(&base.reference().parse()?, &image)?;
    drop(store);
    let store = Store::open(&directory.path().join("store"), &StoreOptions::plain())?;
    let again = store.find(&base.reference().parse()?, &Platform::linux_amd64())?.context("it has a tag")?;
    ensure!(again == image, "the image is another one");
    ensure!(store.ensure_tree(&again, &Limits::DEFAULT, &Silent)? == tree, "the tree is another one");
    ensure!(tree.lookup(&store, b"bin")?.is_some(), "there is no /bin");
    Ok(())
}

/// An image with three layers of random changes, compressed and not, on the small base; and its file system.
fn image(store: &Store) -> Result<(ImageRecord, Tree)> {
    let base = import(store, Base::Busybox)?;
    let mut lower = store.ensure_tree(&base, &Limits::DEFAULT, &Silent)?;
    let mut random = Random::new(1);
    let mut layers = Vec::new();
    // Debian's umoci and the docker archives of its skopeo know nothing of zstd.
    for compression in [Compression::Gzip, Compression::None, Compression::Gzip] {
        let upper = change_tree(store, Some(&lower), &mut random)?;
        let changes = Tree::diff(store, &lower, &upper)?;
        let options = LayerOptions { compression, level: None, clamp: None };
        layers.push(store.write_layer(&changes, Some(&upper), &options)?);
        lower = upper;
    }
    let mut config = base.config.clone();
    config.history.clear();
    let annotations = BTreeMap::new();
    let image = store.compose(Composition { base: Some(&base), layers: &layers, config, annotations })?;
    Ok((image, lower))
}

fn export(image: &ImageRecord) -> Result<[Export; 1]> {
    Ok([Export { descriptor: image.descriptor.clone(), names: vec!["app:1".parse()?] }])
}

fn skopeo(from: &str, to: &str) -> Result<()> {
    let (source, target) =
        (format!("--src-creds={USER}:{PASSWORD}"), format!("--dest-creds={USER}:{PASSWORD}"));
    let mut arguments = vec!["copy", "-q", "--insecure-policy"];
    if from.starts_with("docker://") {
        arguments.extend(["--src-tls-verify=false", source.as_str()]);
    }
    if to.starts_with("docker://") {
        arguments.extend(["--dest-tls-verify=false", target.as_str()]);
    }
    process::run(process::command("skopeo", arguments).args([from, to]))?.ok()?;
    Ok(())
}

/// Unpacks a layout's image with umoci and compares it, name by name.
fn unpack_and_compare(scratch: &Scratch, layout: &str, tree: &Tree) -> Result<()> {
    let bundle = scratch.at(&format!("bundle of {}", layout.replace('/', "-")));
    process::run(process::command("umoci", ["unpack", "--image", layout]).arg(&bundle))?.ok()?;
    compare(&scratch.store, tree, &Path::new(&bundle).join("rootfs"))
}

fn unpacked() -> Result<()> {
    let scratch = scratch()?;
    let (image, tree) = image(&scratch.store)?;
    let to = scratch.at("layout");
    layout::write(&scratch.store, Path::new(&to), &export(&image)?, &Silent)?;
    unpack_and_compare(&scratch, &format!("{to}:1"), &tree)
}

fn archives() -> Result<()> {
    let scratch = scratch()?;
    let store = &scratch.store;
    let (image, _) = image(store)?;
    let export = export(&image)?;
    let (oci, docker) = (scratch.at("oci.tar"), scratch.at("docker.tar"));
    archive::write_oci(store, &export, &mut fs::File::create(&oci)?, &Silent)?;
    archive::write_docker(store, &export, &mut fs::File::create(&docker)?, &Silent)?;
    skopeo(&format!("oci-archive:{oci}"), &format!("oci:{}:1", scratch.at("copied")))?;
    skopeo(&format!("docker-archive:{docker}"), &format!("dir:{}", scratch.at("plain")))?;
    // What they write is another manifest for the same file system.
    let theirs = scratch.at("theirs.tar");
    skopeo(&format!("oci:{}:1", scratch.at("copied")), &format!("docker-archive:{theirs}:app:2"))?;
    let archive = archive::Archive::open(store, Path::new(&theirs))?;
    let again = store.import(&archive, archive.select(Some("app:2"))?, &Platform::linux_amd64(), &Silent)?;
    ensure!(again.chain_id() == image.chain_id(), "their archive has another file system");
    Ok(())
}

/// A client that knows the password of a registry and the authority of its certificate.
fn options_for(registry: &Registry) -> ClientOptions {
    let mut options = ClientOptions::anonymous();
    options.keychain.insert(&registry.host(), Credential::password(USER, PASSWORD));
    if let Some(authority) = &registry.authority {
        let trusted = HostCertificates { authorities: vec![authority.clone()], identity: None };
        options.certificates.insert(registry.host(), trusted);
    }
    options
}

fn proxy_and_mirror() -> Result<()> {
    let registry = Registry::start_as(Access::Basic, Wire::Tls)?;
    let scratch = scratch()?;
    let (image, _) = image(&scratch.store)?;
    let proxy = ForwardProxy::start()?;
    let name: Reference = registry.reference("team/app:1").parse()?;
    let mut options = options_for(&registry);
    options.proxies.https = Some(proxy.url());
    Client::new(options.clone())?.push(&scratch.store, &image.descriptor, &name, &Silent)?;
    let through = proxy.count();
    ensure!(through > 0, "nothing went through the proxy");
    options.proxies.none = Some("127.0.0.1".to_owned());
    let direct = Client::new(options.clone())?;
    ensure!(direct.resolve(&name)?.root().digest == *image.digest(), "another image");
    ensure!(proxy.count() == through, "NO_PROXY was passed over");
    // A registry whose authority nobody named is not believed, and neither is a wrong password.
    let mut stranger = options.clone();
    stranger.certificates.insert(registry.host(), HostCertificates::default());
    let refused = Client::new(stranger)?.resolve(&name).err().context("an unknown authority was believed")?;
    ensure!(refused.to_string().contains("cannot pull"), "{refused}");
    let mut wrong = options.clone();
    wrong.keychain.insert(&registry.host(), Credential::password(USER, "wrong"));
    ensure!(Client::new(wrong)?.resolve(&name).is_err(), "a wrong password was taken");
    // The registry is the mirror of one that there is not.
    options.mirrors.add_map(&format!("hub.example={}/team", registry.host()))?;
    let mirrored = Client::new(options)?;
    let remote = mirrored.resolve(&"hub.example/app:1".parse()?)?;
    let fresh = Store::open(&scratch.directory.path().join("fresh"), &StoreOptions::plain())?;
    let pulled = fresh.import(&remote, remote.root(), &Platform::linux_amd64(), &Silent)?;
    ensure!(pulled.digest() == image.digest(), "another image came by way of the mirror");
    Ok(())
}

fn exchanged(access: Access, wire: Wire) -> Result<()> {
    let registry = Registry::start_as(access, wire)?;
    let scratch = scratch()?;
    let (image, tree) = image(&scratch.store)?;
    let client = Client::new(options_for(&registry))?;
    let ours = registry.reference("ours/app:1");
    client.push(&scratch.store, &image.descriptor, &ours.parse()?, &Silent)?;
    let copied = format!("oci:{}:x", scratch.at("copied"));
    skopeo(&format!("docker://{ours}"), &copied)?;
    unpack_and_compare(&scratch, copied.trim_start_matches("oci:"), &tree)?;
    let theirs = registry.reference("theirs/app:1");
    skopeo(&copied, &format!("docker://{theirs}"))?;
    let fresh = Store::open(&scratch.directory.path().join("fresh"), &StoreOptions::plain())?;
    let remote = client.resolve(&theirs.parse()?)?;
    let pulled = fresh.import(&remote, remote.root(), &Platform::linux_amd64(), &Silent)?;
    ensure!(fresh.ensure_tree(&pulled, &Limits::DEFAULT, &Silent)? == tree, "the tree is another one");
    // And once more without a byte of a layer: a real registry mounts what it has.
    let empty = Store::open(&scratch.directory.path().join("empty"), &StoreOptions::plain())?;
    let lazy = empty.import_lazily(&remote, remote.root(), &Platform::linux_amd64())?;
    client.push(&empty, &lazy.descriptor, &registry.reference("mounted/app:1").parse()?, &Silent)?;
    ensure!(!empty.is_complete(&lazy)?, "a layer was fetched");
    let back = registry.get("mounted/app:1")?;
    ensure!(back.digest == pulled.digest().to_string(), "{} became {}", pulled.digest(), back.digest);
    Ok(())
}

fn number_of_device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xfff) << 8 | (minor & 0xff) | (minor & !0xff) << 12
}

/// Compares an unpacked root file system with a tree, name by name.
fn compare(store: &Store, tree: &Tree, root: &Path) -> Result<()> {
    let mut expected: BTreeMap<PathBuf, ()> = BTreeMap::new();
    let mut inodes: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for item in tree.walk(store) {
        let item = item?;
        let path = root.join(OsStr::from_bytes(&item.path));
        let shown = path.display().to_string();
        let found = fs::symlink_metadata(&path).with_context(|| shown.clone())?;
        expected.insert(path.clone(), ());
        let wanted = &item.entry.metadata;
        ensure!(found.mode() & 0o170_000 == item.entry.kind.file_kind().mode_bits(), "{shown}: type");
        if !matches!(item.entry.kind, NodeKind::Symlink { .. }) {
            ensure!(found.mode() & 0o7777 == u32::from(wanted.mode), "{shown}: mode");
            ensure!(found.mtime() == wanted.mtime.seconds, "{shown}: time");
        }
        ensure!((found.uid(), found.gid()) == (wanted.uid, wanted.gid), "{shown}: owner");
        match &item.entry.kind {
            NodeKind::File { content, size } => {
                ensure!(found.len() == *size, "{shown}: size");
                ensure!(fs::read(&path)? == store.open(content)?.read_all()?, "{shown}: contents");
            }
            NodeKind::Symlink { target } => {
                ensure!(fs::read_link(&path)?.as_os_str().as_bytes() == target, "{shown}: target");
            }
            NodeKind::CharacterDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
                ensure!(found.rdev() == number_of_device(*major, *minor), "{shown}: device");
            }
            _ => {}
        }
        match &item.link_to {
            Some(leader) => ensure!(Some(&found.ino()) == inodes.get(leader), "{shown}: hard link"),
            None => drop(inodes.insert(item.path.clone(), found.ino())),
        }
    }
    let mut ahead = vec![root.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            ensure!(expected.contains_key(&entry.path()), "{} is not in the tree", entry.path().display());
            if entry.file_type()?.is_dir() {
                ahead.push(entry.path());
            }
        }
    }
    Ok(())
}
