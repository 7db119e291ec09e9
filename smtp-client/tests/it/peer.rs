//! Scripted servers, and what a client needs to reach them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use smtp_client::{Connection, Options};
use smtp_core::channel::{ChannelInfo, Peer as Name, TlsInfo};
use smtp_core::stream::{
    self, BoxFuture, ByteStream, ConnectError, ConnectStep, Connector, Plain, Single, Target, TlsPolicy,
};
use smtp_core::types::{Domain, Envelope, Host, Mail, Mailbox, Parameters, Rcpt, ReversePath};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

/// Longer than any deadline of the client, so that it is always the client that gives up first.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A server's end of a channel, which a test plays line by line.
pub(crate) struct Peer {
    io: DuplexStream,
    read: Vec<u8>,
}

impl Peer {
    pub(crate) const fn new(io: DuplexStream) -> Self {
        Self { io, read: Vec::new() }
    }

    /// Sends lines; each gets its CRLF.
    pub(crate) async fn say(&mut self, lines: &str) {
        for line in lines.lines() {
            self.say_octets(format!("{line}\r\n").as_bytes()).await;
        }
    }

    /// Sends lines in one piece.
    pub(crate) async fn say_at_once(&mut self, lines: &str) {
        let all: String = lines.lines().map(|line| format!("{line}\r\n")).collect();
        self.say_octets(all.as_bytes()).await;
    }

    pub(crate) async fn say_octets(&mut self, octets: &[u8]) {
        // The client may be gone; what it makes of that is its test's business.
        let _ = tokio::time::timeout(PATIENCE, self.io.write_all(octets)).await.expect("the client reads");
    }

    /// The next line, without its CRLF.
    pub(crate) async fn line(&mut self) -> String {
        let line = self.line_or_end().await;
        line.unwrap_or_else(|| panic!("the client closed; it had said {:?}", String::from_utf8_lossy(&self.read)))
    }

    /// The next line; `None` if the client closes instead.
    pub(crate) async fn line_or_end(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next line, if the client says one within a second.
    pub(crate) async fn line_or_nothing(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.line()).await;
    }

    /// Expects these lines.
    pub(crate) async fn expect(&mut self, lines: &str) {
        for line in lines.lines() {
            assert_eq!(self.line().await, line);
        }
    }

    /// Expects `lines`, then says `replies`.
    pub(crate) async fn on(&mut self, lines: &str, replies: &str) {
        self.expect(lines).await;
        self.say(replies).await;
    }

    /// So many octets of content.
    pub(crate) async fn octets(&mut self, n: usize) -> Vec<u8> {
        while self.read.len() < n {
            assert!(self.more().await, "the client closed");
        }
        self.read.drain(..n).collect()
    }

    /// Whatever there is, at least something.
    pub(crate) async fn some(&mut self) -> Vec<u8> {
        if self.read.is_empty() {
            assert!(self.more().await, "the client closed");
        }
        std::mem::take(&mut self.read)
    }

    /// What the client says until it closes.
    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// Nothing has been said that was not read.
    pub(crate) async fn silent(&mut self) {
        tokio::task::yield_now().await;
        let mut octet = [0; 64];
        let said = tokio::time::timeout(Duration::from_millis(1), self.io.read(&mut octet)).await;
        assert!(said.is_err() && self.read.is_empty(), "{said:?} {:?}", String::from_utf8_lossy(&octet));
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 8192];
        let n = tokio::time::timeout(PATIENCE, self.io.read(&mut buffer)).await.expect("the client says something");
        let n = n.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..n]);
        n > 0
    }

    /// Greeting and EHLO, offering `keywords`.
    pub(crate) async fn greet(&mut self, keywords: &str) {
        self.say("220 mx.test ESMTP").await;
        self.hello(keywords).await;
    }

    /// The reply to EHLO, offering `keywords`.
    pub(crate) async fn hello(&mut self, keywords: &str) {
        let hello = self.line().await;
        assert!(hello.starts_with("EHLO ") || hello.starts_with("LHLO "), "{hello}");
        let mut reply = String::from("250-mx.test\r\n");
        for keyword in keywords.lines() {
            reply.push_str(&format!("250-{keyword}\r\n"));
        }
        reply.push_str("250 HELP\r\n");
        self.say_octets(reply.as_bytes()).await;
    }
}

/// The two ends of a channel whose buffer holds `size` octets.
pub(crate) fn pair_of(size: usize, info: ChannelInfo) -> (Box<dyn ByteStream>, Peer) {
    let (client, server) = duplex(size);
    (Box::new(Plain::new(client, info)), Peer::new(server))
}

pub(crate) fn pair() -> (Box<dyn ByteStream>, Peer) {
    pair_of(64 * 1024, clear())
}

/// A channel in clear over a network.
pub(crate) fn clear() -> ChannelInfo {
    ChannelInfo::new("test", Name::Named("mx.test".into()))
}

pub(crate) fn options() -> Arc<Options> {
    Arc::new(Options::new(Domain::new("client.test").unwrap()))
}

/// A connection behind EHLO, and its server.
pub(crate) async fn connected(keywords: &str) -> (Connection, Peer) {
    connected_with(keywords, options()).await
}

pub(crate) async fn connected_with(keywords: &str, options: Arc<Options>) -> (Connection, Peer) {
    let (stream, mut peer) = pair();
    let client = async {
        let mut connection = Connection::over(stream, &TlsPolicy::NONE, options).await.unwrap();
        connection.hello().await.unwrap();
        connection
    };
    let (connection, ()) = tokio::join!(client, peer.greet(keywords));
    (connection, peer)
}

pub(crate) fn target() -> Target {
    Target::host(Host::Domain(Domain::new("mx.test").unwrap()), 2525)
}

pub(crate) fn mailbox(text: &str) -> Mailbox {
    Mailbox::new(text).unwrap()
}

pub(crate) fn envelope(recipients: &[&str]) -> Envelope {
    Envelope {
        mail: Mail::new(ReversePath::Mailbox(mailbox("from@client.test"))),
        recipients: recipients.iter().map(|to| Rcpt::new(mailbox(to))).collect(),
    }
}

pub(crate) fn envelope_with(parameters: &str, recipients: &[&str]) -> Envelope {
    let mut envelope = envelope(recipients);
    envelope.mail.parameters = Parameters::new(parameters).unwrap();
    envelope
}

/// The code and text of each recipient's result; `250` for an acceptance is the next hop's own reply.
pub(crate) fn results(outcome: smtp_core::service::Outcome) -> Vec<String> {
    use smtp_core::service::Claim;
    let show = |result: Result<smtp_core::service::Receipt, smtp_core::types::Refusal>| match result {
        Ok(receipt) => match receipt.claim() {
            Claim::Relayed(accepted) => accepted.reply().to_string(),
            other => panic!("{other:?}"),
        },
        Err(refusal) => refusal.to_string(),
    };
    outcome.into_results().into_iter().map(show).collect()
}

/// What a stream does when it is upgraded.
pub(crate) enum Upgrade {
    /// It becomes this one.
    To(Box<dyn ByteStream>),
    /// The handshake fails.
    Fails,
    /// Nothing ever happens.
    Hangs,
}

/// A stream that can be upgraded.
pub(crate) struct Upgradable {
    plain: Plain<DuplexStream>,
    upgrade: Upgrade,
}

/// A stream in clear with `upgrade` behind it, and its server.
pub(crate) fn upgradable(upgrade: Upgrade) -> (Box<dyn ByteStream>, Peer) {
    let (client, server) = duplex(64 * 1024);
    let info = ChannelInfo { can_upgrade: true, ..clear() };
    (Box::new(Upgradable { plain: Plain::new(client, info), upgrade }), Peer::new(server))
}

/// A stream inside TLS, and its server.
pub(crate) fn inside_tls(verified: bool) -> (Box<dyn ByteStream>, Peer) {
    let tls = TlsInfo { version: "TLSv1.3", verified, ..TlsInfo::default() };
    pair_of(64 * 1024, ChannelInfo { secure: true, tls: Some(tls.into()), ..clear() })
}

impl AsyncRead for Upgradable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.plain).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upgradable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.plain).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.plain).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.plain).poll_shutdown(cx)
    }
}

impl ByteStream for Upgradable {
    fn info(&self) -> ChannelInfo {
        self.plain.info()
    }

    fn upgrade(self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            // The stream in clear lives on underneath.
            let (_under, upgrade) = (self.plain, self.upgrade);
            match upgrade {
                Upgrade::To(stream) => Ok(stream),
                Upgrade::Fails => Err(io::Error::other("bad certificate")),
                Upgrade::Hangs => std::future::pending().await,
            }
        })
    }
}

/// Hands out streams that were made before, one a connection.
#[derive(Clone, Default)]
pub(crate) struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    streams: VecDeque<Box<dyn ByteStream>>,
    policies: Vec<TlsPolicy>,
}

impl Scripted {
    pub(crate) fn of(streams: impl IntoIterator<Item = Box<dyn ByteStream>>) -> Self {
        let scripted = Self::default();
        scripted.0.lock().unwrap().streams.extend(streams);
        scripted
    }

    /// The policy of each connection that was asked for.
    pub(crate) fn policies(&self) -> Vec<TlsPolicy> {
        self.0.lock().unwrap().policies.clone()
    }
}

/// A boxed stream where a bare one is wanted.
struct Boxed(Box<dyn ByteStream>);

impl AsyncRead for Boxed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Boxed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

impl ByteStream for Boxed {
    fn info(&self) -> ChannelInfo {
        self.0.info()
    }

    fn upgrade(self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        self.0.upgrade()
    }

    fn abort(self: Box<Self>, code: stream::CloseCode) {
        self.0.abort(code);
    }
}

#[async_trait]
impl Connector for Scripted {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn stream::Connection>, ConnectError> {
        let mut script = self.0.lock().unwrap();
        script.policies.push(policy.clone());
        let refused = || {
            let error = io::Error::from(io::ErrorKind::ConnectionRefused);
            ConnectError::transient(&target.address, ConnectStep::Connect, error)
        };
        let stream = script.streams.pop_front().ok_or_else(refused)?;
        Ok(Box::new(Single::new(Boxed(stream))))
    }
}

/// A connection with its streams.
pub(crate) struct Streams(pub(crate) VecDeque<Box<dyn ByteStream>>);

/// Connections to hand out.
#[derive(Clone)]
pub(crate) struct Several(Arc<Mutex<VecDeque<Streams>>>);

impl Several {
    /// How many are left.
    pub(crate) fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[async_trait]
impl stream::Connection for Streams {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        Ok(None)
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        self.0.pop_front().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn max_parallel(&self) -> usize {
        4
    }
}

#[async_trait]
impl Connector for Several {
    async fn connect(&self, target: &Target, _: &TlsPolicy) -> Result<Box<dyn stream::Connection>, ConnectError> {
        let next = self.0.lock().unwrap().pop_front();
        let none = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let next = next.ok_or_else(|| ConnectError::transient(&target.address, ConnectStep::Connect, none()))?;
        Ok(Box::new(next))
    }
}

pub(crate) fn several(all: impl IntoIterator<Item = Vec<Box<dyn ByteStream>>>) -> Several {
    Several(Arc::new(Mutex::new(all.into_iter().map(|streams| Streams(streams.into())).collect())))
}
