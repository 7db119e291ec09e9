//! Opening a spool's folder.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::disk::{BODIES, Disk};
use super::reader::Readers;
use super::rows::{FreshBodies, SqlRows};
use super::segments::SEGMENT_OCTETS;
use super::writer::{self, Database, Writer};
use super::{Shared, SqliteSpool, State, bodies, schema};
use crate::clock::millis;
use crate::engine::Engine;
use crate::error::{Error, OpenError};
use crate::spool::Limits;

pub(super) const DATABASE: &str = "spool.db";
const LOCK: &str = "lock";

pub(super) fn open(path: &Path, limits: Limits, disk: Arc<dyn Disk>) -> Result<SqliteSpool, OpenError> {
    let folder = |source| OpenError::Folder { path: path.to_owned(), source };
    private_folder(path).map_err(folder)?;
    private_folder(&path.join(BODIES)).map_err(folder)?;
    let lock = private_file(&path.join(LOCK)).map_err(folder)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(folder(source)),
    }
    let database = path.join(DATABASE);
    let unreadable = |reason: String| OpenError::Unreadable { path: database.clone(), reason };
    // SQLite gives the log the mode of the database.
    drop(private_file(&database).map_err(folder)?);
    let mut connection = Connection::open(&database).map_err(|e| unreadable(e.to_string()))?;
    schema::configure(&connection).map_err(|e| unreadable(e.to_string()))?;
    schema::migrate(&mut connection, &database)?;
    let refused = |error: Error| unreadable(error.to_string());
    let fresh = FreshBodies::default();
    let mut rows = SqlRows::open(connection, Arc::clone(&disk), Arc::clone(&fresh), SEGMENT_OCTETS).map_err(refused)?;
    // The names of the database, its log and the journal last from here on.
    File::open(path).and_then(|folder| folder.sync_all()).map_err(folder)?;
    rows.tidy().map_err(refused)?;
    let swept = bodies::sweep(&*disk, &rows.files().map_err(refused)?).map_err(folder)?;
    if swept > 0 {
        tracing::info!(swept, "removed bodies of messages that were never accepted, or are gone");
    }
    let epoch = u64::try_from(millis(SystemTime::now())).unwrap_or_default() << 16;
    let engine = Engine::open(rows, limits, epoch).map_err(refused)?;

    let ids = engine.ids();
    let state = Arc::new(State::default());
    let (requests, queue) = mpsc::channel(writer::WAITING_MAX);
    let readers = Readers::new(database.clone(), Arc::clone(&fresh));
    let home = Database { path: database, disk: Arc::clone(&disk), fresh };
    let writer = Writer::new(engine, home, Arc::clone(&state), Some(lock)).checkpointing().map_err(folder)?;
    let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(folder)?;
    std::thread::Builder::new().name("spool".into()).spawn(move || writer.run(queue, &timer)).map_err(folder)?;
    Ok(SqliteSpool(Arc::new(Shared { requests, disk, readers, limits, ids, state, space: Mutex::default() })))
}

/// A folder that only its owner may use, made if it is not there.
fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    // Its own name lasts too.
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// A file that only its owner may use, made if it is not there.
fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}
