//! Looks whether translated nodes are well formed: every variable that is read was written on every path.
//!
//! Registers are read from the state where they are live, so only the other variables are of interest. Tests run this
//! over everything that they translate.

use std::collections::BTreeSet;

use super::dataflow::reads;
use super::function::Function;
use super::ir::{PCD, REGISTERS, Statement, Var};

/// Variables that may be read before they are written, by node.
pub(crate) fn undefined(function: &Function) -> Vec<(usize, Var)> {
    let count = function.nodes.len();
    let mut known: Vec<Option<BTreeSet<u32>>> = vec![None; count];
    let mut wrong = Vec::new();
    let mut changed = true;
    while changed {
        changed = false;
        wrong.clear();
        for node in &function.shape.order {
            let mut defined: Option<BTreeSet<u32>> = None;
            for from in &function.shape.predecessors[*node] {
                if let Some(other) = &known[*from] {
                    defined = Some(match defined {
                        None => other.clone(),
                        Some(defined) => defined.intersection(other).copied().collect(),
                    });
                }
            }
            let mut defined = defined.unwrap_or_default();
            let mut missing = |var: Var, defined: &BTreeSet<u32>| {
                if var.0 >= REGISTERS && var != PCD && !defined.contains(&var.0) {
                    wrong.push((*node, var));
                }
            };
            walk(&function.nodes[*node].statements, &mut defined, &mut missing);
            function.nodes[*node].end.reads(&mut |var| missing(var, &defined));
            if known[*node].as_ref() != Some(&defined) {
                known[*node] = Some(defined);
                changed = true;
            }
        }
    }
    wrong
}

fn walk(statements: &[Statement], defined: &mut BTreeSet<u32>, missing: &mut dyn FnMut(Var, &BTreeSet<u32>)) {
    for statement in statements {
        reads(statement, &mut |var| missing(var, defined));
        match statement {
            Statement::Set(var, _) | Statement::Atomic(_, _, _, var) => {
                defined.insert(var.0);
            }
            Statement::MultiplyWide(_, low, high, ..) => {
                defined.extend([low.0, high.0]);
            }
            Statement::If(_, yes, no) => {
                let mut other = defined.clone();
                walk(yes, defined, missing);
                walk(no, &mut other, missing);
                defined.retain(|var| other.contains(var));
            }
            Statement::While(_, body) => {
                let mut inner = defined.clone();
                walk(body, &mut inner, missing);
            }
            _ => {}
        }
    }
}
