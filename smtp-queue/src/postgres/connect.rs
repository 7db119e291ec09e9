//! Where the database is, who we are to it, and connections to it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use rustls::ClientConfig;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::rows;
use super::servers::{PATIENCE, Servers};
use crate::error::OpenError;
use crate::spool::Limits;

/// How long the kernel tries to get octets to the database.
const SILENCE: Duration = Duration::from_secs(30);
/// How long one address of a server may take, so that there is time for another.
const ADDRESS: Duration = Duration::from_secs(2);

/// Where a [`PgSpool`](crate::PgSpool) is, and how this node works with it.
#[derive(Clone)]
pub struct PgSettings {
    /// What this node is called in the table `node`: the host's name, by default `smtp`. It need not be unique.
    pub name: String,
    /// How long a shard stays with a node that says nothing, by the database's clock: 1 min. Renewed every third of it.
    /// What a node that died was to deliver waits so long.
    pub lease: Duration,
    /// Limits. [`Limits::free`] has no meaning here.
    pub limits: Limits,
    /// Where bodies over [`Limits::inline`] are, for all nodes alike; by default in their rows. A
    /// [`LocalFileSystem`](object_store::local::LocalFileSystem) has to have `with_fsync(true)`.
    pub bodies: Option<Arc<dyn ObjectStore>>,
    /// How TLS is done. Needed if [`PgSettings::wants_tls`].
    pub tls: Option<Arc<ClientConfig>>,
    /// Each of one host.
    servers: Vec<Config>,
    encrypted: bool,
    ca: Option<PathBuf>,
    schema: String,
    shown: String,
}

impl fmt::Debug for PgSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, lease, shown, encrypted, .. } = self;
        f.debug_struct("PgSettings")
            .field("url", shown)
            .field("name", name)
            .field("lease", lease)
            .field("encrypted", encrypted)
            .finish_non_exhaustive()
    }
}

impl PgSettings {
    /// Reads a URL as libpq has them: `postgres://user@host:port/database?key=value`, several hosts with commas between
    /// them, each with its port; a Unix socket as `postgres:///database?host=/run/postgresql`.
    ///
    /// Of several hosts the one is used that can be written, and of several of those the one that was promoted last.
    ///
    /// The password is that of the URL, or `PGPASSWORD`, or of the file that `passfile=`, `PGPASSFILE` or `~/.pgpass`
    /// name. `schema=` names the schema that the tables are in, `smtp_queue` if none is.
    ///
    /// TLS: `sslmode=verify-full` checks the server's certificate and name, against `sslrootcert=` if that is there;
    /// `require` and `verify-ca` do just the same, `disable` does without. Without `sslmode` it is `verify-full` beyond this
    /// machine or with `sslrootcert`, else `disable`. What would go on in clear if somebody in the middle wants it, `prefer` and
    /// `allow`, is refused.
    ///
    /// # Errors
    /// [`OpenError::Url`]; it never repeats the password.
    pub fn new(url: &str) -> Result<Self, OpenError> {
        let wrong = |what: String| OpenError::Url { what };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("it has to begin with postgres://".into()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut ca, mut passfile) = (None, None, None);
        let (mut schema, mut rest, mut shown) = ("smtp_queue".to_owned(), Vec::new(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "sslmode" => mode = Some(value),
                "sslrootcert" => ca = Some(PathBuf::from(decoded(value))),
                "passfile" => passfile = Some(PathBuf::from(decoded(value))),
                "schema" => schema = value.to_owned(),
                _ => rest.push(pair),
            }
            if key != "password" {
                shown.push(pair);
            }
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if schema.is_empty() || schema.len() > 63 || !schema.bytes().all(plain) || schema.as_bytes()[0].is_ascii_digit()
        {
            return Err(wrong("schema= takes small letters, digits and _, up to 63, no digit first".into()));
        }
        let text = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let mut config: Config = text.parse().map_err(|error: tokio_postgres::Error| wrong(cause(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(wrong("no host is named".into()));
        }
        let encrypted = match mode {
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            None => {
                let here =
                    config.get_hosts().iter().all(is_here) && config.get_hostaddrs().iter().all(|ip| ip.is_loopback());
                !here || ca.is_some()
            }
            Some("prefer" | "allow") => {
                return Err(wrong(
                    "sslmode=prefer and allow protect from nobody; verify-full does, disable says so".into(),
                ));
            }
            Some(_) => return Err(wrong("sslmode= is one of disable, require, verify-ca, verify-full".into())),
        };
        if config.get_user().is_none() {
            config.user(std::env::var("PGUSER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "smtp".into()));
        }
        config
            .ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(ADDRESS)
            .keepalives_idle(SILENCE)
            .tcp_user_timeout(SILENCE)
            .application_name("smtp");
        let mut servers = alone(&config).map_err(|what| wrong(what.into()))?;
        for server in servers.iter_mut().filter(|server| server.get_password().is_none()) {
            if let Some(password) = password(server, passfile.as_deref()) {
                server.password(password);
            }
        }
        let base = without_password(base);
        let shown = if shown.is_empty() { base } else { format!("{base}?{}", shown.join("&")) };
        Ok(Self {
            name: "smtp".into(),
            lease: Duration::from_secs(60),
            limits: Limits::default(),
            bodies: None,
            tls: None,
            servers,
            encrypted,
            ca,
            schema,
            shown,
        })
    }

    /// The URL, without a password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// Whether [`PgSettings::tls`] is needed.
    #[must_use]
    pub const fn wants_tls(&self) -> bool {
        self.encrypted
    }

    /// The CA certificates that `sslrootcert=` names; without it, those of the system are meant.
    #[must_use]
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// What connects to it. Nothing is connected yet.
    pub(super) fn servers(&self) -> Result<Servers, OpenError> {
        let tls = match (&self.tls, self.encrypted) {
            (Some(tls), true) => Some(MakeRustlsConnect::new(ClientConfig::clone(tls))),
            (None, true) => return Err(OpenError::Url { what: "TLS is wanted, and there is no setting of it".into() }),
            (_, false) => None,
        };
        Ok(Servers::new(self.servers.clone(), tls, self.session()))
    }

    /// What holds for every session: where the tables are; that a commit is on disk when it returns; that a node which
    /// hangs in the middle of a transaction lets go of its locks; that the server ends a statement that nobody waits for any
    /// more, which a commit's wait for a standby is not a part of; that it tells when such a wait was ended; that what is
    /// asked for by an index is found by it, also right after the tables were empty.
    fn session(&self) -> String {
        let idle = (self.lease / 2).clamp(Duration::from_secs(2), PATIENCE).as_millis();
        let statement = (rows::PATIENCE * 2).as_millis();
        format!(
            "SET search_path TO {}; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; \
             SET idle_in_transaction_session_timeout TO {idle}; \
             SET statement_timeout TO {statement}; \
             SET client_min_messages TO warning; \
             SET enable_seqscan TO off; \
             SET default_transaction_isolation TO 'read committed'",
            self.schema
        )
    }
}

/// The same settings for each of the hosts.
fn alone(config: &Config) -> Result<Vec<Config>, &'static str> {
    let (names, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = names.len().max(addresses.len());
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err("there have to be as many hostaddr= as hosts");
    }
    if ports.len() > 1 && ports.len() != count {
        return Err("there have to be as many ports as hosts");
    }
    let server = |n: usize| {
        let mut server = Config::new();
        match names.get(n) {
            Some(Host::Tcp(name)) => drop(server.host(name)),
            Some(Host::Unix(path)) => drop(server.host_path(path)),
            None => {}
        }
        addresses.get(n).map(|address| server.hostaddr(*address));
        ports.get(n).or(ports.first()).map(|port| server.port(*port));
        config.get_user().map(|user| server.user(user));
        config.get_password().map(|password| server.password(password));
        config.get_dbname().map(|name| server.dbname(name));
        config.get_options().map(|options| server.options(options));
        config.get_application_name().map(|name| server.application_name(name));
        config.get_connect_timeout().map(|time| server.connect_timeout(*time));
        config.get_tcp_user_timeout().map(|time| server.tcp_user_timeout(*time));
        config.get_keepalives_interval().map(|time| server.keepalives_interval(time));
        config.get_keepalives_retries().map(|count| server.keepalives_retries(count));
        server
            .ssl_mode(config.get_ssl_mode())
            .ssl_negotiation(config.get_ssl_negotiation())
            .channel_binding(config.get_channel_binding())
            .keepalives(config.get_keepalives())
            .keepalives_idle(config.get_keepalives_idle())
            .target_session_attrs(config.get_target_session_attrs());
        server
    };
    Ok((0..count).map(server).collect())
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

/// The URL's part before `?`, without what stands between a colon and the last `@`.
fn without_password(base: &str) -> String {
    let Some((scheme, rest)) = base.split_once("://") else { return base.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{hosts}{path}")
        }
        None => base.to_owned(),
    }
}

/// The text with `%xx` replaced.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut rest = bytes.clone();
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|n| u8::try_from(n).ok());
        match (byte, hex(rest.next()), hex(rest.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                bytes = rest;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A password that does not stand in the URL: from the environment, or a file as libpq has it.
fn password(config: &Config, passfile: Option<&Path>) -> Option<String> {
    if let Ok(password) = std::env::var("PGPASSWORD") {
        return Some(password);
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    let path =
        passfile.map(Path::to_owned).or_else(|| std::env::var_os("PGPASSFILE").map(PathBuf::from)).or_else(home)?;
    let found = std::fs::metadata(&path).ok()?;
    if std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "others can read this password file, so it is not used; chmod 600 helps");
        return None;
    }
    let host = match config.get_hosts().first()? {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5_432).to_string();
    let user = config.get_user()?;
    from_passfile(&std::fs::read_to_string(&path).ok()?, [&host, &port, config.get_dbname().unwrap_or(user), user])
}

/// The last field of the first line whose others fit: `host:port:database:user:password`, `*` fits all, and `\` stands
/// before a colon that separates nothing.
fn from_passfile(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = vec![String::new()];
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                ':' if fields.len() < 5 => fields.push(String::new()),
                '\\' => fields.last_mut()?.extend(chars.next()),
                c => fields.last_mut()?.push(c),
            }
        }
        let password = fields.get(4)?.clone();
        let fits = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        fits.then_some(password)
    })
}

/// What an error of the client means, with what is below it.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let below = error.to_string();
        if !text.contains(&below) {
            text = format!("{text}: {below}");
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_what_a_url_without_a_word_about_it_gets_beyond_this_machine() {
        for (url, tls) in [
            ("postgres://smtp@localhost/mail", false),
            ("postgres://smtp@127.0.0.1:5433/mail", false),
            ("postgres:///mail?host=/run/postgresql&user=smtp", false),
            ("postgres://smtp@db.example/mail", true),
            ("postgres://smtp@localhost,db.example/mail", true),
            ("postgres://smtp@db.example/mail?sslmode=disable", false),
            ("postgres://smtp@localhost/mail?sslmode=require", true),
            ("postgres://smtp@localhost/mail?sslmode=verify-full&sslrootcert=/etc/ca%20s.pem", true),
        ] {
            assert_eq!(PgSettings::new(url).unwrap().wants_tls(), tls, "{url}");
        }
        let settings = PgSettings::new("postgres://a@h/d?sslrootcert=/etc/ca%20s.pem").unwrap();
        assert_eq!(settings.ca(), Some(Path::new("/etc/ca s.pem")));
        assert!(settings.servers().is_err(), "connected in clear though TLS is wanted");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_is_repeated() {
        for (url, part) in [
            ("mysql://jo:hunter2@h/d", "postgres://"),
            ("postgres://jo:hunter2@h/d?sslmode=prefer", "protect from nobody"),
            ("postgres://jo:hunter2@h/d?sslmode=x", "is one of disable"),
            ("postgres://jo:hunter2@h/d?schema=Mail", "small letters"),
            ("postgres://jo:hunter2@h/d?schema=a;b", "small letters"),
            ("postgres://jo:hunter2@h/d?nonsense=1", "nonsense"),
            ("postgres:///d?user=jo&password=hunter2", "no host"),
            ("postgres://jo:hunter2@a,b/d?hostaddr=127.0.0.1", "as many hostaddr="),
            ("postgres://jo:hunter2@a,b/d?port=1", "as many ports"),
        ] {
            let error = PgSettings::new(url).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("hunter2"), "{url}: {error}");
        }
        for url in ["postgres://jo:hun:t%40er2@h:5/d?schema=x", "postgres://jo@h/d?password=hunter2&schema=x"] {
            let settings = PgSettings::new(url).unwrap();
            for text in [settings.url().to_owned(), format!("{settings:?}")] {
                assert!(text.contains("jo@h") && text.contains("schema=x"), "{text}");
                assert!(!text.contains("hun") && !text.contains("er2"), "{text}");
            }
        }
    }

    #[test]
    fn each_host_has_its_port_and_its_password() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"a:5433:*:jo:one\nb:5432:*:jo:two\n").unwrap();
        let url = format!("postgres://jo@a:5433,b/d?passfile={}", file.path().display());
        let servers = PgSettings::new(&url).unwrap().servers;
        let shown: Vec<_> = servers.iter().map(|server| (server.get_ports()[0], server.get_password())).collect();
        assert_eq!(shown, [(5_433, Some(&b"one"[..])), (5_432, Some(&b"two"[..]))]);
    }

    #[test]
    fn a_password_file_is_read_as_libpq_reads_it() {
        let text = "# none\nother:5432:mail:smtp:no\n*:*:mail:smtp:a\\:b\\\\c:d\n*:*:*:*:last\n";
        let wanted = |host, database| from_passfile(text, [host, "5432", database, "smtp"]);
        assert_eq!(wanted("db", "mail").as_deref(), Some("a:b\\c:d"));
        assert_eq!(wanted("other", "mail").as_deref(), Some("no"));
        assert_eq!(wanted("db", "x").as_deref(), Some("last"));
        assert_eq!(from_passfile("a:b:c\n", ["a", "b", "c", "d"]), None);
    }
}
