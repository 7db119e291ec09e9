//! Putting a socket into the file system, and taking it away again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::peer::OVERFLOW;

/// Settings of a [`UnixListener`](crate::UnixListener).
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Who may connect, as permission bits of the socket: connecting takes the right to write. Default: `0o600`, this
    /// process's user and root.
    pub mode: u32,
    /// The group that the socket belongs to, by number, for a `mode` of `0o660`. Default: the system's choice, which
    /// is this process's group or the folder's.
    pub group: Option<u32>,
    /// How many connections the system queues until they are accepted; it may take less (Linux:
    /// `net.core.somaxconn`). Default: 1,024.
    pub backlog: u16,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { mode: 0o600, group: None, backlog: 1024 }
    }
}

/// Listens at `path`. Nobody can connect before the mode is right: until `listen(2)`, which comes last, the socket
/// refuses.
pub(crate) fn bind(path: &Path, options: &ListenOptions) -> io::Result<(StdListener, SocketFile)> {
    if options.mode & !0o777 != 0 {
        return Err(invalid("the mode can only have permission bits, such as 0o660"));
    }
    let path = std::path::absolute(path)?;
    let (Some(folder), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(invalid("the path does not name a file"));
    };
    check_folder(folder)?;
    let lock = lock(folder);
    clear_the_way(&path)?;

    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&path)?)?;
    let file = SocketFile::of(path)?;
    if options.group.is_some() {
        lchown(&file.path, None, options.group)?;
    }
    fs::set_permissions(&file.path, fs::Permissions::from_mode(options.mode))?;
    socket.listen(i32::from(options.backlog))?;
    drop(lock);
    Ok((socket.into(), file))
}

/// A socket that was put into the file system; dropping this removes it, unless another one has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    pub(crate) path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(&path)?;
        Ok(Self { path, device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(metadata) = fs::symlink_metadata(&self.path) else { return };
        if metadata.file_type().is_socket() && (metadata.dev(), metadata.ino()) == (self.device, self.inode) {
            // It fails if this process has given up the right to; the next one to listen finds a stale socket then.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whoever can rename entries of the folder, or of one above it, could put something else in the socket's place: mail
/// would go to them, and the mode meant for the socket would be set on a file of their choice.
fn check_folder(folder: &Path) -> io::Result<()> {
    const STICKY: u32 = 0o1000;
    let own = rustix::process::geteuid().as_raw();
    for folder in folder.canonicalize()?.ancestors() {
        let metadata = fs::metadata(folder)?;
        let (owner, mode) = (metadata.uid(), metadata.mode());
        let denied = |why: String| {
            let text = format!("the folder {} {why}", folder.display());
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        };
        // In a user namespace, the host's root is the overflow user.
        if ![0, own, OVERFLOW].contains(&owner) {
            return denied(format!(
                "belongs to user {owner}, who could replace the socket; take a folder of this process's user or root"
            ));
        }
        if mode & 0o022 != 0 && mode & STICKY == 0 {
            return denied("lets others replace the socket: take write permission from group and others".to_owned());
        }
    }
    Ok(())
}

/// Makes those wait who want to listen in the same folder at the same time, so that nobody takes a socket for stale
/// that another process has just bound. A while only: what somebody else locks must not keep a server from starting.
fn lock(folder: &Path) -> Option<File> {
    const ATTEMPTS: usize = 50;
    let folder = File::open(folder).ok()?;
    for _ in 0..ATTEMPTS {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            Err(fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Removes a socket that nobody listens on any more, and nothing else.
fn clear_the_way(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let text = "something is there already that is not a socket; it was left alone";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A busy server's queue may be full: connecting must not wait for it.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(()) => Err(in_use()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use()),
        Err(error) => {
            let text = format!("a socket is there already, and it is not clear whether somebody listens: {error}");
            Err(io::Error::new(io::ErrorKind::AddrInUse, text))
        }
    }
}

fn in_use() -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, "another program listens there: stop it or take another path")
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
