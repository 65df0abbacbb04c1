//! Bad input and faults: a clear error, nothing lost, nothing outside touched.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cooper_tests::bases::{Archive, Base};
use cooper_tests::cooper::Cooper;
use cooper_tests::guests::{self, Variant};
use cooper_tests::listing::{Listing, Times};
use cooper_tests::machine::Need;
use cooper_tests::oci::{self, Settings};
use cooper_tests::process::{self, Output};
use cooper_tests::suite::{self, Case, case};

fn main() -> ExitCode {
    let mut cases: Vec<Case> = BAD_LAYERS.iter().map(bad_layer).collect();
    let small = [Need::Cooper, Need::BUSYBOX];
    let pod = [Need::Cooper, Need::BUSYBOX, Need::Pod];
    let guests = [Need::Cooper, Need::BUSYBOX, Need::GCC];
    cases.extend([
        case("layer: wrong digest", &small, wrong_digest),
        case("layer: wrong diff ID", &small, wrong_diff_id),
        case("layer: truncated", &small, truncated),
        case("layer: trailing data", &small, trailing),
        case("a step that fails: its code, its last lines, the line of the file", &small, step_fails),
        case("a step that is killed", &small, step_killed),
        case("a step that floods its output", &small, step_floods),
        case("a step that never ends meets --step-timeout", &small, step_never_ends),
        case("a step that forks without end", &guests, step_forks),
        case("a step that eats memory", &guests, step_eats),
        case("a step that touches reserved memory", &guests, step_reserves),
        case("a step that makes every call with nonsense", &guests, step_calls),
        case("a step that makes a million files", &guests, step_files),
        case("a step with a program for another machine", &small, other_machine),
        case("a failed build leaves the tag where it was", &small, tag_stays),
        case("kill -9 at any moment: no half image, the next build works", &small, killed),
        case("two builds at once on one store both finish", &small, two_at_once),
        case("a full disk", &[Need::Cooper, Need::BUSYBOX, Need::Root], full_disk),
        case("an unwritable home", &pod, unwritable_home),
        case("no home, no passwd entry, PID 1", &pod, bare),
        case("SIGTERM ends it cleanly, also as PID 1", &pod, sigterm),
        case("a guest that tries to see the host, in the pod", &[&guests[..], &[Need::Pod]].concat(), || {
            escape(Cooper::in_pod()?)
        }),
        case("a guest that tries to see the host, outside", &guests, || escape(Cooper::outside()?)),
    ]);
    suite::main("faults", cases)
}

// ---- layers that are refused ----

/// A layer that no image may have, made of raw tar entries, and a word that the error has to say.
struct BadLayer {
    name: &'static str,
    build: fn(&mut Raw) -> Result<()>,
    /// The entry's name as the error shows it.
    named: &'static str,
}

/// A tar archive with headers written byte by byte: no library would write these.
struct Raw(Vec<u8>);

impl Raw {
    fn entry(&mut self, name: &str, kind: u8, link: &str, contents: &[u8]) -> Result<()> {
        self.sized(name, kind, link, contents.len() as u64, contents)
    }

    /// An entry whose header says `size`, whatever follows.
    fn sized(&mut self, name: &str, kind: u8, link: &str, size: u64, contents: &[u8]) -> Result<()> {
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{size:011o}\0"));
        put(136, "00000000000\0");
        put(157, link);
        put(257, "ustar\x0000");
        header[156] = kind;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        Ok(())
    }

    fn file(&mut self, name: &str) -> Result<()> {
        self.entry(name, b'0', "", b"x")
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

const BAD_LAYERS: &[BadLayer] = &[
    BadLayer { name: "`..` at the start", build: |raw| raw.file("../escape"), named: "../escape" },
    BadLayer { name: "`..` inside", build: |raw| raw.file("a/../../escape"), named: "a/../../escape" },
    BadLayer { name: "an empty name", build: |raw| raw.file(""), named: "" },
    BadLayer {
        name: "a hard link out of the root",
        build: |raw| raw.entry("link", b'1', "../../etc/passwd", b""),
        named: "../../etc/passwd",
    },
    BadLayer {
        name: "a hard link to nothing",
        build: |raw| raw.entry("link", b'1', "absent", b""),
        named: "link",
    },
    BadLayer {
        name: "a hard link to itself",
        build: |raw| raw.entry("loop", b'1', "loop", b""),
        named: "loop",
    },
    BadLayer {
        name: "an entry below a file",
        build: |raw| {
            raw.file("file")?;
            raw.file("file/below")
        },
        named: "file/below",
    },
    BadLayer {
        name: "contradicting PAX sizes",
        build: |raw| {
            raw.entry("pax", b'x', "", b"12 size=900\n12 size=100\n")?;
            raw.file("sized")
        },
        named: "size",
    },
    BadLayer {
        name: "an entry cut off",
        build: |raw| raw.sized("cut", b'0', "", 1 << 20, b"short"),
        named: "",
    },
    BadLayer { name: "a size bomb", build: |raw| raw.sized("bomb", b'0', "", 1 << 32, b""), named: "" },
];

/// The layer is refused, its entry named, nothing gets a tag, and a canary tree on the host is unchanged.
fn bad_layer(bad: &'static BadLayer) -> Case {
    case(format!("layer: {}", bad.name), &[Need::Cooper], move || {
        let cooper = Cooper::outside()?;
        let mut raw = Raw(Vec::new());
        (bad.build)(&mut raw)?;
        let out = load_layer(&cooper, &raw.finish())?;
        ensure!(out.code != 0 && out.code != 70 && out.code < 101, "it was not refused cleanly\n{out:?}");
        ensure!(out.errors().contains(bad.named), "the entry `{}` is not named\n{out:?}", bad.named);
        Ok(())
    })
}

/// Loads an image of one layer; checks the canary and that nothing got a name if it failed.
fn load_layer(cooper: &Cooper, tar: &[u8]) -> Result<Output> {
    let layer = cooper.input("layer.tar", tar)?;
    let image = oci::write(&cooper.inputs().join("layout"), &[&layer], &Settings::default())?;
    let archive = cooper.inputs().join("bad.tar");
    oci::archive(&image, "bad:1", &archive)?;
    load_archive(cooper, &archive)
}

/// Loads an archive and builds upon what it brought: a layer may be read as late as that. Gives the command that
/// refused it, or the last one.
fn load_archive(cooper: &Cooper, archive: &Path) -> Result<Output> {
    let canary = cooper.input("canary/etc/passwd", "canary")?;
    let root = canary.parent().and_then(Path::parent).context("the canary has a root")?;
    let before = Listing::of_directory(root)?;
    let mut out = cooper.run([OsStr::new("load"), OsStr::new("-i"), archive.as_os_str()])?;
    if out.code == 0 {
        let file = cooper.input("upon/Dockerfile", "FROM bad:1\nCOPY Dockerfile /dockerfile\n")?;
        let context = file.parent().context("a Dockerfile has a folder")?;
        out = build(cooper, context, &["-t", "upon:1"])?;
        let images = cooper.run(["images"])?.ok()?;
        ensure!(out.code == 0 || !images.text().contains("upon"), "a refused image has a name\n{images:?}");
    }
    before.expect_same(&Listing::of_directory(root)?, Times::Compared, "the canary tree")?;
    Ok(out)
}

/// An archive of the small base with one change made to its files.
fn changed_base(
    cooper: &Cooper,
    change: impl FnOnce(&Path, &serde_json::Value) -> Result<()>,
) -> Result<PathBuf> {
    let image = Base::Busybox.image()?;
    let archive = cooper.inputs().join("good.tar");
    oci::archive(&image, "bad:1", &archive)?;
    let files = cooper.inputs().join("files");
    tar::Archive::new(fs::File::open(&archive)?).unpack(&files)?;
    change(&files, &image.manifest)?;
    let bad = cooper.inputs().join("bad.tar");
    let mut builder = tar::Builder::new(fs::File::create(&bad)?);
    builder.append_dir_all(".", &files)?;
    builder.finish()?;
    Ok(bad)
}

fn layer_file(files: &Path, manifest: &serde_json::Value) -> Result<PathBuf> {
    oci::blob_path(files, manifest["layers"][0]["digest"].as_str().context("a layer has a digest")?)
}

fn refused_as(cooper: &Cooper, archive: &Path, word: &str) -> Result<()> {
    let out = load_archive(cooper, archive)?;
    ensure!(out.code != 0 && out.code != 70 && out.code < 101, "it was not refused cleanly\n{out:?}");
    out.says(word).map(drop)
}

fn wrong_digest() -> Result<()> {
    let cooper = Cooper::outside()?;
    let bad = changed_base(&cooper, |files, manifest| {
        let layer = layer_file(files, manifest)?;
        let mut bytes = fs::read(&layer)?;
        // The header's time field: the contents stay a sound archive, only the digest tells.
        bytes[4] ^= 1;
        Ok(fs::write(layer, bytes)?)
    })?;
    refused_as(&cooper, &bad, "digest")
}

fn truncated() -> Result<()> {
    let cooper = Cooper::outside()?;
    let bad = changed_base(&cooper, |files, manifest| {
        let layer = layer_file(files, manifest)?;
        let bytes = fs::read(&layer)?;
        Ok(fs::write(layer, &bytes[..bytes.len() / 2])?)
    })?;
    refused_as(&cooper, &bad, "")
}

/// The config promises another uncompressed layer; every compressed digest is right.
fn wrong_diff_id() -> Result<()> {
    let cooper = Cooper::outside()?;
    let layer = cooper.inputs().join("layer.tar");
    let mut archive = Archive::create(&layer)?;
    archive.file("a", 0o644, b"a")?;
    archive.finish()?;
    let layout = cooper.inputs().join("layout");
    let image = oci::write(&layout, &[&layer], &Settings::default())?;
    let other = oci::digest(b"something else");
    let changed = oci::with_diff_ids(&image, &[&other])?;
    let bad = cooper.inputs().join("bad.tar");
    oci::archive(&changed, "bad:1", &bad)?;
    refused_as(&cooper, &bad, "diff ID")
}

/// Bytes after the compressed stream that belong to nothing, under a digest that is right.
fn trailing() -> Result<()> {
    let cooper = Cooper::outside()?;
    let mut raw = Raw(Vec::new());
    raw.file("a")?;
    let mut tar = raw.finish();
    tar.extend(*b"not an entry and not zeroes");
    tar.resize(tar.len().next_multiple_of(512), b'!');
    let out = load_layer(&cooper, &tar)?;
    ensure!(out.code != 0 && out.code != 70 && out.code < 101, "it was not refused cleanly\n{out:?}");
    Ok(())
}

// ---- steps that go wrong ----

fn step_file(dockerfile: &str) -> Result<(Cooper, PathBuf)> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let file = cooper.input("context/Dockerfile", dockerfile)?;
    let context = file.parent().context("a Dockerfile has a folder")?.to_owned();
    Ok((cooper, context))
}

fn build(cooper: &Cooper, context: &Path, more: &[&str]) -> Result<Output> {
    let mut words = vec![OsStr::new("build"), OsStr::new("--progress"), OsStr::new("plain")];
    words.extend(more.iter().map(OsStr::new));
    words.push(context.as_os_str());
    cooper.run(words)
}

fn step_fails() -> Result<()> {
    let (cooper, context) = step_file(
        "FROM busybox:latest\nRUN echo before && \\\n    for i in 1 2 3; do echo line $i; done; exit 42\n",
    )?;
    let out = build(&cooper, &context, &[])?.exits(1)?;
    out.says("42")?.says("line 3")?.says("Dockerfile:2")?.says("RUN echo before")?;
    ensure!(cooper.run(["images"])?.ok()?.text().lines().count() <= 2, "something got a name");
    Ok(())
}

fn step_killed() -> Result<()> {
    let (cooper, context) = step_file("FROM busybox:latest\nRUN sh -c 'kill -KILL $$'; exit $?\n")?;
    build(&cooper, &context, &[])?.exits(1)?.says("137")?;
    Ok(())
}

fn step_floods() -> Result<()> {
    let (cooper, context) = step_file("FROM busybox:latest\nRUN yes flood | head -c 300000000\n")?;
    build(&cooper, &context, &[])?.exits(6)?.says("output")?;
    Ok(())
}

fn step_never_ends() -> Result<()> {
    let (cooper, context) = step_file("FROM busybox:latest\nRUN while :; do :; done\n")?;
    build(&cooper, &context, &["--step-timeout", "2s"])?.exits(7)?.says("2s")?;
    let (cooper, context) = step_file("FROM busybox:latest\nRUN sleep 1000\n")?;
    build(&cooper, &context, &["--step-timeout", "1s"])?.exits(7)?.says("1s")?;
    Ok(())
}

/// A step of a guest program that never stops by itself.
fn guest_step(program: &str, more: &[&str]) -> Result<Output> {
    let (cooper, context) =
        step_file(&format!("FROM busybox:latest\nCOPY {program} /\nRUN /{program}; exit $?\n"))?;
    fs::copy(guests::compile(program, Variant::Static)?, context.join(program))?;
    build(&cooper, &context, more)
}

fn step_forks() -> Result<()> {
    let out = guest_step("forks", &["--ulimit", "nproc=50"])?;
    ensure!(out.code == 1 || out.code == 6, "{out:?}");
    out.says("process").map(drop)
}

fn step_eats() -> Result<()> {
    let out = guest_step("memory", &["--memory", "64m"])?;
    ensure!(out.code == 1 || out.code == 6, "{out:?}");
    out.says("memory").map(drop)
}

/// Memory that is not charged when it is mapped counts when it is touched.
fn step_reserves() -> Result<()> {
    let out = guest_step("reserve", &["--memory", "64m"])?;
    ensure!(out.code == 1 || out.code == 6, "{out:?}");
    out.says("memory").map(drop)
}

fn step_calls() -> Result<()> {
    let out = guest_step("everycall", &[])?;
    out.exits(0)?.says("every call answered").map(drop)
}

/// The files or the time end; the builder names which and goes on.
fn step_files() -> Result<()> {
    let out = guest_step("manyfiles", &["--step-timeout", "30s"])?;
    ensure!(matches!(out.code, 0 | 1 | 6 | 7), "{out:?}");
    if out.code == 7 { out.says("30s").map(drop) } else { out.says("made").map(drop) }
}

/// An ELF file for arm64: the guest's ENOEXEC, and a hint that names the machine.
fn other_machine() -> Result<()> {
    let (cooper, context) =
        step_file("FROM busybox:latest\nCOPY --chmod=0755 program /program\nRUN [\"/program\"]\n")?;
    let mut elf = vec![0u8; 64];
    elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    elf[16] = 2; // an executable
    elf[18] = 183; // EM_AARCH64
    elf[20] = 1;
    fs::write(context.join("program"), elf)?;
    build(&cooper, &context, &[])?.exits(1)?.says("aarch64").map(drop)
}

// ---- faults around a build ----

fn tag_stays() -> Result<()> {
    let (cooper, context) = step_file("FROM busybox:latest\nLABEL n=1\n")?;
    build(&cooper, &context, &["-t", "mine:1"])?.ok()?;
    let before = cooper.image("mine:1")?.digest;
    cooper.input("context/Dockerfile", "FROM busybox:latest\nLABEL n=2\nRUN false\n")?;
    build(&cooper, &context, &["-t", "mine:1"])?.exits(1)?;
    let after = cooper.image("mine:1")?.digest;
    ensure!(before == after, "{before} became {after}");
    Ok(())
}

/// Kills at moments spread over the length of an undisturbed build; each time the store has to stay sound.
fn killed() -> Result<()> {
    const MOMENTS: u32 = 12;
    let text = "FROM busybox:latest\nCOPY big /big\nRUN head -c 3000000 /dev/zero >/zero && cp /big /copy\n";
    let (cooper, context) = step_file(text)?;
    fs::write(context.join("big"), vec![7u8; 4 << 20])?;
    let start = std::time::Instant::now();
    build(&cooper, &context, &["--no-cache", "-t", "mine:0"])?.ok()?;
    let whole = start.elapsed();
    for moment in 0..MOMENTS {
        let tag = format!("killed:{moment}");
        let words =
            ["build".as_ref(), "--no-cache".as_ref(), "-t".as_ref(), OsStr::new(&tag), context.as_os_str()];
        let mut command = cooper.on_store(words)?;
        let ended = process::run_with(&mut command, b"", whole * moment / MOMENTS);
        let images = cooper.run(["images"])?.ok()?;
        if images.text().contains(&tag.replace(':', " ")) || images.text().contains(&tag) {
            // A name means a whole image, however it ended.
            let listing = Listing::of_image(&cooper.image(&tag)?)?;
            ensure!(listing.0.contains_key("copy"), "a half image has the name {tag}\n{ended:?}");
        }
    }
    build(&cooper, &context, &["-t", "mine:2"])?.ok()?;
    let listing = Listing::of_image(&cooper.image("mine:2")?)?;
    ensure!(listing.0.contains_key("copy") && listing.0.contains_key("zero"), "the next build is not whole");
    Ok(())
}

fn two_at_once() -> Result<()> {
    let (cooper, context) =
        step_file("FROM busybox:latest\nCOPY big /big\nRUN cp /big /copy && echo $$ >/pid\n")?;
    fs::write(context.join("big"), vec![9u8; 1 << 20])?;
    std::thread::scope(|scope| {
        let builds: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn({
                    let (cooper, context) = (&cooper, &context);
                    move || build(cooper, context, &["-t", &format!("at-once:{n}")])
                })
            })
            .collect();
        builds
            .into_iter()
            .try_for_each(|b| b.join().map_err(|_| anyhow::anyhow!("panicked"))??.ok().map(drop))
    })?;
    (0..4).try_for_each(|n| {
        let listing = Listing::of_image(&cooper.image(&format!("at-once:{n}"))?)?;
        ensure!(listing.0.contains_key("copy"), "at-once:{n} is not whole");
        Ok(())
    })
}

/// A file system of a few megabytes for the store, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, size: &str) -> Result<Self> {
        fs::create_dir_all(&at)?;
        let options = format!("size={size}");
        let words = [
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "-o".as_ref(),
            OsStr::new(&options),
            "none".as_ref(),
            at.as_os_str(),
        ];
        process::run(&mut process::command("mount", words))?.ok()?;
        Ok(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(process::run(&mut process::command("umount", [&self.0])));
    }
}

fn full_disk() -> Result<()> {
    let cooper = Cooper::outside()?;
    let small = Small::mount(cooper.store(), "12m")?;
    cooper.load_base(Base::Busybox)?;
    let context = cooper.input("context/Dockerfile", "FROM busybox:latest\nCOPY big /big\n")?;
    let context = context.parent().context("a Dockerfile has a folder")?;
    fs::write(context.join("big"), random_bytes(20 << 20))?;
    let out = build(&cooper, context, &["-t", "full:1"])?;
    ensure!(out.code != 0 && out.code != 70 && out.code < 101, "{out:?}");
    out.says("space")?;
    ensure!(!cooper.run(["images"])?.ok()?.text().contains("full"), "half an image has a name");
    fs::write(context.join("big"), b"fits")?;
    build(&cooper, context, &["-t", "full:2"])?.ok()?;
    cooper.image("full:2")?;
    drop(small);
    Ok(())
}

/// Bytes that do not compress, the same every time (a linear congruential generator).
fn random_bytes(n: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(&mut next).take(n).collect()
}

const ONE_FILE: &str = "FROM scratch\nCOPY Dockerfile /\n";

fn unwritable_home() -> Result<()> {
    let cooper = Cooper::in_pod()?;
    let file = cooper.input("context/Dockerfile", ONE_FILE)?;
    let context = file.parent().context("a Dockerfile has a folder")?;
    let script = format!(
        "HOME=/proc/none; export HOME; unset XDG_CACHE_HOME; {} build {}",
        cooper.program().display(),
        context.display()
    );
    cooper.shell(&script)?.ok()?;
    Ok(())
}

fn bare() -> Result<()> {
    let cooper = Cooper::in_pod()?;
    let file = cooper.input("context/Dockerfile", ONE_FILE)?;
    let context = file.parent().context("a Dockerfile has a folder")?;
    // `exec` makes cooper the pod's PID 1.
    let script = format!("unset HOME; exec {} build {}", cooper.program().display(), context.display());
    cooper.shell(&script)?.ok()?;
    Ok(())
}

/// The pod passes the signal on to PID 1, which is cooper.
fn sigterm() -> Result<()> {
    let cooper = Cooper::in_pod()?;
    cooper.load_base(Base::Busybox)?;
    let file = cooper.input("context/Dockerfile", "FROM busybox:latest\nRUN echo started && sleep 1000\n")?;
    let context = file.parent().context("a Dockerfile has a folder")?;
    let words = [
        "build".as_ref(),
        "--progress".as_ref(),
        "plain".as_ref(),
        "-t".as_ref(),
        "never:1".as_ref(),
        context.as_os_str(),
    ];
    let mut command = cooper.on_store(words)?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let errors = child.stderr.take().context("standard error was piped")?;
    let mut seen = String::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(errors)) {
        let line = line?;
        if line.contains("started") && !line.contains("RUN") {
            process::signal(child.id(), "TERM");
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    let code = process::code(child.wait()?);
    ensure!(code == 7, "wanted exit code 7 after SIGTERM, got {code}\n{seen}");
    ensure!(!cooper.run(["images"])?.ok()?.text().contains("never"), "a cancelled build has a name");
    Ok(())
}

/// See `tests/guests/escape.c`. Cooper's own environment and the host hold canaries, which the guest looks for.
fn escape(cooper: Cooper) -> Result<()> {
    const TEXT: &str = "canary-7f3a-of-the-host";
    let canary = cooper.input("host-secret/canary", TEXT)?;
    let program = guests::compile("escape", Variant::Static)?;
    let context = cooper.input("context/Dockerfile", "FROM busybox:latest\nCOPY escape /escape\n")?;
    let context = context.parent().context("a Dockerfile has a folder")?;
    fs::copy(program, context.join("escape"))?;
    fs::set_permissions(context.join("escape"), fs::Permissions::from_mode(0o755))?;
    cooper.load_base(Base::Busybox)?;
    build(&cooper, context, &["-t", "escape:1"])?.ok()?;
    let words = ["run".as_ref(), "escape:1".as_ref(), "/escape".as_ref(), canary.as_os_str(), TEXT.as_ref()];
    let mut command = cooper.on_store_with(&[("COOPER_CANARY", TEXT)], words)?;
    let out = process::run_with(&mut command, b"", Duration::from_secs(120))?;
    if out.code != 0 || out.text().contains("LEAK") || !out.text().contains("powers ok") {
        bail!("{out:?}");
    }
    Ok(())
}
