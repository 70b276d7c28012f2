//! The programs of the Linux test guest, one executable under several names.
fn main() {
    println!("guest: ready");
}
