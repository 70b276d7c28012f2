//! EPT violations: RAM that is being tracked, device registers, and addresses where nobody is.

use godwit_vmx::exit::EptViolation;
use godwit_vmx::vmcs::VmcsAccess;

use super::context::{Context, Outcome};
use super::stop::StopReason;
use crate::guest_memory::GuestMemory;

/// Handles a violation.
#[inline]
pub(super) fn handle<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    violation: EptViolation,
) -> Outcome {
    if context.memory.read(violation.address, &mut [0]).is_ok() {
        return Outcome::RamViolation(violation);
    }
    Outcome::Stop(StopReason::CannotEmulate {
        address: violation.address,
        rip: context.rip(),
        problem: "no emulator",
    })
}
