//! What a peer may send, and what it does not achieve.

use super::*;
