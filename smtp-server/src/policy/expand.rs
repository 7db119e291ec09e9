//! EXPN, answered from a table of lists.

use std::collections::HashMap;
use std::sync::Arc;

use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Code, Command, ForwardPath, Invalid, Mailbox, Refusal, Reply};
use tower_layer::Layer;

use super::{Decide, Deciding, Told};
use crate::Mailboxes;

/// Answers EXPN (RFC 5321 §3.5): the members of a list, to those who may know; 550 5.7.2 to everybody else, whatever the
/// list.
///
/// EHLO shows EXPN if [`Promises`](smtp_core::extension::Promises) has the keyword.
#[derive(Debug, Clone, Default)]
pub struct ExpandLayer {
    lists: Arc<HashMap<String, Vec<Mailbox>>>,
    mailboxes: Option<Mailboxes>,
    told: Told,
}

/// The most members of a list that is shown, so that the reply stays within 64 KiB.
const MEMBERS_MAX: usize = 200;

impl ExpandLayer {
    /// No lists, and nobody may ask.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a list. Names compare without ASCII case.
    ///
    /// # Errors
    /// [`Invalid`] for a list of more than 200 members, or none.
    pub fn list(mut self, name: &str, members: Vec<Mailbox>) -> Result<Self, Invalid> {
        if members.is_empty() || members.len() > MEMBERS_MAX {
            return Err(Invalid::new("list", "1 to 200 members"));
        }
        Arc::make_mut(&mut self.lists).insert(name.to_ascii_lowercase(), members);
        Ok(self)
    }

    /// With the aliases of these mailboxes, by their address: those of up to 200 addresses are shown.
    #[must_use]
    pub fn aliases(mut self, mailboxes: &Mailboxes) -> Self {
        self.mailboxes = Some(mailboxes.clone());
        self
    }

    /// Who is told. Default: [`Told::Nobody`].
    #[must_use]
    pub const fn told(mut self, told: Told) -> Self {
        self.told = told;
        self
    }

    fn answer(&self, name: &str) -> Verdict {
        let listed = self.lists.get(&name.to_ascii_lowercase()).cloned();
        let Some(members) = listed.or_else(|| self.alias(name)) else {
            return Refusal::fixed(550, (5, 1, 1), "no such list here").into();
        };
        let lines: Vec<String> = members.iter().map(|mailbox| format!("<{mailbox}>")).collect();
        match Code::new(250) {
            Ok(code) => Verdict::Answer(Reply::new(code, None, lines.join("\n"))),
            Err(_) => Verdict::Proceed,
        }
    }

    fn alias(&self, name: &str) -> Option<Vec<Mailbox>> {
        let mailboxes = self.mailboxes.as_ref()?;
        let inside = name.strip_prefix('<').and_then(|name| name.strip_suffix('>')).unwrap_or(name);
        let address = ForwardPath::from(Mailbox::new(inside).ok()?);
        let members = mailboxes.is_alias(&address).then(|| mailboxes.expand(&address).ok())??;
        (members.len() <= MEMBERS_MAX).then(|| members.iter().filter_map(|to| to.mailbox().cloned()).collect())
    }
}

impl Decide for ExpandLayer {
    fn decide(&self, request: &Request) -> Option<Verdict> {
        match &request.command {
            Command::Expn(name) if self.told.is(&request.session) => Some(self.answer(name)),
            Command::Expn(_) => Some(Refusal::fixed(550, (5, 7, 2), "lists are not shown to you").into()),
            _ => None,
        }
    }
}

impl<S> Layer<S> for ExpandLayer {
    type Service = Deciding<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Deciding::new(inner, self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::testing::{ask, authenticated, rcpt, remote_session};

    #[tokio::test]
    async fn an_alias_is_a_list_too() {
        let aliases = crate::recipients::Aliases::parse("all: jo, amy\namy: x@elsewhere.example\n").unwrap();
        let mailboxes = Mailboxes::new(&"example.org".parse().unwrap()).unwrap().with_aliases(aliases).unwrap();
        let layer = ExpandLayer::new().told(Told::Everybody).aliases(&mailboxes);
        let mut policy = layer.layer(mailboxes);
        let session = remote_session("192.0.2.1:4000");
        for name in ["all@example.org", "<ALL@example.org>"] {
            let Verdict::Answer(reply) = ask(&mut policy, &session, Command::Expn(name.into())).await else { panic!() };
            assert_eq!(reply.to_string(), "250 <jo@example.org> / <x@elsewhere.example>");
        }
        for none in ["jo@example.org", "all", "all@elsewhere.example"] {
            assert_code!(ask(&mut policy, &session, Command::Expn(none.into())).await, 550, "5.1.1");
        }
    }

    #[tokio::test]
    async fn lists_are_for_those_who_may_know() {
        let members = vec!["a@example.org".parse().unwrap(), "b@example.org".parse().unwrap()];
        let layer = ExpandLayer::new().told(Told::Authenticated).list("Staff", members).unwrap();
        let mut policy = layer.layer(AnyRecipient::exposed());
        let stranger = remote_session("192.0.2.1:4000");
        for name in ["staff", "nobody"] {
            assert_code!(ask(&mut policy, &stranger, Command::Expn(name.into())).await, 550, "5.7.2");
        }
        let user = authenticated(&stranger, "jo");
        let Verdict::Answer(reply) = ask(&mut policy, &user, Command::Expn("STAFF".into())).await else { panic!() };
        assert_eq!(reply.to_string(), "250 <a@example.org> / <b@example.org>");
        assert_code!(ask(&mut policy, &user, Command::Expn("x".into())).await, 550, "5.1.1");
        assert_eq!(ask(&mut policy, &stranger, rcpt("<a@example.org>")).await, Verdict::Proceed);
        assert!(ExpandLayer::new().list("x", Vec::new()).is_err());
    }
}
