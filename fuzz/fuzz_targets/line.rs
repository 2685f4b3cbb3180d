//! A hostile peer on a control connection: any bytes, in pieces of any size. The receiver may say no; it may
//! not panic, and it may not keep more than its limit.
#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use msocket_proto::line::{Line, LineError, Received};

fuzz_target!(|pieces: Vec<&[u8]>| {
    let (mut peer, ours) = UnixStream::pair().expect("a pair");
    peer.set_nonblocking(true).expect("non-blocking");
    let mut line = Line::server(ours).expect("non-blocking");
    for piece in pieces {
        let _ = peer.write(piece);
        loop {
            match line.receive::<msocket_proto::proto::Request>() {
                Ok(Received::Pending) => break,
                Ok(Received::Message(..)) | Err(LineError::Malformed(_)) => {}
                Ok(Received::Closed) | Err(_) => return,
            }
        }
    }
    for text in ["switch", "stack"] {
        let _ = serde_json::from_str::<switch::control::Request>(text);
    }
});
