//! What the referee and end-to-end tests share.
