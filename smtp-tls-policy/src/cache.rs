//! Domains' MTA-STS policies, found, kept and refreshed (RFC 8461 §3.3, §5.1).

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smtp_core::types::Domain;
use smtp_dns::{Dns, Name};

use crate::fetch::Fetch;
use crate::report::FailureKind;
use crate::sts::{Policy, record_id};

/// The largest file that is read: a policy and the line before it.
const MAX_FILE: u64 = (64 << 10) + 256;

/// Settings of an [`Sts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder in which policies outlive the process, a file for each domain. It is made if it is not there. Default:
    /// none, in memory only.
    pub folder: Option<PathBuf>,
    /// For how many domains something is remembered; the one that was asked for longest ago is forgotten. Default: 10,000.
    pub domains: usize,
    /// After a policy could not be had, the time in which it is not asked for again. Default: 5 min.
    pub retry: Duration,
    /// A policy is fetched again when it is so old, or half of its life is over, though its id is the same. Default: 1 day.
    pub refresh: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { folder: None, domains: 10_000, retry: Duration::from_secs(300), refresh: Duration::from_secs(86_400) }
    }
}

/// What was found for a domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finding {
    /// The policy that holds; none if the domain has none, or none is known.
    pub policy: Option<Arc<Policy>>,
    /// What went wrong on the way to a newer one, if that was tried just now.
    pub fault: Option<(FailureKind, String)>,
}

/// Knows domains' policies.
pub struct Sts {
    dns: Arc<dyn Dns>,
    fetch: Arc<dyn Fetch>,
    settings: Settings,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    all: HashMap<Box<str>, (Arc<tokio::sync::Mutex<Entry>>, u64)>,
    uses: u64,
}

/// What is known of one domain. Whoever holds its lock is the one who fetches.
#[derive(Default)]
struct Entry {
    /// The file was looked for.
    loaded: bool,
    held: Option<Held>,
    /// When fetching failed.
    failed: Option<SystemTime>,
}

struct Held {
    id: Box<str>,
    fetched: SystemTime,
    policy: Arc<Policy>,
}

impl Held {
    fn age(&self, now: SystemTime) -> Duration {
        // A clock that was set back makes nothing older.
        now.duration_since(self.fetched).unwrap_or_default()
    }
}

impl Sts {
    /// Finds out by `dns` who has a policy and which, and gets it by `fetch`. What is in the folder and too old is removed.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn new(dns: Arc<dyn Dns>, fetch: impl Fetch, settings: Settings, now: SystemTime) -> io::Result<Self> {
        if let Some(folder) = &settings.folder {
            sweep(folder, settings.domains, now)?;
        }
        Ok(Self { dns, fetch: Arc::new(fetch), settings, entries: Mutex::default() })
    }

    /// The policy that holds for `domain`.
    ///
    /// One that is known is kept until its life is over, whatever becomes of the DNS and the web server meanwhile. It is
    /// fetched again when the id in the DNS is another, and now and then. Without one that is known, a domain whose policy
    /// cannot be had counts as one that has none (RFC 8461 §3.3).
    pub async fn find(&self, domain: &Domain, now: SystemTime) -> Finding {
        let Ok(name) = Name::of(domain) else { return Finding::default() };
        let entry = self.entry(&name);
        let mut entry = entry.lock().await;
        if !entry.loaded {
            entry.held = self.load(&name).await;
            entry.loaded = true;
        }
        if entry.held.as_ref().is_some_and(|held| held.age(now) >= held.policy.max_age) {
            entry.held = None;
            self.forget(&name).await;
        }
        let fault = self.renew(domain, &name, &mut entry, now).await.err();
        if let Some((kind, why)) = &fault {
            tracing::info!(%domain, %kind, why, "its MTA-STS policy cannot be had");
        }
        Finding { policy: entry.held.as_ref().map(|held| Arc::clone(&held.policy)), fault }
    }

    async fn renew(
        &self,
        domain: &Domain,
        name: &Name,
        entry: &mut Entry,
        now: SystemTime,
    ) -> Result<(), (FailureKind, String)> {
        // Without a record nothing is fetched, and what is known goes on.
        let Some(id) = self.id(domain).await else { return Ok(()) };
        let is_fresh =
            |held: &Held| held.id == id && held.age(now) < self.settings.refresh.min(held.policy.max_age / 2);
        let failed_lately = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since < self.settings.retry);
        if entry.held.as_ref().is_some_and(is_fresh) || entry.failed.is_some_and(failed_lately) {
            return Ok(());
        }
        entry.failed = Some(now);
        let text = self.fetch.fetch(domain).await.map_err(|error| (error.kind(), error.to_string()))?;
        let policy = Policy::parse(&text).map_err(|error| (FailureKind::StsPolicyInvalid, error.to_string()))?;
        tracing::debug!(%domain, mode = ?policy.mode, %id, "its MTA-STS policy was fetched");
        entry.failed = None;
        entry.held = Some(Held { id: id.clone(), fetched: now, policy: Arc::new(policy) });
        self.save(name, &id, now, text).await;
        Ok(())
    }

    /// The id of the policy that `domain` has now, if it says so.
    async fn id(&self, domain: &Domain) -> Option<Box<str>> {
        let name = Name::below(&["_mta-sts"], domain).ok()?;
        match self.dns.txt(&name).await {
            Ok(answer) => record_id(&answer.records),
            Err(error) => {
                if !error.is_certain() {
                    tracing::debug!(%error, "whether there is a newer MTA-STS policy is not known");
                }
                None
            }
        }
    }

    fn entry(&self, name: &Name) -> Arc<tokio::sync::Mutex<Entry>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.uses += 1;
        let uses = entries.uses;
        if let Some((entry, used)) = entries.all.get_mut(name.as_str()) {
            *used = uses;
            return Arc::clone(entry);
        }
        if entries.all.len() >= self.settings.domains.max(1) {
            let oldest = entries.all.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                entries.all.remove(&oldest);
                // On disk there are no more than in memory.
                if let Some(folder) = &self.settings.folder {
                    let path = folder.join(&*oldest);
                    tokio::task::spawn_blocking(move || fs::remove_file(path));
                }
            }
        }
        let entry = Arc::<tokio::sync::Mutex<Entry>>::default();
        entries.all.insert(name.as_str().into(), (Arc::clone(&entry), uses));
        entry
    }

    async fn load(&self, name: &Name) -> Option<Held> {
        let path = self.path(name)?;
        tokio::task::spawn_blocking(move || read(&path).ok()).await.ok()?
    }

    async fn save(&self, name: &Name, id: &str, fetched: SystemTime, text: String) {
        let Some(path) = self.path(name) else { return };
        let first = format!("{id} {}\n", seconds(fetched));
        let written = tokio::task::spawn_blocking(move || write(&path, &first, &text)).await;
        if let Err(error) = written.map_err(io::Error::other).flatten() {
            tracing::warn!(%name, %error, "its MTA-STS policy cannot be kept on disk");
        }
    }

    async fn forget(&self, name: &Name) {
        let Some(path) = self.path(name) else { return };
        // It is too old in any case, and the next sweep sees that too.
        let _ = tokio::task::spawn_blocking(move || fs::remove_file(path)).await;
    }

    fn path(&self, name: &Name) -> Option<PathBuf> {
        // Labels in ASCII with dots between them: no name leads out of the folder.
        self.settings.folder.as_ref().map(|folder| folder.join(name.as_str()))
    }
}

impl fmt::Debug for Sts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A file has the id and the time of the fetch on its first line, and then the policy as it came.
fn read(path: &Path) -> io::Result<Held> {
    use io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let (first, policy) = text.split_once('\n').ok_or_else(broken)?;
    let (id, fetched) = first.split_once(' ').ok_or_else(broken)?;
    let fetched = fetched.parse().ok().and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let policy = Policy::parse(policy).map_err(|_| broken())?;
    Ok(Held { id: id.into(), fetched: fetched.ok_or_else(broken)?, policy: Arc::new(policy) })
}

fn write(path: &Path, first: &str, text: &str) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(first.as_bytes())?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Makes the folder, for its owner alone, or removes from it what is broken, too old, or too much.
fn sweep(folder: &Path, max: usize, now: SystemTime) -> io::Result<()> {
    let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(about)?;
    }
    #[cfg(not(unix))]
    fs::create_dir_all(folder).map_err(about)?;
    let mut kept = 0;
    for entry in fs::read_dir(folder).map_err(about)?.flatten() {
        let path = entry.path();
        let lives = read(&path).is_ok_and(|held| held.age(now) < held.policy.max_age);
        if lives && kept < max {
            kept += 1;
        } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // What stays is looked at again next time.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
