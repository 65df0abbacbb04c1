//! Images in other hands: unpacked and checked by umoci, started by runc.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::listing::Listing;
use crate::oci::Image;
use crate::process::{self, Output};

/// An image unpacked into a runtime bundle.
#[derive(Debug)]
pub struct Bundle {
    directory: tempfile::TempDir,
}

impl Bundle {
    /// Unpacks an image with umoci, which checks every digest and every layer's rules on the way.
    pub fn unpack(image: &Image) -> Result<Self> {
        let bundle =
            Self { directory: tempfile::Builder::new().prefix("cooper-bundle-").tempdir_in("/tmp")? };
        let from = format!("{}:latest", image.layout.display());
        let mut command = process::command("umoci", ["unpack", "--image", &from]);
        process::run(command.arg(bundle.path()))?.ok()?;
        Ok(bundle)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    /// The unpacked file system.
    pub fn listing(&self) -> Result<Listing> {
        Listing::of_directory(&self.path().join("rootfs"))
    }

    /// Starts a command in the unpacked image with runc; without a command what the image says.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let at = self.path().join("config.json");
        let mut config: Value =
            serde_json::from_slice(&fs::read(&at).context("umoci wrote no config.json")?)?;
        config["process"]["terminal"] = json!(false);
        if !words.is_empty() {
            config["process"]["args"] = json!(words);
        }
        fs::write(&at, serde_json::to_vec(&config)?)?;
        let name = self.directory.path().file_name().unwrap_or_default().to_owned();
        let mut command = process::command("runc", ["--root"]);
        command.arg(self.directory.path().join("runc")).arg("run").arg("-b").arg(self.path()).arg(name);
        process::run(&mut command)
    }
}
