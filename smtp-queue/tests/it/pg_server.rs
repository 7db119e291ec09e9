//! A PostgreSQL server of a test's own: from the system's packages, in a temporary folder, on a Unix socket.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long it may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs. Ended when dropped.
#[derive(Debug)]
pub(crate) struct PgServer {
    programs: PathBuf,
    folder: TempDir,
    child: Mutex<Option<Child>>,
}

/// The server that the tests of this process share while one of them needs it; `None` after printing why there is none.
pub(crate) fn shared() -> Option<Arc<PgServer>> {
    static SERVER: Mutex<Weak<PgServer>> = Mutex::new(Weak::new());
    let mut server = SERVER.lock().unwrap();
    if let Some(running) = server.upgrade() {
        return Some(running);
    }
    let started = Arc::new(PgServer::start()?);
    *server = Arc::downgrade(&started);
    Some(started)
}

/// Where its programs are: the newest version, as Debian has them, or the first in PATH.
fn programs() -> Option<PathBuf> {
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|entry| entry.path()).collect();
    versions.sort_by_key(version);
    let debian = versions.into_iter().rev().map(|path| path.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian.chain(std::env::split_paths(&path)).find(|folder| folder.join("initdb").exists())
}

/// The user that it runs as, since it refuses to be root.
fn unprivileged() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    of("postgres").or_else(|| of("nobody"))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        let (user, group) = unprivileged().expect("no user postgres and no user nobody");
        command.uid(user).gid(group);
    }
    command.env("LC_ALL", "C").stdin(Stdio::null()).current_dir("/");
    command
}

impl PgServer {
    /// A new one; `None` after printing why there is none.
    ///
    /// # Panics
    /// In CI if it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
            assert!(!in_ci, "CI must not skip this: PostgreSQL is not installed");
            println!("skipped: PostgreSQL is not installed; the package is called postgresql");
            return None;
        };
        let folder = TempDir::with_prefix("smtp-pg").unwrap();
        if rustix::process::geteuid().is_root() {
            let (user, group) = unprivileged().expect("no user postgres and no user nobody");
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let mut initdb = command(&programs.join("initdb"));
        initdb.arg("-D").arg(folder.path().join("data"));
        initdb.args(["--auth=trust", "--username=smtp", "--encoding=UTF8", "--no-locale", "--no-sync"]);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = Self { programs, folder, child: Mutex::new(None) };
        server.run();
        Some(server)
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn run(&self) {
        let mut postgres = command(&self.programs.join("postgres"));
        postgres.arg("-D").arg(self.folder.path().join("data")).arg("-k").arg(self.folder.path());
        // A test ends processes, and never the power.
        for setting in ["listen_addresses=", "fsync=off", "max_connections=80", "shared_buffers=32MB"] {
            postgres.args(["-c", setting]);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        *self.child.lock().unwrap() = Some(postgres.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        loop {
            let mut ready = command(&self.programs.join("pg_isready"));
            let ready = ready.arg("-q").arg("-h").arg(self.folder.path()).status().unwrap();
            if ready.success() {
                return;
            }
            let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < until, "it does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    pub(crate) fn crash(&self) {
        let Some(mut child) = self.child.lock().unwrap().take() else { return };
        let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
        let until = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The URL of an empty queue.
    pub(crate) fn url(&self) -> String {
        static QUEUES: AtomicU32 = AtomicU32::new(0);
        let n = QUEUES.fetch_add(1, Ordering::Relaxed);
        format!("postgres:///postgres?host={}&user=smtp&schema=queue_{n}", self.folder.path().display())
    }
}

impl Drop for PgServer {
    fn drop(&mut self) {
        self.crash();
    }
}
