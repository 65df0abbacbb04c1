#![allow(clippy::disallowed_methods, reason = "keeps translated code in a directory of the store")]
//! Translated code in the store.
//!
//! A directory for each name - content of the translated file, translator, engine, processor - holds one artifact or a few.
//! Native code is executed as it lies there, so the directory and all in it must be this user's, and nobody else may write there;
//! otherwise nothing of it is used. New files appear whole, under a name made of their content; several processes add and
//! collect at the same time. Beyond [`MAX_BYTES`] the names that were not used for longest go.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cooper_sandbox::cache::{CodeCache, CodeName, MAX_KEPT_HEAT};

/// Name of the directory in the store.
const DIRECTORY: &str = "code";
/// Bytes of artifacts that are kept.
const MAX_BYTES: u64 = 2 << 30;
/// Artifacts under one name that are used.
const MAX_ARTIFACTS: usize = 64;
/// Name of the file with samples beside a name's artifacts.
const HEAT: &str = ".heat";
/// Use is noted when the last note is older than this.
const USE_GRAIN: Duration = Duration::from_secs(600);

/// The code cache of a store.
#[derive(Debug)]
pub(crate) struct DirectoryCache {
    root: PathBuf,
}

impl DirectoryCache {
    /// The cache of the store at `store`; why not, where it cannot be trusted or made.
    pub(crate) fn open(store: &Path) -> Result<Self, String> {
        let root = store.join(DIRECTORY);
        match DirBuilder::new().mode(0o700).create(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("cannot make `{}`: {error}", root.display()));
            }
            _ => {}
        }
        let found = root.symlink_metadata().map_err(|error| format!("`{}`: {error}", root.display()))?;
        if !found.is_dir() || !is_own(&found) || found.mode() & 0o077 != 0 {
            return Err(format!("`{}` is not a directory that only its user can use", root.display()));
        }
        Ok(Self { root })
    }

    /// All names under which something is kept, in order.
    pub(crate) fn names(&self) -> Vec<CodeName> {
        let stems = list(&self.root).into_iter();
        stems.filter_map(|path| CodeName::from_stem(path.file_name()?.to_str()?)).collect()
    }

    fn place(&self, name: &CodeName) -> PathBuf {
        self.root.join(name.stem())
    }

    /// The directory of a name, made where there is none.
    fn make_place(&self, name: &CodeName) -> io::Result<PathBuf> {
        let place = self.place(name);
        match DirBuilder::new().mode(0o700).create(&place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(place),
        }
    }

    fn write(&self, name: &CodeName, artifact: &[u8]) -> io::Result<PathBuf> {
        let own = blake3::hash(artifact).to_hex();
        let path = self.make_place(name)?.join(own.as_str());
        if path.exists() {
            return Ok(path);
        }
        write_whole(&path, artifact)?;
        self.collect(MAX_BYTES);
        Ok(path)
    }

    /// Removes the names that were not used for longest until `limit` is kept.
    fn collect(&self, limit: u64) {
        let mut names: Vec<(SystemTime, PathBuf, u64)> = list(&self.root)
            .into_iter()
            .map(|place| {
                let files = list(&place).into_iter().filter_map(|path| path.symlink_metadata().ok());
                let (mut used, mut size) = (SystemTime::UNIX_EPOCH, 0);
                for file in files {
                    used = used.max(file.modified().unwrap_or(SystemTime::UNIX_EPOCH));
                    size += file.len();
                }
                (used, place, size)
            })
            .collect();
        names.sort();
        let mut total: u64 = names.iter().map(|(.., size)| size).sum();
        for (_, place, size) in names {
            if total <= limit {
                return;
            }
            // Another process may be faster.
            drop(fs::remove_dir_all(&place));
            total -= size;
        }
    }
}

/// Makes a file, or puts it in another's place, so that nobody ever sees a part of it.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What is left is collected with its directory.
        drop(fs::remove_file(&temporary));
    }
    written
}

fn is_own(found: &fs::Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw()
}

/// The files in a directory, temporary ones left out, in order.
fn list(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// Opens an artifact, if it is what only we can have written.
fn open_own(path: &Path) -> Option<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let found = file.metadata().ok()?;
    if !found.is_file() || !is_own(&found) || found.mode() & 0o022 != 0 {
        return None;
    }
    let now = SystemTime::now();
    if found.modified().ok().and_then(|used| now.duration_since(used).ok()).is_some_and(|age| age > USE_GRAIN)
    {
        // Where the time cannot be set, the file only looks older than it is.
        drop(file.set_modified(now));
    }
    Some(file)
}

impl CodeCache for DirectoryCache {
    fn open(&self, name: &CodeName) -> Vec<File> {
        list(&self.place(name)).iter().take(MAX_ARTIFACTS).filter_map(|path| open_own(path)).collect()
    }

    fn put(&self, name: &CodeName, artifact: &[u8]) -> io::Result<()> {
        self.write(name, artifact).map(drop)
    }

    fn replace(&self, name: &CodeName, artifact: &[u8]) -> io::Result<()> {
        let own = self.write(name, artifact)?;
        for path in list(&self.place(name)).into_iter().filter(|path| *path != own) {
            // Those who have it mapped keep it.
            drop(fs::remove_file(path));
        }
        Ok(())
    }

    fn heat(&self, name: &CodeName) -> Vec<(u32, u32)> {
        let Some(file) = open_own(&self.place(name).join(HEAT)) else { return Vec::new() };
        let mut bytes = Vec::new();
        if file.take(8 * MAX_KEPT_HEAT as u64).read_to_end(&mut bytes).is_err() {
            return Vec::new();
        }
        let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes.chunks_exact(8).map(|pair| (number(&pair[..4]), number(&pair[4..]))).collect()
    }

    fn keep_heat(&self, name: &CodeName, heat: &[(u32, u32)]) -> io::Result<()> {
        let pairs = heat.iter().take(MAX_KEPT_HEAT);
        let bytes: Vec<u8> =
            pairs.flat_map(|(unit, count)| [unit.to_le_bytes(), count.to_le_bytes()].concat()).collect();
        write_whole(&self.make_place(name)?.join(HEAT), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use cooper_x86::code::CodeId;

    use super::*;

    fn name(byte: u8) -> CodeName {
        CodeName { id: CodeId([byte; 32]), key: "1-a".to_owned() }
    }

    fn contents(cache: &DirectoryCache, name: &CodeName) -> Vec<String> {
        cache.open(name).into_iter().map(|file| io::read_to_string(file).expect("readable")).collect()
    }

    #[test]
    fn artifacts_come_back_under_their_name_only() {
        let place = tempfile::tempdir().expect("a directory");
        let cache = DirectoryCache::open(place.path()).expect("usable");
        cache.put(&name(1), b"one").expect("written");
        cache.put(&name(1), b"one").expect("written");
        cache.put(&name(2), b"two").expect("written");
        assert_eq!(contents(&cache, &name(1)), ["one"]);
        assert!(cache.open(&CodeName { key: "2-a".to_owned(), ..name(1) }).is_empty());
        cache.put(&name(1), b"more").expect("written");
        assert_eq!(contents(&cache, &name(1)).len(), 2);
        cache.replace(&name(1), b"all").expect("written");
        assert_eq!(contents(&cache, &name(1)), ["all"]);
    }

    #[test]
    fn heat_is_kept_beside_artifacts() {
        let place = tempfile::tempdir().expect("a directory");
        let cache = DirectoryCache::open(place.path()).expect("usable");
        assert!(cache.heat(&name(1)).is_empty());
        cache.keep_heat(&name(1), &[(16, 2), (64, 7)]).expect("written");
        assert_eq!(cache.heat(&name(1)), [(16, 2), (64, 7)]);
        assert!(cache.open(&name(1)).is_empty());
        cache.keep_heat(&name(1), &[]).expect("written");
        assert!(cache.heat(&name(1)).is_empty());
    }

    #[test]
    fn what_others_can_write_is_not_used() {
        let place = tempfile::tempdir().expect("a directory");
        let cache = DirectoryCache::open(place.path()).expect("usable");
        cache.put(&name(1), b"one").expect("written");
        let path = list(&cache.place(&name(1))).pop().expect("there");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("ours");
        assert!(cache.open(&name(1)).is_empty());
        fs::set_permissions(place.path().join(DIRECTORY), fs::Permissions::from_mode(0o755)).expect("ours");
        assert!(DirectoryCache::open(place.path()).is_err());
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let place = tempfile::tempdir().expect("a directory");
        let cache = DirectoryCache::open(place.path()).expect("usable");
        for byte in 1..=3 {
            cache.put(&name(byte), &[byte; 100]).expect("written");
            let path = list(&cache.place(&name(byte))).pop().expect("there");
            let age = Duration::from_secs(10_000 * u64::from(byte));
            File::open(path).expect("there").set_modified(SystemTime::now() - age).expect("ours");
        }
        cache.collect(200);
        let left: Vec<usize> = (1..=3).map(|byte| cache.open(&name(byte)).len()).collect();
        assert_eq!(left, [1, 1, 0]);
    }
}
