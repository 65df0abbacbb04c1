//! Platforms: which machine an image is for, and which of an index to take.
//!
//! Follows OCI image spec 1.1, image-index.md. A variant that is left out means the architecture's usual one
//! (`arm64` is `arm64/v8`, `arm` is `arm/v7`, `amd64` is `amd64/v1`), as containerd's normalisation does, so `linux/arm64` and
//! `linux/arm64/v8` name the same image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Operating system, architecture and variant of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The CPU, in Go's words: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, in Go's words: `linux`.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system; Windows images have one.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the CPU: `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// `linux/amd64`, the platform of the hosts of this version.
    pub fn linux_amd64() -> Self {
        Self::new("linux", "amd64", None)
    }

    /// Makes a platform of its parts.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            os_version: None,
            os_features: Vec::new(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether an image for `self` is what somebody who wants `wanted` means.
    pub fn satisfies(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && self.normal_variant() == wanted.normal_variant()
    }

    fn normal_variant(&self) -> &str {
        let usual = match self.architecture.as_str() {
            "arm64" => "v8",
            "arm" => "v7",
            "amd64" => "v1",
            _ => "",
        };
        match self.variant.as_deref() {
            None | Some("") => usual,
            Some(variant) => variant,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Parses `os/architecture[/variant]`; the common other names of CPUs (`x86_64`, `aarch64`) are understood.
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(valid) {
            return Err(Error::Platform { input: text.to_owned() });
        }
        let architecture = match parts[1] {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self::new(parts[0], architecture, parts.get(2).copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_variant_means_the_usual_one() {
        let check = |have: &str, want: &str, expected: bool| {
            let (have, want): (Platform, Platform) = (have.parse().unwrap(), want.parse().unwrap());
            assert_eq!(have.satisfies(&want), expected, "{have} for {want}");
        };
        check("linux/arm64", "linux/arm64/v8", true);
        check("linux/arm64/v8", "linux/aarch64", true);
        check("linux/arm/v6", "linux/arm", false);
        check("linux/arm/v7", "linux/arm", true);
        check("linux/amd64", "linux/x86_64", true);
        check("linux/amd64/v3", "linux/amd64", false);
        check("windows/amd64", "linux/amd64", false);
        check("linux/386", "linux/386", true);
    }

    #[test]
    fn only_two_or_three_parts_parse() {
        for text in ["", "linux", "linux/", "linux/amd64/v1/x", "li nux/amd64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        assert_eq!("linux/arm/v7".parse::<Platform>().unwrap().to_string(), "linux/arm/v7");
    }
}
