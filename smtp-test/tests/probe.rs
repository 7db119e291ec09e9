mod common;
use common::*;
use common::scenarios::reference_stack;
use smtp_test::memory::*;
use std::time::Duration;

#[test]
fn probe() {
    for (name, knobs, input) in [
        ("pipelined", Knobs::default(), "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<alice@here.example>\r\nRCPT TO:<bob@here.example>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"),
        ("rset rcpt", Knobs::default(), "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<alice@here.example>\r\nRSET\r\nRCPT TO:<bob@here.example>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"),
        ("bdat", Knobs::default(), "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<alice@here.example>\r\nBDAT 18 LAST\r\nNOOP\r\nVRFY x\r\nxy\r\nQUIT\r\n"),
        ("starttls", Knobs::starttls(), "EHLO x\r\nSTARTTLS\r\nNOOP\r\n"),
        ("auth", Knobs::default(), "EHLO x\r\nAUTH PLAIN\r\nAHVzZXIAcGFzcw==\r\nQUIT\r\n"),
        ("http", Knobs::default(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("bdat x", Knobs::default(), "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<alice@here.example>\r\nBDAT x\r\nNOOP\r\n"),
    ] {
        for slow in [0, 10] {
            for n in [1, 10000] {
            let r = reference_stack().slow(Duration::from_millis(slow));
            let (said, got) = talk(&r, &knobs, input.as_bytes(), Pieces::Of(n));
            println!("== {name} slow {slow} piece {n}\n{said}-- {got:?}");
            }
        }
    }
}
