//! Port input and output (SDM 28.1.3): every port is the board's.

use godwit_vmx::exit::{IoAccess, IoDirection};
use godwit_vmx::vmcs::VmcsAccess;

use super::context::{Context, Outcome};
use crate::devices::Width;
use crate::guest_memory::GuestMemory;

/// IN or OUT of AL, AX or EAX.
#[inline]
pub(super) fn handle<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    access: IoAccess,
) -> Outcome {
    let width = match access.size {
        1 => Width::Byte,
        2 => Width::Word,
        _ => Width::Dword,
    };
    if access.is_string {
        return super::string_port::handle(context, access, width);
    }
    let now = context.clock.now();
    match access.direction {
        IoDirection::Out => {
            let value = context.cpu.registers.rax as u32 & width.mask() as u32;
            context.board.port_write(now, access.port, width, value);
        }
        IoDirection::In => {
            let value = u64::from(context.board.port_read(now, access.port, width));
            let rax = &mut context.cpu.registers.rax;
            // A 32-bit result clears the upper half of the register, a narrower one keeps the rest.
            *rax = if width == Width::Dword { value } else { *rax & !width.mask() | value & width.mask() };
        }
    }
    context.cpu.attention = true;
    Outcome::Skip
}
