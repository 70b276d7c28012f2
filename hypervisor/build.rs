//! Links the image at its fixed address.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        let manifest = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-T{manifest}/link.ld");
        println!("cargo:rustc-link-arg-bins=--gc-sections");
    }
}
