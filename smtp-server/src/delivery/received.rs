//! The trace field that every host writes (RFC 5321 §4.4).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use smtp_core::channel::{ChannelInfo, Peer, SessionInfo, TlsInfo};
use smtp_core::service::{Outcome, Transaction};
use smtp_core::types::{AddressLiteral, Domain, EhloName, Envelope, HelloKind};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tower_layer::Layer;
use tower_service::Service;

use crate::name;

/// Puts a `Received` field before the content (RFC 5321 §4.4):
///
/// ```text
/// Received: from client.example ([192.0.2.1])
///         by mx.example with ESMTPS (TLSv1.3 TLS_AES_128_GCM_SHA256 X25519)
///         id 7-1-65920080 for <jo@mx.example>;
///         Mon, 01 Jan 2024 00:00:00 +0000
/// ```
///
/// The address is what the channel vouches for, the name is what the client claims; whatever a client says is reduced
/// to characters that cannot end a line, a comment or a clause. A recipient is named only if it is the only one, so
/// that no blind copy is told of another. The `id` begins with the number of the session and that of the transaction
/// in it, as the log has them.
#[derive(Debug, Clone)]
pub struct ReceivedLayer {
    hostname: Box<str>,
    clock: fn() -> SystemTime,
}

impl ReceivedLayer {
    /// A field that says `by hostname`.
    #[must_use]
    pub fn new(hostname: &Domain) -> Self {
        let ascii = name::domain(hostname.as_str()).unwrap_or_else(|| token(hostname.as_str()).into());
        Self { hostname: ascii.into(), clock: SystemTime::now }
    }

    /// With another source of the date.
    #[must_use]
    pub const fn clock(mut self, clock: fn() -> SystemTime) -> Self {
        self.clock = clock;
        self
    }
}

impl<S> Layer<S> for ReceivedLayer {
    type Service = Received<S>;

    fn layer(&self, inner: S) -> Received<S> {
        Received { inner, layer: self.clone(), transactions: Arc::default() }
    }
}

/// The service that [`ReceivedLayer`] makes: for one session, whose transactions it numbers.
#[derive(Debug, Clone)]
pub struct Received<S> {
    inner: S,
    layer: ReceivedLayer,
    transactions: Arc<AtomicU64>,
}

impl<S: Service<Transaction, Response = Outcome>> Service<Transaction> for Received<S> {
    type Response = Outcome;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed) + 1;
        let Transaction { session, envelope, body } = transaction;
        let body = body.prefixed(self.layer.field(&session, &envelope, number));
        self.inner.call(Transaction { session, envelope, body })
    }
}

impl ReceivedLayer {
    fn field(&self, session: &SessionInfo, envelope: &Envelope, number: u64) -> String {
        let seconds = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut field = String::with_capacity(320);
        let mut add = |clause: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = field.write_fmt(clause);
        };
        add(format_args!("Received: from {}{}\r\n", claimed_name(session), vouched(&session.channel.peer)));
        add(format_args!("\tby {} with {}", self.hostname, protocol(session, envelope)));
        if let Some(tls) = &session.channel.tls {
            add(format_args!(" ({}{})", mapping(&session.channel), facts(tls)));
        }
        add(format_args!("\r\n\tid {}-{number}-{seconds:X}", session.id));
        if let Some(recipient) = only_recipient(envelope) {
            add(format_args!("\r\n\tfor <{recipient}>"));
        }
        add(format_args!(";\r\n\t{}\r\n", date(seconds)));
        field
    }
}

fn claimed_name(session: &SessionInfo) -> String {
    match &session.hello {
        Some(hello) => host(&hello.name),
        None if session.channel.peer.is_local() => "localhost".into(),
        None => "unknown".into(),
    }
}

/// A greeting name in the form that a header takes: A-labels, since the message may not be an internationalised one.
fn host(name: &EhloName) -> String {
    let text = name.as_str();
    match text.parse::<AddressLiteral>() {
        Ok(literal @ (AddressLiteral::V4(_) | AddressLiteral::V6(_))) => literal.to_string(),
        _ if text.is_ascii() => token(text),
        _ => name::domain(text).map_or_else(|| token(text), |ascii| token(&ascii)),
    }
}

/// `TCP-info` in parentheses, or what there is of the kind on a channel without addresses.
fn vouched(peer: &Peer) -> String {
    match peer {
        Peer::Ip(address) => format!(" ({})", AddressLiteral::from(address.ip().to_canonical())),
        Peer::Process { uid, .. } => format!(" (uid {uid})"),
        Peer::Named(name) => format!(" ({})", token(name)),
        Peer::Forwarded { address: Some(address), .. } => vouched(&Peer::Ip(*address)),
        Peer::Forwarded { address: None, proxy } => vouched(proxy),
    }
}

/// The protocol's registered name (RFC 3848, RFC 6531 §4.3).
fn protocol(session: &SessionInfo, envelope: &Envelope) -> String {
    let kind = session.hello.as_ref().map(|hello| hello.kind);
    let utf8 = envelope.mail.parameters.value("SMTPUTF8").is_some();
    let base = match (kind, utf8) {
        // Only extended protocols have names with letters behind them.
        (Some(HelloKind::Helo), _) => return "SMTP".into(),
        (Some(HelloKind::Lhlo), true) => "UTF8LMTP",
        (Some(HelloKind::Lhlo), false) => "LMTP",
        (Some(HelloKind::Ehlo) | None, true) => "UTF8SMTP",
        (Some(HelloKind::Ehlo) | None, false) => "ESMTP",
    };
    let tls = if session.channel.tls.is_some() { "S" } else { "" };
    let auth = if session.identity.is_some() { "A" } else { "" };
    format!("{base}{tls}{auth}")
}

// [Q-16.1]
/// The channel's name where SMTP is not spoken on it as on any other: the registered protocols do not tell.
fn mapping(channel: &ChannelInfo) -> String {
    if channel.implied.is_empty() { String::new() } else { format!("{} ", channel.transport) }
}

fn facts(tls: &TlsInfo) -> String {
    let mut text = token(tls.version);
    // Not every library tells every fact.
    for fact in [Some(&tls.cipher), tls.group.as_ref()].into_iter().flatten().filter(|fact| !fact.is_empty()) {
        text.push(' ');
        text.push_str(&token(fact));
    }
    text
}

fn only_recipient(envelope: &Envelope) -> Option<&str> {
    let [recipient] = &*envelope.recipients else { return None };
    let mailbox = recipient.to.mailbox()?;
    // RFC 6531 §3.7.3: UTF-8 in trace fields of internationalised messages only.
    (mailbox.is_ascii() || envelope.mail.parameters.value("SMTPUTF8").is_some()).then_some(mailbox.as_str())
}

/// The date of a header field, in UTC.
pub(super) fn date(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|date| date.format(&Rfc2822).ok())
        .unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 +0000".into())
}

/// `text` with every character that means something in a structured field replaced, and not longer than a name.
fn token(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '+' | '/' | '=' | '[' | ']');
    text.chars().take(255).map(|c| if plain(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Recorder;
    use crate::testing::{deliver_transaction, envelope, hello, remote_session};
    use proptest::prelude::*;
    use smtp_core::channel::Identity;
    use smtp_core::service::Body;
    use smtp_core::types::Parameters;
    use std::time::Duration;

    fn new_year() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_704_067_200)
    }

    fn layer() -> ReceivedLayer {
        ReceivedLayer::new(&"MX.example".parse().unwrap()).clock(new_year)
    }

    fn tls() -> TlsInfo {
        TlsInfo {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256".into(),
            group: Some("X25519".into()),
            ..TlsInfo::default()
        }
    }

    fn session(kind: HelloKind, name: &str) -> SessionInfo {
        let mut session = (*remote_session("192.0.2.1:4000")).clone();
        session.hello = Some(hello(kind, name));
        session
    }

    /// The header fields of `text`, unfolded, by the rule of RFC 5322 §2.2.3; every line checked for its form.
    fn fields(text: &str) -> Vec<String> {
        let mut fields: Vec<String> = Vec::new();
        for line in text.strip_suffix("\r\n").unwrap().split("\r\n") {
            assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{line:?}");
            assert!(!line.chars().any(|c| c.is_control() && c != '\t'), "{line:?}");
            match (line.strip_prefix('\t'), fields.last_mut()) {
                (Some(folded), Some(last)) => *last = format!("{last} {folded}"),
                _ => fields.push(line.to_owned()),
            }
        }
        fields
    }

    #[test]
    fn the_whole_field() {
        let mut session = session(HelloKind::Ehlo, "client.example");
        session.channel.tls = Some(tls().into());
        let field = layer().field(&session, &envelope("<a@b.example>", &["<jo@mx.example>"]), 2);
        assert_eq!(
            fields(&field),
            ["Received: from client.example ([192.0.2.1]) by mx.example with ESMTPS \
              (TLSv1.3 TLS_AES_128_GCM_SHA256 X25519) id 7-2-65920080 for <jo@mx.example>; \
              Mon, 01 Jan 2024 00:00:00 +0000"]
        );
    }

    #[test]
    fn a_channel_that_implies_extensions_is_named() {
        let mut session = session(HelloKind::Ehlo, "client.example");
        session.channel.tls = Some(tls().into());
        (session.channel.transport, session.channel.implied) = ("quic", &["PIPELINING"]);
        let field = layer().field(&session, &envelope("<a@b.example>", &["<jo@mx.example>"]), 2);
        assert!(field.contains(" with ESMTPS (quic TLSv1.3 TLS_AES_128_GCM_SHA256 X25519)"), "{field}");
    }

    #[test]
    fn the_protocol_has_its_registered_name() {
        let plain = envelope("<a@b.example>", &["<x@y.example>"]);
        let mut utf8 = plain.clone();
        utf8.mail.parameters = Parameters::new("SMTPUTF8").unwrap();
        for (kind, with_tls, with_auth, envelope, name) in [
            (HelloKind::Helo, false, false, &plain, "SMTP"),
            (HelloKind::Helo, true, true, &plain, "SMTP"),
            (HelloKind::Ehlo, false, false, &plain, "ESMTP"),
            (HelloKind::Ehlo, true, false, &plain, "ESMTPS"),
            (HelloKind::Ehlo, false, true, &plain, "ESMTPA"),
            (HelloKind::Ehlo, true, true, &plain, "ESMTPSA"),
            (HelloKind::Ehlo, true, true, &utf8, "UTF8SMTPSA"),
            (HelloKind::Ehlo, false, false, &utf8, "UTF8SMTP"),
            (HelloKind::Lhlo, false, false, &plain, "LMTP"),
            (HelloKind::Lhlo, true, true, &plain, "LMTPSA"),
            (HelloKind::Lhlo, true, false, &utf8, "UTF8LMTPS"),
        ] {
            let mut session = session(kind, "c.example");
            session.channel.tls = with_tls.then(|| tls().into());
            session.identity = with_auth.then(|| Identity { user: "jo".into(), mechanism: "PLAIN".into() });
            assert_eq!(protocol(&session, envelope), name);
        }
    }

    #[test]
    fn recipients_are_not_told_of_each_other() {
        let session = session(HelloKind::Ehlo, "c.example");
        for recipients in [&["<x@y.example>", "<z@y.example>"][..], &["<postmaster>"]] {
            let field = layer().field(&session, &envelope("<a@b.example>", recipients), 1);
            assert!(!field.contains("for <") && !field.contains("y.example"), "{field}");
        }
    }

    #[test]
    fn utf8_stays_out_of_messages_that_are_not_internationalised() {
        let session = session(HelloKind::Ehlo, "bücher.example");
        let mut envelope = envelope("<a@b.example>", &["<jö@y.example>"]);
        let field = layer().field(&session, &envelope, 1);
        assert!(field.is_ascii() && field.contains("from xn--bcher-kva.example"), "{field}");
        envelope.mail.parameters = Parameters::new("SMTPUTF8").unwrap();
        assert!(layer().field(&session, &envelope, 1).contains("for <jö@y.example>"));
    }

    #[test]
    fn names_from_the_field_cannot_end_a_comment_or_a_clause() {
        for (name, shown) in [
            ("[192.0.2.9]", "[192.0.2.9]"),
            ("[IPv6:2001:DB8::1]", "[IPv6:2001:db8::1]"),
            ("my_pc", "my_pc"),
            ("[x)(;by]", "[x???by]"),
            ("[\"<>,@\\]", "[??????]"),
        ] {
            assert_eq!(host(&name.parse().unwrap()), shown);
        }
    }

    proptest! {
        #[test]
        fn hostile_facts_add_no_field(name in "[ -~]{1,40}", text in "(\r\n|\n|\r|\0|[ -~\u{80}-\u{9f}]){0,40}", id: u64) {
            let mut session = session(HelloKind::Ehlo, "x");
            if let Ok(name) = name.parse() {
                session.hello = Some(smtp_core::types::Hello { kind: HelloKind::Ehlo, name });
            }
            session.id = id;
            session.channel.peer = Peer::Named(text.as_str().into());
            session.channel.tls = Some(TlsInfo { cipher: text.as_str().into(), group: Some(text.as_str().into()), ..tls() }.into());
            let field = layer().field(&session, &envelope("<a@b.example>", &["<\"x>y;(\"@z.example>"]), 1);
            prop_assert_eq!(fields(&field).len(), 1);
            prop_assert_eq!(field.matches('(').count(), 3, "two comments and the quoted local part: {}", field);
        }
    }

    #[tokio::test]
    async fn it_stands_before_the_content_and_counts_transactions() {
        let recorder = Recorder::new();
        let delivery = layer().layer(recorder.clone());
        let session = Arc::new(session(HelloKind::Ehlo, "c.example"));
        for _ in 0..2 {
            let transaction = Transaction {
                session: Arc::clone(&session),
                envelope: envelope("<a@b.example>", &["<x@y.example>"]),
                body: Body::from_bytes(&b"Subject: x\r\n\r\ny\r\n"[..]),
            };
            // The driver clones the stack for each transaction.
            deliver_transaction(&mut delivery.clone(), transaction).await;
        }
        let messages = recorder.messages();
        for (i, message) in messages.iter().enumerate() {
            let text = String::from_utf8(message.content.to_vec()).unwrap();
            let (header, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, "y\r\n");
            let fields = fields(&format!("{header}\r\n"));
            assert_eq!(fields.len(), 2);
            assert!(fields[0].contains(&format!(" id 7-{}-", i + 1)), "{}", fields[0]);
            assert_eq!(fields[1], "Subject: x");
        }
        assert_eq!(messages.len(), 2);
    }

    #[test]
    fn dates_beyond_the_calendar_do_no_harm() {
        assert_eq!(date(u64::MAX), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(date(4_102_444_800), "Fri, 01 Jan 2100 00:00:00 +0000");
    }
}
