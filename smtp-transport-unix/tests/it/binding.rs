//! Sockets in the file system: what is there already, who may connect, and what is left behind.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::time::Duration;

use smtp_core::stream::Listener;
use smtp_transport_unix::{ListenError, ListenOptions, UnixListener};

use crate::support::{connect, folder, is_root, listen, skip};

fn bind(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(path, &ListenOptions::default())
}

/// Asserts that binding fails with `kind`, in words that contain `text`.
fn refused(path: &Path, kind: ErrorKind, text: &str) {
    let error = bind(path).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
    let inner = error.get_ref().unwrap().downcast_ref::<ListenError>().unwrap();
    assert_eq!(inner.path, path);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let folder = folder();
    let path = folder.path().join("smtp");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    // A child that another test is starting may hold it open until it is another program.
    for _ in 0..1_000 {
        if StdStream::connect(&path).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let listener = bind(&path).unwrap();
    assert_eq!(listener.path(), Some(path.as_path()));
    assert_eq!(listener.url(), format!("smtp+unix://{}", path.display()));
    assert!(listener.is_local());
    connect(&path).await;
}

#[tokio::test]
async fn a_socket_that_somebody_listens_on_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("smtp");
    let first = bind(&path).unwrap();
    refused(&path, ErrorKind::AddrInUse, "another program listens there");
    connect(&path).await;
    drop(first);
    bind(&path).unwrap();

    // With a full queue as well.
    let path = folder.path().join("busy");
    let _busy = UnixListener::bind(&path, &ListenOptions { backlog: 0, ..ListenOptions::default() }).unwrap();
    let _queued = StdStream::connect(&path).unwrap();
    refused(&path, ErrorKind::AddrInUse, "another program listens there");

    // And one of another kind.
    let path = folder.path().join("datagrams");
    let _datagrams = UnixDatagram::bind(&path).unwrap();
    refused(&path, ErrorKind::AddrInUse, "not clear whether somebody listens");
    assert!(path.exists());
}

#[tokio::test]
async fn what_is_not_a_socket_is_never_removed() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("folder")).unwrap();
    drop(StdListener::bind(at("stale")).unwrap());
    symlink(at("stale"), at("link-to-stale")).unwrap();
    symlink(at("file"), at("link-to-file")).unwrap();
    symlink(at("nothing"), at("dangling")).unwrap();
    for name in ["file", "folder", "link-to-stale", "link-to-file", "dangling"] {
        let before = fs::symlink_metadata(at(name)).unwrap();
        refused(&at(name), ErrorKind::AlreadyExists, "not a socket");
        let after = fs::symlink_metadata(at(name)).unwrap();
        assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()), "{name}");
    }
    assert!(!at("nothing").exists());
    assert!(at("stale").exists());
    assert_eq!(fs::read(at("file")).unwrap(), b"precious");
}

#[tokio::test]
async fn paths_that_cannot_be_are_refused_in_words() {
    let folder = folder();
    refused(&folder.path().join("no/such/folder"), ErrorKind::NotFound, "make the folder first");
    refused(&folder.path().join("long".repeat(40)), ErrorKind::InvalidInput, "path");
    refused(&folder.path().join(".."), ErrorKind::InvalidInput, "does not name a file");
    refused(Path::new("/"), ErrorKind::InvalidInput, "does not name a file");
    refused(Path::new(""), ErrorKind::InvalidInput, "");
    let sticky = ListenOptions { mode: 0o1777, ..ListenOptions::default() };
    let error = UnixListener::bind(folder.path().join("x"), &sticky).unwrap_err();
    assert!(error.to_string().contains("permission bits"), "{error}");
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_refused() {
    let folder = folder();
    for mode in [0o777, 0o770, 0o707] {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        refused(&folder.path().join("x"), ErrorKind::PermissionDenied, "lets others replace the socket");
    }
    // One above it matters as much.
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    refused(&inner.join("x"), ErrorKind::PermissionDenied, "lets others replace the socket");
    // Where nobody can rename what belongs to somebody else, there is no danger.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    bind(&folder.path().join("x")).unwrap();
    bind(&inner.join("x")).unwrap();
}

#[tokio::test]
async fn a_folder_of_another_user_is_refused() {
    if skip(is_root(), "only root can give folders away") {
        return;
    }
    let folder = folder();
    std::os::unix::fs::chown(folder.path(), Some(12_345), None).unwrap();
    refused(&folder.path().join("x"), ErrorKind::PermissionDenied, "belongs to user 12345");
}

#[tokio::test]
async fn the_mode_is_the_one_asked_for_whatever_the_umask() {
    let folder = folder();
    for mode in [0o600, 0o660, 0o666, 0o000] {
        let path = folder.path().join(format!("{mode:o}"));
        let group = is_root().then_some(54_321);
        let _listener = UnixListener::bind(&path, &ListenOptions { mode, group, ..ListenOptions::default() }).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode);
        assert!(group.is_none_or(|group| group == metadata.gid()));
    }
}

#[tokio::test]
async fn the_socket_goes_with_its_listener_and_no_other_does() {
    let folder = folder();
    let path = folder.path().join("smtp");
    drop(listen(&path));
    assert!(!path.exists());

    // Somebody has cleared it away, and another server stands there now.
    let first = listen(&path);
    fs::remove_file(&path).unwrap();
    let second = listen(&path);
    drop(first);
    assert!(path.exists());
    connect(&path).await;
    drop(second);

    let first = listen(&path);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a file").unwrap();
    drop(first);
    assert!(path.exists());
    fs::remove_file(&path).unwrap();

    // What was handed down is not ours to remove.
    let handed_down = UnixListener::from_std(StdListener::bind(&path).unwrap()).unwrap();
    assert_eq!(handed_down.path(), Some(path.as_path()));
    drop(handed_down);
    assert!(path.exists());
}

/// Each must either listen or be told that another one does; none may take the socket of another that is just binding.
#[test]
fn of_many_who_bind_at_once_one_listens() {
    let folder = folder();
    let path = folder.path().join("smtp");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..200 {
        let start = std::sync::Barrier::new(4);
        drop(StdListener::bind(&path).unwrap());
        let bound = std::thread::scope(|scope| {
            let bind = || {
                let _entered = runtime.enter();
                start.wait();
                bind(&path)
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let listening = bound.iter().filter(|bound| bound.is_ok()).count();
        assert_eq!(listening, 1);
        for error in bound.iter().filter_map(|bound| bound.as_ref().err()) {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        }
        StdStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }
}
