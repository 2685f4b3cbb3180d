//! What ss(8) shows.
