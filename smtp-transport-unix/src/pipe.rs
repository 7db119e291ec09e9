//! A session with a child program.

mod child;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use smtp_core::channel::{ChannelInfo, Peer};
use smtp_core::stream::{ConnectError, ConnectStep, Connection, Connector, Single, Target, TlsPolicy};
use tokio::process::Command;

use crate::connector::refuse_tls;
use crate::url::{self, UrlError};
use child::ChildStream;

/// Starts a program for each connection, and speaks SMTP with it over its standard input and output, as
/// `ssh host smtpd -bs` is used. The target's address is not looked at.
///
/// No shell is involved: each argument arrives as it is. The program gets no environment but what is given here, so
/// name it by its full path; without a slash it is searched for in the `PATH` given here, or else in the system's
/// default one. What it writes to standard error goes to the log, at level debug, and its end into the error if the
/// program fails.
///
/// The channel counts as secure, since it does not leave the machine; what the program does with it is its affair. A
/// policy that asks for TLS is a permanent failure, and so are arguments that no program can be given.
///
/// ```
/// use smtp_transport_unix::PipeConnector;
/// let connector = PipeConnector::new("/usr/bin/ssh").arguments(["mx.example", "/usr/sbin/smtpd", "-bs"]).inherit("HOME");
/// let same = PipeConnector::from_url("pipe:/usr/bin/ssh mx.example /usr/sbin/smtpd -bs")?.inherit("HOME");
/// # assert_eq!(format!("{connector:?}"), format!("{same:?}"));
/// # Ok::<(), smtp_transport_unix::UrlError>(())
/// ```
#[derive(Clone)]
pub struct PipeConnector {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    grace: Duration,
}

impl PipeConnector {
    /// A connector that starts `program`.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            grace: Duration::from_secs(5),
        }
    }

    /// The connector that `pipe:/usr/bin/ssh host smtpd -bs` stands for. Spaces, and nothing else, separate the words;
    /// a space within a word is written as `%20`, a percent sign as `%25`.
    ///
    /// # Errors
    /// If it has another scheme, or names no program.
    pub fn from_url(url: &str) -> Result<Self, UrlError> {
        let mut words = url::words(url)?.into_iter();
        let program = words.next().ok_or(UrlError::NoProgram)?;
        Ok(Self::new(program).arguments(words))
    }

    /// With more arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With a variable in the program's environment.
    #[must_use]
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// With a variable as it is in this process's environment now, if it is there. ssh wants `HOME`, and perhaps
    /// `SSH_AUTH_SOCK`.
    #[must_use]
    pub fn inherit(self, name: &str) -> Self {
        match std::env::var_os(name) {
            Some(value) => self.environment(name, value),
            None => self,
        }
    }

    /// In another working folder than this process's.
    #[must_use]
    pub fn folder(self, folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), ..self }
    }

    /// With another time for the program to end by itself when the session is over; then it is killed, but not what it
    /// has started in turn. Default: 5 s.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }
}

#[async_trait]
impl Connector for PipeConnector {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        refuse_tls(&target.address, policy)?;
        let name = self.program.to_string_lossy();
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // If the runtime ends before the task that waits for the program.
            .kill_on_drop(true);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let facts = ChannelInfo { secure: true, ..ChannelInfo::new("pipe", Peer::Named(name.as_ref().into())) };
        let started = command.spawn().and_then(|child| ChildStream::new(child, facts, self.grace));
        let stream = started.map_err(|error| {
            let permanent = error.kind() == io::ErrorKind::InvalidInput;
            let error = io::Error::new(error.kind(), format!("cannot start {name}: {error}"));
            match permanent {
                true => ConnectError::permanent(&target.address, ConnectStep::Connect, error),
                false => ConnectError::transient(&target.address, ConnectStep::Connect, error),
            }
        })?;
        Ok(Box::new(Single::new(stream)))
    }
}

impl fmt::Debug for PipeConnector {
    /// Without the values of the environment, which can be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("PipeConnector")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("environment", &names)
            .field("folder", &self.folder)
            .field("grace", &self.grace)
            .finish()
    }
}
