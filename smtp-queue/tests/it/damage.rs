//! What is damaged is set aside, counted and shown; the rest goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use smtp_queue::kit::{at, claim, content, message, settle_all, store};
use smtp_queue::{Error, Filter, Limits, OpenError, Settings, Settled, Spool, SqliteSpool, Status};

use crate::rig::{Rig, World};

fn open(folder: &Path) -> SqliteSpool {
    SqliteSpool::open(folder, Limits::default()).unwrap()
}

fn database(folder: &Path) -> Connection {
    Connection::open(SqliteSpool::database(folder)).unwrap()
}

/// Two messages; the first is to be damaged.
async fn two(folder: &Path, size: usize) -> (SqliteSpool, smtp_queue::MessageId) {
    let spool = open(folder);
    let new = || message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
    let damaged = store(&spool, at(0), new(), &vec![b'x'; size]).await.unwrap();
    store(&spool, at(0), new(), b"the other").await.unwrap();
    (spool, damaged)
}

#[tokio::test]
async fn a_damaged_row_is_set_aside_and_the_rest_is_served() {
    let columns = [
        ("job", "recipients", "'[]'"),
        ("job", "recipients", "substr(recipients, 1, length(recipients) - 3)"),
        ("job", "recipients", "replace(recipients, 'x@b', 'y@b')"),
        ("job", "recipients", "x'00ff'"),
        ("job", "sum", "sum + 1"),
        ("job", "attempts", "attempts + 1"),
        ("job", "expires", "expires - 1"),
        ("job", "turn", "turn + 1"),
        ("job", "lane", "lane + 1000"),
        ("message", "mail_from", "'<evil@a.example>'"),
        ("message", "mail_from", "'garbage'"),
        ("message", "parameters", "'SIZE=1'"),
        ("message", "sender", "'somebody'"),
        ("message", "size", "size + 1"),
        ("message", "body_sum", "body_sum + 1"),
    ];
    for (table, column, value) in columns {
        let folder = tempfile::tempdir().unwrap();
        let (spool, damaged) = two(folder.path(), 9).await;
        spool.close().await.unwrap();
        drop(spool);
        let key = if table == "job" { "message" } else { "id" };
        let sql = format!("UPDATE {table} SET {column} = {value} WHERE {key} = (SELECT min({key}) FROM {table})");
        assert_eq!(database(folder.path()).execute(&sql, []).unwrap(), 1);

        let spool = open(folder.path());
        let claimed = claim(&spool, at(1), 10).await.unwrap();
        let others = claimed.iter().filter(|leased| leased.message.id != damaged).count();
        assert_eq!((claimed.len(), others), (1, 1), "{table}.{column} = {value}: {claimed:?}");
        // A lane that does not exist cannot be claimed from at all; the list shows it.
        let entry = spool.get(damaged).await.unwrap().remove(0);
        assert_eq!(entry.job.status, Status::Quarantined, "{table}.{column} = {value}");
        assert!(entry.job.reason.is_some());
        if column != "lane" {
            assert_eq!(spool.stats().quarantined, 1, "{table}.{column} = {value}");
        }
        // It can be removed like any other.
        spool.control(&Filter::message(damaged), smtp_queue::Action::Cancel, at(2)).await.unwrap();
        assert_eq!(spool.stats().jobs, 1, "{table}.{column} = {value}");
    }
}

#[tokio::test]
async fn a_damaged_body_never_leaves_whole() {
    for size in [100, 600_000] {
        let folder = tempfile::tempdir().unwrap();
        let (spool, damaged) = two(folder.path(), size).await;
        if size == 100 {
            // The journal is folded in.
            spool.maintain(at(0)).await.unwrap();
            let first = "id = (SELECT min(id) FROM message)";
            let place = format!("SELECT place FROM message WHERE segment = 0 AND {first}");
            let place: u32 = database(folder.path()).query_row(&place, [], |row| row.get(0)).unwrap();
            let place = usize::try_from(place).unwrap();
            let journal = folder.path().join("journal");
            let whole = std::fs::read(&journal).unwrap();
            assert_eq!(whole[place..place + size], [b'x'; 100]);
            let mut flipped = whole.clone();
            flipped[place + size - 1] ^= 1;
            for bad in [&flipped[..], &whole[..place + size - 1], &whole[..place - 1], b""] {
                std::fs::write(&journal, bad).unwrap();
                assert!(matches!(spool.body(damaged).await, Err(Error::Corrupt(_))), "{} octets", bad.len());
            }
            std::fs::write(&journal, &whole).unwrap();
            assert_eq!(content(&spool, damaged).await.unwrap().len(), size);
            for damage in ["place = place + 1", "place = 1 << 60", "place = 'x'", "segment = 77", "segment = -1"] {
                let sql = format!("UPDATE message SET {damage} WHERE {first}");
                database(folder.path()).execute(&sql, []).unwrap();
                assert!(matches!(spool.body(damaged).await, Err(Error::Corrupt(_))), "{damage}");
                let sql = format!("UPDATE message SET segment = 0, place = {place} WHERE {first}");
                database(folder.path()).execute(&sql, []).unwrap();
            }
            std::fs::remove_file(&journal).unwrap();
            assert!(matches!(spool.body(damaged).await, Err(Error::Corrupt(_))));
            continue;
        }
        let file = folder.path().join("bodies").join(damaged.to_string());
        let whole = std::fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        flipped[size / 2] ^= 1;
        let longer = [&whole[..], b"x"].concat();
        for bad in [&flipped[..], &whole[..size - 1], &whole[..300_000], b"", &longer] {
            std::fs::write(&file, bad).unwrap();
            assert!(content(&spool, damaged).await.is_err(), "{} octets", bad.len());
        }
        std::fs::write(&file, &whole).unwrap();
        assert_eq!(content(&spool, damaged).await.unwrap().len(), size);
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(spool.body(damaged).await, Err(Error::Corrupt(_))));
    }
}

#[tokio::test]
async fn the_runner_sets_a_damaged_body_aside_and_delivers_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let (spool, damaged) = {
        let spool = open(folder.path());
        let now = world.clock().now();
        let new = || message(now, "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
        let damaged = store(&spool, now, new(), &[b'x'; 50]).await.unwrap();
        store(&spool, now, new(), b"the other").await.unwrap();
        spool.maintain(now).await.unwrap();
        (spool, damaged)
    };
    let sql = "UPDATE message SET place = place + 1 WHERE id = (SELECT min(id) FROM message)";
    database(folder.path()).execute(sql, []).unwrap();
    let rig = Rig::over(Arc::new(spool), world, Settings::default());
    for _ in 0..500 {
        if rig.spool.stats().quarantined == 1 && rig.spool.stats().jobs == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(rig.spool.get(damaged).await.unwrap()[0].job.status, Status::Quarantined);
    assert_eq!(rig.world.taken("b.example").len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_newer_a_foreign_and_a_broken_database_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let second = SqliteSpool::open(folder.path(), Limits::default()).unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
    spool.close().await.unwrap();
    drop(spool);
    let connection = database(folder.path());
    connection.pragma_update(None, "user_version", 99).unwrap();
    let newer = SqliteSpool::open(folder.path(), Limits::default()).unwrap_err();
    assert!(newer.to_string().contains("schema 99") && newer.to_string().contains("up to 4"), "{newer}");
    connection.pragma_update(None, "application_id", 7).unwrap();
    let foreign = SqliteSpool::open(folder.path(), Limits::default()).unwrap_err();
    assert!(matches!(foreign, OpenError::Foreign { .. }), "{foreign}");
    drop(connection);

    let other = tempfile::tempdir().unwrap();
    std::fs::write(SqliteSpool::database(other.path()), vec![b'?'; 8_192]).unwrap();
    let broken = SqliteSpool::open(other.path(), Limits::default()).unwrap_err();
    assert!(matches!(broken, OpenError::Unreadable { .. }), "{broken}");
}

#[tokio::test]
async fn what_no_row_names_is_swept_and_what_is_not_ours_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, kept) = two(folder.path(), 400_000).await;
    spool.close().await.unwrap();
    drop(spool);
    let bodies = folder.path().join("bodies");
    let strange = "0123456789abcdef0123456789abcdef";
    for name in [strange, &format!("{strange}.tmp"), &format!("{kept}.tmp"), "README"] {
        std::fs::write(bodies.join(name), b"x").unwrap();
    }
    let spool = open(folder.path());
    let mut names: Vec<_> = std::fs::read_dir(&bodies).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [kept.to_string().as_str(), "README"]);
    assert_eq!(content(&spool, kept).await.unwrap().len(), 400_000);
}

#[tokio::test]
async fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("queue");
    let (spool, _) = two(&root, 400_000).await;
    let mut seen = 0;
    for path in [root.clone(), root.join("bodies")] {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
        for entry in std::fs::read_dir(&path).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
            seen += 1;
        }
    }
    // The lock, the journal's first and its next, the database, its log and the log's index, one body.
    assert_eq!(seen, 7);
    spool.close().await.unwrap();
}

#[tokio::test]
async fn a_nearly_full_disk_takes_no_mail_and_still_lets_it_go() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = two(folder.path(), 9).await;
    spool.close().await.unwrap();
    drop(spool);
    let limits = Limits { free: u64::MAX / 2, ..Limits::default() };
    let spool = SqliteSpool::open(folder.path(), limits).unwrap();
    let refused = spool.begin(at(0), None).await.unwrap_err();
    assert!(matches!(refused, Error::Full(_)), "{refused}");
    assert_eq!(refused.refusal().reply().code().get(), 452);
    let leased = claim(&spool, at(1), 1).await.unwrap().remove(0);
    let done = settle_all(&leased, &Settled::Delivered("250 fine".into()), at(1));
    spool.settle(leased.lease, at(1), done).await.unwrap();
    assert_eq!(spool.stats().jobs, 1);
    spool.close().await.unwrap();
    drop(spool);
    let limits = Limits { messages: 1, ..Limits::default() };
    let spool = SqliteSpool::open(folder.path(), limits).unwrap();
    let refused = spool.begin(at(0), None).await.unwrap_err();
    assert_eq!(refused, Error::TooMany { limit: 1 });
    assert_eq!(spool.begin(at(0), Some(36 << 20)).await.unwrap_err(), Error::TooLarge { limit: 35 << 20 });
}
