//! A disk that fails under a server: what was answered with 250 is never lost, and what cannot be kept is answered with
//! 4yz, until it can be kept again.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use tempfile::TempDir;

use crate::ledger::{Hop, Place, check, sender};
use crate::play::{Server, send, until};

/// True if `probe` can be run here; says so otherwise. In CI it has to be.
fn possible(probe: &str, arguments: &[&str]) -> bool {
    let ended = Command::new(probe).args(arguments).stdout(Stdio::null()).output();
    let why = match ended {
        Ok(ended) if ended.status.success() => return true,
        Ok(ended) => String::from_utf8_lossy(&ended.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("CI").is_none(), "{probe} {arguments:?}: {why}");
    println!("skipped: {probe} {arguments:?}: {why}");
    false
}

/// `command`, begun by `outer`, which becomes it.
fn within(outer: &mut Command, command: &Command) {
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// Mail comes in while some system calls fail; then the server is started anew on what is there, and the books are
/// checked.
fn no_250_is_lost(calls: &str, fault: &str) {
    if !possible("strace", &["-qqq", "-o", "/dev/null", "true"]) {
        return;
    }
    let (hop, log) = (Hop::start(), TempDir::new().unwrap());
    let place = Place::new(&hop);
    let (next, stop, ledger) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(HashSet::new()));
    let begun = SystemTime::now();
    let trace = log.path().join("trace");
    // -D: the server is our child, and strace its companion.
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qqq", "-o"]).arg(&trace);
    strace.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{fault}")]);
    // What cannot be written down when it ends is not waited for long.
    within(&mut strace, place.command().args(["--drain-deadline", "5"]));
    let failed = || fs::read_to_string(&trace).unwrap_or_default().matches("(INJECTED)").count();
    let server = Server::of(strace, TempDir::new().unwrap(), 1);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| sender(place.port, &next, &stop, &ledger));
        }
        // More than the three that can be on their way were not answered with 250: a call that fails is not always one
        // that mail waits for.
        let refused = || next.load(Ordering::SeqCst) > ledger.lock().unwrap().len() as u64 + 3;
        until("enough mail, enough faults, and mail that felt them", || {
            ledger.lock().unwrap().len() >= 80 && failed() >= 5 && refused()
        });
        stop.store(true, Ordering::SeqCst);
    });
    let faults = failed();
    server.signal("TERM");
    let ended = server.finish();
    let troubled = (begun, SystemTime::now());
    let ledger = ledger.into_inner().unwrap();
    let offered = usize::try_from(next.load(Ordering::SeqCst)).unwrap();
    println!("{offered} offered, {} answered with 250, {faults} calls failed", ledger.len());
    assert!(ledger.len() < offered, "no fault was felt: {ended:?}");

    let server = Server::of(place.command(), TempDir::new().unwrap(), 1);
    until("an empty queue", || place.queued() == 0);
    server.signal("TERM");
    assert_eq!(server.finish().code, Some(0));
    check(&ledger, &hop, &[place.data()], &[troubled]);
}

#[test]
fn no_250_is_lost_when_syncs_fail() {
    // Counted for each thread: a new queue is opened with some 25.
    no_250_is_lost("fsync,fdatasync", "error=EIO:when=31+11");
}

#[test]
fn no_250_is_lost_when_writes_find_no_room() {
    no_250_is_lost("pwrite64", "error=ENOSPC:when=100+40");
}

/// A file as the server sees it, who has a file system of its own.
fn seen_by(server: &Server, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/{}/root", server.child.id())).join(path.strip_prefix("/").unwrap())
}

/// Writes into a file until so much is there, or there is no room.
fn fill(file: &Path, octets: usize) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    for _ in 0..octets.div_ceil(1 << 16) {
        if file.write_all(&[b'x'; 1 << 16]).is_err() {
            return;
        }
    }
}

#[test]
fn a_full_disk_is_answered_with_later_and_forgotten_when_there_is_room() {
    let folder = TempDir::new().unwrap();
    let mount = "mount -t tmpfs -o size=160m tmpfs \"$0\" && cd \"$0\" && exec \"$@\"";
    let at = folder.path().to_str().unwrap();
    if !possible("unshare", &["-m", "sh", "-c", mount, at, "true"]) {
        return;
    }
    let hop = Hop::start();
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", mount, at]);
    within(&mut unshare, &Place::new(&hop).command());
    unshare.current_dir("/");
    let server = Server::of(unshare, TempDir::new().unwrap(), 1);
    let (mut there, mut here) = (0, 0);
    let mut remote = || {
        let code = send(server.url(), &["--to", "jo@remote.example"]).code;
        there += usize::from(code == Some(0));
        code
    };
    let mut local = || {
        let code = send(server.url(), &["--to", "box@localhost"]).code;
        here += usize::from(code == Some(0));
        code
    };
    assert_eq!((remote(), local()), (Some(0), Some(0)));
    // Less is free than the queue keeps in reserve: it takes nothing more, before anything fails.
    let filler = seen_by(&server, &folder.path().join("filler"));
    fill(&filler, 100 << 20);
    until("a queue that takes nothing", || remote() == Some(75));
    assert_eq!(local(), Some(0));
    // Nothing is free at all.
    fill(&filler, 100 << 20);
    assert_eq!(local(), Some(75));
    assert_eq!(remote(), Some(75));
    fs::remove_file(&filler).unwrap();
    assert_eq!(local(), Some(0));
    until("a queue that takes mail", || remote() == Some(0));
    until("all of it at the next hop", || hop.arrived().len() == there);
    let mailbox = seen_by(&server, &folder.path().join("smtp-data/mail/localhost/box/new"));
    assert_eq!(fs::read_dir(mailbox).unwrap().count(), here);
    server.signal("TERM");
    assert_eq!(server.finish().code, Some(0));
}
