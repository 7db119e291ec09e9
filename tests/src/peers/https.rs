//! A web server under TLS: Python's own.

use super::Skip;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use tempfile::TempDir;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The file `HOST` in the folder is the answer to every request for that host; its first line says with which status,
/// and which type, or where to go instead.
const SCRIPT: &str = r#"
import http.server, pathlib, ssl, sys

folder, certificate, key = map(pathlib.Path, sys.argv[1:])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        host = self.headers.get("Host", "").split(":")[0]
        try:
            first, rest = (folder / host).read_bytes().split(b"\n", 1)
        except OSError:
            return self.send_error(404)
        status, kind = first.decode().split(" ", 1)
        if self.path != "/.well-known/mta-sts.txt":
            return self.send_error(404)
        self.send_response(int(status))
        self.send_header("Location" if status.startswith("3") else "Content-Type", kind)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    def finish_request(self, request, address):
        with context.wrap_socket(request, server_side=True) as tls:
            self.RequestHandlerClass(tls, address, self)

    def handle_error(self, *_):
        pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A running web server on 127.0.0.1; dropping it ends it.
#[derive(Debug)]
pub struct Https {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Https {
    /// Starts it with this certificate, its issuers behind it, and its key, both in PEM.
    ///
    /// # Errors
    ///
    /// When the system has no Python, or it does not come up.
    pub fn start(certificate: &str, key: &str) -> Result<Self, Skip> {
        let failed = |error: std::io::Error| Skip(format!("a web server: {error}"));
        let folder = TempDir::new().map_err(failed)?;
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file(".certificate"), certificate).map_err(failed)?;
        std::fs::write(file(".key"), key).map_err(failed)?;
        // The system's own Python: another one earlier in PATH may be a slow wrapper.
        let mut child = Command::new("/usr/bin/python3")
            .args(["-B", "-c", SCRIPT])
            .args([folder.path().to_owned(), file(".certificate"), file(".key")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (send, first) = channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut line = String::new();
                let _ = BufReader::new(output).read_line(&mut line);
                let _ = send.send(line);
            });
        }
        let mut server = Self { child, port: 0, folder };
        let first = first.recv_timeout(PATIENCE).unwrap_or_default();
        server.port = first.trim().parse().map_err(|_| Skip(format!("a web server does not listen: {first:?}")))?;
        Ok(server)
    }

    /// Where it listens on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// From now on `host` answers with this MTA-STS policy.
    ///
    /// # Panics
    ///
    /// If the file cannot be written.
    pub fn policy(&self, host: &str, policy: &str) {
        self.answer(host, "200 text/plain", policy.as_bytes());
    }

    /// From now on `host` answers with this: a status and a media type, or for 3yz a place; and a body.
    ///
    /// # Panics
    ///
    /// If the file cannot be written.
    pub fn answer(&self, host: &str, first: &str, body: &[u8]) {
        let mut text = format!("{first}\n").into_bytes();
        text.extend_from_slice(body);
        let path: &Path = self.folder.path();
        // As a whole, so that nobody reads half of it.
        let done =
            std::fs::write(path.join(".new"), text).and_then(|()| std::fs::rename(path.join(".new"), path.join(host)));
        assert!(done.is_ok(), "{done:?}");
    }

    /// From now on there is nothing at `host`.
    pub fn forget(&self, host: &str) {
        let _ = std::fs::remove_file(self.folder.path().join(host));
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
