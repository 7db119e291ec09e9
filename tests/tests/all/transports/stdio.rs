//! Standard input and output as two pipes within this process, with the same adapter at both ends.

use std::io;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use smtp_core::stream::{ConnectError, ConnectStep, Connection, Connector, Listener, Target, TlsPolicy};
use smtp_transport_unix::Stdio;
use tokio::sync::{Mutex, mpsc};

/// What a server finds as its standard input and output.
type Ends = (OwnedFd, OwnedFd);

/// A listener whose each connection is a pair of pipes, and what makes them.
pub(super) fn pipes() -> (Pipes, PipesConnector) {
    let (send, receive) = mpsc::unbounded_channel();
    (Pipes(Mutex::new(receive)), PipesConnector(send))
}

pub(super) struct Pipes(Mutex<mpsc::UnboundedReceiver<Ends>>);

#[async_trait]
impl Listener for Pipes {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        let (input, output) = self.0.lock().await.recv().await.ok_or(io::ErrorKind::NotConnected)?;
        Stdio::on(input, output)?.accept().await
    }

    fn url(&self) -> String {
        "pipe:".to_owned()
    }

    fn is_local(&self) -> bool {
        true
    }
}

pub(super) struct PipesConnector(mpsc::UnboundedSender<Ends>);

impl PipesConnector {
    async fn pipes(&self) -> io::Result<Box<dyn Connection>> {
        let (to_server, to_client) = (io::pipe()?, io::pipe()?);
        self.0.send((to_server.0.into(), to_client.1.into())).map_err(io::Error::other)?;
        Stdio::on(to_client.0.into(), to_server.1.into())?.accept().await
    }
}

#[async_trait]
impl Connector for PipesConnector {
    async fn connect(&self, target: &Target, _: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let fail = |error| ConnectError::transient(&target.address, ConnectStep::Connect, error);
        self.pipes().await.map_err(fail)
    }
}
