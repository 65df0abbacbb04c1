//! `gzip`, `bzip2`, `xz`, `zstd` and their names for the other direction.

use std::io::{BufWriter, Read, Write};

use toolbox_command::{Context, Order, Parsed, Spec, Tool, quote};
use toolbox_linux::file::{self, AT_SYMLINK_NOFOLLOW, Descriptor, Kind, Stat, open};
use toolbox_linux::{errno, process};

use crate::codec::{self, Encoder, Format};

const GZIP_OPTIONS: Spec = &[
    ("c/stdout", "write to standard output, keep files"),
    ("/to-stdout", "as -c"),
    ("d/decompress", "decompress"),
    ("/uncompress", "as -d"),
    ("f/force", "replace files, follow links, write to a terminal"),
    ("k/keep", "keep input files"),
    ("l/list", "sizes of compressed files"),
    ("n/no-name", "neither keep nor restore name and time"),
    ("N/name", "keep and restore name and time"),
    ("q/quiet", "no warnings"),
    ("r/recursive", "files in directories"),
    ("S/suffix=", "another ending"),
    ("t/test", "only test"),
    ("v/verbose", "say what is done"),
    ("1/fast", "the fastest"),
    ("2", ""),
    ("3", ""),
    ("4", ""),
    ("5", ""),
    ("6", "the default"),
    ("7", ""),
    ("8", ""),
    ("9/best", "the smallest"),
];

const OTHER_OPTIONS: Spec = &[
    ("z/compress", "compress"),
    ("c/stdout", "write to standard output, keep files"),
    ("/to-stdout", "as -c"),
    ("d/decompress", "decompress"),
    ("f/force", "replace files, follow links, write to a terminal"),
    ("k/keep", "keep input files"),
    ("q/quiet", "no warnings"),
    ("S/suffix=", "another ending"),
    ("t/test", "only test"),
    ("T/threads=", "at most so many threads; there is one"),
    ("v/verbose", "say what is done"),
    ("0", "levels, from the fastest to the smallest"),
    ("1/fast", ""),
    ("2", ""),
    ("3", ""),
    ("4", ""),
    ("5", ""),
    ("6", ""),
    ("7", ""),
    ("8", ""),
    ("9/best", ""),
];

const ZSTD_OPTIONS: Spec = &[
    ("z/compress", "compress"),
    ("c/stdout", "write to standard output"),
    ("d/decompress", "decompress"),
    ("/uncompress", "as -d"),
    ("f/force", "replace files"),
    ("k/keep", "keep input files (default)"),
    ("/rm", "remove input files"),
    ("o=", "write to this file"),
    ("q/quiet", "no messages"),
    ("t/test", "only test"),
    ("T/threads=", "at most so many threads; there is one"),
    ("v/verbose", "say what is done"),
    ("1", "the only level there is"),
];

const fn tool(name: &'static str, options: Spec) -> Tool {
    Tool { name, usage: "[OPTION]... [FILE]...", options, order: Order::Anywhere, misuse: 1, main: compress }
}

pub(crate) const GZIP: Tool = tool("gzip", GZIP_OPTIONS);
pub(crate) const GUNZIP: Tool = tool("gunzip", GZIP_OPTIONS);
pub(crate) const ZCAT: Tool = tool("zcat", GZIP_OPTIONS);
pub(crate) const BZIP2: Tool = tool("bzip2", OTHER_OPTIONS);
pub(crate) const BUNZIP2: Tool = tool("bunzip2", OTHER_OPTIONS);
pub(crate) const BZCAT: Tool = tool("bzcat", OTHER_OPTIONS);
pub(crate) const XZ: Tool = tool("xz", OTHER_OPTIONS);
pub(crate) const UNXZ: Tool = tool("unxz", OTHER_OPTIONS);
pub(crate) const XZCAT: Tool = tool("xzcat", OTHER_OPTIONS);
pub(crate) const ZSTD: Tool = tool("zstd", ZSTD_OPTIONS);
pub(crate) const UNZSTD: Tool = tool("unzstd", ZSTD_OPTIONS);
pub(crate) const ZSTDCAT: Tool = tool("zstdcat", ZSTD_OPTIONS);

struct Job<'a> {
    context: &'a Context,
    parsed: &'a Parsed,
    format: Format,
    unpacks: bool,
    stdout: bool,
    level: u32,
    suffix: Vec<u8>,
    keep: bool,
}

fn compress(context: &Context, parsed: Parsed) -> i32 {
    let format = match context.name {
        "gzip" | "gunzip" | "zcat" => Format::Gzip,
        "bzip2" | "bunzip2" | "bzcat" => Format::Bzip2,
        "xz" | "unxz" | "xzcat" => Format::Xz,
        _ => Format::Zstd,
    };
    let by_name =
        context.name.starts_with("un") || context.name.contains("cat") || context.name.contains("unzip");
    let chosen = parsed.last(&["decompress", "uncompress", "compress"]);
    let level = parsed.options.iter().rev().find_map(|(key, _)| match *key {
        "fast" => Some(1),
        "best" => Some(9),
        key => key.parse().ok(),
    });
    if format == Format::Zstd && level.is_some_and(|level| level != 1) {
        context.die(1, "there is one level of compression: 1");
    }
    let test = parsed.has("test") || parsed.has("list");
    let job = Job {
        context,
        parsed: &parsed,
        format,
        unpacks: test || chosen.map_or(by_name, |chosen| chosen != "compress"),
        stdout: parsed.has("stdout") || parsed.has("to-stdout") || context.name.contains("cat"),
        level: level.unwrap_or(if format == Format::Bzip2 { 9 } else { 6 }),
        suffix: parsed.value("suffix").map_or_else(|| format.suffix().to_vec(), <[u8]>::to_vec),
        keep: parsed.has("keep") || format == Format::Zstd && !parsed.has("rm"),
    };
    let mut files = parsed.operands.clone();
    if files.is_empty() {
        files.push(b"-".to_vec());
    }
    if parsed.has("o") && files.len() > 1 {
        context.die(1, "-o takes one file");
    }
    if parsed.has("list") {
        let title = "         compressed        uncompressed  ratio uncompressed_name\n";
        context.check_write(Descriptor::keep(1).write_all(title.as_bytes()));
    }
    for name in files {
        job.operand(&name);
    }
    context.status()
}

impl Job<'_> {
    fn fail(&self, name: &[u8], reason: &str) {
        self.context.fail(format!("{}: {reason}", String::from_utf8_lossy(name)));
    }

    fn operand(&self, name: &[u8]) {
        if name == b"-" {
            let to = self.parsed.value("o").map(<[u8]>::to_vec);
            if to.is_none() && !self.unpacks && !self.parsed.has("force") && process::is_terminal(1) {
                self.context
                    .die(1, "compressed data not written to a terminal. Use -f to force compression.");
            }
            let output = match &to {
                Some(path) => file::create(path).unwrap_or_else(|reason| {
                    self.context.die(1, format!("{}: {reason}", String::from_utf8_lossy(path)))
                }),
                None => Descriptor::keep(1),
            };
            if let Err(message) = self.transform(Descriptor::keep(0), output, None, b"stdin") {
                self.fail(b"stdin", &message);
            }
            return;
        }
        let stat = match file::lstat(name) {
            Ok(stat)
                if stat.is_symlink()
                    && (self.stdout || self.parsed.has("force") || self.format == Format::Zstd) =>
            {
                file::stat(name)
            }
            other => other,
        };
        let stat = match stat {
            Ok(stat) => stat,
            // A name without its ending is tried with it.
            Err(errno::ENOENT) if self.unpacks && !name.ends_with(&self.suffix) => {
                let longer = [name, &self.suffix].concat();
                match file::stat(&longer) {
                    Ok(_) => return self.operand(&longer),
                    Err(_) => {
                        return self.fail(
                            &if self.format == Format::Gzip { longer } else { name.to_vec() },
                            &errno::ENOENT.to_string(),
                        );
                    }
                }
            }
            Err(reason) => return self.fail(name, &reason.to_string()),
        };
        match stat.kind() {
            Kind::Directory if self.parsed.has("recursive") => {
                for entry in file::read_directory(name).unwrap_or_default() {
                    self.operand(&[name, b"/", &entry.name].concat());
                }
            }
            Kind::Directory => {
                self.context.warn(format!("{} is a directory -- ignored", String::from_utf8_lossy(name)));
                self.context.set_status(2);
            }
            Kind::Regular => self.file(name, &stat),
            _ if self.stdout => self.file(name, &stat),
            _ => self.fail(name, "not a regular file -- ignored"),
        }
    }

    /// The name of the result; a failure is reported and is `None`.
    fn target(&self, name: &[u8]) -> Option<Vec<u8>> {
        if let Some(path) = self.parsed.value("o") {
            return Some(path.to_vec());
        }
        if !self.unpacks {
            if name.ends_with(&self.suffix) && !self.parsed.has("force") {
                self.context.warn(format!(
                    "{} already has {} suffix -- unchanged",
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(&self.suffix)
                ));
                self.context.set_status(2);
                return None;
            }
            return Some([name, &self.suffix].concat());
        }
        if let Some(stem) = name.strip_suffix(&self.suffix[..]).filter(|stem| !stem.is_empty()) {
            return Some(stem.to_vec());
        }
        for short in [&b".tgz"[..], b".taz", b".tbz", b".tbz2", b".txz", b".tzst"] {
            if Format::by_name(short) == Some(self.format)
                && let Some(stem) = name.strip_suffix(short)
            {
                return Some([stem, b".tar"].concat());
            }
        }
        self.context.warn(format!("{}: unknown suffix -- ignored", String::from_utf8_lossy(name)));
        self.context.set_status(2);
        None
    }

    fn file(&self, name: &[u8], stat: &Stat) {
        let input = match file::open_read(name) {
            Ok(input) => input,
            Err(reason) => return self.fail(name, &reason.to_string()),
        };
        if self.parsed.has("test") || self.parsed.has("list") {
            return self.test(name, stat, input);
        }
        if self.stdout {
            if let Err(message) = self.transform(input, Descriptor::keep(1), Some(stat), name) {
                self.fail(name, &message);
            }
            return;
        }
        let Some(target) = self.target(name) else { return };
        let mut flags = open::WRONLY | open::CREAT | open::EXCL;
        if self.parsed.has("force") {
            let _ = file::unlink(&target);
        }
        let output = match file::open(&target, flags, 0o600) {
            Err(errno::EEXIST) if process::is_terminal(0) => {
                let _ = Descriptor::keep(2).write_all(
                    format!(
                        "{}: {} already exists; do you wish to overwrite (y or n)? ",
                        self.context.name,
                        String::from_utf8_lossy(&target)
                    )
                    .as_bytes(),
                );
                let mut answer = [0u8; 1];
                if !matches!(Descriptor::keep(0).read(&mut answer), Ok(1))
                    || !matches!(answer[0], b'y' | b'Y')
                {
                    return self.context.set_status(2);
                }
                flags = open::WRONLY | open::TRUNC;
                file::open(&target, flags, 0o600)
            }
            other => other,
        };
        let output = match output {
            Ok(output) => output,
            Err(errno::EEXIST) => {
                self.context
                    .warn(format!("{} already exists;\tnot overwritten", String::from_utf8_lossy(&target)));
                return self.context.set_status(2);
            }
            Err(reason) => return self.fail(&target, &reason.to_string()),
        };
        match self.transform(input, output, Some(stat), name) {
            Ok(()) => {
                let _ = file::chown(&target, Some(stat.uid), Some(stat.gid), AT_SYMLINK_NOFOLLOW);
                let _ = file::chmod(&target, stat.mode & 0o7777);
                let _ = file::utimensat(&target, stat.accessed, stat.modified, 0);
                if self.parsed.has("verbose") {
                    let verb = if self.keep { "created" } else { "replaced with" };
                    let _ = Descriptor::keep(2).write_all(
                        format!(
                            "{}:\t -- {verb} {}\n",
                            String::from_utf8_lossy(name),
                            String::from_utf8_lossy(&target)
                        )
                        .as_bytes(),
                    );
                }
                if !self.keep
                    && let Err(reason) = file::unlink(name)
                {
                    self.fail(name, &reason.to_string());
                }
            }
            Err(message) => {
                let _ = file::unlink(&target);
                self.fail(name, &message);
            }
        }
    }

    fn transform(
        &self,
        input: Descriptor,
        output: Descriptor,
        stat: Option<&Stat>,
        name: &[u8],
    ) -> Result<(), String> {
        let said = |error: std::io::Error| toolbox_command::reason(&error);
        let mut output = BufWriter::with_capacity(1 << 16, output);
        if self.unpacks {
            let (found, mut input) = codec::detect(input).map_err(said)?;
            if found != Some(self.format) {
                // `zcat -f` passes on what is not compressed.
                if self.parsed.has("force") && self.stdout && found.is_none() {
                    std::io::copy(&mut input, &mut output).map_err(said)?;
                    return output.flush().map_err(said);
                }
                return Err(if std::io::BufRead::fill_buf(&mut input).is_ok_and(|data| data.is_empty()) {
                    "unexpected end of file".into()
                } else {
                    format!("not in {} format", self.word())
                });
            }
            let mut decoder = codec::decoder(found, input).map_err(said)?;
            std::io::copy(&mut decoder, &mut output).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "unexpected end of file".to_owned(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
                    format!("invalid compressed data: {error}")
                }
                _ => said(error),
            })?;
        } else {
            let header = stat.filter(|_| !self.parsed.has("no-name")).map(|stat| {
                let base = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
                (base.to_vec(), u32::try_from(stat.modified.seconds).unwrap_or(0))
            });
            let mut encoder =
                Encoder::new(Some(self.format), self.level, header, &mut output).map_err(said)?;
            let mut input = input;
            std::io::copy(&mut input, &mut encoder).map_err(said)?;
            encoder.finish().map_err(said)?;
        }
        output.flush().map_err(said)
    }

    fn word(&self) -> &'static str {
        match self.format {
            Format::Gzip => "gzip",
            Format::Bzip2 => "bzip2",
            Format::Xz => "xz",
            Format::Zstd => "zstd",
        }
    }

    fn test(&self, name: &[u8], stat: &Stat, input: Descriptor) {
        let counted = codec::detect(input).map_err(|error| toolbox_command::reason(&error)).and_then(
            |(found, input)| {
                if found != Some(self.format) {
                    return Err(format!("not in {} format", self.word()));
                }
                let mut decoder = codec::decoder(found, input).map_err(|error| error.to_string())?;
                std::io::copy(&mut decoder, &mut std::io::sink()).map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => "unexpected end of file".to_owned(),
                    _ => format!("invalid compressed data: {error}"),
                })
            },
        );
        match counted {
            Ok(size) if self.parsed.has("list") => {
                let packed = stat.size as u64;
                let ratio = if size == 0 {
                    0.0
                } else {
                    100.0 * (1.0 - (packed as f64 - 18.0 - name.len() as f64 + 3.0).max(0.0) / size as f64)
                };
                let stem = name.strip_suffix(&self.suffix[..]).unwrap_or(name);
                let line =
                    format!("{packed:>19} {size:>19} {ratio:>5.1}% {}\n", String::from_utf8_lossy(stem));
                self.context.check_write(Descriptor::keep(1).write_all(line.as_bytes()));
            }
            Ok(_) if self.parsed.has("verbose") => {
                let _ =
                    Descriptor::keep(2).write_all(format!("{}:\t OK\n", quote::if_needed(name)).as_bytes());
            }
            Ok(_) => {}
            Err(message) => self.fail(name, &message),
        }
    }
}
