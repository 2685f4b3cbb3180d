//! The network layer from outside: frames in, frames out, in virtual time.

mod arbitrary;
mod arp;
mod forward;
mod fragments;
mod groups;
mod icmp;
mod ip;
mod ndp;
mod routes;
mod tables;
mod world;
