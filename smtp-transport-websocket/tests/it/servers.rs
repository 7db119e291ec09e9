//! Our client, and servers of every kind: tungstenite's own, driven by hand, and some that are no WebSockets.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use smtp_core::stream::{ByteStream, ConnectError, Connector, Target, TlsPolicy};
use smtp_transport_tcp::TcpConnector;
use smtp_transport_websocket::{MAX_SENT, WebSocketConnector};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

fn connector() -> WebSocketConnector<TcpConnector> {
    WebSocketConnector::new(TcpConnector::without_tls()).with_path("/mail").with_timeout(Duration::from_secs(2))
}

async fn listen() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Target::host("[127.0.0.1]".parse().unwrap(), port))
}

/// Agrees, and makes sure that it was asked as it should be.
struct Agree;

impl Callback for Agree {
    #[allow(clippy::result_large_err)]
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        assert_eq!(request.uri().path(), "/mail");
        assert_eq!(request.headers()["sec-websocket-protocol"], "smtp");
        assert!(!request.headers().contains_key("origin"));
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("smtp"));
        Ok(response)
    }
}

async fn pair() -> (Box<dyn ByteStream>, WebSocketStream<TcpStream>) {
    let (listener, target) = listen().await;
    let accept = async { accept_hdr_async(listener.accept().await.unwrap().0, Agree).await.unwrap() };
    let connector = connector();
    let connect = async { connector.connect(&target, &TlsPolicy::NONE).await.unwrap().open().await.unwrap() };
    tokio::join!(connect, accept)
}

#[tokio::test]
async fn octets_go_out_in_bounded_binary_messages_and_the_end_as_an_empty_one() {
    let (mut client, mut server) = pair().await;
    let content = vec![b'x'; 3 * MAX_SENT + 5];
    let sending = async {
        client.write_all(&content).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut sizes = Vec::new();
        while sizes.last() != Some(&0) {
            match server.next().await.unwrap().unwrap() {
                Message::Binary(octets) => sizes.push(octets.len()),
                other => panic!("{other:?}"),
            }
        }
        sizes
    };
    let ((), sizes) = tokio::join!(sending, receiving);
    assert_eq!(sizes.iter().sum::<usize>(), content.len());
    assert!(sizes.iter().all(|size| *size <= MAX_SENT), "{sizes:?}");

    // The other direction is still open.
    server.send(Message::binary("221 bye\r\n")).await.unwrap();
    server.send(Message::binary("")).await.unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "221 bye\r\n");
    // Both have ended, so the client says so to WebSockets, too.
    assert!(matches!(server.next().await.unwrap().unwrap(), Message::Close(Some(_))));
}

#[tokio::test]
async fn a_server_that_closes_in_order_is_the_end_for_both_directions() {
    let (mut client, mut server) = pair().await;
    server.send(Message::binary("421 bye\r\n")).await.unwrap();
    server.close(None).await.unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "421 bye\r\n");
    assert_eq!(client.write_all(b"QUIT\r\n").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    client.flush().await.unwrap();
    client.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_just_gone_is_an_error() {
    let (mut client, mut server) = pair().await;
    server.send(Message::binary("250-half a re")).await.unwrap();
    drop(server);
    let mut heard = String::new();
    let error = client.read_to_string(&mut heard).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
}

/// What connecting makes of a server that says just this.
async fn asked(answer: &'static str) -> ConnectError {
    let (listener, target) = listen().await;
    tokio::spawn(async move {
        let mut socket = listener.accept().await.unwrap().0;
        socket.write_all(answer.as_bytes()).await.unwrap();
        // Until the client has had enough.
        let _ = socket.read_to_end(&mut Vec::new()).await;
    });
    connector().connect(&target, &TlsPolicy::NONE).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn errors_tell_whether_they_may_pass() {
    for (answer, transient, text) in [
        ("HTTP/1.1 404 Not Found\r\n\r\n", false, "404"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", false, "403"),
        ("HTTP/1.1 429 Too Many Requests\r\n\r\n", true, "429"),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", true, "503"),
        ("HTTP/1.1 200 OK\r\n\r\n", true, "200"),
        ("220 mx.example ESMTP\r\n\r\n", true, "handshake"),
        ("", true, "within 2s"),
    ] {
        let error = asked(answer).await;
        assert_eq!(error.transient, transient, "{answer:?}: {error}");
        assert!(error.to_string().contains(text), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_the_subprotocol_has_failed_for_good() {
    let (listener, target) = listen().await;
    tokio::spawn(async move { tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.map(drop) });
    let error = connector().connect(&target, &TlsPolicy::NONE).await.map(drop).unwrap_err();
    assert!(!error.transient && error.to_string().contains("does not speak SMTP"), "{error}");
}
