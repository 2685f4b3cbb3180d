//! Quality of service: priorities, rates, queues and what is promised of a port's rate.
//!
//! # Theory of operation
//! Nothing here knows a clock or a descriptor. From the wire inwards:
//!
//! - [`priority`]: which priority a frame has by its tag and its port, and which one is written into its tag;
//! - [`bucket`]: the token bucket, by which all rates are kept;
//! - [`class`]: how a queue is served, and how fast at most;
//! - [`rate`]: bits per second, and how people write them;
//! - [`fifo`]: one bounded queue of whole frames;
//! - [`queues`]: the queues of one port: which frame is next and when;
//! - [`reserve`]: what of a port's rate is promised to VLANs, and whether more can be.
//!
//! A port has queues only if it was given a rate or classes; frames for all others are written at once.
//!
//! Read: IEEE 802.1Q-2018 clauses 6.9.3 (priority), 8.6.6 and 8.6.8 (queueing and transmission selection), 34.3
//! (bandwidth that may be reserved); RFC 2697 (token buckets); Shreedhar and Varghese, "Efficient fair queueing
//! using deficit round robin" (SIGCOMM 1995).

pub mod bucket;
pub mod class;
pub mod fifo;
pub mod priority;
pub mod queues;
pub mod rate;
pub mod reserve;
