//! Our client against the reference server, over every transport: what each extension is to it arrives.

use std::sync::Arc;

use smtp_client::sasl::Credentials;
use smtp_client::{Connection, Error, Options, SendOptions, Transfer};
use smtp_core::channel::ChannelInfo;
use smtp_core::extension::{Attribute, Forwarded};
use smtp_core::service::{Body, Outcome};
use smtp_core::stream::{TlsMode, TlsPolicy};
use smtp_core::types::{Domain, Envelope, ForwardPath, Mail, Mailbox, Parameters, Rcpt};
use smtp_server::delivery::Recorded;
use smtp_tests::scenarios::reference_stack;

use super::Transport;

/// For each row of the table of extensions, by its name: what the client does with it.
pub(crate) const CASES: [(&str, Case); 30] = [
    ("PIPELINING", Case::Refused),
    ("SIZE", Case::Mail("SIZE=4")),
    ("STARTTLS", Case::StartTls),
    ("AUTH", Case::Auth),
    ("ENHANCEDSTATUSCODES", Case::Refused),
    ("8BITMIME", Case::Mail("BODY=8BITMIME")),
    ("SMTPUTF8", Case::Mail("SMTPUTF8")),
    ("CHUNKING", Case::Chunks),
    ("BINARYMIME", Case::Mail("BODY=BINARYMIME")),
    ("DSN", Case::Both("RET=HDRS ENVID=QQ314159", "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob@Example.COM")),
    ("DELIVERBY", Case::Mail("BY=60;R")),
    ("MT-PRIORITY", Case::Mail("MT-PRIORITY=-3")),
    ("FUTURERELEASE", Case::Mail("HOLDFOR=60")),
    ("REQUIRETLS", Case::RequireTls),
    ("RRVS", Case::Both("", "RRVS=2014-04-03T23:01:00Z")),
    ("NO-SOLICITING", Case::Mail("SOLICIT=net.example:NEWS")),
    ("LIMITS", Case::Limits),
    ("PRDR", Case::Prdr),
    ("ETRN", Case::Verb("ETRN", "here.example", 253)),
    ("VRFY", Case::Verb("VRFY", "alice", 252)),
    ("EXPN", Case::Verb("EXPN", "staff", 550)),
    ("HELP", Case::Verb("HELP", "", 214)),
    // Nobody promises these: the client does without, or hears that there is no such verb.
    ("BURL", Case::Verb("BURL", "imap://x/y LAST", 502)),
    ("CHECKPOINT", Case::Without("TRANSID=<1@x>", "")),
    ("MTRK", Case::Without("MTRK=abc", "")),
    ("CONPERM", Case::Without("CONPERM", "")),
    ("CONNEG", Case::Without("", "CONNEG")),
    ("XCLIENT", Case::XClient),
    ("XFORWARD", Case::XForward),
    ("(one's own)", Case::Mail("XCOLOUR=RED")),
];

/// What is done and looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Case {
    /// These parameters of MAIL arrive.
    Mail(&'static str),
    /// These of MAIL and of RCPT arrive.
    Both(&'static str, &'static str),
    /// These are left out.
    Without(&'static str, &'static str),
    /// A verb and its arguments get this reply.
    Verb(&'static str, &'static str, u16),
    /// One recipient of three is refused, with a code that tells why; the others get the message.
    Refused,
    /// TLS is up where STARTTLS is there.
    StartTls,
    /// The server knows who it is.
    Auth,
    /// The content goes in chunks.
    Chunks,
    /// It arrives where TLS is verified, and is sent nowhere else.
    RequireTls,
    /// More recipients than one transaction has.
    Limits,
    /// Each recipient has its own answer.
    Prdr,
    /// The server takes somebody else for its peer, where it lets us say so.
    XClient,
    /// The server notes somebody else, where it lets us say so.
    XForward,
}

/// A fault that is known and not mended yet.
const NO_BINDING: &str = "a server's session that began with early data keeps the facts from before the handshake, which \
                          have no channel binding, so that SCRAM-SHA-256-PLUS, which the client takes, gets 504 5.5.4";

fn envelope(mail: &str, rcpt: &str, names: &[&str]) -> Envelope {
    let from: Mailbox = "from@client.example".parse().unwrap();
    let mail = Mail { parameters: Parameters::new(mail).unwrap(), ..Mail::new(from) };
    let to = |name: &&str| {
        let mailbox: Mailbox = format!("{name}@here.example").parse().unwrap();
        Rcpt { parameters: Parameters::new(rcpt).unwrap(), ..Rcpt::new(ForwardPath::from(mailbox)) }
    };
    Envelope { mail, recipients: names.iter().map(to).collect() }
}

async fn send(connection: &mut Connection, envelope: &Envelope, content: &str, transfer: Transfer) -> Outcome {
    let options = SendOptions { transfer, ..SendOptions::default() };
    connection.send(envelope, Body::from_bytes(content.to_owned()), &options).await.unwrap()
}

fn results(outcome: &Outcome) -> Vec<String> {
    let text = |result: &Result<smtp_core::service::Receipt, smtp_core::types::Refusal>| match result {
        Ok(receipt) => format!("{:?}", receipt.claim()),
        Err(refusal) => refusal.to_string(),
    };
    outcome.iter().map(text).collect()
}

/// Plays one case over one transport; gives false if there is nothing to see there.
pub(super) async fn play(transport: &Arc<Transport>, keyword: &str, case: Case) -> Result<bool, String> {
    if matches!(case, Case::Auth) && transport.early.is_some() {
        println!("{}: AUTH left out: {NO_BINDING}", transport.name);
        return Ok(false);
    }
    let reference = reference_stack();
    let (serving, stack) = (Arc::clone(transport), reference.clone());
    let session = tokio::spawn(async move {
        let (stream, connection) = serving.server().await?;
        let result = stack.serve(stream).await;
        drop(connection);
        result
    });
    let (stream, kept) = transport.client().await.map_err(|error| error.to_string())?;
    let offered = transport.policy.mode == TlsMode::Required && !transport.upgraded;
    let policy = if offered { transport.policy.clone() } else { TlsPolicy::NONE };
    let options = Arc::new(Options::new(Domain::new("client.example").unwrap()));
    let mut connection = Connection::over(stream, &policy, options).await.map_err(|error| error.to_string())?;
    connection.hello().await.map_err(|error| error.to_string())?;
    let channel = connection.info().clone();
    let seen = match do_it(&mut connection, &channel, case).await {
        Ok(applies) => applies && check(case, &reference.recorded(), &channel)?,
        Err(error) => return Err(format!("{}: {keyword}: {error}", transport.name)),
    };
    connection.quit().await.map_err(|error| format!("{}: {keyword}: QUIT: {error}", transport.name))?;
    drop(connection);
    drop(kept);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), session).await;
    ended
        .map_err(|_| format!("{}: {keyword}: the session did not end", transport.name))?
        .map_err(|e| e.to_string())
        .map(|_| seen)
}

/// The client's side; false if it does not apply on this channel.
async fn do_it(connection: &mut Connection, channel: &ChannelInfo, case: Case) -> Result<bool, Error> {
    let client = "ADDR=198.51.100.7 PORT=4711 HELO=c.example";
    match case {
        Case::Mail(mail) => {
            let outcome = send(connection, &envelope(mail, "", &["alice"]), "hi\r\n", Transfer::Auto).await;
            assert!(outcome.single().is_ok(), "{case:?}: {:?}", results(&outcome));
        }
        Case::Both(mail, rcpt) | Case::Without(mail, rcpt) => {
            let outcome = send(connection, &envelope(mail, rcpt, &["alice"]), "hi\r\n", Transfer::Auto).await;
            assert!(outcome.single().is_ok(), "{case:?}: {:?}", results(&outcome));
        }
        Case::Verb(verb, arguments, code) => {
            let said = match verb {
                "HELP" => connection.help(None).await,
                "VRFY" => connection.vrfy(arguments).await,
                "EXPN" => connection.expn(arguments).await,
                _ => connection.verb(verb, arguments).await,
            };
            let reply = match said {
                Err(Error::Refused { reply, .. }) => reply,
                other => other?,
            };
            assert_eq!(reply.code().get(), code, "{reply}");
        }
        Case::Refused => {
            assert!(connection.offers("PIPELINING") && connection.offers("ENHANCEDSTATUSCODES"));
            let message = envelope("", "", &["alice", "nobody", "bob"]);
            let outcome = send(connection, &message, "hi\r\n", Transfer::Auto).await;
            let told: Vec<_> = outcome.iter().collect();
            assert!(told[0].is_ok() && told[2].is_ok(), "{:?}", results(&outcome));
            let refusal = told[1].as_ref().unwrap_err();
            assert_eq!(refusal.reply().enhanced().map(|code| code.to_string()).as_deref(), Some("5.1.1"));
        }
        Case::StartTls => {
            assert!(!connection.offers("STARTTLS"), "not inside TLS, and not where there is none");
            return Ok(channel.transport == "tcp" && channel.tls.is_some());
        }
        Case::Auth => {
            connection.auth(&Credentials::new("user", "pass").unwrap()).await?;
            send(connection, &envelope("", "", &["alice"]), "hi\r\n", Transfer::Auto).await;
        }
        Case::Chunks => {
            let outcome = send(connection, &envelope("", "", &["alice"]), ".\r\nhi\r\n", Transfer::Chunks).await;
            assert!(outcome.single().is_ok(), "{:?}", results(&outcome));
        }
        Case::RequireTls => {
            let message = envelope("REQUIRETLS", "", &["alice"]);
            let outcome = send(connection, &message, "hi\r\n", Transfer::Auto).await;
            let verified = channel.tls.as_ref().is_some_and(|tls| tls.verified);
            assert_eq!(outcome.single().is_ok(), verified, "{:?}", results(&outcome));
            return Ok(verified);
        }
        Case::Limits => {
            let message = envelope("", "", &["alice", "bob", "alice", "bob", "alice", "bob", "alice"]);
            let outcome = send(connection, &message, "hi\r\n", Transfer::Auto).await;
            assert!(outcome.iter().all(Result::is_ok), "{:?}", results(&outcome));
        }
        Case::Prdr => {
            let message = envelope("", "", &["alice", "bob"]);
            let outcome = send(connection, &message, "X-Refuse: bob\r\n\r\nhi\r\n", Transfer::Auto).await;
            let told: Vec<_> = outcome.iter().map(Result::is_ok).collect();
            assert_eq!(told, [true, false], "{:?}", results(&outcome));
        }
        Case::XClient => {
            let done = connection.xclient(&Forwarded::xclient(client).unwrap()).await?;
            let may = channel.transport == "tcp" && !channel.client_speaks_first;
            assert!(done.is_some() || !may, "XCLIENT over {}", channel.transport);
            send(connection, &envelope("", "", &["alice"]), "hi\r\n", Transfer::Auto).await;
            return Ok(done.is_some());
        }
        Case::XForward => {
            let done = connection.xforward(&Forwarded::xforward(client).unwrap()).await?;
            assert!(done || !matches!(channel.transport, "tcp" | "quic"), "XFORWARD over {}", channel.transport);
            send(connection, &envelope("", "", &["alice"]), "hi\r\n", Transfer::Auto).await;
            return Ok(done);
        }
    }
    Ok(true)
}

/// What the server has to have got.
fn check(case: Case, got: &[Recorded], channel: &ChannelInfo) -> Result<bool, String> {
    let first = || got.first().ok_or_else(|| format!("{case:?}: nothing arrived"));
    let has = |wanted: &str, parameters: &Parameters| {
        let wanted = Parameters::new(wanted).unwrap();
        wanted.iter().all(|(keyword, value)| parameters.value(keyword) == Some(value))
    };
    let fits = match case {
        Case::Mail(mail) => has(mail, &first()?.envelope.mail.parameters),
        Case::Both(mail, rcpt) => {
            let envelope = &first()?.envelope;
            has(mail, &envelope.mail.parameters) && has(rcpt, &envelope.recipients[0].parameters)
        }
        Case::Without(mail, rcpt) => {
            let envelope = &first()?.envelope;
            let keyword = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
            let (mail, rcpt) = (keyword(mail), keyword(rcpt));
            envelope.mail.parameters.value(&mail).is_none() && envelope.recipients[0].parameters.value(&rcpt).is_none()
        }
        Case::Verb(..) | Case::StartTls => got.is_empty(),
        Case::Refused => first()?.envelope.recipients.len() == 2,
        Case::Auth => first()?.session.user() == Some("user"),
        Case::Chunks => first()?.content == ".\r\nhi\r\n",
        Case::RequireTls => has("REQUIRETLS", &first()?.envelope.mail.parameters),
        Case::Limits => got.iter().map(|message| message.envelope.recipients.len()).collect::<Vec<_>>() == [5, 2],
        Case::Prdr => first()?.envelope.mail.parameters.value("PRDR").is_some(),
        Case::XClient => first()?.session.channel.peer.to_string() == "198.51.100.7:4711",
        Case::XForward => {
            let client = first()?.session.client.as_ref();
            client.and_then(|client| client.value(Attribute::Addr)) == Some("198.51.100.7")
        }
    };
    if fits { Ok(true) } else { Err(format!("{case:?} over {}: {got:?}", channel.transport)) }
}
