//! The bare-metal test guest.
#![no_std]
#![no_main]
