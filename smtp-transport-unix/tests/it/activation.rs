//! Sockets that are handed down, as systemd does it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{CODES, CONVERSATION, codes, example, folder};

/// The sink with `socket` as its descriptor 3, which is where systemd puts the first.
fn activated(socket: OwnedFd) -> Child {
    Command::new("/bin/sh")
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" 3<&0 </dev/null"])
        .arg(example("sink"))
        .env_clear()
        .envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "smtp")])
        .stdin(socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn converse(path: &Path) -> String {
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(CONVERSATION).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn a_socket_that_was_handed_down_is_served_and_not_removed() {
    let folder = folder();
    let path = folder.path().join("smtp");
    let socket = UnixListener::bind(&path).unwrap();
    // A client that comes before the server is there is not lost.
    let early = std::thread::spawn({
        let path = path.clone();
        move || converse(&path)
    });
    let mut child = activated(socket.into());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, format!("listening on smtp+unix://{}\n", path.display()));
    assert_eq!(codes(&early.join().unwrap()), CODES);
    assert_eq!(codes(&converse(&path)), CODES);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(path.exists());
}

#[test]
fn what_is_not_meant_is_told_apart() {
    let folder = folder();
    let path = folder.path().join("smtp");
    let _listener = UnixListener::bind(&path).unwrap();
    for (socket, text) in [
        (OwnedFd::from(File::open("/dev/null").unwrap()), "not a Unix, TCP or UDP socket"),
        (OwnedFd::from(UnixStream::connect(&path).unwrap()), "does not listen"),
        // The sink has no use for it, but it was recognised, with its name.
        (OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()), "smtp: Tcp("),
        (OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()), "smtp: Udp("),
    ] {
        let output = activated(socket).wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(text), "{error}");
    }
}

/// Variables that were meant for another process are none of ours.
#[test]
fn another_process_s_sockets_are_not_taken() {
    let output = Command::new(example("sink"))
        .env_clear()
        .envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // It serves standard input instead.
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"220 "));
}

/// The sink under systemd's tool that does what socket units do; None if it does not run here.
fn systemd(arguments: &[&str], path: &Path) -> Option<Child> {
    let manager = Command::new("systemd-socket-activate")
        .args(arguments)
        .arg("-l")
        .arg(path)
        .arg(example("sink"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok();
    if manager.is_none() {
        println!("skipped: systemd-socket-activate does not run here");
    }
    let begin = Instant::now();
    while manager.is_some() && !path.exists() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    manager
}

#[test]
fn systemd_hands_a_socket_down() {
    let folder = folder();
    let path = folder.path().join("smtp");
    let Some(mut manager) = systemd(&[], &path) else { return };
    let said = converse(&path);
    manager.kill().unwrap();
    manager.wait().unwrap();
    assert_eq!(codes(&said), CODES);
}

/// A process for each connection, with the connection as its standard input and output: `inetd nowait`.
#[test]
fn systemd_hands_connections_down() {
    let folder = folder();
    let path = folder.path().join("smtp");
    let Some(mut manager) = systemd(&["--accept", "--inetd"], &path) else { return };
    let said = [converse(&path), converse(&path)];
    manager.kill().unwrap();
    manager.wait().unwrap();
    for said in said {
        assert_eq!(codes(&said), CODES);
    }
}
