//! `cooper-bench`: prints the figures that the project promises, each beside its mark, as ratios where another program
//! can run in the same breath. Start it by `tests/bench`, which builds cooper for release.
//!
//! Both sides of a ratio run in one go on the same machine. Nothing here is an assertion: a figure over its mark is
//! printed with `over`, and the exit code stays 0. What the machine lacks is named and left out.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of the host that prints figures"
)]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use cooper_tests::bases::Base;
use cooper_tests::cooper::Cooper;
use cooper_tests::machine::Need;
use cooper_tests::measure::{Cost, measure, median};
use cooper_tests::process;
use cooper_tests::registry::Registry;

/// Measures and prints one group of figures.
type Set = fn() -> Result<()>;

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let sets: [(&str, Set); 8] = [
        ("start", start),
        ("interpreter", interpreter),
        ("tiers", tiers),
        ("base", large_base),
        ("file", large_file),
        ("tree", tree),
        ("language", language),
        ("registry", cooper_tests::bench::registry::print),
    ];
    println!("{:<52} {:>12} {:>12} {:>9}  mark", "", "cooper", "other", "ratio");
    for (name, set) in sets {
        if !wanted.is_empty() && !wanted.iter().any(|one| one == name) {
            continue;
        }
        if let Err(error) = set() {
            println!("{name}: not measured: {}", format!("{error:#}").lines().next().unwrap_or_default());
        }
    }
    Ok(())
}

/// A figure without another side.
fn figure(what: &str, value: f64, unit: &str, mark: f64) {
    let verdict = if value > mark { "  over" } else { "" };
    println!("{what:<52} {:>12} {:>12} {:>9}  {mark} {unit}{verdict}", format!("{value:.1} {unit}"), "", "");
}

/// Two sides in seconds and their ratio.
fn ratio(what: &str, ours: Duration, theirs: Duration, mark: f64) {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64().max(1e-6);
    let verdict = if ratio > mark { "  over" } else { "" };
    println!(
        "{what:<52} {:>12} {:>12} {ratio:>8.1}x  {mark}x{verdict}",
        format!("{:.3} s", ours.as_secs_f64()),
        format!("{:.3} s", theirs.as_secs_f64())
    );
}

/// Reading Dockerfiles and contexts.
fn language() -> Result<()> {
    cooper_tests::bench::language::print(&|what, value, mark| figure(what, value, "ms", mark))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn need(needs: &[Need]) -> Result<()> {
    needs.iter().find_map(|need| need.missing()).map_or(Ok(()), |why| Err(anyhow::anyhow!("{why}")))
}

fn start() -> Result<()> {
    let cooper = Cooper::outside()?;
    let cost = median(21, || measure(&mut cooper.command(["version"])?))?;
    figure("cooper version, median of 21", cost.wall.as_secs_f64() * 1e3, "ms", 20.0);
    Ok(())
}

/// Work for both sides: a name, the mark, a script for the shell. The programs are Debian's on both sides.
const WORK: [(&str, f64, &str); 5] = [
    (
        "dash: a loop of a hundred thousand additions",
        60.0,
        "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done",
    ),
    ("sha256sum of 32 MiB", 150.0, "head -c 33554432 /dev/zero | sha256sum"),
    ("sort of a hundred thousand lines", 60.0, "seq 100000 | tac | LC_ALL=C sort | tail -n 1"),
    (
        "awk: words counted over two hundred thousand lines",
        60.0,
        "seq 200000 | awk '{ n[$1 % 97] += $1 } END { print n[5] }'",
    ),
    (
        "sed and grep over a hundred thousand lines",
        60.0,
        "seq 100000 | sed 's/1\\([0-9]\\)/\\1x/g' | grep -c x",
    ),
];

/// Work for both tiers: a name, a script that fills the cache, and the one that is measured, with other inputs.
const PROGRAMS: [(&str, &str, &str); 7] = [
    (
        "dash: a loop",
        "i=9; while [ $i -lt 9000 ]; do i=$((i + 3)); done",
        "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done",
    ),
    ("sha256sum", "seq 200000 | sha256sum", "head -c 33554432 /dev/zero | sha256sum"),
    ("sort", "seq 9000 -1 1 | sort -n", "seq 100000 | tac | LC_ALL=C sort | tail -n 1"),
    (
        "awk",
        "seq 9000 | awk '{ m[$1 % 31] += 2 * $1 } END { print m[3] }'",
        "seq 200000 | awk '{ n[$1 % 97] += $1 } END { print n[5] }'",
    ),
    (
        "sed and grep",
        "seq 9000 | sed 's/3\\([0-9]\\)/\\1y/g' | grep -c y",
        "seq 100000 | sed 's/1\\([0-9]\\)/\\1x/g' | grep -c x",
    ),
    ("gzip", "seq 9000 | gzip -c | gzip -dc | wc -c", "seq 300000 | gzip -c | gzip -dc | wc -c"),
    (
        "perl: a hash",
        "perl -e 'my %a; $a{$_ % 61} .= $_ for 1 .. 9000; print scalar keys %a'",
        "perl -e 'my %h; for my $i (1 .. 300000) { $h{$i % 977} += $i } print scalar keys %h'",
    ),
];

/// Has a shell run the programs of [`PROGRAMS`] by qemu-user, as it is run itself.
const UNDER_QEMU: &str = r#"for p in awk grep gzip head perl sed seq sha256sum sort tac tail wc true; do
eval "$p() { qemu-x86_64 $(command -v $p) \"\$@\"; }"; done; "#;

/// The tiers on Debian's programs: interpreted, and translated with a cache that other inputs have filled, against native and,
/// where it is installed, qemu-user.
fn tiers() -> Result<()> {
    need(&[Need::Debian])?;
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Debian)?;
    let command = |mode: &str, script: &str| {
        cooper.on_store_with(&[("COOPER_TRANSLATE", mode)], ["run", "debian:bookworm", "dash", "-c", script])
    };
    let run = |mode: &str, script: &str| measure(&mut command(mode, script)?);
    let native = |script: &str| measure(&mut process::command("dash", ["-c", script]));
    let qemu = process::find("qemu-x86_64").is_some();
    for (_, filling, _) in PROGRAMS {
        run("warm", filling)?;
    }
    run("warm", "i=0; while [ $i -lt 9 ]; do /bin/true; i=$((i + 1)); done")?;
    let (mut product, mut count) = (0.0, 0.0);
    for (what, _, script) in PROGRAMS {
        let ours = median(3, || run("cached", script))?.cpu;
        let interpreted = run("off", script)?.cpu;
        let theirs = median(3, || native(script))?.cpu;
        ratio(&format!("{what}, translated against native"), ours, theirs, 6.0);
        ratio(&format!("{what}, translated against interpreted"), ours, interpreted, 1.0);
        if qemu {
            let script = format!("{UNDER_QEMU}{script}");
            let other = measure(&mut process::command("qemu-x86_64", ["/bin/dash", "-c", &script]))?.cpu;
            ratio(&format!("{what}, translated against qemu-user"), ours, other, 1.0);
        }
        product += (ours.as_secs_f64() / theirs.as_secs_f64().max(1e-6)).ln();
        count += 1.0;
    }
    figure("geometric mean against native", (product / f64::max(count, 1.0)).exp(), "x", 2.2);
    let script = "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i + 1)); done";
    for mode in ["cached", "off"] {
        let nothing = median(3, || run(mode, ":"))?.wall;
        let ours = median(3, || run(mode, script))?.wall.saturating_sub(nothing);
        let theirs = median(3, || native(script))?.wall;
        ratio(&format!("200 x /bin/true from dash, {mode}"), ours, theirs, 3.0);
        figure(&format!("each of them, {mode}"), ours.as_secs_f64() * 1e3 / 200.0, "ms", 1.0);
    }
    Ok(())
}

const LOOP: &str = "int main(void) { unsigned x = 1; for (unsigned i = 0; i < 400000000u; i++) x = x * 1664525u + 1013904223u ^ i; return x == 42; }";

fn interpreter() -> Result<()> {
    need(&[Need::Debian, Need::GCC])?;
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Debian)?;
    let run =
        |script: &str| measure(&mut cooper.on_store(["run", "debian:bookworm", "dash", "-c", script])?);
    let native = |script: &str| measure(&mut process::command("dash", ["-c", script]));
    let nothing = median(5, || run(":"))?;
    figure("cooper run dash -c :", nothing.wall.as_secs_f64() * 1e3, "ms", 1000.0);
    tight_loop(&cooper, nothing)?;
    for (what, mark, script) in WORK {
        let ours = run(script)?;
        ratio(what, ours.cpu.saturating_sub(nothing.cpu), median(3, || native(script))?.cpu, mark);
    }
    let script = "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i + 1)); done";
    let (ours, theirs) = (run(script)?, native(script)?);
    let each = ours.wall.saturating_sub(nothing.wall) / 100;
    figure("/bin/true from dash, each of 100", each.as_secs_f64() * 1e3, "ms", 5.0);
    ratio("the same against native", ours.wall.saturating_sub(nothing.wall), theirs.wall, f64::INFINITY);
    Ok(())
}

fn tight_loop(cooper: &Cooper, nothing: Cost) -> Result<()> {
    let context = cooper.input("loop/Dockerfile", "FROM scratch\nCOPY loop /loop\n")?;
    let context = context.parent().context("a Dockerfile has a folder")?;
    let source = cooper.input("loop.c", LOOP)?;
    let program = context.join("loop");
    let words = [
        "-O1".as_ref(),
        "-static".as_ref(),
        "-w".as_ref(),
        "-o".as_ref(),
        program.as_os_str(),
        source.as_os_str(),
    ];
    process::run(&mut process::command("gcc", words))?.ok()?;
    cooper.run(["build".as_ref(), "-t".as_ref(), "loop:1".as_ref(), context.as_os_str()])?.ok()?;
    let ours = measure(&mut cooper.on_store(["run", "loop:1", "/loop"])?)?;
    let theirs = median(3, || measure(&mut process::command(&program, [""; 0])))?;
    ratio("a tight loop in C", ours.cpu.saturating_sub(nothing.cpu), theirs.cpu, 150.0);
    Ok(())
}

fn large_base() -> Result<()> {
    need(&[Need::Debian])?;
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Gcc)?;
    let context = cooper.input("context/Dockerfile", "FROM gcc:12\nCOPY file /file\n")?;
    cooper.input("context/file", "a file\n")?;
    let context = context.parent().context("a Dockerfile has a folder")?.as_os_str();
    let build = || {
        measure(&mut cooper.on_store([
            "build".as_ref(),
            "--no-cache".as_ref(),
            "-t".as_ref(),
            "x:1".as_ref(),
            context,
        ])?)
    };
    let cost = median(5, build)?;
    figure("COPY onto gcc:12: wall", cost.wall.as_secs_f64() * 1e3, "ms", 500.0);
    figure("COPY onto gcc:12: peak memory", megabytes(cost.peak), "MB", 150.0);
    need(&[Need::REGISTRY, Need::SKOPEO, Need::Root, Need::Program { name: "buildah", package: "buildah" }])?;
    let registry = Registry::start()?;
    let reference = registry.put_base(Base::Gcc)?;
    let fresh = Cooper::outside()?;
    let mut ours = measure(&mut fresh.on_store(["pull", &reference])?)?;
    // A pull brings the blobs; the first build that needs the files makes packs and trees of them.
    let first = fresh.input("first/Dockerfile", format!("FROM {reference}\nCOPY Dockerfile /file\n"))?;
    let first = first.parent().context("a Dockerfile has a folder")?.as_os_str();
    ours.wall += measure(&mut fresh.on_store(["build".as_ref(), first])?)?.wall;
    let storage = tempfile::tempdir_in("/tmp")?;
    let mut pull = process::command("buildah", ["--storage-driver", "overlay", "--root"]);
    pull.arg(storage.path().join("root")).arg("--runroot").arg(storage.path().join("run"));
    pull.args(["pull", "-q", "--tls-verify=false"]).arg(format!("docker://{reference}"));
    ratio(
        "pull of gcc:12 and a first COPY onto it against buildah pull",
        ours.wall,
        measure(&mut pull)?.wall,
        1.0,
    );
    Ok(())
}

fn large_file() -> Result<()> {
    let cooper = Cooper::outside()?;
    let context = cooper.input("context/Dockerfile", "FROM scratch\nCOPY big /big\n")?;
    let context = context.parent().context("a Dockerfile has a folder")?;
    let mut words = process::command("dd", ["if=/dev/urandom", "bs=1M", "count=1024", "status=none"]);
    process::run(words.arg(format!("of={}", context.join("big").display())))?.ok()?;
    let cost = measure(&mut cooper.on_store([
        "build".as_ref(),
        "-t".as_ref(),
        OsStr::new("big:1"),
        context.as_os_str(),
    ])?)?;
    figure("COPY of 1 GiB: peak memory", megabytes(cost.peak), "MB", 200.0);
    figure("COPY of 1 GiB: wall", cost.wall.as_secs_f64(), "s", f64::INFINITY);
    Ok(())
}

fn tree() -> Result<()> {
    need(&[Need::BUSYBOX])?;
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let context = cooper.inputs().join("context");
    for n in 0..10_000 {
        let file = context.join(format!("files/{}/{n}", n / 100));
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        fs::write(file, vec![b'x'; 4096])?;
    }
    let dockerfile = |text: &str| fs::write(context.join("Dockerfile"), text);
    let build = |tag: &str| {
        measure(&mut cooper.on_store([
            "build".as_ref(),
            "-t".as_ref(),
            OsStr::new(tag),
            context.as_os_str(),
        ])?)
    };
    dockerfile("FROM busybox:latest\nCOPY files /files\n")?;
    figure("COPY of 10,000 files: wall", build("tree:1")?.wall.as_secs_f64() * 1e3, "ms", f64::INFINITY);
    dockerfile("FROM tree:1\nRUN chown -R 1:1 /files\n")?;
    figure("chown -R of 10,000 files: wall", build("tree:2")?.wall.as_secs_f64() * 1e3, "ms", f64::INFINITY);
    dockerfile("FROM tree:1\nRUN rm -rf /files\n")?;
    figure("rm -rf of 10,000 files: wall", build("tree:3")?.wall.as_secs_f64() * 1e3, "ms", f64::INFINITY);
    Ok(())
}
