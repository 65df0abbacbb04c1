//! What the codes of errors and warnings mean, for `cooper explain`.

use crate::diagnostic::Code;
use crate::lint::Rule;

/// A code, its title, and what there is to know about it.
type Text = (Code, &'static str, &'static str);

impl Code {
    /// All codes, errors first.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ERRORS.iter().copied().chain(Rule::ALL.iter().copied().map(Self::Lint))
    }

    /// A line about the code.
    pub fn title(self) -> &'static str {
        self.text().map_or("", |(_, title, _)| title)
    }

    /// Why it is reported, and what to do.
    pub fn explanation(self) -> &'static str {
        self.text().map_or("", |(_, _, explanation)| explanation)
    }

    fn text(self) -> Option<&'static Text> {
        TEXTS.iter().find(|(code, _, _)| *code == self)
    }
}

const TEXTS: &[Text] = &[
    (
        Code::UnknownInstruction,
        "the word at the start of a line is no instruction",
        "Every line begins with an instruction, as FROM or RUN. A line that is meant to go on with the one before needs\n\
         a `\\` at the end of that one; a word that is meant for the shell belongs behind RUN.",
    ),
    (
        Code::UnknownFlag,
        "the instruction has no such flag",
        "Flags stand between the instruction and its arguments and begin with `--`. Each instruction knows its own;\n\
         an unknown one is an error, because leaving it out would build something else than was asked for.",
    ),
    (
        Code::DuplicateFlag,
        "a flag stands twice",
        "Only `--mount`, `--device` and `--exclude` may be repeated.",
    ),
    (Code::MissingFlagValue, "a flag has no value", "Write `--flag=value`, without blanks around the `=`."),
    (
        Code::InvalidValue,
        "a value is not one of the allowed ones",
        "The message says which values there are.",
    ),
    (
        Code::UnknownMountType,
        "`RUN --mount` has no such type",
        "The types are bind, cache, tmpfs, secret and ssh.",
    ),
    (
        Code::UnknownMountOption,
        "the mount has no such option",
        "Which options there are depends on the type: `sharing` belongs to caches, `size` to tmpfs, `env` to secrets.",
    ),
    (
        Code::InvalidMount,
        "the options of a mount do not go together",
        "A mount needs a target (a secret may have `env` instead), and what its type asks for.",
    ),
    (Code::MissingArgument, "the instruction needs more arguments", "The message says what is missing."),
    (Code::ExtraArgument, "the instruction takes fewer arguments", "The message says how many there may be."),
    (
        Code::InvalidSyntax,
        "the arguments cannot be read",
        "Often a quote is not closed, a JSON array holds something else than strings in double quotes, or `NAME=VALUE`\n\
         lacks its `=`.",
    ),
    (
        Code::MissingFrom,
        "an instruction stands before the first FROM",
        "Only ARG may: everything else needs an image to work on.",
    ),
    (Code::EmptyFile, "there is nothing to build", "A Dockerfile needs at least one FROM."),
    (
        Code::UnterminatedHeredoc,
        "a heredoc has no end",
        "The text of `<<NAME` ends with a line that holds NAME and nothing else; with `<<-` it may be indented by tabs.",
    ),
    (
        Code::MisplacedHeredoc,
        "a heredoc stands where none can be",
        "RUN takes heredocs, and COPY and ADD take them as sources; a destination cannot be one.",
    ),
    (
        Code::UnsupportedSyntax,
        "`# syntax=` names another language",
        "The images docker/dockerfile and docker/dockerfile-upstream mean the language that is built in. Other frontends\n\
         are programs that would have to run.",
    ),
    (
        Code::InvalidDirective,
        "a parser directive is wrong or stands twice",
        "`# escape=`, `# syntax=` and `# check=` stand at the top, before every comment and empty line, once each.",
    ),
    (
        Code::InvalidStageName,
        "a stage name has forbidden characters",
        "A name begins with a letter and holds letters, digits, `-`, `_` and `.`.",
    ),
    (
        Code::CircularStage,
        "a stage needs itself",
        "Directly or by way of others: FROM and `--from` make a circle, so there is nothing to begin with.",
    ),
    (
        Code::UnknownStage,
        "there is no stage with this number",
        "Stages are counted from 0, in the order of their FROM.",
    ),
    (
        Code::InvalidTrigger,
        "the instruction cannot follow ONBUILD",
        "ONBUILD, FROM and MAINTAINER cannot be executed in the build of another image.",
    ),
    (
        Code::VariableNotSupported,
        "variables are not replaced here",
        "`--from` has to be known before any ARG is. Give the image a name, `FROM $IMAGE AS name`, and use the name.",
    ),
    (
        Code::Expansion,
        "a word with variables cannot be read",
        "`${name}` needs its brace, and `${name:?text}` ends the build when the variable is not set.",
    ),
    (
        Code::InvalidEncoding,
        "the file is not UTF-8",
        "Save it as UTF-8; a byte order mark at the start is fine.",
    ),
    (
        Code::LimitExceeded,
        "the file is over one of the limits",
        "Size, stages and flags of a Dockerfile are bounded, so that no file can use up the machine.",
    ),
    (
        Code::Lint(Rule::StageNameCasing),
        "stage names should be in lower case",
        "Names are compared without regard to case; one spelling is easier to find.",
    ),
    (
        Code::Lint(Rule::FromAsCasing),
        "FROM and AS should be in the same case",
        "Write `FROM image AS name` or `from image as name`.",
    ),
    (
        Code::Lint(Rule::NoEmptyContinuation),
        "an empty line follows a `\\`",
        "The empty line is skipped and the command goes on after it, which is rarely meant.",
    ),
    (
        Code::Lint(Rule::ConsistentInstructionCasing),
        "instructions should be all in upper or all in lower case",
        "Both work; one of them throughout is easier to read.",
    ),
    (
        Code::Lint(Rule::DuplicateStageName),
        "two stages have one name",
        "The later one hides the earlier one for everything that comes after it.",
    ),
    (
        Code::Lint(Rule::ReservedStageName),
        "`scratch` and `context` are reserved",
        "A stage of this name cannot be told from the empty image or the build context.",
    ),
    (
        Code::Lint(Rule::JSONArgsRecommended),
        "CMD and ENTRYPOINT should be JSON arrays",
        "In shell form a shell is process 1 and keeps SIGTERM from the program. Write `CMD [\"program\", \"argument\"]`,\n\
         or name a shell with SHELL when one is meant.",
    ),
    (
        Code::Lint(Rule::MaintainerDeprecated),
        "MAINTAINER is deprecated",
        "Write `LABEL org.opencontainers.image.authors=…`.",
    ),
    (
        Code::Lint(Rule::UndefinedArgInFrom),
        "FROM uses a variable that no ARG declares",
        "Only an ARG before the first FROM is seen there, and the platform's own (TARGETPLATFORM and so on).",
    ),
    (
        Code::Lint(Rule::WorkdirRelativePath),
        "a relative WORKDIR without a base",
        "It is taken relative to the base image's directory, which may change with the image.",
    ),
    (
        Code::Lint(Rule::UndefinedVar),
        "a variable is used that nothing sets",
        "It is replaced by nothing. Declare it with ARG or ENV before its use, or write `${NAME:-default}`. The rule is\n\
         silent where the base image's environment is not known.",
    ),
    (
        Code::Lint(Rule::MultipleInstructionsDisallowed),
        "only the last of several counts",
        "A stage has one CMD, one ENTRYPOINT and one HEALTHCHECK; earlier ones do nothing.",
    ),
    (
        Code::Lint(Rule::LegacyKeyValueFormat),
        "`NAME VALUE` instead of `NAME=VALUE`",
        "The old form takes the whole rest of the line as the value and sets one name only.",
    ),
    (
        Code::Lint(Rule::InvalidBaseImagePlatform),
        "the base image is for another platform",
        "Its programs cannot run on the platform that is built.",
    ),
    (
        Code::Lint(Rule::RedundantTargetPlatform),
        "`--platform=$TARGETPLATFORM` is the default",
        "FROM takes the target's platform without being told.",
    ),
    (
        Code::Lint(Rule::SecretsUsedInArgOrEnv),
        "a name looks like a secret",
        "ARG and ENV are kept in the image's history and config for everybody to see. Use `RUN --mount=type=secret`.",
    ),
    (
        Code::Lint(Rule::InvalidDefaultArgInFrom),
        "without arguments the base image has no valid name",
        "Give the ARG a default, so that the file can be built by itself.",
    ),
    (
        Code::Lint(Rule::FromPlatformFlagConstDisallowed),
        "FROM has a constant platform",
        "The stage then ignores what is built for. Use `$BUILDPLATFORM` or `$TARGETPLATFORM`, or name the stage after\n\
         its platform.",
    ),
    (
        Code::Lint(Rule::CopyIgnoredFile),
        "the ignore file leaves out what is copied",
        "`.dockerignore` keeps the file from the build, so the COPY cannot find it.",
    ),
    (
        Code::Lint(Rule::InvalidDefinitionDescription),
        "a comment before ARG or FROM describes something else",
        "`# name text` right before the instruction describes it; `--call=outline` shows it. An empty line in between\n\
         makes it a plain comment. Only with `# check=experimental=InvalidDefinitionDescription`.",
    ),
    (
        Code::Lint(Rule::ExposeProtoCasing),
        "the protocol of EXPOSE should be in lower case",
        "Write `EXPOSE 80/tcp`.",
    ),
    (
        Code::Lint(Rule::ExposeInvalidFormat),
        "EXPOSE takes no address and no host port",
        "Which host port leads to a container's is said when it is started.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_once() {
        for code in Code::all() {
            assert_eq!(TEXTS.iter().filter(|(other, _, _)| *other == code).count(), 1, "{code:?}");
            assert!(!code.title().is_empty() && !code.explanation().is_empty(), "{code:?}");
        }
        assert_eq!(TEXTS.len(), Code::all().count());
    }
}
