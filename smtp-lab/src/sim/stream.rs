//! A session's stream over the simulated TCP: in clear, or under TLS.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use smtp_core::channel::{ChannelInfo, Peer};
use smtp_core::stream::{BoxFuture, ByteStream, Target, TlsPolicy, Verification};
use smtp_netem::Side;
use smtp_tls::{ClientTls, ServerTls, Shown, client_info, server_info};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::tcp::Socket;

pub(super) struct SimStream {
    io: Io,
    upgrade: Upgrade,
}

enum Io {
    Plain(Socket),
    Server(Box<server::TlsStream<Socket>>, Shown),
    Client(Box<client::TlsStream<Socket>>, ServerName<'static>, Verification),
}

/// What becomes of the stream when it is upgraded.
pub(super) enum Upgrade {
    None,
    Server(ServerTls),
    Client(Arc<ClientConfig>, ServerName<'static>, Verification),
}

impl Upgrade {
    pub(super) fn client(tls: &ClientTls, target: &Target, policy: &TlsPolicy) -> io::Result<Self> {
        let config = tls.config(&policy.verification).map_err(io::Error::other)?;
        let name = target.reference_identity().ok_or_else(|| io::Error::other("a target without a name"))?;
        let name = smtp_tls::server_name(&name).map_err(io::Error::other)?;
        Ok(Self::Client(config, name, policy.verification.clone()))
    }
}

impl SimStream {
    pub(super) const fn plain(socket: Socket, upgrade: Upgrade) -> Self {
        Self { io: Io::Plain(socket), upgrade }
    }
}

impl ByteStream for SimStream {
    fn info(&self) -> ChannelInfo {
        let tls = match &self.io {
            Io::Plain(_) => None,
            Io::Server(stream, shown) => Some(server_info(stream.get_ref().1, shown)),
            Io::Client(stream, name, verification) => Some(client_info(stream.get_ref().1, name, verification)),
        };
        let peer = SocketAddr::from((Side::A.address(), super::CLIENT_PORT));
        ChannelInfo {
            secure: tls.is_some(),
            can_upgrade: matches!((&self.io, &self.upgrade), (Io::Plain(_), Upgrade::Server(_) | Upgrade::Client(..))),
            tls: tls.map(Box::new),
            ..ChannelInfo::new("tcp", Peer::Ip(peer))
        }
    }

    fn upgrade(self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let io = match (self.io, self.upgrade) {
                (Io::Plain(socket), Upgrade::Server(tls)) => {
                    let (config, shown) = tls.for_connection();
                    Io::Server(Box::new(TlsAcceptor::from(config).accept(socket).await?), shown)
                }
                (Io::Plain(socket), Upgrade::Client(config, name, verification)) => {
                    let stream = TlsConnector::from(config).connect(name.clone(), socket).await?;
                    Io::Client(Box::new(stream), name, verification)
                }
                _ => return Err(io::ErrorKind::Unsupported.into()),
            };
            Ok(Box::new(Self { io, upgrade: Upgrade::None }) as Box<dyn ByteStream>)
        })
    }
}

/// Passes a call on to whatever the stream is.
macro_rules! delegate {
    ($self:ident, $io:ident => $call:expr) => {
        match &mut $self.io {
            Io::Plain(socket) => {
                let $io = Pin::new(socket);
                $call
            }
            Io::Server(stream, _) => {
                let $io = Pin::new(stream);
                $call
            }
            Io::Client(stream, ..) => {
                let $io = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, io => io.poll_write(cx, octets))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, io => io.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        !matches!(self.io, Io::Plain(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_shutdown(cx))
    }
}
