//! Aliases at work: who a message goes to in the end.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use smtp_core::extension::OriginalRecipient;
use smtp_core::service::{Outcome, Transaction};
use smtp_core::types::{ForwardPath, Rcpt, Refusal};
use tower_layer::Layer;
use tower_service::Service;

use crate::Mailboxes;
use crate::recipients::as_it_compares;

/// The most recipients that a message may have once aliases are expanded.
const RECIPIENTS_MAX: usize = 10_000;

/// Puts in the place of each recipient what its alias stands for ([`Mailboxes::expand`]), each address once.
///
/// The reverse-path stays: notices go to the sender, as with every alias that is no mailing list (RFC 5321 §3.9.1). So
/// do the parameters of RCPT, and ORCPT becomes the address that was written to, where there is none (RFC 3461 §5.2.7).
/// The answer for a recipient is that for all it stands for, as in [`Outcome::single`]. More than 10,000 addresses for
/// one message: 452 4.5.3.
///
/// It belongs right round the store and the queue, below all that looks at the envelope, such as
/// [`ReceivedLayer`](super::ReceivedLayer).
#[derive(Debug, Clone)]
pub struct AliasLayer(Mailboxes);

impl AliasLayer {
    /// With the aliases of these mailboxes.
    #[must_use]
    pub fn new(mailboxes: &Mailboxes) -> Self {
        Self(mailboxes.clone())
    }
}

impl<S> Layer<S> for AliasLayer {
    type Service = Alias<S>;

    fn layer(&self, inner: S) -> Alias<S> {
        Alias { inner, mailboxes: self.0.clone() }
    }
}

/// The service that [`AliasLayer`] makes.
#[derive(Debug, Clone)]
pub struct Alias<S> {
    inner: S,
    mailboxes: Mailboxes,
}

impl<S: Service<Transaction, Response = Outcome>> Service<Transaction> for Alias<S> {
    type Response = Outcome;
    type Error = S::Error;
    type Future = AliasFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut transaction: Transaction) -> Self::Future {
        let recipients = &mut transaction.envelope.recipients;
        if !recipients.iter().any(|rcpt| self.mailboxes.is_alias(&rcpt.to)) {
            return AliasFuture { kind: Kind::Inner { future: self.inner.call(transaction), parts: None } };
        }
        match expanded(&self.mailboxes, recipients) {
            Ok((all, parts)) => {
                tracing::debug!(
                    session = transaction.session.id,
                    from = parts.len(),
                    to = all.len(),
                    "aliases expanded"
                );
                *recipients = all;
                AliasFuture { kind: Kind::Inner { future: self.inner.call(transaction), parts: Some(parts) } }
            }
            Err(refusal) => {
                let outcome = Outcome::all(Err(refusal), recipients.len());
                AliasFuture { kind: Kind::Known { outcome: Some(outcome) } }
            }
        }
    }
}

/// The addresses, and for each recipient the numbers of its own.
type Expanded = (Vec<Rcpt>, Vec<Vec<usize>>);

fn expanded(mailboxes: &Mailboxes, recipients: &[Rcpt]) -> Result<Expanded, Refusal> {
    let (mut all, mut known) = (Vec::new(), HashMap::new());
    let mut parts = Vec::with_capacity(recipients.len());
    for rcpt in recipients {
        let to = mailboxes.expand(&rcpt.to).map_err(|error| {
            tracing::error!(%error, to = ?rcpt.to, "an alias cannot be expanded");
            Refusal::fixed(451, (4, 3, 5), "the address cannot be expanded now")
        })?;
        let mut part = Vec::with_capacity(to.len());
        for to in to {
            let number = *known.entry(as_it_compares(&to, mailboxes)).or_insert_with(|| {
                all.push(readdressed(rcpt, to));
                all.len() - 1
            });
            part.push(number);
        }
        if all.len() > RECIPIENTS_MAX {
            return Err(Refusal::fixed(
                452,
                (4, 5, 3),
                "too many recipients behind these aliases; send to fewer at once",
            ));
        }
        parts.push(part);
    }
    Ok((all, parts))
}

/// The recipient with another address, and the old one in ORCPT.
fn readdressed(rcpt: &Rcpt, to: ForwardPath) -> Rcpt {
    let mut parameters = rcpt.parameters.clone();
    if to != rcpt.to && parameters.value(ORCPT).is_none() {
        let original = rcpt.to.mailbox().and_then(|mailbox| {
            let kind = if mailbox.is_ascii() { "rfc822" } else { "utf-8" };
            OriginalRecipient::new(kind, mailbox.as_str()).ok()
        });
        // One that is too long for a parameter is left out.
        if let Some(with) = original.and_then(|original| parameters.with(&original).ok()) {
            parameters = with;
        }
    }
    Rcpt { to, parameters }
}

const ORCPT: &str = "ORCPT";

pin_project! {
    /// The future of [`Alias`].
    #[derive(Debug)]
    pub struct AliasFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<F> {
        Inner { #[pin] future: F, parts: Option<Vec<Vec<usize>>> },
        Known { outcome: Option<Outcome> },
    }
}

impl<F: Future<Output = Result<Outcome, E>>, E> Future for AliasFuture<F> {
    type Output = Result<Outcome, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Known { outcome } => {
                Poll::Ready(Ok(outcome.take().unwrap_or_else(|| Outcome::each(vec![]))))
            }
            KindProjection::Inner { future, parts } => {
                let outcome = ready!(future.poll(cx))?;
                Poll::Ready(Ok(match parts {
                    Some(parts) => folded(outcome, parts),
                    None => outcome,
                }))
            }
        }
    }
}

/// What became of each recipient, from what became of its addresses.
fn folded(outcome: Outcome, parts: &[Vec<usize>]) -> Outcome {
    let answers = outcome.into_results();
    let of = |part: &Vec<usize>| {
        let answers = part.iter().filter_map(|number| answers.get(*number).cloned()).collect();
        Outcome::each(answers).single().cloned()
    };
    Outcome::each(parts.iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipients::Aliases;
    use crate::testing::{deliver, deliver_transaction, envelope};
    use smtp_core::channel::SessionInfo;
    use smtp_core::service::{Body, Receipt};
    use smtp_core::types::Parameters;
    use std::sync::{Arc, Mutex};

    fn mailboxes(text: &str) -> Mailboxes {
        let mailboxes = Mailboxes::new(&"example.org".parse().unwrap()).unwrap();
        mailboxes.with_aliases(Aliases::parse(text).unwrap()).unwrap()
    }

    /// Refuses who is called `no`, for now who is called `later`, and writes down whom it got.
    #[derive(Clone, Default)]
    struct Picky(Arc<Mutex<Vec<Rcpt>>>);

    impl Service<Transaction> for Picky {
        type Response = Outcome;
        type Error = std::convert::Infallible;
        type Future = smtp_core::stream::BoxFuture<'static, Result<Outcome, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, mut transaction: Transaction) -> Self::Future {
            let recipients = transaction.envelope.recipients;
            self.0.lock().unwrap().clone_from(&recipients);
            Box::pin(async move {
                let (_, complete) = transaction.body.collect(1_000).await.unwrap();
                let receipt = Receipt::discarded(complete);
                let answer = |rcpt: &Rcpt| match rcpt.to.mailbox().unwrap().local_part() {
                    "no" => Err(Refusal::fixed(550, (5, 1, 1), "no")),
                    "later" => Err(Refusal::fixed(452, (4, 2, 2), "later")),
                    _ => Ok(receipt.clone()),
                };
                Ok(Outcome::each(recipients.iter().map(answer).collect()))
            })
        }
    }

    #[tokio::test]
    async fn each_recipient_hears_what_became_of_all_it_stands_for() {
        let mailboxes = mailboxes("both: a, b\nmixed: a, no\nworse: no, later, b\nnone: no@x.example, no\n");
        let picky = Picky::default();
        let mut delivery = AliasLayer::new(&mailboxes).layer(picky.clone());
        let to = ["both", "mixed", "worse", "none", "a"].map(|user| format!("<{user}@example.org>"));
        let to = to.each_ref().map(String::as_str);
        let outcome = deliver(&mut delivery, &to, Body::from_bytes("x\r\n")).await;
        let code =
            |answer: &Result<Receipt, Refusal>| answer.as_ref().map_or_else(|no| no.reply().code().get(), |_| 250);
        assert_eq!(outcome.iter().map(code).collect::<Vec<_>>(), [250, 451, 452, 550, 250]);
        let got: Vec<String> = picky.0.lock().unwrap().iter().map(|r| r.to.mailbox().unwrap().to_string()).collect();
        assert_eq!(got, ["a@example.org", "b@example.org", "no@example.org", "later@example.org", "no@x.example"]);
        // Where there is no alias nothing is touched.
        let outcome = deliver(&mut delivery, &["<a@example.org>", "<A@example.org>"], Body::from_bytes("x\r\n")).await;
        assert_eq!((outcome.len(), picky.0.lock().unwrap().len()), (2, 2));
    }

    #[tokio::test]
    async fn orcpt_stays_or_is_the_alias_and_the_other_parameters_go_along() {
        let picky = Picky::default();
        let mut delivery = AliasLayer::new(&mailboxes("all: jo, amy@x.example\njo: jo, b")).layer(picky.clone());
        let mut envelope = envelope("<s@y.example>", &["<all@example.org>", "<c@example.org>"]);
        let body = || Body::from_bytes("x\r\n");
        for (given, expected) in [
            ("NOTIFY=FAILURE", "NOTIFY=FAILURE ORCPT=rfc822;all@example.org"),
            ("ORCPT=rfc822;first@z.example NOTIFY=NEVER", "ORCPT=rfc822;first@z.example NOTIFY=NEVER"),
        ] {
            envelope.recipients[0].parameters = Parameters::new(given).unwrap();
            let session = SessionInfo::local("test");
            deliver_transaction(&mut delivery, Transaction { session, envelope: envelope.clone(), body: body() }).await;
            let got = picky.0.lock().unwrap();
            let got: Vec<_> = got.iter().map(|rcpt| rcpt.parameters.as_str()).collect();
            assert_eq!(got, [expected, expected, expected, ""]);
        }
    }

    #[tokio::test]
    async fn a_message_has_a_limit_too() {
        let wide = (0..11).fold(String::new(), |text, n| {
            let list: Vec<_> = (0..990).map(|i| format!("u{n}x{i}@x.example")).collect();
            format!("{text}a{n}: {}\n", list.join(", "))
        });
        let picky = Picky::default();
        let mut delivery = AliasLayer::new(&mailboxes(&wide)).layer(picky.clone());
        let to: Vec<String> = (0..11).map(|n| format!("<a{n}@example.org>")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let outcome = deliver(&mut delivery, &to, Body::from_bytes("x\r\n")).await;
        assert!(outcome.single().unwrap_err().to_string().starts_with("452 4.5.3"));
        assert!(picky.0.lock().unwrap().is_empty());
        assert!(deliver(&mut delivery, &to[1..], Body::from_bytes("x\r\n")).await.single().is_ok());
    }
}
