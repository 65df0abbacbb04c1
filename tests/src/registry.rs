//! A registry on loopback: Debian's docker-registry, started for one case or suite and ended with it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::bases::Base;
use crate::oci::Image;
use crate::process;

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    port: u16,
    /// The authority of its certificate, as PEM.
    pub authority: Option<Vec<u8>>,
    /// Gives its tokens.
    _issuer: Option<Issuer>,
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
    /// Whoever has a token, which the user gets with the password.
    Token,
}

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Plain HTTP.
    Plain,
    /// HTTPS with a certificate of an authority of its own.
    Tls,
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

    /// Starts a registry that is spoken to in plain HTTP; returns when it listens.
    pub fn with(access: Access) -> Result<Self> {
        Self::start_as(access, Wire::Plain)
    }

    /// Starts a registry; returns when it listens.
    pub fn start_as(access: Access, wire: Wire) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("cooper-registry-").tempdir_in("/tmp")?;
        // Free a moment ago; the registry reports if somebody took it since.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut issuer = None;
        let auth = match access {
            Access::Anonymous => String::new(),
            Access::Token => {
                let started = Issuer::start(directory.path())?;
                let auth = format!(
                    "auth: {{token: {{realm: {}, service: tests, issuer: tests, rootcertbundle: {}}}}}\n",
                    started.realm(),
                    directory.path().join("issuer.crt").display()
                );
                issuer = Some(started);
                auth
            }
            Access::Basic => {
                let file = directory.path().join("htpasswd");
                fs::write(&file, HTPASSWD)?;
                format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", file.display())
            }
        };
        let (tls, authority) = match wire {
            Wire::Plain => (String::new(), None),
            Wire::Tls => {
                certify(directory.path())?;
                let at = |name: &str| directory.path().join(name).display().to_string();
                let tls = format!(", tls: {{certificate: {}, key: {}}}", at("leaf.crt"), at("leaf.key"));
                (tls, Some(fs::read(directory.path().join("authority.crt"))?))
            }
        };
        let settings = directory.path().join("registry.yml");
        fs::write(
            &settings,
            format!(
                "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: 127.0.0.1:{port}{tls}}}\n{auth}",
                directory.path().join("data").display()
            ),
        )?;
        let mut command = process::command("docker-registry", ["serve".as_ref(), settings.as_os_str()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().context("cannot start docker-registry")?;
        let log = server.stderr.take().context("standard error was piped")?;
        let registry = Self { server, port, authority, _issuer: issuer, _directory: directory };
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

// ---- certificates

/// A new key, and what it is certified for: the words for openssl.
fn openssl(directory: &Path, words: &str) -> Result<()> {
    let mut command = process::command("openssl", words.split(' '));
    process::run(command.current_dir(directory))?.ok()?;
    Ok(())
}

/// Makes an authority and a certificate of it for loopback.
fn certify(directory: &Path) -> Result<()> {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        directory,
        &format!("req -x509 {KEY} -keyout authority.key -out authority.crt -days 2 -subj /CN=authority"),
    )?;
    let name = "-subj /CN=registry -addext subjectAltName=IP:127.0.0.1";
    openssl(directory, &format!("req {KEY} -keyout leaf.key -out leaf.csr {name}"))?;
    openssl(
        directory,
        "x509 -req -in leaf.csr -CA authority.crt -CAkey authority.key -CAcreateserial -copy_extensions copy \
         -out leaf.crt -days 2",
    )
}

// ---- a token service

/// A token service as distribution's specification has it: a name and a password for a signed token.
#[derive(Debug)]
struct Issuer {
    address: SocketAddr,
}

impl Issuer {
    fn start(directory: &Path) -> Result<Self> {
        openssl(
            directory,
            "req -x509 -newkey rsa:2048 -nodes -keyout issuer.key -out issuer.crt -days 2 -subj /CN=tests",
        )?;
        openssl(directory, "x509 -in issuer.crt -outform DER -out issuer.der")?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let directory = directory.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is served nothing.
                drop(serve(&directory, &stream));
            }
        });
        Ok(Self { address })
    }

    fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }
}

/// Reads the head of a request: its first line, and the value of one header.
fn read_head(stream: &TcpStream, wanted: &str) -> Result<(String, Option<String>)> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().context("a request has a first line")??;
    let mut found = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case(wanted)
        {
            found = Some(value.trim().to_owned());
        }
    }
    Ok((first, found))
}

fn serve(directory: &Path, mut stream: &TcpStream) -> Result<()> {
    let (first, authorization) = read_head(stream, "authorization")?;
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let (status, body) = match authorization == Some(basic) {
        true => (
            "200 OK",
            serde_json::json!({ "token": token(directory, &first)?, "expires_in": 60 }).to_string(),
        ),
        false => ("401 Unauthorized", "{}".to_owned()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")?;
    Ok(())
}

/// A token for the scopes that a request names.
fn token(directory: &Path, request: &str) -> Result<String> {
    let target = request
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .replace("%3A", ":")
        .replace("%2F", "/")
        .replace("%2C", ",");
    let scopes = target.split(['?', '&']).filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<serde_json::Value> = scopes
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(serde_json::json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let certificate = STANDARD.encode(fs::read(directory.join("issuer.der"))?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let header = serde_json::json!({ "typ": "JWT", "alg": "RS256", "x5c": [certificate] });
    let claims = serde_json::json!({
        "iss": "tests", "sub": USER, "aud": "tests", "exp": now + 300, "nbf": now - 60, "iat": now,
        "jti": "one", "access": access,
    });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let words =
        ["dgst".into(), "-sha256".into(), "-sign".into(), directory.join("issuer.key").into_os_string()];
    let words: [std::ffi::OsString; 4] = words;
    let signature =
        process::run_with(&mut process::command("openssl", words), signed.as_bytes(), process::DEADLINE)?
            .ok()?
            .stdout;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

// ---- a proxy

/// A proxy as companies have it: connections to elsewhere on demand (`CONNECT`), which it counts.
#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl ForwardProxy {
    /// Starts one on loopback.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, count) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&count);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                // A connection that breaks is closed.
                std::thread::spawn(move || drop(forward(&stream)));
            }
        });
        Ok(Self { address, count })
    }

    /// For `HTTPS_PROXY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

fn forward(mut client: &TcpStream) -> Result<()> {
    let (first, _) = read_head(client, "")?;
    let mut words = first.split(' ');
    let (Some("CONNECT"), Some(to)) = (words.next(), words.next()) else {
        client.write_all(b"HTTP/1.1 405 Only CONNECT\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(());
    };
    let server = TcpStream::connect(to)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(std::io::copy(&mut &*client, &mut &server));
            drop(server.shutdown(Shutdown::Write));
        });
        drop(std::io::copy(&mut &server, &mut &*client));
        drop(client.shutdown(Shutdown::Both));
    });
    Ok(())
}
