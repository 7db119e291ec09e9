use smtp_client::{Client, Connection, Error, Settings, Step, TlsError};
use smtp_core::channel::ChannelInfo;
use smtp_core::service::{Body, Transaction};
use smtp_core::stream::{TlsMode, TlsPolicy, Verification};
use tower::{Service, ServiceExt};

use crate::peer::{
    Peer, Scripted, Upgrade, clear, envelope, inside_tls, options, pair, pair_of, results, target, upgradable,
};

const UNVERIFIED: TlsPolicy = TlsPolicy { mode: TlsMode::Required, verification: Verification::None };

async fn hello(stream: Box<dyn smtp_core::stream::ByteStream>, policy: &TlsPolicy) -> Result<Connection, Error> {
    let mut connection = Connection::over(stream, policy, options()).await?;
    connection.hello().await?;
    Ok(connection)
}

#[tokio::test(start_paused = true)]
async fn what_was_said_in_clear_is_forgotten() {
    let (tls, mut inside) = inside_tls(true);
    let (stream, mut peer) = upgradable(Upgrade::To(tls));
    let server = async {
        peer.greet("STARTTLS\nSIZE 1\nAUTH PLAIN\nPIPELINING").await;
        peer.on("STARTTLS", "220 go").await;
        inside.hello("CHUNKING").await;
    };
    let (connection, ()) = tokio::join!(hello(stream, &TlsPolicy::REQUIRED), server);
    let connection = connection.unwrap();
    assert!(connection.info().tls.as_ref().is_some_and(|tls| tls.verified));
    for (keyword, offered) in [("CHUNKING", true), ("AUTH", false), ("SIZE", false), ("PIPELINING", false)] {
        assert_eq!(connection.offers(keyword), offered, "{keyword}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_injected_behind_the_220_ends_it() {
    for injected in ["250 fake", "250-fake\n250 AUTH PLAIN"] {
        for policy in [TlsPolicy::OPPORTUNISTIC, TlsPolicy::REQUIRED] {
            let (tls, mut inside) = inside_tls(true);
            let (stream, mut peer) = upgradable(Upgrade::To(tls));
            let server = async {
                peer.greet("STARTTLS").await;
                peer.expect("STARTTLS").await;
                peer.say_at_once(&format!("220 go\n{injected}")).await;
                assert_eq!(peer.rest().await, "");
            };
            let client = async {
                let error = hello(stream, &policy).await.unwrap_err();
                assert!(matches!(error, Error::Misbehaved { step: Step::StartTls, .. }), "{error}");
            };
            tokio::join!(client, server);
            assert_eq!(inside.rest().await, "");
        }
    }
}

/// What is done under each policy when the server, or somebody on the way, does not play along.
#[tokio::test(start_paused = true)]
async fn the_downgrade_table() {
    let opportunistic = || TlsPolicy::OPPORTUNISTIC;
    // Not offered.
    for (policy, goes_on) in
        [(TlsPolicy::NONE, true), (opportunistic(), true), (UNVERIFIED, false), (TlsPolicy::REQUIRED, false)]
    {
        let (stream, mut peer) = upgradable(Upgrade::Fails);
        let (result, ()) = tokio::join!(hello(stream, &policy), peer.greet("PIPELINING"));
        assert_eq!(result.is_ok(), goes_on, "{policy:?}");
        assert!(goes_on || matches!(result, Err(Error::Tls(TlsError::NotOffered))));
    }
    // Offered on a channel that cannot be upgraded.
    let (stream, mut peer) = pair();
    let (result, ()) = tokio::join!(hello(stream, &UNVERIFIED), peer.greet("STARTTLS"));
    assert!(matches!(result, Err(Error::Tls(TlsError::NotOffered))));
    // Offered and refused.
    for reply in ["454 4.7.0 not now", "501 no", "550 no"] {
        for (policy, goes_on) in [(opportunistic(), true), (UNVERIFIED, false), (TlsPolicy::REQUIRED, false)] {
            let (stream, mut peer) = upgradable(Upgrade::Fails);
            let server = async {
                peer.greet("STARTTLS").await;
                peer.on("STARTTLS", reply).await;
            };
            let (result, ()) = tokio::join!(hello(stream, &policy), server);
            assert_eq!(result.is_ok(), goes_on, "{policy:?} {reply}");
            assert!(goes_on || matches!(result, Err(Error::Tls(TlsError::Refused(_)))));
        }
    }
    // The handshake fails, or the server is gone: the connection is lost under every policy.
    for policy in [opportunistic(), UNVERIFIED, TlsPolicy::REQUIRED] {
        let (stream, mut peer) = upgradable(Upgrade::Fails);
        let server = async {
            peer.greet("STARTTLS").await;
            peer.on("STARTTLS", "220 go").await;
        };
        let (result, ()) = tokio::join!(hello(stream, &policy), server);
        assert!(matches!(result, Err(Error::Tls(TlsError::Handshake(_)))), "{policy:?}");
    }
    // A 421 to STARTTLS is the end, not a refusal to go on from.
    let (stream, mut peer) = upgradable(Upgrade::Fails);
    let server = async {
        peer.greet("STARTTLS").await;
        peer.on("STARTTLS", "421 bye").await;
    };
    let (result, ()) = tokio::join!(hello(stream, &TlsPolicy::OPPORTUNISTIC), server);
    assert!(result.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_did_not_verify_is_found_out() {
    for (policy, verified, fine) in [
        (TlsPolicy::IMPLICIT, true, true),
        (TlsPolicy::IMPLICIT, false, false),
        (TlsPolicy { verification: Verification::Pin([0; 32]), ..TlsPolicy::IMPLICIT }, false, false),
        (TlsPolicy { verification: Verification::None, ..TlsPolicy::IMPLICIT }, false, true),
        (TlsPolicy::REQUIRED, false, false),
        (TlsPolicy::OPPORTUNISTIC, false, true),
    ] {
        let (stream, mut peer) = inside_tls(verified);
        let (result, ()) = tokio::join!(hello(stream, &policy), peer.greet("STARTTLS"));
        assert_eq!(result.is_ok(), fine, "{policy:?} {verified}");
        assert!(fine || matches!(result, Err(Error::Tls(TlsError::Unverified))));
    }
    // Implicit TLS that is not there at all.
    let (stream, mut peer) = pair();
    let (result, ()) = tokio::join!(hello(stream, &TlsPolicy::IMPLICIT), peer.greet(""));
    assert!(matches!(result, Err(Error::Tls(TlsError::NotOffered))));
}

#[tokio::test(start_paused = true)]
async fn a_local_pipe_is_not_tls() {
    let (stream, mut peer) = pair_of(1024, ChannelInfo::memory("x"));
    let (result, ()) = tokio::join!(hello(stream, &UNVERIFIED), peer.greet(""));
    assert!(result.is_err());
    let (stream, mut peer) = pair_of(1024, clear());
    let (result, ()) = tokio::join!(hello(stream, &TlsPolicy::OPPORTUNISTIC), peer.greet(""));
    assert!(result.is_ok());
}

async fn takes_a_message(peer: &mut Peer) {
    peer.on("MAIL FROM:<from@client.test> SIZE=3", "250 ok").await;
    peer.on("RCPT TO:<a@x.test>", "250 ok").await;
    peer.on("DATA", "354 go").await;
    peer.on("a\n.", "250 taken").await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_handshake_is_tried_again_in_clear_where_the_policy_allows() {
    let unverified_pin = TlsPolicy { verification: Verification::Pkix, ..TlsPolicy::OPPORTUNISTIC };
    for (tls, allowed, again) in [
        (TlsPolicy::OPPORTUNISTIC, true, true),
        (TlsPolicy::OPPORTUNISTIC, false, false),
        (unverified_pin, true, false),
        (TlsPolicy::REQUIRED, true, false),
    ] {
        let ((first, mut peer), (second, mut in_clear)) = (upgradable(Upgrade::Fails), upgradable(Upgrade::Fails));
        let connector = Scripted::of([first, second]);
        let settings = Settings {
            tls: tls.clone(),
            clear_after_failed_tls: allowed,
            options: (*options()).clone(),
            ..Settings::default()
        };
        let mut client = Client::new(connector.clone(), target(), settings);
        let transaction = Transaction {
            session: smtp_core::channel::SessionInfo::local("test"),
            envelope: envelope(&["a@x.test"]),
            body: Body::from_bytes("a\r\n"),
        };
        let server = async {
            peer.greet("STARTTLS").await;
            peer.on("STARTTLS", "220 go").await;
            assert_eq!(peer.rest().await, "");
            if again {
                in_clear.greet("STARTTLS\nSIZE 100").await;
                takes_a_message(&mut in_clear).await;
            }
        };
        let call = client.ready().await.unwrap().call(transaction);
        let (result, ()) = tokio::join!(call, server);
        assert_eq!(result.is_ok(), again, "{tls:?} {allowed}");
        match result {
            Ok(outcome) => {
                assert_eq!(results(outcome), ["250 taken"]);
                assert_eq!(connector.policies(), [tls, TlsPolicy::NONE]);
            }
            Err(error) => {
                let refusal = smtp_core::service::reply_for(&error).to_string();
                assert!(refusal.starts_with("451 4.7.5 "), "{refusal}");
            }
        }
    }
}
