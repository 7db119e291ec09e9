//! Everybody gets mail here.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Command, Refusal};
use tower_service::Service;

/// Accepts every recipient there is: for sinks, tests and relays on this machine.
///
/// On the open Internet that is an open relay. So it serves only peers on this machine (a loopback address, a local
/// socket, a pipe): anyone else gets 554 5.7.1 instead of a greeting, unless [`AnyRecipient::exposed`] was spelt out.
/// A proxy on this machine makes every peer look local; do not put one before it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyRecipient {
    exposed: bool,
}

impl AnyRecipient {
    /// Any recipient, for peers on this machine.
    #[must_use]
    pub const fn new() -> Self {
        Self { exposed: false }
    }

    /// Any recipient, for any peer. With a delivery that passes mail on this is an open relay.
    #[must_use]
    pub const fn exposed() -> Self {
        Self { exposed: true }
    }

    /// True: it accepts recipients that nobody vouched for. Lets a server warn before it listens beyond this machine.
    #[must_use]
    pub const fn is_permissive(&self) -> bool {
        true
    }
}

impl Service<Request> for AnyRecipient {
    type Response = Verdict;
    type Error = Infallible;
    type Future = Ready<Result<Verdict, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let served = self.exposed || request.session.channel.peer.is_local();
        ready(Ok(match request.command {
            Command::Connect if !served => {
                Refusal::fixed(554, (5, 7, 1), "this server takes mail from its own machine only").into()
            }
            // Connect has been asked already; a layer that swallowed it opens no door.
            Command::Rcpt(_) if !served => Refusal::fixed(550, (5, 7, 1), "relaying denied").into(),
            _ => Verdict::Proceed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ask, rcpt, remote_session};
    use smtp_core::channel::SessionInfo;

    #[tokio::test]
    async fn serves_this_machine_only() {
        let local = SessionInfo::local("test");
        let remote = remote_session("192.0.2.1:4000");
        let mut any = AnyRecipient::new();
        assert_eq!(ask(&mut any, &local, Command::Connect).await, Verdict::Proceed);
        assert_eq!(ask(&mut any, &local, rcpt("<x@anywhere.example>")).await, Verdict::Proceed);
        assert_code!(ask(&mut any, &remote, Command::Connect).await, 554, "5.7.1");
        assert_code!(ask(&mut any, &remote, rcpt("<x@anywhere.example>")).await, 550, "5.7.1");
    }

    #[tokio::test]
    async fn exposed_is_spelt_out() {
        let remote = remote_session("[2001:db8::1]:4000");
        let mut any = AnyRecipient::exposed();
        assert_eq!(ask(&mut any, &remote, Command::Connect).await, Verdict::Proceed);
        assert_eq!(ask(&mut any, &remote, rcpt("<x@anywhere.example>")).await, Verdict::Proceed);
        assert!(any.is_permissive());
    }
}
