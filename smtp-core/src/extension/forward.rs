//! XCLIENT and XFORWARD: what a trusted proxy says of the client it speaks for
//! (<https://www.postfix.org/XCLIENT_README.html>, <https://www.postfix.org/XFORWARD_README.html>).
//!
//! XCLIENT makes the server take the client for its peer: the session starts over, and policy is about the client.
//! XFORWARD is for logs only, and for one transaction.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::net::{IpAddr, SocketAddr};

use super::Extension;
use crate::channel::{ChannelInfo, Peer, PeerList, SessionInfo};
use crate::types::{EhloName, HelloKind, Invalid, xtext};

/// XCLIENT, for peers that are listed in [`Forwarders`]. Not on channels where the client speaks first, as on QUIC:
/// there is no greeting there to start over with.
pub static XCLIENT: Extension = Extension {
    offered: |context| context.forwarding.xclient,
    announce: |context, out| {
        let login = |attribute: &&Attribute| context.forwarding.login || **attribute != Attribute::Login;
        announce(XCLIENT_ATTRIBUTES.iter().filter(login), out);
    },
    verbs: &["XCLIENT"],
    ..Extension::keyword("XCLIENT", "Postfix, XCLIENT_README")
};

/// XFORWARD, for peers that are listed in [`Forwarders`].
pub static XFORWARD: Extension = Extension {
    offered: |context| context.forwarding.xforward,
    announce: |_, out| announce(XFORWARD_ATTRIBUTES.iter(), out),
    verbs: &["XFORWARD"],
    ..Extension::keyword("XFORWARD", "Postfix, XFORWARD_README")
};

const XCLIENT_ATTRIBUTES: [Attribute; 8] = [
    Attribute::Name,
    Attribute::Addr,
    Attribute::Port,
    Attribute::Proto,
    Attribute::Helo,
    Attribute::Login,
    Attribute::DestAddr,
    Attribute::DestPort,
];

const XFORWARD_ATTRIBUTES: [Attribute; 7] = [
    Attribute::Name,
    Attribute::Addr,
    Attribute::Port,
    Attribute::Proto,
    Attribute::Helo,
    Attribute::Ident,
    Attribute::Source,
];

fn announce<'a>(attributes: impl Iterator<Item = &'a Attribute>, out: &mut String) {
    for attribute in attributes {
        out.push(' ');
        out.push_str(attribute.as_str());
    }
}

/// Who may speak for others with XCLIENT and XFORWARD. Nobody by default.
///
/// A peer is looked up by the address of its socket. One that came through a PROXY header may do neither, whatever is
/// listed: it is a client, and the proxy has said who.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarders {
    /// May use XCLIENT, but for LOGIN.
    pub xclient: PeerList,
    /// May use XCLIENT with LOGIN too: may say who has authenticated.
    pub login: PeerList,
    /// May use XFORWARD.
    pub xforward: PeerList,
}

impl Forwarders {
    /// What the peer of a channel that has just been opened may do.
    #[must_use]
    pub(crate) fn grant(&self, channel: &ChannelInfo) -> Forwarding {
        if matches!(channel.peer, Peer::Forwarded { .. }) {
            return Forwarding::default();
        }
        let xclient = !channel.client_speaks_first;
        let login = xclient && self.login.contains(&channel.peer);
        Forwarding {
            xclient: login || xclient && self.xclient.contains(&channel.peer),
            login,
            xforward: self.xforward.contains(&channel.peer),
        }
    }
}

/// What the peer of one session may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Use XCLIENT.
    pub xclient: bool,
    /// Use its LOGIN.
    pub login: bool,
    /// Use XFORWARD.
    pub xforward: bool,
}

/// What is said of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// `NAME`: its host name, as looked up from the address.
    Name,
    /// `ADDR`: its address.
    Addr,
    /// `PORT`: its port.
    Port,
    /// `PROTO`: what it speaks: SMTP or ESMTP.
    Proto,
    /// `HELO`: what it greeted with.
    Helo,
    /// `LOGIN`: who it has authenticated as.
    Login,
    /// `DESTADDR`: the address it connected to.
    DestAddr,
    /// `DESTPORT`: the port it connected to.
    DestPort,
    /// `IDENT`: the proxy's own name for the message.
    Ident,
    /// `SOURCE`: LOCAL or REMOTE, as the proxy sees it.
    Source,
}

impl Attribute {
    const ALL: [Self; 10] = [
        Self::Name,
        Self::Addr,
        Self::Port,
        Self::Proto,
        Self::Helo,
        Self::Login,
        Self::DestAddr,
        Self::DestPort,
        Self::Ident,
        Self::Source,
    ];

    /// As it goes over the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Addr => "ADDR",
            Self::Port => "PORT",
            Self::Proto => "PROTO",
            Self::Helo => "HELO",
            Self::Login => "LOGIN",
            Self::DestAddr => "DESTADDR",
            Self::DestPort => "DESTPORT",
            Self::Ident => "IDENT",
            Self::Source => "SOURCE",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.as_str().eq_ignore_ascii_case(name))
    }
}

/// The longest value, in octets when decoded: that of a host name (RFC 1035 §2.3.4).
const VALUE_MAX: usize = 255;

/// Attributes of a client, each at most once and checked: an address is one. `None` stands for what the proxy does not
/// know (`[UNAVAILABLE]`, `[TEMPUNAVAIL]`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded(Vec<(Attribute, Option<Box<str>>)>);

impl Forwarded {
    /// Reads the arguments of XCLIENT.
    ///
    /// # Errors
    /// [`Invalid`] for an attribute that is unknown, not XCLIENT's or there twice, and for a value that is no xtext, is
    /// too long, holds a control character, or is not what the attribute takes.
    pub fn xclient(arguments: &str) -> Result<Self, Invalid> {
        Self::parse(arguments, &XCLIENT_ATTRIBUTES)
    }

    /// Reads the arguments of XFORWARD.
    ///
    /// # Errors
    /// As [`Forwarded::xclient`].
    pub fn xforward(arguments: &str) -> Result<Self, Invalid> {
        Self::parse(arguments, &XFORWARD_ATTRIBUTES)
    }

    fn parse(arguments: &str, known: &[Attribute]) -> Result<Self, Invalid> {
        let mut all = Self::default();
        for word in arguments.split(' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').ok_or(Invalid::new(WHAT, "each is NAME=value"))?;
            let attribute = Attribute::named(name).filter(|attribute| known.contains(attribute));
            let attribute = attribute.ok_or(Invalid::new(WHAT, "not one that EHLO shows"))?;
            if all.get(attribute).is_some() {
                return Err(Invalid::new(WHAT, "each at most once"));
            }
            let unknown = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"].iter().any(|word| word.eq_ignore_ascii_case(value));
            let value = if unknown { None } else { Some(checked(attribute, &xtext::decode(value)?)?) };
            all.0.push((attribute, value));
        }
        if all.0.is_empty() { Err(Invalid::new(WHAT, "at least one is needed")) } else { Ok(all) }
    }

    /// All that is known of the client of `session`, for a next hop that is told of it.
    ///
    /// ```
    /// use smtp_core::channel::{ChannelInfo, Peer, SessionInfo};
    /// use smtp_core::extension::Forwarded;
    /// let client = Peer::Ip("192.0.2.1:4711".parse()?);
    /// let session = SessionInfo::new(1, ChannelInfo::new("tcp", client));
    /// let said = Forwarded::of(&session).to_string();
    /// assert!(said.starts_with("NAME=[UNAVAILABLE] ADDR=192.0.2.1 PORT=4711 "), "{said}");
    /// # Ok::<(), core::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn of(session: &SessionInfo) -> Self {
        let client = match &session.channel.peer {
            Peer::Ip(address) | Peer::Forwarded { address: Some(address), .. } => Some(*address),
            Peer::Process { .. } | Peer::Named(_) | Peer::Forwarded { address: None, .. } => None,
        };
        let hello = session.hello.as_ref();
        let protocol = hello.map(|hello| if hello.kind == HelloKind::Helo { "SMTP" } else { "ESMTP" });
        let source = if session.channel.peer.is_local() { "LOCAL" } else { "REMOTE" };
        let name = session.client.as_ref().and_then(|client| client.value(Attribute::Name));
        let values = [
            (Attribute::Name, name.map(Into::into)),
            (Attribute::Addr, client.map(|client| address(client.ip()))),
            (Attribute::Port, client.map(|client| client.port().to_string())),
            (Attribute::Proto, protocol.map(Into::into)),
            (Attribute::Helo, hello.map(|hello| hello.name.as_str().into())),
            (Attribute::Login, session.identity.as_ref().map(|identity| identity.user.to_string())),
            (Attribute::DestAddr, session.channel.local.map(|local| address(local.ip()))),
            (Attribute::DestPort, session.channel.local.map(|local| local.port().to_string())),
            (Attribute::Ident, Some(session.id.to_string())),
            (Attribute::Source, Some(source.into())),
        ];
        // What a next hop would not take is better left unsaid.
        let fine = |(attribute, value): (Attribute, Option<String>)| {
            (attribute, value.and_then(|value| checked(attribute, &value).ok()))
        };
        Self(values.into_iter().map(fine).collect())
    }

    /// These with `attribute`, which takes the place of one that is there.
    ///
    /// # Errors
    /// [`Invalid`] if `value` is not what it takes.
    pub fn with(mut self, attribute: Attribute, value: Option<&str>) -> Result<Self, Invalid> {
        let value = value.map(|value| checked(attribute, value)).transpose()?;
        self.0.retain(|(other, _)| *other != attribute);
        self.0.push((attribute, value));
        Ok(self)
    }

    /// `None` if nothing was said of it; `Some(None)` if it was said to be unknown.
    #[must_use]
    pub fn get(&self, attribute: Attribute) -> Option<Option<&str>> {
        self.0.iter().find(|(other, _)| *other == attribute).map(|(_, value)| value.as_deref())
    }

    /// The value, if it is known.
    #[must_use]
    pub fn value(&self, attribute: Attribute) -> Option<&str> {
        self.get(attribute).flatten()
    }

    /// Those that a server wants, by the parameters of its EHLO keyword.
    #[must_use]
    pub fn wanted(&self, parameters: &str) -> Self {
        let wanted = |attribute: Attribute| {
            parameters.split_ascii_whitespace().any(|name| name.eq_ignore_ascii_case(attribute.as_str()))
        };
        Self(self.0.iter().filter(|(attribute, _)| wanted(*attribute)).cloned().collect())
    }

    /// True if nothing is said.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As one or more lists of arguments, none longer than `max` octets unless a single attribute is.
    #[must_use]
    pub fn lines(&self, max: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for one in self.0.iter().map(|one| Self(Vec::from([one.clone()])).to_string()) {
            match lines.last_mut() {
                Some(line) if line.len() + 1 + one.len() <= max => {
                    line.push(' ');
                    line.push_str(&one);
                }
                _ => lines.push(one),
            }
        }
        lines
    }

    /// These, and of `before` what they say nothing of.
    pub(crate) fn over(mut self, before: Option<&Self>) -> Self {
        for (attribute, value) in before.into_iter().flat_map(|before| &before.0) {
            if self.get(*attribute).is_none() {
                self.0.push((*attribute, value.clone()));
            }
        }
        self
    }

    /// The client's address and port; the port is 0 if it is not known.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        self.endpoint(Attribute::Addr, Attribute::Port)
    }

    /// The address and port it connected to.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        self.endpoint(Attribute::DestAddr, Attribute::DestPort)
    }

    fn endpoint(&self, addr: Attribute, port: Attribute) -> Option<SocketAddr> {
        let ip = self.value(addr).and_then(|text| ip(text).ok())?;
        Some(SocketAddr::new(ip, self.value(port).and_then(|text| text.parse().ok()).unwrap_or(0)))
    }
}

impl fmt::Display for Forwarded {
    /// As the arguments of a command.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (attribute, value)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_char(' ')?;
            }
            write!(f, "{}=", attribute.as_str())?;
            match value {
                Some(value) => xtext::encode(value, f)?,
                None => f.write_str("[UNAVAILABLE]")?,
            }
        }
        Ok(())
    }
}

const WHAT: &str = "attribute";

fn checked(attribute: Attribute, value: &str) -> Result<Box<str>, Invalid> {
    if value.is_empty() || value.len() > VALUE_MAX || value.chars().any(char::is_control) {
        return Err(Invalid::new(WHAT, "1 to 255 octets without control characters"));
    }
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(value));
    let fine = match attribute {
        Attribute::Addr | Attribute::DestAddr => ip(value).map(drop),
        Attribute::Port | Attribute::DestPort => {
            value.parse::<u16>().map(drop).map_err(|_| Invalid::new(WHAT, "a port is 0 to 65535"))
        }
        Attribute::Proto if !is(&["SMTP", "ESMTP", "LMTP"]) => Err(Invalid::new(WHAT, "PROTO is SMTP or ESMTP")),
        Attribute::Source if !is(&["LOCAL", "REMOTE"]) => Err(Invalid::new(WHAT, "SOURCE is LOCAL or REMOTE")),
        Attribute::Helo => EhloName::new(value).map(drop),
        Attribute::Name | Attribute::Login | Attribute::Ident | Attribute::Proto | Attribute::Source => Ok(()),
    };
    fine.map(|()| value.into())
}

fn ip(text: &str) -> Result<IpAddr, Invalid> {
    const PREFIX: usize = "IPV6:".len();
    let bare = match text.split_at_checked(PREFIX) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("IPV6:") => rest.parse().map(IpAddr::V6).ok(),
        _ => text.parse().map(IpAddr::V4).ok(),
    };
    bare.map(|ip| ip.to_canonical()).ok_or(Invalid::new(WHAT, "an address is 192.0.2.1 or IPV6:2001:db8::1"))
}

fn address(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => alloc::format!("IPV6:{v6}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_readmes_show() {
        let said = Forwarded::xclient("NAME=spike.porcupine.org ADDR=168.100.189.2").unwrap();
        assert_eq!(said.value(Attribute::Name), Some("spike.porcupine.org"));
        assert_eq!(said.source(), Some("168.100.189.2:0".parse().unwrap()));
        let said = Forwarded::xclient("name=[TEMPUNAVAIL] Addr=IPV6:2001:db8::1 PORT=25 LOGIN=a+20b").unwrap();
        assert_eq!(said.get(Attribute::Name), Some(None));
        assert_eq!(said.source(), Some("[2001:db8::1]:25".parse().unwrap()));
        assert_eq!(said.value(Attribute::Login), Some("a b"));
        assert_eq!(said.get(Attribute::Proto), None);
        let said = Forwarded::xforward("IDENT=4711 SOURCE=LOCAL NAME=[UNAVAILABLE]").unwrap();
        assert_eq!(said.to_string(), "IDENT=4711 SOURCE=LOCAL NAME=[UNAVAILABLE]");
    }

    #[test]
    fn bad_attributes() {
        let long = alloc::format!("NAME={}", "a".repeat(256));
        let encoded = alloc::format!("NAME={}", "+41".repeat(256));
        for bad in [
            "",
            "NAME",
            "NAME=",
            "COLOUR=red",
            "ADDR=1.2.3.4 addr=1.2.3.5",
            "ADDR=1.2.3",
            "ADDR=2001:db8::1",
            "ADDR=IPV6:1.2.3.4",
            "ADDR=host",
            "PORT=65536",
            "PORT=-1",
            "PORT=x",
            "PROTO=HTTP",
            "HELO=a+20b",
            "LOGIN=a+0D+0Ab",
            "LOGIN=a+00b",
            "LOGIN=+",
            "LOGIN=+4",
            "LOGIN=+4g",
            "LOGIN=+FF",
            "NAME=a=b",
            "NAME=[UNAVAILABLE",
            "IDENT=1",
            "SOURCE=LOCAL",
            "DESTADDR=x",
            "DESTPORT=99999",
            &long,
            &encoded,
        ] {
            // A name may look as it likes.
            if bad != "NAME=[UNAVAILABLE" {
                assert!(Forwarded::xclient(bad).is_err(), "{bad}");
            }
        }
        for bad in ["LOGIN=a", "DESTADDR=1.2.3.4", "SOURCE=ELSEWHERE"] {
            assert!(Forwarded::xforward(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_second_list_leaves_what_it_does_not_speak_of() {
        let before = Forwarded::xclient("ADDR=192.0.2.1 PORT=7 NAME=a.example").unwrap();
        let now = Forwarded::xclient("PORT=8 NAME=[UNAVAILABLE]").unwrap().over(Some(&before));
        assert_eq!(now.source(), Some("192.0.2.1:8".parse().unwrap()));
        assert_eq!(now.get(Attribute::Name), Some(None));
    }

    #[test]
    fn long_lists_are_cut_between_attributes() {
        let all = Forwarded::xclient("NAME=a.example ADDR=192.0.2.1 PORT=7").unwrap();
        assert_eq!(all.lines(100), ["NAME=a.example ADDR=192.0.2.1 PORT=7"]);
        assert_eq!(all.lines(29), ["NAME=a.example ADDR=192.0.2.1", "PORT=7"]);
        assert_eq!(all.lines(1).len(), 3);
        assert_eq!(all.wanted("addr HELO").to_string(), "ADDR=192.0.2.1");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(name in "[^\\p{Cc}]{1,60}", login in "[^\\p{Cc}]{1,60}", ip: IpAddr, port: u16) {
            let all = Forwarded::default()
                .with(Attribute::Name, Some(&name)).unwrap()
                .with(Attribute::Login, Some(&login)).unwrap()
                .with(Attribute::Addr, Some(&address(ip))).unwrap()
                .with(Attribute::Port, Some(&port.to_string())).unwrap()
                .with(Attribute::Helo, None).unwrap();
            let wire = all.to_string();
            prop_assert!(wire.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{}", wire);
            // A name in brackets of just this form cannot be told from what is unknown.
            let unknown = |text: &str| ["[UNAVAILABLE]", "[TEMPUNAVAIL]"].iter().any(|word| word.eq_ignore_ascii_case(text));
            prop_assume!(!unknown(&name) && !unknown(&login));
            prop_assert_eq!(Forwarded::xclient(&wire).unwrap(), all);
        }

        #[test]
        fn no_arguments_do_harm(text in "[ -~]{0,200}") {
            let _ = (Forwarded::xclient(&text), Forwarded::xforward(&text));
        }
    }
}
