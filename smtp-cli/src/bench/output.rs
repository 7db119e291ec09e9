//! What came of a load: for people, and for machines.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;
use smtp_bench::{Comparison, Metric, Report, Spent};

/// A report on standard output.
pub(super) fn print_report(report: &Report, json: bool, csv: bool) {
    if json {
        print_json(report);
    } else if csv {
        line(CSV_HEAD);
        csv_rows(1, report);
    } else {
        table(report);
    }
}

/// A comparison on standard output.
pub(super) fn print_comparison(comparison: &Comparison, json: bool, csv: bool) {
    if json {
        return print_json(comparison);
    }
    if csv {
        line(CSV_HEAD);
        for contestant in &comparison.contestants {
            contestant.rounds.iter().zip(1..).for_each(|(report, round)| csv_rows(round, report));
        }
        return;
    }
    for contestant in &comparison.contestants {
        line(&contestant.target);
        for metric in Metric::ALL {
            let mut values: Vec<f64> = contestant.rounds.iter().filter_map(|report| metric.of(report)).collect();
            values.sort_by(f64::total_cmp);
            if let (Some(least), Some(median), Some(most)) =
                (values.first(), values.get(values.len() / 2), values.last())
            {
                line(format_args!("  {:20}{median:10.3}  ({least:.3} to {most:.3})", metric.name()));
            }
        }
        errors(contestant.rounds.iter());
    }
    for ratio in &comparison.ratios {
        let interval = match (ratio.ratio.low, ratio.ratio.high) {
            (Some(low), Some(high)) => format!("[{low:.3}, {high:.3}]"),
            _ => String::from("(one round: no interval)"),
        };
        let (target, to, metric) = (&ratio.target, &ratio.to, ratio.metric.name());
        line(format_args!("ratio {metric:20}{:8.3} {interval}  {target} to {to}", ratio.ratio.ratio));
    }
    line(format_args!("ratios: {}", comparison.method));
}

fn table(report: &Report) {
    let (load, messages) = (&report.load, &report.messages);
    line(format_args!(
        "{}: {} sessions, {}, {}",
        report.target,
        load.sessions,
        load.content,
        load.rate.map_or_else(|| String::from("closed loop"), |rate| format!("{rate} due a second"))
    ));
    line(format_args!(
        "{} messages: {} accepted, {} refused, {} failed, in {:.3} s over {} sessions",
        messages.sent, messages.accepted, messages.refused, messages.failed, report.seconds, report.sessions
    ));
    line(format_args!(
        "{:.1} messages/s, {:.2} MiB/s",
        report.messages_per_second,
        report.octets_per_second / f64::from(1 << 20)
    ));
    line(format_args!(
        "{:10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "ms", "count", "mean", "p50", "p90", "p99", "p99.9", "max"
    ));
    for step in &report.steps {
        line(format_args!(
            "{:10}{:10}{:10.3}{:10.3}{:10.3}{:10.3}{:10.3}{:10.3}",
            step.step.name(),
            step.count,
            step.mean,
            step.p50,
            step.p90,
            step.p99,
            step.p999,
            step.max
        ));
    }
    spent("client", report.client);
    spent("server", report.server);
    errors(std::iter::once(report));
}

fn spent(who: &str, spent: Option<Spent>) {
    let Some(spent) = spent else { return };
    let per = spent.cpu_seconds_per_1000.map_or_else(String::new, |cpu| format!(", {cpu:.4} for 1,000 messages"));
    let memory = spent.memory.map_or_else(String::new, |octets| {
        format!("; {:.1} MiB of memory at most", number(octets) / f64::from(1 << 20))
    });
    line(format_args!("{who}: {:.3} s of CPU{per}{memory}", spent.cpu_seconds));
}

fn errors<'a>(reports: impl Iterator<Item = &'a Report>) {
    for error in reports.flat_map(|report| &report.errors) {
        line(format_args!("{:>8} x {:8}  {}", error.count, error.what, error.example));
    }
}

const CSV_HEAD: &str = "target,round,step,count,mean_ms,min_ms,p50_ms,p90_ms,p99_ms,p999_ms,max_ms";

fn csv_rows(round: u32, report: &Report) {
    let target = report.target.replace('"', "\"\"");
    for step in &report.steps {
        line(format_args!(
            "\"{target}\",{round},{},{},{},{},{},{},{},{},{}",
            step.step.name(),
            step.count,
            step.mean,
            step.min,
            step.p50,
            step.p90,
            step.p99,
            step.p999,
            step.max
        ));
    }
}

fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(error) => crate::exit::warn(format_args!("cannot write the report: {error}")),
    }
}

/// Nobody may be there to read it.
fn line(text: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// As a number to show.
const fn number(count: u64) -> f64 {
    count as f64
}
