//! The same through `smtp serve`: what an administrator sets, and sees.

use std::time::{Duration, Instant};

use smtp_tests::binary::{self, Server};
use smtp_tests::peers::require;

use super::{Case, Kind, Published, World};
use crate::transports::with_runtime;

const PATIENCE: Duration = Duration::from_secs(60);

const CASES: [Case; 6] = [
    Case("ee", Kind::SelfSigned, Published::KeyFits),
    Case("mismatch", Kind::Good, Published::NoRecordFits),
    Case("bogus", Kind::Good, Published::ForgedRecord),
    Case("enforce", Kind::Good, Published::EnforcePolicy),
    Case("enforce-self", Kind::SelfSigned, Published::EnforcePolicy),
    Case("self", Kind::SelfSigned, Published::Nothing),
];

#[test]
fn an_administrator_sets_policies_and_sees_what_comes_of_them() {
    with_runtime(async {
        let Some(world) = require(World::start(&CASES)) else { return };
        // The servers have threads of their own.
        play(&world);
    });
}

fn play(world: &World) {
    let (dns, anchor, ca) = (world.nsd.address().to_string(), world.nsd.trust_anchor(), world.ca_file());
    let (port, web) = (world.port.to_string(), world.web.port().to_string());
    let mut arguments = vec!["--listen", "smtp://127.0.0.1:0", "--dns", &dns, "--mx-port", &port];
    arguments.extend(["--dnssec-anchor", anchor.to_str().unwrap(), "--mx-tls-ca", ca.to_str().unwrap()]);
    arguments.extend(["--mx-sts-port", &web, "--queue-retry", "1h", "--domain", "ours.test"]);
    arguments.extend(["--tls-policy", "dane+sts", "--tls-policy", "self.example=required"]);
    let domains: Vec<String> = CASES.iter().map(Case::domain).collect();
    arguments.extend(domains.iter().flat_map(|domain| ["--relay-domain", domain]));
    let Some(server) = require(Server::start(&arguments)) else { return };
    let data = server.data_dir();
    let data = data.to_str().unwrap();
    let queue = |words: &[&str]| {
        let words = [&["queue"], words, &["--data-dir", data]].concat();
        require(binary::run(&words)).unwrap().text()
    };
    for domain in &domains {
        let to = format!("u@{domain}");
        let sent = binary::run(&["send", "--server", &server.urls()[0], "--from", "a@client.test", "--to", &to]);
        let sent = require(sent).unwrap();
        assert!(sent.success(), "{domain}: {sent}");
    }
    // Two arrive, and four wait, each with its reason.
    let reasons = [
        ("mismatch", "451 4.7.5", "mx.mismatch.example, held to DANE: "),
        ("bogus", "451 4.7.5", "mx.bogus.example: not used while its TLSA records are not known"),
        ("enforce-self", "451 4.7.5", "mx.enforce-self.example, held to MTA-STS: "),
        ("self", "451 4.7.5", "mx.self.example, held to verified TLS: "),
    ];
    let end = Instant::now() + PATIENCE;
    let done = || {
        let list = queue(&["list"]);
        let told =
            reasons.iter().all(|(_, code, text)| list.lines().any(|line| line.contains(code) && line.contains(text)));
        (told && world.arrived().len() == 2, list)
    };
    loop {
        let (done, list) = done();
        if done {
            assert_eq!(list.lines().count(), reasons.len(), "{list}");
            break;
        }
        assert!(Instant::now() < end, "{} arrived; {list}", world.arrived().len());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(world.arrived().iter().all(|mail| mail.session.channel.tls.is_some()));

    let report = queue(&["tls-report", "--destination", "enforce.example", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["contact-info"], "postmaster@ours.test");
    assert_eq!(report["policies"][0]["policy"]["policy-type"], "sts");
    assert_eq!(report["policies"][0]["policy"]["mx-host"][0], "*.enforce.example");
    assert_eq!(report["policies"][0]["summary"]["total-successful-session-count"], 1);
    let report = queue(&["tls-report", "--destination", "mismatch.example"]);
    assert!(report.contains("\"validation-failure\"") && report.contains("\"tlsa\""), "{report}");
    let all = queue(&["tls-report", "--json"]);
    assert_eq!(all.lines().count(), CASES.len(), "{all}");
    assert!(queue(&["tls-report", "--destination", "nobody.example", "--json"]).is_empty());

    // The policy outlives the process.
    let kept = std::fs::read_to_string(server.data_dir().join("sts/enforce.example")).unwrap();
    assert!(kept.starts_with("1 ") && kept.contains("mode: enforce"), "{kept}");
}
