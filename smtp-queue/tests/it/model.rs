//! Every sequence of operations gives the same on the store as on the model, and keeps the ledger.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use smtp_core::types::Refusal;
use smtp_queue::kit::{at, content, message, store};
use smtp_queue::{
    Action, Claim, Entry, Filter, Leased, Limits, MemSpool, MessageId, NewNotice, NextHop, RecipientState, Settled,
    Settlement, Spool, SqliteSpool, Status,
};

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Store { hops: u8, sender: u8, recipients: u8, due: u64, priority: i8, size: usize },
    Claim { max: usize, room: usize, alarms: usize },
    Settle { which: usize, answers: [u8; 3], due: u64, notice: bool },
    Release { which: usize },
    Renew { which: usize },
    Control { target: u8, action: u8 },
    Pass { seconds: u64 },
    Maintain,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![5 => 0_usize..100, 1 => Just(300_000_usize)];
    prop_oneof![
        4 => (1_u8..3, 0_u8..3, 1_u8..4, 0_u64..100, -1_i8..2, size).prop_map(
            |(hops, sender, recipients, due, priority, size)| Op::Store { hops, sender, recipients, due, priority, size }
        ),
        4 => (0_usize..6, 0_usize..4, 0_usize..2).prop_map(|(max, room, alarms)| Op::Claim { max, room, alarms }),
        5 => (any::<usize>(), any::<[u8; 3]>(), 0_u64..200, any::<bool>())
            .prop_map(|(which, answers, due, notice)| Op::Settle { which, answers, due, notice }),
        1 => any::<usize>().prop_map(|which| Op::Release { which }),
        1 => any::<usize>().prop_map(|which| Op::Renew { which }),
        2 => (0_u8..4, 0_u8..6).prop_map(|(target, action)| Op::Control { target, action }),
        3 => (0_u64..80).prop_map(|seconds| Op::Pass { seconds }),
        1 => Just(Op::Maintain),
        1 => Just(Op::Reopen),
    ]
}

const HOPS: [&str; 3] = ["b.example", "c.example", "d.example"];

/// One store with what was claimed from it, and its messages in the order in which they came.
struct Side<S> {
    spool: S,
    leased: Vec<Leased>,
    numbers: HashMap<MessageId, usize>,
}

/// What a store said, without the ids that are its own.
#[derive(Debug, PartialEq)]
enum Said {
    Number(Option<usize>),
    Leased(Vec<(usize, u32, bool, String)>),
    Settled(Result<usize, smtp_queue::Error>),
    Lost(usize),
    Changed(u64),
    Nothing,
}

impl<S: Spool> Side<S> {
    const fn new(spool: S, numbers: HashMap<MessageId, usize>) -> Self {
        Self { spool, leased: Vec::new(), numbers }
    }

    fn number(&mut self, id: MessageId) -> usize {
        let next = self.numbers.len();
        *self.numbers.entry(id).or_insert(next)
    }

    fn show(&mut self, entry: Entry) -> (usize, String) {
        let Entry { message, mut job, leased_until } = entry;
        let number = self.number(job.id.message);
        let n = job.id.n;
        // All but the id.
        job.id = smtp_queue::JobId { message: "0".repeat(32).parse().unwrap(), n: 0 };
        (number, format!("{n} {job:?} {:?} {:?} {} {leased_until:?}", message.mail, message.accepted, message.size))
    }

    async fn all(&mut self) -> Vec<(usize, String)> {
        let page = self.spool.list(&Filter::default(), None, 1_000).await.unwrap();
        page.entries.into_iter().map(|entry| self.show(entry)).collect()
    }

    async fn run(&mut self, op: &Op, now: SystemTime) -> Said {
        match op {
            Op::Store { hops, sender, recipients, due, priority, size } => {
                let users: Vec<_> = (0..*recipients).map(|n| format!("u{n}@x.example")).collect();
                let users: Vec<_> = users.iter().map(String::as_str).collect();
                let jobs: Vec<_> = HOPS.iter().take(usize::from(*hops)).map(|hop| (*hop, &users[..])).collect();
                let mut new = message(now, &format!("s{sender}@a.example"), &jobs).unwrap();
                for job in &mut new.jobs {
                    (job.due, job.priority) = (now + Duration::from_secs(*due), *priority);
                    job.alarm = now + Duration::from_secs(120);
                }
                let id = store(&self.spool, now, new, &vec![b'x'; *size]).await.unwrap();
                Said::Number(Some(self.number(id)))
            }
            Op::Claim { max, room, alarms } => {
                let claim = Claim { room: *room, alarms: *alarms, ..Claim::up_to(*max, now, Duration::from_secs(60)) };
                let leased = self.spool.claim(claim).await.unwrap();
                let shown = leased.iter().map(|l| {
                    let why = l.why == smtp_queue::Why::Due;
                    (l.message.id, l.job.id.n, why, format!("{:?}", l.job.recipients))
                });
                let shown: Vec<_> = shown.collect();
                self.leased.extend(leased);
                let shown = shown.into_iter().map(|(id, n, why, text)| (self.number(id), n, why, text));
                let mut shown: Vec<_> = shown.collect();
                if *max == 1_000 {
                    shown.sort_unstable();
                    self.leased.sort_by_key(|leased| (leased.job.id, leased.lease.epoch));
                }
                Said::Leased(shown)
            }
            Op::Settle { which, answers, due, notice } => {
                let Some(leased) = self.pick(*which) else { return Said::Nothing };
                let settled = |answer: u8| match answer % 3 {
                    0 => Settled::Delivered("250 fine".into()),
                    1 => Settled::Failed(Refusal::fixed(550, (5, 1, 1), "unknown")),
                    _ => Settled::Deferred(Refusal::fixed(451, (4, 2, 1), "busy")),
                };
                let mut notices = Vec::new();
                if *notice {
                    let message = message(now, "", &[("a.example", &["s0@a.example"])]).unwrap();
                    notices.push(NewNotice { message, body: "sorry".into() });
                }
                let settlement = Settlement {
                    results: (0..).zip(answers.map(settled)).collect(),
                    attempted: true,
                    due: now + Duration::from_secs(*due),
                    alarm: now + Duration::from_secs(*due + 50),
                    delay_told: vec![1],
                    quarantine: (answers[0] == 7).then(|| "odd".into()),
                    notices,
                };
                let ids = self.spool.settle(leased.lease, now, settlement).await;
                for id in ids.iter().flatten() {
                    self.number(*id);
                }
                Said::Settled(ids.map(|ids| ids.len()))
            }
            Op::Release { which } => {
                let Some(leased) = self.pick(*which) else { return Said::Nothing };
                self.spool.release(&[leased.lease]).await.unwrap();
                Said::Nothing
            }
            Op::Renew { which } => {
                let Some(leased) = self.leased.get(which % self.leased.len().max(1)) else { return Said::Nothing };
                let lease = leased.lease;
                Said::Lost(self.spool.renew(&[lease], now, now + Duration::from_secs(60)).await.unwrap().len())
            }
            Op::Control { target, action } => {
                let filter = match target {
                    0 => Filter { next_hop: Some(NextHop::new("b.example").unwrap()), ..Filter::default() },
                    1 => Filter { sender: Some("s1@a.example".into()), ..Filter::default() },
                    2 => Filter { status: Some(Status::Held), ..Filter::default() },
                    _ => Filter { reason: Some("BUSY".into()), ..Filter::default() },
                };
                let action = match action {
                    0 => Action::Hold,
                    1 => Action::Release,
                    2 => Action::RetryAt(now),
                    3 => Action::Reroute(NextHop::new("d.example").unwrap()),
                    4 => Action::Cancel,
                    _ => Action::GiveUp,
                };
                Said::Changed(self.spool.control(&filter, action, now).await.unwrap())
            }
            Op::Maintain => {
                self.spool.maintain(now).await.unwrap();
                Said::Nothing
            }
            Op::Pass { .. } | Op::Reopen => Said::Nothing,
        }
    }

    fn pick(&mut self, which: usize) -> Option<Leased> {
        if self.leased.is_empty() { None } else { Some(self.leased.swap_remove(which % self.leased.len())) }
    }
}

/// Sequences of operations.
pub(crate) fn operations() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 1..60)
}

/// Does the same to the model and to the store that `open` opens, again and again.
pub(crate) async fn compare<S: Spool>(ops: Vec<Op>, open: impl AsyncFn() -> S) {
    let mut model = Side::new(MemSpool::default(), HashMap::new());
    let mut real = Side::new(open().await, HashMap::new());
    let (mut now, mut reopened) = (at(0), false);
    for (n, op) in ops.into_iter().enumerate() {
        let op = match op {
            // Whose turn it is, is forgotten with the process: from then on all that is due is taken.
            Op::Claim { alarms, .. } if reopened => Op::Claim { max: 1_000, room: 1_000, alarms },
            op => op,
        };
        match &op {
            Op::Pass { seconds } => now += Duration::from_secs(*seconds),
            Op::Reopen => {
                reopened = true;
                // Leases end with the process.
                let leases: Vec<_> = model.leased.drain(..).map(|leased| leased.lease).collect();
                model.spool.release(&leases).await.unwrap();
                let numbers = std::mem::take(&mut real.numbers);
                real.spool.close().await.unwrap();
                drop(real);
                real = Side::new(open().await, numbers);
            }
            _ => {}
        }
        assert_eq!(model.run(&op, now).await, real.run(&op, now).await, "operation {n}: {op:?}");
        assert_eq!(model.spool.stats(), real.spool.stats(), "after operation {n}: {op:?}");
        let any = Claim::up_to(1, now, Duration::from_secs(1));
        let due = (model.spool.next_due(&any).await.unwrap(), real.spool.next_due(&any).await.unwrap());
        assert_eq!(due.0, due.1, "after operation {n}: {op:?}");
    }
    let (shown, expected) = (real.all().await, model.all().await);
    assert_eq!(shown, expected);
    // Nobody is settled twice, and every body is whole.
    for (id, _) in real.numbers.clone() {
        let jobs = real.spool.get(id).await.unwrap();
        assert_eq!(jobs.is_empty(), content(&real.spool, id).await.is_err(), "a body without jobs, or jobs without it");
        for entry in jobs {
            assert!(entry.job.recipients.iter().any(|r| r.state == RecipientState::Waiting), "{entry:?}");
            assert_eq!(content(&real.spool, id).await.unwrap().len() as u64, entry.message.size);
        }
    }
    real.spool.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn the_store_does_as_the_model(ops in operations()) {
        let folder = tempfile::tempdir().unwrap();
        let open = async || SqliteSpool::open(folder.path(), Limits::default()).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(compare(ops, open));
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}
