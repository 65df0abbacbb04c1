//! Git repositories on loopback: git's own `http-backend` behind a small server, ended with the case.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use base64::Engine as _;

use crate::machine::Need;
use crate::process;

/// Git with the part that serves repositories.
pub const GIT: Need = Need::Program { name: "git", package: "git" };

/// When every commit of the tests is made, in seconds since 1970.
pub const TIME: i64 = 1_700_000_000;

/// Which protocol a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Version 2.
    Two,
    /// As before there were versions.
    Old,
}

/// A working copy to make commits in.
#[derive(Debug)]
pub struct Repository {
    /// Where it is.
    pub path: PathBuf,
}

impl Repository {
    /// An empty repository with the branch `main`.
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let made = Self { path };
        made.git(&["init", "-q", "-b", "main", "."])?;
        Ok(made)
    }

    /// Runs git in it, with an identity and a time that do not depend on the machine.
    pub fn git(&self, arguments: &[&str]) -> Result<String> {
        let mut command = process::command("git", arguments);
        settle(&mut command);
        command.current_dir(&self.path);
        Ok(process::run(&mut command)?.ok()?.text())
    }

    /// Writes a file.
    pub fn write(&self, name: &str, contents: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().context("a file has a parent")?)?;
        Ok(fs::write(path, contents)?)
    }

    /// Commits everything; gives the commit's id.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "-A"])?;
        self.git(&["commit", "-q", "-m", message])?;
        self.git(&["rev-parse", "HEAD"])
    }
}

fn settle(command: &mut Command) {
    let time = format!("{TIME} +0000");
    let identity = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"];
    command.envs(identity.map(|name| (name, "tester")));
    command.env("GIT_AUTHOR_DATE", &time).env("GIT_COMMITTER_DATE", &time);
    // Nothing of the user's own, and no doubt about who owns a directory of the tests.
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("HOME", "/nonexistent");
    command
        .env("GIT_CONFIG_COUNT", "2")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*");
    command.env("GIT_CONFIG_KEY_1", "http.uploadpack").env("GIT_CONFIG_VALUE_1", "true");
}

/// A running server of the repositories below a directory.
#[derive(Debug)]
pub struct Server {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    protocol: Protocol,
    token: Option<String>,
    stop: AtomicBool,
    requests: AtomicUsize,
}

impl Server {
    /// Serves `root`; with a token only who shows it as GitHub wants it.
    pub fn start(root: &Path, protocol: Protocol, token: Option<&str>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            protocol,
            token: token.map(str::to_owned),
            stop: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.stop.load(Ordering::SeqCst) {
                    break;
                }
                let served = Arc::clone(&served);
                // A client that goes away is its own business.
                std::thread::spawn(move || drop(served.answer(stream)));
            }
        });
        Ok(Self { port, shared })
    }

    /// The address of a repository.
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().context("no method")?, words.next().context("no target")?);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => break,
            }
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        let header =
            |name: &str| headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        if let Some(token) = &self.token {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
            if header("authorization") != Some(&format!("Basic {pair}")) {
                stream.write_all(
                    b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                )?;
                return Ok(());
            }
        }
        let length: u64 = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body)?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut command = process::command("git", ["http-backend"]);
        settle(&mut command);
        command.env("GIT_PROJECT_ROOT", &self.root).env("GIT_HTTP_EXPORT_ALL", "1");
        command.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", &method);
        command.env("CONTENT_TYPE", header("content-type").unwrap_or_default());
        command.env("CONTENT_LENGTH", length.to_string());
        if let (Protocol::Two, Some(version)) = (self.protocol, header("git-protocol")) {
            command.env("GIT_PROTOCOL", version);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        child.stdin.take().context("standard input was piped")?.write_all(&body)?;
        let output = child.wait_with_output()?.stdout;
        let end = output.windows(4).position(|four| four == b"\r\n\r\n").context("no headers")?;
        let head = String::from_utf8_lossy(&output[..end]).into_owned();
        let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
        let rest: Vec<&str> = head.lines().filter(|line| !line.starts_with("Status: ")).collect();
        write!(stream, "HTTP/1.1 {status}\r\n{}\r\nConnection: close\r\n\r\n", rest.join("\r\n"))?;
        Ok(stream.write_all(&output[end + 4..])?)
    }
}
