//! Where the queue is kept: nowhere, on this machine, or in a database that several nodes share.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use smtp_queue::{Limits, Spool, SqliteSpool};

use super::Plan;
use super::bodies::Bodies;
use crate::exit::{Exit, Failure};
use crate::values::{Hidden, Wait};

/// Where the queue is kept, as it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spooling {
    /// There is none: no mail is relayed.
    None,
    /// In SQLite, in this folder, or in the usual one.
    Sqlite(Option<PathBuf>),
    /// In PostgreSQL. There may be a password in the URL.
    Postgres(Hidden),
}

impl FromStr for Spooling {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("none", "") => Ok(Self::None),
            ("sqlite", "") => Ok(Self::Sqlite(None)),
            ("sqlite", path) => Ok(Self::Sqlite(Some(path.into()))),
            ("postgres" | "postgresql", _) => text.parse().map(Self::Postgres).map_err(|never| match never {}),
            _ => Err("a queue is none, sqlite (in DATA_DIR/queue), sqlite:FOLDER, or postgres://USER@HOST/DATABASE"),
        }
    }
}

impl<'de> Deserialize<'de> for Spooling {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the queue is, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In this folder.
    Folder(PathBuf),
    /// In a database server.
    Shared(Shared),
}

/// A queue that several nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    url: Hidden,
    /// Where large bodies are, if not in their rows.
    bodies: Option<Bodies>,
    lease: Option<Wait>,
}

impl Place {
    /// The place that the options name; `None` if they want no queue.
    ///
    /// # Errors
    /// If they do not go together, or the URL is none.
    pub(super) fn new(
        spooling: Spooling,
        usual: PathBuf,
        bodies: Option<Bodies>,
        lease: Option<Wait>,
    ) -> Result<Option<Self>, Failure> {
        let is_shared = matches!(spooling, Spooling::Postgres(_));
        if !is_shared && (bodies.is_some() || lease.is_some()) {
            return Err(Failure::usage("--queue-bodies and --queue-lease are for a queue that several nodes share")
                .help("--queue postgres://USER@HOST/DATABASE names one"));
        }
        Ok(match spooling {
            Spooling::None => None,
            Spooling::Sqlite(folder) => Some(Self::Folder(folder.unwrap_or(usual))),
            Spooling::Postgres(url) => {
                let shared = Shared { url, bodies, lease };
                shared.check()?;
                Some(Self::Shared(shared))
            }
        })
    }

    /// Opens it.
    ///
    /// # Errors
    /// If it cannot be used.
    pub(super) async fn open(&self, plan: &Plan, limits: Limits) -> Result<Arc<dyn Spool>, Failure> {
        match self {
            Self::Folder(folder) => {
                let spool = SqliteSpool::open(folder, limits).map_err(|error| Failure::new(Exit::Io, error))?;
                Ok(Arc::new(spool))
            }
            Self::Shared(shared) => shared.open(plan, limits).await,
        }
    }

    /// Whether everybody who lists this machine's processes sees its password.
    pub(super) fn is_on_the_command_line_with_a_password(&self) -> bool {
        let Self::Shared(shared) = self else { return false };
        let (url, shown) = (shared.url.expose(), shared.shown());
        url != shown && std::env::args().any(|word| word == url || word.strip_prefix("--queue=") == Some(url))
    }

    /// Where large bodies are, if not in their rows.
    pub(super) fn bodies(&self) -> Option<&Bodies> {
        match self {
            Self::Folder(_) => None,
            Self::Shared(shared) => shared.bodies.as_ref(),
        }
    }

    /// How long a node's work is its own, if there are others.
    pub(super) fn lease(&self) -> Option<Wait> {
        match self {
            Self::Folder(_) => None,
            Self::Shared(shared) => shared.lease,
        }
    }
}

impl fmt::Display for Place {
    /// As it reads back, but for a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "sqlite:{}", folder.display()),
            Self::Shared(shared) => f.write_str(&shared.shown()),
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::time::Duration;

    use smtp_core::stream::Verification;
    use smtp_queue::{PgSettings, PgSpool};
    use smtp_tls::ClientTls;

    use super::{Arc, Bodies, Exit, Failure, Limits, Plan, Shared, Spool};

    /// The shortest lease: a node has to be able to renew it in time.
    const LEASE_MIN: Duration = Duration::from_secs(1);

    impl Shared {
        fn settings(&self) -> Result<PgSettings, Failure> {
            PgSettings::new(self.url.expose()).map_err(|error| {
                Failure::config(format!("--queue: {error}"))
                    .help("as postgres://smtp@db.example/mail; docs/queue-postgres.md tells more")
            })
        }

        pub(super) fn check(&self) -> Result<(), Failure> {
            self.settings()?;
            self.bodies.as_ref().map_or(Ok(()), Bodies::check)?;
            match self.lease {
                Some(lease) if lease.0 < LEASE_MIN => Err(Failure::config("--queue-lease: less than a second")),
                _ => Ok(()),
            }
        }

        pub(super) fn shown(&self) -> String {
            self.settings().map(|settings| settings.url().to_owned()).unwrap_or_default()
        }

        pub(super) async fn open(&self, plan: &Plan, limits: Limits) -> Result<Arc<dyn Spool>, Failure> {
            let mut settings = self.settings()?;
            if settings.wants_tls() {
                let tls = match settings.ca() {
                    Some(ca) => ClientTls::builder().ca_file(ca),
                    None => ClientTls::builder(),
                };
                let config = tls.build().and_then(|tls| tls.config(&Verification::Pkix));
                settings.tls = Some(config.map_err(|error| Failure::config(format!("--queue: {error}")))?);
            }
            settings.name = plan.hostname.to_string();
            settings.limits = limits;
            settings.lease = self.lease.map_or(settings.lease, |lease| lease.0);
            settings.bodies = self.bodies.as_ref().map(Bodies::open).transpose()?;
            if settings.bodies.is_none() {
                tracing::info!(
                    "large messages are in the database too; --queue-bodies names a folder or a bucket for them"
                );
            }
            let spool = PgSpool::open(settings).await;
            Ok(Arc::new(spool.map_err(|error| {
                let failure = Failure::new(Exit::Unavailable, &error);
                match way_out(&error.to_string()) {
                    Some(help) => failure.help(help),
                    None => failure,
                }
            })?))
        }
    }

    /// What helps where the server, or what it says to TLS, is not as the URL has it.
    fn way_out(why: &str) -> Option<&'static str> {
        let known = [
            ("UnknownIssuer", "sslrootcert=FILE in the URL names the certificate of the CA that signed the server's"),
            ("not valid for name", "the URL has to name the server as its certificate does"),
            (
                "does not support TLS",
                "`ssl = on` in its postgresql.conf, or sslmode=disable in the URL where nobody can listen",
            ),
            (
                "password missing",
                "PGPASSWORD has it, or a line HOST:PORT:DATABASE:USER:PASSWORD in ~/.pgpass or in the file that passfile= \
                 in the URL names, for its owner alone (chmod 600)",
            ),
            ("large bodies are not in the store", "--queue-bodies has to name the one that the other nodes name"),
            ("does not allow writes", "a standby cannot be written: the URL has to name its primary, too"),
        ];
        known.iter().find(|(what, _)| why.contains(what)).map(|(_, help)| *help)
    }
}

#[cfg(not(feature = "postgres"))]
impl Shared {
    fn check(&self) -> Result<(), Failure> {
        Err(Failure::config("--queue: this program was built without PostgreSQL"))
    }

    fn shown(&self) -> String {
        "postgres:".into()
    }

    async fn open(&self, _: &Plan, _: Limits) -> Result<Arc<dyn Spool>, Failure> {
        Err(Failure::config("--queue: this program was built without PostgreSQL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_what_they_write_but_for_a_password() {
        let place = |text: &str| Place::new(text.parse().unwrap(), "usual".into(), None, None).unwrap();
        assert_eq!(place("none"), None);
        for (text, shown) in [
            ("sqlite", "sqlite:usual"),
            ("sqlite:/var/queue", "sqlite:/var/queue"),
            #[cfg(feature = "postgres")]
            ("postgres://jo:hunter2@db.example/mail", "postgres://jo@db.example/mail"),
        ] {
            let place = place(text).unwrap();
            assert_eq!(place.to_string(), shown);
            assert!(!format!("{place:?}").contains("hunter2"));
        }
        assert!("mysql://x".parse::<Spooling>().is_err());
    }

    #[test]
    fn what_is_for_shared_queues_is_refused_for_others() {
        let lease = Some(Wait(std::time::Duration::from_secs(60)));
        assert!(Place::new(Spooling::Sqlite(None), "usual".into(), None, lease).is_err());
        assert!(Place::new(Spooling::None, "usual".into(), Some("bodies".parse().unwrap()), None).is_err());
    }
}
