//! Running the binary, and standing in for the other side.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take that should take no time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The command, with none of our variables from whoever runs the tests.
pub(crate) fn smtp<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtp"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SMTP_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs to the end, in bounded time.
pub(crate) fn run(mut command: Command) -> Run {
    finish(command.spawn().unwrap())
}

/// Runs with `input` on standard input.
pub(crate) fn run_with(mut command: Command, input: &[u8]) -> Run {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // It may end before it has read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    finish(child)
}

/// `smtp send` to `url`, from `a@sender.example`, with `more`.
pub(crate) fn send(url: &str, more: &[&str]) -> Run {
    let arguments = ["send", "--server", url, "--from", "a@sender.example"];
    run(smtp(arguments.iter().chain(more)))
}

fn finish(mut child: Child) -> Run {
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child);
    Run { code: status.code(), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Waits for the end; after too long a time the child is killed and the test fails.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not end by itself");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server that runs: `smtp serve` or `smtp sink`. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) urls: Vec<String>,
    lines: mpsc::Receiver<String>,
    log: Option<JoinHandle<String>>,
    folder: TempDir,
}

impl Server {
    /// `smtp serve` on a free port of 127.0.0.1, with `more`.
    pub(crate) fn serve(more: &[&str]) -> Self {
        Self::start(&[&["serve", "--listen", "smtp://127.0.0.1:0"], more].concat(), 1)
    }

    /// Starts it in a folder of its own and waits until `listeners` are announced.
    pub(crate) fn start(arguments: &[&str], listeners: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = smtp(arguments);
        command.current_dir(folder.path());
        Self::of(command, folder, listeners)
    }

    pub(crate) fn of(mut command: Command, folder: TempDir, listeners: usize) -> Self {
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let log = collect(child.stderr.take());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut server = Self { child, urls: Vec::new(), lines, log: Some(log), folder };
        for _ in 0..listeners {
            let Ok(line) = server.lines.recv_timeout(PATIENCE) else { panic!("not announced: {}", server.end()) };
            server.urls.push(line.strip_prefix("listening ").unwrap_or_else(|| panic!("{line}")).to_owned());
        }
        server
    }

    pub(crate) fn url(&self) -> &str {
        &self.urls[0]
    }

    /// Where it was started.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The messages in a mailbox.
    pub(crate) fn messages(&self, domain: &str, user: &str) -> Vec<String> {
        let new = self.folder().join("smtp-data/mail").join(domain).join(user).join("new");
        let Ok(entries) = std::fs::read_dir(new) else { return Vec::new() };
        entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
    }

    /// A connection to its first listener, past the greeting.
    pub(crate) fn connect(&self) -> Line {
        let mut line = Line::to(self.url());
        assert!(line.reply().starts_with("220 "));
        line
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// The next line on its standard output.
    pub(crate) fn line(&self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    /// Waits for its end; the exit code, what else it wrote to stdout, and its log.
    pub(crate) fn finish(mut self) -> Run {
        let code = wait(&mut self.child).code();
        let stdout = self.lines.iter().map(|line| line + "\n").collect();
        let stderr = self.log.take().map(|log| log.join().unwrap()).unwrap_or_default();
        Run { code, stdout, stderr }
    }

    fn end(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.take().map(|log| log.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A client by hand.
#[derive(Debug)]
pub(crate) struct Line(BufReader<TcpStream>);

impl Line {
    pub(crate) fn to(url: &str) -> Self {
        Self::over(TcpStream::connect(url.rsplit('/').next().unwrap()).unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// The last line of the next reply; empty at the end.
    pub(crate) fn reply(&mut self) -> String {
        self.lines().pop().unwrap_or_default()
    }

    pub(crate) fn say(&mut self, line: &str) -> String {
        self.all(line).pop().unwrap_or_default()
    }

    /// All lines of the reply.
    pub(crate) fn all(&mut self, line: &str) -> Vec<String> {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.lines()
    }

    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            lines.push(line.trim_end().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return lines;
            }
        }
    }

    /// True if nothing has come after so long, nor the end.
    pub(crate) fn is_silent(&mut self, after: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(after)).unwrap();
        let silent = self.0.fill_buf().is_err();
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// All that comes until the other side is gone.
    pub(crate) fn rest(mut self) -> String {
        let mut text = Vec::new();
        // Closed with octets unread, a connection is reset.
        let _ = self.0.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// A server that says what it is told to say: for each connection `greeting`, then for each line the answer of the
/// first rule whose word the line starts with. A rule's answer may be empty: silence.
pub(crate) fn scripted(greeting: &'static str, rules: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let _ = stream.get_mut().write_all(greeting.as_bytes());
                let mut line = String::new();
                while matches!(stream.read_line(&mut line), Ok(1..)) {
                    if let Some((_, answer)) = rules.iter().find(|(word, _)| line.starts_with(word)) {
                        let _ = stream.get_mut().write_all(answer.as_bytes());
                    }
                    line.clear();
                }
            });
        }
    });
    url
}

/// A port on which nobody listens.
pub(crate) fn dead_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("smtp://{}", listener.local_addr().unwrap())
}

/// Waits until it holds, which takes seconds at most and is given 90 of them.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + 3 * PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "this does not come: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A file in `folder`.
pub(crate) fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
