//! Frames that the client sends, as bytes.

use crate::support::{Frame, LengthForm, Opcode, deflate};

#[test]
fn a_frame_is_written_as_the_standard_shows_it() {
    // RFC 6455 section 5.7.
    assert_eq!(Frame::text("Hello").unmasked().encode(), b"\x81\x05Hello");
    let masked = Frame {
        mask: Some([0x37, 0xfa, 0x21, 0x3d]),
        ..Frame::text("Hello")
    };
    assert_eq!(
        masked.encode(),
        [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
    );
    assert_eq!(Frame::text("Hel").more().unmasked().encode(), b"\x01\x03Hel");
    assert_eq!(
        Frame::new(Opcode::BINARY, [0; 256]).unmasked().encode()[..4],
        [0x82, 0x7e, 1, 0]
    );
    assert_eq!(
        Frame::new(Opcode::BINARY, [0; 65536]).unmasked().encode()[..10],
        [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]
    );
}

#[test]
fn a_wrong_frame_is_written_as_asked() {
    let text = || Frame::text("a").unmasked();
    assert_eq!(text().rsv(4).encode(), b"\xc1\x01a");
    assert_eq!(text().rsv(3).encode(), b"\xb1\x01a");
    assert_eq!(text().length_form(LengthForm::Sixteen).encode(), b"\x81\x7e\x00\x01a");
    assert_eq!(
        text().length_form(LengthForm::SixtyFour).encode(),
        b"\x81\x7f\0\0\0\0\0\0\0\x01a"
    );
    assert_eq!(
        text().declaring(u64::MAX).encode(),
        b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xffa"
    );
    assert_eq!(Frame::close(None, "").unmasked().encode(), b"\x88\x00");
    assert_eq!(
        Frame::close(Some(1000), "bye").unmasked().encode(),
        b"\x88\x05\x03\xe8bye"
    );
}

#[test]
fn a_message_is_compressed_as_the_standard_shows_it() {
    // RFC 7692 section 7.2.3.1.
    assert_eq!(deflate(b"Hello"), [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    assert!(deflate(&[b'a'; 100_000]).len() < 500);
}
