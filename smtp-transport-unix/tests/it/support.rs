//! Sessions, sockets and programs to test with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use smtp_core::channel::SessionInfo;
use smtp_core::driver::{Settings, serve};
use smtp_core::service::{BoxError, Outcome, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::{Address, ByteStream, Connector, Listener, Target, TlsPolicy};
use smtp_transport_unix::{ListenOptions, UnixConnector, UnixListener};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) type Stream = Box<dyn ByteStream>;

/// A whole conversation with two messages.
pub(crate) const CONVERSATION: &[u8] =
    b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n\
..one\r\ntwo\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<x@y.example>\r\nBDAT 4\r\nab\r\nBDAT 4 LAST\r\ncd\r\nQUIT\r\n";

/// The codes of the replies to it.
pub(crate) const CODES: [&str; 11] = ["220", "250", "250", "250", "354", "250", "250", "250", "250", "250", "221"];

/// What was delivered.
#[derive(Debug, Default, Clone)]
pub(crate) struct Taken(Arc<Mutex<Vec<Delivered>>>);

#[derive(Debug)]
struct Delivered {
    peer: String,
    body: Vec<u8>,
}

impl Taken {
    pub(crate) fn bodies(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().iter().map(|delivered| delivered.body.clone()).collect()
    }

    /// Who has sent each.
    pub(crate) fn peers(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|delivered| delivered.peer.clone()).collect()
    }
}

/// Serves one session on `stream`.
pub(crate) fn serving(stream: Stream, taken: &Taken) -> JoinHandle<std::io::Result<()>> {
    let taken = taken.clone();
    let policy = tower::service_fn(async |_: Request| Ok::<_, BoxError>(Verdict::Proceed));
    let delivery = tower::service_fn(move |mut mail: Transaction| {
        let taken = taken.clone();
        async move {
            let (content, complete) = mail.body.collect(1 << 20).await?;
            let peer = mail.session.channel.peer.to_string();
            taken.0.lock().unwrap().push(Delivered { peer, body: content.to_vec() });
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

/// A folder that only this user can write to.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn listen(path: &Path) -> UnixListener {
    UnixListener::bind(path, &ListenOptions::default()).unwrap()
}

pub(crate) fn target(path: impl Into<PathBuf>) -> Target {
    Target { address: Address::Path(path.into()), server_name: None }
}

pub(crate) async fn connect(path: &Path) -> Stream {
    UnixConnector::new().connect(&target(path), &TlsPolicy::NONE).await.unwrap().open().await.unwrap()
}

pub(crate) async fn accept(listener: &UnixListener) -> Stream {
    listener.accept().await.unwrap().accept().await.unwrap().unwrap()
}

/// The two ends of a connection through a socket in `folder`.
pub(crate) async fn pair(folder: &TempDir) -> (Stream, Stream) {
    let path = folder.path().join("pair");
    let listener = listen(&path);
    let client = connect(&path).await;
    (client, accept(&listener).await)
}

/// One of this crate's examples, which cargo builds for the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples -p smtp-transport-unix", path.display());
    path
}

/// True if this user may take on others.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why a test has nothing to say here; false to go on.
pub(crate) fn skip(unless: bool, reason: &str) -> bool {
    if !unless {
        println!("skipped: {reason}");
    }
    !unless
}
