//! QUIC sessions on a link that changes under them. Without root or TUN it skips and says why.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smtp_core::stream::{ByteStream, Connector, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::types::Host;
use smtp_core::{driver, session::server::Config};
use smtp_netem::{Network, Settings, Shape, Side, unavailable};
use smtp_server::{Mailboxes, Server, Sink};
use smtp_tls::{ClientTls, Identity, SelfSigned, ServerTls};
use smtp_transport_quic::{ConnectOptions, QuicConnector, QuicListener, QuicOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Serves on 198.18.0.2: without migration on the first port, with it on the second.
fn serve(identity: Identity, up: &std::sync::mpsc::Sender<[u16; 2]>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let tls = ServerTls::builder().identity(identity).build().unwrap();
        let [fixed, moving] = [false, true].map(|migration| {
            let any = SocketAddr::from((Side::B.address(), 0));
            QuicListener::bind(any, &tls, QuicOptions { migration: Some(migration), ..QuicOptions::default() }).unwrap()
        });
        up.send([fixed.local_addr().port(), moving.local_addr().port()]).unwrap();
        let domain = "there.example".parse().unwrap();
        let mailboxes = Mailboxes::new(&domain).unwrap();
        let settings = smtp_server::Settings::new(driver::Settings::new(Config::new(domain)));
        let server = Server::new(settings, move |_session| (mailboxes.clone(), Sink::new()));
        server.listen(fixed).listen(moving).run(CancellationToken::new()).await;
    });
}

/// Whether a line is answered, and with what.
async fn ask(stream: &mut dyn ByteStream, line: &[u8]) -> Option<String> {
    stream.write_all(line).await.unwrap();
    let mut said = [0; 1_000];
    let n = timeout(Duration::from_secs(3), stream.read(&mut said)).await.ok()?.unwrap();
    Some(String::from_utf8_lossy(&said[..n]).into_owned())
}

#[test]
fn a_nat_that_forgets_ends_sessions_only_where_migration_is_off() {
    if let Err(why) = unavailable() {
        println!("skipped: {why}");
        return;
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let delayed = Shape { delay: Duration::from_millis(10), ..Shape::default() };
    let network = std::sync::Arc::new(Network::new(Settings::both(delayed)).unwrap());
    let keys = tempfile::tempdir().unwrap();
    let own = SelfSigned::load_or_create(keys.path(), &["localhost"]).unwrap();
    let (up, is_up) = std::sync::mpsc::channel();
    let identity = own.identity();
    // It serves until the test ends.
    drop(network.side(Side::B).spawn(move || serve(identity, &up)));
    let ports = is_up.recv().unwrap();

    let (inside, policy) = (
        std::sync::Arc::clone(&network),
        TlsPolicy { mode: TlsMode::Implicit, verification: Verification::from(own.pin()) },
    );
    let client = network.side(Side::A).spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let tls = ClientTls::builder().build().unwrap();
            let connector = QuicConnector::new(&tls, ConnectOptions::default()).unwrap();
            let mut turn = 0;
            for (port, survives) in ports.into_iter().zip([false, true]) {
                let target = Target::host(Host::Literal(IpAddr::from(Side::B.address()).into()), port);
                let mut connection = connector.connect(&target, &policy).await.unwrap();
                let mut stream = connection.open().await.unwrap();
                assert!(ask(&mut *stream, b"EHLO here.example\r\n").await.unwrap().starts_with("220"));
                assert!(ask(&mut *stream, b"NOOP\r\n").await.unwrap().ends_with("ok\r\n"));
                turn += 1;
                inside.rebind_nat(turn);
                let answer = ask(&mut *stream, b"NOOP\r\n").await;
                assert_eq!(answer.is_some(), survives, "{answer:?}");
            }
        });
    });
    client.join().unwrap().unwrap();
}
