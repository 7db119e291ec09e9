//! AUTH first.

use std::task::{Context, Poll};

use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Command, Refusal};
use tower_layer::Layer;
use tower_service::Service;

use super::Decided;

/// Refuses MAIL from a client that has not authenticated: 530 5.7.0 (RFC 4954 §6), as message submission wants it
/// (RFC 6409 §4.3). VRFY and EXPN are refused alike: they tell who exists. ANONYMOUS is no authentication.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequireAuthLayer;

/// The service that [`RequireAuthLayer`] makes.
#[derive(Debug, Clone)]
pub struct RequireAuth<S> {
    inner: S,
}

impl<S> Layer<S> for RequireAuthLayer {
    type Service = RequireAuth<S>;

    fn layer(&self, inner: S) -> RequireAuth<S> {
        RequireAuth { inner }
    }
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for RequireAuth<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = Decided<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let asks = matches!(request.command, Command::Mail(_) | Command::Vrfy(_) | Command::Expn(_));
        if asks && request.session.user().is_none() {
            return Decided::refused(Refusal::fixed(530, (5, 7, 0), "authentication required"));
        }
        Decided::inner(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::testing::{anonymous, ask, authenticated, hello, mail, remote_session};
    use smtp_core::types::HelloKind;

    #[tokio::test]
    async fn mail_needs_an_identity() {
        let stranger = remote_session("192.0.2.1:4000");
        let mut policy = RequireAuthLayer.layer(AnyRecipient::exposed());
        assert_code!(ask(&mut policy, &stranger, mail("<a@b.example>")).await, 530, "5.7.0");
        assert_code!(ask(&mut policy, &stranger, mail("<>")).await, 530, "5.7.0");
        assert_code!(ask(&mut policy, &stranger, Command::Vrfy("jo".into())).await, 530, "5.7.0");
        for command in [Command::Connect, Command::Hello(hello(HelloKind::Ehlo, "a.example")), Command::StartTls] {
            assert_eq!(ask(&mut policy, &stranger, command).await, Verdict::Proceed);
        }
        let nobody = anonymous(&stranger);
        assert_code!(ask(&mut policy, &nobody, mail("<a@b.example>")).await, 530, "5.7.0");
        let jo = authenticated(&stranger, "jo");
        assert_eq!(ask(&mut policy, &jo, mail("<a@b.example>")).await, Verdict::Proceed);
    }
}
