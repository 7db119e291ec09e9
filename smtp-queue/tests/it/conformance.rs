//! The promises of a spool, on every store.

use std::sync::{Arc, Mutex};

use smtp_queue::{Limits, MemSpool, Spool, SqliteSpool, kit};

#[tokio::test]
async fn the_memory_store_keeps_them() {
    let cases = kit::conformance(async || Arc::new(MemSpool::default()) as Arc<dyn Spool>).await;
    assert!(cases.unwrap_or_else(|failures| panic!("{failures}")) > 20);
}

#[tokio::test]
async fn the_sqlite_store_keeps_them() {
    let folders = Mutex::new(Vec::new());
    let make = async || {
        let folder = tempfile::tempdir().unwrap();
        let spool = SqliteSpool::open(folder.path().join("queue"), Limits::default()).unwrap();
        folders.lock().unwrap().push(folder);
        Arc::new(spool) as Arc<dyn Spool>
    };
    let cases = kit::conformance(make).await;
    assert!(cases.unwrap_or_else(|failures| panic!("{failures}")) > 20);
}
