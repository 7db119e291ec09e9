//! Which mailboxes a transaction goes to.

use std::borrow::Cow;
use std::collections::HashMap;

use smtp_core::types::{Envelope, ForwardPath, Refusal};

use super::tree::Place;
use crate::Mailboxes;
use crate::name;
use crate::recipients::Quota;

/// The mailboxes of an envelope, each once, and which of them each recipient is.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) targets: Vec<Target>,
    /// For each recipient the number of its mailbox; `None` if it is none.
    pub(super) recipients: Vec<Option<usize>>,
}

/// A copy of the message.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) place: Place,
    /// The address, for `Delivered-To`.
    pub(super) address: String,
    pub(super) quota: Quota,
}

impl Plan {
    pub(super) fn new(envelope: &Envelope, primary: &str, mailboxes: Option<&Mailboxes>) -> Self {
        let mut plan = Self { targets: Vec::new(), recipients: Vec::with_capacity(envelope.recipients.len()) };
        let mut seen = HashMap::new();
        for recipient in &envelope.recipients {
            let place = place_of(&recipient.to, primary, mailboxes);
            plan.recipients.push(place.map(|place| {
                *seen.entry(place.clone()).or_insert_with(|| {
                    let address = match &recipient.to {
                        ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
                        ForwardPath::Postmaster => format!("postmaster@{primary}"),
                    };
                    let quota = mailboxes.map_or_else(Quota::default, |all| all.quota_of(&place.domain, &place.user));
                    plan.targets.push(Target { place, address, quota });
                    plan.targets.len() - 1
                })
            }));
        }
        plan
    }
}

/// Where mail for an address goes: as `mailboxes` have it, or else by its name alone.
pub(super) fn place_of(to: &ForwardPath, primary: &str, mailboxes: Option<&Mailboxes>) -> Option<Place> {
    if let Some(mailboxes) = mailboxes {
        return mailboxes.place_of(to).map(|(domain, user)| Place { domain, user });
    }
    let ForwardPath::Mailbox(mailbox) = to else {
        return Some(Place { domain: primary.into(), user: "postmaster".into() });
    };
    let domain = match mailbox.has_literal() {
        true => name::folder(mailbox.host()),
        false => name::domain(mailbox.host()),
    };
    let local = mailbox.local_name();
    Some(Place { domain: domain.map(Cow::into)?, user: name::folder(&local)?.into() })
}

pub(super) fn no_mailbox() -> Refusal {
    Refusal::fixed(550, (5, 1, 1), "no such mailbox here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::envelope;

    #[test]
    fn spellings_of_one_mailbox_are_one_target() {
        let recipients =
            ["<Jo@Example.org>", "<jo@example.ORG>", "<\"JO\"@example.org>", "<postmaster>", "<POSTMASTER@x.example>"];
        let plan = Plan::new(&envelope("<>", &recipients), "x.example", None);
        let places: Vec<_> = plan.targets.iter().map(|t| format!("{}/{}", t.place.domain, t.place.user)).collect();
        assert_eq!(places, ["example.org/jo", "x.example/postmaster"]);
        assert_eq!(plan.recipients, [0, 0, 0, 1, 1].map(Some));
        assert_eq!(plan.targets[0].address, "Jo@Example.org");
        assert_eq!(plan.targets[1].address, "postmaster@x.example");
    }

    #[test]
    fn what_is_no_mailbox_is_named() {
        let long = format!("<{}@x.example>", "a".repeat(201));
        let plan = Plan::new(&envelope("<>", &["<a@x.example>", &long, "<\"\"@x.example>"]), "x.example", None);
        assert_eq!((plan.targets.len(), &plan.recipients[..]), (1, &[Some(0), None, None][..]));
    }

    #[test]
    fn literals_have_a_folder_too() {
        let place = place_of(&"<a@[IPv6:2001:DB8::1]>".parse().unwrap(), "x.example", None).unwrap();
        assert_eq!(&*place.domain, "%5Bipv6%3A2001%3Adb8%3A%3A1%5D");
    }
}
