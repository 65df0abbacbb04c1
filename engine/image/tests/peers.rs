//! What other programs make of our images, where the environment names them: `COOPER_TEST_PEERS` is a directory with
//! `skopeo` and `umoci`, `COOPER_TEST_LAYOUTS` holds base layouts, `COOPER_TEST_REGISTRY` a loopback registry that takes
//! pushes. As root, since umoci then keeps owners.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "compares with files of the host that another program made")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cooper_image::archive;
use cooper_image::compression::Compression;
use cooper_image::export::Export;
use cooper_image::image::Composition;
use cooper_image::layer::{LayerOptions, Limits};
use cooper_image::layout::{self, Layout};
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::random::{Random, change_tree};
use cooper_image::registry::{Client, ClientOptions};
use cooper_image::store::{Store, StoreOptions};
use cooper_vfs::{ContentStore, NodeKind, Tree};

fn run(program: &Path, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}: {error}", program.display());
}

fn number_of_device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xfff) << 8 | (minor & 0xff) | (minor & !0xff) << 12
}

/// Compares an unpacked root file system with a tree, name by name.
fn compare(store: &Store, tree: &Tree, root: &Path) {
    let mut expected: BTreeMap<PathBuf, ()> = BTreeMap::new();
    let mut inodes: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for item in tree.walk(store) {
        let item = item.unwrap();
        let path = root.join(OsStr::from_bytes(&item.path));
        let metadata =
            fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let shown = path.display();
        expected.insert(path.clone(), ());
        let wanted = &item.entry.metadata;
        assert_eq!(metadata.mode() & 0o170_000, item.entry.kind.file_kind().mode_bits(), "{shown}: type");
        if !matches!(item.entry.kind, NodeKind::Symlink { .. }) {
            assert_eq!(metadata.mode() & 0o7777, u32::from(wanted.mode), "{shown}: mode");
            assert_eq!(metadata.mtime(), wanted.mtime.seconds, "{shown}: time");
        }
        assert_eq!((metadata.uid(), metadata.gid()), (wanted.uid, wanted.gid), "{shown}: owner");
        match &item.entry.kind {
            NodeKind::File { content, size } => {
                assert_eq!(metadata.len(), *size, "{shown}: size");
                let bytes = fs::read(&path).unwrap();
                assert!(bytes == store.open(content).unwrap().read_all().unwrap(), "{shown}: contents");
            }
            NodeKind::Symlink { target } => {
                assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), target, "{shown}: target");
            }
            NodeKind::CharacterDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
                assert_eq!(metadata.rdev(), number_of_device(*major, *minor), "{shown}: device");
            }
            _ => {}
        }
        match &item.link_to {
            Some(leader) => assert_eq!(Some(&metadata.ino()), inodes.get(leader), "{shown}: hard link"),
            None => drop(inodes.insert(item.path.clone(), metadata.ino())),
        }
    }
    let mut ahead = vec![root.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            assert!(expected.contains_key(&entry.path()), "{} is not in the tree", entry.path().display());
            if entry.file_type().unwrap().is_dir() {
                ahead.push(entry.path());
            }
        }
    }
}

#[test]
fn others_unpack_what_our_trees_say() {
    let Ok(peers) = std::env::var("COOPER_TEST_PEERS") else { return };
    let layouts = std::env::var("COOPER_TEST_LAYOUTS").unwrap_or_default();
    let (skopeo, umoci) = (Path::new(&peers).join("skopeo"), Path::new(&peers).join("umoci"));
    for (number, path) in layouts.split(':').filter(|path| !path.is_empty()).enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let store = Store::open(&directory.path().join("store"), &StoreOptions::plain()).unwrap();
        let source = Layout::open(path.as_ref()).unwrap();
        let base =
            store.import(&source, source.select(None).unwrap(), &Platform::linux_amd64(), &Silent).unwrap();
        let mut lower = store.ensure_tree(&base, &Limits::DEFAULT, &Silent).unwrap();
        let mut random = Random::new(number as u64);
        let mut layers = Vec::new();
        for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
            let upper = change_tree(&store, Some(&lower), &mut random).unwrap();
            let changes = Tree::diff(&store, &lower, &upper).unwrap();
            layers.push(
                store
                    .write_layer(&changes, Some(&upper), &LayerOptions { compression, clamp: None })
                    .unwrap(),
            );
            lower = upper;
        }
        let mut config = base.config.clone();
        config.history.clear();
        let annotations = BTreeMap::new();
        let image =
            store.compose(Composition { base: Some(&base), layers: &layers, config, annotations }).unwrap();
        let export = [Export { descriptor: image.descriptor.clone(), names: vec!["app:1".parse().unwrap()] }];
        layout::write(&store, Path::new(&at("layout")), &export, &Silent).unwrap();
        run(&umoci, &["unpack", "--image", &format!("{}:1", at("layout")), &at("bundle")]);
        compare(&store, &lower, &directory.path().join("bundle/rootfs"));
        archive::write_oci(&store, &export, &mut fs::File::create(at("oci.tar")).unwrap(), &Silent).unwrap();
        run(
            &skopeo,
            &[
                "copy",
                "--insecure-policy",
                &format!("oci-archive:{}", at("oci.tar")),
                &format!("dir:{}", at("a")),
            ],
        );
        archive::write_docker(&store, &export, &mut fs::File::create(at("docker.tar")).unwrap(), &Silent)
            .unwrap();
        let from = format!("docker-archive:{}", at("docker.tar"));
        run(&skopeo, &["copy", "--insecure-policy", &from, &format!("dir:{}", at("b"))]);
        // And what they write, we read: the manifest is another, the file system is the same.
        run(
            &skopeo,
            &[
                "copy",
                "--insecure-policy",
                &format!("oci:{}:1", at("layout")),
                &format!("docker-archive:{}:app:2", at("theirs.tar")),
            ],
        );
        let theirs = archive::Archive::open(&store, Path::new(&at("theirs.tar"))).unwrap();
        let entry = theirs.select(Some("app:2")).unwrap();
        let again = store.import(&theirs, entry, &Platform::linux_amd64(), &Silent).unwrap();
        assert_eq!(again.chain_id(), image.chain_id());
        if let Ok(registry) = std::env::var("COOPER_TEST_REGISTRY") {
            let name = format!("{registry}/ours/app:{number}");
            let client = Client::new(ClientOptions::anonymous()).unwrap();
            client.push(&store, &image.descriptor, &name.parse().unwrap(), &[], &Silent).unwrap();
            let from = format!("docker://{name}");
            let copied = format!("oci:{}:x", at("copied"));
            run(&skopeo, &["copy", "--insecure-policy", "--src-tls-verify=false", &from, &copied]);
            run(&umoci, &["unpack", "--image", &format!("{}:x", at("copied")), &at("copy")]);
            compare(&store, &lower, &directory.path().join("copy/rootfs"));
            let theirs = format!("{registry}/theirs/app:{number}");
            let to = format!("docker://{theirs}");
            run(&skopeo, &["copy", "--insecure-policy", "--dest-tls-verify=false", &copied, &to]);
            let fresh = Store::open(&directory.path().join("fresh"), &StoreOptions::plain()).unwrap();
            let remote = client.resolve(&theirs.parse().unwrap()).unwrap();
            let pulled = fresh.import(&remote, remote.root(), &Platform::linux_amd64(), &Silent).unwrap();
            assert_eq!(fresh.ensure_tree(&pulled, &Limits::DEFAULT, &Silent).unwrap(), lower);
        }
    }
}
