//! EPT entries (SDM 29.3.2).

use bitflags::bitflags;
use x86_64::PhysAddr;

use crate::addr::Gfn;

bitflags! {
    /// What a guest may do with a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Permissions: u64 {
        /// Read.
        const READ = 1 << 0;
        /// Write.
        const WRITE = 1 << 1;
        /// Execute.
        const EXECUTE = 1 << 2;
    }
}

/// Memory type of a leaf (bits 5:3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum MemoryType {
    /// Uncacheable.
    Uncacheable = 0,
    /// Write-back.
    WriteBack = 6,
}

/// Size of a page that one leaf maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl PageSize {
    /// Level of the table whose entries map pages of this size; 1 is the lowest.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::Size4K => 1,
            Self::Size2M => 2,
            Self::Size1G => 3,
        }
    }

    /// The size that a leaf at `level` maps.
    #[must_use]
    pub const fn at_level(level: u8) -> Option<Self> {
        match level {
            1 => Some(Self::Size4K),
            2 => Some(Self::Size2M),
            3 => Some(Self::Size1G),
            _ => None,
        }
    }

    /// 4 KiB frames in a page.
    #[must_use]
    pub const fn frames(self) -> u64 {
        1 << (9 * (self.level() - 1))
    }

    /// Bytes in a page.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.frames() * crate::addr::PAGE_SIZE
    }
}

pub(super) const PERMISSIONS: u64 = 0b111;
/// The mapping's memory type counts, whatever the guest's page attributes say (SDM 29.3.7.2).
const IGNORE_PAT: u64 = 1 << 6;
pub(super) const LARGE: u64 = 1 << 7;
pub(super) const ACCESSED: u64 = 1 << 8;
pub(super) const DIRTY: u64 = 1 << 9;
/// Software bit (ignored by the processor): the page is writable, and W is withheld to log its first write.
pub(super) const LOGGED: u64 = 1 << 52;
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// One entry's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    pub(super) const fn table(frame: PhysAddr) -> Self {
        Self(frame.as_u64() | PERMISSIONS)
    }

    pub(super) const fn leaf(
        address: PhysAddr,
        size: PageSize,
        permissions: Permissions,
        memory_type: MemoryType,
    ) -> Self {
        let large = if size.level() > 1 { LARGE } else { 0 };
        Self(address.as_u64() | permissions.bits() | (memory_type as u64) << 3 | IGNORE_PAT | large)
    }

    pub(super) const fn is_present(self) -> bool {
        self.0 & PERMISSIONS != 0
    }

    pub(super) const fn is_leaf(self, level: u8) -> bool {
        level == 1 || self.0 & LARGE != 0
    }

    pub(super) const fn address(self) -> PhysAddr {
        PhysAddr::new_truncate(self.0 & ADDRESS)
    }

    /// This leaf of `level` as its child `index` one level below would be: same attributes and flags.
    pub(super) const fn child(self, level: u8, index: u64) -> Self {
        let step = crate::addr::PAGE_SIZE << (9 * (level as u64 - 2));
        let large = if level > 2 { LARGE } else { 0 };
        Self((self.0 & !LARGE | large) + index * step)
    }
}

/// A mapping as [`super::Ept::lookup`] finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First guest frame of the page.
    pub first: Gfn,
    /// Where it is mapped to.
    pub address: PhysAddr,
    /// Page size.
    pub size: PageSize,
    /// Permissions, as if no write were being logged.
    pub permissions: Permissions,
    /// Accessed flag.
    pub accessed: bool,
    /// Dirty flag.
    pub dirty: bool,
    /// Writes are withheld to log the next one.
    pub logged: bool,
}

impl Leaf {
    pub(super) const fn new(first: Gfn, entry: Entry, size: PageSize) -> Self {
        let logged = entry.0 & LOGGED != 0;
        let granted = entry.0 & PERMISSIONS | if logged { Permissions::WRITE.bits() } else { 0 };
        Self {
            first,
            address: entry.address(),
            size,
            permissions: Permissions::from_bits_truncate(granted),
            accessed: entry.0 & ACCESSED != 0,
            dirty: entry.0 & DIRTY != 0,
            logged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a guest's page attributes would have the processor go past the host's caches to memory that the host copies.
    #[test]
    fn a_guest_cannot_give_memory_another_type_than_its_mapping_has() {
        let rights = Permissions::READ.union(Permissions::WRITE);
        for (size, large) in [(PageSize::Size4K, 0), (PageSize::Size2M, 1 << 7)] {
            let leaf = Entry::leaf(PhysAddr::new(0x20_0000), size, rights, MemoryType::WriteBack);
            assert_eq!(leaf.0, 0x20_0000 | large | 1 << 6 | 6 << 3 | 0b011);
            assert_eq!(leaf.address(), PhysAddr::new(0x20_0000));
        }
        let leaf = Entry::leaf(PhysAddr::new(0x20_0000), PageSize::Size2M, rights, MemoryType::WriteBack);
        assert_eq!(leaf.child(2, 3).0, 0x20_3000 | 1 << 6 | 6 << 3 | 0b011);
    }
}
