//! A queue in PostgreSQL over TLS: who it is spoken to is checked, and nothing goes in clear that was not meant to.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::ledger::{Hop, Mood};
use crate::pg_server::PgServer;
use crate::play::{Run, Server, file, run, send, smtp, until};

/// A certification authority.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server that asks for a password, takes it over TLS only, and shows a certificate for db.example from here.
    fn server(&self) -> Option<PgServer> {
        let server = PgServer::listening()?;
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["db.example".to_owned()]).unwrap().signed_by(&key, &self.issuer);
        server.write("server.crt", &certificate.unwrap().pem());
        server.write("server.key", &key.serialize_pem());
        server.ask("ALTER USER smtp PASSWORD 'hunter2'");
        server.set("ssl = on");
        server.write("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
        server.crash();
        server.run();
        Some(server)
    }
}

/// The arguments of a server with its queue at `host`, which is found at 127.0.0.1 whatever it is called.
fn serve(host: &str, server: &PgServer, more: &str) -> Vec<String> {
    let port = server.port();
    let url = format!("postgres://smtp:hunter2@{host}:{port}/postgres?hostaddr=127.0.0.1{more}");
    let listen = "smtp://127.0.0.1:0?tls=none";
    ["serve", "--listen", listen, "--relay-domain", "remote.example", "--queue", &url].map(str::to_owned).to_vec()
}

/// What becomes of it where it cannot start.
fn refused(arguments: &[String]) -> Run {
    let folder = TempDir::new().unwrap();
    let mut command = smtp(arguments);
    command.current_dir(folder.path());
    let ended = run(command);
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
    ended
}

#[test]
fn a_database_beyond_this_machine_is_spoken_to_by_tls_and_checked() {
    let ca = Ca::new("one");
    let Some(postgres) = ca.server() else { return };
    let folder = TempDir::new().unwrap();
    let root = file(folder.path(), "ca.pem", &ca.pem).display().to_string();
    let hop = Hop::start();
    hop.set(Mood::Well);
    // By default as when it is asked for.
    for (mode, queue) in [("", "a"), ("&sslmode=verify-full", "b")] {
        let mut arguments = serve("db.example", &postgres, &format!("{mode}&sslrootcert={root}&schema={queue}"));
        arguments.extend(["--route".to_owned(), format!("remote.example={}", hop.url)]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let server = Server::start(&arguments, 1);
        let before = hop.arrived().len();
        let sent = send(server.url(), &["--to", "jo@remote.example"]);
        assert_eq!(sent.code, Some(0), "{sent:?}");
        until("a delivery", || hop.arrived().len() > before);
        let sql = "SELECT count(*) > 1, bool_and(ssl), min(version) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                   WHERE application_name = 'smtp'";
        assert_eq!(postgres.ask(sql), "t|t|TLSv1.3");
        server.signal("TERM");
        let ended = server.finish();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn a_database_that_is_not_the_one_meant_is_refused_with_the_reason() {
    let ca = Ca::new("one");
    let Some(postgres) = ca.server() else { return };
    let folder = TempDir::new().unwrap();
    let root = format!("&sslrootcert={}", file(folder.path(), "ca.pem", &ca.pem).display());
    let other = format!("&sslrootcert={}", file(folder.path(), "other.pem", &Ca::new("other").pem).display());
    for (host, more, reason) in [
        ("db.example", other.as_str(), "UnknownIssuer"),
        // Those of the system.
        ("db.example", "", "UnknownIssuer"),
        // What others take for no more than TLS.
        ("db.example", "&sslmode=require", "UnknownIssuer"),
        ("other.example", &root, "not valid for name \"other.example\""),
        ("127.0.0.1", &format!("{root}&sslmode=verify-ca"), "not valid for name \"127.0.0.1\""),
        ("db.example", "&sslmode=disable", "no encryption"),
    ] {
        let ended = refused(&serve(host, &postgres, more));
        assert_eq!(ended.code, Some(69), "{host} {more}: {ended:?}");
        assert!(ended.stderr.contains(reason) && ended.stderr.contains(host), "{host} {more}: {ended:?}");
    }
    let ended = refused(&serve("db.example", &postgres, "&sslrootcert=/nowhere/ca.pem"));
    assert!(ended.code == Some(78) && ended.stderr.contains("/nowhere/ca.pem"), "{ended:?}");
}

#[test]
fn beyond_this_machine_a_database_without_tls_gets_no_password() {
    let Some(postgres) = PgServer::listening() else { return };
    let ended = refused(&serve("db.example", &postgres, ""));
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains("server does not support TLS"), "{ended:?}");
    // It would have been let in.
    let arguments = serve("db.example", &postgres, "&sslmode=disable");
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Server::start(&arguments, 1);
}
