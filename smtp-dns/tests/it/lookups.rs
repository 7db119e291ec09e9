use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use smtp_core::stream::Resolve;
use smtp_core::types::Domain;
use smtp_dns::{Dns, Kind, LookupError, Memory, Name, Resolver, Security, Settings};

fn name(text: &str) -> Name {
    Name::of(&Domain::new(text).unwrap()).unwrap()
}

#[tokio::test]
async fn certainty_is_told_from_failure() {
    let dns = Memory::new().with_txt("a.example", b"x").failing("b.example", Kind::Mx).bogus("c.example", Kind::Tlsa);
    let error = dns.mx(&name("a.example")).await.unwrap_err();
    assert!(matches!(error, LookupError::NotFound { name_exists: true, .. }) && error.is_certain());
    let error = dns.mx(&name("x.example")).await.unwrap_err();
    assert!(matches!(error, LookupError::NotFound { name_exists: false, .. }) && error.is_certain());
    let error = dns.mx(&name("b.example")).await.unwrap_err();
    assert!(matches!(error, LookupError::Temporary { .. }) && !error.is_certain());
    let error = dns.tlsa(&name("c.example")).await.unwrap_err();
    assert!(matches!(error, LookupError::Bogus { .. }) && !error.is_certain());
}

#[tokio::test]
async fn only_certainty_is_not_found_for_a_connector() {
    let dns = Memory::new().failing("b.example", Kind::Address);
    let kind = async |text: &str| dns.resolve(&Domain::new(text).unwrap()).await.unwrap_err().kind();
    assert_eq!(kind("a.example").await, std::io::ErrorKind::NotFound);
    assert_eq!(kind("b.example").await, std::io::ErrorKind::Other);
}

#[tokio::test]
async fn the_null_mx_is_told_from_none() {
    let dns = Memory::new().with_mx("null.example", 0, None).secure();
    let answer = dns.mx(&name("null.example")).await.unwrap();
    assert_eq!((answer.records[0].exchange.as_ref(), answer.security), (None, Security::Secure));
}

#[tokio::test]
async fn an_answer_tells_where_aliases_lead_and_is_as_weak_as_they_are() {
    let dns = Memory::new()
        .with_alias("a.example", "b.example")
        .with_alias("b.example", "c.example")
        .with_txt("c.example", b"x")
        .with_alias("loop.example", "loop.example")
        .secure();
    let answer = dns.txt(&name("a.example")).await.unwrap();
    assert_eq!((answer.alias, answer.security), (Some(name("c.example")), Security::Secure));
    assert_eq!(dns.txt(&name("c.example")).await.unwrap().alias, None);
    let weak = dns.clone().unsigned("b.example").txt(&name("a.example")).await.unwrap();
    assert_eq!(weak.security, Security::Insecure);
    assert!(!dns.txt(&name("loop.example")).await.unwrap_err().is_certain());
}

#[test]
fn names_have_their_limits() {
    let long = Domain::new(&["a"; 127].join(".")).unwrap();
    assert!(Name::of(&long).is_ok());
    assert!(Name::below(&["_25", "_tcp"], &long).is_err());
    assert!(
        Name::of(&Domain::new(&"ü".repeat(31)).unwrap()).is_err() || Name::of(&long).unwrap().as_str().len() <= 253
    );
}

/// A name server that never answers costs its time, not more, and says nothing of the name.
#[tokio::test]
async fn a_silent_name_server_is_no_certainty() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let servers: Vec<SocketAddr> = vec![silent.local_addr().unwrap()];
    let total_timeout = Duration::from_millis(300);
    let dns = Resolver::new(Settings { servers, total_timeout, ..Settings::default() }).unwrap();
    let start = std::time::Instant::now();
    let error = dns.mx(&name("a.example")).await.unwrap_err();
    assert!(matches!(error, LookupError::Temporary { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(error.to_string().starts_with("a.example: MX lookup failed for now"), "{error}");
}
