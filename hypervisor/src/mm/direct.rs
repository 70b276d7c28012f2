//! The direct map: where RAM is seen.

use godwit_boot::handoff::DIRECT_MAP;
use x86_64::{PhysAddr, VirtAddr};

/// Where the hypervisor sees the RAM at `address`.
///
/// Valid for RAM only; the address arithmetic itself cannot fail, since physical addresses have 52 bits.
#[inline]
#[must_use]
pub fn at(address: PhysAddr) -> VirtAddr {
    VirtAddr::new_truncate(DIRECT_MAP + address.as_u64())
}

/// The physical address that the hypervisor sees at `address`, if that lies in the direct map.
#[inline]
#[must_use]
pub fn physical(address: VirtAddr) -> Option<PhysAddr> {
    PhysAddr::try_new(address.as_u64().wrapping_sub(DIRECT_MAP)).ok()
}
