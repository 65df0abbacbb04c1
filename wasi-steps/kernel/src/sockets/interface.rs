//! Interface requests of `ioctl` on sockets (netdevice(7)): the few that programs make to find addresses.

use super::Socket;
use super::netlink::{Interface, interfaces};
use crate::cx::Cx;
use crate::files::Errno;
use crate::syscalls::SysResult;

const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFINDEX: u32 = 0x8933;

/// Size of `struct ifreq`: a name of 16 bytes and a union of 24.
const REQUEST: usize = 40;

/// Answers an interface request. `ENODEV` for an interface that does not exist; `ENOTTY` for other requests.
pub(crate) fn ioctl(cx: &Cx<'_>, _socket: &dyn Socket, request: u32, argument: u64) -> SysResult {
    match request {
        SIOCGIFCONF => list(cx, argument),
        SIOCGIFFLAGS | SIOCGIFADDR | SIOCGIFNETMASK | SIOCGIFMTU | SIOCGIFINDEX => {
            let name: [u8; 16] = cx.memory().load(argument)?;
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            let found = interfaces(&cx.kernel.registry.inet).find(|one| one.name.as_bytes() == &name[..end]);
            let interface = found.ok_or(Errno::NODEV)?;
            let mut value = [0; REQUEST - 16];
            let bytes: Vec<u8> = match request {
                SIOCGIFFLAGS => (interface.flags as u16).to_ne_bytes().to_vec(),
                SIOCGIFADDR => address(interface.address.octets()).to_vec(),
                SIOCGIFNETMASK => address((!0u32 << (32 - interface.prefix)).to_be_bytes()).to_vec(),
                SIOCGIFMTU => interface.mtu().to_ne_bytes().to_vec(),
                _ => interface.index.to_ne_bytes().to_vec(),
            };
            value[..bytes.len()].copy_from_slice(&bytes);
            cx.memory().write_bytes(argument.wrapping_add(16), &value)?;
            Ok(0)
        }
        _ => Err(Errno::NOTTY.into()),
    }
}

/// A `struct sockaddr_in` without port.
fn address(octets: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = super::address::AF_INET as u8;
    bytes[4..8].copy_from_slice(&octets);
    bytes
}

fn encode(interface: &Interface) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..interface.name.len()].copy_from_slice(interface.name.as_bytes());
    bytes[16..32].copy_from_slice(&address(interface.address.octets()));
    bytes
}

/// Fills a `struct ifconf`; without a buffer only the length.
fn list(cx: &Cx<'_>, argument: u64) -> SysResult {
    let length: i32 = cx.memory().load(argument)?;
    let buffer: u64 = cx.memory().load(argument.wrapping_add(8))?;
    let all: Vec<u8> = interfaces(&cx.kernel.registry.inet).flat_map(encode).collect();
    let room = usize::try_from(length).map_err(|_| Errno::INVAL)? / REQUEST * REQUEST;
    let count = if buffer == 0 { all.len() } else { all.len().min(room) };
    if buffer != 0 {
        cx.memory().write_bytes(buffer, &all[..count])?;
    }
    cx.memory().store(argument, count as i32)?;
    Ok(0)
}
