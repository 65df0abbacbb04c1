//! Input that nobody wrote: stored seeds and what a fixed sequence of mutations makes of them.
//!
//! A target is a function over bytes that must not panic, must not hang and must keep what it states. The suite `fuzz`
//! runs every seed of `tests/data/fuzz/TARGET` and a few mutations of each, the same in every run;
//! `COOPER_FUZZ_ROUNDS=N` makes it N mutations per seed. `tests/fuzz/run TARGET` lets libFuzzer look for inputs that reach
//! new code, by hand. An input that broke something is stored as a further seed. The targets are in [`targets`].

pub mod targets;

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use anyhow::{Context, Result};

/// Mutations per seed where nobody asks for more: a second or two for all targets.
const ROUNDS: u64 = 200;
/// The longest input that a mutation makes.
const LONGEST: usize = 1 << 20;

/// A pseudo-random sequence (SplitMix64): small, and the same everywhere.
#[derive(Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// A sequence from a starting point.
    pub fn new(start: u64) -> Self {
        Self(start)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }
}

/// The seeds of a target, sorted by name.
pub fn seeds(target: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fuzz").join(target);
    let mut seeds = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no seeds in {}", folder.display()))? {
        let entry = entry?;
        seeds.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    seeds.sort();
    Ok(seeds)
}

/// Runs a target over its seeds and their mutations. The input is written to standard error before a panic goes on.
pub fn run(target: &targets::Target) -> Result<()> {
    let (target, one) = (target.name, (target.make)()?);
    let rounds =
        std::env::var("COOPER_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let seeds = seeds(target)?;
    anyhow::ensure!(!seeds.is_empty(), "no seeds for {target}");
    for (at, (name, seed)) in seeds.iter().enumerate() {
        try_one(target, name, seed, &one)?;
        let mut sequence = Sequence::new(at as u64);
        for round in 0..rounds {
            let other = &seeds[sequence.below(seeds.len())].1;
            let input = mutated(seed, other, &mut sequence);
            try_one(target, &format!("{name}, mutation {round}"), &input, &one)?;
        }
    }
    Ok(())
}

fn try_one(target: &str, name: &str, input: &[u8], one: &targets::Check) -> Result<()> {
    // Nothing is used again after a panic: the run ends with it.
    std::panic::catch_unwind(AssertUnwindSafe(|| one(input))).map_err(|_| {
        const SHOWN: usize = 2000;
        let shown = &input[..input.len().min(SHOWN)];
        anyhow::anyhow!("{target}: {name}, {} bytes: {}", input.len(), shown.escape_ascii())
    })
}

/// Numbers at which sizes and offsets go wrong.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// Bytes that mean something in one of the languages.
const SYNTAX: &[u8] = b"\0\n\\\"'$#/. {}[]:,=<";

fn mutated(seed: &[u8], other: &[u8], sequence: &mut Sequence) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=sequence.below(4) {
        mutate(&mut bytes, other, sequence);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], sequence: &mut Sequence) {
    let at = sequence.below(bytes.len() + 1);
    let piece = |from: &[u8], sequence: &mut Sequence| {
        let start = sequence.below(from.len() + 1);
        let length = sequence.below((from.len() - start).min(600) + 1);
        from[start..start + length].to_vec()
    };
    match sequence.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << sequence.below(8),
        1 if at < bytes.len() => bytes[at] = sequence.number() as u8,
        2 => bytes.truncate(at),
        3 => {
            let end = (at + sequence.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 => {
            let copy = piece(bytes, sequence);
            bytes.splice(at..at, copy);
        }
        5 => {
            let copy = piece(other, sequence);
            bytes.splice(at..at, copy);
        }
        6 => {
            let edge = EDGES[sequence.below(EDGES.len())].to_le_bytes();
            let length = [1, 2, 4, 8][sequence.below(4)];
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, edge[..length].iter().copied());
        }
        _ => bytes.insert(at, SYNTAX[sequence.below(SYNTAX.len())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_are_the_same_in_every_run() {
        let made = || {
            let mut sequence = Sequence::new(7);
            (0..50).map(|_| mutated(b"a seed", b"another", &mut sequence)).collect::<Vec<_>>()
        };
        assert_eq!(made(), made());
        assert!(made().iter().any(|input| input != b"a seed"));
    }
}
