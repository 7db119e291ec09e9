//! Every scenario, on every kind of channel, against the reference server.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the exception for tests covers only their functions")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use common::scenarios::{Reference, folders, reference_stack};
use smtp_core::channel::Peer;
use smtp_core::service::Promises;
use smtp_core::session::server::Protocol;
use smtp_test::memory::{Cut, CutHow, Knobs, Pace, Tls, pair};
use smtp_test::scenario::{Mismatch, Report, Runner, Scenario, run};
use smtp_test::server;
use tokio::io::AsyncWriteExt;

/// Every scenario, with the protocol of its server.
fn all() -> Vec<(Scenario, Protocol)> {
    let load = |(folder, protocol): (PathBuf, Protocol)| {
        Scenario::load_all(&folder).unwrap().into_iter().map(move |scenario| (scenario, protocol))
    };
    folders().into_iter().flat_map(load).collect()
}

/// The channels that scenarios are played on.
fn channels() -> Vec<(&'static str, Knobs)> {
    let proxy = Peer::Ip(([127, 0, 0, 1], 4711).into());
    let odd = Pace { read: 5, write: 3, pending: 3, lazy: false };
    vec![
        ("friendly", Knobs::default()),
        ("octet by octet", Knobs::default().paced(Pace::OCTET_BY_OCTET)),
        ("stormy", Knobs::default().paced(Pace::STORMY)),
        ("odd pieces", Knobs::default().paced(odd)),
        ("lazy", Knobs::default().paced(Pace::LAZY)),
        ("narrow", Knobs { capacity: 3, ..Knobs::default() }),
        ("far away", Knobs { latency: Duration::from_millis(80), ..Knobs::default() }),
        ("harsh", Knobs { harsh_close: true, ..Knobs::default() }),
        ("client first", Knobs { client_speaks_first: true, ..Knobs::default() }),
        (
            "client first, octet by octet",
            Knobs { client_speaks_first: true, ..Knobs::default() }.paced(Pace::OCTET_BY_OCTET),
        ),
        ("from a trusted proxy", Knobs { peer: proxy.clone(), ..Knobs::default() }),
        ("from a trusted proxy, octet by octet", Knobs { peer: proxy, ..Knobs::default() }.paced(Pace::OCTET_BY_OCTET)),
        ("TLS", Knobs { tls: Tls::Implicit, ..Knobs::default() }),
        ("in clear", Knobs::clear()),
        ("STARTTLS", Knobs::starttls()),
        ("STARTTLS, octet by octet", Knobs::starttls().paced(Pace::OCTET_BY_OCTET)),
        ("STARTTLS, stormy, lazy", Knobs::starttls().paced(Pace { lazy: true, ..Pace::STORMY })),
    ]
}

/// A megabyte in drops says no more than a kilobyte does, and takes long.
fn is_too_much(scenario: &Scenario, knobs: &Knobs) -> bool {
    let drop = [knobs.capacity, knobs.server.read, knobs.client.write].into_iter().min();
    scenario.client_octets().len() > 100_000 && drop < Some(10)
}

async fn play(scenario: &Scenario, reference: &Reference, knobs: &Knobs) -> Result<Report, Mismatch> {
    let (client, server) = pair(knobs.clone());
    let session = tokio::spawn({
        let reference = reference.clone();
        async move { reference.serve(Box::new(server)).await }
    });
    let report = Runner::default().wait(Duration::from_secs(100)).run(scenario, Box::new(client)).await;
    // It ends by itself, whatever came of the conversation.
    let _ = tokio::time::timeout(Duration::from_secs(3_600), session).await.expect("the session ends").unwrap();
    report
}

/// Plays all scenarios on all channels; gives how often each was played to its end.
async fn play_all(reference: &Reference) -> BTreeMap<String, u32> {
    let mut passed = BTreeMap::new();
    let mut failures = Vec::new();
    for (scenario, protocol) in all() {
        let reference = reference.clone().speaking(protocol);
        let file = scenario.name().rsplit("scenarios/").next().unwrap();
        let name = file.trim_end_matches(".txt").to_owned();
        let times = passed.entry(name.clone()).or_insert(0);
        for (channel, knobs) in channels() {
            if is_too_much(&scenario, &knobs) {
                continue;
            }
            match play(&scenario, &reference, &knobs).await {
                Ok(Report::Passed(_)) => *times += 1,
                Ok(Report::Skipped(_)) => {}
                Err(mismatch) => failures.push((name.clone(), format!("{channel}: {mismatch}"))),
            }
        }
    }
    let mut names: Vec<_> = failures.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    let count = names.len();
    for name in names {
        // One of each is enough to read.
        let of_it: Vec<_> = failures.iter().filter(|(n, _)| n == name).collect();
        println!("{} channels, first {}", of_it.len(), of_it[0].1);
    }
    assert_eq!(count, 0, "scenarios failed, see above");
    passed
}

#[tokio::test(start_paused = true)]
async fn every_scenario_on_every_channel() {
    let full = play_all(&reference_stack()).await;
    let bare = reference_stack().with(|config| config.promises = Promises::MINIMUM);
    let bare = play_all(&bare).await;
    assert!(full.len() >= 40, "only {} scenarios", full.len());
    // One that is skipped everywhere tests nothing.
    let skipped: Vec<_> =
        full.iter().filter(|(name, times)| **times + bare[*name] == 0).map(|(name, _)| name).collect();
    assert!(skipped.is_empty(), "played nowhere: {skipped:?}");
}

/// Domains are counted as they are accepted, also when the policy is asked about many recipients at once.
#[tokio::test(start_paused = true)]
async fn no_more_domains_than_were_announced() {
    let scenario = Scenario::parse(
        "domains",
        "S: 220 *\nC: EHLO x\nS: 250-*\nS: ...\nS: 250-LIMITS MAILMAX=20 RCPTMAX=5 RCPTDOMAINMAX=2\nS: ...\n\
         C: AUTH PLAIN AHVzZXIAcGFzcw==\nS: 235 *\nC: MAIL FROM:<>\nC: RCPT TO:<a@one.example>\n\
         C: RCPT TO:<a@two.example>\nC: RCPT TO:<b@ONE.example>\nC: RCPT TO:<a@three.example>\n\
         C: RCPT TO:<nobody@here.example>\nC: RCPT TO:<b@two.example>\n\
         S: 250 *\nS: 250 *\nS: 250 *\nS: 250 *\nS: 452 4.5.3 *\nS: 452 4.5.3 *\nS: 250 *\nC: QUIT\nS: 221 *\nS!\n",
    );
    let scenario = scenario.unwrap();
    for pause in [0, 7] {
        let reference = reference_stack().slow(Duration::from_millis(pause));
        let reference = reference.with(|config| config.limits.recipient_domains = Some(2));
        let report = play(&scenario, &reference, &Knobs::default()).await.unwrap_or_else(|e| panic!("{e}"));
        assert!(report.has_passed());
    }
}

/// What is written is not sent before it is flushed, and flushing takes more than one poll: TLS over a full socket.
#[tokio::test(start_paused = true)]
async fn replies_are_flushed_to_the_end() {
    let scenario =
        Scenario::parse("flush", "S: 220 *\nC: NOOP\nS: 250 *\nC: NOOP\nS: 250 *\nC: NOOP\nS: 250 *\n").unwrap();
    for pending in [2, 3] {
        let knobs = Knobs::default().paced(Pace { lazy: true, pending, ..Pace::default() });
        let _ = play(&scenario, &reference_stack(), &knobs).await.unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Whether services answer at once or take their time is no reason for other replies.
#[tokio::test(start_paused = true)]
async fn every_scenario_with_services_that_take_their_time() {
    play_all(&reference_stack().slow(Duration::from_millis(7))).await;
}

/// Each file is a conversation that two sides can have: the scripted server says what the played client expects.
#[tokio::test(start_paused = true)]
async fn every_scenario_agrees_with_itself() {
    // What is broken off is lost, so that the other side cannot know what there was.
    for (scenario, _) in all().iter().filter(|(s, _)| !s.name().ends_with("abort.txt")) {
        for (channel, knobs) in channels().into_iter().filter(|(_, knobs)| !is_too_much(scenario, knobs)) {
            let (client, server) = pair(knobs);
            let (client, server) =
                tokio::join!(run(scenario, Box::new(client)), server::play(scenario, Box::new(server)));
            let client = client.unwrap_or_else(|e| panic!("{channel}, client: {e}"));
            let server = server.unwrap_or_else(|e| panic!("{channel}, server: {e}"));
            let (Report::Passed(client), Report::Passed(server)) = (client, server) else { continue };
            // Both ends have seen the same, if not at the same time.
            let lines =
                |text: String, of: &str| text.lines().filter(|l| l.starts_with(of)).collect::<Vec<_>>().join("\n");
            for of in ["C:", "S:", "C+:", "S+:"] {
                assert_eq!(
                    lines(client.revealed(), of),
                    lines(server.revealed(), of),
                    "{}, {channel}",
                    scenario.name()
                );
            }
        }
    }
}

/// A transcript is a scenario: what was recorded can be played again.
#[tokio::test(start_paused = true)]
async fn what_was_recorded_can_be_played_again() {
    // No two SCRAM exchanges are alike: that is what their nonces are for.
    for (scenario, protocol) in all().into_iter().filter(|(s, _)| !s.name().contains("auth-scram-")) {
        let reference = reference_stack().speaking(protocol);
        let Ok(Report::Passed(transcript)) = play(&scenario, &reference, &Knobs::default()).await else {
            continue;
        };
        let again = Scenario::parse("transcript", &transcript.revealed()).unwrap();
        // Long ones keep their end only.
        if transcript.revealed().starts_with('#') {
            continue;
        }
        let report = play(&again, &reference, &Knobs::default()).await;
        assert!(report.unwrap_or_else(|e| panic!("{}: {e}", scenario.name())).has_passed());
    }
}

/// A reply that differs in one octet, a line too few, a line too many: all are found, with file and line.
#[tokio::test]
async fn a_mismatch_says_where_and_why() {
    let script = Scenario::parse(
        "script",
        "S: 220 mx.example\nC: EHLO *\nS: 250-mx.example\nS: 250 SIZE 1\nC: QUIT\nS: 221 bye\nS!\n",
    );
    let script = script.unwrap();
    for (text, line, says) in [
        ("S: 221 *\n", 1, "got       220 mx.example"),
        ("S: 220 *\nC: EHLO x\nS: 250 *\n", 3, "got       250-mx.example"),
        ("S: 220 *\nC: EHLO x\nS: 250-*\nS: ...\nS: 251 *\n", 5, "got       silence for 0.05 s"),
        ("S: 220 *\nC: EHLO x\nS: 250-*\nS: ...\nS: 250-AUTH *\n", 5, "the reply ended without it"),
        ("S: 220 *\nC: EHLO x\nS: 250-*\nS: ... without SIZE\n", 4, "got       250 SIZE 1"),
        ("S: 220 *\nS!\n", 2, "got       silence for 0.05 s"),
        ("S: 220 *\nC: EHLO x\nC: QUIT\nS: 250-*\nS: ...\nS!\n", 6, "got       221 bye"),
    ] {
        let scenario = Scenario::parse("file", text).unwrap();
        let (client, server) = pair(Knobs::default());
        let _playing = tokio::spawn({
            let script = script.clone();
            async move { server::play(&script, Box::new(server)).await }
        });
        let result = Runner::default().wait(Duration::from_millis(50)).run(&scenario, Box::new(client)).await;
        let mismatch = result.expect_err(text);
        assert_eq!(mismatch.line, line, "{text}\n{mismatch}");
        assert!(mismatch.to_string().starts_with(&format!("file:{line}:\n  expected  ")), "{mismatch}");
        assert!(mismatch.to_string().contains(says), "{mismatch}");
        assert!(mismatch.to_string().contains("    S: 220 mx.example"), "{mismatch}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_may_close_in_other_words_but_not_with_a_reply() {
    let closes = Scenario::parse("file", "S: 220 *\nS*!\n").unwrap();
    for (last_words, fine) in
        [("", true), ("S+: \\x15\\x03\\x03\\0\\x02\\x02\n\n", true), ("S: 250 ok\n", false), ("S+: 250\\r\\n\n", false)]
    {
        let script = Scenario::parse("script", &format!("S: 220 mx\n{last_words}S!\n")).unwrap();
        let (client, server) = pair(Knobs::default());
        let (client, _) = tokio::join!(run(&closes, Box::new(client)), server::play(&script, Box::new(server)));
        assert_eq!(client.is_ok(), fine, "{last_words}");
    }
}

#[tokio::test]
async fn what_does_not_apply_is_skipped_with_a_reason() {
    let reference = reference_stack();
    for (text, reason) in [
        ("ONLY plain\n", "only on a channel that is plain"),
        ("ONLY !secure\n", "only on a channel that is !secure"),
        ("NEEDS CONNEG\nS: 220 *\nC: EHLO x\nS: 999\n", "only with CONNEG, which the server does not offer"),
        ("WITHOUT SIZE\nS: 220 *\nC: EHLO x\nS: 999\n", "only without SIZE, which the server offers"),
    ] {
        let scenario = Scenario::parse("file", text).unwrap();
        match play(&scenario, &reference, &Knobs::default()).await.unwrap() {
            Report::Skipped(why) => assert_eq!(why, reason),
            Report::Passed(_) => panic!("played: {text}"),
        }
    }
}

/// A client that stops in the middle, by a closed or a broken channel, leaves no message behind.
#[tokio::test(start_paused = true)]
async fn a_channel_cut_at_any_octet_delivers_nothing_half() {
    let conversation =
        b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\nDATA\r\none\r\n.\r\nMAIL FROM:<>\r\n\
        RCPT TO:<bob@here.example>\r\nBDAT 5\r\ntwo\r\nBDAT 7 LAST\r\nthree\r\nQUIT\r\n";
    let first = conversation.windows(5).position(|w| w == b"\r\n.\r\n").unwrap() + 5;
    let second = conversation.windows(7).position(|w| w == b"three\r\n").unwrap() + 7;
    for tls in [Tls::None, Tls::Implicit] {
        for cut in 0..=conversation.len() {
            for how in [Cut::eof, Cut::reset] {
                let reference = reference_stack();
                let knobs = Knobs { from_client: Some(how(cut as u64)), tls, ..Knobs::default() };
                let (mut client, server) = pair(knobs);
                let serving = tokio::spawn({
                    let reference = reference.clone();
                    async move { reference.serve(Box::new(server)).await }
                });
                let _ = client.write_all(conversation).await;
                let _ = serving.await.unwrap();
                let whole = usize::from(cut >= first) + usize::from(cut >= second);
                let delivered = reference.delivered().len();
                match how(0).how {
                    CutHow::Eof => assert_eq!(delivered, whole, "cut at {cut}, {tls:?}"),
                    // The server may hear of the break before it has read everything.
                    CutHow::Reset => assert!(delivered <= whole, "cut at {cut}, {tls:?}"),
                }
            }
        }
    }
}
