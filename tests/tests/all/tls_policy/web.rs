//! Getting MTA-STS policies from a real web server.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use smtp_dns::Memory;
use smtp_tests::peers::{Https, require};
use smtp_tls::ClientTls;
use smtp_tls_policy::{Fetch, FetchError, HttpsFetch};

use crate::transports::with_runtime;

#[test]
fn only_a_policy_that_is_served_as_it_has_to_be_is_taken() {
    with_runtime(async {
        let key = KeyPair::generate().unwrap();
        let names = ["good", "big", "full", "gone", "moved", "page", "bytes", "broken", "untyped"];
        let hosts: Vec<String> = names.iter().map(|name| format!("mta-sts.{name}.example")).collect();
        let certificate = CertificateParams::new(hosts.clone()).unwrap().self_signed(&key).unwrap().pem();
        let Some(web) = require(Https::start(&certificate, &key.serialize_pem())) else { return };
        let host = |name: &str| format!("mta-sts.{name}.example");
        let policy = "version: STSv1\nmode: none\nmax_age: 1\n";
        web.policy(&host("good"), policy);
        web.policy(&host("full"), &"x".repeat(64 << 10));
        web.policy(&host("big"), &"x".repeat((64 << 10) + 1));
        web.answer(&host("moved"), &format!("301 https://{}/.well-known/mta-sts.txt", host("good")), b"");
        web.answer(&host("page"), "200 text/html; charset=utf-8", policy.as_bytes());
        web.answer(&host("bytes"), "200 text/plain", b"version: STSv1\xff\n");
        web.answer(&host("broken"), "500 text/plain", policy.as_bytes());
        web.policy(&host("othername"), policy);

        let folder = tempfile::tempdir().unwrap();
        let anchor = folder.path().join("anchor.pem");
        std::fs::write(&anchor, &certificate).unwrap();
        let mut dns = Memory::new();
        for name in names.into_iter().chain(["othername"]) {
            dns = dns.with_address(&host(name), "127.0.0.1".parse().unwrap());
        }
        let dns = Arc::new(dns);
        let tls = ClientTls::builder().ca_file(&anchor).build().unwrap();
        let fetch = HttpsFetch::new(dns.clone(), &tls, web.port());
        let get = async |name: &str| fetch.fetch(&format!("{name}.example").parse().unwrap()).await;

        assert_eq!(get("good").await.unwrap(), policy);
        assert_eq!(get("full").await.unwrap().len(), 64 << 10);
        for (name, part) in [
            ("big", "length limit"),
            ("gone", "404"),
            ("moved", "301"),
            ("page", "text/html"),
            ("bytes", "UTF-8"),
            ("broken", "500"),
        ] {
            let error = get(name).await.unwrap_err();
            assert!(matches!(error, FetchError::Http(_)), "{name}: {error:?}");
            assert!(error.to_string().contains(part), "{name}: {error}");
            assert_eq!(error.kind().to_string(), "sts-policy-fetch-error");
        }
        let error = get("othername").await.unwrap_err();
        assert!(matches!(error, FetchError::Tls(_)), "{error:?}");
        assert_eq!(error.kind().to_string(), "sts-webpki-invalid");
        assert!(matches!(get("nowhere").await.unwrap_err(), FetchError::Lookup(_)));

        // Nobody else's certificate will do, and a server that is gone is an error.
        let stranger = CertificateParams::new(hosts).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
        std::fs::write(&anchor, stranger.pem()).unwrap();
        let tls = ClientTls::builder().ca_file(&anchor).build().unwrap();
        let error = HttpsFetch::new(dns, &tls, web.port()).fetch(&"good.example".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, FetchError::Tls(_)), "{error:?}");
        drop(web);
        assert!(matches!(get("good").await.unwrap_err(), FetchError::Io(_)));
    });
}
