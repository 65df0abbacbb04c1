//! The `created_by` texts of an image's history, as BuildKit writes them.
//!
//! Scanners and people read them; some tools parse them. They are Go's formats of BuildKit's values, so here are the few
//! of Go's formatting rules that occur.

use std::time::Duration;

/// What BuildKit says in the `comment` of every entry.
pub const COMMENT: &str = "buildkit.dockerfile.v0";

/// Marks the entries that made a layer.
pub fn with_layer(text: &str) -> String {
    format!("{text} # buildkit")
}

/// `RUN |1 NAME=value /bin/sh -c command # buildkit`
pub fn run(arguments: &[String], build_args: &[(String, String)]) -> String {
    let mut words = vec!["RUN".to_owned()];
    if !build_args.is_empty() {
        words.push(format!("|{}", build_args.len()));
        words.extend(build_args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(arguments.iter().cloned());
    with_layer(&words.join(" "))
}

/// `ENV A=1 B=two words`, also for `LABEL`.
pub fn pairs(instruction: &str, pairs: &[(String, String)]) -> String {
    let words: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{instruction} {}", words.join(" "))
}

/// `EXPOSE [443/tcp 80/tcp]`, also for `VOLUME` and `SHELL`.
pub fn list(instruction: &str, words: &[String]) -> String {
    format!("{instruction} [{}]", words.join(" "))
}

/// `CMD ["/bin/sh" "-c" "x"]`, also for `ENTRYPOINT`.
pub fn quoted_list(instruction: &str, words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("{instruction} [{}]", words.join(" "))
}

/// `HEALTHCHECK &{["CMD-SHELL" "x"] "5s" "0s" "0s" "0s" '\x03'}`
pub fn healthcheck(test: &[String], durations: [Duration; 4], retries: u32) -> String {
    let durations = durations.map(|duration| quote(&go_duration(duration)));
    let test = quoted_list("", test);
    format!("HEALTHCHECK &{{{} {} {}}}", test.trim_start(), durations.join(" "), quote_character(retries))
}

/// Go's `%q` of a string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            _ => push_escaped(&mut quoted, character),
        }
    }
    quoted.push('"');
    quoted
}

/// Go's `%q` of a number, which takes it for a character.
fn quote_character(number: u32) -> String {
    let mut quoted = String::from("'");
    match char::from_u32(number).unwrap_or('\u{fffd}') {
        '\'' => quoted.push_str("\\'"),
        character => push_escaped(&mut quoted, character),
    }
    quoted.push('\'');
    quoted
}

fn push_escaped(out: &mut String, character: char) {
    match character {
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        character if (character as u32) < 0x20 || character as u32 == 0x7f => {
            out.push_str(&format!("\\x{:02x}", character as u32));
        }
        character if character.is_control() => out.push_str(&format!("\\u{:04x}", character as u32)),
        character => out.push(character),
    }
}

/// Go's text of a duration: `1h0m5s`, `1.5s`, `300ms`, `0s`.
pub fn go_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let decimal = |value: u128, unit: u128, suffix: &str| {
        let digits = unit.ilog10() as usize;
        let fraction = format!("{:0digits$}", value % unit);
        let fraction = if unit == 1 { "" } else { fraction.trim_end_matches('0') };
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{}{point}{fraction}{suffix}", value / unit)
    };
    match nanoseconds {
        0..1_000 => return decimal(nanoseconds, 1, "ns"),
        1_000..1_000_000 => return decimal(nanoseconds, 1_000, "µs"),
        1_000_000..1_000_000_000 => return decimal(nanoseconds, 1_000_000, "ms"),
        _ => {}
    }
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    let seconds = decimal(nanoseconds % 60_000_000_000, 1_000_000_000, "s");
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn texts_are_buildkits() {
        let check = |text: String, expected: &str| assert_eq!(text, expected);
        let arguments = [("V".to_owned(), "arg".to_owned()), ("H".to_owned(), String::new())];
        check(
            run(&strings(&["/bin/sh", "-c", "echo hi"]), &arguments),
            "RUN |2 V=arg H= /bin/sh -c echo hi # buildkit",
        );
        check(run(&strings(&["/bin/echo", "x"]), &[]), "RUN /bin/echo x # buildkit");
        check(quoted_list("CMD", &strings(&["a", "b\"\n$Z"])), "CMD [\"a\" \"b\\\"\\n$Z\"]");
        check(quoted_list("ENTRYPOINT", &[]), "ENTRYPOINT []");
        check(list("EXPOSE", &strings(&["53/udp", "80/tcp"])), "EXPOSE [53/udp 80/tcp]");
        let seconds = Duration::from_secs;
        check(
            healthcheck(
                &strings(&["CMD-SHELL", "curl x"]),
                [seconds(5), seconds(0), seconds(0), seconds(0)],
                3,
            ),
            r#"HEALTHCHECK &{["CMD-SHELL" "curl x"] "5s" "0s" "0s" "0s" '\x03'}"#,
        );
        check(
            healthcheck(&strings(&["NONE"]), [seconds(0); 4], 0),
            r#"HEALTHCHECK &{["NONE"] "0s" "0s" "0s" "0s" '\x00'}"#,
        );
    }

    #[test]
    fn durations_are_gos() {
        let check = |nanoseconds: u64, expected: &str| {
            assert_eq!(go_duration(Duration::from_nanos(nanoseconds)), expected);
        };
        check(0, "0s");
        check(1, "1ns");
        check(1_500, "1.5µs");
        check(300_000_000, "300ms");
        check(1_500_000_000, "1.5s");
        check(90_000_000_000, "1m30s");
        check(3_605_000_000_000, "1h0m5s");
    }
}
