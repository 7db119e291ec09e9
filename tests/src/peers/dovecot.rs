//! Dovecot's LMTP server.

use super::process::{self, locate, run_ok};
use super::{Skip, default_users, mailbox, with_free_port};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Who it runs as where the tests are root: Debian's `nobody`/`nogroup`.
const NOBODY: u32 = 65_534;

/// A running Dovecot that speaks LMTP, unprivileged; dropping it ends it and removes its folder.
///
/// It takes mail for `alice`, `bob`, `carol` and `postmaster` at `dovecot.test`, into one Maildir per user; others get
/// `550 5.1.1`. It offers 8BITMIME, CHUNKING, ENHANCEDSTATUSCODES and PIPELINING.
#[derive(Debug)]
pub struct Dovecot {
    folder: TempDir,
    port: u16,
    master: Option<Child>,
}

impl Dovecot {
    /// Starts an instance and waits until it greets.
    ///
    /// # Errors
    ///
    /// When Dovecot's LMTP server is missing and, with its log in the text, when it does not come up.
    pub fn start() -> Result<Self, Skip> {
        let program = locate("dovecot")?;
        if !Path::new("/usr/lib/dovecot/lmtp").exists() {
            return Err(Skip("dovecot-lmtpd is not installed (.ci/setup installs it)".to_owned()));
        }
        with_free_port(|port| Self::start_on(port, &program))
    }

    fn start_on(port: u16, program: &Path) -> Result<Self, Skip> {
        let folder =
            process::shared_folder("smtp-dovecot-").map_err(|error| Skip(format!("no folder for Dovecot: {error}")))?;
        let mut dovecot = Self { folder, port, master: None };
        // From here on dropping `dovecot` ends whatever was started.
        dovecot.configure().and_then(|()| dovecot.launch(program)).map_err(|error| {
            let log = dovecot.log();
            Skip(format!("Dovecot does not start: {error}\nIts log:\n{log}"))
        })?;
        Ok(dovecot)
    }

    /// The port on 127.0.0.1 where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Unix socket where it listens too.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("lmtp")
    }

    /// The messages a user has now, oldest first.
    ///
    /// # Errors
    ///
    /// When the Maildir is there and cannot be read.
    pub fn messages(&self, user: &str) -> io::Result<Vec<Vec<u8>>> {
        mailbox::messages(&self.path("mail").join(user))
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |name| fs::read(self.path(name)).map(|log| String::from_utf8_lossy(&log).into_owned());
        ["log", "output"].into_iter().filter_map(|name| read(name).ok()).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self) -> io::Result<()> {
        fs::create_dir(self.path("mail"))?;
        let (uid, gid) = self.owner()?;
        let users = default_users().iter().fold(String::new(), |mut text, user| {
            let home = self.path("mail").join(user);
            let _ = writeln!(text, "{user}@dovecot.test:{{PLAIN}}none:{uid}:{gid}::{}::", home.display());
            text
        });
        fs::write(self.path("users"), users)?;
        fs::write(
            self.path("dovecot.conf"),
            config(self.folder.path(), self.port, &name_of("-un", uid)?, &name_of("-gn", uid)?),
        )?;
        for name in ["", "mail", "users", "dovecot.conf"] {
            chown(self.path(name), Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Who it runs as: we ourselves, but not root.
    fn owner(&self) -> io::Result<(u32, u32)> {
        let own = fs::metadata(self.folder.path())?;
        Ok(if own.uid() == 0 { (NOBODY, NOBODY) } else { (own.uid(), own.gid()) })
    }

    fn launch(&mut self, program: &Path) -> io::Result<()> {
        let output = File::create(self.path("output"))?;
        let (uid, gid) = self.owner()?;
        let master = Command::new(program)
            // In the foreground: the master is our child, and its id is known.
            .args(["-F", "-c"])
            .arg(self.path("dovecot.conf"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .uid(uid)
            .gid(gid)
            .process_group(0)
            .spawn()?;
        let master = self.master.insert(master);
        let (port, socket) = (self.port, self.folder.path().join("lmtp"));
        let up = process::poll(START_LIMIT, || match master.try_wait() {
            Ok(None) => (process::greets(port) && UnixStream::connect(&socket).is_ok()).then_some(Ok(())),
            Ok(Some(status)) => Some(Err(io::Error::other(format!("it ended with {status}")))),
            Err(error) => Some(Err(error)),
        });
        up.unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no greeting after {START_LIMIT:?}"))))
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let Some(mut master) = self.master.take() else { return };
        process::signal("TERM", &master.id().to_string());
        if !matches!(process::wait(&mut master, STOP_LIMIT), Ok(Some(_))) {
            process::kill_group(&mut master);
            let _ = master.wait();
        }
        process::clear(self.folder.path());
    }
}

/// The name of a user, or of its group: Dovecot takes no numbers.
fn name_of(option: &str, uid: u32) -> io::Result<String> {
    let mut id = Command::new("id");
    id.arg(option).arg("--").arg(uid.to_string());
    run_ok(id, b"", START_LIMIT).map(|output| output.text().trim().to_owned())
}

fn config(folder: &Path, port: u16, user: &str, group: &str) -> String {
    let folder = folder.display();
    format!(
        "base_dir = {folder}/base
state_dir = {folder}/state
log_path = {folder}/log
protocols = lmtp
ssl = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
first_valid_gid = 1
hostname = mx.dovecot.test
postmaster_address = postmaster@dovecot.test
mail_location = maildir:{folder}/mail/%n
namespace inbox {{
  inbox = yes
}}
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
# Only root can change its root.
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service lmtp {{
  user = {user}
  unix_listener lmtp {{
    path = {folder}/lmtp
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"
    )
}
