//! The dialogue between somebody at a terminal, or a pipe, and a server.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use smtp_client::sasl::Credentials;
use smtp_client::{Connection, Error, Local, Observer, Step, TlsError};
use smtp_core::channel::ChannelInfo;
use smtp_core::service::Body;
use smtp_core::types::Reply;

use super::input::Input;
use crate::credentials::{self, LoginArguments};
use crate::exit::{Exit, Failure};
use crate::send::failure_of;
use crate::transcript::Transcript;

/// The transcript, without what was just typed: that is on the screen already.
#[derive(Debug)]
pub(super) struct Screen {
    transcript: Transcript,
    typed: Mutex<Option<String>>,
    interactive: bool,
}

impl Screen {
    pub(super) const fn new(transcript: Transcript, interactive: bool) -> Self {
        Self { transcript, typed: Mutex::new(None), interactive }
    }

    /// A remark.
    pub(super) fn note(&self, text: impl std::fmt::Display) {
        self.transcript.note(text);
    }

    fn typed(&self, line: Option<&str>) {
        if self.interactive {
            *self.typed.lock().unwrap_or_else(PoisonError::into_inner) = line.map(str::to_owned);
        }
    }
}

impl Observer for Screen {
    fn connected(&self, channel: &ChannelInfo) {
        self.transcript.connected(channel);
    }

    fn secured(&self, channel: &ChannelInfo) {
        self.transcript.secured(channel);
    }

    fn sent(&self, line: &str) {
        let typed = self.typed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if typed.is_none() {
            self.transcript.sent(line);
        }
    }

    fn received(&self, line: &str) {
        self.transcript.received(line);
    }

    fn content(&self, octets: usize) {
        self.transcript.content(octets);
    }
}

/// A session and the two that have it.
pub(super) struct Talk {
    pub(super) connection: Connection,
    pub(super) screen: Arc<Screen>,
    pub(super) input: Input,
    /// Who `auth` authenticates.
    pub(super) login: LoginArguments,
    /// To anybody.
    pub(super) insecure: bool,
}

/// Whether there is more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A command.
    Command,
    /// The answer to a challenge.
    Response,
    /// Nothing.
    End,
}

impl Talk {
    /// Line by line until either side has enough.
    pub(super) async fn run(mut self) -> Result<Exit, Failure> {
        if self.input.is_terminal() {
            self.screen.transcript.note("starttls and auth help; all else is sent as it stands; Ctrl-D quits");
        }
        let mut next = Next::Command;
        loop {
            let (prompt, keep) = match next {
                Next::Command => ("smtp> ", true),
                Next::Response => ("response> ", false),
                Next::End => return Ok(Exit::Success),
            };
            let line = self.input.line(prompt, keep).await.map_err(|error| Failure::new(Exit::Io, error))?;
            let Some(line) = line else {
                // The end of the input says good-bye for whoever typed.
                let _ = self.connection.quit().await;
                return Ok(Exit::Success);
            };
            let result = if next == Next::Response { self.raw(&line).await } else { self.command(&line).await };
            next = self.settle(result)?;
        }
    }

    /// What an error means for the session: our own leave it as it was, all others have ended it.
    fn settle(&self, result: Result<Next, Error>) -> Result<Next, Failure> {
        match result {
            Ok(next) => Ok(next),
            Err(Error::Local { cause: Local::InDoubt, .. }) => {
                Err(Failure::new(Exit::Temporary, "the session is in doubt and was closed"))
            }
            // The server's words are on the screen.
            Err(Error::Refused { .. }) => Ok(Next::Command),
            Err(error @ Error::Local { .. }) => {
                let failure = failure_of(&error);
                self.screen.transcript.note(failure.what());
                if let Some(advice) = failure.advice() {
                    self.screen.transcript.note(advice);
                }
                Ok(Next::Command)
            }
            Err(Error::Tls(TlsError::NotOffered)) => {
                let why = "STARTTLS is not to be had here: say EHLO first; the server has to offer it, and the URL not to \
                           say ?tls=none";
                self.screen.transcript.note(why);
                Ok(Next::Command)
            }
            Err(Error::Tls(TlsError::Refused(_))) => Ok(Next::Command),
            Err(error) => Err(failure_of(&error)),
        }
    }

    async fn command(&mut self, line: &[u8]) -> Result<Next, Error> {
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').filter(|word| !word.is_empty()).collect();
        match *words {
            [b"starttls"] => self.connection.starttls().await.map(|()| Next::Command),
            [b"auth"] => self.auth(None).await,
            [b"auth", mechanism] => self.auth(Some(&String::from_utf8_lossy(mechanism))).await,
            [b"quit"] => self.connection.quit().await.map(|_| Next::End),
            [] => Ok(Next::Command),
            _ => self.raw(line).await,
        }
    }

    async fn raw(&mut self, line: &[u8]) -> Result<Next, Error> {
        let line = String::from_utf8_lossy(line).into_owned();
        self.screen.typed(Some(&line));
        let reply = self.connection.raw(&line).await;
        self.screen.typed(None);
        let reply = reply?;
        match reply.code().get() {
            354 => self.content().await,
            334 => Ok(Next::Response),
            _ if is_last(&line, &reply) => Ok(Next::End),
            _ => Ok(Next::Command),
        }
    }

    /// The lines up to a lone dot.
    async fn content(&mut self) -> Result<Next, Error> {
        let mut content = BytesMut::new();
        loop {
            match self.input.line("", false).await {
                Ok(Some(line)) if line == b"." => break,
                Ok(Some(line)) => {
                    content.extend_from_slice(&line);
                    content.extend_from_slice(b"\r\n");
                }
                // Half a message must not look like a whole one: the connection is dropped, not ended.
                Ok(None) | Err(_) => {
                    let why =
                        std::io::Error::other("the input ended before the lone dot; nothing was sent of the message");
                    return Err(Error::Closed { step: Step::Content, source: Some(why) });
                }
            }
        }
        self.connection.content(Body::from_bytes(content)).await?;
        Ok(if self.connection.is_usable() { Next::Command } else { Next::End })
    }

    async fn auth(&mut self, mechanism: Option<&str>) -> Result<Next, Error> {
        if !self.connection.offers("AUTH") {
            self.screen.transcript.note("the server offers no AUTH here: say EHLO first; some offer it under TLS only");
            return Ok(Next::Command);
        }
        let credentials = match self.credentials(mechanism).await {
            Ok(credentials) => credentials,
            Err(failure) => {
                self.screen.transcript.note(failure.what());
                return Ok(Next::Command);
            }
        };
        self.connection.auth(&credentials).await.map(|_| Next::Command)
    }

    async fn credentials(&mut self, mechanism: Option<&str>) -> Result<Credentials, Failure> {
        let mechanism = mechanism.or(self.login.auth.as_deref());
        if let Some(credentials) = credentials::without_password(mechanism, self.login.user.as_deref())? {
            return Ok(credentials);
        }
        let broken = |error| Failure::new(Exit::Io, error);
        let none = || Failure::usage("no user, no authentication");
        let user = match &self.login.user {
            Some(user) => user.clone(),
            None => {
                let line = self.input.line("user: ", false).await.map_err(broken)?.ok_or_else(none)?;
                String::from_utf8_lossy(&line).into_owned()
            }
        };
        let password = match self.login.known_password("SMTP_SHELL_PASSWORD")? {
            Some(password) => password,
            None => self.input.secret("password: ".into()).await.map_err(broken)?.ok_or_else(none)?,
        };
        credentials::with_password(mechanism, &user, &password, self.insecure)
    }
}

/// True if nothing can follow: the answer to QUIT, or a 421.
fn is_last(line: &str, reply: &Reply) -> bool {
    reply.code().get() == 421 || line.trim().eq_ignore_ascii_case("QUIT")
}
