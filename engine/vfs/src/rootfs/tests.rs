//! Tests of root file systems: rules as tables, what a step records, mounts, threads.
//!
//! What Linux answers to calls in general is compared with Linux itself in `tests/linux.rs`.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::content::ContentId;
use crate::credentials::Capabilities;
use crate::memory::MemoryStore;
use crate::synthetic::{Link, SyntheticEntry, SyntheticFile, SyntheticId};
use crate::time::{FixedClock, Timestamp};
use crate::tree::{Change, TreeBuilder};

const NOW: Timestamp = Timestamp { seconds: 1000, nanoseconds: 7 };

/// A root file system in memory and the one who calls it.
struct Bench {
    store: Arc<MemoryStore>,
    fs: RootFs,
    credentials: Credentials,
}

impl Bench {
    fn over(store: Arc<MemoryStore>, tree: Tree) -> Self {
        Self::with_limits(store, tree, RootFsLimits::ORDINARY)
    }

    fn with_limits(store: Arc<MemoryStore>, tree: Tree, limits: RootFsLimits) -> Self {
        let fs =
            RootFs::new(tree, Arc::clone(&store) as _, Arc::new(FixedClock(NOW)), limits).expect("a tree");
        Self { store, fs, credentials: Credentials::root() }
    }

    /// Over a tree made from lines: `d path`, `f path bytes`, `l path target` (hard link), `s path target`.
    fn new(lines: &str) -> Self {
        let store = Arc::new(MemoryStore::new());
        let mut builder = TreeBuilder::new(&*store);
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            let (path, last) = (words[1].as_bytes(), words[words.len() - 1].as_bytes());
            let metadata = |mode| Metadata {
                mtime: Timestamp { seconds: 1, nanoseconds: 5 },
                ..Metadata::root_owned(mode)
            };
            let entry = |kind, mode| Entry { name: Vec::new(), metadata: metadata(mode), kind };
            let done = match words[0] {
                "d" => builder.put_directory(path, metadata(0o755)),
                "f" => {
                    let kind = NodeKind::File { content: store.put(last), size: last.len() as u64 };
                    builder.put(path, entry(kind, 0o644))
                }
                "l" => builder.hard_link(path, last),
                _ => builder.put(path, entry(NodeKind::Symlink { target: last.to_vec() }, 0o777)),
            };
            done.expect("the line applies");
        }
        let tree = builder.finish().expect("the memory store takes everything");
        Self::over(store, tree)
    }

    fn call<T>(&self, act: impl FnOnce(&RootFs, &Walk<'_>, &Position) -> T) -> T {
        let root = self.fs.root();
        let walk = Walk { root: &root, credentials: &self.credentials, caller: Caller::default() };
        act(&self.fs, &walk, &root)
    }

    /// Makes one call, given as words, and tells its error.
    fn run(&self, line: &str) -> Result<(), Errno> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let octal = |word: &[u8]| u16::from_str_radix(&String::from_utf8_lossy(word), 8).expect("octal");
        let flags = |word: &[u8]| {
            let of = |name: &str| match name {
                "r" => OpenFlags::empty(),
                "w" => OpenFlags::WRONLY,
                "creat" => OpenFlags::CREAT,
                "excl" => OpenFlags::EXCL,
                "trunc" => OpenFlags::TRUNC,
                "dir" => OpenFlags::DIRECTORY,
                "nofollow" => OpenFlags::NOFOLLOW,
                "path" => OpenFlags::PATH,
                "tmpfile" => OpenFlags::TMPFILE,
                name => panic!("no such flag: {name}"),
            };
            String::from_utf8_lossy(word).split(',').map(of).fold(OpenFlags::empty(), |all, flag| all | flag)
        };
        self.call(|fs, walk, root| match (words[0], &words[1..]) {
            (b"mkdir", [path]) => fs.make_directory(walk, root, path, 0o755).map(drop),
            (b"fifo", [path]) => fs.make_node(walk, root, path, 0o010_644, 0).map(drop),
            (b"device", [path]) => fs.make_node(walk, root, path, 0o020_644, device_number(1, 3)).map(drop),
            (b"symlink", [target, path]) => fs.symlink(walk, target, root, path).map(drop),
            (b"link", [old, new]) => fs.link(walk, root, old, Follow::No, root, new),
            (b"unlink", [path]) => fs.unlink(walk, root, path),
            (b"rmdir", [path]) => fs.remove_directory(walk, root, path),
            (b"rename", [old, new]) => fs.rename(walk, root, old, root, new, RenameFlags::empty()),
            (b"exchange", [old, new]) => fs.rename(walk, root, old, root, new, RenameFlags::EXCHANGE),
            (b"noreplace", [old, new]) => fs.rename(walk, root, old, root, new, RenameFlags::NOREPLACE),
            (b"open", [path, word]) => fs.open(walk, root, path, flags(word), 0o644).map(drop),
            (b"stat", [path]) => fs.resolve(walk, root, path, Follow::Yes).map(drop),
            (b"write", [path, data]) => {
                let opened = fs.open(walk, root, path, flags(b"w,creat,trunc"), 0o644)?.opened;
                let Opened::File(file) = opened else { return Err(Errno::INVAL) };
                file.write_at(0, data).map(drop)
            }
            (b"chmod", [path, mode]) => {
                fs.resolve(walk, root, path, Follow::Yes)?.set_mode(walk, octal(mode))
            }
            (b"chown", [path]) => {
                fs.resolve(walk, root, path, Follow::Yes)?.set_owner(walk, Some(5), Some(5))
            }
            (b"utimes", [path]) => {
                let time = TimeChange::Set(Timestamp { seconds: 5, nanoseconds: 9 });
                fs.resolve(walk, root, path, Follow::No)?.set_times(walk, time, time)
            }
            (b"setxattr", [path, name, value]) => {
                fs.resolve(walk, root, path, Follow::No)?.set_xattr(walk, name, value, XattrCondition::Any)
            }
            _ => panic!("no such call: {line}"),
        })
    }

    fn go(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            assert_eq!(self.run(line), Ok(()), "{line}");
        }
    }

    fn table(&self, table: &[(&str, Result<(), Errno>)]) {
        for (line, expected) in table {
            assert_eq!(self.run(line), *expected, "{line}");
        }
    }

    fn stat(&self, path: &str) -> Stat {
        self.call(|fs, walk, root| fs.resolve(walk, root, path.as_bytes(), Follow::No)?.stat(walk))
            .expect("exists")
    }

    fn open(&self, path: &str, flags: OpenFlags) -> FileHandle {
        let opened = self.call(|fs, walk, root| fs.open(walk, root, path.as_bytes(), flags, 0o644));
        match opened.expect("opens").opened {
            Opened::File(file) => file,
            other => panic!("no file: {other:?}"),
        }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let file = self.open(path, OpenFlags::empty());
        let mut bytes = vec![0; file.size() as usize];
        let count = file.read_at(0, &mut bytes).expect("reads");
        assert_eq!(count, bytes.len());
        bytes
    }

    /// The changes so far, as lines: `+` upsert, `~` upsert with the same contents, `=` hard link, `-` removal, `!` opaque.
    fn changes(&self) -> Vec<String> {
        let done = self.fs.finish().expect("finishes");
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let line = |change: &Change| match change {
            Change::Upsert { path, link_to: Some(target), .. } => {
                format!("{} = {}", text(path), text(target))
            }
            Change::Upsert { path, same_content: true, .. } => format!("~ {}", text(path)),
            Change::Upsert { path, .. } => format!("+ {}", text(path)),
            Change::Remove { path } => format!("- {}", text(path)),
            Change::Opaque { path } => format!("! {}", text(path)),
        };
        done.changes.iter().map(line).collect()
    }
}

fn check_changes(lower: &str, calls: &str, expected: &[&str]) {
    let bench = Bench::new(lower);
    bench.go(calls);
    assert_eq!(bench.changes(), expected, "{calls}");
}

const OK: Result<(), Errno> = Ok(());

#[test]
fn walking_rules() {
    let bench = Bench::new(
        "d d\n f d/f 1\n s l d\n s lf d/f\n s loop loop\n s dangling nowhere\n s up ..\n s abs /d/f",
    );
    let (long, longer) = ("x".repeat(255), "x".repeat(256));
    let deep = "d/../".repeat(818) + "d/f12";
    bench.table(&[
        ("stat d/f", OK),
        ("stat /../../d/./f", OK),
        ("stat l/f", OK),
        ("stat lf", OK),
        ("stat abs", OK),
        ("stat up/up/d", OK),
        ("stat d/f/", Err(Errno::NOTDIR)),
        ("stat lf/", Err(Errno::NOTDIR)),
        ("stat d/f/..", Err(Errno::NOTDIR)),
        ("stat l/", OK),
        ("stat loop", Err(Errno::LOOP)),
        ("stat dangling", Err(Errno::NOENT)),
        ("stat nowhere/f", Err(Errno::NOENT)),
        ("stat ", Err(Errno::NOENT)),
        (&format!("stat {long}"), Err(Errno::NOENT)),
        (&format!("stat {longer}"), Err(Errno::NAMETOOLONG)),
        (&format!("mkdir {long}"), OK),
        (&format!("mkdir {longer}"), Err(Errno::NAMETOOLONG)),
        (&format!("stat {deep}"), Err(Errno::NOENT)),
        (&format!("stat {deep}x"), Err(Errno::NAMETOOLONG)),
    ]);
}

#[test]
fn forty_links_are_followed_and_not_one_more() {
    let mut lines = "f 0 1\n".to_owned();
    for link in 1..=41 {
        lines += &format!("s {link} {}\n", link - 1);
    }
    Bench::new(&lines).table(&[("stat 40", OK), ("stat 41", Err(Errno::LOOP))]);
}

#[test]
fn names_rules() {
    let bench = Bench::new("d d\n f d/f 1\n d e\n s l d\n s dangling nowhere");
    bench.table(&[
        ("mkdir d", Err(Errno::EXIST)),
        ("mkdir .", Err(Errno::EXIST)),
        ("mkdir /", Err(Errno::EXIST)),
        ("mkdir new/", OK),
        ("mkdir dangling", Err(Errno::EXIST)),
        ("fifo pipe/", Err(Errno::NOENT)),
        ("symlink x y/", Err(Errno::NOENT)),
        ("link d x", Err(Errno::PERM)),
        ("link d/f d/f", Err(Errno::EXIST)),
        ("link d/f x/", Err(Errno::NOENT)),
        ("unlink d", Err(Errno::ISDIR)),
        ("unlink .", Err(Errno::ISDIR)),
        ("unlink l/", Err(Errno::NOTDIR)),
        ("unlink d/f/", Err(Errno::NOTDIR)),
        ("rmdir d/f", Err(Errno::NOTDIR)),
        ("rmdir d", Err(Errno::NOTEMPTY)),
        ("rmdir d/.", Err(Errno::INVAL)),
        ("rmdir d/..", Err(Errno::NOTEMPTY)),
        ("rmdir /", Err(Errno::BUSY)),
        ("rmdir l", Err(Errno::NOTDIR)),
        ("open d/f creat,excl", Err(Errno::EXIST)),
        ("open dangling creat,excl", Err(Errno::EXIST)),
        ("open dangling w,creat", OK),
        ("stat nowhere", OK),
        ("open x/ creat", Err(Errno::ISDIR)),
        ("open d creat", Err(Errno::ISDIR)),
        ("open d w", Err(Errno::ISDIR)),
        ("open d/f dir", Err(Errno::NOTDIR)),
        ("open l nofollow", Err(Errno::LOOP)),
        ("open l nofollow,dir", Err(Errno::NOTDIR)),
        ("open l nofollow,path", OK),
        ("open d dir,creat", Err(Errno::INVAL)),
        ("open d tmpfile", Err(Errno::INVAL)),
        ("open d/f tmpfile,w", Err(Errno::NOTDIR)),
        ("open d tmpfile,w", OK),
    ]);
}

#[test]
fn rename_rules() {
    let bench = Bench::new("d full\n f full/f 1\n d empty\n d sub\n d sub/sub\n f f 1\n f g 2\n l h f");
    bench.table(&[
        ("rename empty full", Err(Errno::NOTEMPTY)),
        ("rename f empty", Err(Errno::ISDIR)),
        ("rename empty f", Err(Errno::NOTDIR)),
        ("rename sub sub/sub/x", Err(Errno::INVAL)),
        ("rename sub sub", OK),
        ("rename sub/sub sub", Err(Errno::NOTEMPTY)),
        ("rename f h", OK),
        ("stat f", OK),
        ("noreplace f g", Err(Errno::EXIST)),
        ("exchange f nothing", Err(Errno::NOENT)),
        ("exchange sub sub/sub", Err(Errno::INVAL)),
        ("rename . x", Err(Errno::BUSY)),
        ("rename f ..", Err(Errno::BUSY)),
        ("rename f x/", Err(Errno::NOTDIR)),
        ("rename nothing x", Err(Errno::NOENT)),
        ("rename full empty", OK),
        ("stat empty/f", OK),
        ("exchange empty g", OK),
        ("stat g/f", OK),
        ("rename f empty", OK),
        ("stat f", Err(Errno::NOENT)),
    ]);
    assert_eq!(bench.read("empty"), b"1");
}

#[test]
fn permission_rules() {
    let mut bench =
        Bench::new("d open\n d sticky\n f sticky/roots 1\n d closed\n f closed/f 1\n f suid 1\n d group");
    bench.go("chmod open 777\n chmod sticky 1777\n chmod closed 700\n chmod suid 6755\n chmod group 2777");
    bench.credentials = Credentials::user(7, 8);
    bench.table(&[
        ("mkdir x", Err(Errno::ACCESS)),
        ("stat closed/f", Err(Errno::ACCESS)),
        ("stat closed/nothing", Err(Errno::ACCESS)),
        ("open suid w", Err(Errno::ACCESS)),
        ("unlink sticky/roots", Err(Errno::PERM)),
        ("rename sticky/roots sticky/x", Err(Errno::PERM)),
        ("write sticky/mine 1", OK),
        ("unlink sticky/mine", OK),
        ("device open/null", Err(Errno::PERM)),
        ("fifo open/pipe", OK),
        ("chmod suid 755", Err(Errno::PERM)),
        ("chown suid", Err(Errno::PERM)),
        ("utimes suid", Err(Errno::PERM)),
        ("write open/f 1", OK),
        ("chmod open/f 6777", OK),
        ("setxattr open/f user.a 1", OK),
        ("setxattr open/f trusted.a 1", Err(Errno::PERM)),
        ("setxattr open/f security.capability 1", Err(Errno::PERM)),
        ("setxattr open/f system.posix_acl_access 1", Err(Errno::OPNOTSUPP)),
        ("setxattr open/pipe user.a 1", Err(Errno::PERM)),
        ("mkdir group/d", OK),
    ]);
    let made = bench.stat("group/d");
    assert_eq!((made.uid, made.gid, made.mode & 0o7777), (7, 0, 0o2755));
    assert_eq!(bench.stat("open/f").mode & 0o7777, 0o6777);
    bench.go("write open/f 2");
    assert_eq!(bench.stat("open/f").mode & 0o7777, 0o777);
    bench.credentials = Credentials { capabilities: Capabilities::CHOWN, ..Credentials::user(7, 8) };
    bench.go("chmod open/f 4755\n chown open/f");
    assert_eq!(bench.stat("open/f").mode & 0o7777, 0o755);
}

#[test]
fn extended_attributes_have_bounds() {
    let bench = Bench::new("f f 1");
    bench.call(|fs, walk, root| {
        let file = fs.resolve(walk, root, b"f", Follow::No).expect("exists");
        let set = |name: &[u8], length, condition| file.set_xattr(walk, name, &vec![0; length], condition);
        assert_eq!(set(b"user.a", 65_537, XattrCondition::Any), Err(Errno::TOOBIG));
        assert_eq!(set(&[b'u'; 256], 1, XattrCondition::Any), Err(Errno::RANGE));
        assert_eq!(set(b"user.a", 65_536, XattrCondition::Replace), Err(Errno::NODATA));
        assert_eq!(set(b"user.a", 65_536, XattrCondition::Create), Ok(()));
        assert_eq!(set(b"user.a", 1, XattrCondition::Create), Err(Errno::EXIST));
        let more = (0..).map(|number| set(format!("user.{number}").as_bytes(), 65_000, XattrCondition::Any));
        assert_eq!(more.take(32).find(Result::is_err), Some(Err(Errno::NOSPC)));
        assert_eq!(file.get_xattr(walk, b"user.nothing"), Err(Errno::NODATA));
    });
}

#[test]
fn nothing_done_changes_nothing() {
    let bench = Bench::new("d d\n f d/a 1\n f d/b 2\n l d/c d/b");
    bench.go("stat d/a\n open d/a r\n stat d/c");
    assert_eq!(bench.changes(), [""; 0]);
    // A fresh world over the same tree, with everything loaded, stores nothing new.
    assert_eq!(
        bench.fs.finish().expect("finishes").tree.exact,
        bench.fs.finish().expect("finishes").tree.exact
    );
}

#[test]
fn changes_are_exact() {
    check_changes("d d\n f d/a 1", "write d/b 1", &["~ d", "+ d/b"]);
    check_changes("d d\n f d/a 1", "write d/a 2", &["+ d/a"]);
    check_changes("d d\n f d/a 1", "write d/a 1", &["~ d/a"]);
    check_changes("d d\n f d/a 1", "chmod d/a 600\n chmod d/a 644", &[]);
    check_changes("d d\n f d/a 1", "chmod d/a 600", &["~ d/a"]);
    check_changes("d d\n f d/a 1\n f d/b 1", "unlink d/a", &["~ d", "- d/a"]);
    check_changes("d d\n f d/a 1\n f d/b 1", "unlink d/a\n utimes d", &["~ d", "- d/a"]);
    check_changes("d d\n f d/a 1", "unlink d/a\n rmdir d", &["~ ", "- d"]);
    check_changes(
        "d d\n f d/a 1",
        "unlink d/a\n rmdir d\n mkdir d\n write d/b 1",
        &["~ ", "~ d", "! d", "+ d/b"],
    );
    check_changes("d d\n f d/a 1", "rename d e", &["~ ", "- d", "+ e", "+ e/a"]);
    check_changes("d d\n d d/s\n f d/s/a 1", "rename d/s t", &["~ ", "~ d", "- d/s", "+ t", "+ t/a"]);
    check_changes("f a 1\n l b a", "write b 2", &["+ a", "b = a"]);
    check_changes("f a 1\n l b a", "unlink a", &["~ ", "- a"]);
    check_changes("f a 1", "link a b", &["~ ", "~ a", "b = a"]);
    check_changes("f a 1", "fifo p\n symlink a s\n device n", &["~ ", "+ n", "+ p", "+ s"]);
    check_changes("d d\n d e\n f d/a 1\n l e/b d/a", "chmod d/a 600", &["~ d/a", "e/b = d/a"]);
}

#[test]
fn removing_and_making_again_is_no_change() {
    let bench = Bench::new("d d\n f d/a 1");
    let before = bench.stat("d");
    bench.go("unlink d/a\n write d/a 1");
    bench
        .call(|fs, walk, root| {
            for (path, time) in
                [(&b"d/a"[..], Timestamp { seconds: 1, nanoseconds: 5 }), (b"d", before.mtime)]
            {
                let place = fs.resolve(walk, root, path, Follow::No)?;
                place.set_times(walk, TimeChange::Omit, TimeChange::Set(time))?;
            }
            Ok::<(), Errno>(())
        })
        .expect("times are set");
    // The new inode's time has no fraction in the tree, so only the file itself differs.
    assert_eq!(bench.changes(), ["~ d/a"]);
    let whole = Bench::new("");
    whole.go("mkdir d\n write d/a 1");
    let tree = whole.fs.finish().expect("finishes").tree;
    let again = Bench::over(whole.store, tree);
    again.go("unlink d/a\n rmdir d\n mkdir d\n write d/a 1");
    assert_eq!(again.changes(), [""; 0]);
}

#[test]
fn recorded_times_are_whole_seconds() {
    let bench = Bench::new("f a 1");
    bench.go("write b 1");
    assert_eq!(bench.stat("b").mtime, NOW);
    let tree = bench.fs.finish().expect("finishes").tree;
    let entry = |name: &[u8]| tree.lookup(&*bench.store, name).expect("stored").expect("exists");
    assert_eq!(entry(b"b").metadata.mtime, Timestamp::from_seconds(1000));
    assert_eq!(entry(b"a").metadata.mtime, Timestamp { seconds: 1, nanoseconds: 5 });
}

#[test]
fn chown_and_removal_of_many_files_read_no_contents() {
    let mut lines = String::new();
    for directory in 0..100 {
        lines += &format!("d {directory}\n");
        for file in 0..100 {
            lines += &format!("f {directory}/{file} {directory}{file}\n");
        }
    }
    let bench = Bench::new(&lines);
    for directory in 0..100 {
        for file in 0..100 {
            bench.go(&format!("chown {directory}/{file}"));
        }
    }
    let done = bench.fs.finish().expect("finishes");
    assert_eq!((done.changes.len(), bench.store.contents_opened()), (10_000, 0));
    assert!(done.changes.iter().all(|change| matches!(change, Change::Upsert { same_content: true, .. })));
    for directory in 0..100 {
        for file in 0..100 {
            bench.go(&format!("unlink {directory}/{file}"));
        }
        bench.go(&format!("rmdir {directory}"));
    }
    assert_eq!((bench.changes().len(), bench.store.contents_opened()), (101, 0));
}

#[test]
fn unlinked_files_stay_open() {
    let bench = Bench::new("f a 1");
    let file = bench.open("a", OpenFlags::RDWR);
    bench.go("unlink a");
    file.write_at(1, b"2").expect("writes");
    let mut bytes = [0; 4];
    assert_eq!((file.read_at(0, &mut bytes), &bytes[..2]), (Ok(2), &b"12"[..]));
    let root = bench.fs.root();
    assert_eq!(file.position().path(&root).as_deref(), Some(&b"/a (deleted)"[..]));
    assert_eq!(bench.changes(), ["~ ", "- a"]);
}

#[test]
fn a_file_made_without_a_name_can_get_one() {
    let bench = Bench::new("");
    let file = bench.open(".", OpenFlags::TMPFILE | OpenFlags::RDWR);
    file.write_at(0, b"1").expect("writes");
    assert_eq!(bench.changes(), [""; 0]);
    bench.call(|fs, walk, root| fs.link_position(walk, file.position(), root, b"a")).expect("links");
    assert_eq!(bench.changes(), ["~ ", "+ a"]);
    let other = bench.open(".", OpenFlags::TMPFILE | OpenFlags::RDWR | OpenFlags::EXCL);
    let linked = bench.call(|fs, walk, root| fs.link_position(walk, other.position(), root, b"b"));
    assert_eq!(linked, Err(Errno::NOENT));
}

#[test]
fn sparse_files_have_holes() {
    let bench = Bench::new("");
    let file = bench.open("a", OpenFlags::RDWR | OpenFlags::CREAT);
    file.write_at(1 << 20, b"x").expect("writes");
    assert_eq!((file.seek_data(0), file.seek_hole(0)), (Ok(1 << 20), Ok(0)));
    assert_eq!(file.seek_data(file.size()), Err(Errno::NXIO));
    assert_eq!((bench.stat("a").blocks, bench.fs.spool_bytes()), (8, 4096));
    file.truncate(1 << 40).expect("a large hole costs nothing");
    assert_eq!(bench.fs.spool_bytes(), 4096);
    let punch = AllocateMode::PUNCH_HOLE | AllocateMode::KEEP_SIZE;
    file.allocate(punch, 0, 1 << 40).expect("punches");
    assert_eq!((bench.fs.spool_bytes(), file.seek_data(0)), (0, Err(Errno::NXIO)));
    assert_eq!(file.allocate(AllocateMode::PUNCH_HOLE, 0, 1), Err(Errno::OPNOTSUPP));
    assert_eq!(file.allocate(AllocateMode::COLLAPSE_RANGE, 0, 4096), Err(Errno::OPNOTSUPP));
    assert_eq!(file.write_at(u64::MAX - 1, b"12"), Err(Errno::FBIG));
}

#[test]
fn truncation_by_name() {
    let mut bench = Bench::new("d d\n f a 12345");
    bench.go("fifo p\n chmod a 6755");
    let cut = |bench: &Bench, path: &[u8], length| {
        bench.call(|fs, walk, root| fs.resolve(walk, root, path, Follow::Yes)?.truncate(walk, length))
    };
    assert_eq!(cut(&bench, b"d", 0), Err(Errno::ISDIR));
    assert_eq!(cut(&bench, b"p", 0), Err(Errno::INVAL));
    assert_eq!(cut(&bench, b"a", u64::MAX), Err(Errno::FBIG));
    assert_eq!(cut(&bench, b"a", 3), Ok(()));
    assert_eq!((bench.read("a"), bench.stat("a").mode & 0o7777), (b"123".to_vec(), 0o6755));
    bench.credentials = Credentials::user(7, 7);
    assert_eq!(cut(&bench, b"a", 0), Err(Errno::ACCESS));
}

#[test]
fn a_hole_too_large_to_record_is_named() {
    let bench = Bench::new("d d");
    bench.open("d/a", OpenFlags::RDWR | OpenFlags::CREAT).truncate(1 << 40).expect("a hole costs nothing");
    let error = bench.fs.finish().expect_err("too large");
    assert!(error.to_string().starts_with("`/d/a` is larger"), "{error}");
}

#[test]
fn contents_survive_all_their_places() {
    let store = Arc::new(MemoryStore::new());
    let tree = Tree::empty(&*store).expect("stored");
    let limits = RootFsLimits { memory_bytes: 10, ..RootFsLimits::ORDINARY };
    let bench = Bench::with_limits(store, tree, limits);
    let large: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
    let write = |path: &str, bytes: &[u8]| {
        let file = bench.open(path, OpenFlags::RDWR | OpenFlags::CREAT);
        bytes.chunks(7000).fold(0, |at, chunk| at + file.write_at(at, chunk).expect("writes") as u64);
    };
    write("parked", &large[..5000]);
    write("spooled", &large);
    assert_eq!(bench.read("parked"), &large[..5000]);
    bench.open("parked", OpenFlags::RDWR).write_at(1, b"x").expect("comes back into memory");
    write("parked too", b"12");
    bench.go("write out-of-order 1");
    let file = bench.open("out-of-order", OpenFlags::RDWR);
    file.write_at(100_000, &large[100_000..]).expect("writes");
    file.write_at(0, &large[..100_000]).expect("writes");
    let shared = bench.open("mapped", OpenFlags::RDWR | OpenFlags::CREAT);
    shared.write_at(0, b"12345").expect("writes");
    let mapping = shared.map_shared().expect("maps");
    rustix::io::pwrite(&*mapping.file, b"X", 2).expect("the map is the file");
    let done = bench.fs.finish().expect("finishes");
    let content =
        |name: &[u8]| match done.tree.lookup(&*bench.store, name).expect("stored").expect("exists").kind {
            NodeKind::File { content, size } => (content, size),
            kind => panic!("no file: {kind:?}"),
        };
    assert_eq!(content(b"spooled"), (ContentId::of(&large), 200_000));
    assert_eq!(content(b"out-of-order"), (ContentId::of(&large), 200_000));
    assert_eq!(content(b"mapped"), (ContentId::of(b"12X45"), 5));
    let again = Bench::over(Arc::clone(&bench.store), done.tree.clone());
    let mut parked = large[..5000].to_vec();
    parked[1] = b'x';
    assert_eq!(again.read("parked"), parked);
    again.open("spooled", OpenFlags::RDWR).write_at(150_000, b"abc").expect("copies up");
    let mut changed = large.clone();
    changed[150_000..150_003].copy_from_slice(b"abc");
    assert_eq!(again.read("spooled"), changed);
    again.open("out-of-order", OpenFlags::RDWR).truncate(3).expect("cuts");
    assert_eq!(again.read("out-of-order"), &large[..3]);
    assert_eq!(again.changes(), ["+ out-of-order", "+ spooled"]);
}

#[test]
fn space_and_inodes_are_bounded() {
    let store = Arc::new(MemoryStore::new());
    let tree = Tree::empty(&*store).expect("stored");
    let limits = RootFsLimits { spool_bytes: 100_000, memory_bytes: 1 << 20, inodes: 3 };
    let bench = Bench::with_limits(store, tree, limits);
    let file = bench.open("a", OpenFlags::RDWR | OpenFlags::CREAT);
    file.write_at(0, &[1; 60_000]).expect("fits");
    assert_eq!(file.write_at(60_000, &[1; 60_000]), Err(Errno::NOSPC));
    assert_eq!(file.size(), 60_000);
    file.truncate(0).expect("cuts");
    file.write_at(0, &[1; 90_000]).expect("fits again");
    drop(file);
    bench.table(&[
        ("unlink a", OK),
        ("mkdir a", OK),
        ("mkdir b", OK),
        ("mkdir c", OK),
        ("mkdir d", Err(Errno::NOSPC)),
    ]);
    bench.table(&[("rmdir a", OK), ("mkdir d", OK)]);
    assert_eq!(bench.fs.spool_bytes(), 0);
}

#[test]
fn executed_files_are_not_written() {
    let bench = Bench::new("f a 1");
    let node = bench.open("a", OpenFlags::empty()).node();
    let denial = node.deny_write().expect("nobody writes");
    bench.table(&[
        ("open a w", Err(Errno::TXTBSY)),
        ("open a r,trunc", Err(Errno::TXTBSY)),
        ("open a r", OK),
    ]);
    drop(denial);
    let writer = bench.open("a", OpenFlags::WRONLY);
    assert_eq!(node.deny_write().map(drop), Err(Errno::TXTBSY));
    drop(writer);
    assert!(node.deny_write().is_ok());
}

#[test]
fn reading_a_directory_goes_on_while_it_changes() {
    let bench = Bench::new("d d\n f d/a 1\n f d/b 1\n f d/c 1");
    let opened =
        bench.call(|fs, walk, root| fs.open(walk, root, b"d", OpenFlags::DIRECTORY, 0)).expect("opens");
    let Opened::Directory(directory) = opened.opened else { panic!("no directory") };
    let read =
        |cookie, maximum| bench.call(|_, walk, _| directory.read(walk, cookie, maximum)).expect("reads");
    let first = read(0, 3);
    let names = |items: &[DirectoryItem]| {
        items.iter().map(|item| String::from_utf8_lossy(&item.name).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&first), [".", "..", "a"]);
    bench.go("unlink d/a\n unlink d/b\n write d/e 1\n write d/b 2\n rename d/c d/b");
    let rest = read(first[2].next_cookie, 100);
    assert_eq!(names(&rest), ["e", "b"]);
    for item in read(0, 100).iter().skip(2) {
        let name = String::from_utf8_lossy(&item.name).into_owned();
        assert_eq!(bench.stat(&format!("d/{name}")).inode, item.inode);
    }
    bench.go("unlink d/e\n unlink d/b\n rmdir d");
    assert_eq!(bench.call(|_, walk, _| directory.read(walk, 0, 9)).map(|_| ()), Err(Errno::NOENT));
}

#[test]
fn inode_numbers_are_those_that_reading_shows() {
    let bench = Bench::new("d d\n f d/a 1\n f d/b 1\n d e\n l e/c d/b");
    let opened =
        bench.call(|fs, walk, root| fs.open(walk, root, b"d", OpenFlags::DIRECTORY, 0)).expect("opens");
    let Opened::Directory(directory) = opened.opened else { panic!("no directory") };
    let items = bench.call(|_, walk, _| directory.read(walk, 2, 9)).expect("reads");
    let shown: Vec<u64> = items.iter().map(|item| item.inode).collect();
    assert_eq!(shown, [bench.stat("d/a").inode, bench.stat("d/b").inode]);
    assert_eq!((bench.stat("e/c").inode, bench.stat("e/c").links), (bench.stat("d/b").inode, 2));
    assert_eq!((bench.stat(".").links, bench.stat("d").links), (4, 2));
}

#[test]
fn mounts_are_seen_and_never_recorded() {
    let bench = Bench::new("d d\n f d/a 1\n d src\n f src/x 9\n s etc-resolv run/resolv");
    let tree = Bench::new("d sub\n f sub/y 5");
    let tmpfs = || MountSource::Tmpfs { size: Some(5000), mode: 0o1777, uid: 0, gid: 0 };
    let file = MountSource::File { contents: b"secret".to_vec(), mode: 0o400, uid: 0, gid: 0 };
    bench.fs.mount(b"/run/secrets/one", file, MountOptions::READ_ONLY).expect("mounts");
    bench.fs.mount(b"/tmp", tmpfs(), MountOptions::WRITABLE).expect("mounts");
    bench
        .fs
        .mount(
            b"etc-resolv",
            MountSource::File { contents: Vec::new(), mode: 0o644, uid: 0, gid: 0 },
            MountOptions::WRITABLE,
        )
        .expect("mounts");
    let position = bench.call(|fs, walk, root| fs.resolve(walk, root, b"src", Follow::Yes)).expect("exists");
    bench.fs.mount(b"/bound/here", MountSource::Bind(position), MountOptions::READ_ONLY).expect("mounts");
    let source =
        MountSource::Tree { tree: tree.fs.finish().expect("finishes").tree, subpath: b"sub".to_vec() };
    // The other bench's objects live in its own store, so this directory cannot be read: `EIO`, and the reason is kept.
    assert_eq!(bench.fs.mount(b"/d", source, MountOptions::WRITABLE).map(|_| ()), Err(Errno::IO));
    assert!(bench.fs.take_host_error().is_some());
    assert_eq!(bench.changes(), [""; 0]);
    bench.table(&[
        ("write run/secrets/one x", Err(Errno::ROFS)),
        ("unlink run/secrets/one", Err(Errno::BUSY)),
        ("rmdir tmp", Err(Errno::BUSY)),
        ("rename tmp x", Err(Errno::BUSY)),
        ("write tmp/a 1", OK),
        ("rename tmp/a d/b", Err(Errno::XDEV)),
        ("link d/a tmp/a2", Err(Errno::XDEV)),
        ("write bound/here/x 1", Err(Errno::ROFS)),
        ("mkdir bound/here/x", Err(Errno::EXIST)),
        ("mkdir bound/here/y", Err(Errno::ROFS)),
        ("chmod bound/here/x 600", Err(Errno::ROFS)),
        ("unlink bound/here/x", Err(Errno::ROFS)),
        ("write run/resolv 1", OK),
        ("stat tmp/../d/a", OK),
        ("stat bound/here/../../d/a", OK),
    ]);
    assert_eq!(bench.read("run/secrets/one"), b"secret");
    let file = bench.open("tmp/large", OpenFlags::RDWR | OpenFlags::CREAT);
    assert_eq!(file.write_at(0, &[0; 6000]), Err(Errno::NOSPC));
    let root = bench.fs.root();
    assert_eq!(file.position().path(&root).as_deref(), Some(&b"/tmp/large"[..]));
    assert_ne!(bench.stat("tmp").device, bench.stat("d").device);
    assert_eq!(bench.stat("bound/here/x").device, bench.stat("src/x").device);
    assert_eq!(bench.changes(), [""; 0]);
    // What the guest itself puts beside a mount is a change like any other.
    bench.go("write run/own 1");
    assert_eq!(bench.changes(), ["+ run", "+ run/own"]);
    let targets: Vec<_> = bench
        .fs
        .mounts()
        .into_iter()
        .map(|mount| String::from_utf8_lossy(&mount.target).into_owned())
        .collect();
    assert_eq!(targets, ["/", "/run/secrets/one", "/tmp", "/run/resolv", "/bound/here"]);
}

#[test]
fn a_tree_mount_can_be_finished_by_itself() {
    let bench = Bench::new("d d\n f d/a 1");
    let tree = bench.fs.finish().expect("finishes").tree;
    let source = MountSource::Tree { tree, subpath: b"d".to_vec() };
    let mount = bench.fs.mount(b"/cache", source, MountOptions::WRITABLE).expect("mounts");
    bench.go("write cache/b 2\n unlink cache/a");
    let done = bench.fs.finish_mount(mount).expect("finishes");
    let names: Vec<_> = done.tree.walk(&*bench.store).map(|item| item.expect("stored").path).collect();
    assert_eq!(names, [b"b".to_vec()]);
    assert_eq!(bench.changes(), [""; 0]);
}

#[test]
fn devices_are_there() {
    let bench = Bench::new("");
    bench.fs.mount(b"/dev", MountSource::Devices, MountOptions::WRITABLE).expect("mounts");
    let null = bench.stat("dev/null");
    assert_eq!((null.mode, split_device(null.rdev)), (0o020_666, (1, 3)));
    assert_eq!(bench.stat("dev/shm").mode, 0o041_777);
    let opened = bench
        .call(|fs, walk, root| fs.open(walk, root, b"dev/urandom", OpenFlags::empty(), 0))
        .expect("opens");
    assert!(matches!(opened.opened, Opened::Device { character: true, major: 1, minor: 9, .. }));
    let target = bench.call(|fs, walk, root| fs.read_link(walk, root, b"dev/stdout"));
    assert_eq!(target.as_deref(), Ok(&b"/proc/self/fd/1"[..]));
    bench.go("write dev/shm/x 1");
    assert_eq!(bench.changes(), [""; 0]);
}

/// A file system with `self` (a link that differs by caller), `place` and `pipe` (magic links), `file` and the directory `7`.
#[derive(Debug)]
struct Made {
    place: Position,
}

#[derive(Debug)]
struct MadeFile;

impl SyntheticFile for MadeFile {
    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> Result<usize, Errno> {
        Ok(0)
    }

    fn write_at(&self, _offset: u64, data: &[u8]) -> Result<usize, Errno> {
        Ok(data.len())
    }
}

const MADE: [(&[u8], FileKind); 5] = [
    (b"self", FileKind::Symlink),
    (b"place", FileKind::Symlink),
    (b"pipe", FileKind::Symlink),
    (b"file", FileKind::File),
    (b"7", FileKind::Directory),
];

impl SyntheticFs for Made {
    fn root(&self) -> SyntheticId {
        SyntheticId(100)
    }

    fn lookup(&self, directory: SyntheticId, name: &[u8], _caller: &Caller) -> Result<SyntheticId, Errno> {
        let index = MADE.iter().position(|(known, _)| *known == name).filter(|_| directory.0 == 100);
        index.map(|index| SyntheticId(index as u64)).ok_or(Errno::NOENT)
    }

    fn stat(&self, node: SyntheticId, _caller: &Caller) -> Result<Stat, Errno> {
        let kind = MADE.get(node.0 as usize).map_or(FileKind::Directory, |(_, kind)| *kind);
        Ok(Stat {
            inode: node.0 + 1,
            mode: kind.mode_bits() | 0o444 | (0o111 * u32::from(kind == FileKind::Directory)),
            ..Stat::default()
        })
    }

    fn list(&self, _directory: SyntheticId, _caller: &Caller) -> Result<Vec<SyntheticEntry>, Errno> {
        let entry = |(index, (name, kind)): (usize, &(&[u8], FileKind))| SyntheticEntry {
            name: name.to_vec(),
            kind: *kind,
            inode: index as u64 + 1,
        };
        Ok(MADE.iter().enumerate().map(entry).collect())
    }

    fn read_link(&self, link: SyntheticId, caller: &Caller) -> Result<Link, Errno> {
        Ok(match link.0 {
            0 => Link::Path(caller.process.to_string().into_bytes()),
            1 => Link::Position(self.place.clone()),
            _ => Link::Object {
                object: Arc::new(42_u32),
                display: b"pipe:[5]".to_vec(),
                stat: Box::new(Stat { mode: 0o010_600, ..Stat::default() }),
            },
        })
    }

    fn open(
        &self,
        _file: SyntheticId,
        _flags: OpenFlags,
        _caller: &Caller,
    ) -> Result<Arc<dyn SyntheticFile>, Errno> {
        Ok(Arc::new(MadeFile))
    }

    fn magic(&self) -> u64 {
        0x9fa0
    }

    fn type_name(&self) -> &str {
        "proc"
    }
}

#[test]
fn synthetic_file_systems_are_walked() {
    let bench = Bench::new("d d\n f d/a 1");
    let place = bench.call(|fs, walk, root| fs.resolve(walk, root, b"d", Follow::Yes)).expect("exists");
    bench
        .fs
        .mount(b"/proc", MountSource::Synthetic(Arc::new(Made { place })), MountOptions::WRITABLE)
        .expect("mounts");
    bench
        .fs
        .mount(
            b"/proc/7",
            MountSource::Tmpfs { size: None, mode: 0o755, uid: 0, gid: 0 },
            MountOptions::WRITABLE,
        )
        .expect("mounts");
    bench.table(&[
        ("stat proc/file", OK),
        ("stat proc/nothing", Err(Errno::NOENT)),
        ("stat proc/place/a", OK),
        ("stat proc/place/../proc/file", OK),
        ("stat proc/pipe/x", Err(Errno::NOTDIR)),
        ("mkdir proc/new", Err(Errno::NOENT)),
        ("unlink proc/file", Err(Errno::PERM)),
        ("chmod proc/file 600", Err(Errno::PERM)),
        ("open proc/file w", OK),
        ("stat proc/self", Err(Errno::NOENT)),
        ("write proc/7/x 1", OK),
        ("open proc/pipe nofollow", Err(Errno::LOOP)),
    ]);
    bench.call(|fs, walk, root| {
        let walk = Walk { caller: Caller { process: 7, thread: 7 }, ..*walk };
        assert!(fs.resolve(&walk, root, b"proc/self/x", Follow::Yes).is_ok());
        let opened = fs.open(&walk, root, b"proc/pipe", OpenFlags::empty(), 0).expect("opens").opened;
        let Opened::Object(object) = opened else { panic!("no object: {opened:?}") };
        assert_eq!(object.downcast_ref(), Some(&42_u32));
        assert_eq!(fs.read_link(&walk, root, b"proc/pipe").as_deref(), Ok(&b"pipe:[5]"[..]));
        assert_eq!(fs.read_link(&walk, root, b"proc/place").as_deref(), Ok(&b"/d"[..]));
        let pipe = fs.resolve(&walk, root, b"proc/pipe", Follow::Yes).expect("resolves");
        assert_eq!(pipe.stat(&walk).map(|stat| stat.mode), Ok(0o010_600));
        let directory = fs.open(&walk, root, b"proc", OpenFlags::DIRECTORY, 0).expect("opens").opened;
        let Opened::Directory(directory) = directory else { panic!("no directory") };
        assert_eq!(directory.read(&walk, 3, 2).expect("reads").len(), 2);
    });
    assert_eq!(bench.changes(), [""; 0]);
}

#[test]
fn attachments_live_with_their_inode() {
    let bench = Bench::new("");
    bench.go("fifo a\n link a b");
    let node = |path: &[u8]| {
        bench.call(|fs, walk, root| fs.resolve(walk, root, path, Follow::No)).expect("exists").node()
    };
    let made = node(b"a").attachment(|| AtomicUsize::new(1));
    made.store(5, Ordering::Relaxed);
    assert_eq!(node(b"b").attachment(|| AtomicUsize::new(1)).load(Ordering::Relaxed), 5);
    assert_eq!(node(b"a"), node(b"b"));
}

#[test]
fn places_outlive_moves_and_removals() {
    let bench = Bench::new("d a\n d a/b");
    let place = bench.call(|fs, walk, root| fs.resolve(walk, root, b"a/b", Follow::No)).expect("exists");
    let root = bench.fs.root();
    bench.go("rename a c");
    assert_eq!(place.path(&root).as_deref(), Some(&b"/c/b"[..]));
    bench.go("rmdir c/b\n rmdir c");
    assert_eq!(place.path(&root).as_deref(), Some(&b"/c/b (deleted)"[..]));
    assert_eq!(
        bench.call(|fs, walk, _| fs.make_directory(walk, &place, b"x", 0o755).map(drop)),
        Err(Errno::NOENT)
    );
    assert_eq!(
        bench.call(|fs, walk, _| fs.resolve(walk, &place, b"../..", Follow::No)).map(|up| up.is_same(&root)),
        Ok(true)
    );
}

/// Makes directories in directories, and gives the last.
fn dig(bench: &Bench, depth: usize) -> Position {
    let make = |place: Position, _| {
        bench.call(|fs, walk, _| fs.make_directory(walk, &place, b"d", 0o755)).expect("made")
    };
    (0..depth).fold(bench.fs.root(), make)
}

#[test]
fn deep_directories_do_not_exhaust_the_stack() {
    let bench = Bench::new("");
    dig(&bench, 3000);
    let done = bench.fs.finish().expect("finishes");
    assert_eq!(done.tree.walk(&*bench.store).count(), 3000);
    let bench = Bench::new("");
    let place = dig(&bench, 100_000);
    drop(bench);
    drop(place);
}

#[test]
fn threads_see_every_name_at_one_place_or_another() {
    let bench = Bench::new("d a\n d b\n f a/x 1");
    let rounds = 2000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                bench.go("rename a/x b/x\n rename b/x a/x");
            }
        });
        scope.spawn(|| {
            for round in 0..rounds {
                bench.go(&format!("write a/{round} 1\n unlink a/{round}"));
            }
        });
        scope.spawn(|| {
            for _ in 0..rounds {
                // A look at one place and then at the other can miss a name that moves in between, but not for long.
                assert!((0..1000).any(|_| bench.run("stat a/x").is_ok() || bench.run("stat b/x").is_ok()));
            }
        });
        scope.spawn(|| {
            for round in 0..rounds / 10 {
                bench.go(&format!("mkdir d{round}\n rename d{round} b/d\n rmdir b/d"));
            }
        });
    });
    assert_eq!(bench.read("a/x"), b"1");
    assert_eq!((bench.stat("a").links, bench.stat("b").links, bench.stat(".").links), (2, 2, 4));
    assert_eq!(bench.changes(), ["~ ", "~ a", "~ b"]);
}

/// A memory store whose spools are named host files, so that they can be opened again.
#[derive(Debug, Default)]
struct NamedSpools(MemoryStore);

#[derive(Debug)]
struct Named(tempfile::TempPath);

impl crate::content::SpoolOwner for Named {
    fn can_reopen(&self) -> bool {
        true
    }

    #[allow(clippy::disallowed_methods, reason = "the test's own spool file")]
    fn reopen(&self) -> io::Result<std::fs::File> {
        std::fs::OpenOptions::new().read(true).write(true).open(&self.0)
    }
}

impl ContentStore for NamedSpools {
    fn directory(&self, id: &crate::tree::ExactId) -> io::Result<Arc<crate::tree::Directory>> {
        self.0.directory(id)
    }

    fn put_directory(
        &self,
        directory: &crate::tree::Directory,
    ) -> io::Result<(crate::tree::ExactId, crate::tree::ContentTreeId)> {
        self.0.put_directory(directory)
    }

    fn open(&self, id: &ContentId) -> io::Result<crate::content::Content> {
        self.0.open(id)
    }

    fn spool(&self) -> io::Result<crate::content::SpoolFile> {
        let (file, path) = tempfile::NamedTempFile::new()?.into_parts();
        Ok(crate::content::SpoolFile { file: Arc::new(file), owner: Some(Box::new(Named(path))) })
    }

    fn pack(&self) -> io::Result<Box<dyn crate::content::PackWriter + '_>> {
        self.0.pack()
    }
}

#[test]
fn idle_spools_are_closed_and_opened_again() {
    let store = Arc::new(NamedSpools::default());
    let tree = Tree::empty(&*store).expect("stored");
    let fs = RootFs::new(tree, Arc::clone(&store) as _, Arc::new(FixedClock(NOW)), RootFsLimits::ORDINARY)
        .expect("a tree");
    let bench = Bench { store: Arc::new(MemoryStore::new()), fs, credentials: Credentials::root() };
    let bytes = |number: usize| vec![number as u8; 70_000];
    for number in 0..300 {
        let file = bench.open(&number.to_string(), OpenFlags::WRONLY | OpenFlags::CREAT);
        file.write_at(0, &bytes(number)).expect("writes");
    }
    assert!(bench.fs.inner.shared.open_spools.load(Ordering::Relaxed) <= 130);
    assert_eq!(bench.read("299"), bytes(299));
    bench.open("299", OpenFlags::WRONLY).append(b"x").expect("writes");
    let changes = bench.fs.finish().expect("finishes").changes;
    let expected = |number: usize| {
        let tail: &[u8] = if number == 299 { b"x" } else { b"" };
        ContentId::of(&[&bytes(number), tail].concat())
    };
    for change in &changes {
        let Change::Upsert { path, entry: Entry { kind: NodeKind::File { content, .. }, .. }, .. } = change
        else {
            continue;
        };
        let number = String::from_utf8_lossy(path).parse().expect("a number");
        assert_eq!(*content, expected(number));
    }
    assert_eq!((changes.len(), bench.fs.inner.shared.open_spools.load(Ordering::Relaxed)), (301, 0));
}
