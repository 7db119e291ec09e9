//! One connection and its sessions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use smtp_core::channel::SessionInfo;
use smtp_core::driver::Settings;
use smtp_core::service::{Delivery, Policy};
use smtp_core::stream::{ByteStream, Connection};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::Running;
use crate::policy::safe;

/// A little more than the second that QUIC takes.
const LINGER: Duration = Duration::from_secs(2);

impl<M, P, D> Running<M>
where
    M: Fn(&Arc<SessionInfo>) -> (P, D) + Send + Sync + 'static,
    P: Policy,
    D: Delivery,
{
    /// Serves a connection to its end, or until the server aborts what is left.
    pub(super) async fn connection(self: Arc<Self>, mut connection: Box<dyn Connection>, settings: Arc<Settings>) {
        let streams = async {
            let Some(first) = self.first_stream(&mut *connection).await else { return };
            if connection.max_parallel() <= 1 {
                self.one_after_another(&mut *connection, first, &settings).await;
            } else {
                self.side_by_side(&mut *connection, first, &settings).await;
            }
        };
        tokio::select! {
            biased;
            () = self.aborting.cancelled() => {}
            () = streams => {}
        }
    }

    /// The first stream, for which the peer has a deadline.
    async fn first_stream(&self, connection: &mut dyn Connection) -> Option<Box<dyn ByteStream>> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => None,
            first = tokio::time::timeout(self.settings.handshake, connection.accept()) => {
                self.opened(first.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no handshake in time"))))
            }
        }
    }

    /// A connection that is itself a stream: its session runs in the connection's own task.
    async fn one_after_another(
        &self,
        connection: &mut dyn Connection,
        first: Box<dyn ByteStream>,
        settings: &Arc<Settings>,
    ) {
        let mut next = Some(first);
        while let Some(stream) = next {
            self.session(stream, settings).await;
            next = tokio::select! {
                biased;
                () = self.draining.cancelled() => None,
                stream = connection.accept() => self.opened(stream),
            };
        }
    }

    /// A connection that carries many streams: a task for each, no more than it says. The connection is kept until the
    /// last session has ended.
    async fn side_by_side(
        self: &Arc<Self>,
        connection: &mut dyn Connection,
        first: Box<dyn ByteStream>,
        settings: &Arc<Settings>,
    ) {
        let most = connection.max_parallel();
        let mut sessions = JoinSet::new();
        let mut next = Some(first);
        while let Some(stream) = next {
            let (serving, settings) = (Arc::clone(self), Arc::clone(settings));
            sessions.spawn(async move { serving.session(stream, &settings).await }.in_current_span());
            while sessions.len() >= most {
                sessions.join_next().await;
            }
            // The same future until it is ready: accepting need not be safe to break off. It goes on in the drain, for
            // the peer opens streams without asking: each is told 421.
            let mut accepting = connection.accept();
            next = loop {
                tokio::select! {
                    biased;
                    Some(_) = sessions.join_next() => {}
                    stream = &mut accepting => break self.opened(stream),
                    () = self.drained(), if sessions.is_empty() => break None,
                }
            };
        }
        while sessions.join_next().await.is_some() {}
    }

    /// The time that a connection without a session has in the drain to come to its own end, in which what was said
    /// last is read and not only sent.
    async fn drained(&self) {
        self.draining.cancelled().await;
        tokio::time::sleep(LINGER).await;
    }

    fn opened(&self, stream: io::Result<Option<Box<dyn ByteStream>>>) -> Option<Box<dyn ByteStream>> {
        stream.unwrap_or_else(|error| {
            // Scanners make this common.
            tracing::debug!(%error, "a connection broke");
            None
        })
    }

    async fn session(&self, stream: Box<dyn ByteStream>, settings: &Arc<Settings>) {
        let mut counted = self.tally.begin();
        let session = Arc::new(SessionInfo::new(counted.id, stream.info()));
        let (policy, delivery) = (self.make_stack)(&session);
        let settings = Arc::clone(settings);
        let drain = self.draining.clone();
        let channel = &session.channel;
        let (id, transport) = (session.id, channel.transport);
        let span = tracing::debug_span!("session", id, peer = safe(&channel.peer).as_str(), transport);
        let serving = smtp_core::driver::serve(stream, session, policy, delivery, settings, drain);
        if let Err(error) = serving.instrument(span).await {
            tracing::debug!(session = counted.id, %error, "the channel broke");
        }
        counted.finished = true;
    }
}
