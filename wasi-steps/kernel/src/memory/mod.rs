//! Address spaces.

mod access;

use cooper_x86::memory::GuestMemory;

pub use access::Plain;

/// The memory of a guest process.
#[derive(Debug)]
pub struct AddressSpace {
    memory: GuestMemory,
}
