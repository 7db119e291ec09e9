//! Our QUIC server, and a client that somebody else's QUIC and our document made: `tests/quic/client_*.py` on aioquic.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use smtp_core::driver;
use smtp_core::service::{Policy, Request, Verdict};
use smtp_core::session::server::{Config, Limits};
use smtp_core::types::Command;
use smtp_server::server::Summary;
use smtp_server::{Mailboxes, Recorder, Server, Settings};
use smtp_tests::peers::{aioquic, require};
use smtp_tls::{SelfSigned, ServerTls};
use smtp_transport_quic::{EarlyData, QuicListener, QuicOptions};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

/// Our server with two listeners that know nothing of each other's tickets, on a runtime that keeps it going while the
/// client is waited for.
struct Ours {
    runtime: Runtime,
    ports: [u16; 2],
    recorder: Recorder,
    serving: JoinHandle<Summary>,
    keys: TempDir,
    ca_file: PathBuf,
}

impl Ours {
    fn start(early_data: EarlyData) -> Self {
        crate::provider();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let keys = TempDir::new().unwrap();
        let own = SelfSigned::load_or_create(keys.path(), &["localhost"]).unwrap();
        let tls = ServerTls::builder().identity(own.identity()).build().unwrap();
        let _inside = runtime.enter();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listeners = [(); 2]
            .map(|()| QuicListener::bind(any, &tls, QuicOptions { early_data, ..QuicOptions::default() }).unwrap());
        let ports = [0, 1].map(|n: usize| listeners[n].local_addr().port());
        let domain = "here.example".parse().unwrap();
        let mailboxes = Mailboxes::new(&domain).unwrap();
        let recorder = Recorder::new();
        let limits = Limits { message_size: 1_000_000, ..Limits::default() };
        let config = Config::new(domain).promising(Recorder::PROMISES).with_limits(limits);
        let stop = CancellationToken::new();
        let (delivery, until) = (recorder.clone(), stop.clone());
        let stack = move |_: &_| (drained_by(mailboxes.clone(), until.clone()), delivery.clone());
        let mut server = Server::new(Settings::new(driver::Settings::new(config)), stack);
        for listener in listeners {
            server = server.listen(listener);
        }
        let serving = runtime.spawn(server.run(stop));
        let ca_file = own.certificate_file().to_owned();
        Self { runtime, ports, recorder, serving, keys, ca_file }
    }

    /// Runs a client to its end; false if it cannot be run here.
    #[track_caller]
    fn meets(&self, script: &str) -> bool {
        let elsewhere = self.ports[1].to_string();
        let Some(output) = require(aioquic::client(script, self.ports[0], &self.ca_file, &[&elsewhere])) else {
            return false;
        };
        assert!(output.success(), "{script}: {output}");
        assert!(self.keys.path().exists());
        true
    }

    /// The content of what was delivered, in the order of its `X-Number`.
    fn delivered(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = self.recorder.messages().into_iter().map(|mail| mail.content.to_vec()).collect();
        all.sort();
        all
    }
}

/// Begins to shut the server down when somebody wants to write to `drain`.
fn drained_by(mailboxes: Mailboxes, stop: CancellationToken) -> impl Policy + Clone {
    service_fn(move |request: Request| {
        if let Command::Rcpt(rcpt) = &request.command
            && rcpt.to.to_string().contains("drain@")
        {
            stop.cancel();
        }
        let mailboxes = mailboxes.clone();
        async move { Ok::<_, Infallible>(mailboxes.oneshot(request).await.unwrap_or(Verdict::Proceed)) }
    })
}

/// As `body` in `smtp_quic.py` makes it.
fn body(number: usize, octets: usize) -> Vec<u8> {
    let head = format!("X-Number: {number}\r\n\r\n");
    [head.as_bytes(), &b"0123456789abcdef\r\n".repeat((octets - head.len()) / 18 + 1)].concat()
}

#[test]
fn a_stranger_sends_a_mail_in_one_flight() {
    let ours = Ours::start(EarlyData::Off);
    if ours.meets("client_one_flight.py") {
        assert_eq!(ours.delivered(), [body(1, 20_000)]);
    }
}

#[test]
fn a_stranger_sends_a_mail_with_data() {
    let ours = Ours::start(EarlyData::Off);
    if ours.meets("client_pipelined.py") {
        assert_eq!(ours.delivered(), [body(2, 3_000)]);
    }
}

#[test]
fn a_stranger_has_many_sessions_at_once() {
    let ours = Ours::start(EarlyData::Off);
    if ours.meets("client_streams.py") {
        assert_eq!(ours.delivered(), (0..10).map(|number| body(number, 5_000)).collect::<Vec<_>>());
    }
}

#[test]
fn a_stranger_is_refused_as_the_document_says() {
    let ours = Ours::start(EarlyData::Off);
    let all = ["client_wrong_alpn.py", "client_starttls.py", "client_refused_body.py", "client_forbidden_streams.py"];
    if all.iter().all(|script| ours.meets(script)) && ours.meets("client_churn.py") {
        assert_eq!(ours.delivered(), [body(3, 500), body(6, 1_000)]);
    }
}

#[test]
fn what_a_stranger_breaks_off_is_not_delivered() {
    let ours = Ours::start(EarlyData::Off);
    if ours.meets("client_reset.py") {
        assert_eq!(ours.delivered(), [body(4, 1_000), body(5, 1_000)]);
    }
}

#[test]
fn a_strangers_early_data_is_taken_or_refused_and_never_twice() {
    let ours = Ours::start(EarlyData::Gated);
    if ours.meets("client_early.py") {
        assert_eq!(ours.delivered(), [body(0, 800), body(1, 800)]);
    }
}

#[test]
fn a_stranger_hears_everything_when_the_server_shuts_down() {
    let ours = Ours::start(EarlyData::Off);
    if ours.meets("client_drain.py") {
        assert_eq!(ours.delivered(), [body(7, 2_000)]);
        let Ours { runtime, serving, .. } = ours;
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), serving).await });
        let summary = ended.unwrap().unwrap();
        assert_eq!((summary.sessions, summary.aborted, summary.panicked), (3, 0, 0));
    }
}
