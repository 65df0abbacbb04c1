//! Delivering signals: what happens before a thread runs guest code again.

use std::sync::Arc;

use cooper_x86::state::{CpuState, FLAGS_WRITABLE, MXCSR_INITIAL, X87, flag, register};

use super::pending::INFO_SIZE;
use super::{
    Action, AlternateStack, DefaultAction, Detail, SIG_DFL, SIG_IGN, SignalInfo, SignalSet, action_flag,
    default_action, send, signal,
};
use crate::memory::AddressSpace;
use crate::syscalls::SysError;
use crate::task::process::ExitStatus;
use crate::task::table::Report;
use crate::task::{Task, exit};
use crate::wait::lock;

/// A system call that was interrupted and whose result depends on what happens now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted {
    /// Its number, to run it again.
    pub(crate) number: u64,
    /// How it ended.
    pub(crate) how: SysError,
}

/// What the thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Run guest code.
    Run,
    /// End.
    End,
}

/// Looks at everything that is new for the thread.
pub(crate) fn attend(
    task: &Arc<Task>,
    cpu: &mut CpuState,
    space: &AddressSpace,
    mut interrupted: Option<Interrupted>,
) -> Next {
    loop {
        task.stop.lower();
        if task.is_killed() {
            return Next::End;
        }
        if lock(&task.process().state).stopped.is_some() {
            stay_stopped(task);
            continue;
        }
        let Some((info, action)) = take_signal(task) else { break };
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => by_default(task, info.number),
            _ => {
                if let Some(call) = interrupted.take() {
                    finish_call(task, cpu, call, Some(action));
                }
                if run_handler(task, cpu, space, &info, action).is_err() {
                    bad_frame(task, info.number);
                }
            }
        }
    }
    if let Some(call) = interrupted {
        finish_call(task, cpu, call, None);
    }
    if lock(&task.saved_mask).is_some() {
        task.restore_mask();
        return attend(task, cpu, space, None);
    }
    Next::Run
}

/// A handler whose frame cannot be written: `SIGSEGV`, and if that was the signal, without its handler.
fn bad_frame(task: &Arc<Task>, number: u32) {
    if number == signal::SEGV {
        lock(&task.process().actions()).set(signal::SEGV, Action::default());
    }
    send::force(task, SignalInfo::kernel(signal::SEGV));
}

/// Decides what an interrupted call gives: the call again, or `EINTR`.
fn finish_call(task: &Task, cpu: &mut CpuState, call: Interrupted, handler: Option<Action>) {
    let again = match (call.how, handler) {
        (_, None) => true,
        (SysError::Restart, Some(action)) => action.flags & action_flag::RESTART != 0,
        (_, Some(_)) => false,
    };
    if again {
        cpu.gpr[register::RAX] = call.number;
        cpu.rip = cpu.rip.wrapping_sub(2);
    } else {
        cpu.gpr[register::RAX] = -i64::from(cooper_vfs::Errno::INTR.raw_os_error()) as u64;
    }
    if handler.is_some() {
        task.forget_deadline();
    }
}

/// Takes the next signal that is not blocked, with its action; `SA_RESETHAND` is done.
fn take_signal(task: &Task) -> Option<(SignalInfo, Action)> {
    let process = task.process();
    let mut state = lock(&process.state);
    let wanted = SignalSet(!task.mask().0);
    let own = lock(&task.pending).take(wanted);
    let info = own.or_else(|| state.pending.take(wanted))?;
    drop(state);
    let actions = process.actions();
    let mut actions = lock(&actions);
    let action = actions.get(info.number);
    if action.flags & action_flag::RESETHAND != 0 && !matches!(action.handler, SIG_DFL | SIG_IGN) {
        actions.set(info.number, Action::default());
    }
    Some((info, action))
}

fn by_default(task: &Arc<Task>, number: u32) {
    let process = task.process();
    if process.is_init() {
        return;
    }
    match default_action(number) {
        DefaultAction::Ignore | DefaultAction::Continue => {}
        DefaultAction::Terminate => process.begin_exit(ExitStatus::Signal(number as u8)),
        DefaultAction::Core => process.begin_exit(ExitStatus::Core(number as u8)),
        DefaultAction::Stop => stop(task, number),
    }
}

/// Stops the whole group and tells the parent.
fn stop(task: &Arc<Task>, number: u32) {
    let process = task.process();
    let mut table = lock(&task.kernel().table);
    let group = table.process(process.pid()).map_or(0, |node| node.group);
    if number != signal::STOP && table.is_orphaned(group) {
        return;
    }
    {
        let mut state = lock(&process.state);
        if state.exiting.is_some() || state.stopped.is_some() {
            return;
        }
        state.stopped = Some(number);
        state.threads.iter().filter(|other| !Arc::ptr_eq(other, task)).for_each(|other| other.notify());
    }
    exit::report_to_parent(&mut table, process.pid(), Report::Stopped(number));
}

/// Waits until the group goes on.
fn stay_stopped(task: &Task) {
    let process = task.process();
    let going = || lock(&process.state).stopped.is_none().then_some(());
    // The only other end is the thread's death, which the caller looks at next.
    let _ = task.wait_killable(&[&process.state_changed], going);
}

/// Bytes below the stack pointer that belong to the interrupted code.
const RED_ZONE: u64 = 128;
/// Offset of the user context in a frame, behind the return address.
const CONTEXT: usize = 8;
/// Offset of the machine context in a user context.
const MACHINE: usize = 40;
/// Offset of the signal mask in a user context.
const MASK: usize = 296;
/// Offset of `siginfo_t` in a frame.
const INFO: usize = CONTEXT + 304;
/// Size of a frame without the floating point state.
const FRAME: usize = INFO + INFO_SIZE;
/// Size of the floating point state.
const FLOATS: u64 = 512;
/// `UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const CONTEXT_FLAGS: u64 = 6;
/// The registers in the order of the machine context, before `rip`.
const ORDER: [usize; 16] = [
    register::R8,
    register::R9,
    register::R10,
    register::R11,
    register::R12,
    register::R13,
    register::R14,
    register::R15,
    register::RDI,
    register::RSI,
    register::RBP,
    register::RBX,
    register::RDX,
    register::RAX,
    register::RCX,
    register::RSP,
];
/// Code, gs, fs and stack segment of 64-bit user code.
const SEGMENTS: u64 = 0x33 | 0x2b << 48;
/// `SS_ONSTACK`.
pub(crate) const ON_STACK: u32 = 1;
/// `SS_DISABLE`.
pub(crate) const DISABLED: u32 = 2;
/// `SS_AUTODISARM`.
pub(crate) const AUTO_DISARM: u32 = 1 << 31;

/// Builds the frame of a handler and lets the thread go on in it. `EFAULT` when the stack cannot be written.
fn run_handler(
    task: &Task,
    cpu: &mut CpuState,
    space: &AddressSpace,
    info: &SignalInfo,
    action: Action,
) -> Result<(), cooper_vfs::Errno> {
    let old_mask = lock(&task.saved_mask).take().unwrap_or_else(|| task.mask());
    let alternate = *lock(&task.alternate_stack);
    let stack = cpu.gpr[register::RSP];
    let on_alternate = alternate.holds(stack) && alternate.flags & AUTO_DISARM == 0;
    let switch = action.flags & action_flag::ONSTACK != 0 && alternate.size != 0 && !on_alternate;
    let top = if switch { alternate.base.wrapping_add(alternate.size) } else { stack.wrapping_sub(RED_ZONE) };
    let floats = top.wrapping_sub(FLOATS) & !63;
    let frame = (floats.wrapping_sub(FRAME as u64) & !15).wrapping_sub(8);
    if switch && frame < alternate.base {
        return Err(cooper_vfs::Errno::FAULT);
    }
    let mut bytes = [0; FRAME];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, action.restorer);
    put(CONTEXT, CONTEXT_FLAGS);
    put(CONTEXT + 16, alternate.base);
    put(CONTEXT + 24, u64::from(stack_flags(alternate, stack)));
    put(CONTEXT + 32, alternate.size);
    let machine = CONTEXT + MACHINE;
    for (index, register) in ORDER.iter().enumerate() {
        put(machine + 8 * index, cpu.gpr[*register]);
    }
    put(machine + 128, cpu.rip);
    put(machine + 136, cpu.flags);
    put(machine + 144, SEGMENTS);
    if let Detail::Fault { address, trap, error } = info.detail {
        put(machine + 152, error);
        put(machine + 160, u64::from(trap));
        put(machine + 176, address);
    }
    put(machine + 168, old_mask.0);
    put(machine + 184, floats);
    put(CONTEXT + MASK, old_mask.0);
    bytes[INFO..].copy_from_slice(&info.to_bytes());
    space.write_bytes(floats, &cpu.fxsave())?;
    space.write_bytes(frame, &bytes)?;
    if alternate.flags & AUTO_DISARM != 0 {
        *lock(&task.alternate_stack) = AlternateStack::NONE;
    }
    let mut mask = task.mask().union(action.mask);
    if action.flags & action_flag::NODEFER == 0 {
        mask = mask.with(info.number);
    }
    task.set_mask(mask);
    cpu.gpr[register::RDI] = u64::from(info.number);
    cpu.gpr[register::RSI] = frame + INFO as u64;
    cpu.gpr[register::RDX] = frame + CONTEXT as u64;
    cpu.gpr[register::RAX] = 0;
    cpu.gpr[register::RSP] = frame;
    cpu.rip = action.handler;
    cpu.flags &= !(flag::DF | flag::TF);
    cpu.mxcsr = MXCSR_INITIAL;
    cpu.x87 = X87::INITIAL;
    cpu.xmm = [0; 16];
    Ok(())
}

/// The flags that `sigaltstack` shows.
pub(crate) fn stack_flags(stack: AlternateStack, pointer: u64) -> u32 {
    if stack.size == 0 {
        return DISABLED;
    }
    let on = if stack.holds(pointer) && stack.flags & AUTO_DISARM == 0 { ON_STACK } else { 0 };
    stack.flags | on
}

/// Goes back to where a handler interrupted (`rt_sigreturn`); a frame that cannot be read is `SIGSEGV`.
pub(crate) fn leave_handler(task: &Arc<Task>, cpu: &mut CpuState, space: &AddressSpace) {
    if restore(task, cpu, space).is_err() {
        send::force(task, SignalInfo::kernel(signal::SEGV));
    }
}

fn restore(task: &Task, cpu: &mut CpuState, space: &AddressSpace) -> Result<(), cooper_vfs::Errno> {
    // The handler's `ret` took the return address off.
    let frame = cpu.gpr[register::RSP].wrapping_sub(8);
    let bytes: [u8; INFO] = space.load(frame)?;
    let word = |at: usize| {
        let mut own = [0; 8];
        own.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(own)
    };
    let machine = CONTEXT + MACHINE;
    let floats = word(machine + 184);
    let image: Option<[u8; 512]> = if floats == 0 { None } else { Some(space.load(floats)?) };
    for (index, register) in ORDER.iter().enumerate() {
        cpu.gpr[*register] = word(machine + 8 * index);
    }
    cpu.rip = word(machine + 128);
    cpu.flags = cpu.flags & !FLAGS_WRITABLE | word(machine + 136) & FLAGS_WRITABLE;
    if let Some(image) = image {
        cpu.fxrstor(&image);
    } else {
        cpu.x87 = X87::INITIAL;
        cpu.mxcsr = MXCSR_INITIAL;
    }
    task.set_mask(SignalSet(word(CONTEXT + MASK)));
    let flags = word(CONTEXT + 24) as u32;
    let stack =
        AlternateStack { base: word(CONTEXT + 16), size: word(CONTEXT + 32), flags: flags & AUTO_DISARM };
    *lock(&task.alternate_stack) = if flags & DISABLED != 0 { AlternateStack::NONE } else { stack };
    Ok(())
}
