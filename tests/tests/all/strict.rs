//! Mail that may only travel under TLS that was verified, through `smtp serve`: by REQUIRETLS (RFC 8689), and by DANE over
//! QUIC (`docs/smtp-over-quic.md`, §14).

mod dane_over_quic;
mod requiretls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use smtp_core::channel::SessionInfo;
use smtp_core::driver;
use smtp_core::service::Promises;
use smtp_core::session::server::Config;
use smtp_core::stream::Listener;
use smtp_server::delivery::Recorded;
use smtp_server::{AnyRecipient, Recorder, Server, Settings};
use smtp_tests::binary;
use smtp_tests::peers::require;
use smtp_tls::{Identity, ServerTls};
use smtp_transport_quic::{QuicListener, QuicOptions};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// The certificate of mail hosts, and the CA that has issued it.
struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    folder: tempfile::TempDir,
}

impl Certificate {
    fn for_names(names: &[&str]) -> Self {
        let issuers = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "CA of the strict");
        let ca = params.self_signed(&issuers).unwrap();
        let issuer = Issuer::new(params, issuers);
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        Self { chain: vec![leaf.der().clone(), ca.der().clone()], key, folder }
    }

    fn ca_file(&self) -> String {
        self.folder.path().join("ca.pem").to_str().unwrap().to_owned()
    }

    fn tls(&self) -> ServerTls {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        ServerTls::builder().identity(Identity::from_der(self.chain.clone(), key)).build().unwrap()
    }

    fn quic(&self, address: &str) -> QuicListener {
        let address: SocketAddr = address.parse().unwrap();
        QuicListener::bind(address, &self.tls(), QuicOptions::default()).unwrap()
    }
}

/// Mail hosts that take everything, and what they got.
struct Hosts {
    recorder: Recorder,
    stop: CancellationToken,
}

impl Hosts {
    fn new() -> Self {
        Self { recorder: Recorder::new(), stop: CancellationToken::new() }
    }

    /// Serves on `listener`, with what is promised offered where the channel allows it.
    fn serve(&self, listener: impl Listener, promises: Promises) {
        let (config, recorder) =
            (Config::new("mx.example".parse().unwrap()).promising(promises), self.recorder.clone());
        let server = Server::new(Settings::new(driver::Settings::new(config)), move |_: &Arc<SessionInfo>| {
            (AnyRecipient::new(), recorder.clone())
        });
        tokio::spawn(server.listen(listener).run(self.stop.clone()));
    }

    /// How the one message for somebody at `domain` came: `tcp` or `quic`, `clear` in front if it was not under TLS, and
    /// the parameters of MAIL.
    fn came(&self, domain: &str) -> Option<String> {
        let for_domain = |mail: &Recorded| {
            mail.envelope.recipients.iter().any(|rcpt| rcpt.to.mailbox().is_some_and(|to| to.host() == domain))
        };
        let all: Vec<Recorded> = self.recorder.messages().into_iter().filter(for_domain).collect();
        assert!(all.len() < 2, "{domain}: {} times", all.len());
        let mail = all.first()?;
        let channel = &mail.session.channel;
        let clear = if channel.tls.is_some() { "" } else { "clear " };
        let requires = if mail.envelope.mail.parameters.as_str().contains("REQUIRETLS") { " REQUIRETLS" } else { "" };
        Some(format!("{clear}{}{requires}", channel.transport))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// `smtp serve` with a queue, which passes mail for `domains` on. Its own domain is `ours.test`.
struct Relay(binary::Server);

impl Relay {
    fn start(domains: &[&str], more: &[&str]) -> Option<Self> {
        let mut arguments = vec!["--listen", "smtp://127.0.0.1:0", "--domain", "ours.test", "--queue", "sqlite"];
        arguments.extend(["--queue-retry", "1h"].iter().chain(more));
        let domains: Vec<String> = domains.iter().map(|domain| format!("{domain}.example")).collect();
        arguments.extend(domains.iter().flat_map(|domain| ["--relay-domain", domain]));
        require(binary::Server::start(&arguments)).map(Self)
    }

    /// Hands in a message from a user of ours, under STARTTLS.
    fn submit(&self, from: &str, parameters: &str, domain: &str) {
        let text = format!(
            "EHLO me\nstarttls\nEHLO me\nMAIL FROM:<{from}@ours.test>{parameters}\nRCPT TO:<u@{domain}.example>\nDATA\n\
             Subject: x\n\nhi\n.\nquit\n"
        );
        let said = require(binary::run_with(&["shell", &self.0.urls()[0]], text.as_bytes())).unwrap();
        assert!(said.text().contains("<~ 250 2.0.0 queued as "), "{domain}: {said}");
    }

    /// What waits.
    fn waiting(&self) -> String {
        let data = self.0.data_dir();
        require(binary::run(&["queue", "list", "--data-dir", data.to_str().unwrap()])).unwrap().text()
    }

    /// The notices that a user of ours has.
    fn notices(&self, user: &str) -> Vec<String> {
        let messages = self.0.messages("ours.test", user).unwrap();
        messages.into_iter().map(|message| String::from_utf8(message).unwrap()).collect()
    }
}

/// Waits until it holds, and then tells.
fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
