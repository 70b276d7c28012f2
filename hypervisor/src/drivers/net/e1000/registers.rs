//! Registers of the 82540EM and its kin. Sections are those of Intel's "PCI/PCI-X Family of Gigabit Ethernet
//! Controllers Software Developer's Manual", revision 4.0.

use bitflags::bitflags;

/// Bytes of the register window (BAR 0).
pub const WINDOW_LENGTH: usize = 0x2_0000;

/// Device Control (13.4.1).
pub const CTRL: usize = 0x0000;
/// Device Status (13.4.2).
pub const STATUS: usize = 0x0008;
/// EEPROM Read (13.4.4).
pub const EERD: usize = 0x0014;
/// Interrupt Cause Read: reading clears it and releases the line (13.4.17).
pub const ICR: usize = 0x00c0;
/// Interrupt Cause Set: as if the causes written had come up (13.4.19).
pub const ICS: usize = 0x00c8;
/// Interrupt Mask Set (13.4.20).
pub const IMS: usize = 0x00d0;
/// Interrupt Mask Clear (13.4.21).
pub const IMC: usize = 0x00d8;
/// Receive Control (13.4.22).
pub const RCTL: usize = 0x0100;
/// Transmit Control (13.4.33).
pub const TCTL: usize = 0x0400;
/// Transmit Inter-Packet Gap (13.4.34).
pub const TIPG: usize = 0x0410;
/// Receive Descriptor Base Low (13.4.25).
pub const RDBAL: usize = 0x2800;
/// Receive Descriptor Base High.
pub const RDBAH: usize = 0x2804;
/// Receive Descriptor Length, in bytes.
pub const RDLEN: usize = 0x2808;
/// Receive Descriptor Head.
pub const RDH: usize = 0x2810;
/// Receive Descriptor Tail.
pub const RDT: usize = 0x2818;
/// Receive Delay Timer (13.4.30).
pub const RDTR: usize = 0x2820;
/// Transmit Descriptor Base Low (13.4.35).
pub const TDBAL: usize = 0x3800;
/// Transmit Descriptor Base High.
pub const TDBAH: usize = 0x3804;
/// Transmit Descriptor Length, in bytes.
pub const TDLEN: usize = 0x3808;
/// Transmit Descriptor Head.
pub const TDH: usize = 0x3810;
/// Transmit Descriptor Tail.
pub const TDT: usize = 0x3818;
/// Receive Checksum Control (13.4.32).
pub const RXCSUM: usize = 0x5000;
/// First word of the Multicast Table Array (13.5.1).
pub const MTA: usize = 0x5200;
/// 32-bit words of the Multicast Table Array.
pub const MTA_WORDS: usize = 128;
/// Receive Address Low of the first address (13.5.2).
pub const RAL0: usize = 0x5400;
/// Receive Address High of the first address (13.5.3).
pub const RAH0: usize = 0x5404;
/// First of the statistics registers, all of which clear when read (13.7).
pub const STATISTICS: usize = 0x4000;
/// Missed Packets Count: frames that found no room.
pub const MPC: usize = 0x4010;
/// 32-bit words of statistics.
pub const STATISTICS_WORDS: usize = 64;

/// "Address Valid" in RAH.
pub const RAH_VALID: u32 = 1 << 31;

/// Inter-packet gaps for copper (13.4.34): IPGT 10, IPGR1 8, IPGR2 6.
pub const TIPG_COPPER: u32 = 10 | 8 << 10 | 6 << 20;

bitflags! {
    /// Bits of CTRL that are used here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Control: u32 {
        /// Link Reset.
        const LRST = 1 << 3;
        /// Auto-Speed Detection Enable.
        const ASDE = 1 << 5;
        /// Set Link Up.
        const SLU = 1 << 6;
        /// Invert Loss-of-Signal.
        const ILOS = 1 << 7;
        /// Device Reset; clears itself.
        const RST = 1 << 26;
        /// VLAN Mode Enable.
        const VME = 1 << 30;
        /// PHY Reset.
        const PHY_RST = 1 << 31;
        const _ = !0;
    }

    /// Interrupt causes, as in ICR, IMS and IMC.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cause: u32 {
        /// Link Status Change.
        const LSC = 1 << 2;
        /// Receive Descriptor Minimum Threshold.
        const RXDMT0 = 1 << 4;
        /// Receiver Overrun.
        const RXO = 1 << 6;
        /// Receiver Timer: frames are waiting.
        const RXT0 = 1 << 7;
        const _ = !0;
    }

    /// Bits of RCTL that are used here. A buffer size of zero means 2,048 bytes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ReceiveControl: u32 {
        /// Receiver Enable.
        const EN = 1 << 1;
        /// Broadcast Accept Mode.
        const BAM = 1 << 15;
        /// Strip Ethernet CRC.
        const SECRC = 1 << 26;
        const _ = !0;
    }

    /// Bits of TCTL that are used here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TransmitControl: u32 {
        /// Transmit Enable.
        const EN = 1 << 1;
        /// Pad Short Packets.
        const PSP = 1 << 3;
        /// Collision threshold: 15 tries.
        const COLLISION_THRESHOLD_15 = 15 << 4;
        /// Collision distance for full duplex: 64 byte times.
        const COLLISION_DISTANCE_64 = 64 << 12;
        const _ = !0;
    }

    /// Bits of STATUS that are used here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u32 {
        /// Link Up.
        const LU = 1 << 1;
        /// Speed, low bit: 00 10 Mbit/s, 01 100 Mbit/s, 1x 1,000 Mbit/s.
        const SPEED_100 = 1 << 6;
        /// Speed, high bit.
        const SPEED_1000 = 1 << 7;
        const _ = !0;
    }

    /// Bits of RXCSUM.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ReceiveChecksum: u32 {
        /// IP checksum off-load.
        const IPOFLD = 1 << 8;
        /// TCP and UDP checksum off-load.
        const TUOFLD = 1 << 9;
        const _ = !0;
    }
}
