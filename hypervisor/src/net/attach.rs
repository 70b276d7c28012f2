//! From a PCI function to a running card.

use alloc::boxed::Box;
use core::fmt;

use x86_64::PhysAddr;

use crate::{
    drivers::net::{Nic, e1000, virtio_net},
    mm::{dma::HostDma, mmio::Window, paging::MapError},
    platform::{
        Platform,
        interrupts::Line,
        pci::{self, Function},
    },
};

/// A card that was brought up.
pub struct Card {
    /// Sends and receives.
    pub nic: Box<dyn Nic>,
    /// Its interrupt; `None` if it must be polled by time.
    pub line: Option<Line>,
    /// Index of the card among the machine's PCI functions.
    pub function: usize,
}

/// Why a card that is there could not be brought up.
#[derive(Debug)]
pub enum AttachError {
    /// No function is a card that a driver knows.
    NoCard,
    /// The firmware has given the card no register window.
    NoWindow,
    /// The window cannot be mapped.
    Map(MapError),
    /// The e1000 driver's reason.
    E1000(e1000::Error),
    /// The virtio driver's reason.
    VirtioNet(virtio_net::Error),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCard => f.write_str("no network card that Godwit has a driver for"),
            Self::NoWindow => f.write_str("the firmware gave the network card no addresses"),
            Self::Map(error) => write!(f, "the network card's registers cannot be mapped: {error}"),
            Self::E1000(error) => error.fmt(f),
            Self::VirtioNet(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AttachError {}

/// Brings up the first card of the machine that a driver knows.
///
/// # Errors
/// [`AttachError::NoCard`] if there is none, else why the last one that was tried does not work.
pub fn attach(platform: &Platform) -> Result<Card, AttachError> {
    let mut problem = AttachError::NoCard;
    for (index, function) in platform.functions.iter().enumerate() {
        let id = (function.vendor, function.device);
        let result = if e1000::PCI_IDS.contains(&id) {
            attach_e1000(function)
        } else if virtio_net::PCI_IDS.contains(&id) {
            attach_virtio(function)
        } else {
            continue;
        };
        match result {
            Ok(nic) => return Ok(Card { nic, line: platform.connect(function), function: index }),
            Err(error) => {
                log::warn!("network: {}: {error}", function.address);
                problem = error;
            }
        }
    }
    Err(problem)
}

fn attach_e1000(function: &Function) -> Result<Box<dyn Nic>, AttachError> {
    let (address, length) = function.memory(0).ok_or(AttachError::NoWindow)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(e1000::registers::WINDOW_LENGTH);
    pci::Access.enable(function.address);
    let window = Window::map(PhysAddr::new_truncate(address), length).map_err(AttachError::Map)?;
    Ok(Box::new(e1000::E1000::new(window, &HostDma).map_err(AttachError::E1000)?))
}

fn attach_virtio(function: &Function) -> Result<Box<dyn Nic>, AttachError> {
    pci::Access.enable(function.address);
    virtio_net::attach(&pci::Access, function.address).map_err(AttachError::VirtioNet)
}
