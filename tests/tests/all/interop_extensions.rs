//! Extensions that other people's programs have too, spoken with them.

use std::sync::Arc;
use std::time::Duration;

use smtp_client::{Connection, Options, SendOptions};
use smtp_core::driver::{Settings, serve};
use smtp_core::extension::{EnvelopeId, Notify, OriginalRecipient, Promises, Ret};
use smtp_core::service::{Body, Claim, Outcome};
use smtp_core::session::server::Config;
use smtp_core::stream::{Listener, Target, TlsPolicy};
use smtp_core::types::{Domain, Envelope, Host, Mail, Mailbox, Parameters, Rcpt};
use smtp_server::{Mailboxes, Recorder};
use smtp_tests::binary::Server;
use smtp_tests::peers::{ClientTls, Exim, EximOptions, Postfix, PostfixOptions, require};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener};

const PATIENCE: Duration = Duration::from_secs(30);

fn mailbox(text: &str) -> Mailbox {
    text.parse().unwrap()
}

fn envelope(from: &str, parameters: &str, recipients: &[(&str, &str)]) -> Envelope {
    let mail = Mail { parameters: Parameters::new(parameters).unwrap(), ..Mail::new(mailbox(from)) };
    let rcpt = |(to, parameters): &(&str, &str)| Rcpt {
        parameters: Parameters::new(parameters).unwrap(),
        ..Rcpt::new(mailbox(to))
    };
    Envelope { mail, recipients: recipients.iter().map(rcpt).collect() }
}

/// Sends a message in clear to a server on `port`; the keywords that it offered, and what became of it.
fn send(port: u16, envelope: &Envelope, content: &'static str) -> (Vec<String>, Outcome) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let target = Target::host(Host::Literal(std::net::IpAddr::from([127, 0, 0, 1]).into()), port);
        let options = Arc::new(Options::new(Domain::new("client.test").unwrap()));
        let connector = TcpConnector::without_tls();
        let mut connection = Connection::connect(&connector, &target, &TlsPolicy::NONE, options).await.unwrap();
        connection.hello().await.unwrap();
        let offered = connection.capabilities().iter().map(|(keyword, _)| keyword.to_owned()).collect();
        let outcome = connection.send(envelope, Body::from_bytes(content), &SendOptions::default()).await.unwrap();
        let _ = connection.quit().await;
        (offered, outcome)
    })
}

fn codes(outcome: &Outcome) -> Vec<u16> {
    let code = |claim: &Claim| match claim {
        Claim::Relayed(reply) => reply.reply().code().get(),
        other => panic!("{other:?}"),
    };
    outcome.iter().map(|r| r.as_ref().map_or_else(|no| no.reply().code().get(), |yes| code(yes.claim()))).collect()
}

const DSN: &str = "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first+2Blast@orig.test";

/// What a notice about success must quote.
fn assert_notice(notice: &str) {
    let lower = notice.to_ascii_lowercase();
    for part in ["action: delivered", "original-recipient: rfc822;", "first+last@orig.test", "qq314159"] {
        let xtext = part.replace("first+last", "first+2blast");
        assert!(lower.contains(part) || lower.contains(&xtext), "{part} is missing in {notice}");
    }
}

#[test]
fn postfix_tells_of_success_and_quotes_our_marks() {
    let Some(postfix) = require(Postfix::start(PostfixOptions::default())) else { return };
    let message = envelope("alice@postfix.test", "RET=HDRS ENVID=QQ314159", &[("bob@postfix.test", DSN)]);
    let (offered, outcome) = send(postfix.port(), &message, "Subject: dsn\r\n\r\nhi\r\n");
    assert!(offered.iter().any(|k| k == "DSN"), "{offered:?}");
    assert_eq!(codes(&outcome), [250]);
    let notices = postfix.wait_for_messages("alice", 1, PATIENCE).unwrap();
    assert_notice(&String::from_utf8_lossy(&notices[0]));
}

#[test]
fn exim_tells_of_success_and_quotes_our_marks() {
    let Some(exim) = require(Exim::start()) else { return };
    let message = envelope("alice@exim.test", "RET=HDRS ENVID=QQ314159", &[("bob@exim.test", DSN)]);
    let (offered, outcome) = send(exim.port(), &message, "Subject: dsn\r\n\r\nhi\r\n");
    assert!(offered.iter().any(|k| k == "DSN"), "{offered:?}");
    assert_eq!(codes(&outcome), [250]);
    let notices = exim.wait_for_messages("alice", 1, PATIENCE).unwrap();
    assert_notice(&String::from_utf8_lossy(&notices[0]));
}

#[test]
fn postfix_takes_internationalized_mail() {
    let Some(postfix) = require(Postfix::start(PostfixOptions::default())) else { return };
    let message = envelope("jörg@bücher.example", "SMTPUTF8", &[("alice@postfix.test", "")]);
    let (_, outcome) = send(postfix.port(), &message, "Subject: grüße\r\n\r\nhi\r\n");
    assert_eq!(codes(&outcome), [250]);
    let messages = postfix.wait_for_messages("alice", 1, PATIENCE).unwrap();
    let text = String::from_utf8_lossy(&messages[0]);
    assert!(text.contains("jörg@bücher.example") && text.contains("Subject: grüße"), "{text}");
}

#[test]
fn exim_answers_for_each_recipient_by_prdr() {
    let Some(exim) = require(Exim::start()) else { return };
    let message = envelope("a@client.test", "", &[("alice@exim.test", ""), ("bob@exim.test", "")]);
    let (offered, outcome) = send(exim.port(), &message, "X-Refuse: bob\r\nSubject: prdr\r\n\r\nhi\r\n");
    assert!(offered.iter().any(|k| k == "PRDR"), "{offered:?}");
    assert_eq!(codes(&outcome), [250, 550]);
    exim.wait_for_messages("alice", 1, PATIENCE).unwrap();
    assert!(exim.messages("bob").unwrap().is_empty());
}

#[test]
fn exim_asks_us_for_prdr_and_chunking() {
    let started =
        Server::start(&["--listen", "smtp://127.0.0.1:0", "--domain", "ours.test", "--hostname", "mx.ours.test"]);
    let Some(server) = require(started) else { return };
    let options = EximOptions { next_hop: Some(server.port(0)), tls: ClientTls::None, ..EximOptions::default() };
    let Some(exim) = require(Exim::start_with(options)) else { return };
    exim.inject("a@exim.test", &["alice@ours.test", "bob@ours.test"], b"Subject: prdr\n\nhi\n").unwrap();
    for user in ["alice", "bob"] {
        assert_eq!(server.wait_for_messages("ours.test", user, 1, PATIENCE).unwrap().len(), 1);
    }
    // Exim's log says what it used.
    let used =
        || exim.log().lines().filter(|line| line.contains("=> ") || line.contains("-> ")).any(|l| l.contains(" PRDR"));
    let deadline = std::time::Instant::now() + PATIENCE;
    while !used() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = exim.log();
    assert!(used() && log.contains(" K "), "{log}");
}

/// Postfix hands on what it was given, in the form of the RFC, to a server of ours that promises DSN.
#[test]
fn postfix_passes_dsn_on_to_us() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let recorder = Recorder::new();
    let listener = {
        let _inside = runtime.enter();
        TcpListener::bind(([127, 0, 0, 1], 0).into(), ListenOptions::default()).unwrap()
    };
    let port = listener.local_addr().port();
    let config = Config::new("mx.ours.test".parse().unwrap()).promising(Promises::of(&["8BITMIME", "DSN", "SMTPUTF8"]));
    let settings = Arc::new(Settings::new(config));
    let mailboxes = Mailboxes::new(&"ours.test".parse().unwrap()).unwrap();
    let delivery = recorder.clone();
    runtime.spawn(async move {
        loop {
            let Ok(mut connection) = listener.accept().await else { return };
            let (settings, mailboxes, delivery) = (Arc::clone(&settings), mailboxes.clone(), delivery.clone());
            tokio::spawn(async move {
                let Ok(Some(io)) = connection.accept().await else { return };
                let session = Arc::new(smtp_core::channel::SessionInfo::new(0, io.info()));
                let _ = serve(io, session, mailboxes, delivery, settings, Default::default()).await;
            });
        }
    });
    let options = PostfixOptions { next_hop: Some(port), tls: ClientTls::None, ..PostfixOptions::default() };
    let Some(postfix) = require(Postfix::start(options)) else { return };
    let message = envelope("alice@postfix.test", "RET=HDRS ENVID=QQ314159", &[("bob@ours.test", DSN)]);
    assert_eq!(codes(&send(postfix.port(), &message, "Subject: dsn\r\n\r\nhi\r\n").1), [250]);
    let messages = runtime.block_on(recorder.wait_for(1, PATIENCE)).unwrap_or_else(|_| panic!("{}", postfix.log()));
    let Envelope { mail, recipients } = &messages[0].envelope;
    assert_eq!(mail.parameters.get(), Some(Ret::Headers));
    assert_eq!(mail.parameters.get(), Some(EnvelopeId::new("QQ314159").unwrap()));
    let notify = Notify { success: true, failure: true, delay: false };
    assert_eq!(recipients[0].parameters.get(), Some(notify));
    let original = OriginalRecipient::new("rfc822", "first+last@orig.test").unwrap();
    assert_eq!(recipients[0].parameters.get(), Some(original));
}
