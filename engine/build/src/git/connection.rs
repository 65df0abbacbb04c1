//! Speaking to a repository: which references it has, and the pack of one commit.
//!
//! Smart HTTP and `git://`, in version 2 of the protocol, or as before it where the server knows no other (git's
//! documentation, `gitprotocol-v2`, `gitprotocol-pack`, `gitprotocol-http`). Requests by HTTP go through the
//! [`ImageProvider`], which has the proxies and certificates. Nothing is negotiated: what is fetched has no history, one
//! commit and what it holds, so the protocol is two requests of a few lines. This is why it is written here: the
//! libraries for it bring fifty crates for what is not needed, negotiation, references and checkouts on the host.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::object::ObjectId;
use super::pack::Pack;
use super::{GitAddress, GitContext};
use crate::error::{Error, Fault, Result};
use crate::source::HttpRequest;
use crate::step::Secret;

/// Port of `git://`.
const GIT_PORT: u16 = 9418;
/// Time to reach a server of `git://`.
const CONNECT: Duration = Duration::from_secs(20);
/// Time to wait for its next bytes.
const STALL: Duration = Duration::from_secs(120);
/// Bound on references and other lines that a server sends.
const LINES: usize = 4 << 20;
/// How we call ourselves.
const AGENT: &str = concat!("agent=cooper/", env!("CARGO_PKG_VERSION"));

/// What a reference stands for.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The commit.
    pub(super) id: ObjectId,
    /// The annotated tag that names it.
    pub(super) tag: Option<ObjectId>,
    /// The reference in full.
    pub(super) name: Option<String>,
}

/// A repository that answers.
pub(super) struct Connection<'a> {
    context: GitContext<'a>,
    way: Way,
    /// In version 2 what the server can, one a line; before it what it can, one a word.
    capabilities: Vec<String>,
    /// References, which servers of before version 2 tell unasked.
    references: Option<Vec<Reference>>,
}

#[derive(Clone, Debug)]
struct Reference {
    id: ObjectId,
    name: String,
    /// What an annotated tag leads to.
    peeled: Option<ObjectId>,
    /// What a symbolic reference stands for.
    target: Option<String>,
}

/// How requests get there.
enum Way {
    Http { base: String, authorization: Option<Secret> },
    Daemon(BufReader<TcpStream>),
}

impl<'a> Connection<'a> {
    /// Connects to a repository; `parent` is the one that has it as a submodule.
    pub(super) fn open(
        address: &GitAddress,
        parent: Option<&GitAddress>,
        context: GitContext<'a>,
    ) -> Result<Self> {
        let (scheme, rest) = address.remote.split_once("://").unwrap_or_default();
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let mut connection = Self {
            context,
            way: way(address, parent, context, scheme, path)?,
            capabilities: Vec::new(),
            references: None,
        };
        let mut reader: Box<dyn Read + '_> = match &mut connection.way {
            Way::Daemon(stream) => Box::new(stream),
            Way::Http { base, authorization } => {
                let url = format!("{base}/info/refs?service=git-upload-pack");
                let headers = [version_header()];
                let request = HttpRequest {
                    url: &url,
                    authorization: authorization.as_ref(),
                    headers: &headers,
                    body: None,
                };
                let answer = context.provider.exchange(request, context.cancel)?;
                check_answer(
                    answer.status,
                    &answer.content_type,
                    "application/x-git-upload-pack-advertisement",
                )?;
                // What follows goes to where the server has sent the first request, the authorization only to its host.
                if let Some(to) = answer.url.strip_suffix("/info/refs?service=git-upload-pack")
                    && to != base
                {
                    if host_of(to) != host_of(base) {
                        *authorization = None;
                    }
                    *base = to.to_owned();
                }
                Box::new(answer.body)
            }
        };
        let (capabilities, references) = read_greeting(&mut *reader)?;
        drop(reader);
        connection.capabilities = capabilities;
        connection.references = references;
        Ok(connection)
    }

    /// Looks a reference up: the default branch, a branch, a tag, a full name.
    pub(super) fn resolve(&mut self, reference: Option<&str>) -> Result<Found> {
        let candidates: Vec<String> = match reference {
            None => vec!["HEAD".to_owned()],
            Some(name) => {
                ["refs/heads/", "refs/tags/", "refs/", ""].map(|prefix| format!("{prefix}{name}")).into()
            }
        };
        let references = match self.references.clone() {
            Some(references) => references,
            None => self.list(&candidates)?,
        };
        let named = |name: &String| references.iter().find(|reference| reference.name == *name);
        let Some(found) = candidates.iter().find_map(named) else {
            let shown = reference.unwrap_or("HEAD");
            return Err(Error::build(format!("the repository has no reference `{shown}`"))
                .hint("it takes a branch, a tag, a full reference, or the 40 digits of a commit"));
        };
        let name = found.target.clone().unwrap_or_else(|| found.name.clone());
        Ok(Found {
            id: found.peeled.unwrap_or(found.id),
            tag: found.peeled.map(|_| found.id),
            name: Some(name),
        })
    }

    fn list(&mut self, prefixes: &[String]) -> Result<Vec<Reference>> {
        let mut request = Vec::new();
        line(&mut request, "command=ls-refs");
        line(&mut request, AGENT);
        request.extend(b"0001");
        line(&mut request, "peel");
        line(&mut request, "symrefs");
        prefixes.iter().for_each(|prefix| line(&mut request, &format!("ref-prefix {prefix}")));
        request.extend(b"0000");
        let mut references = Vec::new();
        let mut reader = self.send(request)?;
        let mut left = LINES;
        while let Packet::Line(bytes) = packet(&mut *reader, &mut left)? {
            references.extend(read_reference(&bytes)?);
        }
        Ok(references)
    }

    /// Fetches a commit with its files, and its tag.
    pub(super) fn fetch(&mut self, found: &Found) -> Result<Pack> {
        let context = self.context;
        let scratch = tempfile::tempfile_in(context.store.path());
        let scratch = scratch.map_err(|error| Error::host("cannot keep what is fetched", error))?;
        let wanted = found.tag.unwrap_or(found.id);
        let mut request = Vec::new();
        let version_2 = self.references.is_none();
        if version_2 {
            line(&mut request, "command=fetch");
            line(&mut request, AGENT);
            request.extend(b"0001");
            for argument in
                ["thin-pack", "no-progress", "ofs-delta"].iter().filter(|one| **one != "thin-pack")
            {
                line(&mut request, argument);
            }
            if self.capabilities.iter().any(|one| one.starts_with("fetch=") && one.contains("shallow")) {
                line(&mut request, "deepen 1");
            }
            line(&mut request, &format!("want {wanted}"));
            line(&mut request, "done");
            request.extend(b"0000");
        } else {
            self.old_request(&mut request, wanted);
        }
        let mut reader = self.send(request)?;
        skip_to_pack(&mut *reader, version_2)?;
        let mut metered = Metered { reader: Bands { reader: &mut *reader, left: 0 }, read: 0, context };
        Pack::receive(&mut metered, scratch)
            .map_err(|error| if context.cancel.is_cancelled() { Error::cancelled() } else { error })
    }

    /// The request of before version 2: wants, depth, done.
    fn old_request(&self, request: &mut Vec<u8>, wanted: ObjectId) {
        let can = |name: &str| self.capabilities.iter().any(|one| one == name);
        let known: Vec<ObjectId> = self.references.iter().flatten().map(|reference| reference.id).collect();
        let gives_any = can("allow-reachable-sha1-in-want")
            || can("allow-any-sha1-in-want")
            || can("allow-tip-sha1-in-want");
        // Such a server gives what it names; for a commit in between all of it is needed.
        let direct = gives_any || known.contains(&wanted);
        let wants = if direct { vec![wanted] } else { known };
        let offered = ["side-band-64k", "ofs-delta", "no-progress", "shallow"];
        let mut capabilities: Vec<&str> = offered.into_iter().filter(|name| can(name)).collect();
        capabilities.push(AGENT);
        for (index, id) in wants.iter().enumerate() {
            match index {
                0 => line(request, &format!("want {id} {}", capabilities.join(" "))),
                _ => line(request, &format!("want {id}")),
            }
        }
        if direct && can("shallow") {
            line(request, "deepen 1");
        }
        request.extend(b"0000");
        line(request, "done");
    }

    fn send(&mut self, request: Vec<u8>) -> Result<Box<dyn Read + '_>> {
        match &mut self.way {
            Way::Daemon(stream) => {
                let written = stream.get_mut().write_all(&request);
                written.map_err(|error| Error::build("the repository does not listen").caused_by(error))?;
                Ok(Box::new(stream))
            }
            Way::Http { base, authorization } => {
                let url = format!("{base}/git-upload-pack");
                let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
                let headers = [
                    version_header(),
                    header("Content-Type", "application/x-git-upload-pack-request"),
                    header("Accept", "application/x-git-upload-pack-result"),
                ];
                let (authorization, body) = (authorization.as_ref(), Some(request));
                let request = HttpRequest { url: &url, authorization, headers: &headers, body };
                let answer = self.context.provider.exchange(request, self.context.cancel)?;
                check_answer(answer.status, &answer.content_type, "application/x-git-upload-pack-result")?;
                Ok(answer.body)
            }
        }
    }
}

fn version_header() -> (String, String) {
    ("Git-Protocol".to_owned(), "version=2".to_owned())
}

fn host_of(url: &str) -> &str {
    url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(rest))
}

fn check_answer(status: u16, content_type: &str, expected: &str) -> Result<()> {
    let private = "a private repository needs `--secret id=GIT_AUTH_TOKEN,…`";
    let refused = |message: String| Err(Error::new(Fault::Registry, message));
    match status {
        200 if content_type == expected => Ok(()),
        200 => refused("the server is none of git repositories by smart HTTP".to_owned()),
        401 | 403 => refused(format!("the server answers {status}: access denied"))
            .map_err(|error: Error| error.hint(private)),
        404 => refused("the server answers 404: there is no such repository, or it is private".to_owned())
            .map_err(|error: Error| error.hint(private)),
        status => refused(format!("the server answers {status}")),
    }
}

fn way(
    address: &GitAddress,
    parent: Option<&GitAddress>,
    context: GitContext<'_>,
    scheme: &str,
    path: &str,
) -> Result<Way> {
    match scheme.to_ascii_lowercase().as_str() {
        scheme @ ("http" | "https") => {
            // User and password are the authorization's; the URL goes on without them.
            let base = format!("{scheme}://{}/{}", address.host(), path.trim_end_matches('/'));
            Ok(Way::Http { base, authorization: super::authorization(address, parent, context.secrets) })
        }
        "git" => daemon(address.host(), path),
        _ => Err(Error::unsupported(format!("a git repository by `{scheme}`"))),
    }
}

/// `git://HOST[:PORT]/PATH`
fn daemon(authority: &str, path: &str) -> Result<Way> {
    let parts = authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let (host, port) = parts.unwrap_or((authority, GIT_PORT));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connect = || -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(STALL))?;
                    stream.set_write_timeout(Some(STALL))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let greet = || -> io::Result<TcpStream> {
        let mut stream = connect()?;
        let text = format!("git-upload-pack /{path}\0host={authority}\0\0version=2\0");
        stream.write_all(format!("{:04x}{text}", text.len() + 4).as_bytes())?;
        Ok(stream)
    };
    let stream =
        greet().map_err(|error| Error::build(format!("cannot reach `{authority}`")).caused_by(error))?;
    Ok(Way::Daemon(BufReader::new(stream)))
}

// ---- packets

/// A piece of the protocol.
enum Packet {
    Line(Vec<u8>),
    Flush,
    /// Between the parts of an answer, or its end.
    Mark,
}

/// Adds a line with its length.
fn line(request: &mut Vec<u8>, text: &str) {
    request.extend(format!("{:04x}{text}\n", text.len() + 5).as_bytes());
}

fn broken(error: io::Error) -> Error {
    Error::build("the repository stops in the middle").caused_by(error)
}

fn nonsense() -> Error {
    Error::build("the repository does not speak git's protocol")
}

/// The length of the next packet's bytes; fewer than four are marks.
fn packet_length(reader: &mut (impl Read + ?Sized)) -> Result<usize> {
    let mut head = [0; 4];
    reader.read_exact(&mut head).map_err(broken)?;
    let text = std::str::from_utf8(&head).map_err(|_| nonsense())?;
    usize::from_str_radix(text, 16).map_err(|_| nonsense())
}

/// Reads a packet; a line without its end, errors of the server as ours. `left` bounds what is read.
fn packet(reader: &mut (impl Read + ?Sized), left: &mut usize) -> Result<Packet> {
    let length = match packet_length(reader)? {
        0 => return Ok(Packet::Flush),
        1..4 => return Ok(Packet::Mark),
        length => length - 4,
    };
    *left = left.checked_sub(length + 4).ok_or_else(|| {
        Error::new(Fault::Limit, format!("the repository says more than {LINES} bytes of references"))
    })?;
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).map_err(broken)?;
    if let Some(message) = bytes.strip_prefix(b"ERR ") {
        return Err(said(message));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(Packet::Line(bytes))
}

/// An error in the server's words.
fn said(message: &[u8]) -> Error {
    let text: String =
        String::from_utf8_lossy(message).trim().chars().take(500).flat_map(char::escape_debug).collect();
    Error::build(format!("the repository says: {text}"))
}

type Greeting = (Vec<String>, Option<Vec<Reference>>);

/// What a server says first: what it can, and before version 2 its references.
fn read_greeting(reader: &mut dyn Read) -> Result<Greeting> {
    let mut left = LINES;
    let mut first = packet(reader, &mut left)?;
    if matches!(&first, Packet::Line(text) if text.starts_with(b"# service=")) {
        // By HTTP the service stands before, with a flush of its own.
        packet(reader, &mut left)?;
        first = packet(reader, &mut left)?;
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| nonsense());
    let Packet::Line(first) = first else { return Ok((Vec::new(), Some(Vec::new()))) };
    if first == b"version 2" {
        let mut capabilities = Vec::new();
        while let Packet::Line(bytes) = packet(reader, &mut left)? {
            capabilities.push(text(bytes)?);
        }
        let format = capabilities.iter().find_map(|one| one.strip_prefix("object-format="));
        return match format {
            None | Some("sha1") => Ok((capabilities, None)),
            Some(other) => Err(Error::unsupported(format!("a git repository with ids of {other}"))),
        };
    }
    let mut lines = vec![first];
    while let Packet::Line(bytes) = packet(reader, &mut left)? {
        lines.push(bytes);
    }
    lines.retain(|line| line != b"version 1");
    let (mut capabilities, mut references) = (Vec::new(), Vec::<Reference>::new());
    for (index, bytes) in lines.into_iter().enumerate() {
        let line = match (index, bytes.iter().position(|byte| *byte == 0)) {
            (0, Some(zero)) => {
                let words = text(bytes[zero + 1..].to_vec())?;
                capabilities = words.split_whitespace().map(str::to_owned).collect();
                bytes[..zero].to_vec()
            }
            _ => bytes,
        };
        let Some(mut reference) = read_reference(&line)? else { continue };
        match (reference.name.strip_suffix("^{}"), references.last_mut()) {
            (Some(name), Some(last)) if last.name == name => last.peeled = Some(reference.id),
            _ => {
                let symbolic = format!("symref={}:", reference.name);
                reference.target =
                    capabilities.iter().find_map(|one| one.strip_prefix(&symbolic)).map(str::to_owned);
                references.push(reference);
            }
        }
    }
    Ok((capabilities, Some(references)))
}

/// `ID NAME [peeled:ID] [symref-target:NAME]`; what is not born yet has no id, what is no text nobody can ask for.
fn read_reference(bytes: &[u8]) -> Result<Option<Reference>> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(None) };
    let mut words = text.split(' ');
    let (Some(id), Some(name)) = (words.next(), words.next()) else { return Ok(None) };
    if id == "unborn" || id == "shallow" {
        return Ok(None);
    }
    let id = ObjectId::from_hex(id.as_bytes()).ok_or_else(nonsense)?;
    let mut reference = Reference { id, name: name.to_owned(), peeled: None, target: None };
    for word in words {
        if let Some(id) = word.strip_prefix("peeled:") {
            reference.peeled = ObjectId::from_hex(id.as_bytes());
        }
        if let Some(name) = word.strip_prefix("symref-target:") {
            reference.target = Some(name.to_owned());
        }
    }
    Ok(Some(reference))
}

/// Goes over what stands before the pack: in version 2 sections up to `packfile`, before it what is shallow and `NAK`.
fn skip_to_pack(reader: &mut dyn Read, version_2: bool) -> Result<()> {
    let mut left = LINES;
    loop {
        match packet(reader, &mut left)? {
            Packet::Line(line) if version_2 && line == b"packfile" => return Ok(()),
            Packet::Line(line) if !version_2 && (line == b"NAK" || line.starts_with(b"ACK ")) => {
                return Ok(());
            }
            Packet::Flush if version_2 => return Err(nonsense()),
            _ => {}
        }
    }
}

/// The bytes of the pack out of packets that may also carry messages and errors.
struct Bands<'a> {
    reader: &'a mut dyn Read,
    /// Of the current packet.
    left: usize,
}

impl Read for Bands<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let length = packet_length(self.reader).map_err(io::Error::other)?;
            if length < 5 {
                return Ok(0);
            }
            let mut band = [0];
            self.reader.read_exact(&mut band)?;
            match band[0] {
                1 => self.left = length - 5,
                2 => drop(io::copy(&mut self.reader.take(length as u64 - 5), &mut io::sink())?),
                _ => {
                    let mut message = Vec::new();
                    self.reader.take(length as u64 - 5).read_to_end(&mut message)?;
                    return Err(io::Error::other(said(&message)));
                }
            }
        }
        let wanted = buffer.len().min(self.left);
        let count = self.reader.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        Ok(count)
    }
}

/// Passes a pack on, counts it, and ends with the build.
struct Metered<'r, 'c> {
    reader: Bands<'r>,
    read: u64,
    context: GitContext<'c>,
}

impl Read for Metered<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.context.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let count = self.reader.read(buffer)?;
        self.read += count as u64;
        (self.context.progress)("fetching", self.read, None);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn greeting(lines: &[&str]) -> Result<Greeting> {
        let mut bytes = Vec::new();
        for text in lines {
            if text.is_empty() { bytes.extend(b"0000") } else { line(&mut bytes, text) }
        }
        read_greeting(&mut bytes.as_slice())
    }

    #[test]
    fn both_greetings_are_read() {
        let (capabilities, references) =
            greeting(&["# service=git-upload-pack", "", "version 2", "fetch=shallow", ""])
                .expect("a greeting");
        assert_eq!(
            (capabilities.as_slice(), references.is_none()),
            (&["fetch=shallow".to_owned()][..], true)
        );
        let head = format!("{ID} HEAD\0shallow symref=HEAD:refs/heads/main");
        let tag = format!("{ID} refs/tags/v1");
        let peeled = format!("{} refs/tags/v1^{{}}", ID.replace('0', "f"));
        let (capabilities, references) = greeting(&[&head, &tag, &peeled, ""]).expect("a greeting");
        let references = references.expect("references");
        assert!(capabilities.contains(&"shallow".to_owned()));
        assert_eq!(references[0].target.as_deref(), Some("refs/heads/main"));
        assert_eq!((references.len(), references[1].peeled.is_some()), (2, true));
    }

    #[test]
    fn servers_may_say_no() {
        let refused =
            |lines: &[&str]| greeting(lines).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused(&["ERR access denied\u{7}"]).contains("access denied\\u{7}"));
        assert!(refused(&["version 2", "object-format=sha256", ""]).contains("sha256"));
        assert!(refused(&["hello world", ""]).contains("does not speak"));
        assert!(read_greeting(&mut &b"zzzz"[..]).is_err() && read_greeting(&mut &b"0010x"[..]).is_err());
    }

    #[test]
    fn bands_carry_the_pack() {
        let bytes = b"0008\x01abc0007\x02zz0007\x01de0000";
        let read = |bytes: &[u8]| {
            let mut text = Vec::new();
            Bands { reader: &mut &*bytes, left: 0 }.read_to_end(&mut text).map(|_| text)
        };
        assert_eq!(read(bytes).ok().as_deref(), Some(&b"abcde"[..]));
        assert!(read(b"0009\x03full").is_err_and(|error| error.to_string().contains("full")));
        assert!(read(b"0009\x01ab").is_err());
    }
}
