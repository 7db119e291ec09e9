//! The decision, over a DNS.

use smtp_core::stream::LocalAddresses;
use smtp_core::types::{AddressLiteral, Domain, Host, Refusal};
use smtp_dns::{Dns, Kind, LookupError, Name, Security};

use crate::Own;
use crate::order::{Candidate, Exchanger, MailHost, hosts, order};

/// Limits of a search for mail exchangers, and where they are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The port: 25. Another is for networks of tests.
    pub port: u16,
    /// At most so many hosts of a domain are looked up, those of the lowest preference first: 20.
    pub hosts: usize,
    /// At most so many addresses are tried for a message, over all hosts: 10 (RFC 5321 §5.1 wants two at least).
    pub attempts: usize,
    /// Servers whose idle sessions are kept for reuse: 500.
    pub clients: usize,
    /// What the connector connects from, so that addresses of a family for which it has none are passed over and do not
    /// count as tried: the system's choice.
    pub local: LocalAddresses,
}

impl Default for Settings {
    fn default() -> Self {
        Self { port: 25, hosts: 20, attempts: 10, clients: 500, local: LocalAddresses::default() }
    }
}

/// The servers that take mail for `host`, those to try first in front: as [`hosts`] and [`order`] decide. An address
/// literal is its own and only server (RFC 5321 §4.1.3).
///
/// # Errors
/// What the sender is told. A transient refusal means that it is not known at the moment.
pub async fn exchangers(dns: &dyn Dns, host: &Host, own: &Own, settings: &Settings) -> Result<Vec<Exchanger>, Refusal> {
    match host {
        Host::Domain(domain) => of_domain(dns, domain, own, settings).await,
        Host::Literal(literal) => of_literal(literal, own),
    }
}

fn of_literal(literal: &AddressLiteral, own: &Own) -> Result<Vec<Exchanger>, Refusal> {
    let ip = match literal {
        AddressLiteral::V4(ip) => (*ip).into(),
        AddressLiteral::V6(ip) => (*ip).into(),
        AddressLiteral::General(_) => {
            return Err(Refusal::new(550, (5, 1, 2), format!("{literal} is not an address that mail can be sent to")));
        }
    };
    if own.has_address(ip) {
        let why = "it is this host's, which takes no mail for it";
        return Err(Refusal::new(554, (5, 4, 6), format!("mail for {literal} would go in circles: {why}")));
    }
    let (named, located) = (Security::Secure, Security::Secure);
    Ok(vec![Exchanger { name: None, addresses: vec![ip], named, located, alias: None }])
}

async fn of_domain(dns: &dyn Dns, domain: &Domain, own: &Own, settings: &Settings) -> Result<Vec<Exchanger>, Refusal> {
    let name = name(domain)?;
    let mut hosts = hosts(domain, dns.mx(&name).await)?;
    // Where there are too many, chance decides among equals which are looked at.
    fastrand::shuffle(&mut hosts);
    hosts.sort_by_key(|host| host.preference);
    // This host is never one too many: that it is there decides about all that stand behind it.
    let kept = hosts.iter().position(|host| own.has_name(&host.name)).map_or(settings.hosts, |own| own + 1);
    hosts.truncate(kept.max(1).min(settings.hosts.max(1)));
    let mut candidates = Vec::with_capacity(hosts.len());
    for host in hosts {
        candidates.push(look_up(dns, host).await);
    }
    order(domain, candidates, own, &mut |n| fastrand::usize(..n))
}

async fn look_up(dns: &dyn Dns, host: MailHost) -> Candidate {
    let addresses = match Name::of(&host.name) {
        Ok(name) => dns.addresses(&name).await,
        // Too long for the DNS, so it has no addresses in it.
        Err(_) => Err(LookupError::NotFound {
            name: host.name.as_str().into(),
            kind: Kind::Address,
            name_exists: false,
            security: Security::Insecure,
        }),
    };
    Candidate { host, addresses }
}

fn name(domain: &Domain) -> Result<Name, Refusal> {
    Name::of(domain).map_err(|invalid| Refusal::new(550, (5, 1, 2), format!("{domain}: {invalid}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_dns::Memory;

    fn dns() -> Memory {
        Memory::new()
            .with_mx("d.example", 10, Some("a.example".parse().unwrap()))
            .with_mx("d.example", 20, Some("me.example".parse().unwrap()))
            .with_address("a.example", "192.0.2.1".parse().unwrap())
            .with_address("a.example", "2001:db8::1".parse().unwrap())
            .with_address("me.example", "192.0.2.9".parse().unwrap())
            .with_address("plain.example", "192.0.2.7".parse().unwrap())
            .with_mx("slow.example", 10, Some("lost.example".parse().unwrap()))
            .failing("lost.example", Kind::Address)
            .failing("broken.example", Kind::Mx)
    }

    async fn found(host: &str) -> Result<String, String> {
        let own = Own::new(["me.example"], ["192.0.2.9".parse().unwrap()]);
        let found = exchangers(&dns(), &host.parse().unwrap(), &own, &Settings::default()).await;
        let shown = |exchanger: &Exchanger| {
            let name = exchanger.name.as_ref().map_or("-", |name| name.as_str());
            let addresses: Vec<_> = exchanger.addresses.iter().map(ToString::to_string).collect();
            format!("{name} {}", addresses.join(" "))
        };
        found.map(|all| all.iter().map(shown).collect::<Vec<_>>().join(", ")).map_err(|r| r.to_string()[..9].to_owned())
    }

    #[tokio::test]
    async fn domains_and_literals() {
        for (host, expected) in [
            ("d.example", Ok("a.example 192.0.2.1 2001:db8::1")),
            ("plain.example", Ok("plain.example 192.0.2.7")),
            ("nowhere.example", Err("550 5.1.2")),
            ("slow.example", Err("451 4.4.3")),
            ("broken.example", Err("451 4.4.3")),
            ("me.example", Err("554 5.4.6")),
            ("[192.0.2.44]", Ok("- 192.0.2.44")),
            ("[IPv6:2001:db8::44]", Ok("- 2001:db8::44")),
            ("[192.0.2.9]", Err("554 5.4.6")),
            ("[127.0.0.1]", Err("554 5.4.6")),
            ("[x400:somewhere]", Err("550 5.1.2")),
        ] {
            let found = found(host).await;
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn a_crowd_of_hosts_is_cut_and_the_best_stay() {
        let mut dns = Memory::new();
        for n in 0..100_u16 {
            let name = format!("h{n}.example");
            dns = dns.with_mx("crowd.example", n, Some(name.parse().unwrap()));
            dns = dns.with_address(&name, "192.0.2.1".parse().unwrap());
        }
        let settings = Settings { hosts: 3, ..Settings::default() };
        let found = exchangers(&dns, &"crowd.example".parse().unwrap(), &Own::new([], []), &settings).await.unwrap();
        let names: Vec<_> = found.iter().map(|exchanger| exchanger.name.as_ref().unwrap().as_str()).collect();
        assert_eq!(names, ["h0.example", "h1.example", "h2.example"]);
    }
}
