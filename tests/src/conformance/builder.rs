//! Cooper as the builder of cases: one store for all of them, one directory for each.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Outcome, Plan, Prepared};
use crate::bases::Base;
use crate::cooper::Cooper;
use crate::oci::{self, Image};

/// Exit codes of a build that was refused: a step or instruction, usage, the text alone, policy.
const REFUSALS: [i32; 4] = [1, 2, 3, 4];

/// Builds cases on a store with the base `busybox`.
#[derive(Debug)]
pub struct Builder {
    cooper: Cooper,
    below: Image,
}

impl Builder {
    /// With a fresh store.
    pub fn new() -> Result<Self> {
        let cooper = Cooper::outside()?;
        cooper.load_base(Base::Busybox)?;
        Ok(Self { cooper, below: Base::Busybox.image()? })
    }

    /// What comes of a plan.
    pub fn build(&self, plan: &Plan) -> Result<Outcome> {
        let at = tempfile::Builder::new().prefix("case-").tempdir_in(self.cooper.inputs())?;
        let prepared = plan.prepare(at.path())?;
        match &plan.call {
            Some(method) => self.call(&prepared, method),
            None => self.build_prepared(&prepared, at.path()),
        }
    }

    /// What comes of files on the disk; `at` is a directory for the result.
    pub fn build_prepared(&self, prepared: &Prepared, at: &Path) -> Result<Outcome> {
        for (name, dockerfile) in &prepared.images {
            let more = ["-t".into(), name.into()];
            if let Some(refusal) = self.run(dockerfile, prepared, more.into())? {
                return Ok(refusal);
            }
        }
        let layout = at.join("layout");
        let mut output = OsString::from("type=oci,tar=false,dest=");
        output.push(&layout);
        let mut more = vec!["-o".into(), output];
        more.extend(prepared.flags.iter().map(OsString::from));
        if let Some(refusal) = self.run(&prepared.dockerfile, prepared, more)? {
            return Ok(refusal);
        }
        Outcome::of_image(&oci::read(&layout, "latest")?, &self.below)
    }

    fn run(&self, dockerfile: &Path, prepared: &Prepared, more: Vec<OsString>) -> Result<Option<Outcome>> {
        let mut words: Vec<OsString> = ["build", "--progress", "plain", "-f"].map(OsString::from).into();
        words.push(dockerfile.into());
        words.extend(more);
        words.push(prepared.context.clone().into());
        let output = self.cooper.run(words)?;
        if output.code == 0 {
            return Ok(None);
        }
        if !REFUSALS.contains(&output.code) {
            bail!("neither built nor refused\n{output:?}");
        }
        let message = output.errors();
        let said = message.find("error").map_or(message.as_str(), |at| &message[at..]).to_owned();
        Ok(Some(Outcome::refused(&said)))
    }

    fn call(&self, prepared: &Prepared, method: &str) -> Result<Outcome> {
        let mut words: Vec<OsString> = vec!["build".into(), format!("--call={method},format=json").into()];
        words.extend(["-f".into(), prepared.dockerfile.clone().into()]);
        words.extend(prepared.flags.iter().map(OsString::from));
        words.push(prepared.context.clone().into());
        let output = self.cooper.run(words)?;
        if output.stdout.is_empty() && REFUSALS.contains(&output.code) {
            return Ok(Outcome::refused(&output.errors()));
        }
        let json: Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("not JSON\n{output:?}"))?;
        Ok(Outcome::of_call(method, &json))
    }
}
