//! stub
use super::Socket;
use crate::cx::Cx;
use crate::files::Errno;
use crate::syscalls::SysResult;

/// stub
pub(crate) fn ioctl(_cx: &Cx<'_>, _socket: &dyn Socket, _request: u32, _argument: u64) -> SysResult {
    Err(Errno::NOTTY.into())
}
