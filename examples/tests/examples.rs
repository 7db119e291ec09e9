//! The examples run, and the README shows the first of them as it is.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use smtp_core::channel::SessionInfo;
use smtp_core::driver;
use smtp_core::session::server::Config;
use smtp_core::stream::Listener;
use smtp_core::types::Domain;
use smtp_server::{Mailboxes, Recorder, Server, Settings};
use smtp_tests::peers::{require, tools};
use smtp_tls::{SelfSigned, ServerTls};
use smtp_transport_quic::{QuicListener, QuicOptions};
use tempfile::TempDir;

/// A running example that listens; ended when it is dropped.
struct Listening {
    child: Child,
    address: String,
    folder: TempDir,
    /// Kept open: a program whose output nobody takes fails when it prints.
    _output: BufReader<ChildStdout>,
}

impl Listening {
    fn start(program: &str, more: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(program);
        command.arg("127.0.0.1:0").args(more).current_dir(folder.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening smtp://").expect(&line).to_owned();
        Self { child, address, folder, _output: output }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the example `send` prints.
fn send(address: &str, to: &[&str]) -> String {
    let mut arguments = vec![address, "a@client.example"];
    arguments.extend(to);
    let output = Command::new(env!("CARGO_BIN_EXE_send")).args(arguments).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn hello_takes_mail_into_a_maildir() {
    let hello = Listening::start(env!("CARGO_BIN_EXE_hello"), &[]);
    let said = send(&hello.address, &["you@localhost", "you@elsewhere.example"]);
    assert!(said.contains("<you@localhost> accepted: 250 2.0.0"), "{said}");
    assert!(said.contains("<you@elsewhere.example> refused: 550 5.7.1"), "{said}");
    let new = hello.folder.path().join("hello-mail/localhost/you/new");
    assert_eq!(std::fs::read_dir(new).unwrap().count(), 1);
}

#[test]
fn relay_passes_mail_on_and_says_what_the_next_hop_says() {
    let hello = Listening::start(env!("CARGO_BIN_EXE_hello"), &[]);
    let relay = Listening::start(env!("CARGO_BIN_EXE_relay"), &[&hello.address]);
    let arguments = ["--server", &relay.address, "--from", "a@client.example", "--to", "you@localhost"];
    let Some(output) = require(tools::swaks(arguments)) else { return };
    assert!(output.success(), "{output}");
    let new = hello.folder.path().join("hello-mail/localhost/you/new");
    let message = std::fs::read_dir(new).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::read_to_string(message).unwrap().contains("Received: from "));
    // The next hop is gone: nothing is accepted that cannot be passed on.
    drop(hello);
    let said = send(&relay.address, &["you@localhost"]);
    assert!(said.contains("refused: 451"), "{said}");
}

#[test]
fn layer_greylists_and_then_lets_through() {
    let layer = Listening::start(env!("CARGO_BIN_EXE_layer"), &[]);
    let said = send(&layer.address, &["you@localhost"]);
    assert!(said.contains("refused: 450 4.7.1 greylisted"), "{said}");
    std::thread::sleep(std::time::Duration::from_millis(600));
    let said = send(&layer.address, &["you@localhost"]);
    assert!(said.contains("accepted: 250"), "{said}");
}

#[test]
fn delivery_prints_and_refuses() {
    let delivery = Listening::start(env!("CARGO_BIN_EXE_delivery"), &[]);
    let said = send(&delivery.address, &["you@localhost"]);
    assert!(said.contains("accepted: 250 2.0.0 printed"), "{said}");
    let body = ["--server", &delivery.address, "--to", "you@localhost", "--from", "a@b.example", "--body", "EICAR"];
    let Some(output) = require(tools::swaks(body)) else { return };
    assert!(output.text().contains("554 5.7.1 we do not want this"), "{output}");
}

#[test]
fn in_memory_tests_a_program_without_a_socket() {
    let output = Command::new(env!("CARGO_BIN_EXE_in_memory")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"the hen was greeted\n");
}

#[test]
fn lettre_sends_over_quic() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let keys = TempDir::new().unwrap();
    let own = SelfSigned::load_or_create(keys.path(), &["localhost"]).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let tls = ServerTls::builder().provider(provider).identity(own.identity()).build().unwrap();
    let recorder = Recorder::new();
    let (url, server) = {
        let _inside = runtime.enter();
        let listener = QuicListener::bind("127.0.0.1:0".parse().unwrap(), &tls, QuicOptions::default()).unwrap();
        let (domain, delivery): (Domain, _) = ("ours.test".parse().unwrap(), recorder.clone());
        let mailboxes = Mailboxes::new(&domain).unwrap();
        let settings = Settings::new(driver::Settings::new(Config::new(domain).promising(Recorder::PROMISES)));
        let server = Server::new(settings, move |_: &Arc<SessionInfo>| (mailboxes.clone(), delivery.clone()));
        (listener.url(), server.listen(listener))
    };
    runtime.spawn(server.run(Default::default()));
    let port = url.rsplit(':').next().unwrap();
    let send = |pin: &str, to: &str| {
        let arguments = ["127.0.0.1", port, pin, "me@client.test", to];
        Command::new(env!("CARGO_BIN_EXE_lettre_quic")).args(arguments).output().unwrap()
    };
    let output = send(&own.pin().to_string(), "you@ours.test");
    assert_eq!(output.stdout, b"sent to 1\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        recorder.messages()[0].content.ends_with(b"from lettre\r\n")
            || recorder.messages()[0].content.ends_with(b"from lettre")
    );
    assert_eq!(recorder.messages()[0].session.channel.transport, "quic");
    let output = send(&own.pin().to_string(), "you@elsewhere.test");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("550"));
}

#[test]
fn extension_is_known_to_both_sides() {
    let output = Command::new(env!("CARGO_BIN_EXE_extension")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said,
        "offered: XCOLOUR RED GREEN\nXPAINT:  250 painting it blue\nkept:    Some(Red)\n\
         blue:    501 5.5.4 XCOLOUR: RED or GREEN\n"
    );
}

#[test]
fn the_readme_shows_hello_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let hello = std::fs::read_to_string(root.join("examples/src/bin/hello.rs")).unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let program = hello.split_once("\n\n").unwrap().1;
    assert!(readme.contains(program), "README.md should show:\n{program}");
    assert!(hello.lines().count() < 30);
}
