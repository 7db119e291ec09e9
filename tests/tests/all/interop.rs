//! Programs that other people wrote, against the binary that we ship: in, with each test client and Postfix's own, and
//! out, to Postfix and Exim.

use std::time::Duration;

use smtp_tests::binary::{self, Server};
use smtp_tests::peers::{ClientTls, Exim, Postfix, PostfixOptions, require, tools};

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts `smtp serve` for the domain `ours.test`, or skips the test.
fn serve(more: &[&str]) -> Option<Server> {
    let mut arguments = vec!["--listen", "smtp://127.0.0.1:0", "--domain", "ours.test", "--hostname", "mx.ours.test"];
    arguments.extend(more);
    require(Server::start(&arguments))
}

/// The one message of alice, as text.
fn only_message(server: &Server) -> String {
    let messages = server.wait_for_messages("ours.test", "alice", 1, PATIENCE).unwrap();
    assert_eq!(messages.len(), 1);
    String::from_utf8(messages[0].clone()).unwrap()
}

/// What every message in a Maildir has on top.
fn assert_trace(message: &str, with: &str) {
    let mut lines = message.lines();
    assert!(lines.next().unwrap().starts_with("Return-Path: <"), "{message}");
    assert!(lines.next().unwrap().starts_with("Delivered-To: alice@ours.test"), "{message}");
    assert!(lines.next().unwrap().starts_with("Received: from "), "{message}");
    assert!(message.contains(&format!("with {with} ")) || message.contains(&format!("with {with}\n")), "{message}");
    assert!(!message.contains('\r'), "{message}");
}

#[test]
fn swaks_in_clear_and_under_tls() {
    for (tls, with) in [(None, "ESMTP"), (Some("--tls"), "ESMTPS")] {
        let Some(server) = serve(&[]) else { return };
        let to = format!("127.0.0.1:{}", server.port(0));
        let mut arguments =
            vec!["--server", &to, "--from", "a@client.test", "--to", "alice@ours.test", "--body", ".dot\nlast"];
        arguments.extend(tls);
        let Some(output) = require(tools::swaks(arguments)) else { return };
        assert!(output.success(), "{output}");
        let message = only_message(&server);
        assert_trace(&message, with);
        assert!(message.contains("\n.dot\nlast\n"), "{message}");
    }
}

#[test]
fn swaks_is_refused_with_the_right_words() {
    let Some(server) = serve(&["--mailbox", "alice@ours.test"]) else { return };
    let to = format!("127.0.0.1:{}", server.port(0));
    for (recipient, words) in
        [("bob@ours.test", "550 5.1.1"), ("x@elsewhere.test", "550 5.7.1"), ("x%y.test@elsewhere.test", "550 5.7.1")]
    {
        let arguments = ["--server", &to, "--from", "a@client.test", "--to", recipient];
        let Some(output) = require(tools::swaks(arguments)) else { return };
        assert!(!output.success() && output.text().contains(words), "{output}");
    }
    let arguments = ["--server", &to, "--from", "a@client.test", "--to", "postmaster@ours.test"];
    let Some(output) = require(tools::swaks(arguments)) else { return };
    assert!(output.success(), "{output}");
}

#[test]
fn swaks_authenticates_under_tls_only() {
    let Some(server) = serve(&["--user", "alice:correct horse"]) else { return };
    let to = format!("127.0.0.1:{}", server.port(0));
    for (mechanism, password, tls, fine) in [
        ("PLAIN", "correct horse", true, true),
        ("LOGIN", "correct horse", true, true),
        ("PLAIN", "wrong", true, false),
        ("PLAIN", "correct horse", false, false),
    ] {
        let mut arguments = vec!["--server", &to, "--from", "alice@ours.test", "--to", "alice@ours.test"];
        arguments.extend(["--auth", mechanism, "--auth-user", "alice", "--auth-password", password]);
        arguments.extend(tls.then_some("--tls"));
        let Some(output) = require(tools::swaks(arguments)) else { return };
        assert_eq!(output.success(), fine, "{mechanism} {password} {tls}: {output}");
        assert_eq!(output.text().contains("235 2.7.0"), fine, "{output}");
    }
}

#[test]
fn curl_in_clear_and_under_tls() {
    let Some(server) = serve(&[]) else { return };
    let url = format!("smtp://127.0.0.1:{}/client.test", server.port(0));
    for (n, more) in [&[][..], &["--ssl-reqd", "--insecure"]].iter().enumerate() {
        let message = b"Subject: curl\r\n\r\n..\r\n.\r\nend\r\n";
        let Some(output) = require(tools::curl_smtp(&url, "a@client.test", &["alice@ours.test"], message, more)) else {
            return;
        };
        assert!(output.success(), "{output}");
        let messages = server.wait_for_messages("ours.test", "alice", n + 1, PATIENCE).unwrap();
        assert!(messages.iter().all(|m| m.ends_with(b"Subject: curl\n\n..\n.\nend\n")), "{messages:?}");
    }
}

#[test]
fn python_smtplib_reuses_a_connection_and_sees_each_refusal() {
    let Some(server) = serve(&["--mailbox", "alice@ours.test", "--mailbox", "bob@ours.test"]) else { return };
    let script = r"
import smtplib, ssl, sys
context = ssl._create_unverified_context()
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='client.test') as s:
    s.starttls(context=context)
    for i in range(3):
        refused = s.sendmail('a@client.test', ['alice@ours.test', 'nobody@ours.test', 'bob@ours.test'],
                             'Subject: %d\r\n\r\n.line\r\n' % i)
        assert list(refused) == ['nobody@ours.test'] and refused['nobody@ours.test'][0] == 550, refused
print('done')
";
    let Some(output) = require(tools::python(script, [server.port(0).to_string()])) else { return };
    assert!(output.success() && output.text().contains("done"), "{output}");
    for user in ["alice", "bob"] {
        let messages = server.wait_for_messages("ours.test", user, 3, PATIENCE).unwrap();
        assert_eq!(messages.len(), 3);
        assert!(messages.iter().all(|m| m.ends_with(b"\n\n.line\n")), "{messages:?}");
    }
}

#[test]
fn postfix_smtp_source_sends_a_load() {
    let Some(server) = serve(&[]) else { return };
    let to = format!("127.0.0.1:{}", server.port(0));
    for arguments in [&["-d"][..], &[]] {
        let mut all = vec!["-s", "10", "-m", "200", "-l", "10000", "-M", "client.test", "-f", "a@client.test"];
        all.extend(arguments);
        all.extend(["-t", "alice@ours.test", &to]);
        let Some(output) = require(tools::smtp_source(all)) else { return };
        assert!(output.success(), "{output}");
    }
    let messages = server.wait_for_messages("ours.test", "alice", 400, PATIENCE).unwrap();
    assert_eq!(messages.len(), 400);
    assert!(messages.iter().all(|m| m.len() > 10_000));
}

#[test]
fn postfix_sends_to_us_in_clear_and_under_tls() {
    for (tls, with) in [(ClientTls::None, "ESMTP"), (ClientTls::Encrypt, "ESMTPS")] {
        let Some(server) = serve(&[]) else { return };
        let options = PostfixOptions { next_hop: Some(server.port(0)), tls, ..PostfixOptions::default() };
        let Some(postfix) = require(Postfix::start(options)) else { return };
        let content = b"Subject: from Postfix\r\n\r\n.\r\n..\r\nend\r\n";
        postfix.inject("a@postfix.test", &["alice@ours.test"], content).unwrap();
        let message = only_message(&server);
        assert_trace(&message, with);
        assert!(message.ends_with("\n\n.\n..\nend\n"), "{message}");
        postfix.wait_for_empty_queue(PATIENCE).unwrap();
    }
}

/// `smtp send` to a server on `port`.
fn send(port: u16, more: &[&str]) -> Option<tools::Output> {
    let server = format!("smtp://127.0.0.1:{port}");
    let mut arguments = vec!["send", "--server", &server, "--from", "a@client.test", "--transcript"];
    arguments.extend(more);
    require(binary::run(&arguments))
}

#[test]
fn we_send_to_postfix_with_each_way_of_content_and_tls() {
    let Some(postfix) = require(Postfix::start(PostfixOptions::default())) else { return };
    let ca = postfix.certificate();
    let ca = ca.to_str().unwrap();
    for (n, more) in
        [&[][..], &["--no-chunking"], &["--no-pipelining"], &["--no-pipelining", "--no-chunking"], &["--insecure"]]
            .iter()
            .enumerate()
    {
        let mut arguments = vec!["--to", "alice@postfix.test", "--body", "..\n.\nend", "--header", "X-Test: yes"];
        arguments.extend(*more);
        let Some(output) = send(postfix.port(), &arguments) else { return };
        assert!(output.success(), "{more:?}: {output}");
        let messages = postfix.wait_for_messages("alice", n + 1, PATIENCE).unwrap();
        assert!(messages.iter().all(|m| m.ends_with(b"\n\n..\n.\nend\n")), "{more:?}: {messages:?}");
    }
    // The certificate is Postfix's own; its name is not 127.0.0.1's.
    let Some(output) = send(postfix.port(), &["--to", "alice@postfix.test", "--tls-ca", "/dev/null"]) else { return };
    assert!(!output.success(), "{output}");
    assert!(std::path::Path::new(ca).exists());
}

#[test]
fn postfix_refuses_one_of_three_and_the_others_get_it() {
    let Some(postfix) = require(Postfix::start(PostfixOptions::default())) else { return };
    let to = ["--to", "alice@postfix.test", "--to", "nobody@postfix.test", "--to", "bob@postfix.test"];
    for more in [&[][..], &["--no-pipelining"]] {
        let mut arguments = to.to_vec();
        arguments.extend(more);
        let Some(output) = send(postfix.port(), &arguments) else { return };
        assert_eq!(output.status.code(), Some(67), "{output}");
    }
    for user in ["alice", "bob"] {
        assert_eq!(postfix.wait_for_messages(user, 2, PATIENCE).unwrap().len(), 2);
    }
}

#[test]
fn we_send_to_exim_with_each_way_of_content() {
    let Some(exim) = require(Exim::start()) else { return };
    for (n, more) in [&[][..], &["--no-chunking"], &["--no-pipelining"]].iter().enumerate() {
        let mut arguments = vec!["--to", "alice@exim.test", "--body", "..\n.\nend"];
        arguments.extend(*more);
        let Some(output) = send(exim.port(), &arguments) else { return };
        assert!(output.success(), "{more:?}: {output}");
        let messages = exim.wait_for_messages("alice", n + 1, PATIENCE).unwrap();
        assert!(messages.iter().all(|m| m.ends_with(b"\n\n..\n.\nend\n")), "{more:?}: {messages:?}");
    }
}
