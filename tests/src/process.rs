//! Child processes that never outlive the lab.
//!
//! Every machine is started through one spawner thread that lives as long as the process, under
//! `setpriv --pdeathsig KILL`: the kernel then kills the machine when the lab dies, even by SIGKILL. (The death signal
//! follows the *thread* that forked, hence the thread of its own.)

use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock;

type Order = (Command, Sender<io::Result<Child>>);

static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();

fn spawner() -> &'static Mutex<Sender<Order>> {
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A caller that has gone away lost its machine too: dropping the reply kills nothing, so do it here.
                if let Err(returned) = reply.send(command.spawn())
                    && let Ok(mut child) = returned.0
                {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        });
        Mutex::new(orders)
    })
}

/// A running child; killed and reaped when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `program` with `arguments`; `prepare` sets directories and streams. Standard input is empty.
    ///
    /// # Errors
    /// The program (or `setpriv`) could not be started.
    pub fn start(
        program: &str,
        arguments: &[String],
        prepare: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(arguments).stdin(Stdio::null());
        prepare(&mut command);
        let (reply, answer) = channel();
        let gone = || io::Error::other("the spawner thread has ended");
        lock(spawner()).send((command, reply)).map_err(|_| gone())?;
        let child = answer.recv().map_err(|_| gone())??;
        Ok(Self { child })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status if the child has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until the child ends, at most `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the child and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_gone() {
        let process = Process::start("sleep", &["60".into()], |_| {}).unwrap();
        let path = format!("/proc/{}", process.id());
        assert!(std::path::Path::new(&path).exists());
        drop(process);
        assert!(!std::path::Path::new(&path).exists());
    }

    #[test]
    fn the_exit_status_is_reported() {
        let mut process = Process::start("false", &[], |_| {}).unwrap();
        let status = process.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(1));
    }
}
