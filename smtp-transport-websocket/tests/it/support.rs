//! Servers and clients to test with.

use std::sync::{Arc, Mutex};

use smtp_core::channel::SessionInfo;
use smtp_core::driver::{Settings, serve};
use smtp_core::service::{BoxError, Outcome, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::{ByteStream, Listener};
use smtp_transport_tcp::{ListenOptions, TcpListener};
use smtp_transport_websocket::WebSocketListener;
use tokio::task::JoinHandle;

/// A whole conversation with two messages.
pub(crate) const CONVERSATION: &[u8] =
    b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n\
..one\r\ntwo\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<x@y.example>\r\nBDAT 4\r\nab\r\nBDAT 4 LAST\r\ncd\r\nQUIT\r\n";

/// The codes of the replies to it.
pub(crate) const CODES: [&str; 11] = ["220", "250", "250", "250", "354", "250", "250", "250", "250", "250", "221"];

/// The bodies that were delivered.
pub(crate) type Taken = Arc<Mutex<Vec<Vec<u8>>>>;

/// Serves one session on `stream`.
pub(crate) fn serving(stream: Box<dyn ByteStream>, taken: &Taken) -> JoinHandle<std::io::Result<()>> {
    let taken = Arc::clone(taken);
    let policy = tower::service_fn(async |_: Request| Ok::<_, BoxError>(Verdict::Proceed));
    let delivery = tower::service_fn(move |mut mail: Transaction| {
        let taken = Arc::clone(&taken);
        async move {
            let (content, complete) = mail.body.collect(4 << 20).await?;
            taken.lock().unwrap().push(content.to_vec());
            Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), mail.envelope.recipients.len()))
        }
    });
    let session = Arc::new(SessionInfo::new(1, stream.info()));
    let settings = Arc::new(Settings::new(Config::new("mx.example".parse().unwrap())));
    tokio::spawn(serve(stream, session, policy, delivery, settings, Default::default()))
}

/// The codes of final reply lines.
pub(crate) fn codes(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).map(|line| &line[..3]).collect()
}

pub(crate) fn tcp() -> TcpListener {
    TcpListener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap()
}

/// A server on TCP that serves all sessions at once, and how each of them ended.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) taken: Taken,
    pub(crate) ended: tokio::sync::mpsc::UnboundedReceiver<std::io::Result<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::on(WebSocketListener::new)
    }

    pub(crate) fn on(listener: impl FnOnce(TcpListener) -> WebSocketListener<TcpListener>) -> Self {
        let tcp = tcp();
        let port = tcp.local_addr().port();
        let listener = listener(tcp);
        let taken = Taken::default();
        let (ending, ended) = tokio::sync::mpsc::unbounded_channel();
        let delivered = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok(mut connection) = listener.accept().await {
                let (delivered, ending) = (Arc::clone(&delivered), ending.clone());
                tokio::spawn(async move {
                    let end = match connection.accept().await {
                        Ok(Some(stream)) => serving(stream, &delivered).await.unwrap(),
                        Ok(None) => Ok(()),
                        Err(error) => Err(error),
                    };
                    let _ = ending.send(end);
                });
            }
        });
        Self { port, taken, ended }
    }
}
