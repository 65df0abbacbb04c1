//! The usual `/dev`, as data.

use super::names::Fresh;

/// Character devices: name, mode, major, minor.
const DEVICES: [(&[u8], u16, u32, u32); 8] = [
    (b"null", 0o666, 1, 3),
    (b"zero", 0o666, 1, 5),
    (b"full", 0o666, 1, 7),
    (b"random", 0o666, 1, 8),
    (b"urandom", 0o666, 1, 9),
    (b"tty", 0o666, 5, 0),
    (b"console", 0o620, 5, 1),
    (b"ptmx", 0o666, 5, 2),
];

/// Symbolic links: name and target.
const LINKS: [(&[u8], &[u8]); 5] = [
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
    (b"core", b"/proc/kcore"),
];

/// Directories: name and mode.
const DIRECTORIES: [(&[u8], u16); 3] = [(b"pts", 0o755), (b"shm", 0o1777), (b"mqueue", 0o1777)];

/// Everything in `/dev`, by name.
pub(super) fn entries() -> impl Iterator<Item = (&'static [u8], Fresh<'static>)> {
    let devices = DEVICES
        .iter()
        .map(|&(name, mode, major, minor)| (name, Fresh::Device { mode, character: true, major, minor }));
    let links = LINKS.iter().map(|&(name, target)| (name, Fresh::Symlink { target }));
    let directories = DIRECTORIES.iter().map(|&(name, mode)| (name, Fresh::Directory { mode }));
    devices.chain(links).chain(directories)
}
