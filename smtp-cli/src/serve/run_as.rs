//! A server that root started, for its ports and its keys, and that is not root any more when it talks to anybody.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;
use std::str::FromStr;

use nix::unistd::{Gid, Group, Uid, User};

use crate::exit::{Exit, Failure, warn};
use crate::url::Url;

/// The user and the group that a server runs as: `user` or `user:group`, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunAs {
    user: User,
    group: Gid,
}

impl FromStr for RunAs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let unknown = |what: &str, name: &str| format!("there is no {what} {name:?} on this system");
        let found = match user.parse() {
            Ok(number) => User::from_uid(Uid::from_raw(number)),
            Err(_) => User::from_name(user),
        };
        let user = found.map_err(|error| error.to_string())?.ok_or_else(|| unknown("user", user))?;
        let group = match group {
            None => user.gid,
            Some(name) => {
                let found = match name.parse() {
                    Ok(number) => Group::from_gid(Gid::from_raw(number)),
                    Err(_) => Group::from_name(name),
                };
                found.map_err(|error| error.to_string())?.ok_or_else(|| unknown("group", name))?.gid
            }
        };
        if user.uid.is_root() {
            return Err("root is what run_as is there to give up; name another user".into());
        }
        Ok(Self { user, group })
    }
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.user.name, self.group)
    }
}

impl RunAs {
    /// True if there is something to give up.
    ///
    /// # Errors
    /// If this process is somebody else and cannot become that user.
    pub(super) fn wanted(&self) -> Result<bool, Failure> {
        let now = Uid::effective();
        if now.is_root() {
            return Ok(true);
        }
        if now == self.user.uid {
            return Ok(false);
        }
        let name = &self.user.name;
        Err(Failure::config(format!("run_as {name}: only root can become somebody else, and this is user {now}"))
            .help(format!("start it as root or as {name}, or leave run_as out")))
    }

    /// Gives a folder that root has just made, and what is in it, to the user. One that belongs to somebody else is
    /// left alone.
    ///
    /// # Errors
    /// If it belongs to somebody else, or cannot be given.
    pub(super) fn own(&self, folder: &Path) -> Result<(), Failure> {
        let name = &self.user.name;
        let failed =
            |error: io::Error| Failure::new(Exit::Io, format!("cannot give {} to {name}: {error}", folder.display()));
        let found = fs::symlink_metadata(folder).map_err(failed)?;
        if found.uid() == self.user.uid.as_raw() {
            return Ok(());
        }
        let empty = fs::read_dir(folder).map_err(failed)?.next().is_none();
        if !empty || found.uid() != 0 {
            return Err(Failure::config(format!("{} does not belong to {name}, whom run_as names", folder.display()))
                .help(format!("`chown -R {name}: {}` gives it to them", folder.display())));
        }
        self.give(folder).map_err(failed)
    }

    /// Makes all that is in a folder the user's.
    ///
    /// # Errors
    /// If it cannot be.
    pub(super) fn own_all(&self, folder: &Path) -> Result<(), Failure> {
        let walk = || -> io::Result<()> {
            self.give(folder)?;
            fs::read_dir(folder)?.try_for_each(|entry| self.give(&entry?.path()))
        };
        walk().map_err(|error| {
            Failure::new(Exit::Io, format!("cannot give {} to {}: {error}", folder.display(), self.user.name))
        })
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        // A link is given, not what it points to.
        lchown(path, Some(self.user.uid.as_raw()), Some(self.group.as_raw()))
    }

    /// Becomes the user, in all threads and for good.
    ///
    /// # Errors
    /// If a step fails, or root could be had back.
    pub(super) fn drop(&self) -> Result<(), Failure> {
        let failed =
            |error: nix::Error| Failure::new(Exit::Io, format!("cannot become user {}: {error}", self.user.name));
        // The C library does each of these for all threads at once.
        #[cfg(not(target_vendor = "apple"))]
        {
            let name = std::ffi::CString::new(self.user.name.as_str())
                .map_err(|_| Failure::config("run_as: a name with a NUL in it"))?;
            nix::unistd::initgroups(&name, self.group).map_err(failed)?;
        }
        nix::unistd::setgid(self.group).map_err(failed)?;
        nix::unistd::setuid(self.user.uid).map_err(failed)?;
        if nix::unistd::setuid(Uid::from_raw(0)).is_ok() || Uid::effective() != self.user.uid {
            return Err(Failure::new(Exit::Io, "root was given up and can be had back: not going on")
                .help("let the service manager start it as the user, without run_as"));
        }
        tracing::info!(user = self.user.name, "not root any more");
        Ok(())
    }
}

/// Says that root need not be the one who talks to strangers, where that is what will happen.
pub(super) fn warn_of_root(urls: &[Url]) {
    let open = |url: &Url| url.listen_address().is_ok_and(|address| !address.ip().is_loopback());
    if Uid::effective().is_root() && urls.iter().any(open) {
        warn("this server runs as root; --run-as USER gives that up once the ports are bound");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_by_name_and_number() {
        let named: RunAs = "nobody".parse().unwrap();
        assert_eq!(named, format!("{}", named.user.uid).parse().unwrap());
        let other: RunAs = "nobody:0".parse().unwrap();
        assert_eq!((other.user.uid, other.group), (named.user.uid, Gid::from_raw(0)));
        for (text, part) in [
            ("root", "give up"),
            ("0", "give up"),
            ("no-such-user-here", "no user \"no-such-user-here\""),
            ("nobody:no-such-group", "no group"),
            ("", "no user"),
        ] {
            let error = text.parse::<RunAs>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        if !Uid::effective().is_root() {
            println!("skipped: only root can give files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let nobody: RunAs = "nobody".parse().unwrap();
        nobody.own(dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().uid(), nobody.user.uid.as_raw());
        let full = tempfile::tempdir().unwrap();
        fs::write(full.path().join("x"), "").unwrap();
        let failure = nobody.own(full.path()).unwrap_err();
        assert!(failure.what().contains("does not belong to nobody"), "{failure:?}");
        assert_eq!(fs::metadata(full.path()).unwrap().uid(), 0);
    }
}
