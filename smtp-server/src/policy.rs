//! Layers on the policy seam: they are asked about each command that the protocol allows and may refuse it before the inner service does.
//!
//! Each is a tower [`Layer`](tower_layer::Layer); what it makes belongs to one session and may keep state for it.

mod decide;
mod etrn;
mod expand;
mod help;
mod require_auth;
mod require_tls;
mod rrvs;
mod session_limit;
mod trace;
mod verify;

pub use decide::{Decide, Deciding};
pub use etrn::{Etrn, EtrnFuture, EtrnLayer, StartQueue, Started};
pub use expand::ExpandLayer;
pub use help::HelpLayer;
pub use require_auth::{RequireAuth, RequireAuthLayer};
pub use require_tls::{RequireTls, RequireTlsLayer};
pub use rrvs::{Owner, RrvsLayer};
pub use session_limit::{SessionLimit, SessionLimitLayer};
pub(crate) use trace::safe;
pub use trace::{Trace, TraceFuture, TraceLayer};
pub use verify::{Verify, VerifyFuture, VerifyLayer};

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use smtp_core::channel::SessionInfo;
use smtp_core::service::Verdict;
use smtp_core::types::Refusal;

/// Who is told what an address or a list is about. Strangers who collect addresses ask, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Told {
    /// Nobody.
    #[default]
    Nobody,
    /// Clients that have authenticated.
    Authenticated,
    /// Everybody.
    Everybody,
}

impl Told {
    fn is(self, session: &SessionInfo) -> bool {
        match self {
            Self::Nobody => false,
            Self::Authenticated => session.identity.is_some(),
            Self::Everybody => true,
        }
    }
}

pin_project! {
    /// The answer of a layer that either decides by itself, at once, or leaves it to the inner service.
    #[derive(Debug)]
    pub struct Decided<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<F> {
        Inner { #[pin] future: F },
        Known { verdict: Option<Verdict> },
    }
}

impl<F> Decided<F> {
    pub(crate) const fn inner(future: F) -> Self {
        Self { kind: Kind::Inner { future } }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::known(refusal.into())
    }

    pub(crate) const fn known(verdict: Verdict) -> Self {
        Self { kind: Kind::Known { verdict: Some(verdict) } }
    }
}

impl<F: Future<Output = Result<Verdict, E>>, E> Future for Decided<F> {
    type Output = Result<Verdict, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Inner { future } => future.poll(cx),
            KindProjection::Known { verdict } => {
                // Taken once; a future that is polled after its end may say anything that is not yes.
                let late = || Refusal::fixed(451, (4, 3, 0), "local error").into();
                Poll::Ready(Ok(verdict.take().unwrap_or_else(late)))
            }
        }
    }
}
