//! Aliases at work: who a message goes to in the end.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use smtp_core::extension::{Notify, OriginalRecipient};
use smtp_core::service::{Outcome, Transaction};
use smtp_core::types::{Envelope, ForwardPath, Parameters, Rcpt, Refusal, ReversePath};
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
/// But of several addresses none tells of success: that is told once, by the delivery below, if it can
/// ([`AliasLayer::telling`]). Otherwise the first of them tells for all (RFC 3461 §5.2.7.3 (b), though RET and ENVID are
/// one for the whole message). Of an address that several recipients lead to, the parameters stay that ask for most
/// notices.
///
/// The answer for a recipient is that for all it stands for, as in [`Outcome::single`]. More than 10,000 addresses for
/// one message: 452 4.5.3.
///
/// It belongs right round the store and the queue, below all that looks at the envelope, such as
/// [`ReceivedLayer`](super::ReceivedLayer).
#[derive(Debug, Clone)]
pub struct AliasLayer {
    mailboxes: Mailboxes,
    notice: Option<Notice>,
}

/// What a delivery has to be given so that it tells the sender about an alias; `None` if there is nothing to be told.
type Notice = fn(&Rcpt) -> Option<Rcpt>;

impl AliasLayer {
    /// With the aliases of these mailboxes.
    #[must_use]
    pub fn new(mailboxes: &Mailboxes) -> Self {
        Self { mailboxes: mailboxes.clone(), notice: None }
    }

    /// Around a delivery that tells senders that an alias was expanded (RFC 3461 §5.2.7.3 (c)), such as a queue. It does
    /// so for the recipient that `notice` makes of the one with the alias, if it makes one; that recipient is in the
    /// envelope beside those of the alias's addresses, once for each alias that has several. Not for mail from `<>`.
    #[must_use]
    pub fn telling(self, notice: fn(&Rcpt) -> Option<Rcpt>) -> Self {
        Self { notice: Some(notice), ..self }
    }
}

impl<S> Layer<S> for AliasLayer {
    type Service = Alias<S>;

    fn layer(&self, inner: S) -> Alias<S> {
        Alias { inner, layer: self.clone() }
    }
}

/// The service that [`AliasLayer`] makes.
#[derive(Debug, Clone)]
pub struct Alias<S> {
    inner: S,
    layer: AliasLayer,
}

impl<S: Service<Transaction, Response = Outcome>> Service<Transaction> for Alias<S> {
    type Response = Outcome;
    type Error = S::Error;
    type Future = AliasFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut transaction: Transaction) -> Self::Future {
        let envelope = &mut transaction.envelope;
        if !envelope.recipients.iter().any(|rcpt| self.layer.mailboxes.is_alias(&rcpt.to)) {
            return AliasFuture { kind: Kind::Inner { future: self.inner.call(transaction), parts: None } };
        }
        match self.layer.expanded(envelope) {
            Ok((all, parts)) => {
                tracing::debug!(
                    session = transaction.session.id,
                    from = parts.len(),
                    to = all.len(),
                    "aliases expanded"
                );
                envelope.recipients = all;
                AliasFuture { kind: Kind::Inner { future: self.inner.call(transaction), parts: Some(parts) } }
            }
            Err(refusal) => {
                let outcome = Outcome::all(Err(refusal), envelope.recipients.len());
                AliasFuture { kind: Kind::Known { outcome: Some(outcome) } }
            }
        }
    }
}

/// The addresses, and for each recipient the numbers of its own.
type Expanded = (Vec<Rcpt>, Vec<Vec<usize>>);

impl AliasLayer {
    fn expanded(&self, envelope: &Envelope) -> Result<Expanded, Refusal> {
        let Self { mailboxes, notice } = self;
        let (mut all, mut known, mut told) = (Vec::<Rcpt>::new(), HashMap::new(), HashSet::new());
        let mut parts = Vec::with_capacity(envelope.recipients.len());
        for rcpt in &envelope.recipients {
            let to = mailboxes.expand(&rcpt.to).map_err(|error| {
                tracing::error!(%error, to = ?rcpt.to, "an alias cannot be expanded");
                Refusal::fixed(451, (4, 3, 5), "the address cannot be expanded now")
            })?;
            let is_several = to.len() > 1;
            let quiet = Rcpt { to: rcpt.to.clone(), parameters: without_success(&rcpt.parameters) };
            let mut part = Vec::with_capacity(to.len());
            for (n, to) in to.into_iter().enumerate() {
                let name = as_it_compares(&to, mailboxes);
                let tells = !is_several || (n == 0 && notice.is_none());
                let new = readdressed(if tells { rcpt } else { &quiet }, to);
                let number = *known.entry(name).or_insert(all.len());
                match all.get_mut(number) {
                    None => all.push(new),
                    Some(other) if asked(&new) > asked(other) => *other = new,
                    Some(_) => {}
                }
                part.push(number);
            }
            let may = is_several && envelope.mail.from != ReversePath::Null;
            if let Some(owed) = notice.filter(|_| may).and_then(|notice| notice(rcpt))
                && told.insert(as_it_compares(&rcpt.to, mailboxes))
            {
                part.push(all.len());
                all.push(owed);
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
}

/// What a sender wants to hear of a recipient: success first, then failure, then delay, as it compares.
fn asked(rcpt: &Rcpt) -> (bool, bool, bool) {
    match rcpt.parameters.get() {
        Some(Notify { success, failure, delay }) => (success, failure, delay),
        // RFC 3461 §4.1
        None => (false, true, true),
    }
}

fn without_success(parameters: &Parameters) -> Parameters {
    match parameters.get::<Notify>() {
        Some(notify) if notify.success => {
            let less = parameters.with(&Notify { success: false, ..notify });
            // It is always one; without any, no more is told of success either.
            less.unwrap_or_else(|_| parameters.without("NOTIFY"))
        }
        _ => parameters.clone(),
    }
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

    /// Whom a delivery gets for these recipients of mail from `from`, each with its parameters.
    async fn got(layer: &AliasLayer, from: &str, to: &[(&str, &str)]) -> Vec<String> {
        let picky = Picky::default();
        let addresses: Vec<String> = to.iter().map(|(to, _)| format!("<{to}>")).collect();
        let mut envelope = envelope(from, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        for (rcpt, (_, asked)) in envelope.recipients.iter_mut().zip(to) {
            rcpt.parameters = Parameters::new(asked).unwrap();
        }
        let (session, body) = (SessionInfo::local("test"), Body::from_bytes("x\r\n"));
        let outcome =
            deliver_transaction(&mut layer.layer(picky.clone()), Transaction { session, envelope, body }).await;
        assert_eq!(outcome.len(), to.len());
        let got = picky.0.lock().unwrap();
        got.iter().map(|rcpt| format!("{} {}", rcpt.to.mailbox().unwrap(), rcpt.parameters)).collect()
    }

    fn notice(rcpt: &Rcpt) -> Option<Rcpt> {
        rcpt.parameters.get::<Notify>()?.success.then(|| rcpt.clone())
    }

    const ALL: &str = "all@example.org NOTIFY=SUCCESS";
    const FROM: &str = "<s@y.example>";

    #[tokio::test]
    async fn of_several_addresses_success_is_told_once() {
        let mailboxes = mailboxes("all: jo, amy@x.example\none: amy@x.example\nme: me, me@x.example\nlone: one\n");
        let (plain, telling) = (AliasLayer::new(&mailboxes), AliasLayer::new(&mailboxes).telling(notice));
        for (asked, left) in [
            ("NOTIFY=SUCCESS", "NOTIFY=NEVER"),
            ("NOTIFY=success,failure", "NOTIFY=FAILURE"),
            ("NOTIFY=DELAY,SUCCESS,FAILURE", "NOTIFY=FAILURE,DELAY"),
        ] {
            // Each of them has the same, and what tells of it stands beside them.
            for (to, addresses) in [
                ("all@example.org", ["jo@example.org", "amy@x.example"]),
                ("me@example.org", ["me@example.org", "me@x.example"]),
            ] {
                let with = |address: &str, left: &str| match address == to {
                    true => format!("{address} {left}"),
                    false => format!("{address} {left} ORCPT=rfc822;{to}"),
                };
                let mut expected: Vec<String> = addresses.iter().map(|address| with(address, left)).collect();
                assert_eq!(got(&telling, "<>", &[(to, asked)]).await, expected, "nobody is to be told");
                expected.push(format!("{to} {asked}"));
                assert_eq!(got(&telling, FROM, &[(to, asked)]).await, expected);
                // Where nobody tells of it, the first tells for all.
                let expected = [with(addresses[0], asked), with(addresses[1], left)];
                assert_eq!(got(&plain, FROM, &[(to, asked)]).await, expected);
            }
        }
        // One address has what its alias had, however many aliases lead there.
        for layer in [&plain, &telling] {
            for to in ["one@example.org", "lone@example.org"] {
                let expected = format!("amy@x.example NOTIFY=SUCCESS ORCPT=rfc822;{to}");
                assert_eq!(got(layer, FROM, &[(to, "NOTIFY=SUCCESS")]).await, [expected]);
            }
            // Where no success is to be told all have the same.
            for asked in ["", "NOTIFY=NEVER", "NOTIFY=FAILURE,DELAY"] {
                let expected = ["jo@example.org", "amy@x.example"]
                    .map(|address| format!("{address} {asked} ORCPT=rfc822;all@example.org").replace("  ", " "));
                assert_eq!(got(layer, FROM, &[("all@example.org", asked)]).await, expected);
            }
        }
    }

    #[tokio::test]
    async fn whoever_is_named_twice_is_told_of_as_often_as_was_asked() {
        let mailboxes = mailboxes("all: jo, amy\none: jo\n");
        let layer = AliasLayer::new(&mailboxes).telling(notice);
        let jo = ("jo@example.org", "NOTIFY=SUCCESS");
        let all = ("all@example.org", "NOTIFY=SUCCESS");
        // Their own success is told by itself, in whatever order they come.
        for to in [[all, jo], [jo, all]] {
            let got = got(&layer, FROM, &to).await;
            assert!(got.contains(&"jo@example.org NOTIFY=SUCCESS".to_owned()), "{got:?}");
            assert!(got.contains(&"amy@example.org NOTIFY=NEVER ORCPT=rfc822;all@example.org".to_owned()), "{got:?}");
            assert_eq!((got.len(), got.iter().filter(|rcpt| *rcpt == ALL).count()), (3, 1), "{got:?}");
        }
        // An alias twice is told of once.
        let twice = got(&layer, FROM, &[all, ("ALL@example.org", "NOTIFY=SUCCESS")]).await;
        assert_eq!(twice.iter().filter(|rcpt| rcpt.starts_with("all@")).count(), 1, "{twice:?}");
        assert_eq!(twice.len(), 3);
        // Failure, unless all agree that there is nothing to be told.
        let never = ("all@example.org", "NOTIFY=NEVER");
        for (one, left) in [("NOTIFY=NEVER", "NOTIFY=NEVER"), ("NOTIFY=FAILURE", "NOTIFY=FAILURE"), ("", "")] {
            let got = got(&layer, FROM, &[never, ("jo@example.org", one)]).await;
            let jo = got.iter().find(|rcpt| rcpt.starts_with("jo@")).unwrap();
            assert!(left.is_empty() != jo.contains("NOTIFY") && jo.contains(left), "{got:?}");
        }
    }

    #[tokio::test]
    async fn an_alias_is_answered_for_with_its_notice() {
        let refused = |rcpt: &Rcpt| Some(Rcpt { to: "<later@example.org>".parse().unwrap(), ..rcpt.clone() });
        let layer = AliasLayer::new(&mailboxes("all: jo, amy")).telling(refused);
        let mut delivery = layer.layer(Picky::default());
        let outcome =
            deliver(&mut delivery, &["<all@example.org>", "<jo@example.org>"], Body::from_bytes("x\r\n")).await;
        let codes: Vec<u16> = outcome.iter().map(|answer| answer.as_ref().map_or(452, |_| 250)).collect();
        assert_eq!(codes, [452, 250]);
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
