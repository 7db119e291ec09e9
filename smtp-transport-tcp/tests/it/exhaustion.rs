//! Running out of file descriptors.

use std::fs::File;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smtp_core::stream::Listener;
use smtp_transport_tcp::Tls;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::support::listen;

/// Counts warnings and attempts.
#[derive(Clone, Default)]
struct Log(Arc<[AtomicUsize; 2]>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("smtp_core::stream")
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        self.0[usize::from(*event.metadata().level() != Level::WARN)].fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The limit belongs to the whole process, so this test runs itself once more under another one.
#[test]
fn a_listener_without_descriptors_waits_and_recovers() {
    const INSIDE: &str = "SMTP_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(INSIDE).is_none() {
        let child = Command::new("prlimit")
            .arg("--nofile=64:64")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "exhaustion::a_listener_without_descriptors_waits_and_recovers", "--nocapture"])
            .env(INSIDE, "1")
            .status();
        match child {
            Ok(status) => assert!(status.success()),
            Err(error) => println!("skipped: prlimit does not run here ({error})"),
        }
        return;
    }
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = Arc::new(listen(Tls::None));
        let mut hogs = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            hogs.push(file);
        }
        assert!(hogs.len() < 64);
        // One descriptor for the client's end; none is left for the server's.
        hogs.pop();
        let _client = tokio::net::TcpStream::connect(listener.local_addr()).await.unwrap();
        let accepting = tokio::spawn({
            let listener = Arc::clone(&listener);
            async move { listener.accept().await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(!accepting.is_finished());
        let [warnings, others] = &*log.0;
        assert_eq!(warnings.load(Ordering::Relaxed), 1);
        // 5 + 10 + 20 + 40 + 80 + 160 ms have passed: it waits, it does not spin.
        let attempts = others.load(Ordering::Relaxed);
        assert!((3..=8).contains(&attempts), "{attempts}");

        hogs.clear();
        tokio::time::timeout(Duration::from_secs(2), accepting).await.unwrap().unwrap().unwrap();
    });
}
