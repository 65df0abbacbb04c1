//! `RUN`: its command, its mounts, its policy.

use cooper_dockerfile::{Instruction, Mount, Run, RunCommand, RunNetwork, RunSecurity, Span, Word};

use super::stage::StepNames;
use super::{Lowering, StageState, absolute, shell};
use crate::context::Wanted;
use crate::error::{Error, Result};
use crate::graph::{Operation, Vertex, VertexId};
use crate::history;
use crate::request::Network;
use crate::run::{RunMount, RunMountKind, RunOperation, SCRIPT_DIRECTORY};
use crate::scope::proxy_variables;

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        state: &mut StageState,
        index: usize,
        instruction: &Instruction,
        run: &Run,
        steps: &mut StepNames,
    ) -> Result<()> {
        self.check_platform(state)?;
        if run.security == Some(RunSecurity::Insecure) {
            return Err(Error::build("RUN --security=insecure is refused: a step never touches the machine, so there is no privilege to give")
                .hint("remove the flag: inside, the step is root and may mount, chown and mknod as far as the virtual kernel can"));
        }
        if let Some(device) = run.devices.first() {
            return Err(Error::unsupported("RUN --device").at(self.file, device.span));
        }
        let network = match run.network {
            None => self.request.network,
            Some(RunNetwork::Default) => Network::Default,
            Some(RunNetwork::None) => Network::None,
            Some(RunNetwork::Host) if self.request.allow_network_host => Network::Host,
            Some(RunNetwork::Host) => {
                return Err(Error::build("RUN --network=host is not allowed")
                    .hint("allow it with `--allow network.host`, or leave it out: the default network reaches everything but this machine's loopback"));
            }
        };
        let (arguments, script) = run_arguments(state, run);
        let mut inputs = vec![state.root];
        let mut mounts = Vec::new();
        for flag in &run.mounts {
            let mut expand = |word: &Word| {
                state.variables.expand(word, self.escape).map_err(|error| {
                    Box::new(cooper_dockerfile::Diagnostic::error(
                        cooper_dockerfile::Code::InvalidMount,
                        error.to_string(),
                        word.span,
                    ))
                })
            };
            let mount = flag.resolve(&mut expand).map_err(|finding| {
                let error = Error::build(finding.message.clone()).at(self.file, finding.span());
                match finding.hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            })?;
            let mount = self.mount(state, index, mount, flag.value.span, &mut inputs, &mounts)?;
            mounts.push(mount.map_err(|error| error.at(self.file, flag.value.span))?);
        }
        let values: Vec<(String, String)> = state
            .arguments
            .iter()
            .map(|(name, value)| {
                let current = state.variables.get(name).map(str::to_owned);
                (name.clone(), current.or_else(|| value.clone()).unwrap_or_default())
            })
            .collect();
        let created_by = history::run(&arguments, &values);
        let variables = state.variables.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let working_directory = absolute(state, ".");
        let operation = RunOperation {
            arguments,
            script,
            environment: variables.collect(),
            proxies: proxy_variables(&self.request.build_args),
            working_directory,
            user: state.runtime.user.clone(),
            mounts,
            network,
        };
        let shown = instruction.source_code.split_whitespace().collect::<Vec<_>>().join(" ");
        let vertex = Vertex {
            operation: Operation::Run(Box::new(operation)),
            inputs,
            name: steps.next(&shown),
            span: Some(instruction.span),
            use_cache: self.use_cache(index),
        };
        self.layer(state, created_by, vertex)
    }

    /// Only programs of this machine's kind can be run.
    fn check_platform(&self, state: &StageState) -> Result<()> {
        if state.platform.satisfies(&self.request.build_platform) {
            return Ok(());
        }
        let (wanted, own) = (&state.platform, &self.request.build_platform);
        Err(Error::build(format!("a RUN for {wanted} cannot be executed: steps here are {own}")).hint(
            "build in a stage `FROM --platform=$BUILDPLATFORM` and COPY the result, or build on that machine and join the images with `cooper index create`",
        ))
    }

    #[allow(
        clippy::type_complexity,
        reason = "the outer result is ours, the inner one gets the mount's place"
    )]
    fn mount(
        &mut self,
        state: &StageState,
        index: usize,
        mount: Mount,
        span: Span,
        inputs: &mut Vec<VertexId>,
        mounts: &[RunMount],
    ) -> Result<Result<RunMount>> {
        let ownership = |ownership: cooper_dockerfile::Ownership, mode: u32| {
            let mode = u16::try_from(ownership.mode.unwrap_or(mode) & 0o7777).unwrap_or(0o755);
            (mode, ownership.uid.unwrap_or(0), ownership.gid.unwrap_or(0))
        };
        let mut input = |lowering: &mut Self, from: Option<String>, source: &str| -> Result<usize> {
            let want = |wanted: &mut Wanted| wanted.add_path(source);
            let id = match from {
                Some(from) => {
                    let origin = lowering.origin(&from, index, span)?;
                    lowering.vertex_of(origin, span, &want)?
                }
                None => {
                    let (id, wanted) = lowering.context("")?;
                    want(wanted);
                    id
                }
            };
            inputs.push(id);
            Ok(inputs.len() - 1)
        };
        Ok(Ok(match mount {
            Mount::Bind { from, source, target, read_only } => {
                let source = source.unwrap_or_else(|| "/".to_owned());
                let input = input(self, from, &source)?;
                let target = absolute(state, &target);
                if target == "/" {
                    return Ok(Err(Error::build("a mount on `/` would hide the image")));
                }
                RunMount { target, kind: RunMountKind::Bind { input, source, read_only } }
            }
            Mount::Cache { id, target, from, source, sharing, read_only, ownership: owner } => {
                let target = absolute(state, &target);
                if target == "/" {
                    return Ok(Err(Error::build("a mount on `/` would hide the image")));
                }
                let from = match (from, source) {
                    (None, Some(_)) => {
                        return Ok(Err(Error::build("a cache mount with `source` needs `from`")));
                    }
                    (None, None) => None,
                    (Some(from), source) => {
                        let source = source.unwrap_or_else(|| "/".to_owned());
                        Some((input(self, Some(from), &source)?, source))
                    }
                };
                let id = id.unwrap_or_else(|| target.clone());
                let id = match self.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
                    Some(namespace) => format!("{namespace}/{id}"),
                    None => id,
                };
                let ownership = ownership(owner, 0o755);
                RunMount { target, kind: RunMountKind::Cache { id, from, sharing, read_only, ownership } }
            }
            Mount::Tmpfs { target, size, read_only } => {
                let target = absolute(state, &target);
                if target == "/" {
                    return Ok(Err(Error::build("a mount on `/` would hide the image")));
                }
                RunMount { target, kind: RunMountKind::Tmpfs { size, read_only } }
            }
            Mount::Secret { id, target, env, required, ownership: owner } => {
                let target = target.map(|target| absolute(state, &target)).unwrap_or_default();
                let ownership = ownership(owner, 0o400);
                RunMount { target, kind: RunMountKind::Secret { id, required, variable: env, ownership } }
            }
            Mount::Ssh { id, target, required, ownership: owner } => {
                let number =
                    mounts.iter().filter(|mount| matches!(mount.kind, RunMountKind::Ssh { .. })).count();
                let target = target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{number}"));
                let id = id.unwrap_or_else(|| "default".to_owned());
                let ownership = ownership(owner, 0o600);
                RunMount {
                    target: absolute(state, &target),
                    kind: RunMountKind::Ssh { id, required, ownership },
                }
            }
        }))
    }
}

#[allow(clippy::type_complexity, reason = "arguments, and the script that they name")]
fn run_arguments(state: &StageState, run: &Run) -> (Vec<String>, Option<(String, Vec<u8>)>) {
    let mut arguments = shell(state);
    match run.to_command() {
        RunCommand::Exec(words) => (words, None),
        RunCommand::Shell(line) => {
            arguments.push(line);
            (arguments, None)
        }
        RunCommand::Script { name, content } => {
            arguments.push(format!("{SCRIPT_DIRECTORY}/{name}"));
            (arguments, Some((name, content.into_bytes())))
        }
    }
}
