//! Base images, made on this machine from Debian's packages and kept under `target/bases`.
//!
//! A base is an OCI layout with one image tagged `latest`. `COOPER_BASES` may name a directory with ready ones. Making
//! is guarded by a file lock, so suites that run side by side make each base once.
//!
//! | base | from | needs |
//! |---|---|---|
//! | `busybox` | the busybox of package busybox-static, its applets as hard links | that package |
//! | `musl` | `busybox` and the loader of package musl | that and musl |
//! | `debian-bookworm` | mmdebstrap, variant minbase | mmdebstrap, a Debian mirror |
//! | `debian-trixie-slim` | the same of Debian 13 | the same |
//! | `alpine` | `ALPINE_TAR`, a minirootfs archive where one is at hand | that file |
//! | `gcc-12` | the same with build-essential | mmdebstrap, a Debian mirror |

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::oci::{self, Image, Settings};
use crate::process;

/// A base image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// A shell and its tools in one static program.
    Busybox,
    /// Busybox with the loader and library of musl.
    Musl,
    /// Debian 12, the smallest set with apt.
    Debian,
    /// Debian 13, the smallest set with apt.
    Trixie,
    /// Debian 12 with its compiler: many files, some hundred megabytes.
    Gcc,
    /// A real Alpine, where `ALPINE_TAR` names its root file system.
    Alpine,
}

impl Base {
    fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::Musl => "musl",
            Self::Debian => "debian-bookworm",
            Self::Trixie => "debian-trixie-slim",
            Self::Gcc => "gcc-12",
            Self::Alpine => "alpine",
        }
    }

    /// The name that Dockerfiles call it by, below a registry or a local tag.
    pub fn reference(self) -> &'static str {
        match self {
            Self::Busybox => "busybox:latest",
            Self::Musl => "musl:latest",
            Self::Debian => "debian:bookworm",
            Self::Trixie => "debian:trixie-slim",
            Self::Gcc => "gcc:12",
            Self::Alpine => "alpine:latest",
        }
    }

    /// The image, made now if it was not made before.
    pub fn image(self) -> Result<Image> {
        if let Some(ready) = std::env::var_os("COOPER_BASES") {
            let at = Path::new(&ready).join(self.name());
            if at.join("index.json").exists() {
                return oci::read(&at, "latest");
            }
        }
        let bases = target_directory()?.join("bases");
        fs::create_dir_all(&bases)?;
        let lock = File::create(bases.join(format!("{}.lock", self.name())))?;
        lock.lock()?;
        let at = bases.join(self.name());
        if !at.join("index.json").exists() {
            self.make(&at).with_context(|| format!("cannot make the base {}", self.name()))?;
        }
        oci::read(&at, "latest")
    }

    fn make(self, at: &Path) -> Result<()> {
        // Made beside its place and renamed, so that a killed run leaves no half base.
        let partial = tempfile::Builder::new()
            .prefix("partial-")
            .tempdir_in(at.parent().context("bases have a parent")?)?;
        let layer = |name: &str| partial.path().join(name);
        let layout = partial.path().join("layout");
        let settings = |cmd: &'static [&'static str]| Settings { cmd, env: &[] };
        match self {
            Self::Busybox => {
                busybox(&layer("busybox.tar"))?;
                oci::write(&layout, &[&layer("busybox.tar")], &settings(&["sh"]))?;
            }
            Self::Musl => {
                busybox(&layer("busybox.tar"))?;
                musl(&layer("musl.tar"))?;
                oci::write(&layout, &[&layer("busybox.tar"), &layer("musl.tar")], &settings(&["sh"]))?;
            }
            Self::Debian => {
                debian("bookworm", &layer("debian.tar"), None)?;
                oci::write(&layout, &[&layer("debian.tar")], &settings(&["bash"]))?;
            }
            Self::Trixie => {
                debian("trixie", &layer("debian.tar"), None)?;
                oci::write(&layout, &[&layer("debian.tar")], &settings(&["bash"]))?;
            }
            Self::Alpine => {
                let given = std::env::var_os("ALPINE_TAR").context("ALPINE_TAR names no file")?;
                let mut unpacked = flate2::read::MultiGzDecoder::new(File::open(given)?);
                std::io::copy(&mut unpacked, &mut File::create(layer("alpine.tar"))?)?;
                oci::write(&layout, &[&layer("alpine.tar")], &settings(&["/bin/sh"]))?;
            }
            Self::Gcc => {
                debian("bookworm", &layer("gcc.tar"), Some("build-essential"))?;
                oci::write(&layout, &[&layer("gcc.tar")], &settings(&["bash"]))?;
            }
        }
        drop(fs::remove_dir_all(at));
        fs::rename(&layout, at)?;
        Ok(())
    }
}

/// Why there is no Debian base here, or `None`. Making it is the only way to know.
pub fn debian_missing() -> Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING
        .get_or_init(|| {
            let error = Base::Debian.image().err()?;
            let text = format!("{error:#}");
            Some(format!("needs a Debian base: {}", text.lines().next().unwrap_or_default()))
        })
        .clone()
}

/// Cargo's target directory, which holds the running test.
pub fn target_directory() -> Result<PathBuf> {
    let mut at = std::env::current_exe()?;
    while at.pop() {
        if at.join("CACHEDIR.TAG").exists() {
            return Ok(at);
        }
    }
    bail!("no target directory above the running program")
}

/// Appends entries to a layer archive with root as the owner and a fixed time.
#[allow(missing_debug_implementations, reason = "the archive has none")]
pub struct Archive(tar::Builder<File>);

impl Archive {
    /// A new archive.
    pub fn create(at: &Path) -> Result<Self> {
        Ok(Self(tar::Builder::new(
            File::create(at).with_context(|| format!("cannot create {}", at.display()))?,
        )))
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(size);
        header
    }

    /// A directory.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        Ok(self.0.append_data(&mut header, format!("{path}/"), std::io::empty())?)
    }

    /// A file with the given contents.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let mut header = Self::header(tar::EntryType::Regular, mode, contents.len() as u64);
        Ok(self.0.append_data(&mut header, path, contents)?)
    }

    /// A hard link or symbolic link.
    pub fn link(&mut self, path: &str, target: &str, kind: tar::EntryType) -> Result<()> {
        let mut header = Self::header(kind, 0o777, 0);
        Ok(self.0.append_link(&mut header, path, target)?)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<()> {
        Ok(self.0.finish()?)
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n";

fn busybox(to: &Path) -> Result<()> {
    let program = Path::new("/bin/busybox");
    let bytes = fs::read(program).context("/bin/busybox (package busybox-static)")?;
    let applets = process::run(&mut process::command(program, ["--list"]))?.ok()?.text();
    let mut archive = Archive::create(to)?;
    for directory in ["bin", "etc", "root", "dev", "proc", "sys", "var", "usr", "usr/bin", "home"] {
        archive.directory(directory, 0o755)?;
    }
    archive.directory("tmp", 0o1777)?;
    archive.file("etc/passwd", 0o644, PASSWD.as_bytes())?;
    archive.file("etc/group", 0o644, GROUP.as_bytes())?;
    archive.file("bin/busybox", 0o755, &bytes)?;
    for applet in applets.lines().filter(|&applet| applet != "busybox" && !applet.contains('/')) {
        archive.link(&format!("bin/{applet}"), "bin/busybox", tar::EntryType::Link)?;
    }
    archive.finish()
}

fn musl(to: &Path) -> Result<()> {
    let bytes = fs::read("/lib/ld-musl-x86_64.so.1").context("/lib/ld-musl-x86_64.so.1 (package musl)")?;
    let mut archive = Archive::create(to)?;
    archive.directory("lib", 0o755)?;
    archive.file("lib/ld-musl-x86_64.so.1", 0o755, &bytes)?;
    archive.finish()
}

/// Run inside the new root before it is packed: no device nodes are needed, no service starts, no resolver is kept.
const DEBIAN_HOOKS: [&str; 4] = [
    r#"printf '#!/bin/sh\nexit 101\n' >"$1"/usr/sbin/policy-rc.d && chmod 755 "$1"/usr/sbin/policy-rc.d"#,
    r#"printf 'APT::Install-Recommends "false";\nAcquire::Check-Valid-Until "false";\n' >"$1"/etc/apt/apt.conf.d/90image"#,
    r#": >"$1"/etc/resolv.conf; rm -f "$1"/etc/hostname"#,
    r#"rm -rf "$1"/var/log/*.log "$1"/var/log/apt "$1"/var/cache/apt/*.bin"#,
];

/// A package of Debian 12, fetched once; the image that it is installed into has to be Debian 12 too.
pub fn package(name: &str) -> Result<PathBuf> {
    let packages = target_directory()?.join("bases/packages");
    fs::create_dir_all(&packages)?;
    let to = packages.join(format!("{name}.deb"));
    let lock = File::create(packages.join(format!("{name}.lock")))?;
    lock.lock()?;
    if to.exists() {
        return Ok(to);
    }
    let work = tempfile::tempdir()?;
    // A root without packages: it only carries the archive's keys and lists for the download.
    let mut command = process::command("mmdebstrap", ["--quiet", "--variant=custom"]);
    command.arg(r#"--aptopt=Acquire::Check-Valid-Until "false""#);
    command.arg(format!(
        r#"--customize-hook=cd {} && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q download {name}"#,
        work.path().display()
    ));
    command.arg("bookworm").arg(work.path().join("none.tar"));
    process::run_with(&mut command, b"", Duration::from_secs(300))?.ok()?;
    let found = fs::read_dir(work.path())?
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|e| e == "deb"));
    fs::copy(found.with_context(|| format!("no package {name}"))?.path(), &to)?;
    Ok(to)
}

fn debian(suite: &str, to: &Path, include: Option<&str>) -> Result<()> {
    let mut command = process::command("mmdebstrap", ["--variant=minbase", "--skip=output/dev"]);
    // A mirror may be a snapshot that is past its date; signatures are checked all the same.
    command.arg(r#"--aptopt=Acquire::Check-Valid-Until "false""#);
    for path in ["man", "locale", "info"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    }
    command.args(DEBIAN_HOOKS.map(|hook| format!("--customize-hook={hook}")));
    command.args(include.map(|packages| format!("--include={packages}")));
    command.arg(suite).arg(to);
    process::run_with(&mut command, b"", Duration::from_secs(900))?.ok()?;
    Ok(())
}
