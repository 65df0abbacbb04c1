//! What is fuzzed: parsers, layer ingest, program headers, path walk, decoding and interpretation.
//!
//! A target takes any bytes. It panics when something that must hold does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::Result;
use cooper_vfs::{
    Caller, Credentials, FixedClock, Follow, MemoryStore, RootFs, RootFsLimits, Timestamp, Tree, Walk,
};
use cooper_x86::code::{CodeId, CodeMap, CodeRange, CodeSource, SharedCode};
use cooper_x86::interpreter::Interpreter;
use cooper_x86::memory::{GuestMemory, Protection};
use cooper_x86::state::CpuState;

/// Takes one input.
pub type Check = Box<dyn Fn(&[u8])>;

/// Something that takes bytes from outside.
#[derive(Debug)]
pub struct Target {
    /// The folder of its seeds.
    pub name: &'static str,
    /// Makes what it works on.
    pub make: fn() -> Result<Check>,
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "dockerfile", make: || Ok(Box::new(|bytes| drop(cooper_dockerfile::parse(bytes)))) },
    Target { name: "manifest", make: || Ok(Box::new(manifest)) },
    Target {
        name: "config",
        make: || Ok(Box::new(|bytes| drop(cooper_image::config::ImageConfig::parse(bytes)))),
    },
    Target { name: "reference", make: || Ok(Box::new(reference)) },
    Target { name: "layer", make: layer },
    Target { name: "elf", make: || Ok(Box::new(elf)) },
    Target { name: "path", make: path },
    Target { name: "x86", make: || Ok(Box::new(x86)) },
];

fn manifest(bytes: &[u8]) {
    for served_as in
        ["", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"]
    {
        drop(cooper_image::manifest::Document::parse(bytes, served_as));
    }
}

fn elf(bytes: &[u8]) {
    let _: Result<(), _> = cooper_kernel::check_elf(bytes);
}

/// What is taken as a reference is printed in a form that is taken again, as the same.
fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = text.parse::<cooper_image::reference::Reference>() {
        let again = reference.to_string().parse::<cooper_image::reference::Reference>();
        assert_eq!(again.ok().as_ref(), Some(&reference), "{reference}");
    }
}

/// A layer is refused or becomes a tree; what is taken names nothing outside the root.
fn layer() -> Result<Check> {
    use cooper_image::layer::{apply, scan};
    use cooper_image::store::{Store, StoreOptions};
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path(), &StoreOptions::plain())?;
    let limits = scan::Limits { entries: 1000, depth: 64, names: 1 << 20, bytes: 8 << 20 };
    Ok(Box::new(move |bytes| {
        // The store's files live as long as the target.
        let (store, _) = (&store, &directory);
        let Ok(operations) = scan::scan(store, bytes, &scan::Expected::default(), &limits) else { return };
        for operation in &operations.list {
            let path = operation.path();
            assert!(
                !path.starts_with(b"/") && path.split(|&b| b == b'/').all(|name| name != b".."),
                "{path:?}"
            );
        }
        drop(apply::apply(store, None, &operations));
    }))
}

/// The world for paths: directories and links in all directions.
const DIRECTORIES: [&str; 4] = ["/a", "/a/b", "/a/b/c", "/d"];
const LINKS: [(&str, &str); 8] = [
    ("/d/up", ".."),
    ("/d/root", "/"),
    ("/a/abs", "/a/b"),
    ("/a/b/back", "../../d"),
    ("/loop", "loop"),
    ("/a/gone", "/nowhere/at/all"),
    ("/a/b/c/long", "../../../a/b/../b/c"),
    ("/chain", "a/abs/back/up/d/root"),
];

/// Resolving a path gives what a walk by hand over the same names gives.
fn path() -> Result<Check> {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(FixedClock(Timestamp::default()));
    let tree = Tree::empty(&*store)?;
    let files = RootFs::new(tree, store, clock, RootFsLimits::ORDINARY)?;
    let (root, credentials) = (files.root(), Credentials::root());
    let walk = Walk { root: &root, credentials: &credentials, caller: Caller { process: 1, thread: 1 } };
    for directory in DIRECTORIES {
        files.make_directory(&walk, &root, directory.as_bytes(), 0o755)?;
    }
    for (at, target) in LINKS {
        files.symlink(&walk, target.as_bytes(), &root, at.as_bytes())?;
    }
    Ok(Box::new(move |bytes| {
        let root = &root;
        let walk = Walk { root, credentials: &credentials, caller: Caller { process: 1, thread: 1 } };
        // A zero byte ends a path before it gets here.
        let path = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let ours =
            files.resolve(&walk, root, path, Follow::Yes).ok().and_then(|position| position.path(root));
        // The walk by hand knows no limits on lengths.
        if path.len() < 4096
            && path.split(|&byte| byte == b'/').all(|name| name.len() < 256)
            && !path.is_empty()
        {
            assert_eq!(
                ours.map(|path| path.escape_ascii().to_string()),
                by_hand(path),
                "{}",
                path.escape_ascii()
            );
        }
    }))
}

fn by_hand(path: &[u8]) -> Option<String> {
    let mut at: Vec<String> = Vec::new();
    let mut left: Vec<String> =
        path.rsplit(|&b| b == b'/').map(|name| name.escape_ascii().to_string()).collect();
    let mut links = 0;
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => {}
            ".." => drop(at.pop()),
            _ => {
                at.push(name);
                let here = format!("/{}", at.join("/"));
                if let Some((_, target)) = LINKS.iter().find(|(link, _)| *link == here) {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    at.pop();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    left.extend(target.rsplit('/').map(str::to_owned));
                } else if !DIRECTORIES.contains(&here.as_str()) {
                    return None;
                }
            }
        }
    }
    Some(format!("/{}", at.join("/")))
}

/// Where code and stack of the target `x86` lie, and their size.
const CODE: u64 = 0x10_0000;
const STACK: u64 = 0x20_0000;
const SIZE: u64 = 0x1_0000;

/// The code of the target `x86`, as a file's.
struct Map;

impl CodeMap for Map {
    fn code_at(&self, pc: u64) -> Option<CodeRange> {
        let source = CodeSource::File { id: CodeId([0; 32]), offset: 0 };
        (CODE..CODE + SIZE).contains(&pc).then_some(CodeRange { start: CODE, end: CODE + SIZE, source })
    }

    fn generation(&self) -> u64 {
        1
    }
}

/// Bytes as machine code: they run until they stop, and only see the window.
fn x86(bytes: &[u8]) {
    let run = || -> std::io::Result<()> {
        let memory = GuestMemory::reserve()?;
        memory.map_anonymous(CODE, SIZE, Protection::ReadWrite)?;
        memory.map_anonymous(STACK, SIZE, Protection::ReadWrite)?;
        // What does not fit is not run; a fault here would be a mistake of this test.
        let _: Result<(), _> = memory.write(CODE, &bytes[..bytes.len().min(SIZE as usize)]);
        let mut cpu = CpuState::at_entry(CODE, STACK + SIZE / 2);
        let stop = AtomicU8::new(0);
        std::thread::scope(|scope| {
            let (done, ended) = std::sync::mpsc::channel::<()>();
            let stop = &stop;
            // Code that loops is stopped as a signal would stop it.
            scope.spawn(move || {
                let _: Result<(), _> = ended.recv_timeout(Duration::from_millis(50));
                stop.store(1, Ordering::Relaxed);
            });
            Interpreter::new(SharedCode::new()).run(&mut cpu, &memory, &Map, stop);
            drop(done);
        });
        Ok(())
    };
    assert!(run().is_ok(), "the window cannot be made");
}
