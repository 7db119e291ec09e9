//! Who is at the other end.

use std::process::Stdio;

use smtp_core::channel::Peer;
use smtp_transport_unix::{ListenOptions, UnixListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::support::{CODES, CONVERSATION, Taken, accept, codes, example, folder, is_root, pair, serving, skip};

fn own() -> Peer {
    Peer::Process {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: Some(i32::try_from(std::process::id()).unwrap()),
    }
}

#[tokio::test]
async fn both_ends_know_the_process_at_the_other() {
    let (client, server) = pair(&folder()).await;
    assert_eq!(client.info().peer, own());
    assert_eq!(server.info().peer, own());
}

#[tokio::test]
async fn services_see_the_user() {
    let (mut client, server) = pair(&folder()).await;
    let taken = Taken::default();
    let session = serving(server, &taken);
    client.write_all(CONVERSATION).await.unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    assert_eq!(codes(&said), CODES);
    session.await.unwrap().unwrap();
    assert_eq!(taken.peers(), vec![own().to_string(); 2]);
}

/// A client that connects as another user.
fn client_as(uid: u32, relay: &std::path::Path, socket: &std::path::Path) -> Option<Child> {
    let id = uid.to_string();
    Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(relay)
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()
}

#[tokio::test]
async fn another_user_is_seen_as_such_and_nobody_as_nobody_in_particular() {
    if skip(is_root(), "only root can be somebody else") {
        return;
    }
    let folder = folder();
    // The other user has to get at the program and the socket.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let relay = folder.path().join("relay");
    std::fs::copy(example("relay"), &relay).unwrap();
    let path = folder.path().join("smtp");
    let listener = UnixListener::bind(&path, &ListenOptions { mode: 0o666, ..ListenOptions::default() }).unwrap();
    for uid in [12_345, 65_534] {
        let Some(client) = client_as(uid, &relay, &path) else {
            println!("skipped: setpriv does not run here");
            return;
        };
        let peer = accept(&listener).await.info().peer;
        match peer {
            Peer::Process { uid: seen, gid, pid } => {
                assert_eq!((uid, uid), (seen, gid));
                assert_eq!(pid, client.id().map(|id| i32::try_from(id).unwrap()));
                assert_eq!(uid, 12_345);
            }
            Peer::Named(name) => assert_eq!((uid, &*name), (65_534, "unknown local process")),
            Peer::Ip(_) | Peer::Forwarded { .. } => panic!("{peer}"),
        }
    }
}

/// Only root can change the mode's meaning: everybody else is kept out by it.
#[tokio::test]
async fn the_mode_keeps_others_out() {
    if skip(is_root(), "only root can be somebody else") {
        return;
    }
    let folder = folder();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let relay = folder.path().join("relay");
    std::fs::copy(example("relay"), &relay).unwrap();
    let path = folder.path().join("smtp");
    let _listener = UnixListener::bind(&path, &ListenOptions::default()).unwrap();
    let Some(mut client) = client_as(12_345, &relay, &path) else {
        println!("skipped: setpriv does not run here");
        return;
    };
    let status = client.wait().await.unwrap();
    assert_eq!(status.code(), Some(1));
}
