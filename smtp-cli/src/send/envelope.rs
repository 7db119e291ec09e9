//! The envelope without the content, for sessions that end before the message. Each reply is awaited before the next
//! command.

use smtp_client::{Connection, Error};
use smtp_core::extension::{BodyType, SmtpUtf8};
use smtp_core::types::{Envelope, Mail, Parameter, Refusal, Reply};

use super::verdict::Answer;

/// How far a transaction goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
}

/// Sends the envelope as far as `until`; an answer for each recipient. There is none if it was to end before
/// recipients, unless the sender was refused: one then, even if there are no recipients.
///
/// # Errors
/// If there is no answer. A refusal is one.
pub(super) async fn send(connection: &mut Connection, envelope: &Envelope, until: Until) -> Result<Vec<Answer>, Error> {
    let n = envelope.recipients.len();
    if let Some(refusal) = lacking(connection, &envelope.mail) {
        return Ok(vec![Err(refusal); n]);
    }
    let sender = settle(connection.mail(&envelope.mail).await)?;
    if sender.is_err() {
        return Ok(vec![sender; n.max(1)]);
    }
    if matches!(until, Until::Mail) {
        return Ok(Vec::new());
    }
    let mut answers = Vec::with_capacity(n);
    for rcpt in &envelope.recipients {
        answers.push(settle(connection.rcpt(rcpt).await)?);
    }
    Ok(answers)
}

/// What the message needs and the server does not offer. Better told before anything is sent.
fn lacking(connection: &Connection, mail: &Mail) -> Option<Refusal> {
    let needs =
        |keyword: &str, extension: &str| mail.parameters.value(keyword).is_some() && !connection.offers(extension);
    if needs(BodyType::KEYWORD, "8BITMIME") {
        return Some(Refusal::fixed(554, (5, 6, 3), "the server does not take 8-bit content (8BITMIME)"));
    }
    needs(SmtpUtf8::KEYWORD, "SMTPUTF8")
        .then(|| Refusal::fixed(553, (5, 6, 7), "the server does not take internationalized mail (SMTPUTF8)"))
}

/// A refusal is an answer; everything else that can go wrong is none.
fn settle(result: Result<Reply, Error>) -> Result<Answer, Error> {
    match result {
        Ok(reply) => Ok(Ok(reply)),
        Err(Error::Refused { step, reply }) => match Refusal::try_from(reply.clone()) {
            Ok(refusal) => Ok(Err(refusal)),
            Err(_) => Err(Error::Refused { step, reply }),
        },
        Err(error) => Err(error),
    }
}
