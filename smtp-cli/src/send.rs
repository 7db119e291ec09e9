//! `smtp send`: one message to one server, and everything there is to see of it.

mod envelope;
mod message;
mod recorder;
mod report;
mod run;
mod verdict;

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use serde::Deserialize;
use smtp_core::types::{EhloName, Invalid, Mailbox, ReversePath};

use crate::connect::TlsArguments;
use crate::credentials::LoginArguments;
use crate::settings::layered;
use crate::transport::EarlyDataChoice;
use crate::url::Url;
use crate::values::{self, Many, Wait};

pub(crate) use message::Header;
pub(crate) use run::run;
pub(crate) use verdict::failure_of;

/// How far a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// The greeting.
    Connect,
    /// The first EHLO.
    Ehlo,
    /// TLS, where the policy wants it, and EHLO inside.
    Starttls,
    /// Authentication, if there is one.
    Auth,
    /// MAIL.
    Mail,
    /// Every RCPT.
    Rcpt,
    /// The whole message.
    Data,
}

/// Who sends: a mailbox, in angle brackets or without, or `<>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sender(ReversePath);

impl Sender {
    /// The path it is.
    #[cfg(feature = "bench")]
    pub(crate) fn into_path(self) -> ReversePath {
        self.0
    }
}

impl FromStr for Sender {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with('<') {
            text.parse().map(Self)
        } else {
            Mailbox::new(text).map(|mailbox| Self(mailbox.into()))
        }
    }
}

/// Sends a message and shows what the server says to it.
///
/// Without --data a small message is made of --header and --body. What happened is told for each recipient, and by
/// the exit code.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Arguments {
    /// The server: smtp://host:port with ?tls=required, opportunistic or none, smtps://host:port, smtp+quic://host:port,
    /// smtp+unix:///path, or pipe:program.
    ///
    /// The ports are 25 and 465 if none is named; QUIC has no usual one. smtp:// without a parameter uses STARTTLS if it
    /// is offered and does not verify the certificate. It is verified with ?tls=required, smtps://, smtp+quic://,
    /// --tls-ca, --pin, and when authenticating. smtp+ws:// and smtp+wss:// are WebSockets; pipe:/usr/bin/ssh host
    /// smtpd -bs talks to a program. smtp+quic://host:port?service=submission is for mail from its author. ?source=ADDRESS
    /// is the address of this machine to connect from.
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "values::parsed")]
    server: Option<Url>,

    /// The envelope's sender; `<>` for none.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::parsed")]
    from: Option<Sender>,

    /// A recipient; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::list")]
    to: Vec<Many<Mailbox>>,

    /// The message, header and all, from a file; `-` for standard input. Line ends become CRLF.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,

    /// A header field, `Name: value`; may be repeated. Takes the place of one with the same name.
    #[arg(long, value_name = "NAME:VALUE")]
    #[serde(deserialize_with = "values::list")]
    header: Vec<Header>,

    /// The text of the message.
    #[arg(long, value_name = "TEXT", conflicts_with = "data")]
    body: Option<String>,

    #[command(flatten)]
    #[serde(skip)]
    login: LoginArguments,

    #[command(flatten)]
    #[serde(skip)]
    tls: TlsArguments,

    /// Write a qlog file of a QUIC connection into this folder.
    #[arg(long, value_name = "DIR")]
    qlog_dir: Option<PathBuf>,

    /// Over QUIC, whether the message may leave before the handshake is complete. With gated a first connection is made
    /// for a ticket, and the message goes over a second one.
    #[arg(long, value_name = "CHOICE", value_enum)]
    early_data: Option<EarlyDataChoice>,

    /// The name to greet with. Default: this machine's full name, or its address.
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "values::parsed")]
    helo: Option<EhloName>,

    /// How long each step may take, in seconds. Default: what RFC 5321 §4.5.3.2 grants a server, 2 to 10 minutes; 30
    /// seconds to connect.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<Wait>,

    /// Wait for each reply before the next command; over QUIC too, where the whole session is one flight otherwise.
    #[arg(long)]
    no_pipelining: bool,

    /// Send the content with DATA, even if the server offers CHUNKING.
    #[arg(long)]
    no_chunking: bool,

    /// Stop after this stage and QUIT.
    #[arg(long, value_name = "STAGE", value_enum)]
    quit_after: Option<Stage>,

    /// Show the whole session.
    #[arg(long)]
    transcript: bool,

    /// Report in JSON on standard output; a transcript goes to standard error then.
    #[arg(long)]
    json: bool,

    /// Read options from this TOML file; its keys are their names.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

layered!(Arguments {
    server,
    from,
    to,
    data,
    header,
    body,
    qlog_dir,
    early_data,
    helo,
    timeout,
    no_pipelining,
    no_chunking,
    quit_after,
    transcript,
    json,
} with { login, tls } except {});

/// What stands below the options in `smtp send --help`.
pub(crate) const MORE_HELP: &str = "\
Examples:
  smtp send --server smtp://127.0.0.1:2525 --from me@example.org --to you@localhost
  smtp send --server smtps://mail.example.org --user me --password-file pw --from … --to …
  smtp send --server smtp+quic://127.0.0.1:2525 --tls-ca smtp-data/tls/certificate.pem --from … --to …
  smtp send --server 'smtp://mx.example.org?tls=required' --quit-after starttls --transcript

In a transcript -> is sent and <- received; ~> and <~ are the same under TLS; * is what happens below SMTP. Secrets are \
not shown.

JSON (--json) is one object:
  server      the URL
  result      success, temporary, refused, message, unavailable, protocol, policy,
              config, usage
  exit        the exit code
  from        the sender
  recipients  [{to, status, code, enhanced, text, stage}]
              status: accepted, temporary, refused, unsent; stage: mail, rcpt, data, local
              code, enhanced and text are null without a reply
  steps       [{step, ms}], in order
  peer        whom the connection went to, or null
  tls         {version, cipher, group, alpn, verified, resumed, pin}, or null
  octets      the size of the message
  error       {step, class, text, help}, or null
              class: as result; step: setup, if there was no session";
