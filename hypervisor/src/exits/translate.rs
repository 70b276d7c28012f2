//! The guest's own page tables: from linear to guest-physical addresses (SDM 4.3–4.5).

use godwit_vmx::addr::{Gpa, Gva};

use crate::guest_memory::{GuestMemory, MemoryError};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const FAULT_PRESENT: u32 = 1 << 0;
const FAULT_WRITE: u32 = 1 << 1;
const FAULT_USER: u32 = 1 << 2;
const FAULT_FETCH: u32 = 1 << 4;

/// What the guest wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Fetch an instruction.
    Fetch,
}

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// CPL 0 to 2.
    Supervisor,
    /// CPL 3.
    User,
}

/// The paging mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No paging: linear is physical.
    Unpaged,
    /// 32-bit paging, with 4 MiB pages if CR4.PSE.
    Legacy {
        /// CR4.PSE.
        large: Large,
    },
    /// PAE paging with these page-directory-pointer entries.
    Pae([u64; 4]),
    /// 4-level paging.
    FourLevel,
}

/// Whether CR4.PSE allows 4 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Large {
    /// It does.
    Allowed,
    /// It does not.
    Ignored,
}

/// What of the processor's state decides a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Mode.
    pub mode: Mode,
    /// CR3.
    pub cr3: u64,
    /// CR0.WP: whether supervisors heed read-only pages.
    pub write_protect: bool,
    /// EFER.NXE: whether bit 63 means anything.
    pub no_execute: bool,
}

/// A translation that does not exist: the page fault's error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// Error code (SDM 4.7).
    pub code: u32,
    /// The address, for CR2.
    pub address: Gva,
}

/// Why an address has no translation, or none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untranslated {
    /// There is none.
    Fault(PageFault),
    /// A page of the guest's tables, or the one that they lead to, has not come yet.
    Absent,
}

impl From<PageFault> for Untranslated {
    fn from(fault: PageFault) -> Self {
        Self::Fault(fault)
    }
}

impl Paging {
    /// The guest-physical address of `address`.
    ///
    /// SMAP, SMEP, reserved bits and accessed and dirty flags are left out: the processor has just done this translation itself,
    /// with them, for the access that brought us here. It has not for the other operand of a string move and for that of INS and
    /// OUTS, which drivers have in memory that their kernel keeps accessed and dirty.
    ///
    /// # Errors
    /// [`Untranslated`]: a fault as the processor would raise it.
    pub fn translate(
        &self,
        memory: &impl GuestMemory,
        address: Gva,
        purpose: Purpose,
        privilege: Privilege,
    ) -> Result<Gpa, Untranslated> {
        let linear = address.as_u64();
        let (mut table, levels) = match self.mode {
            Mode::Unpaged => return Ok(Gpa::new(linear)),
            Mode::Legacy { large } => return self.legacy(memory, linear, large, purpose, privilege),
            Mode::Pae(pointers) => {
                let pointer = pointers[(linear >> 30) as usize & 3];
                if pointer & PRESENT == 0 {
                    return Err(fault(address, purpose, privilege, 0).into());
                }
                (pointer & ADDRESS, 2)
            }
            Mode::FourLevel => (self.cr3 & ADDRESS, 4),
        };
        let mut rights = PRESENT | WRITABLE | USER;
        let mut no_execute = 0;
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let slot = table + (linear >> shift & 511) * 8;
            let entry = entry(memory.read_u64(Gpa::new(slot)))?;
            if entry & PRESENT == 0 {
                return Err(fault(address, purpose, privilege, 0).into());
            }
            rights &= entry;
            no_execute |= entry & NO_EXECUTE;
            if level == 1 || (level <= 3 && entry & LARGE != 0) {
                self.check(address, rights, no_execute, purpose, privilege)?;
                let within = (1 << shift) - 1;
                return Ok(Gpa::new(entry & ADDRESS & !within | linear & within));
            }
            table = entry & ADDRESS;
        }
        Err(fault(address, purpose, privilege, 0).into())
    }

    fn legacy(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        large: Large,
        purpose: Purpose,
        privilege: Privilege,
    ) -> Result<Gpa, Untranslated> {
        let address = Gva::new(linear);
        let entry_at = |gpa: u64| {
            let mut bytes = [0; 4];
            let read = memory.read(Gpa::new(gpa), &mut bytes);
            entry(read.map(|()| u64::from(u32::from_le_bytes(bytes))))
        };
        let directory = entry_at((self.cr3 & 0xffff_f000) + (linear >> 22 & 1023) * 4)?;
        if directory & PRESENT == 0 {
            return Err(fault(address, purpose, privilege, 0).into());
        }
        if directory & LARGE != 0 && large == Large::Allowed {
            self.check(address, directory, 0, purpose, privilege)?;
            let high = (directory >> 13 & 0xff) << 32;
            return Ok(Gpa::new(high | directory & 0xffc0_0000 | linear & 0x3f_ffff));
        }
        let entry = entry_at((directory & 0xffff_f000) + (linear >> 12 & 1023) * 4)?;
        if entry & PRESENT == 0 {
            return Err(fault(address, purpose, privilege, 0).into());
        }
        self.check(address, directory & entry, 0, purpose, privilege)?;
        Ok(Gpa::new(entry & 0xffff_f000 | linear & 0xfff))
    }

    fn check(
        &self,
        address: Gva,
        rights: u64,
        no_execute: u64,
        purpose: Purpose,
        privilege: Privilege,
    ) -> Result<(), PageFault> {
        let is_user = privilege == Privilege::User;
        let heeds_read_only = is_user || self.write_protect;
        let denied = is_user && rights & USER == 0
            || purpose == Purpose::Write && heeds_read_only && rights & WRITABLE == 0
            || purpose == Purpose::Fetch && self.no_execute && no_execute != 0;
        if denied { Err(fault(address, purpose, privilege, FAULT_PRESENT)) } else { Ok(()) }
    }
}

/// What the processor makes of an entry: where nobody is, nothing is present.
const fn entry(read: Result<u64, MemoryError>) -> Result<u64, Untranslated> {
    match read {
        Ok(entry) => Ok(entry),
        Err(MemoryError::NotRam { .. }) => Ok(0),
        Err(MemoryError::Absent(_)) => Err(Untranslated::Absent),
    }
}

const fn fault(address: Gva, purpose: Purpose, privilege: Privilege, code: u32) -> PageFault {
    let write = if matches!(purpose, Purpose::Write) { FAULT_WRITE } else { 0 };
    let fetch = if matches!(purpose, Purpose::Fetch) { FAULT_FETCH } else { 0 };
    let user = if matches!(privilege, Privilege::User) { FAULT_USER } else { 0 };
    PageFault { code: code | write | fetch | user, address }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exits::testing::FlatMemory;

    const FOUR_LEVEL: Paging =
        Paging { mode: Mode::FourLevel, cr3: 0x1000, write_protect: true, no_execute: true };

    fn tables() -> FlatMemory {
        let memory = FlatMemory::new(0x10_000);
        let all = PRESENT | WRITABLE | USER;
        memory.put_u64(0x1000 + 511 * 8, 0x2000 | all);
        memory.put_u64(0x2000 + 510 * 8, 0x3000 | all);
        memory.put_u64(0x3000, 0x4000 | all);
        memory.put_u64(0x3008, 0x0020_0000 | PRESENT | LARGE);
        memory.put_u64(0x4000, 0x9000 | PRESENT | WRITABLE);
        memory.put_u64(0x4008, 0xa000 | PRESENT | NO_EXECUTE | USER);
        memory
    }

    const BASE: u64 = 0xffff_ffff_8000_0000;

    #[test]
    fn four_levels_lead_to_small_and_large_pages() {
        let memory = tables();
        let at = |address: u64, purpose, privilege| {
            FOUR_LEVEL.translate(&memory, Gva::new(address), purpose, privilege)
        };
        let (kernel, user) = (Privilege::Supervisor, Privilege::User);
        assert_eq!(at(BASE + 0x123, Purpose::Write, kernel), Ok(Gpa::new(0x9123)));
        assert_eq!(at(BASE + 0x20_1234, Purpose::Read, kernel), Ok(Gpa::new(0x20_1234)));
        let code = |result: Result<Gpa, Untranslated>| match result {
            Err(Untranslated::Fault(fault)) => fault.code,
            other => panic!("no fault: {other:?}"),
        };
        assert_eq!(code(at(BASE, Purpose::Read, user)), 5);
        assert_eq!(at(BASE + 0x1000, Purpose::Read, user), Ok(Gpa::new(0xa000)));
        assert_eq!(code(at(BASE + 0x1000, Purpose::Fetch, user)), 0x15);
        assert_eq!(code(at(BASE + 0x20_0000, Purpose::Write, kernel)), 3);
        assert_eq!(code(at(BASE + 0x2000, Purpose::Write, kernel)), 2);
    }

    #[test]
    fn a_table_that_has_not_come_is_neither_a_fault_nor_a_translation() {
        let memory = tables();
        let walk = |mode| {
            let paging = Paging { mode, ..FOUR_LEVEL };
            paging.translate(&memory, Gva::new(BASE), Purpose::Read, Privilege::Supervisor)
        };
        for page in 1..=4 {
            memory.absent.set(Some(page));
            assert_eq!(walk(Mode::FourLevel), Err(Untranslated::Absent), "level {}", 5 - page);
        }
        memory.absent.set(Some(1));
        assert_eq!(walk(Mode::Legacy { large: Large::Allowed }), Err(Untranslated::Absent));
        assert_eq!(walk(Mode::Pae([0x1001; 4])), Err(Untranslated::Absent));
        memory.absent.set(Some(5));
        assert_eq!(walk(Mode::FourLevel), Ok(Gpa::new(0x9000)));
    }

    #[test]
    fn without_paging_linear_is_physical() {
        let paging = Paging { mode: Mode::Unpaged, ..FOUR_LEVEL };
        let memory = FlatMemory::new(0);
        let found = paging.translate(&memory, Gva::new(7), Purpose::Write, Privilege::User);
        assert_eq!(found, Ok(Gpa::new(7)));
    }

    proptest! {
        #[test]
        fn any_tables_and_any_address_are_survived(
            entries in proptest::collection::vec((0_u64..0x2000, any::<u64>()), 0..64), cr3: u64, address: u64,
            mode in 0..4, pointers: [u64; 4],
        ) {
            let memory = FlatMemory::new(0x10_000);
            for (slot, entry) in entries {
                memory.put_u64(slot * 8, entry & 0xffff_0000_0000_ffff);
            }
            let mode = match mode {
                0 => Mode::Unpaged,
                1 => Mode::Legacy { large: Large::Allowed },
                2 => Mode::Pae(pointers),
                _ => Mode::FourLevel,
            };
            let paging = Paging { mode, cr3, ..FOUR_LEVEL };
            let _ = paging.translate(&memory, Gva::new(address), Purpose::Write, Privilege::User);
        }
    }
}
