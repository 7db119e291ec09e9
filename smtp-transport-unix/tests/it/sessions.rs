//! Sessions over a Unix socket, and how they end.

use smtp_core::stream::Listener;
use smtp_core::stream::{CloseCode, Connector, TlsPolicy};
use smtp_test::kit::{self, Pair};
use smtp_transport_unix::UnixConnector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{CODES, CONVERSATION, Taken, codes, folder, listen, pair, serving, target};

#[tokio::test]
async fn it_is_a_byte_stream() {
    let folder = folder();
    let path = folder.path().join("kit");
    let listener = listen(&path);
    let make = async || {
        let client =
            UnixConnector::new().connect(&target(&path), &TlsPolicy::NONE).await.map_err(std::io::Error::other)?;
        Pair::over(client, listener.accept().await?).await
    };
    println!("{}", kit::check(make).await.unwrap());
}

#[tokio::test]
async fn the_facts_are_those_of_a_local_channel() {
    let (client, server) = pair(&folder()).await;
    for info in [client.info(), server.info()] {
        assert_eq!((info.transport, info.secure, info.can_upgrade), ("unix", true, false));
        assert!(info.peer.is_local() && info.tls.is_none() && info.local.is_none() && !info.client_speaks_first);
    }
    assert!(client.upgrade().await.is_err());
}

#[tokio::test]
async fn a_conversation_and_a_half_close_give_all_replies() {
    let folder = folder();
    for piece in [CONVERSATION.len(), 1, 7] {
        let (mut client, server) = pair(&folder).await;
        let taken = Taken::default();
        let session = serving(server, &taken);
        for piece in CONVERSATION.chunks(piece) {
            client.write_all(piece).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!(codes(&said), CODES, "{said}");
        session.await.unwrap().unwrap();
        assert_eq!(taken.bodies(), [b".one\r\ntwo\r\n".to_vec(), b"ab\r\ncd\r\n".to_vec()]);
    }
}

#[tokio::test]
async fn an_end_at_any_octet_delivers_whole_messages_only() {
    let folder = folder();
    let first = CONVERSATION.windows(5).position(|w| w == b"\r\n.\r\n").unwrap() + 5;
    let second = CONVERSATION.windows(4).position(|w| w == b"QUIT").unwrap();
    for cut in 0..=CONVERSATION.len() {
        let (mut client, server) = pair(&folder).await;
        let taken = Taken::default();
        let session = serving(server, &taken);
        client.write_all(&CONVERSATION[..cut]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        let _ = session.await.unwrap();
        assert_eq!(
            taken.bodies().len(),
            usize::from(cut >= first) + usize::from(cut >= second),
            "cut at {cut}: {said}"
        );
    }
}

#[tokio::test]
async fn an_abort_ends_the_session_and_delivers_nothing() {
    let (mut client, server) = pair(&folder()).await;
    let taken = Taken::default();
    let session = serving(server, &taken);
    client.write_all(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nhalf a mess").await.unwrap();
    let mut said = vec![0; 1024];
    while !String::from_utf8_lossy(&said).contains("354") {
        assert!(client.read(&mut said).await.unwrap() > 0);
    }
    client.abort(CloseCode::Cancelled);
    session.await.unwrap().unwrap_err();
    assert!(taken.bodies().is_empty());
}

#[tokio::test]
async fn a_server_that_aborts_is_the_end_for_its_client() {
    let (mut client, server) = pair(&folder()).await;
    client.write_all(b"unread").await.unwrap();
    server.abort(CloseCode::Policy);
    // Linux resets a client whose words were not read.
    assert!(!matches!(client.read(&mut [0; 8]).await, Ok(1..)));
    assert!(client.write_all(b"NOOP\r\n").await.is_err());
}
