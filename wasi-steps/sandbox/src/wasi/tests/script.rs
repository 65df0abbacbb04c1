//! Programs as lists of calls.

use std::collections::BTreeMap;

use cooper_kernel::ExitStatus;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, EntityType, ExportKind, ExportSection, Function,
    FunctionSection, ImportSection, MemArg, MemorySection, MemoryType, Module, TypeSection, ValType,
};

use super::Outcome;

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Argument {
    /// 32 bits.
    I(u32),
    /// 64 bits.
    L(u64),
    /// The 32 bits at an address.
    At(u32),
    /// The 32 bits at an address, as 64.
    LongAt(u32),
}

impl Argument {
    fn kind(self) -> ValType {
        match self {
            Self::I(_) | Self::At(_) => ValType::I32,
            Self::L(_) | Self::LongAt(_) => ValType::I64,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A function of WASI and what it returns.
    Call(&'static str, Vec<Argument>, u32),
    /// A system call and its result; `None` for any that is not negative.
    System(Vec<Argument>, Option<i64>),
    /// A child; its pid goes to the address. With an expected errno there is none.
    Spawn(Vec<Argument>, Result<u32, i64>),
    /// Bytes at an address.
    Bytes(u32, Vec<u8>),
    /// A number of so many bytes at an address.
    Number(u32, u32, u64),
    /// An instruction that traps.
    Trap(Trap),
}

/// What can go wrong in a module by itself.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Trap {
    Unreachable,
    OutOfBounds,
    DivideByZero,
    Recursion,
    Spin,
    /// A memory of so many more pages.
    Grow(u32),
}

/// A program.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Script {
    data: Vec<(u32, Vec<u8>)>,
    steps: Vec<Step>,
}

/// Where a wrong step is reported: an iovec, then its bytes.
const REPORT: u32 = 0xffe0;
/// Pages of every script's memory.
const PAGES: u64 = 2;

impl Script {
    pub(in super::super) fn new() -> Self {
        Self::default()
    }

    /// Puts bytes into the memory.
    pub(in super::super) fn data(mut self, address: u32, bytes: &[u8]) -> Self {
        self.data.push((address, bytes.to_vec()));
        self
    }

    /// Puts 64-bit words into the memory.
    pub(in super::super) fn words(self, address: u32, words: &[u64]) -> Self {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.data(address, &bytes)
    }

    /// A buffer descriptor: an address and a length.
    pub(in super::super) fn buffer(self, at: u32, address: u32, length: u32) -> Self {
        let bytes = [address.to_le_bytes(), length.to_le_bytes()].concat();
        self.data(at, &bytes)
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(in super::super) fn call(self, name: &'static str, arguments: &[Argument], expected: u32) -> Self {
        self.step(Step::Call(name, arguments.to_vec(), expected))
    }

    pub(in super::super) fn system(self, arguments: &[Argument], expected: i64) -> Self {
        self.step(Step::System(arguments.to_vec(), Some(expected)))
    }

    pub(in super::super) fn system_works(self, arguments: &[Argument]) -> Self {
        self.step(Step::System(arguments.to_vec(), None))
    }

    pub(in super::super) fn spawn(self, arguments: &[Argument], pid_at: u32) -> Self {
        self.step(Step::Spawn(arguments.to_vec(), Ok(pid_at)))
    }

    pub(in super::super) fn spawn_fails(self, arguments: &[Argument], errno: i64) -> Self {
        self.step(Step::Spawn(arguments.to_vec(), Err(-errno)))
    }

    pub(in super::super) fn bytes(self, address: u32, expected: &[u8]) -> Self {
        self.step(Step::Bytes(address, expected.to_vec()))
    }

    pub(in super::super) fn number(self, address: u32, size: u32, expected: u64) -> Self {
        self.step(Step::Number(address, size, expected))
    }

    pub(in super::super) fn trap(self, trap: Trap) -> Self {
        self.step(Step::Trap(trap))
    }

    /// Fails with what the wrong step was.
    pub(in super::super) fn explain(&self, outcome: &Outcome) {
        if outcome.status == ExitStatus::Code(0) {
            return;
        }
        let tail = outcome.stderr.len().checked_sub(12).map(|at| &outcome.stderr[at..]);
        let found = tail.filter(|_| outcome.status == ExitStatus::Code(99)).map(|tail| {
            let step = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
            let mut value = [0; 8];
            value.copy_from_slice(&tail[4..]);
            (step, i64::from_le_bytes(value))
        });
        match found {
            Some((step, value)) => {
                panic!("step {step}, {:?}, gave {value}; {:?}", self.steps[step], outcome.report.hints)
            }
            None => panic!("{:?}: {:?}", outcome.status, outcome.report),
        }
    }

    /// The program.
    pub(in super::super) fn module(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for needed in ["proc_exit", "fd_write"] {
            encoder.import_known(needed);
        }
        for step in &self.steps {
            encoder.step(step);
        }
        encoder.finish(&self.data)
    }
}

/// A module that exports what a command exports, from a body.
#[derive(Default)]
struct Encoder {
    types: BTreeMap<(Vec<ValType>, Vec<ValType>), u32>,
    type_order: Vec<(Vec<ValType>, Vec<ValType>)>,
    imports: Vec<(&'static str, &'static str, u32)>,
    body: Vec<u8>,
    step: i32,
}

/// Locals of the program: what a call gave.
const RESULT: u32 = 0;

impl Encoder {
    fn kind(&mut self, parameters: Vec<ValType>, results: Vec<ValType>) -> u32 {
        let key = (parameters, results);
        if let Some(index) = self.types.get(&key) {
            return *index;
        }
        let index = self.type_order.len() as u32;
        self.types.insert(key.clone(), index);
        self.type_order.push(key);
        index
    }

    fn import(&mut self, module: &'static str, name: &'static str, kind: u32) -> u32 {
        let known = self.imports.iter().position(|import| (import.0, import.1) == (module, name));
        known.unwrap_or_else(|| {
            self.imports.push((module, name, kind));
            self.imports.len() - 1
        }) as u32
    }

    fn import_known(&mut self, name: &'static str) -> u32 {
        let kind = match name {
            "proc_exit" => self.kind(vec![ValType::I32], vec![]),
            _ => self.kind(vec![ValType::I32; 4], vec![ValType::I32]),
        };
        self.import("wasi_snapshot_preview1", name, kind)
    }

    fn sink(&mut self) -> wasm_encoder::InstructionSink<'_> {
        wasm_encoder::InstructionSink::new(&mut self.body)
    }

    fn push(&mut self, argument: Argument) {
        let place = |align| MemArg { offset: 0, align, memory_index: 0 };
        let mut sink = self.sink();
        match argument {
            Argument::I(value) => sink.i32_const(value.cast_signed()),
            Argument::L(value) => sink.i64_const(value.cast_signed()),
            Argument::At(address) => sink.i32_const(address.cast_signed()).i32_load(place(0)),
            Argument::LongAt(address) => sink.i32_const(address.cast_signed()).i64_load32_u(place(0)),
        };
    }

    /// Reports the result unless it is what was expected.
    fn expect(&mut self, expected: i64) {
        self.sink().local_get(RESULT).i64_const(expected).i64_ne();
        self.report();
    }

    /// Reports the result where the condition on the stack holds.
    fn report(&mut self) {
        let (write, exit) = (self.import_known("fd_write"), self.import_known("proc_exit"));
        let step = self.step;
        let place = |offset, align| MemArg { offset, align, memory_index: 0 };
        let at = REPORT.cast_signed();
        self.sink()
            .if_(BlockType::Empty)
            .i32_const(at)
            .i32_const(at + 8)
            .i32_store(place(0, 2))
            .i32_const(at)
            .i32_const(12)
            .i32_store(place(4, 2))
            .i32_const(at)
            .i32_const(step)
            .i32_store(place(8, 2))
            .i32_const(at)
            .local_get(RESULT)
            .i64_store(place(12, 0))
            .i32_const(2)
            .i32_const(at)
            .i32_const(1)
            .i32_const(at + 24)
            .call(write)
            .drop()
            .i32_const(99)
            .call(exit)
            .end();
    }

    fn step(&mut self, step: &Step) {
        let place = |align| MemArg { offset: 0, align, memory_index: 0 };
        match step {
            Step::Call(name, arguments, expected) => {
                let kinds: Vec<ValType> = arguments.iter().map(|argument| argument.kind()).collect();
                let results = if *name == "proc_exit" { vec![] } else { vec![ValType::I32] };
                let kind = self.kind(kinds, results);
                let function = self.import("wasi_snapshot_preview1", name, kind);
                arguments.iter().for_each(|argument| self.push(*argument));
                if *name == "proc_exit" {
                    self.sink().call(function);
                } else {
                    self.sink().call(function).i64_extend_i32_u().local_set(RESULT);
                    self.expect((*expected).into());
                }
            }
            Step::System(arguments, expected) => {
                let kind = self.kind(vec![ValType::I64; 7], vec![ValType::I64]);
                let function = self.import("cooper", "syscall", kind);
                for index in 0..7 {
                    self.push(arguments.get(index).copied().unwrap_or(Argument::L(0)));
                }
                self.sink().call(function).local_set(RESULT);
                match expected {
                    Some(expected) => self.expect(*expected),
                    None => {
                        self.sink().local_get(RESULT).i64_const(0).i64_lt_s();
                        self.report();
                    }
                }
            }
            Step::Spawn(arguments, expected) => {
                let kind = self.kind(vec![ValType::I64; 5], vec![ValType::I64]);
                let function = self.import("cooper", "spawn", kind);
                arguments.iter().for_each(|argument| self.push(*argument));
                self.sink().call(function).local_set(RESULT);
                match expected {
                    Ok(address) => {
                        self.sink().local_get(RESULT).i64_const(1).i64_lt_s();
                        self.report();
                        self.sink().i32_const(address.cast_signed()).local_get(RESULT).i64_store32(place(0));
                    }
                    Err(errno) => self.expect(*errno),
                }
            }
            Step::Bytes(address, expected) => {
                for (index, byte) in expected.iter().enumerate() {
                    let at = address.cast_signed() + index as i32;
                    self.sink().i32_const(at).i64_load8_u(place(0)).local_set(RESULT);
                    self.expect((*byte).into());
                }
            }
            Step::Number(address, size, expected) => {
                let mut sink = self.sink();
                sink.i32_const(address.cast_signed());
                match size {
                    1 => sink.i64_load8_u(place(0)),
                    2 => sink.i64_load16_u(place(0)),
                    4 => sink.i64_load32_u(place(0)),
                    _ => sink.i64_load(place(0)),
                };
                sink.local_set(RESULT);
                self.expect(expected.cast_signed());
            }
            Step::Trap(trap) => self.trap(*trap),
        }
        self.step += 1;
    }

    fn trap(&mut self, trap: Trap) {
        let place = |align| MemArg { offset: 0, align, memory_index: 0 };
        let own = self.imports.len() as u32;
        let mut sink = self.sink();
        match trap {
            Trap::Unreachable => sink.unreachable(),
            Trap::OutOfBounds => sink.i32_const(-8).i64_load(place(0)).local_set(RESULT),
            Trap::DivideByZero => sink.i64_const(1).i64_const(0).i64_div_u().local_set(RESULT),
            // Scripts with this step have it first, so that all imports are known: the start function follows them.
            Trap::Recursion => sink.call(own),
            Trap::Spin => sink.loop_(BlockType::Empty).br(0).end(),
            Trap::Grow(pages) => {
                sink.i32_const(pages.cast_signed()).memory_grow(0).i64_extend_i32_s().local_set(RESULT)
            }
        };
        if matches!(trap, Trap::Grow(_)) {
            self.expect(PAGES as i64);
        }
    }

    fn finish(self, data: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let mut types = TypeSection::new();
        for (parameters, results) in &self.type_order {
            types.ty().function(parameters.iter().copied(), results.iter().copied());
        }
        let start = self.type_order.len() as u32;
        types.ty().function([], []);
        let mut imports = ImportSection::new();
        for (module, name, kind) in &self.imports {
            imports.import(module, name, EntityType::Function(*kind));
        }
        let mut functions = FunctionSection::new();
        functions.function(start);
        let mut memories = MemorySection::new();
        memories.memory(MemoryType {
            minimum: PAGES,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut exports = ExportSection::new();
        exports.export("memory", ExportKind::Memory, 0);
        exports.export("_start", ExportKind::Func, self.imports.len() as u32);
        let mut body = Function::new([(1, ValType::I64)]);
        body.raw(self.body);
        body.instructions().end();
        let mut code = CodeSection::new();
        code.function(&body);
        let mut segments = DataSection::new();
        for (address, bytes) in data {
            segments.active(0, &ConstExpr::i32_const(address.cast_signed()), bytes.iter().copied());
        }
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&functions).section(&memories).section(&exports);
        module.section(&code).section(&segments);
        module.finish()
    }
}
