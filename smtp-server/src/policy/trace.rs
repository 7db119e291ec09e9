//! What a session did, for the log.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Command, Hello, HelloKind, Reply, Severity, printable};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, Span, debug, info};

/// Logs each command with its verdict at level `debug`, and refusals at level `info`. What is said to a RCPT stands in a
/// span `recipient`, inside the spans `connection` and `session` that [`Server`](crate::Server) makes.
///
/// What peers say is shown with control characters replaced, so that no line break and no terminal escape of theirs
/// reaches a log (CVE-2025-58160 and its kind). SASL responses are never shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceLayer;

/// The service that [`TraceLayer`] makes.
#[derive(Debug)]
pub struct Trace<S> {
    inner: S,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner }
    }
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for Trace<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let span = match &request.command {
            Command::Rcpt(rcpt) => tracing::debug_span!("recipient", to = safe(&rcpt.to).as_str()),
            _ => Span::none(),
        };
        // At a level where nothing would be written nothing is copied either.
        let said = tracing::enabled!(Level::INFO).then(|| Said::new(&request));
        let future = span.in_scope(|| self.inner.call(request));
        TraceFuture { future, span, said }
    }
}

/// A command and who gave it, kept until the verdict is there.
#[derive(Debug)]
struct Said {
    id: u64,
    peer: Box<str>,
    command: Command,
}

impl Said {
    fn new(request: &Request) -> Self {
        let Request { session, command } = request;
        // The secrets need not live longer for the log's sake.
        let command = match command {
            Command::Response(_) => Command::Response(Default::default()),
            Command::Auth { mechanism, .. } => Command::Auth { mechanism: mechanism.clone(), initial: None },
            other => other.clone(),
        };
        Self { id: session.id, peer: safe(&session.channel.peer).into(), command }
    }

    fn report(&self, verdict: &Verdict) {
        // Recorded as strings, which the text format puts in quotes: a peer cannot fake a field of the same line.
        let (session, peer) = (self.id, &*self.peer);
        let command = || describe(&self.command);
        match verdict {
            Verdict::Refuse(refusal) => refused(session, peer, &command(), refusal.reply()),
            Verdict::Answer(reply) if is_refusal(reply) => refused(session, peer, &command(), reply),
            Verdict::Answer(reply) => {
                debug!(session, peer, command = command().as_str(), reply = safe(reply).as_str(), "answered");
            }
            Verdict::Challenge(_) => debug!(session, peer, command = command().as_str(), "challenged"),
            Verdict::Authenticated(identity) => {
                let (user, mechanism) = (safe(&identity.user), safe(&identity.mechanism));
                info!(session, peer, user = user.as_str(), mechanism = mechanism.as_str(), "authenticated");
            }
            Verdict::Proceed => debug!(session, peer, command = command().as_str(), "accepted"),
        }
    }
}

fn refused(session: u64, peer: &str, command: &str, reply: &Reply) {
    info!(session, peer, command, reply = safe(reply).as_str(), "refused");
}

const fn is_refusal(reply: &Reply) -> bool {
    matches!(reply.severity(), Severity::Transient | Severity::Permanent)
}

/// A command as a log may show it: close to how it stood on the wire, but printable and without secrets.
fn describe(command: &Command) -> String {
    let text = match command {
        Command::Hello(Hello { kind: HelloKind::Ehlo, name }) => format!("EHLO {name}"),
        Command::Hello(Hello { kind: HelloKind::Helo, name }) => format!("HELO {name}"),
        Command::Hello(Hello { kind: HelloKind::Lhlo, name }) => format!("LHLO {name}"),
        Command::Auth { mechanism, .. } => format!("AUTH {mechanism}"),
        Command::Mail(mail) => format!("MAIL FROM:{} {}", mail.from, mail.parameters),
        Command::Rcpt(rcpt) => format!("RCPT TO:{} {}", rcpt.to, rcpt.parameters),
        Command::Bdat { size, last } => format!("BDAT {size}{}", if *last { " LAST" } else { "" }),
        Command::Vrfy(what) => format!("VRFY {what}"),
        Command::Expn(what) => format!("EXPN {what}"),
        Command::Help(Some(what)) => format!("HELP {what}"),
        Command::Other { verb, arguments } => format!("{verb} {arguments}"),
        Command::Connect
        | Command::StartTls
        | Command::Response(_)
        | Command::Data
        | Command::Rset
        | Command::Noop
        | Command::Help(None)
        | Command::Quit => command.verb().name().to_owned(),
    };
    printable(text.trim_end().as_bytes())
}

/// A value as a log may show it: with control characters replaced.
pub(crate) fn safe(value: &impl std::fmt::Display) -> String {
    printable(value.to_string().as_bytes())
}

pin_project! {
    /// The future of [`Trace`].
    #[derive(Debug)]
    pub struct TraceFuture<F> {
        #[pin]
        future: F,
        span: Span,
        said: Option<Said>,
    }
}

impl<F: Future<Output = Result<Verdict, E>>, E> Future for TraceFuture<F> {
    type Output = Result<Verdict, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        let result = ready!(this.future.poll(cx));
        if let (Some(said), Ok(verdict)) = (this.said.take(), &result) {
            said.report(verdict);
        }
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, ask, hello, mail, rcpt, remote_session};
    use crate::{AnyRecipient, Mailboxes};
    use smtp_core::types::{Mailbox, Secret};

    #[test]
    fn refusals_at_info_commands_at_debug() {
        for (level, commands_shown) in [(Level::INFO, false), (Level::DEBUG, true)] {
            let log = Log::new(level);
            log.run(async {
                let domain = "example.org".parse().unwrap();
                let mut policy = TraceLayer.layer(Mailboxes::new(&domain).unwrap());
                let session = remote_session("192.0.2.1:4000");
                ask(&mut policy, &session, mail("<a@b.example>")).await;
                ask(&mut policy, &session, rcpt("<x@elsewhere.example>")).await;
            });
            let text = log.text();
            assert!(text.contains("refused") && text.contains("RCPT TO:<x@elsewhere.example>"), "{text}");
            assert!(text.contains("192.0.2.1:4000") && text.contains("550 5.7.1"), "{text}");
            assert_eq!(text.contains("MAIL FROM:<a@b.example>"), commands_shown, "{text}");
        }
    }

    #[test]
    fn nothing_hostile_and_nothing_secret_is_written() {
        let log = Log::new(Level::TRACE);
        log.run(async {
            let mut policy = TraceLayer.layer(AnyRecipient::exposed());
            let mut session = (*remote_session("192.0.2.1:4000")).clone();
            session.channel.peer = smtp_core::channel::Peer::Named("pipe\u{1b}[2J\r\nfake line".into());
            let session = std::sync::Arc::new(session);
            let canary = || Secret::new(*b"canary-password");
            ask(&mut policy, &session, Command::Connect).await;
            ask(&mut policy, &session, Command::Hello(hello(HelloKind::Ehlo, "[x]"))).await;
            ask(&mut policy, &session, Command::Auth { mechanism: "PLAIN".into(), initial: Some(canary()) }).await;
            ask(&mut policy, &session, Command::Response(canary())).await;
            ask(&mut policy, &session, Command::Vrfy("\u{1b}]0;title\u{7}\r\nfake line\u{9b}31m".into())).await;
            let mailbox: Mailbox = "\"a b\"@x.example".parse().unwrap();
            ask(&mut policy, &session, rcpt(&format!("<{mailbox}>"))).await;
        });
        let text = log.text();
        assert!(text.contains("VRFY"), "{text}");
        assert!(!text.contains("canary") && !text.contains('\u{1b}') && !text.contains('\u{9b}'), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("fake line")) && !text.contains('\r'), "{text}");
    }
}
