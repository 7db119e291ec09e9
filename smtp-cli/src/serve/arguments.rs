//! The options of `smtp serve`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use smtp_core::types::{Domain, Mailbox};

use super::bodies::Bodies;
use super::hop::{Hop, Route};
use super::limit::LimitOf;
use super::local::{QuotaOf, Separator};
use super::owed::TlsRule;
use super::run_as::RunAs;
use super::spooling::Spooling;
use crate::logging::{Format, Level};
use crate::settings::layered;
use crate::source::SourceAddress;
use crate::terms::TermsArguments;
use crate::transport::EarlyDataChoice;
use crate::url::Url;
use crate::values::{self, Hidden, Many, Size, Wait};

/// Runs a mail server: accepts mail for local domains and stores it in Maildir folders.
///
/// Without options it listens on this machine only, takes mail for anybody at localhost, and keeps everything in
/// ./smtp-data.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Arguments {
    /// Where to listen; may be repeated. Default: smtp://127.0.0.1:2525 and smtp+quic://127.0.0.1:2525.
    ///
    /// smtp://address:port offers STARTTLS; with ?tls=required it takes no mail before it (530), with ?tls=none it
    /// offers none. smtps://address:port is TLS from the first octet. The ports are 25 and 465 if none is named; 0 is
    /// a free one. smtp+quic://address:port is QUIC, with ?service=submission for mail from its authors.
    /// smtp+unix:///path, smtp+ws://address:port and smtp+wss://… are a Unix socket and WebSockets. lmtp://address:port
    /// and lmtp+unix:///path speak LMTP, with an answer for each recipient, never on port 25. pipe: serves one
    /// session on standard input and output, as inetd wants it; fd:name takes sockets that a service manager opened.
    /// ?role=mx takes mail from other hosts, where nobody authenticates; ?role=submission from users who do. Without
    /// it a listener does both. ?proxy=NETWORK is for proxies: connections come from there and begin with a PROXY
    /// header. ?xclient=NETWORK, ?xclient-login=NETWORK and ?xforward=NETWORK let hosts there speak for others.
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "values::list")]
    pub(super) listen: Vec<Many<Url>>,

    /// The name to greet with and to write into Received. Default: the system's.
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "values::parsed")]
    pub(super) hostname: Option<Domain>,

    /// A domain to take mail for; may be repeated. Default: localhost. The first is where a bare Postmaster lives.
    #[arg(long, value_name = "DOMAIN")]
    #[serde(deserialize_with = "values::list")]
    pub(super) domain: Vec<Many<Domain>>,

    /// A mailbox to take mail for; may be repeated. Then no others exist, but for postmaster.
    ///
    /// Without it every local part of the domains is taken.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::list")]
    pub(super) mailbox: Vec<Many<Mailbox>>,

    /// Addresses that stand for others, in a file of lines `name: target, target`. SIGHUP reads it again.
    ///
    /// A name without a domain holds in every local domain; @DOMAIN takes what nobody else there does, where mailboxes
    /// are listed. A target is a mailbox, an address elsewhere, or a |command that stands alone; the last two need a
    /// queue. The file belongs to whoever may run programs: everything in it is done.
    #[arg(long, value_name = "FILE")]
    pub(super) alias_file: Option<PathBuf>,

    /// What stands before a tag: mail to jo+tag is for jo, unless there is a jo+tag. One character, or none. Default: +.
    #[arg(long, value_name = "CHARACTER")]
    pub(super) tag_separator: Option<Separator>,

    /// How much a mailbox may hold: [ADDRESS=]SIZE, SIZE/MESSAGES, /MESSAGES or none; may be repeated. Default: none.
    ///
    /// Without an address it is for every mailbox that has no quota of its own, but for postmaster's.
    #[arg(long, value_name = "QUOTA")]
    #[serde(deserialize_with = "values::list")]
    pub(super) quota: Vec<Many<QuotaOf>>,

    /// The user that programs run as which take mail. Default: the one that this server runs as, but never root.
    #[arg(long, value_name = "NAME")]
    pub(super) program_user: Option<String>,

    /// Where mail, keys and certificates are kept. Default: ./smtp-data.
    ///
    /// Mail lands in DIR/mail/DOMAIN/USER/{tmp,new,cur}.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// Become this user once the ports are bound and the keys are read, for a server that root starts: USER or USER:GROUP.
    ///
    /// The data folder has to belong to the user; one that is not there yet is made so. What SIGHUP reads again the
    /// user has to be able to read.
    #[arg(long, value_name = "USER")]
    #[serde(deserialize_with = "values::parsed")]
    pub(super) run_as: Option<RunAs>,

    /// Users that may authenticate, in a file that `smtp user` writes. SIGHUP reads it again, unless there was no user
    /// at the start.
    #[arg(long, value_name = "FILE")]
    pub(super) user_file: Option<PathBuf>,

    /// A user that may authenticate; may be repeated. Split at the first colon.
    ///
    /// Other users of this machine can see a command line: for trying out only.
    #[arg(long, value_name = "NAME:PASSWORD")]
    #[serde(deserialize_with = "values::list")]
    pub(super) user: Vec<Hidden>,

    /// The largest message, in octets or as 10M. Default: 35M.
    #[arg(long, value_name = "OCTETS")]
    pub(super) max_size: Option<Size>,

    /// The certificate for TLS, in PEM, its own first. Default: a self-signed one, made on the first run.
    #[arg(long, value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,

    /// The key of the certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,

    /// Ask clients for a certificate by a CA in this PEM file, so that users can be known by it (AUTH EXTERNAL).
    ///
    /// Whose certificate it is the user file says. Take a CA that issues for this purpose only.
    #[arg(long, value_name = "FILE")]
    pub(super) tls_client_ca: Option<PathBuf>,

    /// Write the sessions' TLS keys to the file that SSLKEYLOGFILE names. Whoever reads it reads the mail.
    #[arg(long)]
    pub(super) tls_key_log: bool,

    /// Whether QUIC clients that come back may send before the handshake is complete. Default: off.
    ///
    /// What they send so early is held back until the handshake shows that it is no replay.
    #[arg(long, value_name = "CHOICE", value_enum)]
    pub(super) early_data: Option<EarlyDataChoice>,

    /// Write a qlog file of each QUIC connection into this folder.
    #[arg(long, value_name = "DIR")]
    pub(super) qlog_dir: Option<PathBuf>,

    /// Where mail for others waits: sqlite, which is in DIR/queue of the data folder, sqlite:FOLDER, none, or
    /// postgres://USER@HOST/DATABASE, which several nodes share.
    ///
    /// With a queue users who have authenticated may send to anybody; without one nobody may. Default: none, but sqlite
    /// with --relay-host, --route or --relay-domain.
    #[arg(long, value_name = "QUEUE")]
    pub(super) queue: Option<Spooling>,

    /// Where messages over 256 KiB wait that are in a queue in PostgreSQL: a folder that all nodes see, for none but this
    /// program, or s3://BUCKET/PREFIX. Default: in the database.
    ///
    /// Keys, region and endpoint of a bucket are in the environment (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL and
    /// so on). It takes a program that was built with the feature s3.
    #[arg(long, value_name = "PLACE")]
    pub(super) queue_bodies: Option<Bodies>,

    /// A socket at which programs of all users of this machine hand in mail by `smtp sendmail`. Default: none, so that only
    /// this server's user and root can.
    ///
    /// Whoever is on this machine may then send mail from any address to any other, without a password, as sendmail
    /// always had it. At /run/smtp/sendmail.sock it is found by itself. Needs a queue.
    #[arg(long, value_name = "FILE")]
    pub(super) sendmail_socket: Option<PathBuf>,

    /// How long a node that says nothing keeps its part of a queue in PostgreSQL, until others take it over. Default: 1m.
    #[arg(long, value_name = "TIME")]
    pub(super) queue_lease: Option<Wait>,

    /// Hand all mail for others to this server instead of looking up whom the DNS says: URL [KEY=VALUE…].
    ///
    /// Keys: user and password-file, auth (a SASL mechanism; EXTERNAL needs no password), tls-cert and tls-key (the
    /// certificate to show it), tls-ca or pin or the word insecure (how its own is checked), hello (the name to greet
    /// with). ?source=ADDRESS in the URL is where to connect from. Who logs in does so only under TLS with a verified certificate.
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "values::parsed")]
    pub(super) relay_host: Option<Hop>,

    /// Hand mail for a destination to this server: DESTINATION=URL [KEY=VALUE…]; or to a program: DESTINATION=|COMMAND;
    /// may be repeated.
    ///
    /// A destination is a domain, or a dot and a domain for all below it. The keys are those of --relay-host. A command is
    /// a program's full path and its arguments, in which {user}, {tag}, {domain}, {recipient} and {sender} are filled in;
    /// there is no shell.
    #[arg(long, value_name = "DESTINATION=URL")]
    #[serde(deserialize_with = "values::list")]
    pub(super) route: Vec<Many<Route>>,

    /// A domain that is not local and whose mail everybody may send here; may be repeated. It is passed on.
    #[arg(long, value_name = "DOMAIN")]
    #[serde(deserialize_with = "values::list")]
    pub(super) relay_domain: Vec<Many<Domain>>,

    /// What is asked of TLS on the way to hosts that the DNS names: POLICY, or DESTINATION=POLICY; may be repeated.
    /// Default: opportunistic.
    ///
    /// opportunistic takes TLS where it is offered, and is content with any certificate. required wants a certificate for
    /// the host's name that the system's anchors vouch for. dane holds hosts to their TLSA records under DNSSEC, sts to
    /// their domain's MTA-STS policy, dane+sts to both, of which DANE counts first; where nothing is published they are
    /// opportunistic. Mail for a destination whose hosts all fall short waits. A destination is a domain, or a dot and a
    /// domain for all below it.
    #[arg(long, value_name = "POLICY")]
    #[serde(deserialize_with = "values::list")]
    pub(super) tls_policy: Vec<Many<TlsRule>>,

    /// Validate signatures in the DNS, for mail that has to go to hosts that are known for sure (REQUIRETLS). Default: only
    /// with dane in --tls-policy.
    ///
    /// The name servers have to pass DNSSEC records on; they are not trusted.
    #[arg(long)]
    pub(super) dnssec: bool,

    /// DNSKEY records to trust, in a file, in place of the keys of the DNS's root. It turns --dnssec on.
    #[arg(long, value_name = "FILE")]
    pub(super) dnssec_anchor: Option<PathBuf>,

    /// After how long mail is tried again: after the first failure, the second…; the last counts for all that follow.
    /// Default: 1m,5m,15m,30m,1h,2h,4h.
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::list")]
    pub(super) queue_retry: Vec<Many<Wait>>,

    /// After how long mail is given up and its sender told. Default: 5d.
    #[arg(long, value_name = "TIME")]
    pub(super) queue_lifetime: Option<Wait>,

    /// After how long a sender is told that mail is delayed. Default: 4h.
    #[arg(long, value_name = "TIME")]
    pub(super) queue_delay_notice: Option<Wait>,

    /// How many messages are on their way to a destination at once, and how many leave for it in a time: [DESTINATION=]N,
    /// 'N MESSAGES/TIME' or MESSAGES/TIME; may be repeated. Default: 20, as many as it likes in a time.
    ///
    /// Without a destination it is for all that have no limit of their own. One begins with 5, or fewer if that is its limit,
    /// and has one more after each round that went well. A destination is what `smtp queue list` shows: a domain, or relay:.
    #[arg(long, value_name = "LIMIT")]
    #[serde(deserialize_with = "values::list")]
    pub(super) destination_limit: Vec<Many<LimitOf>>,

    /// A domain whose mail a host may ask for by ETRN (RFC 1985); may be repeated. Needs a queue.
    ///
    /// It is tried again at once, on the way that it always goes; at most once in five minutes. Hosts below the domain
    /// may be asked for too. Not on ?role=submission.
    #[arg(long, value_name = "DOMAIN")]
    #[serde(deserialize_with = "values::list")]
    pub(super) etrn: Vec<Many<Domain>>,

    #[command(flatten)]
    #[serde(skip)]
    pub(super) terms: TermsArguments,

    /// A name server to ask, as address:port; may be repeated. Default: those of the system.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::list")]
    pub(super) dns: Vec<Many<SocketAddr>>,

    /// An address by which this host is known, beside those of its interfaces; may be repeated. No mail is sent to it.
    #[arg(long, value_name = "IP")]
    #[serde(deserialize_with = "values::list")]
    pub(super) own_address: Vec<Many<IpAddr>>,

    /// The address of this machine from which other hosts are connected to, over TCP and QUIC: one IPv4 and one IPv6
    /// address. Default: the system's choice.
    ///
    /// With an address of one family alone no host is connected to over the other. 0.0.0.0 and :: leave the choice to the
    /// system, within their family. A route or relay host whose URL has ?source=ADDRESS is connected to from there.
    #[arg(long, value_name = "IP")]
    #[serde(deserialize_with = "values::list")]
    pub(super) source_address: Vec<Many<SourceAddress>>,

    /// The port at which other hosts take mail, for networks of tests. Default: 25.
    #[arg(long, value_name = "PORT")]
    pub(super) mx_port: Option<u16>,

    /// The CAs that the certificates of other mail hosts and of MTA-STS servers are held against, in PEM. Default: the
    /// system's.
    #[arg(long, value_name = "FILE")]
    pub(super) mx_tls_ca: Option<PathBuf>,

    /// The port at which MTA-STS policies are fetched, for networks of tests. Default: 443.
    #[arg(long, value_name = "PORT")]
    pub(super) mx_sts_port: Option<u16>,

    /// How long open transactions may go on after SIGTERM, in seconds. Default: 30.
    #[arg(long, value_name = "SECONDS")]
    pub(super) drain_deadline: Option<Wait>,

    /// How much is logged. Default: info.
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub(super) log: Option<Level>,

    /// What log lines look like. Default: text.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(super) log_format: Option<Format>,

    /// Log more; may be repeated.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    /// Read options from this TOML file; its keys are their names.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,
}

layered!(Arguments {
    listen,
    hostname,
    domain,
    mailbox,
    alias_file,
    tag_separator,
    quota,
    program_user,
    data_dir,
    run_as,
    user_file,
    user,
    max_size,
    tls_cert,
    tls_key,
    tls_client_ca,
    tls_key_log,
    early_data,
    qlog_dir,
    queue,
    queue_bodies,
    queue_lease,
    sendmail_socket,
    relay_host,
    route,
    relay_domain,
    tls_policy,
    dnssec,
    dnssec_anchor,
    queue_retry,
    queue_lifetime,
    queue_delay_notice,
    destination_limit,
    etrn,
    dns,
    own_address,
    source_address,
    mx_port,
    mx_tls_ca,
    mx_sts_port,
    drain_deadline,
    log,
    log_format,
    verbose,
} with { terms } except {});

/// What stands below the options in `smtp serve --help`.
pub(crate) const MORE_HELP: &str = "\
On standard output there is a line `listening URL` for each listener, once it accepts; all else is on standard error. \
With --listen pipe: standard output is the session's.

SIGTERM and SIGINT end it: a client hears 421 at its next command, and may finish what it is sending. A second one \
ends it at once.

SIGHUP reads the certificates, the user file and the alias file again, and from the configuration file domains, mailboxes, \
quotas, routes, TLS policies and the relay host; sessions go on. What mechanisms AUTH offers is decided at the start: a server that had no user then has no \
AUTH and does not read the file again; nor does it come to offer EXTERNAL with the first certificate or uid, or \
SCRAM-SHA-1 or CRAM-MD5 once all users can use them. A restart does.

With a queue, programs of this server's user can hand in mail by `smtp sendmail`, and `smtp queue` shows what waits.

Examples:
  smtp serve
  smtp serve --listen smtp://0.0.0.0:25 --domain example.org --hostname mx.example.org
  smtp user add me && smtp serve --mailbox me@localhost --user-file smtp-data/users --listen smtps://127.0.0.1:4465
  smtp serve --listen 'smtps://0.0.0.0:465?role=submission' --user-file users --relay-host smtps://mail.example.net
  smtp serve --listen smtp+unix:///run/smtp.sock --listen smtp+quic://127.0.0.1:4443
  systemd-socket-activate -l 2525 smtp serve --listen fd:";
