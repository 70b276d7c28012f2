//! From a PCI function to a running card.

use alloc::boxed::Box;
use core::fmt;

use x86_64::PhysAddr;

use crate::{
    drivers::net::{AcknowledgeInterrupt, Nic, e1000, virtio_net},
    mm::{dma::HostDma, mmio::Window, paging::MapError},
    platform::pci::{self, Function},
};

/// A card that was brought up.
pub struct Card {
    /// Sends and receives.
    pub nic: Box<dyn Nic>,
    /// For the interrupt handler; `None` if the card must be polled.
    pub interrupt: Option<Box<dyn AcknowledgeInterrupt>>,
    /// Its place among the functions that were searched.
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

/// Brings up the first card among `functions` that a driver knows.
///
/// # Errors
/// [`AttachError::NoCard`] if there is none, else why the last one that was tried does not work.
pub fn attach(functions: &[Function]) -> Result<Card, AttachError> {
    let mut problem = AttachError::NoCard;
    for (index, function) in functions.iter().enumerate() {
        let id = (function.vendor, function.device);
        let result = if e1000::PCI_IDS.contains(&id) {
            attach_e1000(index, function)
        } else if virtio_net::PCI_IDS.contains(&id) {
            attach_virtio(index, function)
        } else {
            continue;
        };
        match result {
            Ok(card) => return Ok(card),
            Err(error) => {
                log::warn!("network: {}: {error}", function.address);
                problem = error;
            }
        }
    }
    Err(problem)
}

fn attach_e1000(index: usize, function: &Function) -> Result<Card, AttachError> {
    let (address, length) = function.memory(0).ok_or(AttachError::NoWindow)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(e1000::registers::WINDOW_LENGTH);
    pci::Access.enable(function.address);
    let window = Window::map(PhysAddr::new_truncate(address), length).map_err(AttachError::Map)?;
    let nic = Box::new(e1000::E1000::new(window, &HostDma).map_err(AttachError::E1000)?);
    Ok(Card { nic, interrupt: Some(Box::new(e1000::Interrupt(window))), function: index })
}

fn attach_virtio(index: usize, function: &Function) -> Result<Card, AttachError> {
    let access = &pci::Access;
    access.enable(function.address);
    let nic = virtio_net::attach(access, function.address).map_err(AttachError::VirtioNet)?;
    // Without it the card is polled.
    let interrupt = virtio_net::interrupt_status(access, function.address)
        .and_then(|(bar, offset)| Some((function.memory(bar)?, offset)))
        .filter(|((_, length), offset)| offset < length)
        .and_then(|((address, _), offset)| Window::map(PhysAddr::new_truncate(address + offset), 1).ok())
        .map(|window| Box::new(virtio_net::Interrupt(window)) as Box<dyn AcknowledgeInterrupt>);
    Ok(Card { nic, interrupt, function: index })
}
