//! `smtp bench`.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::play::{Run, Server, run, smtp};

fn sink() -> Server {
    Server::start(&["sink", "--listen", "smtp://127.0.0.1:0", "--listen", "smtp+quic://127.0.0.1:0"], 2)
}

fn bench(arguments: &[&str]) -> Run {
    run(smtp(["bench"].iter().chain(arguments)))
}

/// The report, which is as its schema says.
fn report(run: &Run) -> Value {
    let json = run.json();
    let schema = serde_json::from_str(smtp_bench::SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let faults: Vec<String> = validator.iter_errors(&json).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?}");
    json
}

/// How often each step was timed.
fn count(report: &Value, step: &str) -> u64 {
    let steps = report["steps"].as_array().unwrap();
    steps.iter().find(|one| one["step"] == step).map_or(0, |one| one["count"].as_u64().unwrap())
}

#[test]
fn what_it_counts_is_what_the_server_counted() {
    let server = sink();
    let pid = server.child.id().to_string();
    let args = [server.url(), "-s", "4", "-m", "200", "--to", "a@x.example,b@x.example", "--pid", &pid, "--json"];
    let done = bench(&args);
    assert_eq!(done.code, Some(0), "{done:?}");
    let report = report(&done);
    let messages = &report["messages"];
    assert_eq!((&messages["sent"], &messages["accepted"]), (&200.into(), &200.into()), "{report}");
    assert_eq!((&report["recipients"], &report["octets"]), (&400.into(), &(200 * 4096).into()), "{report}");
    for (step, times) in [("mail", 200), ("rcpt", 400), ("final", 200), ("message", 200)] {
        assert_eq!(count(&report, step), times, "{step}: {report}");
    }
    assert_eq!(report["sessions"], count(&report, "connect"));
    let server_cpu = report["server"]["cpu_seconds"].as_f64().unwrap();
    assert!(server_cpu > 0.0 && report["server"]["memory"].as_u64().unwrap() > 1 << 20, "{report}");
    assert!(report["client"]["cpu_seconds"].as_f64().unwrap() > 0.0, "{report}");

    server.signal("INT");
    let totals = server.line().unwrap();
    assert!(totals.starts_with("totals messages=200 recipients=400 octets=819200 "), "{totals}");
}

#[test]
fn connections_transfers_and_tls_are_as_they_are_asked_for() {
    let server = sink();
    let quic = server.urls[1].as_str();
    let tcp = format!("{}?tls=none", server.url());
    for (arguments, connects, ehlos, datas, tls) in [
        (&[tcp.as_str()][..], 1, 1, 0, 0),
        (&[&tcp, "--connection", "message", "--transfer", "data"], 10, 10, 10, 0),
        (&[&tcp, "--no-pipelining", "--transfer", "bdat", "--size", "256:1,100K:1"], 1, 1, 0, 0),
        (&[server.url(), "--connection", "message"], 10, 20, 0, 10),
        (&[quic, "--insecure", "--connection", "stream"], 10, 10, 0, 0),
    ] {
        let done = bench(&[arguments, &["-s", "1", "-m", "10", "--json"]].concat());
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
        let report = report(&done);
        let counts = ["message", "connect", "ehlo", "data", "tls"].map(|step| count(&report, step));
        assert_eq!(counts, [10, connects, ehlos, datas, tls], "{arguments:?}: {report}");
    }
}

#[test]
fn sessions_are_resumed_unless_not_wanted() {
    let server = sink();
    let resumed = |more: &[&str]| {
        let done = bench(&[&[server.url(), "-s", "1", "-m", "5", "--connection", "message", "--json"], more].concat());
        report(&done)["resumed"].as_u64().unwrap()
    };
    assert_eq!(resumed(&["--no-resumption"]), 0);
    // The session of the first probe has left its tickets.
    assert!(resumed(&[]) >= 4);
}

#[test]
fn a_rate_is_kept() {
    let server = sink();
    let done = bench(&[server.url(), "--rate", "100", "-m", "100", "--warm-up", "0.1", "--json"]);
    let report = report(&done);
    assert_eq!(report["messages"]["accepted"], 100, "{report}");
    // The hundredth is due 0.99 s after the first; it can be late and not early.
    let seconds = report["seconds"].as_f64().unwrap();
    assert!((0.98..10.0).contains(&seconds), "{report}");
}

#[test]
fn refusals_are_told_by_their_code() {
    let server = Server::serve(&["--mailbox", "you@localhost"]);
    let done = bench(&[server.url(), "-s", "2", "-m", "10", "--to", "nobody@localhost", "--json"]);
    assert_eq!(done.code, Some(67), "{done:?}");
    let refused = report(&done);
    assert_eq!((&refused["messages"]["refused"], &refused["messages"]["accepted"]), (&10.into(), &0.into()));
    assert_eq!((&refused["errors"][0]["what"], &refused["errors"][0]["count"]), (&"550".into(), &10.into()));
    assert!(server.messages("localhost", "you").is_empty());

    let mixed = bench(&[server.url(), "-m", "3", "--to", "you@localhost,nobody@localhost", "--json"]);
    let mixed = report(&mixed);
    assert_eq!((&mixed["messages"]["refused"], &mixed["recipients"]), (&3.into(), &3.into()), "{mixed}");
    assert_eq!(server.messages("localhost", "you").len(), 3);
}

#[test]
fn without_a_server_there_is_no_load() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", free.local_addr().unwrap());
    drop(free);
    let begun = Instant::now();
    let done = bench(&[&url, "--duration", "60"]);
    assert_eq!(done.code, Some(69), "{done:?}");
    assert!(done.stderr.contains("connecting") && done.stdout.is_empty(), "{done:?}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let here = "smtp://127.0.0.1:1";
    for (arguments, code, word) in [
        (&["smtp://192.0.2.1"][..], 64, "--remote"),
        (&[here, here], 64, "compare"),
        (&["compare", here], 64, "two URLs"),
        (&[here, "--sessions", "0"], 64, "--sessions"),
        (&[here, "--rate", "0"], 64, "--rate"),
        (&[here, "--threads", "0"], 64, "--threads"),
        (&[here, "--size", "1"], 64, "256"),
        (&[here, "--pid", "4294967295"], 78, "--pid"),
        (&[here, "--pid", "1,1"], 64, "one for each"),
        (&[here, "--corpus", "/nowhere"], 65, "/nowhere"),
    ] {
        let done = bench(arguments);
        assert_eq!(done.code, Some(code), "{arguments:?}: {done:?}");
        assert!(done.stderr.contains(word), "{arguments:?}: {done:?}");
    }
}

#[test]
fn servers_are_compared_round_by_round() {
    let (one, other) = (sink(), sink());
    let arguments = ["compare", one.url(), other.url(), "-m", "20", "-s", "2", "--rounds", "3"];
    let done = bench(&[&arguments[..], &["--json"]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    let compared = report(&done);
    for contestant in compared["contestants"].as_array().unwrap() {
        assert_eq!(contestant["rounds"].as_array().unwrap().len(), 3);
    }
    let rate = compared["ratios"].as_array().unwrap().iter().find(|ratio| ratio["metric"] == "messages_per_second");
    let of = |name: &str| rate.unwrap()[name].as_f64().unwrap();
    assert!(of("low") <= of("ratio") && of("ratio") <= of("high"), "{compared}");

    let shown = bench(&arguments);
    assert!(shown.stdout.contains("ratio messages/s") && shown.stdout.contains("Student's t"), "{shown:?}");
    one.signal("INT");
    assert!(one.line().unwrap().starts_with("totals messages=120 "));
}

#[test]
fn people_get_a_table_and_machines_get_rows() {
    let server = sink();
    let table = bench(&[server.url(), "-m", "10"]);
    assert!(table.stdout.contains("10 messages: 10 accepted") && table.stderr.is_empty(), "{table:?}");
    let rows = bench(&[server.url(), "-m", "10", "--csv"]);
    let mut lines = rows.stdout.lines();
    let columns = |line: &str| line.split(',').count();
    let head = columns(lines.next().unwrap());
    assert!(lines.clone().any(|line| line.contains(",message,10,")), "{rows:?}");
    assert!(lines.all(|line| columns(line) == head), "{rows:?}");
}

#[test]
fn sessions_authenticate() {
    let server = Server::serve(&["--user", "me:secret", "--mailbox", "you@localhost"]);
    let file = server.folder().join("password");
    let run = |password: &str| {
        std::fs::write(&file, password).unwrap();
        let login = ["--user", "me", "--password-file", file.to_str().unwrap(), "--insecure", "--from", "me@localhost"];
        bench(&[&[server.url(), "-s", "2", "-m", "4", "--json", "--to", "you@localhost"], &login[..]].concat())
    };
    let done = run("secret\n");
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(count(&report(&done), "auth") >= 2, "{done:?}");
    assert_eq!(server.messages("localhost", "you").len(), 4);
    assert_eq!(run("wrong\n").code, Some(77));
}
