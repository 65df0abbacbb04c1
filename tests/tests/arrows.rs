//! The arrows between the crates, and the licences of everything they rest on, read from `cargo metadata`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The only arrows there may be; `cli` and `tests` may use every crate. A dev-dependency is an arrow like any other.
const ARROWS: &[(&str, &[&str])] = &[
    ("dockerfile", &[]),
    ("vfs", &[]),
    ("x86", &[]),
    ("sdk", &[]),
    ("builtins", &[]),
    ("image", &["vfs"]),
    ("kernel", &["vfs", "x86"]),
    ("build", &["dockerfile", "image", "vfs"]),
    ("sandbox", &["build", "vfs", "kernel", "x86", "builtins"]),
    ("cli", &["dockerfile", "vfs", "image", "build", "x86", "kernel", "sandbox", "sdk", "builtins"]),
    ("tests", &["dockerfile", "vfs", "image", "build", "x86", "kernel", "sandbox", "sdk", "builtins", "cli"]),
];

/// Licences that may come into the binary; `deny.toml` has the same list.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

fn metadata(arguments: &[&str]) -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn short(package: &str) -> Option<&str> {
    package.strip_prefix("cooper-")
}

#[test]
fn crates_depend_only_along_the_listed_arrows() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let metadata = metadata(&["--no-deps"]);
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = short(package["name"].as_str().unwrap()).expect("every package is named cooper-…");
        let arrows = allowed.get(name).unwrap_or_else(|| panic!("`{name}` has no line in ARROWS"));
        seen.insert(name.to_owned());
        for dependency in package["dependencies"].as_array().unwrap() {
            if let Some(to) = short(dependency["name"].as_str().unwrap()) {
                assert!(arrows.contains(&to), "the arrow {name} -> {to} is not listed");
            }
        }
    }
    let listed: BTreeSet<String> = allowed.keys().map(|&name| name.to_owned()).collect();
    assert_eq!(seen, listed, "the workspace and ARROWS name different crates");
}

#[test]
fn arrows_have_no_circle() {
    // Each crate may only point at crates listed before it.
    for (at, (name, arrows)) in ARROWS.iter().enumerate() {
        let before: Vec<&str> = ARROWS[..at].iter().map(|&(name, _)| name).collect();
        assert!(arrows.iter().all(|to| before.contains(to)), "{name} points forward");
    }
}

/// One way of reading a licence expression that only has allowed licences, if there is one.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let allowed = |licence: &str| LICENCES.contains(&licence.trim().trim_matches(['(', ')']).trim());
    // `AND` binds closer than `OR`; groups in parentheses are of one kind each in practice.
    if let Some((left, right)) = expression.split_once(") AND ") {
        return is_allowed(&format!("{left})")) && is_allowed(right);
    }
    if let Some((left, right)) = expression.split_once(" AND (") {
        return is_allowed(left) && is_allowed(right);
    }
    expression.split(" OR ").any(|choice| choice.split(" AND ").all(allowed))
}

#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_the_registry() {
    let metadata = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let mut bad = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        match package["source"].as_str() {
            None => assert!(short(name).is_some(), "{name} is a path dependency from outside"),
            Some(source) => assert!(source.starts_with("registry+"), "{name} comes from {source}"),
        }
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence) {
            bad.push(format!("{name}: {licence}"));
        }
    }
    assert!(bad.is_empty(), "licences that are not allowed:\n{}", bad.join("\n"));
}

#[test]
fn licence_expressions_are_read() {
    assert!(is_allowed("MIT OR GPL-3.0") && is_allowed("MIT/Apache-2.0"));
    assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0") && is_allowed("MIT AND BSD-3-Clause"));
    assert!(
        !is_allowed("GPL-3.0") && !is_allowed("MIT AND GPL-3.0") && !is_allowed("(MIT OR ISC) AND GPL-3.0")
    );
}

#[test]
fn the_two_lists_of_licences_are_the_same() {
    let text = include_str!("../../deny.toml");
    let allow = text.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
    let listed: Vec<&str> = allow.split('"').skip(1).step_by(2).collect();
    assert_eq!(listed, LICENCES);
}
