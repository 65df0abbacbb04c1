//! Extended attributes.

use cooper_vfs::{Errno, Position, XattrCondition};

use super::{Entry, SysResult, full};
use crate::cx::{AT_FDCWD, Cx};
use crate::files::place::{self, at};

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    full(188, "setxattr", set),
    full(189, "lsetxattr", set),
    full(190, "fsetxattr", set),
    full(191, "getxattr", get),
    full(192, "lgetxattr", get),
    full(193, "fgetxattr", get),
    full(194, "listxattr", list),
    full(195, "llistxattr", list),
    full(196, "flistxattr", list),
    full(197, "removexattr", remove),
    full(198, "lremovexattr", remove),
    full(199, "fremovexattr", remove),
];

/// Longest name (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;
/// Largest value and list (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const SIZE_MAX: u64 = 65_536;

/// The place a call means. Each operation has three calls in a row: by path, by path without following a final
/// link, by descriptor.
fn position(cx: &Cx<'_>, argument: u64) -> Result<Position, Errno> {
    match (cx.number - 188) % 3 {
        0 => place::position(cx, AT_FDCWD as u64, argument, 0, 0),
        1 => place::position(cx, AT_FDCWD as u64, argument, at::SYMLINK_NOFOLLOW, at::SYMLINK_NOFOLLOW),
        _ => {
            let file = cx.file(argument)?;
            if file.is_path() {
                return Err(Errno::BADF);
            }
            file.position().cloned().ok_or(Errno::OPNOTSUPP)
        }
    }
}

/// Copies a name in. `ERANGE` when it is empty or too long.
fn name(cx: &Cx<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    let name = cx.memory().read_c_string(address, NAME_MAX + 1);
    match name {
        Ok(name) if name.is_empty() => Err(Errno::RANGE),
        Err(Errno::NAMETOOLONG) => Err(Errno::RANGE),
        result => result,
    }
}

/// Copies an answer out, or only tells its size. `ERANGE` when the buffer is too small.
fn answer(cx: &Cx<'_>, bytes: &[u8], address: u64, size: u64) -> SysResult {
    if size > 0 {
        if bytes.len() as u64 > size {
            return Err(Errno::RANGE.into());
        }
        cx.memory().write_bytes(address, bytes)?;
    }
    Ok(bytes.len() as u64)
}

/// `EINVAL` for unknown flags; `E2BIG` for a value that is too large.
fn set(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [target, name_address, value, size, flags, _] = arguments;
    let condition = match flags {
        0 => XattrCondition::Any,
        1 => XattrCondition::Create,
        2 => XattrCondition::Replace,
        _ => return Err(Errno::INVAL.into()),
    };
    let name = name(cx, name_address)?;
    if size > SIZE_MAX {
        return Err(Errno::TOOBIG.into());
    }
    let value = cx.memory().read_vec(value, size as usize)?;
    position(cx, target)?.set_xattr(&cx.walk(), &name, &value, condition)?;
    Ok(0)
}

fn get(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [target, name_address, address, size, ..] = arguments;
    let position = position(cx, target)?;
    let value = position.get_xattr(&cx.walk(), &name(cx, name_address)?)?;
    answer(cx, &value, address, size)
}

fn list(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [target, address, size, ..] = arguments;
    let mut bytes = Vec::new();
    for name in position(cx, target)?.list_xattr(&cx.walk())? {
        bytes.extend(name);
        bytes.push(0);
    }
    answer(cx, &bytes, address, size)
}

fn remove(cx: &mut Cx<'_>, arguments: [u64; 6]) -> SysResult {
    let [target, name_address, ..] = arguments;
    let position = position(cx, target)?;
    position.remove_xattr(&cx.walk(), &name(cx, name_address)?)?;
    Ok(0)
}
