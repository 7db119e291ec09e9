//! `smtp shell`: the terminal as an SMTP client.

mod input;
mod talk;

use std::path::PathBuf;

use std::sync::Arc;

use serde::Deserialize;
use smtp_client::{Options, Timeouts};
use smtp_core::types::EhloName;
use smtp_transport_quic::Observer;

use crate::connect::{TlsArguments, connect};
use crate::credentials::LoginArguments;
use crate::exit::{Exit, Failure};
use crate::send::failure_of;
use crate::settings::layered;
use crate::transcript::{Output, Transcript};
use crate::transport::Calling;
use crate::url::Url;
use crate::values::Wait;

/// Talks SMTP by hand: what you type is sent, what the server says is shown.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Arguments {
    /// The server: smtp://host:port, smtps://host:port, smtp+quic://host:port, smtp+unix:///path, or pipe:program.
    ///
    /// All that `smtp send --server` takes.
    #[arg(value_name = "URL")]
    #[serde(skip)]
    url: Option<Url>,

    #[command(flatten)]
    #[serde(skip)]
    login: LoginArguments,

    #[command(flatten)]
    #[serde(skip)]
    tls: TlsArguments,

    /// How long each step may take, in seconds. Default: what RFC 5321 §4.5.3.2 grants a server, 2 to 10 minutes.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<Wait>,

    /// Read options from this TOML file; its keys are their names.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

layered!(Arguments {
    timeout,
} with { login, tls } except { url });

/// What stands below the options in `smtp shell --help`.
pub(crate) const MORE_HELP: &str = "\
Helpers, in lower case:
  starttls          STARTTLS and the handshake; say EHLO again afterwards
  auth [MECHANISM]  AUTH with --auth, --user and --password-file, or asks for them; after EHLO.
                    EXTERNAL and ANONYMOUS need neither; for OAUTHBEARER and XOAUTH2 the password is the token
  quit              QUIT, as the end of the input does

Everything else is sent as it stands. After the 354 to DATA lines are the message, until one that is a lone dot; dots \
at the start of other lines are doubled on the way by themselves. BDAT is not for lines.

Input may come from a pipe:
  printf 'EHLO me\\nVRFY postmaster\\n' | smtp shell smtp://127.0.0.1:2525";

/// Runs `smtp shell`.
///
/// # Errors
/// If there is no connection, or it breaks.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let url = arguments.url.ok_or_else(|| {
        Failure::usage("the server is missing").help("`smtp shell smtp://127.0.0.1:2525` talks to one")
    })?;
    let tls = arguments.tls.options()?;
    let policy = tls.policy(&url, false)?;
    let wait = arguments.timeout.map(|wait| wait.0);
    let input = input::Input::new().map_err(|error| Failure::new(Exit::Io, error))?;
    let screen = Arc::new(talk::Screen::new(Transcript::new(Output::Stdout), input.is_terminal()));
    let seen = Arc::clone(&screen);
    let observer = Some(Observer::new(move |event| seen.note(event)));
    let way = tls.way(&url, Calling { wait, observer, ..Calling::default() })?;
    let options = Options {
        timeouts: wait.map_or_else(Timeouts::default, Timeouts::all),
        observer: Some(Arc::clone(&screen) as Arc<dyn smtp_client::Observer>),
        ..Options::default()
    };
    // Unused: whoever sits here greets by hand.
    let hello: Option<EhloName> = None;
    let connection =
        connect(&*way.connector, &url, &policy, options, hello).await.map_err(|error| failure_of(&error))?;
    let (login, insecure) = (arguments.login, tls.insecure);
    let ended = talk::Talk { connection, screen, input, login, insecure }.run().await;
    way.leave().await;
    ended
}
