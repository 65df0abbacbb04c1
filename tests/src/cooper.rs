//! The binary under test, with a store and a home of its own, outside the pod or inside it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bases::Base;
use crate::oci::{self, Image};
use crate::pod::Pod;
use crate::process::{self, Output};

/// The environment variable by which the test command names the binary; else it lies beside the tests.
const VARIABLE: &str = "COOPER_BIN";

/// The built binary.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Ok(PathBuf::from(named));
    }
    let mut at = std::env::current_exe()?;
    while at.pop() {
        let program = at.join("cooper");
        if program.is_file() {
            return Ok(program);
        }
    }
    anyhow::bail!("cooper is not built")
}

/// Why the binary cannot be tested, or `None`.
pub fn missing() -> Option<String> {
    binary().err().map(|_| "needs the built `cooper`: cargo build -p cooper-cli, or tests/run".to_owned())
}

/// Where cooper runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As the tests run, on the host.
    Outside,
    /// In the strict pod.
    Pod,
}

/// Cooper with a place of its own.
#[derive(Debug)]
pub struct Cooper {
    pod: Option<Pod>,
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Cooper {
    /// Cooper outside the pod.
    pub fn outside() -> Result<Self> {
        Self::at(Place::Outside)
    }

    /// Cooper in the strict pod.
    pub fn in_pod() -> Result<Self> {
        Self::at(Place::Pod)
    }

    /// Cooper at a place.
    pub fn at(place: Place) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("cooper-test-").tempdir_in("/tmp")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let pod = (place == Place::Pod).then(Pod::new).transpose()?;
        let mut program = binary()?;
        if pod.is_some() {
            // The target directory may be closed to the pod's user.
            let copy = directory.path().join("cooper");
            fs::copy(&program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
            program = copy;
        }
        let cooper = Self { pod, directory, program };
        fs::create_dir_all(cooper.home())?;
        Ok(cooper)
    }

    /// The directory that cooper may write to: HOME, TMPDIR and the store are in it.
    pub fn home(&self) -> PathBuf {
        self.pod.as_ref().map_or_else(|| self.directory.path().join("home"), Pod::home)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.home().join("store")
    }

    /// A directory that cooper can read, for inputs. The harness writes there.
    pub fn inputs(&self) -> &Path {
        self.directory.path()
    }

    /// Writes an input file, with the directories above it; gives its path.
    pub fn input(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.inputs().join(name);
        fs::create_dir_all(path.parent().context("an input has a parent")?)?;
        fs::write(&path, contents)?;
        Ok(path)
    }

    /// Copies a directory of the repository to where cooper can read it.
    pub fn copy_in(&self, directory: &Path, name: &str) -> Result<PathBuf> {
        let to = self.inputs().join(name);
        copy_directory(directory, &to)?;
        Ok(to)
    }

    /// The command `cooper ARGUMENTS`, to be completed by the caller.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Command> {
        let mut words = vec![self.program.as_os_str().to_owned()];
        words.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self.start(&[], &words)
    }

    /// Any words, where cooper would run, with more variables in the environment.
    fn start(&self, environment: &[(&str, &str)], words: &[OsString]) -> Result<Command> {
        let Some(pod) = &self.pod else {
            let mut command = process::command(&words[0], &words[1..]);
            command
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", self.home())
                .env("TMPDIR", self.home());
            command.envs(environment.iter().copied());
            return Ok(command);
        };
        pod.command_with(environment, words)
    }

    /// The binary, where the place can read it.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a shell script where cooper would run; `exec` in it gives cooper the shell's place, in the pod PID 1.
    pub fn shell(&self, script: &str) -> Result<Output> {
        process::run(&mut self.start(&[], &["sh".into(), "-c".into(), script.into()])?)
    }

    /// Runs `cooper ARGUMENTS` to its end, on the store of this place.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Output> {
        process::run(&mut self.on_store(arguments)?)
    }

    /// The same with input and a deadline.
    pub fn run_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
        deadline: Duration,
    ) -> Result<Output> {
        process::run_with(&mut self.on_store(arguments)?, input, deadline)
    }

    /// `cooper VERB --store STORE REST`.
    pub fn on_store<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Command> {
        self.on_store_with(&[], arguments)
    }

    /// The same with more variables in the environment.
    pub fn on_store_with<A: AsRef<OsStr>>(
        &self,
        environment: &[(&str, &str)],
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Command> {
        let mut words = vec![self.program.as_os_str().to_owned()];
        words.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        let at = words.len().min(2);
        words.splice(at..at, ["--store".into(), self.store().into_os_string()]);
        self.start(environment, &words)
    }

    /// Brings a base into the store under its own name, by `cooper load`.
    pub fn load_base(&self, base: Base) -> Result<()> {
        self.load(&base.image()?, base.reference())
    }

    /// Brings an image into the store under a name, by `cooper load` of an OCI archive.
    pub fn load(&self, image: &Image, reference: &str) -> Result<()> {
        let archive = self.inputs().join("load.tar");
        oci::archive(image, reference, &archive)?;
        self.run([OsStr::new("load"), OsStr::new("-i"), archive.as_os_str()])?.ok()?;
        fs::remove_file(archive)?;
        Ok(())
    }

    /// The image that a tag of the store names, exported as an OCI archive and read back.
    pub fn image(&self, reference: &str) -> Result<Image> {
        let name: String =
            reference.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let archive = self.home().join(format!("{name}.tar"));
        self.run([
            OsStr::new("save"),
            OsStr::new("-o"),
            archive.as_os_str(),
            OsStr::new("--format"),
            OsStr::new("oci"),
            OsStr::new(reference),
        ])?
        .ok()?;
        let layout = Arc::new(tempfile::Builder::new().prefix("cooper-layout-").tempdir_in("/tmp")?);
        tar::Archive::new(fs::File::open(&archive)?).unpack(layout.path())?;
        let image = oci::name_latest(oci::read(layout.path(), reference)?)?;
        Ok(Image { kept: Some(layout), ..image })
    }
}

/// Copies a directory with symbolic links; owners become ours, modes 0755 or 0644, whatever umask the clone was made with.
pub fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            let mode = if entry.metadata()?.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}
