//! A folder that is held open, and what is done in it: always by a name in it, never by a path through it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, Stat};
use rustix::io::retry_on_intr;

use super::failure::Failure;

#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    /// For error texts.
    path: PathBuf,
}

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// 0700: mail is nobody else's business.
const FOLDER_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

impl Folder {
    /// The folder at `path`, which the administrator chose: links in it are followed.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        let fd = retry_on_intr(|| rustix::fs::open(path, OPEN, Mode::empty()))
            .map_err(|e| Failure::new("open the folder", path, e))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder `name` in this one; a symbolic link or a file of that name is an error.
    pub(super) fn enter(&self, name: &str) -> Result<Self, Failure> {
        let path = self.path.join(name);
        match retry_on_intr(|| rustix::fs::openat(&self.fd, name, OPEN | OFlags::NOFOLLOW, Mode::empty())) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(e) => Err(Failure::new("open the folder", &path, e)),
        }
    }

    /// The same, made if it is not there. True if it was made.
    pub(super) fn enter_or_make(&self, name: &str) -> Result<(Self, bool), Failure> {
        match self.enter(name) {
            Err(e) if e.is_not_found() => {}
            found => return found.map(|folder| (folder, false)),
        }
        let path = self.path.join(name);
        let made = match retry_on_intr(|| rustix::fs::mkdirat(&self.fd, name, FOLDER_MODE)) {
            Ok(()) => {
                // A umask can take the owner's own rights away.
                retry_on_intr(|| rustix::fs::chmodat(&self.fd, name, FOLDER_MODE, AtFlags::empty()))
                    .map_err(|e| Failure::new("set the mode of", &path, e))?;
                true
            }
            // Somebody else made it in between.
            Err(rustix::io::Errno::EXIST) => false,
            Err(e) => return Err(Failure::new("make the folder", &path, e)),
        };
        self.enter(name).map(|folder| (folder, made))
    }

    /// An error if everybody may write here.
    pub(super) fn check_private(&self) -> Result<(), Failure> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|e| Failure::new("look at", &self.path, e))?;
        if Mode::from_raw_mode(stat.st_mode as RawMode).contains(Mode::WOTH) {
            return Err(Failure::Exposed { path: self.path.clone() });
        }
        Ok(())
    }

    /// A new file, which must not be there yet.
    pub(super) fn create(&self, name: &str) -> Result<File, Failure> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, FILE_MODE))
            .map(File::from)
            .map_err(|e| Failure::new("make the file", &self.path.join(name), e))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Failure> {
        retry_on_intr(|| rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()))
            .map_err(|e| Failure::new("remove the file", &self.path.join(name), e))
    }

    pub(super) fn rename(&self, name: &str, to: &Self, new_name: &str) -> Result<(), Failure> {
        retry_on_intr(|| rustix::fs::renameat(&self.fd, name, &to.fd, new_name))
            .map_err(|e| Failure::new("publish as", &to.path.join(new_name), e))
    }

    /// Makes what happened to its entries durable.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        rustix::fs::fsync(&self.fd).map_err(|e| Failure::new("sync the folder", &self.path, e))
    }

    /// The names in it that do not begin with a dot and can be shown.
    pub(super) fn names(&self) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        self.each_name(|name| {
            if !name.starts_with('.') {
                names.push(name.to_owned());
            }
        })?;
        Ok(names)
    }

    /// Shows every name in it that can be shown, its own and its parent's left aside.
    pub(super) fn each_name(&self, mut look: impl FnMut(&str)) -> Result<(), Failure> {
        let failed = |e| Failure::new("read the folder", &self.path, e);
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            match entry.map_err(failed)?.file_name().to_str() {
                // Nothing of ours has a name that is no text.
                Ok("." | "..") | Err(_) => {}
                Ok(name) => look(name),
            }
        }
        Ok(())
    }

    /// The octets of the file `name`; nothing if it is no plain file, or is gone.
    pub(super) fn size(&self, name: &str) -> u64 {
        match self.plain(name) {
            Some(stat) => u64::try_from(stat.st_size).unwrap_or(0),
            None => 0,
        }
    }

    /// When an entry last came, went or was renamed: seconds and nanoseconds.
    pub(super) fn changed(&self) -> Result<(i64, i64), Failure> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|e| Failure::new("look at", &self.path, e))?;
        #[allow(clippy::unnecessary_cast, reason = "the width differs between systems")]
        Ok((stat.st_mtime as i64, stat.st_mtime_nsec as i64))
    }

    /// When the file `name` was last written, in seconds since 1970; `None` if it is no plain file, or is gone.
    pub(super) fn written(&self, name: &str) -> Option<i64> {
        #[allow(clippy::unnecessary_cast, reason = "the width differs between systems")]
        self.plain(name).map(|stat| stat.st_mtime as i64)
    }

    fn plain(&self, name: &str) -> Option<Stat> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        FileType::from_raw_mode(stat.st_mode as RawMode).is_file().then_some(stat)
    }
}

/// Gives a new file its mode, whatever the umask took away.
pub(super) fn set_mode(file: &File, path: &Path) -> Result<(), Failure> {
    retry_on_intr(|| rustix::fs::fchmod(file, FILE_MODE)).map_err(|e| Failure::new("set the mode of", path, e))
}
