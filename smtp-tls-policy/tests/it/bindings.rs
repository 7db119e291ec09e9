use smtp_core::stream::Tlsa;
use smtp_core::types::Domain;
use smtp_dns::{Kind, LookupError, Memory, Name};
use smtp_tls_policy::{Binding, binding};

fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

fn tlsa(usage: u8) -> Tlsa {
    Tlsa { usage, selector: 1, matching: 1, data: vec![usage; 32] }
}

async fn of(dns: &Memory, alias: Option<&str>) -> Result<Binding, LookupError> {
    let alias = alias.map(|alias| Name::of(&domain(alias)).unwrap());
    binding(dns, &domain("mx.d.example"), alias.as_ref(), 25, &domain("d.example")).await
}

/// Whether certificates are checked, under which name, and which others they may show.
fn base(binding: &Binding) -> (&str, Vec<&str>, usize) {
    let Binding::Authenticated { dane, base } = binding else { panic!("{binding:?}") };
    (base.as_str(), dane.names.iter().map(Domain::as_str).collect(), dane.records.len())
}

const OWN: &str = "_25._tcp.mx.d.example";
const ALIAS: &str = "_25._tcp.real.example";

#[tokio::test]
async fn what_records_ask_for() {
    let dns = Memory::new().secure();
    assert_eq!(of(&dns, None).await, Ok(Binding::Free));
    let two = dns.clone().with_tlsa(OWN, tlsa(3)).with_tlsa(OWN, tlsa(1));
    assert_eq!(base(&of(&two, None).await.unwrap()), ("mx.d.example", vec!["d.example"], 1));
    for usage in [0, 1, 4] {
        let dns = dns.clone().with_tlsa(OWN, tlsa(usage));
        assert_eq!(of(&dns, None).await, Ok(Binding::Encrypted), "{usage}");
    }
    assert_eq!(of(&two.clone().unsigned(OWN), None).await, Ok(Binding::Free), "not proved");
    for dns in [two.clone().failing(OWN, Kind::Tlsa), two.bogus(OWN, Kind::Tlsa)] {
        assert!(!of(&dns, None).await.unwrap_err().is_certain());
    }
}

/// RFC 7672 §2.2.2: where the aliases lead counts, and the host's own name after it.
#[tokio::test]
async fn aliases_come_first() {
    let dns = Memory::new().with_tlsa(OWN, tlsa(3)).secure();
    let both = dns.clone().with_tlsa(ALIAS, tlsa(2)).with_tlsa(ALIAS, tlsa(3));
    let names = vec!["d.example", "mx.d.example"];
    assert_eq!(base(&of(&both, Some("real.example")).await.unwrap()), ("real.example", names, 2));
    let own = of(&dns, Some("real.example")).await.unwrap();
    assert_eq!(base(&own), ("mx.d.example", vec!["d.example"], 1));
    // Not knowing is no licence to go on.
    assert!(of(&dns.failing(ALIAS, Kind::Tlsa), Some("real.example")).await.is_err());
}
