//! OCI image layouts, written and read without the code under test and without other programs.
//!
//! Follows the OCI image specification 1.1 (`image-layout.md`, `manifest.md`, `config.md`). One manifest per tag, no
//! nested indexes: that is all the harness makes and all it compares.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image in a layout.
#[derive(Clone, Debug)]
pub struct Image {
    /// The directory of the layout.
    pub layout: PathBuf,
    /// The manifest's digest, `sha256:…`.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The config.
    pub config: Value,
    /// Where the layout is a temporary directory: it lives as long as the image.
    pub kept: Option<Arc<tempfile::TempDir>>,
}

/// What the config of a written image says.
#[derive(Clone, Debug, Default)]
pub struct Settings<'a> {
    /// The command.
    pub cmd: &'a [&'a str],
    /// Environment entries beside PATH.
    pub env: &'a [&'a str],
}

/// The digest of bytes, `sha256:…`.
pub fn digest(bytes: &[u8]) -> String {
    named(Sha256::digest(bytes).as_slice())
}

fn named(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes a layout with one image, tagged `latest`, of the given uncompressed layer archives.
pub fn write(layout: &Path, layers: &[&Path], settings: &Settings<'_>) -> Result<Image> {
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let (descriptor, diff_id) = write_layer(layout, layer)?;
        descriptors.push(descriptor);
        diff_ids.push(diff_id);
    }
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {
            "Env": std::iter::once(path).chain(settings.env.iter().copied()).collect::<Vec<_>>(),
            "Cmd": settings.cmd,
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": descriptors.iter().map(|_| json!({"created_by": "cooper tests"})).collect::<Vec<_>>(),
    });
    let config_at = put(layout, &serde_json::to_vec(&config)?, CONFIG)?;
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config_at, "layers": descriptors});
    finish(layout, &manifest, None)
}

/// Writes a layout with a base image and one layer more; the base's blobs are taken over as they are.
pub fn extend(layout: &Path, base: &Image, layer: &Path) -> Result<Image> {
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    for descriptor in base.manifest["layers"].as_array().into_iter().flatten() {
        let of = descriptor["digest"].as_str().context("a layer without a digest")?;
        let (from, to) = (blob_path(&base.layout, of)?, blob_path(layout, of)?);
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to)?;
        }
    }
    let (descriptor, diff_id) = write_layer(layout, layer)?;
    let (mut config, mut manifest) = (base.config.clone(), base.manifest.clone());
    let push =
        |list: &mut Value, one: Value| list.as_array_mut().map(|list| list.push(one)).context("a list");
    push(&mut config["rootfs"]["diff_ids"], json!(diff_id))?;
    push(&mut config["history"], json!({"created_by": "cooper tests"}))?;
    push(&mut manifest["layers"], descriptor)?;
    manifest["config"] = put(layout, &serde_json::to_vec(&config)?, CONFIG)?;
    finish(layout, &manifest, None)
}

/// Writes the files that make a directory a layout, and the manifest unless it is there under a digest.
fn finish(layout: &Path, manifest: &Value, written: Option<&str>) -> Result<Image> {
    let mut descriptor = match written {
        None => put(layout, &serde_json::to_vec(manifest)?, MANIFEST)?,
        Some(digest) => json!({"mediaType": MANIFEST, "digest": digest, "size": blob(layout, digest)?.len()}),
    };
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    read(layout, "latest")
}

fn put(layout: &Path, bytes: &[u8], media_type: &str) -> Result<Value> {
    let digest = digest(bytes);
    fs::write(blob_path(layout, &digest)?, bytes)?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
}

/// Compresses a layer into the layout; gives its descriptor and diff ID.
fn write_layer(layout: &Path, layer: &Path) -> Result<(Value, String)> {
    let partial = layout.join("blobs/partial");
    let mut out =
        flate2::write::GzEncoder::new(Hashing::new(File::create(&partial)?), flate2::Compression::fast());
    let mut diff = Sha256::new();
    let mut from = File::open(layer)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        diff.update(&buffer[..got]);
        out.write_all(&buffer[..got])?;
    }
    let done = out.finish()?;
    let digest = named(done.hash.finalize().as_slice());
    fs::rename(&partial, blob_path(layout, &digest)?)?;
    Ok((
        json!({"mediaType": LAYER_GZIP, "digest": digest, "size": done.size}),
        named(diff.finalize().as_slice()),
    ))
}

/// A writer that hashes and counts.
struct Hashing {
    to: File,
    hash: Sha256,
    size: u64,
}

impl Hashing {
    fn new(to: File) -> Self {
        Self { to, hash: Sha256::new(), size: 0 }
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Where a blob lies in a layout.
pub fn blob_path(layout: &Path, digest: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").with_context(|| format!("not a sha256 digest: {digest}"))?;
    Ok(layout.join("blobs/sha256").join(hex))
}

/// A blob of a layout, checked against its digest.
pub fn blob(layout: &Path, of: &str) -> Result<Vec<u8>> {
    let path = blob_path(layout, of)?;
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if digest(&bytes) != of {
        bail!("blob {of} has the digest {}", digest(&bytes));
    }
    Ok(bytes)
}

/// Reads the image with a tag, or the only one.
pub fn read(layout: &Path, tag: &str) -> Result<Image> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let all = index["manifests"].as_array().context("index.json has no manifests")?;
    let named = |m: &&Value| {
        m["annotations"]["org.opencontainers.image.ref.name"]
            .as_str()
            .is_some_and(|name| name == tag || name.ends_with(&format!(":{tag}")))
    };
    let descriptor = all.iter().find(named).or_else(|| (all.len() == 1).then(|| &all[0]));
    let descriptor = descriptor.with_context(|| format!("no image `{tag}` in {}", layout.display()))?;
    let digest = descriptor["digest"].as_str().context("a descriptor without a digest")?.to_owned();
    let manifest: Value = serde_json::from_slice(&blob(layout, &digest)?)?;
    let config_digest = manifest["config"]["digest"].as_str().context("a manifest without a config")?;
    let config = serde_json::from_slice(&blob(layout, config_digest)?)?;
    Ok(Image { layout: layout.to_owned(), digest, manifest, config, kept: None })
}

impl Image {
    /// The uncompressed layers, lowest first; each is checked against its diff ID.
    pub fn layers(&self) -> Result<Vec<Vec<u8>>> {
        let descriptors = self.manifest["layers"].as_array().context("a manifest without layers")?;
        let diff_ids = self.config["rootfs"]["diff_ids"].as_array().context("a config without diff IDs")?;
        if descriptors.len() != diff_ids.len() {
            bail!("{} layers but {} diff IDs", descriptors.len(), diff_ids.len());
        }
        descriptors
            .iter()
            .zip(diff_ids)
            .map(|(descriptor, diff_id)| self.layer(descriptor, diff_id))
            .collect()
    }

    fn layer(&self, descriptor: &Value, diff_id: &Value) -> Result<Vec<u8>> {
        let of = descriptor["digest"].as_str().context("a layer without a digest")?;
        let bytes = blob(&self.layout, of)?;
        if descriptor["size"].as_u64() != Some(bytes.len() as u64) {
            bail!("layer {of} has {} bytes, its descriptor says {}", bytes.len(), descriptor["size"]);
        }
        let tar = match &bytes {
            gzip if gzip.starts_with(&[0x1f, 0x8b]) => {
                let mut tar = Vec::new();
                flate2::read::MultiGzDecoder::new(gzip.as_slice()).read_to_end(&mut tar)?;
                tar
            }
            packed if packed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => zstd::decode_all(packed.as_slice())?,
            _ => bytes,
        };
        if Some(digest(&tar).as_str()) != diff_id.as_str() {
            bail!("layer {of} has the diff ID {}, the config says {diff_id}", digest(&tar));
        }
        Ok(tar)
    }
}

/// Makes an image the only one of its layout, under the tag `latest`, which other programs are then told.
pub fn name_latest(image: Image) -> Result<Image> {
    finish(&image.layout, &image.manifest, Some(&image.digest))
}

/// The same image with a config that promises other diff IDs, written into the same layout.
pub fn with_diff_ids(image: &Image, diff_ids: &[&str]) -> Result<Image> {
    let mut config = image.config.clone();
    config["rootfs"]["diff_ids"] = json!(diff_ids);
    let mut manifest = image.manifest.clone();
    manifest["config"] = put(&image.layout, &serde_json::to_vec(&config)?, CONFIG)?;
    let at = put(&image.layout, &serde_json::to_vec(&manifest)?, MANIFEST)?;
    let digest = at["digest"].as_str().context("a descriptor without a digest")?.to_owned();
    Ok(Image { digest, manifest, config, ..image.clone() })
}

/// Packs a layout as an OCI archive with one image under the given name.
pub fn archive(image: &Image, reference: &str, to: &Path) -> Result<()> {
    let mut archive = tar::Builder::new(File::create(to)?);
    let mut add = |name: &str, bytes: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        Ok(archive.append_data(&mut header, name, bytes)?)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let manifest = blob(&image.layout, &image.digest)?;
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": MANIFEST, "digest": image.digest, "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference},
    }]});
    add("index.json", &serde_json::to_vec(&index)?)?;
    let layers = image.manifest["layers"].as_array().into_iter().flatten();
    for descriptor in std::iter::once(&image.manifest["config"]).chain(layers) {
        let of = descriptor["digest"].as_str().context("a descriptor without a digest")?;
        add(&format!("blobs/{}", of.replace(':', "/")), &blob(&image.layout, of)?)?;
    }
    add(&format!("blobs/{}", image.digest.replace(':', "/")), &manifest)?;
    Ok(archive.finish()?)
}
