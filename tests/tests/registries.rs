//! The command line and registries: caches, bases that nobody reads, credentials. The registry is the one of the
//! library, since it tells what it was asked.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use cooper_image::fake::{Access, FakeRegistry, Quirk};
use cooper_image::random::Random;
use cooper_tests::bases::Base;
use cooper_tests::cooper::Cooper;
use cooper_tests::listing::{Listing, Times};
use cooper_tests::machine::{self, Need};
use cooper_tests::process::{self, DEADLINE, Output};
use cooper_tests::suite::{self, case};

fn main() -> ExitCode {
    let needs = [Need::BUSYBOX, Need::Cooper];
    let cases = vec![
        case("a fresh store builds from a registry cache without a layer", &needs, registry_cache),
        case("a fresh store builds from a cache in a directory", &needs, local_cache),
        case("an image is its own cache", &needs, inline_cache),
        case("a base that nobody reads is not fetched", &needs, lazy_base),
        case("a cache that is not there is a warning", &needs, missing_cache),
        case("login keeps a credential that the registry takes", &needs, login),
        case("a job of GitLab needs no login", &needs, gitlab_job),
        case("an image is copied without the store's help", &needs, copy),
        case("doctor says what works and what does not", &needs, doctor),
        case("a step that is executed says which input differs", &needs, explain_miss),
        case("a cache that lies is refused when it is verified", &needs, verified_cache),
        case("results that are too old are not used", &needs, old_cache),
        case("cache mounts move with the cache", &needs, moved_mounts),
        case("layers go out in other compressions, and with Docker's types", &needs, formats),
        case("a hundred stages ask once for their base", &needs, hundred_stages),
        case("a cache is taken by registries that take little", &needs, strict_registries),
        case(
            "kill -9 in the middle of a build with push: the tag is whole, the next build right",
            &needs,
            killed,
        ),
        case("several builds at once on one store, some killed, give what one gives", &needs, at_once),
        case("empty, warm and cached, on one thread and four: the same image", &needs, same_digests),
    ];
    suite::main("registries", cases)
}

fn registry(access: Access) -> Result<FakeRegistry> {
    FakeRegistry::start(access).context("cannot start the registry")
}

/// Pushes the small base to a registry as `base:1`; gives its name there.
fn with_base(registry: &FakeRegistry) -> Result<String> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let name = format!("{}/base:1", registry.name());
    cooper.run(["tag", Base::Busybox.reference(), &name])?.ok()?;
    cooper.run(["push", &name])?.ok()?;
    Ok(name)
}

/// A context with two stages on a base; one step in each, and two copies.
fn context(cooper: &Cooper, base: &str, last: &str) -> Result<PathBuf> {
    let dockerfile = format!(
        "FROM {base} AS tools\nRUN echo tool > /tool\n\
         FROM {base}\nCOPY file /in/\nCOPY --from=tools /tool /usr/tool\nRUN cat /in/file /usr/tool > /both\nRUN {last}\n"
    );
    cooper.input("context/file", "contents\n")?;
    let file = cooper.input("context/Dockerfile", dockerfile)?;
    Ok(file.parent().context("a Dockerfile has a folder")?.to_owned())
}

/// Builds with plain progress and more flags.
fn build(cooper: &Cooper, context: &Path, more: &[&str]) -> Result<Output> {
    let mut words = vec![OsStr::new("build"), OsStr::new("--progress"), OsStr::new("plain")];
    words.extend(more.iter().map(OsStr::new));
    words.push(context.as_os_str());
    cooper.run(words)?.ok()
}

/// Requests for blobs that were layers: all but the configs, which are small JSON.
fn layers_fetched(registry: &FakeRegistry, since: usize) -> usize {
    let seen = registry.seen();
    let blobs =
        seen[since..].iter().filter(|seen| seen.method == "GET" && seen.path.contains("/blobs/sha256"));
    blobs.filter(|seen| !is_config(registry, &seen.path)).count()
}

fn is_config(registry: &FakeRegistry, path: &str) -> bool {
    let digest = path.rsplit('/').next().unwrap_or_default();
    registry.blob(digest).is_some_and(|bytes| bytes.starts_with(b"{"))
}

fn registry_cache() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let (app, cache) = (format!("{}/app:1", registry.name()), format!("{}/app/cache:1", registry.name()));
    let first = Cooper::outside()?;
    let at = context(&first, &base, "echo last > /last")?;
    let to = format!("type=registry,ref={cache},mode=max");
    build(&first, &at, &["-t", &app, "--push", "--cache-to", &to])?;
    let pushed = registry.manifest("app", "1").context("the image has its tag")?;

    let fresh = Cooper::outside()?;
    let at = context(&fresh, &base, "echo last > /last")?;
    let before = registry.seen().len();
    let again = format!("{}/app:2", registry.name());
    let out = build(&fresh, &at, &["-t", &again, "--push", "--cache-from", &cache])?;
    ensure!(out.errors().matches("CACHED").count() >= 5, "steps were executed\n{out:?}");
    ensure!(registry.manifest("app", "2") == Some(pushed), "another image came out");
    let fetched = layers_fetched(&registry, before);
    ensure!(fetched == 0, "{fetched} layers were fetched: {:?}", &registry.seen()[before..]);
    let requests = registry.seen().len() - before;
    ensure!(requests <= 10 * 6, "{requests} requests for six layers: {:?}", &registry.seen()[before..]);

    // One step changes: what it reads is fetched and made, and the result is that of a build without a cache.
    let changed = Cooper::outside()?;
    let at = context(&changed, &base, "cat /both > /last")?;
    build(&changed, &at, &["-t", "changed:1", "--cache-from", &cache])?;
    let alone = Cooper::outside()?;
    let at = context(&alone, &base, "cat /both > /last")?;
    build(&alone, &at, &["-t", "changed:1"])?;
    let (with, without) =
        (Listing::of_image(&changed.image("changed:1")?)?, Listing::of_image(&alone.image("changed:1")?)?);
    with.expect_same(&without, Times::Left, "with the cache and without")
}

fn local_cache() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let first = Cooper::outside()?;
    let at = context(&first, &base, "echo last > /last")?;
    let directory = first.inputs().join("cache").display().to_string();
    let iid = first.inputs().join("iid").display().to_string();
    build(&first, &at, &["--cache-to", &format!("type=local,dest={directory},mode=max"), "--iidfile", &iid])?;
    let fresh = Cooper::outside()?;
    let at = context(&fresh, &base, "echo last > /last")?;
    let again = fresh.inputs().join("iid").display().to_string();
    let from = format!("type=local,src={directory}");
    let out = build(&fresh, &at, &["-t", "app:1", "--cache-from", &from, "--iidfile", &again])?;
    ensure!(out.errors().matches("CACHED").count() >= 5, "steps were executed\n{out:?}");
    ensure!(fs::read_to_string(iid)? == fs::read_to_string(again)?, "another image came out");
    // It is whole: every layer can be read.
    let image = fresh.image("app:1")?;
    ensure!(image.layers()?.len() == 5, "the image has {} layers", image.layers()?.len());
    Ok(())
}

fn inline_cache() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let app = format!("{}/app:1", registry.name());
    let first = Cooper::outside()?;
    let at = context(&first, &base, "echo last > /last")?;
    build(&first, &at, &["-t", &app, "--push", "--cache-to", "type=inline"])?;
    let fresh = Cooper::outside()?;
    let at = context(&fresh, &base, "echo another > /last")?;
    let out = build(&fresh, &at, &["--cache-from", &app])?;
    // The other stage's step is not in the image, so it runs, and so does the last one.
    ensure!(out.errors().matches("CACHED").count() == 3, "not three of five\n{out:?}");
    Ok(())
}

fn lazy_base() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let cooper = Cooper::outside()?;
    let file = cooper.input("context/Dockerfile", format!("FROM {base}\nENV A=b\nCMD [\"a\"]\n"))?;
    let at = file.parent().context("a Dockerfile has a folder")?.to_owned();
    let before = registry.seen().len();
    let app = format!("{}/app:1", registry.name());
    build(&cooper, &at, &["-t", &app, "--push"])?;
    ensure!(layers_fetched(&registry, before) == 0, "a layer was fetched");
    ensure!(registry.tags("app") == ["1"], "the image has no tag");
    // Nothing here has its name, until somebody wants the image here.
    ensure!(!cooper.run(["images"])?.ok()?.text().contains("app"), "an image that is not whole has a name");
    build(&cooper, &at, &["-t", "local:1"])?;
    ensure!(layers_fetched(&registry, before) == 1, "the base was fetched more than once");
    ensure!(cooper.image("local:1")?.layers()?.len() == 1, "the image is not whole");
    Ok(())
}

fn missing_cache() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let cooper = Cooper::outside()?;
    let at = context(&cooper, &base, "true")?;
    let none = format!("{}/no/cache:1", registry.name());
    build(&cooper, &at, &["-t", "app:1", "--cache-from", &none])?.says("is not used")?;
    Ok(())
}

fn login() -> Result<()> {
    let registry = registry(Access::Basic("me".to_owned(), "s3cret".to_owned()))?;
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let (name, host) = (format!("{}/base:1", registry.name()), registry.name());
    cooper.run(["tag", Base::Busybox.reference(), &name])?.ok()?;
    cooper.run(["push", &name])?.exits(5)?;
    let login = |password: &str| {
        let mut command = cooper.command(["login", "-u", "me", "--password-stdin", &host])?;
        cooper_tests::process::run_with(&mut command, password.as_bytes(), DEADLINE)
    };
    let refused = login("wrong\n")?.exits(5)?;
    ensure!(!format!("{refused:?}").contains("wrong"), "the password is shown\n{refused:?}");
    ensure!(!cooper.home().join(".docker/config.json").exists(), "a credential that is refused was kept");
    login("s3cret\n")?.ok()?;
    cooper.run(["push", &name])?.ok()?;
    let kept = fs::metadata(cooper.home().join(".docker/config.json"))?;
    ensure!(std::os::unix::fs::PermissionsExt::mode(&kept.permissions()) & 0o077 == 0, "others may read it");
    cooper_tests::process::run(&mut cooper.command(["logout", &host])?)?.ok()?;
    cooper.run(["push", &name])?.exits(5)?;
    cooper_tests::process::run(&mut cooper.command(["logout", &host])?)?.exits(2)?;
    Ok(())
}

fn gitlab_job() -> Result<()> {
    let registry = registry(Access::Bearer("gitlab-ci-token".to_owned(), "job".to_owned()))?;
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let name = format!("{}/group/app:1", registry.name());
    cooper.run(["tag", Base::Busybox.reference(), &name])?.ok()?;
    let job = [("CI_REGISTRY", registry.name()), ("CI_JOB_TOKEN", "job".to_owned())];
    let job: Vec<(&str, &str)> = job.iter().map(|(key, value)| (*key, value.as_str())).collect();
    cooper_tests::process::run(&mut cooper.on_store_with(&job, ["push", &name])?)?.ok()?;
    ensure!(registry.tags("group/app") == ["1"], "nothing was pushed");
    Ok(())
}

fn copy() -> Result<()> {
    let (from, to) = (registry(Access::Open)?, registry(Access::Open)?);
    let base = with_base(&from)?;
    let cooper = Cooper::outside()?;
    let there = format!("{}/copied/base:2", to.name());
    let digest = cooper.run(["copy", "-q", &base, &there])?.ok()?.text();
    ensure!(from.manifest("base", "1") == to.manifest("copied/base", "2"), "the copy is another image");
    ensure!(to.manifest("copied/base", &digest).is_some(), "it is not what was printed: {digest}");
    let before = from.seen().len();
    let beside = format!("{}/beside:1", from.name());
    cooper.run(["copy", "-q", &base, &beside])?.ok()?;
    ensure!(layers_fetched(&from, before) == 0, "a layer went through here");
    ensure!(from.count("PUT", "/beside/blobs/") == 0, "a blob was uploaded instead of mounted");
    ensure!(cooper.run(["images", "-q"])?.ok()?.text().is_empty(), "a copy left a name");
    // A signature goes along when it is wanted.
    let layer = from.put_blob("base", b"signed");
    let config = from.put_blob("base", b"{}");
    let subject = from.manifest("base", "1").context("the base has its tag")?;
    let signature = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/x.signature",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config.to_string(), "size": 2 },
        "layers": [{ "mediaType": "text/plain", "digest": layer.to_string(), "size": 6 }],
        "subject": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": subject.len(),
        },
    });
    let kind = "application/vnd.oci.image.manifest.v1+json";
    from.put_manifest("base", "signature", kind, signature.to_string().as_bytes());
    let signed = format!("{}/signed:1", to.name());
    cooper.run(["copy", "-q", "--referrers", &base, &signed])?.ok()?;
    let out = process::run(&mut cooper.command(["doctor", &signed])?)?.ok()?;
    ensure!(out.text().contains("referrers   1"), "{out:?}");
    ensure!(to.count("GET", "/referrers/") > 0 && to.tags("signed") == ["1"], "{:?}", to.tags("signed"));
    Ok(())
}

fn doctor() -> Result<()> {
    let registry = registry(Access::Basic("me".to_owned(), "s3cret".to_owned()))?;
    let cooper = Cooper::outside()?;
    let name = format!("{}/app:1", registry.name());
    let ask = || cooper_tests::process::run(&mut cooper.command(["doctor", &name])?);
    ask()?.exits(5)?.says("none is known")?.says("cooper login")?;
    let mut login = cooper.command(["login", "-u", "me", "--password-stdin", &registry.name()])?;
    cooper_tests::process::run_with(&mut login, b"s3cret", DEADLINE)?.ok()?;
    let out = ask()?.exits(5)?.says("resolving fails")?;
    ensure!(out.text().contains("access      ok"), "{out:?}");
    cooper.load_base(Base::Busybox)?;
    cooper.run(["tag", Base::Busybox.reference(), &name])?.ok()?;
    cooper.run(["push", &name])?.ok()?;
    let out = ask()?.ok()?;
    ensure!(out.text().contains("as `me`") && out.text().contains("push        ok"), "{out:?}");
    ensure!(!format!("{out:?}").contains("s3cret"), "{out:?}");
    Ok(())
}

fn strict_registries() -> Result<()> {
    use Quirk::{
        ForgetsUploads, NoIndexes, NoLocation, NoMounts, NoReferrers, WantsHistory, WantsImageConfig,
    };
    let sets: [&[Quirk]; 2] =
        [&[NoIndexes, NoLocation, NoReferrers], &[WantsHistory, WantsImageConfig, ForgetsUploads, NoMounts]];
    for quirks in sets {
        let registry = registry(Access::Open)?;
        let base = with_base(&registry)?;
        registry.behave(quirks);
        let (app, cache) = (format!("{}/app:1", registry.name()), format!("{}/cache:1", registry.name()));
        let first = Cooper::outside()?;
        let at = context(&first, &base, "echo last > /last")?;
        let to = format!("type=registry,ref={cache},mode=max");
        build(&first, &at, &["-t", &app, "--push", "--cache-to", &to])?;
        let fresh = Cooper::outside()?;
        let at = context(&fresh, &base, "echo last > /last")?;
        let out = build(&fresh, &at, &["-t", &app, "--push", "--cache-from", &cache])?;
        ensure!(out.errors().matches("CACHED").count() >= 5, "{quirks:?}: steps were executed\n{out:?}");
    }
    Ok(())
}

/// A context of copies only, whose image is the same whoever makes it.
fn copies(cooper: &Cooper, base: &str) -> Result<PathBuf> {
    let dockerfile = format!(
        "FROM {base} AS one\nCOPY a /in/a\nFROM {base}\nCOPY a /a\nCOPY --from=one /in /b\nCOPY b /c\nENV x=y\n"
    );
    let mut random = Random::new(5);
    for name in ["a/1", "a/2", "a/d/3", "b/4"] {
        cooper.input(&format!("context/{name}"), random.bytes(300_000))?;
    }
    let file = cooper.input("context/Dockerfile", dockerfile)?;
    Ok(file.parent().context("a Dockerfile has a folder")?.to_owned())
}

/// The words of a build whose times are fixed.
fn fixed_build(cooper: &Cooper, context: &Path, more: &[&str]) -> Result<std::process::Command> {
    let mut words = vec![OsStr::new("build")];
    words.extend(more.iter().map(OsStr::new));
    words.push(context.as_os_str());
    cooper.on_store_with(&[("SOURCE_DATE_EPOCH", "1")], words)
}

fn killed() -> Result<()> {
    let moments = if machine::is_long() { 200 } else { 8 };
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let cooper = Cooper::outside()?;
    let at = copies(&cooper, &base)?;
    let (good, cache) = (format!("{}/good:1", registry.name()), format!("{}/cache:1", registry.name()));
    let to = format!("type=registry,ref={cache},mode=max");
    let start = std::time::Instant::now();
    process::run(&mut fixed_build(&cooper, &at, &["--no-cache", "-t", &good, "--push", "--cache-to", &to])?)?
        .ok()?;
    let whole = start.elapsed();
    let expected = registry.manifest("good", "1").context("the image has its tag")?;
    let mut random = Random::new(11);
    for moment in 0..moments {
        let repository = format!("killed{moment}");
        let name = format!("{}/{repository}:1", registry.name());
        // Half of them on a store of their own, which a kill leaves as it is.
        let fresh = Cooper::outside()?;
        let place = if moment % 2 == 0 { &cooper } else { &fresh };
        let mut command = fixed_build(place, &at, &["--no-cache", "-t", &name, "--push", "--cache-to", &to])?;
        let after = whole * u32::try_from(random.below(1000))? / 1000;
        let ended = process::run_with(&mut command, b"", after);
        if let Some(found) = registry.manifest(&repository, "1") {
            ensure!(found == expected, "after {after:?} the tag is of another image\n{ended:?}");
        }
        process::run(&mut fixed_build(place, &at, &["-t", &name, "--push"])?)?.ok()?;
        let found = registry.manifest(&repository, "1");
        ensure!(found.as_ref() == Some(&expected), "the build after a kill at {after:?} gives another image");
    }
    Ok(())
}

fn at_once() -> Result<()> {
    let rounds = if machine::is_long() { 40 } else { 2 };
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let alone = Cooper::outside()?;
    let at = copies(&alone, &base)?;
    let good = format!("{}/good:1", registry.name());
    process::run(&mut fixed_build(&alone, &at, &["-t", &good, "--push"])?)?.ok()?;
    let expected = registry.manifest("good", "1").context("the image has its tag")?;
    let mut random = Random::new(3);
    for round in 0..rounds {
        let together = Cooper::outside()?;
        let builds = 2 + round * 6 % 7;
        // Every third one is killed at some moment of its first second.
        let ends: Vec<u64> =
            (0..builds).map(|n| if n % 3 == 2 { random.below(1000) } else { u64::MAX }).collect();
        std::thread::scope(|scope| {
            let started: Vec<_> = ends
                .iter()
                .enumerate()
                .map(|(number, end)| {
                    let (together, at) = (&together, &at);
                    let name = format!("{}/round{round}-{number}:1", registry.name());
                    let deadline = std::time::Duration::from_millis(*end).min(DEADLINE);
                    scope.spawn(move || {
                        let mut command = fixed_build(together, at, &["--no-cache", "-t", &name, "--push"])?;
                        process::run_with(&mut command, b"", deadline)
                    })
                })
                .collect();
            for (build, end) in started.into_iter().zip(&ends) {
                let ended = build.join().map_err(|_| anyhow::anyhow!("a build panicked"))?;
                if *end == u64::MAX {
                    ended?.ok()?;
                }
            }
            anyhow::Ok(())
        })?;
        for (number, end) in ends.iter().enumerate() {
            let found = registry.manifest(&format!("round{round}-{number}"), "1");
            ensure!(found.is_some() || *end != u64::MAX, "a build that is done has no tag");
            ensure!(found.is_none_or(|found| found == expected), "build {number} of round {round} differs");
        }
        let last = format!("{}/last{round}:1", registry.name());
        process::run(&mut fixed_build(&together, &at, &["-t", &last, "--push"])?)?.ok()?;
        ensure!(
            registry.manifest(&format!("last{round}"), "1").as_ref() == Some(&expected),
            "the last one differs"
        );
    }
    Ok(())
}

fn same_digests() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let (empty, four, cached) = (Cooper::outside()?, Cooper::outside()?, Cooper::outside()?);
    let at = copies(&empty, &base)?;
    let cache = format!("type=registry,ref={}/cache:1", registry.name());
    let to = format!("{cache},mode=max");
    let rows: [(&str, &Cooper, &[&str]); 5] = [
        ("empty", &empty, &["--jobs", "1", "--cache-to", &to]),
        ("warm", &empty, &["--jobs", "4"]),
        ("again", &empty, &["--jobs", "1", "--no-cache"]),
        ("four", &four, &["--jobs", "4"]),
        ("cached", &cached, &["--jobs", "4", "--cache-from", &cache]),
    ];
    let mut expected = None;
    for (name, cooper, more) in rows {
        let tag = format!("{}/{name}:1", registry.name());
        let words = [&["-t", tag.as_str(), "--push"], more].concat();
        process::run(&mut fixed_build(cooper, &at, &words)?)?.ok()?;
        let found = registry.manifest(name, "1").context("the image has its tag")?;
        ensure!(*expected.get_or_insert(found.clone()) == found, "{name}: another image");
    }
    Ok(())
}

fn explain_miss() -> Result<()> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Busybox)?;
    let text = "FROM busybox:latest\nARG A=1\nCOPY src /src\nRUN --mount=type=bind,source=other,target=/o cat /o/x > /y\nRUN echo $A\n";
    let dockerfile = cooper.input("context/Dockerfile", text)?;
    let at = dockerfile.parent().context("a Dockerfile has a folder")?.to_owned();
    cooper.input("context/src/one", "1")?;
    cooper.input("context/src/d/two", "2")?;
    cooper.input("context/other/x", "x")?;
    build(&cooper, &at, &[])?.says("not cached: this step was not executed before")?;
    build(&cooper, &at, &[])?;
    let out = cooper.run(["explain-miss"])?.ok()?;
    ensure!(out.text() == "every step of the last build was in the cache", "{out:?}");
    cooper.input("context/src/d/two", "two")?;
    build(&cooper, &at, &[])?.says("not cached: the file `src/d/two` differs")?;
    cooper.input("context/src/new", "n")?;
    build(&cooper, &at, &[])?.says("not cached: the file `src/new` is new")?;
    cooper.input("context/other/x", "another")?;
    build(&cooper, &at, &[])?.says("not cached: what is in `/o` differs")?;
    build(&cooper, &at, &["--build-arg", "A=2"])?.says("not cached: the variable `A` differs")?;
    let out = cooper.run(["explain-miss"])?.ok()?;
    ensure!(out.text().contains("RUN echo") && out.text().contains("`A`"), "{out:?}");
    build(&cooper, &at, &["--no-cache"])?.says("not cached: the cache is not used for it")?;
    Ok(())
}

/// Changes what a cache in a registry says, as somebody who may write there can.
fn edit_cache(
    registry: &FakeRegistry,
    repository: &str,
    edit: impl Fn(&mut serde_json::Value),
) -> Result<()> {
    let manifest = registry.manifest(repository, "1").context("the cache has its tag")?;
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let digest = manifest["config"]["digest"].as_str().unwrap_or_default().to_owned();
    let config = registry.blob(&digest).context("the cache has a config")?;
    let mut config: serde_json::Value = serde_json::from_slice(&config)?;
    edit(&mut config["cooper.cache"]);
    let config = serde_json::to_vec(&config)?;
    manifest["config"]["digest"] = registry.put_blob(repository, &config).to_string().into();
    manifest["config"]["size"] = config.len().into();
    let kind = manifest["mediaType"].as_str().unwrap_or_default().to_owned();
    registry.put_manifest(repository, "1", &kind, &serde_json::to_vec(&manifest)?);
    Ok(())
}

/// A registry with the small base and the cache of the usual context.
fn with_cache(more: &str) -> Result<(FakeRegistry, String, String)> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let cache = format!("{}/cache:1", registry.name());
    let first = Cooper::outside()?;
    let at = context(&first, &base, "echo last > /last")?;
    build(&first, &at, &["--cache-to", &format!("type=registry,ref={cache},mode=max{more}")])?;
    Ok((registry, base, cache))
}

fn verified_cache() -> Result<()> {
    let (registry, base, cache) = with_cache("")?;
    let honest = Cooper::outside()?;
    let at = context(&honest, &base, "echo last > /last")?;
    let verify = ["--cache-from", &cache, "--cache-verify", "100%,run"];
    build(&honest, &at, &verify)?;
    // The result of the copy is said to be that of another step.
    edit_cache(&registry, "cache", |value| {
        let Some(records) = value["records"].as_array_mut() else { return };
        let all: Vec<_> = records.iter().map(|record| record["keys"].clone()).collect();
        let count = all.len();
        for (number, record) in records.iter_mut().enumerate() {
            record["keys"] = all[(number + 1) % count].clone();
        }
    })?;
    let fresh = Cooper::outside()?;
    let at = context(&fresh, &base, "echo last > /last")?;
    let mut words = vec![OsStr::new("build")];
    words.extend(verify.iter().map(OsStr::new));
    words.push(at.as_os_str());
    fresh.run(words)?.exits(4)?.says("the cache is refused")?;
    fresh.run(["build", "--cache-verify", "lots", "."])?.exits(2)?.says("expected a percentage")?;
    Ok(())
}

fn old_cache() -> Result<()> {
    let (registry, base, cache) = with_cache(",ttl=7d")?;
    let run = || -> Result<Output> {
        let fresh = Cooper::outside()?;
        let at = context(&fresh, &base, "echo last > /last")?;
        build(&fresh, &at, &["--cache-from", &cache])
    };
    ensure!(run()?.errors().matches("CACHED").count() >= 5, "what is young is used");
    edit_cache(&registry, "cache", |value| {
        for record in value["records"].as_array_mut().into_iter().flatten() {
            record["expires"] = 1.into();
        }
    })?;
    let out = run()?.says("it has no results")?;
    ensure!(!out.errors().contains("CACHED"), "what is too old was used\n{out:?}");
    Ok(())
}

fn moved_mounts() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let cache = format!("{}/cache:1", registry.name());
    let text = format!(
        "FROM {base}\nRUN --mount=type=cache,target=/c echo x >> /c/lines; mkdir -p /c/d; echo $$ > /c/d/e; \
         ln -f /c/lines /c/d/link; wc -l < /c/d/link > /count\n"
    );
    let to = format!("type=registry,ref={cache},mounts=true");
    let mut counts = Vec::new();
    for _ in 0..3 {
        let cooper = Cooper::outside()?;
        let file = cooper.input("context/Dockerfile", &text)?;
        let at = file.parent().context("a Dockerfile has a folder")?.to_owned();
        build(&cooper, &at, &["--no-cache", "-t", "a:1", "--cache-from", &cache, "--cache-to", &to])?;
        counts.push(cooper.run(["run", "a:1", "cat", "/count"])?.ok()?.text());
    }
    ensure!(counts == ["1", "2", "3"], "{counts:?}");
    Ok(())
}

fn formats() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let cooper = Cooper::outside()?;
    let at = context(&cooper, &base, "echo last > /last")?;
    let types = |name: &str| -> Result<Vec<String>> {
        let bytes = registry.manifest(name, "1").context("the image has its tag")?;
        let value: serde_json::Value = serde_json::from_slice(&bytes)?;
        let layers = value["layers"].as_array().context("a manifest has layers")?;
        let all = [&value].into_iter().chain(layers);
        Ok(all.filter_map(|one| one["mediaType"].as_str()).map(str::to_owned).collect())
    };
    let rows: [(&str, &str, &str, &str); 4] = [
        ("plain", "", "oci.image.manifest", "tar+gzip"),
        (
            "zstd",
            ",compression=zstd,compression-level=19,force-compression=true",
            "oci.image.manifest",
            "tar+zstd",
        ),
        ("none", ",compression=uncompressed,force-compression=true", "oci.image.manifest", "layer.v1.tar"),
        (
            "docker",
            ",oci-mediatypes=false,compression-level=9",
            "docker.distribution.manifest.v2",
            "rootfs.diff.tar.gzip",
        ),
    ];
    let mut listings = Vec::new();
    for (name, more, manifest, layer) in rows {
        let tag = format!("{}/{name}:1", registry.name());
        build(&cooper, &at, &["-o", &format!("type=registry,name={tag}{more}")])?;
        let types = types(name)?;
        ensure!(types[0].contains(manifest), "{name}: {types:?}");
        ensure!(types[1..].iter().all(|one| one.ends_with(layer)) && types.len() == 6, "{name}: {types:?}");
        let fresh = Cooper::outside()?;
        fresh.run(["pull", &tag])?.ok()?;
        listings.push(Listing::of_image(&fresh.image(&tag)?)?);
    }
    listings[1..]
        .iter()
        .try_for_each(|listing| listing.expect_same(&listings[0], Times::Compared, "another format"))?;
    let zstd_for_docker =
        format!("type=registry,name={}/x:1,compression=zstd,oci-mediatypes=false", registry.name());
    let words = ["build".as_ref(), "-o".as_ref(), OsStr::new(&zstd_for_docker), at.as_os_str()];
    let refused = cooper.run(words)?;
    ensure!(
        refused.code != 0 && refused.errors().contains("a layer in zstd with Docker's media types"),
        "{refused:?}"
    );
    Ok(())
}

fn hundred_stages() -> Result<()> {
    let registry = registry(Access::Open)?;
    let base = with_base(&registry)?;
    let cooper = Cooper::outside()?;
    let mut text = String::new();
    for stage in 0..100 {
        text.push_str(&format!("FROM {base} AS s{stage}\nCOPY file /bin/{stage}\n"));
    }
    text.push_str(&format!("FROM {base}\n"));
    for stage in 0..100 {
        text.push_str(&format!("COPY --from=s{stage} /bin/{stage} /all/\n"));
    }
    cooper.input("context/file", "contents\n")?;
    let file = cooper.input("context/Dockerfile", text)?;
    let at = file.parent().context("a Dockerfile has a folder")?.to_owned();
    let before = registry.seen().len();
    build(&cooper, &at, &["-t", "all:1"])?;
    let seen = registry.seen();
    let asked = |part: &str| seen[before..].iter().filter(|one| one.path.contains(part)).count();
    ensure!(asked("/manifests/") == 1, "the base was resolved {} times", asked("/manifests/"));
    let fetched = layers_fetched(&registry, before);
    ensure!(fetched == 1, "the base was fetched {fetched} times");
    Ok(())
}
