//! Reading the Maildirs which the peers deliver into.

use super::process;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// The messages of a Maildir, oldest first; none when the folder is not there,
/// for peers make it with the first message.
pub(super) fn messages(maildir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    // Complete messages only: a peer writes into `tmp` and moves to `new`.
    let entries = match fs::read_dir(maildir.join("new")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    files.into_iter().map(|(_, path)| fs::read(path)).collect()
}

/// The messages as soon as there are at least `count`.
///
/// The error after `limit` says how many there are, and shows the peer's log.
pub(super) fn wait_for_messages(
    maildir: &Path,
    count: usize,
    limit: Duration,
    log: impl Fn() -> String,
) -> io::Result<Vec<Vec<u8>>> {
    let enough = process::poll(limit, || match messages(maildir) {
        Ok(found) if found.len() < count => None,
        done => Some(done),
    });
    match enough {
        Some(found) => found,
        None => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "{} of {count} messages in {} after {limit:?}; the log:\n{}",
                messages(maildir)?.len(),
                maildir.display(),
                log()
            ),
        )),
    }
}
