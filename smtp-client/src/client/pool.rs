//! Idle sessions, kept for reuse.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use crate::Connection;

/// A session that was idle for less than this is in use as far as a server is concerned: no idle close is near. It is
/// not counted among the idle ones either: under load sessions come back together and are wanted again at once.
const HOT: Duration = Duration::from_secs(1);

/// The idle sessions of a client, the one that was used last at the back.
pub(super) struct Pool {
    state: Mutex<State>,
    max_idle: usize,
    idle: Duration,
    max_messages: u32,
    /// There are more than there should be for long.
    surplus: Arc<Notify>,
}

#[derive(Default)]
struct State {
    sessions: VecDeque<(Connection, Instant)>,
    /// A task closes what stays idle for too long; it lives only while there is something to close.
    reaping: bool,
}

impl Pool {
    pub(super) fn new(max_idle: usize, idle: Duration, max_messages: u32) -> Self {
        Self { state: Mutex::default(), max_idle, idle, max_messages, surplus: Arc::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    pub(super) fn take_all(&self) -> Vec<Connection> {
        self.lock().sessions.drain(..).map(|(connection, _)| connection).collect()
    }

    /// The session that was used last, if it is as it was left; and whether it is hot. Those that are not are dropped:
    /// the server has closed them, or said something that nobody asked for.
    pub(super) async fn take(&self) -> Option<(Connection, bool)> {
        loop {
            let (mut connection, since) = self.lock().sessions.pop_back()?;
            let idle = since.elapsed();
            if idle >= self.idle {
                retire(connection);
            } else if connection.wire.is_undisturbed().await {
                return Some((connection, idle < HOT));
            }
        }
    }

    /// Takes a session back. One that is not idle is cut off, one that has done its share, or for which EHLO was refused,
    /// is closed with QUIT.
    pub(super) fn put(&self, shared: &Arc<Shared>, mut connection: Connection) {
        let enough = self.max_messages > 0 && connection.messages >= self.max_messages;
        let keeps = connection.is_usable() && connection.has_said_hello() && self.max_idle > 0 && !enough;
        let mut surplus = false;
        if keeps && !connection.has_done_its_share() {
            connection.wire.rest();
            let mut state = self.lock();
            state.sessions.push_back((connection, Instant::now()));
            surplus = state.sessions.len() > self.max_idle;
        } else {
            retire(connection);
            if shared.carriers.is_empty() {
                return;
            }
        }
        if !core::mem::replace(&mut self.lock().reaping, true) {
            tokio::spawn(reaper(Arc::downgrade(shared)));
        } else if surplus {
            self.surplus.notify_one();
        }
    }

    /// Takes out what has been idle for too long; when to look again, if there is anything left to watch. `others` is
    /// when something beside the sessions is due.
    fn expire(&self, others: Option<Instant>) -> (Vec<Connection>, Option<Instant>) {
        let mut state = self.lock();
        let now = Instant::now();
        let mut expired = Vec::new();
        while let Some((_, since)) = state.sessions.front() {
            let surplus = state.sessions.len() > self.max_idle;
            let end = *since + if surplus { HOT.min(self.idle) } else { self.idle };
            if end > now {
                return (expired, Some(others.map_or(end, |others| end.min(others))));
            }
            expired.extend(state.sessions.pop_front().map(|(connection, _)| connection));
        }
        state.reaping = others.is_some();
        (expired, others)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn reaper(shared: Weak<Shared>) {
    loop {
        // The client must not be kept alive by its reaper.
        let Some(client) = shared.upgrade() else { return };
        let (expired, next) = client.pool.expire(client.carriers.drop_unused(client.settings.idle));
        expired.into_iter().for_each(retire);
        let Some(next) = next else { return };
        let surplus = Arc::clone(&client.pool.surplus).notified_owned();
        drop(client);
        let _ = tokio::time::timeout_at(next, surplus).await;
    }
}

/// Says QUIT in the background, under its own deadline, and closes.
pub(super) fn retire(mut connection: Connection) {
    if connection.is_usable() || connection.is_leaving() {
        tokio::spawn(async move {
            let _ = connection.quit().await;
        });
    }
}
