//! The set `language`: how long Dockerfiles and contexts take before anything is done, measured in this process on the
//! crates themselves, because the start of a program would hide it. Processor time: the work is one thread's, and what
//! else a machine does is no part of it; reading files that are not cached is not in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cooper_build::context::{self, ContextQuery, Wanted};
use cooper_build::error::SourceFile;
use cooper_build::lower::lower;
use cooper_build::remote::{Download, DownloadRequest};
use cooper_build::request::{BuildRequest, CacheUse, ContextSource, DockerfileSource, Network};
use cooper_build::source::{HttpAnswer, HttpRequest, ImageProvider};
use cooper_build::step::{CancelToken, StepLimits};
use cooper_build::{Error, Fault};
use cooper_dockerfile::dockerignore::PatternList;
use cooper_image::image::{ImageRecord, LayerRecord};
use cooper_image::platform::Platform;
use cooper_image::store::{Store, StoreOptions};
use cooper_vfs::{Timestamp, Tree};

/// Prints the figures; `figure` takes a name, milliseconds and the mark.
pub fn print(figure: &dyn Fn(&str, f64, f64)) -> Result<()> {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let text = dockerfile(1000);
    figure("parsing and lowering 1,000 lines, median of 21", milliseconds(median(21, || read(&text))?), 5.0);
    let mut long = String::from("FROM scratch\n");
    while long.len() < 10 << 20 {
        long.push_str("RUN --mount=type=cache,target=/c make \\\n  # a comment\n  all && echo \"$a ${b:-c}\"\nENV a=b c=\"d e\"\n");
    }
    let parse = || {
        let started = cpu_time();
        ensure!(!cooper_dockerfile::parse(long.as_bytes()).has_errors(), "the long Dockerfile has errors");
        Ok(cpu_time().saturating_sub(started))
    };
    figure("parsing a Dockerfile of 10 MiB, median of 5", milliseconds(median(5, parse)?), 1000.0);
    contexts(figure)
}

/// The time that processors have worked for this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn median(count: usize, mut measure: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..count).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[count / 2])
}

/// A Dockerfile of so many lines, of every kind of instruction that needs no image.
fn dockerfile(lines: usize) -> String {
    let mut text = String::from("ARG VERSION=1\nFROM scratch AS first\n");
    for line in 2..lines {
        // Names come again, as they do: some thirty variables in all.
        let name = line / 8 % 16;
        let written = match line % 8 {
            0 => writeln!(
                text,
                "ENV NAME{name}=\"value {line} of ${{VERSION:-none}}\" P{name}=$PATH:/opt/{line}"
            ),
            1 => writeln!(text, "COPY --chown=1:1 --chmod=0644 file{line} dir/*.txt /opt/{line}/"),
            2 => writeln!(
                text,
                "RUN --mount=type=cache,target=/cache/{line} make -C /src target{line} && rm -rf /tmp/*"
            ),
            3 => writeln!(text, "LABEL org.example.l{line}=\"${{VERSION%.*}}\" other=x"),
            4 => writeln!(text, "ARG ARGUMENT{name}=$NAME{name}"),
            5 => writeln!(text, "WORKDIR /work/{line}/${{VERSION}}"),
            6 => writeln!(text, "RUN [\"sh\", \"-c\", \"echo {line}\"]"),
            _ => writeln!(text, "EXPOSE {} 9000-9003/udp", 1000 + line),
        };
        // Writing to a string does not fail.
        let _ = written;
    }
    text
}

/// Parses and lowers once.
fn read(text: &str) -> Result<Duration> {
    let request = request();
    let started = cpu_time();
    let parsed = cooper_dockerfile::parse(text.as_bytes());
    ensure!(!parsed.has_errors(), "the Dockerfile has errors: {:?}", parsed.diagnostics);
    let file = Arc::new(SourceFile { name: "Dockerfile".to_owned(), text: parsed.text.clone() });
    let lowered = lower(&file, &parsed, PatternList::default(), &request, &NoImages, &CancelToken::new());
    let lowered = lowered.map_err(|error| anyhow::anyhow!("{error}"))?;
    let time = cpu_time().saturating_sub(started);
    ensure!(lowered.graph.len() > 100, "nothing was lowered");
    Ok(time)
}

fn request() -> BuildRequest {
    BuildRequest {
        dockerfile: DockerfileSource::Text { name: "Dockerfile".to_owned(), bytes: Vec::new() },
        context: ContextSource::Empty,
        named_contexts: BTreeMap::new(),
        target: None,
        build_args: BTreeMap::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        platform: Platform::linux_amd64(),
        build_platform: Platform::linux_amd64(),
        secrets: BTreeMap::new(),
        agents: BTreeMap::new(),
        network: Network::Default,
        allow_network_host: false,
        network_allow: Vec::new(),
        extra_hosts: Vec::new(),
        cache: CacheUse::All,
        inline_cache: false,
        pull: false,
        limits: StepLimits::default(),
        shared_memory_bytes: None,
        source_date_epoch: None,
        jobs: 1,
    }
}

/// The tree of a context, whose id is its key: read for the first time, and again with nothing changed.
fn contexts(figure: &dyn Fn(&str, f64, f64)) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let context = directory.path().join("context");
    for number in 0..100_000 {
        let file = context.join(format!("{}/{}/{number}", number / 10_000, number / 100));
        fs::create_dir_all(file.parent().context("a file has a parent")?)?;
        fs::write(file, format!("{number:0>1000}"))?;
    }
    let cold = load(directory.path(), &context, None)?;
    let warm = median(5, || Ok(load(directory.path(), &context, Some(&cold.1))?.0))?;
    figure("key of a context of 100,000 files, cold", cold.0.as_secs_f64() * 1e3, 3000.0);
    figure("the same with nothing changed, median of 5", warm.as_secs_f64() * 1e3, 500.0);
    Ok(())
}

/// Opens the store and makes the context's tree; which has to be `known`.
fn load(at: &Path, context: &Path, known: Option<&Tree>) -> Result<(Duration, Tree)> {
    let mut wanted = Wanted::default();
    wanted.add_path("");
    let source = ContextSource::Directory(context.to_owned());
    let query = ContextQuery { source, ignore: Arc::default(), wanted };
    // Late enough that no file is too young to be remembered.
    let now = Timestamp::from_seconds(i64::MAX / 2);
    let started = cpu_time();
    let store = Store::open(&at.join("store"), &StoreOptions::plain())?;
    let tree = context::load(&store, &query, context::Readers::Layers, now, &CancelToken::new());
    let time = cpu_time().saturating_sub(started);
    let tree = tree.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(known.is_none_or(|known| *known == tree), "an unchanged context has another key");
    Ok((time, tree))
}

/// There are none.
#[derive(Debug)]
struct NoImages;

fn none<T>() -> cooper_build::Result<T> {
    Err(Error::new(Fault::Registry, "there are no images here"))
}

impl ImageProvider for NoImages {
    fn resolve(&self, _: &str, _: &Platform, _: bool, _: &CancelToken) -> cooper_build::Result<ImageRecord> {
        none()
    }

    fn download(&self, _: &DownloadRequest<'_>, _: &CancelToken) -> cooper_build::Result<Download> {
        none()
    }

    fn exchange(&self, _: HttpRequest<'_>, _: &CancelToken) -> cooper_build::Result<HttpAnswer> {
        none()
    }

    fn tree(
        &self,
        _: &ImageRecord,
        _: &dyn Fn(&str, u64, Option<u64>),
        _: &CancelToken,
    ) -> cooper_build::Result<Tree> {
        none()
    }

    fn upper(&self, _: &Tree, _: &LayerRecord, _: &CancelToken) -> cooper_build::Result<Tree> {
        none()
    }
}
