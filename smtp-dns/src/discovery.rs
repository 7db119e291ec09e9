//! Is there another way to a mail host?

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use smtp_core::stream::{Address, Dane, Discover, Target, TlsPolicy, Verification};
use smtp_core::types::{Domain, Host};

use crate::{Answer, Dns, LookupError, Name, Security, Svcb, Tlsa};

/// Finds SVCB records at `_smtp.HOST` that offer one application protocol (`docs/smtp-over-quic.md` §14).
///
/// A record counts if it leads to the host itself and nowhere else, so that no policy about the host's name is led
/// around: ServiceMode, the target `.` or the host's own name, a `port`, the protocol in `alpn`, and nothing mandatory
/// that is unknown here. One record in AliasMode spoils all (RFC 9460 §2.4.1). The lowest priority wins.
///
/// A host with TLSA records at `_PORT._tcp` is not reached in another way: those bind the certificate of the service on
/// that port (RFC 7672; secure or not, since an answer that was not validated does not say). The same if it cannot be
/// found out whether there are any. Under [`Verification::Dane`], where they were found and are secure, the other way
/// has to have its own, at `_PORT._quic` with the port of the SVCB record, and SVCB and TLSA have to be secure: the policy
/// of the other way then has those.
#[derive(Debug, Clone)]
pub struct SvcbDiscovery<D> {
    dns: D,
    protocol: Box<str>,
}

impl<D: Dns> SvcbDiscovery<D> {
    /// Looks in `dns` for hosts that speak the application protocol `protocol`, such as `smtp-quic-00`.
    pub fn new(dns: D, protocol: &str) -> Self {
        Self { dns, protocol: protocol.into() }
    }

    /// The port of the best record that counts.
    //
    fn port(&self, records: &[Svcb], host: &Name) -> Option<u16> {
        if records.iter().any(|record| record.priority == 0) {
            return None;
        }
        let counts = |record: &&Svcb| {
            (record.target.is_empty() || *record.target == *host.as_str())
                && !record.unknown_mandatory
                && record.alpn.contains(&self.protocol)
        };
        let ports = records.iter().filter(counts).filter_map(|record| Some((record.priority, record.port?)));
        ports.filter(|(_, port)| *port != 0).min().map(|(_, port)| port)
    }

    async fn look(
        &self,
        host: &Domain,
        port: u16,
        policy: &TlsPolicy,
    ) -> Result<Option<(u16, TlsPolicy)>, LookupError> {
        let (Ok(name), Ok(svcb)) = (Name::of(host), Name::below(&["_smtp"], host)) else { return Ok(None) };
        if let Verification::Dane(dane) = &policy.verification {
            return self.look_under_dane(host, &self.dns.svcb(&svcb).await, &name, dane, policy).await;
        }
        // A name that is too long has no records.
        let Ok(tlsa) = Name::below(&[&format!("_{port}"), "_tcp"], host) else { return Ok(None) };
        let (records, bound) = tokio::join!(self.dns.svcb(&svcb), self.dns.tlsa(&tlsa));
        let Some((port, _)) = self.offered(&records, &name)? else { return Ok(None) };
        //
        match bound {
            Err(error) if error.is_certain() => Ok(Some((port, policy.clone()))),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::debug!(host = %name, "not taken: TLSA records bind the host to its certificate on TCP");
                Ok(None)
            }
        }
    }

    /// The port that SVCB records offer, and whether they are proved.
    fn offered(
        &self,
        answer: &Result<Answer<Svcb>, LookupError>,
        host: &Name,
    ) -> Result<Option<(u16, Security)>, LookupError> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is_certain() => return Ok(None),
            Err(error) => return Err(error.clone()),
        };
        let port = self.port(&answer.records, host);
        if port.is_none() {
            tracing::debug!(%host, "its SVCB records offer nothing that can be used");
        }
        Ok(port.map(|port| (port, answer.security)))
    }

    /// MX and the host's own TLSA records are secure, or the policy would be another.
    //
    async fn look_under_dane(
        &self,
        host: &Domain,
        svcb: &Result<Answer<Svcb>, LookupError>,
        name: &Name,
        dane: &Dane,
        policy: &TlsPolicy,
    ) -> Result<Option<(u16, TlsPolicy)>, LookupError> {
        let Some((port, security)) = self.offered(svcb, name)? else { return Ok(None) };
        let Ok(tlsa) = Name::below(&[&format!("_{port}"), "_quic"], host) else { return Ok(None) };
        let found = match self.dns.tlsa(&tlsa).await {
            Ok(found) => found,
            Err(error) if error.is_certain() => return Ok(None),
            Err(error) => return Err(error),
        };
        let records: Vec<_> = found.records.into_iter().filter(Tlsa::is_usable).collect();
        if security.min(found.security) != Security::Secure || records.is_empty() {
            tracing::debug!(host = %name, "not taken: its SVCB or TLSA records are not secure, or not usable");
            return Ok(None);
        }
        let dane = Dane { records, names: dane.names.clone() };
        Ok(Some((port, TlsPolicy { mode: policy.mode, verification: Verification::Dane(Arc::new(dane)) })))
    }
}

#[async_trait]
impl<D: Dns> Discover for SvcbDiscovery<D> {
    async fn discover(&self, target: &Target, policy: &TlsPolicy) -> io::Result<Option<(Target, TlsPolicy)>> {
        let Address::Host { host, port } = &target.address else { return Ok(None) };
        // Whoever has looked the addresses up already goes by them, and by the name that they are of.
        let name = match (host, &target.server_name) {
            (Host::Domain(name), _) | (Host::Literal(_), Some(name)) => name,
            (Host::Literal(_), None) => return Ok(None),
        };
        let found = self.look(name, *port, policy).await?;
        let at = |port| Address::Host { host: host.clone(), port };
        let to = |port| Target { address: at(port), server_name: target.server_name.clone() };
        Ok(found.map(|(port, policy)| (to(port), policy)))
    }
}
