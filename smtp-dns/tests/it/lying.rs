//! A name server that says whatever it likes.

use std::net::SocketAddr;
use std::sync::Arc;

use smtp_core::types::Domain;
use smtp_dns::{Dns, LookupError, Name, Resolver, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const CNAME: u16 = 5;
const MX: u16 = 15;
const TLSA: u16 = 52;

/// What it says of a name: the type and the data of each record.
type Say = dyn Fn(&str) -> Vec<(u16, Vec<u8>)> + Send + Sync;

/// Starts one, on UDP and TCP.
async fn liar(say: Arc<Say>) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // The port may be taken there.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let says = Arc::clone(&say);
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((n, from)) = udp.recv_from(&mut question).await {
            let _ = udp.send_to(&answer(&question[..n], &*says, 1_200), from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let say = Arc::clone(&say);
            tokio::spawn(async move {
                while let Ok(n) = stream.read_u16().await {
                    let mut question = vec![0; n.into()];
                    if stream.read_exact(&mut question).await.is_err() {
                        return;
                    }
                    let answer = answer(&question, &*say, 65_535);
                    let _ = stream.write_u16(answer.len().try_into().unwrap()).await;
                    let _ = stream.write_all(&answer).await;
                }
            });
        }
    });
    address
}

/// The answer to a question, without more than the flag for truncation if it is too long (RFC 1035 §4.1).
fn answer(question: &[u8], say: &Say, longest: usize) -> Vec<u8> {
    let (mut at, mut name) = (12, String::new());
    while question[at] > 0 {
        let end = at + 1 + usize::from(question[at]);
        name.push_str(std::str::from_utf8(&question[at + 1..end]).unwrap());
        name.push('.');
        at = end;
    }
    let asked = &question[12..at + 5];
    let records = say(name.trim_end_matches('.'));
    let head = |flags: u16, count: usize| {
        let mut out = question[..2].to_vec();
        for n in [flags, 1, u16::try_from(count).unwrap(), 0, 0] {
            out.extend(n.to_be_bytes());
        }
        out.extend(asked);
        out
    };
    let mut out = head(0x8580, records.len());
    for (kind, data) in &records {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 1, 0]);
        out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    }
    if out.len() > longest { head(0x8780, 0) } else { out }
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

fn name(text: &str) -> Name {
    Name::of(&Domain::new(text).unwrap()).unwrap()
}

async fn resolver(say: impl Fn(&str) -> Vec<(u16, Vec<u8>)> + Send + Sync + 'static) -> Resolver {
    let servers = vec![liar(Arc::new(say)).await];
    Resolver::new(Settings { servers, ..Settings::default() }).unwrap()
}

/// `n17.example`: seventeen.
fn number(name: &str) -> usize {
    name.trim_start_matches('n').split('.').next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_crowd_of_mail_hosts_is_an_error_that_passes() {
    let host = |n: usize| [&[0, 10][..], &wire(&format!("h{n}.example"))].concat();
    let dns = resolver(move |name| (0..number(name)).map(|n| (MX, host(n))).collect()).await;
    for n in [1, 2, 99, 100] {
        assert_eq!(dns.mx(&name(&format!("n{n}.example"))).await.unwrap().records.len(), n);
    }
    for n in [101, 500, 1_000] {
        let error = dns.mx(&name(&format!("n{n}.example"))).await.unwrap_err();
        assert!(matches!(error, LookupError::Temporary { .. }), "{n}: {error}");
    }
    let error = dns.mx(&name("n0.example")).await.unwrap_err();
    assert!(matches!(error, LookupError::NotFound { name_exists: true, .. }), "{error}");
}

#[tokio::test]
async fn tlsa_records_of_any_length_come_as_they_are_or_not_at_all() {
    let dns = resolver(|name| vec![(TLSA, vec![3; number(name)])]).await;
    for n in 0..=300 {
        match dns.tlsa(&name(&format!("n{n}.example"))).await {
            Ok(answer) => {
                let data: Vec<_> = answer.records.iter().map(|tlsa| (tlsa.usage, tlsa.data.len())).collect();
                assert_eq!(data, [(3, n - 3)], "{n}");
            }
            Err(error) => assert!(n < 3 && !error.is_certain(), "{n}: {error}"),
        }
    }
}

#[tokio::test]
async fn aliases_that_go_in_circles_end() {
    let dns = resolver(|name| {
        let to = match name {
            "self.example" => "self.example".to_owned(),
            "a.example" => "b.example".to_owned(),
            "b.example" => "a.example".to_owned(),
            // One after the other, and no end.
            other => format!("n{}.example", number(other) + 1),
        };
        vec![(CNAME, wire(&to))]
    })
    .await;
    for host in ["self.example", "a.example", "n1.example"] {
        let error = dns.mx(&name(host)).await.unwrap_err();
        println!("{error}");
        assert!(dns.addresses(&name(host)).await.is_err(), "{host}");
    }
}
