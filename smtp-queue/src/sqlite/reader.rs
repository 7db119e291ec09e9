//! Reading bodies, beside the writer.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use smtp_core::service::{Body, Source};
use tokio::task::JoinHandle;

use super::bodies::Reading;
use super::disk::Disk;
use super::lock;
use super::rows::{FreshBodies, FreshBody};
use crate::error::Error;
use crate::id::MessageId;

/// Connections that are kept for reuse.
const KEPT_MAX: usize = 8;

/// Connections that only read.
#[derive(Debug)]
pub(super) struct Readers {
    database: PathBuf,
    fresh: FreshBodies,
    idle: Arc<Mutex<Vec<Connection>>>,
}

struct Row {
    size: u64,
    sum: u32,
    content: Option<Vec<u8>>,
}

impl Readers {
    pub(super) fn new(database: PathBuf, fresh: FreshBodies) -> Self {
        Self { database, fresh, idle: Arc::default() }
    }

    pub(super) async fn body(&self, id: MessageId, disk: Arc<dyn Disk>) -> Result<Body, Error> {
        // What is in neither at this moment is in the database at the next.
        let fresh = lock(&self.fresh).get(&id).map(|fresh| fresh.body.clone());
        match fresh {
            Some(FreshBody::Row(content)) => return Ok(Body::from_bytes(content)),
            Some(FreshBody::Gone) => return Err(Error::NotFound),
            Some(FreshBody::File { .. }) | None => {}
        }
        let (database, idle) = (self.database.clone(), Arc::clone(&self.idle));
        let read = tokio::task::spawn_blocking(move || {
            if let Some(FreshBody::File { size, sum }) = fresh {
                return Ok(file(&*disk, id, size, sum)?.into_body());
            }
            let kept = lock(&idle).pop();
            let connection = match kept {
                Some(connection) => connection,
                None => Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
            };
            let content = load(&connection, &*disk, id);
            let mut idle = lock(&idle);
            if idle.len() < KEPT_MAX {
                idle.push(connection);
            }
            drop(idle);
            Ok(content?.into_body())
        });
        read.await.unwrap_or(Err(Error::Closed))
    }
}

/// A body, where it is.
pub(super) enum Content {
    Row(Vec<u8>),
    File(Reading, u64),
}

impl Content {
    fn into_body(self) -> Body {
        match self {
            Self::Row(content) => Body::from_bytes(content),
            Self::File(reading, size) => Body::from_source(FileBody::Idle(Some(reading)), Some(size)),
        }
    }
}

/// Finds the body of a message.
pub(super) fn load(connection: &Connection, disk: &dyn Disk, id: MessageId) -> Result<Content, Error> {
    let Row { size, sum, content } = read_row(connection, id)?.ok_or(Error::NotFound)?;
    match content {
        Some(content) if crc32fast::hash(&content) == sum && content.len() as u64 == size => Ok(Content::Row(content)),
        Some(_) => Err(Error::Corrupt("the content is not what was written".into())),
        None => file(disk, id, size, sum),
    }
}

fn file(disk: &dyn Disk, id: MessageId, size: u64, sum: u32) -> Result<Content, Error> {
    match Reading::open(disk, id, size, sum) {
        Ok(reading) => Ok(Content::File(reading, size)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::Corrupt("the file of the content is missing".into()))
        }
        Err(error) => Err(Error::io("open a body file", &error)),
    }
}

fn read_row(connection: &Connection, id: MessageId) -> Result<Option<Row>, Error> {
    let sql = "SELECT size, body_sum, body FROM message WHERE id = ?1 AND random = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let key = [id.order(), id.random()].map(|half| i64::from_ne_bytes(half.to_ne_bytes()));
    let row = |row: &rusqlite::Row<'_>| {
        Ok(Row { size: row.get::<_, i64>(0)?.unsigned_abs(), sum: row.get(1)?, content: row.get(2)? })
    };
    Ok(statement.query_row(key, row).optional()?)
}

/// A body file, read piece by piece in the blocking threads.
enum FileBody {
    Idle(Option<Reading>),
    Busy(JoinHandle<(Reading, io::Result<Option<Vec<u8>>>)>),
}

impl Source for FileBody {
    fn poll_chunk(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match &mut *self {
                Self::Idle(reading) => {
                    let Some(mut reading) = reading.take() else { return Poll::Ready(Ok(None)) };
                    *self = Self::Busy(tokio::task::spawn_blocking(move || {
                        let piece = reading.next();
                        (reading, piece)
                    }));
                }
                Self::Busy(task) => {
                    let (reading, piece) = ready!(Pin::new(task).poll(cx)).map_err(io::Error::other)?;
                    *self = Self::Idle(Some(reading));
                    return Poll::Ready(piece.map(|piece| piece.map(Bytes::from)));
                }
            }
        }
    }
}
