//! Answers from a table.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use smtp_core::stream::Resolve;
use smtp_core::types::Domain;

use crate::dns::{Dns, resolve};
use crate::{Answer, Kind, LookupError, Mx, Name, Security, Svcb, Tlsa};

/// How many aliases are followed.
const MAX_ALIASES: usize = 8;

/// A DNS in memory, for tests. Names are taken as they are written, without the dot at the end, in lower case.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    records: HashMap<Box<str>, Vec<Record>>,
    failing: HashMap<(Box<str>, Kind), bool>,
    aliases: HashMap<Box<str>, Name>,
    secure: bool,
    unsigned: HashSet<Box<str>>,
    delay: Duration,
}

#[derive(Debug, Clone)]
enum Record {
    Address(IpAddr),
    Mx(Mx),
    Svcb(Svcb),
    Tlsa(Tlsa),
    Txt(Box<[u8]>),
}

impl Memory {
    /// A DNS with nothing in it: no name exists.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with an address.
    #[must_use]
    pub fn with_address(self, name: &str, ip: IpAddr) -> Self {
        self.with(name, Record::Address(ip))
    }

    /// The same with an MX record; `None` is the null MX.
    #[must_use]
    pub fn with_mx(self, name: &str, preference: u16, exchange: Option<Domain>) -> Self {
        self.with(name, Record::Mx(Mx { preference, exchange }))
    }

    /// The same with an SVCB record.
    #[must_use]
    pub fn with_svcb(self, name: &str, svcb: Svcb) -> Self {
        self.with(name, Record::Svcb(svcb))
    }

    /// The same with a TLSA record.
    #[must_use]
    pub fn with_tlsa(self, name: &str, tlsa: Tlsa) -> Self {
        self.with(name, Record::Tlsa(tlsa))
    }

    /// The same with a TXT record.
    #[must_use]
    pub fn with_txt(self, name: &str, text: &[u8]) -> Self {
        self.with(name, Record::Txt(text.into()))
    }

    /// The same with a CNAME record. Chains are followed over eight of them.
    #[must_use]
    pub fn with_alias(mut self, name: &str, to: &str) -> Self {
        self.aliases.insert(name.into(), Name::found(to));
        self
    }

    /// The same, in which looking up `kind` at `name` fails for now.
    #[must_use]
    pub fn failing(mut self, name: &str, kind: Kind) -> Self {
        self.failing.insert((name.into(), kind), false);
        self
    }

    /// The same, in which what is found for `kind` at `name` is bogus.
    #[must_use]
    pub fn bogus(mut self, name: &str, kind: Kind) -> Self {
        self.failing.insert((name.into(), kind), true);
        self
    }

    /// The same, in which all answers are proved by DNSSEC.
    #[must_use]
    pub fn secure(self) -> Self {
        Self { secure: true, ..self }
    }

    /// The same, in which nothing about `name` is proved, whatever [`secure`](Self::secure) says.
    #[must_use]
    pub fn unsigned(mut self, name: &str) -> Self {
        self.unsigned.insert(name.into());
        self
    }

    /// The same, in which every answer takes `delay`. Default: none.
    #[must_use]
    pub fn slow(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    fn with(mut self, name: &str, record: Record) -> Self {
        self.records.entry(name.into()).or_default().push(record);
        self
    }

    async fn find<T>(
        &self,
        name: &Name,
        kind: Kind,
        pick: impl Fn(&Record) -> Option<T>,
    ) -> Result<Answer<T>, LookupError> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let mut security = Security::Secure;
        let mut at = name.clone();
        for _ in 0..=MAX_ALIASES {
            security = security.min(self.security(&at));
            let (asked, at_name) = (Box::<str>::from(name.as_str()), Box::<str>::from(at.as_str()));
            match self.failing.get(&(at_name.clone(), kind)) {
                Some(true) => return Err(LookupError::Bogus { name: asked, kind }),
                Some(false) => return Err(LookupError::Temporary { name: asked, kind, why: "told to fail".into() }),
                None => {}
            }
            if let Some(to) = self.aliases.get(&at_name) {
                at = to.clone();
                continue;
            }
            let all = self.records.get(&at_name);
            let records: Vec<T> = all.into_iter().flatten().filter_map(&pick).collect();
            if records.is_empty() {
                return Err(LookupError::NotFound { name: asked, kind, name_exists: all.is_some(), security });
            }
            let alias = (at != *name).then_some(at);
            return Ok(Answer { records, security, alias, ttl: Duration::from_secs(300) });
        }
        Err(LookupError::Temporary { name: name.as_str().into(), kind, why: "too many aliases".into() })
    }

    fn security(&self, name: &Name) -> Security {
        let proved = self.secure && !self.unsigned.contains(name.as_str());
        if proved { Security::Secure } else { Security::Insecure }
    }
}

#[async_trait]
impl Dns for Memory {
    async fn addresses(&self, name: &Name) -> Result<Answer<IpAddr>, LookupError> {
        let pick = |record: &Record| if let Record::Address(ip) = record { Some(*ip) } else { None };
        self.find(name, Kind::Address, pick).await
    }

    async fn mx(&self, name: &Name) -> Result<Answer<Mx>, LookupError> {
        let pick = |record: &Record| if let Record::Mx(mx) = record { Some(mx.clone()) } else { None };
        self.find(name, Kind::Mx, pick).await
    }

    async fn svcb(&self, name: &Name) -> Result<Answer<Svcb>, LookupError> {
        let pick = |record: &Record| if let Record::Svcb(svcb) = record { Some(svcb.clone()) } else { None };
        self.find(name, Kind::Svcb, pick).await
    }

    async fn tlsa(&self, name: &Name) -> Result<Answer<Tlsa>, LookupError> {
        let pick = |record: &Record| if let Record::Tlsa(tlsa) = record { Some(tlsa.clone()) } else { None };
        self.find(name, Kind::Tlsa, pick).await
    }

    async fn txt(&self, name: &Name) -> Result<Answer<Box<[u8]>>, LookupError> {
        let pick = |record: &Record| if let Record::Txt(text) = record { Some(text.clone()) } else { None };
        self.find(name, Kind::Txt, pick).await
    }
}

#[async_trait]
impl Resolve for Memory {
    async fn resolve(&self, name: &Domain) -> io::Result<Vec<IpAddr>> {
        resolve(self, name).await
    }
}
