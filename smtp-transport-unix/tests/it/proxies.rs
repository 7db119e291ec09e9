//! Behind a proxy on the same machine.

use smtp_core::channel::Peer;
use smtp_core::stream::{
    AcceptProxy, Connector, Listener, ProxyError, ProxyFault, ProxyHeader, ProxyVersion, TlsPolicy,
};
use smtp_transport_unix::UnixConnector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{folder, listen, target};

fn proxies(list: &str) -> AcceptProxy {
    AcceptProxy::from(list.parse().unwrap())
}

#[tokio::test]
async fn a_listed_user_speaks_for_others_and_is_no_longer_a_secure_channel() {
    let folder = folder();
    let path = folder.path().join("socket");
    let uid = rustix::process::geteuid().as_raw();
    let listener = listen(&path).behind(proxies(&format!("uid:{uid}")));
    let client = "198.51.100.7:4711".parse().unwrap();
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = ProxyHeader::new(version, client, "203.0.113.9:25".parse().unwrap());
        let connector = UnixConnector::new().with_proxy_header(header);
        let mut proxy = connector.connect(&target(&path), &TlsPolicy::NONE).await.unwrap().open().await.unwrap();
        let mut ours = listener.accept().await.unwrap().accept().await.unwrap().unwrap();
        let info = ours.info();
        let Peer::Forwarded { address, proxy: by } = &info.peer else { panic!("{info:?}") };
        assert_eq!(*address, Some(client));
        assert!(matches!(**by, Peer::Process { uid: of, .. } if of == uid), "{by:?}");
        // Between client and proxy there was a network.
        assert!(!info.secure && !info.peer.is_local());
        proxy.write_all(b"EHLO x\r\n").await.unwrap();
        let mut said = [0; 8];
        ours.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"EHLO x\r\n");
    }
}

#[tokio::test]
async fn another_user_is_a_stranger() {
    let folder = folder();
    let path = folder.path().join("socket");
    let uid = rustix::process::geteuid().as_raw();
    let listener = listen(&path).behind(proxies(&format!("uid:{}, 127.0.0.0/8, ::/0", uid + 1)));
    let header = ProxyHeader::local(ProxyVersion::V2);
    let connector = UnixConnector::new().with_proxy_header(header);
    let _proxy = connector.connect(&target(&path), &TlsPolicy::NONE).await.unwrap();
    let error = listener.accept().await.unwrap().accept().await.err().unwrap();
    assert_eq!(error.into_inner().unwrap().downcast::<ProxyError>().unwrap().why, ProxyFault::Stranger);
}
