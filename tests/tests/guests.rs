//! Every guest program, natively and then in Cooper, in four variants of compiler and linking: the same output.
//!
//! The cases under `translated` run a program twice more: once interpreted while everything that runs is translated, once with
//! that code. Both print what the program prints natively. CI takes the programs that try the tiers most; with
//! `COOPER_TESTS_FULL=1` it is all of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use cooper_image::fake::{Access, FakeRegistry};
use cooper_tests::bases::Base;
use cooper_tests::cooper::Cooper;
use cooper_tests::guests::{self, PROGRAMS, Runs, Variant};
use cooper_tests::machine::Need;
use cooper_tests::process;
use cooper_tests::suite::{self, Case, case};

fn main() -> ExitCode {
    let mut cases = vec![case("every program is listed", &[], every_program_is_listed)];
    for variant in Variant::ALL {
        for &(program, runs) in PROGRAMS {
            if runs != Runs::InCooper {
                cases.push(compared(program, runs, variant));
            }
        }
        cases.push(in_cooper(variant, "cpu"));
    }
    let is_full = std::env::var("COOPER_TESTS_FULL").is_ok_and(|value| value == "1");
    for variant in Variant::ALL {
        for &(program, runs) in PROGRAMS {
            if runs != Runs::InCooper && (is_full || is_chosen(variant, program)) {
                cases.push(translated(program, runs, variant));
            }
        }
    }
    let cached = [Need::BUSYBOX, Need::Cooper];
    cases.push(case("code cache/what does not match is ignored", &cached, mismatched_code_is_ignored));
    cases.push(case("code cache/several at once", &cached, several_fill_one_cache));
    let refused = [Need::BUSYBOX, Need::Cooper, Need::Program { name: "perl", package: "perl" }];
    let signed = [Need::BUSYBOX, Need::Cooper, Need::Program { name: "openssl", package: "openssl" }];
    cases.push(case("code cache/moves signed, and not otherwise", &signed, code_moves_signed));
    cases.push(case("code cache/without executable memory", &refused, no_executable_memory));
    suite::main("guests", cases)
}

fn every_program_is_listed() -> Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(guests::sources())? {
        let name = entry?.file_name().into_string().ok().context("a source with an odd name")?;
        found.extend(name.strip_suffix(".c").map(str::to_owned));
    }
    found.sort();
    let listed: Vec<&str> = PROGRAMS.iter().map(|&(program, _)| program).collect();
    ensure!(found == listed, "tests/guests holds {found:?}, the harness lists {listed:?}");
    Ok(())
}

fn needs(runs: Runs, variant: Variant) -> Vec<Need> {
    let root = (runs == Runs::AsRoot).then_some(Need::Root);
    variant.needs().iter().copied().chain(root).chain([Need::Cooper]).collect()
}

/// Programs run under a shell, because process 1 is not like others: signals do not end it and orphans become its.
fn compared(program: &'static str, runs: Runs, variant: Variant) -> Case {
    case(format!("{}/{program}", variant.name()), &needs(runs, variant), move || {
        let native = guests::natively(&guests::compile(program, variant)?)?.ok()?;
        let guest = in_store(variant)?.run([
            "run",
            REFERENCE,
            "/bin/sh",
            "-c",
            &format!("/guests/{program}; exit $?"),
        ])?;
        if guest.code == native.code && guest.stdout == native.stdout {
            return Ok(());
        }
        bail!("{}\n{guest:?}", differences(&native.text(), &guest.text()))
    })
}

/// The programs that CI runs translated: those with signals, jumps out of frames, faults, threads, forks and arithmetic.
const TRANSLATED: [&str; 13] = [
    "alarm",
    "exec",
    "faults",
    "futex",
    "generated",
    "jumps",
    "mmap",
    "numbers",
    "processes",
    "sigaltstack",
    "signals",
    "strings",
    "threads",
];

fn is_chosen(variant: Variant, program: &str) -> bool {
    let few: &[&str] = match variant {
        Variant::Dynamic => &TRANSLATED,
        // Each is a file of its own with its own library in it, which takes longest.
        Variant::Static => &["jumps", "signals", "threads"],
        Variant::MuslStatic => &["faults", "jumps", "signals", "threads"],
        Variant::MuslDynamic => &[],
    };
    few.contains(&program)
}

/// As [`compared`], with everything translated that can be.
fn translated(program: &'static str, runs: Runs, variant: Variant) -> Case {
    case(format!("translated/{}/{program}", variant.name()), &needs(runs, variant), move || {
        let native = guests::natively(&guests::compile(program, variant)?)?.ok()?;
        let cooper = in_store(variant)?;
        for mode in ["eager", "cached"] {
            let script = format!("/guests/{program}; exit $?");
            let words = ["run", REFERENCE, "/bin/sh", "-c", &script];
            let guest = process::run(&mut cooper.on_store_with(&[("COOPER_TRANSLATE", mode)], words)?)?;
            if guest.code != native.code || guest.stdout != native.stdout {
                bail!("{mode}: {}\n{guest:?}", differences(&native.text(), &guest.text()));
            }
            // What the tiers could not do they say; other words are about the program.
            ensure!(!guest.errors().contains("translated"), "{mode}: {}", guest.errors());
        }
        Ok(())
    })
}

/// A program whose every line has to be `ok`.
fn in_cooper(variant: Variant, program: &'static str) -> Case {
    case(format!("{}/{program}", variant.name()), &needs(Runs::InCooper, variant), move || {
        let out = in_store(variant)?
            .run(["run", REFERENCE, "/bin/sh", "-c", &format!("/guests/{program}; exit $?")])?
            .ok()?;
        let bad: Vec<_> =
            out.text().lines().filter(|line| !line.ends_with(": ok")).map(str::to_owned).collect();
        ensure!(bad.is_empty() && !out.stdout.is_empty(), "{bad:?}\n{out:?}");
        Ok(())
    })
}

const REFERENCE: &str = "guests:latest";

/// Cooper with the image of a variant in its store, once per variant.
fn in_store(variant: Variant) -> Result<&'static Cooper> {
    static READY: [OnceLock<Result<Cooper, String>>; 4] = [const { OnceLock::new() }; 4];
    let make = || -> Result<Cooper> {
        let cooper = Cooper::outside()?;
        cooper.load(&guests::image(variant)?, REFERENCE)?;
        Ok(cooper)
    };
    let ready = READY[variant as usize].get_or_init(|| make().map_err(|error| format!("{error:#}")));
    ready.as_ref().map_err(|text| anyhow::anyhow!("{text}"))
}

/// Work for the tiers, and what it prints.
const WORK: &str =
    "i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done; echo $i; seq 500 | sort -n | tail -n 1";
const ANSWER: &str = "3000\n500";

/// Runs [`WORK`] on the small base. All it may say besides its answer is `words`.
fn work(cooper: &Cooper, mode: &str, words: &str) -> Result<()> {
    let arguments = ["run", Base::Busybox.reference(), "/bin/sh", "-c", WORK];
    let out = process::run(&mut cooper.on_store_with(&[("COOPER_TRANSLATE", mode)], arguments)?)?.ok()?;
    ensure!(out.text() == ANSWER, "{mode}: {out:?}");
    let errors = out.errors();
    ensure!(errors.contains(words) && errors.is_empty() == words.is_empty(), "{mode}: {errors}");
    Ok(())
}

/// The artifacts in the code cache, in order.
fn artifacts(cooper: &Cooper) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in fs::read_dir(cooper.store().join("code"))? {
        for file in fs::read_dir(name?.path())? {
            let file = file?;
            if !file.file_name().as_encoded_bytes().starts_with(b".") {
                found.push(file.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn mismatched_code_is_ignored() -> Result<()> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    work(&cooper, "warm", "")?;
    let kept = artifacts(&cooper)?;
    let path = kept.first().context("nothing was translated")?;
    let whole = fs::read(path)?;
    let mut foreign = whole.clone();
    // The name of the file that it was made from stands behind the native code.
    let footer = whole.len() - 24;
    let tables = u64::from_le_bytes(whole[footer..footer + 8].try_into()?) as usize;
    foreign[tables] ^= 1;
    let mut other_engine = whole.clone();
    other_engine[..4096].fill(0);
    for (what, bytes) in [
        ("empty", &[][..]),
        ("half", &whole[..whole.len() / 2]),
        ("without its end", &whole[..whole.len() - 1]),
        ("of another file", &foreign),
        ("of another engine", &other_engine),
        ("noise", &[0xa5; 100_000]),
    ] {
        fs::write(path, bytes)?;
        work(&cooper, "cached", "").with_context(|| format!("{what}, cached"))?;
        work(&cooper, "on", "").with_context(|| format!("{what}, on"))?;
    }
    fs::write(path, &whole)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    work(&cooper, "cached", "")
}

fn several_fill_one_cache() -> Result<()> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..3).map(|_| scope.spawn(|| work(&cooper, "warm", ""))).collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a run panicked"))?)
    })?;
    ensure!(!artifacts(&cooper)?.is_empty(), "nothing was translated");
    work(&cooper, "cached", "")
}

/// A pair of Ed25519 keys as PEM files: private and public.
fn keys(cooper: &Cooper, name: &str) -> Result<(String, String)> {
    let path = |kind: &str| cooper.inputs().join(format!("{name}.{kind}.pem")).display().to_string();
    let (private, public) = (path("private"), path("public"));
    let openssl = |words: &[&str]| process::run(&mut process::command("openssl", words))?.ok();
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &private])?;
    openssl(&["pkey", "-in", &private, "-pubout", "-out", &public])?;
    Ok((private, public))
}

/// Runs `cooper cache VERB TARGET --key KEY` on the store of a place.
fn cache(cooper: &Cooper, verb: &str, target: &str, key: &str) -> Result<process::Output> {
    let store = cooper.store().display().to_string();
    process::run(&mut cooper.command(["cache", verb, target, "--key", key, "--store", &store])?)
}

fn code_moves_signed() -> Result<()> {
    const REFUSED: i32 = 4;
    let from = Cooper::outside()?;
    from.load_base(Base::Busybox)?;
    work(&from, "warm", "")?;
    let (private, public) = keys(&from, "own")?;
    let (_, other) = keys(&from, "other")?;
    let file = from.inputs().join("code").display().to_string();
    let registry = FakeRegistry::start(Access::Open).context("cannot start the registry")?;
    let image = format!("{}/code:1", registry.name());
    cache(&from, "export", &file, &private)?.ok()?;
    cache(&from, "push", &image, &private)?.ok()?;
    for (verb, target) in [("import", &file), ("pull", &image)] {
        let to = Cooper::outside()?;
        to.load_base(Base::Busybox)?;
        cache(&to, verb, target, &other)?.exits(REFUSED)?.says("not signed with the key")?;
        ensure!(artifacts(&to)?.is_empty(), "{verb} kept what is not signed");
        cache(&to, verb, target, &public)?.ok()?;
        ensure!(artifacts(&to)?.len() == artifacts(&from)?.len(), "{verb} kept something else");
        work(&to, "cached", "")?;
    }
    Ok(())
}

/// A process that may not make memory executable (`PR_SET_MDWE`, Linux 6.3) interprets, and says so once.
fn no_executable_memory() -> Result<()> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    work(&cooper, "warm", "")?;
    // 157 is `prctl`, 65 `PR_SET_MDWE`, 1 `PR_MDWE_REFUSE_EXEC_GAIN`.
    let refuse = "syscall(157, 65, 1, 0, 0, 0) == 0 or exit 99; exec @ARGV; exit 98";
    let inner = cooper.on_store(["run", Base::Busybox.reference(), "/bin/sh", "-c", WORK])?;
    let mut command = process::command("perl", ["-e", refuse]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.env("HOME", cooper.home()).env("TMPDIR", cooper.home()).env("COOPER_TRANSLATE", "cached");
    let out = process::run(&mut command)?;
    if out.code == 99 {
        // An older kernel has nothing to refuse with.
        return Ok(());
    }
    let out = out.ok()?;
    ensure!(out.text() == ANSWER, "{out:?}");
    let lines: Vec<String> = out.errors().lines().map(str::to_owned).collect();
    match &lines[..] {
        [line] if line.contains("this host runs steps without translated code") => Ok(()),
        _ => bail!("{lines:?}"),
    }
}

/// The lines that are not the same, natively first.
fn differences(native: &str, guest: &str) -> String {
    const SHOWN: usize = 12;
    let (mut ours, mut theirs) = (native.lines(), guest.lines());
    let mut lines = Vec::new();
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => {
                lines.push(format!("native {}\ncooper {}", a.unwrap_or("(ended)"), b.unwrap_or("(ended)")));
            }
        }
        if lines.len() == SHOWN {
            break;
        }
    }
    lines.join("\n")
}
