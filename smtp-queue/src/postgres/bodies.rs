//! Bodies that are too large for a row: objects in a store that all nodes see, there for good before the row that names
//! them. They have the names of their messages, which nobody can guess.

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use smtp_core::service::{Body, Source};

use super::key::Key;
use super::rows::describe;
use super::servers::Client;
use crate::clock::from_millis;
use crate::error::Error;
use crate::id::MessageId;
use crate::sqlite::Sealed;

/// Octets of a part of an upload.
const PART: usize = 5 << 20;
/// Parts that are under way at once.
const PARTS: usize = 2;
/// What is younger may be on its way to its row.
const YOUNG: Duration = Duration::from_secs(24 * 60 * 60);
/// Names that the database is asked about at once.
const PAGE: usize = 1_000;

fn failed(doing: &str, error: &object_store::Error) -> Error {
    Error::Storage(format!("cannot {doing} in the store of bodies: {error}"))
}

fn name(id: MessageId) -> Path {
    Path::from(id.to_string())
}

/// What is in the part of a store that a queue has for itself, so that one that is not there, such as a folder that is
/// not mounted, is not taken for one whose bodies are lost.
const MARK: &str = "mark";

/// Which database worked with it last, and on which timeline: a former primary names other bodies than the server that was
/// promoted in its place, and what that one names must not be removed by the sweep of a node that sees the former one only.
const LAST: &str = "timeline";

/// The part of `store` that is this queue's; `None` if it is in the hands of nodes that have another store.
pub(super) async fn own(
    store: Arc<dyn ObjectStore>,
    client: &Client,
    fresh: &str,
) -> Result<Option<Arc<dyn ObjectStore>>, Error> {
    let failed = |error: object_store::Error| failed("look", &error);
    let asked = |error: tokio_postgres::Error| describe(&error);
    let sql = "SELECT bodies FROM meta WHERE one";
    let mut known: Option<String> = client.query_one(sql, &[]).await.map_err(asked)?.get(0);
    if known.is_none() {
        let made = PrefixStore::new(Arc::clone(&store), fresh);
        made.put(&Path::from(MARK), "the bodies of a queue".into()).await.map_err(failed)?;
        let sql = "UPDATE meta SET bodies = $1 WHERE one AND bodies IS NULL";
        client.execute(sql, &[&fresh]).await.map_err(asked)?;
        known = client.query_one("SELECT bodies FROM meta WHERE one", &[]).await.map_err(asked)?.get(0);
    }
    let own: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(store, known.unwrap_or_default()));
    match own.head(&Path::from(MARK)).await {
        Ok(_) => check_newest(&*own, client).await.map(|()| Some(own)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Fails if the same database has been seen with these bodies on a newer timeline. Remembers this one otherwise.
async fn check_newest(store: &dyn ObjectStore, client: &Client) -> Result<(), Error> {
    let timeline = client.timeline();
    if timeline == 0 {
        return Ok(());
    }
    let sql = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
    let system: i64 = client.query_one(sql, &[]).await.map_err(|e| describe(&e))?.get(0);
    let last = match store.get(&Path::from(LAST)).await {
        Ok(found) => found.bytes().await.map_err(|e| failed("read the timeline", &e))?,
        Err(object_store::Error::NotFound { .. }) => Bytes::new(),
        Err(error) => return Err(failed("read the timeline", &error)),
    };
    let last = std::str::from_utf8(&last).ok().and_then(|last| last.trim().split_once(' '));
    // A database that was made anew, and filled from another, begins to count again.
    let known = last.filter(|(of, _)| of.parse() == Ok(system)).and_then(|(_, timeline)| timeline.parse::<u32>().ok());
    match known {
        Some(known) if known > timeline => Err(Error::Storage(format!(
            "a former primary: it is on timeline {timeline}, and the queue went on on timeline {known}. If it is the right \
             one all the same, remove the object {LAST} from the store of bodies"
        ))),
        Some(known) if known == timeline => Ok(()),
        _ => {
            let text = format!("{system} {timeline}\n");
            store.put(&Path::from(LAST), text.into()).await.map_err(|e| failed("write the timeline", &e)).map(drop)
        }
    }
}

/// A body that is being written. Dropped, it never was.
#[derive(Debug)]
pub(super) struct Writing {
    upload: WriteMultipart,
    sum: crc32fast::Hasher,
}

impl Writing {
    pub(super) async fn create(store: &dyn ObjectStore, id: MessageId) -> Result<Self, Error> {
        let upload = store.put_multipart(&name(id)).await.map_err(|e| failed("begin a body", &e))?;
        let upload = WriteMultipart::new_with_chunk_size(upload, PART);
        Ok(Self { upload, sum: crc32fast::Hasher::new() })
    }

    pub(super) async fn write(&mut self, data: Bytes) -> Result<(), Error> {
        self.upload.wait_for_capacity(PARTS).await.map_err(|e| failed("write a body", &e))?;
        self.sum.update(&data);
        self.upload.put(data);
        Ok(())
    }

    /// Returns when it is there for good. Only afterwards may a row name it.
    pub(super) async fn seal(self) -> Result<Sealed, Error> {
        self.upload.finish().await.map_err(|e| failed("finish a body", &e))?;
        Ok(Sealed::object(self.sum.finalize()))
    }
}

/// Removes the body of a message that no row names any more. What is left behind by a failure, the sweep finds.
pub(super) async fn remove(store: &dyn ObjectStore, id: MessageId) {
    if let Err(error) = store.delete(&name(id)).await
        && !matches!(error, object_store::Error::NotFound { .. })
    {
        tracing::warn!(message = %id, %error, "a body that is of no more use was not removed");
    }
}

/// Removes what has been there for a day and no row names. Gives the number.
pub(super) async fn sweep(store: &Arc<dyn ObjectStore>, client: &Client, now: SystemTime) -> Result<usize, Error> {
    check_newest(&**store, client).await?;
    let mut removed = 0;
    let mut found = store.list(None);
    loop {
        let mut old = Vec::new();
        while old.len() < PAGE {
            let Some(object) = found.try_next().await.map_err(|e| failed("list bodies", &e))? else { break };
            // What is not ours by its name is left alone.
            let Ok(id) = object.location.as_ref().parse::<MessageId>() else { continue };
            let made = from_millis(i64::try_from(id.order() >> 16).unwrap_or(i64::MAX));
            let made = made.max(object.last_modified.into());
            if now.duration_since(made).is_ok_and(|age| age > YOUNG) {
                old.push(Key(id));
            }
        }
        if old.is_empty() {
            return Ok(removed);
        }
        let rows = client.query("SELECT id FROM message WHERE id = ANY($1::uuid[])", &[&old]).await;
        let named: HashSet<Key> = rows.map_err(|e| describe(&e))?.iter().map(|row| row.get(0)).collect();
        for Key(id) in old.into_iter().filter(|key| !named.contains(key)) {
            remove(&**store, id).await;
            removed += 1;
        }
    }
}

/// The body of a message, checked on the way: its last piece comes only if all of it is as it was written.
pub(super) async fn read(store: &dyn ObjectStore, id: MessageId, size: u64, sum: u32) -> Result<Body, Error> {
    let found = match store.get(&name(id)).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => {
            store.head(&Path::from(MARK)).await.map_err(|e| failed("find the mark", &e))?;
            return Err(Error::Corrupt("the content is not in the store of bodies".into()));
        }
        Err(error) => return Err(failed("read a body", &error)),
    };
    let reading = Reading {
        pieces: found.into_stream(),
        held: None,
        left: size,
        sum: crc32fast::Hasher::new(),
        expected: sum,
        ended: false,
    };
    Ok(Body::from_source(reading, Some(size)))
}

struct Reading {
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    /// Given when the one behind it is there, or the end.
    held: Option<Bytes>,
    left: u64,
    sum: crc32fast::Hasher,
    expected: u32,
    ended: bool,
}

impl Source for Reading {
    fn poll_chunk(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a body is not what was written");
        while !self.ended {
            match ready!(Pin::new(&mut self.pieces).poll_next(cx)) {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    self.sum.update(&piece);
                    self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(wrong)?;
                    if let Some(before) = self.held.replace(piece) {
                        return Poll::Ready(Ok(Some(before)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None if self.left == 0 && self.sum.clone().finalize() == self.expected => self.ended = true,
                None => return Poll::Ready(Err(wrong())),
            }
        }
        Poll::Ready(Ok(self.held.take()))
    }
}
