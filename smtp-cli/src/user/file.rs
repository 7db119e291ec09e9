//! The file itself: one writer at a time, and never half of it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use smtp_core::types::printable;
use smtp_server::auth::{User, UserError, UserList};
use tempfile::NamedTempFile;

use crate::exit::{Exit, Failure};

/// How long another writer is waited for: hashing passwords takes it no second.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// What a new file says of itself.
const HEAD: &str = "\
# Users of smtp serve --user-file, written by `smtp user`. Keep it to the server's own user: it holds password hashes.";

/// The users in a file, with the lines between them.
pub(super) struct UserFile {
    path: PathBuf,
    lines: Vec<Line>,
    /// Held until the file is stored, or given up.
    _lock: Option<File>,
}

enum Line {
    User(Box<User>),
    /// A comment, or nothing.
    Other(String),
}

impl UserFile {
    /// Reads it, to look at.
    ///
    /// # Errors
    /// If it cannot be read, or a line is wrong.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::config(format!("{}: {error}", path.display()))
                .help("--user-file FILE names another one; `smtp user add NAME` makes one")
        })?;
        Self::parse(path, &text)
    }

    /// Reads it, to change it, and keeps other writers off until it is dropped. A file that is not there is empty.
    ///
    /// # Errors
    /// If it cannot be read, a line is wrong, or somebody else has been changing it for ten seconds.
    pub(super) fn lock(path: &Path) -> Result<Self, Failure> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| broken(folder, &error))?;
        }
        // The file itself cannot be what is locked: the new one takes its place.
        let lock_path = beside(path, ".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| broken(&lock_path, &error))?;
        let until = Instant::now() + LOCK_WAIT;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
                Err(TryLockError::WouldBlock) => {
                    let what = format!("somebody else is changing {}", path.display());
                    return Err(Failure::new(Exit::Temporary, what).help("try again"));
                }
                Err(TryLockError::Error(error)) => return Err(broken(&lock_path, &error)),
            }
        }
        let mut file = match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::parse(path, HEAD)?,
            Err(error) => return Err(broken(path, &error)),
        };
        file._lock = Some(lock);
        Ok(file)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let (mut lines, mut list) = (Vec::new(), UserList::new());
        for (index, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                lines.push(Line::Other(line.to_owned()));
                continue;
            }
            let at = |error| Failure::config(format!("{}:{}: {error}", path.display(), index + 1));
            let user: User = trimmed.parse().map_err(at)?;
            list = list.and(user.clone()).map_err(at)?;
            lines.push(Line::User(Box::new(user)));
        }
        Ok(Self { path: path.to_owned(), lines, _lock: None })
    }

    /// The users, in the order of the file.
    pub(super) fn users(&self) -> impl Iterator<Item = &User> {
        self.all().filter(|user| !is_stand_in(user))
    }

    fn all(&self) -> impl Iterator<Item = &User> {
        self.lines.iter().filter_map(|line| match line {
            Line::User(user) => Some(&**user),
            Line::Other(_) => None,
        })
    }

    /// The user of this name.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn find(&self, name: &str) -> Result<&User, Failure> {
        self.users().find(|user| user.name() == name).ok_or_else(|| {
            Failure::config(format!("{}: there is no user {}", self.path.display(), printable(name.as_bytes())))
                .help("`smtp user list` shows who is there")
        })
    }

    /// Adds `user` at the end.
    ///
    /// # Errors
    /// If the name is taken, the certificate or uid is somebody else's, or an address has no form in the file.
    pub(super) fn add(&mut self, user: User) -> Result<(), Failure> {
        if is_stand_in(&user) {
            return Err(Failure::usage("* is the name that stands for unknown users").help("take another name"));
        }
        readable(&user)?;
        self.lines.push(Line::User(Box::new(user)));
        self.check().inspect_err(|_| drop(self.lines.pop()))
    }

    /// Puts `user` in the place of the one of the same name.
    ///
    /// # Errors
    /// If that makes the file invalid.
    pub(super) fn replace(&mut self, user: User) -> Result<(), Failure> {
        readable(&user)?;
        for line in &mut self.lines {
            if matches!(line, Line::User(old) if old.name() == user.name()) {
                *line = Line::User(Box::new(user.clone()));
            }
        }
        self.check()
    }

    /// Removes the user of this name.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.find(name)?;
        self.lines.retain(|line| !matches!(line, Line::User(user) if user.name() == name));
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        let all = self.all().cloned().try_fold(UserList::new(), UserList::and);
        all.map(drop).map_err(|error| {
            let failure = Failure::config(format!("{}: {error}", self.path.display()));
            match error {
                UserError::Twice(_) => failure.help("`smtp user passwd NAME` changes a password"),
                _ => failure,
            }
        })
    }

    /// Writes the file whole beside the old one, and puts it in its place: whoever reads it finds the one or the other.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub(super) fn store(mut self) -> Result<(), Failure> {
        if !self.all().any(is_stand_in) {
            let stand_in = User::stand_in().map_err(Failure::config)?;
            self.lines.insert(self.head_len(), Line::User(Box::new(stand_in)));
        }
        let failed = |error: io::Error| broken(&self.path, &error);
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Made for its owner alone.
        let mut new = NamedTempFile::new_in(folder).map_err(failed)?;
        for line in &self.lines {
            match line {
                Line::User(user) => writeln!(new, "{}", user.expose()),
                Line::Other(text) => writeln!(new, "{text}"),
            }
            .map_err(failed)?;
        }
        // It goes on to belong to whom it did: the server may be somebody else than who runs this.
        if let Ok(old) = fs::metadata(&self.path) {
            chown(new.path(), Some(old.uid()), Some(old.gid())).map_err(failed)?;
        }
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&self.path).map_err(|error| failed(error.error))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// How many lines the comment on top has.
    fn head_len(&self) -> usize {
        self.lines.iter().take_while(|line| matches!(line, Line::Other(text) if text.starts_with('#'))).count()
    }
}

/// What cannot be read again would make the whole file useless to the server.
fn readable(user: &User) -> Result<(), Failure> {
    user.check_line().map_err(|error| {
        Failure::usage(error).help("name an address of another form, or `--send-as @DOMAIN` for all of its domain")
    })
}

/// The entry for those who do not exist.
fn is_stand_in(user: &User) -> bool {
    user.name() == "*"
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn broken(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Io, format!("{}: {error}", path.display())).help("--user-file FILE names another file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn user(line: &str) -> User {
        line.parse().unwrap()
    }

    #[test]
    fn a_change_keeps_everything_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/users");
        let mut file = UserFile::lock(&path).unwrap();
        file.add(user("jo: uid=1000 jo@example.org")).unwrap();
        file.store().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# Users") && text.contains("\n*: $argon2id$"), "{text}");

        fs::write(&path, format!("{text}\n# the others\n")).unwrap();
        let mut file = UserFile::lock(&path).unwrap();
        file.add(user("al: uid=1001")).unwrap();
        assert!(file.add(user("al: uid=1002")).unwrap_err().what().contains("al is there twice"));
        file.store().unwrap();
        let again = fs::read_to_string(&path).unwrap();
        assert_eq!(again, format!("{text}\n# the others\nal: uid=1001\n"));

        let mut file = UserFile::lock(&path).unwrap();
        file.replace(user("jo: uid=7")).unwrap();
        file.remove("al").unwrap();
        assert!(file.remove("al").unwrap_err().what().contains("there is no user al"));
        assert!(file.remove("*").is_err());
        file.store().unwrap();
        let names: Vec<String> = UserFile::read(&path).unwrap().users().map(|user| user.expose()).collect();
        assert_eq!(names, ["jo: uid=7"]);
        assert!(UserList::from_file(&path).is_ok());
    }

    #[test]
    fn two_writers_do_not_lose_each_others_users() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let mut file = UserFile::lock(&path).unwrap();
        file.add(user("first: uid=1")).unwrap();
        file.store().unwrap();
        thread::scope(|scope| {
            for uid in 2..10 {
                let path = &path;
                scope.spawn(move || {
                    let mut file = UserFile::lock(path).unwrap();
                    file.add(user(&format!("user{uid}: uid={uid}"))).unwrap();
                    file.store().unwrap();
                });
            }
        });
        assert_eq!(UserFile::read(&path).unwrap().users().count(), 9);
    }

    #[test]
    fn a_file_that_cannot_be_used_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, "jo: hunter2\n").unwrap();
        let failure = UserFile::lock(&path).err().unwrap();
        assert!(failure.what().contains("users:1: ") && !failure.what().contains("hunter2"), "{failure:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "jo: hunter2\n");
        assert_eq!(UserFile::read(&folder.path().join("none")).err().unwrap().exit().code(), 78);
    }
}
