//! Variables: what a word may use at its place in the Dockerfile.
//!
//! A stage has one environment that `ARG` and `ENV` both write, in order, so the later of the two wins; the image keeps
//! only what `ENV` said. A stage that is `FROM` another starts with that stage's environment, and then the image's
//! variables win over inherited arguments. Before the first `FROM` there is the global scope: the global `ARG`s and the
//! platform's names. All of this is observed with BuildKit, where the reference is silent.

use std::collections::BTreeMap;

use cooper_dockerfile::expand::{ExpandError, Expander};
use cooper_dockerfile::{Escape, Word};
use cooper_image::platform::Platform;

/// Variables in the order in which they were first set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(Vec<(String, String)>);

impl Variables {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Sets `name`; a variable that is there keeps its place.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(own, _)| own == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Sets what an image's `Env` list says.
    pub fn set_all(&mut self, entries: &[String]) {
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            self.set(name, value);
        }
    }

    /// Name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Replaces the variables of a raw word and removes its quotes.
    pub fn expand(&self, word: &Word, escape: Escape) -> Result<String, ExpandError> {
        self.expand_text(&word.text, escape)
    }

    /// Replaces the variables of a raw text and removes its quotes.
    pub fn expand_text(&self, text: &str, escape: Escape) -> Result<String, ExpandError> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        Ok(Expander::new(escape).expand(text, &lookup)?.text)
    }

    /// As [`Self::expand`], but white space in a value makes several words of one.
    pub fn expand_words(&self, word: &Word, escape: Escape) -> Result<Vec<String>, ExpandError> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        Ok(Expander::new(escape).expand(&word.text, &lookup)?.words)
    }

    /// Replaces the variables in the body of a heredoc.
    pub fn expand_heredoc(&self, body: &str) -> Result<String, ExpandError> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        Ok(Expander::heredoc(body, &lookup)?.text)
    }
}

/// The arguments that every build has without being told, as the reference lists them.
pub fn platform_arguments(build: &Platform, target: &Platform, target_stage: &str) -> Variables {
    let mut variables = Variables::default();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let variant = platform.variant.as_deref().unwrap_or("");
        for (name, value) in [
            ("PLATFORM", platform.to_string().as_str()),
            ("OS", platform.os.as_str()),
            ("OSVERSION", platform.os_version.as_deref().unwrap_or("")),
            ("ARCH", platform.architecture.as_str()),
            ("VARIANT", variant),
        ] {
            variables.set(&format!("{prefix}{name}"), value);
        }
    }
    variables.set("TARGETSTAGE", if target_stage.is_empty() { "default" } else { target_stage });
    variables
}

/// The arguments that reach every step without an `ARG`, and that no key and no history sees.
const PROXY_ARGUMENTS: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// The proxy variables among the build arguments, each in upper and lower case, as programs read either.
pub fn proxy_variables(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for name in PROXY_ARGUMENTS {
        let lower = name.to_lowercase();
        let value = build_args.get(*name).or_else(|| build_args.get(&lower));
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            variables.push(((*name).to_owned(), value.clone()));
            variables.push((lower, value.clone()));
        }
    }
    variables
}

/// Says whether a build argument is used without an `ARG` that declares it.
pub fn is_predefined(name: &str) -> bool {
    PROXY_ARGUMENTS.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
        || name == "SOURCE_DATE_EPOCH"
        || name.starts_with("BUILDKIT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_arg_and_env_wins() {
        let mut variables = Variables::default();
        variables.set("A", "1");
        variables.set("B", "2");
        variables.set("A", "3");
        assert_eq!(variables.iter().collect::<Vec<_>>(), [("A", "3"), ("B", "2")]);
        variables.set_all(&["B=x=y".to_owned(), "C".to_owned()]);
        assert_eq!(
            variables.expand_text("$A-${B}-${C:-none}", Escape::Backslash),
            Ok("3-x=y-none".to_owned())
        );
    }

    #[test]
    fn proxies_come_in_both_cases() {
        let arguments =
            BTreeMap::from([("http_proxy".to_owned(), "p".to_owned()), ("X".to_owned(), "y".to_owned())]);
        let expected = [("HTTP_PROXY", "p"), ("http_proxy", "p")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(proxy_variables(&arguments), expected);
    }
}
