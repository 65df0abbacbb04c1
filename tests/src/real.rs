//! The real-input set: the folders of `tests/real`, built in the strict pod and compared with what a real builder makes.
//!
//! A folder is an ordinary Dockerfile with its context. Its first line `ARG BASE=...` names the base that the tests make;
//! those on Debian 12 are built on Debian 13 too, as `NAME@trixie`. A program that a step leaves in `/native` has to
//! print on the host what `PROGRAM.out` beside it says. Where buildah is at hand and may build as root, it builds the
//! same Dockerfile on the same base, and the file systems have to be the same: names, kinds, contents, modes, owners,
//! links, extended attributes. What no two builds have in common is in [`MACHINE_MADE`], with the reason.
//!
//! Packages come from where the base and the environment point; a certificate bundle that `SSL_CERT_FILE` names is
//! given to both sides.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bases::Base;
use crate::cooper::{Cooper, Place};
use crate::listing::{Listing, Times};
use crate::oci::{self, Image};
use crate::process;

/// How long one build may take before it is ended: a net, not a mark.
const DEADLINE: Duration = Duration::from_secs(7200);
/// The tag of what is built.
const RESULT: &str = "real:latest";

/// Paths, or ends of paths, that differ between any two builds of the same Dockerfile: the path, and why.
pub const MACHINE_MADE: &[(&str, &str)] = &[
    ("etc/machine-id", "random"),
    ("var/lib/dbus/machine-id", "random"),
    ("var/lib/systemd/random-seed", "random"),
    ("var/lib/systemd/catalog/database", "random identity of the machine"),
    ("etc/ssl/private/ssl-cert-snakeoil.key", "random"),
    ("etc/ssl/certs/ssl-cert-snakeoil.pem", "random"),
    ("var/cache/ldconfig/aux-cache", "inode numbers and times"),
    ("var/cache/apt", "a cache with times"),
    ("var/cache/fontconfig", "a cache with times"),
    ("var/cache/debconf", "a cache with backups"),
    ("var/log", "times"),
    ("var/lib/postgresql", "a cluster has a random identity"),
    ("var/lib/apt/extended_states", "the order of a hash table"),
    ("run", "sockets and pids"),
    ("tmp", "left by programs"),
    ("dev", "a builder's own"),
    ("proc", "a builder's own"),
    ("sys", "a builder's own"),
    ("etc/hostname", "a builder's own"),
    ("etc/hosts", "a builder's own"),
    ("etc/resolv.conf", "a builder's own"),
];

/// Ends of names that differ for the same reasons.
const MACHINE_MADE_ENDS: &[(&str, &str)] = &[
    (".pyc", "the time of the source is inside"),
    (".pem.0", "named by a random certificate"),
    ("/RECORD", "sums of compiled files"),
    ("/direct_url.json", "names of temporary directories"),
];

/// One Dockerfile on one base.
#[derive(Clone, Debug)]
pub struct Real {
    /// `NAME` or `NAME@trixie`.
    pub name: String,
    folder: PathBuf,
    base: Base,
}

/// What came of one.
#[derive(Debug)]
pub struct Outcome {
    /// How long Cooper's build took.
    pub wall: Duration,
    /// How long buildah took and the differences, or why it was not asked.
    pub peer: Result<(Duration, Vec<String>), String>,
    /// How many programs ran natively with the same output.
    pub native: usize,
}

/// Whether a real builder is asked too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Build with buildah where it is at hand.
    Asked,
    /// Only Cooper builds.
    Left,
}

/// The whole set, sorted by name.
pub fn all() -> Result<Vec<Real>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("real");
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
        let folder = entry?.path();
        let Ok(text) = fs::read_to_string(folder.join("Dockerfile")) else { continue };
        let name = folder.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
        let named = text.lines().find_map(|line| line.strip_prefix("ARG BASE=")).unwrap_or_default();
        let base = [Base::Debian, Base::Gcc, Base::Busybox]
            .into_iter()
            .find(|base| base.reference() == named)
            .with_context(|| format!("{name}: no `ARG BASE=` with a base of the tests: `{named}`"))?;
        if base == Base::Debian {
            let name = format!("{name}@trixie");
            all.push(Real { name, folder: folder.clone(), base: Base::Trixie });
        }
        all.push(Real { name, folder, base });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

impl Real {
    /// Builds it in a place, runs what it left in `/native`, and compares with the peer.
    pub fn run(&self, place: Place, peer: Peer) -> Result<Outcome> {
        let cooper = Cooper::at(place)?;
        cooper.load_base(self.base)?;
        let context = cooper.copy_in(&self.folder, "context")?;
        let base = format!("BASE={}", self.base.reference());
        let mut words: Vec<&OsStr> = ["build", "--progress", "plain", "-t", RESULT].map(OsStr::new).to_vec();
        words.extend([OsStr::new("--build-arg"), OsStr::new(&base), context.as_os_str()]);
        let bundle = certificates(&cooper)?;
        let environment: Vec<(&str, &str)> = bundle.iter().map(|at| ("SSL_CERT_FILE", at.as_str())).collect();
        let start = Instant::now();
        let mut command = cooper.on_store_with(&environment, words)?;
        process::run_with(&mut command, b"", DEADLINE)?.ok()?;
        let wall = start.elapsed();
        let image = cooper.image(RESULT)?;
        let native = natively(&image)?;
        let peer = match peer {
            Peer::Left => Err("not asked".to_owned()),
            Peer::Asked => match peer_missing() {
                Some(why) => Err(why),
                None => Ok(self.compare(&image, bundle.as_deref())?),
            },
        };
        Ok(Outcome { wall, peer, native })
    }

    /// Builds with buildah and gives its time and the differences.
    fn compare(&self, image: &Image, bundle: Option<&str>) -> Result<(Duration, Vec<String>)> {
        let work = tempfile::Builder::new().prefix("cooper-real-").tempdir_in("/tmp")?;
        let base = self.base.image()?;
        let context = work.path().join("context");
        crate::cooper::copy_directory(&self.folder, &context)?;
        let to = format!("oci:{}:latest", work.path().join("result").display());
        let below = |option: &str| format!("--{option}={}", work.path().join(option).display());
        let storage = ["--storage-driver=vfs".to_owned(), below("root"), below("runroot")];
        let buildah = || process::command("buildah", &storage);
        let mut command = buildah();
        command.args(["build", "--isolation", "chroot", "--squash", "--build-arg"]);
        command.arg(format!("BASE=oci:{}:latest", base.layout.display()));
        if let Some(at) = bundle {
            command.arg("--volume").arg(format!("{at}:{at}:ro"));
            for name in ["SSL_CERT_FILE", "PIP_CERT", "CARGO_HTTP_CAINFO"] {
                command.arg("--build-arg").arg(format!("{name}={at}"));
                command.arg("--env").arg(format!("{name}={at}"));
            }
        }
        command.arg("-t").arg(&to).arg(&context);
        let start = Instant::now();
        let built = process::run_with(&mut command, b"", DEADLINE);
        let wall = start.elapsed();
        drop(process::run(buildah().args(["rm", "--all"])));
        drop(process::run(buildah().args(["rmi", "--all", "--force"])));
        built?.ok().context("the peer's build failed")?;
        let theirs = oci::read(&work.path().join("result"), "latest")?;
        let (ours, theirs) = (comparable(image)?, comparable(&theirs)?);
        Ok((wall, ours.differences(&theirs, Times::Left)))
    }
}

/// The certificate bundle that the environment names, where the pod can read it.
fn certificates(cooper: &Cooper) -> Result<Option<String>> {
    let Some(bundle) = std::env::var_os("SSL_CERT_FILE") else { return Ok(None) };
    let bytes = fs::read(&bundle).with_context(|| format!("{}", Path::new(&bundle).display()))?;
    Ok(Some(cooper.input("certificates.pem", bytes)?.to_string_lossy().into_owned()))
}

/// The file system of an image without what no two builds have in common.
fn comparable(image: &Image) -> Result<Listing> {
    let paths: Vec<&str> = MACHINE_MADE.iter().map(|(path, _)| *path).collect();
    let mut listing = Listing::of_image(image)?.without(&paths);
    listing.0.retain(|name, _| !MACHINE_MADE_ENDS.iter().any(|(end, _)| name.ends_with(end)));
    for entry in listing.0.values_mut() {
        // The first name may be one that is left out.
        entry.same_as =
            entry.same_as.take().filter(|first| !paths.iter().any(|path| first.starts_with(path)));
    }
    Ok(listing)
}

/// Why buildah cannot be asked, or `None`.
fn peer_missing() -> Option<String> {
    if process::find("buildah").is_none() {
        return Some("no buildah".to_owned());
    }
    (!crate::machine::is_root()).then(|| "buildah's chroot needs root".to_owned())
}

/// Runs every program of `/native` on the host; its output has to be what it was in the step.
fn natively(image: &Image) -> Result<usize> {
    let mut files = BTreeMap::new();
    for layer in image.layers()? {
        for entry in tar::Archive::new(layer.as_slice()).entries()? {
            let mut entry = entry?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if path.starts_with("native/") && entry.header().entry_type().is_file() {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                files.insert(path, bytes);
            }
        }
    }
    let work = tempfile::tempdir()?;
    let programs: Vec<_> = files.iter().filter(|(name, _)| !name.ends_with(".out")).collect();
    for (name, program) in &programs {
        let wanted = files.get(&format!("{name}.out")).with_context(|| format!("no /{name}.out"))?;
        let at = work.path().join("program");
        fs::write(&at, program)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755))?;
        let output = process::run(process::command(&at, [""; 0]).current_dir(work.path()))?.ok()?;
        ensure!(
            output.stdout == *wanted,
            "/{name} printed another thing in the step:\n{}\n{output:?}",
            String::from_utf8_lossy(wanted)
        );
        fs::remove_file(&at)?;
    }
    Ok(programs.len())
}
