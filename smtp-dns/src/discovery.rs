//! Is there another way to a mail host?

use std::io;

use async_trait::async_trait;
use smtp_core::stream::{Address, Discover, Target};
use smtp_core::types::{Domain, Host};

use crate::{Dns, LookupError, Name, Svcb};

/// Finds SVCB records at `_smtp.HOST` that offer one application protocol (`docs/smtp-over-quic.md` §14).
///
/// A record counts if it leads to the host itself and nowhere else, so that no policy about the host's name is led
/// around: ServiceMode, the target `.` or the host's own name, a `port`, the protocol in `alpn`, and nothing mandatory
/// that is unknown here. One record in AliasMode spoils all (RFC 9460 §2.4.1). The lowest priority wins.
///
/// A host with TLSA records at `_PORT._tcp` is not reached in another way: those bind the certificate of the service on
/// that port, and nobody here looks for the ones of the other (RFC 7672; secure or not, since an answer that was not
/// validated does not say). The same if it cannot be found out whether there are any.
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

    async fn look(&self, host: &Domain, port: u16) -> Result<Option<u16>, LookupError> {
        let names = (Name::of(host), Name::below(&["_smtp"], host), Name::below(&[&format!("_{port}"), "_tcp"], host));
        // A name that is too long has no records.
        let (Ok(name), Ok(svcb), Ok(tlsa)) = names else { return Ok(None) };
        let (records, bound) = tokio::join!(self.dns.svcb(&svcb), self.dns.tlsa(&tlsa));
        let records = match records {
            Ok(answer) => answer.records,
            Err(error) if error.is_certain() => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(port) = self.port(&records, &name) else {
            tracing::debug!(host = %name, "its SVCB records offer nothing that can be used");
            return Ok(None);
        };
        //
        match bound {
            Err(error) if error.is_certain() => Ok(Some(port)),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::debug!(host = %name, "not taken: TLSA records bind the host to its certificate on TCP");
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl<D: Dns> Discover for SvcbDiscovery<D> {
    async fn discover(&self, target: &Target) -> io::Result<Option<Target>> {
        let Address::Host { host, port } = &target.address else { return Ok(None) };
        // Whoever has looked the addresses up already goes by them, and by the name that they are of.
        let name = match (host, &target.server_name) {
            (Host::Domain(name), _) | (Host::Literal(_), Some(name)) => name,
            (Host::Literal(_), None) => return Ok(None),
        };
        let found = self.look(name, *port).await?;
        let at = |port| Address::Host { host: host.clone(), port };
        Ok(found.map(|port| Target { address: at(port), server_name: target.server_name.clone() }))
    }
}
