//! Notices to senders: what makes them, and one that does (RFC 3464, RFC 6522).

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use smtp_core::types::{Domain, EnhancedCode, Envelope, Mail, Parameters, Rcpt, ReversePath};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::job::{Job, Message, NewNotice, Recipient};
use crate::queue::{Plan, new_message};
use crate::scheduler::Schedule;

/// What a notice says of its recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// They will never get it.
    Failed,
    /// They have not got it yet.
    Delayed,
}

/// What a notice is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Failed or delayed.
    pub kind: Kind,
    /// The message.
    pub message: &'a Message,
    /// The job; what its recipients' last answers are is known.
    pub job: &'a Job,
    /// The recipients that the notice is about: those of them that may be told of (RFC 3461 §4.1), at least one.
    pub recipients: &'a [&'a Recipient],
    /// The header of the message, or as much as was kept of it.
    pub header: &'a [u8],
    /// The time.
    pub now: SystemTime,
}

/// Makes notices.
pub trait Notices: Send + Sync + 'static {
    /// The notice; `None` if there is to be none, which is logged and counted. Never asked about a message whose sender
    /// is `<>`, nor about recipients that nobody is to be told of.
    fn notice(&self, about: &About<'_>) -> Option<NewNotice>;
}

/// Makes delivery status notifications.
#[derive(Clone)]
pub struct Dsn {
    host: Domain,
    plan: Arc<dyn Plan>,
    schedule: Schedule,
}

impl std::fmt::Debug for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dsn").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Dsn {
    /// Notices of the mail server `host`, which go where `plan` says.
    #[must_use]
    pub fn new(host: Domain, plan: Arc<dyn Plan>, schedule: Schedule) -> Self {
        Self { host, plan, schedule }
    }
}

impl Notices for Dsn {
    fn notice(&self, about: &About<'_>) -> Option<NewNotice> {
        let ReversePath::Mailbox(to) = &about.message.mail.from else { return None };
        let mut body = self.text(about, to.as_str()).ok()?;
        let mut parameters = Parameters::default();
        if is_international(about, to.as_str()) {
            parameters = Parameters::new("BODY=8BITMIME SMTPUTF8").ok()?;
        } else {
            // Every server takes it then.
            body = body.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        }
        // A notice about a notice is never sent (RFC 3461 §5.2, RFC 5321 §4.5.5).
        let rcpt = Rcpt { to: to.clone().into(), parameters: Parameters::default() };
        let envelope = Envelope { mail: Mail { from: ReversePath::Null, parameters }, recipients: vec![rcpt] };
        let message = new_message(envelope, Arc::from("<>"), &*self.plan, &self.schedule, about.now);
        Some(NewNotice { message, body: Bytes::from(body) })
    }
}

impl Dsn {
    fn text(&self, about: &About<'_>, to: &str) -> Result<String, std::fmt::Error> {
        let Self { host, .. } = self;
        let About { kind, message, job, now, .. } = about;
        let (id, arrived) = (message.id, date(message.accepted));
        let (subject, action) = match kind {
            Kind::Failed => ("Your message could not be delivered", "failed"),
            Kind::Delayed => ("Your message is delayed", "delayed"),
        };
        // The id is the store's and no text of the sender's can hold it on a line of its own but by guessing it.
        let boundary = format!("=_{}_{}", id, job.id.n);
        let utf8 = is_international(about, to);
        let mut out = String::new();
        let o = &mut out;
        write!(o, "From: Mail Delivery System <MAILER-DAEMON@{host}>\r\nTo: <{to}>\r\nSubject: {subject}\r\n")?;
        write!(o, "Date: {}\r\nMessage-ID: <{id}.{}.{action}@{host}>\r\n", date(*now), job.id.n)?;
        write!(o, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")?;
        write!(o, "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n")?;

        write!(o, "--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n")?;
        write!(o, "Content-Transfer-Encoding: 8bit\r\n\r\n")?;
        match kind {
            Kind::Failed => write!(o, "Your message of {arrived} could not be delivered to:\r\n\r\n")?,
            Kind::Delayed => {
                write!(o, "Your message of {arrived} has not been delivered yet to:\r\n\r\n")?;
            }
        }
        for recipient in about.recipients {
            write!(o, "  {}\r\n    {}\r\n", recipient.rcpt.to, one_line(last(recipient)))?;
        }
        match kind {
            Kind::Failed => write!(o, "\r\nIt was given up. Its header follows.\r\n")?,
            Kind::Delayed => {
                write!(o, "\r\nDelivery is tried until {}. You need do nothing.\r\n", date(job.expires))?;
            }
        }

        let status_type = if utf8 { "message/global-delivery-status" } else { "message/delivery-status" };
        write!(o, "\r\n--{boundary}\r\nContent-Type: {status_type}\r\n\r\n")?;
        write!(o, "Reporting-MTA: dns; {host}\r\n")?;
        if let Some(envid) = message.mail.parameters.value("ENVID").flatten().and_then(xtext) {
            write!(o, "Original-Envelope-Id: {envid}\r\n")?;
        }
        write!(o, "Arrival-Date: {arrived}\r\n")?;
        for recipient in about.recipients {
            let address = recipient.rcpt.to.mailbox().map_or("Postmaster", |mailbox| mailbox.as_str());
            let address_type = if address.is_ascii() { "rfc822" } else { "utf-8" };
            write!(o, "\r\n")?;
            if let Some(original) = recipient.rcpt.parameters.value("ORCPT").flatten().and_then(original) {
                write!(o, "Original-Recipient: {original}\r\n")?;
            }
            write!(o, "Final-Recipient: {address_type}; {address}\r\nAction: {action}\r\n")?;
            write!(o, "Status: {}\r\n", status(*kind, recipient))?;
            if let Some(last) = &recipient.last {
                write!(o, "Diagnostic-Code: smtp; {}\r\n", one_line(last))?;
            }
            if *kind == Kind::Delayed {
                write!(o, "Will-Retry-Until: {}\r\n", date(job.expires))?;
            }
        }

        write!(o, "\r\n--{boundary}\r\nContent-Type: text/rfc822-headers; charset=utf-8\r\n")?;
        write!(o, "Content-Transfer-Encoding: 8bit\r\n\r\n{}\r\n--{boundary}--\r\n", headers(about.header))?;
        Ok(out)
    }
}

/// Whether an address in it is beyond ASCII, so that the notice must be too (RFC 6533 §3).
fn is_international(about: &About<'_>, to: &str) -> bool {
    !to.is_ascii() || about.recipients.iter().any(|recipient| !recipient.rcpt.to.to_string().is_ascii())
}

fn last(recipient: &Recipient) -> &str {
    recipient.last.as_deref().unwrap_or("it was not tried")
}

/// Printable, on one line that SMTP carries (RFC 5321 §4.5.3.1.6).
fn one_line(text: &str) -> String {
    smtp_core::types::printable(text.as_bytes()).chars().take(400).collect()
}

/// The status of RFC 3463 that the last answer carries, if its class fits; else 5.0.0 or 4.0.0.
fn status(kind: Kind, recipient: &Recipient) -> EnhancedCode {
    let class = match kind {
        Kind::Failed => 5,
        Kind::Delayed => 4,
    };
    let code = last(recipient).split(' ').nth(1).and_then(|word| word.parse::<EnhancedCode>().ok());
    let (subject, detail) = code.map_or((0, 0), |code| (code.subject(), code.detail()));
    EnhancedCode::new(class, subject, detail).unwrap_or_else(|_| fallback(class))
}

fn fallback(class: u8) -> EnhancedCode {
    // Class 4 and 5 are always valid with zeros; the other arm keeps this total.
    EnhancedCode::new(class, 0, 0).unwrap_or_else(|_| fallback(5))
}

/// Decodes xtext (RFC 3461 §4) into what may stand on a line; `None` if it is none.
fn xtext(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'+' {
            let (digits, tail) = rest.split_at_checked(2)?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            out.push(byte);
        }
    }
    Some(one_line(&String::from_utf8(out).ok()?))
}

/// ORCPT as `Original-Recipient` has it: the type, and the address without its encoding (RFC 3464 §2.3.1).
fn original(value: &str) -> Option<String> {
    let (kind, address) = value.split_once(';')?;
    Some(format!("{}; {}", one_line(kind), xtext(address)?))
}

/// The header of the original, without its content, as it may stand in a part: valid lines, no more than 16 KiB.
fn headers(header: &[u8]) -> String {
    let mut out = String::new();
    for line in header.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || out.len() + line.len() > 16 << 10 {
            break;
        }
        let kept: String =
            smtp_core::types::printable(&line.iter().map(|b| if *b == b'\t' { b' ' } else { *b }).collect::<Vec<_>>())
                .chars()
                .take(900)
                .collect();
        out.push_str(&kept);
        out.push_str("\r\n");
    }
    out
}

fn date(time: SystemTime) -> String {
    let seconds = crate::clock::millis(time).div_euclid(1_000);
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|date| date.format(&Rfc2822).ok());
    date.unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 +0000".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::at;
    use crate::queue::ByDomain;
    use crate::{JobId, RecipientState};
    use proptest::prelude::*;
    use smtp_core::types::Mailbox;

    fn text(kind: Kind, parameters: [&str; 2], to: &str, last: Option<String>, header: &[u8]) -> (String, NewNotice) {
        let from = Mailbox::new("jo@a.example").unwrap();
        let id = crate::id::Ids::after(0).next(at(0));
        let mail = Mail { from: from.into(), parameters: Parameters::new(parameters[0]).unwrap() };
        let message = Message { id, accepted: at(0), mail, sender: "jo".into(), size: 9 };
        let rcpt = Rcpt { to: Mailbox::new(to).unwrap().into(), parameters: Parameters::new(parameters[1]).unwrap() };
        let envelope = Envelope { mail: message.mail.clone(), recipients: vec![rcpt] };
        let new = new_message(envelope, "jo".into(), &ByDomain, &Schedule::default(), at(0));
        let mut job = new.jobs.into_iter().next().unwrap().into_job(JobId { message: id, n: 0 }, 1);
        (job.recipients[0].last, job.recipients[0].state) = (last, RecipientState::Failed);
        let recipients: Vec<_> = job.recipients.iter().collect();
        let about = About { kind, message: &message, job: &job, recipients: &recipients, header, now: at(60) };
        let dsn = Dsn::new("mx.example".parse().unwrap(), Arc::new(ByDomain), Schedule::default());
        let notice = dsn.notice(&about).unwrap();
        (String::from_utf8(notice.body.to_vec()).unwrap(), notice)
    }

    /// The parts between the boundaries.
    fn parts(text: &str) -> Vec<&str> {
        let (_, rest) = text.split_once("boundary=\"").unwrap();
        let (boundary, body) = rest.split_once("\"\r\n\r\n").unwrap();
        let body = body.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
        let first = format!("--{boundary}\r\n");
        body.strip_prefix(&first).unwrap().split(&format!("\r\n{first}")).collect()
    }

    #[test]
    fn what_the_sender_asked_for_comes_back() {
        let last = Some("550 5.1.1 no such mailbox".to_owned());
        let parameters = ["ENVID=QQ+2B314", "ORCPT=rfc822;list+2Bx@c.example"];
        let (text, notice) = text(Kind::Failed, parameters, "x@b.example", last, b"Subject: hi\r\n");
        let [human, status, header] = parts(&text)[..] else { panic!("{text}") };
        assert!(human.contains("x@b.example") && human.contains("550 5.1.1 no such mailbox"));
        assert!(status.starts_with("Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n"));
        assert!(
            status.contains("\r\nOriginal-Envelope-Id: QQ+314\r\nArrival-Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n")
        );
        assert!(status.contains(
            "\r\n\r\nOriginal-Recipient: rfc822; list+x@c.example\r\nFinal-Recipient: rfc822; x@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n"
        ));
        assert!(header.ends_with("Subject: hi\r\n"));
        assert_eq!(notice.message.mail.from, ReversePath::Null);
        assert_eq!(notice.message.jobs[0].next_hop.as_str(), "a.example");
        assert!(notice.message.mail.parameters.is_empty());
    }

    #[test]
    fn an_international_address_makes_an_international_notice() {
        let (text, notice) = text(Kind::Delayed, ["", ""], "j\u{f6}@b.example", None, b"");
        assert!(text.contains("Content-Type: message/global-delivery-status\r\n"));
        assert!(text.contains("Final-Recipient: utf-8; j\u{f6}@b.example\r\nAction: delayed\r\nStatus: 4.0.0\r\n"));
        assert!(notice.message.mail.parameters.value("SMTPUTF8").is_some());
    }

    proptest! {
        #[test]
        fn nothing_hostile_breaks_its_form(last in ".{0,1200}", header in proptest::collection::vec(any::<u8>(), 0..3_000)) {
            let last = Some(crate::job::answer(smtp_core::types::printable(last.as_bytes())));
            let (text, _) = text(Kind::Failed, ["", ""], "x@b.example", last, &header);
            prop_assert_eq!(parts(&text).len(), 3);
            prop_assert!(text.is_ascii());
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']));
            prop_assert!(text.split("\r\n").all(|line| line.len() <= 998), "a line is too long");
            prop_assert_eq!(text.matches("Final-Recipient: ").count() - parts(&text)[2].matches("Final-Recipient: ").count(), 1);
        }
    }
}
