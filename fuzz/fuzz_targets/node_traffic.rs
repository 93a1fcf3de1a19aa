//! What another node sends: a head and frames.
//!
//! Input: a message, as it comes from the broker.
//! Property: nothing that is read is outside of the message; what is read, written anew, is read as the same; what is split by
//! loops holds the frames that are read, each for the loop of its key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_server::codec::node_traffic::{
    Fault, Frame, Head, Home, push_broadcast, push_direct, push_refused, read, split,
};

fuzz_target!(|data: &[u8]| {
    let frames = match Head::split(data) {
        Some((head, frames)) => {
            assert_eq!([&head.to_bytes(), frames].concat(), data);
            frames
        }
        None => data,
    };
    let mut again = Vec::new();
    let good: Vec<Frame<'_>> = read(frames).filter_map(Result::ok).collect();
    for frame in &good {
        match frame {
            Frame::Direct(direct, shares) => push_direct(&mut again, direct, shares.iter().copied()),
            Frame::Broadcast(broadcast) => push_broadcast(&mut again, broadcast),
            Frame::Refused(refused) => push_refused(&mut again, refused),
        }
    }
    let read_again: Vec<_> = read(&again).collect();
    let wanted: Vec<_> = good.iter().map(|frame| Ok(*frame)).collect();
    assert_eq!(read_again, wanted);

    let cut_off = read(frames).last() == Some(Err(Fault::Malformed));
    let parts: Vec<_> = split(frames).collect();
    assert!(parts.len() + usize::from(cut_off) >= good.len());
    for (home, part) in parts {
        let of_part: Vec<_> = read(part).collect();
        assert_eq!(of_part.len(), 1, "one frame stands in one part");
        let key = match of_part[0] {
            Ok(Frame::Direct(direct, _)) => Some(direct.to),
            Ok(Frame::Refused(refused)) => Some(refused.to),
            Ok(Frame::Broadcast(_)) => None,
            Err(_) => continue,
        };
        assert_eq!(home, key.map_or(Home::Everyone, Home::Key));
    }
});
