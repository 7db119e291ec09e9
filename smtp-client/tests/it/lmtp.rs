use std::sync::Arc;

use smtp_client::{Options, SendOptions};
use smtp_core::service::Body;
use smtp_core::types::Domain;

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
