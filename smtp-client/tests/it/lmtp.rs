use std::sync::Arc;

use smtp_client::{Connection, Error, Options, SendOptions};
use smtp_core::service::Body;
use smtp_core::stream::{ConnectStep, Target, TlsPolicy};
use smtp_core::types::{Domain, Host};
use smtp_test::memory::{Knobs, MemoryListener};

use crate::peer::{connected_with, envelope, results};

#[tokio::test(start_paused = true)]
async fn each_recipient_has_its_own_answer() {
    for keywords in ["PIPELINING", "PIPELINING\nCHUNKING", ""] {
        let options = Options { lmtp: true, ..Options::new(Domain::new("client.test").unwrap()) };
        let (mut connection, mut peer) = connected_with(keywords, Arc::new(options)).await;
        let server = async {
            for _ in 0..2 {
                peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
                peer.on("RCPT TO:<a@x.test>", "250 ok").await;
                peer.on("RCPT TO:<b@x.test>", "550 5.1.1 nobody").await;
                peer.on("RCPT TO:<c@x.test>", "250 ok").await;
                if keywords.contains("CHUNKING") {
                    peer.expect("BDAT 3 LAST\na").await;
                } else {
                    peer.on("DATA", "354 go").await;
                    peer.expect("a\n.").await;
                }
                peer.say("452 4.2.2 full\n250 2.0.0 taken").await;
            }
        };
        let client = async {
            for _ in 0..2 {
                let envelope = envelope(&["a@x.test", "b@x.test", "c@x.test"]);
                let outcome = connection.send(&envelope, Body::from_bytes("a\r\n"), &SendOptions::default()).await;
                let expected = ["452 4.2.2 full", "550 5.1.1 nobody", "250 2.0.0 taken"];
                assert_eq!(results(outcome.unwrap()), expected, "{keywords}");
                assert!(connection.is_usable());
            }
        };
        tokio::join!(server, client);
    }
}

fn lmtp() -> Arc<Options> {
    Arc::new(Options { lmtp: true, ..Options::new(Domain::new("client.test").unwrap()) })
}

/// The many replies come behind the content only (RFC 2033 §4.2): a refused DATA has one.
#[tokio::test(start_paused = true)]
async fn a_refused_data_has_one_reply() {
    let (mut connection, mut peer) = connected_with("PIPELINING", lmtp()).await;
    let server = async {
        peer.on("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nRCPT TO:<b@x.test>\nDATA", "").await;
        peer.say("250 ok\n250 ok\n250 ok\n451 4.3.0 not now").await;
        // What was accepted is still there on the server.
        peer.on("RSET\nMAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA", "250 ok\n250 ok\n250 ok\n354 go").await;
        peer.on("x\n.", "250 2.0.0 taken").await;
    };
    let client = async {
        let options = SendOptions::default();
        let outcome = connection.send(&envelope(&["a@x.test", "b@x.test"]), Body::from_bytes("x\r\n"), &options).await;
        assert_eq!(results(outcome.unwrap()), ["451 4.3.0 not now", "451 4.3.0 not now"]);
        let outcome = connection.send(&envelope(&["a@x.test"]), Body::from_bytes("x\r\n"), &options).await;
        assert_eq!(results(outcome.unwrap()), ["250 2.0.0 taken"]);
    };
    tokio::join!(server, client);
}

/// There is no older LMTP to fall back to.
#[tokio::test(start_paused = true)]
async fn a_server_that_knows_no_lhlo_is_not_greeted_otherwise() {
    let (client, server) = tokio::io::duplex(4096);
    let mut peer = crate::peer::Peer::new(server);
    let stream = smtp_core::stream::Plain::new(client, smtp_core::channel::ChannelInfo::memory("test"));
    let server = async {
        peer.say("220 mx.test ESMTP").await;
        peer.on("LHLO client.test", "500 5.5.1 what").await;
        peer.silent().await;
    };
    let client = async {
        let mut connection = Connection::over(Box::new(stream), &TlsPolicy::NONE, lmtp()).await.unwrap();
        let error = connection.hello().await.unwrap_err();
        assert_eq!(error.reply().unwrap().code().get(), 500);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn port_25_is_refused_before_anything_is_connected() {
    let connector = MemoryListener::new(Knobs::default()).connector();
    let target = |port| Target::host(Host::Domain(Domain::new("mx.test").unwrap()), port);
    let error = Connection::connect(&connector, &target(25), &TlsPolicy::NONE, lmtp()).await.unwrap_err();
    let Error::Connect(error) = error else { panic!("{error}") };
    assert!(!error.transient && error.step == ConnectStep::Connect, "{error:?}");
    assert!(error.to_string().contains("mx.test:25") && error.to_string().contains("RFC 2033"), "{error}");
}
