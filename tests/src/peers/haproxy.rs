//! HAProxy as a proxy in front of our server.

use super::process::{self, locate};
use super::{Skip, with_free_port};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running HAProxy; dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct HaProxy {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl HaProxy {
    /// Starts an instance that passes connections on to `server` (`127.0.0.1:2525`, `unix@/path`), which it speaks to
    /// with `option`: `send-proxy`, `send-proxy-v2`, `send-proxy-v2-ssl` …
    ///
    /// # Errors
    ///
    /// When HAProxy is missing and, with what it printed, when it does not come up.
    pub fn start(server: &str, option: &str) -> Result<Self, Skip> {
        let program = locate("haproxy")?;
        with_free_port(|port| Self::start_on(port, &program, server, option))
    }

    fn start_on(port: u16, program: &Path, server: &str, option: &str) -> Result<Self, Skip> {
        let folder =
            process::shared_folder("smtp-haproxy-").map_err(|error| Skip(format!("no folder for HAProxy: {error}")))?;
        let mut haproxy = Self { folder, port, process: None };
        // From here on dropping `haproxy` ends whatever was started.
        haproxy.launch(program, server, option).map_err(|error| {
            let output = fs::read_to_string(haproxy.folder.path().join("output")).unwrap_or_default();
            Skip(format!("HAProxy does not start: {error}\nIt said:\n{output}"))
        })?;
        Ok(haproxy)
    }

    /// The port on 127.0.0.1 where clients connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn launch(&mut self, program: &Path, server: &str, option: &str) -> io::Result<()> {
        let folder = self.folder.path();
        let mut config = String::from(
            "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n",
        );
        let port = self.port;
        let _ = write!(config, "listen smtp\n  bind 127.0.0.1:{port}\n  server ours {server} {option}\n");
        fs::write(folder.join("haproxy.cfg"), config)?;
        let output = File::create(folder.join("output"))?;
        let process = Command::new(program)
            // In the foreground: it is our child, and its id is known.
            .args(["-db", "-f"])
            .arg(folder.join("haproxy.cfg"))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        let process = self.process.insert(process);
        let up = process::poll(START_LIMIT, || match process.try_wait() {
            Ok(None) => TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(Ok(())),
            Ok(Some(status)) => Some(Err(io::Error::other(format!("it ended with {status}")))),
            Err(error) => Some(Err(error)),
        });
        up.unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, format!("silent for {START_LIMIT:?}"))))
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        // USR1 would wait for the connections.
        process::signal("TERM", &child.id().to_string());
        if !matches!(process::wait(&mut child, STOP_LIMIT), Ok(Some(_))) {
            process::kill_group(&mut child);
            let _ = child.wait();
        }
        process::clear(self.folder.path());
    }
}
