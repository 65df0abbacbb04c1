//! Files of the web: `ADD https://…`, and contexts that come by HTTP.
//!
//! A [`RemoteFile`] becomes a tree with one file in it, as BuildKit makes it: mode 0600, root's, with the time that
//! `Last-Modified` says (else 1970), under the last name of the URL's path. What was fetched is remembered with the
//! server's validators, so that a second build asks whether it has changed and gets no bytes; with a checksum that
//! is known nobody is asked.
//!
//! What must hold: bytes that are not those of the checksum are in no tree; a server's answer is bounded; credentials
//! go only to the host they were given for.

use std::io::Read;

use cooper_image::digest::{Digest, Hasher};
use cooper_image::store::{Keep, Store};
use cooper_vfs::Timestamp;
use cooper_vfs::content::ContentStore;
use cooper_vfs::tree::{Entry, Metadata, NodeKind, Tree, TreeBuilder};

use crate::copy::store_failed;
use crate::error::{Error, Fault, Result};
use crate::git;
use crate::key::KeyBuilder;
use crate::source::ImageProvider;
use crate::step::{CancelToken, Secret};

/// Bound on a file that is fetched, in bytes.
pub const REMOTE_BYTES: u64 = 64 << 30;
/// The name of a file whose URL has none.
const UNNAMED: &str = "__unnamed__";
/// Record kind of what was fetched.
const MEMO: &str = "remote file";

/// Where a source of `ADD` or a context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A path.
    Local,
    /// A file by HTTP.
    Http,
    /// A git repository.
    Git,
}

/// Tells what a text names, by BuildKit's rules.
pub fn source_kind(text: &str) -> SourceKind {
    if git::is_repository(text) {
        return SourceKind::Git;
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        SourceKind::Http
    } else {
        SourceKind::Local
    }
}

/// The same for a context, where a repository on GitHub has a short form.
pub fn context_kind(text: &str) -> SourceKind {
    if git::is_short_context(text) { SourceKind::Git } else { source_kind(text) }
}

/// `--checksum`: the digest that the file must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(pub Digest);

/// A file to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// As written.
    pub url: String,
    /// The name it gets.
    pub name: String,
    /// What its bytes must be.
    pub checksum: Option<Checksum>,
}

impl RemoteFile {
    /// A file of this URL.
    pub fn new(url: &str, checksum: Option<Checksum>) -> Self {
        Self { url: url.to_owned(), name: file_name(url), checksum }
    }

    /// Scheme, host and port, to whom a secret may be shown.
    pub fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        authority.rsplit('@').next().unwrap_or(authority)
    }
}

/// The last name of the URL's path, with `%xx` decoded.
fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    let Some((_, path)) = path.split_once('/') else { return UNNAMED.to_owned() };
    let decoded = percent_decoded(path);
    let name = decoded.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match name {
        "" | "." | ".." => UNNAMED.to_owned(),
        name if cooper_vfs::path::is_name(name.as_bytes()) => name.to_owned(),
        _ => UNNAMED.to_owned(),
    }
}

pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        decoded.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// What is asked of a server.
#[derive(Debug)]
pub struct DownloadRequest<'a> {
    /// Where.
    pub url: &'a str,
    /// Value of `Authorization`.
    pub authorization: Option<&'a Secret>,
    /// Validators of what is here already.
    pub known: Option<&'a Validators>,
}

/// By what a server tells whether a file has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`
    pub etag: String,
    /// `Last-Modified`
    pub last_modified: String,
}

/// A server's answer.
pub enum Download {
    /// What is here is what it has.
    NotModified,
    /// The file.
    Body {
        /// Its bytes.
        reader: Box<dyn Read + Send>,
        /// For the next time.
        validators: Validators,
    },
}

impl std::fmt::Debug for Download {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::NotModified => "NotModified",
            Self::Body { .. } => "Body",
        })
    }
}

/// Makes the tree of a remote file.
pub fn load(
    store: &Store,
    provider: &dyn ImageProvider,
    file: &RemoteFile,
    authorization: Option<&Secret>,
    progress: &dyn Fn(&str, u64, Option<u64>),
    cancel: &CancelToken,
) -> Result<Tree> {
    let key = memo_key(file);
    let memo = Memo::load(store, &key)?;
    if let (Some(_), Some(memo)) = (&file.checksum, &memo) {
        return Ok(memo.tree.clone());
    }
    let request =
        DownloadRequest { url: &file.url, authorization, known: memo.as_ref().map(|memo| &memo.validators) };
    let failed = |error: Error| {
        let fault = if error.fault() == Fault::Cancelled { Fault::Cancelled } else { Fault::Build };
        Error::new(fault, format!("cannot fetch `{}`", shown(&file.url))).caused_by(error)
    };
    match (provider.download(&request, cancel).map_err(failed)?, memo) {
        (Download::NotModified, Some(memo)) => Ok(memo.tree),
        (Download::NotModified, None) => {
            let message =
                format!("`{}` answers that nothing has changed, and was not asked", shown(&file.url));
            Err(Error::new(Fault::Build, message))
        }
        (Download::Body { reader, validators }, _) => {
            let tree = receive(store, file, reader, &validators, progress, cancel)?;
            let memo = Memo { validators, tree };
            memo.save(store, &key)?;
            Ok(memo.tree)
        }
    }
}

fn receive(
    store: &Store,
    file: &RemoteFile,
    reader: Box<dyn Read + Send>,
    validators: &Validators,
    progress: &dyn Fn(&str, u64, Option<u64>),
    cancel: &CancelToken,
) -> Result<Tree> {
    let wanted = file.checksum.map(|checksum| checksum.0);
    let hasher = wanted.map(|wanted| Hasher::new(wanted.algorithm()));
    let mut metered = Metered { reader: reader.take(REMOTE_BYTES + 1), hasher, read: 0, progress, cancel };
    let mut pack = store.pack().map_err(store_failed)?;
    let (content, size) = pack.add(&mut metered).map_err(|error| {
        if cancel.is_cancelled() {
            return Error::cancelled();
        }
        Error::new(Fault::Build, format!("cannot fetch `{}`", shown(&file.url))).caused_by(error)
    })?;
    if size > REMOTE_BYTES {
        let message = format!("`{}` has more than {REMOTE_BYTES} bytes", shown(&file.url));
        return Err(Error::new(Fault::Limit, message));
    }
    if let (Some(wanted), Some(hasher)) = (wanted, metered.hasher) {
        let found = hasher.finish();
        if found != wanted {
            let message = format!("the checksum of `{}` is not the expected one: {found}", shown(&file.url));
            return Err(Error::build(message).hint(format!("expected {wanted}")));
        }
    }
    pack.finish().map_err(store_failed)?;
    let mut metadata = Metadata::root_owned(0o600);
    metadata.mtime = Timestamp::from_seconds(http_date(&validators.last_modified).unwrap_or(0));
    let mut builder = TreeBuilder::new(store);
    let name = file.name.as_bytes().to_vec();
    let entry = Entry { name: name.clone(), metadata, kind: NodeKind::File { content, size } };
    builder.put(&name, entry).map_err(store_failed)?;
    builder.finish().map_err(store_failed)
}

/// Passes bytes on, counts and hashes them.
struct Metered<'a, R> {
    reader: R,
    hasher: Option<Hasher>,
    read: u64,
    progress: &'a dyn Fn(&str, u64, Option<u64>),
    cancel: &'a CancelToken,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(std::io::Error::other("cancelled"));
        }
        let count = self.reader.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.read += count as u64;
        (self.progress)("downloading", self.read, None);
        Ok(count)
    }
}

/// A URL for messages: without user and password, and without what a query may hold.
pub fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    let path = rest[end..].split(['?', '#']).next().unwrap_or_default();
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

/// The secret that BuildKit looks for to speak to a host: a whole header, or a token.
pub fn authorization(host: &str, secrets: &std::collections::BTreeMap<String, Secret>) -> Option<Secret> {
    if let Some(header) = secrets.get(&format!("HTTP_AUTH_HEADER_{host}")) {
        return Some(header.clone());
    }
    let token = secrets.get(&format!("HTTP_AUTH_TOKEN_{host}"))?;
    Some(Secret::new([b"Bearer ", token.expose()].concat()))
}

fn memo_key(file: &RemoteFile) -> [u8; 32] {
    let mut key = KeyBuilder::new("remote file");
    key.bytes("name", file.name.as_bytes());
    match &file.checksum {
        // The same bytes come from wherever they come; but the time is the server's.
        Some(Checksum(digest)) => {
            key.bytes("url", file.url.as_bytes()).bytes("checksum", digest.to_string().as_bytes())
        }
        None => key.bytes("url", file.url.as_bytes()),
    };
    key.finish().0
}

struct Memo {
    validators: Validators,
    tree: Tree,
}

impl Memo {
    fn load(store: &Store, key: &[u8; 32]) -> Result<Option<Self>> {
        Ok(store.record(MEMO, key)?.and_then(|bytes| Self::decode(&bytes)))
    }

    fn save(&self, store: &Store, key: &[u8; 32]) -> Result<()> {
        let mut bytes = Vec::new();
        for text in [&self.validators.etag, &self.validators.last_modified] {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(self.tree.encode());
        Ok(store.put_record(MEMO, key, &bytes, &[Keep::Tree(self.tree.clone())])?)
    }

    /// What cannot be read is as good as none.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut text = || -> Option<String> {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let (text, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = tail;
            String::from_utf8(text.to_vec()).ok()
        };
        let validators = Validators { etag: text()?, last_modified: text()? };
        Some(Self { validators, tree: Tree::decode(rest).ok()? })
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, the only form that is to be written) in seconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: &[&str] =
        &["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.trim().split_once(", ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = fields.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)? + 1;
    let text = format!("{year:0>4}-{month:02}-{day:0>2}T{time}Z");
    crate::time::parse_rfc3339(&text).map(|time| time.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let check = |text: &str, kind: SourceKind| assert_eq!(source_kind(text), kind, "{text}");
        check("a.txt", SourceKind::Local);
        check("http:/x", SourceKind::Local);
        check("https://h/x.tar.gz", SourceKind::Http);
        check("https://h/x.git", SourceKind::Git);
        check("https://h/x.git#main:sub", SourceKind::Git);
        check("https://h/x?a=.git", SourceKind::Http);
        check("git@h:x.git", SourceKind::Git);
    }

    #[test]
    fn names_and_hosts_come_from_the_url() {
        let check = |url: &str, name: &str, host: &str| {
            let file = RemoteFile::new(url, None);
            assert_eq!((file.name.as_str(), file.host()), (name, host), "{url}");
        };
        check("http://h:1/a/b.txt?x=1#f", "b.txt", "h:1");
        check("http://u:p@h/a%20b", "a b", "h");
        check("http://h/", UNNAMED, "h");
        check("http://h", UNNAMED, "h");
        check("http://h/a/..", UNNAMED, "h");
        check("http://h/a%2fb/", "b", "h");
        assert_eq!(shown("https://u:p@h/a?token=1"), "https://h/a");
    }

    #[test]
    fn dates_of_the_web_are_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Mon, 04 Mar 2019 05:06:07 GMT"), Some(1_551_675_967));
        for text in ["", "Sun Nov  6 08:49:37 1994", "Sun, 06 Xxx 1994 08:49:37 GMT", "x, y"] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }
}
