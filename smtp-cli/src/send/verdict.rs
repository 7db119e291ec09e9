//! What an outcome means: for people, and as an exit code.

use std::error::Error as _;
use std::io;

use smtp_client::{Error, Local, Step, TlsError};
use smtp_core::service::{Claim, Outcome, Receipt};
use smtp_core::stream::{ConnectError, ConnectStep};
use smtp_core::types::{Mailbox, Refusal, Reply, Severity};
use smtp_tls::{HandshakeError, SetupError};
use smtp_transport_quic::QuicError;

use super::recorder::Seen;
use crate::exit::{Exit, Failure};

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipient {
    /// Who.
    pub(super) to: Mailbox,
    /// What the server said last, or what stood in its place here.
    pub(super) reply: Option<Reply>,
    /// Where it was decided.
    pub(super) stage: Option<&'static str>,
    /// What it comes to.
    pub(super) exit: Exit,
    /// True if nothing was decided for this recipient.
    pub(super) unsent: bool,
}

impl Recipient {
    /// One that nothing was decided for.
    pub(super) const fn unsent(to: Mailbox) -> Self {
        Self { to, reply: None, stage: None, exit: Exit::Success, unsent: true }
    }

    /// One word for it.
    pub(super) const fn status(&self) -> &'static str {
        match (self.unsent, self.exit) {
            (true, _) => "unsent",
            (_, Exit::Success) => "accepted",
            (_, Exit::Temporary) => "temporary",
            _ => "refused",
        }
    }
}

/// What the server said last about a recipient.
pub(super) type Answer = Result<Reply, Refusal>;

/// The answers that an outcome stands for.
pub(super) fn answers_of(outcome: &Outcome) -> Vec<Answer> {
    let reply = |receipt: &Receipt| match receipt.claim() {
        Claim::Relayed(reply) => reply.reply().clone(),
        Claim::Stored | Claim::Discarded => receipt.reply(),
    };
    outcome.iter().map(|result| result.as_ref().map(reply).map_err(Clone::clone)).collect()
}

/// What became of each recipient, from the answers and what was seen of the session.
pub(super) fn recipients(to: &[Mailbox], answers: &[Answer], seen: &Seen) -> Vec<Recipient> {
    let mut asked = seen.asked.iter().enumerate().peekable();
    to.iter()
        .zip(answers)
        .map(|(to, answer)| {
            // Both are in the envelope's order; who was not asked about was refused here.
            let path = format!("RCPT TO:<{to}>");
            let n = asked.next_if(|(_, line)| line.starts_with(&path)).map(|(n, _)| n);
            let (stage, exit, reply) = match answer {
                Ok(reply) => (if seen.content { "data" } else { "rcpt" }, Exit::Success, reply),
                Err(refusal) => {
                    let stage = stage(seen, n);
                    (stage, exit_of(refusal, stage), refusal.reply())
                }
            };
            Recipient { to: to.clone(), reply: Some(reply.clone()), stage: Some(stage), exit, unsent: false }
        })
        .collect()
}

/// Where a refusal came from. `asked` is the place of the recipient among the RCPTs that were sent.
fn stage(seen: &Seen, asked: Option<usize>) -> &'static str {
    let refused = |code: Option<u16>| code.is_some_and(|code| code >= 400);
    match asked {
        _ if refused(seen.mail) => "mail",
        None => "local",
        Some(n) if refused(seen.answers.get(n).copied()) => "rcpt",
        Some(_) => "data",
    }
}

fn exit_of(refusal: &Refusal, stage: &str) -> Exit {
    match stage {
        _ if refusal.is_transient() => Exit::Temporary,
        "mail" | "rcpt" => Exit::Refused,
        _ => Exit::Data,
    }
}

/// What a session that ended early means: the step, the reason, and what can be done.
pub(crate) fn failure_of(error: &Error) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    // The texts of most errors have their source's in them.
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    if error.is_in_doubt() {
        text.push_str("; the message may have been delivered all the same");
    }
    let (exit, help) = judge(error);
    let failure = Failure::new(exit, text);
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn judge(error: &Error) -> (Exit, Option<&'static str>) {
    match error {
        Error::Connect(error) => connecting(error),
        Error::Timeout { step: Step::Connect, .. } => (Exit::Unavailable, Some(CHECK_SERVER)),
        Error::Refused { step, reply } => refused(*step, reply),
        Error::Closed { .. } => (Exit::Temporary, Some("the server's log may say why; try again later")),
        Error::Timeout { .. } => (Exit::Temporary, Some("--timeout SECONDS waits longer; or try again later")),
        Error::Misbehaved { .. } => (Exit::Protocol, Some("is this an SMTP server? --transcript shows what it said")),
        Error::Tls(TlsError::NotOffered) => (
            Exit::Unavailable,
            Some("smtps:// may be meant; without --pin, --tls-ca and AUTH, ?tls=opportunistic does without TLS"),
        ),
        Error::Tls(TlsError::Refused(reply)) => match reply.severity() {
            Severity::Transient => (Exit::Temporary, Some("try again later")),
            _ => (Exit::Unavailable, Some("?tls=none does without TLS")),
        },
        Error::Tls(TlsError::Handshake(error)) => handshake(error),
        Error::Local { cause, .. } => local(cause),
        // TlsError::Unverified, and what may be added.
        _ => (Exit::Policy, Some("--tls-ca FILE or --pin SHA256 says whom to trust; --insecure trusts anybody")),
    }
}

const CHECK_SERVER: &str = "is the server running, and is its address right?";

fn connecting(error: &ConnectError) -> (Exit, Option<&'static str>) {
    match error.step {
        ConnectStep::Resolve => (Exit::Unavailable, Some("is the host's name right?")),
        ConnectStep::Connect => (Exit::Unavailable, Some(CHECK_SERVER)),
        ConnectStep::Tls => handshake(&error.source),
    }
}

/// A handshake that failed because of whom it was with is a matter of policy; otherwise there is just no TLS.
fn handshake(error: &io::Error) -> (Exit, Option<&'static str>) {
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<SetupError>()) {
        return (Exit::Config, None);
    }
    // QUIC has its handshake within an error of its own, and cannot do without TLS.
    let quic = inner.and_then(|inner| inner.downcast_ref::<QuicError>());
    let failed = match quic {
        Some(QuicError::Handshake(error)) => Some(error),
        Some(_) => return (Exit::Unavailable, None),
        None => inner.and_then(|inner| inner.downcast_ref::<HandshakeError>()),
    };
    match failed {
        // Their texts say what to do.
        Some(
            HandshakeError::UnknownIssuer { .. }
            | HandshakeError::BadSignature { .. }
            | HandshakeError::WrongName { .. }
            | HandshakeError::Expired { .. }
            | HandshakeError::NotYetValid { .. }
            | HandshakeError::WrongPin(_)
            | HandshakeError::CaAsLeaf { .. }
            | HandshakeError::BadCertificate { .. }
            | HandshakeError::CertificateRequired { .. }
            | HandshakeError::CertificateRefused { .. },
        ) => (Exit::Policy, None),
        Some(HandshakeError::Closed { .. } | HandshakeError::Io(_)) | None if quic.is_none() => {
            (Exit::Unavailable, Some("?tls=none does without TLS, if the mail may be read by others"))
        }
        Some(_) | None => (Exit::Unavailable, None),
    }
}

fn refused(step: Step, reply: &Reply) -> (Exit, Option<&'static str>) {
    let transient = reply.severity() == Severity::Transient;
    match step {
        _ if transient => (Exit::Temporary, Some("try again later")),
        Step::Auth => (Exit::Policy, Some("are user and password right?")),
        Step::Mail | Step::Rcpt => (Exit::Refused, None),
        Step::Data | Step::Content | Step::EndOfContent => (Exit::Data, None),
        _ => (Exit::Unavailable, Some("the server turns us away for good: its words are the reason")),
    }
}

const fn local(cause: &Local) -> (Exit, Option<&'static str>) {
    match cause {
        Local::NoMechanism { .. } => (
            Exit::Policy,
            Some("the server may offer AUTH only under TLS, or the mechanism named by --auth is not among its own"),
        ),
        Local::Overheard | Local::Unverified => {
            (Exit::Policy, Some("use ?tls=required or smtps://, with --tls-ca or --pin if need be"))
        }
        Local::Sasl(_) => (Exit::Policy, None),
        _ => (Exit::Data, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_core::stream::Address;
    use std::time::Duration;

    fn refusal(code: u16) -> Answer {
        Err(Refusal::fixed(code, (0, 0, 0), "no"))
    }

    fn to(names: &[&str]) -> Vec<Mailbox> {
        names.iter().map(|name| Mailbox::new(name).unwrap()).collect()
    }

    fn seen(mail: u16, asked: &[&str], answers: &[u16]) -> Seen {
        let asked = asked.iter().map(|to| format!("RCPT TO:<{to}>")).collect();
        Seen { mail: Some(mail), asked, answers: answers.to_vec(), ..Seen::default() }
    }

    fn verdicts(results: &[u16], seen: &Seen) -> Vec<(&'static str, u8)> {
        let all = to(&["a@x", "b@x", "c@x"]);
        let answers: Vec<Answer> = results.iter().map(|code| refusal(*code)).collect();
        recipients(&all, &answers, seen).iter().map(|r| (r.stage.unwrap(), r.exit.code())).collect()
    }

    #[test]
    fn a_refusal_is_told_by_where_it_came_from() {
        let all = ["a@x", "b@x", "c@x"];
        assert_eq!(
            verdicts(&[550, 554, 450], &seen(250, &all, &[550, 250, 450])),
            [("rcpt", 67), ("data", 65), ("rcpt", 75)]
        );
        assert_eq!(verdicts(&[550, 550, 550], &seen(550, &all, &[503, 503, 503])), [("mail", 67); 3]);
        // The second was never asked about.
        assert_eq!(
            verdicts(&[550, 553, 550], &seen(250, &["a@x", "c@x"], &[250, 550])),
            [("data", 65), ("local", 65), ("rcpt", 67)]
        );
        let nothing_sent = Seen::default();
        assert_eq!(verdicts(&[552, 552, 552], &nothing_sent), [("local", 65); 3]);
    }

    #[test]
    fn each_error_has_its_code_and_names_its_step() {
        let address: Address = Address::Path("/x".into());
        let reply = |code| Reply::fixed(code, (0, 0, 0), "words");
        let io = |kind: io::ErrorKind| io::Error::new(kind, "of the system");
        let handshake = |error: HandshakeError| Error::Tls(TlsError::Handshake(error.into()));
        let connect = |step, error| Error::Connect(ConnectError::transient(&address, step, error));
        let peer = smtp_tls::Role::Server;
        for (error, code, words) in [
            (connect(ConnectStep::Connect, io(io::ErrorKind::ConnectionRefused)), 69, "connecting"),
            (connect(ConnectStep::Resolve, io(io::ErrorKind::NotFound)), 69, "looking up"),
            (connect(ConnectStep::Tls, HandshakeError::UnknownIssuer { peer }.into()), 77, "TLS handshake"),
            (connect(ConnectStep::Tls, HandshakeError::NotTls { peer }.into()), 69, "TLS handshake"),
            (connect(ConnectStep::Tls, io::Error::other(SetupError::NoIdentity)), 78, ""),
            (Error::Timeout { step: Step::Connect, after: Duration::from_secs(3) }, 69, "connect: nothing within 3s"),
            (Error::Timeout { step: Step::Greeting, after: Duration::from_secs(3) }, 75, "greeting: nothing within 3s"),
            (Error::Timeout { step: Step::EndOfContent, after: Duration::from_secs(3) }, 75, "may have been delivered"),
            (Error::Closed { step: Step::Rcpt, source: None }, 75, "RCPT"),
            (Error::Refused { step: Step::Greeting, reply: reply(554) }, 69, "554 words"),
            (Error::Refused { step: Step::Greeting, reply: reply(421) }, 75, "421 words"),
            (Error::Refused { step: Step::Auth, reply: reply(535) }, 77, "AUTH"),
            (Error::Refused { step: Step::Auth, reply: reply(454) }, 75, "AUTH"),
            (Error::Tls(TlsError::NotOffered), 69, "not offered"),
            (Error::Tls(TlsError::Refused(reply(454))), 75, "454"),
            (Error::Tls(TlsError::Unverified), 77, "not verified"),
            (handshake(HandshakeError::Closed { peer }), 69, "closed the connection"),
            (handshake(HandshakeError::BadSignature { peer }), 77, "wrong key"),
            (Error::Local { step: Step::Auth, cause: Local::Overheard }, 77, "AUTH"),
        ] {
            let failure = failure_of(&error);
            assert_eq!(failure.exit().code(), code, "{failure:?}");
            assert!(failure.what().contains(words), "{words}: {failure:?}");
        }
    }
}
