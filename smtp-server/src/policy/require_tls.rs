//! TLS first.

use std::task::{Context, Poll};

use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Command, Refusal};
use tower_layer::Layer;
use tower_service::Service;

use super::Decided;

/// Refuses everything that matters on a channel that can be overheard: 530 5.7.0 (RFC 3207 §4).
///
/// Let through are the commands that RFC 3207 names (EHLO, NOOP, STARTTLS, QUIT) and those that tell nobody anything:
/// HELO, LHLO, HELP, RSET. A channel that is `secure` without TLS, such as a local socket, needs none.
///
/// Not for port 25 of a host that strangers send to: a publicly referenced server must not ask for TLS (RFC 3207 §4).
#[derive(Debug, Clone, Copy, Default)]
pub struct RequireTlsLayer;

/// The service that [`RequireTlsLayer`] makes.
#[derive(Debug, Clone)]
pub struct RequireTls<S> {
    inner: S,
}

impl<S> Layer<S> for RequireTlsLayer {
    type Service = RequireTls<S>;

    fn layer(&self, inner: S) -> RequireTls<S> {
        RequireTls { inner }
    }
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for RequireTls<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = Decided<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let channel = &request.session.channel;
        if channel.secure || channel.tls.is_some() || harmless(&request.command) {
            Decided::inner(self.inner.call(request))
        } else {
            Decided::refused(Refusal::fixed(530, (5, 7, 0), "must issue a STARTTLS command first"))
        }
    }
}

const fn harmless(command: &Command) -> bool {
    match command {
        Command::Connect
        | Command::Hello(_)
        | Command::StartTls
        | Command::Noop
        | Command::Rset
        | Command::Help(_)
        | Command::Quit => true,
        Command::Auth { .. }
        | Command::Response(_)
        | Command::Mail(_)
        | Command::Rcpt(_)
        | Command::Data
        | Command::Bdat { .. }
        | Command::Vrfy(_)
        | Command::Expn(_)
        | Command::Other { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::testing::{ask, hello, mail, rcpt, remote_session, secure};
    use smtp_core::types::HelloKind;

    #[tokio::test]
    async fn in_clear_only_the_way_to_tls_is_open() {
        let session = remote_session("192.0.2.1:4000");
        let mut policy = RequireTlsLayer.layer(AnyRecipient::exposed());
        for command in [
            Command::Connect,
            Command::Hello(hello(HelloKind::Ehlo, "a.example")),
            Command::StartTls,
            Command::Noop,
            Command::Rset,
            Command::Help(None),
            Command::Quit,
        ] {
            assert_eq!(ask(&mut policy, &session, command).await, Verdict::Proceed);
        }
        for command in [
            mail("<a@b.example>"),
            rcpt("<a@b.example>"),
            Command::Data,
            Command::Bdat { size: 1, last: true },
            Command::Vrfy("x".into()),
            Command::Expn("x".into()),
            Command::Auth { mechanism: "PLAIN".into(), initial: None },
            Command::Other { verb: "XYZ".into(), arguments: "".into() },
        ] {
            assert_code!(ask(&mut policy, &session, command).await, 530, "5.7.0");
        }
    }

    #[tokio::test]
    async fn a_secure_channel_is_open() {
        let session = secure(&remote_session("192.0.2.1:4000"));
        let mut policy = RequireTlsLayer.layer(AnyRecipient::exposed());
        assert_eq!(ask(&mut policy, &session, mail("<a@b.example>")).await, Verdict::Proceed);
    }
}
