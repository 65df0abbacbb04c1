//! Character devices and the step's standard streams.
//!
//! A device node is a record in the file system; what it does when opened is decided here by its numbers. Only
//! the memory devices are here; [terminals](crate::terminal) have a module of their own. `/dev/console` is `ENXIO`.

pub(crate) mod random;
pub(crate) mod stdio;

use crate::files::transfer::copy_out;
use crate::files::{Errno, FileObject, Input, Output};

/// Major number of the memory devices.
const MEMORY: u32 = 1;

/// Opens a device. `ENXIO` when nothing stands behind the numbers.
pub(crate) fn open(character: bool, major: u32, minor: u32) -> Result<Box<dyn FileObject>, Errno> {
    let device = match (character, major, minor) {
        (true, MEMORY, 3) => MemoryDevice::Null,
        (true, MEMORY, 5) => MemoryDevice::Zero,
        (true, MEMORY, 7) => MemoryDevice::Full,
        (true, MEMORY, 8 | 9) => MemoryDevice::Random,
        _ => return Err(Errno::NXIO),
    };
    Ok(Box::new(device))
}

/// A memory device (null(4), full(4), random(4)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryDevice {
    /// Swallows everything, gives the end of the file.
    Null,
    /// Swallows everything, gives zeros.
    Zero,
    /// Gives zeros; writing is `ENOSPC`.
    Full,
    /// Gives random bytes; what is written is mixed in, which changes nothing one could see.
    Random,
}

impl FileObject for MemoryDevice {
    fn read(&self, output: &mut dyn Output, _offset: u64) -> Result<usize, Errno> {
        match self {
            Self::Null => Ok(0),
            Self::Zero | Self::Full => copy_out(output, |_, buffer| {
                buffer.fill(0);
                Ok(buffer.len())
            }),
            Self::Random => copy_out(output, |_, buffer| {
                random::fill(buffer)?;
                Ok(buffer.len())
            }),
        }
    }

    fn write(&self, input: &mut dyn Input, _offset: u64) -> Result<usize, Errno> {
        match self {
            Self::Full => Err(Errno::NOSPC),
            Self::Null | Self::Zero | Self::Random => Ok(input.remaining()),
        }
    }

    fn pollable(&self) -> bool {
        *self == Self::Random
    }

    fn seekable(&self) -> bool {
        true
    }

    fn anonymous(&self) -> Option<crate::files::Anonymous> {
        Some(crate::files::Anonymous { label: b"/dev/null".to_vec(), mode: 0o020_666, inode: 4, size: 0 })
    }

    fn kind(&self) -> crate::files::Kind<'_> {
        crate::files::Kind::Device(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::transfer::{HostInput, HostOutput};

    #[test]
    fn memory_devices_behave_as_their_manual_says() {
        let mut buffer = [7; 4];
        assert_eq!(MemoryDevice::Null.read(&mut HostOutput::new(&mut buffer), 0), Ok(0));
        assert_eq!(MemoryDevice::Zero.read(&mut HostOutput::new(&mut buffer), 0), Ok(4));
        assert_eq!(buffer, [0; 4]);
        assert_eq!(MemoryDevice::Null.write(&mut HostInput::new(b"abc"), 0), Ok(3));
        assert_eq!(MemoryDevice::Full.write(&mut HostInput::new(b"abc"), 0), Err(Errno::NOSPC));
        let mut long = vec![0; 100_000];
        assert_eq!(MemoryDevice::Random.read(&mut HostOutput::new(&mut long), 0), Ok(100_000));
        assert!(long.iter().any(|byte| *byte != 0));
    }

    #[test]
    fn other_devices_are_enxio() {
        for (character, major, minor) in
            [(true, 5, 0), (true, 5, 1), (true, 5, 2), (false, 1, 3), (true, 1, 1)]
        {
            assert_eq!(open(character, major, minor).err(), Some(Errno::NXIO));
        }
    }
}
