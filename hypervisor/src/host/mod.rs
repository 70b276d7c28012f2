//! The host as a whole: what each CPU's loop does.
//!
//! CPU 0 owns the serial console and the network ([`machine::Machine`]); the other CPUs wait to be given guests.
//! A loop runs with interrupts on, so that input is queued and output flows while it works. Before it waits it
//! turns them off, looks whether anything has become due, and only then waits: [`percpu::idle`].

mod guest_view;
mod inspect;
mod load;
mod log_reader;
mod machine;
mod machines;
mod migration_view;
mod network;
mod terminal;

use core::time::Duration;

use crate::arch::{interrupts, percpu, serial};
use crate::console::Console;
use crate::platform::time::{self, Instant};
use crate::platform::{Platform, log};
use crate::sched::{self, CpuLoop, Turn};

use machine::Machine;
use terminal::Terminal;

/// The longest wait: a device whose interrupt does not get through is still served.
const WAIT_MAX: Duration = Duration::from_millis(10);
/// What a guest on this CPU gets at least between two looks at the devices, however busy they are.
const SLICE_MIN: Duration = Duration::from_micros(200);
/// Bytes taken from the serial port at once.
const TYPED_MAX: usize = 64;

/// The boot CPU's loop.
pub fn run(platform: &'static Platform) -> ! {
    platform.describe();
    let mut machine = Machine::new(platform, Instant::now());
    let mut console = Console::new(machine.host_name());
    // From here on the console shows what is grave, above the line that is being typed.
    log::set_echo(::log::LevelFilter::Off);
    let mut guests = guest_loop();
    let mut due = Instant::ZERO;
    loop {
        // Guests first: what they sent is then shown in the same turn.
        let turn = match &mut guests {
            Some(guests) => guests.turn(platform.clock.ticks(due.max(Instant::now() + SLICE_MIN))),
            None => {
                sched::turn_away();
                Turn::Idle(u64::MAX)
            }
        };
        let now = Instant::now();
        due = machine.poll(now).min(now + WAIT_MAX);
        type_in(&mut console);
        if let Some(wanted) = console.poll(now.since(Instant::ZERO), &mut machine, &mut Terminal) {
            due = due.min(Instant::ZERO + wanted);
        }
        if let Turn::Idle(ticks) = turn {
            rest(due.min(platform.clock.instant(ticks)), &machine);
        }
    }
}

/// The part of a CPU's loop that runs guests, if guests can run here.
fn guest_loop() -> Option<CpuLoop> {
    let platform = machines::get().ok()?;
    match CpuLoop::new(platform) {
        Ok(guests) => Some(guests),
        Err(error) => {
            ::log::error!("CPU {} runs no guests: {error}", percpu::index());
            None
        }
    }
}

/// Hands what was typed to the console, as far as it takes it.
fn type_in(console: &mut Console) {
    let mut bytes = [0; TYPED_MAX];
    let count = serial::read(&mut bytes[..console.room().min(TYPED_MAX)]);
    console.input(&bytes[..count]);
}

/// Waits until `due` or an interrupt, unless something has come up already.
fn rest(due: Instant, machine: &Machine) {
    interrupts::disable();
    if due > Instant::now() && !serial::has_input() && !machine.is_called() && !is_raised() {
        time::arm_wakeup(due);
        percpu::idle();
    }
    interrupts::enable();
}

/// Whether another CPU has something for this one.
fn is_raised() -> bool {
    percpu::current().is_some_and(percpu::PerCpu::has_events)
}

/// The loop of every other CPU.
pub fn run_other() -> ! {
    ::log::info!("CPU {} runs", percpu::index());
    match machines::get() {
        Ok(platform) => sched::run_guests(platform),
        Err(_) => loop {
            percpu::idle();
        },
    }
}
