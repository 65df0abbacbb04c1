//! What a case may need of the machine, and whether it is there.
//!
//! Answers are computed once per process. A need knows the sentence that tells the reader how to meet it; the README
//! names the same packages.

use std::fmt;
use std::sync::OnceLock;

use crate::process;

/// Something of the machine without which a case cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The effective user is root: for the pod, for comparisons of owners and device nodes.
    Root,
    /// The pod can be made: root with the power to mount, which a container may lack.
    Pod,
    /// A program on `PATH`, of a Debian package.
    Program {
        /// The program's name.
        name: &'static str,
        /// The package that brings it.
        package: &'static str,
    },
    /// A file of a Debian package.
    File {
        /// The file's path.
        path: &'static str,
        /// The package that brings it.
        package: &'static str,
    },
    /// Debian base images: mmdebstrap and a Debian mirror (or bases made before).
    Debian,
    /// The built binary under test.
    Cooper,
}

impl Need {
    /// The C compiler with static libraries.
    pub const GCC: Self = Self::Program { name: "gcc", package: "gcc" };
    /// The musl compiler.
    pub const MUSL: Self = Self::Program { name: "musl-gcc", package: "musl-tools" };
    /// A statically linked busybox, from which the small base is made.
    pub const BUSYBOX: Self = Self::File { path: "/bin/busybox", package: "busybox-static" };
    /// Copies images between registries and layouts.
    pub const SKOPEO: Self = Self::Program { name: "skopeo", package: "skopeo" };
    /// Unpacks and checks OCI images.
    pub const UMOCI: Self = Self::Program { name: "umoci", package: "umoci" };
    /// Starts containers.
    pub const RUNC: Self = Self::Program { name: "runc", package: "runc" };
    /// The distribution registry.
    pub const REGISTRY: Self = Self::Program { name: "docker-registry", package: "docker-registry" };

    /// Makes certificates and signs the tokens of a small token service.
    pub const OPENSSL: Self = Self::Program { name: "openssl", package: "openssl" };

    /// Why it is not met, or `None` if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!is_root()).then(|| "needs root".to_owned()),
            Self::Pod => pod_missing().clone(),
            Self::Program { name, package } => {
                process::find(name).is_none().then(|| format!("needs `{name}` (Debian package {package})"))
            }
            Self::File { path, package } => (!std::path::Path::new(path).exists())
                .then(|| format!("needs {path} (Debian package {package})")),
            Self::Debian => crate::bases::debian_missing(),
            Self::Cooper => crate::cooper::missing(),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { name, .. } => f.write_str(name),
            Self::File { path, .. } => f.write_str(path),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Whether we run as root.
pub fn is_root() -> bool {
    // `id` rather than libc: this module has no reason for unsafe code.
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| process::run(&mut process::command("id", ["-u"])).is_ok_and(|out| out.text() == "0"))
}

/// Whether we run in CI, where nothing may be skipped.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Whether the sets are asked for that take many minutes: `tests/run --full` by hand, and never by CI itself.
pub fn is_long() -> bool {
    std::env::var("COOPER_TESTS_FULL").is_ok_and(|value| value == "1")
}

/// Whether the slow cases are asked for.
pub fn is_full() -> bool {
    is_ci() || std::env::var("COOPER_TESTS_FULL").is_ok_and(|value| value == "1")
}

fn pod_missing() -> &'static Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(|| {
        if !is_root() {
            return Some("the pod needs root".to_owned());
        }
        match crate::pod::Pod::new().and_then(|pod| pod.run(["true"])) {
            Ok(out) if out.code == 0 => None,
            Ok(out) => Some(format!("the pod cannot be made here: {}", out.errors().trim())),
            Err(error) => Some(format!("the pod cannot be made here: {error:#}")),
        }
    })
}
