//! Random calls on a root file system and on the real Linux file system: the same answers, the same errnos, the
//! same tree, and a finished tree that says the same again.
//!
//! As root every call is made by one of several users, in a temporary directory that the test's thread alone takes
//! as its root (`chroot` after leaving the shared file-system context), so absolute links and `..` mean the same on both
//! sides. Without root the same runs as the only user, without calls that need privilege and without paths that
//! could leave the directory. `VFS_CASES` sets how many sequences are tried.
#![allow(unsafe_code, reason = "leaving the shared file-system context of the process's threads")]
#![allow(clippy::disallowed_methods, reason = "the host's file system is what is compared with")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cooper_vfs::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rustix::fs as host;
use rustix::fs::CWD;

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Root,
    Alice,
    Bob,
}

impl Who {
    fn credentials(self, is_root: bool) -> Credentials {
        let groups = |groups: &[u32]| groups.to_vec();
        match self {
            _ if !is_root => Credentials {
                groups: rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect(),
                ..Credentials::user(rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
            },
            Self::Root => Credentials::root(),
            Self::Alice => Credentials { groups: groups(&[1001]), ..Credentials::user(1000, 1000) },
            Self::Bob => Credentials { groups: groups(&[]), ..Credentials::user(2000, 1000) },
        }
    }

    fn become_on_host(self) {
        use rustix::process::{Gid, Uid};
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        let keep_uid = Some(Uid::ROOT);
        let keep_gid = Some(Gid::ROOT);
        set_thread_res_uid(keep_uid, keep_uid, keep_uid).unwrap();
        let credentials = self.credentials(true);
        let groups: Vec<Gid> = credentials.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).unwrap();
        set_thread_res_gid(keep_gid, Some(Gid::from_raw(credentials.gid)), keep_gid).unwrap();
        set_thread_res_uid(keep_uid, Some(Uid::from_raw(credentials.uid)), keep_uid).unwrap();
    }
}

type Path = String;

#[derive(Clone, Debug)]
enum Call {
    Mkdir(Path, u16),
    Mknod(Path, u32),
    Symlink(Path, Path),
    Link(Path, Path, bool),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, u32),
    Open(usize, Path, u32, u16),
    Close(usize),
    Write(usize, u64, usize, u8),
    Read(usize, u64, usize),
    Ftruncate(usize, u64),
    Fallocate(usize, u32, u64, u64),
    LinkOpen(usize, Path),
    FstatOpen(usize),
    Chmod(Path, u16),
    Chown(Path, Option<u32>, Option<u32>, bool),
    Utimes(Path, u8, bool),
    Stat(Path, bool),
    Readlink(Path),
    Readdir(Path),
    Access(Path, u32),
    SetXattr(Path, &'static str, u8, u32),
    GetXattr(Path, &'static str),
    RemoveXattr(Path, &'static str),
    ListXattr(Path),
}

/// What a call answers, as far as both sides must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Failed(i32),
    Bytes(Vec<u8>),
    Count(u64),
    Attributes {
        mode: u32,
        uid: u32,
        gid: u32,
        links: u64,
        size: u64,
        rdev: u64,
    },
    Names(Vec<(Vec<u8>, u8)>),
    /// Not compared: what the vfs leaves to the kernel crate (opening pipes and devices).
    Left,
}

const SLOTS: usize = 3;

/// Results as answers.
fn done<T>(result: Result<T, Errno>) -> Answer {
    answer(result.map(|_| Answer::Done))
}

fn answer(result: Result<Answer, Errno>) -> Answer {
    result.unwrap_or_else(|errno| Answer::Failed(errno.raw_os_error()))
}

fn time_change(which: u8) -> TimeChange {
    match which % 3 {
        0 => TimeChange::Omit,
        1 => TimeChange::Now,
        _ => TimeChange::Set(Timestamp { seconds: 1_000_000, nanoseconds: 5 }),
    }
}

/// The real file system.
#[derive(Default)]
struct Host {
    open: [Option<(Who, OwnedFd)>; SLOTS],
    is_root: bool,
}

impl Host {
    fn call(&mut self, who: Who, call: &Call) -> Answer {
        let slot = |index: &usize| self.open[*index].as_ref();
        let who = match call {
            Call::Write(index, ..)
            | Call::Read(index, ..)
            | Call::Ftruncate(index, _)
            | Call::Fallocate(index, ..)
            | Call::FstatOpen(index)
            | Call::LinkOpen(index, _) => slot(index).map_or(who, |(who, _)| *who),
            _ => who,
        };
        if self.is_root {
            who.become_on_host();
        }
        let answer = self.make(who, call);
        if self.is_root {
            Who::Root.become_on_host();
        }
        answer
    }

    fn make(&mut self, who: Who, call: &Call) -> Answer {
        let bad = Answer::Failed(Errno::BADF.raw_os_error());
        let follow =
            |follow: bool| if follow { host::AtFlags::empty() } else { host::AtFlags::SYMLINK_NOFOLLOW };
        match call {
            Call::Mkdir(path, mode) => {
                done(host::mkdirat(CWD, path, host::Mode::from_raw_mode((*mode).into())))
            }
            Call::Mknod(path, mode) => {
                let device = if mode & 0o170_000 == 0o020_000 { host::makedev(1, 3) } else { 0 };
                let mode_bits = host::Mode::from_raw_mode(mode & 0o7777);
                done(host::mknodat(CWD, path, host::FileType::from_raw_mode(*mode), mode_bits, device))
            }
            Call::Symlink(target, path) => done(host::symlinkat(target, CWD, path)),
            Call::Link(old, new, follows) => {
                let flags = if *follows { host::AtFlags::SYMLINK_FOLLOW } else { host::AtFlags::empty() };
                done(host::linkat(CWD, old, CWD, new, flags))
            }
            Call::Unlink(path) => done(host::unlinkat(CWD, path, host::AtFlags::empty())),
            Call::Rmdir(path) => done(host::unlinkat(CWD, path, host::AtFlags::REMOVEDIR)),
            Call::Rename(old, new, flags) => {
                done(host::renameat_with(CWD, old, CWD, new, host::RenameFlags::from_bits_retain(*flags)))
            }
            Call::Open(index, path, flags, mode) => {
                let flags = host::OFlags::from_bits_retain(*flags | 0o4000);
                match host::openat(CWD, path, flags, host::Mode::from_raw_mode((*mode).into())) {
                    Ok(file) => {
                        let kind = host::FileType::from_raw_mode(host::fstat(&file).unwrap().st_mode);
                        let path_only = flags.contains(host::OFlags::PATH);
                        self.open[*index] = Some((who, file));
                        use host::FileType::{CharacterDevice, Fifo};
                        if matches!(kind, CharacterDevice | Fifo) && !path_only {
                            Answer::Left
                        } else {
                            Answer::Done
                        }
                    }
                    Err(errno) => Answer::Failed(errno.raw_os_error()),
                }
            }
            Call::Close(index) => {
                self.open[*index] = None;
                Answer::Done
            }
            Call::Write(index, offset, length, byte) => match &self.open[*index] {
                Some((_, file)) if is_regular(file) => {
                    let result = rustix::io::pwrite(file, &vec![*byte; *length], *offset);
                    answer(result.map(|count| Answer::Count(count as u64)))
                }
                _ => bad,
            },
            Call::Read(index, offset, length) => match &self.open[*index] {
                Some((_, file)) if is_regular(file) => {
                    let mut bytes = vec![0; *length];
                    answer(rustix::io::pread(file, &mut bytes, *offset).map(|count| {
                        bytes.truncate(count);
                        Answer::Bytes(bytes)
                    }))
                }
                _ => bad,
            },
            Call::Ftruncate(index, length) => match &self.open[*index] {
                Some((_, file)) if is_regular(file) => done(host::ftruncate(file, *length)),
                _ => bad,
            },
            Call::Fallocate(index, mode, offset, length) => match &self.open[*index] {
                Some((_, file)) if is_regular(file) => done(host::fallocate(
                    file,
                    host::FallocateFlags::from_bits_retain(*mode),
                    *offset,
                    *length,
                )),
                _ => bad,
            },
            Call::FstatOpen(index) => match &self.open[*index] {
                Some((_, file)) => answer(host::fstat(file).map(|stat| attributes_of_host(&stat))),
                None => bad,
            },
            Call::LinkOpen(index, path) => match &self.open[*index] {
                Some((Who::Root, file)) if self.is_root => {
                    done(host::linkat(file, "", CWD, path, host::AtFlags::EMPTY_PATH))
                }
                _ => bad,
            },
            Call::Chmod(path, mode) => {
                let mode = host::Mode::from_raw_mode((*mode).into());
                done(host::chmodat(CWD, path, mode, host::AtFlags::empty()))
            }
            Call::Chown(path, uid, gid, follows) => done(host::chownat(
                CWD,
                path,
                uid.map(rustix::process::Uid::from_raw),
                gid.map(rustix::process::Gid::from_raw),
                follow(*follows),
            )),
            Call::Utimes(path, which, follows) => {
                let time = |which: u8| match time_change(which) {
                    TimeChange::Omit => host::Timespec { tv_sec: 0, tv_nsec: host::UTIME_OMIT },
                    TimeChange::Now => host::Timespec { tv_sec: 0, tv_nsec: host::UTIME_NOW },
                    TimeChange::Set(time) => {
                        host::Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
                    }
                };
                let times =
                    host::Timestamps { last_access: time(which / 3), last_modification: time(*which) };
                done(host::utimensat(CWD, path, &times, follow(*follows)))
            }
            Call::Stat(path, follows) => {
                answer(host::statat(CWD, path, follow(*follows)).map(|stat| attributes_of_host(&stat)))
            }
            Call::Readlink(path) => answer(
                host::readlinkat(CWD, path, Vec::new()).map(|target| Answer::Bytes(target.into_bytes())),
            ),
            Call::Readdir(path) => answer(host_names(path)),
            Call::Access(path, mode) => {
                let mode = host::Access::from_bits_retain(*mode);
                done(host::accessat(CWD, path, mode, host::AtFlags::EACCESS))
            }
            Call::SetXattr(path, name, byte, flags) => {
                let flags = host::XattrFlags::from_bits_retain(*flags);
                done(host::setxattr(path, *name, &[*byte], flags))
            }
            Call::GetXattr(path, name) => {
                let mut value = [0; 16];
                answer(
                    host::getxattr(path, *name, &mut value[..])
                        .map(|count| Answer::Bytes(value[..count].to_vec())),
                )
            }
            Call::RemoveXattr(path, name) => done(host::removexattr(path, *name)),
            Call::ListXattr(path) => answer(host_xattrs(path, true)),
        }
    }
}

fn is_regular(file: &OwnedFd) -> bool {
    host::FileType::from_raw_mode(host::fstat(file).unwrap().st_mode) == host::FileType::RegularFile
}

/// Whether the host counts the names of directories; btrfs and overlayfs do not.
static DIRECTORIES_COUNT: AtomicBool = AtomicBool::new(true);

fn compared_links(is_directory: bool, links: u64) -> u64 {
    if is_directory && !DIRECTORIES_COUNT.load(Ordering::Relaxed) { 0 } else { links }
}

fn attributes_of_host(stat: &host::Stat) -> Answer {
    let is_directory = stat.st_mode & 0o170_000 == 0o040_000;
    Answer::Attributes {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: compared_links(is_directory, stat.st_nlink),
        size: if is_directory { 0 } else { stat.st_size as u64 },
        rdev: stat.st_rdev,
    }
}

fn host_names(path: &str) -> Result<Answer, Errno> {
    let flags = host::OFlags::RDONLY | host::OFlags::DIRECTORY;
    let directory = host::openat(CWD, path, flags, host::Mode::empty())?;
    let mut names = Vec::new();
    for entry in host::Dir::new(directory)? {
        names.push((entry?.file_name().to_bytes().to_vec(), 0));
    }
    names.sort();
    Ok(Answer::Names(names))
}

fn host_xattrs(path: &str, follows: bool) -> Result<Answer, Errno> {
    let mut list = [0_u8; 1024];
    let count =
        if follows { host::listxattr(path, &mut list[..])? } else { host::llistxattr(path, &mut list[..])? };
    let mut names: Vec<_> = list[..count]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| (name.to_vec(), 0))
        .collect();
    names.sort();
    Ok(Answer::Names(names))
}

/// The vfs.
struct Virtual {
    fs: RootFs,
    open: [Option<(Who, OpenResult)>; SLOTS],
    is_root: bool,
}

impl Virtual {
    fn call(&mut self, who: Who, call: &Call) -> Answer {
        let root = self.fs.root();
        let credentials = who.credentials(self.is_root);
        let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
        answer(self.make(who, &walk, call))
    }

    fn file(&self, index: usize) -> Result<&FileHandle, Errno> {
        match &self.open[index] {
            Some((_, OpenResult { opened: Opened::File(file), .. })) => Ok(file),
            _ => Err(Errno::BADF),
        }
    }

    fn make(&mut self, who: Who, walk: &Walk<'_>, call: &Call) -> Result<Answer, Errno> {
        let (fs, root) = (self.fs.clone(), self.fs.root());
        let at = |path: &str, follows: bool| {
            fs.resolve(walk, &root, path.as_bytes(), if follows { Follow::Yes } else { Follow::No })
        };
        let done = Ok(Answer::Done);
        match call {
            Call::Mkdir(path, mode) => {
                fs.make_directory(walk, &root, path.as_bytes(), *mode).map(|_| Answer::Done)
            }
            Call::Mknod(path, mode) => {
                fs.make_node(walk, &root, path.as_bytes(), *mode, 0x103).map(|_| Answer::Done)
            }
            Call::Symlink(target, path) => {
                fs.symlink(walk, target.as_bytes(), &root, path.as_bytes()).map(|_| Answer::Done)
            }
            Call::Link(old, new, follows) => {
                let follow = if *follows { Follow::Yes } else { Follow::No };
                fs.link(walk, &root, old.as_bytes(), follow, &root, new.as_bytes())?;
                done
            }
            Call::Unlink(path) => fs.unlink(walk, &root, path.as_bytes()).map(|()| Answer::Done),
            Call::Rmdir(path) => fs.remove_directory(walk, &root, path.as_bytes()).map(|()| Answer::Done),
            Call::Rename(old, new, flags) => {
                let flags = RenameFlags::from_bits_retain(*flags);
                fs.rename(walk, &root, old.as_bytes(), &root, new.as_bytes(), flags)?;
                done
            }
            Call::Open(index, path, flags, mode) => {
                let flags = OpenFlags::from_bits_retain(*flags);
                let result = fs.open(walk, &root, path.as_bytes(), flags, *mode)?;
                let left = matches!(result.opened, Opened::Fifo(_) | Opened::Device { .. });
                self.open[*index] = Some((who, result));
                Ok(if left { Answer::Left } else { Answer::Done })
            }
            Call::Close(index) => {
                self.open[*index] = None;
                done
            }
            Call::Write(index, offset, length, byte) => {
                let count = self.file(*index)?.write_at(*offset, &vec![*byte; *length])?;
                Ok(Answer::Count(count as u64))
            }
            Call::Read(index, offset, length) => {
                let mut bytes = vec![0; *length];
                let count = self.file(*index)?.read_at(*offset, &mut bytes)?;
                bytes.truncate(count);
                Ok(Answer::Bytes(bytes))
            }
            Call::Ftruncate(index, length) => self.file(*index)?.truncate(*length).map(|()| Answer::Done),
            Call::Fallocate(index, mode, offset, length) => {
                let mode = AllocateMode::from_bits_retain(*mode);
                self.file(*index)?.allocate(mode, *offset, *length).map(|()| Answer::Done)
            }
            Call::FstatOpen(index) => {
                let (_, result) = self.open[*index].as_ref().ok_or(Errno::BADF)?;
                Ok(attributes(&result.position.stat(walk)?))
            }
            Call::LinkOpen(index, path) => match &self.open[*index] {
                Some((Who::Root, result)) if self.is_root => {
                    fs.link_position(walk, &result.position, &root, path.as_bytes())?;
                    done
                }
                _ => Err(Errno::BADF),
            },
            Call::Chmod(path, mode) => at(path, true)?.set_mode(walk, *mode).map(|()| Answer::Done),
            Call::Chown(path, uid, gid, follows) => {
                at(path, *follows)?.set_owner(walk, *uid, *gid).map(|()| Answer::Done)
            }
            Call::Utimes(path, which, follows) => {
                let (atime, mtime) = (time_change(which / 3), time_change(*which));
                if (atime, mtime) == (TimeChange::Omit, TimeChange::Omit) {
                    return done;
                }
                at(path, *follows)?.set_times(walk, atime, mtime).map(|()| Answer::Done)
            }
            Call::Stat(path, follows) => Ok(attributes(&at(path, *follows)?.stat(walk)?)),
            Call::Readlink(path) => fs.read_link(walk, &root, path.as_bytes()).map(Answer::Bytes),
            Call::Readdir(path) => {
                let result = fs.open(walk, &root, path.as_bytes(), OpenFlags::DIRECTORY, 0)?;
                let Opened::Directory(directory) = result.opened else { return Err(Errno::IO) };
                let mut names = Vec::new();
                let mut cookie = 0;
                loop {
                    let items = directory.read(walk, cookie, 2)?;
                    let Some(last) = items.last() else { break };
                    cookie = last.next_cookie;
                    names.extend(items.into_iter().map(|item| (item.name, 0)));
                }
                names.sort();
                Ok(Answer::Names(names))
            }
            Call::Access(path, mode) => {
                at(path, true)?.access(walk, AccessMode::from_bits_retain(*mode)).map(|()| Answer::Done)
            }
            Call::SetXattr(path, name, byte, flags) => {
                let condition =
                    [XattrCondition::Any, XattrCondition::Create, XattrCondition::Replace][*flags as usize];
                at(path, true)?.set_xattr(walk, name.as_bytes(), &[*byte], condition).map(|()| Answer::Done)
            }
            Call::GetXattr(path, name) => at(path, true)?.get_xattr(walk, name.as_bytes()).map(Answer::Bytes),
            Call::RemoveXattr(path, name) => {
                at(path, true)?.remove_xattr(walk, name.as_bytes()).map(|()| Answer::Done)
            }
            Call::ListXattr(path) => {
                let names = at(path, true)?.list_xattr(walk)?;
                Ok(Answer::Names(names.into_iter().map(|name| (name, 0)).collect()))
            }
        }
    }
}

fn attributes(stat: &Stat) -> Answer {
    let is_directory = stat.kind() == Some(FileKind::Directory);
    Answer::Attributes {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        links: compared_links(is_directory, stat.links),
        size: if is_directory { 0 } else { stat.size },
        rdev: stat.rdev,
    }
}

/// One node of a tree, for comparison: attributes, bytes or target, attributes, first name of the same inode.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    attributes: (u32, u32, u32, u64),
    data: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    same_as: Vec<u8>,
}

type Snapshot = BTreeMap<Vec<u8>, Seen>;

fn snapshot_of_host() -> Snapshot {
    let mut snapshot = Snapshot::new();
    let mut first: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let text = format!("./{}", String::from_utf8(path.clone()).unwrap());
        let stat = host::statat(CWD, &text, host::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let mut data = Vec::new();
        match host::FileType::from_raw_mode(stat.st_mode) {
            host::FileType::Directory => {
                let Answer::Names(names) = host_names(&text).unwrap() else { unreachable!() };
                let names =
                    names.into_iter().map(|(name, _)| name).filter(|name| name != b"." && name != b"..");
                pending.extend(names.map(|name| cooper_vfs::path::join(&path, &name)));
                // Popped last first: names in order decide which one of an inode is the first.
                pending.sort_by(|a, b| cooper_vfs::path::tree_order(b, a));
            }
            host::FileType::RegularFile => data = std::fs::read(&text).unwrap(),
            host::FileType::Symlink => data = host::readlinkat(CWD, &text, Vec::new()).unwrap().into_bytes(),
            _ => {}
        }
        let mut xattrs = Vec::new();
        let kind = stat.st_mode & 0o170_000;
        if let Ok(Answer::Names(names)) = host_xattrs(&text, false) {
            for (name, _) in names {
                let mut value = [0; 64];
                let text_name = String::from_utf8(name.clone()).unwrap();
                let count = host::lgetxattr(&text, text_name, &mut value[..]).unwrap();
                xattrs.push((name, value[..count].to_vec()));
            }
        }
        let attributes = (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
        let same_as = if kind == 0o040_000 {
            path.clone()
        } else {
            first.entry(stat.st_ino).or_insert_with(|| path.clone()).clone()
        };
        snapshot.insert(path, Seen { attributes, data, xattrs, same_as });
    }
    snapshot
}

fn snapshot_of_tree(store: &dyn ContentStore, tree: &Tree) -> Snapshot {
    let root = WalkItem { path: Vec::new(), entry: tree.root_entry(), link_to: None };
    let items = std::iter::once(Ok(root)).chain(tree.walk(store));
    let seen = |item: std::io::Result<WalkItem>| {
        let WalkItem { path, entry, link_to } = item.unwrap();
        let (mut data, mut rdev) = (Vec::new(), 0);
        match &entry.kind {
            NodeKind::File { content, .. } => data = store.open(content).unwrap().read_all().unwrap(),
            NodeKind::Symlink { target } => data.clone_from(target),
            NodeKind::CharacterDevice { major, minor } => rdev = rootfs::device_number(*major, *minor),
            _ => {}
        }
        let Metadata { mode, uid, gid, xattrs, .. } = entry.metadata;
        let attributes = (u32::from(mode) | entry.kind.file_kind().mode_bits(), uid, gid, rdev);
        let same_as = link_to.unwrap_or_else(|| path.clone());
        (path, Seen { attributes, data, xattrs: xattrs.into_iter().collect(), same_as })
    };
    items.map(seen).collect()
}

/// Applies changes as a layer would be applied.
fn replay(store: &dyn ContentStore, lower: &Tree, changes: &[Change]) -> Tree {
    let mut builder = TreeBuilder::from_tree(store, lower);
    for change in changes {
        match change {
            Change::Remove { path } => assert!(builder.remove(path).unwrap()),
            Change::Opaque { path } => builder.make_opaque(path).unwrap(),
            Change::Upsert { path, link_to: Some(target), .. } => builder.hard_link(path, target).unwrap(),
            Change::Upsert { path, entry, .. } if path.is_empty() => {
                builder.set_metadata(path, entry.metadata.clone()).unwrap();
            }
            Change::Upsert { path, entry, .. } if entry.kind.is_directory() => {
                builder.put_directory(path, entry.metadata.clone()).unwrap();
            }
            Change::Upsert { path, entry, .. } => builder.put(path, entry.clone()).unwrap(),
        }
    }
    builder.finish().unwrap()
}

fn path(free: bool) -> impl Strategy<Value = Path> {
    let name = prop_oneof![
        20 => prop::sample::select(vec!["a", "b", "c", "d"]),
        2 => Just(if free { ".." } else { "." }),
        1 => Just("."),
    ];
    let names = prop::collection::vec(name, 1..4);
    let slashes = (
        prop::bool::weighted(if free { 0.1 } else { 0.0 }),
        prop::bool::weighted(0.08),
        prop::bool::weighted(0.05),
    );
    (names, slashes).prop_map(|(names, (leading, trailing, doubled))| {
        let mut path = names.join(if doubled { "//" } else { "/" });
        if leading {
            path.insert(0, '/');
        }
        if trailing {
            path.push('/');
        }
        path
    })
}

fn call(is_root: bool) -> impl Strategy<Value = Call> {
    let path = move || path(is_root);
    let slot = || 0..SLOTS;
    // Without root, what the owner may not enter could not be compared.
    let least = if is_root { 0 } else { 0o700 };
    let modes = move || {
        prop::sample::select(vec![
            0o755_u16, 0o700, 0o777, 0o644, 0o600, 0o070, 0o007, 0o000, 0o1777, 0o2775, 0o4755, 0o6711,
            0o2644,
        ])
        .prop_map(move |mode| mode | least)
    };
    let size = || prop_oneof![0..20_u64, 4000..4200_u64, 65_500..65_600_u64, 100_000..140_000_u64];
    let flags = prop_oneof![
        3 => Just(0_u32),
        3 => Just(0o102_u32),
        2 => Just(0o302_u32),
        2 => Just(0o1002_u32),
        1 => Just(0o1102_u32),
        1 => Just(0o1_u32),
        1 => Just(0o2_u32),
        1 => Just(0o1000_u32),
        1 => Just(0o200_000_u32),
        1 => Just(0o400_000_u32),
        1 => Just(0o400_102_u32),
        1 => Just(0o10_000_000_u32),
        1 => Just(0o10_400_000_u32),
        1 => Just(0o600_000_u32),
        1 => Just(0o20_200_002_u32),
        1 => Just(0o20_200_202_u32),
        1 => Just(0o20_200_000_u32),
        1 => Just(0o200_102_u32),
    ];
    let xattr = || prop::sample::select(vec!["user.a", "user.b", "trusted.a", "security.x", "nonsense"]);
    let names = prop_oneof![
        4 => (path(), modes()).prop_map(|(path, mode)| Call::Mkdir(path, mode)),
        2 => (path(), prop::sample::select(vec![0o100_744, 0o010_700, 0o140_700, 0o040_755, 0o120_777]))
            .prop_map(|(path, mode)| Call::Mknod(path, mode)),
        1 => path().prop_map(move |path| Call::Mknod(path, if is_root { 0o020_666 } else { 0o010_777 })),
        3 => (path(), path()).prop_map(|(target, path)| Call::Symlink(target, path)),
        3 => (path(), path(), any::<bool>()).prop_map(|(old, new, follow)| Call::Link(old, new, follow)),
        3 => path().prop_map(Call::Unlink),
        3 => path().prop_map(Call::Rmdir),
        6 => (path(), path(), prop::sample::select(vec![0_u32, 0, 0, 1, 2, 3])).prop_map(|(old, new, flags)| Call::Rename(old, new, flags)),
    ];
    let files = prop_oneof![
        8 => (slot(), path(), flags, modes()).prop_map(|(slot, path, flags, mode)| Call::Open(slot, path, flags, mode)),
        1 => slot().prop_map(Call::Close),
        4 => (slot(), size(), size(), 1..255_u8).prop_map(|(slot, offset, length, byte)| Call::Write(slot, offset, length as usize, byte)),
        2 => (slot(), size(), size()).prop_map(|(slot, offset, length)| Call::Read(slot, offset, length as usize)),
        2 => (slot(), size()).prop_map(|(slot, length)| Call::Ftruncate(slot, length)),
        2 => (slot(), prop::sample::select(vec![0_u32, 1, 3, 2, 0x10, 0x11]), size(), size())
            .prop_map(|(slot, mode, offset, length)| Call::Fallocate(slot, mode, offset, length)),
        1 => (slot(), path()).prop_map(|(slot, path)| Call::LinkOpen(slot, path)),
        1 => slot().prop_map(Call::FstatOpen),
    ];
    let id = || prop::sample::select(vec![None, Some(0_u32), Some(1000), Some(1001), Some(2000)]);
    let own = prop::sample::select(vec![None, Some(rustix::process::getuid().as_raw())]);
    let attributes = prop_oneof![
        4 => (path(), modes()).prop_map(|(path, mode)| Call::Chmod(path, mode)),
        4 => (path(), id(), id(), any::<bool>()).prop_map(|(path, uid, gid, follow)| Call::Chown(path, uid, gid, follow)),
        1 => (path(), own, any::<bool>()).prop_map(|(path, uid, follow)| Call::Chown(path, uid, None, follow)),
        2 => (path(), 0..9_u8, any::<bool>()).prop_map(|(path, which, follow)| Call::Utimes(path, which, follow)),
        3 => (path(), any::<bool>()).prop_map(|(path, follow)| Call::Stat(path, follow)),
        2 => path().prop_map(Call::Readlink),
        2 => path().prop_map(Call::Readdir),
        2 => (path(), 0..8_u32).prop_map(|(path, mode)| Call::Access(path, mode)),
        2 => (path(), xattr(), any::<u8>(), 0..3_u32).prop_map(|(path, name, byte, flags)| Call::SetXattr(path, name, byte, flags)),
        1 => (path(), xattr()).prop_map(|(path, name)| Call::GetXattr(path, name)),
        1 => (path(), xattr()).prop_map(|(path, name)| Call::RemoveXattr(path, name)),
        1 => path().prop_map(Call::ListXattr),
    ];
    prop_oneof![3 => names, 2 => files, 2 => attributes]
}

fn who(is_root: bool) -> impl Strategy<Value = Who> {
    let others = move |who| if is_root { who } else { Who::Root };
    prop_oneof![2 => Just(Who::Root), 1 => Just(others(Who::Alice)), 1 => Just(others(Who::Bob))]
}

/// Whether the host's file system zeroes ranges; tmpfs does not.
static ZERO_RANGE: AtomicBool = AtomicBool::new(true);
/// Whether the host's file system has `user.` attributes; an old tmpfs does not.
static USER_XATTRS: AtomicBool = AtomicBool::new(true);

/// Finds out what the host's file system lacks.
fn probe(place: &std::path::Path) {
    let file = std::fs::File::create(place.join("probe")).unwrap();
    host::ftruncate(&file, 4096).unwrap();
    let zero = host::fallocate(&file, host::FallocateFlags::ZERO_RANGE, 0, 4096);
    ZERO_RANGE.store(zero != Err(Errno::OPNOTSUPP), Ordering::Relaxed);
    let xattr = host::fsetxattr(&file, "user.probe", b"1", host::XattrFlags::empty());
    USER_XATTRS.store(xattr != Err(Errno::OPNOTSUPP), Ordering::Relaxed);
    let links = host::stat(place).unwrap().st_nlink;
    DIRECTORIES_COUNT.store(links > 1, Ordering::Relaxed);
}

/// Tells whether the host's file system offers what a call needs.
fn offered(call: &Call) -> bool {
    match call {
        Call::Fallocate(_, mode, ..) if mode & 0x10 != 0 => ZERO_RANGE.load(Ordering::Relaxed),
        Call::SetXattr(..) | Call::GetXattr(..) | Call::RemoveXattr(..) | Call::ListXattr(_) => {
            USER_XATTRS.load(Ordering::Relaxed)
        }
        _ => true,
    }
}

/// Several steps, each over the tree that the one before it left.
type Steps = Vec<Vec<(Who, Call)>>;

fn steps(is_root: bool) -> impl Strategy<Value = Steps> {
    prop::collection::vec(prop::collection::vec((who(is_root), call(is_root)), 1..40), 1..4)
}

fn check(steps: &Steps, is_root: bool) -> Result<(), TestCaseError> {
    let store = Arc::new(MemoryStore::new());
    let stat = host::statat(CWD, ".", host::AtFlags::empty()).unwrap();
    let mut tree = Tree::empty(&*store).unwrap();
    tree.root.mode = (stat.st_mode & 0o7777) as u16;
    (tree.root.uid, tree.root.gid) = (stat.st_uid, stat.st_gid);
    // Small enough that memory files get parked.
    let limits = RootFsLimits { memory_bytes: 50_000, ..RootFsLimits::ORDINARY };
    for step in steps {
        let fs = RootFs::new(tree.clone(), Arc::clone(&store) as _, Arc::new(HostClock), limits).unwrap();
        let mut real = Host { is_root, ..Host::default() };
        let mut ours = Virtual { fs: fs.clone(), open: Default::default(), is_root };
        for (number, (who, call)) in step.iter().enumerate() {
            if !offered(call) {
                continue;
            }
            // The host may protect hard links from other users (`fs.protected_hardlinks`); the vfs does not.
            let who = if matches!(call, Call::Link(..)) { Who::Root } else { *who };
            let owner = match call {
                Call::LinkOpen(slot, _) | Call::FstatOpen(slot) => {
                    ours.open[*slot].as_ref().map_or(who, |open| open.0)
                }
                _ => who,
            };
            let (expected, found) = (real.call(who, call), ours.call(owner, call));
            let left = expected == Answer::Left || found == Answer::Left;
            if left {
                // A descriptor on one side only would make later calls differ.
                if let Call::Open(slot, ..) = call {
                    real.open[*slot] = None;
                    ours.open[*slot] = None;
                }
                continue;
            }
            prop_assert_eq!(&found, &expected, "call {}: {:?} {:?}", number, who, call);
        }
        drop(real);
        drop(ours.open);
        let done = fs.finish().unwrap();
        prop_assert!(fs.take_host_error().is_none());
        prop_assert_eq!(snapshot_of_tree(&*store, &done.tree), snapshot_of_host());
        prop_assert_eq!(replay(&*store, &tree, &done.changes).id(), done.tree.id());
        prop_assert_eq!(fs.finish().unwrap().tree.id(), done.tree.id());
        drop(fs);
        tree = done.tree;
    }
    Ok(())
}

#[test]
fn random_calls_answer_as_linux_does() {
    let is_root = rustix::process::geteuid().is_root();
    let cases =
        std::env::vars().find(|(name, _)| name == "VFS_CASES").and_then(|(_, value)| value.parse().ok());
    let place = tempfile::tempdir().unwrap();
    let base = host::open(place.path(), host::OFlags::DIRECTORY, host::Mode::empty()).unwrap();
    probe(place.path());
    let run = move || {
        // SAFETY: this thread gets a root, working directory and umask of its own; nothing it shares is taken back.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS).unwrap() };
        rustix::process::umask(host::Mode::empty());
        let config = Config { cases: cases.unwrap_or(600), failure_persistence: None, ..Config::default() };
        let number = std::cell::Cell::new(0);
        let result = TestRunner::new(config).run(&steps(is_root), |steps| {
            let name = format!("{}", number.replace(number.get() + 1));
            host::mkdirat(&base, &name, host::Mode::from_raw_mode(0o777)).unwrap();
            let own = host::openat(&base, &name, host::OFlags::DIRECTORY, host::Mode::empty()).unwrap();
            rustix::process::fchdir(&own).unwrap();
            if is_root {
                rustix::process::chroot(".").unwrap();
            }
            let result = check(&steps, is_root);
            if is_root {
                rustix::process::fchdir(&base).unwrap();
                rustix::process::chroot(".").unwrap();
            }
            result
        });
        if is_root {
            // Out of the way of whoever removes the directory.
            rustix::process::fchdir(&base).unwrap();
        }
        result.map_err(|error| error.to_string())
    };
    let result = std::thread::spawn(run).join().unwrap();
    if let Err(message) = result {
        panic!("{message}");
    }
}
