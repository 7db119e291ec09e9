//! A transaction in which each reply is awaited before the next command: for `--no-pipelining`, and for sessions that
//! end before the message.

use bytes::Bytes;
use smtp_client::{Connection, Error, Transfer};
use smtp_core::extension::{BodyType, SmtpUtf8};
use smtp_core::service::Body;
use smtp_core::types::{Envelope, Mail, Parameter, Refusal, Reply};

use super::verdict::{Answer, answers_of};

/// Octets in a chunk of BDAT.
const CHUNK: usize = 256 * 1024;

/// How far a transaction goes.
#[derive(Debug, Clone)]
pub(super) enum Until {
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// The content, carried so.
    Content(Bytes, Transfer),
}

/// Sends the envelope and the content as far as `until`; an answer for each recipient. There is none if it was to end
/// before recipients, unless the sender was refused: one then, even if there are no recipients.
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
    let Until::Content(content, transfer) = until else { return Ok(answers) };
    if !answers.iter().any(Result::is_ok) {
        return Ok(answers);
    }
    let last = if transfer != Transfer::Data && connection.offers("CHUNKING") {
        chunks(connection, content).await?
    } else {
        data(connection, content).await?
    };
    Ok(answers.into_iter().map(|answer| answer.and_then(|_| last.clone())).collect())
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

async fn data(connection: &mut Connection, content: Bytes) -> Result<Answer, Error> {
    match connection.data(Body::from_bytes(content)).await {
        // One reply for all of them.
        Ok(outcome) => Ok(answers_of(&outcome).into_iter().next().unwrap_or_else(|| Err(no_answer()))),
        Err(error) => settle(Err(error)),
    }
}

async fn chunks(connection: &mut Connection, mut content: Bytes) -> Result<Answer, Error> {
    loop {
        let chunk = content.split_to(content.len().min(CHUNK));
        let last = content.is_empty();
        let answer = settle(connection.bdat(chunk, last).await)?;
        // RFC 3030 §2: no more chunks after one that was refused.
        if last || answer.is_err() {
            return Ok(answer);
        }
    }
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

fn no_answer() -> Refusal {
    Refusal::fixed(451, (4, 4, 2), "the server gave no answer")
}
