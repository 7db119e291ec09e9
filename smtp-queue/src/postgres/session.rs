//! A connection to the server that the queue is on, with what is known of it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deadpool_postgres::ClientWrapper;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Connection, Error};

/// A session with one server, on one timeline.
#[derive(Debug)]
pub(super) struct Session {
    client: ClientWrapper,
    timeline: u32,
    unsure: Unsure,
}

/// How many commits the server has called done that its standby may not have.
///
/// A commit that waits for a standby stays one when the wait is ended, by a timeout or by an administrator: the server
/// warns, and goes on as if it had been confirmed. What is lost then when the standby is promoted.
#[derive(Debug, Clone, Default)]
pub(super) struct Unsure(Arc<AtomicU64>);

impl Session {
    pub(super) const fn new(client: ClientWrapper, timeline: u32, unsure: Unsure) -> Self {
        Self { client, timeline, unsure }
    }

    pub(super) const fn timeline(&self) -> u32 {
        self.timeline
    }

    /// It has grown when a commit returns whose wait was ended: that comes before the answer.
    pub(super) fn unsure(&self) -> u64 {
        self.unsure.0.load(Ordering::SeqCst)
    }
}

impl Unsure {
    /// Works for a connection until it ends; whoever waits for an answer on it hears how.
    pub(super) async fn watch<S, T>(self, mut connection: Connection<S, T>) -> Result<(), Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message?
                && is_of_an_ended_wait(&notice)
            {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

/// By where it comes from: it has no code of its own, and its text is in the server's language.
fn is_of_an_ended_wait(notice: &DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN")
}

impl Deref for Session {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}
