//! Image configs: how a container of an image starts, and how the image came to be.
//!
//! The document of OCI image spec 1.1, config.md, with the keys that only Docker writes (`Healthcheck`, `Shell`,
//! `OnBuild`, `ArgsEscaped`). Every other key is kept, so that a config can be changed without losing what we do
//! not know. Go writes `null` for empty lists and maps; those read as empty.
//!
//! What must hold: the same config gives the same bytes, and the config of an image that we did not make is kept
//! and passed on as the bytes it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{CONFIG_BYTES, IMAGE_LAYERS, to_json};
use crate::platform::Platform;

/// Bound on the history of one image.
pub const HISTORY_ENTRIES: usize = 16 * 1024;

/// An image config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The CPU, in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system, in Go's words.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// How a container starts.
    #[serde(default, deserialize_with = "nullable")]
    pub config: RuntimeConfig,
    /// The layers' contents.
    pub rootfs: RootFilesystem,
    /// One entry per instruction, the oldest first.
    #[serde(default, deserialize_with = "nullable")]
    pub history: Vec<History>,
    /// Keys that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// How a container of the image starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// User and perhaps group, by name or number.
    #[serde(
        rename = "User",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports, as `80/tcp`.
    #[serde(
        rename = "ExposedPorts",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// The environment, as `NAME=value`, in the order of the instructions.
    #[serde(rename = "Env", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The command that takes [`RuntimeConfig::cmd`] as its arguments.
    #[serde(rename = "Entrypoint", default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command, or the arguments of the entry point.
    #[serde(rename = "Cmd", default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How to ask whether a container is well. Docker only.
    #[serde(rename = "Healthcheck", default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Windows: the command is already escaped. Docker only.
    #[serde(rename = "ArgsEscaped", default, skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    /// Directories whose contents outlive a container.
    #[serde(
        rename = "Volumes",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// Where the command starts.
    #[serde(
        rename = "WorkingDir",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_directory: String,
    /// Instructions for the build that starts from this image. Docker only.
    #[serde(
        rename = "OnBuild",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub on_build: Vec<String>,
    /// Labels.
    #[serde(
        rename = "Labels",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks a container to end.
    #[serde(rename = "StopSignal", default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The shell of the shell form of instructions. Docker only.
    #[serde(rename = "Shell", default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Keys that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The empty JSON object that sets of names are written with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// How to ask whether a container is well.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(rename = "Test", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between two checks, in nanoseconds.
    #[serde(rename = "Interval", default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<i64>,
    /// Time that a check may take, in nanoseconds.
    #[serde(rename = "Timeout", default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Time in which failures do not count, in nanoseconds.
    #[serde(rename = "StartPeriod", default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<i64>,
    /// Time between two checks in that period, in nanoseconds.
    #[serde(rename = "StartInterval", default, skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<i64>,
    /// Failures in a row that make a container unhealthy.
    #[serde(rename = "Retries", default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<i64>,
    /// Keys that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The layers' contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFilesystem {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digest of each layer's tar, not compressed, the lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

/// What one instruction did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A remark; BuildKit's is `buildkit.dockerfile.v0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the instruction made no layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_layer: Option<bool>,
    /// Keys that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl ImageConfig {
    /// The config of an image without layers.
    pub fn new(platform: &Platform) -> Self {
        Self {
            created: None,
            author: None,
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            config: RuntimeConfig::default(),
            rootfs: RootFilesystem { kind: "layers".to_owned(), diff_ids: Vec::new() },
            history: Vec::new(),
            other: BTreeMap::new(),
        }
    }

    /// Parses a config.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] when the bytes or a list in them are too long, [`Error::Document`] when it is not a config.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let limit = |what: &str, name, limit| Err(Error::Limit { what: what.to_owned(), name, limit });
        if bytes.len() as u64 > CONFIG_BYTES {
            return limit("image config", "CONFIG_BYTES", CONFIG_BYTES);
        }
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::document("image config", error.to_string()))?;
        if config.rootfs.kind != "layers" {
            return Err(Error::document("image config", "rootfs.type must be `layers`"));
        }
        if config.rootfs.diff_ids.len() > IMAGE_LAYERS {
            return limit("the list of diff IDs", "IMAGE_LAYERS", IMAGE_LAYERS as u64);
        }
        if config.history.len() > HISTORY_ENTRIES {
            return limit("the history", "HISTORY_ENTRIES", HISTORY_ENTRIES as u64);
        }
        Ok(config)
    }

    /// The document's bytes, the same for the same config.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }

    /// The platform that the image is for.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone().filter(|variant| !variant.is_empty()),
        }
    }
}

/// Reads `null` as the empty value.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_keys_and_unknown_keys_survive() {
        let text = concat!(
            r#"{"created":"2024-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{"Env":["A=b"],"#,
            r#""Cmd":["sh"],"Healthcheck":{"Test":["CMD","x"],"Interval":5,"Z":1},"ArgsEscaped":true,"#,
            r#""OnBuild":["RUN x"],"StopSignal":"SIGINT","Shell":["bash","-c"],"Hostname":"","Domainname":""},"#,
            r#""rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x","empty_layer":true,"q":2}],"#,
            r#""container_config":{"Cmd":null},"docker_version":"1"}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        let again: Value = serde_json::from_slice(&config.to_bytes()).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(config.config.stop_signal.as_deref(), Some("SIGINT"));
    }

    #[test]
    fn null_means_empty() {
        let text = r#"{"config":{"User":null,"Env":null,"Cmd":null,"Labels":null,"Volumes":null},"history":null,
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config, RuntimeConfig::default());
        assert!(ImageConfig::parse(br#"{"config":null,"rootfs":{"type":"layers"}}"#).is_ok());
    }

    #[test]
    fn wrong_configs_are_refused() {
        let check = |text: &str, reason: &str| {
            let error = ImageConfig::parse(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        };
        check("{}", "missing field `rootfs`");
        check(r#"{"rootfs":{"type":"tree"}}"#, "rootfs.type must be `layers`");
        check(r#"{"rootfs":{"type":"layers","diff_ids":["x"]}}"#, "invalid digest");
        check(r#"{"os":"a","os":"b","rootfs":{"type":"layers"}}"#, "duplicate field");
        check("nonsense", "expected");
    }
}
