#![allow(
    clippy::disallowed_methods,
    reason = "reads the host's resolver configuration, CPU count and memory limits, which become the step's figures"
)]
//! What a step's figures are taken from: the pod's cgroup, its processors and its name servers.

use std::fs;
use std::net::IpAddr;
use std::num::NonZero;
use std::thread;

/// The most name servers that resolvers look at (glibc's `MAXNS`).
const MAX_NAME_SERVERS: usize = 3;

/// Memory this process may use, in bytes: the cgroup's limit where there is one, else the machine's.
pub(crate) fn memory_bytes() -> u64 {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text));
    match (cgroup, machine) {
        (Some(cgroup), Some(machine)) => cgroup.min(machine),
        (cgroup, machine) => cgroup.or(machine).unwrap_or(2 << 30),
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Processors this process may use.
pub(crate) fn cpus() -> u32 {
    thread::available_parallelism().map_or(1, NonZero::get).try_into().unwrap_or(u32::MAX)
}

/// The host's resolver configuration without comments, and the servers it names.
pub(crate) fn resolver() -> (Vec<u8>, Vec<IpAddr>) {
    parse_resolver(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse_resolver(text: &str) -> (Vec<u8>, Vec<IpAddr>) {
    let (mut kept, mut servers) = (Vec::new(), Vec::new());
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(address) = words.next().and_then(|word| word.parse().ok())
            && servers.len() < MAX_NAME_SERVERS
        {
            servers.push(address);
        }
        kept.extend_from_slice(line.as_bytes());
        kept.push(b'\n');
    }
    (kept, servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_comments_dropped() {
        let (text, servers) =
            parse_resolver("# made by x\nsearch a.b\nnameserver 10.0.0.10\nnameserver bad\n");
        assert_eq!(text, b"search a.b\nnameserver 10.0.0.10\nnameserver bad\n");
        assert_eq!(servers, [IpAddr::from([10, 0, 0, 10])]);
    }

    #[test]
    fn total_memory_is_in_bytes() {
        assert_eq!(total_memory("MemTotal:       16 kB\nMemFree: 3 kB\n"), Some(16384));
        assert_eq!(total_memory("MemFree: 3 kB\n"), None);
    }
}
