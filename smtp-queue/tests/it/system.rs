//! The store on the real system calls: their order, their failures, and a disk that is really full.

use std::path::Path;
use std::process::{Command, Output};

use smtp_queue::kit::{at, claim, content, message, settle_all, store};
use smtp_queue::{Error, Health, Limits, MessageId, Settled, Spool, SqliteSpool};

const FOLDER: &str = "SMTP_QUEUE_SYSTEM_FOLDER";

/// Whether a tool is there. In CI it has to be.
fn has(tool: &str, arguments: &[&str]) -> bool {
    let works = Command::new(tool).args(arguments).output().is_ok_and(|output| output.status.success());
    if !works {
        let reason = format!("`{tool} {}` does not work here", arguments.join(" "));
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        println!("skipped: {reason}");
    }
    works
}

fn body(n: usize) -> Vec<u8> {
    let size = if n % 2 == 1 { 300_000 } else { 3_000 };
    (0..size).map(|i| ((i * (n + 3)) >> 2).to_le_bytes()[0]).collect()
}

/// The child: stores six messages one after the other and says so. Does nothing unless it is asked to.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let spool = match SqliteSpool::open(folder, Limits::default()) {
            Ok(spool) => spool,
            Err(error) => return println!("\nclosed {error}"),
        };
        for n in 0..6 {
            let new = message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
            match store(&spool, at(0), new, &body(n)).await {
                Ok(id) => println!("\nstored {id} {n}"),
                Err(error) => println!("\nrefused {error}"),
            }
            if spool.health() != Health::Ready {
                let _ = spool.maintain(at(1)).await;
            }
        }
    });
}

fn strace(folder: &Path, log: &Path, options: &[&str]) -> Output {
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(log)
        .args(options)
        .arg(std::env::current_exe().unwrap())
        .args(["system::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .output();
    output.unwrap()
}

fn stored(output: &Output) -> Vec<(MessageId, usize)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.strip_prefix("stored ")?.split_once(' '));
    lines.map(|(id, n)| (id.parse().unwrap(), n.parse().unwrap())).collect()
}

#[test]
fn every_answer_comes_after_the_syncs_that_it_promises() {
    if !has("strace", &["-qq", "true"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let options = ["-e", "trace=fsync,fdatasync,rename,renameat,renameat2,write", "-s", "16"];
    let output = strace(&folder.path().join("queue"), &log, &options);
    assert_eq!(stored(&output).len(), 6, "{output:?}");

    // For each message what happened before it was said to be stored: s for a sync, r for a rename.
    let log = std::fs::read_to_string(log).unwrap();
    let (mut windows, mut window) = (Vec::new(), String::new());
    for line in log.lines() {
        if line.contains("write(1, ") && line.contains("stored") {
            windows.push(std::mem::take(&mut window));
        } else if line.contains("rename") && line.contains("= 0") {
            window.push('r');
        } else if (line.contains("fsync(") || line.contains("fdatasync(") || line.contains("sync resumed"))
            && line.contains("= 0")
        {
            window.push('s');
        }
    }
    assert_eq!(windows.len(), 6, "{log}");
    for (n, window) in windows.iter().enumerate() {
        if n % 2 == 1 {
            // Content, name, folder, row.
            let (before, after) = window.split_once('r').unwrap_or_else(|| panic!("no rename for {n}: {window}"));
            assert!(before.ends_with('s') && after.matches('s').count() >= 2, "message {n}: {window}");
        } else {
            assert!(window.ends_with('s'), "message {n}: {window}");
        }
    }
}

#[tokio::test]
async fn a_system_call_that_fails_loses_nothing_that_was_answered() {
    if !has("strace", &["-qq", "-e", "inject=fsync:error=EIO", "true"]) {
        return;
    }
    let (mut runs, mut refused) = (0, 0);
    for call in ["fsync", "fdatasync", "pwrite64", "rename"] {
        for error in ["EIO", "ENOSPC"] {
            for when in [1, 2, 4, 7] {
                let folder = tempfile::tempdir().unwrap();
                let queue = folder.path().join("queue");
                let inject = format!("inject={call}:error={error}:when={when}..{}", when + 1);
                let trace = format!("trace={call}");
                let output = strace(&queue, &folder.path().join("log"), &["-e", &trace, "-e", &inject]);
                let stored = stored(&output);
                let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
                runs += usize::from(log.contains("INJECTED"));
                refused += 6 - stored.len();
                let case = format!("{call} {error} {when}");
                let spool = SqliteSpool::open(&queue, Limits::default()).unwrap_or_else(|e| panic!("{case}: {e}"));
                for (id, n) in stored {
                    let entries = spool.get(id).await.unwrap();
                    assert_eq!(entries.len(), 1, "{case}: {id} was stored and is lost");
                    assert_eq!(content(&spool, id).await.unwrap(), body(n), "{case}: {id}");
                }
                // What was not answered is there whole or not at all.
                for leased in claim(&spool, at(9), 100).await.unwrap() {
                    assert!(content(&spool, leased.message.id).await.is_ok(), "{case}: half a message");
                }
                spool.close().await.unwrap();
            }
        }
    }
    println!("{runs} runs with a failure, {refused} messages refused");
    assert!(runs >= 12 && refused >= 12, "{runs} runs with a failure, {refused} messages refused");
}

/// The child on a small disk: fills it, empties the queue, and takes mail again.
#[test]
fn small_disk() {
    let Ok(folder) = std::env::var("SMTP_QUEUE_SMALL_DISK") else { return };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let limits = Limits { free: 0, ..Limits::default() };
        let spool = SqliteSpool::open(folder, limits).unwrap();
        let put = async |size| {
            let new = message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
            store(&spool, at(0), new, &vec![b'x'; size]).await
        };
        let (mut stored, mut refused, mut size) = (0, 0, 100_000);
        // A message that does not fit leaves room for smaller ones: it is full when there is none for any.
        while refused == 0 || !matches!(spool.health(), Health::Full(_)) {
            match put(size).await {
                Ok(_) => (stored, size) = (stored + 1, (2 * size + 1).min(100_000)),
                Err(error) => {
                    assert!(matches!(error, Error::Full(_)), "{error}");
                    (refused, size) = (refused + 1, size / 2);
                }
            }
            assert!(refused < 1_000, "{stored} stored, and {:?}", spool.health());
        }
        assert!(stored > 100, "{stored} stored");
        // All of it can leave.
        let mut left = 0;
        loop {
            let leased = claim(&spool, at(1), 10).await.unwrap();
            if leased.is_empty() {
                break;
            }
            for leased in leased {
                let done = settle_all(&leased, &Settled::Delivered("250".into()), at(1));
                spool.settle(leased.lease, at(1), done).await.unwrap();
                left += 1;
            }
        }
        assert_eq!(left, stored);
        // A little at a time, and none while the log is being copied.
        let mut again = put(100_000).await;
        for _ in 0..100 {
            if again.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            spool.maintain(at(2)).await.unwrap();
            again = put(100_000).await;
        }
        again.expect("space does not come back");
        assert_eq!(spool.health(), Health::Ready);
        println!("\nfilled with {stored}, emptied, and filled again");
    });
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    if !has("unshare", &["--mount", "true"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=100m none \"$1\" && \
                  exec \"$2\" system::small_disk --exact --nocapture --test-threads=1";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .env("SMTP_QUEUE_SMALL_DISK", folder.path().join("queue"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("filled again"), "{output:?}");
}
