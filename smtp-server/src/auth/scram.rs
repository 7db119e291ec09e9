//! SCRAM-SHA-256 and SCRAM-SHA-1 (RFC 7677, RFC 5802), with and without channel binding.

use std::fmt;
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::channel::SessionInfo;
use smtp_core::session::server::Needs;
use smtp_core::types::Secret;
use smtp_sasl::nonce;
use smtp_sasl::scram::{Accepts, Challenger, Hash, ScramError, Server};

use super::{Exchange, Mechanism, ScramUsers, Step, Unavailable};

/// SCRAM: the client proves that it knows the password, and the server that it knows the keys; neither shows them.
///
/// The -PLUS mechanisms bind the proof to the TLS connection, by `tls-exporter` (RFC 9266) or `tls-server-end-point`
/// (RFC 5929). They are offered on every channel, in clear too, though they can only be used under TLS: a client that
/// could bind and was not shown them says so, and is refused, since somebody has changed the list on the way
/// (RFC 5802 §6).
///
/// The authorization identity must be empty or the user itself.
#[derive(Clone)]
pub struct Scram {
    hash: Hash,
    plus: bool,
    offers_plus: bool,
    users: Arc<dyn ScramUsers>,
}

impl Scram {
    /// With channel binding and without it, in this order. Both belong on the list.
    #[must_use]
    pub fn pair(hash: Hash, users: Arc<dyn ScramUsers>) -> [Self; 2] {
        [true, false].map(|plus| Self { hash, plus, offers_plus: true, users: Arc::clone(&users) })
    }

    /// Without channel binding, for a server that does not offer it at all.
    #[must_use]
    pub const fn unbound(hash: Hash, users: Arc<dyn ScramUsers>) -> Self {
        Self { hash, plus: false, offers_plus: false, users }
    }
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Mechanism for Scram {
    fn name(&self) -> &'static str {
        self.hash.mechanism(self.plus)
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn start(&self) -> Box<dyn Exchange> {
        Box::new(Attempt { scram: self.clone(), state: State::First })
    }
}

struct Attempt {
    scram: Scram,
    state: State,
}

enum State {
    /// The client's first message is due.
    First,
    /// The client's proof is due.
    Proof {
        user: Box<str>,
        acts_as: Option<Box<str>>,
        challenger: Challenger,
    },
    /// The client has our proof and is to say that it has read it.
    Acknowledgement {
        user: Box<str>,
    },
    Over,
}

#[async_trait]
impl Exchange for Attempt {
    async fn step(&mut self, response: Option<Secret>, session: &SessionInfo) -> Step {
        // The client speaks first; without an initial response it is asked with an empty challenge (RFC 4954 §4).
        let Some(response) = response else { return Step::Challenge(Bytes::new()) };
        match mem::replace(&mut self.state, State::Over) {
            State::First => self.first(response.expose(), session).await,
            State::Proof { user, acts_as, challenger } => {
                let proof = match challenger.finish(response.expose()) {
                    Ok(proof) => proof,
                    Err(error) => return refusal(error),
                };
                // Looked at last, so that a foreign identity costs the same work as a wrong password.
                if acts_as.is_some_and(|other| other != user) {
                    return Step::Failed;
                }
                // RFC 4954 §4: success carries no octets, so they go before it.
                self.state = State::Acknowledgement { user };
                Step::Challenge(proof.into())
            }
            State::Acknowledgement { user } if response.expose().is_empty() => Step::Success { user },
            State::Acknowledgement { .. } | State::Over => Step::Malformed,
        }
    }
}

impl Attempt {
    async fn first(&mut self, message: &[u8], session: &SessionInfo) -> Step {
        let Scram { hash, plus, offers_plus, ref users } = self.scram;
        let accepts = Accepts { plus, offers_plus, tls: session.channel.tls.as_deref() };
        let server = match Server::begin(hash, &accepts, message) {
            Ok(server) => server,
            Err(error) => return refusal(error),
        };
        let Ok(nonce) = nonce() else { return Step::Unavailable };
        let keys = match users.keys(hash, server.name()).await {
            Ok(keys) => keys,
            Err(Unavailable) => return Step::Unavailable,
        };
        let (user, acts_as) = (server.name().into(), server.acts_as().map(Into::into));
        let (challenge, challenger) = server.challenge(keys, &nonce);
        self.state = State::Proof { user, acts_as, challenger };
        Step::Challenge(challenge.into())
    }
}

fn refusal(error: ScramError) -> Step {
    match error {
        ScramError::BindingUnknown => Step::Unusable(
            "this connection has no such channel binding; tls-exporter is for TLS 1.3 and QUIC, tls-server-end-point for TLS over TCP",
        ),
        ScramError::BindingDiffers => Step::Refused("channel bindings differ: somebody is between us"),
        ScramError::Downgrade => {
            Step::Refused("channel binding is offered here and you were not shown it: somebody is between us")
        }
        ScramError::Nonce => Step::Refused("the nonce is not the one of this exchange"),
        ScramError::Proof => Step::Failed,
        _ => Step::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{OneUser, begin};
    use smtp_core::channel::{ChannelInfo, Peer, TlsInfo};
    use smtp_sasl::scram::{Binding, Client};

    fn session(tls: Option<u8>) -> SessionInfo {
        let mut channel = ChannelInfo::new("tcp", Peer::Named("x".into()));
        channel.secure = tls.is_some();
        channel.tls = tls.map(|octet| Box::new(TlsInfo { exporter: Some([octet; 32]), ..TlsInfo::default() }));
        SessionInfo::new(1, channel)
    }

    fn secret(octets: &[u8]) -> Option<Secret> {
        Some(Secret::new(octets))
    }

    /// What a whole exchange comes to.
    async fn outcome(scram: &Scram, session: &SessionInfo, binding: Binding<'_>, name: &str, acts_as: &str) -> Step {
        let client = Client::new(scram.hash, binding, name, acts_as, "abc").unwrap();
        let mut exchange = begin(scram);
        let challenge = match exchange.step(Some(client.message()), session).await {
            Step::Challenge(challenge) => challenge,
            other => return other,
        };
        let (response, client) = client.challenge(&challenge).unwrap().respond(&Secret::new(*b"right"));
        match exchange.step(Some(response), session).await {
            Step::Challenge(proof) => client.finish(&proof).unwrap(),
            other => return other,
        }
        exchange.step(secret(b""), session).await
    }

    fn jo() -> Step {
        Step::Success { user: "jo".into() }
    }

    #[tokio::test]
    async fn each_of_the_four() {
        let inside = session(Some(7));
        for hash in [Hash::Sha256, Hash::Sha1] {
            let [plus, plain] = Scram::pair(hash, OneUser::shared());
            let to = Binding::To("tls-exporter", &[7; 32]);
            assert_eq!(outcome(&plus, &inside, to, "jo", "").await, jo());
            assert_eq!(outcome(&plain, &inside, Binding::Unsupported, "jo", "").await, jo());
            assert_eq!(outcome(&plain, &session(None), Binding::Unsupported, "jo", "jo").await, jo());
            let unbound = Scram::unbound(hash, OneUser::shared());
            assert_eq!(outcome(&unbound, &inside, Binding::NotOffered, "jo", "").await, jo());
        }
    }

    #[tokio::test]
    async fn unknown_users_and_foreign_identities_fail_alike() {
        let [_, plain] = Scram::pair(Hash::Sha256, OneUser::shared());
        let inside = session(Some(7));
        for (name, acts_as) in [("nobody", ""), ("jo", "boss"), ("JO", "")] {
            assert_eq!(outcome(&plain, &inside, Binding::Unsupported, name, acts_as).await, Step::Failed, "{name}");
        }
    }

    #[tokio::test]
    async fn somebody_in_the_middle_is_noticed() {
        let [plus, plain] = Scram::pair(Hash::Sha256, OneUser::shared());
        let inside = session(Some(7));
        let theirs = Binding::To("tls-exporter", &[8; 32]);
        assert!(matches!(outcome(&plus, &inside, theirs, "jo", "").await, Step::Refused(_)));
        for session in [&inside, &session(None)] {
            assert!(matches!(outcome(&plain, session, Binding::NotOffered, "jo", "").await, Step::Refused(_)));
        }
        assert!(matches!(outcome(&plus, &session(None), theirs, "jo", "").await, Step::Unusable(_)));
        let unique = Binding::To("tls-unique", &[7; 12]);
        assert!(matches!(outcome(&plus, &inside, unique, "jo", "").await, Step::Unusable(_)));
    }

    #[tokio::test]
    async fn garbage_at_each_step() {
        let [_, plain] = Scram::pair(Hash::Sha256, OneUser::shared());
        let session = session(None);
        let mut exchange = begin(&plain);
        assert_eq!(exchange.step(None, &session).await, Step::Challenge(Bytes::new()));
        assert_eq!(exchange.step(secret(b"garbage"), &session).await, Step::Malformed);

        let mut exchange = begin(&plain);
        assert!(matches!(exchange.step(secret(b"n,,n=jo,r=abc"), &session).await, Step::Challenge(_)));
        assert_eq!(exchange.step(secret(b"garbage"), &session).await, Step::Malformed);
        assert_eq!(exchange.step(secret(b""), &session).await, Step::Malformed);

        let mut exchange = begin(&plain);
        assert!(matches!(exchange.step(secret(b"n,,n=jo,r=abc"), &session).await, Step::Challenge(_)));
        assert!(matches!(exchange.step(secret(b"c=biws,r=xyz,p=AAAA"), &session).await, Step::Refused(_)));

        // No success before the proof, and none with more behind it.
        let client = Client::new(Hash::Sha256, Binding::Unsupported, "jo", "", "abc").unwrap();
        let mut exchange = begin(&plain);
        let Step::Challenge(challenge) = exchange.step(Some(client.message()), &session).await else { panic!() };
        let (response, _) = client.challenge(&challenge).unwrap().respond(&Secret::new(*b"right"));
        assert!(matches!(exchange.step(Some(response), &session).await, Step::Challenge(_)));
        assert_eq!(exchange.step(secret(b"more"), &session).await, Step::Malformed);
        assert_eq!(exchange.step(secret(b""), &session).await, Step::Malformed);
    }

    #[tokio::test]
    async fn a_backend_that_is_down_is_no_failure() {
        let [_, plain] = Scram::pair(Hash::Sha256, OneUser::down());
        let outcome = outcome(&plain, &session(None), Binding::Unsupported, "jo", "").await;
        assert_eq!(outcome, Step::Unavailable);
    }
}
