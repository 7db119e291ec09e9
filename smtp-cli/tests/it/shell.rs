//! `smtp shell`, from a pipe.

use crate::play::{Server, dead_port, run, run_with, scripted, smtp};

#[test]
fn lines_are_sent_as_they_stand_and_answers_shown() {
    let server = Server::serve(&[]);
    let input = "EHLO me\nstarttls\nEHLO me\nMAIL FROM:<a@b.example>\nRCPT TO:<u@localhost>\nRCPT TO:<x@y.example>\n\
                 DATA\nSubject: by hand\n\n.dot\n..\n.\nBOGUS\n";
    let talk = run_with(smtp(["shell", server.url()]), input.as_bytes());
    assert_eq!(talk.code, Some(0), "{talk:?}");
    for part in [
        "<- 220 ",
        "-> EHLO me",
        "<- 250-STARTTLS",
        "certificate not verified",
        "~> RCPT TO:<x@y.example>",
        "<~ 550 5.7.1",
        "<~ 354 ",
        "octets of content)",
        "~> BOGUS",
        "<~ 500 ",
        "~> QUIT",
        "<~ 221 ",
    ] {
        assert!(talk.stdout.contains(part), "{part}: {}", talk.stdout);
    }
    let [message] = &*server.messages("localhost", "u") else { panic!() };
    assert!(message.ends_with("Subject: by hand\n\n.dot\n..\n"), "{message:?}");
}

#[test]
fn auth_helps_where_it_is_safe() {
    let server = Server::serve(&["--user", "jo:secret"]);
    let certificate = server.folder().join("smtp-data/tls/certificate.pem");
    let certificate = certificate.to_str().unwrap();
    let input = b"auth\nstarttls\nEHLO me\nstarttls\nEHLO me\nauth plain\nsecret\nquit\n";
    let talk = run_with(smtp(["shell", server.url(), "--user", "jo", "--tls-ca", certificate]), input);
    assert!(talk.stdout.contains("offers no AUTH here"), "{talk:?}");
    assert!(talk.stdout.contains("STARTTLS is not to be had here: say EHLO first"), "{talk:?}");
    assert!(talk.stdout.contains("~> AUTH PLAIN ***") && talk.stdout.contains("<~ 235 "), "{talk:?}");
    assert!(!talk.stdout.contains("secret") && !talk.stdout.contains("AGpv"), "{talk:?}");

    // The same without knowing the server: the password stays here.
    let input = b"EHLO me\nstarttls\nEHLO me\nauth plain\njo\nsecret\nquit\n";
    let talk = run_with(smtp(["shell", server.url()]), input);
    assert!(!talk.stdout.contains("> AUTH") && talk.stdout.contains("credentials are not sent"), "{talk:?}");
}

#[test]
fn auth_knows_the_mechanisms_without_a_password() {
    let url = scripted(
        "220 x\r\n",
        &[
            ("EHLO", "250-x\r\n250 AUTH EXTERNAL ANONYMOUS OAUTHBEARER XOAUTH2\r\n"),
            ("AUTH", "235 ok\r\n"),
            ("QUIT", "221 bye\r\n"),
        ],
    );
    for mechanism in ["EXTERNAL", "ANONYMOUS", "oauthbearer", "XOAUTH2"] {
        let input = format!("EHLO me\nauth {mechanism}\nquit\n");
        let mut shell = smtp(["shell", &url, "--insecure"]);
        if mechanism.to_ascii_uppercase().contains("OAUTH") {
            shell.args(["--user", "jo"]).env("SMTP_SHELL_PASSWORD", "token");
        }
        let talk = run_with(shell, input.as_bytes());
        let said = format!("-> AUTH {}", mechanism.to_ascii_uppercase());
        assert!(talk.stdout.contains(&said) && talk.stdout.contains("<- 235 ok"), "{mechanism}: {talk:?}");
    }
}

#[test]
fn a_raw_exchange_hides_what_is_secret() {
    let server = Server::serve(&["--user", "jo:secret"]);
    let input = b"EHLO me\nstarttls\nEHLO me\nAUTH LOGIN\nam8=\nc2VjcmV0\nquit\n";
    let talk = run_with(smtp(["shell", server.url()]), input);
    assert!(talk.stdout.contains("<~ 235 ") && !talk.stdout.contains("c2VjcmV0"), "{talk:?}");
}

#[test]
fn half_a_message_is_not_sent() {
    let server = Server::serve(&[]);
    let input = b"EHLO me\nMAIL FROM:<a@b.example>\nRCPT TO:<u@localhost>\nDATA\nSubject: half\n";
    let talk = run_with(smtp(["shell", server.url()]), input);
    assert_eq!(talk.code, Some(75), "{talk:?}");
    assert!(talk.stderr.contains("lone dot"), "{talk:?}");
    assert!(server.messages("localhost", "u").is_empty());
}

#[test]
fn prdr_has_an_answer_for_each() {
    const OK: &str = "250 ok\r\n";
    let url = scripted(
        "220 x\r\n",
        &[
            ("EHLO", "250-x\r\n250 PRDR\r\n"),
            ("MAIL", OK),
            ("RCPT", OK),
            ("DATA", "354 go\r\n"),
            (".", "353 each\r\n250 a\r\n550 not b\r\n250 all\r\n"),
            ("QUIT", "221 bye\r\n"),
        ],
    );
    let input = b"EHLO me\nMAIL FROM:<a@b.example> PRDR\nRCPT TO:<a@x.example>\nRCPT TO:<b@x.example>\nDATA\nhi\n.\n";
    let talk = run_with(smtp(["shell", &url]), input);
    assert_eq!(talk.code, Some(0), "{talk:?}");
    for part in ["<- 353 each", "<- 550 not b", "<- 250 all", "<- 221 bye"] {
        assert!(talk.stdout.contains(part), "{part}: {talk:?}");
    }
}

#[test]
fn the_end_of_the_other_side_is_the_end() {
    let gone = scripted("220 x\r\n", &[("NOOP", "421 closing\r\n")]);
    let talk = run_with(smtp(["shell", &gone]), b"NOOP\nNOOP\n");
    assert_eq!((talk.code, talk.stdout.matches("NOOP").count()), (Some(0), 1), "{talk:?}");
    assert_eq!(run(smtp(["shell", &dead_port()])).code, Some(69));
}
