//! The command line and registries: caches, bases that nobody reads, credentials. The registry is the one of the
//! library, since it tells what it was asked.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use cooper_image::fake::{Access, FakeRegistry};
use cooper_tests::bases::Base;
use cooper_tests::cooper::Cooper;
use cooper_tests::listing::{Listing, Times};
use cooper_tests::machine::Need;
use cooper_tests::process::{DEADLINE, Output};
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
