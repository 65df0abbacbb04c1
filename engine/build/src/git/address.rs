//! How a git repository is named: `URL[#REFERENCE[:DIRECTORY]]`, `URL?ref=…&subdir=…`, `git@HOST:PATH`.
//!
//! The rules are BuildKit's (documentation of Docker, "Git repositories" and "URL queries"): a web address is a
//! repository when its path ends in `.git`; what stands after `#` and in the query says which commit and which directory.

use std::fmt;

use crate::remote::shown;

/// A repository, and what of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitAddress {
    /// Where the repository is, without query and fragment; may hold a user and a password.
    pub remote: String,
    /// Branch, tag, full reference or commit; the default branch without it.
    pub reference: Option<String>,
    /// Directory in it; empty is the top.
    pub directory: String,
    /// What the id of the commit begins with.
    pub checksum: Option<String>,
    /// Whether `.git` is wanted, where the address says so.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are wanted; they are where nothing is said.
    pub submodules: bool,
}

/// Schemes of repositories; those of the web only with `.git` at the end of the path.
const SCHEMES: &[&str] = &["git://", "ssh://"];
const WEB: &[&str] = &["http://", "https://"];

/// Whether a text names a repository rather than a path or a file of the web.
pub fn is_repository(text: &str) -> bool {
    let starts = |schemes: &[&str]| {
        schemes
            .iter()
            .any(|scheme| text.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme)))
    };
    if starts(WEB) {
        return text.split(['#', '?']).next().unwrap_or(text).ends_with(".git");
    }
    starts(SCHEMES) || is_short_ssh(text)
}

/// Whether a context's text is the short form of a repository on GitHub, which an `ADD` does not know.
pub fn is_short_context(text: &str) -> bool {
    text.starts_with("github.com/")
}

/// `USER@HOST:PATH`, as scp writes it.
fn is_short_ssh(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    text.split_once('@').is_some_and(|(user, rest)| {
        is_word(user) && rest.split_once(':').is_some_and(|(host, path)| is_word(host) && !path.is_empty())
    })
}

impl GitAddress {
    /// Reads an address.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let remote = if is_short_context(rest) { format!("https://{rest}") } else { rest.to_owned() };
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut address = Self {
            remote,
            reference: (!reference.is_empty()).then(|| decoded(reference)),
            directory: decoded(directory),
            checksum: None,
            keep_git_dir: None,
            submodules: true,
        };
        address.read_query(query)?;
        if let Some(checksum) = &address.checksum {
            address.reference.get_or_insert_with(|| checksum.clone());
        }
        address.directory =
            String::from_utf8_lossy(&cooper_vfs::path::clean(address.directory.as_bytes())).into();
        match &address.reference {
            Some(reference) if !is_reference(reference) => Err(format!("`{reference}` is no reference")),
            _ => Ok(address),
        }
    }

    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let (mut tag, mut branch) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            let flag = |value: &str| match value {
                "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(format!("`{key}={value}` is neither true nor false")),
            };
            match key {
                "keep-git-dir" => self.keep_git_dir = Some(flag(&value)?),
                "submodules" => self.submodules = flag(&value)?,
                _ if value.is_empty() => return Err(format!("`{key}` has no value")),
                "ref" => set(&mut self.reference, value, "two references")?,
                "tag" => set(&mut tag, full("refs/tags/", &value), "two tags")?,
                "branch" => set(&mut branch, full("refs/heads/", &value), "two branches")?,
                "checksum" | "commit" => set(&mut self.checksum, value, "two commits")?,
                "subdir" if self.directory.is_empty() || self.directory == value => self.directory = value,
                "subdir" => return Err(format!("two directories: `{}` and `{value}`", self.directory)),
                _ => {
                    return Err(format!(
                        "`{key}` is not one of ref, branch, tag, commit, checksum, subdir, keep-git-dir, submodules"
                    ));
                }
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("a branch and a tag".to_owned());
        }
        match tag.or(branch) {
            Some(reference) => set(&mut self.reference, reference, "two references"),
            None => Ok(()),
        }
    }

    /// Host and port, to whom a secret may be shown.
    pub fn host(&self) -> &str {
        let rest = self.remote.split_once("://").map_or(self.remote.as_str(), |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or(rest);
        authority.rsplit('@').next().unwrap_or(authority)
    }

    /// The remote without its user and password.
    pub fn public_remote(&self) -> String {
        shown(&self.remote)
    }

    /// Whether the repository is asked for by SSH.
    pub fn is_ssh(&self) -> bool {
        self.remote.starts_with("ssh://") || is_short_ssh(&self.remote)
    }
}

impl fmt::Display for GitAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.public_remote())?;
        match (&self.reference, self.directory.as_str()) {
            (None, "") => Ok(()),
            (reference, "") => write!(formatter, "#{}", reference.as_deref().unwrap_or_default()),
            (reference, directory) => {
                write!(formatter, "#{}:{directory}", reference.as_deref().unwrap_or_default())
            }
        }
    }
}

fn set(slot: &mut Option<String>, value: String, conflict: &str) -> Result<(), String> {
    match slot {
        Some(known) if *known != value => Err(format!("{conflict}: `{known}` and `{value}`")),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn full(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

fn decoded(text: &str) -> String {
    crate::remote::percent_decoded(text)
}

/// What may stand in a request for a reference: no blank, no control character, nothing that looks like an option.
fn is_reference(text: &str) -> bool {
    !text.starts_with('-') && !text.is_empty() && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Whether a text is the whole id of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_files() {
        let check = |text: &str, expected: bool| assert_eq!(is_repository(text), expected, "{text}");
        check("https://h/x.git", true);
        check("HTTPS://h/x.git#main:sub", true);
        check("https://h/x.git?subdir=a", true);
        check("https://h/x?a=.git", false);
        check("https://h/x", false);
        check("git://h/x", true);
        check("ssh://git@h/x", true);
        check("git@h:x.git", true);
        check("user.name@h.example:x", true);
        check("a.txt", false);
        check("a@b", false);
        check("./git@h:x", false);
        check("github.com/a/b", false);
    }

    #[test]
    fn addresses_are_read_or_refused() {
        let read = |text: &str| GitAddress::parse(text);
        let shown = |text: &str| read(text).map(|address| address.to_string());
        assert_eq!(shown("https://u:p@h/x.git").as_deref(), Ok("https://h/x.git"));
        assert_eq!(shown("https://h/x.git#main:a/../b/").as_deref(), Ok("https://h/x.git#main:b"));
        assert_eq!(shown("https://h/x.git#:a").as_deref(), Ok("https://h/x.git#:a"));
        assert_eq!(
            shown("https://h/x.git?branch=b&subdir=c").as_deref(),
            Ok("https://h/x.git#refs/heads/b:c")
        );
        assert_eq!(shown("https://h/x.git?tag=v1").as_deref(), Ok("https://h/x.git#refs/tags/v1"));
        assert_eq!(shown("https://h/x.git?commit=abc").as_deref(), Ok("https://h/x.git#abc"));
        assert_eq!(shown("github.com/a/b#c").as_deref(), Ok("https://github.com/a/b#c"));
        let address = read("https://h:8/x.git?keep-git-dir&submodules=0").expect("an address");
        assert_eq!((address.keep_git_dir, address.submodules, address.host()), (Some(true), false, "h:8"));
        for (text, part) in [
            ("https://h/x.git?ref=a#b", "two references"),
            ("https://h/x.git?subdir=a#b:c", "two directories"),
            ("https://h/x.git?tag=a&branch=b", "a branch and a tag"),
            ("https://h/x.git?depth=1", "`depth` is not one of"),
            ("https://h/x.git?ref=", "`ref` has no value"),
            ("https://h/x.git?submodules=maybe", "neither true nor false"),
            ("https://h/x.git#--upload-pack=x", "is no reference"),
        ] {
            let refused = read(text).expect_err(text);
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }

    #[test]
    fn commits_are_whole_ids() {
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567"));
        assert!(!is_commit("0123456") && !is_commit("0123456789ABCDEF0123456789abcdef01234567"));
    }
}
