//! Layouts and archives: what one store writes another reads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "layouts and archives are files of the host")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use cooper_image::archive::{self, Archive};
use cooper_image::compression::{Compression, Encoder};
use cooper_image::export::Export;
use cooper_image::image::{ImageRecord, Source};
use cooper_image::layout::{self, Layout};
use cooper_image::manifest::Descriptor;
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::store::{Store, StoreOptions};
use cooper_image::{Result, random, validate};

struct Scratch {
    store: Store,
    directory: tempfile::TempDir,
}

impl Scratch {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store"), &StoreOptions::plain()).unwrap();
    Scratch { store, directory }
}

fn export(image: &ImageRecord, names: &[&str]) -> Export {
    Export {
        descriptor: image.descriptor.clone(),
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
    }
}

fn import(source: &dyn Source, root: &Descriptor) -> Result<ImageRecord> {
    let Scratch { store, directory: _directory } = scratch();
    let record = store.import(source, root, &Platform::linux_amd64(), &Silent)?;
    validate::image(&store, record.digest())
}

/// Files below a directory with their contents.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![path.to_owned()];
    while let Some(next) = ahead.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap().path();
            if entry.is_dir() {
                ahead.push(entry);
            } else {
                let name = entry.strip_prefix(path).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&entry).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_layout_is_added_to_and_names_are_replaced() {
    let scratch = scratch();
    let path = scratch.path("layout");
    let one = random::image(&scratch.store, 1, 2).unwrap();
    let two = random::image(&scratch.store, 2, 1).unwrap();
    layout::write(&scratch.store, &path, &[export(&one, &["app:1", "app:latest"])], &Silent).unwrap();
    let before = files(&path);
    layout::write(&scratch.store, &path, &[export(&one, &["app:1", "app:latest"])], &Silent).unwrap();
    assert_eq!(files(&path), before, "writing the same again changes nothing");
    layout::write(&scratch.store, &path, &[export(&two, &["app:latest"])], &Silent).unwrap();
    let layout = Layout::open(&path).unwrap();
    assert_eq!(layout.entries().len(), 2);
    assert_eq!(import(&layout, layout.select(Some("1")).unwrap()).unwrap(), one);
    assert_eq!(import(&layout, layout.select(Some("docker.io/library/app:latest")).unwrap()).unwrap(), two);
    assert_eq!(import(&layout, layout.select(Some(&one.digest().to_string())).unwrap()).unwrap(), one);
    assert!(layout.select(None).unwrap_err().to_string().contains("which has several"));
    assert!(layout.select(Some("nope")).unwrap_err().to_string().contains("image `nope`"));
}

#[test]
fn damaged_layouts_are_refused() {
    let check = |damage: &dyn Fn(&Path, &ImageRecord), reason: &str| {
        let scratch = scratch();
        let path = scratch.path("layout");
        let image = random::image(&scratch.store, 1, 2).unwrap();
        layout::write(&scratch.store, &path, &[export(&image, &[])], &Silent).unwrap();
        damage(&path, &image);
        let result = Layout::open(&path).and_then(|layout| import(&layout, layout.select(None)?));
        let error = result.expect_err(reason).to_string();
        assert!(error.contains(reason), "expected `{reason}` in: {error}");
    };
    let blob = |path: &Path, descriptor: &Descriptor| path.join("blobs/sha256").join(descriptor.digest.hex());
    check(&|path, _| fs::remove_file(path.join("oci-layout")).unwrap(), "`oci-layout` in");
    check(
        &|path, _| fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"2"}"#).unwrap(),
        "version `2`",
    );
    check(&|path, _| fs::write(path.join("index.json"), "{}").unwrap(), "schemaVersion must be 2");
    check(&|path, image| fs::remove_file(blob(path, &image.layers[1].descriptor)).unwrap(), "not found");
    check(&|path, image| fs::write(blob(path, &image.layers[0].descriptor), "x").unwrap(), "wrong size");
    check(&|path, image| fs::write(blob(path, &image.descriptor), "x").unwrap(), "wrong size");
    check(
        &|path, image| {
            let blob = blob(path, &image.manifest.config);
            let length = fs::metadata(&blob).unwrap().len() as usize;
            fs::write(blob, vec![b' '; length]).unwrap();
        },
        "wrong digest",
    );
    // A link out of the layout leads nowhere.
    check(
        &|path, image| {
            let blob = blob(path, &image.layers[0].descriptor);
            let outside = path.parent().unwrap().join("outside");
            fs::rename(&blob, &outside).unwrap();
            std::os::unix::fs::symlink(&outside, blob).unwrap();
        },
        "cannot read",
    );
}

#[test]
fn archives_come_back_the_same_and_are_the_same_each_time() {
    let scratch = scratch();
    let image = random::image(&scratch.store, 5, 3).unwrap();
    let exports = [export(&image, &["example.com/app:1", "app:2"])];
    let write = |docker: bool| {
        let mut bytes = Vec::new();
        match docker {
            true => archive::write_docker(&scratch.store, &exports, &mut bytes, &Silent).unwrap(),
            false => archive::write_oci(&scratch.store, &exports, &mut bytes, &Silent).unwrap(),
        }
        bytes
    };
    for docker in [false, true] {
        let bytes = write(docker);
        assert!(bytes == write(docker), "the same images give the same bytes");
        let mut gzip = Encoder::new(Compression::Gzip, Vec::new()).unwrap();
        gzip.write_all(&bytes).unwrap();
        for bytes in [bytes, gzip.finish().unwrap().0] {
            let path = scratch.path("archive.tar");
            fs::write(&path, bytes).unwrap();
            let archive = Archive::open(&scratch.store, &path).unwrap();
            assert_eq!(import(&archive, archive.select(Some("app:2")).unwrap()).unwrap(), image);
            assert_eq!(import(&archive, archive.select(None).unwrap()).unwrap(), image);
            let entry = archive.select(Some("example.com/app:1")).unwrap();
            assert_eq!(archive.names(entry), ["example.com/app:1"]);
            assert!(archive.select(Some("other")).is_err());
        }
    }
}

/// What `docker save` made before it knew OCI: plain layers in directories, one of them a link.
fn old_docker_archive(scratch: &Scratch, image: &ImageRecord) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    let config = scratch.store.blob_bytes(&image.manifest.config.digest, 1 << 20).unwrap();
    add("config.json", &config);
    for (number, layer) in image.layers.iter().enumerate() {
        let file = scratch.store.open_blob(&layer.descriptor.digest).unwrap();
        let (_, mut reader) = cooper_image::compression::decoder(std::io::BufReader::new(file)).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
        add(&format!("real{number}/layer.tar"), &bytes);
    }
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "link/layer.tar", "../real0/layer.tar").unwrap();
    let manifest =
        r#"[{"Config":"config.json","RepoTags":["app:old"],"Layers":["link/layer.tar","real1/layer.tar"]}]"#;
    let mut header = tar::Header::new_ustar();
    header.set_size(manifest.len() as u64);
    tar.append_data(&mut header, "manifest.json", manifest.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn old_docker_archives_are_read() {
    let scratch = scratch();
    let image = random::image(&scratch.store, 9, 2).unwrap();
    let path = scratch.path("old.tar");
    let bytes = old_docker_archive(&scratch, &image);
    fs::write(&path, &bytes).unwrap();
    let archive = Archive::open(&scratch.store, &path).unwrap();
    let entry = archive.select(Some("app:old")).unwrap();
    let read = import(&archive, entry).unwrap();
    assert_eq!(read.config, image.config);
    assert_eq!(read.chain_id(), image.chain_id());
    assert_eq!(archive.names(entry), ["app:old"]);
    let cut = bytes.len() / 2;
    fs::write(&path, &bytes[..cut]).unwrap();
    assert!(Archive::open(&scratch.store, &path).unwrap_err().to_string().contains("truncated"));
    fs::write(&path, vec![0; 2048]).unwrap();
    let error = Archive::open(&scratch.store, &path).unwrap_err().to_string();
    assert!(error.contains("neither index.json nor manifest.json"), "{error}");
}
