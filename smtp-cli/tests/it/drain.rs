//! How servers end.

use std::time::Instant;

use crate::play::{PATIENCE, Server};

#[test]
fn sigterm_tells_the_idle_and_lets_a_message_finish() {
    for signal in ["TERM", "INT"] {
        let server = Server::serve(&[]);
        let (mut idle, mut busy) = (server.connect(), server.connect());
        busy.say("EHLO me");
        assert!(busy.say("MAIL FROM:<a@b.example>").starts_with("250"));
        assert!(busy.say("RCPT TO:<u@localhost>").starts_with("250"));
        assert!(busy.say("DATA").starts_with("354"));
        server.signal(signal);
        assert!(idle.reply().starts_with("421"), "the idle one is told");
        assert!(busy.say("Subject: late\r\n\r\nx\r\n.").starts_with("250"), "the message is taken");
        assert!(busy.reply().starts_with("421"));
        drop((idle, busy));
        assert_eq!(server.messages("localhost", "u").len(), 1);
        assert_eq!(server.finish().code, Some(0));
    }
}

#[test]
fn a_client_that_does_not_end_is_not_waited_for() {
    let server = Server::serve(&["--drain-deadline", "0.3"]);
    let mut stuck = server.connect();
    stuck.say("EHLO me");
    stuck.say("MAIL FROM:<a@b.example>");
    stuck.say("RCPT TO:<u@localhost>");
    stuck.say("DATA");
    let start = Instant::now();
    server.signal("TERM");
    assert_eq!(server.finish().code, Some(0));
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = Server::serve(&[]);
    let mut stuck = server.connect();
    stuck.say("EHLO me");
    stuck.say("MAIL FROM:<a@b.example>");
    stuck.say("RCPT TO:<u@localhost>");
    stuck.say("DATA");
    server.signal("TERM");
    // It has to be seen as a second one.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let start = Instant::now();
    server.signal("TERM");
    assert_eq!(server.finish().code, Some(75));
    assert!(start.elapsed().as_secs() < 10);
}
