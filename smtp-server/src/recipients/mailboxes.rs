//! Mailboxes of local domains get mail here.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Command, Domain, ForwardPath, Invalid, Mailbox, Refusal};
use tower_service::Service;

use crate::name::{self, POSTMASTER};

/// Accepts the mailboxes of local domains, and nothing else.
///
/// - `postmaster` exists in every local domain and without one (RFC 5321 §4.5.1).
/// - Without [`Mailboxes::only`] every other local part exists too, as long as it can be a folder name (up to 200
///   octets) and holds no `%`, `!` or `@`, which old relays took for a route: 550 5.7.1.
/// - An unknown mailbox of a local domain: 550 5.1.1.
/// - Any other domain, address literals included: 550 5.7.1, unless [`Mailboxes::relay_for_authenticated`].
///
/// Domains compare without case and as A-labels (RFC 5890), local parts as the folder names that
/// [`Maildir`](crate::maildir::Maildir) gives them, so without case. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailboxes(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    /// Each local domain with the folder names of its mailboxes.
    domains: HashMap<Box<str>, HashSet<Box<str>>>,
    listed: bool,
    relay_for_authenticated: bool,
}

impl Mailboxes {
    /// The mailboxes of `primary`, the domain that a bare `<Postmaster>` belongs to.
    ///
    /// # Errors
    /// [`Invalid`] if the domain is no name under IDNA (RFC 5891).
    pub fn new(primary: &Domain) -> Result<Self, Invalid> {
        Self(Arc::new(Inner { domains: HashMap::new(), listed: false, relay_for_authenticated: false })).and(primary)
    }

    /// These, and those of `domain`.
    ///
    /// # Errors
    /// [`Invalid`] if the domain is no name under IDNA (RFC 5891).
    pub fn and(mut self, domain: &Domain) -> Result<Self, Invalid> {
        let domain =
            name::domain(domain.as_str()).ok_or(Invalid::new("local domain", "a name under IDNA (RFC 5891)"))?;
        let inner = Arc::make_mut(&mut self.0);
        inner.domains.entry(domain.into()).or_default().insert(POSTMASTER.into());
        Ok(self)
    }

    /// Of the local domains these mailboxes only, and `postmaster`. Called again, it adds more.
    ///
    /// # Errors
    /// [`Invalid`] for a mailbox outside the local domains, and for one that cannot be a folder name.
    pub fn only<'a>(mut self, mailboxes: impl IntoIterator<Item = &'a Mailbox>) -> Result<Self, Invalid> {
        const WHAT: &str = "local mailbox";
        let inner = Arc::make_mut(&mut self.0);
        inner.listed = true;
        for mailbox in mailboxes {
            let users = name::domain(mailbox.host())
                .and_then(|domain| inner.domains.get_mut(&*domain))
                .ok_or(Invalid::new(WHAT, "its domain has to be one of the local domains, and is not"))?;
            let local = mailbox.local_name();
            let folder = name::folder(&local)
                .ok_or(Invalid::new(WHAT, "its name has to fit into 200 octets on disk, and does not"))?;
            users.insert(folder.into());
        }
        Ok(self)
    }

    /// Whether a client that has authenticated may send to any domain, as on a submission port (RFC 6409). Default:
    /// false. An address alone never lets anyone relay, loopback included.
    #[must_use]
    pub fn relay_for_authenticated(mut self, relay: bool) -> Self {
        Arc::make_mut(&mut self.0).relay_for_authenticated = relay;
        self
    }

    fn recipient(&self, to: &ForwardPath, authenticated: bool) -> Verdict {
        let ForwardPath::Mailbox(mailbox) = to else { return Verdict::Proceed };
        let users = name::domain(mailbox.host()).and_then(|domain| self.0.domains.get(&*domain));
        let Some(users) = users else {
            return if authenticated && self.0.relay_for_authenticated { Verdict::Proceed } else { relaying_denied() };
        };
        let local = mailbox.local_name();
        let Some(folder) = name::folder(&local) else { return no_mailbox() };
        match users.contains(&*folder) {
            true => Verdict::Proceed,
            false if self.0.listed => no_mailbox(),
            false if local.contains(['%', '!', '@']) => relaying_denied(),
            false => Verdict::Proceed,
        }
    }
}

fn relaying_denied() -> Verdict {
    Refusal::fixed(550, (5, 7, 1), "relaying denied").into()
}

fn no_mailbox() -> Verdict {
    Refusal::fixed(550, (5, 1, 1), "no such mailbox here").into()
}

impl Service<Request> for Mailboxes {
    type Response = Verdict;
    type Error = Infallible;
    type Future = Ready<Result<Verdict, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ready(Ok(match &request.command {
            Command::Rcpt(rcpt) => self.recipient(&rcpt.to, request.session.user().is_some()),
            _ => Verdict::Proceed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ask, authenticated, rcpt, remote_session};

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    fn two_domains() -> Mailboxes {
        Mailboxes::new(&domain("Example.org")).unwrap().and(&domain("bücher.example")).unwrap()
    }

    #[tokio::test]
    async fn a_local_domain_is_known_in_any_spelling() {
        let session = remote_session("192.0.2.1:4000");
        let mut mailboxes = two_domains();
        for to in [
            "<a@example.org>",
            "<A@EXAMPLE.ORG>",
            "<a@bücher.example>",
            "<a@BÜCHER.example>",
            "<a@xn--bcher-kva.example>",
            "<\"a b\"@example.org>",
            "<@relay.example:a@example.org>",
        ] {
            assert_eq!(ask(&mut mailboxes, &session, rcpt(to)).await, Verdict::Proceed, "{to}");
        }
    }

    #[tokio::test]
    async fn classic_relay_probes_are_refused() {
        let session = remote_session("192.0.2.1:4000");
        let mut mailboxes = two_domains();
        for to in [
            "<a@other.example>",
            "<a@sub.example.org>",
            "<a@example.org.other.example>",
            "<a%other.example@example.org>",
            "<other.example!a@example.org>",
            "<\"a@other.example\"@example.org>",
            "<\"a%other.example\"@example.org>",
            "<@example.org:a@other.example>",
            "<@example.org,@example.org:a@other.example>",
            "<a@[192.0.2.7]>",
            "<a@[127.0.0.1]>",
            "<a%other.example@[127.0.0.1]>",
            "<a@localhost>",
            "<a@\u{ff0f}example.org>",
        ] {
            assert_code!(ask(&mut mailboxes, &session, rcpt(to)).await, 550, "5.7.1");
        }
    }

    #[tokio::test]
    async fn a_list_knows_its_mailboxes_and_postmaster() {
        let session = remote_session("192.0.2.1:4000");
        let list: Vec<Mailbox> = ["jo@example.org", "a%b@bücher.example"].map(|m| m.parse().unwrap()).into();
        let mut mailboxes = two_domains().only(&list).unwrap();
        for to in [
            "<Jo@example.org>",
            "<a%b@xn--bcher-kva.example>",
            "<postmaster>",
            "<PostMaster@example.org>",
            "<postmaster@BÜCHER.example>",
        ] {
            assert_eq!(ask(&mut mailboxes, &session, rcpt(to)).await, Verdict::Proceed, "{to}");
        }
        for to in ["<jo@bücher.example>", "<jo+tag@example.org>", "<\"jo \"@example.org>", "<j@example.org>"] {
            assert_code!(ask(&mut mailboxes, &session, rcpt(to)).await, 550, "5.1.1");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_no_folder_is_no_mailbox() {
        let session = remote_session("192.0.2.1:4000");
        let long = format!("<{}@example.org>", "a".repeat(201));
        assert_code!(ask(&mut two_domains(), &session, rcpt(&long)).await, 550, "5.1.1");
        assert_code!(ask(&mut two_domains(), &session, rcpt("<\"\"@example.org>")).await, 550, "5.1.1");
    }

    #[tokio::test]
    async fn authenticated_clients_relay_only_where_it_is_switched_on() {
        let session = authenticated(&remote_session("192.0.2.1:4000"), "jo");
        let to = || rcpt("<a@other.example>");
        assert_code!(ask(&mut two_domains(), &session, to()).await, 550, "5.7.1");
        let mut relay = two_domains().relay_for_authenticated(true);
        assert_eq!(ask(&mut relay, &session, to()).await, Verdict::Proceed);
        assert_code!(ask(&mut relay, &remote_session("127.0.0.1:4000"), to()).await, 550, "5.7.1");
    }

    #[tokio::test]
    async fn everything_but_recipients_proceeds() {
        let session = remote_session("192.0.2.1:4000");
        for command in [Command::Connect, Command::Data, Command::Rset, Command::Vrfy("x".into()), Command::Quit] {
            assert_eq!(ask(&mut two_domains(), &session, command).await, Verdict::Proceed);
        }
    }

    #[test]
    fn a_list_cannot_name_strangers() {
        let stranger: Mailbox = "a@other.example".parse().unwrap();
        assert!(two_domains().only([&stranger]).is_err());
    }
}
