//! What is asked of TLS on the way to a domain's mail hosts, with a real name server that signs its zone, a real web
//! server for MTA-STS, and hosts that are as they should be or are not.

mod binary;
mod web;
mod world;

use std::sync::Arc;
use std::time::SystemTime;

use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Transaction, reply_for};
use smtp_core::types::{Envelope, Mail, Mailbox, Parameters, Rcpt};
use smtp_dns::{Dns, Resolver, Settings as DnsSettings};
use smtp_route::{Exchanges, Own, Settings};
use smtp_tests::peers::require;
use smtp_tls::ClientTls;
use smtp_tls_policy::{Choice, HttpsFetch, Reporter, Results, Settings as StsSettings, Sts};
use smtp_transport_tcp::TcpConnector;
use tower_service::Service as _;

use crate::transports::with_runtime;
use world::{Case, Kind, Published, World};

const CHOICES: [&str; 5] = ["opportunistic", "required", "dane", "sts", "dane+sts"];

/// Each domain has a mail host of some kind, and what it publishes. What comes of a mail under each choice: `tls` or
/// `clear` is how it arrived, all else the code with which it waits.
const TABLE: &[(Case, [&str; 5])] = {
    use Kind::{Clear, Expired, Good, SelfSigned, WrongName};
    use Published::{
        EnforcePolicy, ForgedRecord, GoneThePolicy, IssuerFits, KeyFits, NoPolicy, NoRecordFits, Nothing, PolicyAndKey,
        RecordsOfNoUse, RedirectedPolicy, StrangersPolicy, StrangersTrial, TrialPolicy,
    };
    &[
        (Case("clear", Clear, Nothing), ["clear", "451 4.7.4", "clear", "clear", "clear"]),
        (Case("self", SelfSigned, Nothing), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("wrongname", WrongName, Nothing), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("expired", Expired, Nothing), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("good", Good, Nothing), ["tls", "tls", "tls", "tls", "tls"]),
        // DANE.
        (Case("ee", SelfSigned, KeyFits), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("ee-expired", Expired, KeyFits), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("ee-wrongname", WrongName, KeyFits), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("ta", Good, IssuerFits), ["tls", "tls", "tls", "tls", "tls"]),
        (Case("ta-expired", Expired, IssuerFits), ["tls", "451 4.7.5", "451 4.7.5", "tls", "451 4.7.5"]),
        (Case("ta-wrongname", WrongName, IssuerFits), ["tls", "451 4.7.5", "451 4.7.5", "tls", "451 4.7.5"]),
        (Case("ta-self", SelfSigned, IssuerFits), ["tls", "451 4.7.5", "451 4.7.5", "tls", "451 4.7.5"]),
        (Case("mismatch", Good, NoRecordFits), ["tls", "tls", "451 4.7.5", "tls", "451 4.7.5"]),
        (Case("mismatch-clear", Clear, NoRecordFits), ["clear", "451 4.7.4", "451 4.7.4", "clear", "451 4.7.4"]),
        (Case("unusable", SelfSigned, RecordsOfNoUse), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("unusable-clear", Clear, RecordsOfNoUse), ["clear", "451 4.7.4", "451 4.7.4", "clear", "451 4.7.4"]),
        (Case("bogus", Good, ForgedRecord), ["tls", "tls", "451 4.7.5", "tls", "451 4.7.5"]),
        // MTA-STS.
        (Case("enforce", Good, EnforcePolicy), ["tls", "tls", "tls", "tls", "tls"]),
        (Case("enforce-self", SelfSigned, EnforcePolicy), ["tls", "451 4.7.5", "tls", "451 4.7.5", "451 4.7.5"]),
        (Case("enforce-wrongname", WrongName, EnforcePolicy), ["tls", "451 4.7.5", "tls", "451 4.7.5", "451 4.7.5"]),
        (Case("enforce-expired", Expired, EnforcePolicy), ["tls", "451 4.7.5", "tls", "451 4.7.5", "451 4.7.5"]),
        (Case("enforce-clear", Clear, EnforcePolicy), ["clear", "451 4.7.4", "clear", "451 4.7.4", "451 4.7.4"]),
        (Case("stranger", Good, StrangersPolicy), ["tls", "tls", "tls", "451 4.7.1", "451 4.7.1"]),
        (Case("testing", Good, TrialPolicy), ["tls", "tls", "tls", "tls", "tls"]),
        (Case("testing-self", SelfSigned, TrialPolicy), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("testing-clear", Clear, TrialPolicy), ["clear", "451 4.7.4", "clear", "clear", "clear"]),
        (Case("testing-stranger", SelfSigned, StrangersTrial), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("none-clear", Clear, NoPolicy), ["clear", "451 4.7.4", "clear", "clear", "clear"]),
        (Case("gone", SelfSigned, GoneThePolicy), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        (Case("moved", SelfSigned, RedirectedPolicy), ["tls", "451 4.7.5", "tls", "tls", "tls"]),
        // Both: DANE counts first (RFC 8461 §2).
        (Case("both", SelfSigned, PolicyAndKey), ["tls", "451 4.7.5", "tls", "451 4.7.5", "tls"]),
    ]
};

/// The way to the world's hosts, and what it counts.
struct Sender {
    exchanges: Exchanges,
    results: Arc<Results>,
    /// The cache of policies.
    _folder: tempfile::TempDir,
}

impl Sender {
    fn new(world: &World, validates: bool) -> Self {
        let settings = DnsSettings {
            servers: vec![world.nsd.address()],
            validate: validates,
            trust_anchor: Some(world.nsd.trust_anchor()),
            ..DnsSettings::default()
        };
        let dns: Arc<dyn Dns> = Arc::new(Resolver::new(settings).unwrap());
        let tls = ClientTls::builder().ca_file(world.ca_file()).build().unwrap();
        let (folder, results) = (tempfile::tempdir().unwrap(), Arc::new(Results::new()));
        let settings = StsSettings { folder: Some(folder.path().join("sts")), ..StsSettings::default() };
        let fetch = HttpsFetch::new(Arc::clone(&dns), &tls, world.web.port());
        let sts = Sts::new(Arc::clone(&dns), fetch, settings, SystemTime::now()).unwrap();
        let own = Own::new(["me.elsewhere"], []).with_loopback(false);
        let settings = Settings { port: world.port, ..Settings::default() };
        let exchanges = Exchanges::new(dns, TcpConnector::new(tls), own, Default::default(), settings);
        let exchanges = exchanges.with_sts(Arc::new(sts)).with_results(Arc::clone(&results));
        Self { exchanges, results, _folder: folder }
    }

    /// How a mail for `domain` arrives, or why it does not.
    async fn send(&self, world: &World, domain: &str, choice: &str, parameters: &str) -> String {
        let mut mail = Mail::new(Mailbox::new("a@client.example").unwrap());
        mail.parameters = Parameters::new(parameters).unwrap();
        let transaction = Transaction {
            session: SessionInfo::local("test"),
            envelope: Envelope { mail, recipients: vec![Rcpt::new(Mailbox::new(&format!("u@{domain}")).unwrap())] },
            body: Body::from_bytes(&b"Subject: x\r\n\r\nhi\r\n"[..]),
        };
        let before = world.arrived().len();
        let choice: Choice = choice.parse().unwrap();
        let refusal = match self.exchanges.to(domain.parse().unwrap()).under(choice).call(transaction).await {
            Ok(outcome) => match outcome.into_results().remove(0) {
                Ok(_) => {
                    let arrived = world.arrived();
                    assert_eq!(arrived.len(), before + 1, "{domain}: once");
                    let tls = arrived.last().unwrap().session.channel.tls.is_some();
                    return if tls { "tls".into() } else { "clear".into() };
                }
                Err(refusal) => refusal,
            },
            Err(error) => reply_for(&error),
        };
        assert_eq!(world.arrived().len(), before, "{domain}: {refusal}");
        refusal.to_string()
    }

    /// The counts of a domain: the policy, successes, failures, and the kinds of these.
    fn counts(&self, domain: &str) -> Vec<(String, u64, u64, Vec<String>)> {
        let by = Reporter { organization: "mx.elsewhere".into(), contact: "postmaster@mx.elsewhere".into() };
        let reports = self.results.reports(&by, Some(domain));
        // Midnight may have passed.
        let policies = reports.iter().flat_map(|report| report["policies"].as_array().unwrap().clone());
        let count = |policy: serde_json::Value| {
            let details = policy["failure-details"].as_array().cloned().unwrap_or_default();
            let kinds = details.iter().map(|detail| detail["result-type"].as_str().unwrap().to_owned());
            (
                policy["policy"]["policy-type"].as_str().unwrap().to_owned(),
                policy["summary"]["total-successful-session-count"].as_u64().unwrap(),
                policy["summary"]["total-failure-session-count"].as_u64().unwrap(),
                kinds.collect(),
            )
        };
        policies.map(count).collect()
    }
}

fn world() -> Option<World> {
    let cases: Vec<Case> = TABLE.iter().map(|(case, _)| *case).collect();
    require(World::start(&cases))
}

#[test]
fn every_host_under_every_choice() {
    with_runtime(async {
        let Some(world) = world() else { return };
        let sender = Sender::new(&world, true);
        let mut wrong = Vec::new();
        for (case, expected) in TABLE {
            for (choice, expected) in CHOICES.iter().zip(expected) {
                let came = sender.send(&world, &case.domain(), choice, "").await;
                if came != *expected && !came.starts_with(&format!("{expected} ")) {
                    wrong.push(format!("{}, {choice}: {came}, not {expected}", case.0));
                }
            }
        }
        println!("{} cells", TABLE.len() * CHOICES.len());
        assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));

        // What was counted, once under each of the five.
        let kinds = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>();
        for (domain, expected) in [
            ("good", vec![("no-policy-found", 5, 0, vec![])]),
            ("clear", vec![("no-policy-found", 0, 5, kinds(&["starttls-not-supported"]))]),
            ("self", vec![("no-policy-found", 4, 1, kinds(&["certificate-not-trusted"]))]),
            ("wrongname", vec![("no-policy-found", 4, 1, kinds(&["certificate-host-mismatch"]))]),
            ("expired", vec![("no-policy-found", 4, 1, kinds(&["certificate-expired"]))]),
            ("mismatch", vec![("no-policy-found", 3, 0, vec![]), ("tlsa", 0, 2, kinds(&["validation-failure"]))]),
            (
                "unusable",
                vec![
                    ("no-policy-found", 2, 1, kinds(&["certificate-not-trusted"])),
                    ("tlsa", 0, 2, kinds(&["tlsa-invalid"])),
                ],
            ),
            ("bogus", vec![("no-policy-found", 3, 0, vec![]), ("tlsa", 0, 2, kinds(&["dnssec-invalid"]))]),
            ("enforce", vec![("no-policy-found", 3, 0, vec![]), ("sts", 2, 0, vec![])]),
            (
                "testing-self",
                vec![
                    ("no-policy-found", 2, 1, kinds(&["certificate-not-trusted"])),
                    ("sts", 0, 2, kinds(&["certificate-not-trusted"])),
                ],
            ),
            (
                "testing-stranger",
                vec![
                    ("no-policy-found", 2, 1, kinds(&["certificate-not-trusted"])),
                    ("sts", 0, 2, kinds(&["validation-failure"])),
                ],
            ),
            // One fetch in five minutes.
            (
                "gone",
                vec![
                    ("no-policy-found", 4, 1, kinds(&["certificate-not-trusted"])),
                    ("sts", 0, 1, kinds(&["sts-policy-fetch-error"])),
                ],
            ),
        ] {
            let expected = expected.into_iter().map(|(kind, ok, bad, kinds)| (kind.to_owned(), ok, bad, kinds));
            let expected: Vec<_> = expected.collect();
            assert_eq!(sender.counts(&format!("{domain}.example")), expected, "{domain}");
        }
    });
}

/// RFC 8689 §4.2.1: the MX host is known for sure, and its certificate holds.
#[test]
fn requiretls_goes_to_hosts_that_are_known_for_sure_and_verified() {
    with_runtime(async {
        let Some(world) = world() else { return };
        for (validates, table) in [
            (
                true,
                &[
                    ("good", "tls"),
                    ("ee", "tls"),
                    ("ta", "tls"),
                    ("both", "tls"),
                    ("enforce", "tls"),
                    ("clear", "550 5.7.30"),
                    ("self", "550 5.7.30"),
                    ("expired", "550 5.7.30"),
                    ("mismatch", "550 5.7.30"),
                    ("unusable", "550 5.7.30"),
                    ("testing-self", "550 5.7.30"),
                    ("stranger", "451 4.7.1"),
                    ("bogus", "451 4.7.5"),
                ][..],
            ),
            // Nobody vouches for the MX records then, but a policy.
            (
                false,
                &[
                    ("good", "550 5.7.30"),
                    ("ee", "550 5.7.30"),
                    ("enforce", "tls"),
                    ("enforce-self", "550 5.7.30"),
                    ("testing", "550 5.7.30"),
                    ("stranger", "550 5.7.30"),
                ],
            ),
        ] {
            let sender = Sender::new(&world, validates);
            for (domain, expected) in table {
                let came = sender.send(&world, &format!("{domain}.example"), "opportunistic", " REQUIRETLS").await;
                assert!(
                    came == *expected || came.starts_with(&format!("{expected} ")),
                    "{domain}, {validates}: {came}"
                );
            }
        }
    });
}

#[test]
fn a_host_that_falls_short_is_passed_over_and_the_reason_is_told() {
    with_runtime(async {
        let Some(world) = world() else { return };
        let sender = Sender::new(&world, true);
        // The better host does not fit its records, the other one has none and is fine.
        assert_eq!(sender.send(&world, "twohosts.example", "dane", "").await, "tls");
        let why = sender.send(&world, "mismatch.example", "dane+sts", "").await;
        assert!(why.contains("mx.mismatch.example, held to DANE: ") && why.contains("TLSA"), "{why}");
        let why = sender.send(&world, "bogus.example", "dane", "").await;
        assert!(why.contains("mx.bogus.example") && why.contains("forged"), "{why}");
        let why = sender.send(&world, "stranger.example", "sts", "").await;
        assert!(why.contains("mx.stranger.example") && why.contains("MTA-STS policy"), "{why}");
        // Where the aliases of a host lead, and then at its own name (RFC 7672 §2.2.2).
        assert_eq!(sender.send(&world, "byalias.example", "dane", "").await, "tls");
        let why = sender.send(&world, "byalias-wrong.example", "dane", "").await;
        assert!(why.starts_with("451 4.7.5 "), "{why}");
        // Without validation nothing of DANE holds.
        let blind = Sender::new(&world, false);
        assert_eq!(blind.send(&world, "mismatch.example", "dane", "").await, "tls");
    });
}
