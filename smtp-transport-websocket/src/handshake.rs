//! The HTTP request that makes a WebSocket of a stream, on both sides.

use std::io;

use smtp_core::stream::{Address, ByteStream, Target};
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{accept_hdr_async_with_config, client_async_with_config};

use crate::stream::WebSocket;
use crate::{MAX_RECEIVED, MAX_SENT, SUBPROTOCOL};

/// How much is read at once, in octets. Each connection holds a buffer of this size, idle or not.
const READ_BUFFER: usize = 4 << 10;

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // Messages are sent when the session flushes, or when one of full size is there.
        .write_buffer_size(MAX_SENT)
        .max_write_buffer_size(4 * MAX_SENT)
        .max_message_size(Some(MAX_RECEIVED))
        .max_frame_size(Some(MAX_RECEIVED))
}

/// Answers a client's request.
pub(crate) async fn accept(stream: Box<dyn ByteStream>, origins: &[String]) -> io::Result<WebSocket> {
    match accept_hdr_async_with_config(stream, Judge { origins }, Some(config())).await {
        Ok(socket) => Ok(WebSocket::new(socket)),
        Err(Error::Io(error)) => Err(error),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("no WebSocket handshake: {error}"))),
    }
}

/// What a request has to have.
struct Judge<'a> {
    origins: &'a [String],
}

impl Callback for Judge<'_> {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        let headers = request.headers();
        // A browser tells in whose name it asks, and asks in the name of any page that its user happens to look at.
        if let Some(origin) = headers.get(header::ORIGIN)
            && !self.origins.iter().any(|known| known.as_bytes() == origin.as_bytes())
        {
            return Err(refusal(StatusCode::FORBIDDEN, "not for pages of this origin\n"));
        }
        if !offers(headers) {
            return Err(refusal(StatusCode::BAD_REQUEST, "the subprotocol here is `smtp`\n"));
        }
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        Ok(response)
    }
}

/// True if SMTP is among what the client wants to speak; the names have case (RFC 6455 §4.1).
fn offers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == SUBPROTOCOL)
}

fn refusal(status: StatusCode, text: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text.to_owned()));
    *response.status_mut() = status;
    response
}

/// A client's request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    uri: Uri,
}

impl Ask {
    /// Asks the server at `target` for what is at `path`. `None` if no URL can say that.
    pub(crate) fn new(target: &Target, path: &str) -> Option<Self> {
        let host = match &target.address {
            // A certificate's name is the one that a server with several names goes by.
            Address::Host { host, port } => match &target.server_name {
                Some(name) => format!("{name}:{port}"),
                None => Address::Host { host: host.clone(), port: *port }.to_string(),
            },
            Address::Path(_) => target.server_name.as_ref().map_or_else(|| "localhost".to_owned(), ToString::to_string),
        };
        let uri = Uri::builder().scheme("ws").authority(host).path_and_query(path).build().ok()?;
        Some(Self { uri })
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn on(&self, stream: Box<dyn ByteStream>) -> Result<WebSocket, Refused> {
        let request = ClientRequestBuilder::new(self.uri.clone()).with_sub_protocol(SUBPROTOCOL);
        match client_async_with_config(request, stream, Some(config())).await {
            Ok((socket, _)) => Ok(WebSocket::new(socket)),
            Err(error) => Err(Refused::of(error)),
        }
    }
}

/// Why there is no WebSocket.
pub(crate) struct Refused {
    pub(crate) error: io::Error,
    /// Asking again will not help.
    pub(crate) permanent: bool,
}

impl Refused {
    fn of(error: Error) -> Self {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        match error {
            Error::Io(error) => Self { error, permanent: false },
            Error::Http(response) => {
                let status = response.status();
                let waiting = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
                Self {
                    error: invalid(format!("the server answered {status} instead of opening a WebSocket")),
                    permanent: status.is_client_error() && !waiting.contains(&status),
                }
            }
            Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
                Self { error: invalid("the server does not speak SMTP on its WebSocket".to_owned()), permanent: true }
            }
            error => Self { error: invalid(format!("no WebSocket handshake: {error}")), permanent: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subprotocol_is_found_in_any_list() {
        let offered = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(value));
            }
            offers(&headers)
        };
        assert!(offered(&["smtp"]));
        assert!(offered(&["chat, smtp"]));
        assert!(offered(&["chat", "smtp ,x"]));
        assert!(!offered(&[]));
        assert!(!offered(&["SMTP"]));
        assert!(!offered(&["smtp2", "xsmtp"]));
    }

    #[test]
    fn requests_name_the_server_as_its_certificate_does() {
        let uri = |target: &Target, path: &str| Ask::new(target, path).map(|ask| ask.uri.to_string());
        let mut target = Target::host("mx.example".parse().unwrap(), 8080);
        assert_eq!(uri(&target, "/smtp").unwrap(), "ws://mx.example:8080/smtp");
        target.server_name = Some("other.example".parse().unwrap());
        assert_eq!(uri(&target, "/").unwrap(), "ws://other.example:8080/");
        let target = Target::host("[IPv6:2001:db8::1]".parse().unwrap(), 80);
        assert_eq!(uri(&target, "/").unwrap(), "ws://[2001:db8::1]:80/");
        let target = Target { address: Address::Path("/run/x".into()), server_name: None };
        assert_eq!(uri(&target, "/").unwrap(), "ws://localhost/");
        assert_eq!(uri(&target, "no slash"), None);
        assert_eq!(uri(&target, "/a\r\nEvil: 1"), None);
    }
}
