//! The lab: machines, programmable wires, serial consoles and clusters of Godwit hosts.
