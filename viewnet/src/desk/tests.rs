//! The desk, with a stack, a listener and a program that exist only here.
