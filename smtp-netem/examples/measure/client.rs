//! Sending: octets by hand over our transports, so that every way says the same and waits for what it has to.

use std::future::poll_fn;
use std::io;
use std::time::{Duration, Instant};

use smtp_core::stream::{ByteStream, Connection, Connector, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::types::Host;
use smtp_netem::{Network, Side};
use smtp_tls::{ClientTls, Pin};
use smtp_transport_quic::{ConnectOptions as QuicOptions, EarlyData, QuicConnector, TransportOptions};
use smtp_transport_tcp::{ConnectOptions as TcpOptions, TcpConnector};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::server::{DOMAIN, Ports, tuned};
use crate::ways::{Channel, Conversation, Way};

const EHLO: &[u8] = b"EHLO here.example\r\n";

/// No run may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

type Stream = Box<dyn ByteStream>;

/// Connectors for each channel. None but those for early data remembers sessions.
pub(crate) struct Client {
    ports: Ports,
    verification: Verification,
    congestion: String,
    tcp: TcpConnector,
    quic: [QuicConnector; 4],
}

impl Client {
    pub(crate) fn new(ports: Ports, pin: Pin, congestion: &str) -> io::Result<Self> {
        let tls = |sessions| ClientTls::builder().sessions(sessions).build().map_err(io::Error::other);
        let options = TcpOptions { congestion: Some(congestion.to_owned()), ..TcpOptions::default() };
        let quic = |sessions, early_data, transport| {
            QuicConnector::new(&tls(sessions)?, QuicOptions { early_data, transport, ..QuicOptions::default() })
        };
        Ok(Self {
            ports,
            verification: pin.into(),
            congestion: congestion.to_owned(),
            tcp: TcpConnector::new(tls(0)?).with_options(options),
            quic: [
                quic(0, EarlyData::Off, TransportOptions::default())?,
                quic(0, EarlyData::Off, tuned())?,
                quic(100, EarlyData::Gated, TransportOptions::default())?,
                quic(100, EarlyData::Gated, tuned())?,
            ],
        })
    }

    async fn connect(&self, channel: Channel) -> io::Result<Box<dyn Connection>> {
        let [quic, quic_tuned, early, early_tuned] = &self.quic;
        let (connector, port, mode): (&dyn Connector, u16, TlsMode) = match channel {
            Channel::StartTls => (&self.tcp, self.ports.starttls, TlsMode::Required),
            Channel::Tls => (&self.tcp, self.ports.tls, TlsMode::Implicit),
            Channel::Quic => (quic, self.ports.quic, TlsMode::Implicit),
            Channel::QuicTuned => (quic_tuned, self.ports.quic_tuned, TlsMode::Implicit),
            Channel::QuicEarly => (early, self.ports.quic, TlsMode::Implicit),
            Channel::QuicEarlyTuned => (early_tuned, self.ports.quic_tuned, TlsMode::Implicit),
        };
        let mut target = Target::host(Host::Literal(std::net::IpAddr::from(Side::B.address()).into()), port);
        target.server_name = Some("localhost".parse().map_err(io::Error::other)?);
        let policy = TlsPolicy { mode, verification: self.verification.clone() };
        connector.connect(&target, &policy).await.map_err(io::Error::other)
    }

    /// For early data: a session without a mail, that brings a ticket. It costs `gap` more.
    pub(crate) async fn prepare(&self, way: &Way, gap: Duration) -> io::Result<()> {
        if !matches!(way.channel, Channel::QuicEarly | Channel::QuicEarlyTuned) {
            return Ok(());
        }
        let mut connection = self.connect(way.channel).await?;
        let mut talk = Talk::new(connection.open().await?);
        talk.send(EHLO).await?;
        talk.expect(220).await?;
        talk.expect(250).await?;
        tokio::time::sleep(gap).await;
        talk.quit().await?;
        drop((talk, connection));
        tokio::time::sleep(gap).await;
        Ok(())
    }

    /// When each mail was accepted, from before the connection was begun.
    pub(crate) async fn run(&self, way: &Way, size: usize) -> io::Result<Vec<Duration>> {
        timeout(PATIENCE, self.send(way, size)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    async fn send(&self, way: &Way, size: usize) -> io::Result<Vec<Duration>> {
        let begin = Instant::now();
        let mut connection = self.connect(way.channel).await?;
        let early = matches!(way.channel, Channel::QuicEarly | Channel::QuicEarlyTuned);
        if early && begin.elapsed() > Duration::from_millis(10) {
            return Err(io::Error::other("there was no ticket"));
        }
        if way.conversation == Conversation::Streams {
            return streams(&mut *connection, way.mails, size, begin).await;
        }
        let mut stream = connection.open().await?;
        if way.channel == Channel::StartTls {
            stream = start_tls(stream).await?;
        }
        let mut talk = Talk::new(stream);
        if way.channel == Channel::Tls {
            talk.expect(220).await?;
        }
        let quic = !matches!(way.channel, Channel::StartTls | Channel::Tls);
        let times = match way.conversation {
            Conversation::Data => talk.data(size, begin).await?,
            Conversation::Bdat => {
                talk.send(EHLO).await?;
                if quic {
                    talk.expect(220).await?;
                }
                talk.expect(250).await?;
                talk.mails(Vec::new(), &[], way.mails, size, begin).await?
            }
            Conversation::OneFlight | Conversation::Streams => {
                talk.mails(EHLO.to_vec(), &[220, 250], way.mails, size, begin).await?
            }
        };
        talk.quit().await?;
        if early {
            let mut stream = talk.into_stream();
            poll_fn(|cx| stream.poll_confirmed(cx)).await?;
        }
        Ok(times)
    }

    /// What ss(8) says of a connection's two ends.
    pub(crate) async fn congestion_in_use(&self, network: &Network) -> io::Result<[String; 2]> {
        let mut connection = self.connect(Channel::StartTls).await?;
        let mut stream = connection.open().await?;
        read_until(&mut stream, b"\n").await?;
        let ends = [Side::A, Side::B].map(|side| {
            let output = network.side(side).command("ss").args(["-tinH", "state", "established"]).output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let name = said.split_whitespace().find(|word| ["cubic", "bbr", "reno"].contains(word));
            Ok::<_, io::Error>(name.unwrap_or("unknown").to_owned())
        });
        let [a, b] = ends;
        let ends = [a?, b?];
        if ends.iter().any(|end| *end != self.congestion) {
            return Err(io::Error::other(format!("the sockets use {ends:?} and not {}", self.congestion)));
        }
        stream.write_all(b"QUIT\r\n").await?;
        Ok(ends)
    }
}

async fn read_until(stream: &mut Stream, end: &[u8]) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    while !said.ends_with(end) {
        said.push(stream.read_u8().await?);
    }
    Ok(said)
}

/// Greeting, EHLO, STARTTLS, handshake.
async fn start_tls(mut stream: Stream) -> io::Result<Stream> {
    read_until(&mut stream, b"\n").await?;
    stream.write_all(EHLO).await?;
    let mut line = read_until(&mut stream, b"\n").await?;
    while line.get(3) == Some(&b'-') {
        line = read_until(&mut stream, b"\n").await?;
    }
    stream.write_all(b"STARTTLS\r\n").await?;
    let said = read_until(&mut stream, b"\n").await?;
    if !said.starts_with(b"220") {
        return Err(io::Error::other(String::from_utf8_lossy(&said).into_owned()));
    }
    stream.upgrade().await
}

/// One flight on each of many streams, opened at once.
async fn streams(
    connection: &mut dyn Connection,
    mails: usize,
    size: usize,
    begin: Instant,
) -> io::Result<Vec<Duration>> {
    let mut sending = JoinSet::new();
    for _ in 0..mails {
        let mut talk = Talk::new(connection.open().await?);
        sending.spawn(async move {
            let times = talk.mails(EHLO.to_vec(), &[220, 250], 1, size, begin).await?;
            talk.quit().await?;
            Ok::<_, io::Error>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(sent) = sending.join_next().await {
        times.extend(sent.map_err(io::Error::other)??);
    }
    times.sort_unstable();
    Ok(times)
}

/// A session that can be read and written at the same time.
struct Talk {
    from: ReadHalf<Stream>,
    to: WriteHalf<Stream>,
    unread: Vec<u8>,
}

impl Talk {
    fn new(stream: Stream) -> Self {
        let (from, to) = tokio::io::split(stream);
        Self { from, to, unread: Vec::new() }
    }

    fn into_stream(self) -> Stream {
        self.from.unsplit(self.to)
    }

    async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.to.write_all(octets).await?;
        self.to.flush().await
    }

    /// EHLO, then the envelope with DATA, then the content.
    async fn data(&mut self, size: usize, begin: Instant) -> io::Result<Vec<Duration>> {
        self.send(EHLO).await?;
        self.expect(250).await?;
        self.send(&[&envelope()[..], b"DATA\r\n"].concat()).await?;
        for code in [250, 250, 354] {
            self.expect(code).await?;
        }
        self.send(&[&body(size)[..], b".\r\n"].concat()).await?;
        self.expect(250).await?;
        Ok(vec![begin.elapsed()])
    }

    /// Mails in one piece behind `first`, which is answered with `codes`.
    async fn mails(
        &mut self,
        first: Vec<u8>,
        codes: &[u16],
        mails: usize,
        size: usize,
        begin: Instant,
    ) -> io::Result<Vec<Duration>> {
        let body = body(size);
        let mut flight = first;
        for _ in 0..mails {
            flight.extend_from_slice(&envelope());
            flight.extend_from_slice(format!("BDAT {} LAST\r\n", body.len()).as_bytes());
            flight.extend_from_slice(&body);
        }
        let (from, to, unread) = (&mut self.from, &mut self.to, &mut self.unread);
        let write = async {
            to.write_all(&flight).await?;
            to.flush().await
        };
        let read = async {
            for code in codes {
                expect(from, unread, *code).await?;
            }
            let mut times = Vec::new();
            for _ in 0..mails {
                for _ in 0..3 {
                    expect(from, unread, 250).await?;
                }
                times.push(begin.elapsed());
            }
            Ok(times)
        };
        tokio::try_join!(write, read).map(|((), times)| times)
    }

    async fn expect(&mut self, code: u16) -> io::Result<()> {
        expect(&mut self.from, &mut self.unread, code).await
    }

    async fn quit(&mut self) -> io::Result<()> {
        self.send(b"QUIT\r\n").await?;
        self.expect(221).await?;
        self.to.shutdown().await
    }
}

/// Reads one whole reply, which has to have this code.
async fn expect(from: &mut ReadHalf<Stream>, unread: &mut Vec<u8>, code: u16) -> io::Result<()> {
    loop {
        while let Some(end) = unread.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            if !line.starts_with(code.to_string().as_bytes()) {
                return Err(io::Error::other(format!("not {code}: {}", String::from_utf8_lossy(&line).trim())));
            }
            if line.get(3) == Some(&b' ') {
                return Ok(());
            }
        }
        if from.read_buf(unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn envelope() -> Vec<u8> {
    format!("MAIL FROM:<me@here.example>\r\nRCPT TO:<you@{DOMAIN}>\r\n").into_bytes()
}

fn body(size: usize) -> Vec<u8> {
    let mut body = b"Subject: measured\r\n\r\n".to_vec();
    while body.len() < size {
        body.extend_from_slice(b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n");
    }
    body
}
