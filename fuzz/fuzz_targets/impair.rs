//! Any text as what a link does, and packets through it: no panic, text that is read back as the same, nothing out of
//! order unless asked for, and no more in flight than there may be.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use switch::impair::spec::MAX_CAPACITY;
use switch::impair::{Channel, Spec};

fuzz_target!(|input: (&str, u64, Vec<(u16, u16)>)| {
    let (text, seed, packets) = input;
    let Ok(spec) = text.parse::<Spec>() else { return };
    assert_eq!(spec.to_string().parse::<Spec>().as_ref(), Ok(&spec));
    let keeps_order = !text.contains("reorder");
    let mut channel = Channel::new(spec, seed, 1);
    let (mut now, mut last) = (Instant::now(), None);
    for (wait_ms, len) in packets.into_iter().take(512) {
        now += Duration::from_millis(wait_ms.into());
        channel.handle_packet(now, &[&vec![0; len.into()]]);
        assert!(channel.in_flight() <= MAX_CAPACITY);
        let due = channel.poll_timeout();
        assert!(!keeps_order || due >= last || due.is_none());
        while let Some(packet) = channel.poll_packet(now) {
            last = due;
            channel.recycle(packet);
        }
    }
});
