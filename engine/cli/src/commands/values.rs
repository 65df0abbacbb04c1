//! Values of flags that several commands have.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cooper_build::request::Network;
use cooper_build::step::StepLimits;

use crate::arguments::NetworkMode;
use crate::failure::Failure;

/// `512m`, `2g`, `1048576`.
pub(crate) fn size(flag: &str, text: &str) -> Result<u64, Failure> {
    let wrong = || Failure::usage(format!("invalid {flag} `{text}`: expected a number with b, k, m or g"));
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let shift = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// `90s`, `10m`, `1h30m`, `7d`; a bare number is seconds.
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    let wrong =
        || Failure::usage(format!("invalid {flag} `{text}`: expected a time as 90s, 10m, 1h30m or 7d"));
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].chars().next();
        let factor = match unit {
            None | Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(factor).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = &rest[digits + unit.map_or(0, char::len_utf8)..];
    }
    if seconds == 0 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

/// `name:address`, also `name=address`; an IPv6 address may stand in brackets.
pub(crate) fn hosts(texts: &[String]) -> Result<Vec<(String, IpAddr)>, Failure> {
    let parse = |text: &String| {
        let (name, address) = text.split_once(['=', ':'])?;
        let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        Some((name.to_owned(), address.parse().ok()?))
    };
    texts
        .iter()
        .map(|text| {
            parse(text)
                .ok_or_else(|| Failure::usage(format!("invalid --add-host `{text}`: expected NAME:ADDRESS")))
        })
        .collect()
}

/// The resource limits that there are.
const NAMES: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The limits of steps.
pub(crate) fn limits(
    memory: Option<&str>,
    ulimits: &[String],
    time: Option<&str>,
    time_flag: &str,
) -> Result<StepLimits, Failure> {
    let mut limits = StepLimits {
        memory_bytes: memory.map(|memory| size("--memory", memory)).transpose()?,
        time: time.map(|time| duration(time_flag, time)).transpose()?,
        ..StepLimits::default()
    };
    for text in ulimits {
        let wrong = |reason: &str| Failure::usage(format!("invalid --ulimit `{text}`: {reason}"));
        let (name, values) = text.split_once('=').ok_or_else(|| wrong("expected NAME=SOFT[:HARD]"))?;
        if !NAMES.contains(&name) {
            return Err(wrong("no such limit"));
        }
        let number = |value: &str| match value {
            "-1" | "unlimited" => Ok(u64::MAX),
            value => value.parse().map_err(|_| wrong("expected a number")),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(wrong("the soft limit is above the hard one"));
        }
        match name {
            // Nothing is written at a crash, and steps have no priorities.
            "core" if hard > 0 => return Err(Failure::unsupported("--ulimit core but core=0")),
            "nice" | "rtprio" | "rttime" => return Err(Failure::unsupported(&format!("--ulimit {name}"))),
            _ => drop(limits.ulimits.insert(name.to_owned(), (soft, hard))),
        }
    }
    Ok(limits)
}

/// `--network`
pub(crate) fn network(mode: NetworkMode) -> Network {
    match mode {
        NetworkMode::Default => Network::Default,
        NetworkMode::None => Network::None,
        NetworkMode::Host => Network::Host,
    }
}

/// `NAME=VALUE` texts as a map; the last of a name counts.
pub(crate) fn pairs(flag: &str, texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    texts
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Failure::usage(format!("invalid {flag} `{text}`: expected NAME=VALUE"))),
        })
        .collect()
}

/// `NAME[=VALUE]` texts of `--label` as a map.
pub(crate) fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let whole = |text: &String| if text.contains('=') { text.clone() } else { format!("{text}=") };
    pairs("--label", &texts.iter().map(whole).collect::<Vec<_>>())
}

/// Rows with their columns below each other.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_or_refused() {
        assert_eq!(size("--memory", "512m").ok(), Some(512 << 20));
        assert_eq!(size("--memory", "7").ok(), Some(7));
        assert!(
            size("--memory", "1x").is_err()
                && size("--memory", "0").is_err()
                && size("--memory", "99999999999g").is_err()
        );
        assert_eq!(duration("--timeout", "1h30m").ok(), Some(Duration::from_secs(5400)));
        assert_eq!(duration("--timeout", "90").ok(), Some(Duration::from_secs(90)));
        assert!(duration("--timeout", "").is_err() && duration("--timeout", "5w").is_err());
    }

    #[test]
    fn hosts_and_limits_are_read_or_refused() {
        let read = hosts(&["db:10.0.0.1".to_owned(), "six=[::1]".to_owned()]).unwrap_or_default();
        assert_eq!(
            read,
            [
                ("db".to_owned(), IpAddr::from([10, 0, 0, 1])),
                ("six".to_owned(), "::1".parse().expect("an address"))
            ]
        );
        assert!(hosts(&["db".to_owned()]).is_err());
        let read = |text: &str| limits(None, &[text.to_owned()], None, "--timeout").ok();
        let given = |text: &str, name: &str| read(text).and_then(|limits| limits.ulimits.get(name).copied());
        assert_eq!(given("nofile=10:20", "nofile"), Some((10, 20)));
        assert_eq!(given("nproc=50", "nproc"), Some((50, 50)));
        assert_eq!(given("stack=8192:-1", "stack"), Some((8192, u64::MAX)));
        assert_eq!(given("core=0", "core"), Some((0, 0)));
        assert!(["files=1", "core=1", "nice=1", "nproc=2:1", "cpu"].iter().all(|text| read(text).is_none()));
    }

    #[test]
    fn columns_are_below_each_other() {
        let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A     B\nlong  x");
    }
}
