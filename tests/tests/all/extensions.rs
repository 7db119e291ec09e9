//! Every extension, on both sides, and the tests that show it: the table in the docs.

use std::path::{Path, PathBuf};

use smtp_core::extension::{Extension, ParameterRule, Registry};
use smtp_test::scenario::Scenario;
use smtp_tests::scenarios::folder;

use crate::transports::client::CASES;

/// For each keyword of the registry: the scenarios, which are played over every transport, and the client's tests, as
/// `module::name` in `smtp-client/tests/it`.
const SHOWN_BY: [(&str, &[&str], &[&str]); 30] = [
    (
        "PIPELINING",
        &["pipelining", "pipelining-mixed"],
        &[
            "send::a_pipelined_group_is_one_flight_and_partial_refusal_is_normal",
            "extensions::pipelining_can_be_switched_off",
        ],
    ),
    ("SIZE", &["size-declared", "size-data", "size-bdat"], &["send::parameters_are_fitted_to_the_server"]),
    ("STARTTLS", &["starttls", "starttls-injection-mail"], &["tls::the_downgrade_table"]),
    ("AUTH", &["auth-plain", "auth-parameter"], &["auth::plain_and_login"]),
    ("ENHANCEDSTATUSCODES", &["ehlo", "mail-parameters"], &["send::one_recipient_too_many_is_a_matter_of_time"]),
    (
        "8BITMIME",
        &["data-8bit", "mail-parameters"],
        &["send::what_the_server_cannot_take_is_refused_before_anything_is_sent"],
    ),
    ("SMTPUTF8", &["smtputf8", "smtputf8-not-asked-for"], &["send::internationalized_mail"]),
    (
        "CHUNKING",
        &["bdat", "bdat-pipelined"],
        &["send::a_small_message_is_a_single_flight", "send::a_refused_chunk_in_mid_pipeline"],
    ),
    ("BINARYMIME", &["binarymime"], &["send::what_the_server_cannot_take_is_refused_before_anything_is_sent"]),
    (
        "DSN",
        &["dsn", "dsn-bad"],
        &[
            "extensions::dsn_is_passed_on_or_left_out_with_a_note",
            "extensions::a_note_is_about_the_recipient_that_asked",
        ],
    ),
    ("DELIVERBY", &["deliverby"], &["extensions::deliver_by_and_priority_are_passed_on_or_noted"]),
    ("MT-PRIORITY", &["mt-priority"], &["extensions::deliver_by_and_priority_are_passed_on_or_noted"]),
    ("FUTURERELEASE", &["futurerelease"], &["extensions::future_release_solicit_and_rrvs_are_passed_on"]),
    (
        "REQUIRETLS",
        &["requiretls", "requiretls-in-clear"],
        &["extensions::requiretls_goes_only_to_a_server_that_is_verified_and_offers_it"],
    ),
    (
        "RRVS",
        &["rrvs"],
        &[
            "extensions::future_release_solicit_and_rrvs_are_passed_on",
            "send::one_recipient_that_cannot_be_asked_about_does_not_stop_the_others",
        ],
    ),
    ("NO-SOLICITING", &["no-soliciting"], &["extensions::future_release_solicit_and_rrvs_are_passed_on"]),
    (
        "LIMITS",
        &["limits", "limits-messages"],
        &[
            "extensions::limits_split_a_message_into_transactions",
            "extensions::limits_on_messages_open_another_session",
        ],
    ),
    ("PRDR", &["prdr", "prdr-bdat"], &["extensions::prdr_gives_each_recipient_its_own_reply"]),
    ("ETRN", &["etrn"], &["extensions::etrn_and_other_verbs_are_asked_as_they_stand"]),
    ("VRFY", &["vrfy", "vrfy-help"], &["steps::every_command_has_its_step"]),
    ("EXPN", &["expn"], &["steps::every_command_has_its_step"]),
    ("HELP", &["vrfy-help"], &["steps::every_command_has_its_step"]),
    ("BURL", &["claimable"], &["extensions::etrn_and_other_verbs_are_asked_as_they_stand"]),
    ("CHECKPOINT", &["claimable"], &["extensions::future_release_solicit_and_rrvs_are_passed_on"]),
    ("MTRK", &["claimable"], &["extensions::future_release_solicit_and_rrvs_are_passed_on"]),
    ("CONPERM", &["claimable"], &["extensions::future_release_solicit_and_rrvs_are_passed_on"]),
    ("CONNEG", &["claimable"], &["extensions::future_release_solicit_and_rrvs_are_passed_on"]),
    (
        "XCLIENT",
        &["xclient", "xclient-bad", "xclient-not-offered"],
        &[
            "forward::xclient_starts_the_session_over_for_the_client",
            "forward::a_relay_passes_its_clients_on_over_one_session",
        ],
    ),
    ("XFORWARD", &["xforward"], &["forward::xforward_is_for_the_log_of_one_transaction"]),
    ("(one's own)", &["extension-of-ones-own"], &["extensions::an_extension_of_ones_own_has_its_own_downgrade"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The table as Markdown.
fn table() -> String {
    let registry = Registry::default();
    let mut out = String::from(
        "| extension | reference | MAIL | RCPT | server, over every transport | client |\n|---|---|---|---|---|---|",
    );
    let names = |rules: &[ParameterRule]| rules.iter().map(|rule| rule.keyword).collect::<Vec<_>>().join(" ");
    for (keyword, scenarios, tests) in SHOWN_BY {
        let extension = registry.iter().find(|e| e.keyword == keyword);
        let reference = extension.map_or("", |e| e.reference);
        let [mail, rcpt] = [extension.map_or(&[][..], |e| e.mail), extension.map_or(&[][..], |e| e.rcpt)].map(names);
        let (scenarios, tests) = (scenarios.join(", "), tests.iter().map(|t| format!("`{t}`")).collect::<Vec<_>>());
        out.push_str(&format!("\n| {keyword} | {reference} | {mail} | {rcpt} | {scenarios} | {} |", tests.join(", ")));
    }
    out.push('\n');
    out
}

#[test]
fn the_table_of_extensions_in_the_docs_is_up_to_date() {
    let file = root().join("docs/extensions.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let table = table();
    assert!(text.contains(&table), "{} is out of date; its table should be:\n\n{table}", file.display());
}

/// True if a conversation is about an extension: its keyword, one of its parameters or verbs, or what it changes.
fn is_about(extension: &Extension, text: &str) -> bool {
    let parameters = extension.mail.iter().chain(extension.rcpt).map(|rule| rule.keyword);
    let mut words = parameters.chain(extension.verbs.iter().copied()).chain([extension.keyword]);
    match extension.keyword {
        "PIPELINING" => text.contains("\nC: ") || text.contains("C*:"),
        // What was not declared is counted.
        "SIZE" => text.contains("552 5.3.4") || text.contains("SIZE="),
        "ENHANCEDSTATUSCODES" => words.any(|word| text.contains(word)) || text.contains(" 5.5.4 "),
        "CHUNKING" => text.contains("BDAT"),
        "8BITMIME" => text.contains("\\x") || words.any(|word| text.contains(word)) || !text.is_ascii(),
        _ => words.any(|word| text.contains(word)),
    }
}

#[test]
fn every_extension_has_its_tests_on_both_sides() {
    for extension in Registry::default().iter() {
        assert!(
            SHOWN_BY.iter().any(|(keyword, ..)| *keyword == extension.keyword),
            "{extension:?} is not in the table"
        );
    }
    let played: Vec<String> = Scenario::load_all(&folder()).unwrap().iter().map(|s| s.name().to_owned()).collect();
    for (keyword, scenarios, tests) in SHOWN_BY {
        let extension = Registry::default().iter().find(|e| e.keyword == keyword);
        assert!(extension.is_some() || keyword.starts_with('('), "{keyword} is in no registry");
        assert!(!scenarios.is_empty() && !tests.is_empty(), "{keyword} has a cell without a test");
        // Beside the tests of its own, over every transport.
        assert!(
            CASES.iter().any(|(case, _)| *case == keyword),
            "{keyword}: the client does not show it over transports"
        );
        for scenario in scenarios {
            let file = folder().join(format!("{scenario}.txt"));
            assert!(played.iter().any(|name| Path::new(name) == file), "{keyword}: no scenario {scenario}");
            let text = std::fs::read_to_string(file).unwrap();
            assert!(extension.is_none_or(|e| is_about(e, &text)), "{keyword}: {scenario} is about something else");
        }
        for test in tests {
            let (module, name) = test.split_once("::").unwrap();
            let file = root().join(format!("smtp-client/tests/it/{module}.rs"));
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(&format!("async fn {name}()")), "{keyword}: no test {test}");
        }
    }
}
