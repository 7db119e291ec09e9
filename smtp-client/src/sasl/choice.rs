//! Which mechanism is taken.

use smtp_core::channel::ChannelInfo;

use super::{
    CramMd5, Credentials, Hash, Login, Mechanism, OAuthBearer, OneMessage, Plain, Proof, Scram, Strength, XOAuth2,
};
use crate::error::Local;

/// What a mechanism is made from.
struct Situation<'a> {
    credentials: &'a Credentials,
    channel: &'a ChannelInfo,
    /// The server offers some mechanism with channel binding.
    plus: bool,
}

struct Known {
    name: &'static str,
    strength: Strength,
    /// `None` if the credentials are not for it, or the channel cannot carry it.
    make: fn(&Situation<'_>) -> Option<Box<dyn Mechanism>>,
}

/// All that is known, the strongest first.
const KNOWN: [Known; 11] = [
    Known { name: Hash::Sha256.mechanism(true), strength: Strength::Bound, make: |s| scram(s, Hash::Sha256, true) },
    Known { name: Hash::Sha1.mechanism(true), strength: Strength::Bound, make: |s| scram(s, Hash::Sha1, true) },
    Known { name: OneMessage::EXTERNAL, strength: Strength::Bound, make: external },
    Known { name: Hash::Sha256.mechanism(false), strength: Strength::Mutual, make: |s| scram(s, Hash::Sha256, false) },
    Known { name: Hash::Sha1.mechanism(false), strength: Strength::Mutual, make: |s| scram(s, Hash::Sha1, false) },
    Known { name: Plain::NAME, strength: Strength::Any, make: |s| password(s, |c| Box::new(Plain::new(c))) },
    Known { name: Login::NAME, strength: Strength::Any, make: |s| password(s, |c| Box::new(Login::new(c))) },
    Known { name: CramMd5::NAME, strength: Strength::Any, make: cram_md5 },
    Known { name: OAuthBearer::NAME, strength: Strength::Any, make: |s| token(s, |c| Box::new(OAuthBearer::new(c))) },
    Known { name: XOAuth2::NAME, strength: Strength::Any, make: |s| token(s, |c| Box::new(XOAuth2::new(c))) },
    Known { name: OneMessage::ANONYMOUS, strength: Strength::Any, make: anonymous },
];

type Make = fn(&Credentials) -> Box<dyn Mechanism>;

fn password(situation: &Situation<'_>, make: Make) -> Option<Box<dyn Mechanism>> {
    matches!(situation.credentials.proof, Proof::Password(_)).then(|| make(situation.credentials))
}

fn token(situation: &Situation<'_>, make: Make) -> Option<Box<dyn Mechanism>> {
    matches!(situation.credentials.proof, Proof::Token(_)).then(|| make(situation.credentials))
}

fn scram(situation: &Situation<'_>, hash: Hash, plus: bool) -> Option<Box<dyn Mechanism>> {
    let Situation { credentials, channel, plus: offers_plus } = *situation;
    if !matches!(credentials.proof, Proof::Password(_)) {
        return None;
    }
    let tls = channel.tls.as_deref();
    if plus {
        return Some(Box::new(Scram::bound(hash, credentials, tls?)?));
    }
    Some(Box::new(Scram::new(hash, credentials, tls.filter(|_| !offers_plus))))
}

/// Old and weak: for those who ask for it by its name.
fn cram_md5(situation: &Situation<'_>) -> Option<Box<dyn Mechanism>> {
    situation.credentials.mechanism.as_ref()?;
    password(situation, |c| Box::new(CramMd5::new(c)))
}

fn external(situation: &Situation<'_>) -> Option<Box<dyn Mechanism>> {
    let credentials = situation.credentials;
    matches!(credentials.proof, Proof::External).then(|| Box::new(OneMessage::external(credentials)) as _)
}

fn anonymous(situation: &Situation<'_>) -> Option<Box<dyn Mechanism>> {
    let credentials = situation.credentials;
    matches!(credentials.proof, Proof::Anonymous).then(|| Box::new(OneMessage::anonymous(credentials)) as _)
}

impl Credentials {
    /// The strongest mechanism that is among those `offered`, and allowed on `channel`.
    pub(crate) fn choose<'a>(
        &self,
        offered: impl Iterator<Item = &'a str> + Clone,
        channel: &ChannelInfo,
    ) -> Result<Box<dyn Mechanism>, Local> {
        let offers = |name: &str| offered.clone().any(|o| o.eq_ignore_ascii_case(name));
        let plus = offered.clone().any(|o| o.to_ascii_uppercase().ends_with("-PLUS"));
        let situation = Situation { credentials: self, channel, plus };
        let mut hindrance = None;
        for known in KNOWN.iter().filter(|known| self.mechanism.as_deref().is_none_or(|pin| pin == known.name)) {
            let Some(mechanism) = offers(known.name).then(|| (known.make)(&situation)).flatten() else { continue };
            let why = match self.exposure.allows(channel) {
                _ if known.strength < self.least => Local::TooWeak { offered: list(offered.clone()) },
                Err(why) if mechanism.exposes_secret() => why,
                Err(_) | Ok(()) => return Ok(mechanism),
            };
            hindrance.get_or_insert(why);
        }
        Err(hindrance.unwrap_or_else(|| Local::NoMechanism { offered: list(offered) }))
    }
}

fn list<'a>(offered: impl Iterator<Item = &'a str>) -> String {
    offered.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::Exposure;
    use smtp_core::channel::{Peer, TlsInfo};

    fn choose(credentials: &Credentials, offered: &str, channel: &ChannelInfo) -> Result<String, Local> {
        credentials.choose(offered.split(' '), channel).map(|m| m.name().to_owned())
    }

    fn channel(tls: Option<bool>) -> ChannelInfo {
        let mut info = ChannelInfo::new("tcp", Peer::Named("x".into()));
        info.secure = tls.is_some();
        info.tls = tls.map(|verified| Box::new(TlsInfo { verified, exporter: Some([7; 32]), ..TlsInfo::default() }));
        info
    }

    fn jo() -> Credentials {
        Credentials::new("jo", "pw").unwrap()
    }

    #[test]
    fn the_strongest_or_the_pinned_one() {
        let (jo, secure) = (jo(), channel(Some(true)));
        let all = "LOGIN CRAM-MD5 plain SCRAM-SHA-1 scram-sha-256 SCRAM-SHA-1-PLUS SCRAM-SHA-256-PLUS EXTERNAL XOAUTH2";
        for (offered, chosen) in [
            (all, "SCRAM-SHA-256-PLUS"),
            ("SCRAM-SHA-256 SCRAM-SHA-1-PLUS", "SCRAM-SHA-1-PLUS"),
            ("SCRAM-SHA-1 SCRAM-SHA-256", "SCRAM-SHA-256"),
            ("SCRAM-SHA-1 PLAIN", "SCRAM-SHA-1"),
            ("LOGIN plain CRAM-MD5", "PLAIN"),
            ("LOGIN CRAM-MD5", "LOGIN"),
        ] {
            assert_eq!(choose(&jo, offered, &secure).unwrap(), chosen);
        }
        for pin in ["LOGIN", "cram-md5", "SCRAM-SHA-1"] {
            assert_eq!(choose(&jo.clone().pinned(pin), all, &secure).unwrap(), pin.to_uppercase());
        }
        let none = Err(Local::NoMechanism { offered: "PLAIN".into() });
        assert_eq!(choose(&jo.clone().pinned("LOGIN"), "PLAIN", &secure), none);
        assert_eq!(choose(&jo, "CRAM-MD5", &secure), Err(Local::NoMechanism { offered: "CRAM-MD5".into() }));
    }

    #[test]
    fn each_kind_of_credentials_has_its_mechanisms() {
        let (secure, all) = (channel(Some(true)), "PLAIN SCRAM-SHA-256 XOAUTH2 OAUTHBEARER EXTERNAL ANONYMOUS");
        let token = Credentials::bearer("jo", "token").unwrap();
        assert_eq!(choose(&token, all, &secure).unwrap(), "OAUTHBEARER");
        assert_eq!(choose(&token, "PLAIN XOAUTH2", &secure).unwrap(), "XOAUTH2");
        assert!(choose(&token, "PLAIN SCRAM-SHA-256", &secure).is_err());
        assert_eq!(choose(&token, all, &channel(None)), Err(Local::Overheard));
        assert_eq!(choose(&Credentials::external(), all, &secure).unwrap(), "EXTERNAL");
        assert_eq!(choose(&Credentials::anonymous("").unwrap(), all, &secure).unwrap(), "ANONYMOUS");
    }

    #[test]
    fn nothing_below_the_minimum() {
        let secure = channel(Some(true));
        let too_weak = |offered: &str| Err(Local::TooWeak { offered: offered.into() });
        let mutual = jo().at_least(Strength::Mutual);
        assert_eq!(choose(&mutual, "PLAIN SCRAM-SHA-1", &secure).unwrap(), "SCRAM-SHA-1");
        assert_eq!(choose(&mutual, "PLAIN LOGIN", &secure), too_weak("PLAIN LOGIN"));
        let bound = jo().at_least(Strength::Bound);
        let both = "SCRAM-SHA-256-PLUS SCRAM-SHA-256";
        assert_eq!(choose(&bound, both, &secure).unwrap(), "SCRAM-SHA-256-PLUS");
        assert_eq!(choose(&bound, "SCRAM-SHA-256", &secure), too_weak("SCRAM-SHA-256"));
        assert_eq!(choose(&bound, both, &channel(None)), too_weak(both), "nothing to bind to");
    }

    #[test]
    fn what_is_said_of_channel_binding() {
        let first = |offered: &str, channel: &ChannelInfo, pin: &str| {
            let mut mechanism = jo().pinned(pin).choose(offered.split(' '), channel).unwrap();
            let message = mechanism.initial().unwrap().unwrap();
            String::from_utf8_lossy(message.expose()).split(",r=").next().unwrap().to_owned()
        };
        let (secure, both) = (channel(Some(true)), "SCRAM-SHA-256-PLUS SCRAM-SHA-256");
        assert_eq!(first(both, &secure, "SCRAM-SHA-256-PLUS"), "p=tls-exporter,,n=jo");
        // It could, and the server was not seen to offer it.
        assert_eq!(first("SCRAM-SHA-256", &secure, "SCRAM-SHA-256"), "y,,n=jo");
        // It was, and somebody pinned the other: `y` would look like a downgrade.
        assert_eq!(first(both, &secure, "SCRAM-SHA-256"), "n,,n=jo");
        assert_eq!(first("SCRAM-SHA-256", &channel(None), "SCRAM-SHA-256"), "n,,n=jo");
        let mut old = secure.clone();
        old.tls = Some(TlsInfo { server_end_point: Some([7; 32].into()), ..TlsInfo::default() }.into());
        assert_eq!(first(both, &old, "SCRAM-SHA-256-PLUS"), "p=tls-server-end-point,,n=jo");
    }

    #[test]
    fn secrets_travel_only_where_they_may() {
        let jo = jo();
        assert_eq!(choose(&jo, "PLAIN", &channel(None)), Err(Local::Overheard));
        assert_eq!(choose(&jo, "PLAIN", &channel(Some(false))), Err(Local::Unverified));
        assert!(choose(&jo, "PLAIN", &ChannelInfo::memory("x")).is_ok());
        let unverified = Exposure { to_unverified: true, ..Exposure::default() };
        let jo = jo.exposed(unverified);
        assert!(choose(&jo, "PLAIN", &channel(Some(false))).is_ok());
        assert_eq!(choose(&jo, "PLAIN", &channel(None)), Err(Local::Overheard));
        let jo = jo.exposed(Exposure { in_clear: true, ..unverified });
        assert!(choose(&jo, "PLAIN", &channel(None)).is_ok());
    }
}
