//! Socket options: which exist, what they hold before anybody sets them, what they accept.
//!
//! Options are data: a table says level, name, shape and default. What is set is stored and given back. Those with
//! an effect inside the step are read where they matter (timeouts, `SO_PASSCRED`, buffer sizes); those that tune the
//! transport are passed on to host sockets or are hints without a visible effect. Everything else is `ENOPROTOOPT`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::mailbox::{DEFAULT_CAPACITY, Mailbox};
use crate::files::{Errno, lock};

/// `SOL_SOCKET`.
pub(crate) const SOL_SOCKET: i32 = 1;
/// `IPPROTO_TCP`.
pub(crate) const SOL_TCP: i32 = 6;

/// Names of the options at [`SOL_SOCKET`] that the kernel looks at.
pub(crate) mod so {
    pub(crate) const TYPE: i32 = 3;
    pub(crate) const ERROR: i32 = 4;
    pub(crate) const SNDBUF: i32 = 7;
    pub(crate) const RCVBUF: i32 = 8;
    pub(crate) const PASSCRED: i32 = 16;
    pub(crate) const PEERCRED: i32 = 17;
    pub(crate) const RCVTIMEO: i32 = 20;
    pub(crate) const SNDTIMEO: i32 = 21;
    pub(crate) const ACCEPTCONN: i32 = 30;
    pub(crate) const SNDBUFFORCE: i32 = 32;
    pub(crate) const RCVBUFFORCE: i32 = 33;
    pub(crate) const PROTOCOL: i32 = 38;
    pub(crate) const DOMAIN: i32 = 39;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// An `int`.
    Integer,
    /// An `int` that reads back as 0 or 1.
    Flag,
    /// `struct timeval`.
    Time,
    /// `struct linger`: two `int`s.
    Linger,
    /// A name of up to 16 bytes.
    Text(&'static str),
}

struct Spec(i32, i32, Shape, i32);

/// Every option that can be set: level, name, shape, default.
const TABLE: &[Spec] = &[
    Spec(SOL_SOCKET, 2, Shape::Flag, 0), // SO_REUSEADDR
    Spec(SOL_SOCKET, 5, Shape::Flag, 0), // SO_DONTROUTE
    Spec(SOL_SOCKET, 6, Shape::Flag, 0), // SO_BROADCAST
    Spec(SOL_SOCKET, so::SNDBUF, Shape::Integer, DEFAULT_CAPACITY as i32),
    Spec(SOL_SOCKET, so::RCVBUF, Shape::Integer, DEFAULT_CAPACITY as i32),
    Spec(SOL_SOCKET, 9, Shape::Flag, 0),     // SO_KEEPALIVE
    Spec(SOL_SOCKET, 10, Shape::Flag, 0),    // SO_OOBINLINE
    Spec(SOL_SOCKET, 12, Shape::Integer, 0), // SO_PRIORITY
    Spec(SOL_SOCKET, 13, Shape::Linger, 0),  // SO_LINGER
    Spec(SOL_SOCKET, 15, Shape::Flag, 0),    // SO_REUSEPORT
    Spec(SOL_SOCKET, so::PASSCRED, Shape::Flag, 0),
    Spec(SOL_SOCKET, 18, Shape::Integer, 1), // SO_RCVLOWAT
    Spec(SOL_SOCKET, so::RCVTIMEO, Shape::Time, 0),
    Spec(SOL_SOCKET, so::SNDTIMEO, Shape::Time, 0),
    Spec(SOL_SOCKET, 40, Shape::Flag, 0),       // SO_RXQ_OVFL
    Spec(0, 1, Shape::Integer, 0),              // IP_TOS
    Spec(0, 2, Shape::Integer, 64),             // IP_TTL
    Spec(0, 8, Shape::Flag, 0),                 // IP_PKTINFO
    Spec(0, 10, Shape::Integer, 1),             // IP_MTU_DISCOVER
    Spec(0, 11, Shape::Flag, 0),                // IP_RECVERR
    Spec(0, 12, Shape::Flag, 0),                // IP_RECVTTL
    Spec(0, 15, Shape::Flag, 0),                // IP_FREEBIND
    Spec(0, 24, Shape::Flag, 0),                // IP_BIND_ADDRESS_NO_PORT
    Spec(0, 33, Shape::Integer, 1),             // IP_MULTICAST_TTL
    Spec(0, 34, Shape::Flag, 1),                // IP_MULTICAST_LOOP
    Spec(SOL_TCP, 1, Shape::Flag, 0),           // TCP_NODELAY
    Spec(SOL_TCP, 2, Shape::Integer, 1460),     // TCP_MAXSEG
    Spec(SOL_TCP, 3, Shape::Flag, 0),           // TCP_CORK
    Spec(SOL_TCP, 4, Shape::Integer, 7200),     // TCP_KEEPIDLE
    Spec(SOL_TCP, 5, Shape::Integer, 75),       // TCP_KEEPINTVL
    Spec(SOL_TCP, 6, Shape::Integer, 9),        // TCP_KEEPCNT
    Spec(SOL_TCP, 7, Shape::Integer, 6),        // TCP_SYNCNT
    Spec(SOL_TCP, 8, Shape::Integer, 60),       // TCP_LINGER2
    Spec(SOL_TCP, 9, Shape::Integer, 0),        // TCP_DEFER_ACCEPT
    Spec(SOL_TCP, 12, Shape::Flag, 1),          // TCP_QUICKACK
    Spec(SOL_TCP, 13, Shape::Text("cubic"), 0), // TCP_CONGESTION
    Spec(SOL_TCP, 18, Shape::Integer, 0),       // TCP_USER_TIMEOUT
    Spec(SOL_TCP, 25, Shape::Integer, -1),      // TCP_NOTSENT_LOWAT
    Spec(41, 16, Shape::Integer, -1),           // IPV6_UNICAST_HOPS
    Spec(41, 18, Shape::Integer, 1),            // IPV6_MULTICAST_HOPS
    Spec(41, 19, Shape::Flag, 1),               // IPV6_MULTICAST_LOOP
    Spec(41, 23, Shape::Integer, 1),            // IPV6_MTU_DISCOVER
    Spec(41, 25, Shape::Flag, 0),               // IPV6_RECVERR
    Spec(41, 26, Shape::Flag, 0),               // IPV6_V6ONLY
    Spec(41, 49, Shape::Flag, 0),               // IPV6_RECVPKTINFO
    Spec(41, 67, Shape::Integer, 0),            // IPV6_TCLASS
];

/// What was set on one socket.
#[derive(Debug)]
pub(crate) struct Options {
    values: Mutex<BTreeMap<(i32, i32), Vec<u8>>>,
}

impl Clone for Options {
    fn clone(&self) -> Self {
        Self { values: Mutex::new(lock(&self.values).clone()) }
    }
}

fn spec(level: i32, name: i32) -> Result<&'static Spec, Errno> {
    TABLE.iter().find(|spec| (spec.0, spec.1) == (level, name)).ok_or(Errno::NOPROTOOPT)
}

fn integer(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Errno::INVAL)
}

impl Options {
    /// Everything at its default.
    pub(crate) fn new() -> Self {
        Self { values: Mutex::default() }
    }

    /// Stores an option and returns the value as it will be read back.
    ///
    /// `ENOPROTOOPT` for one that does not exist; `EINVAL` for a value that is too short; `EDOM` for a time with
    /// microseconds out of range; `ENOENT` for a congestion control other than `cubic` and `reno`.
    pub(crate) fn set(&self, level: i32, name: i32, value: &[u8]) -> Result<Vec<u8>, Errno> {
        // The forced variants need a privilege no guest has over the host; they behave as the plain ones.
        let name = match (level, name) {
            (SOL_SOCKET, so::SNDBUFFORCE) => so::SNDBUF,
            (SOL_SOCKET, so::RCVBUFFORCE) => so::RCVBUF,
            _ => name,
        };
        let stored = match spec(level, name)?.2 {
            Shape::Flag => i32::from(integer(value)? != 0).to_ne_bytes().to_vec(),
            // Linux doubles buffer sizes for its own bookkeeping, and programs see that.
            Shape::Integer if level == SOL_SOCKET && matches!(name, so::SNDBUF | so::RCVBUF) => {
                let size = integer(value)?.clamp(1152, DEFAULT_CAPACITY as i32);
                (size * 2).to_ne_bytes().to_vec()
            }
            Shape::Integer => integer(value)?.to_ne_bytes().to_vec(),
            Shape::Linger => value.get(..8).ok_or(Errno::INVAL)?.to_vec(),
            Shape::Time => {
                let bytes = value.get(..16).ok_or(Errno::INVAL)?;
                let micros = i64::from_ne_bytes(bytes[8..].try_into().map_err(|_| Errno::INVAL)?);
                if !(0..1_000_000).contains(&micros) {
                    return Err(Errno::DOM);
                }
                bytes.to_vec()
            }
            Shape::Text(_) => {
                let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
                if !matches!(&value[..end], b"cubic" | b"reno") {
                    return Err(Errno::NOENT);
                }
                let mut name = value[..end].to_vec();
                name.resize(16, 0);
                name
            }
        };
        lock(&self.values).insert((level, name), stored.clone());
        Ok(stored)
    }

    /// Returns an option. `ENOPROTOOPT` for one that does not exist.
    pub(crate) fn get(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let spec = spec(level, name)?;
        if let Some(value) = lock(&self.values).get(&(level, name)) {
            return Ok(value.clone());
        }
        Ok(match spec.2 {
            Shape::Flag | Shape::Integer => spec.3.to_ne_bytes().to_vec(),
            Shape::Linger => vec![0; 8],
            Shape::Time => vec![0; 16],
            Shape::Text(text) => {
                let mut bytes = text.as_bytes().to_vec();
                bytes.resize(16, 0);
                bytes
            }
        })
    }

    /// Whether a flag is set.
    pub(crate) fn is_set(&self, level: i32, name: i32) -> bool {
        lock(&self.values).get(&(level, name)).is_some_and(|value| value.first() == Some(&1))
    }

    /// A timeout, or `None` for no limit.
    pub(crate) fn timeout(&self, name: i32) -> Option<Duration> {
        let value = lock(&self.values).get(&(SOL_SOCKET, name)).cloned()?;
        let seconds = i64::from_ne_bytes(value.get(..8)?.try_into().ok()?);
        let micros = i64::from_ne_bytes(value.get(8..16)?.try_into().ok()?);
        let duration = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(micros).ok()? * 1000);
        (!duration.is_zero()).then_some(duration)
    }

    /// Everything that was set, to repeat it on a host socket.
    pub(crate) fn all(&self) -> Vec<((i32, i32), Vec<u8>)> {
        lock(&self.values).iter().map(|(key, value)| (*key, value.clone())).collect()
    }
}

/// Gives a mailbox the size that `SO_RCVBUF` asks for.
pub(crate) fn apply_buffer(mailbox: &Mailbox, level: i32, name: i32, value: &[u8]) {
    if let ((SOL_SOCKET, so::RCVBUF), Ok(size)) = ((level, name), integer(value)) {
        mailbox.set_capacity(size as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_stored_and_given_back() {
        let options = Options::new();
        let one = 1i32.to_ne_bytes();
        assert_eq!(options.get(SOL_SOCKET, 2), Ok(vec![0; 4]));
        assert_eq!(options.set(SOL_SOCKET, 2, &7i32.to_ne_bytes()), Ok(one.to_vec()));
        assert!(options.is_set(SOL_SOCKET, 2));
        assert_eq!(options.get(SOL_TCP, 4), Ok(7200i32.to_ne_bytes().to_vec()));
        assert_eq!(options.set(SOL_SOCKET, 999, &one), Err(Errno::NOPROTOOPT));
        assert_eq!(options.set(SOL_SOCKET, 2, &[1]), Err(Errno::INVAL));
        assert_eq!(options.set(SOL_TCP, 13, b"vegas"), Err(Errno::NOENT));
    }

    #[test]
    fn timeouts_are_read_as_time() {
        let options = Options::new();
        assert_eq!(options.timeout(so::RCVTIMEO), None);
        let mut value = 2i64.to_ne_bytes().to_vec();
        value.extend(500_000i64.to_ne_bytes());
        assert!(options.set(SOL_SOCKET, so::RCVTIMEO, &value).is_ok());
        assert_eq!(options.timeout(so::RCVTIMEO), Some(Duration::from_millis(2500)));
        assert_eq!(options.set(SOL_SOCKET, so::RCVTIMEO, &[0xff; 16]), Err(Errno::DOM));
    }

    #[test]
    fn buffer_sizes_read_back_doubled() {
        let options = Options::new();
        assert!(options.set(SOL_SOCKET, so::RCVBUF, &8192i32.to_ne_bytes()).is_ok());
        assert_eq!(options.get(SOL_SOCKET, so::RCVBUF), Ok(16384i32.to_ne_bytes().to_vec()));
    }
}
