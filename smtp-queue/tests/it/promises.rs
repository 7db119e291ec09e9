//! What a sender can ask for, and gets.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use smtp_core::service::Omitted;
use smtp_core::types::{Mailbox, Parameters, Rcpt, Refusal};
use smtp_queue::kit::at;
use smtp_queue::{Action, Filter, Limits, NextHop, Queue, Schedule, Settings, Spool, SqliteSpool, Stats};

use crate::rig::{Does, Rig, World};

const MAIL: &str = "Subject: hello\r\nX-Mark: 42\r\n\r\nthe content\r\n";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn greylisted() -> Refusal {
    Refusal::fixed(451, (4, 7, 1), "greylisted")
}

fn unknown() -> Refusal {
    Refusal::fixed(550, (5, 1, 1), "no such mailbox")
}

/// The notices that jo has got, as text.
fn notices(rig: &Rig) -> Vec<String> {
    let notices = rig.world.taken("a.example").into_iter();
    notices.map(|taken| String::from_utf8(taken.content).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_are_told_of_success_in_one_notice() {
    let rig = Rig::start(Settings::default());
    let to =
        ["x@b.example NOTIFY=SUCCESS", "y@b.example", "z@b.example NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;o@c.example"];
    rig.send("jo@a.example RET=FULL ENVID=77", &to, MAIL).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    let [notice] = &notices(&rig)[..] else { panic!("one notice") };
    for part in [
        "Original-Envelope-Id: 77",
        "Final-Recipient: rfc822; x@b.example",
        "Original-Recipient: rfc822; o@c.example",
        "Action: delivered",
        "X-Mark: 42",
    ] {
        assert!(notice.contains(&format!("{part}\r\n")), "{part}: {notice}");
    }
    assert_eq!(notice.matches("Action: ").count(), 2, "{notice}");
    assert!(!notice.contains("the content"), "RET is about failures: {notice}");
    let taken = &rig.world.taken("a.example")[0];
    assert_eq!(taken.envelope.mail.from.to_string(), "<>");
    assert_eq!(taken.envelope.recipients[0].parameters.as_str(), "NOTIFY=NEVER");
    assert_eq!(rig.spool.stats(), Stats::default());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_passes_mail_on_tells_of_it_where_the_next_one_will_not() {
    let told = |omitted| Does::Relays(omitted);
    for (what, mail, rcpt, expected) in [
        // RFC 3461 §5.2.2
        (told(Omitted::DSN), "jo@a.example", "x@b.example NOTIFY=SUCCESS", 1),
        (told(Omitted::NOTHING), "jo@a.example", "x@b.example NOTIFY=SUCCESS", 0),
        (told(Omitted::NOTHING), "jo@a.example", "x@b.example", 0),
        (told(Omitted::DSN), "", "x@b.example NOTIFY=SUCCESS", 0),
        // RFC 2852 §4.1.4
        (told(Omitted::DELIVER_BY), "jo@a.example BY=600;N", "x@b.example", 1),
        (told(Omitted::DELIVER_BY), "jo@a.example BY=600;N", "x@b.example NOTIFY=FAILURE", 1),
        (told(Omitted::DELIVER_BY), "jo@a.example BY=600;N", "x@b.example NOTIFY=NEVER", 0),
        (told(Omitted::NOTHING), "jo@a.example BY=600;RT", "x@b.example", 1),
        (told(Omitted::NOTHING), "jo@a.example BY=600;RT", "x@b.example NOTIFY=NEVER", 0),
        (told(Omitted::NOTHING), "jo@a.example BY=600;R", "x@b.example", 0),
        (told(Omitted::PRIORITY), "jo@a.example MT-PRIORITY=3", "x@b.example", 0),
    ] {
        let rig = Rig::start(Settings::default());
        rig.world.set("b.example", what);
        rig.send(mail, &[rcpt], MAIL).await.unwrap();
        tokio::time::sleep(seconds(5)).await;
        assert_eq!(rig.world.taken("b.example").len(), 1);
        let notices = notices(&rig);
        assert_eq!(notices.len(), expected, "{mail} {rcpt}");
        assert!(notices.iter().all(|text| text.contains("Action: relayed\r\nStatus: 2.0.0\r\n")), "{notices:?}");
        rig.stop().await;
    }
}

/// The recipient beside those that an alias stands for, in the words of `Rig::send`.
fn expanded(alias: &str, parameters: &str) -> Option<String> {
    let parameters = Parameters::new(parameters).unwrap();
    let rcpt = Queue::expanded(&Rcpt { to: Mailbox::new(alias).unwrap().into(), parameters })?;
    Some(format!("{} {}", rcpt.to.mailbox().unwrap(), rcpt.parameters))
}

#[tokio::test(start_paused = true)]
async fn that_aliases_were_expanded_is_told_once_and_nothing_is_sent_to_them() {
    for asked in ["", "NOTIFY=NEVER", "NOTIFY=FAILURE,DELAY ORCPT=rfc822;o@c.example"] {
        assert_eq!(expanded("all@b.example", asked), None, "{asked}");
    }
    let all = expanded("all@b.example", "NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;o@c.example").unwrap();
    let both = expanded("both@b.example", "NOTIFY=SUCCESS").unwrap();
    // What nobody can reach changes nothing about it.
    for does in [Does::Takes(Duration::ZERO), Does::Dead] {
        let rig = Rig::start(Settings::default());
        rig.world.set("b.example", does.clone());
        // Whoever is among its own targets gets the mail all the same.
        let to = [&all, "all@b.example NOTIFY=NEVER", &both, "x@c.example NOTIFY=NEVER"];
        rig.send("jo@a.example RET=FULL ENVID=77", &to, MAIL).await.unwrap();
        tokio::time::sleep(seconds(5)).await;
        let [notice] = &notices(&rig)[..] else { panic!("one notice: {:?}", notices(&rig)) };
        for part in [
            "Original-Envelope-Id: 77\r\n",
            "Original-Recipient: rfc822; o@c.example\r\nFinal-Recipient: rfc822; all@b.example\r\nAction: expanded\r\n",
            "\r\n\r\nFinal-Recipient: rfc822; both@b.example\r\nAction: expanded\r\nStatus: 2.0.0\r\n",
            "X-Mark: 42\r\n",
        ] {
            assert!(notice.contains(part), "{part}: {notice}");
        }
        assert!(!notice.contains("the content") && !notice.contains("x@c.example"), "{notice}");
        let taken = &rig.world.taken("a.example")[0];
        assert_eq!(taken.envelope.mail.from.to_string(), "<>");
        assert_eq!(taken.envelope.recipients[0].parameters.as_str(), "NOTIFY=NEVER");
        tokio::time::sleep(seconds(6 * 86_400)).await;
        assert_eq!(notices(&rig).len(), 1);
        let served: Vec<_> = rig.world.taken("b.example").into_iter().map(|taken| taken.envelope.recipients).collect();
        let expected = if matches!(does, Does::Dead) { 0 } else { 1 };
        assert_eq!((served.len(), served.concat().len()), (expected, expected), "{served:?}");
        assert_eq!(rig.counters.delivered.load(Ordering::Relaxed), 2 + expected as u64, "the notice and the others");
        assert_eq!(rig.spool.stats(), Stats::default());
        rig.stop().await;
    }
    // Nobody is told of mail from nobody.
    let rig = Rig::start(Settings::default());
    rig.send("", &[&all, "x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    assert_eq!((notices(&rig).len(), rig.world.taken("b.example").len(), rig.spool.stats()), (0, 1, Stats::default()));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn that_an_alias_was_expanded_is_told_wherever_an_administrator_sends_it() {
    let rig = Rig::start(Settings::default());
    let all = expanded("all@b.example", "NOTIFY=SUCCESS").unwrap();
    rig.send("jo@a.example HOLDFOR=600", &[&all], MAIL).await.unwrap();
    let elsewhere = Action::Reroute(NextHop::new("c.example").unwrap());
    assert_eq!(rig.spool.control(&Filter::default(), elsewhere, at(1)).await.unwrap(), 1);
    assert_eq!(rig.spool.control(&Filter::default(), Action::GiveUp, at(1)).await.unwrap(), 1);
    tokio::time::sleep(seconds(5)).await;
    let [notice] = &notices(&rig)[..] else { panic!("one notice: {:?}", notices(&rig)) };
    assert!(notice.contains("Action: expanded\r\n"), "{notice}");
    assert!(rig.world.tries("c.example").is_empty());
    assert_eq!(rig.counters.failed.load(Ordering::Relaxed), 0);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_message_comes_back_as_its_sender_wants_it() {
    for (ret, whole) in [("RET=FULL", true), ("RET=HDRS", false), ("", false)] {
        let rig = Rig::start(Settings::default());
        rig.world.set("b.example", Does::Says(unknown()));
        rig.send(&format!("jo@a.example {ret}"), &["x@b.example"], MAIL).await.unwrap();
        tokio::time::sleep(seconds(5)).await;
        let [notice] = &notices(&rig)[..] else { panic!("one notice") };
        assert!(notice.contains("X-Mark: 42\r\n"), "{notice}");
        assert_eq!(notice.contains("the content\r\n"), whole, "{ret}: {notice}");
        rig.stop().await;
    }
    // A notice of delay is none of failure.
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Says(greylisted()));
    rig.send("jo@a.example RET=FULL", &["x@b.example NOTIFY=DELAY"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(5 * 3_600)).await;
    let [notice] = &notices(&rig)[..] else { panic!("one notice") };
    assert!(notice.contains("Action: delayed\r\n") && !notice.contains("the content"), "{notice}");
    // Nobody asked to hear of the end.
    tokio::time::sleep(seconds(6 * 86_400)).await;
    assert_eq!(notices(&rig).len(), 1);
    assert_eq!(rig.counters.failed_without_notice.load(Ordering::Relaxed), 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_kind_is_told_once_of_each_recipient() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Says(greylisted()));
    let all = "NOTIFY=SUCCESS,FAILURE,DELAY";
    let to = [format!("x@b.example {all}"), format!("x@b.example {all}"), format!("y@b.example {all}")];
    rig.send("jo@a.example", &to.each_ref().map(String::as_str), MAIL).await.unwrap();
    tokio::time::sleep(seconds(30 * 3_600)).await;
    rig.world.set("b.example", Does::Each(vec![Ok(()), Err(unknown())]));
    tokio::time::sleep(seconds(6 * 86_400)).await;
    let told = |action: &str, to: &str| {
        let line = format!("Final-Recipient: rfc822; {to}\r\nAction: {action}\r\n");
        notices(&rig).iter().map(|text| text.matches(&line).count()).sum::<usize>()
    };
    let counts =
        ["delayed", "delivered", "failed"].map(|action| (told(action, "x@b.example"), told(action, "y@b.example")));
    assert_eq!(counts, [(1, 1), (1, 0), (0, 1)]);
    assert_eq!(notices(&rig).len(), 3);
    assert_eq!(rig.spool.stats(), Stats::default());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_wants_to_know_is_told_at_the_deadline_and_delivery_goes_on() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Says(greylisted()));
    rig.send("jo@a.example BY=900;N", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(899)).await;
    assert!(notices(&rig).is_empty(), "too early");
    tokio::time::sleep(seconds(2)).await;
    assert!(notices(&rig)[0].contains("Action: delayed\r\n") && notices(&rig)[0].contains("\r\nDeliver-By-Date: "));
    rig.world.set("b.example", Does::Takes(Duration::ZERO));
    tokio::time::sleep(seconds(5 * 3_600)).await;
    assert_eq!((rig.world.taken("b.example").len(), notices(&rig).len()), (1, 1));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_to_be_returned_by_a_time_is_even_if_its_turn_never_came() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Takes(seconds(1_000)));
    for _ in 0..5 {
        rig.send("amy@c.example", &["x@b.example"], MAIL).await.unwrap();
    }
    tokio::time::sleep(seconds(1)).await;
    rig.send("jo@a.example BY=60;R", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(59)).await;
    assert!(notices(&rig).is_empty(), "too early");
    tokio::time::sleep(seconds(2)).await;
    assert!(notices(&rig)[0].contains("Action: failed\r\nStatus: 5.4.7\r\n"), "{:?}", notices(&rig));
    assert_eq!(rig.world.tries("b.example").len(), 5, "it was passed on all the same");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn higher_priorities_go_first() {
    let rig =
        Rig::start(Settings { schedule: Schedule { under_way: 1, ..Schedule::default() }, ..Settings::default() });
    rig.world.set("b.example", Does::Takes(seconds(10)));
    rig.send("jo@a.example", &["first@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    for priority in [-3, 0, 5, 4] {
        let to = format!("p{priority}@b.example");
        rig.send(&format!("jo@a.example MT-PRIORITY={priority}"), &[&to], MAIL).await.unwrap();
    }
    tokio::time::sleep(seconds(100)).await;
    let taken = rig.world.taken("b.example");
    let order: Vec<_> = taken.iter().map(|taken| taken.envelope.recipients[0].to.to_string()).collect();
    assert_eq!(order, ["<first@b.example>", "<p5@b.example>", "<p4@b.example>", "<p0@b.example>", "<p-3@b.example>"]);
    // The next hop is asked for it too.
    assert_eq!(taken[1].envelope.mail.parameters.as_str(), "MT-PRIORITY=5");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_can_be_cancelled_and_is_not_flushed() {
    let rig = Rig::start(Settings::default());
    for to in ["x@b.example", "y@b.example"] {
        rig.send("jo@a.example HOLDUNTIL=2027-01-15T09:00:00Z", &[to], MAIL).await.unwrap();
    }
    tokio::time::sleep(seconds(5)).await;
    rig.spool.control(&Filter::default(), Action::RetryAt(at(5)), at(5)).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    assert!(rig.world.taken("b.example").is_empty(), "released too early");
    let cancelled = Filter { recipient: Some("x@".into()), ..Filter::default() };
    assert_eq!(rig.spool.control(&cancelled, Action::Cancel, at(65)).await.unwrap(), 1);
    tokio::time::sleep(seconds(3_600)).await;
    let [taken] = &rig.world.taken("b.example")[..] else { panic!("one message") };
    assert_eq!(taken.envelope.recipients[0].to.to_string(), "<y@b.example>");
    assert!(taken.time >= at(3_600), "{:?}", taken.time);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_do_is_refused() {
    let rig = Rig::start(Settings::default());
    for mode in ["R", "N"] {
        let refused = rig.send(&format!("jo@a.example HOLDFOR=600 BY=600;{mode}"), &["x@b.example"], MAIL).await;
        assert_eq!(refused.unwrap_err().reply().code().get(), 501);
        rig.send(&format!("jo@a.example HOLDFOR=600 BY=601;{mode}"), &["x@b.example"], MAIL).await.unwrap();
    }
    rig.send("jo@a.example BY=-600;N", &["x@b.example"], MAIL).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn all_of_it_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(SqliteSpool::open(folder.path(), Limits::default()).unwrap());
    let asked = "RET=HDRS ENVID=x BY=9000;NT MT-PRIORITY=-4 HOLDFOR=7200";
    let spool = open();
    let rig = Rig::over(spool.clone(), World::new(), Settings::default());
    let to = "x@b.example NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@c.example";
    rig.send(&format!("jo@a.example {asked}"), &[to], MAIL).await.unwrap();
    let page = |spool: Arc<SqliteSpool>| async move { spool.list(&Filter::default(), None, 9).await.unwrap().entries };
    let before = page(spool.clone()).await;
    rig.stop().await;
    spool.close().await.unwrap();
    drop(spool);
    let after = page(open()).await;
    assert_eq!(before, after);
    let [entry] = &after[..] else { panic!("{after:?}") };
    let accepted = entry.message.accepted;
    assert_eq!(entry.message.mail.parameters.as_str(), asked);
    assert_eq!(entry.job.recipients[0].rcpt.parameters.to_string(), to.split_once(' ').unwrap().1);
    assert_eq!((entry.job.due, entry.job.alarm), (accepted + seconds(7_200), accepted + seconds(9_000)));
    assert_eq!(entry.job.priority, -4);
}

/// What senders say of notices; `None` says nothing.
const NOTIFY: [Option<&str>; 6] =
    [None, Some("NEVER"), Some("SUCCESS"), Some("FAILURE"), Some("DELAY"), Some("SUCCESS,FAILURE,DELAY")];

/// What a next hop may do for some hours.
fn does() -> impl Strategy<Value = Does> {
    let answer = prop_oneof![Just(Ok(())), Just(Err(unknown())), Just(Err(greylisted()))];
    prop_oneof![
        Just(Does::Dead),
        Just(Does::Breaks),
        Just(Does::Says(greylisted())),
        Just(Does::Says(unknown())),
        Just(Does::Relays(Omitted::DSN)),
        Just(Does::Relays(Omitted::NOTHING)),
        Just(Does::Takes(seconds(90))),
        proptest::collection::vec(answer, 1..4).prop_map(Does::Each),
    ]
}

/// Whose mail, with what BY, and what is said of notices about each recipient.
type Letter = (bool, Option<&'static str>, Vec<usize>);

async fn told_in(letters: Vec<Letter>, moods: Vec<Does>) -> Result<(), TestCaseError> {
    let schedule = Schedule { lifetime: seconds(86_400), ..Schedule::default() };
    let rig = Rig::start(Settings { schedule, ..Settings::default() });
    let mut expected = HashMap::new();
    for (n, (nobody, by, recipients)) in letters.into_iter().enumerate() {
        let to: Vec<_> =
            recipients.iter().enumerate().map(|(i, which)| (format!("u{n}-{i}@b.example"), NOTIFY[*which])).collect();
        let rcpts: Vec<_> = to
            .iter()
            .map(|(to, notify)| notify.map_or_else(|| to.clone(), |notify| format!("{to} NOTIFY={notify}")))
            .collect();
        let rcpts: Vec<_> = rcpts.iter().map(String::as_str).collect();
        let mail = format!("{} {}", if nobody { "" } else { "jo@a.example" }, by.unwrap_or_default());
        rig.send(mail.trim_end(), &rcpts, MAIL).await.unwrap();
        expected.extend(to.into_iter().map(|(to, notify)| (to, (nobody, notify))));
    }
    for mood in moods {
        rig.world.set("b.example", mood);
        tokio::time::sleep(seconds(5 * 3_600)).await;
    }
    tokio::time::sleep(seconds(30 * 3_600)).await;
    prop_assert_eq!(rig.spool.stats(), Stats::default());
    let mut told = HashMap::<(String, String), usize>::new();
    for notice in notices(&rig) {
        let mut lines = notice.lines();
        while let Some(line) = lines.next() {
            let Some(to) = line.strip_prefix("Final-Recipient: rfc822; ") else { continue };
            let action = lines.next().unwrap().strip_prefix("Action: ").unwrap();
            *told.entry((to.to_owned(), action.to_owned())).or_default() += 1;
        }
    }
    for ((to, action), times) in &told {
        let (nobody, notify) = expected[to];
        let word = match action.as_str() {
            "failed" => "FAILURE",
            "delayed" => "DELAY",
            _ => "SUCCESS",
        };
        let wanted = notify.map_or(word != "SUCCESS", |notify| notify.contains(word));
        prop_assert!(!nobody && wanted && *times == 1, "{} {}: {:?}, {} times", to, action, expected[to], times);
    }
    for to in expected.keys() {
        let has = |action: &str| told.contains_key(&(to.clone(), action.to_owned()));
        let ends = ["failed", "delivered", "relayed"].into_iter().filter(|action| has(action)).count();
        prop_assert!(ends <= 1, "{} has more than one end: {:?}", to, told);
    }
    rig.stop().await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nobody_is_told_twice_or_what_they_do_not_want_to_hear(
        letters in proptest::collection::vec(
            (any::<bool>(), prop_oneof![2 => Just(None), 1 => Just(Some("BY=30000;N")), 1 => Just(Some("BY=30000;R"))],
             proptest::collection::vec(0..NOTIFY.len(), 1..5)), 1..6),
        moods in proptest::collection::vec(does(), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(told_in(letters, moods))?;
    }
}
