//! The corpus in `tests/data/dockerfile`: a folder for each case with `Dockerfile` and `expected.txt`, which holds what
//! the parser made of it and every diagnostic as it is shown.
//!
//! Set `COOPER_BLESS=1` to write the expected files anew, and look at the difference before it is committed.
#![allow(clippy::disallowed_methods, reason = "a test harness reads its data and one variable")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::path::Path;

use cooper_dockerfile::{
    CommandLine, CopySource, Dockerfile, Healthcheck, Heredoc, Instruction, InstructionKind, KeyValue,
    MountFlag, Span, Style, Word, parse,
};

#[test]
fn every_case_gives_what_is_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/dockerfile");
    let bless = std::env::var_os("COOPER_BLESS").is_some();
    let mut cases: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let dockerfile = parse(&std::fs::read(case.join("Dockerfile")).unwrap());
        let actual = dump(&dockerfile);
        let expected_file = case.join("expected.txt");
        if bless {
            std::fs::write(&expected_file, &actual).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_file).unwrap_or_default();
        if actual != expected {
            wrong.push(format!("{name}: expected\n{expected}\nbut got\n{actual}"));
        }
        if name.starts_with("error-") != dockerfile.has_errors() {
            wrong.push(format!("{name}: a case has an error if and only if its name begins with `error-`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn dump(file: &Dockerfile) -> String {
    let mut out = String::new();
    let directives = &file.directives;
    writeln!(out, "escape {:?}", directives.escape.char()).unwrap();
    if let Some(syntax) = &directives.syntax {
        writeln!(out, "syntax {}", word(file, syntax)).unwrap();
    }
    if directives.check != cooper_dockerfile::Check::default() {
        writeln!(out, "{:?}", directives.check).unwrap();
    }
    for instruction in &file.global_args {
        writeln!(out, "{}", instruction_line(file, instruction)).unwrap();
    }
    for (index, stage) in file.stages.iter().enumerate() {
        let from = &stage.from;
        write!(out, "stage {index} {} FROM {}", place(file, stage.span), word(file, &from.image)).unwrap();
        option(file, &mut out, "platform", from.platform.as_ref());
        option(file, &mut out, "as", from.alias.as_ref());
        out.push('\n');
        for instruction in &stage.instructions {
            writeln!(out, "  {}", instruction_line(file, instruction)).unwrap();
        }
    }
    for diagnostic in &file.diagnostics {
        let shown = diagnostic.render(&file.text, "Dockerfile", Style::Plain);
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        write!(out, "\n{}\n", lines.join("\n")).unwrap();
    }
    out
}

fn place(file: &Dockerfile, span: Span) -> String {
    let (line, column) = file.line_column(span.start);
    let (end_line, end_column) = file.line_column(span.end);
    if line == end_line {
        format!("{line}:{column}-{end_column}")
    } else {
        format!("{line}:{column}-{end_line}:{end_column}")
    }
}

fn word(file: &Dockerfile, word: &Word) -> String {
    format!("{:?}@{}", word.text, place(file, word.span))
}

fn words(file: &Dockerfile, list: &[Word]) -> String {
    let list: Vec<String> = list.iter().map(|item| word(file, item)).collect();
    format!("[{}]", list.join(", "))
}

fn option(file: &Dockerfile, out: &mut String, name: &str, value: Option<&Word>) {
    if let Some(value) = value {
        write!(out, " {name}={}", word(file, value)).unwrap();
    }
}

fn command_line(file: &Dockerfile, command: &CommandLine) -> String {
    match command {
        CommandLine::Shell(line) => format!("shell {}", word(file, line)),
        CommandLine::Exec(arguments) => format!("exec {}", words(file, arguments)),
    }
}

fn heredoc(file: &Dockerfile, heredoc: &Heredoc) -> String {
    let Heredoc { name, content, expand, strip_tabs, file_descriptor, span } = heredoc;
    let place = place(file, *span);
    format!(
        "heredoc({name} {content:?}@{place} expand={expand} strip_tabs={strip_tabs} fd={file_descriptor})"
    )
}

fn mount(file: &Dockerfile, mount: &MountFlag) -> String {
    let options: Vec<String> = mount
        .options
        .iter()
        .map(|option| match &option.value {
            Some(value) => format!("{}={}", option.key.text, word(file, value)),
            None => option.key.text.clone(),
        })
        .collect();
    let resolved = mount.resolve(&mut |word| Ok(word.text.clone())).map_err(|error| error.message);
    format!("mount({} -> {resolved:?})", options.join(", "))
}

fn sources(file: &Dockerfile, out: &mut String, sources: &[CopySource], destination: &Word) {
    for source in sources {
        match source {
            CopySource::Path(path) => write!(out, " {}", word(file, path)).unwrap(),
            CopySource::Heredoc(document) => write!(out, " {}", heredoc(file, document)).unwrap(),
        }
    }
    write!(out, " to {}", word(file, destination)).unwrap();
}

fn pairs(file: &Dockerfile, list: &[KeyValue]) -> String {
    let list: Vec<String> = list
        .iter()
        .map(|pair| {
            let sign = if pair.legacy { " " } else { "=" };
            format!("{}{sign}{}", word(file, &pair.key), word(file, &pair.value))
        })
        .collect();
    list.join(", ")
}

fn instruction_line(file: &Dockerfile, instruction: &Instruction) -> String {
    let mut out = format!("{} {} ", instruction.name(), place(file, instruction.span));
    match &instruction.kind {
        InstructionKind::Run(run) => {
            out.push_str(&command_line(file, &run.command));
            for document in &run.heredocs {
                write!(out, " {}", heredoc(file, document)).unwrap();
            }
            for flag in &run.mounts {
                write!(out, " {}", mount(file, flag)).unwrap();
            }
            write!(out, " network={:?} security={:?}", run.network, run.security).unwrap();
            write!(out, " devices={}", words(file, &run.devices)).unwrap();
            if !run.heredocs.is_empty() {
                write!(out, " runs {:?}", run.to_command()).unwrap();
            }
        }
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => {
            out.push_str(&command_line(file, command));
        }
        InstructionKind::Env(list) | InstructionKind::Label(list) => out.push_str(&pairs(file, list)),
        InstructionKind::Arg(list) => {
            for declaration in list {
                out.push_str(&word(file, &declaration.name));
                option(file, &mut out, "default", declaration.default.as_ref());
                out.push(' ');
            }
        }
        InstructionKind::Copy(copy) => {
            sources(file, &mut out, &copy.sources, &copy.destination);
            option(file, &mut out, "from", copy.from.as_ref());
            option(file, &mut out, "chown", copy.chown.as_ref());
            option(file, &mut out, "chmod", copy.chmod.as_ref());
            write!(out, " link={} parents={}", copy.link, copy.parents).unwrap();
            write!(out, " excludes={}", words(file, &copy.excludes)).unwrap();
        }
        InstructionKind::Add(add) => {
            sources(file, &mut out, &add.sources, &add.destination);
            option(file, &mut out, "chown", add.chown.as_ref());
            option(file, &mut out, "chmod", add.chmod.as_ref());
            option(file, &mut out, "checksum", add.checksum.as_ref());
            write!(out, " link={} keep_git_dir={:?}", add.link, add.keep_git_dir).unwrap();
            write!(out, " unpack={:?} excludes={}", add.unpack, words(file, &add.excludes)).unwrap();
        }
        InstructionKind::Expose(list) | InstructionKind::Shell(list) | InstructionKind::Volume(list) => {
            out.push_str(&words(file, list));
        }
        InstructionKind::Healthcheck(Healthcheck::None) => out.push_str("none"),
        InstructionKind::Healthcheck(Healthcheck::Check {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        }) => {
            out.push_str(&command_line(file, command));
            write!(out, " interval={interval:?} timeout={timeout:?} start_period={start_period:?}").unwrap();
            write!(out, " start_interval={start_interval:?} retries={retries:?}").unwrap();
        }
        InstructionKind::Maintainer(argument)
        | InstructionKind::Stopsignal(argument)
        | InstructionKind::User(argument)
        | InstructionKind::Workdir(argument) => out.push_str(&word(file, argument)),
        InstructionKind::Onbuild(onbuild) => {
            write!(out, "{:?} ", onbuild.expression).unwrap();
            out.push_str(&instruction_line(file, &onbuild.trigger));
        }
    }
    out
}
