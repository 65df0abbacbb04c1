//! Serves the toolbox to steps whose image has no shell.
//!
//! The programs are files of a tree of their own, mounted read-only on [`DIRECTORY`], which stands last in the step's `PATH`. What a
//! step names by an absolute path - its program, `/bin/sh`, `/usr/bin/env` in first lines of scripts - is mounted there as well. None
//! of it is in a layer: mounts are not changes.
//!
//! What must hold: nothing is added to an image that has a shell, unless the user wants it always, and even then no file of the
//! image is covered.

use std::io;
use std::sync::Arc;

use cooper_build::step::{Bytes, StepRequest};
use cooper_builtins::{PROGRAMS, Program};
use cooper_vfs::tree::Tree;
use cooper_vfs::{
    Caller, ContentId, ContentStore, Credentials, Entry, Follow, Metadata, MountOptions, MountSource,
    NodeKind, RootFs, Timestamp, TreeBuilder, Walk,
};

use crate::machine::{find_program, store_failure};
use crate::wire::Failure;

/// Where the tools are, last in `PATH`.
const DIRECTORY: &str = "/.cooper/toolbox";
/// The shell that makes an image one that gets no tools.
const SHELL: &str = "/bin/sh";
/// What first lines of scripts name.
const NAMED: [&str; 2] = [SHELL, "/usr/bin/env"];

/// When steps get the toolbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Builtins {
    /// Where the image has no shell and lacks the step's program.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Always, behind what the image has.
    Always,
}

impl Builtins {
    const ALL: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("never", Self::Never), ("always", Self::Always)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, value)| *value == self).map_or("auto", |(name, _)| name)
    }

    /// The value of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
    }
}

/// Contents of the toolbox's modules.
pub(crate) fn contents() -> impl Iterator<Item = [u8; 32]> {
    PROGRAMS.iter().map(|program| program.content)
}

/// Mounts the toolbox if the step is to have it, and has its `PATH` lead there. What is to be said of it.
pub(crate) fn serve(
    builtins: Builtins,
    request: &mut StepRequest,
    root_fs: &RootFs,
    store: &Arc<dyn ContentStore>,
) -> Result<Option<String>, Failure> {
    let name = wanted_name(request);
    let is_wanted = match builtins {
        Builtins::Never => false,
        Builtins::Always => !PROGRAMS.is_empty(),
        Builtins::Auto => {
            !exists(root_fs, SHELL)
                && lacks_program(root_fs, request)
                && cooper_builtins::program(&name).is_some()
        }
    };
    if !is_wanted {
        return Ok(None);
    }
    let tree = tree(store).map_err(|error| store_failure(&error))?;
    let program =
        String::from_utf8_lossy(request.arguments.first().map_or(b"", Bytes::as_slice)).into_owned();
    let mut places = vec![(DIRECTORY.to_owned(), String::new())];
    let absolute = NAMED.into_iter().chain(program.starts_with('/').then_some(program.as_str()));
    for path in absolute {
        let name = last_part(path);
        let is_new = places.iter().all(|(place, _)| place != path);
        if is_new && cooper_builtins::program(name).is_some() && !exists(root_fs, path) {
            places.push((path.to_owned(), name.to_owned()));
        }
    }
    for (place, subpath) in places {
        let source = MountSource::Tree { tree: tree.clone(), subpath: subpath.into_bytes() };
        root_fs
            .mount(place.as_bytes(), source, MountOptions::READ_ONLY)
            .map_err(|errno| Failure::Died(format!("cannot mount the toolbox on `{place}`: {errno}")))?;
    }
    extend_path(request);
    let which = if name.is_empty() { "its tools".to_owned() } else { format!("`{name}`") };
    Ok(match builtins {
        Builtins::Auto => Some(format!("the image has no shell: cooper's toolbox serves {which}")),
        Builtins::Always | Builtins::Never => None,
    })
}

/// Whether the image lacks the step's program.
fn lacks_program(root_fs: &RootFs, request: &StepRequest) -> bool {
    // A path is taken as it is, found or not, when a step begins; an error is left to the `execve`.
    !find_program(root_fs, request).is_ok_and(|path| exists(root_fs, &String::from_utf8_lossy(&path)))
}

/// The last part of the step's program.
fn wanted_name(request: &StepRequest) -> String {
    let program = request.arguments.first().map_or(&b""[..], Bytes::as_slice);
    last_part(&String::from_utf8_lossy(program)).to_owned()
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn exists(root_fs: &RootFs, path: &str) -> bool {
    let (root, credentials) = (root_fs.root(), Credentials::root());
    let walk = Walk { root: &root, credentials: &credentials, caller: Caller::default() };
    root_fs.resolve(&walk, &root, path.as_bytes(), Follow::Yes).is_ok()
}

fn extend_path(request: &mut StepRequest) {
    let path = request.environment.iter_mut().find(|(name, _)| name.as_slice() == b"PATH");
    match path {
        Some((_, value)) => value.0 = [value.as_slice(), b":", DIRECTORY.as_bytes()].concat(),
        None => request.environment.push((Bytes(b"PATH".to_vec()), Bytes(DIRECTORY.into()))),
    }
}

/// The toolbox as a tree: a file for each name. Its contents are put into the store the first time.
fn tree(store: &Arc<dyn ContentStore>) -> io::Result<Tree> {
    let missing: Vec<&Program> =
        PROGRAMS.iter().filter(|program| store.open(&ContentId(program.content)).is_err()).collect();
    if !missing.is_empty() {
        let mut pack = store.pack()?;
        for program in missing {
            let module = zstd::decode_all(program.module)?;
            if pack.add_bytes(&module)? != ContentId(program.content) {
                return Err(io::Error::other("the toolbox is not what it was built from"));
            }
        }
        pack.finish()?;
    }
    let mut builder = TreeBuilder::new(&**store);
    for program in PROGRAMS {
        for name in program.names {
            let kind = NodeKind::File { content: ContentId(program.content), size: program.size };
            let entry = Entry { name: name.as_bytes().into(), metadata: metadata(), kind };
            builder.put(name.as_bytes(), entry)?;
        }
    }
    builder.finish()
}

fn metadata() -> Metadata {
    Metadata {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: 0, nanoseconds: 0 },
        xattrs: Default::default(),
    }
}
