//! Whom a listener believes what they say of others, as its URL says it.

use smtp_core::channel::PeerList;
use smtp_core::extension::Forwarders;

use crate::url::Carrier;

/// Whom a listener believes. Nobody by default, this machine included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// `?proxy=`: every connection comes from one of these and begins with a PROXY header. Empty: there are no headers.
    pub(crate) proxies: PeerList,
    /// `?xclient=`, `?xclient-login=`, `?xforward=`.
    pub(crate) forwarders: Forwarders,
}

/// The parameters, for messages.
pub(crate) const PARAMETERS: &str = "proxy=PEER, xclient=PEER, xclient-login=PEER, xforward=PEER";

impl Trust {
    /// Takes in what `key=value` says; false if it is about something else.
    ///
    /// # Errors
    /// What is wrong with it, or why it means nothing over `carrier`.
    pub(crate) fn read(&mut self, parameter: &str, carrier: Carrier) -> Result<bool, String> {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let list = match key {
            "proxy" => &mut self.proxies,
            "xclient" => &mut self.forwarders.xclient,
            "xclient-login" => &mut self.forwarders.login,
            "xforward" => &mut self.forwarders.xforward,
            _ => return Ok(false),
        };
        match (key, carrier) {
            ("proxy", Carrier::Quic) => return Err("proxy=: a PROXY header does not go over QUIC".into()),
            ("xclient" | "xclient-login", Carrier::Quic) => {
                return Err(format!("{key}=: there is no XCLIENT over QUIC, where no greeting is to be said again"));
            }
            _ => {}
        }
        let peers: PeerList = value.parse().map_err(|error| format!("{key}={value}: {error}"))?;
        if peers.is_empty() {
            return Err(format!("{key}= names nobody; it is an address, a network or uid:NUMBER, once for each"));
        }
        list.extend(peers);
        let Self { proxies, forwarders } = self;
        if !proxies.is_empty() && *forwarders != Forwarders::default() {
            return Err("proxy= excludes xclient= and xforward=: who comes behind a PROXY header is a client, and a \
                        client speaks for nobody else"
                .into());
        }
        Ok(true)
    }

    /// True if nobody is believed.
    pub(crate) fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[&str], carrier: Carrier) -> Result<Trust, String> {
        let mut trust = Trust::default();
        for parameter in parameters {
            assert!(trust.read(parameter, carrier)?, "{parameter}");
        }
        Ok(trust)
    }

    #[test]
    fn lists_grow_and_nobody_is_in_them_by_nature() {
        let trust = read(&["xclient=10.0.0.0/8", "xforward=::1", "xclient=2001:db8::/32"], Carrier::Tcp).unwrap();
        assert_eq!(trust.forwarders.xclient.to_string(), "10.0.0.0/8, 2001:db8::/32");
        assert!(trust.proxies.is_empty() && trust.forwarders.login.is_empty());
        assert!(!trust.is_nobody() && Trust::default().is_nobody());
        assert_eq!(read(&["proxy=uid:7"], Carrier::Unix).unwrap().proxies.to_string(), "uid:7");
        assert_eq!(Trust::default().read("role=mx", Carrier::Tcp), Ok(false));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (parameters, carrier, part) in [
            (&["proxy=mx.example"][..], Carrier::Tcp, "a network such as"),
            (&["proxy="], Carrier::Tcp, "names nobody"),
            (&["xclient"], Carrier::Tcp, "names nobody"),
            (&["proxy=::1"], Carrier::Quic, "QUIC"),
            (&["xclient-login=::1"], Carrier::Quic, "QUIC"),
            (&["proxy=::1", "xclient=::1"], Carrier::Tcp, "excludes"),
            (&["xforward=::1", "proxy=::1"], Carrier::Tcp, "excludes"),
        ] {
            let error = read(parameters, carrier).unwrap_err();
            assert!(error.contains(part), "{parameters:?}: {error}");
        }
        assert!(read(&["xforward=::1"], Carrier::Quic).is_ok());
    }
}
