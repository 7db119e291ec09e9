//! AUTH on the policy seam.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use smtp_core::channel::{Identity, SessionInfo};
use smtp_core::service::{Request, Verdict};
use smtp_core::session::server::MechanismOffer;
use smtp_core::stream::BoxFuture;
use smtp_core::types::{Command, Refusal, Secret};
use tower_layer::Layer;
use tower_service::Service;

use super::{Exchange, Login, Mechanism, Plain, Step, Throttle, Users};
use crate::policy::Decided;

/// Answers AUTH and the responses that follow it; everything else goes to the inner service.
///
/// - An unknown mechanism, and one that would show the password on a channel that is not secure: 504 5.5.4. RFC 4954
///   §4 has this one code for both; 538 it keeps "for historical purposes only" (§6).
/// - Credentials that do not hold: 535 5.7.8, the same for an unknown user and a wrong password. The third failure of
///   a session ends it: 421 4.7.0.
/// - A peer that failed too often ([`Throttle`]): 421 4.7.0, before any work is done.
/// - No answer from whoever knows the users: 454 4.7.0.
#[derive(Clone)]
pub struct AuthLayer(Arc<Settings>);

#[derive(Clone)]
struct Settings {
    mechanisms: Vec<Arc<dyn Mechanism>>,
    throttle: Throttle,
    failures: u32,
}

impl AuthLayer {
    /// No mechanism yet: every AUTH is refused.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Settings { mechanisms: Vec::new(), throttle: Throttle::default(), failures: 3 }))
    }

    /// [`Plain`] and [`Login`] for `users`.
    #[must_use]
    pub fn passwords(users: Arc<dyn Users>) -> Self {
        Self::new().mechanism(Plain::new(Arc::clone(&users))).mechanism(Login::new(users))
    }

    /// With `mechanism` at the end of the list, which clients are shown in this order.
    #[must_use]
    pub fn mechanism(mut self, mechanism: impl Mechanism) -> Self {
        Arc::make_mut(&mut self.0).mechanisms.push(Arc::new(mechanism));
        self
    }

    /// How often one peer may fail. Default: 10 times, then once per minute.
    #[must_use]
    pub fn throttle(mut self, throttle: Throttle) -> Self {
        Arc::make_mut(&mut self.0).throttle = throttle;
        self
    }

    /// How often one session may fail; the last failure ends it. Default 3, at least 1.
    #[must_use]
    pub fn failures(mut self, failures: u32) -> Self {
        Arc::make_mut(&mut self.0).failures = failures.max(1);
        self
    }

    /// What a session has to know to offer these mechanisms, for [`Config::with_mechanisms`].
    ///
    /// [`Config::with_mechanisms`]: smtp_core::session::server::Config::with_mechanisms
    #[must_use]
    pub fn offers(&self) -> Vec<MechanismOffer> {
        let offer = |m: &Arc<dyn Mechanism>| MechanismOffer { name: m.name(), needs_secure: m.reveals_password() };
        self.0.mechanisms.iter().map(offer).collect()
    }

    /// The names in EHLO's AUTH line, on a channel that is `secure` or not.
    pub fn names(&self, secure: bool) -> impl Iterator<Item = &'static str> {
        self.0.mechanisms.iter().filter(move |m| secure || !m.reveals_password()).map(|m| m.name())
    }
}

impl Default for AuthLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for AuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names(true).collect();
        f.debug_struct("AuthLayer")
            .field("mechanisms", &names)
            .field("failures", &self.0.failures)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { inner, settings: Arc::clone(&self.0), attempts: Arc::default() }
    }
}

/// The service that [`AuthLayer`] makes.
pub struct Auth<S> {
    inner: S,
    settings: Arc<Settings>,
    attempts: Arc<Mutex<Attempts>>,
}

/// What one session has tried.
#[derive(Default)]
struct Attempts {
    failed: u32,
    /// The exchange that waits for a response.
    open: Option<Attempt>,
}

struct Attempt {
    mechanism: &'static str,
    exchange: Box<dyn Exchange>,
}

impl<S> Auth<S> {
    fn begin(&self, name: &str, secure: bool) -> Result<Attempt, Refusal> {
        let mechanism = self.settings.mechanisms.iter().find(|m| m.name().eq_ignore_ascii_case(name));
        let Some(mechanism) = mechanism else {
            return Err(Refusal::fixed(504, (5, 5, 4), "unrecognized authentication mechanism"));
        };
        if mechanism.reveals_password() && !secure {
            return Err(Refusal::fixed(504, (5, 5, 4), "this mechanism needs TLS; issue STARTTLS first"));
        }
        Ok(Attempt { mechanism: mechanism.name(), exchange: mechanism.start() })
    }

    fn go_on(
        &self,
        session: Arc<SessionInfo>,
        attempt: Attempt,
        response: Option<Secret>,
    ) -> BoxFuture<'static, Verdict> {
        Box::pin(step(Arc::clone(&self.settings), Arc::clone(&self.attempts), session, attempt, response))
    }
}

async fn step(
    settings: Arc<Settings>,
    attempts: Arc<Mutex<Attempts>>,
    session: Arc<SessionInfo>,
    mut attempt: Attempt,
    response: Option<Secret>,
) -> Verdict {
    let Some(charge) = settings.throttle.charge(&session.channel.peer) else {
        tracing::info!(session = session.id, "AUTH refused: the peer failed too often");
        return Refusal::fixed(421, (4, 7, 0), "too many failed attempts from your address; try again later").into();
    };
    let step = attempt.exchange.step(response, &session).await;
    if step != Step::Failed {
        charge.refund();
    }
    match step {
        Step::Challenge(challenge) => {
            lock(&attempts).open = Some(attempt);
            Verdict::Challenge(challenge)
        }
        Step::Success { user } => Verdict::Authenticated(Identity { user, mechanism: attempt.mechanism.into() }),
        Step::Failed => {
            let mut attempts = lock(&attempts);
            attempts.failed += 1;
            if attempts.failed >= settings.failures {
                Refusal::fixed(421, (4, 7, 0), "too many failed attempts").into()
            } else {
                Refusal::fixed(535, (5, 7, 8), "authentication credentials invalid").into()
            }
        }
        Step::Malformed => Refusal::fixed(501, (5, 5, 2), "not a message of this mechanism").into(),
        Step::Unavailable => Refusal::fixed(454, (4, 7, 0), "temporary authentication failure; try again later").into(),
    }
}

fn lock(attempts: &Mutex<Attempts>) -> MutexGuard<'_, Attempts> {
    attempts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for Auth<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = AuthFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Request { session, command } = request;
        match command {
            Command::Auth { mechanism, initial } => match self.begin(&mechanism, session.channel.secure) {
                Ok(attempt) => AuthFuture::step(self.go_on(session, attempt, initial)),
                Err(refusal) => AuthFuture::decided(Decided::refused(refusal)),
            },
            Command::Response(response) => {
                let open = lock(&self.attempts).open.take();
                match open {
                    Some(attempt) => AuthFuture::step(self.go_on(session, attempt, Some(response))),
                    None => {
                        let refusal = Refusal::fixed(503, (5, 5, 1), "no authentication is under way");
                        AuthFuture::decided(Decided::refused(refusal))
                    }
                }
            }
            command => AuthFuture::decided(Decided::inner(self.inner.call(Request { session, command }))),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Auth<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("inner", &self.inner).finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`Auth`].
    pub struct AuthFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F> {
        Decided { #[pin] future: Decided<F> },
        Step { future: BoxFuture<'static, Verdict> },
    }
}

impl<F> AuthFuture<F> {
    const fn decided(future: Decided<F>) -> Self {
        Self { kind: Kind::Decided { future } }
    }

    const fn step(future: BoxFuture<'static, Verdict>) -> Self {
        Self { kind: Kind::Step { future } }
    }
}

impl<F> fmt::Debug for AuthFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthFuture")
    }
}

impl<F: Future<Output = Result<Verdict, E>>, E> Future for AuthFuture<F> {
    type Output = Result<Verdict, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Decided { future } => future.poll(cx),
            KindProjection::Step { future } => future.as_mut().poll(cx).map(Ok),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::auth::testing::OneUser;
    use crate::testing::{ask, mail, remote_session, secure};
    use bytes::Bytes;
    use std::time::Duration;

    fn policy(layer: &AuthLayer) -> Auth<AnyRecipient> {
        layer.layer(AnyRecipient::exposed())
    }

    fn layer() -> AuthLayer {
        AuthLayer::passwords(OneUser::shared())
    }

    fn auth(mechanism: &str, initial: Option<&[u8]>) -> Command {
        Command::Auth { mechanism: mechanism.into(), initial: initial.map(Secret::new) }
    }

    fn peer() -> Arc<SessionInfo> {
        secure(&remote_session("192.0.2.1:4000"))
    }

    fn jo(mechanism: &str) -> Verdict {
        Verdict::Authenticated(Identity { user: "jo".into(), mechanism: mechanism.into() })
    }

    #[tokio::test]
    async fn plain_and_login_authenticate() {
        let mut policy = policy(&layer());
        assert_eq!(ask(&mut policy, &peer(), auth("PLAIN", Some(b"\0jo\0right"))).await, jo("PLAIN"));
        assert_eq!(ask(&mut policy, &peer(), auth("PLAIN", None)).await, Verdict::Challenge(Bytes::new()));
        assert_eq!(ask(&mut policy, &peer(), Command::Response(Secret::new(*b"\0jo\0right"))).await, jo("PLAIN"));
        assert_eq!(ask(&mut policy, &peer(), auth("login", None)).await, Verdict::Challenge("Username:".into()));
        let name = Command::Response(Secret::new(*b"jo"));
        assert_eq!(ask(&mut policy, &peer(), name).await, Verdict::Challenge("Password:".into()));
        assert_eq!(ask(&mut policy, &peer(), Command::Response(Secret::new(*b"right"))).await, jo("LOGIN"));
    }

    #[tokio::test]
    async fn passwords_are_not_taken_in_clear() {
        let clear = remote_session("192.0.2.1:4000");
        let mut policy = policy(&layer());
        for mechanism in ["PLAIN", "LOGIN"] {
            assert_code!(ask(&mut policy, &clear, auth(mechanism, Some(b"\0jo\0right"))).await, 504, "5.5.4");
            assert_code!(ask(&mut policy, &clear, Command::Response(Secret::new(*b"x"))).await, 503, "5.5.1");
        }
        assert_eq!(layer().names(false).count(), 0);
        assert_eq!(layer().names(true).collect::<Vec<_>>(), ["PLAIN", "LOGIN"]);
    }

    #[tokio::test]
    async fn unknown_mechanisms_and_stray_responses_are_refused() {
        let mut policy = policy(&layer());
        assert_code!(ask(&mut policy, &peer(), auth("CRAM-MD5", None)).await, 504, "5.5.4");
        assert_code!(ask(&mut policy, &peer(), Command::Response(Secret::new(*b"x"))).await, 503, "5.5.1");
        assert_code!(ask(&mut policy, &peer(), auth("PLAIN", Some(b"nonsense"))).await, 501, "5.5.2");
    }

    #[tokio::test]
    async fn wrong_password_and_unknown_user_get_the_same_reply_and_the_third_ends_the_session() {
        let mut policy = policy(&layer());
        let wrong = ask(&mut policy, &peer(), auth("PLAIN", Some(b"\0jo\0wrong"))).await;
        let unknown = ask(&mut policy, &peer(), auth("PLAIN", Some(b"\0nobody\0right"))).await;
        assert_eq!(wrong, unknown);
        assert_code!(wrong, 535, "5.7.8");
        assert_code!(ask(&mut policy, &peer(), auth("PLAIN", Some(b"boss\0jo\0right"))).await, 421, "4.7.0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_fails_too_often_is_kept_off_even_with_the_right_password() {
        let layer = layer().throttle(Throttle::new(2, Duration::from_secs(60)));
        for _ in 0..2 {
            assert_code!(ask(&mut policy(&layer), &peer(), auth("PLAIN", Some(b"\0jo\0wrong"))).await, 535, "5.7.8");
        }
        assert_code!(ask(&mut policy(&layer), &peer(), auth("PLAIN", Some(b"\0jo\0right"))).await, 421, "4.7.0");
        let other = secure(&remote_session("192.0.2.2:4000"));
        assert_eq!(ask(&mut policy(&layer), &other, auth("PLAIN", Some(b"\0jo\0right"))).await, jo("PLAIN"));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(ask(&mut policy(&layer), &peer(), auth("PLAIN", Some(b"\0jo\0right"))).await, jo("PLAIN"));
    }

    #[tokio::test]
    async fn success_never_exhausts_the_allowance() {
        let layer = layer().throttle(Throttle::new(1, Duration::from_secs(60)));
        for _ in 0..20 {
            assert_eq!(ask(&mut policy(&layer), &peer(), auth("PLAIN", Some(b"\0jo\0right"))).await, jo("PLAIN"));
        }
    }

    #[tokio::test]
    async fn a_backend_that_is_down_is_no_failure_of_the_client() {
        let mut policy = policy(&AuthLayer::passwords(OneUser::down()).failures(1));
        for _ in 0..20 {
            assert_code!(ask(&mut policy, &peer(), auth("PLAIN", Some(b"\0jo\0right"))).await, 454, "4.7.0");
        }
    }

    #[tokio::test]
    async fn everything_else_goes_inside() {
        let mut policy = policy(&layer());
        assert_eq!(ask(&mut policy, &peer(), mail("<a@b.example>")).await, Verdict::Proceed);
    }
}
