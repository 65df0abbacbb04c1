//! Random bytes, from the host.

use crate::files::Errno;

/// Fills `buffer` with random bytes. `EIO` when the host has none, which no supported host does.
pub(crate) fn fill(buffer: &mut [u8]) -> Result<(), Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(_) => return Err(Errno::IO),
        }
    }
    Ok(())
}
