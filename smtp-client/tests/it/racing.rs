//! Two ways to one server, in virtual time.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use smtp_client::{Client, Error, RacingConnector, RacingOptions, Settings, Unanswered};
use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Transaction};
use smtp_core::stream::{
    Address, BoxFuture, ByteStream, ConnectError, ConnectStep, Connection, Connector, Discover, Target, TlsMode,
    TlsPolicy,
};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use crate::peer::{envelope, pair, target};

const NEVER: u64 = 1 << 40;

/// What happens on one way.
#[derive(Clone, Copy)]
enum Fate {
    /// It stands after so many milliseconds.
    Stands(u64),
    /// It fails after so many.
    Fails(u64, ConnectStep),
    /// It stands at once, and its handshake ends so after so many.
    Early(u64, bool),
}

/// A way: what it was asked for and when, and which of its attempts were dropped before their end.
#[derive(Clone)]
struct Way(Arc<Mutex<State>>);

struct State {
    fate: Fate,
    begun: Vec<(Instant, Target, TlsPolicy)>,
    dropped: usize,
}

impl Way {
    fn new(fate: Fate) -> Self {
        Self(Arc::new(Mutex::new(State { fate, begun: Vec::new(), dropped: 0 })))
    }

    fn set(&self, fate: Fate) {
        self.0.lock().unwrap().fate = fate;
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().begun.len()
    }

    fn dropped(&self) -> usize {
        self.0.lock().unwrap().dropped
    }

    fn policies(&self) -> Vec<TlsPolicy> {
        self.0.lock().unwrap().begun.iter().map(|(_, _, policy)| policy.clone()).collect()
    }

    /// How long after `start` its last attempt began, in milliseconds.
    fn last(&self, start: Instant) -> u128 {
        self.0.lock().unwrap().begun.last().unwrap().0.duration_since(start).as_millis()
    }
}

/// Counts what is dropped under way.
struct UnderWay<'a>(&'a Way, bool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.0.lock().unwrap().dropped += 1;
        }
    }
}

struct Made {
    stream: Option<Box<dyn ByteStream>>,
    handshake: Option<(Instant, bool)>,
}

#[async_trait]
impl Connection for Made {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        Ok(None)
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        self.stream.take().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn confirmed(&self) -> BoxFuture<'static, io::Result<()>> {
        let handshake = self.handshake;
        Box::pin(async move {
            let Some((at, well)) = handshake else { return Ok(()) };
            tokio::time::sleep_until(at).await;
            if well { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
        })
    }
}

#[async_trait]
impl Connector for Way {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let fate = {
            let mut state = self.0.lock().unwrap();
            state.begun.push((Instant::now(), target.clone(), policy.clone()));
            state.fate
        };
        let mut under_way = UnderWay(self, false);
        let made = |handshake| Box::new(Made { stream: Some(pair().0), handshake }) as Box<dyn Connection>;
        let result = match fate {
            Fate::Stands(after) => {
                sleep(Duration::from_millis(after)).await;
                Ok(made(None))
            }
            Fate::Early(after, well) => Ok(made(Some((Instant::now() + Duration::from_millis(after), well)))),
            Fate::Fails(after, step) => {
                sleep(Duration::from_millis(after)).await;
                Err(ConnectError::permanent(&target.address, step, io::Error::other("scripted")))
            }
        };
        under_way.1 = true;
        result
    }
}

/// What looking for the other way brings, after so many milliseconds.
struct Found(u64, Result<bool, ()>);

fn elsewhere() -> Target {
    Target::host("mx.test".parse().unwrap(), 443)
}

#[async_trait]
impl Discover for Found {
    async fn discover(&self, asked: &Target, policy: &TlsPolicy) -> io::Result<Option<(Target, TlsPolicy)>> {
        assert_eq!(*asked, target());
        sleep(Duration::from_millis(self.0)).await;
        match self.1 {
            Ok(found) => Ok(found.then(|| (elsewhere(), policy.clone()))),
            Err(()) => Err(io::Error::other("SERVFAIL")),
        }
    }
}

fn racing(other: &Way, usual: &Way, found: Found) -> RacingConnector {
    RacingConnector::new(other.clone(), usual.clone(), found, RacingOptions::default())
}

/// Connects once; how long it took, in milliseconds.
async fn connect(connector: &RacingConnector) -> Result<u128, ConnectError> {
    let start = Instant::now();
    connector.connect(&target(), &TlsPolicy::OPPORTUNISTIC).await.map(|_| start.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn the_other_way_wins_if_it_is_there() {
    let (other, usual) = (Way::new(Fate::Stands(50)), Way::new(Fate::Stands(100)));
    let connector = racing(&other, &usual, Found(10, Ok(true)));
    assert_eq!(connect(&connector).await.unwrap(), 60);
    assert_eq!((other.asked(), usual.asked()), (1, 0));
    assert_eq!(other.0.lock().unwrap().begun[0].1, elsewhere());
    // Slow, but still before the usual one; whose attempt is dropped with its socket.
    other.set(Fate::Stands(300));
    assert_eq!(connect(&connector).await.unwrap(), 310);
    assert_eq!((usual.asked(), usual.dropped()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_a_record_the_usual_way_is_taken_at_once() {
    let (other, usual) = (Way::new(Fate::Stands(0)), Way::new(Fate::Stands(100)));
    let connector = racing(&other, &usual, Found(7, Ok(false)));
    for _ in 0..2 {
        assert_eq!(connect(&connector).await.unwrap(), 107);
    }
    assert_eq!(other.asked(), 0);
    assert_eq!(usual.0.lock().unwrap().begun[0].1, target());
}

#[tokio::test(start_paused = true)]
async fn looking_that_fails_or_takes_its_time_is_no_loss_of_the_other_way() {
    let (other, usual) = (Way::new(Fate::Stands(0)), Way::new(Fate::Stands(100)));
    let connector = racing(&other, &usual, Found(5, Err(())));
    assert_eq!(connect(&connector).await.unwrap(), 105);
    let connector = racing(&other, &usual, Found(NEVER, Ok(true)));
    for _ in 0..2 {
        assert_eq!(connect(&connector).await.unwrap(), 350);
    }
    assert_eq!(other.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_way_that_is_blocked_costs_the_head_start_once() {
    let (other, usual) = (Way::new(Fate::Stands(NEVER)), Way::new(Fate::Stands(100)));
    let connector = racing(&other, &usual, Found(0, Ok(true)));
    let mut rounds = 0;
    for minutes in [5, 10, 20] {
        let start = Instant::now();
        assert_eq!(connect(&connector).await.unwrap(), 350);
        rounds += 1;
        assert_eq!((other.asked(), other.dropped()), (rounds, rounds), "the loser goes when the winner stands");
        assert_eq!(usual.last(start), 250);
        tokio::time::sleep_until(start + Duration::from_secs(minutes * 60)).await;
        assert_eq!(connect(&connector).await.unwrap(), 100);
        assert_eq!(other.asked(), rounds);
        sleep(Duration::from_secs(1)).await;
    }
    // What works again is used again, and is no longer held against it.
    other.set(Fate::Stands(10));
    assert_eq!(connect(&connector).await.unwrap(), 10);
    other.set(Fate::Stands(NEVER));
    assert_eq!(connect(&connector).await.unwrap(), 350);
    sleep(Duration::from_secs(5 * 60)).await;
    assert_eq!(connect(&connector).await.unwrap(), 350);
    assert!(other.policies().iter().chain(&usual.policies()).all(|policy| *policy == TlsPolicy::OPPORTUNISTIC));
}

#[tokio::test(start_paused = true)]
async fn a_way_that_fails_costs_nothing_and_is_remembered() {
    for step in [ConnectStep::Connect, ConnectStep::Tls] {
        let (other, usual) = (Way::new(Fate::Fails(20, step)), Way::new(Fate::Stands(100)));
        let connector = racing(&other, &usual, Found(0, Ok(true)));
        assert_eq!(connect(&connector).await.unwrap(), 120);
        assert_eq!(connect(&connector).await.unwrap(), 100);
        assert_eq!(other.asked(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_down_says_nothing_of_the_way() {
    let (other, usual) = (Way::new(Fate::Fails(10, ConnectStep::Tls)), Way::new(Fate::Fails(30, ConnectStep::Connect)));
    let connector = racing(&other, &usual, Found(0, Ok(true)));
    let error = connect(&connector).await.unwrap_err();
    // The usual way's error, whichever came last.
    assert_eq!((error.step, error.target.as_str()), (ConnectStep::Connect, "mx.test:2525"));
    usual.set(Fate::Fails(0, ConnectStep::Connect));
    other.set(Fate::Stands(900));
    assert_eq!(connect(&connector).await.unwrap(), 900);
}

#[tokio::test(start_paused = true)]
async fn both_ways_get_the_same_policy_and_without_tls_there_is_one_way() {
    let (other, usual) = (Way::new(Fate::Stands(NEVER)), Way::new(Fate::Stands(0)));
    for policy in [TlsPolicy::OPPORTUNISTIC, TlsPolicy::REQUIRED, TlsPolicy::IMPLICIT] {
        racing(&other, &usual, Found(0, Ok(true))).connect(&target(), &policy).await.map(drop).unwrap();
        assert_eq!(other.policies().last(), Some(&policy));
        assert_eq!(usual.policies().last(), Some(&policy));
    }
    let asked = other.asked();
    racing(&other, &usual, Found(0, Ok(true))).connect(&target(), &TlsPolicy::NONE).await.map(drop).unwrap();
    assert_eq!(other.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_other_way_weakens_nothing() {
    // Over STARTTLS a failed handshake may be followed by a try in clear; one of the other way must not be.
    let (other, usual) = (Way::new(Fate::Fails(1, ConnectStep::Tls)), Way::new(Fate::Fails(1, ConnectStep::Connect)));
    let connector = racing(&other, &usual, Found(0, Ok(true)));
    let mut client = Client::new(connector, target(), Settings::default());
    let transaction = Transaction {
        session: SessionInfo::local("test"),
        envelope: envelope(&["a@x.test"]),
        body: Body::from_bytes("hi\r\n"),
    };
    let error = client.ready().await.unwrap().call(transaction).await.unwrap_err();
    let unanswered = error.downcast_ref::<Unanswered>().unwrap();
    assert!(matches!(unanswered.error(), Error::Connect(_)), "{unanswered}");
    assert!(usual.policies().iter().all(|policy| policy.mode == TlsMode::Opportunistic), "{:?}", usual.policies());
    assert_eq!(usual.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn early_data_is_not_raced_and_its_failure_is_remembered() {
    let (other, usual) = (Way::new(Fate::Early(30_000, false)), Way::new(Fate::Stands(100)));
    let connector = racing(&other, &usual, Found(0, Ok(true)));
    assert_eq!(connect(&connector).await.unwrap(), 0);
    sleep(Duration::from_secs(29)).await;
    assert_eq!(usual.asked(), 0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(connect(&connector).await.unwrap(), 100);
    assert_eq!(other.asked(), 1);

    let (other, usual) = (Way::new(Fate::Early(50, true)), Way::new(Fate::Stands(100)));
    let connector = racing(&other, &usual, Found(0, Ok(true)));
    for _ in 0..3 {
        assert_eq!(connect(&connector).await.unwrap(), 0);
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(usual.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn hosts_are_remembered_apart() {
    let (other, usual) = (Way::new(Fate::Stands(NEVER)), Way::new(Fate::Stands(0)));
    struct Anywhere;
    #[async_trait]
    impl Discover for Anywhere {
        async fn discover(&self, asked: &Target, policy: &TlsPolicy) -> io::Result<Option<(Target, TlsPolicy)>> {
            let Address::Host { host, .. } = &asked.address else { return Ok(None) };
            Ok(Some((Target::host(host.clone(), 443), policy.clone())))
        }
    }
    let connector = RacingConnector::new(other.clone(), usual.clone(), Anywhere, RacingOptions::default());
    for host in ["mx1.test", "mx2.test", "mx1.test"] {
        let target = Target::host(host.parse().unwrap(), 25);
        connector.connect(&target, &TlsPolicy::OPPORTUNISTIC).await.map(drop).unwrap();
    }
    assert_eq!(other.asked(), 2);
}
