//! What is sent: a message from a file, or a small one made here.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::date::Date;
use mail_builder::headers::message_id::generate_message_id_header;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use serde::{Deserialize, Deserializer};
use smtp_core::types::{Mailbox, ReversePath};
use smtp_core::wire::canonical;

use crate::exit::{Exit, Failure};

/// A header field that the user gave. Holds no control character, so that no second field can hide in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    name: Box<str>,
    value: Box<str>,
}

impl FromStr for Header {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once(':').ok_or("a header field is written \"Name: value\"")?;
        // RFC 5322 §3.6.8: field-name = 1*ftext, printable US-ASCII without ':'.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a header field's name is printable US-ASCII without blanks (RFC 5322 §3.6.8)");
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return Err("a header field holds no CR, LF, NUL or other control character");
        }
        Ok(Self { name: name.into(), value: value.trim().into() })
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

impl Header {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// The message in `path` (`-`: standard input) with CRLF line ends, and `headers` in the place of its own.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn read(path: &Path, headers: &[Header]) -> Result<Bytes, Failure> {
    let mut text = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text))
    };
    read.map_err(|error| {
        Failure::new(Exit::Data, format!("cannot read the message in {}: {error}", path.display()))
            .help("check the path given by --data")
    })?;
    let mut message = canonical(&text);
    // By DATA it would get one, by BDAT not: the message is the same by either.
    if !message.is_empty() && !message.ends_with(b"\r\n") {
        message.extend_from_slice(b"\r\n");
    }
    if headers.is_empty() { Ok(message.into()) } else { Ok(with_headers(&message, headers).into()) }
}

/// `message` with `headers` on top, and without its own fields of these names.
fn with_headers(message: &[u8], headers: &[Header]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 256);
    for header in headers {
        write_text(&mut out, &header.name, &header.value);
    }
    let mut rest = message;
    let mut dropping = false;
    while let Some(line) = first_line(rest) {
        let is_more = matches!(line.first(), Some(b' ' | b'\t'));
        let name = line.split(|b| *b == b':').next().filter(|name| name.len() < line.len());
        match name {
            _ if is_more => {}
            Some(name) if name.iter().all(u8::is_ascii_graphic) => {
                dropping = headers.iter().any(|header| header.name.as_bytes().eq_ignore_ascii_case(name));
            }
            // The end of the header, or no header at all.
            _ => break,
        }
        if !dropping {
            out.extend_from_slice(line);
        }
        rest = rest.get(line.len()..).unwrap_or_default();
    }
    if !rest.starts_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(rest);
    out
}

/// The first line with its CRLF.
fn first_line(text: &[u8]) -> Option<&[u8]> {
    let end = text.windows(2).position(|pair| pair == b"\r\n")?;
    text.get(..end + 2)
}

/// A small message. `headers` take the place of what would be there by default.
pub(crate) fn build(from: &ReversePath, to: &[Mailbox], headers: &[Header], body: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let given = |name: &str| headers.iter().any(|header| header.is(name));
    let sender = from.mailbox();
    if !given("From") {
        let address = sender.map_or("MAILER-DAEMON@localhost", Mailbox::as_str);
        write_field(&mut out, "From", &Address::from(address));
    }
    if !given("To") {
        let to: Vec<Address<'_>> = to.iter().map(|to| Address::from(to.as_str())).collect();
        write_field(&mut out, "To", &Address::new_list(to));
    }
    if !given("Subject") {
        write_text(&mut out, "Subject", "A message from smtp send");
    }
    if !given("Date") {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        write_field(&mut out, "Date", &Date::new(i64::try_from(now).unwrap_or_default()));
    }
    if !given("Message-ID") {
        let host = sender.filter(|sender| !sender.has_literal()).map_or("localhost", Mailbox::host);
        out.extend_from_slice(b"Message-ID: ");
        generate_message_id_header(&mut out, host);
        out.extend_from_slice(b"\r\n");
    }
    for header in headers {
        write_text(&mut out, &header.name, &header.value);
    }
    let body = body.unwrap_or("This is a message from smtp send.");
    // As CRLF here, because the encoders below keep line ends as they are.
    let body = String::from_utf8_lossy(&canonical(body.as_bytes())).into_owned();
    if given("Content-Type") || given("Content-Transfer-Encoding") {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.as_bytes());
    } else {
        if !given("MIME-Version") {
            out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        MessageBuilder::new().text_body(body).serialize_body(&mut out);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.into()
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &impl mail_builder::headers::Header) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    value.write_header(out, name.len() + 2);
}

/// A field of plain text. Text beyond US-ASCII is encoded (RFC 2047), unless it is part of an address.
fn write_text(out: &mut Vec<u8>, name: &str, value: &str) {
    const STRUCTURED: [&str; 8] = ["From", "To", "Cc", "Bcc", "Sender", "Reply-To", "Message-ID", "Content-Type"];
    if value.is_ascii() || STRUCTURED.iter().any(|field| name.eq_ignore_ascii_case(field)) {
        write_field(out, name, &Raw::new(value));
    } else {
        write_field(out, name, &Text::new(value));
    }
}

/// True if the header of `message` holds octets beyond US-ASCII, as only an internationalised one may (RFC 6532).
pub(crate) fn has_utf8_header(message: &[u8]) -> bool {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(message.len());
    let header = message.get(..end).unwrap_or_default();
    !header.is_ascii() && std::str::from_utf8(header).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(texts: &[&str]) -> Vec<Header> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn built(texts: &[&str], body: Option<&str>) -> String {
        let to = [Mailbox::new("b@x.example").unwrap(), Mailbox::new("c@x.example").unwrap()];
        let from = Mailbox::new("a@sender.example").unwrap().into();
        String::from_utf8(build(&from, &to, &headers(texts), body).to_vec()).unwrap()
    }

    #[test]
    fn a_small_message_has_all_it_needs() {
        let text = built(&[], Some("..\n.\nend"));
        let (header, body) = text.split_once("\r\n\r\n").unwrap();
        for line in ["From: <a@sender.example>", "To: <b@x.example>, <c@x.example>", "Subject: ", "MIME-Version: 1.0"] {
            assert!(header.contains(line), "{text}");
        }
        let id = header.lines().find(|line| line.starts_with("Message-ID: <")).unwrap();
        assert!(id.ends_with("@sender.example>"), "{id}");
        assert!(header.lines().any(|line| line.starts_with("Date: ") && line.ends_with("+0000")), "{text}");
        assert_eq!(body, "..\r\n.\r\nend\r\n");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    }

    #[test]
    fn given_fields_take_the_place_of_ours() {
        let text = built(&["subject: Grüße", "X-Test: one", "X-Test: two", "Date: yesterday"], None);
        assert_eq!(text.to_lowercase().matches("subject: ").count(), 1, "{text}");
        assert_eq!(text.matches("X-Test: ").count(), 2);
        assert_eq!(text.matches("Date: yesterday\r\n").count(), text.matches("Date: ").count());
        assert!(text.is_ascii() && text.contains("subject: =?utf-8?"), "{text}");
    }

    #[test]
    fn text_beyond_ascii_is_sent_in_seven_bits() {
        let text = built(&[], Some("Grüße\n"));
        assert!(text.is_ascii() && text.contains("Content-Transfer-Encoding: "), "{text}");
        let raw = built(&["Content-Type: text/plain; charset=utf-8"], Some("Grüße\n"));
        assert!(raw.ends_with("\r\n\r\nGrüße\r\n") && !raw.contains("Transfer-Encoding"), "{raw}");
    }

    #[test]
    fn no_second_field_hides_in_one() {
        for bad in
            ["X: a\r\nBcc: b", "X: a\nb", "X: a\rb", "X: a\0", "X\n: a", "no colon", ": x", "a b: c", "X: \u{7f}"]
        {
            assert!(bad.parse::<Header>().is_err(), "{bad:?}");
        }
        assert_eq!("X:a:b".parse::<Header>().unwrap().to_string(), "X: a:b");
    }

    #[test]
    fn fields_of_a_file_give_way() {
        let file = b"Subject: old\r\n folded\r\nTo: x\r\n\r\nSubject: body\r\n";
        let out = with_headers(file, &headers(&["SUBJECT: new"]));
        assert_eq!(String::from_utf8(out).unwrap(), "SUBJECT: new\r\nTo: x\r\n\r\nSubject: body\r\n");
        // No header at all: the text is the body.
        let out = with_headers(b"hello there\r\n", &headers(&["Subject: new"]));
        assert_eq!(String::from_utf8(out).unwrap(), "Subject: new\r\n\r\nhello there\r\n");
    }

    #[test]
    fn a_file_may_have_any_line_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, "Subject: x\n\na\r\nb").unwrap();
        assert_eq!(read(&path, &[]).unwrap(), "Subject: x\r\n\r\na\r\nb\r\n");
        let failure = read(&dir.path().join("none"), &[]).unwrap_err();
        assert_eq!(failure.exit().code(), 65);
    }

    #[test]
    fn an_internationalised_header_is_seen() {
        assert!(has_utf8_header("Subject: ü\r\n\r\nx".as_bytes()));
        assert!(!has_utf8_header("Subject: u\r\n\r\nü".as_bytes()));
        assert!(!has_utf8_header(b"Subject: \xfc\r\n\r\nx"));
    }
}
