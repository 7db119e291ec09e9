//! `smtp replay` against servers that other people wrote. What they answer differently is not hidden: it is a table here,
//! and a difference that comes or goes is a failed test.

use std::collections::BTreeSet;
use std::path::Path;

use smtp_test::scenario::Scenario;
use smtp_tests::binary::{self, Server};
use smtp_tests::peers::{Exim, Postfix, PostfixOptions, require};
use smtp_tests::scenarios::folder;

/// Why a server may answer otherwise, and in which files it does.
type Known = &'static [(&'static str, &'static [&'static str])];

/// Where both do.
const BOTH: Known = &[
    (
        "a bare CR or LF in content is taken, as a line end or as it is; ours refuses the message",
        &[
            "bdat-bare-lf.txt",
            "bdat-cr.txt",
            "data-bare-cr.txt",
            "data-bare-lf.txt",
            "data-cr-cr-lf.txt",
            "smuggling-01.txt",
            "smuggling-02.txt",
            "smuggling-03.txt",
            "smuggling-04.txt",
            "smuggling-05.txt",
            "smuggling-06.txt",
            "smuggling-07.txt",
            "smuggling-08.txt",
            "smuggling-start.txt",
        ],
    ),
    (
        "commands may have bare line ends, control characters and octets beyond US-ASCII, or the session ends over them",
        &["line-bare-cr.txt", "line-bare-lf.txt", "line-not-text.txt"],
    ),
    (
        "lines without end are cut, or end the session",
        &["data-endless-line.txt", "line-endless.txt", "line-too-long.txt"],
    ),
    ("a chunk of no octets in the middle is refused", &["bdat-pipelined.txt"]),
    ("BDAT before EHLO ends the session", &["bdat-no-ehlo.txt"]),
    (
        "a web client may try a few commands first, or is told 221",
        &["http-connect.txt", "http-get.txt", "http-post.txt"],
    ),
    (
        "VRFY wants a domain or does tell, and HELP is not everywhere",
        &["ehlo-only-when-needed.txt", "pipelining-mixed.txt", "vrfy-help.txt"],
    ),
    (
        "addresses and parameters are taken that the grammar does not have",
        &["mail-bad.txt", "mail-parameters.txt", "rcpt-refused.txt", "smtputf8-not-asked-for.txt"],
    ),
    (
        "STARTTLS is taken within a transaction",
        &["sequence-mail.txt", "sequence-rcpt.txt", "starttls-in-transaction.txt"],
    ),
    (
        "clear text behind STARTTLS is thrown away, and the handshake waited for; ours ends the session",
        &[
            "starttls-injection-half.txt",
            "starttls-injection-mail.txt",
            "starttls-injection-noop.txt",
            "starttls-injection-rcpt.txt",
        ],
    ),
];

/// Where Postfix does.
const POSTFIX: Known = &[
    ("a chunk of no octets is refused", &["bdat-zero.txt"]),
    ("parameters of MAIL are taken after HELO", &["helo.txt", "helo-resets.txt"]),
    ("EHLO needs no argument, MAIL no greeting", &["ehlo-bad.txt", "lhlo.txt", "starttls.txt"]),
    ("a NUL in a command is skipped", &["line-nul.txt"]),
    ("QUIT may have an argument", &["rset-argument.txt"]),
    (
        "what is pipelined behind EHLO and other commands that RFC 2920 has at the end of a group ends the session",
        &["pipelining-ehlo.txt", "pipelining-everything.txt", "pipelining-quit.txt"],
    ),
];

/// Where Exim does.
const EXIM: Known = &[
    (
        "a chunk whose size is not known is answered in other ways, and the session goes on",
        &[
            "bdat-bad-1.txt",
            "bdat-bad-2.txt",
            "bdat-bad-3.txt",
            "bdat-bad-4.txt",
            "bdat-bad-5.txt",
            "bdat-bad-pipelined.txt",
        ],
    ),
    (
        "between chunks only BDAT, or only RSET, is taken; and a refused chunk leaves the transaction open",
        &[
            "bdat-between.txt",
            "bdat-ehlo.txt",
            "bdat-half-message.txt",
            "bdat-no-recipient.txt",
            "bdat-quit.txt",
            "bdat-rset.txt",
            "bdat-then-data.txt",
        ],
    ),
    ("no ENHANCEDSTATUSCODES", &["ehlo.txt"]),
    ("an underscore in the name of a client is refused", &["ehlo-names.txt"]),
    (
        "the end of the client's half is answered with 421, or loses what was under way",
        &[
            "half-close-at-once.txt",
            "half-close-behind-bdat.txt",
            "half-close-in-bdat.txt",
            "half-close-in-data.txt",
            "half-close-in-line.txt",
            "half-close.txt",
        ],
    ),
    (
        "domain literals and postmaster without a domain are not taken, as configured",
        &["mail-forms.txt", "rcpt-forms.txt"],
    ),
];

/// Plays every scenario by the class of replies; what was said, unless something is missing on this machine.
fn replay(port: u16, domain: &str) -> Option<String> {
    /// So few that none of the runs is long.
    const AT_A_TIME: usize = 40;
    let (url, set) = (format!("smtp://127.0.0.1:{port}"), format!("here.example={domain}"));
    let scenarios = Scenario::load_all(&folder()).unwrap();
    let mut said = String::new();
    for some in scenarios.chunks(AT_A_TIME) {
        let options = ["replay", &url, "--set", &set, "--match", "class", "--timeout", "3", "--verbose"];
        let arguments: Vec<&str> = options.into_iter().chain(some.iter().map(Scenario::name)).collect();
        said.push_str(&require(binary::run(&arguments))?.text());
    }
    Some(said)
}

/// The names of the files in front of which this word stands.
fn named<'a>(word: &str, output: &'a str) -> BTreeSet<&'a str> {
    let path = |line: &'a str| line.strip_prefix(word)?.trim_start().split([':', ' ']).next();
    output.lines().filter_map(path).filter_map(|path| Path::new(path).file_name()?.to_str()).collect()
}

fn assert_known(known: &[Known], said: &str) {
    let expected: BTreeSet<&str> =
        known.iter().flat_map(|known| known.iter()).flat_map(|(_, files)| files.iter().copied()).collect();
    let found = named("FAIL", said);
    let new: Vec<_> = found.difference(&expected).collect();
    let gone: Vec<_> = expected.difference(&found).collect();
    assert!(new.is_empty() && gone.is_empty(), "new: {new:?}; gone: {gone:?}\n{said}");
    assert!(named("pass", said).len() > 40, "{said}");
}

#[test]
fn postfix_differs_where_it_is_known_to() {
    let Some(postfix) = require(Postfix::start(PostfixOptions::default())) else { return };
    let Some(said) = replay(postfix.port(), "postfix.test") else { return };
    assert_known(&[BOTH, POSTFIX], &said);
}

#[test]
fn exim_differs_where_it_is_known_to() {
    let Some(exim) = require(Exim::start()) else { return };
    let Some(said) = replay(exim.port(), "exim.test") else { return };
    assert_known(&[BOTH, EXIM], &said);
}

#[test]
fn our_server_does_not_differ() {
    let arguments =
        ["--listen", "smtp://127.0.0.1:0", "--domain", "ours.test", "--mailbox", "alice@ours.test,bob@ours.test"];
    let Some(server) = require(Server::start(&arguments)) else { return };
    let Some(said) = replay(server.port(0), "ours.test") else { return };
    assert_known(&[], &said);
}
