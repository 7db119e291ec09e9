//! What a figure depends on beside the experiment.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Crates whose versions decide what is measured.
const CRATES: [&str; 8] =
    ["aws-lc-rs", "quinn", "quinn-proto", "rustls", "smtp-lab", "tokio", "tokio-rustls", "tun-rs"];

/// Where and with what an experiment was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// When it began, in RFC 3339's form.
    pub began: String,
    /// The commit of the sources, with `+` if there were changes that are in none.
    pub commit: String,
    /// Whether it was a release build.
    pub release: bool,
    /// The kernel.
    pub kernel: String,
    /// The processor.
    pub processor: String,
    /// How many of them this program may use.
    pub processors: usize,
    /// The machine's load average over a minute when it began.
    pub load: Option<f64>,
    /// Versions of crates.
    pub crates: BTreeMap<String, String>,
    /// On an emulated link, what the kernel says that TCP's sockets use.
    pub congestion: Vec<String>,
}

impl Environment {
    /// What is here now.
    #[must_use]
    pub fn here() -> Self {
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let began = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self {
            began: began.format(&Rfc3339).unwrap_or_default(),
            commit: commit(),
            release: !cfg!(debug_assertions),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            processor: processor(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            load: load(),
            crates: CRATES.iter().filter_map(|name| Some(((*name).to_owned(), locked(name)?))).collect(),
            congestion: Vec::new(),
        }
    }
}

/// The load average over a minute.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// The commit that the sources have now; they were built from it, or from one just before.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}+"),
        (None, _) => "unknown".to_owned(),
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(": ")).map_or(std::env::consts::ARCH, |(_, name)| name);
    name.to_owned()
}

/// A crate's version in the lock file that this was built with.
fn locked(name: &str) -> Option<String> {
    let lock = include_str!("../../Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{name}\"\n")))?;
    entry.split("version = \"").nth(1)?.split('"').next().map(ToOwned::to_owned)
}
