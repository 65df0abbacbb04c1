//! Plain values in guest memory.
//!
//! A structure of the Linux ABI is copied in or out once, as bytes or as an array of integers, and taken apart by
//! safe code; [`Plain`] names the types for which that is possible.

use cooper_vfs::Errno;
use cooper_x86::memory::{CStringError, CopyFault};

use super::AddressSpace;
use super::annex::is_beyond;

/// A value that is its bytes, little endian.
pub trait Plain: Copy + Sized {
    /// Size in guest memory.
    const SIZE: usize;

    /// Takes the value from exactly [`SIZE`](Self::SIZE) bytes.
    fn from_bytes(bytes: &[u8]) -> Self;

    /// Puts the value into exactly [`SIZE`](Self::SIZE) bytes.
    fn to_bytes(self, bytes: &mut [u8]);
}

macro_rules! plain_integers {
    ($($kind:ty),*) => {$(
        impl Plain for $kind {
            const SIZE: usize = size_of::<$kind>();

            fn from_bytes(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$kind>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }

            fn to_bytes(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

plain_integers!(u8, u16, u32, u64, u128, i8, i16, i32, i64);

impl<T: Plain, const N: usize> Plain for [T; N] {
    const SIZE: usize = T::SIZE * N;

    fn from_bytes(bytes: &[u8]) -> Self {
        std::array::from_fn(|index| T::from_bytes(&bytes[index * T::SIZE..][..T::SIZE]))
    }

    fn to_bytes(self, bytes: &mut [u8]) {
        for (value, part) in self.into_iter().zip(bytes.chunks_exact_mut(T::SIZE)) {
            value.to_bytes(part);
        }
    }
}

/// Values up to this size need no allocation.
const INLINE: usize = 256;

fn fault<E>(_: E) -> Errno {
    Errno::FAULT
}

/// Access to guest memory as system calls make it. An address outside the window or a page without the right is `EFAULT`.
impl AddressSpace {
    /// Copies a value in.
    pub fn load<T: Plain>(&self, address: u64) -> Result<T, Errno> {
        if T::SIZE <= INLINE {
            let mut bytes = [0; INLINE];
            self.read_bytes(address, &mut bytes[..T::SIZE])?;
            return Ok(T::from_bytes(&bytes[..T::SIZE]));
        }
        Ok(T::from_bytes(&self.read_vec(address, T::SIZE)?))
    }

    /// Copies a value out.
    pub fn store<T: Plain>(&self, address: u64, value: T) -> Result<(), Errno> {
        if T::SIZE <= INLINE {
            let mut bytes = [0; INLINE];
            value.to_bytes(&mut bytes[..T::SIZE]);
            return self.write_bytes(address, &bytes[..T::SIZE]);
        }
        let mut bytes = vec![0; T::SIZE];
        value.to_bytes(&mut bytes);
        self.write_bytes(address, &bytes)
    }

    /// Copies a value out where the pointer is not null.
    pub fn store_optional<T: Plain>(&self, address: u64, value: T) -> Result<(), Errno> {
        if address == 0 { Ok(()) } else { self.store(address, value) }
    }

    /// Copies all of `buffer` in.
    pub fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        match self.memory.read(address, buffer) {
            Err(_) if is_beyond(address) && self.read_annex(address, buffer) == buffer.len() => Ok(()),
            done => done.map_err(fault),
        }
    }

    /// Copies `length` bytes in; the caller has bounded `length`.
    pub fn read_vec(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        self.read_bytes(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies all of `bytes` out.
    pub fn write_bytes(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        match self.memory.write(address, bytes) {
            Err(_) if is_beyond(address) && self.write_annex(address, bytes) == bytes.len() => Ok(()),
            done => done.map_err(fault),
        }
    }

    /// Copies in until a fault; `EFAULT` only when nothing could be copied.
    pub fn read_some(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        if is_beyond(address) {
            return some_of_annex(buffer.len(), self.read_annex(address, buffer));
        }
        some(buffer.len(), self.memory.read(address, buffer))
    }

    /// Copies out until a fault; `EFAULT` only when nothing could be copied.
    pub fn write_some(&self, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
        if is_beyond(address) {
            return some_of_annex(bytes.len(), self.write_annex(address, bytes));
        }
        some(bytes.len(), self.memory.write(address, bytes))
    }

    /// Copies a string in, without its terminating zero. `limit` counts the zero; `ENAMETOOLONG` beyond it.
    pub fn read_c_string(&self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        match self.memory.read_c_string(address, limit.saturating_sub(1)) {
            Ok(string) => Ok(string),
            Err(CStringError::Fault(_)) if is_beyond(address) => self.annex_string(address, limit),
            Err(CStringError::Fault(_)) => Err(Errno::FAULT),
            Err(CStringError::TooLong(_)) => Err(Errno::NAMETOOLONG),
        }
    }
}

fn some_of_annex(wanted: usize, count: usize) -> Result<usize, Errno> {
    if count == 0 && wanted > 0 { Err(Errno::FAULT) } else { Ok(count) }
}

fn some(wanted: usize, result: Result<(), CopyFault>) -> Result<usize, Errno> {
    match result {
        Ok(()) => Ok(wanted),
        Err(CopyFault { done: 0, .. }) => Err(Errno::FAULT),
        Err(CopyFault { done, .. }) => Ok(done),
    }
}
