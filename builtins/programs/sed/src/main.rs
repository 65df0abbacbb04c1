//! `sed`: POSIX with GNU's additions, without the commands that run a shell.

mod run;
mod script;

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_regex::Syntax;

const SED: Tool = Tool {
    name: "sed",
    usage: "[OPTION]... {SCRIPT} [FILE]...",
    options: &[
        ("n/quiet", "print only what is told to"),
        ("/silent", "as -n"),
        ("e/expression=", "add this to the script"),
        ("f/file=", "add this file to the script"),
        ("E/regexp-extended", "extended expressions"),
        ("r", "as -E"),
        ("i/in-place?", "edit files in place; with a suffix keep the old ones"),
        ("l/line-length=", "width of the command l"),
        ("s/separate", "each file has its own lines and its own last one"),
        ("u/unbuffered", "write line by line"),
        ("z/null-data", "lines end with NUL"),
        ("/follow-symlinks", "with -i: edit what a link points at"),
        ("/posix", "no effect on what is accepted here"),
        ("/sandbox", "refuse the commands r and w"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: sed,
};

/// Runs the tool.
fn main() -> std::process::ExitCode {
    toolbox_command::run(&[SED])
}

fn sed(context: &Context, parsed: Parsed) -> i32 {
    let mut parsed = parsed;
    if parsed.has("posix") {
        context.die(1, "--posix is not supported");
    }
    let mut text: Vec<u8> = Vec::new();
    let mut given = false;
    for (option, value) in &parsed.options {
        let value = value.as_deref().unwrap_or_default();
        let part = match *option {
            "expression" => value.to_vec(),
            "file" => {
                let mut part = Vec::new();
                let file = if value == b"-" {
                    Ok(toolbox_linux::file::Descriptor::keep(0))
                } else {
                    toolbox_linux::file::open_read(value)
                };
                let read = file
                    .map_err(std::io::Error::from)
                    .and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut part));
                if let Err(error) = read {
                    context.die(
                        1,
                        format!(
                            "couldn't open file {}: {}",
                            String::from_utf8_lossy(value),
                            toolbox_command::reason(&error)
                        ),
                    );
                }
                if part.ends_with(b"\n") {
                    part.pop();
                }
                part
            }
            _ => continue,
        };
        if given {
            text.push(b'\n');
        }
        text.extend(part);
        given = true;
    }
    if !given {
        if parsed.operands.is_empty() {
            context.misused("no script specified");
        }
        text = parsed.operands.remove(0);
    }
    let extended = parsed.has("regexp-extended") || parsed.has("r");
    let silent = text.starts_with(b"#n\n") || text == b"#n";
    let program =
        script::parse(&text, if extended { Syntax::Extended } else { Syntax::Basic }, parsed.has("sandbox"))
            .unwrap_or_else(|(at, message)| {
                context.die(1, format!("-e expression #1, char {at}: {message}"))
            });
    let width = parsed.text("line-length").map(|text| {
        text.parse().unwrap_or_else(|_| {
            context.die(1, format!("invalid line length: {}", quote::always(text.as_bytes())))
        })
    });
    let in_place = parsed
        .options
        .iter()
        .rev()
        .find(|(key, _)| *key == "in-place")
        .map(|(_, suffix)| suffix.clone().unwrap_or_default());
    let mut files = parsed.operands.clone();
    if files.is_empty() {
        files.push(b"-".to_vec());
    }
    let settings = run::Settings {
        quiet: silent || parsed.has("quiet") || parsed.has("silent"),
        separate: parsed.has("separate") || in_place.is_some(),
        in_place,
        unbuffered: parsed.has("unbuffered"),
        end: if parsed.has("null-data") { 0 } else { b'\n' },
        width: width.unwrap_or(70),
        follow: parsed.has("follow-symlinks"),
    };
    run::run(context, &program, settings, files)
}
