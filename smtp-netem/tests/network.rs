//! The real thing, between two namespaces. Without root or TUN it skips and says why.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smtp_netem::{Counters, Direction, DropReason, Fate, Network, Settings, Shape, Side, unavailable};

const PORT: u16 = 4_430;

fn network(settings: Settings) -> Option<Network> {
    match unavailable() {
        Ok(()) => Some(Network::new(settings).unwrap()),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

fn server() -> SocketAddr {
    (Side::B.address(), PORT).into()
}

fn delayed(milliseconds: u64) -> Shape {
    Shape { delay: Duration::from_millis(milliseconds), ..Shape::default() }
}

/// Sends every datagram back, with the port that it came from in front, until one is empty.
fn echo(network: &Network) -> JoinHandle<std::io::Result<()>> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = network.side(Side::B).spawn(move || {
        let socket = UdpSocket::bind(server()).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 2_000];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).unwrap();
            if n == 0 {
                return;
            }
            socket.send_to(&[&from.port().to_be_bytes(), &buffer[..n]].concat(), from).unwrap();
        }
    });
    is_ready.recv().unwrap();
    thread
}

/// A socket on side A, made in a thread there: it stays there wherever it is used.
fn client(network: &Network) -> UdpSocket {
    let make = || {
        let socket = UdpSocket::bind((Side::A.address(), 0)).unwrap();
        socket.connect(server()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket
    };
    network.side(Side::A).spawn(make).join().unwrap().unwrap()
}

/// The port that side B has seen, and how long the answer took.
fn ask(socket: &UdpSocket) -> std::io::Result<(u16, Duration)> {
    let begin = Instant::now();
    socket.send(b"hello")?;
    let mut buffer = [0; 100];
    let n = socket.recv(&mut buffer)?;
    assert_eq!(&buffer[2..n], b"hello");
    Ok((u16::from_be_bytes([buffer[0], buffer[1]]), begin.elapsed()))
}

#[test]
fn datagrams_take_their_time_and_the_nat_does_its_work() {
    let Some(network) = network(Settings { trace: 100, ..Settings::both(delayed(25)) }) else { return };
    let echo = echo(&network);
    let socket = client(&network);
    let own = socket.local_addr().unwrap().port();
    for _ in 0..3 {
        let (port, took) = ask(&socket).unwrap();
        assert_eq!(port, own);
        assert!(took >= Duration::from_millis(50) && took < Duration::from_millis(150), "{took:?}");
    }
    network.rebind_nat(9);
    let (port, _) = ask(&socket).unwrap();
    assert!(port != own, "{port}");

    network.set_shape(Direction::AToB, Shape { block_udp: true, ..delayed(25) });
    let error = ask(&socket).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    let Counters { packets, arrived, refused, .. } = network.counters(Direction::AToB);
    assert_eq!((packets, arrived, refused), (5, 4, 1));
    let trace = network.take_trace();
    assert_eq!(trace.len(), 9);
    assert_eq!(trace[8].fate, Fate::Dropped(DropReason::UdpBlocked));
    let line = trace[0].to_string();
    assert!(line.contains(&format!("A>B    33 udp {own} > {PORT}")) && line.ends_with(" 25.0"), "{line}");

    network.set_shape(Direction::AToB, Shape::default());
    socket.send(b"").unwrap();
    echo.join().unwrap().unwrap();
}

#[test]
fn tcp_gets_the_rate_and_no_more() {
    // 2 MB at 16 Mbit/s are a second, plus headers and acknowledgements.
    const OCTETS: usize = 2_000_000;
    let shape = Shape { rate: Some(16_000_000), ..delayed(1) };
    let Some(network) = network(Settings { a_to_b: shape, ..Settings::both(delayed(1)) }) else { return };
    let (ready, is_ready) = std::sync::mpsc::channel();
    let receiving = network.side(Side::B).spawn(move || {
        let listener = TcpListener::bind(server()).unwrap();
        ready.send(()).unwrap();
        let mut all = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all.len()
    });
    is_ready.recv().unwrap();
    let begin = Instant::now();
    let send = || TcpStream::connect(server()).unwrap().write_all(&vec![b'x'; OCTETS]).unwrap();
    network.side(Side::A).spawn(send).join().unwrap().unwrap();
    assert_eq!(receiving.join().unwrap().unwrap(), OCTETS);
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(1_000), "{took:?}");
    let counters = network.counters(Direction::AToB);
    assert!(counters.octets > OCTETS as u64 && counters.lost == 0, "{counters:?}");
}

#[test]
fn programs_run_inside_and_everything_is_cleaned_up_even_in_a_panic() {
    let Some(network) = network(Settings::default()) else { return };
    let output = network.side(Side::A).command("ip").args(["-4", "-brief", "addr"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("198.18.0.1/24"), "{said}");
    let names = [Side::A, Side::B].map(|side| network.side(side).name().to_owned());
    let exists = |name: &String| Path::new("/run/netns").join(name).exists();
    assert!(names.iter().all(exists));
    let result = std::thread::spawn(move || {
        let _network = network;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(result.join().is_err());
    assert!(!names.iter().any(exists), "{names:?}");
}

#[test]
fn what_a_killed_program_left_behind_goes() {
    if let Err(why) = unavailable() {
        println!("skipped: {why}");
        return;
    }
    // A process that has ended: its number is free until the next few ten thousand have started.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let name = format!("smtp-netem-{}-0-a", child.id());
    assert!(std::process::Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    let _network = Network::new(Settings::default()).unwrap();
    assert!(!Path::new("/run/netns").join(name).exists());
}

#[test]
fn the_measurement_measures() {
    if let Err(why) = unavailable() {
        println!("skipped: {why}");
        return;
    }
    // Cargo builds the examples beside the tests.
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().nth(2).unwrap().join("examples/measure");
    if !program.exists() {
        println!("skipped: {} is not built: run all of `cargo test -p smtp-netem`", program.display());
        return;
    }
    let arguments = ["--rounds", "1", "--rtt", "10", "--only", "STARTTLS,streams,early"];
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for row in ["| STARTTLS, DATA |", "| QUIC, early data, tuned |", "| QUIC, 20 streams |"] {
        assert!(said.contains(row), "{said}");
    }
    assert!(said.contains("cubic at the client, cubic at the server") && !said.contains("| – |"), "{said}");
}
