//! Postfix as a server, and as a client that sends to us.

use super::process::{self, locate, poll, run, run_ok};
use super::{ClientTls, Skip, default_users, mailbox, with_free_port};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// How long Postfix may take to start: it makes its queue folders first, and
/// other peers may be starting on the same machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The numeric user that owns the mailboxes: Debian's `nobody`/`nogroup`.
const MAILBOX_OWNER: u32 = 65_534;

/// What an instance does beyond the defaults.
#[derive(Debug, Clone)]
pub struct PostfixOptions {
    /// The port on 127.0.0.1 to which its client sends the mail for `ours.test`.
    ///
    /// Default: none; such mail is then returned to its sender.
    pub next_hop: Option<u16>,
    /// What its client does about TLS. Default: [`ClientTls::May`].
    pub tls: ClientTls,
    /// The local parts in `postfix.test` that exist.
    ///
    /// Default: `alice`, `bob`, `carol`, `postmaster`. Others get `550 5.1.1`.
    pub users: Vec<String>,
    /// More `main.cf` settings, which win over ours; see postconf(5).
    ///
    /// Default: none. For example `("transport_maps",
    /// "inline:{{ours.test=lmtp:inet:127.0.0.1:10024}}")` makes it an LMTP client.
    pub main_cf: Vec<(String, String)>,
    /// More files for its configuration folder, by name and text, such as `sasl/smtpd.conf`, where Debian's Postfix
    /// looks for what Cyrus SASL is to do.
    ///
    /// Default: none.
    pub files: Vec<(String, String)>,
}

impl Default for PostfixOptions {
    fn default() -> Self {
        Self {
            next_hop: None,
            tls: ClientTls::default(),
            users: default_users(),
            main_cf: Vec::new(),
            files: Vec::new(),
        }
    }
}

/// A running Postfix instance; dropping it ends it and removes its folder.
///
/// Its server takes mail for `postfix.test` from anyone and for `ours.test` from
/// loopback, and offers PIPELINING, SIZE (50 MiB), VRFY, ETRN, STARTTLS,
/// ENHANCEDSTATUSCODES, 8BITMIME, DSN, SMTPUTF8 and CHUNKING. Bare line feeds
/// are read as line ends but end no message, and commands before their turn are
/// refused. Undelivered mail is tried again every 5 seconds.
#[derive(Debug)]
pub struct Postfix {
    folder: TempDir,
    port: u16,
}

impl Postfix {
    /// Starts an instance and waits until it greets.
    ///
    /// # Errors
    ///
    /// When Postfix or OpenSSL is missing, when we are not root, and, with
    /// Postfix's log in the text, when it does not come up.
    pub fn start(options: PostfixOptions) -> Result<Self, Skip> {
        process::need_root("Postfix")?;
        locate("postfix")?;
        with_free_port(|port| Self::start_on(port, &options))
    }

    fn start_on(port: u16, options: &PostfixOptions) -> Result<Self, Skip> {
        let folder =
            process::shared_folder("smtp-postfix-").map_err(|error| Skip(format!("no folder for Postfix: {error}")))?;
        process::self_signed(folder.path(), "mx.postfix.test")?;
        let postfix = Self { folder, port };
        // From here on dropping `postfix` ends whatever was started.
        postfix.configure(options).and_then(|()| postfix.launch()).map_err(|error| {
            let log = postfix.log();
            Skip(format!("Postfix does not start: {error}\nIts log:\n{log}"))
        })?;
        Ok(postfix)
    }

    /// The port on 127.0.0.1 where its server listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its self-signed certificate (PEM), for `mx.postfix.test`, `localhost` and
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
    /// trace fields Postfix puts in front.
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

    /// Puts a message (header and body, lines ending in LF) into its queue with
    /// its `sendmail` command; an empty `from` is the null sender.
    ///
    /// # Errors
    ///
    /// When `sendmail` refuses, with what it printed.
    pub fn inject(&self, from: &str, to: &[&str], message: &[u8]) -> io::Result<()> {
        let mut sendmail = self.command("sendmail", "-C")?;
        sendmail.args(["-i", "-f", from, "--"]).args(to);
        run_ok(sendmail, message, COMMAND_LIMIT).map(drop)
    }

    /// What is left in its queue: one JSON object per message and line, as
    /// `postqueue -j` prints it; empty when the queue is.
    ///
    /// # Errors
    ///
    /// When `postqueue` fails, with what it printed.
    pub fn queue(&self) -> io::Result<String> {
        let mut postqueue = self.command("postqueue", "-c")?;
        postqueue.arg("-j");
        run_ok(postqueue, b"", COMMAND_LIMIT).map(|output| output.text())
    }

    /// Waits until its queue is empty.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`], with queue and log, when it is not after `limit`.
    pub fn wait_for_empty_queue(&self, limit: Duration) -> io::Result<()> {
        let empty = poll(limit, || match self.queue() {
            Ok(queue) if queue.is_empty() => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        empty.unwrap_or_else(|| {
            let (queue, log) = (self.queue()?, self.log());
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("after {limit:?} the queue has:\n{queue}\nThe log:\n{log}"),
            ))
        })
    }

    /// Makes it try everything in its queue now.
    ///
    /// # Errors
    ///
    /// When `postqueue` fails, with what it printed.
    pub fn flush(&self) -> io::Result<()> {
        let mut postqueue = self.command("postqueue", "-c")?;
        postqueue.arg("-f");
        run_ok(postqueue, b"", COMMAND_LIMIT).map(drop)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        match fs::read(self.path("maillog")) {
            Ok(log) => String::from_utf8_lossy(&log).into_owned(),
            Err(error) => format!("(no log: {error})"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One of Postfix's commands, told by `option` which instance is meant.
    fn command(&self, program: &str, option: &str) -> io::Result<Command> {
        let program = locate(program).map_err(io::Error::other)?;
        let mut command = Command::new(program);
        command.arg(option).arg(self.path("etc"));
        Ok(command)
    }

    fn configure(&self, options: &PostfixOptions) -> io::Result<()> {
        for name in ["etc", "queue", "data", "mail"] {
            fs::create_dir(self.path(name))?;
        }
        chown(self.path("mail"), Some(MAILBOX_OWNER), Some(MAILBOX_OWNER))?;
        // The data folder must be the mail system's own, or the start is refused.
        let mut owner = Command::new("chown");
        owner.arg("postfix").arg(self.path("data"));
        run_ok(owner, b"", COMMAND_LIMIT)?;

        for (name, text) in &options.files {
            if let Some(folder) = self.path("etc").join(name).parent() {
                fs::create_dir_all(folder)?;
            }
            self.write(name, text)?;
        }
        let users = options.users.iter().fold(String::new(), |mut text, user| {
            let _ = writeln!(text, "{user}@postfix.test {user}/");
            text
        });
        let route = options.next_hop.map(|port| format!("ours.test smtp:[127.0.0.1]:{port}\n")).unwrap_or_default();
        self.write("main.cf", &main_cf(self.folder.path(), options))?;
        self.write("master.cf", &master_cf(self.port))?;
        self.write("users", &users)?;
        self.write("transport", &route)
    }

    /// Writes a configuration file and makes it look ten seconds old: Postfix
    /// reads younger ones again and again until it is sure that nobody is still
    /// writing, which takes it two seconds.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = File::create(self.path("etc").join(name))?;
        file.write_all(text.as_bytes())?;
        file.set_modified(SystemTime::now() - Duration::from_secs(10))
    }

    fn launch(&self) -> io::Result<()> {
        let mut start = self.command("postfix", "-c")?;
        start.arg("start");
        if let Err(error) = run_ok(start, b"", START_LIMIT) {
            let reason = self.complaint();
            return Err(io::Error::new(error.kind(), format!("{error}\n{reason}")));
        }
        poll(START_LIMIT, || process::greets(self.port).then_some(())).ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no greeting on port {} after {START_LIMIT:?}", self.port))
        })
    }

    /// What Postfix says against its configuration.
    ///
    /// It logs nothing before it knows where to, and prints to nothing but a
    /// terminal; so script(1) lends it one.
    fn complaint(&self) -> String {
        let Ok(script) = locate("script") else {
            return String::new();
        };
        let mut check = Command::new(script);
        check.arg("-qec").arg(format!("postfix -c {} check", self.path("etc").display())).arg("/dev/null");
        run(check, b"", COMMAND_LIMIT).map_or_else(|error| error.to_string(), |check| check.text())
    }

    /// The process id of its master, when that runs: the process with the number
    /// in the pid file which works in this instance's queue folder.
    fn master(&self) -> Option<String> {
        let queue = self.path("queue");
        let pid = fs::read_to_string(queue.join("pid/master.pid")).ok()?;
        let pid = pid.trim();
        let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        (works_in == fs::canonicalize(queue).ok()?).then(|| pid.to_owned())
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // The master passes the first signal on to its children; when only the
        // second one ends it, they end themselves as they lose it.
        for name in ["TERM", "KILL"] {
            let Some(pid) = self.master() else { break };
            process::signal(name, &pid);
            poll(STOP_LIMIT, || self.master().is_none().then_some(()));
        }
        process::clear(self.folder.path());
    }
}

fn main_cf(folder: &Path, options: &PostfixOptions) -> String {
    let folder = folder.display();
    let tls = match options.tls {
        ClientTls::None => "none",
        ClientTls::May => "may",
        ClientTls::Encrypt => "encrypt",
    };
    let ours = format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file_prefixes = {folder}
maillog_file = {folder}/maillog

# Nothing may leave the machine, and nothing is looked up.
myhostname = mx.postfix.test
mydomain = postfix.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_peername_lookup = no
relayhost =
mydestination =
alias_maps =
alias_database =
local_transport = error:no local delivery
default_transport = error:no outside delivery
relay_transport = error:no next hop was given

# Mail in: one Maildir per user.
virtual_mailbox_domains = postfix.test
virtual_mailbox_maps = texthash:{folder}/etc/users
virtual_mailbox_base = {folder}/mail
virtual_minimum_uid = 1
virtual_uid_maps = static:{MAILBOX_OWNER}
virtual_gid_maps = static:{MAILBOX_OWNER}
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
message_size_limit = 52428800
virtual_mailbox_limit = 0
smtputf8_enable = yes
smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/cert.pem
smtpd_tls_key_file = {folder}/key.pem
smtpd_tls_loglevel = 1
# The exclusions would otherwise be mynetworks: every client there is here.
smtpd_forbid_bare_newline = normalize
smtpd_forbid_bare_newline_exclusions =
smtpd_forbid_unauth_pipelining = yes
# Tests connect, fail and probe more often than decent clients.
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0

# Mail out, to us.
relay_domains = ours.test
transport_maps = texthash:{folder}/etc/transport
smtp_tls_security_level = {tls}
smtp_tls_loglevel = 1
notify_classes =
queue_run_delay = 5s
minimal_backoff_time = 5s
maximal_backoff_time = 5s
"
    );
    // A setting that is there twice would make every command print a warning.
    let replaced = |line: &str| {
        let name = line.split('=').next().unwrap_or_default().trim();
        options.main_cf.iter().any(|(theirs, _)| theirs == name)
    };
    let mut text = String::new();
    for line in ours.lines().filter(|line| !replaced(line)) {
        let _ = writeln!(text, "{line}");
    }
    for (name, value) in &options.main_cf {
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

/// The services of a whole mail system, none of them in a chroot: that one would
/// lack every file they need.
fn master_cf(port: u16) -> String {
    format!(
        "127.0.0.1:{port} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"
    )
}
