#![allow(
    clippy::disallowed_methods,
    reason = "reads and writes the archive and key files that its flags name"
)]
//! `cooper cache`: fills the code cache, and moves it.
//!
//! An archive holds native code, which a step's process will execute, so it is signed: `export` with a private Ed25519 key,
//! `import` with the public one; `push` and `pull` do the same with an image whose one layer has the archive in it. Keys are given by the user as the PEM files that `openssl genpkey -algorithm ed25519` and
//! `openssl pkey -pubout` write. What has no signature or another's is refused before a byte of it is kept. The signature is of the
//! BLAKE3 hash of everything before it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use cooper_build::source::StoreImages;
use cooper_build::step::CancelToken;
use cooper_build::{Error, Fault};
use cooper_image::config::{History, ImageConfig};
use cooper_image::image::{Composition, NewLayer};
use cooper_image::manifest::{Descriptor, media_type};
use cooper_image::platform::Platform;
use cooper_sandbox::cache::{CodeCache, CodeName};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

use super::build::push_image;
use super::images::reference;
use super::run;
use crate::arguments::{
    CacheCommand, CacheExportArguments, CacheImportArguments, CacheRemoteArguments, RunArguments,
};
use crate::code_cache::DirectoryCache;
use crate::display::display;
use crate::environment::{open_store, start_logging};
use crate::failure::Failure;
use crate::registries;
use crate::runner::TranslationMode;
use crate::signals::cancel_on_signals;

/// The start of every archive.
const MAGIC: &[u8; 16] = b"cooper-code-0001";
/// What is signed besides the hash, so that the signature means nothing anywhere else.
const PURPOSE: &[u8] = b"cooper code archive 1\0";
/// Bytes of a signature.
const SIGNATURE: u64 = 64;
/// The largest archive that is read, in bytes.
const MAX_ARCHIVE: u64 = 8 << 30;
/// The largest artifact of an archive, in bytes.
const MAX_ARTIFACT: u64 = 1 << 30;
/// The longest name of an artifact.
const MAX_NAME: usize = 200;
/// The largest key file, in bytes.
const MAX_KEY: u64 = 16 << 10;
/// Exit code for what policy or verification refuses.
const REFUSED: u8 = 4;
/// What precedes the 32 bytes of a public key in its DER form (RFC 8410).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// What `warm` runs when no command is given: what installation scripts of most images use, as far as the image has it.
const ORDINARY: &str = r#"
cd /tmp 2>/dev/null || cd /
t=warm.$$; mkdir $t && cd $t || exit 0
have() { command -v "$1" >/dev/null 2>&1; }
i=0; while [ $i -lt 50 ]; do echo "line $i of 50"; i=$((i+1)); done > a
for n in 1 2 3; do
cat a | grep line | sed s/line/word/ | sort -r | tr a-z A-Z | cut -d' ' -f2 | head -5 | tail -2 | wc -l
ls -la / >/dev/null; cp a b; mv b c; ln -s c d; chmod 600 c; rm -f d; touch e; find . -type f >/dev/null
x=$(basename "$(dirname /a/b/c)"); [ -f a ] && test -d / && expr 1 + 1; date; uname -a; id; env; stat a
have awk && awk '{s+=$2} END {print s}' a
have md5sum && md5sum a; have sha256sum && sha256sum a; have mktemp && rm -f "$(mktemp)"
have tar && tar cf t.tar a c && tar tf t.tar && have gzip && gzip -kf t.tar && gzip -dc t.tar.gz | wc -c
have xz && xz -kf t.tar && xz -dc t.tar.xz | wc -c
have bash && bash -c 'a=(1 2 3); for i in "${a[@]}"; do echo $((i*2)); done; [[ $PATH =~ bin ]]'
have dpkg && dpkg --version && dpkg -l && dpkg-query -W && dpkg --print-architecture
have apt-get && apt-get --version && apt-get check && apt-cache policy
have perl && perl -e 'my %h; $h{$_ % 7} .= $_ for 1..2000; print join ",", sort keys %h; print "ok" if "abc" =~ /b./'
have python3 && python3 -c 'import json,os,re,subprocess; print(json.dumps({str(i): i*i for i in range(500)})[:20], re.sub("a","b","aa"))'
have git && git --version; have curl && curl --version; have openssl && openssl version; have ldconfig && ldconfig -p
have make && make --version
if have gcc; then echo 'int main(void){return 0;}' > m.c; gcc -O2 -o m m.c && ./m; fi
done >/dev/null 2>&1
cd /; rm -rf /tmp/$t "$t"; exit 0
"#;

/// Runs the subcommand.
pub(crate) fn cache(command: CacheCommand) -> Result<ExitCode, Failure> {
    match command {
        CacheCommand::Warm(arguments) => warm(*arguments),
        CacheCommand::Export(arguments) => export(&arguments),
        CacheCommand::Import(arguments) => import(&arguments),
        CacheCommand::Push(arguments) => push(&arguments),
        CacheCommand::Pull(arguments) => pull(&arguments),
    }
}

fn warm(mut arguments: RunArguments) -> Result<ExitCode, Failure> {
    if arguments.command.is_empty() && arguments.entrypoint.is_none() {
        arguments.entrypoint = Some("/bin/sh".to_owned());
        arguments.command = vec!["-c".into(), ORDINARY.into()];
    }
    run::run_in(&arguments, Some(TranslationMode::Warm))
}

fn host(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let message = format!("cannot {what} `{}`", path.display());
    move |error| Failure::Engine(Error::new(Fault::Host, message).caused_by(error))
}

fn refused(message: String) -> Failure {
    Failure::Coded(Error::new(Fault::Usage, message), REFUSED)
}

fn open_cache(store: &crate::arguments::StoreArguments) -> Result<DirectoryCache, Failure> {
    let store = open_store(store)?;
    DirectoryCache::open(store.path())
        .map_err(|reason| Failure::Engine(Error::new(Fault::Host, format!("no code cache: {reason}"))))
}

/// The DER bytes in a PEM file.
fn read_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_KEY).read_to_string(&mut text))
        .map_err(host("read the key", path))?;
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    base64::engine::general_purpose::STANDARD
        .decode(body)
        .map_err(|_| Failure::usage(format!("`{}` is no key in PEM form", path.display())))
}

fn private_key(path: &Path) -> Result<Ed25519KeyPair, Failure> {
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&read_key(path)?)
        .map_err(|reason| Failure::usage(format!("`{}` is no private Ed25519 key: {reason}", path.display())))
}

fn public_key(path: &Path) -> Result<UnparsedPublicKey<Vec<u8>>, Failure> {
    let bytes = read_key(path)?;
    match bytes.strip_prefix(PUBLIC_PREFIX.as_slice()) {
        Some(key) if key.len() == 32 => Ok(UnparsedPublicKey::new(&ED25519, key.to_vec())),
        _ => Err(Failure::usage(format!("`{}` is no public Ed25519 key", path.display()))),
    }
}

fn signed(hash: &blake3::Hash) -> Vec<u8> {
    [PURPOSE, hash.as_bytes()].concat()
}

/// Hashes what goes through it.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn export(arguments: &CacheExportArguments) -> Result<ExitCode, Failure> {
    let key = private_key(&arguments.key)?;
    let cache = open_cache(&arguments.store)?;
    let path = &arguments.file;
    let count =
        File::create(path).and_then(|file| write_signed(&cache, &key, file)).map_err(host("write", path))?;
    crate::complain(&format!("exported {count} pieces of translated code"));
    Ok(ExitCode::SUCCESS)
}

/// Writes an archive with its signature; how many artifacts are in it.
fn write_signed(cache: &DirectoryCache, key: &Ed25519KeyPair, file: impl Write) -> io::Result<usize> {
    let mut out = Hashing { inner: BufWriter::new(file), hasher: blake3::Hasher::new() };
    let count = write_archive(cache, &mut out)?;
    let signature = key.sign(&signed(&out.hasher.finalize()));
    out.inner.write_all(signature.as_ref())?;
    out.inner.flush()?;
    Ok(count)
}

fn write_archive(cache: &DirectoryCache, out: &mut impl Write) -> io::Result<usize> {
    out.write_all(MAGIC)?;
    let mut count = 0;
    for name in cache.names() {
        for file in cache.open(&name) {
            let (stem, length) = (name.stem(), file.metadata()?.len());
            out.write_all(&(stem.len() as u64).to_le_bytes())?;
            out.write_all(stem.as_bytes())?;
            out.write_all(&length.to_le_bytes())?;
            if io::copy(&mut file.take(length), out)? != length {
                return Err(io::Error::other("an artifact became shorter while it was read"));
            }
            count += 1;
        }
    }
    // A name of no length ends the archive.
    out.write_all(&0_u64.to_le_bytes())?;
    Ok(count)
}

fn import(arguments: &CacheImportArguments) -> Result<ExitCode, Failure> {
    let key = public_key(&arguments.key)?;
    let cache = open_cache(&arguments.store)?;
    let path = &arguments.file;
    let shown = path.display().to_string();
    let file = File::open(path).map_err(host("read", path))?;
    let length = file.metadata().map_err(host("read", path))?.len();
    take_signed(&cache, &key, file, length, &shown)
}

/// Keeps what an archive has for this program and processor, when its signature is good.
fn take_signed(
    cache: &DirectoryCache,
    key: &UnparsedPublicKey<Vec<u8>>,
    input: impl Read,
    length: u64,
    shown: &str,
) -> Result<ExitCode, Failure> {
    let mut archive = verified_copy(input, length, shown, key)?;
    let own = cooper_sandbox::code_key().map_err(|reason| {
        Failure::Engine(Error::new(Fault::Host, format!("no translated code: {reason}")))
    })?;
    let taken = read_archive(&mut archive, cache, &own);
    let (kept, others) = taken.map_err(host("import", Path::new(shown)))?;
    crate::complain(&match others {
        0 => format!("imported {kept} pieces of translated code"),
        _ => format!(
            "imported {kept} pieces of translated code; {others} are for another processor or version"
        ),
    });
    Ok(ExitCode::SUCCESS)
}

/// The one file in the layer of an image that carries an archive.
const MEMBER: &[u8] = b"cooper-code";
/// Bytes of a tar block.
const BLOCK: u64 = 512;
/// Where a tar header has its checksum, and how long that is.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// The tar header of [`MEMBER`] (POSIX `ustar`).
fn tar_header(length: u64) -> [u8; BLOCK as usize] {
    let mut header = [0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MEMBER);
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{length:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(CHECKSUM.start, &[b' '; 8]);
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn push(arguments: &CacheRemoteArguments) -> Result<ExitCode, Failure> {
    start_logging(arguments.verbosity.verbose);
    let key = private_key(&arguments.key)?;
    let reference = reference(&arguments.image)?;
    let cache = open_cache(&arguments.store)?;
    let store = open_store(&arguments.store)?;
    let cancel = CancelToken::new();
    cancel_on_signals(&cancel);
    let display = display(arguments.progress, arguments.quiet);
    let images = StoreImages::new(&store, registries::options(&arguments.registry)?, &*display);
    let unwritten = || host("write", Path::new(&arguments.image));
    let mut archive = tempfile::tempfile().map_err(unwritten())?;
    let count = write_signed(&cache, &key, &archive).map_err(unwritten())?;
    let length = archive.stream_position().map_err(unwritten())?;
    archive.rewind().map_err(unwritten())?;
    let mut blob = store.new_blob()?;
    // The file is padded to a block; two blocks of zeros end a tar.
    let zeros = length.next_multiple_of(BLOCK) - length + 2 * BLOCK;
    blob.write_all(&tar_header(length))
        .and_then(|()| io::copy(&mut archive.take(length), &mut blob))
        .and_then(|_| io::copy(&mut io::repeat(0).take(zeros), &mut blob))
        .map_err(unwritten())?;
    let (digest, size) = blob.finish()?;
    let descriptor = Descriptor::new(media_type::LAYER, digest, size);
    let layers = [NewLayer { descriptor, diff_id: digest, tree: None }];
    let mut config = ImageConfig::new(&Platform::linux_amd64());
    config.history = vec![History { created_by: Some("cooper cache push".to_owned()), ..History::default() }];
    let record =
        store.compose(Composition { base: None, layers: &layers, config, annotations: BTreeMap::new() })?;
    push_image(&store, &images, &record.descriptor, &reference, &*display, &cancel)?;
    crate::complain(&format!("pushed {count} pieces of translated code"));
    crate::say(&record.digest().to_string());
    Ok(ExitCode::SUCCESS)
}

fn pull(arguments: &CacheRemoteArguments) -> Result<ExitCode, Failure> {
    start_logging(arguments.verbosity.verbose);
    let key = public_key(&arguments.key)?;
    let cache = open_cache(&arguments.store)?;
    let store = open_store(&arguments.store)?;
    let cancel = CancelToken::new();
    cancel_on_signals(&cancel);
    let display = display(arguments.progress, arguments.quiet);
    let images = StoreImages::new(&store, registries::options(&arguments.registry)?, &*display);
    let shown = &arguments.image;
    let record = images.pull(&reference(shown)?, &Platform::linux_amd64(), &cancel)?;
    let no_archive = || refused(format!("`{shown}` carries no archive of translated code"));
    let [layer] = &record.layers[..] else { return Err(no_archive()) };
    let mut file = store.open_blob(&layer.descriptor.digest)?;
    let mut header = [0; BLOCK as usize];
    file.read_exact(&mut header).map_err(|_| no_archive())?;
    let length = std::str::from_utf8(&header[124..135]).ok();
    let length = length.and_then(|digits| u64::from_str_radix(digits, 8).ok()).ok_or_else(no_archive)?;
    if header != tar_header(length) {
        return Err(no_archive());
    }
    take_signed(&cache, &key, file.take(length), length, shown)
}

/// A copy of the archive that nobody else can change, without its signature, which was found good.
fn verified_copy(
    input: impl Read,
    length: u64,
    shown: &str,
    key: &UnparsedPublicKey<Vec<u8>>,
) -> Result<File, Failure> {
    let failed = |error| host("read", Path::new(shown))(error);
    let no_archive = || refused(format!("`{shown}` is no archive of translated code"));
    let body = length.checked_sub(SIGNATURE).filter(|_| length <= MAX_ARCHIVE).ok_or_else(no_archive)?;
    let copy = tempfile::tempfile().map_err(failed)?;
    let mut out = Hashing { inner: copy, hasher: blake3::Hasher::new() };
    let mut input = BufReader::new(input);
    io::copy(&mut input.by_ref().take(body), &mut out).map_err(failed)?;
    let mut signature = [0; SIGNATURE as usize];
    input.read_exact(&mut signature).map_err(|_| no_archive())?;
    key.verify(&signed(&out.hasher.finalize()), &signature).map_err(|_| {
        refused(format!("`{shown}` is not signed with the key that was given; nothing was imported"))
    })?;
    let mut copy = out.inner;
    copy.rewind().map_err(failed)?;
    Ok(copy)
}

fn read_archive(archive: &mut File, cache: &DirectoryCache, own: &str) -> io::Result<(usize, usize)> {
    let damaged = || io::Error::other("the archive is damaged");
    let mut input = BufReader::new(archive);
    let mut magic = [0; 16];
    input.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(io::Error::other("not an archive of translated code"));
    }
    let (mut kept, mut others) = (0, 0);
    loop {
        let mut number = [0; 8];
        input.read_exact(&mut number)?;
        let length = usize::try_from(u64::from_le_bytes(number)).map_err(|_| damaged())?;
        if length == 0 {
            return Ok((kept, others));
        }
        if length > MAX_NAME {
            return Err(damaged());
        }
        let mut stem = vec![0; length];
        input.read_exact(&mut stem)?;
        let name = std::str::from_utf8(&stem).ok().and_then(CodeName::from_stem).ok_or_else(damaged)?;
        input.read_exact(&mut number)?;
        let length = u64::from_le_bytes(number);
        if length > MAX_ARTIFACT {
            return Err(damaged());
        }
        let mut artifact = Vec::new();
        if input.by_ref().take(length).read_to_end(&mut artifact)? as u64 != length {
            return Err(damaged());
        }
        if name.key == own {
            cache.put(&name, &artifact)?;
            kept += 1;
        } else {
            others += 1;
        }
    }
}
