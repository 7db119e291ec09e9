//! The store on a real disk.

use super::*;
use crate::testing::{broken, deliver, deliver_transaction, envelope, hello, pieces, transaction};
use bytes::Bytes;
use smtp_core::channel::{ChannelInfo, SessionInfo};
use smtp_core::service::{Claim, Source};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::ready;
use std::time::Duration;
use tempfile::TempDir;

struct Store {
    dir: TempDir,
    maildir: Maildir,
}

impl Store {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let maildir = settings(Maildir::builder(dir.path().join("mail"), &primary())).open().unwrap();
        Self { dir, maildir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("mail")
    }

    async fn deliver(&self, recipients: &[&str], body: Body) -> Outcome {
        deliver(&mut self.maildir.clone(), recipients, body).await
    }

    /// The files in every mailbox's `sub` folder, by the mailbox's path below the root.
    fn files(&self, sub: &str) -> BTreeMap<String, Vec<String>> {
        files(&self.root(), sub)
    }

    fn is_clean(&self) -> bool {
        self.files("new").is_empty() && self.files("tmp").is_empty()
    }
}

fn primary() -> Domain {
    "example.org".parse().unwrap()
}

fn files(root: &Path, sub: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let list = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).map(|entries| entries.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
    };
    for domain in list(root) {
        for mailbox in list(&domain) {
            for file in list(&mailbox.join(sub)) {
                let name = mailbox.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.entry(name).or_insert_with(Vec::new).push(fs::read_to_string(file).unwrap());
            }
        }
    }
    found
}

fn text(content: &str) -> Body {
    Body::from_bytes(content.to_owned())
}

fn code(outcome: &Outcome) -> String {
    let text = outcome.single().unwrap_err().to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_message_is_stored_with_its_head_and_lf() {
    let store = Store::new();
    let outcome = store.deliver(&["<Jo@Example.ORG>"], text("Subject: x\r\n\r\n.\r\ny\r\n")).await;
    assert_eq!(*outcome.single().unwrap().claim(), Claim::Stored);
    let file = "Return-Path: <a@sender.example>\nDelivered-To: Jo@Example.ORG\nSubject: x\n\n.\ny\n";
    assert_eq!(store.files("new"), BTreeMap::from([("example.org/jo".into(), vec![file.into()])]));
    assert!(store.files("tmp").is_empty());
    let mailbox = store.root().join("example.org/jo");
    assert!(mailbox.join("cur").is_dir());
    assert_eq!(store.maildir.folder_of(&"<JO@example.org>".parse().unwrap()), Some(mailbox.clone()));
    let name = fs::read_dir(mailbox.join("new")).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    assert!(name.ends_with(&format!(",S={}", file.len())), "{name}");
}

/// Runs a test again in a process of its own, for what belongs to a process; inside it gives `value`.
fn alone(test: &str, value: &str) -> Option<String> {
    const INSIDE: &str = "MAILDIR_TEST_ALONE";
    if let Ok(value) = std::env::var(INSIDE) {
        return Some(value);
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("maildir::tests::{test}")])
        .env(INSIDE, value)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{value}: {said}");
    None
}

#[tokio::test]
async fn modes_do_not_depend_on_the_umask() {
    for umask in ["0", "022", "077", "277"] {
        let Some(umask) = alone("modes_do_not_depend_on_the_umask", umask) else { continue };
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(u32::from_str_radix(&umask, 8).unwrap()));
        let store = Store::new();
        assert!(store.deliver(&["<jo@example.org>"], text("x\r\n")).await.single().is_ok());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let mailbox = store.root().join("example.org/jo");
        for folder in ["..", "", "tmp", "new", "cur"] {
            assert_eq!(mode(&mailbox.join(folder)), 0o700, "{folder}");
        }
        let file = fs::read_dir(mailbox.join("new")).unwrap().next().unwrap().unwrap();
        assert_eq!(mode(&file.path()), 0o600);
        return;
    }
}

#[tokio::test]
async fn one_mailbox_gets_one_copy_and_each_mailbox_its_own() {
    let store = Store::new();
    let outcome =
        store.deliver(&["<a@example.org>", "<A@EXAMPLE.org>", "<postmaster>", "<b@x.example>"], text("x\r\n")).await;
    assert_eq!(outcome.len(), 4);
    assert!(outcome.single().is_ok());
    let head = |to: &str| vec![format!("Return-Path: <a@sender.example>\nDelivered-To: {to}\nx\n")];
    assert_eq!(
        store.files("new"),
        BTreeMap::from([
            ("example.org/a".into(), head("a@example.org")),
            ("example.org/postmaster".into(), head("postmaster@example.org")),
            ("x.example/b".into(), head("b@x.example")),
        ])
    );
}

#[tokio::test]
async fn hostile_addresses_stay_below_the_root() {
    let store = Store::new();
    let long = format!("<{}@example.org>", "a".repeat(200));
    for (to, place) in [
        ("<\"../../x\"@example.org>", "example.org/%2E.%2F..%2Fx"),
        ("<\".hidden\"@example.org>", "example.org/%2Ehidden"),
        ("<\"..\"@example.org>", "example.org/%2E."),
        ("<a/b@example.org>", "example.org/a%2Fb"),
        ("<%2e@example.org>", "example.org/%252e"),
        ("<jösé@BÜCHER.example>", "xn--bcher-kva.example/j%C3%B6s%C3%A9"),
        ("<a@[127.0.0.1]>", "%5B127.0.0.1%5D/a"),
        (&*long, &*format!("example.org/{}", "a".repeat(200))),
    ] {
        assert!(store.deliver(&[to], text("x\r\n")).await.single().is_ok(), "{to}");
        assert!(store.files("new").contains_key(place), "{to}: {:?}", store.files("new").keys());
    }
    let outside: Vec<_> = fs::read_dir(store.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(outside, ["mail"]);
}

#[tokio::test]
async fn what_is_no_mailbox_refuses_the_transaction_and_in_lmtp_itself() {
    let store = Store::new();
    let long = format!("<{}@example.org>", "a".repeat(201));
    let hostile = "<a@\u{ff0e}\u{ff0e}\u{ff0f}x>";
    for bad in [&*long, "<\"\"@example.org>", hostile] {
        let outcome = store.deliver(&["<jo@example.org>", bad], text("x\r\n")).await;
        assert_eq!((code(&outcome).as_str(), outcome.len()), ("550 5.1.1", 2), "{bad}");
        assert!(store.is_clean());
    }
    let transaction = over_lmtp(&["<jo@example.org>", &long, "<al@example.org>"], text("x\r\n"));
    let outcome = deliver_transaction(&mut store.maildir.clone(), transaction).await;
    let stored: Vec<_> = outcome.iter().map(Result::is_ok).collect();
    assert_eq!(stored, [true, false, true]);
    assert_eq!(store.files("new").len(), 2);
}

fn over_lmtp(recipients: &[&str], body: Body) -> Transaction {
    let mut session = SessionInfo::new(1, ChannelInfo::memory("test"));
    session.hello = Some(hello(HelloKind::Lhlo, "a.example"));
    Transaction { session: Arc::new(session), envelope: envelope("<>", recipients), body }
}

fn answers(outcome: &Outcome) -> Vec<String> {
    let code = |text: String| text.split(' ').take(2).collect::<Vec<_>>().join(" ");
    outcome.iter().map(|result| result.as_ref().map_or_else(|no| code(no.to_string()), |_| "stored".into())).collect()
}

#[tokio::test]
async fn over_lmtp_a_mailbox_that_fails_fails_alone() {
    let store = Store::with(|builder| builder.max_mailboxes(3));
    store.deliver(&["<bad@example.org>"], text("x\r\n")).await.single().unwrap();
    let bad = store.root().join("example.org/bad");
    fs::rename(bad.join("new"), bad.join("elsewhere")).unwrap();
    symlink(bad.join("elsewhere"), bad.join("new")).unwrap();
    // First, in the middle, twice, and beyond the number of mailboxes.
    for (recipients, expected) in [
        (&["bad", "jo", "bad", "al", "jo"][..], &["451 4.3.0", "stored", "451 4.3.0", "stored", "stored"][..]),
        (&["jo", "one-too-many", "bad"], &["stored", "452 4.2.1", "451 4.3.0"]),
        (&["bad", "bad"], &["451 4.3.0", "451 4.3.0"]),
    ] {
        let recipients: Vec<_> = recipients.iter().map(|user| format!("<{user}@example.org>")).collect();
        let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
        let transaction = over_lmtp(&recipients, text("y\r\n"));
        let outcome = deliver_transaction(&mut store.maildir.clone(), transaction).await;
        assert_eq!(answers(&outcome), expected);
        // Under SMTP it is all or nothing.
        assert!(store.deliver(&recipients, text("z\r\n")).await.single().is_err());
    }
    let found = store.files("new");
    let count = |user: &str| found.get(&format!("example.org/{user}")).map_or(0, Vec::len);
    assert_eq!((count("jo"), count("al")), (2, 1), "{found:?}");
    assert!(found.values().flatten().all(|message| !message.ends_with("z\n")), "{found:?}");
    assert!(store.files("tmp").is_empty());
}

#[tokio::test]
async fn a_hundred_recipients_and_many_batches() {
    let store = Store::new();
    let recipients: Vec<_> = (0..100).map(|i| format!("<u{i}@example.org>")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let content = "0123456789abcdef\r\n".repeat(60_000);
    let outcome = store.deliver(&recipients, pieces(content.as_bytes(), 65_536)).await;
    assert_eq!(outcome.len(), 100);
    assert!(outcome.single().is_ok());
    let found = store.files("new");
    assert_eq!(found.len(), 100);
    let lf = content.replace("\r\n", "\n");
    for (place, messages) in found {
        let [message] = &messages[..] else { panic!("{place}: {} copies", messages.len()) };
        let user = place.strip_prefix("example.org/").unwrap();
        let head = format!("Return-Path: <a@sender.example>\nDelivered-To: {user}@example.org\n");
        assert!(message.strip_prefix(&head).is_some_and(|content| content == lf), "{place}");
    }
}

#[tokio::test]
async fn many_recipients_open_few_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Some(_) = alone("many_recipients_open_few_files", "") else { return };
    let store = Store::new();
    let open = fs::read_dir("/dev/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 10), ..getrlimit(Resource::Nofile) }).unwrap();
    let recipients: Vec<_> = (0..100).map(|i| format!("<u{i}@example.org>")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    for size in [10, 3 * BATCH] {
        let outcome = store.deliver(&recipients, pieces(&vec![b'x'; size], 65_536)).await;
        assert!(outcome.single().is_ok(), "{outcome:?}");
    }
    assert_eq!(store.files("new").len(), 100);
}

#[tokio::test]
async fn nothing_is_published_before_everything_is_staged() {
    let store = Store::new();
    // The last of three cannot be had: what was staged for the others goes too.
    for obstacle in ["file", "link", "dangling"] {
        let user = store.root().join("example.org").join(obstacle);
        fs::create_dir_all(user.parent().unwrap()).unwrap();
        match obstacle {
            "file" => fs::write(&user, "").unwrap(),
            "link" => symlink(store.dir.path(), &user).unwrap(),
            _ => symlink("/nonexistent", &user).unwrap(),
        }
        let bad = format!("<{obstacle}@example.org>");
        for size in [10, 2 * BATCH] {
            let recipients = ["<a@example.org>", "<b@example.org>", &bad];
            let outcome = store.deliver(&recipients, pieces(&b"x\r\n".repeat(size / 3), 8_000)).await;
            assert_eq!(code(&outcome), "451 4.3.0", "{obstacle}");
            assert!(store.is_clean(), "{obstacle}");
        }
    }
}

#[tokio::test]
async fn no_link_in_the_path_is_followed() {
    let store = Store::new();
    let elsewhere = tempfile::tempdir().unwrap();
    for sub in ["tmp", "new", "cur"] {
        fs::create_dir_all(elsewhere.path().join("u").join(sub)).unwrap();
    }
    symlink(elsewhere.path(), store.root().join("linked.example")).unwrap();
    fs::create_dir(store.root().join("example.org")).unwrap();
    symlink(elsewhere.path().join("u"), store.root().join("example.org/u")).unwrap();
    for sub in ["tmp", "new", "cur"] {
        let mailbox = store.root().join("example.org").join(sub);
        fs::create_dir(&mailbox).unwrap();
        symlink(elsewhere.path().join("u").join(sub), mailbox.join(sub)).unwrap();
    }
    for to in ["<u@linked.example>", "<u@example.org>", "<tmp@example.org>", "<new@example.org>", "<cur@example.org>"] {
        assert_eq!(code(&store.deliver(&[to], text("x\r\n")).await), "451 4.3.0", "{to}");
    }
    assert!(files(elsewhere.path().parent().unwrap(), "new").is_empty());
    for sub in ["tmp", "new", "cur"] {
        assert_eq!(fs::read_dir(elsewhere.path().join("u").join(sub)).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_folder_open_to_everybody_is_not_used() {
    let store = Store::new();
    assert!(store.deliver(&["<jo@example.org>"], text("x\r\n")).await.single().is_ok());
    let mailbox = store.root().join("example.org/jo");
    for folder in [mailbox.clone(), mailbox.join("tmp"), mailbox.join("new"), store.root().join("example.org")] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(code(&store.deliver(&["<jo@example.org>"], text("x\r\n")).await), "451 4.3.0");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert!(store.deliver(&["<jo@example.org>"], text("x\r\n")).await.single().is_ok());
    assert_eq!(store.files("new")["example.org/jo"].len(), 2);
    fs::set_permissions(store.root(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Maildir::open(store.root(), &primary()).unwrap_err().to_string();
    assert!(error.contains("everybody"), "{error}");
}

#[tokio::test]
async fn strangers_cannot_fill_the_disk_with_mailboxes() {
    let store = Store::with(|builder| builder.max_mailboxes(2));
    assert!(store.deliver(&["<a@example.org>"], text("x\r\n")).await.single().is_ok());
    assert_eq!(code(&store.deliver(&["<b@example.org>", "<c@x.example>"], text("x\r\n")).await), "452 4.2.1");
    assert_eq!(store.files("new").len(), 1, "b was refused with c");
    assert!(!store.root().join("x.example").exists());
    // What is there counts after a restart, and is served.
    let again = Maildir::builder(store.root(), &primary()).max_mailboxes(2).open().unwrap();
    let outcome = deliver(&mut again.clone(), &["<d@example.org>"], text("x\r\n")).await;
    assert_eq!(code(&outcome), "452 4.2.1");
    assert!(deliver(&mut again.clone(), &["<b@example.org>"], text("x\r\n")).await.single().is_ok());
    // Every domain has a postmaster, and a mailbox that was removed makes room.
    assert!(deliver(&mut again.clone(), &["<postmaster@x.example>"], text("x\r\n")).await.single().is_ok());
    for user in ["example.org/a", "x.example/postmaster"] {
        fs::remove_dir_all(store.root().join(user)).unwrap();
    }
    assert!(deliver(&mut again.clone(), &["<d@example.org>"], text("x\r\n")).await.single().is_ok());
}

#[tokio::test]
async fn half_a_message_leaves_nothing() {
    for size in [10, BATCH, 3 * BATCH] {
        let store = Store::new();
        let outcome = store.deliver(&["<a@example.org>", "<b@example.org>"], broken(&vec![b'x'; size], 10_000)).await;
        assert!(outcome.single().is_err());
        assert!(store.is_clean(), "{size}");
    }
}

#[tokio::test]
async fn a_session_that_is_dropped_anywhere_leaves_nothing_or_the_whole() {
    let content = "x\r\n".repeat(BATCH);
    let (mut points, mut stored) = (0, 0);
    loop {
        let store = Store::new();
        let ended = Arc::new(AtomicBool::new(false));
        let body =
            Body::from_source(Noting { body: pieces(content.as_bytes(), 100_000), ended: Arc::clone(&ended) }, None);
        let mut future = store.maildir.clone().call(transaction(&["<a@example.org>", "<b@example.org>"], body));
        let mut left = points;
        let finished = std::future::poll_fn(|cx| match (left, future.as_mut().poll(cx)) {
            (_, Poll::Ready(_)) => Poll::Ready(true),
            (0, Poll::Pending) => Poll::Ready(false),
            (_, Poll::Pending) => {
                left -= 1;
                Poll::Pending
            }
        })
        .await;
        drop(future);
        // Work that is under way in another thread comes to its end, and holds the store until then.
        while Arc::strong_count(&store.maildir.shared) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(store.files("tmp").is_empty(), "dropped at {points}");
        let found = store.files("new");
        if ended.load(Ordering::Relaxed) {
            assert_eq!(found.len(), 2, "the content had ended, at {points}");
            assert!(found.values().all(|m| m[0].ends_with(&content.replace("\r\n", "\n"))));
            stored += 1;
        } else {
            assert!(found.is_empty(), "dropped at {points}");
        }
        if finished {
            break;
        }
        points += 1;
    }
    assert!(points > 8 && stored >= 1, "{points} points, {stored} stored");
}

struct Noting {
    body: Body,
    ended: Arc<AtomicBool>,
}

impl Source for Noting {
    fn poll_chunk(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match ready!(self.body.poll_next(cx)) {
            Ok(Chunk::Data(data)) => Poll::Ready(Ok(Some(data))),
            _ => {
                self.ended.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(None))
            }
        }
    }
}

#[tokio::test]
async fn a_large_message_streams_through_little_memory() {
    const PIECE: usize = 64 << 10;
    struct Large {
        root: PathBuf,
        given: usize,
        behind: Arc<AtomicU64>,
    }
    impl Source for Large {
        fn poll_chunk(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
            let on_disk: u64 = fs::read_dir(self.root.join("example.org/jo/tmp"))
                .map(|tmp| tmp.map(|entry| entry.unwrap().metadata().unwrap().len()).sum())
                .unwrap_or_default();
            self.behind.fetch_max((self.given as u64).saturating_sub(on_disk), Ordering::Relaxed);
            if self.given >= 50 << 20 {
                return Poll::Ready(Ok(None));
            }
            self.given += PIECE;
            Poll::Ready(Ok(Some(vec![b'x'; PIECE].into())))
        }
    }
    let store = Store::new();
    let behind = Arc::new(AtomicU64::new(0));
    let source = Large { root: store.root(), given: 0, behind: Arc::clone(&behind) };
    assert!(store.deliver(&["<jo@example.org>"], Body::from_source(source, None)).await.single().is_ok());
    let new = fs::read_dir(store.root().join("example.org/jo/new")).unwrap().next().unwrap().unwrap();
    assert!(new.metadata().unwrap().len() > 50 << 20);
    let behind = behind.load(Ordering::Relaxed);
    assert!(behind <= (BATCH + PIECE) as u64, "{behind} octets were held in memory");
}

#[tokio::test]
async fn a_failure_after_the_first_publish_keeps_what_is_out_and_says_451() {
    let store = Store::new();
    let shared = Arc::clone(&store.maildir.shared);
    let plan =
        Plan::new(&envelope("<>", &["<a@example.org>", "<b@example.org>", "<c@example.org>"]), "example.org", None);
    let mut staging = Staging::new(shared, Message::new(&"<>".parse().unwrap(), plan.targets), false);
    staging.write(b"x\n").unwrap();
    staging.stage_all().unwrap();
    assert_eq!((store.files("tmp").len(), store.files("new").len()), (3, 0));
    fs::remove_dir(store.root().join("example.org/b/new")).unwrap();
    let (_, complete) = Body::from_bytes(Bytes::new()).collect(0).await.unwrap();
    let failure = staging.commit(complete).unwrap_err();
    assert!(failure.refusal().to_string().starts_with("451 4.3.0"));
    assert_eq!(store.files("new").keys().collect::<Vec<_>>(), ["example.org/a"]);
    assert!(store.files("tmp").is_empty());
}

#[tokio::test]
async fn a_full_disk_is_452_and_leaves_nothing() {
    let Some(disk) = TinyDisk::mount() else { return };
    let maildir = Maildir::open(disk.0.path().join("mail"), &primary()).unwrap();
    for size in [200_000, 2 * BATCH] {
        for recipients in [&["<a@example.org>"][..], &["<a@example.org>", "<b@example.org>", "<c@example.org>"]] {
            let body = pieces(&vec![b'x'; size], 10_000);
            let outcome = deliver(&mut maildir.clone(), recipients, body).await;
            assert_eq!(code(&outcome), "452 4.3.1");
            for sub in ["tmp", "new"] {
                assert!(files(&disk.0.path().join("mail"), sub).is_empty(), "{sub}");
            }
        }
    }
    // The first copy fits, the second does not: both go.
    let body = Body::from_bytes(vec![b'x'; 40_000]);
    let outcome = deliver(&mut maildir.clone(), &["<a@example.org>", "<b@example.org>"], body).await;
    assert_eq!(code(&outcome), "452 4.3.1");
    assert!(files(&disk.0.path().join("mail"), "tmp").is_empty());
    // And with room again it goes on by itself.
    let body = Body::from_bytes(vec![b'x'; 40_000]);
    assert!(deliver(&mut maildir.clone(), &["<a@example.org>"], body).await.single().is_ok());
}

/// A disk of 64 KiB, where the system lets us have one.
struct TinyDisk(TempDir);

impl TinyDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                eprintln!("skipped: no tiny disk: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(e) => {
                eprintln!("skipped: no tiny disk: {e}");
                None
            }
        }
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn the_sweep_takes_what_is_stale_and_nothing_else() {
    let hours = |h: u64| SystemTime::now() - Duration::from_secs(h * 3_600);
    let store = Store::new();
    assert!(store.deliver(&["<jo@example.org>"], text("x\r\n")).await.single().is_ok());
    let mailbox = store.root().join("example.org/jo");
    let outside = store.dir.path().join("outside");
    fs::write(&outside, "").unwrap();
    for (path, age) in [("tmp/stale", 37), ("tmp/fresh", 35), ("tmp/folder", 0), ("new/old", 100), ("cur/old", 100)] {
        let path = mailbox.join(path);
        if path.ends_with("folder") {
            fs::create_dir(&path).unwrap();
        } else {
            fs::File::create(&path).unwrap().set_modified(hours(age)).unwrap();
        }
    }
    fs::File::open(&outside).unwrap().set_modified(hours(100)).unwrap();
    symlink(&outside, mailbox.join("tmp/link")).unwrap();
    symlink(&mailbox, store.root().join("example.org/link")).unwrap();
    assert_eq!(store.maildir.sweep().unwrap(), 1);
    assert!(!mailbox.join("tmp/stale").exists() && mailbox.join("tmp/fresh").exists());
    assert!(mailbox.join("new/old").exists() && mailbox.join("cur/old").exists() && outside.exists());
    assert_eq!(store.maildir.sweep().unwrap(), 0);
}

#[tokio::test]
async fn sessions_at_the_same_time_do_not_get_into_each_other_s_way() {
    let store = Store::new();
    let deliveries: Vec<_> = (0..40)
        .map(|i| {
            let mut maildir = store.maildir.clone();
            let to = format!("<u{}@example.org>", i % 4);
            tokio::spawn(async move { deliver(&mut maildir, &[&to], text("x\r\n")).await })
        })
        .collect();
    for delivery in deliveries {
        assert!(delivery.await.unwrap().single().is_ok());
    }
    let found = store.files("new");
    assert_eq!(found.len(), 4);
    assert!(found.values().all(|messages| messages.len() == 10));
}

#[tokio::test]
async fn the_log_says_where_why_and_what_to_do() {
    let log = crate::testing::Log::new(tracing::Level::INFO);
    std::thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || {
            log.run(async {
                let store = Store::new();
                fs::write(store.root().join("example.org"), "").unwrap();
                store.deliver(&["<jo@example.org>"], text("x\r\n")).await;
            });
        });
    });
    let text = log.text();
    assert!(text.contains("/mail/example.org") && text.contains("errno=20") && text.contains("remove it"), "{text}");
}
