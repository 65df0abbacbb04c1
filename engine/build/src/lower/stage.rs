//! One stage: its base, the triggers that the base brings, its instructions.

use cooper_dockerfile::{Dockerfile, Instruction, InstructionKind, Word};
use cooper_image::config::{Empty, RuntimeConfig};

use super::origin::{Origin, parse_triggers};
use super::settings::{command_words, healthcheck, is_signal};
use super::{HistoryPlan, LayerPlan, Lowering, StageState, absolute};
use crate::error::{Error, Fault, Result};
use crate::graph::{MakeDirectory, Operation, Vertex, VertexId};
use crate::history;
use crate::run::DEFAULT_PATH;
use crate::scope::Variables;

impl Lowering<'_> {
    pub(super) fn stage(&mut self, index: usize) -> Result<StageState> {
        let stage = &self.dockerfile.stages[index];
        let platform = self.stage_platform(stage)?;
        let mut state = match self.base_origin(stage, index)? {
            Origin::Scratch => {
                let root = self.scratch()?;
                self.new_state(root, empty_runtime(), platform)
            }
            Origin::Stage(other) => self.stages[other]
                .clone()
                .ok_or_else(|| Error::new(Fault::Bug, "a base stage was not lowered"))?,
            Origin::Image(name) => {
                let (root, source) = self.image(name, stage.from.span)?;
                let mut state = self.new_state(root, source.image.config.config.clone(), platform);
                state.author = source.image.config.author.clone();
                state.base = Some(source);
                state
            }
            Origin::Named(name) => {
                let (before, root) = (self.scratch()?, self.whole_context(&name)?);
                let mut state = self.new_state(root, empty_runtime(), platform);
                let layer = Some(LayerPlan { before, after: root, result: root });
                state.history.push(HistoryPlan { created_by: format!("FROM {name} # buildkit"), layer });
                state
            }
        };
        state.cmd_set = false;
        // The image's variables win over arguments inherited from the other stage.
        state.variables.set_all(&state.runtime.env);
        let triggers = std::mem::take(&mut state.runtime.on_build);
        let mut steps = StepNames::new(self.dockerfile, index, triggers.len());
        self.triggers(&mut state, index, &triggers, &mut steps)?;
        for instruction in &stage.instructions {
            self.instruction(&mut state, index, instruction, &mut steps)
                .map_err(|error| error.at(self.file, instruction.span))?;
        }
        Ok(state)
    }

    fn new_state(
        &self,
        root: VertexId,
        runtime: RuntimeConfig,
        platform: cooper_image::platform::Platform,
    ) -> StageState {
        StageState {
            root,
            base: None,
            runtime,
            author: None,
            history: Vec::new(),
            variables: Variables::default(),
            arguments: Vec::new(),
            cmd_set: false,
            platform,
        }
    }

    /// Executes what the base image left for the builds that start from it.
    fn triggers(
        &mut self,
        state: &mut StageState,
        index: usize,
        triggers: &[String],
        steps: &mut StepNames,
    ) -> Result<()> {
        let from = self.dockerfile.stages[index].from.span;
        let instructions = parse_triggers(triggers).map_err(|error| error.at(self.file, from))?;
        for (text, mut instruction) in triggers.iter().zip(instructions) {
            // Its spans point into a text that is not the Dockerfile.
            instruction.span = from;
            self.instruction(state, index, &instruction, steps).map_err(|error| {
                Error::build(format!("the base image's trigger `{text}` failed"))
                    .caused_by(error)
                    .at(self.file, from)
            })?;
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        state: &mut StageState,
        index: usize,
        instruction: &Instruction,
        steps: &mut StepNames,
    ) -> Result<()> {
        match &instruction.kind {
            InstructionKind::Add(add) => {
                let parts = self.add_parts(state, add)?;
                self.copy(state, index, instruction, steps, parts)
            }
            InstructionKind::Copy(copy) => {
                let parts = self.copy_parts(state, copy, index)?;
                self.copy(state, index, instruction, steps, parts)
            }
            InstructionKind::Run(run) => self.run(state, index, instruction, run, steps),
            InstructionKind::Workdir(word) => self.workdir(state, index, instruction, word, steps),
            InstructionKind::Arg(declarations) => {
                let mut texts = Vec::new();
                for declaration in declarations {
                    let name = self.expand(&state.variables, &declaration.name)?;
                    let given = self.build_argument(&name);
                    let value = match (given, &declaration.default) {
                        (Some(given), _) => Some(given),
                        (None, Some(default)) => Some(self.expand(&state.variables, default)?),
                        (None, None) => self.globals.get(&name).map(str::to_owned),
                    };
                    texts.push(match &value {
                        Some(value) => format!("{name}={value}"),
                        None => name.clone(),
                    });
                    if let Some(value) = &value {
                        state.variables.set(&name, value);
                    }
                    match state.arguments.iter_mut().find(|(own, _)| *own == name) {
                        Some((_, old)) => *old = value,
                        None => state.arguments.push((name, value)),
                    }
                }
                state.note(format!("ARG {}", texts.join(" ")));
                Ok(())
            }
            InstructionKind::Env(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                for (name, value) in &pairs {
                    state.variables.set(name, value);
                    let entry = format!("{name}={value}");
                    let own = state.runtime.env.iter_mut().find(|own| own.split('=').next() == Some(name));
                    match own {
                        Some(own) => *own = entry,
                        None => state.runtime.env.push(entry),
                    }
                }
                state.note(history::pairs("ENV", &pairs));
                Ok(())
            }
            InstructionKind::Label(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                state.runtime.labels.extend(pairs.iter().cloned());
                state.note(history::pairs("LABEL", &pairs));
                Ok(())
            }
            InstructionKind::Cmd(command) => {
                let words = command_words(state, command);
                state.note(history::quoted_list("CMD", &words));
                state.runtime.cmd = Some(words);
                state.runtime.args_escaped = Some(true);
                state.cmd_set = true;
                Ok(())
            }
            InstructionKind::Entrypoint(command) => {
                let words = command_words(state, command);
                state.note(history::quoted_list("ENTRYPOINT", &words));
                state.runtime.entrypoint = (!words.is_empty()).then_some(words);
                if !state.cmd_set {
                    state.runtime.cmd = None;
                }
                Ok(())
            }
            InstructionKind::Expose(words) => self.expose(state, words),
            InstructionKind::Volume(words) => self.volume(state, words),
            InstructionKind::User(word) => {
                state.runtime.user = self.expand(&state.variables, word)?;
                state.note(format!("USER {}", state.runtime.user));
                Ok(())
            }
            InstructionKind::Shell(words) => {
                let words: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
                state.note(history::list("SHELL", &words));
                state.runtime.shell = Some(words);
                Ok(())
            }
            InstructionKind::Stopsignal(word) => {
                let signal = self.expand(&state.variables, word)?;
                if !is_signal(&signal) {
                    return Err(Error::build(format!("invalid signal: `{signal}`")).at(self.file, word.span));
                }
                state.note(format!("STOPSIGNAL {signal}"));
                state.runtime.stop_signal = Some(signal);
                Ok(())
            }
            InstructionKind::Healthcheck(check) => {
                healthcheck(state, check);
                Ok(())
            }
            InstructionKind::Maintainer(word) => {
                let author = word.text.clone();
                state.note(format!("MAINTAINER {author}"));
                state.author = Some(author);
                Ok(())
            }
            InstructionKind::Onbuild(onbuild) => {
                state.runtime.on_build.push(onbuild.expression.clone());
                Ok(())
            }
        }
    }

    fn volume(&self, state: &mut StageState, words: &[Word]) -> Result<()> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(&state.variables, word)?;
            if volume.is_empty() {
                return Err(Error::build("a volume needs a path").at(self.file, word.span));
            }
            volumes.push(volume);
        }
        state.runtime.volumes.extend(volumes.iter().map(|volume| (volume.clone(), Empty {})));
        state.note(history::list("VOLUME", &volumes));
        Ok(())
    }

    fn workdir(
        &mut self,
        state: &mut StageState,
        index: usize,
        instruction: &Instruction,
        word: &Word,
        steps: &mut StepNames,
    ) -> Result<()> {
        let text = self.expand(&state.variables, word)?;
        let path = absolute(state, &text);
        // As in BuildKit the config has an absolute path as it is written; only where it is used it is cleaned.
        state.runtime.working_directory = if text.starts_with('/') { text } else { path.clone() };
        let created_by = format!("WORKDIR {}", state.runtime.working_directory);
        if path == "/" {
            state.note(created_by);
            return Ok(());
        }
        let operation = MakeDirectory { path, user: state.runtime.user.clone() };
        let vertex = Vertex {
            operation: Operation::MakeDirectory(operation),
            inputs: vec![state.root],
            name: steps.next(&created_by),
            span: Some(instruction.span),
            use_cache: self.use_cache(index),
        };
        self.layer(state, created_by, vertex)
    }
}

/// The config of an image that starts from nothing.
fn empty_runtime() -> RuntimeConfig {
    let mut runtime = RuntimeConfig::default();
    runtime.env.push(format!("PATH={DEFAULT_PATH}"));
    runtime.working_directory = "/".to_owned();
    runtime
}

/// The names of a stage's steps in the progress display: `[build 2/5] RUN make`.
pub(super) struct StepNames {
    prefix: String,
    number: usize,
    total: usize,
}

impl StepNames {
    fn new(dockerfile: &Dockerfile, index: usize, triggers: usize) -> Self {
        let stage = &dockerfile.stages[index];
        let prefix = match stage.name() {
            Some(name) => format!("{name} "),
            None if dockerfile.stages.len() == 1 => String::new(),
            None => format!("stage-{index} "),
        };
        let layers = stage.instructions.iter().filter(|instruction| {
            matches!(
                instruction.kind,
                InstructionKind::Run(_)
                    | InstructionKind::Copy(_)
                    | InstructionKind::Add(_)
                    | InstructionKind::Workdir(_)
            )
        });
        Self { prefix, number: 1, total: layers.count() + triggers + 1 }
    }

    pub(super) fn next(&mut self, text: &str) -> String {
        self.number += 1;
        format!("[{}{}/{}] {text}", self.prefix, self.number, self.total)
    }
}
