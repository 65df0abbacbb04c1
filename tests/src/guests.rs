//! The guest programs in `tests/guests`: small C programs, one family of system calls each.
//!
//! A program is compiled in four variants and run natively first; in Cooper it has to print the same. The programs that
//! can only run in Cooper (they try to see the host, or to use it up) are compiled like the others and used by the
//! suite `faults`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::bases::{Archive, Base, target_directory};
use crate::machine::Need;
use crate::oci::{self, Image};
use crate::process::{self, Output};

/// What a program needs to give the same answers natively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// Any user.
    Natively,
    /// Root, because it changes owners or users.
    AsRoot,
    /// Never: it is for Cooper only.
    InCooper,
}

/// Every program in `tests/guests`; the suite fails if the folder holds another.
pub const PROGRAMS: &[(&str, Runs)] = &[
    ("alarm", Runs::Natively),
    ("badpointers", Runs::Natively),
    ("brk", Runs::Natively),
    ("clone", Runs::Natively),
    ("cpu", Runs::InCooper),
    ("cputimers", Runs::Natively),
    ("creds", Runs::AsRoot),
    ("devices", Runs::Natively),
    ("dirs", Runs::AsRoot),
    ("elf", Runs::Natively),
    ("environment", Runs::AsRoot),
    ("epoll", Runs::Natively),
    ("escape", Runs::InCooper),
    ("everycall", Runs::InCooper),
    ("exec", Runs::Natively),
    ("faults", Runs::Natively),
    ("files", Runs::Natively),
    ("forks", Runs::InCooper),
    ("futex", Runs::Natively),
    ("generated", Runs::Natively),
    ("getdents", Runs::Natively),
    ("groups", Runs::Natively),
    ("inet", Runs::Natively),
    ("inotify", Runs::Natively),
    ("jumps", Runs::Natively),
    ("links", Runs::AsRoot),
    ("locks", Runs::Natively),
    ("manyfiles", Runs::InCooper),
    ("memfd", Runs::Natively),
    ("memory", Runs::InCooper),
    ("mmap", Runs::Natively),
    ("modes", Runs::AsRoot),
    ("numbers", Runs::Natively),
    ("pipes", Runs::Natively),
    ("poll", Runs::Natively),
    ("processes", Runs::Natively),
    ("procfs", Runs::Natively),
    ("ptys", Runs::Natively),
    ("rename", Runs::Natively),
    ("reserve", Runs::InCooper),
    ("shrink", Runs::Natively),
    ("sigaltstack", Runs::Natively),
    ("sigchld", Runs::Natively),
    ("signals", Runs::Natively),
    ("sigpipe", Runs::Natively),
    ("sparse", Runs::Natively),
    ("stat", Runs::AsRoot),
    ("storms", Runs::Natively),
    ("strings", Runs::Natively),
    ("system", Runs::Natively),
    ("sysv", Runs::Natively),
    ("threads", Runs::Natively),
    ("timers", Runs::Natively),
    ("times", Runs::Natively),
    ("tmpfile", Runs::Natively),
    ("umask", Runs::Natively),
    ("unix_sockets", Runs::Natively),
    ("waitv", Runs::Natively),
    ("wakeups", Runs::Natively),
    ("xattrs", Runs::AsRoot),
];

/// How a program is compiled and linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// glibc, everything in one file.
    Static,
    /// glibc through the image's own loader.
    Dynamic,
    /// musl, everything in one file.
    MuslStatic,
    /// musl through its loader.
    MuslDynamic,
}

impl Variant {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Static, Self::Dynamic, Self::MuslStatic, Self::MuslDynamic];

    /// The name of its directory in the image.
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::MuslStatic => "musl-static",
            Self::MuslDynamic => "musl-dynamic",
        }
    }

    fn compiler(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Static => ("gcc", &["-static"]),
            Self::Dynamic => ("gcc", &[]),
            Self::MuslStatic => ("musl-gcc", &["-static"]),
            Self::MuslDynamic => ("musl-gcc", &[]),
        }
    }

    /// The base that has its loader.
    pub fn base(self) -> Base {
        match self {
            Self::Static | Self::MuslStatic => Base::Busybox,
            Self::MuslDynamic => Base::Musl,
            Self::Dynamic => Base::Debian,
        }
    }

    /// What compiling it and making its base needs.
    pub fn needs(self) -> &'static [Need] {
        match self {
            Self::Static => &[Need::GCC, Need::BUSYBOX],
            Self::Dynamic => &[Need::GCC, Need::Debian],
            Self::MuslStatic | Self::MuslDynamic => &[Need::GCC, Need::MUSL, Need::BUSYBOX],
        }
    }
}

/// The folder with the sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests")
}

/// Compiles a program, unless it was compiled from the same sources before.
pub fn compile(program: &str, variant: Variant) -> Result<PathBuf> {
    let source = sources().join(format!("{program}.c"));
    let mut hash = Sha256::new();
    for file in [&source, &sources().join("guest.h")] {
        hash.update(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let hash: String = hash.finalize().as_slice()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let directory = target_directory()?.join("guests").join(variant.name()).join(&hash);
    fs::create_dir_all(&directory)?;
    let to = directory.join(program);
    if to.exists() {
        return Ok(to);
    }
    let lock = File::create(directory.join("lock"))?;
    lock.lock()?;
    let partial = directory.join("partial");
    let (compiler, flags) = variant.compiler();
    let mut command = process::command(compiler, ["-O1", "-w", "-pthread"]);
    command.args(flags).arg("-o").arg(&partial).arg(&source).arg("-lm");
    process::run(&mut command)?
        .ok()
        .with_context(|| format!("cannot compile {program} {}", variant.name()))?;
    fs::rename(&partial, &to)?;
    Ok(to)
}

/// Runs a program natively in an empty directory, with the environment that Cooper gives.
pub fn natively(program: &Path) -> Result<Output> {
    let directory = tempfile::tempdir()?;
    let mut command = process::command(program, [""; 0]);
    command.current_dir(directory.path()).env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    process::run(&mut command)
}

/// An image with all programs of a variant in `/guests`, on the variant's base. Kept for the next run.
pub fn image(variant: Variant) -> Result<Image> {
    let images = target_directory()?.join("guests");
    fs::create_dir_all(&images)?;
    let lock = File::create(images.join(format!("{}.lock", variant.name())))?;
    lock.lock()?;
    let base = variant.base().image()?;
    let mut hash = Sha256::new();
    hash.update(&base.digest);
    let mut programs = Vec::new();
    for &(program, _) in PROGRAMS {
        let bytes = fs::read(compile(program, variant)?)?;
        hash.update(&bytes);
        programs.push((program, bytes));
    }
    let hash: String = hash.finalize().as_slice()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let layout = images.join(format!("{}-{hash}.layout", variant.name()));
    if !layout.join("index.json").exists() {
        let work = tempfile::tempdir()?;
        let layer = work.path().join("guests.tar");
        let mut archive = Archive::create(&layer)?;
        archive.directory("guests", 0o755)?;
        for (program, bytes) in &programs {
            archive.file(&format!("guests/{program}"), 0o755, bytes)?;
        }
        archive.finish()?;
        oci::extend(&layout, &base, &layer)?;
    }
    oci::read(&layout, "latest")
}
