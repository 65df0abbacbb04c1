//! Instructions that change the config and no file.

use std::collections::BTreeSet;

use cooper_dockerfile::{CommandLine, Healthcheck, KeyValue, Word};
use cooper_image::config::{Empty, Healthcheck as HealthcheckConfig};

use super::{Lowering, StageState, shell};
use crate::error::{Error, Fault, Result};
use crate::history;

/// Bound on the ports of one `EXPOSE`.
const PORTS: usize = 65_536;

impl Lowering<'_> {
    pub(super) fn pairs(&self, state: &StageState, pairs: &[KeyValue]) -> Result<Vec<(String, String)>> {
        let mut expanded = Vec::new();
        for pair in pairs {
            let key = self.expand(&state.variables, &pair.key)?;
            if key.is_empty() {
                return Err(Error::build("a name is empty after its variables are replaced")
                    .at(self.file, pair.key.span));
            }
            expanded.push((key, self.expand(&state.variables, &pair.value)?));
        }
        Ok(expanded)
    }

    pub(super) fn expose(&self, state: &mut StageState, words: &[Word]) -> Result<()> {
        let mut ports = BTreeSet::new();
        for word in words {
            let expanded = state.variables.expand_words(word, self.escape);
            for text in expanded.map_err(|error| self.expand_failed(error, word.span))? {
                let parsed = parse_ports(&text).ok_or_else(|| {
                    Error::build(format!("invalid port: `{text}`"))
                        .hint("a port is NUMBER[-NUMBER][/tcp|/udp|/sctp]")
                        .at(self.file, word.span)
                })?;
                ports.extend(parsed);
            }
        }
        if ports.len() > PORTS {
            return Err(Error::new(Fault::Limit, format!("EXPOSE lists more than {PORTS} ports")));
        }
        let ports: Vec<String> = ports.into_iter().collect();
        state.runtime.exposed_ports.extend(ports.iter().map(|port| (port.clone(), Empty {})));
        state.note(history::list("EXPOSE", &ports));
        Ok(())
    }
}

pub(super) fn command_words(state: &StageState, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        CommandLine::Shell(line) => {
            let mut words = shell(state);
            words.push(line.text.clone());
            words
        }
    }
}

pub(super) fn healthcheck(state: &mut StageState, check: &Healthcheck) {
    let (config, durations, retries) = match check {
        Healthcheck::None => (
            HealthcheckConfig { test: vec!["NONE".to_owned()], ..HealthcheckConfig::default() },
            [std::time::Duration::ZERO; 4],
            0,
        ),
        Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                CommandLine::Exec(words) => std::iter::once("CMD".to_owned())
                    .chain(words.iter().map(|word| word.text.clone()))
                    .collect(),
                CommandLine::Shell(line) => vec!["CMD-SHELL".to_owned(), line.text.clone()],
            };
            let nanoseconds = |duration: &Option<std::time::Duration>| {
                let duration = duration.filter(|duration| !duration.is_zero())?;
                i64::try_from(duration.as_nanos()).ok()
            };
            let config = HealthcheckConfig {
                test,
                interval: nanoseconds(interval),
                timeout: nanoseconds(timeout),
                start_period: nanoseconds(start_period),
                start_interval: nanoseconds(start_interval),
                retries: retries.filter(|retries| *retries > 0).map(i64::from),
                ..HealthcheckConfig::default()
            };
            let durations = [interval, timeout, start_period, start_interval]
                .map(|duration| duration.unwrap_or_default());
            (config, durations, retries.unwrap_or(0))
        }
    };
    state.note(history::healthcheck(&config.test, durations, retries));
    state.runtime.healthcheck = Some(config);
}

/// The ports of one word of `EXPOSE`, as `80/tcp`.
fn parse_ports(text: &str) -> Option<Vec<String>> {
    let (range, protocol) = match text.split_once('/') {
        Some((range, protocol)) => (range, protocol.to_ascii_lowercase()),
        None => (text, "tcp".to_owned()),
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    // A mapping to a host port is accepted by Docker, and only the container's side counts.
    let range = range.rsplit(':').next()?;
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(range)?, port(range)?),
    };
    (first <= last).then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// The names that `STOPSIGNAL` takes, besides numbers.
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, sign: char| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            rest.is_empty()
                || rest.strip_prefix(sign).and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n <= 15)
        })
    };
    SIGNALS.contains(&name) || real_time("RTMIN", '+') || real_time("RTMAX", '-')
}
