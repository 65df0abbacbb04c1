//! The host's floating point modes around code that computes for the guest.
//!
//! While guest code runs, interpreted or translated, the host's MXCSR has the guest's rounding and flush modes with all exceptions
//! masked. Rust code in between gets the host's own back.

/// Gives the host the guest's modes; the host's own are returned, for [`leave`].
pub fn enter(guest: u32) -> u32 {
    crate::host::enter_float(guest)
}

/// Gives the host its own modes back; the guest's MXCSR with the flags that were raised since.
pub fn leave(own: u32, guest: u32) -> u32 {
    crate::host::leave_float(own, guest)
}
