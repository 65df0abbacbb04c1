//! Arguments, environment, clocks, randomness, signals.

use cooper_kernel::memory::AddressSpace;

use super::super::errno::Errno;
use super::super::loader::Module;
use super::super::process::{Fail, Guest};
use super::{Done, call};

/// Where the clock of a program without the real one starts: 1 January 2000, in seconds since 1970. Archives have times from 1980 on.
const START: u64 = 946_684_800;
/// What passes between two looks at it, in nanoseconds.
const TICK: u64 = 1000;
/// What a clock's resolution is said to be.
const RESOLUTION: u64 = 1000;
const NANOSECONDS: u64 = 1_000_000_000;
/// The variable that says when it is, for programs that are to give the same bytes every time.
const SOURCE_DATE_EPOCH: &[u8] = b"SOURCE_DATE_EPOCH=";

/// `clockid`: wall clock, monotonic clock, processor time of the process and of the thread. Linux has the same numbers.
const CLOCKS: u32 = 4;
/// The wall clock.
pub(super) const WALL_CLOCK: u32 = 0;
/// The monotonic clock.
pub(super) const MONOTONIC_CLOCK: u32 = 1;

/// The time and the randomness that a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Clock {
    /// The step's.
    Real,
    /// The same in every run: nanoseconds since the start, and the state of a generator.
    Repeated {
        /// Nanoseconds so far.
        passed: u64,
        /// Where the generator is.
        random: u64,
    },
}

impl Clock {
    /// Of a fresh run.
    pub(in super::super) fn of(module: &Module) -> Self {
        if module.is_trusted {
            return Self::Real;
        }
        let mut seed = [0; 8];
        seed.copy_from_slice(&module.id[..8]);
        Self::Repeated { passed: 0, random: u64::from_le_bytes(seed) }
    }
}

impl Guest {
    /// The time of a clock in nanoseconds.
    pub(super) fn time(&mut self, id: u32) -> Result<u64, Fail> {
        if id >= CLOCKS {
            return Err(Errno::INVAL.into());
        }
        if let Clock::Repeated { passed, .. } = &mut self.clock {
            *passed += TICK;
            let passed = *passed;
            let start = if id == WALL_CLOCK { start(&self.space) } else { 0 };
            return Ok(start.saturating_mul(NANOSECONDS).saturating_add(passed));
        }
        let place = Self::ROOM.0;
        self.call(call::CLOCK_GETTIME, [id.into(), place, 0, 0, 0, 0])?;
        let [seconds, nanoseconds]: [u64; 2] = self.space.load(place)?;
        Ok(seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds))
    }
}

fn start(space: &AddressSpace) -> u64 {
    let environment = space.environment();
    let value = environment.iter().find_map(|variable| variable.strip_prefix(SOURCE_DATE_EPOCH));
    value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(START)
}

/// Stores strings one behind the other, and pointers to them.
fn store_strings(guest: &Guest, strings: &[Vec<u8>], pointers: u32, buffer: u32) -> Done {
    let mut at = buffer;
    let mut all = Vec::new();
    let mut table = Vec::new();
    for string in strings {
        table.extend_from_slice(&at.to_le_bytes());
        all.extend_from_slice(string);
        all.push(0);
        at = at.wrapping_add(string.len() as u32 + 1);
    }
    guest.space.write_bytes(pointers.into(), &table)?;
    Ok(guest.space.write_bytes(buffer.into(), &all)?)
}

fn store_sizes(guest: &Guest, strings: &[Vec<u8>], count: u32, size: u32) -> Done {
    let bytes: usize = strings.iter().map(|string| string.len() + 1).sum();
    guest.space.store(count.into(), strings.len() as u32)?;
    Ok(guest.space.store(size.into(), bytes as u32)?)
}

pub(super) fn args_get(guest: &mut Guest, argv: u32, buffer: u32) -> Done {
    store_strings(guest, &guest.space.arguments(), argv, buffer)
}

pub(super) fn args_sizes_get(guest: &mut Guest, count: u32, size: u32) -> Done {
    store_sizes(guest, &guest.space.arguments(), count, size)
}

/// The environment, with `PWD` where nobody has set it: it is how a program that cannot ask learns its working directory.
fn environment(guest: &mut Guest) -> Result<Vec<Vec<u8>>, Fail> {
    const GETCWD: u64 = 79;
    let mut variables = guest.space.environment();
    if variables.iter().any(|variable| variable.starts_with(b"PWD=")) {
        return Ok(variables);
    }
    let (place, size) = (Guest::ROOM.0, 4096);
    match guest.call(GETCWD, [place, size, 0, 0, 0, 0]) {
        Ok(_) => {
            let path = guest.space.read_c_string(place, size as usize)?;
            variables.push([b"PWD=", path.as_slice()].concat());
        }
        // A directory that is no longer there has no name.
        Err(Fail::Errno(_)) => {}
        Err(leave) => return Err(leave),
    }
    Ok(variables)
}

pub(super) fn environ_get(guest: &mut Guest, environ: u32, buffer: u32) -> Done {
    let variables = environment(guest)?;
    store_strings(guest, &variables, environ, buffer)
}

pub(super) fn environ_sizes_get(guest: &mut Guest, count: u32, size: u32) -> Done {
    let variables = environment(guest)?;
    store_sizes(guest, &variables, count, size)
}

pub(super) fn clock_res_get(guest: &mut Guest, id: u32, result: u32) -> Done {
    if id >= CLOCKS {
        return Err(Errno::INVAL.into());
    }
    let resolution = if guest.clock == Clock::Real {
        let place = Guest::ROOM.0;
        guest.call(call::CLOCK_GETRES, [id.into(), place, 0, 0, 0, 0])?;
        let [seconds, nanoseconds]: [u64; 2] = guest.space.load(place)?;
        seconds * NANOSECONDS + nanoseconds
    } else {
        RESOLUTION
    };
    Ok(guest.space.store(result.into(), resolution)?)
}

pub(super) fn clock_time_get(guest: &mut Guest, id: u32, _: u64, result: u32) -> Done {
    let time = guest.time(id)?;
    Ok(guest.space.store(result.into(), time)?)
}

pub(super) fn proc_raise(guest: &mut Guest, signal: u32) -> Done {
    /// From here on Linux's numbers are one higher: WASI has no `SIGSTKFLT`.
    const CHLD: u32 = 16;
    const HIGHEST: u32 = 30;
    if signal > HIGHEST {
        return Err(Errno::INVAL.into());
    }
    let number = if signal >= CHLD { signal + 1 } else { signal };
    let process = guest.call(call::GETPID, [0; 6])?;
    let thread = guest.call(call::GETTID, [0; 6])?;
    guest.call(call::TGKILL, [process, thread, number.into(), 0, 0, 0])?;
    Ok(())
}

pub(super) fn sched_yield(guest: &mut Guest) -> Done {
    guest.call(call::SCHED_YIELD, [0; 6])?;
    Ok(())
}

pub(super) fn random_get(guest: &mut Guest, buffer: u32, length: u32) -> Done {
    let mut at = u64::from(buffer);
    let end = at + u64::from(length);
    if let Clock::Repeated { random, .. } = &mut guest.clock {
        let mut bytes = [0; 4096];
        while at < end {
            let part = bytes.len().min((end - at) as usize);
            for word in bytes[..part.next_multiple_of(8)].chunks_exact_mut(8) {
                word.copy_from_slice(&next(random).to_le_bytes());
            }
            guest.space.write_bytes(at, &bytes[..part])?;
            at += part as u64;
        }
        return Ok(());
    }
    while at < end {
        at += guest.call(call::GETRANDOM, [at, end - at, 0, 0, 0, 0])?;
    }
    Ok(())
}

/// The next word of SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
