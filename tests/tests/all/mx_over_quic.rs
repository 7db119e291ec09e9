//! Mail between two of our servers that know of each other by the DNS alone: over QUIC where a host says that it has it,
//! by TCP where it does not, or where QUIC does not get through. By which way it came the receiver's `Received` says;
//! which were tried, the files that `--qlog-dir` makes: one for each connection that is attempted or accepted.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smtp_tests::binary::{self, Server};
use smtp_tests::peers::{Nsd, require};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(60);

/// `with` and its comment in `Received`, up to what TLS has agreed on.
const BY_QUIC: &str = "with ESMTPS (quic TLSv1.3 ";
const BY_TCP: &str = "with ESMTPS (TLSv1.3 ";

/// A server for `domains` on TCP and, at another address, on QUIC.
fn receiver(domains: &[&str], qlog: &Path) -> Option<Server> {
    let listen = ["--listen", "smtp://127.0.0.1:0", "--listen", "smtp+quic://127.0.0.2:0"];
    let mut arguments = [&listen[..], &["--hostname", "receiver.test", "--qlog-dir", qlog.to_str().unwrap()]].concat();
    arguments.extend(domains.iter().flat_map(|domain| ["--domain", domain]));
    require(Server::start(&arguments))
}

/// A server that passes mail for `domains` on to whoever the DNS says, who listens on `mx_port`.
fn relay(domains: &[&str], dns: SocketAddr, mx_port: u16, qlog: &Path) -> Option<Server> {
    let (dns, mx_port) = (dns.to_string(), mx_port.to_string());
    let listen = ["--listen", "smtp://127.0.0.1:0?tls=none", "--hostname", "relay.test", "--queue", "sqlite"];
    let ways = ["--dns", &dns, "--mx-port", &mx_port, "--queue-retry", "1s", "--qlog-dir", qlog.to_str().unwrap()];
    let mut arguments = [&listen[..], &ways].concat();
    arguments.extend(domains.iter().flat_map(|domain| ["--relay-domain", domain]));
    require(Server::start(&arguments))
}

/// Hands a message for `amy@DOMAIN` to the relay.
fn submit(relay: &Server, domain: &str) {
    let (server, to) = (format!("smtp://127.0.0.1:{}", relay.port(0)), format!("amy@{domain}"));
    let sent = binary::run(&["send", "--server", &server, "--from", "a@client.test", "--to", &to]).unwrap();
    assert!(sent.success(), "{sent}");
}

/// The `Received` that the receiver has put on top of each message that amy has, as soon as there are `n`.
fn arrived(receiver: &Server, domain: &str, n: usize) -> Vec<String> {
    let messages = receiver.wait_for_messages(domain, "amy", n, PATIENCE).unwrap();
    assert_eq!(messages.len(), n, "{domain}: once each");
    let top = |message: Vec<u8>| {
        let text = String::from_utf8(message).unwrap();
        let from = text.find("Received: ").unwrap();
        let end = text[from + 1..].find("\nReceived: ").unwrap();
        let field: Vec<&str> = text[from..from + 1 + end].split_ascii_whitespace().collect();
        field.join(" ")
    };
    messages.into_iter().map(top).collect()
}

/// The connections of which there is a file.
fn connections(qlog: &Path) -> usize {
    std::fs::read_dir(qlog).unwrap().count()
}

#[test]
fn a_host_that_offers_quic_gets_its_mail_that_way_and_one_that_does_not_never_sees_it_tried() {
    let (folder, domains) = (tempfile::tempdir().unwrap(), ["fast.example", "plain.example"]);
    let (seen, tried) = (folder.path().join("seen"), folder.path().join("tried"));
    let Some(receiver) = receiver(&domains, &seen) else { return };
    // The first has no TCP server: its mail arrives over QUIC, or not at all, however slow this machine is.
    let zone = format!(
        "fast MX 10 mx.fast\nmx.fast A 127.0.0.2\n\
         _smtp.mx.fast SVCB 1 mx.fast.example. alpn=smtp-quic-00 no-default-alpn port={}\n\
         plain MX 10 mx.plain\nmx.plain A 127.0.0.1\n",
        receiver.port(1)
    );
    let Some(nsd) = require(Nsd::start(&zone)) else { return };
    let Some(relay) = relay(&domains, nsd.address(), receiver.port(0), &tried) else { return };

    submit(&relay, "plain.example");
    let received = arrived(&receiver, "plain.example", 1).remove(0);
    assert!(received.contains(BY_TCP), "{received}");
    assert_eq!((connections(&tried), connections(&seen)), (0, 0), "nobody said that there was QUIC");

    submit(&relay, "fast.example");
    let received = arrived(&receiver, "fast.example", 1).remove(0);
    assert!(received.contains(BY_QUIC) && received.starts_with("Received: from relay.test"), "{received}");
    assert_eq!(connections(&seen), 1);
}

#[test]
fn where_udp_does_not_get_through_mail_goes_by_tcp_and_quic_is_left_alone() {
    let (folder, domains) = (tempfile::tempdir().unwrap(), ["shut.example"]);
    let (seen, tried) = (folder.path().join("seen"), folder.path().join("tried"));
    let Some(receiver) = receiver(&domains, &seen) else { return };
    // Takes packets and says nothing, as a firewall does.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let gate = Gate::shut();
    let zone = format!(
        "shut MX 10 mx.shut\nmx.shut A 127.0.0.1\n\
         _smtp.mx.shut SVCB 1 mx.shut.example. alpn=smtp-quic-00 no-default-alpn port={}\n",
        silent.local_addr().unwrap().port()
    );
    let Some(nsd) = require(Nsd::start(&zone)) else { return };
    let Some(relay) = relay(&domains, nsd.address(), gate.port, &tried) else { return };

    submit(&relay, "shut.example");
    // TCP has to wait until QUIC was tried, however slow this machine is.
    let mut first = [0; 1500];
    let octets = silent.recv(&mut first).unwrap();
    assert!(octets >= 1200 && first[0] & 0xc0 == 0xc0, "an Initial packet (RFC 9000 §17.2)");
    let opened = gate.open(receiver.port(0));
    let received = arrived(&receiver, "shut.example", 1).remove(0);
    assert!(received.contains(BY_TCP), "{received}");
    assert_eq!(connections(&tried), 1);

    // The session that is kept for reuse would hide what a new connection does.
    opened.cut();
    submit(&relay, "shut.example");
    let received = arrived(&receiver, "shut.example", 2);
    assert!(received.iter().all(|received| received.contains(BY_TCP)), "{received:?}");
    assert!(opened.count() >= 2, "over a new connection");
    assert_eq!(connections(&tried), 1, "QUIC was not tried again");
    assert_eq!(connections(&seen), 0);
}

/// A TCP port at which no connection stands before it is opened: its queue is full.
struct Gate {
    port: u16,
    listener: TcpListener,
    _waiting: TcpStream,
}

impl Gate {
    fn shut() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        // Linux keeps one connection that waits to be accepted, and has all others come again.
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let waiting = TcpStream::connect(address).unwrap();
        Self { port: address.port(), listener, _waiting: waiting }
    }

    /// From now on connections are passed on to a port of this machine.
    fn open(self, to: u16) -> Opened {
        let (first, _) = self.listener.accept().unwrap();
        drop(first);
        let opened = Opened::default();
        let (passed, listener) = (Arc::clone(&opened.0), self.listener);
        // They end with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { break };
                let copy = |stream: &TcpStream| stream.try_clone().unwrap();
                passed.lock().unwrap().push(copy(&near));
                for (mut from, mut to) in [(copy(&near), copy(&far)), (far, near)] {
                    std::thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        opened
    }
}

/// The connections that were passed on.
#[derive(Default)]
struct Opened(Arc<Mutex<Vec<TcpStream>>>);

impl Opened {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Ends those that there are.
    fn cut(&self) {
        for stream in &*self.0.lock().unwrap() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
