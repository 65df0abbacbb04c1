//! Figures of store, registry and cache, beside BuildKit, buildah and crane.
//!
//! Every row builds the same context and pushes it to one registry on loopback; the peers are programs on `PATH`
//! (`docker` with its BuildKit and `buildx`, `buildah`, `crane`), and a peer that is missing leaves its side of the row
//! empty. The peers may live in a root of their own: `COOPER_BENCH_DIR` names a directory that both see.
//!
//! The rows are the table of the project's issue about registries; the mark is the limit of acceptance.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bases::Base;
use crate::cooper::Cooper;
use crate::machine::Need;
use crate::measure::{Cost, measure, median};
use crate::process;
use crate::registry::Registry;

/// Runs of which the median counts.
const RUNS: usize = 3;

/// What the rows work with.
struct Bench {
    registry: Registry,
    /// Contexts, where the peers can see them.
    directory: tempfile::TempDir,
}

/// Measures and prints some rows.
type Rows = fn(&Bench) -> Result<()>;

/// One side of a row; none when its program is not there.
type Side = Option<Cost>;

/// Prints a row: both costs, their ratio, and the mark.
fn row(what: &str, ours: Cost, name: &str, theirs: Side, mark: f64) {
    let seconds = |cost: Cost| format!("{:.3} s", cost.wall.as_secs_f64());
    let (other, ratio) = match theirs {
        None => (format!("no {name}"), "-".to_owned()),
        Some(theirs) => {
            let ratio = ours.wall.as_secs_f64() / theirs.wall.as_secs_f64().max(1e-6);
            let verdict = if ratio > mark { "  over" } else { "" };
            (format!("{} {name}", seconds(theirs)), format!("{ratio:.2}x  {mark}x{verdict}"))
        }
    };
    let (cpu, peak) = (ours.cpu.as_secs_f64(), ours.peak / 1_000_000);
    println!("{what:<58} {:>9} {other:>18}  {ratio}  (cpu {cpu:.2} s, {peak} MB)", seconds(ours));
}

impl Bench {
    fn new() -> Result<Self> {
        let missing = [Need::REGISTRY, Need::SKOPEO].iter().find_map(|need| need.missing());
        ensure!(missing.is_none(), "{}", missing.unwrap_or_default());
        let place = std::env::var_os("COOPER_BENCH_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let directory = tempfile::Builder::new().prefix("cooper-bench-").tempdir_in(place)?;
        Ok(Self { registry: Registry::start()?, directory })
    }

    /// A context with this Dockerfile, filled by `fill`.
    fn context(
        &self,
        name: &str,
        dockerfile: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let at = self.directory.path().join(name);
        fs::create_dir_all(&at)?;
        fs::write(at.join("Dockerfile"), dockerfile)?;
        fill(&at)?;
        Ok(at)
    }

    fn ours(&self, cooper: &Cooper, context: &Path, more: &[&str]) -> Result<Cost> {
        let name = self.registry.reference("ours/app:1");
        let mut words: Vec<&OsStr> = vec!["build".as_ref(), "-t".as_ref(), name.as_ref(), "--push".as_ref()];
        words.extend(more.iter().map(OsStr::new));
        words.push(context.as_os_str());
        measure(&mut cooper.on_store(words)?)
    }

    /// The same build by BuildKit.
    fn buildkit(&self, context: &Path, more: &[&str]) -> Result<Side> {
        let name = self.registry.reference("theirs/app:1");
        let Some(mut command) = peer("docker", &["buildx", "build", "-q", "-t", &name, "--push"]) else {
            return Ok(None);
        };
        // Twice: a first use of the daemon may have things to do that are not the build's.
        measure(command.args(more).arg(context)).map(Some)
    }
}

fn peer(program: &str, words: &[&str]) -> Option<Command> {
    process::find(program).map(|path| process::command(path, words))
}

fn bytes(path: &Path, megabytes: usize, text: bool) -> Result<()> {
    let count = format!("count={megabytes}");
    if !text {
        let to = format!("of={}", path.display());
        process::run(&mut process::command("dd", ["if=/dev/urandom", "bs=1M", &count, "status=none", &to]))?
            .ok()?;
        return Ok(());
    }
    // Words of a fixed vocabulary in an order that follows from a seed: about as dense as prose.
    let mut random = cooper_image::random::Random::new(1);
    let words: Vec<String> = (0..5000)
        .map(|_| (0..2 + random.below(8)).map(|_| char::from(b'a' + random.below(26) as u8)).collect())
        .collect();
    let mut block = String::new();
    while block.len() < 8 << 20 {
        block.push_str(&words[random.below(5000) as usize]);
        block.push(' ');
    }
    let mut file = fs::File::create(path)?;
    for part in 0..megabytes / 8 {
        let at = part * 4099;
        std::io::Write::write_all(&mut file, &block.as_bytes()[at..])?;
        std::io::Write::write_all(&mut file, &block.as_bytes()[..at])?;
    }
    Ok(())
}

fn tree(at: &Path, files: usize, size: usize) -> Result<()> {
    let mut random = cooper_image::random::Random::new(7);
    for number in 0..files {
        let file = at.join(format!("files/{}/{number}", number / 100));
        fs::create_dir_all(file.parent().context("a file has a parent")?)?;
        // Half text, half noise, as source trees with images are.
        let noise = random.bytes(size / 2);
        fs::write(file, [noise.as_slice(), &vec![b'a' + (number % 26) as u8; size - size / 2]].concat())?;
    }
    Ok(())
}

/// Prints all rows.
///
/// # Errors
///
/// When the registry or cooper cannot be used; a row that fails is printed as such.
pub fn print() -> Result<()> {
    let bench = Bench::new()?;
    let rows: [(&str, Rows); 6] = [
        ("onto gcc:12", onto_gcc),
        ("unchanged", unchanged),
        ("files", many_files),
        ("large", large),
        ("ingest", ingest),
        ("registry cache", registry_cache),
    ];
    for (name, one) in rows {
        if let Err(error) = one(&bench) {
            println!("{name}: not measured: {}", format!("{error:#}").lines().next().unwrap_or_default());
        }
    }
    Ok(())
}

fn onto_gcc(bench: &Bench) -> Result<()> {
    let base = bench.registry.put_base(Base::Gcc)?;
    let context =
        bench.context("gcc", &format!("FROM {base}\nCOPY files /srv/files\n"), |at| tree(at, 200, 30_000))?;
    let cooper = Cooper::outside()?;
    bench.ours(&cooper, &context, &[])?;
    let ours = median(RUNS, || bench.ours(&cooper, &context, &["--no-cache"]))?;
    let layer = bench.directory.path().join("layer.tar.gz");
    let mut tar = process::command("tar", ["-C".as_ref(), context.as_os_str(), "-czf".as_ref()]);
    process::run(tar.arg(&layer).arg("files"))?.ok()?;
    let appended = bench.registry.reference("crane/app:1");
    let crane = || -> Result<Side> {
        let words = ["append", "--insecure", "-b", &base, "-t", &appended, "-f"];
        peer("crane", &words).map(|mut command| measure(command.arg(&layer))).transpose()
    };
    let name = "COPY of 200 files onto gcc:12, push";
    row(name, ours, "crane append", crane()?, 3.0);
    bench.buildkit(&context, &[])?;
    row(name, ours, "BuildKit", bench.buildkit(&context, &["--no-cache"])?, 1.0);
    let linked = bench.context("linked", &format!("FROM {base}\nCOPY --link files /srv/files\n"), |at| {
        tree(at, 200, 30_000)
    })?;
    let fresh = median(RUNS, || bench.ours(&Cooper::outside()?, &linked, &[]))?;
    row(
        "the same with --link and an empty store (limit 1 s)",
        fresh,
        "BuildKit, warm",
        bench.buildkit(&linked, &["--no-cache"])?,
        f64::INFINITY,
    );
    Ok(())
}

fn unchanged(bench: &Bench) -> Result<()> {
    let base = bench.registry.put_base(Base::Busybox)?;
    let mut dockerfile = format!("FROM {base}\n");
    for number in 0..30 {
        dockerfile.push_str(&format!("COPY files/{number} /srv/{number}\n"));
    }
    dockerfile.push_str("COPY files /all\n");
    let context = bench.context("unchanged", &dockerfile, |at| tree(at, 10_000, 2_000))?;
    let cooper = Cooper::outside()?;
    // Files younger than two seconds are read again; the peers' builds take longer than that.
    bench.ours(&cooper, &context, &[])?;
    bench.buildkit(&context, &[])?;
    bench.ours(&cooper, &context, &[])?;
    let ours = median(RUNS, || bench.ours(&cooper, &context, &[]))?;
    row(
        "unchanged rebuild, 31 steps, 10,000 files, push",
        ours,
        "BuildKit",
        bench.buildkit(&context, &[])?,
        1.0,
    );
    Ok(())
}

fn many_files(bench: &Bench) -> Result<()> {
    let base = bench.registry.put_base(Base::Busybox)?;
    let context =
        bench.context("many", &format!("FROM {base}\nCOPY files /files\n"), |at| tree(at, 10_000, 4_000))?;
    let ours = median(RUNS, || bench.ours(&Cooper::outside()?, &context, &[]))?;
    row(
        "COPY of 10,000 files, push, first build",
        ours,
        "BuildKit",
        bench.buildkit(&context, &["--no-cache"])?,
        0.5,
    );
    let sizes = [bench.size_of("ours/app:1")?, bench.size_of("theirs/app:1").unwrap_or(0)];
    println!("    layer: {} bytes, BuildKit's {}", sizes[0], sizes[1]);
    Ok(())
}

impl Bench {
    /// Size of the last layer of an image, in bytes.
    fn size_of(&self, name: &str) -> Result<u64> {
        let (repository, tag) = name.rsplit_once(':').context("a name has a tag")?;
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.registry.host());
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json,application/vnd.docker.distribution.manifest.v2+json,application/vnd.oci.image.index.v1+json";
        let text = process::run(&mut process::command("curl", ["-sS", "-H", accept, &url]))?.ok()?.text();
        let mut value: serde_json::Value = serde_json::from_str(&text)?;
        if let Some(first) = value["manifests"][0]["digest"].as_str() {
            let url = format!("http://{}/v2/{repository}/manifests/{first}", self.registry.host());
            let text = process::run(&mut process::command("curl", ["-sS", "-H", accept, &url]))?.ok()?.text();
            value = serde_json::from_str(&text)?;
        }
        let layers = value["layers"].as_array().context("a manifest has layers")?;
        layers.last().and_then(|layer| layer["size"].as_u64()).context("a layer has a size")
    }
}

fn large(bench: &Bench) -> Result<()> {
    for (what, text) in [("incompressible", false), ("text", true)] {
        let context =
            bench.context(what, "FROM scratch\nCOPY big /big\n", |at| bytes(&at.join("big"), 1024, text))?;
        let ours = bench.ours(&Cooper::outside()?, &context, &[])?;
        row(
            &format!("COPY of 1 GiB, {what}, push"),
            ours,
            "BuildKit",
            bench.buildkit(&context, &["--no-cache"])?,
            1.0,
        );
        let sizes = [bench.size_of("ours/app:1")?, bench.size_of("theirs/app:1").unwrap_or(0)];
        println!("    layer: {} bytes, BuildKit's {}", sizes[0], sizes[1]);
        fs::remove_dir_all(context)?;
    }
    Ok(())
}

fn ingest(bench: &Bench) -> Result<()> {
    let base = bench.registry.put_base(Base::Gcc)?;
    let context = bench.context("ingest", &format!("FROM {base}\nCOPY Dockerfile /file\n"), |_| Ok(()))?;
    let ours = median(RUNS, || {
        let cooper = Cooper::outside()?;
        // All of it: the blobs, their index, their packs.
        let pulled = measure(&mut cooper.on_store(["pull", &base])?)?;
        let first = measure(&mut cooper.on_store(["build".as_ref(), context.as_os_str()])?)?;
        let add = |one: Duration, other: Duration| one + other;
        Ok(Cost {
            wall: add(pulled.wall, first.wall),
            cpu: add(pulled.cpu, first.cpu),
            peak: pulled.peak.max(first.peak),
        })
    })?;
    let storage = bench.directory.path().join("buildah");
    let theirs = peer("buildah", &["--storage-driver", "overlay", "--root"]).map(|mut command| {
        command.arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
        measure(command.args(["pull", "-q", "--tls-verify=false"]).arg(format!("docker://{base}")))
    });
    row("pull and ingest of gcc:12", ours, "buildah pull", theirs.transpose()?, 0.5);
    Ok(())
}

fn registry_cache(bench: &Bench) -> Result<()> {
    let base = bench.registry.put_base(Base::Busybox)?;
    let mut dockerfile = format!("FROM {base}\n");
    for number in 0..10 {
        dockerfile.push_str(&format!("COPY files/{number} /srv/{number}\nRUN echo {number} > /n{number}\n"));
    }
    let context = bench.context("cached", &dockerfile, |at| tree(at, 1_000, 2_000))?;
    let cache = bench.registry.reference("ours/cache:1");
    bench.ours(
        &Cooper::outside()?,
        &context,
        &["--cache-to", &format!("type=registry,ref={cache},mode=max")],
    )?;
    let ours = median(RUNS, || bench.ours(&Cooper::outside()?, &context, &["--cache-from", &cache]))?;
    row("20 steps from a registry cache, empty store, push (limit 1 s)", ours, "peer", None, 1.0);
    Ok(())
}
