//! Both tiers in lock-step.
//!
//! Between two exits to the kernel a thread depends on nothing but its registers and its memory. So at the start of such a
//! [`Segment`] the memory is copied and the interpreter runs the copy to its end; then the thread runs as usual, in both tiers, and at its
//! exit registers and memory must be what they are there. Where they are not, the interpreter goes through the segment once more,
//! in a second copy, beside the registers that were noted whenever the tiers changed: what lies between the last that agree and
//! the first that do not is where translated code went wrong.
//!
//! What must hold: only segments that nothing else can disturb are compared: no other thread, no shared memory, no stop byte.
//! What goes unseen are flags that no code looks at, and segments that read the clock (`rdtsc`): they differ by their nature.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use cooper_kernel::memory::AddressSpace;
use cooper_x86::code::SharedCode;
use cooper_x86::interpreter::{Bounds, Exit, Interpreter};
use cooper_x86::state::{CpuState, flag, register};

/// Changes of tiers that are noted in one segment.
const MAX_TRACE: usize = 1 << 14;
/// Names of the general registers in the order of the instruction encoding.
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// What the tiers disagree about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Where translated code was last known to be right.
    pub(crate) after: u64,
    /// Where it was first known to be wrong.
    pub(crate) at: u64,
    /// Register or address, with the values of both.
    pub(crate) what: String,
}

/// A stretch of guest code without the kernel.
struct Segment {
    start: CpuState,
    /// The memory at the start.
    origin: Arc<AddressSpace>,
    /// The memory as the interpreter has left it.
    shadow: Arc<AddressSpace>,
    exit: Exit,
    end: CpuState,
    instructions: u64,
    trace: Vec<CpuState>,
}

/// Checks one thread.
pub(crate) struct Verifier {
    code: Arc<SharedCode>,
    segment: Option<Box<Segment>>,
}

impl Verifier {
    /// A verifier that takes decoded code from `code`.
    pub(crate) fn new(code: Arc<SharedCode>) -> Self {
        Self { code, segment: None }
    }

    /// Starts a segment: runs it in the interpreter, on a copy.
    pub(crate) fn begin(&mut self, space: &AddressSpace, cpu: &CpuState, stop: &AtomicU8) {
        self.segment = None;
        let (Some(origin), Some(shadow)) = (space.snapshot(), space.snapshot()) else { return };
        let mut interpreter = Interpreter::new(self.code.clone());
        let mut end = cpu.clone();
        let exit = interpreter.run_within(&mut end, shadow.guest_memory(), &*shadow, stop, Bounds::NONE);
        if exit == Exit::Stopped {
            return;
        }
        let instructions = interpreter.instructions();
        let start = cpu.clone();
        let trace = Vec::new();
        self.segment = Some(Box::new(Segment { start, origin, shadow, exit, end, instructions, trace }));
    }

    /// Notes the registers at a change of tiers.
    pub(crate) fn note(&mut self, interpreter: &Interpreter) {
        if let Some(segment) = &mut self.segment
            && segment.trace.len() < MAX_TRACE
        {
            let mut cpu = segment.start.clone();
            interpreter.store(&mut cpu);
            segment.trace.push(cpu);
        }
    }

    /// Ends the segment with what the thread has come to.
    pub(crate) fn end(&mut self, space: &AddressSpace, exit: Exit, cpu: &CpuState) -> Option<Difference> {
        let segment = self.segment.take()?;
        if exit == Exit::Stopped {
            return None;
        }
        let mut what = difference(&segment.end, cpu);
        if what.is_none() && exit != segment.exit {
            what = Some(format!("exit: {:?} interpreted, {exit:?} translated", segment.exit));
        }
        let what = what.or_else(|| {
            let (address, ours, theirs) = space.first_difference(&segment.shadow)?;
            Some(format!("byte at {address:#x}: {theirs:#x} interpreted, {ours:#x} translated"))
        })?;
        segment.locate(&self.code, what, cpu.rip)
    }
}

impl Segment {
    /// Finds the first change of tiers at which the registers are not those that the interpreter has there; `None` when the
    /// segment reads the clock.
    fn locate(&self, code: &Arc<SharedCode>, what: String, end: u64) -> Option<Difference> {
        let mut replay = Replay {
            interpreter: Interpreter::new(code.clone()),
            memory: &self.origin,
            budget: self.instructions,
            reads_clock: false,
        };
        replay.interpreter.load(&self.start);
        let mut after = self.start.rip;
        let mut found = None;
        for noted in &self.trace {
            if let Err(unlike) = replay.reach(noted) {
                found = Some((noted.rip, unlike));
                break;
            }
            after = noted.rip;
        }
        while replay.step() {}
        let (at, unlike) = found.unwrap_or((end, None));
        (!replay.reads_clock).then(|| Difference { after, at, what: unlike.unwrap_or(what) })
    }
}

/// The interpreter on its second way through a segment.
struct Replay<'a> {
    interpreter: Interpreter,
    memory: &'a AddressSpace,
    /// Instructions that are left of the segment.
    budget: u64,
    reads_clock: bool,
}

impl Replay<'_> {
    /// Runs until the registers are these; why not, where they never are: what differs when the thread is at their place first, if
    /// it ever is.
    fn reach(&mut self, wanted: &CpuState) -> Result<(), Option<String>> {
        let mut nearest = None;
        loop {
            let place = (self.interpreter.rip(), self.interpreter.rsp());
            if place == (wanted.rip, wanted.gpr[register::RSP]) {
                let mut seen = wanted.clone();
                self.interpreter.store(&mut seen);
                match difference(&seen, wanted) {
                    Some(unlike) => nearest.get_or_insert(unlike),
                    None => return Ok(()),
                };
            }
            if !self.step() {
                return Err(nearest);
            }
        }
    }

    /// Runs one instruction; `false` at the end of the segment.
    fn step(&mut self) -> bool {
        /// `rdtsc` and `rdtscp`.
        const CLOCK: [&[u8]; 2] = [&[0x0f, 0x31], &[0x0f, 0x01, 0xf9]];
        let memory = self.memory.guest_memory();
        let at = self.interpreter.rip();
        self.reads_clock |= CLOCK.iter().any(|code| memory.compare_bytes(at, code) == Ok(true));
        let Some(left) = self.budget.checked_sub(1) else { return false };
        self.budget = left;
        self.interpreter.step(memory, self.memory, &AtomicU8::new(0)).is_ok()
    }
}

/// The first register that differs, as text; flags that only a later instruction could have needed are left out.
fn difference(interpreted: &CpuState, translated: &CpuState) -> Option<String> {
    let pair = |name: &str, ours: u128, theirs: u128| {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(text, "{name}: {ours:#x} interpreted, {theirs:#x} translated");
        text
    };
    if interpreted.rip != translated.rip {
        return Some(pair("rip", interpreted.rip.into(), translated.rip.into()));
    }
    // `syscall` puts the flags there.
    let is_flags = |index: usize| index == register::R11;
    let general = (0..16).find(|&index| {
        let unlike = interpreted.gpr[index] ^ translated.gpr[index];
        unlike & !(if is_flags(index) { flag::ARITHMETIC } else { 0 }) != 0
    });
    if let Some(index) = general {
        return Some(pair(NAMES[index], interpreted.gpr[index].into(), translated.gpr[index].into()));
    }
    if let Some(index) = (0..16).find(|&index| interpreted.xmm[index] != translated.xmm[index]) {
        return Some(pair(&format!("xmm{index}"), interpreted.xmm[index], translated.xmm[index]));
    }
    let others = [
        ("flags", interpreted.flags & !flag::ARITHMETIC, translated.flags & !flag::ARITHMETIC),
        ("fs", interpreted.fs_base, translated.fs_base),
        ("gs", interpreted.gs_base, translated.gs_base),
        ("mxcsr", interpreted.mxcsr.into(), translated.mxcsr.into()),
    ];
    if let Some((name, ours, theirs)) = others.into_iter().find(|(_, ours, theirs)| ours != theirs) {
        return Some(pair(name, ours.into(), theirs.into()));
    }
    (interpreted.x87 != translated.x87).then(|| "x87: the registers differ".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_named_and_dead_flags_left_out() {
        let one = CpuState::at_entry(0x1000, 0x2000);
        let mut other = one.clone();
        other.flags ^= flag::ZF;
        other.gpr[register::R11] ^= flag::CF;
        assert_eq!(difference(&one, &other), None);
        other.xmm[3] = 7;
        assert_eq!(difference(&one, &other).as_deref(), Some("xmm3: 0x0 interpreted, 0x7 translated"));
        other.gpr[register::RBX] = 1;
        assert_eq!(difference(&one, &other).as_deref(), Some("rbx: 0x0 interpreted, 0x1 translated"));
        other.rip = 0x1004;
        assert_eq!(difference(&one, &other).as_deref(), Some("rip: 0x1000 interpreted, 0x1004 translated"));
    }
}
