//! The handlers.
