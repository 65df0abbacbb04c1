//! The loop of a guest thread: run guest code, serve what it asks for, look at signals.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cooper_vfs::Errno;
use cooper_x86::interpreter::Exit;
use cooper_x86::memory::{Access, Fault};
use cooper_x86::state::{CpuState, register};

use super::process::ExitStatus;
use super::{Task, exit, host_thread};
use crate::cx::Cx;
use crate::kernel::{Executor, Flow, Supervisor};
use crate::memory::{AddressSpace, FaultCause};
use crate::signal::deliver::{Interrupted, Next, attend};
use crate::signal::pending::code;
use crate::signal::{DefaultAction, Detail, SignalInfo, default_action, send, signal};
use crate::stop::StopFlag;
use crate::syscalls::{self, SysError};
use crate::wait::lock;

/// How often in a row one address may fault although its area allows the access.
const MAX_RETRIES: u32 = 8;

struct Thread {
    cpu: CpuState,
    executor: Box<dyn Executor>,
    service: Service,
}

/// What serves the guest code of one thread.
struct Service {
    task: Arc<Task>,
    space: Arc<AddressSpace>,
    instructions: u64,
    last_fault: (u64, u32),
}

/// Starts the host thread of a task that is in all lists already. `EAGAIN` when the host has no thread.
pub(crate) fn start(task: Arc<Task>, cpu: CpuState, space: Arc<AddressSpace>) -> Result<(), Errno> {
    let executor = task.kernel().executors.executor();
    space.join(&task);
    let service = Service { task, space, instructions: 0, last_fault: (0, 0) };
    let thread = Thread { cpu, executor, service };
    host_thread::run(Box::new(move || thread.run()))
}

impl Thread {
    fn run(mut self) {
        self.service.task.clock.begin();
        // A panic is our bug; the guest thread ends with it instead of staying in the tables for ever.
        let run = || self.executor.run(&mut self.cpu, &mut self.service);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let Service { task, .. } = &self.service;
        if caught.is_err() {
            task.kernel().hint("internal error: a kernel thread panicked".to_owned());
            task.process().begin_exit(ExitStatus::Signal(signal::KILL as u8));
        }
        self.service.account(self.executor.instructions());
        let Service { task, space, .. } = self.service;
        // What the executor keeps of the memory goes first.
        drop(self.executor);
        let status = task.own_exit_status();
        exit::leave(&task, space, status);
    }
}

impl Supervisor for Service {
    fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    fn stop(&self) -> &StopFlag {
        &self.task.stop
    }

    fn is_brief(&self) -> bool {
        lock(&self.task.vfork_done).is_some()
    }

    fn serve(&mut self, cpu: &mut CpuState, exit: Exit, instructions: u64) -> Flow {
        let interrupted = match exit {
            Exit::Syscall => self.system_call(cpu),
            Exit::Stopped => None,
            other => {
                self.trap(cpu, other);
                None
            }
        };
        if !self.task.stop.is_raised() && interrupted.is_none() {
            return Flow::Run;
        }
        self.account(instructions);
        match attend(&self.task, cpu, &self.space, interrupted) {
            Next::Run => Flow::Run,
            Next::End => Flow::End,
        }
    }

    fn fail(&mut self, signal: u32) -> Flow {
        let status = match default_action(signal) {
            DefaultAction::Core => ExitStatus::Core(signal as u8),
            _ => ExitStatus::Signal(signal as u8),
        };
        self.task.process().begin_exit(status);
        Flow::End
    }

    fn hint(&self, hint: String) {
        self.task.kernel().hint(hint);
    }
}

impl Service {
    /// Notes processor time and instructions.
    fn account(&mut self, now: u64) {
        self.task.clock.note();
        let new = now.saturating_sub(std::mem::replace(&mut self.instructions, now));
        self.task.kernel().instructions.fetch_add(new, Ordering::Relaxed);
    }

    fn system_call(&mut self, cpu: &mut CpuState) -> Option<Interrupted> {
        let gpr = &cpu.gpr;
        let number = gpr[register::RAX];
        let arguments = [
            gpr[register::RDI],
            gpr[register::RSI],
            gpr[register::RDX],
            gpr[register::R10],
            gpr[register::R8],
            gpr[register::R9],
        ];
        let entry = syscalls::entry(number);
        let start = Instant::now();
        let result = match entry {
            Some(entry) => {
                let mut cx = Cx::new(&self.task, cpu, &mut self.space, number);
                (entry.handler)(&mut cx, arguments)
            }
            None => {
                self.task.kernel().count_unimplemented(&format!("#{number}"));
                Err(Errno::NOSYS.into())
            }
        };
        self.task.clock.count_handler(start);
        tracing::trace!(
            tid = self.task.tid(),
            name = entry.map_or("?", |entry| entry.name),
            arguments = format_args!("{arguments:x?}"),
            result = format_args!("{result:x?}"),
            "syscall"
        );
        self.finish(cpu, number, result)
    }

    fn finish(
        &mut self,
        cpu: &mut CpuState,
        number: u64,
        result: Result<u64, SysError>,
    ) -> Option<Interrupted> {
        let value = match result {
            Ok(value) => value,
            Err(SysError::Errno(errno)) => -i64::from(errno.raw_os_error()) as u64,
            Err(SysError::NoReturn) => {
                self.task.forget_deadline();
                return None;
            }
            Err(how @ (SysError::Restart | SysError::RestartNoHandler)) => {
                // Until a handler is known to run, the registers are those of the call.
                return Some(Interrupted { number, how });
            }
        };
        self.task.forget_deadline();
        self.task.restore_mask();
        cpu.gpr[register::RAX] = value;
        None
    }

    /// Turns a fault of guest code into a signal.
    fn trap(&mut self, cpu: &CpuState, exit: Exit) {
        let rip = cpu.rip;
        let info = |number: u32, code: i32, address: u64, trap: u32, error: u64| SignalInfo {
            number,
            errno: 0,
            code,
            detail: Detail::Fault { address, trap, error },
        };
        let info = match exit {
            Exit::Syscall | Exit::Stopped | Exit::Enter(_) | Exit::Returned => return,
            // An address that is not canonical is a general protection fault, as on the processor.
            Exit::Fault(fault) if !is_canonical(fault.address) => protection(),
            Exit::Fault(fault) => match self.fault(fault) {
                Some(info) => info,
                None => return,
            },
            Exit::Illegal => {
                self.task.kernel().hint(self.illegal_hint(rip));
                info(signal::ILL, code::ILLEGAL_OPERAND, rip, 6, 0)
            }
            Exit::DivideError => info(signal::FPE, code::INTEGER_DIVIDE, rip, 0, 0),
            Exit::Breakpoint => SignalInfo::kernel(signal::TRAP),
            Exit::Step => info(signal::TRAP, code::TRACE, rip, 1, 0),
            Exit::GeneralProtection => protection(),
            Exit::FloatingPoint => info(signal::FPE, code::FLOAT_INVALID, rip, 19, 0),
        };
        tracing::trace!(tid = self.task.tid(), rip = format_args!("{rip:#x}"), signal = ?info, "trap");
        send::force(&self.task, info);
    }

    fn illegal_hint(&self, rip: u64) -> String {
        let mut bytes = [0; 15];
        let count = self.space.read_some(rip, &mut bytes).unwrap_or(0);
        let name = self.task.name();
        let name = String::from_utf8_lossy(&name);
        format!("`{name}` ran an instruction that is undefined or not supported: {:02x?}", &bytes[..count])
    }

    fn fault(&mut self, fault: Fault) -> Option<SignalInfo> {
        let Fault { address, access } = fault;
        let (number, code) = match self.space.fault_cause(address, access) {
            FaultCause::Retry => {
                let (last, count) = self.last_fault;
                self.last_fault = (address, if last == address { count + 1 } else { 0 });
                if self.last_fault.1 < MAX_RETRIES {
                    return None;
                }
                (signal::SEGV, code::ACCESS_ERROR)
            }
            FaultCause::NoArea => (signal::SEGV, code::MAP_ERROR),
            FaultCause::NoRight => (signal::SEGV, code::ACCESS_ERROR),
            FaultCause::BeyondFile => (signal::BUS, code::BUS_ADDRESS),
        };
        let present = u64::from(code == code::ACCESS_ERROR && number == signal::SEGV);
        let error = 4
            | present
            | match access {
                Access::Read => 0,
                Access::Write => 2,
                Access::Execute => 16,
            };
        Some(SignalInfo { number, errno: 0, code, detail: Detail::Fault { address, trap: 14, error } })
    }
}

fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

fn protection() -> SignalInfo {
    SignalInfo {
        detail: Detail::Fault { address: 0, trap: 13, error: 0 },
        ..SignalInfo::kernel(signal::SEGV)
    }
}

/// Ends the whole process with a code (`exit_group`).
pub(crate) fn exit_group(task: &Task, code: u8) {
    task.process().begin_exit(ExitStatus::Code(code));
}

/// Ends this thread (`exit`).
pub(crate) fn exit_thread(task: &Task, code: u8) {
    *lock(&task.exit_code) = code;
    task.kill();
}
