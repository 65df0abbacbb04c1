//! Runs guest code until something happens that is the caller's business.
//!
//! Code runs block by block. Each turn of the loop looks at the stop byte, runs one block and finds the next: through
//! a link of the block, the thread's cache of branch targets, or the decoded code of the file. The thread remembers
//! which executable range it is in; a block of a file is used only where the range holds it whole.
//!
//! What must hold: everything remembered is dropped when the code map's generation or the shared epoch changes, and
//! the `Arc` of every file whose blocks are remembered is kept as long.
#![allow(unsafe_code, reason = "blocks are used by pointer; see `code`")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::code::{BlockMap, BlockPointer, CodeMap, CodeSource, FileCode, SharedCode};
use crate::decode::{self, Block, MAX_BYTES};
use crate::general::{Flow, Step};
use crate::host;
use crate::machine::{BLOCK, Machine};
use crate::memory::{Access, Fault, GuestMemory};
use crate::operations::Next;
use crate::state::{CpuState, SharedRegisters, flag, register};

/// Why [`Interpreter::run`] came back. Unless said otherwise `rip` is at the instruction that caused it, and nothing
/// of that instruction has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A `syscall` instruction; `rip` is behind it, `rcx` and `r11` are set as the hardware does.
    Syscall,
    /// The stop byte was set; `rip` is at the next instruction to run.
    Stopped,
    /// A page fault (SIGSEGV; SIGBUS where the mapping says so).
    Fault(Fault),
    /// An undefined or unsupported instruction (SIGILL).
    Illegal,
    /// A division error (SIGFPE, `FPE_INTDIV`).
    DivideError,
    /// `int3` (SIGTRAP); `rip` is behind it.
    Breakpoint,
    /// A single step with TF set, or `int1` (SIGTRAP); `rip` is behind the instruction.
    Step,
    /// A privileged instruction, a misaligned SSE operand, a non-canonical address (SIGSEGV, `SI_KERNEL`).
    GeneralProtection,
    /// An unmasked SSE or x87 exception (SIGFPE).
    FloatingPoint,
    /// `rip` is an entry of translated code with this number, see [`SharedCode::set_entries`].
    Enter(u32),
    /// The stack pointer has risen above [`Bounds::stack`]; `rip` is at the next instruction to run.
    Returned,
}

/// Where a run ends besides at exits that the code makes by itself.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The run ends with [`Exit::Returned`] when, after a return or another jump to a computed address, the stack pointer is above this.
    pub stack: u64,
    /// Whether it ends with [`Exit::Enter`] where there is translated code.
    pub entries: bool,
}

impl Bounds {
    /// Everything is interpreted and nothing else ends the run.
    pub const NONE: Self = Self { stack: u64::MAX, entries: false };
}

/// Samples that are kept before they are given to the files.
const MAX_SAMPLES: usize = 256;

/// Entries of the cache of branch targets; a power of two.
const TARGETS: usize = 2048;
/// Entries that a thread passes by; a power of two.
const PASSED: usize = 512;
/// Executable ranges that a thread remembers; then it starts again.
const MAX_RANGES: usize = 256;
/// Blocks of generated code that a thread keeps; then it starts again.
const MAX_GENERATED: usize = 1 << 16;

/// An executable range, as the thread uses it.
#[derive(Debug, Clone)]
struct Range {
    start: u64,
    end: u64,
    /// The file's decoded code and the file offset of `start`; `None` for generated code.
    file: Option<(Arc<FileCode>, u64)>,
}

/// Where a branch went before.
#[derive(Clone, Copy, Debug)]
struct Target {
    pc: u64,
    /// Index of the range that holds the block.
    range: u32,
    block: Option<BlockPointer>,
}

const NO_TARGET: Target = Target { pc: 0, range: 0, block: None };

/// The interpreter of one guest thread.
#[derive(Debug)]
pub struct Interpreter {
    shared: Arc<SharedCode>,
    machine: Box<Machine>,
    instructions: u64,
    generation: u64,
    epoch: u64,
    /// Address of the code map of the last run.
    map: usize,
    ranges: Vec<Range>,
    targets: Box<[Target; TARGETS]>,
    /// Entries of translated code that this thread goes on behind, at the place of their address.
    passed: Box<[u64; PASSED]>,
    /// Blocks that belong to this thread alone, by address.
    generated: BlockMap,
    /// Replaced blocks of generated code; pointers to them may still be remembered until all is dropped.
    #[expect(clippy::vec_box, reason = "pointers to the blocks are remembered, so they must not move")]
    retired: Vec<Box<Block>>,
    /// Changes whenever blocks or files were dropped.
    drops: u64,
    /// Instructions until the next sample; counts down.
    budget: i64,
    /// Spreads the samples.
    random: u64,
    /// Where samples were taken: index of the range and file offset.
    samples: Vec<(u32, u64)>,
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.flush_samples();
    }
}

/// A block and the bounds within which its links may be followed.
#[derive(Clone, Copy)]
struct Place {
    block: BlockPointer,
    range: u32,
    /// Whether the block belongs to this thread alone.
    is_own: bool,
}

/// In [`Target::range`]: the block belongs to this thread alone and has to be compared with memory.
const OWN: u32 = 1 << 31;

/// Where the cache of branch targets keeps an address.
#[inline(always)]
fn slot_of(pc: u64) -> usize {
    (pc ^ pc >> 11) as usize % TARGETS
}

impl Interpreter {
    /// An interpreter that takes decoded code from `shared`.
    pub fn new(shared: Arc<SharedCode>) -> Self {
        Self {
            epoch: shared.epoch(),
            shared,
            machine: Box::new(Machine::new()),
            instructions: 0,
            generation: 0,
            map: 0,
            ranges: Vec::new(),
            targets: Box::new([NO_TARGET; TARGETS]),
            passed: Box::new([0; PASSED]),
            generated: HashMap::default(),
            retired: Vec::new(),
            drops: 0,
            budget: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            samples: Vec::new(),
        }
    }

    /// How many guest instructions this interpreter has run; a repeated string instruction counts once.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// Runs from `cpu.rip` until an [`Exit`]. `stop` is looked at before every block and within long string
    /// instructions; while it is not zero the answer is [`Exit::Stopped`].
    pub fn run(
        &mut self,
        cpu: &mut CpuState,
        memory: &GuestMemory,
        code: &dyn CodeMap,
        stop: &AtomicU8,
    ) -> Exit {
        self.run_within(cpu, memory, code, stop, Bounds::NONE)
    }

    /// As [`run`](Self::run), with bounds.
    pub fn run_within(
        &mut self,
        cpu: &mut CpuState,
        memory: &GuestMemory,
        code: &dyn CodeMap,
        stop: &AtomicU8,
        bounds: Bounds,
    ) -> Exit {
        self.machine.load(cpu);
        let exit = self.resume(memory, code, stop, bounds);
        self.machine.store(cpu);
        exit
    }

    /// Takes over a thread's registers, for [`resume`](Self::resume) and [`step`](Self::step).
    pub fn load(&mut self, cpu: &CpuState) {
        self.machine.load(cpu);
    }

    /// The registers after [`resume`](Self::resume) or [`step`](Self::step).
    pub fn store(&self, cpu: &mut CpuState) {
        self.machine.store(cpu);
    }

    /// Takes over the registers that translated code has, and leaves the others as they are.
    pub fn load_shared(&mut self, shared: &SharedRegisters<'_>) {
        self.machine.load_shared(shared);
    }

    /// The registers that translated code has.
    pub fn store_shared(&self, shared: &mut SharedRegisters<'_>) {
        self.machine.store_shared(shared);
    }

    /// Where it goes on.
    pub fn rip(&self) -> u64 {
        self.machine.target
    }

    /// Sets where it goes on.
    pub fn set_rip(&mut self, rip: u64) {
        self.machine.target = rip;
    }

    /// A general register, in the order of the instruction encoding.
    pub fn register(&self, number: usize) -> u64 {
        self.machine.r[number & 15]
    }

    /// Sets `rcx` and `r11` as the instruction `syscall` does.
    pub fn begin_system_call(&mut self) {
        self.machine.r[register::RCX] = self.machine.target;
        self.machine.r[register::R11] = self.machine.rflags();
    }

    /// The stack pointer.
    pub fn rsp(&self) -> u64 {
        self.machine.r[register::RSP]
    }

    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        self.machine.mxcsr
    }

    /// Sets MXCSR.
    pub fn set_mxcsr(&mut self, mxcsr: u32) {
        self.machine.mxcsr = mxcsr;
    }

    /// As [`run_within`](Self::run_within) with the registers that are loaded.
    pub fn resume(
        &mut self,
        memory: &GuestMemory,
        code: &dyn CodeMap,
        stop: &AtomicU8,
        bounds: Bounds,
    ) -> Exit {
        self.follow(code);
        let control = host::enter_float(self.machine.mxcsr);
        let exit = self.blocks(memory, code, stop, bounds);
        self.machine.mxcsr = host::leave_float(control, self.machine.mxcsr);
        exit
    }

    /// Runs the one instruction at `rip` with the registers that are loaded: its length when it was done, and `rip` then is
    /// where it led. A string instruction that the stop byte interrupts is [`Exit::Stopped`] and goes on when it is run again.
    pub fn step(&mut self, memory: &GuestMemory, code: &dyn CodeMap, stop: &AtomicU8) -> Result<u32, Exit> {
        self.follow(code);
        let control = host::enter_float(self.machine.mxcsr);
        let exit = self.step_cached(memory, code, stop);
        self.machine.mxcsr = host::leave_float(control, self.machine.mxcsr);
        exit
    }

    /// Forgets what is not true any more in `code`.
    fn follow(&mut self, code: &dyn CodeMap) {
        let (generation, epoch) = (code.generation(), self.shared.epoch());
        // Generations of two maps say nothing about each other, so the map is remembered too.
        let map = std::ptr::from_ref(code).addr();
        if generation != self.generation || epoch != self.epoch || map != self.map {
            self.forget();
            (self.generation, self.epoch, self.map) = (generation, epoch, map);
        }
    }

    /// Drops everything remembered about code: for a thread that goes on with another program, whose code map could lie
    /// where the old one lay.
    pub fn forget(&mut self) {
        self.flush_samples();
        self.drops += 1;
        self.ranges.clear();
        self.targets.fill(NO_TARGET);
        self.passed.fill(0);
        self.generated.clear();
        self.retired.clear();
    }

    /// Has this thread interpret the entry at an address from now on: what is there is too short for a change of tiers. It is
    /// forgotten when another one takes its place.
    pub fn pass_entry(&mut self, pc: u64) {
        self.passed[pc as usize % PASSED] = pc;
    }

    /// The main loop; leaves the address to go on from in `machine.target`.
    fn blocks(&mut self, memory: &GuestMemory, code: &dyn CodeMap, stop: &AtomicU8, bounds: Bounds) -> Exit {
        loop {
            if stop.load(Ordering::Relaxed) != 0 {
                return Exit::Stopped;
            }
            if self.machine.system_flags & flag::TF != 0 {
                return self.single_step(memory, code, stop);
            }
            let place = match self.find(self.machine.target, memory, code) {
                Ok(place) => place,
                Err(exit) => return exit,
            };
            if let Some(exit) = self.chain(place, memory, code, stop, bounds) {
                return exit;
            }
        }
    }

    /// Runs a block and those that follow it in the same range; `None` when another range or a look at the state comes
    /// next.
    fn chain(
        &mut self,
        place: Place,
        memory: &GuestMemory,
        code: &dyn CodeMap,
        stop: &AtomicU8,
        bounds: Bounds,
    ) -> Option<Exit> {
        let (range, drops) = (place.range, self.drops);
        let Range { start, end, .. } = *self.ranges.get(range as usize)?;
        let size = end - start;
        let mut pc = self.machine.target;
        let mut block = place.block;
        let start_budget = self.budget;
        let mut budget = start_budget;
        let mut skipped = 0;
        let exit = loop {
            // SAFETY: `ranges` keeps the file alive, `generated` or `retired` the thread's own blocks; when any of them is
            // dropped, `drops` changes and the loop ends before a block is used again.
            let current = unsafe { block.get() };
            let entry = current.entry.load(Ordering::Relaxed);
            if entry != 0 && bounds.entries && self.passed[pc as usize % PASSED] != pc {
                break Some(Exit::Enter(entry - 1));
            }
            self.machine.r[usize::from(BLOCK)] = pc;
            budget -= i64::from(current.count);
            if budget < 0 {
                // What is added to the budget is no instruction that ran.
                skipped += self.sample(range, pc, &mut budget);
            }
            let next = run_block(&mut self.machine, current, memory, stop);
            if next == Next::Exit {
                skipped -= i64::from(unfinished(&self.machine, current, pc));
                break Some(self.machine.exit);
            }
            if stop.load(Ordering::Relaxed) != 0 {
                break Some(Exit::Stopped);
            }
            pc = self.machine.target;
            if let Next::Link0 | Next::Link1 = next {
                let link = &current.links[usize::from(next == Next::Link1)];
                block = match link.get() {
                    Some(next) => next,
                    None => match self.find(pc, memory, code) {
                        Ok(place) if place.range == range && self.drops == drops => {
                            // A thread's own blocks are compared with memory on each entry, so nothing leads past that.
                            if !place.is_own && current.bytes.is_none() {
                                link.set(place.block);
                            }
                            place.block
                        }
                        Ok(_) => break None,
                        Err(exit) => break Some(exit),
                    },
                };
                // SAFETY: as above; links stay within the file.
                let length = u64::from(unsafe { block.get() }.length);
                if pc.wrapping_sub(start) > size - length.min(size) {
                    break None;
                }
            } else {
                if self.machine.r[register::RSP] > bounds.stack {
                    break Some(Exit::Returned);
                }
                let target = &self.targets[slot_of(pc)];
                match target.block {
                    Some(next) if target.pc == pc && target.range == range => block = next,
                    _ => break None,
                }
                if self.machine.system_flags & flag::TF != 0 {
                    break None;
                }
            }
        };
        self.instructions += (start_budget - budget + skipped) as u64;
        self.budget = budget;
        exit
    }

    /// Notes where the thread is and sets the budget to the period; gives what the budget grew by.
    #[cold]
    #[inline(never)]
    fn sample(&mut self, range: u32, pc: u64, budget: &mut i64) -> i64 {
        let period = i64::from(self.shared.sampling());
        let before = *budget;
        if period == 0 {
            *budget = i64::from(u32::MAX);
            return *budget - before;
        }
        // The same distance each time would lead to the same few blocks of a loop again and again.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        *budget = period / 2 + (self.random % period.unsigned_abs()) as i64;
        if let Some(Range { start, file: Some((_, offset)), .. }) = self.ranges.get(range as usize) {
            self.samples.push((range, pc.wrapping_sub(*start).wrapping_add(*offset)));
            if self.samples.len() >= MAX_SAMPLES {
                self.flush_samples();
            }
        }
        *budget - before
    }

    /// Gives the samples to the files that they were taken in.
    pub fn flush_samples(&mut self) {
        for (index, range) in self.ranges.iter().enumerate() {
            if let Some((file, _)) = &range.file {
                let own = self.samples.iter().filter(|(range, _)| *range as usize == index);
                let mut offsets = own.map(|(_, offset)| *offset).peekable();
                if offsets.peek().is_some() {
                    file.add_heat(offsets);
                }
            }
        }
        self.samples.clear();
    }

    /// The block at `pc`.
    fn find(&mut self, pc: u64, memory: &GuestMemory, code: &dyn CodeMap) -> Result<Place, Exit> {
        let target = self.targets[slot_of(pc)];
        if target.pc == pc
            && let Some(block) = target.block
            && self.still_valid(block, pc, memory)
        {
            return Ok(Place { block, range: target.range & !OWN, is_own: target.range & OWN != 0 });
        }
        let place = self.look_up(pc, memory, code)?;
        let own = if place.is_own { OWN } else { 0 };
        self.targets[slot_of(pc)] = Target { pc, range: place.range | own, block: Some(place.block) };
        Ok(place)
    }

    /// Whether memory still holds what a block was made from; blocks of files need no look.
    fn still_valid(&self, block: BlockPointer, pc: u64, memory: &GuestMemory) -> bool {
        // SAFETY: remembered blocks are alive.
        match unsafe { block.get() }.bytes.as_deref() {
            None => true,
            Some(bytes) => memory.compare_bytes(pc, bytes) == Ok(true),
        }
    }

    /// Finds the range of `pc` and in it the block.
    fn look_up(&mut self, pc: u64, memory: &GuestMemory, code: &dyn CodeMap) -> Result<Place, Exit> {
        let range = self.range_of(pc, code)?;
        let Range { start, end, file } = &self.ranges[range as usize];
        if let Some((file, offset)) = file {
            let offset = pc - start + offset;
            if let Some(block) = file.get(offset) {
                // SAFETY: the file is kept in `ranges`.
                if pc + u64::from(unsafe { block.get() }.length) <= *end {
                    return Ok(Place { block, range, is_own: false });
                }
            } else if let Some(block) = decode::decode(&fetch(pc, *end, memory)) {
                self.shared.charge(block.operations.len());
                return Ok(Place { block: file.insert(offset, block), range, is_own: false });
            }
        }
        self.own_block(pc, memory, code).map(|block| Place { block, range, is_own: true })
    }

    /// A block of this thread alone, for generated code and for what crosses the end of a range.
    fn own_block(&mut self, pc: u64, memory: &GuestMemory, code: &dyn CodeMap) -> Result<BlockPointer, Exit> {
        if let Some(block) = self.generated.get(&pc).map(BlockPointer::to)
            && self.still_valid(block, pc, memory)
        {
            return Ok(block);
        }
        if self.generated.len() + self.retired.len() >= MAX_GENERATED {
            self.drops += 1;
            self.targets.fill(NO_TARGET);
            self.generated.clear();
            self.retired.clear();
        }
        let (bytes, end) = fetch_across(pc, memory, code);
        let Some(mut block) = decode::decode(&bytes) else {
            return Err(Exit::Fault(Fault { address: end, access: Access::Execute }));
        };
        block.bytes = Some(bytes[..block.length as usize].into());
        if let Some(old) = self.generated.remove(&pc) {
            self.retired.push(old);
        }
        Ok(BlockPointer::to(self.generated.entry(pc).or_insert_with(|| Box::new(block))))
    }

    /// Index of the executable range that holds `pc`.
    fn range_of(&mut self, pc: u64, code: &dyn CodeMap) -> Result<u32, Exit> {
        if let Some(index) = self.ranges.iter().position(|range| pc >= range.start && pc < range.end) {
            return Ok(index as u32);
        }
        let found = code.code_at(pc).filter(|range| pc >= range.start && pc < range.end);
        let Some(range) = found else {
            return Err(Exit::Fault(Fault { address: pc, access: Access::Execute }));
        };
        if self.ranges.len() >= MAX_RANGES {
            self.forget();
        }
        let file = match range.source {
            CodeSource::File { id, offset } => Some((self.shared.file(id), offset)),
            CodeSource::Generated => None,
        };
        self.ranges.push(Range { start: range.start, end: range.end, file });
        Ok(self.ranges.len() as u32 - 1)
    }

    /// Runs the instruction at the target by itself; decoded once where it is a file's.
    fn step_cached(
        &mut self,
        memory: &GuestMemory,
        code: &dyn CodeMap,
        stop: &AtomicU8,
    ) -> Result<u32, Exit> {
        let pc = self.machine.target;
        let range = self.range_of(pc, code)?;
        let Range { start, end, file: Some((file, offset)) } = &self.ranges[range as usize] else {
            return self.step_alone(memory, code, stop);
        };
        let (end, offset) = (*end, pc - start + offset);
        let known = file.single(offset);
        let Some(block) = known.or_else(|| {
            let block = decode::decode_one(&fetch(pc, end, memory))?;
            Some(file.insert_single(offset, block))
        }) else {
            return self.step_alone(memory, code, stop);
        };
        // SAFETY: the file is kept in `ranges`, which nothing changes before the block has run.
        let block = unsafe { block.get() };
        if pc + u64::from(block.length) > end {
            return self.step_alone(memory, code, stop);
        }
        self.machine.r[usize::from(BLOCK)] = pc;
        match run_block(&mut self.machine, block, memory, stop) {
            Next::Exit => Err(self.machine.exit),
            _ => {
                self.instructions += 1;
                Ok(block.length)
            }
        }
    }

    /// Runs one instruction for a program that set TF.
    fn single_step(&mut self, memory: &GuestMemory, code: &dyn CodeMap, stop: &AtomicU8) -> Exit {
        self.step_alone(memory, code, stop).map_or_else(|exit| exit, |_| Exit::Step)
    }

    /// Decodes and runs the instruction at the target; its length.
    fn step_alone(&mut self, memory: &GuestMemory, code: &dyn CodeMap, stop: &AtomicU8) -> Result<u32, Exit> {
        let pc = self.machine.target;
        let (bytes, end) = fetch_across(pc, memory, code);
        let Some(block) = decode::decode_one(&bytes) else {
            return Err(Exit::Fault(Fault { address: end, access: Access::Execute }));
        };
        self.machine.r[usize::from(BLOCK)] = pc;
        match run_block(&mut self.machine, &block, memory, stop) {
            Next::Exit => Err(self.machine.exit),
            _ => {
                self.instructions += 1;
                Ok(block.length)
            }
        }
    }
}

/// Runs a block to its end, with the general path where it asks for it.
#[inline(always)]
fn run_block(machine: &mut Machine, block: &Block, memory: &GuestMemory, stop: &AtomicU8) -> Next {
    let Some(mut operation) = block.operations.first() else { return Next::Jump };
    loop {
        let next = (operation.handler)(machine, operation, memory);
        if next != Next::General {
            return next;
        }
        match general(machine, block, memory, stop) {
            None => match block.operations.get(machine.resume as usize) {
                Some(next) => operation = next,
                None => {
                    // An instruction that ends blocks went on after all.
                    machine.target = machine.r[usize::from(BLOCK)].wrapping_add(block.length.into());
                    return Next::Jump;
                }
            },
            Some(next) => return next,
        }
    }
}

/// Runs an instruction of the general path; `None` when the block goes on.
#[inline(never)]
fn general(machine: &mut Machine, block: &Block, memory: &GuestMemory, stop: &AtomicU8) -> Option<Next> {
    let instruction = &block.general[machine.general as usize];
    let base = machine.r[usize::from(BLOCK)];
    let flow = Step { m: machine, memory, i: instruction, stop }.run();
    match flow {
        Ok(Flow::Next) => None,
        Ok(Flow::Jump(target)) => {
            machine.target = target;
            Some(Next::Jump)
        }
        Ok(Flow::ExitAfter(exit)) => {
            machine.exit = exit;
            machine.target = base.wrapping_add(instruction.next_ip());
            Some(Next::Exit)
        }
        Err(exit) => {
            machine.exit = exit;
            machine.target = base.wrapping_add(instruction.ip());
            Some(Next::Exit)
        }
    }
}

/// How many instructions of a block did not run, when it was left for `machine.target`.
fn unfinished(machine: &Machine, block: &Block, pc: u64) -> u32 {
    let reached = machine.target.wrapping_sub(pc);
    if reached >= u64::from(block.length) {
        return 0;
    }
    let done = block.operations.iter().filter(|operation| u64::from(operation.offset) < reached).count();
    block.count.saturating_sub(done as u32)
}

/// The bytes of a range from `pc` on, as many as a block can need.
fn fetch(pc: u64, end: u64, memory: &GuestMemory) -> Vec<u8> {
    let mut bytes = vec![0; MAX_BYTES.min((end - pc) as usize)];
    if let Err(fault) = memory.read(pc, &mut bytes) {
        bytes.truncate(fault.done);
    }
    bytes
}

/// As `fetch`, going on in ranges that follow without a gap; also where it stopped.
fn fetch_across(pc: u64, memory: &GuestMemory, code: &dyn CodeMap) -> (Vec<u8>, u64) {
    let mut bytes: Vec<u8> = Vec::new();
    let mut at = pc;
    while bytes.len() < MAX_BYTES
        && let Some(range) = code.code_at(at)
        && at >= range.start
        && at < range.end
    {
        let part = fetch(at, range.end, memory);
        if part.is_empty() {
            break;
        }
        at += part.len() as u64;
        bytes.extend(part);
    }
    bytes.truncate(MAX_BYTES);
    (bytes, at)
}
