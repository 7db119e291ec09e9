//! Layers that answer some commands by themselves, and at once.

use std::task::{Context, Poll};

use smtp_core::service::{Request, Verdict};
use tower_service::Service;

use super::Decided;

/// Has a verdict on some commands of its own.
pub trait Decide {
    /// The verdict, or `None` to leave the command to the inner service.
    fn decide(&self, request: &Request) -> Option<Verdict>;
}

/// The service of a layer that decides: what `D` has no verdict on goes to the inner service.
#[derive(Debug, Clone)]
pub struct Deciding<S, D> {
    inner: S,
    by: D,
}

impl<S, D> Deciding<S, D> {
    /// `inner`, with `by` asked first.
    #[must_use]
    pub const fn new(inner: S, by: D) -> Self {
        Self { inner, by }
    }
}

impl<S: Service<Request, Response = Verdict>, D: Decide> Service<Request> for Deciding<S, D> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = Decided<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.by.decide(&request) {
            Some(verdict) => Decided::known(verdict),
            None => Decided::inner(self.inner.call(request)),
        }
    }
}
