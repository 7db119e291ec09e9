//! Running programs with a bound on everything: time, ports, and what is ended.

use super::Skip;
use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended; a program that was killed at its time limit has a signal here.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it printed as diagnostics.
    pub stderr: Vec<u8>,
    /// It was killed because its time was over.
    pub timed_out: bool,
}

impl Output {
    /// It ended by itself, with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success() && !self.timed_out
    }

    /// What it printed as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// The whole run, for the message of a failed assertion.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.timed_out { "killed at its time limit" } else { "ended by itself" };
        write!(
            f,
            "{} ({end})\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            String::from_utf8_lossy(&self.stdout),
            String::from_utf8_lossy(&self.stderr)
        )
    }
}

/// Runs a program to its end, or kills it and what it started after `limit`.
///
/// Input and output go through unnamed temporary files: whatever their sizes
/// nothing can block, and a daemon that inherits them cannot hold us up.
pub(super) fn run(mut command: Command, stdin: &[u8], limit: Duration) -> io::Result<Output> {
    let mut input = tempfile::tempfile()?;
    input.write_all(stdin)?;
    input.seek(SeekFrom::Start(0))?;
    let mut stdout = tempfile::tempfile()?;
    let mut stderr = tempfile::tempfile()?;
    let mut child = command
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(stdout.try_clone()?))
        .stderr(Stdio::from(stderr.try_clone()?))
        .process_group(0)
        .spawn()?;
    let ended = wait(&mut child, limit)?;
    let timed_out = ended.is_none();
    let status = match ended {
        Some(status) => status,
        None => {
            kill_group(&mut child);
            child.wait()?
        }
    };
    Ok(Output { status, stdout: contents(&mut stdout)?, stderr: contents(&mut stderr)?, timed_out })
}

/// [`run`], where anything but success is an error that shows the output.
pub(super) fn run_ok(command: Command, stdin: &[u8], limit: Duration) -> io::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = run(command, stdin, limit)?;
    if output.success() { Ok(output) } else { Err(io::Error::other(format!("{name}: {output}"))) }
}

fn contents(file: &mut fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How the child ended, or `None` when it still runs after `limit`.
pub(super) fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    poll(limit, || child.try_wait().transpose()).transpose()
}

/// Kills a child that was made the leader of its own process group, and the group.
///
/// The child is not reaped yet, so its number cannot belong to anyone else.
pub(super) fn kill_group(child: &mut Child) {
    signal("KILL", &format!("-{}", child.id()));
    // Whatever became of the group, the child itself must be gone for `wait`.
    let _ = child.kill();
}

/// Sends a signal to a process, or to a group when `target` starts with `-`.
pub(super) fn signal(name: &str, target: &str) {
    // std only knows SIGKILL to a child; the shell's builtin does the rest. It
    // fails when the target is gone, which is what was wanted.
    let _ = Command::new("/bin/sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", name, target])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Asks until there is an answer or the time is over; asks at least once.
pub(super) fn poll<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL);
    }
}

/// Where a program is: in `PATH`, or in the folders of system programs, which an
/// ordinary user's `PATH` lacks.
pub(super) fn locate(program: &str) -> Result<PathBuf, Skip> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
        .ok_or_else(|| Skip(format!("{program} is not installed (.ci/setup installs it)")))
}

/// Where `.ci/setup` puts what is no package of the system's: `SMTP_TEST_PEERS`, by default `target/peers` of the
/// workspace.
pub(super) fn peers_folder() -> PathBuf {
    env::var_os("SMTP_TEST_PEERS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers")), PathBuf::from)
}

pub(super) fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The peers change users and own folders by user: only root can start them.
pub(super) fn need_root(peer: &str) -> Result<(), Skip> {
    let uid = fs::metadata("/proc/self").map(|meta| meta.uid());
    match uid {
        Ok(0) => Ok(()),
        _ => Err(Skip(format!("{peer} can only be started by root"))),
    }
}

/// A temporary folder which a peer's unprivileged processes can enter.
pub(super) fn shared_folder(prefix: &str) -> io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// A port on 127.0.0.1 above 10000 where nobody listens.
///
/// It lies below the range the system takes ephemeral ports from, so that no
/// outgoing connection and no `bind` to port 0 can take it in the meantime.
pub(super) fn free_port() -> Result<u16, Skip> {
    const FIRST: u32 = 10_001;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs that run side by side start in different places.
    let start = std::process::id().wrapping_mul(7_919);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let Ok(port) = u16::try_from(FIRST + offset) else {
            continue;
        };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Skip("no free port on 127.0.0.1".to_owned()))
}

/// Whether an SMTP server greets with `220` on the port.
pub(super) fn greets(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let limit = Duration::from_secs(2);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, limit) else {
        return false;
    };
    let mut greeting = [0; 3];
    let greeted =
        stream.set_read_timeout(Some(limit)).is_ok() && stream.read_exact(&mut greeting).is_ok() && &greeting == b"220";
    // A goodbye keeps "lost connection" out of the peer's log.
    let _ = stream.write_all(b"QUIT\r\n");
    let _ = stream.read_to_end(&mut Vec::new());
    greeted
}

/// Writes `cert.pem` and `key.pem`, a self-signed pair for the host name,
/// `localhost` and 127.0.0.1, into the folder.
pub(super) fn self_signed(folder: &Path, host: &str) -> Result<(), Skip> {
    // A whole configuration: with the default one the certificate would be a CA,
    // which strict clients refuse as a server's.
    let config = format!(
        "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = ext\n\
         [name]\nCN = {host}\n\
         [ext]\nbasicConstraints = critical, CA:FALSE\nextendedKeyUsage = serverAuth\n\
         subjectAltName = DNS:{host}, DNS:localhost, IP:127.0.0.1\n"
    );
    let mut openssl = Command::new(locate("openssl")?);
    openssl
        .current_dir(folder)
        .args(["req", "-x509", "-nodes", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "30"])
        .args(["-config", "openssl.cnf"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"]);
    fs::write(folder.join("openssl.cnf"), config)
        .and_then(|()| run_ok(openssl, b"", Duration::from_secs(30)))
        .map(drop)
        .map_err(|error| Skip(format!("no certificate for {host}: {error}")))
}

/// Sees to it that no process works in the folder or below any more, so that it
/// can be removed: waits a little, then ends those that still do.
///
/// The folder is one we made for a peer, so whoever works there was started by us.
pub(super) fn clear(folder: &Path) {
    let Ok(folder) = folder.canonicalize() else {
        return;
    };
    let none_left = || users_of(&folder).is_empty().then_some(());
    for name in ["TERM", "KILL"] {
        if poll(Duration::from_millis(500), none_left).is_some() {
            return;
        }
        for pid in users_of(&folder) {
            signal(name, &pid);
        }
    }
    poll(Duration::from_secs(2), none_left);
}

/// The ids of the processes whose working folder is this one or below.
fn users_of(folder: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .filter_map(|process| process.file_name().into_string().ok())
        // `self` is a name for ourselves; processes have numbers.
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .collect()
}
