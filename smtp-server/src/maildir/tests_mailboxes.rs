//! The store with mailboxes that have tags and quotas.

use super::*;
use crate::recipients::Quota;
use crate::testing::{ask, deliver, deliver_transaction, envelope, rcpt, remote_session, transaction};
use smtp_core::service::Verdict;
use smtp_core::types::{Command, Mail, Mailbox, Parameters};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

struct Store {
    _dir: TempDir,
    maildir: Maildir,
    mailboxes: Mailboxes,
}

impl Store {
    fn new(settings: impl FnOnce(Mailboxes) -> Mailboxes) -> Self {
        Self::at(SystemTime::now, settings)
    }

    fn at(clock: fn() -> SystemTime, settings: impl FnOnce(Mailboxes) -> Mailboxes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let primary = "example.org".parse().unwrap();
        let mailboxes = Mailboxes::new(&primary).unwrap().with_separator(Some('+')).unwrap();
        let mailboxes = settings(mailboxes);
        let maildir = Maildir::builder(dir.path().join("mail"), &primary).clock(clock).open().unwrap();
        Self { maildir: maildir.for_mailboxes(&mailboxes), mailboxes, _dir: dir }
    }

    fn mailbox(&self, user: &str) -> PathBuf {
        self.maildir.shared.tree.root().join("example.org").join(user)
    }

    async fn deliver(&self, recipients: &[&str], octets: usize) -> Vec<String> {
        answers(&deliver(&mut self.maildir.clone(), recipients, body(octets)).await)
    }
}

fn answers(outcome: &Outcome) -> Vec<String> {
    let code = |no: &Refusal| no.to_string().get(..9).unwrap().to_owned();
    outcome.iter().map(|answer| answer.as_ref().map_or_else(code, |_| "stored".into())).collect()
}

fn body(octets: usize) -> Body {
    Body::from_bytes("x".repeat(octets))
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

const fn messages(messages: u64) -> Quota {
    Quota { octets: None, messages: Some(messages) }
}

const fn octets(octets: u64) -> Quota {
    Quota { octets: Some(octets), messages: None }
}

#[tokio::test]
async fn a_tag_goes_to_its_mailbox_and_stays_in_the_header() {
    let store = Store::new(|mailboxes| mailboxes);
    let to = ["<jo+News@example.org>", "<jo@example.org>", "<amy+@example.org>"];
    assert_eq!(store.deliver(&to, 1).await, ["stored", "stored", "stored"]);
    let only = |user: &str| {
        let file = fs::read_dir(store.mailbox(user).join("new")).unwrap().map(|file| file.unwrap().path());
        let [file] = <[PathBuf; 1]>::try_from(file.collect::<Vec<_>>()).unwrap();
        fs::read_to_string(file).unwrap()
    };
    assert!(only("jo").contains("\nDelivered-To: jo+News@example.org\n"));
    assert!(only("amy").contains("\nDelivered-To: amy+@example.org\n"));
    assert_eq!(store.maildir.folder_of(&"<jo+x@example.org>".parse().unwrap()), Some(store.mailbox("jo")));
    assert_eq!(store.deliver(&["<jo@elsewhere.example>"], 1).await, ["550 5.1.1"]);
}

#[tokio::test]
async fn what_comes_again_goes_round_in_circles() {
    let store = Store::new(|mailboxes| mailboxes);
    let text =
        || Body::from_bytes("Delivered-To: JO@example.org\r\nSubject: x\r\n\r\nDelivered-To: amy@example.org\r\n");
    let to = ["<jo@example.org>", "<amy@example.org>", "<jo+tag@example.org>"];
    let mut each = store.maildir.clone().each();
    assert_eq!(answers(&deliver(&mut each, &to[..2], text()).await), ["554 5.4.6", "stored"]);
    let all = deliver(&mut store.maildir.clone(), &to[..2], text()).await;
    assert_eq!(answers(&all), ["554 5.4.6", "554 5.4.6"]);
    assert_eq!(answers(&deliver(&mut each, &to[2..], text()).await), ["stored"], "another address");
    assert_eq!(answers(&deliver(&mut each, &to[..1], text()).await), ["554 5.4.6"]);
    assert_eq!([count(&store.mailbox("jo/new")), count(&store.mailbox("amy/new"))], [1, 1]);
    assert_eq!([count(&store.mailbox("jo/tmp")), count(&store.mailbox("amy/tmp"))], [0, 0]);
}

#[tokio::test]
async fn a_full_mailbox_takes_nothing_until_its_owner_makes_room() {
    let jo: Mailbox = "jo@example.org".parse().unwrap();
    let store = Store::new(|mailboxes| mailboxes.with_quota(messages(2)).with_quota_of(&jo, messages(3)).unwrap());
    for (user, size) in [("amy", 2), ("jo", 3)] {
        let to = format!("<{user}@example.org>");
        for _ in 0..size {
            assert_eq!(store.deliver(&[&to], 10).await, ["stored"]);
        }
        // Twice: what was refused takes no room, and nothing of it is left.
        for _ in 0..2 {
            assert_eq!(store.deliver(&[&to], 10).await, ["452 4.2.2"]);
        }
        assert_eq!(count(&store.mailbox(user).join("tmp")), 0);
        // What has been read still counts; what has been removed does not.
        let name = fs::read_dir(store.mailbox(user).join("new")).unwrap().next().unwrap().unwrap().file_name();
        let seen = store.mailbox(user).join("cur").join(&name);
        fs::rename(store.mailbox(user).join("new").join(&name), &seen).unwrap();
        assert_eq!(store.deliver(&[&to], 10).await, ["452 4.2.2"]);
        fs::remove_file(seen).unwrap();
        assert_eq!(store.deliver(&[&to], 10).await, ["stored"]);
        assert_eq!(store.deliver(&[&to], 10).await, ["452 4.2.2"]);
    }
    // One of several: all or nothing, or each alone.
    let both = ["<bob@example.org>", "<amy+tag@example.org>"];
    assert_eq!(store.deliver(&both, 1).await, ["452 4.2.2", "452 4.2.2"]);
    let each = deliver(&mut store.maildir.clone().each(), &both, body(1)).await;
    assert_eq!(answers(&each), ["stored", "452 4.2.2"]);
    // A client that understands an answer for each gets one.
    let mut asked = transaction(&both, body(1));
    asked.envelope.mail.parameters = Parameters::new("PRDR").unwrap();
    assert_eq!(answers(&deliver_transaction(&mut store.maildir.clone(), asked).await), ["stored", "452 4.2.2"]);
    // Mail for the postmaster is never refused for that.
    for _ in 0..4 {
        assert_eq!(store.deliver(&["<postmaster>"], 1).await, ["stored"]);
    }
}

#[tokio::test]
async fn octets_count_wherever_they_lie_and_links_do_not() {
    let store = Store::new(|mailboxes| mailboxes.with_quota(octets(1_000)));
    let to = ["<jo@example.org>"];
    assert_eq!(store.deliver(&to, 1_001).await, ["552 5.2.2"], "it will never fit");
    let jo = store.mailbox("jo");
    for folder in ["cur", ".Archive/cur", ".Archive/new", ".Archive/tmp"] {
        fs::create_dir_all(jo.join(folder)).unwrap();
    }
    fs::write(jo.join("cur/1.a.host:2,S"), "x".repeat(300)).unwrap();
    fs::write(jo.join(".Archive/cur/2.a.host,S=400:2,S"), "the name is believed").unwrap();
    fs::write(jo.join(".Archive/tmp/3.a.host"), "x".repeat(900)).unwrap();
    symlink("/etc/passwd", jo.join("cur/4.link")).unwrap();
    symlink("/usr/bin", jo.join(".Linked")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, jo.join("cur/5.fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    assert_eq!(store.deliver(&to, 301).await, ["452 4.2.2"]);
    assert_eq!(store.deliver(&to, 200).await, ["stored"]);
    fs::remove_file(jo.join(".Archive/cur/2.a.host,S=400:2,S")).unwrap();
    assert_eq!(store.deliver(&to, 300).await, ["stored"]);
    assert_eq!(store.deliver(&to, 300).await, ["452 4.2.2"]);
}

/// Whoever sees the store for the first time, as after a crash, counts what is there; and a sum that is old is no sum.
#[tokio::test]
async fn nothing_has_to_be_remembered() {
    static NOW: AtomicU64 = AtomicU64::new(1_700_000_000);
    let store = Store::at(
        || UNIX_EPOCH + Duration::from_secs(NOW.load(Ordering::SeqCst)),
        |mailboxes| mailboxes.with_quota(messages(2)),
    );
    let to = ["<jo@example.org>"];
    assert_eq!(store.deliver(&to, 1).await, ["stored"]);
    // Another program puts one in, which is found out after a time.
    fs::write(store.mailbox("jo/cur").join("x:2,"), "x").unwrap();
    NOW.fetch_add(14 * 60, Ordering::SeqCst);
    assert_eq!(store.deliver(&to, 1).await, ["stored"]);
    NOW.fetch_add(60, Ordering::SeqCst);
    fs::remove_file(store.mailbox("jo/cur").join("x:2,")).unwrap();
    fs::write(store.mailbox("jo/cur").join("y:2,"), "x").unwrap();
    assert_eq!(store.deliver(&to, 1).await, ["452 4.2.2"]);

    let again = Maildir::open(store.maildir.shared.tree.root(), &"example.org".parse().unwrap()).unwrap();
    let mut again = again.for_mailboxes(&store.mailboxes);
    assert_eq!(answers(&deliver(&mut again, &to, body(1)).await), ["452 4.2.2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_get_in_at_once_as_there_is_room_for() {
    let store = Store::new(|mailboxes| mailboxes.with_quota(messages(5)));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut maildir = store.maildir.clone();
        all.spawn(async move { answers(&deliver(&mut maildir, &["<jo@example.org>"], body(9)).await) });
    }
    let stored = all.join_all().await.into_iter().filter(|answer| answer[0] == "stored").count();
    // One that is counted while it moves in may count twice, and keep another out until the next count.
    assert_eq!(count(&store.mailbox("jo/new")), stored);
    assert!((1..=5).contains(&stored), "{stored}");
    while store.deliver(&["<jo@example.org>"], 9).await == ["stored"] {}
    assert_eq!(count(&store.mailbox("jo/new")), 5);
}

#[tokio::test]
async fn at_rcpt_the_declared_size_is_weighed() {
    use tower_layer::Layer;
    let aliases = crate::recipients::Aliases::parse("one: jo\nall: jo, amy\n").unwrap();
    let store = Store::new(|mailboxes| mailboxes.with_quota(octets(1_000)).with_aliases(aliases).unwrap());
    assert_eq!(store.deliver(&["<jo@example.org>"], 700).await, ["stored"]);
    let mut policy = QuotaLayer::new(&store.maildir).layer(store.mailboxes.clone());
    let session = remote_session("192.0.2.1:4000");
    let mail = |size: &str| {
        let mail = Mail { parameters: Parameters::new(size).unwrap(), ..envelope("<a@b.example>", &[]).mail };
        Command::Mail(mail)
    };
    for (size, to, refused) in [
        ("SIZE=100", "<jo@example.org>", None),
        ("SIZE=400", "<jo+tag@example.org>", Some((452, "4.2.2"))),
        ("SIZE=400", "<one@example.org>", Some((452, "4.2.2"))),
        ("SIZE=400", "<all@example.org>", None),
        ("SIZE=1001", "<jo@example.org>", Some((552, "5.2.2"))),
        ("SIZE=1001", "<amy@example.org>", Some((552, "5.2.2"))),
        ("SIZE=1001", "<postmaster>", None),
        ("", "<jo@example.org>", None),
        ("SIZE=1001", "<jo@elsewhere.example>", Some((550, "5.7.1"))),
    ] {
        assert_eq!(ask(&mut policy, &session, mail(size)).await, Verdict::Proceed);
        match (ask(&mut policy, &session, rcpt(to)).await, refused) {
            (verdict, None) => assert_eq!(verdict, Verdict::Proceed, "{size} {to}"),
            (verdict, Some((code, enhanced))) => assert_code!(verdict, code, enhanced),
        }
    }
}
