//! The text of a notice.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use smtp_core::extension::{EnvelopeId, OriginalRecipient, SmtpUtf8};
use smtp_core::types::{Domain, EnhancedCode, Parameter};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::{About, Kind, NOTICE_MAX, Original};
use crate::job::Recipient;
use crate::terms::deadline;

/// The longest header that is returned, in octets.
const HEADER_MAX: usize = 16 << 10;

/// A multipart/report, ready to be sent.
pub(super) struct Report {
    /// Lines end with CRLF. US-ASCII, unless [`Self::utf8`], so that every server takes it.
    pub(super) body: Vec<u8>,
    /// It goes to an address beyond US-ASCII and has text of that kind as it is, so that it needs SMTPUTF8 (RFC 6533 §6).
    pub(super) utf8: bool,
}

impl Report {
    pub(super) fn new(host: &Domain, about: &About<'_>, to: &str) -> Result<Self, fmt::Error> {
        let said_utf8 = about.message.mail.parameters.get::<SmtpUtf8>().is_some();
        let writer = Writer { host, about, to, utf8: !to.is_ascii() };
        let mut body = writer.text()?.into_bytes();
        let end = format!("\r\n--{}--\r\n", writer.boundary());
        // The type of the part and what is in it.
        let room = NOTICE_MAX.saturating_sub(body.len() + end.len() + 256);
        let whole = match about.original {
            Original::Whole(whole) => {
                let kind =
                    if whole.is_ascii() || writer.utf8 && !said_utf8 { "message/rfc822" } else { "message/global" };
                Some((kind, writer.encoded(whole))).filter(|(_, (_, encoded))| encoded.len() <= room)
            }
            Original::Header(_) => None,
        };
        let (kind, (encoding, original)) = whole.unwrap_or_else(|| {
            let (Original::Whole(original) | Original::Header(original)) = about.original;
            let header = header_only(original, said_utf8);
            let kind = if header.is_ascii() { "text/rfc822-headers" } else { "message/global-headers" };
            let (encoding, header) = writer.encoded(header.as_bytes());
            (kind, (encoding, header.into_owned().into()))
        });
        let part = format!("\r\n--{}\r\nContent-Type: {kind}\r\n", writer.boundary());
        body.extend_from_slice(format!("{part}Content-Transfer-Encoding: {encoding}\r\n\r\n").as_bytes());
        body.extend_from_slice(&original);
        body.extend_from_slice(end.as_bytes());
        Ok(Self { body, utf8: writer.utf8 })
    }
}

struct Writer<'a> {
    host: &'a Domain,
    about: &'a About<'a>,
    to: &'a str,
    /// It may have text beyond US-ASCII as it is.
    utf8: bool,
}

impl Writer<'_> {
    /// The id is the store's and no text of the sender's can hold it on a line of its own but by guessing it.
    fn boundary(&self) -> String {
        format!("=_{}_{}", self.about.message.id, self.about.job.id.n)
    }

    /// The transfer encoding of a part, and the part in it. For everybody but those whose servers take all of it anyway, what
    /// is beyond US-ASCII is encoded: a server that takes no 8-bit content would have the notice lost. `message/rfc822` cannot
    /// be, `message/global` can (RFC 2046 §5.2.1, RFC 6532 §3.7).
    fn encoded<'p>(&self, part: &'p [u8]) -> (&'static str, Cow<'p, [u8]>) {
        if part.is_ascii() {
            return ("7bit", part.into());
        }
        if self.utf8 {
            return ("8bit", part.into());
        }
        let mut lines = Vec::with_capacity(part.len() * 7 / 5);
        // 76 characters a line (RFC 2045 §6.8).
        for line in part.chunks(57) {
            lines.extend_from_slice(BASE64_STANDARD.encode(line).as_bytes());
            lines.extend_from_slice(b"\r\n");
        }
        ("base64", lines.into())
    }

    /// All but the last part.
    fn text(&self) -> Result<String, fmt::Error> {
        let Self { host, about, to, .. } = self;
        let About { kind, message, job, now, .. } = about;
        let (id, n, boundary) = (message.id, job.id.n, self.boundary());
        let (subject, action) = match kind {
            Kind::Failed => ("Your message could not be delivered", "failed"),
            Kind::Delayed => ("Your message is delayed", "delayed"),
            Kind::Delivered => ("Your message was delivered", "delivered"),
            Kind::Relayed => ("Your message was passed on", "relayed"),
            Kind::Expanded => ("Your message was passed on to several addresses", "expanded"),
        };
        let mut out = String::new();
        let o = &mut out;
        write!(o, "From: Mail Delivery System <MAILER-DAEMON@{host}>\r\nTo: <{to}>\r\nSubject: {subject}\r\n")?;
        write!(o, "Date: {}\r\nMessage-ID: <{id}.{n}.{}.{action}@{host}>\r\n", date(*now), job.attempts)?;
        write!(o, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")?;
        if self.utf8 {
            write!(o, "Content-Transfer-Encoding: 8bit\r\n")?;
        }
        write!(o, "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n")?;
        let mut words = String::new();
        self.words(&mut words)?;
        let (encoding, words) = self.encoded(words.as_bytes());
        write!(o, "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n")?;
        write!(o, "Content-Transfer-Encoding: {encoding}\r\n\r\n{}", String::from_utf8_lossy(&words))?;
        let mut status = String::new();
        self.status(&mut status, action)?;
        let status_type = if self.utf8 { "message/global-delivery-status" } else { "message/delivery-status" };
        write!(o, "\r\n--{boundary}\r\nContent-Type: {status_type}\r\n")?;
        if !status.is_ascii() {
            write!(o, "Content-Transfer-Encoding: 8bit\r\n")?;
        }
        write!(o, "\r\n{status}")?;
        Ok(out)
    }

    /// For people.
    fn words(&self, o: &mut String) -> fmt::Result {
        let About { kind, message, job, recipients, original, .. } = self.about;
        let arrived = date(message.accepted);
        match kind {
            Kind::Failed => write!(o, "Your message of {arrived} could not be delivered to:\r\n\r\n")?,
            Kind::Delayed => write!(o, "Your message of {arrived} has not been delivered yet to:\r\n\r\n")?,
            Kind::Delivered => write!(o, "Your message of {arrived} was delivered to:\r\n\r\n")?,
            Kind::Relayed => write!(o, "Your message of {arrived} was passed on to the mail server of:\r\n\r\n")?,
            Kind::Expanded => {
                write!(o, "Your message of {arrived} is on its way to all for whom these addresses stand:\r\n\r\n")?;
            }
        }
        for recipient in *recipients {
            write!(o, "  {}\r\n    {}\r\n", recipient.rcpt.to, one_line(last(recipient)))?;
        }
        match kind {
            Kind::Failed if matches!(original, Original::Whole(_)) => {
                write!(o, "\r\nIt was given up. It follows, or its header if it is too long.\r\n")
            }
            Kind::Failed => write!(o, "\r\nIt was given up. Its header follows.\r\n"),
            Kind::Delayed => {
                let until = date(job.expires);
                write!(o, "\r\nDelivery is tried until {until}. You need do nothing.\r\n")
            }
            Kind::Delivered => Ok(()),
            Kind::Relayed => write!(o, "\r\nIt is for that server to deliver it.\r\n"),
            Kind::Expanded => {
                write!(o, "\r\nYou are not told when it arrives there; of failure and delay you hear as you asked.\r\n")
            }
        }
    }

    /// An address with its type. Beyond US-ASCII in a form that is within it, for somebody who may not know more
    /// (RFC 6533 §3).
    fn address(&self, o: &mut String, field: &str, address: &OriginalRecipient) -> fmt::Result {
        if self.utf8 || address.address().is_ascii() {
            return write!(o, "{field}: {}; {}\r\n", address.kind(), one_line(address.address()));
        }
        let mut value = String::new();
        address.write_value(&mut value)?;
        write!(o, "{field}: {}\r\n", value.replacen(';', "; ", 1))
    }

    /// On one line, with a question mark for what is beyond US-ASCII if that may not be.
    fn readable(&self, text: &str) -> String {
        one_line(text).chars().map(|c| if self.utf8 || c.is_ascii() { c } else { '?' }).collect()
    }

    /// For programs (RFC 3464 §2).
    fn status(&self, o: &mut String, action: &str) -> fmt::Result {
        let About { kind, message, job, recipients, .. } = self.about;
        write!(o, "Reporting-MTA: dns; {}\r\n", self.host)?;
        if let Some(mark) = message.mail.parameters.get::<EnvelopeId>() {
            write!(o, "Original-Envelope-Id: {}\r\n", one_line(mark.as_str()))?;
        }
        write!(o, "Arrival-Date: {}\r\n", date(message.accepted))?;
        if let Some((time, _)) = deadline(&message.mail, message.accepted) {
            write!(o, "Deliver-By-Date: {}\r\n", date(time))?;
        }
        for recipient in *recipients {
            let address = recipient.rcpt.to.mailbox().map_or("Postmaster", |mailbox| mailbox.as_str());
            write!(o, "\r\n")?;
            if let Some(original) = recipient.rcpt.parameters.get::<OriginalRecipient>() {
                self.address(o, "Original-Recipient", &original)?;
            }
            match OriginalRecipient::new(if address.is_ascii() { "rfc822" } else { "utf-8" }, address) {
                Ok(address) => self.address(o, "Final-Recipient", &address)?,
                // Its other form would be too long.
                Err(_) => write!(o, "Final-Recipient: utf-8; {}\r\n", self.readable(address))?,
            }
            write!(o, "Action: {action}\r\n")?;
            write!(o, "Status: {}\r\n", status(*kind, recipient))?;
            if let (Kind::Failed | Kind::Delayed, Some(last)) = (kind, &recipient.last) {
                write!(o, "Diagnostic-Code: smtp; {}\r\n", self.readable(last))?;
            }
            write!(o, "Final-Log-ID: {}\r\n", job.id)?;
            if *kind == Kind::Delayed {
                write!(o, "Will-Retry-Until: {}\r\n", date(job.expires))?;
            }
        }
        Ok(())
    }
}

fn last(recipient: &Recipient) -> &str {
    recipient.last.as_deref().unwrap_or("it was not tried")
}

/// Printable, on one line that SMTP carries (RFC 5321 §4.5.3.1.6).
fn one_line(text: &str) -> String {
    smtp_core::types::printable(text.as_bytes()).chars().take(400).collect()
}

/// The status of RFC 3463 that the last answer carries, if its class fits; else 5.0.0, 4.0.0 or 2.0.0.
fn status(kind: Kind, recipient: &Recipient) -> EnhancedCode {
    let class = kind.class();
    let code = last(recipient).split(' ').nth(1).and_then(|word| word.parse::<EnhancedCode>().ok());
    let (subject, detail) = code.map_or((0, 0), |code| (code.subject(), code.detail()));
    EnhancedCode::new(class, subject, detail).unwrap_or_else(|_| fallback(class))
}

fn fallback(class: u8) -> EnhancedCode {
    // These classes are always valid with zeros; the other arm keeps this total.
    EnhancedCode::new(class, 0, 0).unwrap_or_else(|_| fallback(5))
}

/// The header of the original, without its content, as it may stand in a part: valid lines, no more than 16 KiB; in
/// US-ASCII unless `utf8` says that its sender knows more.
fn header_only(original: &[u8], utf8: bool) -> String {
    let mut out = String::new();
    for line in original.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || out.len() + line.len() > HEADER_MAX {
            break;
        }
        let blanks: Vec<u8> = line.iter().map(|b| if *b == b'\t' { b' ' } else { *b }).collect();
        let kept = smtp_core::types::printable(&blanks);
        // Of UTF-8 a line holds fewer characters than octets.
        out.extend(kept.chars().map(|c| if utf8 || c.is_ascii() { c } else { '?' }).take(if utf8 { 240 } else { 900 }));
        out.push_str("\r\n");
    }
    out
}

fn date(time: SystemTime) -> String {
    let seconds = crate::clock::millis(time).div_euclid(1_000);
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|date| date.format(&Rfc2822).ok());
    date.unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 +0000".into())
}
