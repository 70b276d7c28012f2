//! Builds the programs that run inside guests, with the cargo that runs us.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A program of this workspace for another target than the lab itself.
struct Program {
    package: &'static str,
    binary: &'static str,
    target: &'static str,
    features: &'static [&'static str],
    /// Replaces the target's flags of `.cargo/config.toml`.
    rustflags: &'static str,
}

/// Linked statically, since the initrd holds no C library, and not relocatable, since that costs start-up time.
const LINUX: Program = Program {
    package: "godwit-guest-linux",
    binary: "guest",
    target: "x86_64-unknown-linux-gnu",
    features: &[],
    rustflags: r#"["-C","target-feature=+crt-static","-C","relocation-model=static"]"#,
};

/// Runs in the Linux under machines, whose disk has a C library only for QEMU.
const NEST: Program = Program { package: "godwit-guest-nest", binary: "lines", ..LINUX };

const BARE: Program = Program {
    package: "godwit-guest-bare",
    binary: "bare",
    target: "x86_64-unknown-none",
    features: &["image"],
    rustflags: r#"["-C","relocation-model=static"]"#,
};

/// Builds the Linux guest's program and gives its path.
pub(crate) fn linux(cache: &Path) -> Result<PathBuf> {
    build(cache, &LINUX)
}

/// Builds the program of the Linux under machines and gives its path.
pub(crate) fn nest(cache: &Path) -> Result<PathBuf> {
    build(cache, &NEST)
}

/// Builds the bare-metal guest and gives the path of its ELF file.
pub(crate) fn bare(cache: &Path) -> Result<PathBuf> {
    build(cache, &BARE)
}

/// Builds one program in a target directory of its own, so that a `cargo test` that is running us holds no lock we need.
fn build(cache: &Path, program: &Program) -> Result<PathBuf> {
    let target_directory = cache.join("build");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let flags = format!("target.{}.rustflags={}", program.target, program.rustflags);
    let mut command = Command::new(cargo);
    command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--quiet", "--profile", "guest", "--package", program.package])
        .args([
            "--bin",
            program.binary,
            "--target",
            program.target,
            "--features",
            &program.features.join(","),
        ])
        .arg("--config")
        .arg(flags)
        .arg("--target-dir")
        .arg(&target_directory);
    // Flags for the lab's own build are not for the guest, and would replace the ones above.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    let output = command.output().context("cargo does not run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo could not build {}:\n{}", program.package, said.trim());
    Ok(target_directory.join(program.target).join("guest").join(program.binary))
}
