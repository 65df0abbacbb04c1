//! `--cache-from` and `--cache-to`: what they say, and the caches that they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cooper_build::build::Built;
use cooper_build::cache::{self, CacheContents, CacheMode, ImportedCaches, Verify};
use cooper_build::report::{Event, Reporter, phase};
use cooper_build::source::{StoreImages, Transfers};
use cooper_build::step::CancelToken;
use cooper_image::compression::Compression;
use cooper_image::export::Export;
use cooper_image::image::ImageRecord;
use cooper_image::layout::{self, Layout};
use cooper_image::platform::Platform;
use cooper_image::reference::Reference;
use cooper_image::store::Store;

use crate::failure::Failure;

/// One `--cache-from`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// An image with a cache in its config.
    Registry(Reference),
    /// The same in a layout.
    Local(PathBuf),
}

/// One `--cache-to`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// An image of its own.
    Registry { name: Reference, settings: Settings },
    /// The same in a layout.
    Local { directory: PathBuf, settings: Settings },
    /// In the config of the image that is built.
    Inline,
}

/// What a cache keeps, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    mode: CacheMode,
    compression: Compression,
    /// Whether a cache that cannot be written is a warning only.
    ignore_error: bool,
    /// Seconds after which a result that was made now is not used any more.
    ttl: Option<i64>,
    /// Whether it carries what the cache mounts of steps hold.
    mounts: bool,
    /// Whether it carries the indexes of the bases' layers.
    index: bool,
}

type Fields<'t> = BTreeMap<&'t str, &'t str>;

/// Reads `type=…,key=value`, or a bare image name.
fn fields<'t>(flag: &str, text: &'t str, keys: &[(&str, &[&str])]) -> Result<(&'t str, Fields<'t>), Failure> {
    let usage = |reason: String| Failure::usage(format!("invalid {flag} `{text}`: {reason}"));
    if !text.contains('=') {
        return Ok(("registry", Fields::from([("ref", text)])));
    }
    let mut fields = Fields::new();
    for field in text.split(',') {
        let (key, value) =
            field.split_once('=').ok_or_else(|| usage(format!("`{field}` is not KEY=VALUE")))?;
        if fields.insert(key.trim(), value).is_some() {
            return Err(usage(format!("`{key}` stands twice")));
        }
    }
    let kind = fields.remove("type").unwrap_or("registry");
    let Some((_, known)) = keys.iter().find(|(name, _)| *name == kind) else {
        let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
        return Err(usage(format!("type `{kind}` is not one of {}", names.join(", "))));
    };
    match fields.keys().find(|key| !known.contains(key)) {
        Some(unknown) => {
            Err(usage(format!("type {kind} has no `{unknown}` here; it has {}", known.join(", "))))
        }
        None => Ok((kind, fields)),
    }
}

fn needed<'t>(flag: &str, text: &str, fields: &Fields<'t>, key: &str) -> Result<&'t str, Failure> {
    let found = fields.get(key).copied().filter(|value| !value.is_empty());
    found.ok_or_else(|| Failure::usage(format!("invalid {flag} `{text}`: it needs `{key}`")))
}

/// Parses `--cache-from`.
pub(crate) fn parse_from(text: &str) -> Result<From, Failure> {
    const FLAG: &str = "--cache-from";
    let (kind, fields) = fields(FLAG, text, &[("registry", &["ref"]), ("local", &["src"])])?;
    Ok(match kind {
        "local" => From::Local(needed(FLAG, text, &fields, "src")?.into()),
        _ => From::Registry(super::commands::images::reference(needed(FLAG, text, &fields, "ref")?)?),
    })
}

/// Parses `--cache-to`.
pub(crate) fn parse_to(text: &str) -> Result<To, Failure> {
    const FLAG: &str = "--cache-to";
    const SETTINGS: [&str; 8] =
        ["mode", "compression", "ignore-error", "image-manifest", "oci-mediatypes", "ttl", "mounts", "index"];
    let registry = [&["ref"], &SETTINGS[..]].concat();
    let local = [&["dest"], &SETTINGS[..]].concat();
    let (kind, fields) = fields(FLAG, text, &[("registry", &registry), ("local", &local), ("inline", &[])])?;
    let wrong = |key: &str, expected: &str| {
        let value = fields.get(key).copied().unwrap_or_default();
        Failure::usage(format!("invalid {FLAG} `{text}`: `{key}={value}` is not {expected}"))
    };
    let mode = match fields.get("mode").copied() {
        None | Some("min") => CacheMode::Min,
        Some("max") => CacheMode::Max,
        Some(_) => return Err(wrong("mode", "min or max")),
    };
    let compression = match fields.get("compression").copied() {
        None | Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some("uncompressed" | "none") => Compression::None,
        Some(_) => return Err(wrong("compression", "gzip, zstd or uncompressed")),
    };
    // A plain image manifest of OCI is all that there is.
    for key in ["image-manifest", "oci-mediatypes"] {
        if !matches!(fields.get(key).copied(), None | Some("true" | "1")) {
            return Err(wrong(key, "true, and nothing else is written"));
        }
    }
    let flag = |key: &str| match fields.get(key).copied() {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(wrong(key, "true or false")),
    };
    let ttl =
        fields.get("ttl").map(|text| seconds(text).ok_or_else(|| wrong("ttl", "a time as 90s, 12h or 7d")));
    let (ignore_error, mounts, index) = (flag("ignore-error")?, flag("mounts")?, flag("index")?);
    let settings = Settings { mode, compression, ignore_error, ttl: ttl.transpose()?, mounts, index };
    Ok(match kind {
        "inline" => To::Inline,
        "local" => To::Local { directory: needed(FLAG, text, &fields, "dest")?.into(), settings },
        _ => {
            let name = super::commands::images::reference(needed(FLAG, text, &fields, "ref")?)?;
            To::Registry { name, settings }
        }
    })
}

/// A time as `90s`, `30m`, `12h` or `7d`.
fn seconds(text: &str) -> Option<i64> {
    const UNITS: [(char, i64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let count: i64 = text.strip_suffix(unit)?.parse().ok()?;
    count.checked_mul(factor).filter(|seconds| *seconds > 0)
}

/// Parses `--cache-verify`: `20%` of the copies, `20%,run` of the steps, too.
pub(crate) fn parse_verify(text: &str) -> Result<Verify, Failure> {
    let usage = || {
        Failure::usage(format!(
            "invalid --cache-verify `{text}`: expected a percentage as `20%`, or `20%,run` with steps that make the same files every time"
        ))
    };
    let (percent, steps) = match text.split_once(',') {
        None => (text, false),
        Some((percent, "run")) => (percent, true),
        Some(_) => return Err(usage()),
    };
    let percent = percent.strip_suffix('%').and_then(|number| number.parse().ok());
    let percent = percent.filter(|percent| *percent <= 100).ok_or_else(usage)?;
    Ok(Verify { percent, steps })
}

/// The time, in seconds since 1970.
fn now() -> i64 {
    cooper_vfs::Clock::now(&cooper_vfs::HostClock).seconds
}

/// Reads the caches. One that cannot be read is a warning: a build without it gives the same image.
pub(crate) fn import(
    store: &Store,
    images: &StoreImages<'_>,
    sources: &[From],
    platforms: &[&Platform],
    verify: Option<Verify>,
    reporter: &dyn Reporter,
) -> ImportedCaches {
    let mut caches = ImportedCaches::new(now(), verify);
    for source in sources {
        let shown = match source {
            From::Registry(name) => name.to_string(),
            From::Local(path) => path.display().to_string(),
        };
        let read = phase(reporter, &format!("cache from {shown}"), || {
            let mut count = 0;
            for (number, platform) in platforms.iter().enumerate() {
                let found = match source {
                    From::Registry(name) => remote(store, images, name, platform).map(|image| (image, None)),
                    From::Local(path) => local(store, path, platform),
                };
                match found {
                    Ok((image, layout)) => count += caches.add(&image, layout)?,
                    // One platform has a cache, another may have none yet.
                    Err(_) if number > 0 => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(count)
        });
        let problem = match read {
            Ok(0) => "it has no results".to_owned(),
            Ok(_) => continue,
            Err(error) => error.to_string(),
        };
        let text = format!("warning: the cache `{shown}` is not used: {problem}");
        reporter.event(Event::Warning { text: &text });
    }
    match caches.indexes(store) {
        Ok(indexes) => images.add_indexes(&indexes),
        Err(error) => {
            reporter.event(Event::Warning {
                text: &format!("warning: indexes of a cache are not used: {error}"),
            });
        }
    }
    caches
}

fn local(
    store: &Store,
    path: &Path,
    platform: &Platform,
) -> cooper_build::Result<(ImageRecord, Option<Layout>)> {
    let layout = Layout::open(path)?;
    let root = layout.select(None)?.clone();
    let image = store.import_lazily(&layout, &root, platform)?;
    Ok((image, Some(layout)))
}

fn remote(
    store: &Store,
    images: &StoreImages<'_>,
    name: &Reference,
    platform: &Platform,
) -> cooper_build::Result<ImageRecord> {
    let client = images.client()?;
    let remote = client.resolve(name)?;
    Ok(store.import_lazily(&remote, remote.root(), platform)?)
}

/// Writes the caches.
pub(crate) fn export(
    store: &Store,
    images: &StoreImages<'_>,
    built: &[Built<'_>],
    targets: &[To],
    reporter: &dyn Reporter,
    cancel: &CancelToken,
) -> Result<(), Failure> {
    for target in targets {
        let (shown, settings) = match target {
            To::Inline => continue,
            To::Registry { name, settings } => (name.to_string(), settings),
            To::Local { directory, settings } => (directory.display().to_string(), settings),
        };
        let phase_name = format!("cache to {shown}");
        let written = phase(reporter, &phase_name, || {
            // Keys hold the platform, so one image carries the results of all of them.
            let (mut records, mut mounts, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
            for built in built {
                if settings.index {
                    indexes.extend(built.indexes()?);
                }
                records.extend(built.cache_records(settings.mode, settings.compression)?);
                if settings.mounts {
                    mounts.extend(built.cache_mounts(settings.compression)?);
                }
            }
            // Several platforms may share a mount.
            mounts.sort_by(|one, other| one.id.cmp(&other.id));
            mounts.dedup_by(|one, other| one.id == other.id);
            // What comes from a cache keeps the end that it has there.
            let end = settings.ttl.map(|ttl| now().saturating_add(ttl));
            records.iter_mut().for_each(|record| record.expires = record.expires.or(end));
            let Some(platform) = built.first().map(Built::platform) else { return Ok(()) };
            let contents = CacheContents { records, mounts, indexes };
            let carrier = cache::compose(store, &contents, platform)?;
            let transfers = Transfers::new(reporter, &phase_name, cancel);
            match target {
                To::Registry { name, .. } => {
                    let client = images.client()?;
                    let pushed = client.push(store, &carrier.descriptor, name, &transfers);
                    images.pass_warnings_on(&client);
                    Ok(pushed?)
                }
                To::Local { directory, .. } => {
                    images.complete(&carrier, cancel)?;
                    write_layout(store, directory, &carrier, &transfers)
                }
                To::Inline => Ok(()),
            }
        });
        match written {
            Err(error) if settings.ignore_error => {
                let text = format!("warning: the cache `{shown}` was not written: {error}");
                reporter.event(Event::Warning { text: &text });
            }
            written => written?,
        }
    }
    Ok(())
}

/// A layout for the cache alone: what it had before is replaced.
fn write_layout(
    store: &Store,
    directory: &Path,
    carrier: &ImageRecord,
    transfers: &Transfers<'_>,
) -> cooper_build::Result<()> {
    let name: Reference = "cache:latest".parse()?;
    let export = [Export { descriptor: carrier.descriptor.clone(), names: vec![name] }];
    Ok(layout::write(store, directory, &export, transfers)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn sources_and_targets_are_read_or_refused() {
        let name = |text: &str| text.parse::<Reference>().unwrap();
        assert_eq!(parse_from("r.example/cache").unwrap(), From::Registry(name("r.example/cache")));
        assert_eq!(parse_from("type=local,src=d").unwrap(), From::Local("d".into()));
        let settings = Settings {
            mode: CacheMode::Max,
            compression: Compression::Zstd,
            ignore_error: true,
            ttl: Some(7 * 86_400),
            mounts: true,
            index: true,
        };
        assert_eq!(
            parse_to(
                "type=registry,ref=r.example/c:1,mode=max,compression=zstd,ignore-error=true,ttl=7d,mounts=true,index=true"
            )
            .unwrap(),
            To::Registry { name: name("r.example/c:1"), settings }
        );
        assert_eq!(parse_to("type=inline").unwrap(), To::Inline);
        let refused = |result: Result<(), Failure>, part: &str| match result {
            Err(failure) => assert!(failure.text().contains(part), "{}", failure.text()),
            Ok(()) => panic!("it was taken; expected `{part}`"),
        };
        refused(parse_from("type=gha").map(drop), "type `gha` is not one of registry, local");
        refused(parse_from("type=local").map(drop), "it needs `src`");
        refused(parse_from("type=registry,ref=x,mode=max").map(drop), "has no `mode`");
        refused(parse_to("type=inline,mode=max").map(drop), "type inline has no `mode`");
        refused(parse_to("type=registry,ref=x,mode=all").map(drop), "`mode=all` is not min or max");
        refused(parse_to("type=registry,ref=x,image-manifest=false").map(drop), "`image-manifest=false`");
        refused(parse_to("type=registry,ref=x,ttl=soon").map(drop), "`ttl=soon` is not a time");
        assert_eq!(parse_verify("20%").unwrap(), Verify { percent: 20, steps: false });
        assert_eq!(parse_verify("100%,run").unwrap(), Verify { percent: 100, steps: true });
        refused(parse_verify("101%").map(drop), "expected a percentage");
        refused(parse_verify("20").map(drop), "expected a percentage");
        refused(parse_to("type=registry,ref=x,ref=y").map(drop), "`ref` stands twice");
    }
}
