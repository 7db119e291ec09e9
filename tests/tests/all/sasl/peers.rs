//! Other people's SASL, against the binary that we ship.

use std::path::{Path, PathBuf};

use smtp_tests::binary::{self, Server};
use smtp_tests::peers::{Postfix, PostfixOptions, require, tools};
use tempfile::TempDir;

const PASSWORD: &str = "correct, horse=battery";

/// `smtp serve` with the user alice, who has all that a password can be good for; or nothing, if there is no binary.
fn serve() -> Option<(Server, TempDir)> {
    let folder = tempfile::tempdir().unwrap();
    let (users, password) = (folder.path().join("users"), password_file(folder.path()));
    let (users, password) = (users.to_str().unwrap(), password.to_str().unwrap());
    let add =
        ["user", "add", "alice", "--user-file", users, "--password-file", password, "--scram-sha-1", "--cram-md5"];
    let added = require(binary::run(&add))?;
    assert!(added.success(), "{added}");
    let arguments = ["--listen", "smtp://127.0.0.1:0", "--domain", "ours.test", "--user-file", users];
    Some((require(Server::start(&arguments))?, folder))
}

fn password_file(folder: &Path) -> PathBuf {
    let path = folder.join("password");
    std::fs::write(&path, PASSWORD).unwrap();
    path
}

#[test]
fn gsasl_with_and_without_channel_binding() {
    let Some((server, _folder)) = serve() else { return };
    let connect = format!("--connect=127.0.0.1:{}", server.port(0));
    // It finds STARTTLS by itself.
    for (mechanism, more, password, words) in [
        ("SCRAM-SHA-256-PLUS", "--quiet", PASSWORD, "235 2.7.0"),
        ("SCRAM-SHA-1-PLUS", "--quiet", PASSWORD, "235 2.7.0"),
        ("SCRAM-SHA-256", "--no-cb", PASSWORD, "235 2.7.0"),
        ("SCRAM-SHA-1", "--no-cb", PASSWORD, "235 2.7.0"),
        ("SCRAM-SHA-256", "--no-starttls", PASSWORD, "235 2.7.0"),
        ("PLAIN", "--quiet", PASSWORD, "235 2.7.0"),
        ("LOGIN", "--quiet", PASSWORD, "235 2.7.0"),
        ("CRAM-MD5", "--quiet", PASSWORD, "235 2.7.0"),
        ("SCRAM-SHA-256-PLUS", "--quiet", "wrong", "535 5.7.8"),
        // With TLS 1.2 it knows tls-unique only, which is not safe there.
        ("SCRAM-SHA-256-PLUS", "--priority=NORMAL:-VERS-TLS1.3", PASSWORD, "504 5.5.4"),
    ] {
        let arguments = ["--smtp", &connect, "-m", mechanism, "-a", "alice", "-p", password, "--x509-ca-file=", more];
        let Some(output) = require(tools::gsasl(arguments)) else { return };
        let text = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(words), "{mechanism} {more}: {output}");
        assert_eq!(output.success(), words.starts_with("235"), "{mechanism} {more}: {output}");
    }
}

#[test]
fn python_smtplib_by_each_of_its_mechanisms() {
    let Some((server, _folder)) = serve() else { return };
    let script = r"
import smtplib, ssl, sys
for mechanism in 'PLAIN', 'LOGIN', 'CRAM-MD5':
    for password, fine in (sys.argv[2], True), ('wrong', False):
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='client.test') as s:
            s.starttls(context=ssl._create_unverified_context())
            s.ehlo()
            s.user, s.password = 'alice', password
            try:
                s.auth(mechanism, getattr(s, 'auth_' + mechanism.lower().replace('-', '_')))
                assert fine, mechanism
                s.sendmail('alice@ours.test', ['alice@ours.test'], 'Subject: x\r\n\r\nx\r\n')
                try:
                    s.sendmail('bob@ours.test', ['alice@ours.test'], 'Subject: x\r\n\r\nx\r\n')
                    assert False, 'as somebody else'
                except smtplib.SMTPSenderRefused as refused:
                    assert refused.smtp_code == 553, refused
            except smtplib.SMTPAuthenticationError as error:
                assert not fine and error.smtp_code == 535, error
                # It is as if nothing had been.
                s.login('alice', sys.argv[2])
print('done')
";
    let arguments = [server.port(0).to_string(), PASSWORD.to_owned()];
    let Some(output) = require(tools::python(script, arguments)) else { return };
    assert!(output.success() && output.text().contains("done"), "{output}");
}

#[test]
fn swaks_by_each_of_its_mechanisms() {
    let Some((server, _folder)) = serve() else { return };
    let to = format!("127.0.0.1:{}", server.port(0));
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
        for (password, words) in [(PASSWORD, "235 2.7.0"), ("wrong", "535 5.7.8")] {
            let arguments = ["--server", &to, "--from", "alice@ours.test", "--to", "alice@ours.test", "--tls"];
            let auth = ["--auth", mechanism, "--auth-user", "alice", "--auth-password", password];
            let Some(output) = require(tools::swaks(arguments.iter().chain(&auth))) else { return };
            assert!(output.text().contains(words), "{mechanism}: {output}");
            assert_eq!(output.success(), password == PASSWORD, "{mechanism}: {output}");
        }
    }
}

#[test]
fn our_client_by_each_mechanism_of_postfix_with_cyrus() {
    let folder = tempfile::Builder::new().prefix("cyrus").tempdir().unwrap();
    let database = folder.path().join("sasldb");
    let add = ["-p", "-c", "-u", "postfix.test", "-f", database.to_str().unwrap(), "alice"];
    let Some(added) = require(tools::saslpasswd(add, PASSWORD)) else { return };
    assert!(added.success(), "{added}");
    let mechanisms = ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5"];
    let settings = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}\nmech_list: {}\n",
        database.display(),
        mechanisms.join(" ")
    );
    // Postfix's server is not root.
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in [(folder.path(), 0o755), (&database, 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let main_cf = [
        ("smtpd_sasl_auth_enable", "yes"),
        ("smtpd_sasl_type", "cyrus"),
        ("smtpd_sasl_path", "smtpd"),
        ("smtpd_sasl_local_domain", "postfix.test"),
        ("smtpd_sasl_security_options", "noanonymous"),
    ];
    let main_cf = main_cf.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let files = vec![("sasl/smtpd.conf".to_owned(), settings)];
    let Some(postfix) = require(Postfix::start(PostfixOptions { main_cf, files, ..PostfixOptions::default() })) else {
        return;
    };
    let password = password_file(folder.path());
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "wrong").unwrap();
    let server = format!("smtp://127.0.0.1:{}", postfix.port());
    let log_in = |mechanism: Option<&str>, password: &Path| {
        let mut arguments = vec!["send", "--server", &server, "--from", "alice@postfix.test"];
        arguments.extend(["--to", "alice@postfix.test", "--user", "alice", "--insecure", "--transcript"]);
        arguments.extend(["--password-file", password.to_str().unwrap()]);
        arguments.extend(mechanism.iter().flat_map(|name| ["--auth", name]));
        require(binary::run(&arguments))
    };
    for mechanism in mechanisms {
        let Some(right) = log_in(Some(mechanism), &password) else { return };
        let words = format!("AUTH {mechanism}");
        assert!(right.success() && right.text().contains(&words), "{right}\n{}", postfix.log());
        let Some(wrong) = log_in(Some(mechanism), &wrong) else { return };
        assert!(!wrong.success() && wrong.text().contains("535 5.7.8"), "{wrong}\n{}", postfix.log());
    }
    // What it takes if nobody says.
    let Some(own) = log_in(None, &password) else { return };
    assert!(own.success() && own.text().contains("AUTH SCRAM-SHA-256"), "{own}");
}
