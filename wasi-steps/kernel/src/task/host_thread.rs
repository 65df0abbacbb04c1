//! The host threads that run guest threads.
//!
//! A thread with its stacks costs the host some 30 calls, more than many a guest thread makes. So one whose guest thread has ended waits a
//! moment for the next, with whatever it keeps.
//!
//! What must hold: a job that was handed to a thread is run: a thread that has waited long enough leaves only after it has taken itself
//! off the list.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use cooper_vfs::Errno;

use crate::kernel::HOST_STACK;
use crate::wait::lock;

/// The most threads that wait.
const MAX_IDLE: usize = 16;
/// How long one waits.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a thread is for.
type Job = Box<dyn FnOnce() + Send>;

/// A thread that waits.
struct Idle {
    id: u64,
    jobs: Sender<Job>,
}

/// Those that wait, the last to have come at the end.
static IDLE: Mutex<Vec<Idle>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Runs a job on a thread with a stack of [`HOST_STACK`] bytes. `EAGAIN` when the host has no thread.
///
/// The job must not panic.
pub(super) fn run(mut job: Job) -> Result<(), Errno> {
    // In a statement of its own, so that the list is free again.
    let mut idle = lock(&IDLE).pop();
    while let Some(thread) = idle {
        match thread.jobs.send(job) {
            Ok(()) => return Ok(()),
            Err(mpsc::SendError(returned)) => job = returned,
        }
        idle = lock(&IDLE).pop();
    }
    let builder = std::thread::Builder::new().name("guest".to_owned()).stack_size(HOST_STACK);
    builder.spawn(move || work(job)).map(|_| ()).map_err(|_| Errno::AGAIN)
}

fn work(first: Job) {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let mut next = Some(first);
    while let Some(job) = next {
        job();
        next = wait(id);
    }
}

/// Waits for the next job; `None` when none has come.
fn wait(id: u64) -> Option<Job> {
    let (jobs, coming) = mpsc::channel();
    {
        let mut idle = lock(&IDLE);
        if idle.len() >= MAX_IDLE {
            return None;
        }
        idle.push(Idle { id, jobs });
    }
    if let Ok(job) = coming.recv_timeout(PATIENCE) {
        return Some(job);
    }
    {
        let mut idle = lock(&IDLE);
        let own = idle.iter().position(|thread| thread.id == id);
        if let Some(own) = own {
            idle.swap_remove(own);
            return None;
        }
    }
    // Taken off by somebody who has a job.
    coming.recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_run() {
        let (done, ended) = mpsc::channel();
        for number in 0..200_u32 {
            let done = done.clone();
            run(Box::new(move || done.send(number).expect("somebody listens"))).expect("a thread");
        }
        drop(done);
        let mut numbers: Vec<u32> = ended.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..200).collect::<Vec<u32>>());
    }
}
