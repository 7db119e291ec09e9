//! The server's side: ours, with a sink behind it.

use std::future::Future;
use std::io;
use std::time::Duration;

use smtp_core::stream::Listener;
use smtp_core::{driver, session::server::Config};
use smtp_server::{Mailboxes, Server, Settings, Sink};
use smtp_transport_quic::{ConnectOptions, EarlyData, QuicOptions, TransportOptions};
use tokio_util::sync::CancellationToken;

use crate::cell::Cell;
use crate::choice::{Congestion, Priority, Resumption, Tuning};

/// Serves for ever.
pub(crate) fn serve(listeners: Vec<Box<dyn Listener>>) -> io::Result<impl Future<Output = ()> + Send> {
    let domain = "there.example".parse().map_err(io::Error::other)?;
    let mailboxes = Mailboxes::new(&domain).map_err(io::Error::other)?;
    let config = Config::new(domain).promising(Sink::PROMISES);
    let settings = Settings::new(driver::Settings::new(config));
    let server = Server::new(settings, move |_session| (mailboxes.clone(), Sink::new()));
    let server = listeners.into_iter().fold(server, Server::listen);
    Ok(async move {
        server.run(CancellationToken::new()).await;
    })
}

/// QUIC on both sides, as the cell wants it.
fn transport(cell: &Cell) -> TransportOptions {
    let mut options = TransportOptions {
        congestion: match cell.congestion {
            Congestion::Cubic => smtp_transport_quic::Congestion::Cubic,
            Congestion::Bbr => smtp_transport_quic::Congestion::Bbr,
            Congestion::Reno => smtp_transport_quic::Congestion::NewReno,
        },
        share_evenly: cell.priority == Priority::Fair,
        ..TransportOptions::default()
    };
    if cell.tuning == Tuning::Tuned {
        // quinn begins with packets of 1,200 octets.
        options.initial_window = Some(32 * 1_200);
        options.initial_rtt = Some(Duration::from_millis(100));
    }
    options
}

pub(crate) fn quic_listen(cell: &Cell) -> QuicOptions {
    QuicOptions { transport: transport(cell), early_data: EarlyData::Gated, ..QuicOptions::default() }
}

pub(crate) fn quic_connect(cell: &Cell) -> ConnectOptions {
    let early_data = if cell.resumption == Resumption::Early { EarlyData::Gated } else { EarlyData::Off };
    ConnectOptions { transport: transport(cell), early_data, ..ConnectOptions::default() }
}
