//! A process that commits in a loop, ended by force; what it was told is stored is there afterwards.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use smtp_queue::kit::{at, claim, content, message, settle_all, store};
use smtp_queue::{Limits, MessageId, Settled, Spool, SqliteSpool};

const FOLDER: &str = "SMTP_QUEUE_KILL_FOLDER";

/// Content that follows from its number, small or in a file.
fn body(n: u64) -> Vec<u8> {
    let size = if n.is_multiple_of(4) { 300_000 } else { 2_000 };
    (0..size).map(|i: u64| (i.wrapping_mul(n + 3) >> 2).to_le_bytes()[0]).collect()
}

/// The child: prints `stored <id> <n>` and `settled <id>` after each is durable. Does nothing unless it is asked to.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let spool = std::sync::Arc::new(SqliteSpool::open(folder, Limits::default()).unwrap());
        let writer = |start: u64| {
            let spool = std::sync::Arc::clone(&spool);
            tokio::spawn(async move {
                for n in (start..).step_by(8) {
                    let new = message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
                    let id = store(&*spool, at(0), new, &body(n)).await.unwrap();
                    println!("stored {id} {n}");
                    if n % 3 == 0 {
                        for leased in claim(&*spool, at(0), 1).await.unwrap() {
                            let done = settle_all(&leased, &Settled::Delivered("250".into()), at(0));
                            println!("settling {}", leased.message.id);
                            spool.settle(leased.lease, at(0), done).await.unwrap();
                            println!("settled {}", leased.message.id);
                        }
                    }
                }
            })
        };
        for task in (0..8).map(writer).collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

#[tokio::test]
async fn what_was_answered_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let (mut stored, mut settled, mut settling) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..4_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(700 + 370 * round)).await;
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let words: Vec<_> = line.split(' ').collect();
            let id = |n: usize| words.get(n).and_then(|word| word.parse::<MessageId>().ok());
            match (words.first().copied(), id(1)) {
                (Some("stored"), Some(id)) => stored.push((id, words[2].parse::<u64>().unwrap())),
                (Some("settling"), Some(id)) => settling.push(id),
                (Some("settled"), Some(id)) => settled.push(id),
                _ => {}
            }
        }
        let spool = SqliteSpool::open(folder.path(), Limits::default()).unwrap();
        for (id, n) in &stored {
            let there = !spool.get(*id).await.unwrap().is_empty();
            if settled.contains(id) {
                assert!(!there, "{id} came back");
            } else if there {
                assert_eq!(content(&spool, *id).await.unwrap(), body(*n), "{id} is not what was written");
            } else {
                assert!(settling.contains(id), "{id} was stored and is lost");
            }
        }
        spool.close().await.unwrap();
    }
    println!("{} stored, {} settled, 4 kills", stored.len(), settled.len());
    assert!(stored.len() > 20 && !settled.is_empty(), "{} stored, {} settled", stored.len(), settled.len());
}
