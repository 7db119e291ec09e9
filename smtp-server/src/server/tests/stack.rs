//! Whole stacks, from the client's first octet to the delivery.

use super::*;
use crate::auth::UserList;
use crate::delivery::{LoopLayer, ReceivedLayer, TraceDeliveryLayer};
use crate::policy::{RequireAuthLayer, RequireTlsLayer, SessionLimitLayer, TraceLayer};
use crate::testing::Log;
use crate::{AuthLayer, Mailboxes};
use smtp_core::channel::Peer;
use smtp_core::types::Secret;
use tower_layer::Layer;
use tracing::Level;

/// `\0jo\0canary-password`, `jo`, `canary-password` and `wrong` in base64.
const PLAIN: &str = "AGpvAGNhbmFyeS1wYXNzd29yZA==";
const NAME: &str = "am8=";
const PASSWORD: &str = "Y2FuYXJ5LXBhc3N3b3Jk";
const WRONG: &str = "d3Jvbmc=";

/// A submission server for `example.org` with the user `jo`.
fn submission(recorder: &Recorder) -> Started {
    let domain = "example.org".parse().unwrap();
    let users = UserList::new().with("jo", &Secret::new(*b"canary-password")).unwrap();
    let auth = AuthLayer::passwords(Arc::new(users));
    let config = Config::new("mx.example.org".parse().unwrap()).with_mechanisms(auth.offers());
    let sessions = SessionLimitLayer::new().per_peer(1);
    let recipients = Mailboxes::new(&domain).unwrap().relay_for_authenticated(true);
    let (received, recorder) = (ReceivedLayer::new(&config.hostname), recorder.clone());
    start(Settings::new(driver::Settings::new(config)), move |_| {
        let policy = auth.layer(RequireAuthLayer.layer(recipients.clone()));
        let policy = TraceLayer.layer(sessions.layer(RequireTlsLayer.layer(policy)));
        let delivery = LoopLayer::default().layer(received.layer(recorder.clone()));
        (policy, TraceDeliveryLayer.layer(delivery))
    })
}

/// Connects over a channel with these facts; gives the first reply too.
async fn dial_over(server: &Started, channel: ChannelInfo) -> (Client, String) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.dialer.send(Box::new(Single::new(Plain::new(theirs, channel)))).await.unwrap();
    let mut client = Client(ours);
    let reply = client.reply().await;
    (client, reply)
}

fn from(address: &str, secure: bool) -> ChannelInfo {
    ChannelInfo { secure, ..ChannelInfo::new("tcp", Peer::Ip(address.parse().unwrap())) }
}

#[tokio::test]
async fn one_peer_has_its_share_of_all_servers_together() {
    let sessions = SessionLimitLayer::new().per_peer(2);
    let [one, other] = [sessions.clone(), sessions]
        .map(|sessions| start(settings(), move |_| (sessions.layer(AnyRecipient::exposed()), Recorder::new())));
    let (first, reply) = dial_over(&one, from("192.0.2.1:1", true)).await;
    assert_eq!(reply, "220");
    let (mut second, reply) = dial_over(&other, from("192.0.2.1:2", true)).await;
    assert_eq!(reply, "220");
    for server in [&one, &other] {
        assert_eq!(dial_over(server, from("192.0.2.1:3", true)).await.1, "421");
        assert_eq!(dial_over(server, from("192.0.2.2:3", true)).await.1, "220");
    }
    assert_eq!(second.say("QUIT").await, "221");
    // The place is given back when the session's service is dropped, which is after the channel's end.
    assert_eq!(second.reply().await, "");
    assert_eq!(dial_over(&one, from("192.0.2.1:4", true)).await.1, "220");
    drop(first);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn who_authenticates_may_send_anywhere() {
    let recorder = Recorder::new();
    let server = submission(&recorder);
    let (mut client, reply) = dial_over(&server, from("192.0.2.1:1", true)).await;
    assert_eq!(reply, "220");
    assert_eq!(client.say("EHLO c.example").await, "250");
    assert_eq!(client.say("MAIL FROM:<jo@example.org>").await, "530");
    assert_eq!(client.say("AUTH LOGIN").await, "334");
    assert_eq!(client.say("*").await, "501");
    assert_eq!(client.say(&format!("AUTH LOGIN {NAME}")).await, "334");
    assert_eq!(client.say(WRONG).await, "535");
    assert_eq!(client.say("AUTH LOGIN").await, "334");
    assert_eq!(client.say(NAME).await, "334");
    assert_eq!(client.say(PASSWORD).await, "235");
    assert_eq!(client.say(&format!("AUTH PLAIN {PLAIN}")).await, "503");
    assert_eq!(client.transaction().await, "250");
    assert_eq!(client.say("QUIT").await, "221");
    let [message] = &recorder.messages()[..] else { panic!("one message") };
    assert_eq!(message.session.identity.as_ref().map(|i| &*i.user), Some("jo"));
    let text = String::from_utf8(message.content.to_vec()).unwrap();
    assert!(
        text.starts_with("Received: from c.example ([192.0.2.1])\r\n\tby mx.example.org with ESMTPA\r\n"),
        "{text}"
    );
    assert!(text.contains("\tfor <x@y.example>;\r\n") && text.ends_with("\r\nSubject: x\r\n\r\ny\r\n"), "{text}");
    assert_eq!(server.stop().await, Summary { sessions: 1, aborted: 0, panicked: 0 });
}

#[tokio::test]
async fn in_clear_there_is_neither_auth_nor_mail() {
    let recorder = Recorder::new();
    let server = submission(&recorder);
    let (mut client, _) = dial_over(&server, from("192.0.2.1:1", false)).await;
    assert_eq!(client.say("EHLO c.example").await, "250");
    assert_eq!(client.say("MAIL FROM:<jo@example.org>").await, "530");
    for line in ["AUTH PLAIN", &format!("AUTH PLAIN {PLAIN}"), "AUTH LOGIN"] {
        assert!(client.say(line).await.starts_with('5'), "{line}");
    }
    assert_eq!(client.say("NOOP").await, "250");
    assert!(recorder.messages().is_empty());
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn the_third_failure_ends_the_session() {
    let server = submission(&Recorder::new());
    let (mut client, _) = dial_over(&server, from("192.0.2.1:1", true)).await;
    assert_eq!(client.say("EHLO c.example").await, "250");
    for code in ["535", "535", "421"] {
        assert_eq!(client.say(&format!("AUTH LOGIN {NAME}")).await, "334");
        assert_eq!(client.say(WRONG).await, code);
    }
    assert_eq!(client.reply().await, "");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_session_too_many_is_told_so_and_closed() {
    let server = submission(&Recorder::new());
    let (first, reply) = dial_over(&server, from("192.0.2.1:1", true)).await;
    assert_eq!(reply, "220");
    let (mut second, reply) = dial_over(&server, from("192.0.2.1:2", true)).await;
    assert_eq!(reply, "421");
    assert_eq!(second.reply().await, "");
    assert_eq!(dial_over(&server, from("192.0.2.2:3", true)).await.1, "220");
    drop((first, second));
    // The place is given back when the session is over, not when the client thinks so.
    for attempt in 0.. {
        if dial_over(&server, from("192.0.2.1:4", true)).await.1 == "220" {
            break;
        }
        assert!(attempt < 100, "the place was not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_server_for_any_recipient_serves_nobody_from_afar() {
    let server = start(settings(), |_| (AnyRecipient::new(), Recorder::new()));
    let (mut client, reply) = dial_over(&server, from("192.0.2.1:1", true)).await;
    assert_eq!(reply, "554");
    client.0.write_all(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<x@y>\r\nDATA\r\n").await.unwrap();
    client.0.shutdown().await.unwrap();
    let mut rest = String::new();
    client.0.read_to_string(&mut rest).await.unwrap();
    assert!(!rest.contains("354") && !rest.lines().any(|line| line.starts_with("250 2.1")), "{rest}");
    server.stop().await;
}

#[test]
fn a_hostile_session_leaves_a_clean_log_without_secrets() {
    let log = Log::new(Level::TRACE);
    log.run(async {
        let server = submission(&Recorder::new());
        let (mut client, _) = dial_over(&server, from("192.0.2.1:1", true)).await;
        let mut lines: Vec<Vec<u8>> = [
            "EHLO \u{1b}[2J\u{7}",
            "EHLO [\u{1b}]",
            "\u{1b}]0;owned\u{7} x",
            "EHLO c.example",
            "VRFY \u{1b}[31mred\u{9b}31m",
            "VRFY who",
            "HELP a\rb\0c",
            "MAIL FROM:<\u{1b}@x>",
            "MAIL FROM:<\"a\u{85}b\"@x.example> X=\u{1b}",
            "RCPT TO:<\"\u{1b}\"@x.example>",
        ]
        .map(|line| line.as_bytes().to_vec())
        .into();
        lines.push(b"NOOP \xff\xfe\x1b".to_vec());
        for line in ["AUTH LOGIN am8=", PASSWORD, "MAIL FROM:<jo@example.org>", "RCPT TO:<\"x y\"@z.example>"] {
            lines.push(line.as_bytes().to_vec());
        }
        for line in lines {
            client.0.write_all(&line).await.unwrap();
            client.0.write_all(b"\r\n").await.unwrap();
            client.reply().await;
        }
        drop(client);
        server.stop().await;
    });
    let text = log.text();
    for expected in ["VRFY who", "AUTH LOGIN", "authenticated", "RCPT TO"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    for forbidden in ["\u{1b}", "\r", "\0", "\u{7}", "\u{9b}", "\u{85}", "canary", PASSWORD, PLAIN] {
        assert!(!text.contains(forbidden), "{forbidden:?} in {text}");
    }
}
