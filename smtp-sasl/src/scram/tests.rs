use super::*;
use proptest::prelude::*;
use smtp_core::channel::TlsInfo;
use smtp_core::types::Secret;

/// One of the RFCs' examples: hash, nonces, salt, the client's proof, the server's.
type Example = (Hash, &'static str, &'static str, &'static str, &'static str, &'static str);

const EXAMPLES: [Example; 2] = [
    // RFC 5802 §5
    (
        Hash::Sha1,
        "fyko+d2lbbFgONRv9qkxdawL",
        "3rfcNHYJY1ZVvWVs7j",
        "QSXCR+Q6sek8bf92",
        "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    // RFC 7677 §3
    (
        Hash::Sha256,
        "rOprNGfwEbeRWgbNEkqO",
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
];

fn pencil() -> Secret {
    Secret::new(*b"pencil")
}

fn keys(hash: Hash) -> Keys {
    Keys::derive(hash, "pencil", b"salt", 4096)
}

fn tls(octet: u8) -> TlsInfo {
    TlsInfo { exporter: Some([octet; 32]), server_end_point: Some([octet; 32].into()), ..TlsInfo::default() }
}

#[test]
fn the_examples_of_the_rfcs() {
    for (hash, client_nonce, server_nonce, salt, proof, verifier) in EXAMPLES {
        let client = Client::new(hash, Binding::Unsupported, "user", "", client_nonce).unwrap();
        assert_eq!(client.message().expose(), format!("n,,n=user,r={client_nonce}").as_bytes());
        let server = Server::begin(hash, &Accepts::default(), client.message().expose()).unwrap();
        let keys = Keys::derive(hash, "pencil", &STANDARD.decode(salt).unwrap(), 4096);
        let (challenge, server) = server.challenge(keys, server_nonce);
        assert_eq!(challenge, format!("r={client_nonce}{server_nonce},s={salt},i=4096"));
        let (response, client) = client.challenge(challenge.as_bytes()).unwrap().respond(&pencil());
        let expected = format!("c=biws,r={client_nonce}{server_nonce},p={proof}");
        assert_eq!(String::from_utf8_lossy(response.expose()), expected);
        let last = server.finish(response.expose()).unwrap();
        assert_eq!(last, format!("v={verifier}"));
        client.finish(last.as_bytes()).unwrap();
    }
}

/// Runs an exchange; each side has its own view of the channel.
fn run(
    accepts: &Accepts<'_>,
    binding: Binding<'_>,
    keys: Keys,
    password: &str,
) -> Result<Result<(), ScramError>, ScramError> {
    let hash = keys.hash();
    let client = Client::new(hash, binding, "us,er=", "", "abc").unwrap();
    let server = Server::begin(hash, accepts, client.message().expose())?;
    assert_eq!(server.name(), "us,er=");
    let (challenge, server) = server.challenge(keys, "def");
    let (response, client) = client.challenge(challenge.as_bytes()).unwrap().respond(&Secret::new(password));
    Ok(client.finish(server.finish(response.expose())?.as_bytes()))
}

#[test]
fn a_bound_exchange_holds_on_one_channel_only() {
    let (ours, other) = (tls(1), tls(2));
    for hash in [Hash::Sha256, Hash::Sha1] {
        for name in ["tls-exporter", "tls-server-end-point"] {
            let to = |tls: &'static TlsInfo| Binding::To(name, crate::binding::octets(tls, name).unwrap());
            let accepts = Accepts { plus: true, offers_plus: true, tls: Some(&ours) };
            let same = Box::leak(Box::new(ours.clone()));
            assert_eq!(run(&accepts, to(same), keys(hash), "pencil"), Ok(Ok(())), "{name}");
            let middle = Box::leak(Box::new(other.clone()));
            assert_eq!(run(&accepts, to(middle), keys(hash), "pencil"), Err(ScramError::BindingDiffers), "{name}");
        }
    }
}

#[test]
fn a_binding_that_the_server_does_not_have_is_no_binding() {
    let none = TlsInfo::default();
    for (tls, name) in [(None, "tls-exporter"), (Some(&none), "tls-exporter"), (Some(&tls(1)), "tls-unique")] {
        let accepts = Accepts { plus: true, offers_plus: true, tls };
        let result = run(&accepts, Binding::To(name, &[1; 32]), keys(Hash::Sha256), "pencil");
        assert_eq!(result, Err(ScramError::BindingUnknown));
    }
}

#[test]
fn a_client_that_was_not_shown_plus_is_told() {
    let ours = tls(1);
    let offering = Accepts { plus: false, offers_plus: true, tls: Some(&ours) };
    let downgraded = run(&offering, Binding::NotOffered, keys(Hash::Sha256), "pencil");
    assert_eq!(downgraded, Err(ScramError::Downgrade));
    // In clear too: the TLS may be with somebody in between.
    let in_clear = Accepts { tls: None, ..offering };
    assert_eq!(run(&in_clear, Binding::NotOffered, keys(Hash::Sha256), "pencil"), Err(ScramError::Downgrade));
    assert_eq!(run(&offering, Binding::Unsupported, keys(Hash::Sha256), "pencil"), Ok(Ok(())));
    assert_eq!(run(&Accepts::default(), Binding::NotOffered, keys(Hash::Sha256), "pencil"), Ok(Ok(())));
}

#[test]
fn the_flag_cannot_be_changed_on_the_way() {
    // Somebody in between turns `y` into `n`, so that the server does not notice: the proof does.
    let client = Client::new(Hash::Sha256, Binding::NotOffered, "user", "", "abc").unwrap();
    let accepts = Accepts { plus: false, offers_plus: true, tls: None };
    let server = Server::begin(Hash::Sha256, &accepts, b"n,,n=user,r=abc").unwrap();
    let (challenge, server) = server.challenge(keys(Hash::Sha256), "def");
    let (response, _) = client.challenge(challenge.as_bytes()).unwrap().respond(&pencil());
    assert_eq!(server.finish(response.expose()), Err(ScramError::BindingDiffers));
}

#[test]
fn a_wrong_password_and_a_decoy_fail_alike() {
    let accepts = Accepts::default();
    let wrong = run(&accepts, Binding::Unsupported, keys(Hash::Sha256), "pen");
    assert_eq!(wrong, Err(ScramError::Proof));
    let decoy = Keys::decoy(Hash::Sha256, b"secret", "nobody", 4096);
    assert_eq!(run(&accepts, Binding::Unsupported, decoy.clone(), "pencil"), Err(ScramError::Proof));
    assert_eq!(decoy, Keys::decoy(Hash::Sha256, b"secret", "nobody", 4096));
    assert_ne!(decoy.salt, Keys::decoy(Hash::Sha256, b"secret", "somebody", 4096).salt);
    assert_ne!(decoy.salt, Keys::decoy(Hash::Sha256, b"another", "nobody", 4096).salt);
    assert_eq!(decoy.salt.len(), keys::SALT_LEN);
}

#[test]
fn a_server_without_the_keys_is_found_out() {
    let client = || {
        let client = Client::new(Hash::Sha256, Binding::Unsupported, "user", "", "abc").unwrap();
        client.challenge(b"r=abcdef,s=c2FsdA==,i=4096").unwrap().respond(&pencil()).1
    };
    let false_proof = format!("v={}", STANDARD.encode([0; 32]));
    assert_eq!(client().finish(false_proof.as_bytes()), Err(ScramError::Proof));
    assert_eq!(client().finish(b"e=other-error"), Err(ScramError::Server));
    for malformed in [&b""[..], b"v=", b"v=!", b"x=AAAA", b"\xff"] {
        assert!(client().finish(malformed).is_err());
    }
}

#[test]
fn challenges_that_a_client_does_not_answer() {
    let answer = |challenge: &str| {
        let client = Client::new(Hash::Sha256, Binding::Unsupported, "user", "", "abc").unwrap();
        client.challenge(challenge.as_bytes()).map(drop)
    };
    assert_eq!(answer("r=abcdef,s=c2FsdA==,i=4096"), Ok(()));
    assert_eq!(answer("r=abcdef,s=c2FsdA==,i=4096,x=later"), Ok(()));
    for (challenge, error) in [
        ("r=abc,s=c2FsdA==,i=4096", ScramError::Nonce),
        ("r=xyzdef,s=c2FsdA==,i=4096", ScramError::Nonce),
        ("r=abcdef,s=c2FsdA==,i=1", ScramError::Iterations(1)),
        ("r=abcdef,s=c2FsdA==,i=4000000000", ScramError::Iterations(4_000_000_000)),
    ] {
        assert_eq!(answer(challenge), Err(error));
    }
    for challenge in [
        "",
        "r=abcdef",
        "s=c2FsdA==,r=abcdef,i=4096",
        "r=abcdef,s=,i=4096",
        "r=abcdef,s=?,i=4096",
        "r=abcdef,s=c2FsdA==,i=-1",
        "r=abcdef,s=c2FsdA==,i=",
        "m=new,r=abcdef,s=c2FsdA==,i=4096",
        "r=abcdef,s=c2FsdA==,i=4096,m=new",
        "r=abcdef,s=c2FsdA==,i=4096,",
    ] {
        assert!(matches!(answer(challenge), Err(ScramError::Malformed(_))), "{challenge}");
    }
}

#[test]
fn first_messages_that_a_server_does_not_take() {
    for message in [
        "",
        "n",
        "n,,",
        "n,,r=abc",
        "n,,n=,r=abc",
        "n,,n=user",
        "n,,n=user,r=",
        "n,,n=us=er,r=abc",
        "n,,n=us=2cer,r=abc",
        "n,,n=user,r=a c",
        "n,,m=x,n=user,r=abc",
        "n,,n=user,r=abc,m=x",
        "n,,n=user,r=abc,",
        "n,user,n=user,r=abc",
        "n,a=,n=user,r=abc",
        "x,,n=user,r=abc",
        "p=,,n=user,r=abc",
        "p=tls-exporter,,n=user,r=abc",
        "n,,n=us\0er,r=abc",
    ] {
        let result = Server::begin(Hash::Sha256, &Accepts::default(), message.as_bytes());
        assert!(matches!(result, Err(ScramError::Malformed(_))), "{message}");
    }
    let long = format!("n,,n=user,r={}", "x".repeat(5_000));
    assert!(Server::begin(Hash::Sha256, &Accepts::default(), long.as_bytes()).is_err());
    for flag in ["n", "y"] {
        let plus = Accepts { plus: true, offers_plus: true, tls: None };
        assert!(Server::begin(Hash::Sha256, &plus, format!("{flag},,n=user,r=abc").as_bytes()).is_err());
    }
    let acting = Server::begin(Hash::Sha256, &Accepts::default(), b"n,a=bo=2Css,n=user,r=abc").unwrap();
    assert_eq!(acting.acts_as(), Some("bo,ss"));
}

#[test]
fn responses_that_a_server_does_not_take() {
    let finish = |message: &str| {
        let server = Server::begin(Hash::Sha256, &Accepts::default(), b"n,,n=user,r=abc").unwrap();
        server.challenge(keys(Hash::Sha256), "def").1.finish(message.as_bytes())
    };
    let proof = STANDARD.encode([0; 32]);
    assert_eq!(finish(&format!("c=biws,r=abcdef,p={proof}")), Err(ScramError::Proof));
    assert_eq!(finish(&format!("c=biws,r=abcxyz,p={proof}")), Err(ScramError::Nonce));
    assert_eq!(finish(&format!("c=eSws,r=abcdef,p={proof}")), Err(ScramError::BindingDiffers));
    for message in ["", "c=biws", "c=biws,r=abcdef", "c=biws,r=abcdef,p=?", "c=biws,r=abcdef,p=AAAA", "r=abcdef,p=AAAA"]
    {
        assert!(matches!(finish(message), Err(ScramError::Malformed(_))), "{message}");
    }
}

#[test]
fn keys_have_a_text_form_and_no_other() {
    for hash in [Hash::Sha256, Hash::Sha1] {
        let keys = keys(hash);
        let text = keys.expose();
        assert_eq!(text.parse::<Keys>().as_ref(), Ok(&keys));
        assert!(text.starts_with(&format!("{}$4096:c2FsdA==$", hash.mechanism(false))), "{text}");
        let shown = format!("{keys:?}");
        assert!(!shown.contains(&text[40..50]), "{shown}");
    }
    let good = keys(Hash::Sha256).expose();
    for bad in [
        String::new(),
        good.replace("SHA-256", "SHA-512"),
        good.replace("SHA-256", "SHA-1"),
        good.replace("4096", "1"),
        good.replace("4096", "x"),
        good.replace("c2FsdA==", ""),
        format!("{good}$"),
        good.replace('$', ":"),
    ] {
        assert_eq!(bad.parse::<Keys>(), Err(KeySyntaxError), "{bad}");
    }
}

#[test]
fn names_and_passwords_have_one_spelling() {
    let keys = Keys::derive(Hash::Sha256, "I\u{ad}X", b"salt", 4096);
    assert_eq!(keys, Keys::derive(Hash::Sha256, "\u{2168}", b"salt", 4096));
    assert_eq!(run(&Accepts::default(), Binding::Unsupported, keys, "\u{2168}"), Ok(Ok(())));
}

proptest! {
    #[test]
    fn names_are_read_as_they_were_written(name in "[^\\x00]{1,20}") {
        prop_assert_eq!(unescape(&escape(&name)), Some(name));
    }

    #[test]
    fn garbage_is_an_error_at_every_step(octets in proptest::collection::vec(any::<u8>(), 0..200), text in "[cnprsvi=,a-f0-9]{0,60}") {
        for message in [&octets[..], text.as_bytes()] {
            let _ = Server::begin(Hash::Sha256, &Accepts::default(), message);
            let server = Server::begin(Hash::Sha256, &Accepts::default(), b"n,,n=user,r=abc").unwrap();
            let decoy = Keys::decoy(Hash::Sha256, b"", "user", 4096);
            prop_assert!(server.challenge(decoy, "def").1.finish(message).is_err());
            let client = Client::new(Hash::Sha256, Binding::Unsupported, "user", "", "abcdefgh").unwrap();
            prop_assert!(client.challenge(message).is_err());
        }
    }
}
