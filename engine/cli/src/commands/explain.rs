//! `cooper explain` and `cooper explain-miss`.

use std::process::ExitCode;

use cooper_dockerfile::Code;

use crate::arguments::{ExplainArguments, ExplainMissArguments};
use crate::commands::values::table;
use crate::environment::open_store;
use crate::failure::Failure;

/// Says which steps the last build executed, and which of their inputs differs.
pub(crate) fn explain_miss(arguments: &ExplainMissArguments) -> Result<ExitCode, Failure> {
    let store = open_store(&arguments.store)?;
    let misses = cooper_build::miss::last(&store)?
        .ok_or_else(|| Failure::usage("there was no build on this store yet"))?;
    if misses.is_empty() {
        crate::say("every step of the last build was in the cache");
    }
    for miss in misses {
        crate::say(&format!("{}\n    {}", harmless(&miss.step), harmless(&miss.reason)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Names of files are anything.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Says what a code means, or lists all of them.
pub(crate) fn explain(arguments: &ExplainArguments) -> Result<ExitCode, Failure> {
    let Some(wanted) = &arguments.code else {
        let rows: Vec<[String; 2]> =
            Code::all().map(|code| [code.as_str().to_owned(), code.title().to_owned()]).collect();
        crate::say(&table(&rows));
        return Ok(ExitCode::SUCCESS);
    };
    let found = Code::all().find(|code| code.as_str().eq_ignore_ascii_case(wanted));
    let code = found
        .ok_or_else(|| Failure::usage(format!("there is no code `{wanted}`: `cooper explain` lists them")))?;
    crate::say(&format!("{}: {}\n\n{}", code.as_str(), code.title(), code.explanation()));
    Ok(ExitCode::SUCCESS)
}
