//! TCP/IP stacks behind one trait.
