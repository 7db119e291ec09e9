//! The decision: which servers take a domain's mail, and in which order. No I/O, no clock; chance is a parameter.

use std::net::IpAddr;

use smtp_core::types::{Domain, Refusal};
use smtp_dns::{Answer, LookupError, Mx, Security};

use crate::Own;

/// A host that a domain names for its mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailHost {
    /// Lower comes first.
    pub preference: u16,
    /// Its name.
    pub name: Domain,
    /// No MX record names it: it is the domain itself, which has none (RFC 5321 §5.1).
    pub implicit: bool,
    /// Whether DNSSEC has proved that the domain names it.
    pub security: Security,
}

/// A mail host, and what the DNS says of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The host.
    pub host: MailHost,
    /// Its addresses, in the order in which to try them.
    pub addresses: Result<Answer<IpAddr>, LookupError>,
}

/// A server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchanger {
    /// Its name, for its certificate and the log; none if the mail is for an address literal.
    pub name: Option<Domain>,
    /// Its addresses, in the order in which to try them; at least one.
    pub addresses: Vec<IpAddr>,
    /// Whether DNSSEC has proved that the domain names it. An address literal was looked up nowhere, and counts as proved.
    pub named: Security,
    /// Whether DNSSEC has proved that these are its addresses.
    pub located: Security,
    /// The name that has the addresses, if it is another: where the host's aliases lead.
    pub alias: Option<smtp_dns::Name>,
}

/// The hosts that `domain` names for its mail, from the answer to a question for its MX records.
///
/// Without MX records the domain itself is the host. A CNAME in the domain's place was followed by the lookup, as
/// RFC 5321 §5.1 says; one in the place of an MX host it forbids, and following it is what everybody does.
///
/// # Errors
/// What a sender is told: 556 5.1.10 for the null MX (RFC 7505 §3), 550 5.1.2 for a name that does not exist, 550 5.4.4 if
/// no record can be used, and 451 4.4.3 if it is not known.
pub fn hosts(domain: &Domain, answer: Result<Answer<Mx>, LookupError>) -> Result<Vec<MailHost>, Refusal> {
    let (records, security) = match answer {
        Ok(answer) => (answer.records, answer.security),
        Err(LookupError::NotFound { name_exists: true, security, .. }) => {
            return Ok(vec![MailHost { preference: 0, name: domain.clone(), implicit: true, security }]);
        }
        Err(error) if error.is_certain() => return Err(no_such_domain(domain)),
        Err(error) => return Err(unknown(&error)),
    };
    let is_null = !records.is_empty() && records.iter().all(|mx| mx.exchange.is_none());
    if is_null {
        return Err(Refusal::new(556, (5, 1, 10), format!("{domain} takes no mail (null MX)")));
    }
    // Beside others a null MX means nothing: RFC 7505 §3 forbids it there.
    let named = records
        .into_iter()
        .filter_map(|Mx { preference, exchange }| Some((preference, exchange?)))
        .map(|(preference, name)| MailHost { preference, name, implicit: false, security });
    let hosts: Vec<_> = named.collect();
    if hosts.is_empty() {
        return Err(Refusal::new(550, (5, 4, 4), format!("no MX record of {domain} names a host")));
    }
    Ok(hosts)
}

/// The servers for `domain`'s mail, those to try first in front: by preference, and by chance among equals. `chance(n)`
/// gives a number below `n`.
///
/// If this host is among the candidates, by name or by an address, those of its own preference and behind are left out,
/// itself included (RFC 5321 §5.1). Addresses that are no host's (unspecified, multicast, broadcast) do not count.
///
/// # Errors
/// 554 5.4.6 if nobody stands before this host: the domain's mail is meant for it, and it does not know the domain.
/// 451 4.4.3 if no address is known because looking them up failed for now, else 550 5.4.4, or 550 5.1.2 if the
/// domain has neither MX records nor addresses.
pub fn order(
    domain: &Domain,
    mut candidates: Vec<Candidate>,
    own: &Own,
    chance: &mut dyn FnMut(usize) -> usize,
) -> Result<Vec<Exchanger>, Refusal> {
    // First by chance, then by preference with a sort that keeps the order of equals.
    for n in (1..candidates.len()).rev() {
        candidates.swap(n, chance(n + 1).min(n));
    }
    candidates.sort_by_key(|candidate| candidate.host.preference);
    for candidate in &mut candidates {
        if let Ok(answer) = &mut candidate.addresses {
            answer.records.retain(|ip| is_a_hosts(*ip));
        }
    }
    let is_own = |candidate: &Candidate| {
        own.has_name(&candidate.host.name)
            || candidate.addresses.iter().flat_map(|answer| &answer.records).any(|ip| own.has_address(*ip))
    };
    if let Some(mine) = candidates.iter().filter(|c| is_own(c)).map(|c| c.host.preference).min() {
        candidates.retain(|candidate| candidate.host.preference < mine);
        if candidates.is_empty() {
            let why = "the DNS sends its mail to this host, which does not know it as a domain of its own";
            return Err(Refusal::new(554, (5, 4, 6), format!("mail for {domain} would go in circles: {why}")));
        }
    }
    let failed = candidates.iter().find_map(|c| c.addresses.as_ref().err().filter(|error| !error.is_certain()));
    let failed = failed.map(unknown);
    let implicit = candidates.iter().all(|candidate| candidate.host.implicit);
    let found: Vec<_> = candidates
        .into_iter()
        .filter_map(|Candidate { host, addresses }| {
            let Answer { records, security, alias, .. } = addresses.ok().filter(|answer| !answer.records.is_empty())?;
            let (named, located) = (host.security, security);
            Some(Exchanger { name: Some(host.name), addresses: records, named, located, alias })
        })
        .collect();
    match failed {
        _ if !found.is_empty() => Ok(found),
        Some(failed) => Err(failed),
        None if implicit => Err(no_such_domain(domain)),
        None => Err(Refusal::new(550, (5, 4, 4), format!("no mail host of {domain} has an address"))),
    }
}

fn is_a_hosts(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !ip.is_unspecified() && !ip.is_multicast() && !matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}

fn no_such_domain(domain: &Domain) -> Refusal {
    Refusal::new(550, (5, 1, 2), format!("{domain} does not exist, or takes no mail: no MX record and no address"))
}

fn unknown(error: &LookupError) -> Refusal {
    Refusal::new(451, (4, 4, 3), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_dns::Kind;
    use std::time::Duration;

    fn domain() -> Domain {
        "d.example".parse().unwrap()
    }

    fn answer(records: &[(u16, &str)]) -> Result<Answer<Mx>, LookupError> {
        let mx = |(preference, name): &(u16, &str)| Mx {
            preference: *preference,
            exchange: (*name != ".").then(|| name.parse().unwrap()),
        };
        let ttl = Duration::from_secs(300);
        Ok(Answer { records: records.iter().map(mx).collect(), security: Security::Insecure, alias: None, ttl })
    }

    fn at(addresses: Vec<IpAddr>) -> Result<Answer<IpAddr>, LookupError> {
        let ttl = Duration::from_secs(300);
        Ok(Answer { records: addresses, security: Security::Secure, alias: None, ttl })
    }

    fn missing(kind: Kind, name_exists: bool) -> LookupError {
        LookupError::NotFound { name: "d.example".into(), kind, name_exists, security: Security::Insecure }
    }

    fn failing(kind: Kind) -> LookupError {
        LookupError::Temporary { name: "d.example".into(), kind, why: "SERVFAIL".into() }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
        let refusal = result.unwrap_err().to_string();
        refusal.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_the_answer_for_mx_means() {
        let bogus = LookupError::Bogus { name: "d.example".into(), kind: Kind::Mx };
        for (answer, refused) in [
            (answer(&[(0, ".")]), "556 5.1.10"),
            (answer(&[(10, "."), (0, ".")]), "556 5.1.10"),
            (answer(&[]), "550 5.4.4"),
            (Err(missing(Kind::Mx, false)), "550 5.1.2"),
            (Err(failing(Kind::Mx)), "451 4.4.3"),
            (Err(bogus), "451 4.4.3"),
        ] {
            assert_eq!(code(hosts(&domain(), answer)), refused);
        }
        let implicit = hosts(&domain(), Err(missing(Kind::Mx, true))).unwrap();
        let itself = MailHost { preference: 0, name: domain(), implicit: true, security: Security::Insecure };
        assert_eq!(implicit, [itself]);
        let beside = hosts(&domain(), answer(&[(0, "."), (5, "a.example")])).unwrap();
        assert_eq!(beside.len(), 1, "a null MX beside others means nothing");
    }

    /// `"10 a 192.0.2.1 192.0.2.2"`: a host with addresses; `none`: without; `fails`: its lookup fails for now.
    fn candidates(lines: &[&str]) -> Vec<Candidate> {
        let candidate = |line: &&str| {
            let words: Vec<&str> = line.split(' ').collect();
            let addresses = match words[2] {
                "none" => Err(missing(Kind::Address, true)),
                "fails" => Err(failing(Kind::Address)),
                _ => at(words[2..].iter().map(|ip| ip.parse().unwrap()).collect()),
            };
            let (preference, name) = (words[0].parse().unwrap(), words[1].parse().unwrap());
            let host = MailHost { preference, name, implicit: false, security: Security::Insecure };
            Candidate { host, addresses }
        };
        lines.iter().map(candidate).collect()
    }

    fn decide(lines: &[&str]) -> Result<String, Refusal> {
        let own = Own::new(["me.example"], ["192.0.2.99".parse().unwrap()]);
        let found = order(&domain(), candidates(lines), &own, &mut |n| n - 1)?;
        let names = found.iter().map(|exchanger| exchanger.name.as_ref().unwrap().as_str());
        Ok(names.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn by_preference_and_never_to_oneself_or_behind() {
        for (lines, expected) in [
            (&["20 b 192.0.2.2", "10 a 192.0.2.1"][..], Ok("a b")),
            // This host, by name: those before it, none behind, none beside.
            (&["10 a 192.0.2.1", "20 me.example 192.0.2.5", "30 c 192.0.2.3"], Ok("a")),
            (&["10 a 192.0.2.1", "20 ME.EXAMPLE none", "20 b 192.0.2.2"], Ok("a")),
            // By address, though the name is another.
            (&["10 a 192.0.2.1", "20 alias 192.0.2.99", "30 c 192.0.2.3"], Ok("a")),
            (&["10 a 192.0.2.1", "20 alias 192.0.2.7 ::ffff:192.0.2.99"], Ok("a")),
            (&["10 a 192.0.2.1", "20 inside 127.0.0.1"], Ok("a")),
            // Nobody stands before it.
            (&["10 me.example 192.0.2.5", "20 b 192.0.2.2"], Err("554 5.4.6")),
            (&["10 a 192.0.2.1", "10 me.example 192.0.2.5"], Err("554 5.4.6")),
            (&["10 inside ::1"], Err("554 5.4.6")),
            // Its place among the hosts counts even if the better ones cannot be used.
            (&["10 a none", "20 me.example 192.0.2.5", "30 c 192.0.2.3"], Err("550 5.4.4")),
            (&["10 a fails", "20 me.example 192.0.2.5"], Err("451 4.4.3")),
            // Hosts without addresses are skipped.
            (&["10 a none", "20 b 192.0.2.2"], Ok("b")),
            (&["10 a fails", "20 b 192.0.2.2"], Ok("b")),
            (&["10 a none", "20 b none"], Err("550 5.4.4")),
            (&["10 a none", "20 b fails"], Err("451 4.4.3")),
            // What is no host's address is none.
            (&["10 a 0.0.0.0 224.0.0.1 255.255.255.255 :: ff02::1", "20 b 192.0.2.2"], Ok("b")),
            (&["10 a 0.0.0.0"], Err("550 5.4.4")),
        ] {
            let decided = decide(lines);
            match expected {
                Ok(names) => assert_eq!(decided.as_deref(), Ok(names), "{lines:?}"),
                Err(refused) => assert_eq!(code(decided), refused, "{lines:?}"),
            }
        }
    }

    #[test]
    fn a_domain_with_neither_mx_nor_address_does_not_exist_for_mail() {
        let own = Own::new([], []);
        let host = MailHost { preference: 0, name: domain(), implicit: true, security: Security::Insecure };
        let candidate = |addresses| vec![Candidate { host: host.clone(), addresses }];
        let decide = |addresses| order(&domain(), candidate(addresses), &own, &mut |_| 0);
        assert_eq!(code(decide(Err(missing(Kind::Address, true)))), "550 5.1.2");
        assert_eq!(code(decide(Err(failing(Kind::Address)))), "451 4.4.3");
        let found = decide(at(vec!["192.0.2.1".parse().unwrap()])).unwrap();
        assert_eq!((found.len(), found[0].named, found[0].located), (1, Security::Insecure, Security::Secure));
    }

    #[test]
    fn equals_take_turns_and_no_one_else() {
        let lines = ["10 a 192.0.2.1", "10 b 192.0.2.2", "10 c 192.0.2.3", "5 first 192.0.2.4", "20 last 192.0.2.5"];
        let mut seen = std::collections::HashMap::<String, u32>::new();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..600 {
            let found = order(&domain(), candidates(&lines), &Own::new([], []), &mut |n| random.usize(..n)).unwrap();
            let names: Vec<&str> = found.iter().map(|exchanger| exchanger.name.as_ref().unwrap().as_str()).collect();
            assert_eq!((names[0], names[4]), ("first", "last"));
            *seen.entry(names[1..4].concat()).or_default() += 1;
        }
        assert_eq!(seen.len(), 6, "every order of the three");
        assert!(seen.values().all(|n| (50..170).contains(n)), "none much more often than another: {seen:?}");
    }
}
