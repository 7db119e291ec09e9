//! What processes have spent, from Linux's `/proc`.

use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

/// How many processes of a tree are looked at.
const PROCESSES_MAX: usize = 4_096;
/// The kernel's `USER_HZ`, in which it tells the time of children: 100 on every platform that Rust has.
const TICK: Duration = Duration::from_millis(10);

/// What a process, or a process and its descendants, have spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time of all threads that live (`/proc/PID/task/*/schedstat`), and of children that have ended and were
    /// waited for, in steps of 10 ms. A thread that has ended takes its time with it.
    pub cpu: Duration,
    /// Memory in octets, pages that are shared counted in parts (Pss in `/proc/PID/smaps_rollup`); `None` if that may
    /// not be read.
    pub memory: Option<u64>,
    /// How many processes that were.
    pub processes: usize,
}

impl Usage {
    /// Of the process `pid` and all its descendants.
    ///
    /// # Errors
    /// If there is no such process, or no `/proc`.
    pub fn of_tree(pid: u32) -> io::Result<Self> {
        let mut sum = Self::of_process(pid)?;
        let (mut seen, mut open) = (BTreeSet::from([pid]), vec![pid]);
        while let Some(parent) = open.pop() {
            for child in children(parent) {
                if seen.len() < PROCESSES_MAX && seen.insert(child) {
                    open.push(child);
                    // It may be gone by now.
                    sum.add(Self::of_process(child).unwrap_or_default());
                }
            }
        }
        Ok(sum)
    }

    /// Of the process `pid` alone.
    ///
    /// # Errors
    /// If there is no such process, or no `/proc`.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let mut cpu = Duration::ZERO;
        for task in fs::read_dir(folder.join("task"))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let spent = text.split_whitespace().next().and_then(|word| word.parse().ok());
            cpu += Duration::from_nanos(spent.unwrap_or(0));
        }
        let waited_for = fs::read_to_string(folder.join("stat")).map_or(0, |text| ticks_of_children(&text));
        let memory = fs::read_to_string(folder.join("smaps_rollup")).ok().and_then(|text| pss(&text));
        Ok(Self { cpu: cpu + TICK * waited_for, memory, processes: 1 })
    }

    fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.processes += other.processes;
        self.memory = match (self.memory, other.memory) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
    }
}

/// cutime and cstime, the 16th and 17th field. The second, the name in parentheses, may hold anything.
fn ticks_of_children(stat: &str) -> u32 {
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    behind.split_whitespace().skip(13).take(2).filter_map(|word| word.parse::<u32>().ok()).sum()
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_task = |path: PathBuf| fs::read_to_string(path.join("children")).unwrap_or_default();
    let texts = tasks.filter_map(Result::ok).map(|task| of_task(task.path()));
    texts.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_tree_is_counted_and_its_work_too() {
        let before = Usage::of_tree(std::process::id()).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let began = std::time::Instant::now();
        let mut n = 0_u64;
        while began.elapsed() < Duration::from_millis(50) {
            n = std::hint::black_box(n + 1);
        }
        let after = Usage::of_tree(std::process::id()).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(after.processes > before.processes || before.processes > 1, "{before:?} {after:?}");
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
        assert!(after.memory.is_some_and(|octets| octets > 100_000), "{after:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Usage::of_tree(u32::MAX).is_err());
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 1 0 5";
        assert_eq!(ticks_of_children(stat), 13 + 14);
        assert_eq!(pss("55e-7ff [rollup]\nRss:   100 kB\nPss:      42 kB\nPss_Dirty: 7 kB\n"), Some(42 * 1024));
    }
}
