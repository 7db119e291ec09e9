//! Experiments, run. Nothing here depends on how fast this machine is: the simulation has its own time, and of the emulated
//! link no time is asserted.
#![allow(clippy::unwrap_used)]

use std::io::sink;
use std::path::Path;

use smtp_lab::report::Report;
use smtp_lab::{
    Experiment, Ground, PRESETS, Record, Resumption, SCHEMA, Spread, Step, Transport, compare, run, unavailable,
};

fn preset(name: &str) -> Experiment {
    Experiment::parse(PRESETS.iter().find(|(known, _)| *known == name).unwrap().1).unwrap()
}

/// The record and its lines.
fn recorded(experiment: &Experiment) -> (Record, String) {
    let mut lines = Vec::new();
    let record = run(experiment, &mut lines, |_, _| {}).unwrap();
    (record, String::from_utf8(lines).unwrap())
}

fn failures(record: &Record) -> Vec<String> {
    let failed = record.runs.iter().filter_map(|run| {
        let error = run.sample.error.as_ref()?;
        Some(format!("{}, {}: {error}", record.head.cells[run.cell].cell.way(), record.head.cells[run.cell].cell.path))
    });
    failed.collect()
}

/// Every line is as the schema says.
fn validate(lines: &str) {
    let schema = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for line in lines.lines() {
        let json = serde_json::from_str(line).unwrap();
        let faults: Vec<String> = validator.iter_errors(&json).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{faults:?}: {line}");
    }
}

/// The report is whole, and needs nothing but itself.
fn read(record: &Record) {
    let report = Report::new(record);
    let (html, markdown) = (report.html(), report.markdown());
    let alone = html.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "src=", "<script", "<link", "@import", "url(\"", "url(h"] {
        assert!(!alone.contains(outside), "{outside}");
    }
    for figure in report.figures() {
        assert!(html.contains(&figure.svg) && markdown.contains(&format!("({}.svg)", figure.name)), "{}", figure.name);
        for number in ["NaN", "inf", "HATCH"] {
            assert!(!figure.svg.contains(number), "{}: {number}", figure.name);
        }
    }
    let environment = &record.head.environment;
    for fact in [&environment.commit, &environment.kernel, &environment.crates["quinn"], &environment.began] {
        assert!(html.contains(fact.as_str()) && markdown.contains(fact.as_str()), "{fact}");
    }
}

#[test]
fn a_simulation_is_whole_and_the_same_again() {
    let experiment = preset("tiny");
    let (record, lines) = recorded(&experiment);
    assert_eq!(failures(&record), [""; 0]);
    validate(&lines);
    assert_eq!(Record::read(lines.as_bytes()).unwrap(), record);
    read(&record);

    let (again, _) = recorded(&record.head.experiment);
    let differences = compare(&record, &again);
    assert_eq!((differences.runs, differences.differing.len()), (record.runs.len(), 0), "{differences:?}");

    // Other luck is seen.
    let (other, _) = recorded(&Experiment { seed: 2, ..experiment });
    let lossy = record.runs.iter().zip(&other.runs).filter(|(run, other)| {
        record.head.cells[run.cell].cell.path.loss > 0.0 && run.sample.exact() != other.sample.exact()
    });
    let lossy = lossy.count();
    assert!(lossy > 10, "{lossy}");
}

#[test]
fn a_mail_costs_the_round_trips_that_the_protocol_says() {
    let mut experiment = preset("one-mail");
    experiment.part.truncate(1);
    let (record, _) = recorded(&experiment);
    assert_eq!(failures(&record), [""; 0]);
    // A handshake of TCP 1, of TLS 1 more; greeting 1, EHLO 1, STARTTLS 1, EHLO again 1; each group of commands 1; and 1
    // where the content is larger than the window.
    let expected = [
        ("TCP, DATA, lock-step", 8),
        ("TCP, BDAT, lock-step", 7),
        ("TCP, DATA, pipelined", 6),
        ("TCP, BDAT, pipelined", 5),
        ("STARTTLS, DATA, lock-step", 11),
        ("STARTTLS, BDAT, lock-step", 10),
        ("STARTTLS, DATA, pipelined", 9),
        ("STARTTLS, BDAT, pipelined", 8),
        ("TLS, DATA, lock-step", 9),
        ("TLS, BDAT, lock-step", 8),
        ("TLS, DATA, pipelined", 7),
        ("TLS, BDAT, pipelined", 6),
        ("QUIC, DATA, lock-step", 7),
        ("QUIC, BDAT, lock-step", 6),
        ("QUIC, DATA, pipelined", 5),
        ("QUIC, BDAT, pipelined", 4),
        ("QUIC, DATA, in one flight", 4),
        ("QUIC, one flight", 3),
    ];
    let mut seen = Vec::new();
    for run in &record.runs {
        let cell = record.head.cells[run.cell].cell;
        seen.push((cell.way(), run.sample.last_us().unwrap()));
    }
    let expected: Vec<_> = expected.into_iter().map(|(way, rounds)| (way.to_owned(), rounds * 50_000)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_race_costs_nothing_with_udp_and_the_head_start_once_without() {
    let experiment = |part: &str| Experiment::parse(&format!("title = \"t\"\n[[part]]\n{part}")).unwrap();
    let times = |experiment: &Experiment| -> Vec<(String, u64)> {
        let (record, lines) = recorded(experiment);
        assert_eq!(failures(&record), [""; 0]);
        validate(&lines);
        read(&record);
        let (again, _) = recorded(experiment);
        assert!(compare(&record, &again).differing.is_empty());
        let runs = record.runs.iter();
        runs.map(|run| (record.head.cells[run.cell].cell.way(), run.sample.last_us().unwrap() / 1000)).collect()
    };
    let expected = |ways: &[(&str, u64)]| ways.iter().map(|(way, ms)| ((*way).to_owned(), *ms)).collect::<Vec<_>>();

    let open = experiment("transport = [\"starttls\", \"quic\", \"race\"]\nresumption = [\"none\", \"memory\"]");
    let ways = [
        ("STARTTLS, BDAT, pipelined", 400),
        ("QUIC, BDAT, pipelined", 200),
        ("QUIC, one flight", 150),
        ("race, BDAT, pipelined", 200),
        ("race, BDAT, pipelined, remembered", 200),
        ("race, one flight", 150),
        ("race, one flight, remembered", 150),
    ];
    assert_eq!(times(&open), expected(&ways));

    // 250 ms, and then what STARTTLS costs; without a flight, whatever was hoped for.
    let blocked = experiment("transport = [\"race\"]\nresumption = [\"none\", \"memory\"]\nblock_udp = true");
    let ways = [
        ("race, BDAT, pipelined", 650),
        ("race, BDAT, pipelined, remembered", 400),
        ("race, one flight", 650),
        ("race, one flight, remembered", 400),
    ];
    assert_eq!(times(&blocked), expected(&ways));

    // Longer ways than the head start: TCP is tried, and is behind by that much.
    let far = experiment("transport = [\"race\"]\ndialogue = [\"pipelined\"]\nrtt = [600]");
    assert_eq!(times(&far), expected(&[("race, BDAT, pipelined", 2400)]));

    // The report says who won.
    let (record, _) = recorded(&Experiment { part: [open.part, blocked.part].concat(), ..open });
    let markdown = Report::new(&record).markdown();
    let won = |row: &str| {
        let rows = markdown.lines().filter(|line| line.starts_with(&format!("| {row} |")));
        rows.map(|line| line.trim_end_matches(" |").rsplit_once("| ").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert!(markdown.contains("| QUIC won |") && markdown.contains("250 ms later"), "{markdown}");
    assert_eq!(won("race, BDAT, pipelined"), ["1", "0"]);
    assert_eq!(won("STARTTLS, BDAT, pipelined"), ["–"]);
}

#[test]
fn what_the_simulation_cannot_do_is_left_out_and_said() {
    let mut experiment = preset("link");
    experiment.ground = Ground::Simulation;
    let (cells, left_out) = experiment.cells().unwrap();
    assert!(cells.iter().all(|place| place.cell.transport == Transport::Quic), "{cells:?}");
    assert!(left_out.iter().any(|left| left.why.contains("emulated link")), "{left_out:?}");
}

#[test]
fn a_record_that_is_none_is_refused_with_its_line() {
    let (_, lines) = recorded(&Experiment { rounds: 1, ..preset_part("tiny", 0) });
    let first = lines.lines().next().unwrap();
    for (text, line) in [
        (String::new(), "line 1"),
        ("{}".to_owned(), "line 1"),
        (lines.replacen("\"version\":1", "\"version\":2", 1), "line 1"),
        (format!("{first}\n{first}"), "line 2"),
        (format!("{first}\nnonsense"), "line 2"),
        (lines.lines().skip(1).collect::<Vec<_>>().join("\n"), "line 1"),
        (lines.replacen("\"cell\":1,", "\"cell\":9999,", 1), "line 3"),
    ] {
        let error = Record::read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(line), "{error}");
    }
    // One that was broken off is read as far as it goes.
    let half: String = lines.lines().take(4).map(|line| format!("{line}\n")).collect();
    let record = Record::read(half.as_bytes()).unwrap();
    assert_eq!((record.runs.len(), record.end), (3, None));
}

/// One part of a preset.
fn preset_part(name: &str, part: usize) -> Experiment {
    let mut experiment = preset(name);
    experiment.part = vec![experiment.part.swap_remove(part)];
    experiment
}

#[test]
fn every_preset_can_be_run() {
    for (name, _) in PRESETS {
        let (cells, _) = preset(name).cells().unwrap();
        assert!(!cells.is_empty(), "{name}");
    }
}

/// TCP and QUIC, QUIC through a NAT that forgets, and both in a race without UDP. The kernel decides when packets are sent, so that nothing is said of times.
#[test]
fn the_emulated_link_carries_mail() {
    if let Err(why) = unavailable() {
        println!("skipped: {why}");
        // A kernel without TUN is nothing that a setup could mend.
        let must = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty()) && Path::new("/dev/net/tun").exists();
        assert!(!must, "CI must be able to make an emulated link: {why}");
        return;
    }
    let text = r#"
        title = "Two cells"
        ground = "link"
        rounds = 2
        [[part]]
        transport = ["starttls", "quic"]
        dialogue = ["pipelined"]
        rtt = [10]
        rate = [100]
        [[part]]
        rounds = 1
        transport = ["quic"]
        dialogue = ["flight"]
        size = [1000000]
        rtt = [10]
        rate = [20]
        # Late enough for the handshake to be complete on a busy machine: before that nothing may move (RFC 9000 §9).
        rebind = [300]
        [[part]]
        rounds = 1
        transport = ["race"]
        dialogue = ["pipelined"]
        resumption = ["none", "memory"]
        rtt = [10]
        block_udp = true
        [[part]]
        rounds = 1
        transport = ["race"]
        dialogue = ["flight"]
        rtt = [10]
    "#;
    let (record, lines) = recorded(&Experiment::parse(text).unwrap());
    assert_eq!((failures(&record), record.runs.len()), (vec![], 8));
    validate(&lines);
    read(&record);
    assert!(record.head.environment.congestion[0].starts_with("cubic: cubic at the client, cubic at the server"));
    for run in &record.runs {
        let sample = &run.sample;
        // The content went over the link, and CPU was spent on both sides.
        assert!(sample.octets[0] > 20_000 && sample.packets[1] > 3, "{sample:?}");
        let cell = record.head.cells[run.cell].cell;
        // What was on its way to the ports that the NAT has forgotten gets nowhere.
        let forgets = cell.path.rebind > 0.0;
        if cell.path.block_udp {
            // QUIC is tried and TCP wins; the second time QUIC is not even tried.
            assert!(sample.steps.iter().any(|(step, _)| *step == Step::StartTls), "{sample:?}");
            assert_eq!((sample.lost[0] > 0, sample.lost[1]), (cell.resumption == Resumption::None, 0), "{sample:?}");
        } else {
            assert!(sample.lost == [0, 0] || forgets, "{sample:?}");
        }
        assert!(sample.cpu_us.unwrap() > 0 && sample.client_cpu_us.unwrap() > 0, "{sample:?}");
        assert_eq!((sample.accepted_us.len(), &sample.digest), (1, &None));
        assert_eq!(cell.spread, Spread::Session);
    }
    let again = run(&record.head.experiment, sink(), |_, _| {}).unwrap();
    assert_eq!(again.runs.len(), record.runs.len());
}
