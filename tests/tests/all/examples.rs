//! The examples run, and the README shows the first of them as it is.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use smtp_tests::peers::{Skip, require, tools};
use tempfile::TempDir;

use crate::docs::root;

/// The example that `cargo test --workspace` has built beside this test.
fn example(name: &str) -> Result<PathBuf, Skip> {
    let binary = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name);
    if binary.exists() {
        Ok(binary)
    } else {
        Err(Skip(format!("{name} is not built; run cargo build -p smtp-examples")))
    }
}

/// A running example that listens; ended when it is dropped.
struct Listening {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Listening {
    fn start(name: &str, more: &[&str]) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(require(example(name))?);
        command.arg("127.0.0.1:0").args(more).current_dir(folder.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening smtp://").expect(&line).to_owned();
        Some(Self { child, address, folder })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the example `send` prints.
fn send(address: &str, to: &[&str]) -> Option<String> {
    let mut arguments = vec![address, "a@client.example"];
    arguments.extend(to);
    let output = Command::new(require(example("send"))?).args(arguments).output().unwrap();
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn hello_takes_mail_into_a_maildir() {
    let Some(hello) = Listening::start("hello", &[]) else { return };
    let Some(said) = send(&hello.address, &["you@localhost", "you@elsewhere.example"]) else { return };
    assert!(said.contains("<you@localhost> accepted: 250 2.0.0"), "{said}");
    assert!(said.contains("<you@elsewhere.example> refused: 550 5.7.1"), "{said}");
    let new = hello.folder.path().join("hello-mail/localhost/you/new");
    assert_eq!(std::fs::read_dir(new).unwrap().count(), 1);
}

#[test]
fn relay_passes_mail_on_and_says_what_the_next_hop_says() {
    let Some(hello) = Listening::start("hello", &[]) else { return };
    let Some(relay) = Listening::start("relay", &[&hello.address]) else { return };
    let arguments = ["--server", &relay.address, "--from", "a@client.example", "--to", "you@localhost"];
    let Some(output) = require(tools::swaks(arguments)) else { return };
    assert!(output.success(), "{output}");
    let new = hello.folder.path().join("hello-mail/localhost/you/new");
    let message = std::fs::read_dir(new).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::read_to_string(message).unwrap().contains("Received: from "));
    // The next hop is gone: nothing is accepted that cannot be passed on.
    drop(hello);
    let Some(said) = send(&relay.address, &["you@localhost"]) else { return };
    assert!(said.contains("refused: 451"), "{said}");
}

#[test]
fn layer_greylists_and_then_lets_through() {
    let Some(layer) = Listening::start("layer", &[]) else { return };
    let Some(said) = send(&layer.address, &["you@localhost"]) else { return };
    assert!(said.contains("refused: 450 4.7.1 greylisted"), "{said}");
    std::thread::sleep(std::time::Duration::from_millis(600));
    let Some(said) = send(&layer.address, &["you@localhost"]) else { return };
    assert!(said.contains("accepted: 250"), "{said}");
}

#[test]
fn delivery_prints_and_refuses() {
    let Some(delivery) = Listening::start("delivery", &[]) else { return };
    let Some(said) = send(&delivery.address, &["you@localhost"]) else { return };
    assert!(said.contains("accepted: 250 2.0.0 printed"), "{said}");
    let body = ["--server", &delivery.address, "--to", "you@localhost", "--from", "a@b.example", "--body", "EICAR"];
    let Some(output) = require(tools::swaks(body)) else { return };
    assert!(output.text().contains("554 5.7.1 we do not want this"), "{output}");
}

#[test]
fn in_memory_tests_a_program_without_a_socket() {
    let Some(binary) = require(example("in_memory")) else { return };
    let output = Command::new(binary).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"the hen was greeted\n");
}

#[test]
fn the_readme_shows_hello_as_it_is() {
    let hello = std::fs::read_to_string(root().join("examples/src/bin/hello.rs")).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let program = hello.split_once("\n\n").unwrap().1;
    assert!(readme.contains(program), "README.md should show:\n{program}");
    assert!(hello.lines().count() < 30);
}
