//! Our server, and clients of every kind: tungstenite's own, driven by hand, and some that are no WebSockets.

use std::io::ErrorKind;

use futures_util::{SinkExt, StreamExt};
use smtp_transport_websocket::{MAX_RECEIVED, WebSocketListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::{CODES, CONVERSATION, Server, codes};

type Client = WebSocketStream<TcpStream>;

async fn ask(port: u16, protocols: &[&str], origin: Option<&str>) -> Result<Client, Error> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut request = ClientRequestBuilder::new(format!("ws://localhost:{port}/any/path").parse().unwrap());
    for protocol in protocols {
        request = request.with_sub_protocol(*protocol);
    }
    if let Some(origin) = origin {
        request = request.with_header("Origin", origin);
    }
    Ok(client_async(request, socket).await?.0)
}

async fn connect(server: &Server) -> Client {
    ask(server.port, &["smtp"], None).await.unwrap()
}

/// The status of a refusal.
fn status(asked: Result<Client, Error>) -> u16 {
    match asked {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("not refused"),
    }
}

/// All that the server says until its end, and how it closes.
async fn listen(client: &mut Client) -> (String, Option<CloseFrame>) {
    let mut said = Vec::new();
    while let Some(Ok(message)) = client.next().await {
        match message {
            Message::Binary(octets) => said.extend_from_slice(&octets),
            Message::Close(frame) => return (String::from_utf8(said).unwrap(), frame),
            other => panic!("{other:?}"),
        }
    }
    panic!("no close frame behind {:?}", String::from_utf8_lossy(&said));
}

/// The code of the close frame that the server ends with.
async fn last_word(mut socket: TcpStream) -> u16 {
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard).await.unwrap();
    match heard[..] {
        [.., 0x88, 2, high, low] => u16::from_be_bytes([high, low]),
        _ => panic!("no close frame at the end of {heard:x?}"),
    }
}

fn binary(octets: &'static [u8]) -> Message {
    Message::Binary(octets.into())
}

#[tokio::test]
async fn a_conversation_in_messages_of_any_size_and_an_empty_one_as_its_end() {
    let mut server = Server::start();
    for piece in [CONVERSATION.len(), 1, 9] {
        let mut client = connect(&server).await;
        for piece in CONVERSATION.chunks(piece) {
            client.send(binary(piece)).await.unwrap();
        }
        client.send(binary(b"")).await.unwrap();
        let (said, close) = listen(&mut client).await;
        assert_eq!(codes(&said), CODES, "{said}");
        assert_eq!(close.unwrap().code, CloseCode::Normal);
        server.ended.recv().await.unwrap().unwrap();
    }
    assert_eq!(server.taken.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn the_end_of_the_server_is_an_empty_message_too() {
    let server = Server::start();
    let mut client = connect(&server).await;
    client.send(binary(b"QUIT\r\n")).await.unwrap();
    let mut sizes = Vec::new();
    while sizes.last() != Some(&0) {
        match client.next().await.unwrap().unwrap() {
            Message::Binary(octets) => sizes.push(octets.len()),
            other => panic!("{other:?}"),
        }
    }
    assert!(sizes.len() >= 2, "{sizes:?}");
}

#[tokio::test]
async fn who_does_not_offer_smtp_is_refused() {
    let mut server = Server::start();
    for protocols in [&[][..], &["chat"], &["SMTP"]] {
        assert_eq!(status(ask(server.port, protocols, None).await), 400);
        assert_eq!(server.ended.recv().await.unwrap().unwrap_err().kind(), ErrorKind::InvalidData);
    }
    ask(server.port, &["chat", "smtp"], None).await.unwrap();
}

#[tokio::test]
async fn pages_in_a_browser_are_refused_unless_they_are_known() {
    let server = Server::start();
    for origin in ["https://evil.example", "null", "http://localhost"] {
        assert_eq!(status(ask(server.port, &["smtp"], Some(origin)).await), 403);
    }
    let server = Server::on(|tcp| WebSocketListener::new(tcp).with_origins(["https://mail.example"]));
    assert_eq!(status(ask(server.port, &["smtp"], Some("https://evil.example")).await), 403);
    assert_eq!(status(ask(server.port, &["smtp"], Some("https://mail.example.evil.example")).await), 403);
    ask(server.port, &["smtp"], Some("https://mail.example")).await.unwrap();
    ask(server.port, &["smtp"], None).await.unwrap();
}

#[tokio::test]
async fn text_is_refused_with_1003() {
    let mut server = Server::start();
    let mut client = connect(&server).await;
    client.send(Message::text("EHLO c.example\r\n")).await.unwrap();
    let (said, close) = listen(&mut client).await;
    assert_eq!(codes(&said), ["220"]);
    assert_eq!(close.unwrap().code, CloseCode::Unsupported);
    assert_eq!(server.ended.recv().await.unwrap().unwrap_err().kind(), ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_message_up_to_the_limit_is_taken_and_one_beyond_is_refused_with_1009() {
    let mut server = Server::start();
    let start = format!("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT {} LAST\r\n", MAX_RECEIVED + 2);
    let lines = |len| Message::binary(b"0123456789abcd\r\n".repeat(MAX_RECEIVED / 16 + 1)[..len].to_vec());
    let mut client = connect(&server).await;
    client.send(Message::binary(start.clone())).await.unwrap();
    client.send(lines(MAX_RECEIVED)).await.unwrap();
    client.send(binary(b"\r\n")).await.unwrap();
    client.send(binary(b"QUIT\r\n")).await.unwrap();
    client.send(binary(b"")).await.unwrap();
    assert!(listen(&mut client).await.0.contains("\r\n221 "));
    server.ended.recv().await.unwrap().unwrap();
    assert_eq!(server.taken.lock().unwrap()[0].len(), MAX_RECEIVED + 2);

    // In one frame, and in many that never end.
    for fragments in [false, true] {
        let mut client = connect(&server).await;
        client.send(Message::binary(start.clone())).await.unwrap();
        if fragments {
            for n in 0..20 {
                let code = OpCode::Data(if n == 0 { Data::Binary } else { Data::Continue });
                if client.send(Message::Frame(Frame::message(vec![b'x'; 100_000], code, false))).await.is_err() {
                    break;
                }
            }
        } else {
            // It is refused by its length, before the server has read all of it.
            let _ = client.send(lines(MAX_RECEIVED + 1)).await;
        }
        let error = server.ended.recv().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "fragments: {fragments}: {error}");
    }
    // The length alone is enough.
    let mut socket = connect(&server).await.into_inner();
    let length = u64::try_from(MAX_RECEIVED + 1).unwrap().to_be_bytes();
    socket.write_all(&[&b"\x82\xff"[..], &length, &[0; 4]].concat()).await.unwrap();
    assert_eq!(last_word(socket).await, 1009);
    assert_eq!(server.taken.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn fragments_and_pings_between_them_are_understood() {
    let mut server = Server::start();
    let mut client = connect(&server).await;
    let (one, two) = CONVERSATION.split_at(33);
    let frame = |octets: &'static [u8], code, last| Message::Frame(Frame::message(octets, OpCode::Data(code), last));
    client.send(frame(one, Data::Binary, false)).await.unwrap();
    client.send(Message::Ping("are you there?".into())).await.unwrap();
    // The pong comes while the message is still incomplete.
    loop {
        match client.next().await.unwrap().unwrap() {
            Message::Pong(octets) => break assert_eq!(octets, "are you there?"),
            Message::Binary(_) => {}
            other => panic!("{other:?}"),
        }
    }
    client.send(frame(b"", Data::Continue, false)).await.unwrap();
    client.send(frame(two, Data::Continue, true)).await.unwrap();
    client.send(binary(b"")).await.unwrap();
    assert!(listen(&mut client).await.0.contains("221 "));
    server.ended.recv().await.unwrap().unwrap();
    assert_eq!(server.taken.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_close_frame_is_the_end_with_1000_and_an_error_with_any_other_code() {
    let mut server = Server::start();
    for (code, orderly) in [(None, true), (Some(CloseCode::Normal), true), (Some(CloseCode::Away), false)] {
        let mut client = connect(&server).await;
        client.send(binary(b"EHLO c\r\n")).await.unwrap();
        let frame = code.map(|code| CloseFrame { code, reason: "tab closed".into() });
        client.send(Message::Close(frame)).await.unwrap();
        let (_, reply) = listen(&mut client).await;
        assert_eq!(reply.map(|frame| frame.code), code);
        let end = server.ended.recv().await.unwrap();
        assert_eq!(end.is_ok(), orderly, "{code:?}: {end:?}");
        if let Err(error) = end {
            assert!(error.to_string().contains("1001") && error.to_string().contains("tab closed"), "{error}");
        }
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_session() {
    let mut server = Server::start();
    for (octets, code) in [
        // Not masked; a reserved opcode; a reserved bit; going on with nothing; half a ping; 2^64 octets.
        (&b"\x82\x06QUIT\r\n"[..], 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\xc2\x80\0\0\0\0", 1002),
        (b"\x80\x80\0\0\0\0", 1002),
        (b"\x09\x80\0\0\0\0", 1002),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
    ] {
        let mut socket = connect(&server).await.into_inner();
        socket.write_all(octets).await.unwrap();
        let error = server.ended.recv().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{octets:x?}: {error}");
        assert_eq!(last_word(socket).await, code, "{octets:x?}");
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_an_error_and_no_session() {
    let mut server = Server::start();
    for text in ["EHLO c.example\r\nQUIT\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\n\r\n", ""] {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        assert!(server.ended.recv().await.unwrap().is_err(), "{text:?}");
    }
    // A header without end is not collected for ever.
    let mut socket = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let endless = async { while socket.write_all(&[b'x'; 1000]).await.is_ok() {} };
    tokio::select! {
        () = endless => {}
        end = server.ended.recv() => assert!(end.unwrap().is_err()),
    }
}
