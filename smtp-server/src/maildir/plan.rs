//! Which mailboxes a transaction goes to.

use std::borrow::Cow;
use std::collections::HashMap;

use smtp_core::types::{Envelope, ForwardPath, Refusal};

use super::tree::Place;
use crate::name;

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
}

impl Plan {
    pub(super) fn new(envelope: &Envelope, primary: &str) -> Self {
        let mut plan = Self { targets: Vec::new(), recipients: Vec::with_capacity(envelope.recipients.len()) };
        let mut seen = HashMap::new();
        for recipient in &envelope.recipients {
            let place = place_of(&recipient.to, primary);
            plan.recipients.push(place.map(|place| {
                *seen.entry(place.clone()).or_insert_with(|| {
                    let address = match &recipient.to {
                        ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
                        ForwardPath::Postmaster => format!("postmaster@{primary}"),
                    };
                    plan.targets.push(Target { place, address });
                    plan.targets.len() - 1
                })
            }));
        }
        plan
    }
}

pub(super) fn place_of(to: &ForwardPath, primary: &str) -> Option<Place> {
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
        let plan = Plan::new(&envelope("<>", &recipients), "x.example");
        let places: Vec<_> = plan.targets.iter().map(|t| format!("{}/{}", t.place.domain, t.place.user)).collect();
        assert_eq!(places, ["example.org/jo", "x.example/postmaster"]);
        assert_eq!(plan.recipients, [0, 0, 0, 1, 1].map(Some));
        assert_eq!(plan.targets[0].address, "Jo@Example.org");
        assert_eq!(plan.targets[1].address, "postmaster@x.example");
    }

    #[test]
    fn what_is_no_mailbox_is_named() {
        let long = format!("<{}@x.example>", "a".repeat(201));
        let plan = Plan::new(&envelope("<>", &["<a@x.example>", &long, "<\"\"@x.example>"]), "x.example");
        assert_eq!((plan.targets.len(), &plan.recipients[..]), (1, &[Some(0), None, None][..]));
    }

    #[test]
    fn literals_have_a_folder_too() {
        let place = place_of(&"<a@[IPv6:2001:DB8::1]>".parse().unwrap(), "x.example").unwrap();
        assert_eq!(&*place.domain, "%5Bipv6%3A2001%3Adb8%3A%3A1%5D");
    }
}
