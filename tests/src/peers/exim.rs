//! Exim as a server, and as a client that sends to us.

use super::process::{self, locate, run_ok};
use super::{ClientTls, Skip, default_users, mailbox, with_free_port};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The user Debian's Exim is compiled for: it refuses to run where this user is
/// not known, whatever its configuration says.
const USER: &str = "Debian-exim";

/// What an instance does beyond the defaults.
#[derive(Debug, Clone)]
pub struct EximOptions {
    /// The port on 127.0.0.1 to which its client sends the mail for `ours.test`.
    ///
    /// Default: none; such mail is then refused.
    pub next_hop: Option<u16>,
    /// What its client does about TLS. Default: [`ClientTls::May`].
    pub tls: ClientTls,
    /// The local parts in `exim.test` that exist.
    ///
    /// Default: `alice`, `bob`, `carol`, `postmaster`. Others get `550`.
    pub users: Vec<String>,
}

impl Default for EximOptions {
    fn default() -> Self {
        Self { next_hop: None, tls: ClientTls::default(), users: default_users() }
    }
}

/// A running Exim; dropping it ends it and removes its folder.
///
/// Its server takes mail for `exim.test` and `ours.test`, and offers SIZE
/// (50 MiB), 8BITMIME, DSN, PIPELINING, PIPECONNECT, CHUNKING, STARTTLS,
/// SMTPUTF8 and PRDR: with `X-Refuse: name` in its header a message is refused
/// for the mailbox of that name. Its client uses CHUNKING where it is offered, which Postfix's does
/// not. Undelivered mail is tried again every 5 seconds.
#[derive(Debug)]
pub struct Exim {
    folder: TempDir,
    port: u16,
    daemon: Option<Child>,
}

impl Exim {
    /// Starts an instance with the default options and waits until it greets.
    ///
    /// # Errors
    ///
    /// As [`Exim::start_with`].
    pub fn start() -> Result<Self, Skip> {
        Self::start_with(EximOptions::default())
    }

    /// Starts an instance and waits until it greets.
    ///
    /// The program is taken from the folder in the environment variable
    /// `SMTP_TEST_PEERS` (default: `target/peers` of the workspace), where
    /// `.ci/setup` unpacks it.
    ///
    /// # Errors
    ///
    /// When Exim, its user or OpenSSL is missing, when we are not root, and, with
    /// Exim's log in the text, when it does not come up.
    pub fn start_with(options: EximOptions) -> Result<Self, Skip> {
        process::need_root("Exim")?;
        let program = program()?;
        with_free_port(|port| Self::start_on(port, &program, &options))
    }

    fn start_on(port: u16, program: &Path, options: &EximOptions) -> Result<Self, Skip> {
        let folder =
            process::shared_folder("smtp-exim-").map_err(|error| Skip(format!("no folder for Exim: {error}")))?;
        process::self_signed(folder.path(), "mx.exim.test")?;
        let mut exim = Self { folder, port, daemon: None };
        // From here on dropping `exim` ends whatever was started.
        exim.configure(program, options).and_then(|()| exim.launch()).map_err(|error| {
            let log = exim.log();
            Skip(format!("Exim does not start: {error}\nIts log:\n{log}"))
        })?;
        Ok(exim)
    }

    /// The port on 127.0.0.1 where its server listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its self-signed certificate (PEM), for `mx.exim.test`, `localhost` and
    /// 127.0.0.1.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path("cert.pem")
    }

    /// The Maildir of a user; made with the first message.
    #[must_use]
    pub fn maildir(&self, user: &str) -> PathBuf {
        self.path("mail").join(user)
    }

    /// The messages a user has now, oldest first, in Unix line ends and with the
    /// trace fields Exim puts in front.
    ///
    /// # Errors
    ///
    /// When the Maildir is there and cannot be read.
    pub fn messages(&self, user: &str) -> io::Result<Vec<Vec<u8>>> {
        mailbox::messages(&self.maildir(user))
    }

    /// The user's messages, as soon as there are at least `count`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`], with the log, when there are fewer after `limit`.
    pub fn wait_for_messages(&self, user: &str, count: usize, limit: Duration) -> io::Result<Vec<Vec<u8>>> {
        mailbox::wait_for_messages(&self.maildir(user), count, limit, || self.log())
    }

    /// Puts a message (header and body, lines ending in LF) into its queue from
    /// the command line; an empty `from` is the null sender.
    ///
    /// # Errors
    ///
    /// When Exim refuses, with what it printed.
    pub fn inject(&self, from: &str, to: &[&str], message: &[u8]) -> io::Result<()> {
        // The null sender has to be written with its brackets here.
        let from = if from.is_empty() { "<>" } else { from };
        let mut exim = self.command();
        exim.args(["-i", "-f", from, "--"]).args(to);
        run_ok(exim, message, COMMAND_LIMIT).map(drop)
    }

    /// What is left in its queue, as `exim -bp` prints it; empty when the queue is.
    ///
    /// # Errors
    ///
    /// When Exim fails, with what it printed.
    pub fn queue(&self) -> io::Result<String> {
        let mut exim = self.command();
        exim.arg("-bp");
        run_ok(exim, b"", COMMAND_LIMIT).map(|output| output.text())
    }

    /// What it has logged so far: its main log and its panic log.
    #[must_use]
    pub fn log(&self) -> String {
        ["mainlog", "paniclog", "output"]
            .iter()
            .filter_map(|name| fs::read(self.path("log").join(name)).ok())
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut exim = Command::new(self.path("exim4"));
        exim.arg("-C").arg(self.path("exim.conf"));
        exim
    }

    fn configure(&self, program: &Path, options: &EximOptions) -> io::Result<()> {
        for name in ["spool", "mail", "log"] {
            fs::create_dir(self.path(name))?;
        }
        // Exim runs itself again as its own user for every delivery; that user
        // may not enter the folder the program was unpacked in.
        fs::copy(program, self.path("exim4"))?;
        let users = options.users.iter().fold(String::new(), |mut text, user| {
            let _ = writeln!(text, "{user}: {user}");
            text
        });
        fs::write(self.path("users"), users)?;
        let config = config(self.folder.path(), self.port, options);
        fs::write(self.path("exim.conf"), config)?;
        let mut owner = Command::new("chown");
        owner.arg(format!("{USER}:")).args(["spool", "mail", "log", "key.pem"].map(|name| self.path(name)));
        run_ok(owner, b"", COMMAND_LIMIT).map(drop)
    }

    fn launch(&mut self) -> io::Result<()> {
        let output = File::create(self.path("log/output"))?;
        let daemon = self
            .command()
            // In the foreground: the daemon is our child, and its id is known.
            .args(["-bdf", "-q5s"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        let daemon = self.daemon.insert(daemon);
        let port = self.port;
        let up = process::poll(START_LIMIT, || match daemon.try_wait() {
            Ok(None) => process::greets(port).then_some(Ok(())),
            Ok(Some(status)) => Some(Err(io::Error::other(format!("it ended with {status}")))),
            Err(error) => Some(Err(error)),
        });
        up.unwrap_or_else(|| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no greeting on port {port} after {START_LIMIT:?}")))
        })
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        process::signal("TERM", &daemon.id().to_string());
        let ended = process::wait(&mut daemon, STOP_LIMIT);
        if !matches!(ended, Ok(Some(_))) {
            process::kill_group(&mut daemon);
            let _ = daemon.wait();
        }
        // Deliveries live on without the daemon, some of them for minutes.
        process::clear(self.folder.path());
    }
}

/// The unpacked program, checked to be able to run here.
fn program() -> Result<PathBuf, Skip> {
    let program = process::peers_folder().join("exim/usr/sbin/exim4");
    if !process::is_executable(&program) {
        return Err(Skip(format!("{} is not there (.ci/setup unpacks it)", program.display())));
    }
    let mut id = Command::new(locate("id")?);
    id.arg(USER);
    run_ok(id, b"", COMMAND_LIMIT)
        .map_err(|error| Skip(format!("Exim needs the user {USER} (.ci/setup adds it): {error}")))?;
    Ok(program)
}

fn config(folder: &Path, port: u16, options: &EximOptions) -> String {
    let folder = folder.display();
    let (ours, next_hop) = match options.next_hop {
        Some(port) => ("ours.test", port),
        // An empty list, so that the router below is never used.
        None => ("", 0),
    };
    let tls = match options.tls {
        ClientTls::None => "hosts_avoid_tls = *",
        ClientTls::May => "hosts_avoid_tls =",
        ClientTls::Encrypt => "hosts_require_tls = *",
    };
    format!(
        "exim_path = {folder}/exim4
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/spool/exim.pid
primary_hostname = mx.exim.test
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
# A taken port is an error at once, rather than after five minutes.
daemon_startup_retries = 0
disable_ipv6 = true
# Everything as its own user: the unpacked program is not set-uid, and the one
# that delivers could not become root again.
deliver_drop_privilege = true
keep_environment =
# Nothing is looked up.
host_lookup =
rfc1413_hosts =
domainlist local = exim.test
domainlist ours = {ours}
chunking_advertise_hosts = *
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
pipelining_advertise_hosts = *
prdr_enable = true
tls_advertise_hosts = *
tls_certificate = {folder}/cert.pem
tls_privatekey = {folder}/key.pem
message_size_limit = 50M
# Tests connect and fail more often than decent clients.
smtp_accept_max = 200
smtp_max_unknown_commands = 20
smtp_max_synprot_errors = 20
smtp_accept_max_nonmail = 100
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
acl_smtp_data_prdr = acl_data_prdr

begin acl
acl_rcpt:
  require message = relay not permitted
          domains = +local : +ours
  require message = unknown user
          verify = recipient
  accept
acl_data:
  accept
# Content that names a mailbox so is refused for it.
acl_data_prdr:
  deny message = not wanted
       condition = ${{if eq{{$h_X-Refuse:}}{{$local_part}}}}
  accept

begin routers
ours:
  driver = manualroute
  domains = +ours
  route_list = * 127.0.0.1::{next_hop} byname
  self = send
  transport = ours
# The looked-up value, unlike what the client sent, may be part of a file name.
local:
  driver = accept
  domains = +local
  local_parts = lsearch;{folder}/users
  transport = maildir

begin transports
ours:
  driver = smtp
  allow_localhost
  {tls}
maildir:
  driver = appendfile
  directory = {folder}/mail/$local_part_data
  maildir_format
  user = {USER}
  group = {USER}

begin retry
* * F,1h,2s
"
    )
}
