//! Ends: clean ones, cut ones, aborted ones.

use std::io::{ErrorKind, IoSlice};

use smtp_core::stream::CloseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{plain_pair, say, tls_pair};

#[tokio::test]
async fn after_shutdown_reading_goes_on() {
    for tls in [false, true] {
        let (mut client, mut server) = if tls { tls_pair().await } else { plain_pair().await };
        client.write_all(b"QUIT\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        server.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "QUIT\r\n", "tls: {tls}");
        server.write_all(b"221 bye\r\n").await.unwrap();
        server.shutdown().await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "221 bye\r\n", "tls: {tls}");
    }
}

/// Anybody on the way can send a FIN; only the peer can send `close_notify`.
#[tokio::test]
async fn a_tls_peer_that_just_closes_is_an_error() {
    for (what, sent) in [("at once", ""), ("in the middle", "DATA that is not"), ("twice", "two\r\nlines\r\n")] {
        let (mut client, mut server) = tls_pair().await;
        // The client reads, so that no ticket is left unread: closing would reset the connection then.
        say(&mut server, &mut client, "220 ready\r\n").await;
        client.write_all(sent.as_bytes()).await.unwrap();
        client.flush().await.unwrap();
        drop(client);
        let mut heard = Vec::new();
        let error = server.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{what}: {error}");
        assert!(error.to_string().contains("the client closed"), "{error}");
        assert_eq!(heard, sent.as_bytes(), "{what}");
        // It does not become a clean end by asking again.
        assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof, "{what}");
    }
}

#[tokio::test]
async fn a_client_notices_a_cut_too() {
    let (mut client, mut server) = tls_pair().await;
    say(&mut client, &mut server, "EHLO x\r\n").await;
    server.write_all(b"250-half a rep").await.unwrap();
    drop(server);
    let mut heard = Vec::new();
    let error = client.read_to_end(&mut heard).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("the server closed"), "{error}");
}

#[tokio::test]
async fn abort_resets_the_connection() {
    for tls in [false, true] {
        let (mut client, mut server) = if tls { tls_pair().await } else { plain_pair().await };
        say(&mut server, &mut client, "220 ready\r\n").await;
        server.abort(CloseCode::Policy);
        let error = client.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "tls: {tls}");

        let (client, mut server) = if tls { tls_pair().await } else { plain_pair().await };
        client.abort(CloseCode::Cancelled);
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "tls: {tls}");
    }
}

#[tokio::test]
async fn vectored_writes_go_out_in_one_call() {
    for tls in [false, true] {
        let (mut client, mut server) = if tls { tls_pair().await } else { plain_pair().await };
        assert!(client.is_write_vectored());
        let parts = [IoSlice::new(b"MAIL FROM:<>\r\n"), IoSlice::new(b"RCPT TO:<a@b.example>\r\n"), IoSlice::new(b"")];
        let total: usize = parts.iter().map(|part| part.len()).sum();
        assert_eq!(client.write_vectored(&parts).await.unwrap(), total, "tls: {tls}");
        client.flush().await.unwrap();
        let mut heard = vec![0; total];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_is_ready_at_once_is_confirmed_at_once() {
    let (mut client, _server) = plain_pair().await;
    std::future::poll_fn(|cx| client.poll_confirmed(cx)).await.unwrap();
}
