//! AUTH on the policy seam.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use smtp_core::channel::{ChannelInfo, Identity, SessionInfo};
use smtp_core::service::{Request, Verdict};
use smtp_core::session::server::{MechanismOffer, Needs};
use smtp_core::stream::BoxFuture;
use smtp_core::types::{Command, Domain, Refusal, Secret};
use smtp_sasl::scram::Hash;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    CramMd5, Exchange, External, Login, Mechanism, OAuthBearer, Plain, Scram, ScramUsers, SharedUsers, Step, Throttle,
    Users, XOAuth2,
};
use crate::policy::Decided;

/// Answers AUTH and the responses that follow it; everything else goes to the inner service.
///
/// - An unknown mechanism, and one that would show the password on a channel that is not secure: 504 5.5.4. RFC 4954
///   §4 has this one code for both; 538 it keeps "for historical purposes only" (§6).
/// - Credentials that do not hold: 535 5.7.8, the same for an unknown user and a wrong password. The third failure of
///   a session ends it: 421 4.7.0. A channel binding that does not fit is told as such: somebody is in between.
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

    /// All that `users` can log in by, the strongest first: SCRAM with SHA-256 if every password has its keys, the same
    /// with SHA-1, EXTERNAL if somebody has a certificate or a uid, OAUTHBEARER and XOAUTH2 if somebody has a token, PLAIN
    /// and LOGIN; CRAM-MD5 only if every password is kept for it. Decided once: who comes later may have to do with what is there.
    #[must_use]
    pub fn users(users: &Arc<SharedUsers>, hostname: &Domain) -> Self {
        let (list, mut layer) = (users.list(), Self::new());
        for hash in [Hash::Sha256, Hash::Sha1].into_iter().filter(|hash| list.has_keys(*hash)) {
            layer = layer.scram(hash, Arc::clone(users) as _);
        }
        if list.has_external() {
            layer = layer.mechanism(External::new(Arc::clone(users) as _));
        }
        if list.has_tokens() {
            layer = layer.mechanism(OAuthBearer::new(Arc::clone(users) as _));
            layer = layer.mechanism(XOAuth2::new(Arc::clone(users) as _));
        }
        if list.has_passwords() {
            layer = layer.mechanism(Plain::new(Arc::clone(users) as _)).mechanism(Login::new(Arc::clone(users) as _));
        }
        if list.has_secrets() {
            layer = layer.mechanism(CramMd5::new(Arc::clone(users) as _, hostname));
        }
        layer
    }

    /// With SCRAM by `hash`, with channel binding and without.
    #[must_use]
    pub fn scram(self, hash: Hash, users: Arc<dyn ScramUsers>) -> Self {
        Scram::pair(hash, users).into_iter().fold(self, Self::mechanism)
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
        let offer = |m: &Arc<dyn Mechanism>| MechanismOffer { name: m.name(), needs: m.needs() };
        self.0.mechanisms.iter().map(offer).collect()
    }

    /// The names in EHLO's AUTH line on a channel that has what the mechanisms need.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.mechanisms.iter().map(|m| m.name())
    }
}

impl Default for AuthLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for AuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
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
    /// It has failed, and the client has yet to answer the challenge that said so.
    failed: bool,
}

impl<S> Auth<S> {
    fn begin(&self, name: &str, channel: &ChannelInfo) -> Result<Attempt, Refusal> {
        let mechanism = self.settings.mechanisms.iter().find(|m| m.name().eq_ignore_ascii_case(name));
        let Some(mechanism) = mechanism else {
            return Err(Refusal::fixed(504, (5, 5, 4), "unrecognized authentication mechanism"));
        };
        if !mechanism.needs().met_by(channel) {
            return Err(unusable(mechanism.needs()));
        }
        Ok(Attempt { mechanism: mechanism.name(), exchange: mechanism.start(), failed: false })
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
    if !matches!(step, Step::Failed | Step::FailedWith(_) | Step::Refused(_)) {
        charge.refund();
    }
    match step {
        Step::Challenge(challenge) => {
            lock(&attempts).open = Some(attempt);
            Verdict::Challenge(challenge)
        }
        Step::Success { user } => Verdict::Authenticated(Identity { user, mechanism: attempt.mechanism.into() }),
        Step::Failed => failed(&settings, &attempts, INVALID).into(),
        Step::FailedWith(challenge) => {
            let refusal = failed(&settings, &attempts, INVALID);
            let mut attempts = lock(&attempts);
            if attempts.failed >= settings.failures {
                return refusal.into();
            }
            attempts.open = Some(Attempt { failed: true, ..attempt });
            Verdict::Challenge(challenge)
        }
        Step::Refused(text) => {
            tracing::warn!(session = session.id, mechanism = attempt.mechanism, reason = text, "AUTH refused");
            failed(&settings, &attempts, text).into()
        }
        Step::Malformed => Refusal::fixed(501, (5, 5, 2), "not a message of this mechanism").into(),
        Step::Unusable(text) => Refusal::fixed(504, (5, 5, 4), text).into(),
        Step::Unavailable => Refusal::fixed(454, (4, 7, 0), "temporary authentication failure; try again later").into(),
    }
}

/// What is said of credentials that do not hold, whatever is wrong with them.
const INVALID: &str = "authentication credentials invalid";

/// Counts a failure: 535, and 421 for the last that a session may have.
fn failed(settings: &Settings, attempts: &Mutex<Attempts>, text: &'static str) -> Refusal {
    let mut attempts = lock(attempts);
    attempts.failed += 1;
    if attempts.failed >= settings.failures {
        Refusal::fixed(421, (4, 7, 0), "too many failed attempts")
    } else {
        Refusal::fixed(535, (5, 7, 8), text)
    }
}

fn unusable(needs: Needs) -> Refusal {
    let text = match needs {
        Needs::Identity => "this mechanism needs a client certificate, or a local socket",
        Needs::Secrecy | Needs::Nothing => "this mechanism needs TLS here",
    };
    Refusal::fixed(504, (5, 5, 4), text)
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
            Command::Auth { mechanism, initial } => match self.begin(&mechanism, &session.channel) {
                Ok(attempt) => AuthFuture::step(self.go_on(session, attempt, initial)),
                Err(refusal) => AuthFuture::decided(Decided::refused(refusal)),
            },
            Command::Response(response) => {
                let open = lock(&self.attempts).open.take();
                match open {
                    Some(Attempt { failed: true, .. }) => {
                        AuthFuture::decided(Decided::refused(Refusal::fixed(535, (5, 7, 8), INVALID)))
                    }
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
        assert!(layer().offers().iter().all(|offer| offer.needs == Needs::Secrecy));
        assert_eq!(layer().names().collect::<Vec<_>>(), ["PLAIN", "LOGIN"]);
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
    async fn a_token_that_does_not_hold_counts_before_the_client_has_said_a_word_to_it() {
        use crate::auth::OAuthBearer;
        use crate::auth::testing::OneToken;
        let layer = AuthLayer::new().mechanism(OAuthBearer::new(Arc::new(OneToken)));
        let mut policy = policy(&layer);
        let bad = || auth("OAUTHBEARER", Some(b"n,,\x01auth=Bearer bad\x01\x01"));
        let told = Verdict::Challenge(Bytes::from_static(br#"{"status":"invalid_token"}"#));
        assert_eq!(ask(&mut policy, &peer(), bad()).await, told);
        assert_code!(ask(&mut policy, &peer(), Command::Response(Secret::new(*b"\x01"))).await, 535, "5.7.8");
        // This client gives up instead of answering; the session tells nobody of that.
        assert_eq!(ask(&mut policy, &peer(), bad()).await, told);
        assert_code!(ask(&mut policy, &peer(), bad()).await, 421, "4.7.0");
    }

    #[tokio::test]
    async fn external_needs_a_channel_that_says_who_it_is() {
        use crate::auth::{External, UserList};
        let users = UserList::new().and("jo: uid=1000".parse().unwrap()).unwrap();
        let mut policy = policy(&AuthLayer::new().mechanism(External::new(Arc::new(users))));
        assert_code!(ask(&mut policy, &peer(), auth("EXTERNAL", Some(b""))).await, 504, "5.5.4");
        let mut local = SessionInfo::clone(&peer());
        local.channel.peer = smtp_core::channel::Peer::Process { uid: 1000, gid: 1000, pid: None };
        assert_eq!(ask(&mut policy, &Arc::new(local), auth("EXTERNAL", Some(b""))).await, jo("EXTERNAL"));
    }

    #[test]
    fn the_list_is_what_the_users_have() {
        use crate::auth::{User, UserList};
        let names = |users: &[User]| {
            let list = users.iter().cloned().try_fold(UserList::new(), UserList::and).unwrap();
            let layer = AuthLayer::users(&Arc::new(SharedUsers::new(list)), &"mx.example".parse().unwrap());
            layer.names().collect::<Vec<_>>().join(" ")
        };
        let password = Secret::new(*b"right");
        let jo = User::new("jo").unwrap().with_password(&password).unwrap();
        assert_eq!(names(std::slice::from_ref(&jo)), "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
        let old = jo.with_keys(Hash::Sha1, &password).unwrap().with_secret(&password).unwrap().with_uid(7);
        let all = "SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1-PLUS SCRAM-SHA-1 EXTERNAL PLAIN LOGIN CRAM-MD5";
        assert_eq!(names(std::slice::from_ref(&old)), all);
        assert_eq!(names(&[User::new("ci").unwrap().with_uid(8)]), "EXTERNAL");
        assert_eq!(names(&[]), "");
    }

    mod garbage {
        use super::*;
        use crate::auth::testing::OneToken;
        use crate::auth::{OAuthBearer, UserList, XOAuth2};
        use proptest::prelude::*;
        use smtp_core::channel::TlsInfo;

        /// Messages that begin like real ones go further than noise.
        fn message() -> impl Strategy<Value = Vec<u8>> {
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                "(n|y|p=tls-exporter),(a=jo)?,n=(jo|no),r=[a-z]{1,5}(,m=x)?".prop_map(String::into_bytes),
                "c=(biws|eSws)?,r=[a-z]{0,5},p=[A-Za-z0-9+/]{0,44}=?".prop_map(String::into_bytes),
                "(n,a=jo,|user=jo)\u{1}auth=Bearer [a-z]{0,5}\u{1}{0,2}".prop_map(String::into_bytes),
                "jo [0-9a-f]{30,34}".prop_map(String::into_bytes),
                "\0{0,2}jo\0[a-z]{0,5}".prop_map(String::into_bytes),
            ]
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]

            /// Whatever is said in whatever order: an answer each time, nobody gets in, and who knows the password
            /// does afterwards.
            #[test]
            fn lets_nobody_in_and_locks_nobody_out(
                said in prop::collection::vec((0..11usize, prop::option::of(message())), 1..12)
            ) {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let keys = |hash| smtp_sasl::scram::Keys::derive(hash, "unguessed", b"salt", 4096).expose();
                    let hash = crate::auth::testing::cheap_hash("unguessed");
                    let (sha256, sha1) = (keys(Hash::Sha256), keys(Hash::Sha1));
                    let jo = format!("jo: {hash} {sha256} {sha1} CRAM-MD5$dW5ndWVzc2Vk uid=1000");
                    let users = SharedUsers::new(UserList::new().and(jo.parse().unwrap()).unwrap());
                    let layer = AuthLayer::users(&Arc::new(users), &"mx.example".parse().unwrap())
                        .mechanism(OAuthBearer::new(Arc::new(OneToken)))
                        .mechanism(XOAuth2::new(Arc::new(OneToken)))
                        .throttle(Throttle::new(1_000, Duration::from_secs(1)))
                        .failures(1_000);
                    let names: Vec<_> = layer.names().chain(["X-UNKNOWN"]).collect();
                    let mut session = SessionInfo::clone(&peer());
                    session.channel.tls = Some(TlsInfo { exporter: Some([7; 32]), ..TlsInfo::default() }.into());
                    let (session, mut policy) = (Arc::new(session), policy(&layer));
                    for (name, message) in &said {
                        let command = match (names.get(*name), message) {
                            (Some(name), message) => auth(name, message.as_deref()),
                            (None, message) => Command::Response(Secret::new(message.as_deref().unwrap_or_default())),
                        };
                        let verdict = ask(&mut policy, &session, command).await;
                        let good = message.as_ref().is_some_and(|m| m.windows(11).any(|w| w == b"Bearer good"));
                        assert!(good || matches!(verdict, Verdict::Refuse(_) | Verdict::Challenge(_)), "{verdict:?}");
                        assert!(verdict != Verdict::Proceed);
                    }
                    let right = auth("PLAIN", Some(b"\0jo\0unguessed"));
                    assert_eq!(ask(&mut policy, &session, right).await, super::jo("PLAIN"));
                });
            }
        }
    }

    #[tokio::test]
    async fn everything_else_goes_inside() {
        let mut policy = policy(&layer());
        assert_eq!(ask(&mut policy, &peer(), mail("<a@b.example>")).await, Verdict::Proceed);
    }
}
