//! The certificates of a server, by name, exchangeable while it runs.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::identity::{Identity, IdentityError, LoadedIdentity};

/// Picks a certificate for each handshake.
#[derive(Debug)]
pub(crate) struct Identities {
    sources: Vec<Identity>,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<Table>>,
}

impl Identities {
    /// Loads `sources`; the first is the default.
    pub(crate) fn load(sources: Vec<Identity>, provider: Arc<CryptoProvider>) -> Result<Self, IdentityError> {
        let table = Table::load(&sources, &provider)?;
        Ok(Self { sources, provider, current: RwLock::new(Arc::new(table)) })
    }

    /// Reads everything again; all of it takes effect, or none.
    pub(crate) fn reload(&self) -> Result<(), IdentityError> {
        let table = Arc::new(Table::load(&self.sources, &self.provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }

    /// What is served now.
    pub(crate) fn all(&self) -> Vec<LoadedIdentity> {
        self.table().all.iter().map(|identity| LoadedIdentity::clone(identity)).collect()
    }

    /// The identity for one handshake; `None` if there is none at all.
    pub(crate) fn choose(&self, hello: &ClientHello<'_>) -> Option<Arc<LoadedIdentity>> {
        let usable = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.table().choose(hello.server_name(), usable).cloned()
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(&hello).map(|identity| Arc::clone(identity.certified_key()))
    }
}

#[derive(Debug)]
struct Table {
    all: Vec<Arc<LoadedIdentity>>,
    /// Indices into `all`. Several identities may share a name: an ECDSA and an RSA certificate.
    by_name: HashMap<String, Vec<usize>>,
}

impl Table {
    fn load(sources: &[Identity], provider: &CryptoProvider) -> Result<Self, IdentityError> {
        let all = sources.iter().map(|source| source.load(provider).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, identity) in all.iter().enumerate() {
            for name in identity.names() {
                by_name.entry(name.clone()).or_default().push(index);
            }
        }
        Ok(Self { all, by_name })
    }

    /// The identity for `name`, then for `*.` and its parent, else the default. A client that asks for a name
    /// that nobody here has gets the default and judges by itself: a mail client that does not verify would
    /// otherwise fall back to clear text. Among equals, the first whose key the client can use.
    fn choose(&self, name: Option<&str>, usable: impl Fn(&CertifiedKey) -> bool) -> Option<&Arc<LoadedIdentity>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.by_name.get(&name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            })
        });
        let named = named.into_iter().flatten().filter_map(|index| self.all.get(*index));
        named.chain(&self.all).find(|identity| usable(identity.certified_key())).or_else(|| self.all.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Identity::from_der(vec![certificate.der().clone()], key)
    }

    #[test]
    fn picks_by_name_with_one_level_of_wildcard() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let sources = [identity("default.example"), identity("*.wild.example"), identity("mx.wild.example")];
        let table = Table::load(&sources, &provider).unwrap();
        let expect = |name: Option<&str>, index: usize| {
            let chosen = table.choose(name, |_| true).unwrap();
            assert!(Arc::ptr_eq(chosen, &table.all[index]), "{name:?}");
        };
        expect(None, 0);
        expect(Some("default.example"), 0);
        expect(Some("unknown.example"), 0);
        expect(Some("a.wild.example"), 1);
        expect(Some("A.Wild.Example"), 1);
        expect(Some("mx.wild.example"), 2);
        expect(Some("a.b.wild.example"), 0);
        expect(Some("wild.example"), 0);
    }

    #[test]
    fn prefers_a_key_that_the_client_can_use() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let table = Table::load(&[identity("a.example"), identity("a.example")], &provider).unwrap();
        let second = table.all[1].certified_key().clone();
        let chosen = table.choose(Some("a.example"), |key| std::ptr::eq(key, &*second)).unwrap();
        assert!(Arc::ptr_eq(chosen.certified_key(), &second));
        let nothing_fits = table.choose(Some("a.example"), |_| false).unwrap();
        assert!(Arc::ptr_eq(nothing_fits, &table.all[0]));
    }

    #[test]
    fn given_names_replace_those_of_the_certificate() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let loaded = identity("a.example").named("B.example").load(&provider).unwrap();
        assert_eq!(loaded.names(), ["b.example"]);
    }
}
