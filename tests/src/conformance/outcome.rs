//! What came of a build, as lines.
//!
//! ```text
//! layers 1                      beyond those of busybox, if that is below
//! config Cmd ["sh"]             what is neither null nor empty
//! history COPY a / # buildkit   `history empty …` where no layer belongs to it
//! + d/f f 644 0:0 1 2d711642b726 @1000000000
//! - bin/sh                      a name of busybox that is gone
//! ```
//!
//! A time after [`NOW`] is shown as `@now`: BuildKit defines none there, so any time of ours is right. A refused build
//! is the one line `refused`, followed by what was said, which is not compared.

use anyhow::Result;
use serde_json::Value;

use crate::listing::{Entry, Kind, Listing};
use crate::oci::Image;

/// Times from here on (2020) are those of the build.
const NOW: i64 = 1_577_836_800;

/// What came of a build, in its textual form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome(pub String);

impl Outcome {
    /// Of a build that was refused, with the message.
    pub fn refused(message: &str) -> Self {
        Self(format!("refused {}\n", message.replace('\n', " ")))
    }

    /// Of an image, which may lie upon `below`.
    pub fn of_image(image: &Image, below: &Image) -> Result<Self> {
        let ids = |image: &Image| image.config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
        let based = ids(image).starts_with(&ids(below));
        let (layers, base) =
            if based { (ids(below).len(), Listing::of_image(below)?) } else { (0, Listing::default()) };
        let mut lines = vec![format!("layers {}", ids(image).len() - layers)];
        for key in ["architecture", "author", "os", "variant"] {
            lines.extend(shown(&image.config[key]).map(|value| format!("image {key} {value}")));
        }
        for (key, value) in image.config["config"].as_object().into_iter().flatten() {
            lines.extend(shown(value).map(|value| format!("config {key} {value}")));
        }
        lines.extend(history(
            image,
            if based { below.config["history"].as_array().map_or(0, Vec::len) } else { 0 },
        ));
        let ours = Listing::of_image(image)?;
        for (path, entry) in &ours.0 {
            if !base.0.get(path).is_some_and(|below| is_kept(below, entry)) {
                let path = path.escape_default().to_string().replace(' ', "\\x20");
                lines.push(format!("+ {path} {}", line(entry)));
            }
        }
        let gone = base.0.keys().filter(|path| !ours.0.contains_key(*path));
        lines.extend(gone.map(|path| format!("- {path}")));
        Ok(Self(lines.join("\n") + "\n"))
    }

    /// Of what `--call` printed as JSON.
    pub fn of_call(method: &str, json: &Value) -> Self {
        let mut lines = Vec::new();
        let list = |key: &str| json[key].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match method {
            "check" => {
                let warnings = list("warnings");
                if let Some(error) = warnings.iter().find(|warning| warning["level"] == "error") {
                    return Self::refused(&text(&error["detail"]));
                }
                for warning in warnings {
                    let line = &warning["location"]["ranges"][0]["start"]["line"];
                    lines.push(format!("warning {} {line}", text(&warning["ruleName"])));
                }
                if let Some(error) = json["buildError"]["message"].as_str() {
                    return Self::refused(error);
                }
                lines.sort();
            }
            "targets" => {
                for target in list("targets") {
                    let default = if target["default"] == true { " default" } else { "" };
                    let (name, base) = (text(&target["name"]), text(&target["base"]));
                    lines.push(format!(
                        "target {name:?} {base:?} {:?}{default}",
                        text(&target["description"])
                    ));
                }
            }
            _ => {
                lines.push(format!("outline {:?} {:?}", text(&json["name"]), text(&json["description"])));
                for arg in list("args") {
                    let (name, value) = (text(&arg["name"]), text(&arg["value"]));
                    lines.push(format!("argument {name} {value:?} {:?}", text(&arg["description"])));
                }
                for secret in list("secrets") {
                    let required = secret["required"] == true;
                    lines.push(format!("secret {} {required}", text(&secret["name"])));
                }
            }
        }
        Self(lines.iter().map(|line| format!("{line}\n")).collect())
    }

    /// Whether the build was refused.
    pub fn is_refusal(&self) -> bool {
        self.0.starts_with("refused")
    }

    /// The lines that are compared.
    fn lines(&self) -> Vec<&str> {
        if self.is_refusal() { vec!["refused"] } else { self.0.lines().collect() }
    }

    /// Our lines, with an undefined time where the same path has one in what is expected.
    fn timed_as(&self, expected: &Self) -> Vec<String> {
        const UNDEFINED: &str = " @now";
        let path = |line: &str| line.strip_prefix("+ ")?.split(' ').next().map(str::to_owned);
        let theirs = expected.0.lines().filter(|line| line.contains(UNDEFINED));
        let undefined: std::collections::BTreeSet<String> = theirs.filter_map(path).collect();
        let timed = |line: &str| match (path(line), line.split_once(" @")) {
            (Some(path), Some((before, after))) if undefined.contains(&path) => {
                let rest = after.split_once(' ').map_or_else(String::new, |(_, rest)| format!(" {rest}"));
                format!("{before}{UNDEFINED}{rest}")
            }
            _ => line.to_owned(),
        };
        self.lines().into_iter().map(timed).collect()
    }

    /// The differences to what is expected, one line each.
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let (ours, theirs) = (self.timed_as(expected), expected.lines());
        let missing = theirs
            .iter()
            .filter(|line| !ours.iter().any(|have| have == *line))
            .map(|line| format!("expected {line}"));
        let surplus = ours
            .iter()
            .filter(|line| !theirs.contains(&line.as_str()))
            .map(|line| format!("have     {line}"));
        let mut all: Vec<String> = missing.chain(surplus).collect();
        if all.is_empty() && ours != theirs {
            all.push("the same lines in another order or number".to_owned());
        }
        if !all.is_empty() && self.is_refusal() {
            all.push(self.0.trim_end().to_owned());
        }
        all
    }

    /// The same without the lines that repeat the Dockerfile's text.
    #[must_use]
    pub fn without_history(&self) -> Self {
        let kept = self.0.lines().filter(|line| !line.starts_with("history "));
        Self(kept.map(|line| format!("{line}\n")).collect())
    }
}

/// Whether an entry is as it was, but for the undefined time of a directory that something was put into.
fn is_kept(below: &Entry, entry: &Entry) -> bool {
    let time = if entry.kind == Kind::Directory && entry.mtime >= NOW { entry.mtime } else { below.mtime };
    Entry { mtime: time, ..below.clone() } == *entry
}

fn shown(value: &Value) -> Option<&Value> {
    let empty = match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    (!empty).then_some(value)
}

fn history(image: &Image, below: usize) -> Vec<String> {
    let all = image.config["history"].as_array().cloned().unwrap_or_default();
    let line = |entry: &Value| {
        let empty = if entry["empty_layer"] == true { "empty " } else { "" };
        let by = entry["created_by"].as_str().unwrap_or_default();
        let comment = match entry["comment"].as_str() {
            Some("buildkit.dockerfile.v0") => String::new(),
            other => format!(" ({})", other.unwrap_or("no comment")),
        };
        format!("history {empty}{}{comment}", by.escape_debug())
    };
    all.iter().skip(below).map(line).collect()
}

fn line(entry: &Entry) -> String {
    let kind = match &entry.kind {
        Kind::Directory => "d".to_owned(),
        Kind::File(..) => "f".to_owned(),
        Kind::Symlink(target) => format!("-> {}", target.escape_default()),
        Kind::Fifo => "fifo".to_owned(),
        Kind::Character(major, minor) => format!("c {major},{minor}"),
        Kind::Block(major, minor) => format!("b {major},{minor}"),
    };
    let mut line = format!("{kind} {:o} {}:{}", entry.mode, entry.uid, entry.gid);
    if let Kind::File(size, digest) = &entry.kind {
        const SHOWN: usize = 12;
        let digest = digest.trim_start_matches("sha256:");
        line += &format!(" {size} {}", digest.get(..SHOWN).unwrap_or(digest));
    }
    line += &if entry.mtime >= NOW { " @now".to_owned() } else { format!(" @{}", entry.mtime) };
    for (name, value) in &entry.xattrs {
        line += &format!(" {name}={}", value.escape_ascii());
    }
    line += &entry.same_as.iter().map(|name| format!(" same as {name}")).collect::<String>();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_refusals_are_not_compared() {
        let (one, two) = (Outcome::refused("a"), Outcome::refused("b"));
        assert!(one.differences(&two).is_empty());
        assert!(!one.differences(&Outcome("layers 0\n".to_owned())).is_empty());
    }

    #[test]
    fn an_undefined_time_may_be_any() {
        let outcome = |text: &str| Outcome(text.to_owned());
        let (now, then) =
            (outcome("+ a d 755 0:0 @now same as b\n"), outcome("+ a d 755 0:0 @7 same as b\n"));
        assert!(then.differences(&now).is_empty());
        assert_eq!(now.differences(&then).len(), 2);
    }

    #[test]
    fn lines_count_in_order_and_number() {
        let outcome = |text: &str| Outcome(text.to_owned());
        assert!(outcome("a\nb\n").differences(&outcome("a\nb\n")).is_empty());
        assert_eq!(outcome("a\na\n").differences(&outcome("a\n")).len(), 1);
        assert_eq!(outcome("a\nb\n").differences(&outcome("a\nc\n")), ["expected c", "have     b"]);
    }
}
