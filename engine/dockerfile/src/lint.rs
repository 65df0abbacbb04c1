//! The lint rules of the Dockerfile reference that the text alone can decide.

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A lint rule, by the name that `# check=skip=` uses.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The rule's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

rules! {
    /// Stage names should be in lower case.
    StageNameCasing,
    /// `FROM` and `AS` should be in the same case.
    FromAsCasing,
    /// A continued line is followed by an empty one.
    NoEmptyContinuation,
    /// Instructions should be all in upper or all in lower case.
    ConsistentInstructionCasing,
    /// Two stages have one name.
    DuplicateStageName,
    /// `scratch` and `context` cannot be stage names.
    ReservedStageName,
    /// Signals do not reach a program that a shell starts.
    JSONArgsRecommended,
    /// `MAINTAINER` is deprecated.
    MaintainerDeprecated,
    /// A variable in `FROM` that no global `ARG` declares.
    UndefinedArgInFrom,
    /// A relative `WORKDIR` without a base.
    WorkdirRelativePath,
    /// A variable that nothing sets.
    UndefinedVar,
    /// Only the last `CMD`, `ENTRYPOINT` or `HEALTHCHECK` of a stage counts.
    MultipleInstructionsDisallowed,
    /// `ENV NAME VALUE` instead of `ENV NAME=VALUE`.
    LegacyKeyValueFormat,
    /// `FROM --platform=$TARGETPLATFORM` is the default.
    RedundantTargetPlatform,
    /// A name that looks like a secret.
    SecretsUsedInArgOrEnv,
    /// A base image name that is empty or broken with the default arguments.
    InvalidDefaultArgInFrom,
    /// `FROM --platform` with a constant.
    FromPlatformFlagConstDisallowed,
    /// A comment that describes no stage or argument.
    InvalidDefinitionDescription,
    /// The protocol of `EXPOSE` should be in lower case.
    ExposeProtoCasing,
    /// `EXPOSE` takes no address and no host port.
    ExposeInvalidFormat,
}

/// Adds the lint warnings.
pub(crate) fn check(_dockerfile: &mut crate::ast::Dockerfile) {}
