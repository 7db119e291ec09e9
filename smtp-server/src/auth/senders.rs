//! Which addresses a user may send mail as.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use smtp_core::service::{Request, Verdict};
use smtp_core::stream::BoxFuture;
use smtp_core::types::{Command, Domain, Invalid, Mailbox, Refusal};
use tower_layer::Layer;
use tower_service::Service;

use super::{Check, Senders};
use crate::name;

/// Lets a user who has authenticated send as itself only: any other MAIL FROM gets 553 5.7.1 (RFC 6409 §6.1).
///
/// A user is itself at the address that is its name, or, if the name is no address, at that name in each of the local
/// domains; [`Senders`] know of more. The null reverse-path is everybody's: notifications have it (RFC 8098 §2.1).
/// Clients that have not authenticated, or as nobody (ANONYMOUS), are not this layer's business.
///
/// Local parts compare without case, as for recipients. The inner service is called at once, and its answer is only
/// waited for if the user may.
#[derive(Clone)]
pub struct SenderLayer(Arc<Settings>);

#[derive(Clone)]
struct Settings {
    senders: Arc<dyn Senders>,
    /// A-labels.
    domains: Vec<String>,
}

impl SenderLayer {
    /// For users whose further addresses `senders` know.
    #[must_use]
    pub fn new(senders: Arc<dyn Senders>) -> Self {
        Self(Arc::new(Settings { senders, domains: Vec::new() }))
    }

    /// The same, where users whose name is no address have one at `domain`.
    ///
    /// # Errors
    /// [`Invalid`] if the domain is no name under IDNA (RFC 5891).
    pub fn local(mut self, domain: &Domain) -> Result<Self, Invalid> {
        let domain =
            name::domain(domain.as_str()).ok_or(Invalid::new("local domain", "a name under IDNA (RFC 5891)"))?;
        Arc::make_mut(&mut self.0).domains.push(domain.into());
        Ok(self)
    }
}

impl Settings {
    fn is_own(&self, user: &str, mailbox: &Mailbox) -> bool {
        match Mailbox::new(user) {
            Ok(own) => name::same_mailbox(&own, mailbox),
            Err(_) => {
                let local = name::domain(mailbox.host());
                local.is_some_and(|domain| self.domains.iter().any(|own| **own == *domain))
                    && name::same_local_part(user, &mailbox.local_name())
            }
        }
    }
}

impl fmt::Debug for SenderLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SenderLayer").field("domains", &self.0.domains).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for SenderLayer {
    type Service = Sender<S>;

    fn layer(&self, inner: S) -> Sender<S> {
        Sender { inner, settings: Arc::clone(&self.0) }
    }
}

/// The service that [`SenderLayer`] makes.
#[derive(Clone)]
pub struct Sender<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S: fmt::Debug> fmt::Debug for Sender<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for Sender<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = SenderFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let from = match &request.command {
            Command::Mail(mail) => mail.from.mailbox(),
            _ => None,
        };
        let check = match (request.session.user(), from) {
            (Some(user), Some(from)) if !self.settings.is_own(user, from) => {
                let (settings, user, from) = (Arc::clone(&self.settings), user.to_owned(), from.clone());
                Some(Box::pin(async move { settings.senders.may_send_as(&user, &from).await }) as BoxFuture<'static, _>)
            }
            _ => None,
        };
        SenderFuture { check, inner: self.inner.call(request) }
    }
}

pin_project! {
    /// The future of [`Sender`].
    pub struct SenderFuture<F> {
        check: Option<BoxFuture<'static, Check>>,
        #[pin]
        inner: F,
    }
}

impl<F> fmt::Debug for SenderFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SenderFuture")
    }
}

impl<F: Future<Output = Result<Verdict, E>>, E> Future for SenderFuture<F> {
    type Output = Result<Verdict, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(check) = this.check {
            match ready!(check.as_mut().poll(cx)) {
                Check::Yes => *this.check = None,
                Check::No => {
                    let text = "you may not send as this address; send as your own";
                    return Poll::Ready(Ok(Refusal::fixed(553, (5, 7, 1), text).into()));
                }
                Check::Unavailable => {
                    let text = "whose address this is cannot be told now; try again later";
                    return Poll::Ready(Ok(Refusal::fixed(451, (4, 3, 0), text).into()));
                }
            }
        }
        this.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::auth::{User, UserList};
    use crate::testing::{anonymous, ask, authenticated, mail, rcpt, remote_session};
    use async_trait::async_trait;

    fn policy() -> Sender<AnyRecipient> {
        let users = UserList::new().and("jo: chair@example.com @team.example".parse::<User>().unwrap()).unwrap();
        let layer = SenderLayer::new(Arc::new(users)).local(&"bücher.example".parse().unwrap()).unwrap();
        layer.local(&"example.org".parse().unwrap()).unwrap().layer(AnyRecipient::exposed())
    }

    #[tokio::test]
    async fn a_user_sends_as_itself() {
        let stranger = remote_session("192.0.2.1:4000");
        let jo = authenticated(&stranger, "jo");
        for from in [
            "<jo@example.org>",
            "<JO@Example.ORG>",
            "<\"jo\"@example.org>",
            "<jo@xn--bcher-kva.example>",
            "<chair@example.com>",
            "<anybody@team.example>",
            "<>",
        ] {
            assert_eq!(ask(&mut policy(), &jo, mail(from)).await, Verdict::Proceed, "{from}");
        }
        for from in ["<al@example.org>", "<jo@example.net>", "<jo.x@example.org>", "<chair@example.org>"] {
            assert_code!(ask(&mut policy(), &jo, mail(from)).await, 553, "5.7.1");
        }
        let al = authenticated(&stranger, "al@example.net");
        assert_eq!(ask(&mut policy(), &al, mail("<al@example.net>")).await, Verdict::Proceed);
        for from in ["<al@example.org>", "<chair@example.com>", "<\"al@example.net\"@example.org>"] {
            assert_code!(ask(&mut policy(), &al, mail(from)).await, 553, "5.7.1");
        }
    }

    #[tokio::test]
    async fn others_and_other_commands_are_let_through() {
        let stranger = remote_session("192.0.2.1:4000");
        for session in [&stranger, &anonymous(&stranger)] {
            assert_eq!(ask(&mut policy(), session, mail("<al@example.org>")).await, Verdict::Proceed);
        }
        assert_eq!(ask(&mut policy(), &authenticated(&stranger, "jo"), rcpt("<al@x.example>")).await, Verdict::Proceed);
    }

    struct Down;

    #[async_trait]
    impl Senders for Down {
        async fn may_send_as(&self, _: &str, _: &Mailbox) -> Check {
            Check::Unavailable
        }
    }

    #[tokio::test]
    async fn a_backend_that_is_down_refuses_for_now() {
        let mut policy = SenderLayer::new(Arc::new(Down)).layer(AnyRecipient::exposed());
        let jo = authenticated(&remote_session("192.0.2.1:4000"), "jo");
        assert_code!(ask(&mut policy, &jo, mail("<al@example.org>")).await, 451, "4.3.0");
    }
}
