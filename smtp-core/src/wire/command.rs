//! Command lines (RFC 5321 §4.1).

use alloc::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};

use super::LineError;
use crate::types::{
    Command, EhloName, ForwardPath, Hello, HelloKind, Invalid, Mail, Parameters, Rcpt, ReversePath, Secret, any_octet,
    split_at_byte, upper, utf8,
};

/// Why a line is not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The verb is not one: not 4 to 12 letters, or the line is not printable.
    #[error("not a command")]
    Unrecognized,
    /// The verb is known, what follows is not as it must be.
    #[error(transparent)]
    Syntax(#[from] Invalid),
    /// The initial response of AUTH is not base64, which has a reply of its own (RFC 4954 §4).
    #[error("not base64 (RFC 4954 §4)")]
    Base64,
    /// BDAT without a size that can be read: where its chunk ends, and the next command begins, nobody knows.
    #[error("BDAT size [LAST], 1 to 20 digits (RFC 3030 §2)")]
    ChunkSize,
    /// It is not a line.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// Reads a command line, without its CRLF.
///
/// Verbs have no case. A verb that is not of RFC 5321 or a standard extension becomes [`Command::Other`]; whether
/// anybody knows it is the session's question. Blanks at the end are dropped (RFC 5321 §4.1.1), and blanks between
/// `FROM:` or `TO:` and the path are let through, because many clients write one.
///
/// # Errors
/// [`CommandError`].
pub fn decode_command(line: &[u8]) -> Result<Command, CommandError> {
    if any_octet(line, |octet| octet.is_ascii_control()) {
        return Err(CommandError::Unrecognized);
    }
    let text = |octets| utf8(octets).ok_or(CommandError::Unrecognized);
    let line = line.trim_ascii_end();
    let (verb, arguments) = match line.split_first_chunk::<4>() {
        // Nearly every verb has four letters.
        Some((verb, [])) => (*verb, ""),
        Some((verb, [b' ', arguments @ ..])) => (*verb, text(arguments.trim_ascii_start())?),
        _ => return other(text(line)?),
    };
    match number(verb) {
        RCPT => {
            let (to, parameters) = path(arguments, "TO:", ForwardPath::parse)?;
            Ok(Command::Rcpt(Rcpt { to, parameters }))
        }
        MAIL => {
            let (from, parameters) = path(arguments, "FROM:", ReversePath::parse)?;
            Ok(Command::Mail(Mail { from, parameters }))
        }
        DATA => bare(arguments, Command::Data),
        BDAT => bdat(arguments).map_err(|_| CommandError::ChunkSize),
        EHLO => hello(HelloKind::Ehlo, arguments),
        HELO => hello(HelloKind::Helo, arguments),
        LHLO => hello(HelloKind::Lhlo, arguments),
        RSET => bare(arguments, Command::Rset),
        QUIT => bare(arguments, Command::Quit),
        NOOP => Ok(Command::Noop),
        AUTH => auth(arguments),
        VRFY => Ok(Command::Vrfy(needed(arguments, "VRFY")?.into())),
        EXPN => Ok(Command::Expn(needed(arguments, "EXPN")?.into())),
        HELP => Ok(Command::Help((!arguments.is_empty()).then(|| arguments.into()))),
        _ => other(text(line)?),
    }
}

/// Four letters as a number that does not depend on their case: without the bit that tells it. What is no letter becomes
/// none.
const fn number(verb: [u8; 4]) -> u32 {
    u32::from_be_bytes(verb) & 0xdfdf_dfdf
}

const RCPT: u32 = number(*b"RCPT");
const MAIL: u32 = number(*b"MAIL");
const DATA: u32 = number(*b"DATA");
const BDAT: u32 = number(*b"BDAT");
const EHLO: u32 = number(*b"EHLO");
const HELO: u32 = number(*b"HELO");
const LHLO: u32 = number(*b"LHLO");
const RSET: u32 = number(*b"RSET");
const QUIT: u32 = number(*b"QUIT");
const NOOP: u32 = number(*b"NOOP");
const AUTH: u32 = number(*b"AUTH");
const VRFY: u32 = number(*b"VRFY");
const EXPN: u32 = number(*b"EXPN");
const HELP: u32 = number(*b"HELP");

/// A verb that has not four letters, or that is not known.
fn other(text: &str) -> Result<Command, CommandError> {
    let (verb, arguments) = split_at_byte(text, b' ');
    let arguments = arguments.unwrap_or_default().trim_ascii_start();
    if verb.eq_ignore_ascii_case("STARTTLS") {
        bare(arguments, Command::StartTls)
    } else if (3..=VERB_MAX).contains(&verb.len()) && verb.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(Command::Other { verb: upper(verb), arguments: arguments.into() })
    } else {
        Err(CommandError::Unrecognized)
    }
}

/// The longest verb, in octets.
const VERB_MAX: usize = 16;

/// Reads the line that answers a SASL challenge; `None` for `*`, which cancels (RFC 4954 §4).
///
/// # Errors
/// [`Invalid`] if it is not base64.
pub fn decode_response(line: &[u8]) -> Result<Option<Secret>, Invalid> {
    if line == b"*" { Ok(None) } else { base64(line).map(Some) }
}

fn base64(text: &[u8]) -> Result<Secret, Invalid> {
    STANDARD.decode(text).map(Secret::new).map_err(|_| Invalid::new("SASL response", "must be base64 (RFC 4954 §4)"))
}

fn bare(arguments: &str, command: Command) -> Result<Command, CommandError> {
    if arguments.is_empty() {
        Ok(command)
    } else {
        Err(Invalid::new("argument", "the command takes none (RFC 5321 §4.1.1)").into())
    }
}

fn needed<'a>(arguments: &'a str, what: &'static str) -> Result<&'a str, Invalid> {
    if arguments.is_empty() { Err(Invalid::new(what, "needs an argument (RFC 5321 §4.1.1)")) } else { Ok(arguments) }
}

#[inline]
fn hello(kind: HelloKind, arguments: &str) -> Result<Command, CommandError> {
    let name = EhloName::new(arguments)?;
    Ok(Command::Hello(Hello { kind, name }))
}

#[inline]
fn path<'a, P>(
    arguments: &'a str,
    prefix: &'static str,
    parse: impl FnOnce(&'a str) -> Result<(P, &'a str), Invalid>,
) -> Result<(P, Parameters), CommandError> {
    let rest = match arguments.split_at_checked(prefix.len()) {
        Some((head, rest)) if head.eq_ignore_ascii_case(prefix) => rest.trim_ascii_start(),
        _ => return Err(Invalid::new(prefix, "must stand before the path (RFC 5321 §4.1.1)").into()),
    };
    let (path, rest) = parse(rest)?;
    if rest.is_empty() {
        return Ok((path, Parameters::default()));
    }
    if !rest.starts_with(' ') {
        return Err(Invalid::new("path", "a space stands before the parameters (RFC 5321 §4.1.1)").into());
    }
    Ok((path, Parameters::new(rest)?))
}

/// `chunk-size = 1*20DIGIT`, `end-marker = "LAST"` (RFC 3030 §2).
fn bdat(arguments: &str) -> Result<Command, Invalid> {
    let (size, rest) = split_at_byte(arguments, b' ');
    if size.is_empty() || size.len() > 20 || !size.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Invalid::new("BDAT size", "1 to 20 digits (RFC 3030 §2)"));
    }
    let size = size.parse().map_err(|_| Invalid::new("BDAT size", "too large"))?;
    let rest = rest.unwrap_or_default().trim_matches(' ');
    let last = match rest {
        "" => false,
        last if last.eq_ignore_ascii_case("LAST") => true,
        _ => return Err(Invalid::new("BDAT", "only LAST may follow the size (RFC 3030 §2)")),
    };
    Ok(Command::Bdat { size, last })
}

fn auth(arguments: &str) -> Result<Command, CommandError> {
    let (mechanism, initial) = split_at_byte(arguments, b' ');
    // sasl-mech = 1*20mech-char (RFC 4422 §3.1)
    if mechanism.is_empty()
        || mechanism.len() > 20
        || !mechanism.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    {
        return Err(Invalid::new("AUTH mechanism", "1 to 20 letters, digits, '-' and '_' (RFC 4422 §3.1)").into());
    }
    let initial = match initial.map(|text| text.trim_matches(' ')) {
        None | Some("") => None,
        // An initial response of no octets (RFC 4954 §4).
        Some("=") => Some(Secret::default()),
        Some(text) => Some(base64(text.as_bytes()).map_err(|_| CommandError::Base64)?),
    };
    Ok(Command::Auth { mechanism: upper(mechanism), initial })
}

/// Writes a command line with its CRLF. [`Command::Connect`] writes nothing.
///
/// No value of [`Command`] that came from a constructor of [`types`](crate::types) can hold a CR or LF; in the free
/// texts of VRFY, EXPN, HELP and extensions control characters become `?`.
pub fn encode_command(command: &Command, out: &mut BytesMut) {
    match command {
        Command::Connect => return,
        Command::Hello(Hello { kind, name }) => {
            out.put_slice(match kind {
                HelloKind::Ehlo => b"EHLO ",
                HelloKind::Helo => b"HELO ",
                HelloKind::Lhlo => b"LHLO ",
            });
            out.put_slice(name.as_str().as_bytes());
        }
        Command::StartTls => out.put_slice(b"STARTTLS"),
        Command::Auth { mechanism, initial } => {
            out.put_slice(b"AUTH ");
            out.put_slice(printable(mechanism).as_bytes());
            match initial {
                None => {}
                Some(secret) if secret.expose().is_empty() => out.put_slice(b" ="),
                Some(secret) => {
                    out.put_u8(b' ');
                    out.put_slice(STANDARD.encode(secret.expose()).as_bytes());
                }
            }
        }
        Command::Response(secret) => out.put_slice(STANDARD.encode(secret.expose()).as_bytes()),
        Command::Mail(Mail { from, parameters }) => {
            out.put_slice(b"MAIL FROM:<");
            if let Some(mailbox) = from.mailbox() {
                out.put_slice(mailbox.as_str().as_bytes());
            }
            close_path(parameters, out);
        }
        Command::Rcpt(Rcpt { to, parameters }) => {
            out.put_slice(b"RCPT TO:<");
            out.put_slice(to.mailbox().map_or("Postmaster", |mailbox| mailbox.as_str()).as_bytes());
            close_path(parameters, out);
        }
        Command::Data => out.put_slice(b"DATA"),
        Command::Bdat { size, last } => {
            // Writing to a BytesMut cannot fail.
            let _ = core::fmt::Write::write_fmt(out, format_args!("BDAT {size}{}", if *last { " LAST" } else { "" }));
        }
        Command::Rset => out.put_slice(b"RSET"),
        Command::Noop => out.put_slice(b"NOOP"),
        Command::Vrfy(argument) => with_argument(b"VRFY", argument, out),
        Command::Expn(argument) => with_argument(b"EXPN", argument, out),
        Command::Help(argument) => with_argument(b"HELP", argument.as_deref().unwrap_or_default(), out),
        Command::Quit => out.put_slice(b"QUIT"),
        Command::Other { verb, arguments } => with_argument(printable(verb).as_bytes(), arguments, out),
    }
    out.put_slice(b"\r\n");
}

fn close_path(parameters: &Parameters, out: &mut BytesMut) {
    out.put_u8(b'>');
    if !parameters.is_empty() {
        out.put_u8(b' ');
        out.put_slice(parameters.as_str().as_bytes());
    }
}

fn with_argument(verb: &[u8], argument: &str, out: &mut BytesMut) {
    out.put_slice(verb);
    if !argument.is_empty() {
        out.put_u8(b' ');
        out.put_slice(printable(argument).as_bytes());
    }
}

fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(crate::types::printable(text.as_bytes()))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn encode(command: &Command) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode_command(command, &mut out);
        out.to_vec()
    }

    #[test]
    fn lines_read_and_write_back() {
        for line in [
            "EHLO client.example",
            "HELO [127.0.0.1]",
            "LHLO x",
            "STARTTLS",
            "AUTH PLAIN AGEAYg==",
            "AUTH PLAIN =",
            "AUTH LOGIN",
            "MAIL FROM:<>",
            "MAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME",
            "RCPT TO:<Postmaster>",
            "RCPT TO:<\"a b\"@c.example> NOTIFY=NEVER",
            "DATA",
            "BDAT 0 LAST",
            "BDAT 18446744073709551615",
            "RSET",
            "NOOP",
            "VRFY jo",
            "EXPN list",
            "HELP",
            "HELP MAIL",
            "QUIT",
            "XYZZY a b",
        ] {
            let mut wire = line.as_bytes().to_vec();
            let command = decode_command(&wire).unwrap();
            wire.extend_from_slice(b"\r\n");
            assert_eq!(encode(&command), wire, "{line}");
        }
    }

    #[test]
    fn what_clients_get_away_with() {
        assert_eq!(decode_command(b"mail from: <a@b>  ").unwrap(), decode_command(b"MAIL FROM:<a@b>").unwrap());
        assert_eq!(decode_command(b"quit ").unwrap(), Command::Quit);
        assert_eq!(decode_command(b"NOOP anything").unwrap(), Command::Noop);
    }

    #[test]
    fn what_they_do_not() {
        for line in [
            "",
            " ",
            "EHLO",
            "EHLO a b",
            "HELO \u{1}",
            "MAIL",
            "MAIL FROM",
            "MAIL FROM:",
            "MAIL FROM:a@b",
            "MAIL TO:<a@b>",
            "MAIL FROM:<a@b>SIZE=1",
            "MAIL FROM:<a@b> SIZE=1 SIZE=2",
            "MAIL FROM:<a@b",
            "RCPT TO:<>",
            "RCPT TO:<a>",
            "DATA now",
            "RSET x",
            "QUIT x",
            "STARTTLS x",
            "BDAT",
            "BDAT x",
            "BDAT -1",
            "BDAT 1 LAST x",
            "BDAT 1 FIRST",
            "BDAT 18446744073709551616",
            "BDAT 000000000000000000001",
            "VRFY",
            "EXPN",
            "AUTH",
            "AUTH pl@in",
            "AUTH PLAIN !",
            "x",
            "GE",
            "MAIL FROM:<a@b>\0",
            "A\tB",
            "+OK hello",
        ] {
            assert!(decode_command(line.as_bytes()).is_err(), "{line:?}");
        }
        assert_eq!(decode_command(b"MAIL FROM:<\xff@b>"), Err(CommandError::Unrecognized));
    }

    #[test]
    fn a_secret_does_not_show_in_debug() {
        let command = decode_command(b"AUTH PLAIN AGEAaHVudGVyMg==").unwrap();
        assert!(!alloc::format!("{command:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_line_decodes_or_not_without_panic(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode_command(&line);
        }

        #[test]
        fn an_encoder_writes_one_crlf_last(verb in ".{0,20}", arguments in any::<String>()) {
            for command in [
                Command::Other { verb: verb.as_str().into(), arguments: arguments.as_str().into() },
                Command::Vrfy(arguments.as_str().into()),
                Command::Help(Some(arguments.as_str().into())),
                Command::Auth { mechanism: verb.as_str().into(), initial: Some(Secret::new(arguments.as_bytes())) },
                Command::Response(Secret::new(arguments.as_bytes())),
            ] {
                let wire = encode(&command);
                prop_assert_eq!(wire.iter().filter(|b| matches!(b, b'\r' | b'\n')).count(), 2);
                prop_assert!(wire.ends_with(b"\r\n"));
            }
        }

        #[test]
        fn what_decodes_encodes_to_what_decodes_the_same(
            line in "(MAIL FROM:|RCPT TO:)<[a-z\"\\\\ .@]{0,12}@[a-z.]{0,8}>( [A-Z]{1,4}=[!-~]{1,4}){0,2}"
        ) {
            if let Ok(command) = decode_command(line.as_bytes()) {
                let wire = encode(&command);
                prop_assert_eq!(decode_command(&wire[..wire.len() - 2]), Ok(command));
            }
        }
    }
}
