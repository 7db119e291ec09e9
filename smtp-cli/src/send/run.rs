//! The session: from the options to what became of each recipient.

use std::sync::Arc;

use bytes::Bytes;
use smtp_client::sasl::Credentials;
use smtp_client::{Connection, Error, Options, SendOptions, Step, Timeouts, Transfer};
use smtp_core::extension::{BodyType, Size, SmtpUtf8};
use smtp_core::service::Body;
use smtp_core::stream::TlsPolicy;
use smtp_core::types::{EhloName, Envelope, Invalid, Mail, Mailbox, Parameters, Rcpt, ReversePath};
use smtp_transport_quic::Observer;

use super::envelope::{self, Until};
use super::recorder::Recorder;
use super::report::Report;
use super::verdict::{Answer, Recipient, answers_of, failure_of, recipients};
use super::{Arguments, Stage, message};
use crate::connect::connect;
use crate::exit::{Exit, Failure};
use crate::transcript::{Output, Transcript};
use crate::transport::{Calling, EarlyDataChoice, Quic, Way};
use crate::url::{Carrier, Url};
use crate::values::flatten;

/// What is to be done, checked as far as it can be without the server.
struct Job {
    url: Url,
    policy: TlsPolicy,
    way: Way,
    credentials: Option<Credentials>,
    hello: Option<EhloName>,
    timeouts: Timeouts,
    from: Option<ReversePath>,
    to: Vec<Mailbox>,
    message: Bytes,
    pipelining: bool,
    transfer: Transfer,
    last: Stage,
    /// The message may be early data.
    early: bool,
}

/// Runs `smtp send`. What went wrong is in the report and in the exit code.
pub(crate) async fn run(arguments: Arguments) -> Exit {
    let output = if arguments.json { Output::Stderr } else { Output::Stdout };
    let transcript = arguments.transcript.then(|| Transcript::new(output));
    let json = arguments.json;
    let blank = Report {
        server: arguments.server.clone(),
        from: arguments.from.clone().map(|sender| sender.0),
        recipients: flatten(arguments.to.clone()).into_iter().map(Recipient::unsent).collect(),
        ..Report::default()
    };
    let recorder = Arc::new(Recorder::new(transcript));
    let report = match Job::new(arguments, &recorder) {
        Ok(job) => job.run(&recorder, blank).await,
        Err(failure) => Report { error: Some((None, failure)), ..blank },
    };
    if json {
        report.print_json();
    } else {
        report.print();
    }
    if let Some((_, failure)) = &report.error {
        failure.report();
    }
    report.exit()
}

impl Job {
    fn new(arguments: Arguments, recorder: &Arc<Recorder>) -> Result<Self, Failure> {
        let last = arguments.quit_after.unwrap_or(Stage::Data);
        let missing = |option: &str| {
            Failure::usage(format!("{option} is missing"))
                .help("`smtp send --help` tells what is needed, with examples")
        };
        let url = arguments.server.ok_or_else(|| missing("--server URL"))?;
        let from = arguments.from.map(|sender| sender.0);
        if from.is_none() && last >= Stage::Mail {
            return Err(missing("--from ADDRESS"));
        }
        let to = flatten(arguments.to);
        if to.is_empty() && last >= Stage::Rcpt {
            return Err(missing("--to ADDRESS"));
        }
        let tls = arguments.tls.options()?;
        let policy = tls.policy(&url, arguments.login.is_there())?;
        let wait = arguments.timeout.map(|wait| wait.0);
        let seen = Arc::clone(recorder);
        let observer = Some(Observer::new(move |event| seen.note(event)));
        let early = arguments.early_data == Some(EarlyDataChoice::Gated) && url.carrier() == Carrier::Quic;
        let quic = Quic::new(arguments.early_data, arguments.qlog_dir)?;
        let way = tls.way(&url, Calling { wait, quic, observer, ..Calling::default() })?;
        let credentials = arguments.login.credentials("SMTP_SEND_PASSWORD", tls.insecure)?;
        let message = match (&arguments.data, &from) {
            (Some(path), _) => message::read(path, &arguments.header)?,
            (None, Some(from)) => message::build(from, &to, &arguments.header, arguments.body.as_deref()),
            (None, None) => Bytes::new(),
        };
        Ok(Self {
            url,
            policy,
            way,
            credentials,
            hello: arguments.helo,
            timeouts: wait.map_or_else(Timeouts::default, Timeouts::all),
            from,
            to,
            message,
            pipelining: !arguments.no_pipelining,
            transfer: if arguments.no_chunking { Transfer::Data } else { Transfer::Auto },
            last,
            early,
        })
    }

    async fn run(&self, recorder: &Arc<Recorder>, blank: Report) -> Report {
        recorder.note(format_args!("connecting to {}", self.url));
        let (answers, error) = match self.session(recorder).await {
            Ok(answers) => (answers, None),
            Err(error) => (None, Some((Some(error.step()), failure_of(&error)))),
        };
        self.way.leave().await;
        let recipients = match &answers {
            Some(answers) => recipients(&self.to, answers, &recorder.seen()),
            None => blank.recipients,
        };
        // A sender can be refused when there is nobody yet to whom it matters.
        let sender = answers.iter().flatten().filter(|_| self.to.is_empty()).find_map(|answer| answer.as_ref().err());
        let error = error.or_else(|| {
            let exit = if sender?.is_transient() { Exit::Temporary } else { Exit::Refused };
            Some((Some(Step::Mail), Failure::new(exit, format!("MAIL: refused: {}", sender?))))
        });
        Report { recipients, seen: recorder.seen(), octets: self.message.len(), error, ..blank }
    }

    /// The whole session; no answers if it was to end before there are any.
    async fn session(&self, recorder: &Arc<Recorder>) -> Result<Option<Vec<Answer>>, Error> {
        let options = Options {
            timeouts: self.timeouts.clone(),
            observer: Some(Arc::clone(recorder) as Arc<dyn smtp_client::Observer>),
            pipelining: self.pipelining,
            ..Options::default()
        };
        let connect = || connect(&*self.way.connector, &self.url, &self.policy, options.clone(), self.hello.clone());
        if self.early {
            recorder.note("a first connection, for a ticket that early data needs");
            let mut connection = connect().await?;
            connection.hello().await?;
            let _ = connection.quit().await;
            drop(connection);
            self.way.leave().await;
            recorder.note("the connection for the message");
            recorder.begin();
        }
        let mut connection = connect().await?;
        let result = self.stages(&mut connection).await;
        // What counts has been said; and after an error there may be nobody to say it to.
        let _ = connection.quit().await;
        result
    }

    async fn stages(&self, connection: &mut Connection) -> Result<Option<Vec<Answer>>, Error> {
        match self.last {
            Stage::Connect => return Ok(None),
            Stage::Ehlo => {
                connection.ehlo().await?;
                return Ok(None);
            }
            _ if self.is_one_flight(connection) => {}
            _ => drop(connection.hello().await?),
        }
        if self.last >= Stage::Auth
            && let Some(credentials) = &self.credentials
        {
            connection.auth(credentials).await?;
        }
        if self.last < Stage::Mail {
            return Ok(None);
        }
        let local = |invalid: Invalid| Error::Local { step: Step::Mail, cause: invalid.into() };
        let mail = self.mail(connection).map_err(local)?;
        let envelope = Envelope { mail, recipients: self.to.iter().cloned().map(Rcpt::new).collect() };
        let until = match self.last {
            Stage::Mail => Some(Until::Mail),
            Stage::Rcpt => Some(Until::Rcpt),
            _ => None,
        };
        if let Some(until) = until {
            let answers = envelope::send(connection, &envelope, until).await?;
            return Ok((!answers.is_empty()).then_some(answers));
        }
        let options = SendOptions { transfer: self.transfer, quit: true, ..SendOptions::default() };
        let outcome = connection.send(&envelope, Body::from_bytes(self.message.clone()), &options).await?;
        Ok(Some(answers_of(&outcome)))
    }

    /// True if EHLO can be left to go with the message: nothing has to be done or decided between them.
    fn is_one_flight(&self, connection: &Connection) -> bool {
        let decides = self.credentials.is_some() || message::has_utf8_header(&self.message);
        self.last == Stage::Data && self.pipelining && !decides && connection.info().client_speaks_first
    }

    /// MAIL, with what the message needs of the server; the client refuses what it does not offer.
    fn mail(&self, connection: &Connection) -> Result<Mail, Invalid> {
        let mut parameters = Parameters::default();
        if connection.offers("SIZE") && self.last == Stage::Data {
            parameters = parameters.with(&Size(self.message.len() as u64))?;
        }
        if !self.message.is_ascii() {
            parameters = parameters.with(&BodyType::EightBitMime)?;
        }
        let from = self.from.clone().unwrap_or(ReversePath::Null);
        let mut all = from.mailbox().into_iter().chain(&self.to);
        // A header beyond US-ASCII wants SMTPUTF8 too; but mail with such headers is older than it, and is let go.
        let header = || message::has_utf8_header(&self.message) && connection.offers("SMTPUTF8");
        if all.any(|mailbox| !mailbox.is_ascii()) || header() {
            parameters = parameters.with(&SmtpUtf8)?;
        }
        Ok(Mail { from, parameters })
    }
}
