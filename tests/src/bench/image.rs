//! The size of the hypervisor: its code, and the memory it keeps for itself.

use std::fs;

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::{PF_X, PT_LOAD};
use elf::endian::LittleEndian;

use super::Row;
use crate::cluster::Plan;
use crate::figures;
use crate::image;
use crate::machine::Kind;

const TEXT_KIB_MAX: f64 = 1_024.0;
const MEMORY_MIB_MAX: f64 = 32.0;

/// Reads the built image, and asks a host.
///
/// # Errors
/// The image cannot be read, or the host does not come up.
pub fn measure(kind: Kind) -> Result<Vec<Row>> {
    let bytes = fs::read(image::programs()?.hypervisor)?;
    let text = text_bytes(&bytes)? as f64 / 1_024.0;
    let mut cluster = Plan::new("bench-image", kind, 1).start()?;
    cluster.wait_for_prompts()?;
    let memory = cluster.hosts[0].succeed("mem")?;
    let line =
        memory.lines().find(|line| line.starts_with("hypervisor")).context("no line for the hypervisor")?;
    let size = line["hypervisor".len()..].split("heap").next().and_then(figures::bytes);
    let mebibytes = size.with_context(|| line.to_owned())? as f64 / f64::from(1 << 20);
    Ok(vec![
        Row::at_most("hypervisor ELF, text", text, TEXT_KIB_MAX, " KiB"),
        Row::at_most("hypervisor's memory besides guests", mebibytes, MEMORY_MIB_MAX, " MiB"),
    ])
}

fn text_bytes(file: &[u8]) -> Result<u64> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(file)?;
    let segments = file.segments().context("no program headers")?;
    Ok(segments.iter().filter(|s| s.p_type == PT_LOAD && s.p_flags & PF_X != 0).map(|s| s.p_memsz).sum())
}
