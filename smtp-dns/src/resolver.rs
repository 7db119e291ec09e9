//! Real name servers.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SVCB;
use hickory_resolver::proto::rr::rdata::svcb::{SvcParamKey, SvcParamValue};
use hickory_resolver::proto::rr::{Name as WireName, RData, Record, RecordType};
use smtp_core::stream::Resolve;
use smtp_core::types::Domain;

use crate::dns::{Dns, resolve};
use crate::{Answer, Kind, LookupError, Mx, Name, Security, Svcb, Tlsa};

/// Settings of a [`Resolver`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name servers to ask, by UDP and, where an answer does not fit, TCP. They have to be ones that follow
    /// delegations for others. Default: none, which means those of the system (`/etc/resolv.conf`).
    pub servers: Vec<SocketAddr>,
    /// Whether signatures are validated here, up to the root's or [`Settings::trust_anchor`]; the name servers have to
    /// pass DNSSEC records on. Without it nothing is ever [`Security::Secure`]: that a name server says so is worth
    /// only what the way to it is worth. Default: false.
    pub validate: bool,
    /// A file of DNSKEY records that are trusted in place of the root's keys, with [`Settings::validate`]. Default: none.
    pub trust_anchor: Option<PathBuf>,
    /// The time for one question to one name server; it is asked twice. Default: 5 s.
    pub timeout: Duration,
    /// The time for all of a lookup, aliases included. Default: 20 s.
    pub total_timeout: Duration,
    /// A lookup with more records than this fails. Default: 100.
    pub max_records: usize,
    /// A lookup that leads over more aliases than this fails. Default: 8.
    pub max_aliases: usize,
    /// How many answers are remembered, each for as long as it says. Default: 8,192.
    pub cache: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            validate: false,
            trust_anchor: None,
            timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(20),
            max_records: 100,
            max_aliases: 8,
            cache: 8_192,
        }
    }
}

/// A resolver that speaks DNS. It has a cache. Clones share it.
///
/// The hosts file and the search list of the system have no part in it: mail is about names in the DNS.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<TokioResolver>,
    settings: Arc<Settings>,
}

impl Resolver {
    /// A resolver. Nothing is sent yet.
    ///
    /// # Errors
    /// If the system's configuration, or the trust anchors, cannot be read.
    pub fn new(settings: Settings) -> io::Result<Self> {
        let unusable = |error: NetError| io::Error::other(format!("no DNS resolver: {error}"));
        let mut builder = if settings.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(unusable)?
        } else {
            let servers = settings.servers.iter().map(|address| server(*address)).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = settings.timeout;
        options.attempts = 1;
        options.validate = settings.validate;
        options.cache_size = settings.cache;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.edns0 = true;
        options.try_tcp_on_error = true;
        if let Some(file) = settings.trust_anchor.as_ref().filter(|_| settings.validate) {
            let anchors = TrustAnchors::from_file(file)
                .map_err(|error| io::Error::other(format!("trust anchors in {}: {error}", file.display())))?;
            // The option of the same name would not have them read.
            builder = builder.with_trust_anchor(Arc::new(anchors));
        }
        let inner = Arc::new(builder.build().map_err(unusable)?);
        Ok(Self { inner, settings: Arc::new(settings) })
    }

    /// hickory takes an alias for bogus that leads to where there is nothing of the kind: it looks for the proof of that
    /// at the alias. So what is bogus is asked for once more where the alias leads, if that is proved itself.
    async fn find<T>(
        &self,
        name: &Name,
        what: (Kind, RecordType),
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Result<Answer<T>, LookupError> {
        let (mut at, mut weakest, mut aliases) = (name.clone(), Security::Secure, 0);
        loop {
            let found = self.find_at(&at, what, &pick).await;
            if matches!(found, Err(LookupError::Bogus { .. })) && aliases < self.settings.max_aliases {
                let read =
                    |data: &RData| if let RData::CNAME(to) = data { Some(Name::found(&plain(to))) } else { None };
                if let Ok(alias) = self.find_at(&at, (what.0, RecordType::CNAME), &read).await
                    && let Some(to) = alias.records.into_iter().next_back()
                {
                    (at, weakest, aliases) = (to, weakest.min(alias.security), aliases + 1);
                    continue;
                }
            }
            let own = || name.as_str().into();
            return match found {
                Ok(answer) => {
                    let alias = answer.alias.or_else(|| (aliases > 0).then_some(at));
                    Ok(Answer { security: answer.security.min(weakest), alias, ..answer })
                }
                Err(LookupError::NotFound { kind, name_exists, security, .. }) => {
                    let security = security.min(weakest);
                    Err(LookupError::NotFound { name: own(), kind, name_exists, security })
                }
                Err(LookupError::Temporary { kind, why, .. }) => Err(LookupError::Temporary { name: own(), kind, why }),
                Err(LookupError::Bogus { kind, .. }) => Err(LookupError::Bogus { name: own(), kind }),
            };
        }
    }

    async fn find_at<T>(
        &self,
        name: &Name,
        (kind, wire): (Kind, RecordType),
        pick: &impl Fn(&RData) -> Option<T>,
    ) -> Result<Answer<T>, LookupError> {
        let temporary = |why: String| LookupError::Temporary { name: name.as_str().into(), kind, why: why.into() };
        let mut absolute = WireName::from_ascii(name.as_str()).map_err(|error| temporary(error.to_string()))?;
        absolute.set_fqdn(true);
        let total = self.settings.total_timeout;
        let lookup = tokio::time::timeout(total, self.inner.lookup(absolute, wire)).await;
        let lookup = lookup.map_err(|_| temporary(format!("no answer within {total:?}")))?;
        let lookup = lookup.map_err(|error| failure(name, kind, error))?;
        self.read(name, &lookup, wire, pick).map_err(|fault| match fault {
            Fault::Bogus => LookupError::Bogus { name: name.as_str().into(), kind },
            Fault::Limit(what, limit) => temporary(format!("more than {limit} {what}")),
        })
    }

    fn read<T>(
        &self,
        name: &Name,
        lookup: &Lookup,
        wire: RecordType,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Result<Answer<T>, Fault> {
        let is = |record: &&Record, kind| record.record_type() == kind;
        let aliases = lookup.answers().iter().filter(|record| is(record, RecordType::CNAME));
        let wanted = lookup.answers().iter().filter(|record| is(record, wire));
        if aliases.clone().count() > self.settings.max_aliases {
            return Err(Fault::Limit("aliases", self.settings.max_aliases));
        }
        if wanted.clone().count() > self.settings.max_records {
            return Err(Fault::Limit("records", self.settings.max_records));
        }
        let mut security = Security::Secure;
        let mut ttl = u32::MAX;
        for record in aliases.chain(wanted.clone()) {
            security = security.min(proved(record.proof).ok_or(Fault::Bogus)?);
            ttl = ttl.min(record.ttl);
        }
        // All records of one kind in an answer are of one name: the last alias, or the one that was asked for.
        let owner = wanted.clone().next().map(|record| plain(&record.name));
        let alias = owner.filter(|owner| owner != name.as_str()).map(|owner| Name::found(&owner));
        let records = wanted.filter_map(|record| pick(&record.data)).collect();
        Ok(Answer { records, security, alias, ttl: Duration::from_secs(ttl.into()) })
    }
}

/// Why an answer cannot be used.
enum Fault {
    Bogus,
    Limit(&'static str, usize),
}

/// `None` for what is forged.
const fn proved(proof: Proof) -> Option<Security> {
    match proof {
        Proof::Secure => Some(Security::Secure),
        // There is no trust anchor, or nobody has looked.
        Proof::Insecure | Proof::Indeterminate => Some(Security::Insecure),
        Proof::Bogus => None,
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    // That something does not exist is believed even if no SOA comes with it.
    NameServerConfig::new(address.ip(), true, connections)
}

fn failure(name: &Name, kind: Kind, error: NetError) -> LookupError {
    let name: Box<str> = name.as_str().into();
    let not_found = |name, code: ResponseCode, security| match code {
        ResponseCode::NoError => LookupError::NotFound { name, kind, name_exists: true, security },
        ResponseCode::NXDomain => LookupError::NotFound { name, kind, name_exists: false, security },
        code => LookupError::Temporary { name, kind, why: code.to_string().into() },
    };
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            // What proves it is in there, if it was validated.
            let proofs = none.authorities.iter().flat_map(|records| records.iter()).map(|record| record.proof);
            match proofs.map(proved).min().unwrap_or(Some(Security::Insecure)) {
                Some(security) => not_found(name, none.response_code, security),
                None => LookupError::Bogus { name, kind },
            }
        }
        NetError::Dns(DnsError::Nsec { response, proof, .. }) => match proved(proof) {
            Some(security) => not_found(name, response.response_code, security),
            None => LookupError::Bogus { name, kind },
        },
        NetError::Dns(DnsError::DnssecBogus) => LookupError::Bogus { name, kind },
        error => LookupError::Temporary { name, kind, why: error.to_string().into() },
    }
}

#[async_trait]
impl Dns for Resolver {
    async fn addresses(&self, name: &Name) -> Result<Answer<IpAddr>, LookupError> {
        let pick = |data: &RData| data.ip_addr();
        let (six, four) = tokio::join!(
            self.find(name, (Kind::Address, RecordType::AAAA), pick),
            self.find(name, (Kind::Address, RecordType::A), pick)
        );
        match (six, four) {
            (Ok(mut six), Ok(four)) => {
                six.records.extend(four.records);
                Ok(Answer { security: six.security.min(four.security), ttl: six.ttl.min(four.ttl), ..six })
            }
            // Forged is forged, whatever the other family says.
            (Err(bogus @ LookupError::Bogus { .. }), _) | (_, Err(bogus @ LookupError::Bogus { .. })) => Err(bogus),
            (Ok(answer), Err(_)) | (Err(_), Ok(answer)) => Ok(answer),
            // There are certainly none only if both say so.
            (Err(six), Err(four)) => Err(if six.is_certain() { four } else { six }),
        }
    }

    async fn mx(&self, name: &Name) -> Result<Answer<Mx>, LookupError> {
        let pick = |data: &RData| {
            let RData::MX(mx) = data else { return None };
            let exchange = if mx.exchange.is_root() { None } else { Some(host(&mx.exchange)?) };
            Some(Mx { preference: mx.preference, exchange })
        };
        self.find(name, (Kind::Mx, RecordType::MX), pick).await
    }

    async fn svcb(&self, name: &Name) -> Result<Answer<Svcb>, LookupError> {
        let pick = |data: &RData| if let RData::SVCB(svcb) = data { Some(binding(svcb)) } else { None };
        self.find(name, (Kind::Svcb, RecordType::SVCB), pick).await
    }

    async fn tlsa(&self, name: &Name) -> Result<Answer<Tlsa>, LookupError> {
        let pick = |data: &RData| {
            let RData::TLSA(tlsa) = data else { return None };
            Some(Tlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data.clone(),
            })
        };
        self.find(name, (Kind::Tlsa, RecordType::TLSA), pick).await
    }

    async fn txt(&self, name: &Name) -> Result<Answer<Box<[u8]>>, LookupError> {
        let pick = |data: &RData| if let RData::TXT(txt) = data { Some(txt.txt_data.concat().into()) } else { None };
        self.find(name, (Kind::Txt, RecordType::TXT), pick).await
    }
}

#[async_trait]
impl Resolve for Resolver {
    async fn resolve(&self, name: &Domain) -> io::Result<Vec<IpAddr>> {
        resolve(self, name).await
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Without the dot at the end, in lower case.
fn plain(name: &WireName) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn host(name: &WireName) -> Option<Domain> {
    let text = plain(name);
    Domain::new(&text).inspect_err(|error| tracing::debug!(name = text, %error, "no host name: left out")).ok()
}

fn binding(svcb: &SVCB) -> Svcb {
    let mut out = Svcb::service(svcb.svc_priority, &plain(&svcb.target_name));
    for (key, value) in &svcb.svc_params {
        match (key, value) {
            (SvcParamKey::Port, SvcParamValue::Port(port)) => out.port = Some(*port),
            (SvcParamKey::Alpn, SvcParamValue::Alpn(alpn)) => {
                out.alpn = alpn.0.iter().map(|id| id.as_str().into()).collect();
            }
            (SvcParamKey::NoDefaultAlpn, _) => out.no_default_alpn = true,
            (SvcParamKey::Mandatory, SvcParamValue::Mandatory(keys)) => {
                let known = [SvcParamKey::Port, SvcParamKey::Alpn, SvcParamKey::NoDefaultAlpn];
                out.unknown_mandatory = keys.0.iter().any(|key| !known.contains(key));
            }
            _ => {}
        }
    }
    out
}
