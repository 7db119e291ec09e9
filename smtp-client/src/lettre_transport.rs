//! [`Client`] as a transport of the crate `lettre`.

use core::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use lettre::address::Envelope as LettreEnvelope;
use smtp_core::channel::SessionInfo;
use smtp_core::extension::SmtpUtf8;
use smtp_core::service::{Body, BoxError, Outcome, Transaction};
use smtp_core::types::{Envelope, ForwardPath, Invalid, Mail, Mailbox, Rcpt, ReversePath};
use tower_service::Service;

use crate::Client;

/// A program that sends with `lettre` sends over whatever this client connects by: TCP, QUIC, a Unix socket …
///
/// ```
/// # use smtp_client::Client;
/// use lettre::{AsyncTransport, Message};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// // let mailer = lettre::AsyncSmtpTransport::<lettre::Tokio1Executor>::relay("mx.example")?.build();
/// let mailer = client;
/// let message = Message::builder()
///     .from("me@example.org".parse()?)
///     .to("you@example.com".parse()?)
///     .body("hello".to_owned())?;
/// let outcome = mailer.send(message).await?;
/// assert_eq!(outcome.len(), 1);
/// # Ok(())
/// # }
/// ```
///
/// Where lettre's own transport gives up at the first recipient that is refused, this one sends to the others. That is
/// an error all the same, lest it go unseen; [`SendError::Refused`] has the result of each recipient, in the order of
/// the envelope.
#[async_trait]
impl lettre::AsyncTransport for Client {
    /// The result of each recipient; all were accepted.
    type Ok = Outcome;
    type Error = SendError;

    async fn send_raw(&self, envelope: &LettreEnvelope, email: &[u8]) -> Result<Outcome, SendError> {
        let envelope = converted(envelope)?;
        let recipients: Vec<String> = envelope.recipients.iter().map(|rcpt| rcpt.to.to_string()).collect();
        let body = Body::from_bytes(Bytes::copy_from_slice(email));
        let transaction = Transaction { session: SessionInfo::local("lettre"), envelope, body };
        let mut client = self.clone();
        core::future::poll_fn(|cx| client.poll_ready(cx)).await.map_err(SendError::Unanswered)?;
        let outcome = client.call(transaction).await.map_err(SendError::Unanswered)?;
        if outcome.iter().all(Result::is_ok) { Ok(outcome) } else { Err(SendError::Refused { outcome, recipients }) }
    }

    async fn shutdown(&self) {
        self.close_idle().await;
    }
}

/// Why `lettre` is told that a message was not sent to everybody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Some recipients were refused, or all. To those that were accepted the message is on its way.
    #[error("{}", Refusals(outcome, recipients))]
    Refused {
        /// The result of each recipient, in the order of the envelope.
        outcome: Outcome,
        /// The recipients, in the same order.
        recipients: Vec<String>,
    },
    /// There is no answer; inside is an [`Unanswered`](crate::Unanswered), which says whether the message may have been
    /// delivered all the same.
    #[error("the message may not have been sent: {0}")]
    Unanswered(#[source] BoxError),
    /// An address that `lettre` took is none.
    #[error("address {address}: {why}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        why: Invalid,
    },
}

struct Refusals<'a>(&'a Outcome, &'a [String]);

impl fmt::Display for Refusals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused: ")?;
        let mut separator = "";
        for (result, recipient) in self.0.iter().zip(self.1) {
            if let Err(refusal) = result {
                write!(f, "{separator}{recipient}: {refusal}")?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

fn converted(envelope: &LettreEnvelope) -> Result<Envelope, SendError> {
    let mailbox = |address: &lettre::Address| {
        let text: &str = address.as_ref();
        text.parse::<Mailbox>().map_err(|why| SendError::Address { address: text.to_owned(), why })
    };
    let from = envelope.from().map(mailbox).transpose()?;
    let to = envelope.to().iter().map(mailbox).collect::<Result<Vec<_>, _>>()?;
    let mut mail = Mail::new(from.map_or(ReversePath::Null, ReversePath::from));
    // RFC 6531 §3.4: MAIL has to say so for a recipient too.
    if to.iter().any(|to| !to.is_ascii())
        && let Ok(parameters) = mail.parameters.with(&SmtpUtf8)
    {
        mail.parameters = parameters;
    }
    Ok(Envelope { mail, recipients: to.into_iter().map(|to| Rcpt::new(ForwardPath::from(to))).collect() })
}
