//! The binary `smtp`, as a user runs it.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::peers::Skip;
use crate::peers::tools::Output;

/// How long the binary may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// The binary that `cargo test --workspace` has built beside this test.
///
/// # Errors
/// [`Skip`] if it is not there.
pub fn path() -> Result<PathBuf, Skip> {
    let test = std::env::current_exe().map_err(|error| Skip(format!("where this test lies: {error}")))?;
    let folder = test.ancestors().nth(2).unwrap_or(Path::new("."));
    let binary = folder.join("smtp");
    if binary.exists() {
        Ok(binary)
    } else {
        Err(Skip(format!("{} is not built; run cargo build -p smtp-cli", binary.display())))
    }
}

/// `smtp ARGUMENTS…`, run to its end, with nothing on its standard input.
///
/// # Errors
/// [`Skip`] if the binary is not there or cannot be started.
pub fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Result<Output, Skip> {
    run_with(arguments, b"")
}

/// The same with `input` on its standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with<S: AsRef<std::ffi::OsStr>>(arguments: &[S], input: &[u8]) -> Result<Output, Skip> {
    crate::peers::tools::tool(&path()?, arguments, input)
}

/// A running `smtp serve`, with a data folder of its own; ended when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    urls: Vec<String>,
    data: TempDir,
}

impl Server {
    /// Starts `smtp serve --data-dir … ARGUMENTS…` and waits until as many listeners as there are `--listen` accept.
    ///
    /// # Errors
    /// [`Skip`] if the binary is not there or does not come up; its last words are in it.
    pub fn start(arguments: &[&str]) -> Result<Self, Skip> {
        let data = TempDir::new().map_err(|error| Skip(format!("a folder for the server's data: {error}")))?;
        let named = arguments.iter().filter(|a| **a == "--listen").count();
        // Without any there are two.
        let listeners = if named == 0 { 2 } else { named };
        let mut child = Command::new(path()?)
            .arg("serve")
            .arg("--data-dir")
            .arg(data.path().join("data"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Skip(format!("smtp serve: {error}")))?;
        let stderr = child.stderr.take();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            // Read to its end, so that a chatty server never waits for us.
            let _ = stderr.map(|mut pipe| pipe.read_to_string(&mut text));
            text
        });
        let urls = match child.stdout.take().map(|out| announced(out, listeners)) {
            Some(Ok(urls)) => urls,
            Some(Err(error)) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = log.join().unwrap_or_default();
                return Err(Skip(format!("smtp serve {arguments:?}: {error}; it said:\n{log}")));
            }
            None => return Err(Skip(String::from("smtp serve has no standard output"))),
        };
        Ok(Self { child, urls, data })
    }

    /// The URLs it announced, in the order of its arguments.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The port of the listener at `index`.
    #[must_use]
    pub fn port(&self, index: usize) -> u16 {
        let url = self.urls.get(index).map_or("", String::as_str);
        url.rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse().ok()).unwrap_or(0)
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The messages in a mailbox, as they lie in `new/`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn messages(&self, domain: &str, user: &str) -> io::Result<Vec<Vec<u8>>> {
        let folder = self.data_dir().join("mail").join(domain).join(user).join("new");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        std::fs::read_dir(folder)?.map(|entry| std::fs::read(entry?.path())).collect()
    }

    /// Waits until a mailbox holds `n` messages.
    ///
    /// # Errors
    /// When it does not within `patience`.
    pub fn wait_for_messages(
        &self,
        domain: &str,
        user: &str,
        n: usize,
        patience: Duration,
    ) -> io::Result<Vec<Vec<u8>>> {
        let until = Instant::now() + patience;
        loop {
            let messages = self.messages(domain, user)?;
            if messages.len() >= n {
                return Ok(messages);
            }
            if Instant::now() > until {
                let text = format!("{user}@{domain} has {} messages, not {n}", messages.len());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The URLs of `n` lines `listening URL`.
fn announced(out: impl Read + Send + 'static, n: usize) -> io::Result<Vec<String>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut urls = Vec::new();
    while urls.len() < n {
        let line = receive
            .recv_timeout(PATIENCE)
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it did not announce its listeners"))?;
        match line.strip_prefix("listening ") {
            Some(url) => urls.push(url.to_owned()),
            None => return Err(io::Error::other(format!("an unexpected line on standard output: {line}"))),
        }
    }
    Ok(urls)
}
