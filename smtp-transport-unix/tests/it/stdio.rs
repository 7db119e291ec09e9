//! Standard input and output: a real program behind pipes, sockets and files, as inetd, sshd and shells start one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::support::{CODES, CONVERSATION, codes, example, folder};

fn sink(input: impl Into<Stdio>, output: impl Into<Stdio>, error: impl Into<Stdio>) -> Child {
    // No socket activation that the tests themselves may have been started with.
    let mut command = Command::new(example("sink"));
    command.env_clear().stdin(input).stdout(output).stderr(error).spawn().unwrap()
}

/// What is left of the child once it has ended: standard error.
fn end(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_program_serves_one_session_on_pipes() {
    let mut child = sink(Stdio::piped(), Stdio::piped(), Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    input.write_all(&CONVERSATION[..20]).unwrap();
    let mut greeting = [0; 4];
    output.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ");
    input.write_all(&CONVERSATION[20..]).unwrap();
    // The end of output comes while this side is still open: QUIT ends the session, and the pipe with it.
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert_eq!(codes(&format!("220 {said}")), CODES);
    let error = end(child);
    assert!(error.contains("session with Named(\"standard input\"), secure: true"), "{error}");
    assert!(error.contains("11 octets\n") && error.contains("8 octets\n") && !error.contains("broke"), "{error}");
}

#[test]
fn a_half_close_on_pipes_gives_all_replies() {
    for cut in [0, 1, 60, CONVERSATION.len() - 6] {
        let mut child = sink(Stdio::piped(), Stdio::piped(), Stdio::piped());
        child.stdin.take().unwrap().write_all(&CONVERSATION[..cut]).unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.starts_with("220 sink.example"), "{said}");
        assert_eq!(codes(&said)[..], CODES[..codes(&said).len()], "cut at {cut}");
        end(child);
    }
}

#[test]
fn what_the_program_prints_does_not_get_into_the_session() {
    let mut child = sink(Stdio::piped(), Stdio::piped(), Stdio::piped());
    child.stdin.take().unwrap().write_all(CONVERSATION).unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!said.contains("listening on"), "{said}");
    end(child);
}

/// As `inetd nowait` does it: one socket for all three.
fn inetd(socket: OwnedFd) -> Child {
    sink(socket.try_clone().unwrap(), socket.try_clone().unwrap(), socket)
}

#[test]
fn inetd_with_tcp_gives_the_address_of_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    // Standard error apart, to see what the program knows.
    let socket = OwnedFd::from(listener.accept().unwrap().0);
    let child = sink(socket.try_clone().unwrap(), socket, Stdio::piped());
    client.write_all(CONVERSATION).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(codes(&said), CODES);
    let error = end(child);
    let peer = client.local_addr().unwrap();
    assert!(error.contains(&format!("session with Ip({peer}), secure: false")), "{error}");
}

#[test]
fn inetd_gives_standard_error_too_and_nothing_of_it_gets_into_the_session() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let child = inetd(listener.accept().unwrap().0.into());
    client.write_all(CONVERSATION).unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(codes(&said), CODES);
    assert!(said.lines().all(|line| line.as_bytes()[..3].iter().all(u8::is_ascii_digit)), "{said}");
    end(child);
}

#[test]
fn a_unix_socket_gives_the_process_at_its_other_end() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let server = OwnedFd::from(server);
    let child = sink(server.try_clone().unwrap(), server, Stdio::piped());
    client.write_all(CONVERSATION).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(codes(&said), CODES);
    let error = end(child);
    let own = format!("session with Process {{ uid: {}", rustix::process::geteuid().as_raw());
    assert!(error.contains(&own) && error.contains("secure: true"), "{error}");
}

/// Some programs give their children a socket for each direction.
#[test]
fn two_sockets_are_as_good_as_one() {
    let (mut to, input) = UnixStream::pair().unwrap();
    let (mut from, output) = UnixStream::pair().unwrap();
    let child = sink(OwnedFd::from(input), OwnedFd::from(output), Stdio::piped());
    to.write_all(CONVERSATION).unwrap();
    to.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    from.read_to_string(&mut said).unwrap();
    assert_eq!(codes(&said), CODES);
    end(child);
}

#[test]
fn files_will_do() {
    let folder = folder();
    let (input, output) = (folder.path().join("input"), folder.path().join("output"));
    fs::write(&input, CONVERSATION).unwrap();
    let error = end(sink(File::open(&input).unwrap(), File::create(&output).unwrap(), Stdio::piped()));
    assert_eq!(codes(&fs::read_to_string(&output).unwrap()), CODES, "{error}");
}

#[test]
fn what_carries_no_session_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for (socket, text) in
        [(OwnedFd::from(listener), "without a connection"), (OwnedFd::from(datagrams), "carries datagrams")]
    {
        let output = sink(socket, Stdio::piped(), Stdio::piped()).wait_with_output().unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(text), "{error}");
    }
}

/// They belong to the whole process, so this test runs itself once more, in a process of its own.
#[test]
fn they_can_be_taken_once() {
    const INSIDE: &str = "SMTP_TEST_TAKES_STDIO";
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stdio::they_can_be_taken_once", "--nocapture"])
            .env(INSIDE, "1")
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let first = smtp_transport_unix::Stdio::take().unwrap();
    let error = smtp_transport_unix::Stdio::take().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    drop(first);
}

/// A server takes an accept that fails for the end of the listener, and begins its drain.
#[test]
fn the_second_accept_waits_for_the_end_of_the_session() {
    let mut child = sink(Stdio::piped(), Stdio::piped(), Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut greeting = [0; 4];
    output.read_exact(&mut greeting).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    input.write_all(b"QUIT\r\n").unwrap();
    end(child);
}
