//! The store that nodes share, on a real server.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use proptest::test_runner::{Config, TestRunner};
use smtp_queue::kit::{at, claim, content, message, settle_all, store};
use smtp_queue::{Action, Error, Filter, Health, OpenError, PgSettings, PgSpool, Settled, Spool, Status, kit};

use crate::model;
use crate::pg_server::{self, PgServer};

/// How long anything may take that should take a second.
const PATIENCE: Duration = Duration::from_secs(60);

fn settings(url: &str) -> PgSettings {
    PgSettings::new(url).unwrap()
}

/// With large bodies there.
fn stored_in(url: &str, bodies: Option<Arc<dyn ObjectStore>>) -> PgSettings {
    let mut settings = settings(url);
    settings.bodies = bodies;
    settings
}

fn leased(url: &str, lease: Duration) -> PgSettings {
    let mut settings = settings(url);
    settings.lease = lease;
    settings
}

async fn open(url: &str) -> PgSpool {
    PgSpool::open(settings(url)).await.unwrap()
}

/// Waits until `done` gives something.
async fn until<T>(what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
    let start = tokio::time::Instant::now();
    loop {
        if let Some(value) = done().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn put(spool: &PgSpool, hop: &str) -> smtp_queue::MessageId {
    let new = message(at(0), "jo@a.example", &[(hop, &["x@b.example"])]).unwrap();
    store(spool, at(0), new, b"hello\r\n").await.unwrap()
}

fn delivered() -> Settled {
    Settled::Delivered("250 fine".into())
}

#[tokio::test]
async fn the_shared_store_keeps_the_promises() {
    let Some(server) = pg_server::shared() else { return };
    let bodies = tempfile::tempdir().unwrap();
    let files = LocalFileSystem::new_with_prefix(bodies.path()).unwrap().with_fsync(true);
    let files: Arc<dyn ObjectStore> = Arc::new(files);
    for bodies in [None, Some(files)] {
        let make = async || {
            let settings = stored_in(&server.url(), bodies.clone());
            Arc::new(PgSpool::open(settings).await.unwrap()) as Arc<dyn Spool>
        };
        let cases = kit::conformance(make).await;
        assert!(cases.unwrap_or_else(|failures| panic!("{failures}")) > 20);
    }
}

#[test]
fn the_shared_store_does_as_the_model() {
    let Some(server) = pg_server::shared() else { return };
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(6);
    let config = Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let check = TestRunner::new(config).run(&model::operations(), |ops| {
        let url = server.url();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(model::compare(ops, async || open(&url).await));
        Ok(())
    });
    check.unwrap_or_else(|why| panic!("{why}"));
}

#[tokio::test]
async fn two_nodes_share_the_work_and_see_what_the_other_stores() {
    let Some(server) = pg_server::shared() else { return };
    let url = server.url();
    // Long enough that no busy machine loses it.
    let lease = Duration::from_secs(12);
    let first = PgSpool::open(leased(&url, lease)).await.unwrap();
    let second = PgSpool::open(leased(&url, lease)).await.unwrap();
    // One alone has all; what it has too much goes over, and then each has its part.
    let hops: Vec<_> = (0..40).map(|n| format!("d{n}.example")).collect();
    let (mut by_first, mut by_second) = (HashSet::new(), HashSet::new());
    until("a share for both", async || {
        // No more than are soon done.
        if first.stats().messages < 100 {
            for hop in &hops {
                put(&first, hop).await;
            }
        }
        for (spool, seen) in [(&first, &mut by_first), (&second, &mut by_second)] {
            for leased in claim(spool, at(0), 1_000).await.unwrap() {
                spool.settle(leased.lease, at(0), settle_all(&leased, &delivered(), at(0))).await.unwrap();
                seen.insert(leased.job.next_hop.to_string());
            }
        }
        (by_second.len() > 10).then_some(())
    })
    .await;
    // Now no next hop is both's.
    let (mut by_first, mut by_second) = (HashSet::new(), HashSet::new());
    for hop in &hops {
        put(&first, hop).await;
    }
    until("the rest", async || {
        for (spool, seen) in [(&first, &mut by_first), (&second, &mut by_second)] {
            for leased in claim(spool, at(0), 1_000).await.unwrap() {
                spool.settle(leased.lease, at(0), settle_all(&leased, &delivered(), at(0))).await.unwrap();
                seen.insert(leased.job.next_hop.to_string());
            }
        }
        (first.stats().messages == 0 && by_first.len() + by_second.len() >= hops.len()).then_some(())
    })
    .await;
    assert!(by_first.is_disjoint(&by_second), "{by_first:?} {by_second:?}");
    assert!(by_first.len() > 5 && by_second.len() > 5, "{by_first:?} {by_second:?}");
    // What one leaves, the other has.
    second.close().await.unwrap();
    for hop in &hops {
        put(&first, hop).await;
    }
    let mut left = hops.len();
    until("all of it", async || {
        for leased in claim(&first, at(0), 1_000).await.unwrap() {
            first.settle(leased.lease, at(0), settle_all(&leased, &delivered(), at(0))).await.unwrap();
            left -= 1;
        }
        (left == 0).then_some(())
    })
    .await;
    first.close().await.unwrap();
}

#[tokio::test]
async fn a_node_that_lost_its_work_settles_nothing() {
    let Some(server) = pg_server::shared() else { return };
    let url = server.url();
    let first = open(&url).await;
    let id = put(&first, "b.example").await;
    let old = claim(&first, at(0), 10).await.unwrap().remove(0);
    assert!(first.may_finish(old.lease));
    // Another takes over as it would when the lease is over, of which the first has heard nothing yet.
    let raw = Raw::connect(&url).await;
    raw.run("UPDATE shard SET owner = 'other', epoch = epoch + 1, until = now() + interval '1 hour'").await;
    let late = first.settle(old.lease, at(1), settle_all(&old, &delivered(), at(1))).await;
    assert_eq!(late, Err(Error::LeaseLost));
    assert_eq!(first.get(id).await.unwrap().len(), 1, "it was settled all the same");
    // The other dies, and the first has it again, under a new epoch.
    raw.run("UPDATE shard SET until = now() - interval '1 second'").await;
    first.close().await.unwrap();
    let second = open(&url).await;
    let new = claim(&second, at(2), 10).await.unwrap().remove(0);
    second.settle(new.lease, at(3), settle_all(&new, &delivered(), at(3))).await.unwrap();
    assert!(second.get(id).await.unwrap().is_empty());
    second.close().await.unwrap();
}

#[tokio::test]
async fn an_administrator_at_any_node_reaches_all_jobs() {
    let Some(server) = pg_server::shared() else { return };
    let url = server.url();
    // Who opens it first has all of the work, and is not asked for a part of it as long as this takes.
    let long = Duration::from_secs(24 * 3_600);
    let (owner, other) =
        (PgSpool::open(leased(&url, long)).await.unwrap(), PgSpool::open(leased(&url, long)).await.unwrap());
    let held = put(&other, "b.example").await;
    let ended = put(&other, "c.example").await;
    let moved = put(&other, "d.example").await;
    let mut leased = Vec::new();
    until("what another stored", async || {
        leased.extend(claim(&owner, at(0), 10).await.unwrap());
        (leased.len() == 3).then_some(())
    })
    .await;
    let to = smtp_queue::NextHop::new("e.example").unwrap();
    for (id, action) in [(held, Action::Hold), (ended, Action::Cancel), (moved, Action::Reroute(to.clone()))] {
        assert_eq!(other.control(&Filter::message(id), action, at(1)).await.unwrap(), 1);
    }
    assert_eq!(other.get(held).await.unwrap()[0].job.status, Status::Held);
    // Whoever has them settles, and what was said holds for the rest.
    for leased in &leased {
        let later = Settled::Deferred(smtp_core::types::Refusal::fixed(451, (4, 2, 0), "later"));
        owner.settle(leased.lease, at(2), settle_all(leased, &later, at(3))).await.unwrap();
    }
    assert!(owner.get(ended).await.unwrap().is_empty(), "not cancelled");
    let again = claim(&owner, at(10), 10).await.unwrap();
    assert!(again.iter().all(|leased| leased.message.id != held), "not held");
    let rerouted = again.iter().find(|leased| leased.message.id == moved);
    assert_eq!(rerouted.map(|leased| &leased.job.next_hop), Some(&to));
    // One that nobody works on goes soon, too.
    let idle = put(&other, "f.example").await;
    other.control(&Filter::message(idle), Action::Cancel, at(11)).await.unwrap();
    until("the end of it", async || other.get(idle).await.unwrap().is_empty().then_some(())).await;
    owner.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn while_the_server_is_gone_nothing_is_taken_and_then_all_goes_on() {
    let Some(server) = PgServer::start() else { return };
    let spool = open(&server.url()).await;
    let first = put(&spool, "b.example").await;
    let leased = claim(&spool, at(0), 1).await.unwrap().remove(0);
    server.crash();
    let new = message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
    assert!(store(&spool, at(0), new, b"x").await.is_err());
    assert!(matches!(spool.health(), Health::Unhealthy(_)));
    assert!(matches!(spool.begin(at(0), None).await, Err(Error::Unhealthy(_))));
    assert!(claim(&spool, at(1), 1).await.is_err());
    assert!(spool.maintain(at(1)).await.is_err());
    server.run();
    until("health", async || (spool.health() == Health::Ready).then_some(())).await;
    assert_eq!(content(&spool, first).await.unwrap(), b"hello\r\n"[..]);
    // The lease is still that of its owner.
    spool.settle(leased.lease, at(2), settle_all(&leased, &delivered(), at(2))).await.unwrap();
    let second = put(&spool, "b.example").await;
    let claimed = claim(&spool, at(3), 10).await.unwrap();
    assert_eq!(claimed.iter().map(|leased| leased.message.id).collect::<Vec<_>>(), [second]);
    spool.close().await.unwrap();
}

/// A commit that waits for a standby is called one when the wait is ended, though the standby does not have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_wait_for_a_standby_is_ended_counts_as_none() {
    let Some(server) = PgServer::start() else { return };
    let url = server.url();
    let spool = open(&url).await;
    put(&spool, "b.example").await;
    let stand_by = async |names: &str| {
        server.set(&format!("synchronous_standby_names = '{names}'"));
        server.ask("SELECT pg_reload_conf()");
        until("the setting", async || (server.ask("SHOW synchronous_standby_names") == names).then_some(())).await;
    };
    stand_by("nobody").await;
    let storing = tokio::spawn({
        let spool = spool.clone();
        async move {
            let new = message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
            store(&spool, at(0), new, b"x").await
        }
    });
    // As an administrator does who sees that all hang.
    let all = "SELECT count(*) FROM (SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
    until("an answer", async || {
        server.ask(&format!("{all} AS ended"));
        storing.is_finished().then_some(())
    })
    .await;
    assert!(matches!(storing.await.unwrap(), Err(Error::Storage(_))), "it was answered with 250");
    assert!(matches!(spool.health(), Health::Unhealthy(_)));
    // Nor is it well by a commit that was ended.
    assert!(spool.maintain(at(1)).await.is_err());
    stand_by("").await;
    until("health", async || (spool.health() == Health::Ready).then_some(())).await;
    put(&spool, "b.example").await;
    spool.close().await.unwrap();
}

#[tokio::test]
async fn a_node_to_which_nobody_sends_finds_out_that_no_commit_ends() {
    let Some(server) = PgServer::start() else { return };
    let spool = PgSpool::open(leased(&server.url(), Duration::from_secs(3))).await.unwrap();
    assert_eq!(spool.health(), Health::Ready);
    server.set("synchronous_standby_names = 'nobody'");
    server.ask("SELECT pg_reload_conf()");
    until("the news", async || matches!(spool.health(), Health::Unhealthy(_)).then_some(())).await;
    server.set("synchronous_standby_names = ''");
    server.ask("SELECT pg_reload_conf()");
    until("health", async || (spool.health() == Health::Ready).then_some(())).await;
    spool.close().await.unwrap();
}

#[tokio::test]
async fn large_bodies_are_objects_and_go_with_their_messages() {
    let Some(server) = pg_server::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = LocalFileSystem::new_with_prefix(folder.path()).unwrap().with_fsync(true);
    let files: Arc<dyn ObjectStore> = Arc::new(files);
    let url = server.url();
    let spool = PgSpool::open(stored_in(&url, Some(files.clone()))).await.unwrap();
    // What is there of this queue, but for its mark and its timeline.
    let own = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let count = || std::fs::read_dir(&own).unwrap().count() - 2;
    let body: Vec<u8> = (0..7_000_000_u32).map(|i| i.to_le_bytes()[1] ^ 0x5a).collect();
    let new = message(at(0), "", &[("b.example", &["x@b.example"])]).unwrap();
    let id = store(&spool, at(0), new.clone(), &body).await.unwrap();
    assert_eq!((count(), content(&spool, id).await.unwrap().len()), (1, body.len()));
    // Refused after its content: that goes, too.
    let empty = message(at(0), "", &[]).unwrap();
    assert!(store(&spool, at(0), empty, &body).await.is_err());
    until("the end of a refused body", async || (count() == 1).then_some(())).await;
    let leased = claim(&spool, at(0), 1).await.unwrap().remove(0);
    spool.settle(leased.lease, at(1), settle_all(&leased, &delivered(), at(1))).await.unwrap();
    until("the end of a body", async || (count() == 0).then_some(())).await;
    // One that is not what was written is found out at its end.
    let id = store(&spool, at(0), new, &body).await.unwrap();
    let path = own.join(id.to_string());
    let mut changed = std::fs::read(&path).unwrap();
    changed[3_000_000] ^= 1;
    std::fs::write(&path, changed).unwrap();
    assert!(content(&spool, id).await.is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(spool.body(id).await, Err(Error::Corrupt(_))));
    // A folder that is not there is another matter.
    let away = folder.path().join("away");
    std::fs::rename(&own, &away).unwrap();
    assert!(matches!(spool.body(id).await, Err(Error::Storage(_))));
    spool.close().await.unwrap();
    for bodies in [None, Some(files.clone())] {
        let error = PgSpool::open(stored_in(&url, bodies)).await.unwrap_err().to_string();
        assert!(error.contains("large bodies"), "{error}");
    }
    std::fs::rename(&away, &own).unwrap();

    // What no row names goes when it has been there for a day; what is none of ours stays.
    let day = Duration::from_secs(86_400);
    let old = std::time::SystemTime::now() - 2 * day;
    let name = |time: std::time::SystemTime| {
        let millis = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        format!("{:016x}{:016x}", millis << 16, 7)
    };
    let (orphan, young) = (name(old), name(std::time::SystemTime::now()));
    for name in [&orphan, &young, &"readme".to_owned()] {
        std::fs::write(own.join(name), "x").unwrap();
    }
    std::fs::File::options().write(true).open(own.join(&orphan)).unwrap().set_modified(old).unwrap();
    let spool = PgSpool::open(stored_in(&url, Some(files.clone()))).await.unwrap();
    until("the sweep", async || (!own.join(&orphan).exists()).then_some(())).await;
    assert!(own.join(&young).exists() && own.join("readme").exists());
    spool.close().await.unwrap();

    // A database that was left for another, with the same bodies, is not worked with; one that was filled anew is.
    let last = own.join("timeline");
    let known = std::fs::read_to_string(&last).unwrap();
    let (system, timeline) = known.trim_end().split_once(' ').unwrap();
    assert_eq!(timeline, "1");
    std::fs::write(&last, format!("{system} 2\n")).unwrap();
    let error = PgSpool::open(stored_in(&url, Some(files.clone()))).await.unwrap_err().to_string();
    assert!(error.contains("a former primary") && error.contains("timeline 2"), "{error}");
    std::fs::write(&last, "12345 7\n").unwrap();
    PgSpool::open(stored_in(&url, Some(files.clone()))).await.unwrap().close().await.unwrap();
    assert_eq!(std::fs::read_to_string(&last).unwrap(), known);
}

#[tokio::test]
async fn what_cannot_be_opened_is_told() {
    let Some(server) = pg_server::shared() else { return };
    let url = server.url();
    open(&url).await.close().await.unwrap();
    let raw = Raw::connect(&url).await;
    raw.run("UPDATE meta SET version = 99").await;
    let error = PgSpool::open(settings(&url)).await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    let error = PgSpool::open(settings("postgres://smtp:hunter2@127.0.0.1:1/x")).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_damaged_row_is_set_aside_and_the_rest_is_served() {
    let Some(server) = pg_server::shared() else { return };
    let url = server.url();
    let spool = open(&url).await;
    let (bad, good) = (put(&spool, "b.example").await, put(&spool, "b.example").await);
    let raw = Raw::connect(&url).await;
    let n = format!(
        "{}-{}-{}-{}-{}",
        &bad.to_string()[..8],
        &bad.to_string()[8..12],
        &bad.to_string()[12..16],
        &bad.to_string()[16..20],
        &bad.to_string()[20..]
    );
    raw.run(&format!("UPDATE job SET recipients = 'x' WHERE message = '{n}'")).await;
    let leased = claim(&spool, at(0), 10).await.unwrap();
    assert_eq!(leased.iter().map(|leased| leased.message.id).collect::<Vec<_>>(), [good]);
    let entry = spool.get(bad).await.unwrap().remove(0);
    assert_eq!((entry.job.status, spool.stats().quarantined), (Status::Quarantined, 1));
    assert_eq!(spool.control(&Filter::message(bad), Action::Cancel, at(1)).await.unwrap(), 1);
    assert!(spool.get(bad).await.unwrap().is_empty());
    spool.close().await.unwrap();
}

/// A connection that does as it likes.
struct Raw(tokio_postgres::Client);

impl Raw {
    async fn connect(url: &str) -> Self {
        let (base, schema) = url.split_once("&schema=").unwrap();
        let (client, connection) = tokio_postgres::connect(base, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("SET search_path TO {schema}")).await.unwrap();
        Self(client)
    }

    async fn run(&self, sql: &str) {
        self.0.batch_execute(sql).await.unwrap();
    }
}
