//! Real Dockerfiles from end to end: built in the strict pod and outside it with the same result, as BuildKit builds
//! them, and taken on by other programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use cooper_tests::bases::{self, Base};
use cooper_tests::cooper::{Cooper, Place};
use cooper_tests::guests::Variant;
use cooper_tests::listing::{Listing, Times};
use cooper_tests::machine::Need;
use cooper_tests::oci::Image;
use cooper_tests::process;
use cooper_tests::registry::{Access, PASSWORD, Registry, USER};
use cooper_tests::runtime::Bundle;
use cooper_tests::suite::{self, Case, case};
use serde_json::Value;

/// A folder in `tests/data/dockerfiles`.
#[derive(Clone, Copy)]
struct Project {
    name: &'static str,
    base: Base,
    needs: &'static [Need],
    /// What is put into the context beside the folder's files.
    prepare: fn(&Path) -> Result<()>,
    /// Paths of the result that the recorded listing leaves out, because the base of the recording had other bytes there.
    of_base: &'static [&'static str],
}

const PROJECTS: [Project; 5] = [
    Project { name: "shell", base: Base::Debian, needs: &[Need::Debian], prepare: nothing, of_base: &[] },
    Project { name: "bash", base: Base::Debian, needs: &[Need::Debian], prepare: nothing, of_base: &[] },
    Project { name: "dpkg", base: Base::Debian, needs: &[Need::Debian], prepare: package, of_base: &[] },
    Project {
        name: "busybox",
        base: Base::Musl,
        needs: &[Need::GCC, Need::MUSL, Need::BUSYBOX],
        prepare: programs,
        of_base: &[],
    },
    Project {
        name: "copy",
        base: Base::Busybox,
        needs: &[Need::BUSYBOX],
        prepare: nothing,
        of_base: &[
            "bin",
            "second/bin",
            "dev",
            "etc/passwd",
            "etc/group",
            "home",
            "proc",
            "root",
            "sys",
            "tmp",
            "usr",
            "var",
        ],
    },
];

fn nothing(_: &Path) -> Result<()> {
    Ok(())
}

fn package(context: &Path) -> Result<()> {
    fs::copy(bases::package("less")?, context.join("less.deb")).map(drop).map_err(Into::into)
}

/// Two programs linked with musl that print their arguments.
fn programs(context: &Path) -> Result<()> {
    let source = context.join("prog.c");
    fs::write(
        &source,
        "#include <stdio.h>\nint main(int c, char **v) { while (*++v) puts(*v); return 0 * c; }\n",
    )?;
    for (name, flags) in [("prog-static", &["-static"][..]), ("prog-dynamic", &[])] {
        let mut command = process::command("musl-gcc", flags);
        process::run(command.arg("-o").arg(context.join(name)).arg(&source))?.ok()?;
    }
    Ok(fs::remove_file(source)?)
}

fn main() -> ExitCode {
    let mut cases = Vec::new();
    for project in PROJECTS {
        cases.push(project.case("the same in the pod and outside", &[Need::Pod], same_in_the_pod));
        cases.push(project.case("a second build runs nothing", &[], second_build_is_cached));
        if project.name != "dpkg" {
            cases.push(project.case("as BuildKit builds it", &[], as_recorded));
        }
    }
    let [shell, .., copy] = PROJECTS;
    let registry = [Need::REGISTRY, Need::SKOPEO];
    let runtime = [Need::REGISTRY, Need::SKOPEO, Need::UMOCI, Need::RUNC, Need::Root, Need::Pod];
    cases.push(shell.case(
        "pushed from the pod and taken on by skopeo, umoci and runc",
        &runtime,
        pushed_and_run,
    ));
    cases.push(copy.case("pulled from and pushed to a registry by name", &registry, by_registry));
    cases.push(copy.case("a registry with a password", &registry, with_password));
    cases.push(copy.case("archives come back the same", &[], archives));
    cases.push(copy.case("nothing changes between two stores", &[], reproducible));
    if std::env::var_os("ALPINE_TAR").is_some() {
        cases.push(case("alpine: its own tools", &[Need::Cooper], alpine));
    }
    suite::main("build", cases)
}

impl Project {
    fn case(self, what: &str, more: &[Need], run: fn(Self) -> Result<()>) -> Case {
        let needs: Vec<Need> = self.needs.iter().chain(more).copied().chain([Need::Cooper]).collect();
        case(format!("{}: {what}", self.name), &needs, move || run(self))
    }

    fn folder(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("data/dockerfiles").join(self.name)
    }

    fn context(self, cooper: &Cooper) -> Result<PathBuf> {
        let context = cooper.copy_in(&self.folder(), "context")?;
        (self.prepare)(&context)?;
        Ok(context)
    }

    /// Builds in a fresh place under the tag `result`.
    fn build(self, place: Place) -> Result<Cooper> {
        let cooper = Cooper::at(place)?;
        cooper.load_base(self.base)?;
        self.build_again(&cooper)?;
        Ok(cooper)
    }

    fn build_again(self, cooper: &Cooper) -> Result<process::Output> {
        self.build_with(cooper, &[])
    }

    /// Builds under the tag `result` with more variables in the environment.
    fn build_with(self, cooper: &Cooper, environment: &[(&str, &str)]) -> Result<process::Output> {
        let context = cooper.inputs().join("context");
        let context = if context.exists() { context } else { self.context(cooper)? };
        let arguments = ["build", "--progress", "plain", "-t", RESULT].map(AsRef::as_ref);
        let arguments = arguments.into_iter().chain([context.as_os_str()]);
        process::run(&mut cooper.on_store_with(environment, arguments)?)?.ok()
    }

    fn has_steps(self) -> bool {
        self.name != "copy"
    }
}

const RESULT: &str = "result:latest";

/// The parts of a config that do not hold the time of day.
fn timeless(image: &Image) -> Value {
    let mut config = image.config.clone();
    config["created"] = Value::Null;
    config["rootfs"]["diff_ids"] = Value::Null;
    for entry in config["history"].as_array_mut().into_iter().flatten() {
        entry["created"] = Value::Null;
    }
    config
}

fn same_in_the_pod(project: Project) -> Result<()> {
    // What COPY makes on its own has the time of the build: it is given, so that layers without steps are the same bytes.
    let epoch = [("SOURCE_DATE_EPOCH", "1700000000")];
    let build = |place| -> Result<(Cooper, Image)> {
        let cooper = Cooper::at(place)?;
        cooper.load_base(project.base)?;
        project.build_with(&cooper, if project.has_steps() { &[] } else { &epoch })?;
        let image = cooper.image(RESULT)?;
        Ok((cooper, image))
    };
    let ((_outside, outside), (_pod, inside)) = (build(Place::Outside)?, build(Place::Pod)?);
    ensure!(
        timeless(&outside) == timeless(&inside),
        "configs differ:\n{}\n{}",
        outside.config,
        inside.config
    );
    let times = if project.has_steps() { Times::Left } else { Times::Compared };
    Listing::of_image(&outside)?.expect_same(&Listing::of_image(&inside)?, times, "outside and inside")?;
    let layers = |image: &Image| image.manifest["layers"].clone();
    ensure!(project.has_steps() || layers(&outside) == layers(&inside), "layers without steps differ");
    Ok(())
}

fn second_build_is_cached(project: Project) -> Result<()> {
    let cooper = project.build(Place::Outside)?;
    let first = cooper.image(RESULT)?;
    let output = project.build_again(&cooper)?;
    let second = cooper.image(RESULT)?;
    ensure!(first.digest == second.digest, "{} became {}\n{output:?}", first.digest, second.digest);
    Ok(())
}

fn as_recorded(project: Project) -> Result<()> {
    let recorded = project.folder().with_extension("listing");
    let recorded = fs::read_to_string(&recorded).with_context(|| format!("{}", recorded.display()))?;
    let image = project.build(Place::Outside)?.image(RESULT)?;
    let keep = |line: &&str| {
        let path = line.split(' ').next().unwrap_or_default();
        !project.of_base.iter().any(|base| path == *base || path.starts_with(&format!("{base}/")))
    };
    let ours = Listing::of_image(&image)?.recorded();
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        (ours.lines().filter(keep).collect(), recorded.lines().filter(keep).collect());
    let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
    let surplus: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
    if missing.is_empty() && surplus.is_empty() {
        return Ok(());
    }
    bail!("BuildKit has\n{missing:#?}\nwe have\n{surplus:#?}")
}

fn pushed_and_run(project: Project) -> Result<()> {
    let registry = Registry::start()?;
    let cooper = project.build(Place::Pod)?;
    let to = registry.reference("tests/result:1");
    cooper.run(["tag", RESULT, &to])?.ok()?;
    cooper.run(["push", &to])?.ok()?;
    let got = registry.get("tests/result:1")?;
    let own = cooper.image(RESULT)?;
    ensure!(got.digest == own.digest, "the registry has {}, we have {}", got.digest, own.digest);
    let bundle = Bundle::unpack(&got)?;
    bundle.listing()?.expect_same(
        &Listing::of_image(&own)?,
        Times::Compared,
        "unpacked by umoci and our tree",
    )?;
    // The image is from scratch without a shell; a static program shows that it starts.
    let program = cooper_tests::guests::compile("environment", Variant::Static)?;
    let with_program = Cooper::outside()?;
    with_program.load(&got, "pushed:1")?;
    let context =
        with_program.input("context/Dockerfile", "FROM pushed:1\nCOPY environment /environment\n")?;
    fs::copy(program, with_program.inputs().join("context/environment"))?;
    let context = context.parent().context("a Dockerfile has a folder")?;
    with_program.run(["build".as_ref(), "-t".as_ref(), RESULT.as_ref(), context.as_os_str()])?.ok()?;
    let said = Bundle::unpack(&with_program.image(RESULT)?)?.run(&["/environment"])?.ok()?.text();
    ensure!(said.contains("uid 1000 1000 gid 1000 1000"), "{said}");
    Ok(())
}

/// A Dockerfile whose base lies in the registry under its full name.
fn by_registry(project: Project) -> Result<()> {
    let registry = Registry::start()?;
    let base = registry.put_base(project.base)?;
    let cooper = Cooper::outside()?;
    cooper.run(["pull", &base])?.ok()?;
    let dockerfile = format!("FROM {base}\nLABEL from=registry\nCOPY a.txt /\n");
    let at = cooper.input("context/Dockerfile", dockerfile)?;
    cooper.input("context/a.txt", "a\n")?;
    let to = registry.reference("tests/child:1");
    let context = at.parent().context("a Dockerfile has a folder")?.as_os_str();
    cooper.run(["build".as_ref(), "-t".as_ref(), to.as_ref(), "--push".as_ref(), context])?.ok()?;
    let got = registry.get("tests/child:1")?;
    ensure!(got.config["config"]["Labels"]["from"] == "registry", "{}", got.config);
    let below = project.base.image()?;
    let (child, parent) = (got.manifest["layers"].as_array(), below.manifest["layers"].as_array());
    let (child, parent) = (child.context("no layers")?, parent.context("no layers")?);
    ensure!(child.len() == parent.len() + 1, "one layer more than the base, not {}", child.len());
    ensure!(child[0]["digest"] == parent[0]["digest"], "the base's blob is kept byte for byte");
    Ok(())
}

fn with_password(project: Project) -> Result<()> {
    let registry = Registry::with(Access::Basic)?;
    let base = registry.put_base(project.base)?;
    let cooper = Cooper::outside()?;
    let refused = cooper.run(["pull", &base])?.exits(5)?;
    ensure!(refused.errors().contains(&registry.host()), "the registry is named\n{refused:?}");
    // base64 of tester:secret, as docker's config.json has it.
    ensure!((USER, PASSWORD) == ("tester", "secret"), "the constant below is theirs");
    let auth = "dGVzdGVyOnNlY3JldA==";
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.host());
    fs::create_dir_all(cooper.home().join(".docker"))?;
    fs::write(cooper.home().join(".docker/config.json"), config)?;
    let pulled = cooper.run(["pull", &base])?.ok()?;
    ensure!(
        !pulled.errors().contains(auth) && !pulled.errors().contains(PASSWORD),
        "a credential is shown\n{pulled:?}"
    );
    Ok(())
}

/// What is saved can be loaded: the same image in all forms.
fn archives(project: Project) -> Result<()> {
    let cooper = project.build(Place::Outside)?;
    let image = cooper.image(RESULT)?;
    for format in ["oci", "docker"] {
        let at = cooper.home().join(format!("saved.{format}"));
        let other = Cooper::outside()?;
        cooper
            .run([
                "save".as_ref(),
                "--format".as_ref(),
                format.as_ref(),
                "-o".as_ref(),
                at.as_os_str(),
                RESULT.as_ref(),
            ])?
            .ok()?;
        other.run(["load".as_ref(), "-i".as_ref(), at.as_os_str()])?.ok()?;
        let back = other.image(RESULT)?;
        ensure!(back.config == image.config, "{format}: the config changed");
        Listing::of_image(&image)?.expect_same(&Listing::of_image(&back)?, Times::Compared, format)?;
    }
    Ok(())
}

fn reproducible(project: Project) -> Result<()> {
    let build = || -> Result<String> {
        let cooper = Cooper::outside()?;
        cooper.load_base(project.base)?;
        project.build_with(&cooper, &[("SOURCE_DATE_EPOCH", "1700000000")])?;
        Ok(cooper.image(RESULT)?.digest)
    };
    let (first, second) = (build()?, build()?);
    ensure!(first == second, "{first} and {second}");
    Ok(())
}

/// A real Alpine: musl's loader, busybox, apk.
fn alpine() -> Result<()> {
    let cooper = Cooper::outside()?;
    cooper.load_base(Base::Alpine)?;
    let text = "FROM alpine:latest\nRUN apk --version && apk info | sort >/packages && adduser -D sailor\n\
                USER sailor\nRUN id -un >~/me && cat /etc/alpine-release\n";
    let file = cooper.input("context/Dockerfile", text)?;
    let context = file.parent().context("a Dockerfile has a folder")?.as_os_str();
    cooper.run(["build".as_ref(), "-t".as_ref(), RESULT.as_ref(), context])?.ok()?;
    let listing = Listing::of_image(&cooper.image(RESULT)?)?;
    ensure!(
        listing.0.contains_key("packages") && listing.0.contains_key("home/sailor/me"),
        "{:?}",
        listing.0.keys()
    );
    Ok(())
}
