//! Connecting to sockets that are there, not there, busy, or something else.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener as StdListener;
use std::process::Command;
use std::time::Duration;

use smtp_core::stream::{ConnectError, ConnectStep, Connector, Listener, Target, TlsPolicy};
use smtp_transport_unix::{ListenOptions, UnixConnector, UnixListener, unix_target};
use tokio::time::{Instant, timeout};

use crate::support::{accept, folder, listen, target};

async fn failed(target: &Target, policy: &TlsPolicy) -> ConnectError {
    UnixConnector::new().connect(target, policy).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn a_url_leads_to_its_listener() {
    let folder = folder();
    let listener = listen(&folder.path().join("a b%ü"));
    let target = unix_target(&listener.url()).unwrap();
    let mut connection = UnixConnector::default().connect(&target, &TlsPolicy::OPPORTUNISTIC).await.unwrap();
    assert_eq!(connection.max_parallel(), 1);
    connection.open().await.unwrap();
    assert!(connection.open().await.is_err());
    accept(&listener).await;
}

#[tokio::test]
async fn errors_tell_whether_they_may_pass() {
    let folder = folder();
    let at = |name: &str| target(folder.path().join(name));
    drop(StdListener::bind(folder.path().join("stale")).unwrap());
    fs::write(folder.path().join("file"), "").unwrap();
    for (name, kind) in [
        ("nothing", ErrorKind::NotFound),
        ("stale", ErrorKind::ConnectionRefused),
        ("file", ErrorKind::ConnectionRefused),
    ] {
        let error = failed(&at(name), &TlsPolicy::NONE).await;
        assert_eq!((error.transient, error.step, error.source.kind()), (true, ConnectStep::Connect, kind), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = failed(&at(&"long".repeat(40)), &TlsPolicy::NONE).await;
    assert_eq!((error.transient, error.step), (false, ConnectStep::Connect), "{error}");
    let error = failed(&Target::host("mx.example".parse().unwrap(), 25), &TlsPolicy::NONE).await;
    assert_eq!((error.transient, error.step), (false, ConnectStep::Resolve), "{error}");
}

#[tokio::test]
async fn a_policy_that_asks_for_tls_costs_no_connection() {
    let folder = folder();
    let path = folder.path().join("smtp");
    let listener = listen(&path);
    for policy in [TlsPolicy::REQUIRED, TlsPolicy::IMPLICIT] {
        let error = failed(&target(&path), &policy).await;
        assert_eq!((error.transient, error.step), (false, ConnectStep::Tls), "{error}");
    }
    timeout(Duration::from_millis(50), listener.accept()).await.map(drop).unwrap_err();
}

#[tokio::test]
async fn a_full_queue_is_waited_for() {
    let folder = folder();
    let path = folder.path().join("busy");
    let listener = UnixListener::bind(&path, &ListenOptions { backlog: 0, ..ListenOptions::default() }).unwrap();
    let connector = UnixConnector::new().with_timeout(Duration::from_millis(300));
    let to = target(&path);
    let _first = connector.connect(&to, &TlsPolicy::NONE).await.unwrap();
    let begin = Instant::now();
    let error = connector.connect(&to, &TlsPolicy::NONE).await.map(drop).unwrap_err();
    assert_eq!((error.transient, error.source.kind()), (true, ErrorKind::TimedOut), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(300));

    let second = tokio::spawn(async move { UnixConnector::new().connect(&to, &TlsPolicy::NONE).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!second.is_finished());
    listener.accept().await.unwrap();
    second.await.unwrap().unwrap();
}

/// The limit belongs to the whole process, so this test runs itself once more under another one.
#[test]
fn a_listener_without_descriptors_waits_and_recovers() {
    const INSIDE: &str = "SMTP_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(INSIDE).is_none() {
        let child = Command::new("prlimit")
            .arg("--nofile=64:64")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "connecting::a_listener_without_descriptors_waits_and_recovers", "--nocapture"])
            .env(INSIDE, "1")
            .status();
        match child {
            Ok(status) => assert!(status.success()),
            Err(error) => println!("skipped: prlimit does not run here ({error})"),
        }
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = folder();
        let path = folder.path().join("smtp");
        let listener = listen(&path);
        let mut hogs = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            hogs.push(file);
        }
        // One descriptor for the client's end; none is left for the server's.
        hogs.pop();
        let _client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let accepting = tokio::spawn(async move { listener.accept().await.map(drop) });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!accepting.is_finished());
        hogs.clear();
        timeout(Duration::from_secs(2), accepting).await.unwrap().unwrap().unwrap();
    });
}
