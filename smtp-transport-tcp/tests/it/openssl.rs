//! Against another implementation of TLS, OpenSSL's command line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use smtp_core::stream::{Connector, Listener, Target, TlsMode};
use smtp_tls::{ClientCertificates, HandshakeError};
use smtp_transport_tcp::{TcpConnector, TcpListener, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Ca, Leaf, Stream, client, file, hear, listen, names, policy, server};

fn is_there() -> bool {
    let there = Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    if !there {
        println!("skipped: no openssl command here");
    }
    there
}

/// `openssl s_client` with `args`, which sends `NOOP` once TLS is up and leaves when the server does.
async fn s_client(listener: &TcpListener, args: &[&str]) -> Output {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &listener.local_addr().to_string(), "-servername", "localhost"]);
    command.args(["-quiet", "-crlf", "-no_ign_eof"]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"NOOP\n").unwrap();
        // Its end would make the program leave before it has read the answer.
        let output = child.wait_with_output().unwrap();
        drop(input);
        output
    })
    .await
    .unwrap()
}

/// The part of a session up to STARTTLS, if that is what the listener does; the stream under TLS afterwards.
async fn accept(listener: &TcpListener) -> std::io::Result<Stream> {
    let mut stream = listener.accept().await?.accept().await?.unwrap();
    if !stream.info().can_upgrade {
        return Ok(stream);
    }
    stream.write_all(b"220 mx.example ESMTP\r\n").await?;
    read_line(&mut stream).await;
    stream.write_all(b"250-mx.example\r\n250 STARTTLS\r\n").await?;
    assert_eq!(read_line(&mut stream).await, "STARTTLS\r\n");
    stream.write_all(b"220 go ahead\r\n").await?;
    stream.upgrade().await
}

async fn read_line(stream: &mut Stream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn s_client_talks_to_our_listener() {
    if !is_there() {
        return;
    }
    let ca = Ca::new();
    let ca_file = ca.file();
    let tls = server().identity(ca.issue(&names(&["localhost"])).identity()).build().unwrap();
    for (mode, listener) in [("starttls", listen(Tls::StartTls(tls.clone()))), ("implicit", listen(Tls::Implicit(tls)))]
    {
        for (version, flag) in [("TLSv1.2", "-tls1_2"), ("TLSv1.3", "-tls1_3")] {
            let mut args = vec![flag, "-verify_return_error", "-verify_hostname", "localhost", "-CAfile"];
            args.push(ca_file.path().to_str().unwrap());
            if mode == "starttls" {
                args.extend(["-starttls", "smtp"]);
            }
            let serve = async {
                let mut stream = accept(&listener).await.unwrap();
                let facts = stream.info().tls.unwrap();
                assert_eq!((facts.version, facts.sni.as_deref()), (version, Some("localhost")));
                assert_eq!(hear(&mut stream, 6).await, "NOOP\r\n");
                stream.write_all(b"250 done\r\n").await.unwrap();
                stream.shutdown().await.unwrap();
                // OpenSSL answers our close_notify with its own.
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            };
            let (output, ()) = tokio::join!(s_client(&listener, &args), serve);
            let heard = String::from_utf8_lossy(&output.stdout);
            let complaints = String::from_utf8_lossy(&output.stderr);
            assert!(heard.contains("250 done"), "{mode} {version}: {heard}\n{complaints}");
        }
    }
}

#[tokio::test]
async fn older_versions_are_refused_in_words() {
    if !is_there() {
        return;
    }
    let listener = listen(Tls::Implicit(server().identity(Leaf::new().identity()).build().unwrap()));
    let (output, stream) =
        tokio::join!(s_client(&listener, &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]), accept(&listener));
    let error = stream.err().unwrap().downcast::<HandshakeError>().unwrap();
    assert!(matches!(error, HandshakeError::NothingInCommon { .. }), "{error:?}");
    let complaints = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(complaints.contains("alert"), "{complaints}");
}

#[tokio::test]
async fn client_certificates_of_openssl_are_checked() {
    if !is_there() {
        return;
    }
    let ca = Ca::new();
    let ca_file = ca.file();
    let tls = server().identity(Leaf::new().identity()).client_ca(ca_file.path(), ClientCertificates::Required);
    let listener = listen(Tls::Implicit(tls.build().unwrap()));
    let known = ca.issue(&names(&["client.example"]));
    let (certificate, key) = (file(&known.certificate_pem), file(&known.key_pem()));
    let args = ["-cert", certificate.path().to_str().unwrap(), "-key", key.path().to_str().unwrap()];
    let serve = async {
        let mut stream = accept(&listener).await.unwrap();
        assert!(stream.info().tls.unwrap().verified);
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    tokio::join!(s_client(&listener, &args), serve);

    let (output, stream) = tokio::join!(s_client(&listener, &[]), accept(&listener));
    assert!(stream.is_err());
    let complaints = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(complaints.contains("certificate required"), "{complaints}");
}

/// A server of OpenSSL's, killed when dropped.
struct SServer {
    child: Child,
    port: u16,
}

impl SServer {
    fn start(leaf: &Leaf, flag: &str) -> Self {
        let both = file(&format!("{}{}", leaf.key_pem(), leaf.certificate_pem));
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-rev", flag, "-cert"])
            .arg(both.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // "ACCEPT 127.0.0.1:34567", once it has read the certificate.
        let output = BufReader::new(child.stdout.take().unwrap());
        let line = output.lines().map(Result::unwrap).find(|line| line.starts_with("ACCEPT")).unwrap();
        let port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
        Self { child, port }
    }
}

impl Drop for SServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn our_client_talks_to_s_server() {
    if !is_there() {
        return;
    }
    let ca = Ca::new();
    let connector = TcpConnector::new(client().ca_file(ca.file().path()).build().unwrap());
    let leaf = ca.issue(&names(&["mx.example"]));
    for (version, flag) in [("TLSv1.2", "-tls1_2"), ("TLSv1.3", "-tls1_3")] {
        let peer = SServer::start(&leaf, flag);
        let mut target = Target::host("[127.0.0.1]".parse().unwrap(), peer.port);
        target.server_name = Some("mx.example".parse().unwrap());
        let pkix = policy(TlsMode::Implicit, smtp_core::stream::Verification::Pkix);
        let mut stream = connector.connect(&target, &pkix).await.unwrap().open().await.unwrap();
        let facts = stream.info().tls.unwrap();
        assert_eq!((facts.version, facts.verified), (version, true));
        stream.write_all(b"abc\n").await.unwrap();
        // It says every line backwards.
        assert_eq!(hear(&mut stream, 4).await, "cba\n");
    }
}
