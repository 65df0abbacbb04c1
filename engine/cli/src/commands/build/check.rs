//! `--check` and `--call`: what the Dockerfile says, without building it.
//!
//! Findings are shown for people, as JSON with buildx's keys, as SARIF 2.1.0, or as a GitLab code quality report.

use std::process::ExitCode;

use cooper_build::build::Loaded;
use cooper_build::check;
use cooper_build::lower::target_index;
use cooper_build::request::BuildRequest;
use cooper_build::scope::Variables;
use cooper_dockerfile::{Diagnostic, Dockerfile, InstructionKind, Severity, Span, Stage, Word};
use cooper_image::reference::Reference;
use cooper_image::store::Store;
use serde_json::{Value, json};

use crate::commands::values::table;
use crate::failure::{Failure, style};

/// Exit code when there are findings.
const FOUND: u8 = 3;

/// What is to be done instead of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    method: Method,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Check,
    Outline,
    Targets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    Sarif,
    Gitlab,
}

const METHODS: &[(&str, Method)] =
    &[("check", Method::Check), ("outline", Method::Outline), ("targets", Method::Targets)];
const FORMATS: &[(&str, Format)] =
    &[("text", Format::Text), ("json", Format::Json), ("sarif", Format::Sarif), ("gitlab", Format::Gitlab)];

impl Call {
    /// Reads `--check[=FORMAT]` and `--call=METHOD[,format=FORMAT]`; none when a build is wanted.
    pub(super) fn parse(check: Option<&str>, call: Option<&str>) -> Result<Option<Self>, Failure> {
        let (method, format) = match (check, call) {
            (Some(_), Some(_)) => return Err(Failure::usage("--check and --call cannot both be given")),
            (None, None | Some("build")) => return Ok(None),
            (Some(format), None) => (Method::Check, format),
            (None, Some(call)) => {
                let (method, rest) = call.split_once(',').unwrap_or((call, "format=text"));
                let format = rest.strip_prefix("format=").ok_or_else(|| {
                    Failure::usage(format!("invalid --call `{call}`: expected METHOD[,format=FORMAT]"))
                })?;
                (choice("--call", method, METHODS)?, format)
            }
        };
        let format = choice("the format", format, FORMATS)?;
        if method != Method::Check && matches!(format, Format::Sarif | Format::Gitlab) {
            return Err(Failure::usage("sarif and gitlab are formats of findings: use text or json"));
        }
        Ok(Some(Self { method, format }))
    }

    /// Writes the answer to stdout.
    pub(super) fn run(
        self,
        store: &Store,
        loaded: &Loaded,
        request: &BuildRequest,
    ) -> Result<ExitCode, Failure> {
        if self.method != Method::Check && loaded.dockerfile.has_errors() {
            return Ok(findings(loaded, &loaded.dockerfile.diagnostics, Format::Text));
        }
        match self.method {
            Method::Check => {
                let at_hand = |name: &str, platform: &cooper_image::platform::Platform| {
                    let reference: Reference = name.parse().ok()?;
                    store.find(&reference, platform).ok().flatten()
                };
                Ok(findings(loaded, &check::findings(loaded, request, &at_hand), self.format))
            }
            Method::Outline => {
                let target = target_index(&loaded.dockerfile, request)?;
                outline(loaded, request, target, self.format);
                Ok(ExitCode::SUCCESS)
            }
            Method::Targets => {
                targets(loaded, self.format);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn choice<T: Copy>(what: &str, text: &str, choices: &[(&str, T)]) -> Result<T, Failure> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Failure::usage(format!("{what} `{text}` is not one of {}", names.join(", ")))
    })
}

fn findings(loaded: &Loaded, all: &[Diagnostic], format: Format) -> ExitCode {
    let file = &loaded.file;
    match format {
        Format::Text if all.is_empty() => crate::complain("the Dockerfile has no findings"),
        Format::Text => {
            let mut sorted: Vec<&Diagnostic> = all.iter().collect();
            sorted.sort_by_key(|finding| finding.severity);
            let shown = sorted.iter().map(|finding| finding.render(&file.text, &file.name, style()));
            crate::say(&shown.collect::<Vec<_>>().join("\n\n"));
        }
        Format::Json => print(&as_json(loaded, all)),
        Format::Sarif => print(&as_sarif(loaded, all)),
        Format::Gitlab => print(&as_gitlab(loaded, all)),
    }
    if all.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) }
}

fn print(value: &Value) {
    crate::say(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Line and column of the first character and of the one after the last; all count from 1.
struct Range {
    start: (usize, usize),
    end: (usize, usize),
}

fn range(dockerfile: &Dockerfile, span: Span) -> Range {
    Range { start: dockerfile.line_column(span.start), end: dockerfile.line_column(span.end.max(span.start)) }
}

fn level(finding: &Diagnostic) -> &'static str {
    match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn as_json(loaded: &Loaded, all: &[Diagnostic]) -> Value {
    let warnings: Vec<Value> = all
        .iter()
        .map(|finding| {
            let Range { start, end } = range(&loaded.dockerfile, finding.span());
            let place = |(line, column): (usize, usize)| json!({ "line": line, "character": column - 1 });
            json!({
                "ruleName": finding.code.as_str(),
                "level": level(finding),
                "description": finding.code.title(),
                "detail": finding.message,
                "hint": finding.hint,
                "location": { "sourceIndex": 0, "ranges": [{ "start": place(start), "end": place(end) }] },
            })
        })
        .collect();
    json!({ "sources": [{ "filename": loaded.file.name, "language": "Dockerfile" }], "warnings": warnings })
}

fn as_sarif(loaded: &Loaded, all: &[Diagnostic]) -> Value {
    let mut rules: Vec<(&str, &str)> =
        all.iter().map(|finding| (finding.code.as_str(), finding.code.title())).collect();
    rules.sort_unstable();
    rules.dedup();
    let rule = |(id, title): &(&str, &str)| json!({ "id": id, "shortDescription": { "text": title } });
    let results: Vec<Value> = all
        .iter()
        .map(|finding| {
            let Range { start, end } = range(&loaded.dockerfile, finding.span());
            json!({
                "ruleId": finding.code.as_str(),
                "level": level(finding),
                "message": { "text": with_hint(finding) },
                "locations": [{ "physicalLocation": {
                    "artifactLocation": { "uri": loaded.file.name },
                    "region": {
                        "startLine": start.0, "startColumn": start.1, "endLine": end.0, "endColumn": end.1,
                    },
                } }],
            })
        })
        .collect();
    json!({
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{
            "tool": { "driver": {
                "name": "cooper",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(rule).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn as_gitlab(loaded: &Loaded, all: &[Diagnostic]) -> Value {
    let finding = |finding: &Diagnostic| {
        let Range { start, end } = range(&loaded.dockerfile, finding.span());
        // The same finding in the same text keeps its fingerprint when lines before it come and go.
        let text = loaded.dockerfile.text.get(finding.span().start..finding.span().end).unwrap_or_default();
        let name = [finding.code.as_str(), &finding.message, text].join("\n");
        let fingerprint = cooper_image::digest::Digest::of(name.as_bytes());
        json!({
            "description": with_hint(finding),
            "check_name": finding.code.as_str(),
            "fingerprint": fingerprint.hex(),
            "severity": if finding.severity == Severity::Error { "major" } else { "minor" },
            "location": { "path": loaded.file.name, "lines": { "begin": start.0, "end": end.0 } },
        })
    };
    Value::Array(all.iter().map(finding).collect())
}

fn with_hint(finding: &Diagnostic) -> String {
    match &finding.hint {
        Some(hint) => format!("{} ({hint})", finding.message),
        None => finding.message.clone(),
    }
}

/// The comment that ends right before an instruction and begins with the name it describes.
fn description(dockerfile: &Dockerfile, span: Span, name: &str) -> String {
    let before = dockerfile.text.get(..span.start).unwrap_or_default();
    let lines = before.lines().rev();
    let mut comment: Vec<&str> =
        lines.map_while(|line| line.trim().strip_prefix('#')).map(str::trim).collect();
    comment.reverse();
    let start = comment.iter().rposition(|line| line.split_whitespace().next() == Some(name));
    let Some(start) = start else { return String::new() };
    let text = comment[start..].join(" ");
    text.get(name.len()..).unwrap_or_default().trim().to_owned()
}

fn targets(loaded: &Loaded, format: Format) {
    let dockerfile = &loaded.dockerfile;
    let last = dockerfile.stages.len() - 1;
    let stages: Vec<(String, String, String)> = dockerfile
        .stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let name = stage.name().unwrap_or_default().to_ascii_lowercase();
            let text = match stage.name() {
                Some(own) => description(dockerfile, stage.from.span, own),
                None => String::new(),
            };
            let shown = if index == last && name.is_empty() { "(default)".to_owned() } else { name };
            (shown, stage.from.image.text.clone(), text)
        })
        .collect();
    if format == Format::Json {
        let targets: Vec<Value> = stages
            .iter()
            .enumerate()
            .map(|(index, (name, base, text))| {
                let name = if name == "(default)" { "" } else { name };
                json!({ "name": name, "default": index == last, "base": base, "description": text })
            })
            .collect();
        return print(&json!({ "targets": targets }));
    }
    let mut rows = vec![["TARGET", "DESCRIPTION"].map(str::to_owned)];
    for (index, (name, _, text)) in stages.iter().enumerate().filter(|(_, (name, _, _))| !name.is_empty()) {
        let mark = if index == last && name != "(default)" { " (default)" } else { "" };
        rows.push([format!("{name}{mark}"), text.clone()]);
    }
    crate::say(&table(&rows));
}

fn outline(loaded: &Loaded, request: &BuildRequest, target: usize, format: Format) {
    let dockerfile = &loaded.dockerfile;
    let mut arguments: Vec<[String; 3]> = Vec::new();
    let mut variables = Variables::default();
    let mut secrets: Vec<(String, bool)> = Vec::new();
    let needed = needed(dockerfile, target);
    let stages: Vec<&Stage> = needed.iter().map(|index| &dockerfile.stages[*index]).collect();
    let instructions =
        dockerfile.global_args.iter().chain(stages.iter().flat_map(|stage| &stage.instructions));
    for instruction in instructions {
        match &instruction.kind {
            InstructionKind::Arg(declarations) => {
                for declaration in declarations {
                    let name = declaration.name.text.clone();
                    let given = request.build_args.get(&name).cloned();
                    // What cannot be expanded is an error of the build; here it is shown as it is written.
                    let expanded = |default: &Word| {
                        let value = variables.expand(default, dockerfile.directives.escape);
                        value.unwrap_or_else(|_| default.text.clone())
                    };
                    let default = declaration.default.as_ref().map(expanded);
                    let value = given.or(default).unwrap_or_default();
                    if !value.is_empty() {
                        variables.set(&name, &value);
                    }
                    let text = description(dockerfile, instruction.span, &name);
                    match arguments.iter_mut().find(|known| known[0] == name) {
                        Some(known) if known[1].is_empty() => known[1] = value,
                        Some(_) => {}
                        None => arguments.push([name, value, text]),
                    }
                }
            }
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    let value = |key: &str| {
                        let option = mount.options.iter().rfind(|option| option.key.text == key);
                        option.map(|option| option.value.as_ref().map_or("true", |value| &value.text))
                    };
                    if value("type") != Some("secret") {
                        continue;
                    }
                    let target = value("target").and_then(|target| target.rsplit('/').next());
                    let Some(id) = value("id").or(target) else { continue };
                    let required = value("required").is_some_and(|required| required != "false");
                    match secrets.iter_mut().find(|(known, _)| known == id) {
                        Some((_, known)) => *known |= required,
                        None => secrets.push((id.to_owned(), required)),
                    }
                }
            }
            _ => {}
        }
    }
    let stage = &dockerfile.stages[target];
    let name = stage.name().unwrap_or_default();
    let text = description(dockerfile, stage.from.span, name);
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    if format == Format::Json {
        let arguments: Vec<Value> = arguments
            .iter()
            .map(|[name, value, text]| json!({ "name": name, "value": value, "description": text }))
            .collect();
        let secrets: Vec<Value> =
            secrets.iter().map(|(name, required)| json!({ "name": name, "required": required })).collect();
        return print(&json!({ "name": name, "description": text, "args": arguments, "secrets": secrets }));
    }
    let mut parts = vec![format!("TARGET: {}", if name.is_empty() { "(default)" } else { name })];
    if !text.is_empty() {
        parts.push(format!("DESCRIPTION: {text}"));
    }
    if !arguments.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned)];
        rows.extend(arguments);
        parts.push(table(&rows));
    }
    if !secrets.is_empty() {
        let mut rows = vec![["SECRET", "REQUIRED"].map(str::to_owned)];
        let row = |(name, required): (String, bool)| [name, if required { "yes" } else { "" }.to_owned()];
        rows.extend(secrets.into_iter().map(row));
        parts.push(table(&rows));
    }
    crate::say(&parts.join("\n\n"));
}

/// The stages that a target needs, by their plain names, in order.
fn needed(dockerfile: &Dockerfile, target: usize) -> Vec<usize> {
    let mut needed = std::collections::BTreeSet::from([target]);
    let mut left = vec![target];
    while let Some(index) = left.pop() {
        let stage = &dockerfile.stages[index];
        let mut found: Vec<Option<usize>> = vec![dockerfile.base_stage_index(&stage.from.image.text, index)];
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Copy(copy) => {
                    found.extend(copy.from.iter().map(|from| dockerfile.stage_index(&from.text, index)));
                }
                InstructionKind::Run(run) => {
                    let options = run.mounts.iter().flat_map(|mount| &mount.options);
                    let from = options.filter(|option| option.key.text == "from");
                    let names = from.filter_map(|option| option.value.as_ref());
                    found.extend(names.map(|name| dockerfile.stage_index(&name.text, index)));
                }
                _ => {}
            }
        }
        left.extend(found.into_iter().flatten().filter(|index| needed.insert(*index)));
    }
    needed.into_iter().collect()
}
