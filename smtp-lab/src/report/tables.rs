//! Which tables a part has, and the facts of a run.

use super::Table;
use super::figures::unique;
use crate::choice::{Ground, Transport};
use crate::number::real;
use crate::record::{Record, Sample};
use crate::script::Step;
use crate::stats::Summary;

/// How many kinds of failure are told of a part.
const FAILURES_MAX: usize = 20;

/// The tables of a part: one for each load.
pub(super) fn of(record: &Record, number: usize) -> Vec<Table> {
    let cells = || record.head.cells.iter().enumerate().filter(|(_, place)| place.part == number);
    let link = record.head.experiment.ground == Ground::Link;
    let mut tables = Vec::new();
    for (mails, size) in unique(cells().map(|(_, place)| (place.cell.mails, place.cell.size))) {
        for path in unique(cells().map(|(_, place)| place.cell.path)) {
            let of_table = cells()
                .filter(|(_, place)| (place.cell.mails, place.cell.size) == (mails, size) && place.cell.path == path);
            let mut rows = Vec::new();
            let mut load = String::new();
            let raced = of_table.clone().any(|(_, place)| place.cell.transport == Transport::Race);
            for (n, place) in of_table {
                let runs: Vec<&Sample> = record.of(n).map(|run| &run.sample).collect();
                load = place.cell.load();
                let mut row = row(&place.cell.way(), &runs, (mails, size), path.rtt, link);
                if raced {
                    row.push(won(place.cell.transport, &runs));
                }
                rows.push(row);
            }
            if !rows.is_empty() {
                let caption = format!("{load}; {path}");
                let mut head = head(mails, link);
                if raced {
                    head.push("QUIC won");
                }
                tables.push(Table { caption, head, rows });
            }
        }
    }
    tables
}

fn head(mails: usize, link: bool) -> Vec<&'static str> {
    let mut head = vec!["way", "runs", "failed"];
    if mails > 1 {
        head.push("a mail: median ms");
    }
    head.push(if mails > 1 { "all: median ms" } else { "median ms" });
    head.extend(["95 % interval", "p90", "max", "round trips", "packets", "octets", "octets / content"]);
    head.extend(if link { ["client CPU ms", "server CPU ms"].as_slice() } else { ["CPU ms, all"].as_slice() });
    head
}

fn row(way: &str, runs: &[&Sample], (mails, size): (usize, usize), rtt: f64, link: bool) -> Vec<String> {
    let good: Vec<&&Sample> = runs.iter().filter(|sample| sample.last_us().is_some()).collect();
    let mut row = vec![way.to_owned(), runs.len().to_string(), (runs.len() - good.len()).to_string()];
    let ms = |us: u64| real(us) / 1000.0;
    if mails > 1 {
        let all = Summary::of(good.iter().flat_map(|sample| &sample.accepted_us).map(|us| ms(*us)));
        row.push(all.map_or_else(none, |all| number(all.median)));
    }
    let last = Summary::of(good.iter().filter_map(|sample| sample.last_us()).map(ms));
    let both = |values: fn(&Sample) -> [u64; 2]| {
        Summary::of(good.iter().map(|sample| real(values(sample).iter().sum::<u64>()))).map(|summary| summary.median)
    };
    let octets = both(|sample| sample.octets);
    let content = real((mails * size) as u64);
    match last {
        None => row.extend(std::iter::repeat_with(none).take(5)),
        Some(last) => {
            row.push(number(last.median));
            // Where all are the same there is nothing to estimate.
            let interval = last.interval.filter(|_| last.min < last.max);
            row.push(interval.map_or_else(none, |(low, high)| format!("{} to {}", number(low), number(high))));
            row.push(number(last.p90));
            row.push(number(last.max));
            row.push(if rtt > 0.0 { super::svg::short(last.median / rtt) } else { none() });
        }
    }
    row.push(both(|sample| sample.packets).map_or_else(none, number));
    row.push(octets.map_or_else(none, number));
    row.push(octets.map_or_else(none, |octets| format!("{:.2}", octets / content)));
    let spent = |of: fn(&Sample) -> Option<u64>| {
        let spent = Summary::of(good.iter().filter_map(|sample| of(sample)).map(ms));
        spent.map_or_else(none, |spent| format!("{:.2}", spent.median))
    };
    if link {
        row.push(spent(|sample| sample.client_cpu_us));
    }
    row.push(spent(|sample| sample.cpu_us));
    row
}

/// How many of these runs QUIC won, if it raced. STARTTLS is the other way's.
fn won(transport: Transport, runs: &[&Sample]) -> String {
    let by_tcp = |sample: &Sample| sample.steps.iter().any(|(step, _)| *step == Step::StartTls);
    match transport {
        Transport::Race => {
            runs.iter().filter(|sample| sample.last_us().is_some() && !by_tcp(sample)).count().to_string()
        }
        _ => none(),
    }
}

fn none() -> String {
    "–".to_owned()
}

/// Whole where that is exact enough.
fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// What went wrong in a part, and how often.
pub(super) fn failures(record: &Record, number: usize) -> Vec<String> {
    let mut failures: Vec<(String, usize)> = Vec::new();
    for run in &record.runs {
        let place = record.head.cells.get(run.cell).filter(|place| place.part == number);
        let (Some(place), Some(error)) = (place, &run.sample.error) else { continue };
        let text = format!("{}, {}, {}: {error}", place.cell.way(), place.cell.load(), place.cell.path);
        if let Some((_, times)) = failures.iter_mut().find(|(known, _)| *known == text) {
            *times += 1;
        } else if failures.len() < FAILURES_MAX {
            failures.push((text, 1));
        }
    }
    failures.into_iter().map(|(text, times)| format!("{times} x {text}")).collect()
}

/// What a reader has to know of the run.
pub(super) fn facts(record: &Record) -> Vec<(String, String)> {
    let head = &record.head;
    let (experiment, environment) = (&head.experiment, &head.environment);
    let load = |load: Option<f64>| load.map_or_else(none, |load| load.to_string());
    let ground = match experiment.ground {
        Ground::Simulation => "simulation in virtual time",
        Ground::Link => "emulated link between two network namespaces",
    };
    let mut facts = vec![
        ("Ground".to_owned(), ground.to_owned()),
        ("Seed".to_owned(), experiment.seed.to_string()),
        (
            "Rounds".to_owned(),
            format!("{}, or as a part says; all cells in turn, with the same luck in a round", experiment.rounds),
        ),
        ("Cells".to_owned(), format!("{}, {} runs", head.cells.len(), record.runs.len())),
        ("Began".to_owned(), environment.began.clone()),
        ("Commit".to_owned(), environment.commit.clone()),
        ("Build".to_owned(), if environment.release { "release" } else { "debug" }.to_owned()),
        ("Kernel".to_owned(), environment.kernel.clone()),
        ("Processor".to_owned(), format!("{} x {}", environment.processors, environment.processor)),
    ];
    let end = record.end.as_ref();
    facts.push((
        "Load average".to_owned(),
        format!("{} before, {} after", load(environment.load), load(end.and_then(|end| end.load))),
    ));
    facts.push((
        "Took".to_owned(),
        end.map_or_else(|| "it was not run to its end".to_owned(), |end| format!("{:.1} s", end.seconds)),
    ));
    let crates: Vec<String> = environment.crates.iter().map(|(name, version)| format!("{name} {version}")).collect();
    facts.push(("Crates".to_owned(), crates.join(", ")));
    for congestion in &environment.congestion {
        facts.push(("TCP congestion control".to_owned(), congestion.clone()));
    }
    facts
}

/// What the figures are, and are not.
pub(super) fn notes(record: &Record) -> Vec<String> {
    let mut notes = vec![
        "Times are from before the first packet of the connection until the client has read the reply that accepts the \
         content. Packets and octets are both ways, with IP headers, up to and with the end of the session; medians."
            .to_owned(),
        "The 95 % interval is that of the median, by order statistics, where there are six runs and they differ.".to_owned(),
    ];
    if record.head.cells.iter().any(|place| place.cell.transport == Transport::Race) {
        notes.push(
            "A race is QUIC against STARTTLS over TCP, which begins 250 ms later or when QUIC has failed. That the server \
             has QUIC, and where, is known: no lookup is in the times. \"Remembered\" is the second connection of a client: \
             a way that has lost is not tried."
                .to_owned(),
        );
    }
    notes.push(match record.head.experiment.ground {
        Ground::Simulation => {
            "In the simulation QUIC is the real library in virtual time, whose clock ticks in milliseconds; TCP is a model \
             of what a path without loss shows: handshake, an initial window of ten segments, slow start. It has no loss, \
             rate or jitter. CPU is that of client, server and simulated network together, and the only figure that a \
             rerun does not repeat exactly."
        }
        Ground::Link => {
            "On the emulated link TCP is the kernel's and QUIC the library's, over UDP sockets of the kernel. CPU is that \
             of one thread on each side, kernel included, packets' way through the kernel's soft interrupts not. Reruns \
             are alike and not identical: kernel timing decides which packet meets which luck."
        }
    }
    .to_owned());
    notes
}
