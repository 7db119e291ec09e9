//! What a server is, allows, and promises.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::channel::ChannelInfo;
use crate::extension::{Forwarders, Promises, Registry, Terms, TransactionLimits};
use crate::types::Domain;

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// SMTP: EHLO or HELO, one reply after the content.
    #[default]
    Smtp,
    /// LMTP: LHLO, one reply per accepted recipient after the content (RFC 2033).
    Lmtp,
}

/// A SASL mechanism that the policy can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MechanismOffer {
    /// Its name, in upper case.
    pub name: &'static str,
    /// What a channel has to have for it to be offered and taken there.
    pub needs: Needs,
}

/// What a channel has to have for a SASL mechanism. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Needs {
    /// Nothing: whoever overhears the exchange has nothing to log in with.
    Nothing,
    /// A channel that cannot be overheard ([`ChannelInfo::secure`]): the password, or something as good, goes over it.
    Secrecy,
    /// A channel that says who the peer is ([`ChannelInfo::identifies_peer`]).
    Identity,
}

impl Needs {
    /// True if `channel` has it.
    #[must_use]
    pub fn met_by(self, channel: &ChannelInfo) -> bool {
        self <= Self::most_on(channel)
    }

    /// The most that a mechanism may need on `channel`.
    fn most_on(channel: &ChannelInfo) -> Self {
        match (channel.secure, channel.identifies_peer()) {
            (true, true) => Self::Identity,
            (true, false) => Self::Secrecy,
            (false, _) => Self::Nothing,
        }
    }
}

/// Bounds on what a client may make the server hold or do. Each has a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest command line in octets, CRLF included. Default 2,048 (RFC 5321 §4.5.3.1.4 has 512, and extensions
    /// add to it).
    pub line: usize,
    /// The longest SASL line in octets, CRLF included, for AUTH and for responses. Default 12,288 (RFC 4954 §4).
    pub auth_line: usize,
    /// The largest message in octets, announced by SIZE and enforced as it arrives. Default 35 MiB.
    pub message_size: u64,
    /// The longest line inside a message in octets, CRLF included. Default 64 KiB; RFC 5321 §4.5.3.1.6 has 1,000.
    pub content_line: usize,
    /// Recipients of one transaction, announced by LIMITS. Default 1,000; RFC 5321 §4.5.3.1.8 wants at least 100.
    pub recipients: usize,
    /// Different domains among the recipients of one transaction, announced by LIMITS. Default none.
    pub recipient_domains: Option<u32>,
    /// RCPT beyond [`Limits::recipients`] in one transaction before each further one counts as an error: clients that
    /// do not know the limit send a whole list at once. Default 1,000.
    pub overshoot: u32,
    /// MAIL commands that are accepted in one session, announced by LIMITS; then 421. Default none.
    pub messages: Option<u32>,
    /// Errors (5yz replies) from which on each costs [`Limits::tarpit`]. Default 10. An accepted message sets the count
    /// to 0.
    pub errors_soft: u32,
    /// Errors at which the session ends with 421. Default 20.
    pub errors_hard: u32,
    /// How long a client that makes errors waits for each further reply. Default 1 s.
    pub tarpit: Duration,
    /// EHLO, NOOP, RSET, VRFY, EXPN, HELP, verbs of extensions and BDAT without octets between two messages before each
    /// counts as an error. Default 100.
    pub junk_commands: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: 2_048,
            auth_line: 12_288,
            message_size: 35 << 20,
            content_line: 64 << 10,
            recipients: 1_000,
            recipient_domains: None,
            overshoot: 1_000,
            messages: None,
            errors_soft: 10,
            errors_hard: 20,
            tarpit: Duration::from_secs(1),
            junk_commands: 100,
        }
    }
}

impl Limits {
    /// What LIMITS says of them.
    pub(super) fn announced(&self) -> TransactionLimits {
        TransactionLimits {
            messages: self.messages,
            recipients: Some(u32::try_from(self.recipients).unwrap_or(u32::MAX)),
            recipient_domains: self.recipient_domains,
        }
    }
}

/// What a server is, allows, and promises: the same for all its sessions.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name in the greeting and in EHLO's reply.
    pub hostname: Domain,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// The extensions it knows.
    pub registry: Registry,
    /// What its delivery can keep.
    pub promises: Promises,
    /// On what terms some extensions are offered.
    pub terms: Terms,
    /// Who may speak for others with XCLIENT and XFORWARD. Nobody by default.
    pub forwarders: Forwarders,
    /// Bounds.
    pub limits: Limits,
    mechanisms: Vec<MechanismOffer>,
    /// Their names, separated by blanks, for channels with each of [`Needs`].
    mechanism_names: [String; 3],
}

impl Config {
    /// A server named `hostname` that speaks SMTP with the standard extensions, promises the minimum, and offers no
    /// AUTH.
    #[must_use]
    pub fn new(hostname: Domain) -> Self {
        Self {
            hostname,
            protocol: Protocol::Smtp,
            registry: Registry::default(),
            promises: Promises::MINIMUM,
            terms: Terms::default(),
            forwarders: Forwarders::default(),
            limits: Limits::default(),
            mechanisms: Vec::new(),
            mechanism_names: Default::default(),
        }
    }

    /// The same with what its delivery can keep.
    #[must_use]
    pub const fn promising(mut self, promises: Promises) -> Self {
        self.promises = promises;
        self
    }

    /// The same with the SASL mechanisms that its policy can run, the preferred one first.
    #[must_use]
    pub fn with_mechanisms(mut self, mechanisms: Vec<MechanismOffer>) -> Self {
        self.mechanism_names = [Needs::Nothing, Needs::Secrecy, Needs::Identity].map(|most| {
            let usable = mechanisms.iter().filter(|offer| offer.needs <= most);
            usable.map(|offer| offer.name).collect::<Vec<_>>().join(" ")
        });
        self.mechanisms = mechanisms;
        self
    }

    /// The same with other terms for its extensions.
    #[must_use]
    pub fn with_terms(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    /// The same, and believes `forwarders` what they say of others.
    #[must_use]
    pub fn with_forwarders(mut self, forwarders: Forwarders) -> Self {
        self.forwarders = forwarders;
        self
    }

    /// The same with other bounds.
    #[must_use]
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The SASL mechanisms that its policy can run.
    #[must_use]
    pub fn mechanisms(&self) -> &[MechanismOffer] {
        &self.mechanisms
    }

    /// The mechanisms that can be used on `channel`, separated by blanks.
    pub(super) fn mechanisms_on(&self, channel: &ChannelInfo) -> &str {
        let [nothing, secrecy, identity] = &self.mechanism_names;
        match Needs::most_on(channel) {
            Needs::Nothing => nothing,
            Needs::Secrecy => secrecy,
            Needs::Identity => identity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Peer, TlsInfo};

    #[test]
    fn a_channel_is_offered_what_it_can_carry() {
        let offer = |name, needs| MechanismOffer { name, needs };
        let offers = alloc::vec![
            offer("SCRAM", Needs::Nothing),
            offer("EXTERNAL", Needs::Identity),
            offer("PLAIN", Needs::Secrecy),
        ];
        let Ok(name) = "mx.example".parse() else { panic!() };
        let config = Config::new(name).with_mechanisms(offers);
        let mut channel = ChannelInfo::new("tcp", Peer::Named("x".into()));
        assert_eq!(config.mechanisms_on(&channel), "SCRAM");
        channel.secure = true;
        assert_eq!(config.mechanisms_on(&channel), "SCRAM PLAIN");
        let mut local = channel.clone();
        local.peer = Peer::Process { uid: 1000, gid: 1000, pid: None };
        assert_eq!(config.mechanisms_on(&local), "SCRAM EXTERNAL PLAIN");
        let certificate =
            |verified| TlsInfo { verified, peer_certificates: alloc::vec![alloc::vec![0]], ..TlsInfo::default() };
        channel.tls = Some(certificate(false).into());
        assert_eq!(config.mechanisms_on(&channel), "SCRAM PLAIN");
        channel.tls = Some(certificate(true).into());
        assert_eq!(config.mechanisms_on(&channel), "SCRAM EXTERNAL PLAIN");
    }
}
