use smtp_client::sasl::{Credentials, Exposure, Mechanism, SaslError};
use smtp_client::{Connection, Error, Local, Step};
use smtp_core::stream::TlsPolicy;
use smtp_core::types::Secret;

use crate::peer::{Peer, connected, inside_tls, options};

fn jo() -> Credentials {
    Credentials::new("jo", "hunter2").unwrap()
}

async fn secure(keywords: &str, verified: bool) -> (Connection, Peer) {
    let (stream, mut peer) = inside_tls(verified);
    let client = async {
        let mut connection = Connection::over(stream, &TlsPolicy::OPPORTUNISTIC, options()).await.unwrap();
        connection.hello().await.unwrap();
        connection
    };
    let (connection, ()) = tokio::join!(client, peer.greet(keywords));
    (connection, peer)
}

#[tokio::test(start_paused = true)]
async fn plain_and_login() {
    let (mut connection, mut peer) = secure("AUTH LOGIN PLAIN", true).await;
    let server = async {
        peer.on("AUTH PLAIN AGpvAGh1bnRlcjI=", "535 5.7.8 no").await;
        peer.on("AUTH LOGIN", "334 VXNlcm5hbWU6").await;
        peer.on("am8=", "334 UGFzc3dvcmQ6").await;
        peer.on("aHVudGVyMg==", "235 2.7.0 welcome").await;
    };
    let client = async {
        let error = connection.auth(&jo()).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { step: Step::Auth, .. }));
        assert!(!format!("{error:?} {error}").contains("hunter2"));
        // A wrong password here must not bounce somebody's mail.
        assert_eq!(error.refusal().to_string(), "451 4.7.8 next hop: AUTH: refused: 535 5.7.8 no");
        assert!(!connection.is_authenticated() && connection.is_usable());
        connection.auth(&jo().pinned("login")).await.unwrap();
        assert!(connection.is_authenticated());
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn no_octet_of_a_secret_leaves_where_it_must_not() {
    let (mut connection, mut peer) = connected("AUTH PLAIN LOGIN").await;
    let error = connection.auth(&jo()).await.unwrap_err();
    assert!(matches!(error, Error::Local { step: Step::Auth, cause: Local::Overheard }), "{error}");
    peer.silent().await;

    let (mut connection, mut peer) = secure("AUTH PLAIN LOGIN", false).await;
    let error = connection.auth(&jo()).await.unwrap_err();
    assert!(matches!(error, Error::Local { step: Step::Auth, cause: Local::Unverified }), "{error}");
    let mut own = Own { done: true, exposes: true };
    assert!(connection.authenticate(&mut own, Exposure::default()).await.is_err());
    peer.silent().await;
}

#[tokio::test(start_paused = true)]
async fn no_mechanism_in_common() {
    let (mut connection, mut peer) = secure("AUTH GSSAPI NTLM", true).await;
    let error = connection.auth(&jo()).await.unwrap_err();
    let offered = "GSSAPI NTLM".to_owned();
    assert!(matches!(&error, Error::Local { cause: Local::NoMechanism { offered: o }, .. } if *o == offered));
    peer.silent().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_first_message_waits_for_its_turn() {
    let (mut connection, mut peer) = secure("AUTH PLAIN", true).await;
    let long = Credentials::new(&"u".repeat(400), "p").unwrap();
    let server = async {
        peer.on("AUTH PLAIN", "334 ").await;
        let response = peer.line().await;
        assert!(response.len() > 500);
        peer.say("235 fine").await;
    };
    let (result, ()) = tokio::join!(connection.auth(&long), server);
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_nonsense_is_cancelled() {
    for challenge in ["334 !!not base64!!", "334 bW9yZT8=", "334 *"] {
        let (mut connection, mut peer) = secure("AUTH PLAIN", true).await;
        let server = async {
            peer.on("AUTH PLAIN AGpvAGh1bnRlcjI=", challenge).await;
            peer.on("*", "501 cancelled").await;
        };
        let jo = jo();
        let (result, ()) = tokio::join!(connection.auth(&jo), server);
        assert!(matches!(result.unwrap_err(), Error::Local { step: Step::Auth, .. }));
        assert!(connection.is_usable() && !connection.is_authenticated());
    }
}

/// A mechanism of somebody's own.
struct Own {
    done: bool,
    exposes: bool,
}

#[async_trait::async_trait]
impl Mechanism for Own {
    fn name(&self) -> &str {
        "X-OWN"
    }

    fn exposes_secret(&self) -> bool {
        self.exposes
    }

    async fn respond(&mut self, challenge: &[u8]) -> Result<Secret, SaslError> {
        self.done |= challenge == b"proof";
        Ok(Secret::new(*b"x"))
    }

    fn may_succeed(&self) -> bool {
        self.done
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_to_prove_itself_and_does_not_is_left() {
    for (proof, fine) in [("334 cHJvb2Y=", true), ("334 bHVjaw==", false)] {
        let (mut connection, mut peer) = connected("AUTH X-OWN").await;
        let server = async {
            peer.on("AUTH X-OWN", proof).await;
            peer.on("eA==", "235 trust me").await;
        };
        let mut own = Own { done: false, exposes: false };
        let (result, ()) = tokio::join!(connection.authenticate(&mut own, Exposure::default()), server);
        assert_eq!(result.is_ok(), fine);
        assert_eq!(connection.is_usable(), fine);
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_without_end_ends() {
    let (mut connection, mut peer) = connected("AUTH X-OWN").await;
    let server = async {
        peer.on("AUTH X-OWN", "334 ").await;
        loop {
            match peer.line().await.as_str() {
                "*" => break peer.say("501 at last").await,
                _ => peer.say("334 ").await,
            }
        }
    };
    let mut own = Own { done: false, exposes: false };
    let (result, ()) = tokio::join!(connection.authenticate(&mut own, Exposure::default()), server);
    assert!(matches!(result.unwrap_err(), Error::Local { .. }));
}
