//! A PostgreSQL server of a test's own: from the system's packages, in a temporary folder, on a Unix socket, and on
//! 127.0.0.1 where that is asked for.

#![allow(dead_code, reason = "two test programs share it, and neither needs all of it")]

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
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
    /// Of its socket, and on 127.0.0.1 if it listens there.
    port: u16,
    listens: bool,
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

/// The same; `None` after printing that there are none.
///
/// # Panics
/// In CI.
fn found() -> Option<PathBuf> {
    let found = programs();
    if found.is_none() {
        let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!in_ci, "CI must not skip this: PostgreSQL is not installed");
        println!("skipped: PostgreSQL is not installed; the package is called postgresql");
    }
    found
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

/// Gives a file or folder to the user that it runs as.
fn own(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let (user, group) = unprivileged().expect("no user postgres and no user nobody");
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}

fn folder() -> TempDir {
    let folder = TempDir::with_prefix("smtp-pg").unwrap();
    own(folder.path());
    folder
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl PgServer {
    /// A new one; `None` after printing why there is none.
    ///
    /// # Panics
    /// In CI if it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let programs = found()?;
        let server = Self { programs, folder: folder(), port: 5_432, listens: false, child: Mutex::new(None) };
        server.initdb();
        server.run();
        Some(server)
    }

    /// A new one that listens on a port of 127.0.0.1 too; `None` after printing why there is none.
    pub(crate) fn listening() -> Option<Self> {
        let programs = found()?;
        let server = Self { programs, folder: folder(), port: free_port(), listens: true, child: Mutex::new(None) };
        server.initdb();
        server.run();
        Some(server)
    }

    /// A copy of it, with a port of its own, which follows it and waits to be promoted.
    pub(crate) fn standby(&self) -> Self {
        let (programs, folder) = (self.programs.clone(), folder());
        let mut copy = command(&programs.join("pg_basebackup"));
        copy.arg("-D").arg(folder.path().join("data")).arg("-h").arg(self.folder.path());
        copy.args(["-p", &self.port.to_string(), "-U", "smtp", "-X", "stream", "-c", "fast", "-R", "--no-sync"]);
        let copied = copy.output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let standby = Self { programs, folder, port: free_port(), listens: true, child: Mutex::new(None) };
        standby.run();
        standby
    }

    /// Makes a standby a primary.
    pub(crate) fn promote(&self) {
        let mut promote = command(&self.programs.join("pg_ctl"));
        let promoted = promote.arg("promote").arg("-s").arg("-D").arg(self.data()).output().unwrap();
        assert!(promoted.status.success(), "{}", String::from_utf8_lossy(&promoted.stderr));
    }

    fn initdb(&self) {
        let mut initdb = command(&self.programs.join("initdb"));
        initdb.arg("-D").arg(self.data());
        initdb.args(["--auth=trust", "--username=smtp", "--encoding=UTF8", "--no-locale", "--no-sync"]);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn run(&self) {
        let mut postgres = command(&self.programs.join("postgres"));
        postgres.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        let addresses = if self.listens { "listen_addresses=127.0.0.1" } else { "listen_addresses=" };
        // A test ends processes, and never the power.
        for setting in [addresses, "fsync=off", "max_connections=80", "shared_buffers=32MB"] {
            postgres.args(["-c", setting]);
        }
        postgres.args(["-p", &self.port.to_string()]);
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        *self.child.lock().unwrap() = Some(postgres.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        loop {
            let mut ready = command(&self.programs.join("pg_isready"));
            let ready = ready.arg("-q").arg("-h").arg(self.folder.path()).arg("-p").arg(self.port.to_string());
            if ready.status().unwrap().success() {
                return;
            }
            let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
            let ended = self.child.lock().unwrap().as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "it ended: {}", log());
            assert!(Instant::now() < until, "it does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it answers, in plain lines.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let mut psql = command(&self.programs.join("psql"));
        psql.args(["-XAtq", "-U", "smtp", "-d", "postgres", "-p", &self.port.to_string()]);
        let answer = psql.arg("-h").arg(self.folder.path()).arg("-c").arg(sql).output().unwrap();
        assert!(answer.status.success(), "{sql}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap().trim_end().to_owned()
    }

    /// Writes a file of its data folder, as it wants them; it reads them when it runs again.
    pub(crate) fn write(&self, name: &str, text: &str) {
        self.put(std::fs::File::options().truncate(true), name, text);
    }

    /// Adds to its settings, behind those that are there.
    pub(crate) fn set(&self, setting: &str) {
        self.put(std::fs::File::options().append(true), "postgresql.conf", &format!("{setting}\n"));
    }

    fn put(&self, options: &mut OpenOptions, name: &str, text: &str) {
        let path = self.data().join(name);
        options.create(true).write(true).mode(0o600).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        own(&path);
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    pub(crate) fn crash(&self) {
        // One that hangs would hear of it when it goes on.
        self.go_on();
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

    /// It hangs, with all that works for it, until it is to go on.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on, as if nothing had been.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// To the one that starts the others, and then to these.
    fn signal(&self, signal: Signal) {
        let child = self.child.lock().unwrap();
        let Some(postmaster) = child.as_ref().map(Pid::from_child) else { return };
        let _ = kill_process(postmaster, signal);
        let id = postmaster.as_raw_nonzero();
        let others = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        for other in others.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)) {
            // It may be gone already.
            let _ = kill_process(other, signal);
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of an empty queue.
    pub(crate) fn url(&self) -> String {
        static QUEUES: AtomicU32 = AtomicU32::new(0);
        let n = QUEUES.fetch_add(1, Ordering::Relaxed);
        let (folder, port) = (self.folder.path().display(), self.port);
        format!("postgres:///postgres?host={folder}&port={port}&user=smtp&schema=queue_{n}")
    }
}

impl Drop for PgServer {
    fn drop(&mut self) {
        self.crash();
    }
}
