#![allow(
    clippy::disallowed_methods,
    reason = "exporters write host files; architecture section 8, invariant 1"
)]
//! Exporters: where a result goes.
//!
//! An image goes into the store under its tags, into an OCI layout or archive, or to a registry; a file system goes
//! into a directory or a tar archive. Files are written beside their place and renamed onto it, so a name stands for a
//! whole result or for none. A directory is filled through its handle: nothing that is there, and nothing in the tree,
//! leads a name out of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use cooper_image::compression::Compression;
use cooper_image::layer::{self, LayerOptions};
use cooper_image::store::Store;
use cooper_vfs::Timestamp;
use cooper_vfs::content::ContentStore;
use cooper_vfs::tree::{NodeKind, Tree};

use crate::copy::store_failed;
use crate::error::{Error, Fault, Result};
use crate::report::{Event, Reporter, phase};
use crate::step::CancelToken;

/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;

/// Writes a file as a whole: beside its place, then renamed. `write` gets the file.
pub fn write_whole<T>(destination: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let failed = |error| Error::host(format!("cannot write `{}`", destination.display()), error);
    // Pipes and devices are written in place: there is nothing to rename onto.
    if destination.symlink_metadata().is_ok_and(|found| !found.is_file() && !found.is_symlink()) {
        if destination.is_dir() {
            let message = format!("cannot write `{}`: it is a directory", destination.display());
            return Err(Error::new(Fault::Usage, message));
        }
        return write(&mut File::create(destination).map_err(failed)?);
    }
    let beside = beside(destination)?;
    let mut file = File::create_new(&beside).map_err(failed)?;
    let written = write(&mut file).and_then(|value| {
        file.sync_all().map_err(failed)?;
        std::fs::rename(&beside, destination).map_err(failed)?;
        Ok(value)
    });
    if written.is_err() {
        // What is left of a failure helps nobody; that it cannot be removed is less than the failure itself.
        drop(std::fs::remove_file(&beside));
    }
    written
}

/// A name in the same directory that nobody else uses.
pub fn beside(destination: &Path) -> Result<PathBuf> {
    let name = destination.file_name().ok_or_else(|| {
        Error::new(Fault::Usage, format!("cannot write `{}`: it has no file name", destination.display()))
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.partial", std::process::id()));
    Ok(destination.with_file_name(hidden))
}

/// Writes a file system as a tar archive, not compressed.
pub fn write_tar(store: &Store, tree: &Tree, clamp: Option<i64>, out: &mut dyn Write) -> Result<()> {
    let empty = Tree::empty(store).map_err(store_failed)?;
    let changes = Tree::diff(store, &empty, tree).map_err(store_failed)?;
    let options = LayerOptions { compression: Compression::None, level: None, clamp };
    layer::write(store, &changes, &options, out)?;
    Ok(())
}

/// Writes a file system into a host directory, which is made when it is missing; what is there and not in the file
/// system stays.
///
/// Owners are the user's, modes and times the file system's, as in BuildKit. Devices, fifos and sockets are refused:
/// making them needs privilege, and leaving them out would be silent.
pub fn write_directory(
    store: &Store,
    tree: &Tree,
    destination: &Path,
    reporter: &dyn Reporter,
    cancel: &CancelToken,
) -> Result<()> {
    let name = format!("export to {}", destination.display());
    phase(reporter, &name, || fill_directory(store, tree, destination, &name, reporter, cancel))
}

fn fill_directory(
    store: &Store,
    tree: &Tree,
    destination: &Path,
    phase: &str,
    reporter: &dyn Reporter,
    cancel: &CancelToken,
) -> Result<()> {
    let failed = |at: &[u8], error: io::Error| {
        let shown = destination.join(std::ffi::OsStr::from_bytes(at));
        Error::host(format!("cannot write `{}`", shown.display()), error)
    };
    std::fs::create_dir_all(destination).map_err(|error| failed(b"", error))?;
    let root = Dir::open_ambient_dir(destination, ambient_authority()).map_err(|error| failed(b"", error))?;
    let (mut modes, mut times) = (Vec::new(), Vec::new());
    for (count, item) in tree.walk(store).enumerate() {
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        let item = item.map_err(store_failed)?;
        let name = PathBuf::from(OsString::from_vec(item.path.clone()));
        let mode = u32::from(item.entry.metadata.mode);
        if item.link_to.is_none() {
            times.push((name.clone(), item.entry.metadata.mtime));
        }
        let done = match (&item.entry.kind, &item.link_to) {
            (NodeKind::Directory { .. }, _) => {
                modes.push((name.clone(), mode));
                make_directory(&root, &name)
            }
            (_, Some(leader)) => {
                let leader = PathBuf::from(OsString::from_vec(leader.clone()));
                replace(&root, &name, |temporary| root.hard_link(&leader, &root, temporary))
            }
            (NodeKind::File { content, .. }, _) => {
                let content = store.open(content).map_err(store_failed)?;
                replace(&root, &name, |temporary| {
                    let mut file = root.create(temporary)?;
                    copy(&mut content.reader(), &mut file)?;
                    file.set_permissions(cap_std::fs::Permissions::from_std(std::fs::Permissions::from_mode(
                        mode,
                    )))
                })
            }
            (NodeKind::Symlink { target }, _) => {
                let target = PathBuf::from(OsString::from_vec(target.clone()));
                replace(&root, &name, |temporary| root.symlink_contents(&target, temporary))
            }
            (kind, _) => {
                let message = format!(
                    "cannot export `/{}` to a directory: it is a {:?}",
                    name.display(),
                    kind.file_kind()
                );
                return Err(Error::build(message).hint("export with type=tar"));
            }
        };
        done.map_err(|error| failed(&item.path, error))?;
        if count % 256 == 0 {
            reporter.event(Event::PhaseProgress {
                name: phase,
                what: "files",
                current: count as u64,
                total: None,
            });
        }
    }
    // Backwards: what is made in a directory changes its time.
    for (name, time) in times.into_iter().rev() {
        set_time(&root, &name, time).map_err(|error| failed(name.as_os_str().as_bytes(), error))?;
    }
    // Deepest first: a directory without write permission takes nothing any more.
    for (name, mode) in modes.into_iter().rev() {
        let permissions = cap_std::fs::Permissions::from_std(std::fs::Permissions::from_mode(mode));
        root.set_permissions(&name, permissions)
            .map_err(|error| failed(name.as_os_str().as_bytes(), error))?;
    }
    Ok(())
}

fn make_directory(root: &Dir, name: &Path) -> io::Result<()> {
    match root.symlink_metadata(name) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => root.remove_file(name)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    root.create_dir(name)
}

/// Sets the time of a name, not of what a link leads to.
fn set_time(root: &Dir, name: &Path, time: Timestamp) -> io::Result<()> {
    let Some(file_name) = name.file_name() else { return Ok(()) };
    let time = rustix::fs::Timespec { tv_sec: time.seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    match name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => Ok(rustix::fs::utimensat(root.open_dir(parent)?, file_name, &times, flags)?),
        None => Ok(rustix::fs::utimensat(root, file_name, &times, flags)?),
    }
}

/// Makes something under a name of its own and renames it to its place.
fn replace(root: &Dir, name: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let parent = name.parent().unwrap_or(Path::new(""));
    let temporary = parent.join(format!(".cooper.{}.partial", std::process::id()));
    match root.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make(&temporary)?;
    // Renaming one name of a file onto another name of it does nothing and leaves both.
    let renamed = root.rename(&temporary, root, name);
    drop(root.remove_file(&temporary));
    renamed
}

fn copy(from: &mut dyn io::Read, to: &mut dyn Write) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            count => to.write_all(&chunk[..count])?,
        }
    }
}

/// Says whether an export path names a directory by its ending, or is one.
pub fn is_directory_path(destination: &Path) -> bool {
    destination.as_os_str().as_bytes().ends_with(b"/") || destination.is_dir()
}
