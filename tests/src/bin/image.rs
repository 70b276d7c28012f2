//! `scripts/image`: a disk image to boot a machine from.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use godwit_tests::image::{self, stick};

/// Writes a disk image that boots Godwit: an EFI system partition with the loader, the hypervisor, its configuration
/// and files for its guests.
#[derive(Parser)]
#[command(bin_name = "scripts/image")]
struct Arguments {
    /// The image to write; a file that is there is replaced
    #[arg(value_name = "OUT.img")]
    image: PathBuf,
    /// The configuration of the host
    #[arg(value_name = "GODWIT.toml")]
    configuration: PathBuf,
    /// Kernels and initial RAM disks that the configuration names, and whatever else is to lie beside it
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where relative paths begin
    #[arg(long, value_name = "DIRECTORY", hide = true)]
    directory: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { image: path, configuration, files, directory } = arguments;
    if let Some(directory) = directory {
        env::set_current_dir(directory).with_context(|| directory.display().to_string())?;
    }
    let stick = stick::Stick::check(configuration, files)?;
    stick::check_target(path, files.iter().chain([configuration]))?;
    eprintln!("building the loader and the hypervisor …");
    let contents = stick.contents(&image::programs()?)?;
    let bytes = stick::write(path, &contents)?;
    println!("{}: {} MiB", path.display(), bytes >> 20);
    for content in &contents {
        println!("  {} ({} KiB)", content.path(), content.length().div_ceil(1 << 10));
    }
    println!("to put it on a stick: dd if={} of=/dev/sdX bs=4M conv=fsync", path.display());
    Ok(())
}
