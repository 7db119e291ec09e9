//! Our server, with a listener for each kind of channel, and a sink behind them.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::Duration;

use smtp_core::{driver, session::server::Config};
use smtp_netem::Side;
use smtp_server::{Mailboxes, Server, Settings, Sink};
use smtp_tls::{Identity, ServerTls};
use smtp_transport_quic::{EarlyData, QuicListener, QuicOptions, TransportOptions};
use smtp_transport_tcp::{ListenOptions, TcpListener, Tls};
use tokio_util::sync::CancellationToken;

/// Where it takes mail for.
pub(crate) const DOMAIN: &str = "there.example";

/// Where it listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) starttls: u16,
    pub(crate) tls: u16,
    pub(crate) quic: u16,
    pub(crate) quic_tuned: u16,
}

/// What "tuned" means, on both sides: 32 packets at once, and a lost first packet is missed after 300 ms.
pub(crate) fn tuned() -> TransportOptions {
    TransportOptions {
        // quinn begins with packets of 1,200 octets.
        initial_window: Some(32 * 1_200),
        initial_rtt: Some(Duration::from_millis(100)),
        ..TransportOptions::default()
    }
}

/// Serves for ever; tells `up` where.
pub(crate) fn serve(identity: Identity, congestion: &str, up: &Sender<io::Result<Ports>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tls = ServerTls::builder().identity(identity).build().map_err(io::Error::other)?;
        let any = SocketAddr::from((Side::B.address(), 0));
        let tcp = |tls| {
            let congestion = Some(congestion.to_owned());
            TcpListener::bind(any, ListenOptions { tls, congestion, ..ListenOptions::default() })
        };
        let quic = |transport| {
            let early_data = EarlyData::Gated;
            QuicListener::bind(any, &tls, QuicOptions { transport, early_data, ..QuicOptions::default() })
        };
        let listeners = (|| {
            Ok((
                tcp(Tls::StartTls(tls.clone()))?,
                tcp(Tls::Implicit(tls.clone()))?,
                quic(TransportOptions::default())?,
                quic(tuned())?,
            ))
        })();
        let (starttls, implicit, plain, tuned) = match listeners {
            Ok(listeners) => listeners,
            Err(error) => {
                let _ = up.send(Err(error));
                return Ok(());
            }
        };
        let ports = Ports {
            starttls: starttls.local_addr().port(),
            tls: implicit.local_addr().port(),
            quic: plain.local_addr().port(),
            quic_tuned: tuned.local_addr().port(),
        };
        let _ = up.send(Ok(ports));
        let domain = DOMAIN.parse().map_err(io::Error::other)?;
        let mailboxes = Mailboxes::new(&domain).map_err(io::Error::other)?;
        let config = Config::new(domain).promising(Sink::PROMISES);
        let server =
            Server::new(Settings::new(driver::Settings::new(config)), move |_session| (mailboxes.clone(), Sink::new()));
        let server = server.listen(starttls).listen(implicit).listen(plain).listen(tuned);
        server.run(CancellationToken::new()).await;
        Ok(())
    })
}
