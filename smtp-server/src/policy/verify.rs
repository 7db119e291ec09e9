//! VRFY, answered by the recipient policy.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Code, Command, Mailbox, Rcpt, Reply, Severity, status};
use tower_layer::Layer;
use tower_service::Service;

use super::{Decided, Told};

/// Answers VRFY (RFC 5321 §3.5): for those who may know by asking the policies beneath it what they would say to a RCPT,
/// for everybody else with 252, whatever the address.
///
/// A mailbox that would be accepted: 250 with the mailbox. One that does not exist: the refusal of the recipient
/// policy. What is not local, a name without a domain, and what cannot be told now: 252.
///
/// It belongs right above the recipients: a layer in between that counts RCPT counts these questions too.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyLayer {
    told: Told,
}

impl VerifyLayer {
    /// Tells nobody anything: 252.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Who is told. Default: [`Told::Nobody`].
    #[must_use]
    pub const fn told(mut self, told: Told) -> Self {
        self.told = told;
        self
    }
}

/// The service that [`VerifyLayer`] makes.
#[derive(Debug, Clone)]
pub struct Verify<S> {
    inner: S,
    told: Told,
}

impl<S> Layer<S> for VerifyLayer {
    type Service = Verify<S>;

    fn layer(&self, inner: S) -> Verify<S> {
        Verify { inner, told: self.told }
    }
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for Verify<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = VerifyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Command::Vrfy(text) = &request.command else {
            return VerifyFuture { inner: Decided::inner(self.inner.call(request)), mailbox: None };
        };
        let mailbox = self.told.is(&request.session).then(|| mailbox(text)).flatten();
        let inner = match &mailbox {
            Some(mailbox) => {
                request.command = Command::Rcpt(Rcpt::new(mailbox.clone()));
                Decided::inner(self.inner.call(request))
            }
            None => Decided::known(cannot_tell()),
        };
        VerifyFuture { inner, mailbox }
    }
}

/// The mailbox that is meant, in brackets or not; RFC 6531 §3.7.4.2 lets SMTPUTF8 follow.
fn mailbox(text: &str) -> Option<Mailbox> {
    let text = match text.rsplit_once(' ') {
        Some((text, flag)) if flag.eq_ignore_ascii_case("SMTPUTF8") => text.trim_end(),
        _ => text,
    };
    let inside = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
    Mailbox::new(inside.unwrap_or(text)).ok()
}

/// The session's own words: 252.
const fn cannot_tell() -> Verdict {
    Verdict::Proceed
}

pin_project! {
    /// The answer of [`Verify`].
    #[derive(Debug)]
    pub struct VerifyFuture<F> {
        #[pin]
        inner: Decided<F>,
        mailbox: Option<Mailbox>,
    }
}

impl<F: Future<Output = Result<Verdict, E>>, E> Future for VerifyFuture<F> {
    type Output = Result<Verdict, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let verdict = ready!(this.inner.poll(cx))?;
        let Some(mailbox) = this.mailbox.take() else { return Poll::Ready(Ok(verdict)) };
        Poll::Ready(Ok(match verdict {
            Verdict::Proceed => exists(&mailbox),
            Verdict::Answer(reply) if reply.severity() == Severity::Success => exists(&mailbox),
            // About the mailbox, and not about who may send there.
            Verdict::Refuse(refusal) if refusal.reply().enhanced() == Some(status::BAD_MAILBOX.as_permanent()) => {
                Verdict::Refuse(refusal)
            }
            Verdict::Refuse(_) | Verdict::Answer(_) | Verdict::Challenge(_) | Verdict::Authenticated(_) => {
                cannot_tell()
            }
        }))
    }
}

fn exists(mailbox: &Mailbox) -> Verdict {
    match Code::new(250) {
        Ok(code) => Verdict::Answer(Reply::new(code, Some(status::ADDRESS_VALID.as_success()), format!("<{mailbox}>"))),
        Err(_) => cannot_tell(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mailboxes;
    use crate::testing::{ask, authenticated, rcpt, remote_session};

    fn layer(told: Told) -> Verify<Mailboxes> {
        let (domain, jo) = ("example.org".parse().unwrap(), "jo@example.org".parse().unwrap());
        VerifyLayer::new().told(told).layer(Mailboxes::new(&domain).unwrap().only([&jo]).unwrap())
    }

    async fn code(policy: &mut Verify<Mailboxes>, authenticated_as: Option<&str>, text: &str) -> String {
        let mut session = remote_session("192.0.2.1:4000");
        if let Some(user) = authenticated_as {
            session = authenticated(&session, user);
        }
        match ask(policy, &session, Command::Vrfy(text.into())).await {
            Verdict::Answer(reply) => reply.to_string(),
            Verdict::Refuse(refusal) => refusal.to_string(),
            Verdict::Proceed => "252".into(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn nobody_is_told_by_default() {
        let mut policy = layer(Told::default());
        for text in ["jo@example.org", "nobody@example.org", "a@elsewhere.example", "jo", "x y z"] {
            assert_eq!(code(&mut policy, Some("jo"), text).await, "252");
        }
    }

    #[tokio::test]
    async fn who_may_know_hears_what_rcpt_would_say() {
        let mut policy = layer(Told::Authenticated);
        assert!(code(&mut policy, None, "jo@example.org").await.starts_with("252"));
        assert_eq!(code(&mut policy, Some("jo"), "<jo@example.org>").await, "250 2.1.5 <jo@example.org>");
        assert_eq!(code(&mut policy, Some("jo"), "jo@example.org smtputf8").await, "250 2.1.5 <jo@example.org>");
        assert!(code(&mut policy, Some("jo"), "nobody@example.org").await.starts_with("550 5.1.1"));
        for text in ["a@elsewhere.example", "jo"] {
            assert!(code(&mut policy, Some("jo"), text).await.starts_with("252"));
        }
        let mut policy = layer(Told::Everybody);
        assert!(code(&mut policy, None, "jo@example.org").await.starts_with("250"));
    }

    #[tokio::test]
    async fn everything_else_passes() {
        let mut policy = layer(Told::Everybody);
        let session = remote_session("192.0.2.1:4000");
        assert_eq!(ask(&mut policy, &session, rcpt("<jo@example.org>")).await, Verdict::Proceed);
        assert_code!(ask(&mut policy, &session, rcpt("<x@example.org>")).await, 550, "5.1.1");
    }
}
