//! The codec, beside smtp-proto and memchr: `cargo bench -p smtp-core --bench codec`.
//!
//! `ours` gives typed values that were checked; `smtp_proto` gives borrowed text and checks less. Both read the same
//! octets and drop what came of them; what fills a read buffer is not in the time. What is allocated is counted in
//! `tests/cost.rs`.

#![allow(clippy::unwrap_used, missing_docs, reason = "nobody else calls it, and what fails is wrong")]

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use smtp_core::wire::{
    Content, DataDecoder, DataEncoder, LineDecoder, LineLaw, LineStep, ReplyDecoder, decode_command,
};

fn main() {
    divan::main();
}

const RCPT: &[u8] = b"RCPT TO:<recipient@example.com>\r\n";
const MAIL: &[u8] = b"MAIL FROM:<sender@example.org> SIZE=4096 BODY=8BITMIME\r\n";
const EHLO: &[u8] = b"EHLO client.example.org\r\n";
const GROUP: &[u8] =
    b"MAIL FROM:<sender@example.org>\r\nRCPT TO:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n";
const REPLY: &[u8] = b"250 2.1.5 recipient ok\r\n";
const EHLO_REPLY: &[u8] = b"250-mx.example greets you\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n";

/// One command a line: what a read gives.
#[divan::bench_group(sample_size = 1_000)]
mod command {
    use super::*;

    #[divan::bench(args = [("RCPT", RCPT), ("MAIL", MAIL), ("EHLO", EHLO)].map(Named))]
    fn ours(bencher: Bencher<'_, '_>, line: Named) {
        let mut input = BytesMut::from(line.0.1);
        bencher.bench_local(|| {
            // The line decoder finds the end, as it does in a session.
            let LineStep::Line(len) = LineDecoder::default().next(divan::black_box(&mut input), 512) else {
                unreachable!()
            };
            divan::black_box_drop(decode_command(&input[..len]).unwrap());
        });
    }

    #[divan::bench(args = [("RCPT", RCPT), ("MAIL", MAIL), ("EHLO", EHLO)].map(Named))]
    fn smtp_proto(bencher: Bencher<'_, '_>, line: Named) {
        bencher.bench_local(|| {
            divan::black_box_drop(::smtp_proto::Request::parse(&mut divan::black_box(line.0.1).iter()).unwrap());
        });
    }

    /// As a server must keep it beyond the read buffer.
    #[divan::bench(args = [("RCPT", RCPT), ("MAIL", MAIL), ("EHLO", EHLO)].map(Named))]
    fn smtp_proto_owned(bencher: Bencher<'_, '_>, line: Named) {
        bencher.bench_local(|| {
            let request = ::smtp_proto::Request::parse(&mut divan::black_box(line.0.1).iter()).unwrap();
            divan::black_box_drop(request.into_owned());
        });
    }
}

/// A group that came in one read.
#[divan::bench_group(sample_size = 1_000)]
mod group {
    use super::*;

    #[divan::bench]
    fn ours(bencher: Bencher<'_, '_>) {
        let read = || BytesMut::from(GROUP);
        bencher.counter(ItemsCount::new(4_usize)).with_inputs(read).bench_local_refs(|input| {
            let mut lines = LineDecoder::default();
            for _ in 0..4 {
                let LineStep::Line(len) = lines.next(input, 512) else { unreachable!() };
                divan::black_box_drop(decode_command(&input[..len]).unwrap());
                lines.consume(input, len);
            }
        });
    }

    #[divan::bench]
    fn smtp_proto(bencher: Bencher<'_, '_>) {
        bencher.counter(ItemsCount::new(4_usize)).bench_local(|| {
            let mut receiver = ::smtp_proto::request::receiver::RequestReceiver::default();
            let mut octets = divan::black_box(GROUP).iter();
            for _ in 0..4 {
                divan::black_box_drop(receiver.ingest(&mut octets).unwrap());
            }
        });
    }
}

/// What a client reads.
#[divan::bench_group(sample_size = 1_000)]
mod reply {
    use super::*;

    #[divan::bench(args = [("250", REPLY), ("EHLO", EHLO_REPLY)].map(Named))]
    fn ours(bencher: Bencher<'_, '_>, reply: Named) {
        bencher.with_inputs(|| BytesMut::from(reply.0.1)).bench_local_refs(|input| {
            divan::black_box_drop(ReplyDecoder::default().next(input).unwrap().unwrap());
        });
    }

    #[divan::bench(args = [("250", REPLY), ("EHLO", EHLO_REPLY)].map(Named))]
    fn smtp_proto(bencher: Bencher<'_, '_>, reply: Named) {
        bencher.bench_local(|| {
            let mut receiver = ::smtp_proto::response::parser::ResponseReceiver::default();
            divan::black_box_drop(receiver.parse(&mut divan::black_box(reply.0.1).iter()).unwrap());
        });
    }
}

/// Content: 1 MiB in lines of 80, in reads of 64 KiB.
mod data {
    use super::*;

    const SIZE: usize = 1 << 20;
    const READ: usize = 64 << 10;
    /// No line with a dot, as in nearly all mail; and one line in sixteen with a dot to be put on or taken off.
    const DOTS: [Dots; 2] = [Dots("no dots", usize::MAX), Dots("dots", 16)];

    #[derive(Clone, Copy)]
    struct Dots(&'static str, usize);

    impl std::fmt::Display for Dots {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    fn wire(dots: Dots) -> Vec<u8> {
        let mut octets = Vec::with_capacity(SIZE);
        for n in 1.. {
            if octets.len() + 80 > SIZE {
                break;
            }
            octets.extend_from_slice(&[if n % dots.1 == 0 { b'.' } else { b'x' }; 2]);
            octets.extend_from_slice(&[b'x'; 76]);
            octets.extend_from_slice(b"\r\n");
        }
        octets.extend_from_slice(b".\r\n");
        octets
    }

    #[divan::bench(args = DOTS)]
    fn decode_ours(bencher: Bencher<'_, '_>, dots: Dots) {
        let wire = wire(dots);
        let reads = || wire.chunks(READ).map(BytesMut::from).collect::<Vec<_>>();
        bencher.counter(BytesCount::new(wire.len())).with_inputs(reads).bench_local_refs(|reads| {
            let mut decoder = DataDecoder::new(1_000);
            let mut rest = BytesMut::new();
            for read in reads {
                // What is left of a read stands before the next, as in a read buffer.
                if !rest.is_empty() {
                    rest.extend_from_slice(read);
                    *read = std::mem::take(&mut rest);
                }
                while let Content::Data(data) = decoder.next(read) {
                    divan::black_box_drop(data);
                }
                if !read.is_empty() {
                    rest = std::mem::take(read);
                }
            }
            decoder.bad_line()
        });
    }

    /// It copies the content into one buffer.
    #[divan::bench(args = DOTS)]
    fn decode_smtp_proto(bencher: Bencher<'_, '_>, dots: Dots) {
        let wire = wire(dots);
        let mut message = Vec::with_capacity(wire.len());
        bencher.counter(BytesCount::new(wire.len())).bench_local(|| {
            let mut receiver = ::smtp_proto::request::receiver::DataReceiver::new();
            message.clear();
            for read in wire.chunks(READ) {
                receiver.ingest(&mut divan::black_box(read).iter(), &mut message);
            }
        });
    }

    /// What BDAT costs beside.
    #[divan::bench]
    fn line_law(bencher: Bencher<'_, '_>) {
        let wire = wire(DOTS[0]);
        bencher.counter(BytesCount::new(wire.len())).bench_local(|| {
            let mut law = LineLaw::new(1_000);
            for read in wire.chunks(READ) {
                law.check(divan::black_box(read)).unwrap();
            }
        });
    }

    #[divan::bench(args = DOTS)]
    fn encode_ours(bencher: Bencher<'_, '_>, dots: Dots) {
        let message: Vec<Bytes> = wire(dots).chunks(READ).map(Bytes::copy_from_slice).collect();
        bencher.counter(BytesCount::new(SIZE)).with_inputs(|| message.clone()).bench_local_values(|message| {
            let mut encoder = DataEncoder::default();
            for piece in message {
                encoder.encode(piece, |octets| drop(divan::black_box(octets)));
            }
        });
    }

    /// The floor: every line end is looked for, and nothing is done with it.
    #[divan::bench]
    fn memchr_line_ends(bencher: Bencher<'_, '_>) {
        let wire = wire(DOTS[1]);
        bencher
            .counter(BytesCount::new(wire.len()))
            .bench_local(|| memchr::memchr2_iter(b'\r', b'\n', divan::black_box(&wire)).count());
    }

    /// The floor of one who looks for nothing but dots at line starts.
    #[divan::bench]
    fn memmem_dots(bencher: Bencher<'_, '_>) {
        let wire = wire(DOTS[1]);
        bencher
            .counter(BytesCount::new(wire.len()))
            .bench_local(|| memchr::memmem::find_iter(divan::black_box(&wire), b"\r\n.").count());
    }
}

/// A name, and octets that are not printed.
#[derive(Clone, Copy)]
struct Named((&'static str, &'static [u8]));

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.0)
    }
}
