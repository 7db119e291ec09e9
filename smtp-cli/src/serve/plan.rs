//! What the options of `smtp serve` mean.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use smtp_core::extension::Terms;
use smtp_core::session::server::Limits;
use smtp_core::stream::LocalAddresses;
use smtp_core::types::{Domain, Mailbox};
use smtp_queue::Schedule;

use super::DATA_DIR;
use super::arguments::Arguments;
use super::hop::{Hop, Route};
use super::limit::LimitOf;
use super::local::{QuotaOf, Separator};
use super::owed::TlsRule;
use super::run_as::RunAs;
use super::spooling::{Place, Spooling};
use crate::exit::Failure;
use crate::listen;
use crate::source::{self, SourceAddress};
use crate::terms;
use crate::transport::Quic;
use crate::url::Url;
use crate::values::{Hidden, Many, Size, Wait, flatten};

/// The settings with their defaults, checked as far as they can be alone.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) urls: Vec<Url>,
    pub(super) hostname: Domain,
    /// At least one.
    pub(super) domains: Vec<Domain>,
    /// Empty: every local part.
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) alias_file: Option<PathBuf>,
    pub(super) separator: Separator,
    pub(super) quotas: Vec<QuotaOf>,
    pub(super) program_user: Option<String>,
    pub(super) data_dir: PathBuf,
    pub(super) run_as: Option<RunAs>,
    pub(super) user_file: Option<PathBuf>,
    pub(super) users: Vec<Hidden>,
    pub(super) max_size: Option<Size>,
    pub(super) identity: Option<smtp_tls::Identity>,
    /// The files that it is in.
    pub(super) identity_files: Option<(PathBuf, PathBuf)>,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) key_log: bool,
    pub(super) quic: Quic,
    pub(super) drain: Option<Wait>,
    /// Where the queue is, if there is one.
    pub(super) queue: Option<Place>,
    /// Where programs of all users hand in mail.
    pub(super) sendmail_socket: Option<PathBuf>,
    pub(super) relay_host: Option<Hop>,
    pub(super) routes: Vec<Route>,
    pub(super) relay_domains: Vec<Domain>,
    pub(super) tls_policies: Vec<TlsRule>,
    pub(super) dnssec: bool,
    pub(super) dnssec_anchor: Option<PathBuf>,
    pub(super) schedule: Schedule,
    /// What the schedule has of destinations.
    pub(super) limits: Vec<LimitOf>,
    /// For which domains ETRN starts the queue.
    pub(super) etrn: Vec<Domain>,
    /// On what terms extensions are offered.
    pub(super) terms: Terms,
    pub(super) dns: Vec<SocketAddr>,
    pub(super) own_addresses: Vec<IpAddr>,
    /// Where to connect from, unless a route says otherwise.
    pub(super) source: LocalAddresses,
    pub(super) mx_port: Option<u16>,
    pub(super) mx_tls_ca: Option<PathBuf>,
    pub(super) mx_sts_port: Option<u16>,
}

/// The addresses to connect from, one of each family.
///
/// # Errors
/// If there are two of one.
fn sources(given: Vec<Many<SourceAddress>>) -> Result<LocalAddresses, Failure> {
    let mut sources = LocalAddresses::default();
    for address in flatten(given) {
        source::add(&mut sources, address).map_err(|why| {
            Failure::config(format!("--source-address {address}: {why}"))
                .help("a route whose URL has ?source=ADDRESS has one of its own")
        })?;
    }
    Ok(sources)
}

impl Plan {
    pub(super) fn new(arguments: Arguments, urls: Vec<Url>) -> Result<Self, Failure> {
        let name = |text: &str| text.parse::<Domain>().map_err(Failure::config);
        let mut domains = flatten(arguments.domain);
        if domains.is_empty() {
            domains.push(name("localhost")?);
        }
        let hostname = match arguments.hostname {
            Some(hostname) => name(&crate::url::ascii(hostname.as_str()))?,
            // A name that is none under the rules of mail is no reason not to start.
            None => match crate::connect::host_name().and_then(|host| host.parse().ok()) {
                Some(host) => host,
                None => name("localhost")?,
            },
        };
        let data_dir = arguments.data_dir.unwrap_or_else(|| DATA_DIR.into());
        let (routes, relay_domains) = (flatten(arguments.route), flatten(arguments.relay_domain));
        let relays = arguments.relay_host.is_some() || !routes.is_empty() || !relay_domains.is_empty();
        if relays && arguments.queue == Some(Spooling::None) {
            return Err(Failure::usage("--queue none, and mail is to be relayed")
                .help("leave out --queue, or --relay-host, --route and --relay-domain"));
        }
        let spooling = arguments.queue.unwrap_or(if relays { Spooling::Sqlite(None) } else { Spooling::None });
        let queue = Place::new(spooling, data_dir.join("queue"), arguments.queue_bodies, arguments.queue_lease)?;
        let etrn = flatten(arguments.etrn);
        if !etrn.is_empty() && queue.is_none() {
            return Err(Failure::usage("--etrn without a queue").help("--queue sqlite makes one"));
        }
        if arguments.sendmail_socket.is_some() && queue.is_none() {
            return Err(Failure::usage("--sendmail-socket without a queue").help("--queue sqlite makes one"));
        }
        let mut schedule = Schedule::default();
        let retries: Vec<Duration> = flatten(arguments.queue_retry).into_iter().map(|wait: Wait| wait.0).collect();
        if !retries.is_empty() {
            schedule.retries = retries;
        }
        let mut terms = arguments.terms.terms();
        if terms.deliver_by_min == 0 && queue.is_some() {
            // What is not delivered at once is tried again after the first pause, and not before.
            let pause = schedule.retries.first().map_or(0, Duration::as_secs);
            terms.deliver_by_min = u32::try_from(pause).unwrap_or(u32::MAX);
        }
        let limits: Vec<LimitOf> = flatten(arguments.destination_limit);
        for (n, limit) in limits.iter().enumerate() {
            if limits.iter().take(n).any(|before| before.destination == limit.destination) {
                let what = format!("--destination-limit {limit}: there is one for it already");
                return Err(Failure::config(what).help("one for each destination, and one for all others"));
            }
            match &limit.destination {
                Some(destination) => drop(schedule.hops_limits.insert(destination.clone(), limit.limits)),
                None => schedule.hop = limit.limits,
            }
        }
        schedule.lifetime = arguments.queue_lifetime.map_or(schedule.lifetime, |wait| wait.0);
        schedule.delay_notice = arguments.queue_delay_notice.map_or(schedule.delay_notice, |wait| wait.0);
        Ok(Self {
            urls,
            hostname,
            domains,
            mailboxes: flatten(arguments.mailbox),
            alias_file: arguments.alias_file,
            separator: arguments.tag_separator.unwrap_or_default(),
            quotas: flatten(arguments.quota),
            program_user: arguments.program_user,
            data_dir,
            run_as: arguments.run_as,
            user_file: arguments.user_file,
            users: arguments.user,
            max_size: arguments.max_size,
            identity_files: arguments.tls_cert.clone().zip(arguments.tls_key.clone()),
            identity: listen::named_identity(arguments.tls_cert, arguments.tls_key)?,
            client_ca: arguments.tls_client_ca,
            key_log: arguments.tls_key_log,
            quic: Quic::new(arguments.early_data, arguments.qlog_dir)?,
            drain: arguments.drain_deadline,
            queue,
            sendmail_socket: arguments.sendmail_socket,
            relay_host: arguments.relay_host,
            routes,
            relay_domains,
            tls_policies: flatten(arguments.tls_policy),
            dnssec: arguments.dnssec,
            dnssec_anchor: arguments.dnssec_anchor,
            schedule,
            limits,
            etrn,
            terms,
            dns: flatten(arguments.dns),
            own_addresses: flatten(arguments.own_address),
            source: sources(arguments.source_address)?,
            mx_port: arguments.mx_port,
            mx_tls_ca: arguments.mx_tls_ca,
            mx_sts_port: arguments.mx_sts_port,
        })
    }

    pub(super) fn drain_time(&self) -> Duration {
        self.drain.map_or(Duration::from_secs(30), |wait| wait.0)
    }

    pub(super) fn message_size(&self) -> u64 {
        self.max_size.map_or(Limits::default().message_size, |size| size.0)
    }

    /// What holds until the end of the process, and whether it is another in `new`.
    pub(super) fn fixed(&self, new: &Self) -> [(&'static str, bool); 12] {
        [
            ("listen", self.urls != new.urls),
            ("hostname", self.hostname != new.hostname),
            ("data_dir", self.data_dir != new.data_dir),
            ("run_as", self.run_as != new.run_as),
            ("max_size", self.max_size != new.max_size),
            ("queue, queue_bodies, queue_lease", self.queue != new.queue),
            ("sendmail_socket", self.sendmail_socket != new.sendmail_socket),
            ("queue_retry, queue_lifetime, queue_delay_notice, destination_limit", self.schedule != new.schedule),
            ("etrn", self.etrn != new.etrn),
            ("no_soliciting, deliver_by_min, priority_profile, hold_max", !terms::same(&self.terms, &new.terms)),
            ("tls_cert, tls_key", self.identity_files != new.identity_files),
            ("drain_deadline", self.drain != new.drain),
        ]
    }
}
