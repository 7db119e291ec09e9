//! What a listener says of itself, and why one cannot listen.

use std::io::ErrorKind;

use smtp_core::stream::Listener;
use smtp_transport_tcp::{ListenOptions, TcpListener, Tls};

use crate::support::{Leaf, listen, loopback, server};

#[tokio::test]
async fn the_url_has_the_real_port() {
    let plain = listen(Tls::None);
    assert_eq!(plain.url(), format!("smtp://127.0.0.1:{}", plain.local_addr().port()));
    assert!(plain.is_local() && plain.local_addr().port() != 0);
    let tls = server().identity(Leaf::new().identity()).build().unwrap();
    assert!(listen(Tls::StartTls(tls.clone())).url().starts_with("smtp://127.0.0.1:"));
    assert!(listen(Tls::Implicit(tls)).url().starts_with("smtps://127.0.0.1:"));
}

#[tokio::test]
async fn ipv6_stands_in_brackets_and_leaves_ipv4_alone() {
    let Ok(all) = TcpListener::bind("[::]:0".parse().unwrap(), ListenOptions::default()) else {
        println!("skipped: no IPv6 here");
        return;
    };
    let port = all.local_addr().port();
    assert_eq!(all.url(), format!("smtp://[::]:{port}"));
    assert!(!all.is_local());
    // IPv6 only, so the same port is free for IPv4.
    TcpListener::bind(format!("0.0.0.0:{port}").parse().unwrap(), ListenOptions::default()).unwrap();
    let local = TcpListener::bind("[::1]:0".parse().unwrap(), ListenOptions::default()).unwrap();
    assert!(local.is_local());
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_explained() {
    let taken = listen(Tls::None);
    let error = TcpListener::bind(taken.local_addr(), ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.contains(&taken.local_addr().to_string()) && text.contains("another program"), "{text}");

    let error = TcpListener::bind("192.0.2.1:0".parse().unwrap(), ListenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no such address"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn several_can_share_a_port_if_told_to() {
    let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let one = TcpListener::bind(loopback(), shared.clone()).unwrap();
    TcpListener::bind(one.local_addr(), shared).unwrap();
}

#[tokio::test]
async fn a_socket_that_listens_already_is_taken_over() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::from_std(socket, Tls::None).unwrap();
    let _client = tokio::net::TcpStream::connect(address).await.unwrap();
    assert!(listener.accept().await.unwrap().accept().await.unwrap().is_some());
}

/// The driver may stop waiting for a connection at any time; none may be lost by it.
#[tokio::test]
async fn accepting_can_be_given_up_and_taken_up_again() {
    let listener = listen(Tls::None);
    for _ in 0..20 {
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(1), listener.accept()).await;
        assert!(given_up.is_err());
    }
    let _client = tokio::net::TcpStream::connect(listener.local_addr()).await.unwrap();
    listener.accept().await.unwrap();
}
