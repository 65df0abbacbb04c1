//! `cooper explain`

use std::process::ExitCode;

use cooper_dockerfile::Code;

use crate::arguments::ExplainArguments;
use crate::commands::values::table;
use crate::failure::Failure;

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
