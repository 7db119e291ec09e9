//! AUTH, both sides of it at once: every mechanism over channels that can carry it, somebody in the middle, and other
//! people's clients and servers.

mod middle;
mod peers;

mod world;

use smtp_client::sasl::{Credentials, Strength};
use smtp_client::{Error, Local};
use smtp_core::types::{Mail, Reply, ReversePath, Secret};

use world::{Kind, World, jo, run};

/// What comes of AUTH in a session of its own.
async fn authenticate(world: &World, credentials: &Credentials) -> Result<Reply, Error> {
    let mut connection = world.connect().await;
    let result = connection.auth(credentials).await;
    assert_eq!(connection.is_authenticated(), result.is_ok());
    // Whatever came of it: the session goes on.
    if connection.is_usable() {
        connection.noop().await.unwrap();
        connection.quit().await.unwrap();
    }
    result
}

fn code(result: &Result<Reply, Error>) -> u16 {
    match result {
        Ok(reply) | Err(Error::Refused { reply, .. }) => reply.code().get(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_mechanism_over_each_channel_that_can_carry_it() {
    run(async {
        for kind in Kind::ALL {
            let world = World::new(kind);
            let tls = !matches!(kind, Kind::Memory | Kind::Unix);
            let mut names = vec!["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5"];
            if tls {
                names.extend(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"]);
            }
            for name in names {
                let right = authenticate(&world, &jo().pinned(name)).await;
                assert_eq!(code(&right), 235, "{kind:?} {name}");
                assert_eq!(world.last_user().as_deref(), Some(&*format!("jo by {name}")), "{kind:?}");
                let wrong = Credentials::new("jo", "wrong").unwrap().pinned(name);
                assert_eq!(code(&authenticate(&world, &wrong).await), 535, "{kind:?} {name}");
                let nobody = Credentials::new("nobody", "right").unwrap().pinned(name);
                assert_eq!(code(&authenticate(&world, &nobody).await), 535, "{kind:?} {name}");
            }
            let token = |token| Credentials::bearer("jo", token).unwrap();
            for name in ["OAUTHBEARER", "XOAUTH2"] {
                assert_eq!(code(&authenticate(&world, &token("good").pinned(name)).await), 235, "{kind:?} {name}");
                assert_eq!(code(&authenticate(&world, &token("bad").pinned(name)).await), 535, "{kind:?} {name}");
            }
            assert_eq!(code(&authenticate(&world, &Credentials::anonymous("x").unwrap()).await), 235);
            let external = authenticate(&world, &Credentials::external()).await;
            match kind {
                // No certificate, no user id.
                Kind::Memory => assert!(
                    matches!(external, Err(Error::Local { cause: Local::NoMechanism { .. }, .. })),
                    "{external:?}"
                ),
                Kind::Unix | Kind::Tls12 | Kind::Tls13 | Kind::StartTls | Kind::Quic => {
                    assert_eq!(code(&external), 235, "{kind:?}");
                    let boss = Credentials::external().act_as("boss").unwrap();
                    assert_eq!(code(&authenticate(&world, &boss).await), 535, "{kind:?}");
                    let itself = Credentials::external().act_as("jo").unwrap();
                    assert_eq!(code(&authenticate(&world, &itself).await), 235, "{kind:?}");
                }
            }
        }
    });
}

#[test]
fn the_strongest_is_taken() {
    run(async {
        for kind in Kind::ALL {
            let world = World::new(kind);
            let strongest = match kind {
                Kind::Memory | Kind::Unix => "SCRAM-SHA-256",
                Kind::Tls12 | Kind::Tls13 | Kind::StartTls | Kind::Quic => "SCRAM-SHA-256-PLUS",
            };
            authenticate(&world, &jo()).await.unwrap();
            assert_eq!(world.last_user().as_deref(), Some(&*format!("jo by {strongest}")), "{kind:?}");
            let bound = authenticate(&world, &jo().at_least(Strength::Bound)).await;
            assert_eq!(bound.is_ok(), strongest.ends_with("-PLUS"), "{kind:?}");
        }
    });
}

#[test]
fn a_second_auth_and_auth_within_a_transaction_are_refused_and_change_nothing() {
    run(async {
        for kind in [Kind::Memory, Kind::Tls13, Kind::Quic] {
            let world = World::new(kind);
            let mut connection = world.connect().await;
            let (own, other) = (mail("<jo@here.example>"), mail("<al@here.example>"));
            connection.mail(&own).await.unwrap();
            // Our client would not send these; somebody else's might.
            assert_eq!(code(&connection.raw("AUTH SCRAM-SHA-256").await), 503);
            connection.rset().await.unwrap();
            connection.auth(&jo()).await.unwrap();
            assert_eq!(code(&connection.raw("AUTH SCRAM-SHA-256").await), 503);
            connection.mail(&own).await.unwrap();
            connection.rset().await.unwrap();
            // As somebody else, no.
            assert_eq!(code(&connection.mail(&other).await), 553);
            connection.mail(&own).await.unwrap();
        }
    });
}

fn mail(from: &str) -> Mail {
    Mail::new(from.parse::<ReversePath>().unwrap())
}

#[test]
fn no_secret_gets_into_a_log() {
    /// With their beginnings in base64, as they would stand in a line of AUTH.
    const CANARIES: [(&str, &str); 2] =
        [("canary-password-1", "Y2FuYXJ5LXBhc3N3b3Jk"), ("canary-token-2", "Y2FuYXJ5LXRva2Vu")];
    let log = world::Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish();
    tracing_subscriber::util::SubscriberInitExt::try_init(subscriber).unwrap();
    run(async {
        let world = World::new(Kind::Tls13);
        let [(password, _), (token, _)] = CANARIES;
        let passwords = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5"];
        let passwords = passwords.map(|name| Credentials::new("jo", password).unwrap().pinned(name));
        let tokens = ["OAUTHBEARER", "XOAUTH2"].map(|name| Credentials::bearer("jo", token).unwrap().pinned(name));
        let mut shown = format!("{:?}", Secret::new(password));
        for credentials in passwords.iter().chain(&tokens) {
            let error = authenticate(&world, credentials).await.unwrap_err();
            shown += &format!("{credentials:?} {error:?} {error} {:?}", error.refusal());
        }
        let log = log.text();
        // It is the server's log, and AUTH is in it.
        assert!(log.contains("AUTH") && log.contains("5.7.8"), "{log}");
        shown += &log;
        for (canary, encoded) in CANARIES {
            assert!(!shown.contains(canary) && !shown.contains(encoded), "{shown}");
        }
    });
}
