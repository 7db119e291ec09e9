use std::sync::Arc;
use std::time::Duration;

use smtp_core::stream::{Address, Dane, Discover, Target, TlsMode, TlsPolicy, Verification};
use smtp_dns::{Kind, Memory, Svcb, SvcbDiscovery, Tlsa};

const HOST: &str = "mx.example";
const OWNER: &str = "_smtp.mx.example";

fn good(priority: u16) -> Svcb {
    Svcb::service(priority, ".").with_port(443).with_alpn(&["smtp-quic-00"])
}

fn tlsa() -> Tlsa {
    Tlsa { usage: 3, selector: 1, matching: 1, data: vec![0; 32] }
}

/// Where the host is found, or whether that could not be found out.
async fn look(dns: Memory, host: &str) -> Result<Option<String>, String> {
    let found = look_under(dns, host, &TlsPolicy::OPPORTUNISTIC).await?;
    Ok(found.map(|(target, policy)| {
        assert_eq!(policy, TlsPolicy::OPPORTUNISTIC);
        target.address.to_string()
    }))
}

async fn look_under(dns: Memory, host: &str, policy: &TlsPolicy) -> Result<Option<(Target, TlsPolicy)>, String> {
    let target = Target::host(host.parse().unwrap(), 25);
    let found = SvcbDiscovery::new(Arc::new(dns), "smtp-quic-00").discover(&target, policy).await;
    found.map_err(|error| error.to_string())
}

async fn port(records: &[Svcb]) -> Option<u16> {
    let dns = records.iter().fold(Memory::new(), |dns, record| dns.with_svcb(OWNER, record.clone()));
    let found = look(dns, HOST).await.unwrap()?;
    found.strip_prefix("mx.example:").unwrap().parse().ok()
}

#[tokio::test]
async fn only_a_record_that_leads_to_the_host_itself_counts() {
    assert_eq!(port(&[]).await, None);
    assert_eq!(port(&[good(1)]).await, Some(443));
    // The host's own name is what `.` means here.
    assert_eq!(port(&[Svcb { target: HOST.into(), ..good(1) }]).await, Some(443));
    assert_eq!(port(&[Svcb { target: "elsewhere.example".into(), ..good(1) }]).await, None);
    assert_eq!(port(&[Svcb { target: OWNER.into(), ..good(1) }]).await, None);
    assert_eq!(port(&[Svcb { port: None, ..good(1) }]).await, None);
    assert_eq!(port(&[Svcb { port: Some(0), ..good(1) }]).await, None);
    assert_eq!(port(&[Svcb { alpn: vec!["submission-quic-00".into()], ..good(1) }]).await, None);
    assert_eq!(port(&[Svcb { alpn: vec!["h3".into(), "smtp-quic-00".into()], ..good(1) }]).await, Some(443));
    assert_eq!(port(&[Svcb { unknown_mandatory: true, ..good(1) }]).await, None);
    assert_eq!(port(&[Svcb { no_default_alpn: false, ..good(1) }]).await, Some(443));
}

#[tokio::test]
async fn alias_mode_spoils_all() {
    assert_eq!(port(&[good(0)]).await, None);
    assert_eq!(port(&[good(1), Svcb::service(0, "other.example")]).await, None);
}

#[tokio::test]
async fn the_lowest_priority_that_counts_wins() {
    let at = |priority, port| good(priority).with_port(port);
    assert_eq!(port(&[at(9, 9), at(3, 3), at(5, 5)]).await, Some(3));
    assert_eq!(port(&[Svcb { port: None, ..good(1) }, at(5, 5)]).await, Some(5));
}

#[tokio::test]
async fn a_host_under_dane_is_left_on_tcp() {
    let dns = Memory::new().with_svcb(OWNER, good(1));
    assert_eq!(look(dns.clone().with_tlsa("_25._tcp.mx.example", tlsa()), HOST).await, Ok(None));
    // Those of another port say nothing of this one.
    let other = dns.clone().with_tlsa("_587._tcp.mx.example", tlsa());
    assert_eq!(look(other, HOST).await, Ok(Some("mx.example:443".into())));
    // Not knowing is no licence.
    for dns in [
        dns.clone().failing("_25._tcp.mx.example", Kind::Tlsa),
        dns.clone().bogus("_25._tcp.mx.example", Kind::Tlsa),
        dns.clone().failing(OWNER, Kind::Svcb),
        dns.bogus(OWNER, Kind::Svcb),
    ] {
        assert!(look(dns, HOST).await.is_err());
    }
}

#[tokio::test]
async fn under_dane_the_other_way_needs_records_of_its_own() {
    let own = |records| Dane { records, names: vec!["d.example".parse().unwrap()] };
    let under =
        |records| TlsPolicy { mode: TlsMode::Required, verification: Verification::Dane(Arc::new(own(records))) };
    let quic = Tlsa { data: vec![7; 32], ..tlsa() };
    let policy = under(vec![tlsa()]);
    let dns = || Memory::new().with_svcb(OWNER, good(1)).with_tlsa("_25._tcp.mx.example", tlsa());
    let at = "_443._quic.mx.example";

    let found = look_under(dns().with_tlsa(at, quic.clone()).secure(), HOST, &policy).await.unwrap().unwrap();
    assert_eq!(found.0.address.to_string(), "mx.example:443");
    assert_eq!(found.1, under(vec![quic.clone()]), "those of its own port, and the names stay");
    let unusable = Tlsa { usage: 1, ..quic.clone() };
    for (what, dns) in [
        ("none for QUIC", dns().secure()),
        ("none that can be used", dns().with_tlsa(at, unusable).secure()),
        ("not secure", dns().with_tlsa(at, quic.clone()).secure().unsigned(at)),
        ("SVCB not secure", dns().with_tlsa(at, quic.clone()).secure().unsigned(OWNER)),
    ] {
        assert_eq!(look_under(dns, HOST, &policy).await, Ok(None), "{what}");
    }
    for dns in [dns().failing(at, Kind::Tlsa), dns().bogus(at, Kind::Tlsa), dns().bogus(OWNER, Kind::Svcb)] {
        assert!(look_under(dns.secure(), HOST, &policy).await.is_err());
    }
}

#[tokio::test]
async fn only_names_are_looked_for() {
    let dns = Memory::new().with_svcb(OWNER, good(1));
    assert_eq!(look(dns.clone(), "[192.0.2.1]").await, Ok(None));
    assert_eq!(look(dns.clone(), "MX.Example").await, Ok(Some("MX.Example:443".into())));
    let path = Target { address: Address::Path("/run/smtp".into()), server_name: None };
    assert_eq!(SvcbDiscovery::new(dns, "smtp-quic-00").discover(&path, &TlsPolicy::OPPORTUNISTIC).await.unwrap(), None);
}

/// The name that the certificate must show is not the record's to change.
#[tokio::test]
async fn an_address_that_was_looked_up_is_kept_and_found_by_its_hosts_name() {
    let dns = Memory::new().with_svcb(OWNER, good(1));
    let mut target = Target::host("[192.0.2.7]".parse().unwrap(), 25);
    target.server_name = Some("mx.example".parse().unwrap());
    let found = SvcbDiscovery::new(Arc::new(dns), "smtp-quic-00").discover(&target, &TlsPolicy::OPPORTUNISTIC).await;
    let (found, _) = found.unwrap().unwrap();
    assert_eq!(found.address.to_string(), "192.0.2.7:443");
    assert_eq!(found.server_name, target.server_name);
}

#[tokio::test]
async fn the_reference_identity_stays() {
    let mut target = Target::host(HOST.parse().unwrap(), 25);
    target.server_name = Some("mail.example".parse().unwrap());
    let dns = Memory::new().with_svcb(OWNER, good(1));
    let found = SvcbDiscovery::new(dns, "smtp-quic-00").discover(&target, &TlsPolicy::OPPORTUNISTIC).await;
    let (found, _) = found.unwrap().unwrap();
    assert_eq!(found.server_name, target.server_name);
    assert_eq!(found.reference_identity(), target.reference_identity());
}

#[tokio::test(start_paused = true)]
async fn both_lookups_take_the_time_of_one() {
    let start = tokio::time::Instant::now();
    let dns = Memory::new().with_svcb(OWNER, good(1)).slow(Duration::from_millis(30));
    assert!(look(dns, HOST).await.unwrap().is_some());
    assert_eq!(start.elapsed().as_millis(), 30);
}
