//! `smtp sendmail`: what cron, git and PHP call to hand in mail, with the options that they use.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mail_parser::{HeaderName, HeaderValue, MessageParser};
use smtp_client::{Client, Options, Settings};
use smtp_core::channel::SessionInfo;
use smtp_core::extension::{EnvelopeId, Notify, Ret};
use smtp_core::service::{Body, Transaction, reply_for};
use smtp_core::stream::{Address, Target, TlsPolicy};
use smtp_core::types::{EhloName, Envelope, ForwardPath, Mail, Mailbox, Parameter, Parameters, Rcpt, ReversePath};
use smtp_core::wire::canonical;
use smtp_transport_unix::UnixConnector;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tower::ServiceExt;

use crate::exit::{Exit, Failure, say};
use crate::{admin, serve};

/// The largest message that is read: 100 MiB. The server says how much it takes.
const MESSAGE_MAX: u64 = 100 << 20;

/// Where it looks for a server by itself: cron and PHP name none.
const SOCKET: &str = "/run/smtp/sendmail.sock";

/// Hands a message on standard input to the queue of a running `smtp serve`, as sendmail(8) does.
///
/// A program that is called `sendmail` and is this one does the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Take recipients from To, Cc and Bcc too.
    #[arg(short = 't')]
    from_header: bool,

    /// A line with a dot alone does not end the message.
    #[arg(short = 'i')]
    ignore_dots: bool,

    /// Who sends it: the address that bounces go to; <> for nobody. Default: this user at this host.
    #[arg(short = 'f', short_alias = 'r', value_name = "ADDRESS", allow_hyphen_values = true)]
    sender: Option<String>,

    /// The sender's full name, for a message without From.
    #[arg(short = 'F', value_name = "NAME", allow_hyphen_values = true)]
    full_name: Option<String>,

    /// `-bm` is what it does anyway; with `-bs` it takes SMTP on standard input, and answers on standard output.
    #[arg(short = 'b', value_name = "MODE")]
    mode: Option<String>,

    /// What the sender wants to be told: never, or any of success, failure, delay (RFC 3461). Default: failure and delay.
    #[arg(short = 'N', value_name = "WHEN")]
    notify: Option<String>,

    /// How much of the message comes with what the sender is told: full or hdrs.
    #[arg(short = 'R', value_name = "WHAT")]
    ret: Option<String>,

    /// An id of the sender's for the message, which comes with what the sender is told.
    #[arg(short = 'V', value_name = "ID")]
    envid: Option<String>,

    /// Change nothing: what a message is made of is looked for in it, and there is nothing to tell.
    #[arg(short = 'B', value_name = "TYPE")]
    body: Vec<String>,

    /// Changes nothing.
    #[arg(short = 'L', value_name = "TAG")]
    tag: Vec<String>,

    /// Changes nothing.
    #[arg(short = 'O', value_name = "OPTION=VALUE", allow_hyphen_values = true)]
    long_option: Vec<String>,

    /// Changes nothing, nor do -G, -m, -n and -U.
    #[arg(short = 'v', short_aliases = ['G', 'm', 'n', 'U'], action = clap::ArgAction::Count)]
    verbose: u8,

    /// `-oi` is `-i`; the others change nothing.
    #[arg(short = 'o', value_name = "OPTION", allow_hyphen_values = true)]
    option: Vec<String>,

    /// Recipients. Behind `--` nothing is an option.
    #[arg(value_name = "ADDRESS")]
    recipients: Vec<String>,

    /// The server's socket. Default: that in its data folder, if --data-dir or --config names one; else
    /// /run/smtp/sendmail.sock, if it is there; else that in ./smtp-data.
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,

    /// The server's data folder.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// The server's configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// What stands behind the @ of addresses that have none. Default: the system's full name, or localhost.
    #[arg(long, value_name = "DOMAIN")]
    hostname: Option<String>,
}

/// What stands below the options in `smtp sendmail --help`.
pub(crate) const MORE_HELP: &str = "\
cron, git and PHP call it without naming a server: it is found at /run/smtp/sendmail.sock, where `smtp serve \
--sendmail-socket /run/smtp/sendmail.sock` takes mail of all users of this machine; root makes the link \
`ln -s /usr/local/bin/smtp /usr/sbin/sendmail`.

The message's Bcc fields are removed. What is handed in is on disk when it ends with 0; 75 means that trying again may \
help, 67 that an address was refused.

Examples:
  printf 'To: jo@example.org\\nSubject: hello\\n\\nhi\\n' | smtp sendmail -t -i
  SMTP_SENDMAIL_DATA_DIR=/var/lib/smtp sendmail -f me@example.org -- jo@example.org <message";

/// The command line with the subcommand in it, if the program was called by the name `sendmail`.
pub(crate) fn by_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == "sendmail") {
        arguments.insert(1, "sendmail".into());
    }
    arguments
}

/// Runs `smtp sendmail`.
///
/// # Errors
/// If the message was not taken for all of its recipients.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    match arguments.mode.as_deref() {
        None | Some("m") => {}
        Some("s") => return speak(&socket(&arguments)?).await,
        Some(mode) => {
            let what = format!("-b{mode} is not done here");
            return Err(Failure::usage(what).help("leave it out; `smtp queue list` is -bp"));
        }
    }
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(MESSAGE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| Failure::new(Exit::Io, format!("cannot read the message: {error}")))?;
    if text.len() as u64 > MESSAGE_MAX {
        return Err(Failure::new(Exit::Data, format!("the message has more than {MESSAGE_MAX} octets")));
    }
    let ignore_dots = arguments.ignore_dots || arguments.option.iter().any(|option| option == "i");
    let letter = Letter::new(&arguments, &text, ignore_dots, &Own::find(arguments.hostname.as_deref()))?;
    hand_in(letter, socket(&arguments)?).await
}

/// Where the server is.
fn socket(arguments: &Arguments) -> Result<PathBuf, Failure> {
    if let Some(socket) = &arguments.socket {
        return Ok(socket.clone());
    }
    let (data_dir, config) = (arguments.data_dir.as_deref(), arguments.config.as_deref());
    if data_dir.is_none() && config.is_none() && Path::new(SOCKET).exists() {
        return Ok(SOCKET.into());
    }
    Ok(admin::submission_socket(&serve::data_dir(data_dir, config)?))
}

/// A session by hand: what is said here is said there, and the other way round.
async fn speak(socket: &Path) -> Result<Exit, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| not_there(Exit::Temporary, socket, &error))?;
    let mut here = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
    let (mut from, mut to) = stream.into_split();
    let (mut input, mut output) = tokio::io::split(&mut here);
    let ask = async {
        tokio::io::copy(&mut input, &mut to).await?;
        to.shutdown().await
    };
    let hear = async {
        tokio::io::copy(&mut from, &mut output).await?;
        output.flush().await
    };
    // The server ends it: after QUIT, or when there is no more to come.
    tokio::pin!(hear);
    let ended = tokio::select! {
        ended = &mut hear => ended,
        asked = ask => match asked {
            Ok(()) => hear.await,
            Err(error) => Err(error),
        },
    };
    ended.map(|()| Exit::Success).map_err(|error| Failure::new(Exit::Temporary, format!("the session broke: {error}")))
}

fn not_there(exit: Exit, socket: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(exit, format!("the message was not handed in at {}: {error}", socket.display())).help(
        "the server there needs a queue; in its data folder (--data-dir DIR) its user and root may hand in mail, and \
         everybody at its --sendmail-socket",
    )
}

/// Who and where this process is.
struct Own {
    user: String,
    host: String,
}

impl Own {
    fn find(host: Option<&str>) -> Self {
        let uid = nix::unistd::getuid();
        let name = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
        let user = name.unwrap_or_else(|| format!("uid{uid}"));
        let system = || crate::connect::host_name().filter(|name| name.contains('.'));
        let host = host.map(str::to_owned).or_else(system).unwrap_or_else(|| "localhost".into());
        Self { user, host }
    }

    /// The address, with the host behind one that has none.
    fn mailbox(&self, text: &str) -> Result<Mailbox, Failure> {
        let text = text.trim();
        let text = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
        let whole = if text.contains('@') { text.to_owned() } else { format!("{text}@{}", self.host) };
        Mailbox::new(&whole)
            .map_err(|error| Failure::new(Exit::Refused, format!("{text:?} is not an address: {error}")))
    }
}

/// An envelope and what is in it.
#[derive(Debug)]
struct Letter {
    envelope: Envelope,
    content: Bytes,
}

impl Letter {
    fn new(arguments: &Arguments, text: &[u8], ignore_dots: bool, own: &Own) -> Result<Self, Failure> {
        let text = if ignore_dots { text } else { before_dot(text) };
        let mut message = canonical(text);
        if !message.ends_with(b"\r\n") {
            message.extend_from_slice(b"\r\n");
        }
        let mut to = arguments.recipients.iter().map(|text| own.mailbox(text)).collect::<Result<Vec<_>, _>>()?;
        if arguments.from_header {
            for text in named_in_header(&message) {
                let mailbox = own.mailbox(&text)?;
                if !to.contains(&mailbox) {
                    to.push(mailbox);
                }
            }
        }
        if to.is_empty() {
            return Err(Failure::usage("there is no recipient")
                .help("name one behind the options, or give -t and a To, Cc or Bcc in the message"));
        }
        let from = match arguments.sender.as_deref().map(str::trim) {
            Some("" | "<>") => ReversePath::Null,
            Some(text) => own.mailbox(text)?.into(),
            None => own.mailbox(&own.user)?.into(),
        };
        let content = completed(&message, &from, arguments.full_name.as_deref(), own);
        let international = to.iter().chain(from.mailbox()).any(|mailbox| !mailbox.is_ascii());
        let keywords = match (content.is_ascii(), international) {
            (_, true) => "BODY=8BITMIME SMTPUTF8",
            (false, false) => "BODY=8BITMIME",
            (true, false) => "",
        };
        let mut parameters = Parameters::new(keywords).unwrap_or_default();
        if let Some(ret) = &arguments.ret {
            parameters =
                parameters.with(&Ret::from_value(Some(ret)).map_err(Failure::usage)?).map_err(Failure::usage)?;
        }
        if let Some(envid) = &arguments.envid {
            parameters = parameters.with(&EnvelopeId::new(envid).map_err(Failure::usage)?).map_err(Failure::usage)?;
        }
        let mut wanted = Parameters::default();
        if let Some(notify) = &arguments.notify {
            wanted = wanted.with(&Notify::from_value(Some(notify)).map_err(Failure::usage)?).map_err(Failure::usage)?;
        }
        let rcpt = |to: Mailbox| Rcpt { to: ForwardPath::from(to), parameters: wanted.clone() };
        let envelope = Envelope { mail: Mail { from, parameters }, recipients: to.into_iter().map(rcpt).collect() };
        Ok(Self { envelope, content: content.into() })
    }
}

/// What stands before a line with a dot alone.
fn before_dot(text: &[u8]) -> &[u8] {
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if matches!(line, b".\n" | b".\r\n" | b".") {
            break;
        }
        at += line.len();
    }
    text.get(..at).unwrap_or(text)
}

/// The addresses in To, Cc and Bcc.
fn named_in_header(message: &[u8]) -> Vec<String> {
    let Some(parsed) = MessageParser::default().parse_headers(message) else { return Vec::new() };
    let fields =
        parsed.headers().iter().filter(|h| matches!(h.name, HeaderName::To | HeaderName::Cc | HeaderName::Bcc));
    let addresses = fields.filter_map(|field| match &field.value {
        HeaderValue::Address(address) => Some(address),
        _ => None,
    });
    // A name alone is that of a user on this machine.
    let text = |one: &mail_parser::Addr<'_>| one.address.as_ref().or(one.name.as_ref()).map(ToString::to_string);
    addresses.flat_map(|address| address.iter()).filter_map(text).collect()
}

/// The message without Bcc, and with From.
fn completed(message: &[u8], from: &ReversePath, full_name: Option<&str>, own: &Own) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 128);
    let (mut rest, mut dropping, mut has_from) = (message, false, false);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        let name = line.split(|byte| *byte == b':').next().filter(|name| name.len() < line.len());
        let name =
            name.map(<[u8]>::trim_ascii_end).filter(|name| !name.is_empty() && name.iter().all(u8::is_ascii_graphic));
        let more = matches!(line.first(), Some(b' ' | b'\t'));
        match name {
            _ if more && rest.len() < message.len() => {}
            Some(name) => {
                dropping = [&b"bcc"[..], b"resent-bcc"].iter().any(|bcc| name.eq_ignore_ascii_case(bcc));
                has_from |= name.eq_ignore_ascii_case(b"from");
            }
            // The end of the header, or no header at all.
            None => break,
        }
        if !dropping {
            out.extend_from_slice(line);
        }
        rest = after;
    }
    if !has_from {
        let address = from.mailbox().map_or_else(|| format!("{}@{}", own.user, own.host), ToString::to_string);
        let name = full_name.map(|name| name.chars().filter(|c| !c.is_control()).collect::<String>());
        let name = name.map(|name| format!("\"{}\" ", name.replace('\\', "\\\\").replace('"', "\\\"")));
        out.extend_from_slice(format!("From: {}<{address}>\r\n", name.unwrap_or_default()).as_bytes());
    }
    if !rest.starts_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(rest);
    out
}

async fn hand_in(letter: Letter, socket: PathBuf) -> Result<Exit, Failure> {
    let recipients: Vec<String> = letter.envelope.recipients.iter().map(|rcpt| rcpt.to.to_string()).collect();
    let settings = Settings {
        options: Options::new(EhloName::new("localhost").map_err(|error| Failure::new(Exit::Io, error))?),
        tls: TlsPolicy::NONE,
        ..Settings::default()
    };
    let target = Target { address: Address::Path(socket.clone()), server_name: None };
    let transaction = Transaction {
        session: SessionInfo::local("sendmail"),
        envelope: letter.envelope,
        body: Body::from_bytes(letter.content),
    };
    let client = Client::new(UnixConnector::new(), target, settings);
    let outcome = client.clone().oneshot(transaction).await.map_err(|error| {
        let exit = if reply_for(&error).is_transient() { Exit::Temporary } else { Exit::Data };
        not_there(exit, &socket, &error)
    })?;
    client.close_idle().await;
    let mut exit = Exit::Success;
    for (result, to) in outcome.iter().zip(recipients) {
        if let Err(refusal) = result {
            say(format_args!("smtp: {to}: {refusal}"));
            exit = exit.worst(if refusal.is_transient() { Exit::Temporary } else { Exit::Refused });
        }
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn letter(line: &[&str], text: &str) -> Result<Letter, Failure> {
        let arguments = Cli::try_parse_from([&["sendmail"], line].concat()).unwrap().arguments;
        let ignore = arguments.ignore_dots || arguments.option.iter().any(|option| option == "i");
        let own = Own { user: "jo".into(), host: "here.example".into() };
        Letter::new(&arguments, text.as_bytes(), ignore, &own)
    }

    fn shown(letter: &Letter) -> (String, Vec<String>, String) {
        let from = letter.envelope.mail.from.mailbox().map_or_else(|| "<>".into(), ToString::to_string);
        let to = letter.envelope.recipients.iter().map(|rcpt| rcpt.to.to_string()).collect();
        (from, to, String::from_utf8(letter.content.to_vec()).unwrap())
    }

    #[test]
    fn recipients_come_from_the_header_and_blind_ones_leave_no_trace() {
        let text = "From: x@y.example\nTo: A <a@x.example>, b@x.example\nCc: root\nbCC : c@x.example,\n d@x.example\n\
                    Subject: s\n\nBcc: stays\n";
        let (from, to, content) = shown(&letter(&["-t", "-oi", "-fme@x.example", "a@x.example"], text).unwrap());
        assert_eq!(from, "me@x.example");
        assert_eq!(to, ["<a@x.example>", "<b@x.example>", "<root@here.example>", "<c@x.example>", "<d@x.example>"]);
        assert_eq!(
            content,
            "From: x@y.example\r\nTo: A <a@x.example>, b@x.example\r\nCc: root\r\nSubject: s\r\n\r\nBcc: stays\r\n"
        );
    }

    #[test]
    fn behind_two_dashes_nothing_is_an_option() {
        let (_, to, _) = shown(&letter(&["-i", "--", "-t@x.example", "-OQueueDirectory"], "Subject: s\n\n").unwrap());
        assert_eq!(to.len(), 2);
        assert!(to.iter().all(|to| to.contains('@')), "{to:?}");
        // An address cannot become an option of anything either, nor a second command.
        assert!(letter(&["--", "a@x.example\r\nDATA"], "\n").is_err());
        assert!(letter(&["-t"], "Subject: nobody\n\n").unwrap_err().what().contains("no recipient"));
    }

    #[test]
    fn senders_and_dots() {
        let text = "Subject: s\n\na\n.\nb\n";
        let (from, _, content) = shown(&letter(&["x@y.example"], text).unwrap());
        assert_eq!(from, "jo@here.example");
        assert_eq!(content, "Subject: s\r\nFrom: <jo@here.example>\r\n\r\na\r\n");
        let (from, _, content) = shown(&letter(&["-i", "-f", "<>", "-F", "J\"o", "x@y.example"], text).unwrap());
        assert_eq!(from, "<>");
        assert!(
            content.contains("From: \"J\\\"o\" <jo@here.example>\r\n") && content.ends_with(".\r\nb\r\n"),
            "{content}"
        );
        let (_, _, content) = shown(&letter(&["-bm", "x@y.example"], "no header\n").unwrap());
        assert!(content.ends_with("\r\n\r\nno header\r\n"), "{content}");
    }
}
