//! Every example is run: what stands in `examples/` has to work as its comments say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use cooper_tests::bases::Base;
use cooper_tests::cooper::{Cooper, Place};
use cooper_tests::listing::{Kind, Listing};
use cooper_tests::machine::Need;
use cooper_tests::process;
use cooper_tests::runtime::Bundle;
use cooper_tests::suite::{self, case};

/// The folders of `examples/` and what they are built on.
const EXAMPLES: &[(&str, &[Base])] = &[
    ("quickstart", &[]),
    ("self", &[Base::Busybox]),
    ("debian-tools", &[Base::Debian]),
    ("kubernetes", &[]),
    ("gitlab", &[]),
];

fn main() -> ExitCode {
    let small = [Need::Cooper, Need::BUSYBOX];
    let started = [Need::Cooper, Need::BUSYBOX, Need::UMOCI, Need::RUNC, Need::Root];
    let cases = vec![
        case("every example is listed", &[], every_example_is_listed),
        case("quickstart, outside", &[Need::Cooper], || quickstart(Place::Outside)),
        case("quickstart, in the pod", &[Need::Cooper, Need::Pod], || quickstart(Place::Pod)),
        case("self builds itself", &small, self_image),
        case("self runs in a container", &started, self_runs),
        case("debian-tools", &[Need::Cooper, Need::Debian], debian_tools),
        case("kubernetes: the pod keeps the restricted profile", &[], kubernetes),
        case("gitlab: the job's commands are cooper's", &[Need::Cooper], gitlab),
    ];
    suite::main("examples", cases)
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn every_example_is_listed() -> Result<()> {
    let mut found: Vec<String> = fs::read_dir(folder(""))?
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    found.sort();
    let mut listed: Vec<String> = EXAMPLES.iter().map(|&(name, _)| name.to_owned()).collect();
    listed.sort();
    ensure!(found == listed, "examples/ holds {found:?}, the suite lists {listed:?}");
    Ok(())
}

fn build(cooper: &Cooper, name: &str, more: &[&str]) -> Result<()> {
    let bases = EXAMPLES.iter().find(|(example, _)| *example == name).context("a listed example")?.1;
    bases.iter().try_for_each(|&base| cooper.load_base(base))?;
    let at = cooper.inputs().join(name);
    let context = if at.exists() { at } else { cooper.copy_in(&folder(name), name)? };
    let mut words = vec!["build".as_ref(), "-t".as_ref(), "example:1".as_ref()];
    words.extend(more.iter().map(std::ffi::OsStr::new));
    words.push(context.as_os_str());
    cooper.run(words)?.ok().map(drop)
}

fn quickstart(place: Place) -> Result<()> {
    let cooper = Cooper::at(place)?;
    build(&cooper, "quickstart", &[])?;
    let image = cooper.image("example:1")?;
    let listing = Listing::of_image(&image)?;
    let page = listing.0.get("site/index.html").context("the page is in the image")?;
    ensure!((page.mode, page.uid, page.gid) == (0o444, 10001, 10001), "{page}");
    ensure!(matches!(listing.0.get("etc/motd").map(|motd| &motd.kind), Some(Kind::File(..))), "no /etc/motd");
    ensure!(!listing.0.contains_key("site/notes.md"), ".dockerignore is not kept");
    // What the step made with the toolbox, and nothing of the toolbox.
    for made in ["site/index.html.gz", "site/SHA256SUMS"] {
        ensure!(matches!(listing.0.get(made).map(|file| &file.kind), Some(Kind::File(..))), "no {made}");
    }
    let roots: BTreeSet<&str> =
        listing.0.keys().filter_map(|path| path.split('/').next()).filter(|name| !name.is_empty()).collect();
    ensure!(roots == BTreeSet::from(["etc", "site"]), "{roots:?}");
    ensure!(
        image.config["config"]["Labels"]["org.opencontainers.image.title"] == "quickstart",
        "{}",
        image.config
    );
    Ok(())
}

/// A bundle in form, with a certificate that nobody will ask for.
const BUNDLE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

/// Puts the binary under test into the context, as the example's comment tells the user to.
fn with_binary(cooper: &Cooper) -> Result<()> {
    let context = cooper.copy_in(&folder("self"), "self")?;
    fs::copy(cooper_tests::cooper::binary()?, context.join("cooper"))?;
    fs::write(context.join("ca-certificates.crt"), BUNDLE)?;
    Ok(())
}

fn self_image() -> Result<()> {
    let cooper = Cooper::outside()?;
    with_binary(&cooper)?;
    build(&cooper, "self", &["--target", "cooper"])?;
    let plain = Listing::of_image(&cooper.image("example:1")?)?;
    ensure!(
        plain.0.contains_key("usr/bin/cooper") && !plain.0.contains_key("bin/sh"),
        "{:?}",
        plain.0.keys()
    );
    build(&cooper, "self", &["--target", "shell"])?;
    let shell = Listing::of_image(&cooper.image("example:1")?)?;
    ensure!(shell.0.contains_key("usr/bin/cooper") && shell.0.contains_key("bin/sh"), "{:?}", shell.0.keys());
    Ok(())
}

fn self_runs() -> Result<()> {
    let cooper = Cooper::outside()?;
    with_binary(&cooper)?;
    build(&cooper, "self", &["--target", "shell"])?;
    let bundle = Bundle::unpack(&cooper.image("example:1")?)?;
    let version = bundle.run(&["/usr/bin/cooper", "version"])?.ok()?.text();
    ensure!(version.starts_with("cooper "), "{version}");
    let script = "mkdir -p /tmp/c && cd /tmp/c && echo 'FROM scratch' >Dockerfile && echo 'COPY Dockerfile /' >>Dockerfile \
                  && COOPER_STORE=/tmp/store cooper build -q .";
    let built = bundle.run(&["/bin/sh", "-c", script])?.ok()?.text();
    ensure!(built.starts_with("sha256:"), "{built}");
    Ok(())
}

fn debian_tools() -> Result<()> {
    let cooper = Cooper::outside()?;
    build(&cooper, "debian-tools", &[])?;
    let listing = Listing::of_image(&cooper.image("example:1")?)?;
    ensure!(listing.0.contains_key("report.txt"), "{:?}", listing.0.keys());
    Ok(())
}

/// The rules of Kubernetes' restricted profile that a manifest can break, each with the line that keeps it.
const RESTRICTED: [&str; 7] = [
    "runAsNonRoot: true",
    "runAsUser: 65534",
    "allowPrivilegeEscalation: false",
    "readOnlyRootFilesystem: true",
    "drop: [ALL]",
    "type: RuntimeDefault",
    "automountServiceAccountToken: false",
];

fn kubernetes() -> Result<()> {
    let text = fs::read_to_string(folder("kubernetes").join("pod.yaml"))?;
    for line in RESTRICTED {
        ensure!(text.contains(line), "pod.yaml lost `{line}`");
    }
    ensure!(
        !text.contains("privileged: true") && !text.contains("hostPath"),
        "pod.yaml reaches for the host"
    );
    Ok(())
}

/// The job's script lines are run with `cooper` replaced by `cooper … --help`: the verbs and flags have to exist.
fn gitlab() -> Result<()> {
    let text = fs::read_to_string(folder("gitlab").join(".gitlab-ci.yml"))?;
    let lines: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- cooper ")).collect();
    ensure!(!lines.is_empty(), "the job calls cooper");
    let cooper = Cooper::outside()?;
    for line in lines {
        let verb = line.split_whitespace().next().context("a verb")?;
        let help = process::run(&mut cooper.command([verb, "--help"])?)?.ok()?.text();
        for flag in line.split_whitespace().filter(|word| word.starts_with("--")) {
            let flag = flag.split('=').next().unwrap_or(flag);
            ensure!(help.contains(flag), "`cooper {verb}` has no {flag}");
        }
    }
    Ok(())
}
