//! Power cuts in the middle of everything, on a simulated disk.
//!
//! The code under test is the store's own: staged files, the writer's groups, the engine, the rows in an SQLite database
//! in memory whose commits are atomic, the journal. What SQLite does to a real disk is not simulated; here it is the order
//! of files, journal and rows that counts. Each seed is a life of a store, cut off at a chosen operation, opened again, and held against the
//! ledger of what was answered.

mod mutants;
pub(super) mod sim;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::bodies::{self, Writing};
use super::disk::Disk;
use super::reader::{Content, load};
use super::rows::{FreshBodies, SqlRows};
use super::writer::{Database, Writer};
use super::{State, schema};
use crate::engine::{Answer, Engine, Op, StoredBody};
use crate::error::Error;
use crate::id::{Ids, MessageId};
use crate::job::Settled;
use crate::kit::{at, message, settle_all};
use crate::spool::{Claim, Filter, Leased, Limits};
use sim::{Chance, Sim};

/// What was answered, and what follows for the time after a crash.
#[derive(Debug, Default)]
struct Ledger {
    /// Answered 250.
    accepted: BTreeMap<MessageId, Vec<u8>>,
    /// Not answered, or with an error: it may be there or not, but never in part.
    in_doubt: BTreeMap<MessageId, Vec<u8>>,
    /// Known to have left.
    settled: BTreeSet<MessageId>,
    /// May have left.
    perhaps_settled: BTreeSet<MessageId>,
}

/// A message or two.
const SEGMENT_OCTETS: u64 = 2_000;

struct Life {
    writer: Writer,
    disk: Arc<dyn Disk>,
    ids: Ids,
    leased: Vec<Leased>,
}

/// Opens a store as `open` does, on what the disk and the database have.
fn open(disk: &Arc<dyn Disk>, connection: Connection) -> Result<Life, Error> {
    let fresh = FreshBodies::default();
    let mut rows = SqlRows::open(connection, Arc::clone(disk), Arc::clone(&fresh), SEGMENT_OCTETS)?;
    let named = rows.files()?;
    bodies::sweep(&**disk, &named).map_err(|e| Error::io("sweep", &e))?;
    let engine = Engine::open(rows, Limits::default(), 0)?;
    let ids = engine.ids();
    let home = Database { path: PathBuf::new(), disk: Arc::clone(disk), fresh };
    let writer = Writer::new(engine, home, Arc::new(State::default()), None).working_later();
    Ok(Life { writer, disk: Arc::clone(disk), ids, leased: Vec::new() })
}

impl Life {
    fn run(&mut self, op: Op) -> Result<Answer, Error> {
        let (reply, mut answer) = oneshot::channel();
        self.writer.commit(vec![(op, reply)]);
        answer.try_recv().unwrap_or(Err(Error::Closed))
    }

    /// As a staged message does it: large content into a file, then the row.
    fn accept(&mut self, id: MessageId, content: &[u8], now: SystemTime, large: bool) -> Result<(), Error> {
        let body = if large {
            let mut writing = Writing::create(Arc::clone(&self.disk), id)?;
            for piece in content.chunks(700) {
                writing.write(piece)?;
            }
            StoredBody::File(writing.seal()?)
        } else {
            StoredBody::Row { content: content.to_vec().into(), sum: crc32fast::hash(content) }
        };
        let new = message(now, "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
        self.run(Op::Insert { id, now, size: content.len() as u64, body, message: new }).map(drop)
    }

    fn step(&mut self, chance: &mut Chance, ledger: &mut Ledger, now: SystemTime) {
        match chance.below(11) {
            0..5 => {
                let id = self.ids.next(now);
                let content: Vec<u8> = (0..chance.below(4_000)).map(|_| chance.byte()).collect();
                let large = chance.below(3) > 0;
                match self.accept(id, &content, now, large) {
                    Ok(()) => ledger.accepted.insert(id, content),
                    Err(_) => ledger.in_doubt.insert(id, content),
                };
            }
            10 => self.writer.clean(),
            5..7 => {
                let claim = Claim::up_to(3, now, std::time::Duration::from_secs(3_600));
                if let Ok(Answer::Claimed(leased)) = self.run(Op::Claim(claim)) {
                    self.leased.extend(leased);
                }
            }
            _ => {
                let Some(leased) = self.leased.pop() else { return };
                let delivered = chance.below(4) > 0;
                let settled = if delivered {
                    Settled::Delivered("250 fine".into())
                } else {
                    Settled::Deferred(smtp_core::types::Refusal::fixed(451, (4, 0, 0), "later"))
                };
                let settlement = Box::new(settle_all(&leased, &settled, now));
                let id = leased.message.id;
                match self.run(Op::Settle { lease: leased.lease, now, settlement }) {
                    Ok(_) if delivered => ledger.settled.insert(id),
                    Err(_) if delivered => ledger.perhaps_settled.insert(id),
                    _ => false,
                };
            }
        }
    }
}

fn read(life: &Life, id: MessageId) -> Result<Vec<u8>, String> {
    match load(life.writer.connection(), &*life.disk, id).map_err(|e| e.to_string())? {
        Content::Whole(content) => Ok(content),
        Content::File(mut reading, _) => {
            let mut all = Vec::new();
            while let Some(piece) = reading.next().map_err(|e| e.to_string())? {
                all.extend(piece);
            }
            Ok(all)
        }
    }
}

/// Holds a store that was opened after a crash against the ledger.
fn check(life: &mut Life, sim: &Sim, ledger: &Ledger) -> Result<(), String> {
    let op = Op::Scan { filter: Box::new(Filter::default()), after: None, max: 1_000 };
    let page = life.run(op).and_then(Answer::page).map_err(|e| e.to_string())?;
    let there: BTreeSet<_> = page.entries.iter().map(|entry| entry.job.id.message).collect();
    for id in ledger.accepted.keys().filter(|id| !ledger.settled.contains(id)) {
        if !there.contains(id) && !ledger.perhaps_settled.contains(id) {
            return Err(format!("{id} was accepted and is lost"));
        }
    }
    for entry in &page.entries {
        let id = entry.job.id.message;
        if ledger.settled.contains(&id) {
            return Err(format!("{id} was settled and came back"));
        }
        let written = ledger.accepted.get(&id).or_else(|| ledger.in_doubt.get(&id));
        let content = read(life, id).map_err(|e| format!("{id} cannot be read: {e}"))?;
        if written != Some(&content) {
            return Err(format!("{id} is not what was written"));
        }
    }
    let named = there.iter().filter(|id| matches!(load(life.writer.connection(), sim, **id), Ok(Content::File(..))));
    let (named, files) = (named.count(), sim.list().map_err(|e| e.to_string())?.len());
    if named != files {
        return Err(format!("{files} files for {named} messages"));
    }
    Ok(())
}

/// Lives through a few crashes; `wrap` may put a mutant between the store and its disk.
fn live(seed: u64, wrap: &dyn Fn(Sim) -> Arc<dyn Disk>) -> Result<u64, String> {
    let mut chance = Chance::new(seed);
    let sim = Sim::new(chance.next());
    let disk = wrap(sim.clone());
    let mut connection = Connection::open_in_memory().map_err(|e| e.to_string())?;
    schema::migrate(&mut connection, &PathBuf::new()).map_err(|e| e.to_string())?;
    let (mut ledger, mut crashes) = (Ledger::default(), 0);
    let mut now = at(0);
    for _ in 0..3 {
        sim.arm(None, 0);
        let mut life = open(&disk, connection).map_err(|e| format!("not opened: {e}"))?;
        check(&mut life, &sim, &ledger)?;
        let (fuse, faults) = (chance.below(60), if chance.below(2) == 0 { 0 } else { 20 });
        sim.arm(Some(fuse), faults);
        for _ in 0..12 {
            now += std::time::Duration::from_secs(1);
            life.step(&mut chance, &mut ledger, now);
            if sim.is_cut() {
                crashes += 1;
                break;
            }
        }
        // Most of these ends take the power with them.
        if chance.below(4) == 0 {
            sim.kill()
        } else {
            sim.cut()
        }
        let rows = life.writer.into_rows();
        connection = rows.into_connection().ok_or("the connection is gone")?;
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK").map_err(|e| e.to_string())?;
        }
    }
    sim.arm(None, 0);
    let mut life = open(&disk, connection).map_err(|e| format!("not opened: {e}"))?;
    check(&mut life, &sim, &ledger)?;
    Ok(crashes)
}

/// Seeds that are lived through in a test: `QUEUE_CRASH_SEEDS`, or 2,000.
fn seeds() -> u64 {
    std::env::var("QUEUE_CRASH_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2_000)
}

#[test]
fn no_power_cut_loses_doubles_or_halves_a_message() {
    let mut crashes = 0;
    for seed in 0..seeds() {
        match live(seed, &|sim| Arc::new(sim)) {
            Ok(n) => crashes += n,
            Err(why) => panic!("seed {seed}: {why}"),
        }
    }
    println!("{} seeds, {crashes} crashes in the middle of something", seeds());
    assert!(crashes > seeds(), "only {crashes} crashes");
}

#[test]
fn every_planted_fault_is_found() {
    for (name, wrap) in mutants::ALL {
        let found = (0..seeds()).find_map(|seed| live(seed, &wrap).err().map(|why| (seed, why)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{name} was not found in {} seeds", seeds()));
        println!("{name}: seed {seed}: {why}");
    }
}
