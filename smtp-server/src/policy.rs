//! Layers on the policy seam: they are asked about each command that the protocol allows and may refuse it before the inner service does.
//!
//! Each is a tower [`Layer`](tower_layer::Layer); what it makes belongs to one session and may keep state for it.

mod require_auth;
mod require_tls;
mod session_limit;
mod trace;

pub use require_auth::{RequireAuth, RequireAuthLayer};
pub use require_tls::{RequireTls, RequireTlsLayer};
pub use session_limit::{SessionLimit, SessionLimitLayer};
pub(crate) use trace::safe;
pub use trace::{Trace, TraceFuture, TraceLayer};

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use smtp_core::service::Verdict;
use smtp_core::types::Refusal;

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
        Refused { refusal: Option<Refusal> },
    }
}

impl<F> Decided<F> {
    pub(crate) const fn inner(future: F) -> Self {
        Self { kind: Kind::Inner { future } }
    }

    pub(crate) const fn refused(refusal: Refusal) -> Self {
        Self { kind: Kind::Refused { refusal: Some(refusal) } }
    }
}

impl<F: Future<Output = Result<Verdict, E>>, E> Future for Decided<F> {
    type Output = Result<Verdict, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Inner { future } => future.poll(cx),
            KindProjection::Refused { refusal } => {
                // Taken once; a future that is polled after its end may say anything that is not yes.
                let refusal = refusal.take().unwrap_or_else(|| Refusal::fixed(451, (4, 3, 0), "local error"));
                Poll::Ready(Ok(refusal.into()))
            }
        }
    }
}
