//! A registry on loopback: Debian's docker-registry, started for one case or suite and ended with it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::bases::Base;
use crate::oci::Image;
use crate::process;

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    port: u16,
    /// Settings and data, removed with the registry.
    _directory: tempfile::TempDir,
}

/// Who may use a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Anonymous,
    /// The user [`USER`] with [`PASSWORD`].
    Basic,
}

/// The user of a registry with [`Access::Basic`].
pub const USER: &str = "tester";
/// The user's password.
pub const PASSWORD: &str = "secret";
/// The two as htpasswd has them (bcrypt).
const HTPASSWD: &str = "tester:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

impl Registry {
    /// Starts a registry that everybody may use.
    pub fn start() -> Result<Self> {
        Self::with(Access::Anonymous)
    }

    /// Starts a registry; returns when it listens.
    pub fn with(access: Access) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("cooper-registry-").tempdir_in("/tmp")?;
        // Free a moment ago; the registry reports if somebody took it since.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let auth = match access {
            Access::Anonymous => String::new(),
            Access::Basic => {
                let file = directory.path().join("htpasswd");
                fs::write(&file, HTPASSWD)?;
                format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", file.display())
            }
        };
        let settings = directory.path().join("registry.yml");
        fs::write(
            &settings,
            format!(
                "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: 127.0.0.1:{port}}}\n{auth}",
                directory.path().join("data").display()
            ),
        )?;
        let mut command = process::command("docker-registry", ["serve".as_ref(), settings.as_os_str()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().context("cannot start docker-registry")?;
        let log = server.stderr.take().context("standard error was piped")?;
        let registry = Self { server, port, _directory: directory };
        registry.wait_until_it_listens(log)?;
        Ok(registry)
    }

    /// Reads the log up to the line that says so; the rest is read and dropped, so that the pipe never fills.
    fn wait_until_it_listens(&self, log: impl Read + Send + 'static) -> Result<()> {
        let mut lines = BufReader::new(log).lines();
        let mut said = Vec::new();
        for line in lines.by_ref() {
            let line = line?;
            if line.contains("listening on") {
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(());
            }
            said.push(line);
        }
        bail!("docker-registry ended:\n{}", said.join("\n"))
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The reference of a repository and tag in this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Puts an image into the registry, with skopeo.
    pub fn put(&self, image: &Image, name: &str) -> Result<String> {
        let reference = self.reference(name);
        let from = format!("oci:{}:latest", image.layout.display());
        let to = format!("docker://{reference}");
        let credentials = format!("--dest-creds={USER}:{PASSWORD}");
        let arguments =
            ["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", &credentials, &from, &to];
        process::run(&mut process::command("skopeo", arguments))?.ok()?;
        Ok(reference)
    }

    /// Puts a base into the registry under its own name.
    pub fn put_base(&self, base: Base) -> Result<String> {
        self.put(&base.image()?, base.reference())
    }

    /// Fetches an image out of the registry with skopeo, digests kept.
    pub fn get(&self, name: &str) -> Result<Image> {
        let kept = Arc::new(tempfile::Builder::new().prefix("cooper-got-").tempdir_in("/tmp")?);
        let layout = kept.path().join("layout");
        let from = format!("docker://{}", self.reference(name));
        let to = format!("oci:{}:latest", layout.display());
        let credentials = format!("--src-creds={USER}:{PASSWORD}");
        let arguments = [
            "copy",
            "-q",
            "--insecure-policy",
            "--preserve-digests",
            "--src-tls-verify=false",
            &credentials,
            &from,
            &to,
        ];
        process::run(&mut process::command("skopeo", arguments))?.ok()?;
        Ok(Image { kept: Some(kept), ..crate::oci::read(&layout, "latest")? })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}
