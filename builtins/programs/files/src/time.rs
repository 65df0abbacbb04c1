//! Times as people write them, in the time zone of `TZ` or `/etc/localtime`.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use toolbox_linux::file::Time;

/// The local time zone; UTC where none is set.
pub(crate) fn zone() -> TimeZone {
    let text = std::env::var("TZ").ok();
    let named = |name: &str| {
        let path =
            if name.starts_with('/') { name.to_owned() } else { format!("/usr/share/zoneinfo/{name}") };
        from_file(name, path.as_bytes()).or_else(|| TimeZone::posix(name).ok())
    };
    match text.as_deref().map(|text| text.strip_prefix(':').unwrap_or(text)) {
        Some("") => TimeZone::UTC,
        Some(name) => named(name).unwrap_or(TimeZone::UTC),
        None => from_file("localtime", b"/etc/localtime").unwrap_or(TimeZone::UTC),
    }
}

fn from_file(name: &str, path: &[u8]) -> Option<TimeZone> {
    let mut data = Vec::new();
    let mut file = toolbox_linux::file::open_read(path).ok()?;
    std::io::Read::read_to_end(&mut file, &mut data).ok()?;
    TimeZone::tzif(name, &data).ok()
}

/// A time in a zone; beyond what calendars reach it is `None`.
pub(crate) fn zoned(time: Time, zone: &TimeZone) -> Option<Zoned> {
    Some(Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).ok()?).ok()?.to_zoned(zone.clone()))
}

/// Formats a time as `strftime` does, `%N` for nanoseconds included.
pub(crate) fn format(time: Time, zone: &TimeZone, format: &str) -> String {
    match zoned(time, zone) {
        Some(zoned) => zoned.strftime(format).to_string(),
        None => time.seconds.to_string(),
    }
}

/// Reads a date in words.
pub(crate) fn parse(text: &str, zone: &TimeZone) -> Option<Time> {
    let now = zoned(toolbox_linux::process::now(), zone)?;
    let parsed = parse_datetime::parse_datetime_at_date(now, text).ok()?;
    Some(Time { seconds: parsed.unix_epoch_second(), nanoseconds: parsed.subsec_nanosecond().into() })
}
