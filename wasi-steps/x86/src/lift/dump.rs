//! Translated functions as text, for people and for golden tests.

use std::fmt::Write as _;

use super::function::{self, Function};
use super::ir::{Callee, End, Expr, Moves, PCD, REGISTERS, Statement, TEMPORARIES, Var};
use super::{FunctionBounds, Refusal, Unit, validate};

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const FLAGS: [&str; 6] = ["cf", "pf", "af", "zf", "sf", "of"];

/// The intermediate representation of a function as text.
///
/// # Errors
/// Why the function is not translated.
pub fn dump(unit: &Unit<'_>, bounds: FunctionBounds) -> Result<String, Refusal> {
    let function = function::lift(unit.image, bounds, unit.extra_entries)?;
    let mut text = format!("entries {:x?}\n", function.entries);
    for node in &function.shape.order {
        let translated = &function.nodes[*node];
        let loops = if function.shape.is_header[*node] { " (loop)" } else { "" };
        let _ = writeln!(text, "node {node}{loops}");
        write_statements(&mut text, &translated.statements, 1);
        let spill = registers(" spill", translated.spill);
        let _ = writeln!(text, "  {}{spill}", end(&translated.end));
    }
    for (node, var) in undefined(&function) {
        let _ = writeln!(text, "undefined in node {node}: {}", name(var));
    }
    Ok(text)
}

fn undefined(function: &Function) -> Vec<(usize, Var)> {
    validate::undefined(function)
}

fn name(var: Var) -> String {
    match var.0 {
        n @ 0..16 => NAMES[n as usize].into(),
        n @ 16..REGISTERS => format!("xmm{}", n - 16),
        _ if var == PCD => "pcd".into(),
        n if n < TEMPORARIES => FLAGS[(n - REGISTERS) as usize].into(),
        n => format!("v{}", n - TEMPORARIES),
    }
}

fn registers(title: &str, set: u32) -> String {
    let list: Vec<String> = (0..REGISTERS).map(Var).filter(|var| set & var.bit() != 0).map(name).collect();
    if list.is_empty() { String::new() } else { format!("{title} {}", list.join(" ")) }
}

fn moves(moves: &Moves) -> String {
    registers(" spill", moves.spill) + &registers(" reload", moves.reload)
}

fn expression(value: &Expr) -> String {
    let list = |operator: String, arguments: &[Expr]| {
        let arguments: Vec<String> = arguments.iter().map(expression).collect();
        format!("({operator} {})", arguments.join(" "))
    };
    match value {
        Expr::I32(value) => format!("{value}"),
        Expr::I64(value) => format!("{value}L"),
        Expr::V128(value) => format!("{value:#x}V"),
        Expr::Get(var) => name(*var),
        Expr::Bias => "bias".into(),
        Expr::Load(operator, address) => list(operator_name(operator), std::slice::from_ref(address)),
        Expr::State(operator) => format!("(state {})", operator_name(operator)),
        Expr::Op(operator, arguments) => list(operator_name(operator), arguments),
    }
}

/// The operator without what every memory operand says of its alignment and memory.
fn operator_name(operator: &wasm_encoder::Instruction<'_>) -> String {
    format!("{operator:?}")
        .replace("MemArg { offset: ", "")
        .replace(", align: 0, memory_index: 0 }", "")
        .replace(", align: 0, memory_index: 1 }", "")
}

/// A guest address; by its unit address where it has one.
fn place(at: &Expr) -> String {
    match at {
        Expr::Op(_, arguments) => match arguments[..] {
            [Expr::Bias, Expr::I32(unit)] => format!("{unit:#x}"),
            _ => expression(at),
        },
        _ => expression(at),
    }
}

fn callee(callee: &Callee) -> String {
    match callee {
        Callee::Direct(at) => format!("{at:#x}"),
        Callee::Indirect(value) => expression(value),
    }
}

fn end(end: &End) -> String {
    match end {
        End::Jump(to) => format!("jump {to}"),
        End::Branch(condition, yes, no) => format!("if {} jump {yes} else {no}", expression(condition)),
        End::Switch(index, targets, None) => format!("switch {} {targets:?}", expression(index)),
        End::Switch(index, targets, Some(outside)) => {
            format!("switch {} {targets:?} else tail {}", expression(index), callee(outside))
        }
        End::Return(target) => format!("return {}", name(*target)),
        End::Tail(target) => format!("tail {}", callee(target)),
    }
}

fn write_statements(text: &mut String, statements: &[Statement], depth: usize) {
    let indent = "  ".repeat(depth);
    for statement in statements {
        let line = match statement {
            Statement::At(at) => format!("; {at:#x}"),
            Statement::Set(var, value) => format!("{} = {}", name(*var), expression(value)),
            Statement::Drop(value) => format!("drop {}", expression(value)),
            Statement::Store(operator, address, value) => {
                format!("{} {} {}", operator_name(operator), expression(address), expression(value))
            }
            Statement::StoreState(operator, value) => {
                format!("state {} {}", operator_name(operator), expression(value))
            }
            Statement::Atomic(operator, address, arguments, old) => {
                let arguments: Vec<String> = arguments.iter().map(expression).collect();
                let operator = operator_name(operator);
                format!("{} = {operator} {} {}", name(*old), expression(address), arguments.join(" "))
            }
            Statement::MultiplyWide(operator, low, high, a, b) => {
                let operator = operator_name(operator);
                format!("{}, {} = {operator} {} {}", name(*low), name(*high), expression(a), expression(b))
            }
            Statement::If(condition, yes, no) => {
                let _ = writeln!(text, "{indent}if {}", expression(condition));
                write_statements(text, yes, depth + 1);
                if !no.is_empty() {
                    let _ = writeln!(text, "{indent}else");
                    write_statements(text, no, depth + 1);
                }
                continue;
            }
            Statement::Step(at, all) => format!("step {at:#x}{}", moves(all)),
            Statement::Syscall(at, all) => format!("syscall {at:#x}{}", moves(all)),
            Statement::Safepoint(at, all) => format!("safepoint {}{}", place(at), moves(all)),
            Statement::While(condition, body) => {
                let _ = writeln!(text, "{indent}while {}", expression(condition));
                write_statements(text, body, depth + 1);
                continue;
            }
            Statement::Barrier => "barrier".into(),
            Statement::Fence => "fence".into(),
            Statement::Call(target, back, all) => {
                format!("call {} back {back:#x}{}", callee(target), moves(all))
            }
            Statement::Arrive(all) => format!("arrive{}", moves(all)),
            Statement::Enter(is_leaf, all) => {
                format!("enter{}{}", if *is_leaf { " leaf" } else { "" }, moves(all))
            }
            Statement::Save(_, all) => format!("save{}", moves(all)),
            Statement::PublishStack => "publish rsp".into(),
        };
        let _ = writeln!(text, "{indent}{line}");
    }
}
