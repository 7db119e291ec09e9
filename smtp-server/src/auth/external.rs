//! EXTERNAL (RFC 4422 appendix A): the channel knows already who the client is.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::channel::{ChannelInfo, Peer, SessionInfo};
use smtp_core::session::server::Needs;
use smtp_core::types::Secret;

use super::{Credential, Exchange, ExternalUsers, Mechanism, Step, Unavailable};

/// EXTERNAL: by the client's certificate, or by the user id of a local process.
///
/// A certificate counts if the listener verified it against a CA for clients; use one that issues for this purpose
/// only. It proves nothing by itself: the map of [`ExternalUsers`] says whose key or whose mail address it is. The
/// overflow uid 65534, which stands for every user that this system cannot name, is nobody.
///
/// The authorization identity must be empty or the user that the map gives.
#[derive(Clone)]
pub struct External(Arc<dyn ExternalUsers>);

/// Who a process is whose user has no number here (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_UID: u32 = 65_534;

impl External {
    /// EXTERNAL with this map.
    #[must_use]
    pub const fn new(users: Arc<dyn ExternalUsers>) -> Self {
        Self(users)
    }

    /// The one user that all the channel vouches for belongs to.
    async fn user_of(&self, channel: &ChannelInfo) -> Result<Option<Box<str>>, Unavailable> {
        let mut found: Option<Box<str>> = None;
        for credential in credentials(channel) {
            match (self.0.user_of(credential).await?, &found) {
                // A certificate with addresses of two users says nothing.
                (Some(user), Some(other)) if user != *other => return Ok(None),
                (Some(user), _) => found = Some(user),
                (None, _) => {}
            }
        }
        Ok(found)
    }
}

/// What the channel vouches for. Of somebody for whom a proxy speaks it knows nothing: after XCLIENT certificate and
/// user id are the proxy's own.
fn credentials(channel: &ChannelInfo) -> impl Iterator<Item = Credential<'_>> {
    let own = !matches!(channel.peer, Peer::Forwarded { .. });
    let certificate = channel.tls.as_ref().filter(|tls| own && tls.verified);
    let key = certificate.and_then(|tls| tls.peer_key.as_ref()).map(Credential::Key);
    let mailboxes = certificate.into_iter().flat_map(|tls| &tls.peer_mailboxes);
    let uid = match channel.peer {
        Peer::Process { uid, .. } if uid != OVERFLOW_UID => Some(Credential::Uid(uid)),
        Peer::Process { .. } | Peer::Ip(_) | Peer::Named(_) | Peer::Forwarded { .. } => None,
    };
    key.into_iter().chain(mailboxes.map(|mailbox| Credential::Mailbox(mailbox))).chain(uid)
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("External")
    }
}

impl Mechanism for External {
    fn name(&self) -> &'static str {
        "EXTERNAL"
    }

    fn needs(&self) -> Needs {
        Needs::Identity
    }

    fn start(&self) -> Box<dyn Exchange> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Exchange for External {
    async fn step(&mut self, response: Option<Secret>, session: &SessionInfo) -> Step {
        // The client speaks first; without an initial response it is asked with an empty challenge (RFC 4954 §4).
        let Some(acts_as) = response else { return Step::Challenge(Bytes::new()) };
        let Ok(acts_as) = std::str::from_utf8(acts_as.expose()) else { return Step::Malformed };
        if acts_as.contains('\0') {
            return Step::Malformed;
        }
        match self.user_of(&session.channel).await {
            //
            Ok(Some(user)) if acts_as.is_empty() || acts_as == &*user => Step::Success { user },
            Ok(_) => Step::Failed,
            Err(Unavailable) => Step::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::begin;
    use crate::auth::{User, UserList};
    use smtp_core::channel::TlsInfo;

    fn mechanism() -> External {
        let key = "07".repeat(32);
        let lines = [format!("jo: key={key} cert=jo@example.org uid=1000"), "al: cert=al@example.org uid=65534".into()];
        let users = lines.iter().fold(UserList::new(), |list, line| list.and(line.parse::<User>().unwrap()).unwrap());
        External::new(Arc::new(users))
    }

    async fn ask(channel: ChannelInfo, acts_as: &str) -> Step {
        let mut exchange = begin(&mechanism());
        exchange.step(Some(Secret::new(acts_as)), &SessionInfo::new(1, channel)).await
    }

    fn certificate(key: u8, mailboxes: &[&str]) -> ChannelInfo {
        let mut channel = ChannelInfo::new("tcp", Peer::Ip("192.0.2.1:1".parse().unwrap()));
        channel.secure = true;
        channel.tls = Some(
            TlsInfo {
                verified: true,
                peer_certificates: vec![vec![0]],
                peer_key: Some([key; 32]),
                peer_mailboxes: mailboxes.iter().map(|m| (*m).into()).collect(),
                ..TlsInfo::default()
            }
            .into(),
        );
        channel
    }

    fn process(uid: u32) -> ChannelInfo {
        let peer = Peer::Process { uid, gid: uid, pid: None };
        ChannelInfo { secure: true, ..ChannelInfo::new("unix", peer) }
    }

    fn jo() -> Step {
        Step::Success { user: "jo".into() }
    }

    #[tokio::test]
    async fn nobody_behind_a_proxy_is_taken_for_the_proxy() {
        for mut channel in [certificate(7, &["jo@example.org"]), process(1000)] {
            channel.peer = Peer::Forwarded { address: None, proxy: Box::new(channel.peer) };
            assert!(!matches!(ask(channel, "").await, Step::Success { .. }));
        }
    }

    #[tokio::test]
    async fn key_address_and_uid_are_mapped() {
        assert_eq!(ask(certificate(7, &[]), "").await, jo());
        assert_eq!(ask(certificate(8, &["jo@EXAMPLE.org"]), "jo").await, jo());
        assert_eq!(ask(certificate(7, &["stranger@example.com"]), "").await, jo());
        assert_eq!(ask(process(1000), "").await, jo());
    }

    #[tokio::test]
    async fn nobody_else_gets_in() {
        assert_eq!(ask(certificate(8, &["stranger@example.org"]), "").await, Step::Failed);
        assert_eq!(ask(certificate(8, &[]), "jo").await, Step::Failed);
        assert_eq!(ask(certificate(7, &[]), "al").await, Step::Failed);
        assert_eq!(ask(certificate(7, &["al@example.org"]), "").await, Step::Failed, "whose is it?");
        assert_eq!(ask(process(1001), "").await, Step::Failed);
        assert_eq!(ask(process(65_534), "").await, Step::Failed, "the overflow uid");
        let mut unverified = certificate(7, &[]);
        unverified.tls.as_mut().unwrap().verified = false;
        assert_eq!(ask(unverified, "").await, Step::Failed);
        assert_eq!(ask(certificate(7, &[]), "j\0o").await, Step::Malformed);
    }
}
