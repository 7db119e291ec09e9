//! Clients that go on from another address.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::Endpoint;
use smtp_core::channel::Peer;
use smtp_core::service::{Policy, Request, Verdict};
use smtp_core::types::{Command, Refusal, Verb};
use smtp_transport_quic::sim::Network;
use smtp_transport_quic::{ConnectOptions, QuicConnector, QuicListener, QuicOptions, Service};
use tokio::io::AsyncWriteExt;
use tower::service_fn;

use crate::support::*;

const BAD: &str = "198.51.100.66:50000";
const GOOD: &str = "198.51.100.7:50000";

/// What the policy was asked, and of whom.
type Asked = Arc<Mutex<Vec<(Verb, IpAddr)>>>;

/// Lets everybody in but one address.
fn picky(asked: &Asked) -> impl Policy + Clone + Sync + use<> {
    let asked = Arc::clone(asked);
    service_fn(move |request: Request| {
        let peer = request.session.channel.peer.ip().unwrap();
        asked.lock().unwrap().push((request.command.verb(), peer));
        let bad = peer == BAD.parse::<SocketAddr>().unwrap().ip();
        let verdict = match request.command {
            Command::Connect if bad => Verdict::Refuse(Refusal::fixed(554, (5, 7, 1), "not from there")),
            _ => Verdict::Proceed,
        };
        async { Ok::<_, Infallible>(verdict) }
    })
}

fn sim(service: Service, asked: &Asked) -> (Sim, Endpoint) {
    let network = Network::new(1, path());
    let endpoint = network.endpoint(SERVER.parse().unwrap()).unwrap();
    let options = QuicOptions { service, ..QuicOptions::default() };
    let listener = QuicListener::from_endpoint(endpoint, &server_tls(), options).unwrap();
    let endpoint = network.endpoint(CLIENT.parse().unwrap()).unwrap();
    let options = ConnectOptions { service, ..ConnectOptions::default() };
    let connector = QuicConnector::from_endpoint(endpoint.clone(), &client_tls(), options).unwrap();
    let taken = Taken::default();
    let served = serve_with(listener, taken.clone(), picky(asked), record(&taken));
    (Sim { network, served, connector }, endpoint)
}

const MAIL: &[u8] = b"MAIL FROM:<a@client.example>\r\n";

#[tokio::test(start_paused = true)]
async fn a_submission_client_may_move_and_is_admitted_anew_at_the_next_mail() {
    let asked = Asked::default();
    let (sim, endpoint) = sim(Service::Submission, &asked);
    let mut connection = sim.connect().await;
    let mut stream = connection.open().await.unwrap();
    stream.write_all(b"EHLO c\r\n").await.unwrap();
    until(&mut stream, "250").await;
    stream.write_all(MAIL).await.unwrap();
    until(&mut stream, "250").await;

    sim.network.rebind(&endpoint, BAD.parse().unwrap()).unwrap();
    // The transaction that is open goes on; the next does not begin.
    stream.write_all(b"RCPT TO:<b@mx.example>\r\n").await.unwrap();
    until(&mut stream, "250").await;
    stream.write_all(b"RSET\r\n").await.unwrap();
    until(&mut stream, "250").await;
    for _ in 0..2 {
        stream.write_all(MAIL).await.unwrap();
        let said = until(&mut stream, "554").await;
        assert_eq!(said, "554 5.7.1 not from there\r\n");
    }

    sim.network.rebind(&endpoint, GOOD.parse().unwrap()).unwrap();
    asked.lock().unwrap().clear();
    for _ in 0..2 {
        stream.write_all(b"NOOP\r\n").await.unwrap();
        until(&mut stream, "250").await;
        stream.write_all(MAIL).await.unwrap();
        until(&mut stream, "250").await;
        stream.write_all(b"RSET\r\n").await.unwrap();
        until(&mut stream, "250").await;
    }
    // Admitted once; everything else is asked of the address that the handshake proved.
    let (good, pinned) = (GOOD.parse::<SocketAddr>().unwrap(), CLIENT.parse::<SocketAddr>().unwrap());
    let asked = asked.lock().unwrap().clone();
    let admitted: Vec<_> = asked.iter().filter(|(verb, _)| *verb == Verb::Connect).collect();
    assert_eq!(admitted, [&(Verb::Connect, good.ip())]);
    assert!(asked.iter().all(|(verb, ip)| *verb == Verb::Connect || *ip == pinned.ip()), "{asked:?}");
    assert_eq!(stream.info().peer, Peer::Ip(SERVER.parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_relay_does_not_follow() {
    let asked = Asked::default();
    let (sim, endpoint) = sim(Service::Relay, &asked);
    let mut connection = sim.connect().await;
    let mut stream = connection.open().await.unwrap();
    stream.write_all(b"EHLO c\r\n").await.unwrap();
    until(&mut stream, "250").await;
    sim.network.rebind(&endpoint, GOOD.parse().unwrap()).unwrap();
    stream.write_all(MAIL).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(60), until(&mut stream, "250")).await;
    assert!(answer.is_err(), "{answer:?}");
    assert!(asked.lock().unwrap().iter().all(|(verb, _)| *verb != Verb::Mail));
}
