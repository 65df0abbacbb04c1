//! The real BuildKit and buildah, to compare with. Only `cooper-compare` uses them; no suite needs them.
//!
//! `COOPER_PEERS` names a directory with `bin/docker`, `bin/buildah` and `scratch`, the one place that these programs
//! and we both see, and `docker`, the daemon's data; without it they are searched in `PATH`, work in `/tmp`, and the
//! data is in `/var/lib/docker`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::conformance::{Outcome, Prepared};
use crate::oci::{self, Image};
use crate::process::{self, Output};

/// Where the programs are and where they can read and write.
#[derive(Clone, Debug)]
pub struct Peers {
    programs: Option<PathBuf>,
    scratch: PathBuf,
    data: PathBuf,
}

/// What one build came to: an image or the message of a refusal.
type Built = std::result::Result<Image, String>;

impl Peers {
    /// As the environment names them.
    pub fn find() -> Self {
        match std::env::var_os("COOPER_PEERS").map(PathBuf::from) {
            Some(at) => {
                Self { programs: Some(at.join("bin")), scratch: at.join("scratch"), data: at.join("docker") }
            }
            None => Self { programs: None, scratch: "/tmp".into(), data: "/var/lib/docker".into() },
        }
    }

    /// A directory that all programs see.
    pub fn directory(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("compare-").tempdir_in(&self.scratch)?)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let at = self.programs.as_ref().map_or_else(|| PathBuf::from(program), |bin| bin.join(program));
        process::run(&mut process::command(at, arguments))
    }

    /// BuildKit's image of a case.
    pub fn buildkit(&self, prepared: &Prepared, tag: &str) -> Result<Built> {
        for (name, dockerfile) in &prepared.images {
            if let Err(message) = self.buildx(dockerfile, &prepared.context, &[], name)? {
                return Ok(Err(message));
            }
        }
        let flags: Vec<&str> = prepared.flags.iter().map(String::as_str).collect();
        let built = self.buildx(&prepared.dockerfile, &prepared.context, &flags, tag)?;
        if let Err(message) = built {
            return Ok(Err(message));
        }
        let image = self.saved(tag);
        self.run("docker", &["rmi", "-f", tag])?;
        image.map(Ok)
    }

    /// An image that docker has.
    pub fn saved(&self, tag: &str) -> Result<Image> {
        let kept = Arc::new(self.directory()?);
        let archive = kept.path().join("image.tar");
        let saved = self.run("docker", &["save", "-o", path(&archive)?, tag])?;
        if saved.errors().contains("empty export") {
            return self.without_layers(tag);
        }
        saved.ok()?;
        tar::Archive::new(fs::File::open(&archive)?).unpack(kept.path())?;
        let image = oci::read(kept.path(), "latest")?;
        Ok(Image { kept: Some(kept), ..image })
    }

    /// An image without layers, which docker cannot save: its config as the daemon keeps it.
    fn without_layers(&self, tag: &str) -> Result<Image> {
        let digest = self.run("docker", &["image", "inspect", "-f", "{{.Id}}", tag])?.ok()?.text();
        let hex = digest.trim_start_matches("sha256:");
        let at = self.data.join("image/overlay2/imagedb/content/sha256").join(hex);
        let config = fs::read(&at).with_context(|| format!("cannot read {}", at.display()))?;
        let mut config: Value = serde_json::from_slice(&config)?;
        config["rootfs"]["diff_ids"] = serde_json::json!([]);
        Ok(Image {
            layout: PathBuf::new(),
            digest: digest.clone(),
            manifest: serde_json::json!({"layers": []}),
            config,
            kept: None,
        })
    }

    fn buildx(
        &self,
        dockerfile: &Path,
        context: &Path,
        flags: &[&str],
        tag: &str,
    ) -> Result<std::result::Result<(), String>> {
        let mut arguments = vec!["buildx", "build", "--progress", "plain", "--provenance=false"];
        // The daemon may have no bridge.
        arguments.extend(["--network", "host", "-t", tag]);
        arguments.extend(["-f", path(dockerfile)?]);
        arguments.extend(flags);
        arguments.push(path(context)?);
        let output = self.run("docker", &arguments)?;
        Ok(if output.code == 0 { Ok(()) } else { Err(last_error(&output.errors())) })
    }

    /// What BuildKit prints for `--call`.
    pub fn call(&self, prepared: &Prepared, method: &str) -> Result<Outcome> {
        let call = format!("--call={method},format=json");
        let mut arguments = vec!["buildx", "build", &call, "-f", path(&prepared.dockerfile)?];
        arguments.extend(prepared.flags.iter().map(String::as_str));
        arguments.push(path(&prepared.context)?);
        let output = self.run("docker", &arguments)?;
        match serde_json::from_slice::<Value>(&output.stdout) {
            Ok(json) => Ok(Outcome::of_call(method, &json)),
            Err(_) => Ok(Outcome::refused(&last_error(&output.errors()))),
        }
    }

    /// buildah's image of a case, by chroot.
    pub fn buildah(&self, prepared: &Prepared) -> Result<Built> {
        for (name, dockerfile) in &prepared.images {
            let output = self.bud(dockerfile, &prepared.context, &[], name)?;
            if output.code != 0 {
                return Ok(Err(last_error(&output.errors())));
            }
        }
        let flags: Vec<&str> = prepared.flags.iter().map(String::as_str).collect();
        let tag = "localhost/compared:latest";
        let output = self.bud(&prepared.dockerfile, &prepared.context, &flags, tag)?;
        if output.code != 0 {
            return Ok(Err(last_error(&output.errors())));
        }
        let kept = Arc::new(self.directory()?);
        let layout = kept.path().join("layout");
        self.run("buildah", &["push", "-f", "oci", tag, &format!("oci:{}:latest", path(&layout)?)])?.ok()?;
        self.run("buildah", &["rmi", "-f", tag])?;
        let image = oci::read(&layout, "latest")?;
        Ok(Ok(Image { kept: Some(kept), ..image }))
    }

    fn bud(&self, dockerfile: &Path, context: &Path, flags: &[&str], tag: &str) -> Result<Output> {
        let mut arguments = vec!["build", "--isolation", "chroot", "--network", "host", "--layers=false"];
        arguments.extend(["-t", tag, "-f", path(dockerfile)?]);
        arguments.extend(flags);
        arguments.push(path(context)?);
        self.run("buildah", &arguments)
    }

    /// Gives an image of both programs another name.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        self.run("docker", &["tag", image, name])?.ok()?;
        drop(self.run("buildah", &["tag", image, name])?);
        Ok(())
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path of ours is text")
}

/// The line that says why, without the noise around it.
fn last_error(log: &str) -> String {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let wanted = lines().rev().find(|line| line.to_ascii_lowercase().starts_with("error"));
    wanted.or_else(|| lines().next_back()).unwrap_or("no message").to_owned()
}
