//! libmsocket: what C programs see of the client library.
//!
//! The package is one of its own, so that a Rust program that has the `msocket` crate has no C symbols of it.

mod boundary;
mod ffi;
