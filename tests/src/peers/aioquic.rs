//! The scripts in `tests/quic`: both sides of SMTP over QUIC once more, in Python on [aioquic], written from
//! `docs/smtp-over-quic.md` and nothing else.
//!
//! [aioquic]: https://github.com/aiortc/aioquic

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Skip;
use super::process::{is_executable, peers_folder, self_signed};
use super::tools::{Output, tool};

/// How long a server may take to start, and an event to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a client script to its end: `SCRIPT 127.0.0.1 PORT CAFILE MORE…`.
///
/// # Errors
/// When aioquic is not installed. A failed assertion of the script is in the [`Output`].
pub fn client(script: &str, port: u16, ca_file: &Path, more: &[&str]) -> Result<Output, Skip> {
    let (script, port, ca_file) = (scripts().join(script), port.to_string(), ca_file.display().to_string());
    let script = script.display().to_string();
    let arguments = ["-B", script.as_str(), "127.0.0.1", &port, &ca_file].into_iter().chain(more.iter().copied());
    tool(&python()?, arguments, b"")
}

/// A server script at work; ended when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    lines: Receiver<String>,
    folder: TempDir,
}

impl Server {
    /// Starts `SCRIPT CERTIFICATE KEY MORE…` with a certificate of its own, and waits until it listens.
    ///
    /// # Errors
    /// When aioquic or OpenSSL is not installed, or the script does not come up.
    pub fn start(script: &str, more: &[&str]) -> Result<Self, Skip> {
        let folder = TempDir::new().map_err(|error| Skip(format!("a folder for {script}: {error}")))?;
        self_signed(folder.path(), "aioquic.test")?;
        let mut child = Command::new(python()?)
            .arg("-B")
            .arg(scripts().join(script))
            .args([folder.path().join("cert.pem"), folder.path().join("key.pem")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Skip(format!("{script}: {error}")))?;
        let (send, lines) = channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if send.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let mut server = Self { child, port: 0, lines, folder };
        let first = server.lines.recv_timeout(PATIENCE).unwrap_or_default();
        server.port = first
            .strip_prefix("listening ")
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| Skip(format!("{script} does not listen: {first:?}")))?;
        Ok(server)
    }

    /// Where it listens on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its certificate, for `aioquic.test`, `localhost` and 127.0.0.1.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// The next event of this kind, as a line of JSON; what comes before it is dropped. `None` if there is none in
    /// time.
    #[must_use]
    pub fn event(&self, kind: &str) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        let start = format!("{{\"event\": \"{kind}\"");
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
            if line.starts_with(&start) {
                return Some(line);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("quic")
}

/// The Python that has aioquic.
fn python() -> Result<PathBuf, Skip> {
    let python = peers_folder().join("aioquic/bin/python");
    if is_executable(&python) {
        Ok(python)
    } else {
        Err(Skip(format!("{} is not there (.ci/setup installs aioquic)", python.display())))
    }
}
