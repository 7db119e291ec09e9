//! The same server and the same message over everything that carries octets.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::play::{Run, Server, file, run, run_with, send, smtp};

const SMTP: &str = env!("CARGO_BIN_EXE_smtp");

/// A server with a QUIC listener alone.
fn quic(more: &[&str]) -> Server {
    Server::start(&[&["serve", "--listen", "smtp+quic://127.0.0.1:0"], more].concat(), 1)
}

/// The server's own certificate, for `--tls-ca`.
fn certificate(server: &Server) -> String {
    server.folder().join("smtp-data/tls/certificate.pem").to_str().unwrap().to_owned()
}

fn socket_in(folder: &Path) -> String {
    format!("smtp+unix://{}/socket", folder.canonicalize().unwrap().display())
}

#[test]
fn one_mail_over_each_transport() {
    let folder = TempDir::new().unwrap();
    let unix = socket_in(folder.path());
    let listeners = [
        "smtp://127.0.0.1:0",
        "smtps://127.0.0.1:0",
        "smtp+quic://127.0.0.1:0",
        "smtp+quic://127.0.0.1:0?service=submission",
        &unix,
        "smtp+ws://127.0.0.1:0",
        "smtp+wss://127.0.0.1:0",
    ];
    let arguments: Vec<&str> =
        std::iter::once("serve").chain(listeners.into_iter().flat_map(|url| ["--listen", url])).collect();
    let server = Server::start(&arguments, listeners.len());
    let ca = certificate(&server);
    for (url, listened) in server.urls.iter().zip(listeners) {
        assert!(!url.contains(":0"), "{url}");
        let local = url.starts_with("smtp+unix") || url.starts_with("smtp+ws:");
        let trust: &[&str] = if local { &[] } else { &["--tls-ca", &ca] };
        let sent = send(url, &[&["--to", "u@localhost", "--json"], trust].concat());
        assert_eq!(sent.code, Some(0), "{listened}: {sent:?}");
        assert_eq!(sent.json()["tls"]["verified"] == true, !local, "{listened}: {sent:?}");
    }
    let messages = server.messages("localhost", "u");
    assert_eq!(messages.len(), listeners.len());
    let under_tls = messages.iter().filter(|message| {
        [" with ESMTPS (TLSv1.3", " with ESMTPS (quic TLSv1.3"].iter().any(|tls| message.contains(tls))
    });
    let under_tls = under_tls.count();
    assert_eq!(under_tls, 5, "TCP with STARTTLS, smtps, twice QUIC, wss");
    assert!(messages.iter().all(|message| !message.contains("[0.0.0.0]") && !message.contains(" )")), "{messages:?}");
    server.signal("TERM");
    let ended = server.finish();
    for url in ["smtp+unix://", "smtp+quic://127.0.0.1:", "'smtp+quic://127.0.0.1:", "smtp+wss://127.0.0.1:"] {
        assert!(ended.stderr.contains(&format!("send --server {url}")), "a line to paste: {}", ended.stderr);
    }
}

#[test]
fn lmtp_beside_smtp_with_an_answer_for_each() {
    let folder = TempDir::new().unwrap();
    let unix = socket_in(folder.path()).replacen("smtp", "lmtp", 1);
    let mut arguments = vec!["serve", "--mailbox", "u@localhost", "--mailbox", "v@localhost"];
    let listeners = ["smtp://127.0.0.1:0", "lmtp://127.0.0.1:0", &unix];
    arguments.extend(listeners.into_iter().flat_map(|url| ["--listen", url]));
    let server = Server::start(&arguments, listeners.len());
    assert!(server.urls[1].starts_with("lmtp://127.0.0.1:") && server.urls[2] == unix, "{:?}", server.urls);
    let to = ["--to", "u@localhost", "--to", "nobody@localhost", "--to", "v@localhost", "--transcript"];
    for url in &server.urls {
        let sent = send(url, &to);
        assert_eq!(sent.code, Some(67), "{url}: some were refused: {sent:?}");
        let said = format!("{}{}", sent.stdout, sent.stderr);
        let lmtp = url.starts_with("lmtp");
        assert_eq!(said.contains("LHLO "), lmtp, "{said}");
        assert_eq!(said.matches("250 2.0.0 message stored").count() >= 2, lmtp || said.contains("accepted"), "{said}");
    }
    for user in ["u", "v"] {
        let messages = server.messages("localhost", user);
        assert_eq!(messages.len(), 3, "{user}");
        assert_eq!(messages.iter().filter(|message| message.contains(" with LMTP")).count(), 2, "{messages:?}");
    }
    let refused = send(&server.urls[1].replacen("lmtp", "smtp", 1), &["--to", "u@localhost"]);
    assert_ne!(refused.code, Some(0), "SMTP is not spoken there: {refused:?}");
}

/// Starts a server without options, sends over both of its listeners, and ends it; in a network of its own, where its
/// usual ports are free.
const BY_DEFAULT: &str = r#"
ip link set lo up || exit 99
"$0" serve >out 2>log & server=$!
for i in $(seq 400); do [ "$(grep -c ^listening out)" = 2 ] && break; sleep 0.05; done
cat out
for url in smtp://127.0.0.1:2525 smtp+quic://127.0.0.1:2525; do
    "$0" send --server $url --tls-ca smtp-data/tls/certificate.pem --from a@b.example --to u@localhost || exit 1
done
kill $server
wait $server
"#;

#[test]
fn without_options_it_listens_on_tcp_and_on_quic() {
    // As root, or as anybody where the system lets users have networks.
    let ways: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    let can = |way: &&[&str]| {
        let tried = Command::new("unshare").args(*way).args(["ip", "link", "set", "lo", "up"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let Some(way) = ways.into_iter().find(can) else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "CI must be able to make a network namespace");
        println!("skipped: no network namespace here (unshare, ip)");
        return;
    };
    let folder = TempDir::new().unwrap();
    let mut command = Command::new("unshare");
    command.args(way).args(["sh", "-c", BY_DEFAULT, SMTP]).current_dir(folder.path());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SMTP_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let listening: Vec<&str> = ended.stdout.lines().take(2).collect();
    assert_eq!(listening, ["listening smtp://127.0.0.1:2525", "listening smtp+quic://127.0.0.1:2525"]);
    let mail = folder.path().join("smtp-data/mail/localhost/u/new");
    assert_eq!(std::fs::read_dir(mail).unwrap().count(), 2);
}

#[test]
fn tcp_and_udp_can_have_the_same_port() {
    // Somebody else can take the number between the two runs.
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let urls = [format!("smtp://127.0.0.1:{port}?tls=required"), format!("smtp+quic://127.0.0.1:{port}")];
        if UdpSocket::bind(("127.0.0.1", port)).is_err() {
            continue;
        }
        let server = Server::start(&["serve", "--listen", &urls[0], "--listen", &urls[1]], 2);
        assert_eq!(server.urls[1], urls[1]);
        let ca = certificate(&server);
        for url in &server.urls {
            assert_eq!(send(url, &["--to", "u@localhost", "--tls-ca", &ca]).code, Some(0), "{url}");
        }
        return;
    }
    panic!("no port that is free for both");
}

#[test]
fn over_quic_the_certificate_has_to_hold() {
    let server = quic(&[]);
    let url = server.url();
    let stranger = quic(&[]);
    let none = "0".repeat(64);
    for (trust, code, part) in [
        (&["--tls-ca", &certificate(&server)][..], 0, ""),
        (&["--insecure"], 0, ""),
        (&["--pin", &none], 77, "not the pinned one: pinned is 0000"),
        (&["--tls-ca", &certificate(&stranger)], 77, "signed with a wrong key"),
    ] {
        let sent = send(url, &[&["--to", "u@localhost"], trust].concat());
        assert_eq!(sent.code, Some(code), "{trust:?}: {sent:?}");
        assert!(sent.stderr.contains(part), "{trust:?}: {sent:?}");
        assert!(!sent.stderr.contains("?tls=none"), "QUIC has no other way: {sent:?}");
    }
    assert_eq!(server.messages("localhost", "u").len(), 2);
    // Without a word on trust it is verified against the system's anchors, where there are any.
    assert!(matches!(send(url, &["--to", "u@localhost"]).code, Some(77 | 78)));
}

#[test]
fn over_quic_nobody_there_and_the_wrong_service_are_unavailable() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sent = send(&format!("smtp+quic://127.0.0.1:{port}"), &["--to", "u@localhost", "--insecure", "--timeout", "1"]);
    assert_eq!(sent.code, Some(69), "{sent:?}");
    // The deadline of the handshake and that of connecting are the same here: whichever comes first.
    let late = ["no answer within 1s", "connect: nothing within 1s"];
    assert!(late.iter().any(|late| sent.stderr.contains(late)), "{sent:?}");
    assert!(sent.stderr.contains("its address right"), "{sent:?}");

    let server = quic(&[]);
    let other = format!("{}?service=submission", server.url());
    let sent = send(&other, &["--to", "u@localhost", "--insecure"]);
    assert_eq!(sent.code, Some(69), "{sent:?}");
    assert!(sent.stderr.contains("relay for submission or the other way round"), "{sent:?}");
}

#[test]
fn the_transcript_shows_what_happens_below() {
    let server = quic(&["--qlog-dir", "qlogs"]);
    let folder = TempDir::new().unwrap();
    let qlog = folder.path().join("client").to_str().unwrap().to_owned();
    let more = ["--to", "u@localhost", "--insecure", "--transcript", "--qlog-dir", &qlog];
    let sent = send(server.url(), &more);
    let at = |part: &str| sent.stdout.find(part).unwrap_or_else(|| panic!("{part}: {}", sent.stdout));
    assert!(at("* QUICv1, handshake complete, round trip ") < at("* stream 0 opened"));
    assert!(
        at("* TLSv1.3 TLS_AES_128_GCM_SHA256 X25519MLKEM768 smtp-quic-00, certificate not verified") < at("~> EHLO ")
    );
    assert!(at("~> EHLO ") < at("<~ 220 "), "the client speaks first");
    assert!(at("<~ 221 ") < at("* stream 0 ended: "));
    assert!(at(" octets sent, ") < at("* QUIC closed: "));
    let traffic = &sent.stdout[at("* QUIC closed: ")..];
    let datagrams: u32 = traffic.split(' ').nth(3).unwrap().parse().unwrap();
    assert!((3..100).contains(&datagrams), "{traffic}");
    for folder in [server.folder().join("qlogs"), qlog.into()] {
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "{}", folder.display());
    }
}

#[test]
fn a_mail_is_one_flight_unless_told_to_wait() {
    let server = quic(&[]);
    let base = ["--to", "u@localhost", "--to", "v@localhost", "--insecure", "--transcript"];
    let sent = send(server.url(), &base);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let at = |part: &str| sent.stdout.find(part).unwrap_or_else(|| panic!("{part}: {}", sent.stdout));
    assert!(at("~> EHLO ") < at("~> MAIL ") && at("~> RCPT TO:<v@") < at("~> BDAT ") && at("~> BDAT ") < at("~> QUIT"));
    assert!(at("~> QUIT") < at("<~ 220 "), "nothing was waited for: {}", sent.stdout);
    assert!(sent.stdout.contains("<~ 221 "), "{}", sent.stdout);

    let sent = send(server.url(), &[&base[..], &["--no-pipelining"]].concat());
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let at = |part: &str| sent.stdout.find(part).unwrap_or_else(|| panic!("{part}: {}", sent.stdout));
    assert!(at("<~ 220 ") < at("~> MAIL ") && at("<~ 250 2.1.0") < at("~> RCPT "), "{}", sent.stdout);

    // Who is refused is told as ever.
    let sent = send(server.url(), &[&base[..4], &["--to", "x@elsewhere.example", "--insecure"]].concat());
    assert_eq!(sent.code, Some(67), "{sent:?}");
}

#[test]
fn a_mail_can_be_early_data() {
    let server = quic(&["--early-data", "gated"]);
    let sent = send(server.url(), &["--to", "u@localhost", "--insecure", "--transcript", "--early-data", "gated"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let at = |part: &str| sent.stdout.find(part).unwrap_or_else(|| panic!("{part}: {}", sent.stdout));
    assert!(at("handshake complete, round trip") < at("QUICv1, resumed: what follows is sent as early data"));
    assert!(at("what follows is sent as early data") < at("~> MAIL ") && at("~> BDAT ") < at("early data accepted"));
    // A server that does not want it gives no ticket for it.
    let server = quic(&[]);
    let sent = send(server.url(), &["--to", "u@localhost", "--insecure", "--transcript", "--early-data", "gated"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert!(!sent.stdout.contains("early data accepted"), "{}", sent.stdout);
    assert_eq!(sent.stdout.matches("handshake complete, round trip").count(), 2, "{}", sent.stdout);
}

#[test]
fn a_shell_speaks_first_where_the_client_has_to() {
    let server = quic(&[]);
    let talked = run_with(smtp(["shell", server.url(), "--insecure"]), b"EHLO me\nNOOP\nquit\n");
    assert_eq!(talked.code, Some(0), "{talked:?}");
    let at = |part: &str| talked.stdout.find(part).unwrap_or_else(|| panic!("{part}: {}", talked.stdout));
    assert!(at("~> EHLO me") < at("<~ 220 ") && at("<~ 220 ") < at("<~ 250-"));
    assert!(at("~> NOOP") < at("<~ 250 2.0.0") && at("<~ 250 2.0.0") < at("<~ 221 "));
}

#[test]
fn standard_input_and_output_are_a_session() {
    let folder = TempDir::new().unwrap();
    let mut command = smtp(["serve", "--listen", "pipe:", "--hostname", "mx.example"]);
    command.current_dir(folder.path());
    let ended =
        run_with(command, b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<u@localhost>\r\nBDAT 6 LAST\r\nhello\nQUIT\r\n");
    assert_eq!(ended.code, Some(0), "the end of the session is the end: {ended:?}");
    assert!(ended.stdout.starts_with("220 mx.example "), "nothing else is said there: {ended:?}");
    let last: Vec<&str> = ended.stdout.lines().rev().take(2).collect();
    assert!(last[0].starts_with("221 "), "{ended:?}");
    // A bare LF in the content is refused.
    assert!(last[1].starts_with("554 5.6.0"), "{ended:?}");
    assert!(!ended.stderr.contains("Send it a first mail"), "{ended:?}");
}

#[test]
fn a_program_is_a_server() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let url = format!("pipe:{SMTP} serve --listen pipe: --data-dir {}", data.display());
    let sent = send(&url, &["--to", "u@localhost", "--transcript"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert!(sent.stdout.contains("over pipe") && sent.stdout.contains("accepted  u@localhost"), "{sent:?}");
    assert_eq!(std::fs::read_dir(data.join("mail/localhost/u/new")).unwrap().count(), 1);
    let failed = send("pipe:/no/such/program", &["--to", "u@localhost"]);
    assert_eq!(failed.code, Some(69), "{failed:?}");
    assert!(failed.stderr.contains("cannot start /no/such/program"), "{failed:?}");
}

/// `smtp serve` with `socket` handed down as a service manager does it.
fn activated(socket: impl Into<OwnedFd>, listen: &str) -> Server {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=mail exec \"$0\" serve --listen \"$1\" 3<&0 </dev/null";
    command.args(["-c", script, SMTP, listen]).current_dir(folder.path());
    command.stdin(socket.into()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Server::of(command, folder, 1)
}

#[test]
fn sockets_can_be_handed_down() {
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = tcp();
    let address = socket.local_addr().unwrap();
    let server = activated(socket, "fd:");
    assert_eq!(server.url(), format!("smtp://{address}"));
    assert_eq!(send(server.url(), &["--to", "u@localhost"]).code, Some(0));
    let server = activated(tcp(), "fd:mail?tls=implicit");
    assert_eq!(send(server.url(), &["--to", "u@localhost", "--insecure"]).code, Some(0));
    assert!(server.url().starts_with("smtps://"));
    let server = activated(UdpSocket::bind("127.0.0.1:0").unwrap(), "fd:3");
    assert_eq!(send(server.url(), &["--to", "u@localhost", "--insecure"]).code, Some(0));
    assert!(server.url().starts_with("smtp+quic://"));
}

#[test]
fn a_config_file_can_name_every_transport() {
    let folder = TempDir::new().unwrap();
    let text = format!(
        "listen = [\"{}\", \"smtp+quic://127.0.0.1:0\"]\nearly_data = \"gated\"\nqlog_dir = \"q\"\n",
        socket_in(folder.path())
    );
    let config = file(folder.path(), "smtp.toml", &text);
    let server = Server::start(&["serve", "--config", config.to_str().unwrap()], 2);
    for url in &server.urls {
        assert_eq!(send(url, &["--to", "u@localhost", "--insecure"]).code, Some(0), "{url}");
    }
    assert!(server.folder().join("q").is_dir());
}

#[test]
fn what_cannot_be_listened_on_is_told() {
    let folder = TempDir::new().unwrap();
    let unix = socket_in(folder.path());
    file(folder.path(), "socket", "not a socket");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = format!("smtp+quic://{}", udp.local_addr().unwrap());
    for (url, code, part) in [
        (&*unix, 69, "not a socket; it was left alone"),
        (&taken, 69, "another program listens there"),
        ("fd:", 78, "no sockets were handed down"),
        ("pipe:/bin/true", 64, "a program is for --server"),
        ("smtp+quic://mx.example:443", 64, "0.0.0.0"),
    ] {
        let mut command = smtp(["serve", "--listen", url]);
        command.current_dir(folder.path());
        let ended: Run = run(command);
        assert_eq!(ended.code, Some(code), "{url}: {ended:?}");
        assert!(ended.stderr.contains(part), "{url}: {ended:?}");
    }
}
