//! Several certificates, reload, tickets, ALPN.

use smtp_core::stream::Verification;
use smtp_tls::{HandshakeError, Identity, Pin, Role, ServerTls, Versions, client_info};

use crate::pair::{Pair, client, connect, server};
use crate::pki::{Leaf, valid};

fn shown(pair: &Pair) -> Pin {
    Pin::of_certificate(&pair.client.peer_certificates().unwrap()[0]).unwrap()
}

fn pin(leaf: &Leaf) -> Pin {
    Pin::of_certificate(&leaf.certificate).unwrap()
}

#[test]
fn the_certificate_follows_the_name_asked_for() {
    let first = Leaf::self_signed(&valid(&["a.example"]));
    let second = Leaf::self_signed(&valid(&["*.b.example"]));
    let server = server().identity(first.identity()).identity(second.identity()).build().unwrap();
    assert_eq!(server.pin(), Some(pin(&first)));
    let client = client().build().unwrap();
    let table = [("a.example", &first), ("x.b.example", &second), ("c.example", &first), ("[192.0.2.1]", &first)];
    for (name, expected) in table {
        let pair = connect(&server, &client, &Verification::None, name).unwrap();
        assert_eq!(shown(&pair), pin(expected), "{name}");
        let sni = (!name.starts_with('[')).then_some(name);
        assert_eq!(pair.server_info().sni.as_deref(), sni);
    }
}

#[test]
fn a_reload_serves_new_handshakes_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let write = |leaf: &Leaf| {
        std::fs::write(&certificate, leaf.pem()).unwrap();
        std::fs::write(&key, leaf.key.serialize_pem()).unwrap();
    };
    let (old, new) = (Leaf::self_signed(&valid(&["mx.example"])), Leaf::self_signed(&valid(&["mx.example"])));
    write(&old);
    let server = server().identity(Identity::from_files(&certificate, &key)).build().unwrap();
    let sibling = server.for_listener(&[]).unwrap();
    // Without resumption, as a resumed handshake shows no certificate.
    let client = client().sessions(0).build().unwrap();
    let connect = |server: &ServerTls| connect(server, &client, &Verification::None, "mx.example").unwrap();
    let mut before = connect(&server);
    assert_eq!(shown(&before), pin(&old));

    // Half of a renewal: the key is the next one's already.
    std::fs::write(&key, new.key.serialize_pem()).unwrap();
    let error = server.reload().unwrap_err().to_string();
    assert!(error.contains("key.pem") && error.contains("cert.pem") && error.contains("does not belong"), "{error}");
    assert_eq!(shown(&connect(&server)), pin(&old));

    write(&new);
    server.reload().unwrap();
    assert_eq!(shown(&connect(&server)), pin(&new));
    assert_eq!(shown(&connect(&sibling)), pin(&new));
    assert_eq!(server.pin(), Some(pin(&new)));

    // The connection from before goes on.
    std::io::Write::write_all(&mut before.client.writer(), b"still here").unwrap();
    before.run().unwrap();
    let mut got = [0; 10];
    std::io::Read::read_exact(&mut before.server.reader(), &mut got).unwrap();
    assert_eq!(&got, b"still here");
}

#[test]
fn a_session_of_one_listener_does_not_resume_on_another() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let memory = || server().identity(leaf.identity());
    let tickets = || memory().ticketer(rustls::crypto::aws_lc_rs::Ticketer::new);
    for (what, builder) in [("memory", memory()), ("tickets", tickets())] {
        let one = builder.build().unwrap();
        let two = one.for_listener(&[]).unwrap();
        for versions in [Versions::Tls12, Versions::Tls13] {
            let client = client().versions(versions).build().unwrap();
            let resumed = |server: &ServerTls| {
                let pair = connect(server, &client, &Verification::None, "mx.example").unwrap();
                let resumed = pair.server_info().resumed;
                let client = &pair.client;
                let name = smtp_tls::server_name(&"mx.example".parse().unwrap()).unwrap();
                assert_eq!(client_info(client, &name, &Verification::None).resumed, resumed);
                resumed
            };
            let what = format!("{what}, {versions:?}");
            assert_eq!([resumed(&one), resumed(&one)], [false, true], "{what}");
            // The client offers the first listener's session; the second must not know it.
            assert_eq!([resumed(&two), resumed(&two)], [false, true], "{what}");
            // A clone is the same listener.
            assert!(resumed(&two.clone()), "{what}");
        }
    }
}

#[test]
fn each_session_gives_one_for_the_next() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let server = server().identity(leaf.identity()).build().unwrap();
    let client = client().versions(Versions::Tls13).build().unwrap();
    for resumed in [false, true, true, true] {
        let pair = connect(&server, &client, &Verification::None, "mx.example").unwrap();
        assert_eq!((pair.server_info().resumed, pair.client.tls13_tickets_received()), (resumed, 1));
    }
}

#[test]
fn the_sessions_that_came_last_are_remembered() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let server = server().identity(leaf.identity()).sessions(2).build().unwrap();
    let clients = [(); 3].map(|()| client().versions(Versions::Tls13).build().unwrap());
    let resumed = |client| connect(&server, client, &Verification::None, "mx.example").unwrap().server_info().resumed;
    assert_eq!(clients.each_ref().map(resumed), [false; 3]);
    // The first was forgotten for the third; as each comes anew, the next is forgotten for it.
    assert_eq!(clients.each_ref().map(resumed), [false, false, false]);
    assert_eq!([&clients[2], &clients[1], &clients[0]].map(resumed), [true, true, false]);
}

#[test]
fn resumption_can_be_turned_off_on_either_side() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    for (server_sessions, client_sessions) in [(0, 100), (100, 0)] {
        let server = server().identity(leaf.identity()).sessions(server_sessions).build().unwrap();
        for versions in [Versions::Tls12, Versions::Tls13] {
            let client = client().sessions(client_sessions).versions(versions).build().unwrap();
            for _ in 0..3 {
                let pair = connect(&server, &client, &Verification::None, "mx.example").unwrap();
                assert!(!pair.server_info().resumed);
            }
        }
    }
}

#[test]
fn application_protocols_must_meet_if_both_sides_name_some() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let server = server().identity(leaf.identity()).alpn(&[b"smtp"]).build().unwrap();
    let agreed = |client: &smtp_tls::ClientTls| {
        connect(&server, client, &Verification::None, "mx.example").map(|pair| pair.server_info().alpn)
    };
    let plain = client().build().unwrap();
    assert_eq!(agreed(&plain).unwrap(), None);
    assert_eq!(agreed(&plain.with_alpn(&[b"x", b"smtp"])).unwrap().as_deref(), Some("smtp"));
    let error = agreed(&client().alpn(&[b"http/1.1"]).build().unwrap()).unwrap_err();
    assert!(matches!(error, HandshakeError::NothingInCommon { peer: Role::Client, .. }), "{error:?}");
    let other = server.for_listener(&[b"http/1.1"]).unwrap();
    connect(&other, &client().alpn(&[b"http/1.1"]).build().unwrap(), &Verification::None, "mx.example").unwrap();
}
