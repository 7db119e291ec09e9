//! What is compared.

/// One way of sending mail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) channel: Channel,
    pub(crate) conversation: Conversation,
    pub(crate) mails: usize,
}

/// What carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    StartTls,
    Tls,
    Quic,
    /// An initial window of 32 packets, and 100 ms taken for the round trip time until it is known.
    QuicTuned,
    /// Resumed, with the mail in early data.
    QuicEarly,
    QuicEarlyTuned,
}

/// What waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conversation {
    /// EHLO; MAIL, RCPT and DATA; the content.
    Data,
    /// EHLO; everything else.
    Bdat,
    /// Nothing for anything.
    OneFlight,
    /// The same, each mail on a stream of its own.
    Streams,
}

const fn way(name: &'static str, channel: Channel, conversation: Conversation, mails: usize) -> Way {
    Way { name, channel, conversation, mails }
}

pub(crate) const TWENTY: usize = 20;

pub(crate) const WAYS: [Way; 15] = [
    way("STARTTLS, DATA", Channel::StartTls, Conversation::Data, 1),
    way("STARTTLS, BDAT", Channel::StartTls, Conversation::Bdat, 1),
    way("implicit TLS, DATA", Channel::Tls, Conversation::Data, 1),
    way("implicit TLS, BDAT", Channel::Tls, Conversation::Bdat, 1),
    way("QUIC, BDAT after EHLO's reply", Channel::Quic, Conversation::Bdat, 1),
    way("QUIC, one flight", Channel::Quic, Conversation::OneFlight, 1),
    way("QUIC, one flight, tuned", Channel::QuicTuned, Conversation::OneFlight, 1),
    way("QUIC, early data", Channel::QuicEarly, Conversation::OneFlight, 1),
    way("QUIC, early data, tuned", Channel::QuicEarlyTuned, Conversation::OneFlight, 1),
    way("20: STARTTLS, one connection, BDAT", Channel::StartTls, Conversation::Bdat, TWENTY),
    way("20: implicit TLS, one connection, BDAT", Channel::Tls, Conversation::Bdat, TWENTY),
    way("20: QUIC, one stream", Channel::Quic, Conversation::OneFlight, TWENTY),
    way("20: QUIC, 20 streams", Channel::Quic, Conversation::Streams, TWENTY),
    way("20: QUIC, one stream, tuned", Channel::QuicTuned, Conversation::OneFlight, TWENTY),
    way("20: QUIC, 20 streams, tuned", Channel::QuicTuned, Conversation::Streams, TWENTY),
];
