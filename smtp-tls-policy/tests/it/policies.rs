use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use smtp_core::types::Domain;
use smtp_dns::{Dns, Kind, Memory};
use smtp_tls_policy::{Fetch, FetchError, Mode, Settings, Sts};

/// A web server that says the same to everybody, and counts.
#[derive(Clone, Default)]
struct Web(Arc<(Mutex<Option<String>>, AtomicUsize)>);

impl Web {
    fn say(&self, mode: &str, max_age: u64) {
        let policy = format!("version: STSv1\nmode: {mode}\nmx: mx.d.example\nmax_age: {max_age}\n");
        *self.0.0.lock().unwrap() = Some(policy);
    }

    fn say_nonsense(&self) {
        *self.0.0.lock().unwrap() = Some("nonsense".into());
    }

    fn die(&self) {
        *self.0.0.lock().unwrap() = None;
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        self.0.1.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl Fetch for Web {
    async fn fetch(&self, _: &Domain) -> Result<String, FetchError> {
        self.0.1.fetch_add(1, Ordering::SeqCst);
        let text = self.0.0.lock().unwrap().clone();
        text.ok_or_else(|| FetchError::Http("gone".into()))
    }
}

fn dns(id: &str) -> Memory {
    Memory::new().with_txt("_mta-sts.d.example", format!("v=STSv1; id={id};").as_bytes())
}

const DAY: u64 = 86_400;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn sts(dns: impl Dns, web: &Web, folder: Option<&Path>, now: u64) -> Sts {
    let settings = Settings { folder: folder.map(Path::to_owned), ..Settings::default() };
    Sts::new(Arc::new(dns), web.clone(), settings, at(now)).unwrap()
}

/// The mode that holds, and what went wrong.
async fn find(sts: &Sts, now: u64) -> (Option<Mode>, Option<String>) {
    let found = sts.find(&"D.example".parse().unwrap(), at(now)).await;
    (found.policy.map(|policy| policy.mode), found.fault.map(|(kind, _)| kind.to_string()))
}

#[tokio::test]
async fn a_policy_is_kept_until_its_id_changes_or_it_is_old() {
    let (web, folder) = (Web::default(), tempfile::tempdir().unwrap());
    web.say("enforce", 7 * DAY);
    let one = sts(dns("1"), &web, Some(folder.path()), 0);
    let enforced = (Some(Mode::Enforce), None);
    assert_eq!((find(&one, 0).await, web.asked()), (enforced.clone(), 1));
    assert_eq!((find(&one, DAY - 1).await, web.asked()), (enforced.clone(), 0));
    // Looked at anew once a day.
    assert_eq!((find(&one, DAY).await, web.asked()), (enforced.clone(), 1));

    // Another process, and another id: fetched at once.
    web.say("testing", 7 * DAY);
    let two = sts(dns("1"), &web, Some(folder.path()), DAY);
    assert_eq!((find(&two, DAY + 1).await, web.asked()), (enforced.clone(), 0), "it outlives the process");
    let three = sts(dns("2"), &web, Some(folder.path()), DAY);
    assert_eq!((find(&three, DAY + 1).await, web.asked()), ((Some(Mode::Testing), None), 1));
    let four = sts(dns("2"), &web, Some(folder.path()), DAY);
    assert_eq!((find(&four, DAY + 2).await, web.asked()), ((Some(Mode::Testing), None), 0));
}

#[tokio::test]
async fn the_last_good_policy_holds_while_a_new_one_cannot_be_had() {
    let (web, folder) = (Web::default(), tempfile::tempdir().unwrap());
    web.say("enforce", 2 * DAY);
    let one = sts(dns("1"), &web, Some(folder.path()), 0);
    assert_eq!((find(&one, 0).await.0, web.asked()), (Some(Mode::Enforce), 1));

    web.die();
    let two = sts(dns("2"), &web, Some(folder.path()), 0);
    let failed = (Some(Mode::Enforce), Some("sts-policy-fetch-error".to_owned()));
    assert_eq!((find(&two, 10).await, web.asked()), (failed, 1));
    assert_eq!((find(&two, 309).await, web.asked()), ((Some(Mode::Enforce), None), 0), "it is left alone for 5 min");
    web.say_nonsense();
    let invalid = (Some(Mode::Enforce), Some("sts-policy-invalid".to_owned()));
    assert_eq!((find(&two, 310).await, web.asked()), (invalid, 1));

    // An id that is gone, or a DNS that fails, changes nothing (RFC 8461 §5.1).
    for dns in [
        Memory::new(),
        dns("1").failing("_mta-sts.d.example", Kind::Txt),
        dns("1").bogus("_mta-sts.d.example", Kind::Txt),
    ] {
        let other = sts(dns, &web, Some(folder.path()), 10);
        assert_eq!((find(&other, 2 * DAY - 1).await, web.asked()), ((Some(Mode::Enforce), None), 0));
    }
    // Its life is over.
    web.die();
    assert_eq!(find(&two, 2 * DAY).await.0, None);
    assert!(!folder.path().join("d.example").exists());
}

#[tokio::test]
async fn without_a_record_nothing_is_fetched_and_without_a_policy_there_is_none() {
    let web = Web::default();
    web.say("enforce", DAY);
    let none = sts(Memory::new(), &web, None, 0);
    assert_eq!((find(&none, 0).await, web.asked()), ((None, None), 0));
    web.die();
    let gone = sts(dns("1"), &web, None, 0);
    assert_eq!((find(&gone, 0).await, web.asked()), ((None, Some("sts-policy-fetch-error".to_owned())), 1));
    // A policy that says so is one that is kept.
    web.say("none", DAY);
    assert_eq!((find(&gone, 300).await, web.asked()), ((Some(Mode::None), None), 1));
    assert_eq!((find(&gone, 301).await, web.asked()), ((Some(Mode::None), None), 0));
    // A clock that is set back is no reason to lose it, nor to ask again and again.
    assert_eq!(find(&gone, 0).await.0, Some(Mode::None));
}

#[tokio::test]
async fn many_who_ask_at_once_fetch_once() {
    let web = Web::default();
    web.say("enforce", DAY);
    let sts = Arc::new(sts(dns("1").slow(Duration::from_millis(1)), &web, None, 0));
    let asking: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let sts = Arc::clone(&sts);
                async move { find(&sts, 0).await }
            })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap().0, Some(Mode::Enforce));
    }
    assert_eq!(web.asked(), 1);
}

#[tokio::test]
async fn what_is_broken_old_or_too_much_is_swept_away() {
    let (web, folder) = (Web::default(), tempfile::tempdir().unwrap());
    web.say("enforce", DAY);
    assert_eq!(find(&sts(dns("1"), &web, Some(folder.path()), 0), 0).await.0, Some(Mode::Enforce));
    std::fs::write(folder.path().join("broken.example"), "1 x\n").unwrap();
    std::fs::write(folder.path().join("huge.example"), vec![b'x'; 200_000]).unwrap();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    drop(sts(Memory::new(), &web, Some(folder.path()), 1));
    assert_eq!(names(), ["d.example"]);
    drop(sts(Memory::new(), &web, Some(folder.path()), DAY));
    assert!(names().is_empty());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let settings = Settings { folder: Some(file.clone()), ..Settings::default() };
    let error = Sts::new(Arc::new(Memory::new()), web.clone(), settings, at(0)).unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");

    // In memory one is forgotten for another.
    let settings = Settings { domains: 1, ..Settings::default() };
    let all = dns("1").with_txt("_mta-sts.e.example", b"v=STSv1; id=1");
    let small = Sts::new(Arc::new(all), web.clone(), settings, at(0)).unwrap();
    web.asked();
    for (domain, asked) in [("d.example", 1), ("d.example", 0), ("e.example", 1), ("d.example", 1)] {
        assert!(small.find(&domain.parse().unwrap(), at(0)).await.policy.is_some());
        assert_eq!(web.asked(), asked, "{domain}");
    }
}
