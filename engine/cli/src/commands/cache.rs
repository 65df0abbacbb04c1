#![allow(
    clippy::disallowed_methods,
    reason = "reads and writes the archive and key files that its flags name"
)]
//! `cooper cache`: fills the code cache, and moves it.
//!
//! An archive holds native code, which a step's process will execute, so it is signed: `export` with a private Ed25519 key,
//! `import` with the public one, both given by the user as the PEM files that `openssl genpkey -algorithm ed25519` and
//! `openssl pkey -pubout` write. What has no signature or another's is refused before a byte of it is kept. The signature is of the
//! BLAKE3 hash of everything before it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use cooper_build::{Error, Fault};
use cooper_sandbox::cache::{CodeCache, CodeName};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

use super::run;
use crate::arguments::{CacheCommand, CacheExportArguments, CacheImportArguments, RunArguments};
use crate::code_cache::DirectoryCache;
use crate::environment::open_store;
use crate::failure::Failure;
use crate::runner::TranslationMode;

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
    let failed = |error| host("write", path)(error);
    let file = File::create(path).map_err(failed)?;
    let mut out = Hashing { inner: BufWriter::new(file), hasher: blake3::Hasher::new() };
    let count = write_archive(&cache, &mut out).map_err(failed)?;
    let signature = key.sign(&signed(&out.hasher.finalize()));
    let sealed = out.inner.write_all(signature.as_ref()).and_then(|()| out.inner.flush());
    sealed.map_err(failed)?;
    crate::complain(&format!("exported {count} pieces of translated code"));
    Ok(ExitCode::SUCCESS)
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
    let mut archive = verified_copy(path, &key)?;
    let own = cooper_sandbox::code_key().map_err(|reason| {
        Failure::Engine(Error::new(Fault::Host, format!("no translated code: {reason}")))
    })?;
    let (kept, others) = read_archive(&mut archive, &cache, &own).map_err(host("import", path))?;
    crate::complain(&match others {
        0 => format!("imported {kept} pieces of translated code"),
        _ => format!(
            "imported {kept} pieces of translated code; {others} are for another processor or version"
        ),
    });
    Ok(ExitCode::SUCCESS)
}

/// A copy of the archive that nobody else can change, without its signature, which was found good.
fn verified_copy(path: &Path, key: &UnparsedPublicKey<Vec<u8>>) -> Result<File, Failure> {
    let failed = |error| host("read", path)(error);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let no_archive = || refused(format!("`{}` is no archive of translated code", path.display()));
    let body = length.checked_sub(SIGNATURE).filter(|_| length <= MAX_ARCHIVE).ok_or_else(no_archive)?;
    let copy = tempfile::tempfile().map_err(failed)?;
    let mut out = Hashing { inner: copy, hasher: blake3::Hasher::new() };
    let mut input = BufReader::new(file);
    io::copy(&mut input.by_ref().take(body), &mut out).map_err(failed)?;
    let mut signature = [0; SIGNATURE as usize];
    input.read_exact(&mut signature).map_err(|_| no_archive())?;
    key.verify(&signed(&out.hasher.finalize()), &signature).map_err(|_| {
        refused(format!(
            "`{}` is not signed with the key that was given; nothing was imported",
            path.display()
        ))
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
