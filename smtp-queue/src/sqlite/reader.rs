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
use super::rows::{FreshBodies, FreshBody, signed, unsigned};
use super::segments::Place;
use crate::error::Error;
use crate::id::MessageId;

/// Looks for content before it is taken for damaged.
const TRIES: u32 = 3;
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
    place: Option<Place>,
}

impl Readers {
    pub(super) fn new(database: PathBuf, fresh: FreshBodies) -> Self {
        Self { database, fresh, idle: Arc::default() }
    }

    pub(super) async fn body(&self, id: MessageId, disk: Arc<dyn Disk>) -> Result<Body, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.find(id, &disk).await {
                // It may have moved between a look at where it is and one at what is there.
                Err(Error::Corrupt(_)) if tries < TRIES => {}
                result => return result,
            }
        }
    }

    async fn find(&self, id: MessageId, disk: &Arc<dyn Disk>) -> Result<Body, Error> {
        // What is in neither at this moment is in the database at the next.
        let fresh = lock(&self.fresh).get(&id).map(|fresh| fresh.body.clone());
        match fresh {
            Some(FreshBody::Memory(content)) => return Ok(Body::from_bytes(content)),
            Some(FreshBody::Gone) => return Err(Error::NotFound),
            Some(FreshBody::Journal { .. } | FreshBody::File { .. }) | None => {}
        }
        let (database, idle, disk) = (self.database.clone(), Arc::clone(&self.idle), Arc::clone(disk));
        let read = tokio::task::spawn_blocking(move || {
            match fresh {
                Some(FreshBody::Journal { size, sum, place }) => {
                    return Ok(journal(&*disk, size, sum, place)?.into_body());
                }
                Some(FreshBody::File { size, sum }) => return Ok(file(&*disk, id, size, sum)?.into_body()),
                _ => {}
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
    Whole(Vec<u8>),
    File(Reading, u64),
}

impl Content {
    fn into_body(self) -> Body {
        match self {
            Self::Whole(content) => Body::from_bytes(content),
            Self::File(reading, size) => Body::from_source(FileBody::Idle(Some(reading)), Some(size)),
        }
    }
}

/// Finds the body of a message.
pub(super) fn load(connection: &Connection, disk: &dyn Disk, id: MessageId) -> Result<Content, Error> {
    let Row { size, sum, content, place } = read_row(connection, id)?.ok_or(Error::NotFound)?;
    match (content, place) {
        // From before content stayed in the journal.
        (Some(content), _) => whole(content, size, sum),
        (None, Some(place)) => journal(disk, size, sum, place),
        (None, None) => file(disk, id, size, sum),
    }
}

fn whole(content: Vec<u8>, size: u64, sum: u32) -> Result<Content, Error> {
    if crc32fast::hash(&content) == sum && content.len() as u64 == size {
        Ok(Content::Whole(content))
    } else {
        Err(Error::Corrupt("the content is not what was written".into()))
    }
}

fn journal(disk: &dyn Disk, size: u64, sum: u32, Place { segment, offset }: Place) -> Result<Content, Error> {
    let read = disk.read_journal(segment, offset, size).map_err(|e| Error::io("read content in the journal", &e))?;
    whole(read, size, sum)
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
    let sql = "SELECT size, body_sum, body, segment, place FROM message WHERE id = ?1 AND random = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let key = [id.order(), id.random()].map(signed);
    let row = |row: &rusqlite::Row<'_>| {
        let (segment, offset): (Option<u32>, Option<i64>) = (row.get(3)?, row.get(4)?);
        let place = segment.zip(offset).map(|(segment, offset)| Place { segment, offset: unsigned(offset) });
        Ok(Row { size: unsigned(row.get(0)?), sum: row.get(1)?, content: row.get(2)?, place })
    };
    match statement.query_row(key, row) {
        Err(rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::IntegralValueOutOfRange(..)) => {
            Err(Error::Corrupt("the message's row is damaged".into()))
        }
        result => Ok(result.optional()?),
    }
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
