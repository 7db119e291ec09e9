//! A server that throws all mail away, on whatever it was started with: the sockets that a service manager handed down,
//! or else standard input and output.
//!
//! ```sh
//! systemd-socket-activate -l /run/smtp.sock sink    # as a socket unit does
//! ssh host sink                                     # as smtp_transport_unix::PipeConnector does
//! ```

use std::sync::Arc;

use smtp_core::channel::SessionInfo;
use smtp_core::driver::{Settings, serve};
use smtp_core::service::{BoxError, Outcome, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::{ByteStream, Listener};
use smtp_transport_unix::{Inherited, Socket, Stdio, inherited};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let mut listeners = Vec::<Box<dyn Listener>>::new();
    for Inherited { name, socket } in inherited()? {
        match socket {
            Socket::Unix(listener) => listeners.push(Box::new(listener)),
            other => return Err(format!("{}: {other:?} is not for this program", name.unwrap_or_default()).into()),
        }
    }
    if listeners.is_empty() {
        listeners.push(Box::new(Stdio::take()?));
    }
    let settings = Arc::new(Settings::new(Config::new("sink.example".parse()?)));
    let mut serving = tokio::task::JoinSet::new();
    for listener in listeners {
        // Standard output may be the session: then this goes nowhere.
        println!("listening on {}", listener.url());
        serving.spawn(listen(listener, Arc::clone(&settings)));
    }
    serving.join_all().await;
    Ok(())
}

/// Serves until there is nothing more to accept.
async fn listen(listener: Box<dyn Listener>, settings: Arc<Settings>) {
    while let Ok(mut connection) = listener.accept().await {
        let settings = Arc::clone(&settings);
        tokio::spawn(async move {
            while let Ok(Some(stream)) = connection.accept().await {
                if let Err(error) = session(stream, Arc::clone(&settings)).await {
                    eprintln!("the channel broke: {error}");
                }
            }
        });
    }
}

async fn session(stream: Box<dyn ByteStream>, settings: Arc<Settings>) -> std::io::Result<()> {
    let session = Arc::new(SessionInfo::new(1, stream.info()));
    eprintln!("session with {:?}, secure: {}", session.channel.peer, session.channel.secure);
    let policy = tower::service_fn(async |_: Request| Ok::<_, BoxError>(Verdict::Proceed));
    let delivery = tower::service_fn(async |mut mail: Transaction| {
        let (content, complete) = mail.body.collect(1 << 20).await?;
        eprintln!("{} octets", content.len());
        Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), mail.envelope.recipients.len()))
    });
    serve(stream, session, policy, delivery, settings, Default::default()).await
}
