//! A server among its keepers: root, who starts it for its ports, and a service manager, who wants to know how it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::play::{PATIENCE, Server, run, send, smtp};

/// True if this test is root, who alone can become somebody else.
fn root() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        println!("skipped: only root can become somebody else");
    }
    root
}

/// What `/proc/PID/status` says of the ids of each thread: real, effective, saved, and for files.
fn ids(pid: u32, field: &str) -> Vec<Vec<u32>> {
    let status = |task: std::path::PathBuf| fs::read_to_string(task.join("status")).unwrap();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let text = status(task.unwrap().path());
            let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            line.split_whitespace().map(|id| id.parse().unwrap()).collect()
        })
        .collect()
}

/// A folder that everybody may pass.
fn passable() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

#[test]
fn root_is_given_up_once_the_ports_are_bound() {
    if !root() {
        return;
    }
    let folder = passable();
    let arguments = [
        "serve",
        "--listen",
        "smtp://127.0.0.1:0",
        "--run-as",
        "nobody",
        "--queue",
        "sqlite",
        "--mailbox",
        "u@localhost",
    ];
    let mut command = smtp(arguments);
    command.current_dir(folder.path());
    let server = Server::of(command, folder, 1);
    let nobody = 65_534;
    for thread in ids(server.child.id(), "Uid:").into_iter().chain(ids(server.child.id(), "Gid:")) {
        assert_eq!(thread, [nobody; 4]);
    }
    assert!(ids(server.child.id(), "Groups:").iter().flatten().all(|group| *group == nobody));
    assert_eq!(send(server.url(), &["--to", "u@localhost", "--insecure"]).code, Some(0));
    assert_eq!(server.messages("localhost", "u").len(), 1);
    let data = server.folder().join("smtp-data");
    for path in ["", "tls", "tls/key.pem", "mail", "queue", "queue/spool.db", "run", "run/admin.sock"] {
        assert_eq!(owner(&data.join(path)), nobody, "{path}");
    }
    // Its own certificate it can read again.
    server.signal("HUP");
    server.signal("TERM");
    let ended = server.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("not root any more") && !ended.stderr.contains("cannot be read again"), "{ended:?}");
}

#[test]
fn who_cannot_be_become_is_said_at_the_start() {
    let dir = TempDir::new().unwrap();
    let start = |user: &str| {
        run(smtp([
            "serve",
            "--listen",
            "smtp://127.0.0.1:0",
            "--run-as",
            user,
            "--data-dir",
            dir.path().to_str().unwrap(),
        ]))
    };
    let ended = start("no-such-user-here");
    assert_eq!(ended.code, Some(64), "{ended:?}");
    assert!(ended.stderr.contains("there is no user \"no-such-user-here\""), "{ended:?}");
    assert!(start("root").stderr.contains("run_as is there to give up"));
    if root() {
        fs::write(dir.path().join("somebody's"), "").unwrap();
        let ended = start("nobody");
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains("does not belong to nobody") && ended.stderr.contains("chown -R"), "{ended:?}");
    }
}

#[test]
fn a_service_manager_is_told_how_it_is() {
    let folder = TempDir::new().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = smtp(["serve", "--listen", "smtp://127.0.0.1:0"]);
    command
        .current_dir(folder.path())
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .env("WATCHDOG_USEC", "200000");
    let server = Server::of(command, folder, 1);
    let until = |wanted: &str| {
        for _ in 0..1_000 {
            let mut text = [0; 512];
            let length = socket.recv(&mut text).unwrap();
            let said = String::from_utf8_lossy(&text[..length]).into_owned();
            if said.contains(wanted) {
                return said;
            }
            assert_eq!(said.trim_end(), "WATCHDOG=1", "{wanted} is awaited");
        }
        panic!("{wanted} was not said");
    };
    until("READY=1");
    until("WATCHDOG=1");
    server.signal("HUP");
    assert!(until("RELOADING=1").contains("MONOTONIC_USEC="));
    until("READY=1");
    server.signal("TERM");
    until("STOPPING=1");
    assert_eq!(server.finish().code, Some(0));
}

#[test]
fn the_units_are_what_systemd_understands() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd");
    let folder = TempDir::new().unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(units).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap().replace("/usr/local/bin/smtp", env!("CARGO_BIN_EXE_smtp"));
        let copy = folder.path().join(path.file_name().unwrap());
        fs::write(&copy, text).unwrap();
        files.push(copy);
    }
    assert_eq!(files.len(), 3);
    let mut verify = Command::new("systemd-analyze");
    let verified = match verify.arg("verify").args(&files).output() {
        Ok(verified) => verified,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "systemd-analyze: {error}");
            println!("skipped: systemd-analyze: {error}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("smtp"), "{said}");
}
