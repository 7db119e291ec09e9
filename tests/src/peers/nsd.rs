//! NSD: an authoritative name server for the zone of a test.

use super::process::{self, locate, run_ok, wait};
use super::{Skip, with_free_port};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(20);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running NSD; dropping it ends it and removes its folder.
///
/// It answers for the zone `example` only, and refuses everything else.
#[derive(Debug)]
pub struct Nsd {
    folder: TempDir,
    port: u16,
    daemon: Option<Child>,
}

impl Nsd {
    /// Starts an instance and waits until it answers. `records` are lines of a zone file below `example.`, with a TTL
    /// of 300 s where they have none; SOA and NS are there already.
    ///
    /// # Errors
    ///
    /// When NSD is missing and, with its log in the text, when it does not come up, for instance because of a record
    /// that it does not understand.
    pub fn start(records: &str) -> Result<Self, Skip> {
        let program = locate("nsd")?;
        with_free_port(|port| Self::start_on(port, &program, |folder| write_zone(folder, records)))
    }

    /// The same with the zone signed by a key of its own, [`Nsd::trust_anchor`], and changed by `tamper` afterwards.
    ///
    /// # Errors
    ///
    /// As [`Nsd::start`], and when ldns's tools are missing.
    pub fn start_signed(records: &str, tamper: impl Fn(String) -> String) -> Result<Self, Skip> {
        let (program, keygen, sign) = (locate("nsd")?, locate("ldns-keygen")?, locate("ldns-signzone")?);
        with_free_port(|port| {
            Self::start_on(port, &program, |folder| {
                write_zone(folder, records)?;
                let mut command = Command::new(&keygen);
                command.current_dir(folder).args(["-k", "-a", "ED25519", "example"]);
                let key = run_ok(command, b"", COMMAND_LIMIT)?.text().trim().to_owned();
                let mut command = Command::new(&sign);
                command.current_dir(folder).args(["-n", "-o", "example", "-f", "signed", "zone", &key]);
                run_ok(command, b"", COMMAND_LIMIT)?;
                fs::rename(folder.join(format!("{key}.key")), folder.join("anchor"))?;
                fs::write(folder.join("zone"), tamper(fs::read_to_string(folder.join("signed"))?))
            })
        })
    }

    /// The key of a signed zone, as a DNSKEY record.
    #[must_use]
    pub fn trust_anchor(&self) -> PathBuf {
        self.folder.path().join("anchor")
    }

    fn start_on(port: u16, program: &Path, zone: impl Fn(&Path) -> io::Result<()>) -> Result<Self, Skip> {
        let folder =
            process::shared_folder("smtp-nsd-").map_err(|error| Skip(format!("no folder for NSD: {error}")))?;
        let mut nsd = Self { folder, port, daemon: None };
        zone(nsd.folder.path()).and_then(|()| nsd.launch(program)).map_err(|error| {
            let log = fs::read_to_string(nsd.folder.path().join("log")).unwrap_or_default();
            Skip(format!("NSD does not start: {error}\nIts log:\n{log}"))
        })?;
        Ok(nsd)
    }

    /// Where it answers, by UDP and TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn launch(&mut self, program: &Path) -> io::Result<()> {
        let folder = self.folder.path();
        let at = folder.display();
        let config = format!(
            "server:\n  ip-address: 127.0.0.1@{}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{at}\"\n  \
             database: \"\"\n  pidfile: \"{at}/pid\"\n  xfrdfile: \"{at}/xfrd\"\n  xfrdir: \"{at}\"\n  \
             zonelistfile: \"{at}/zones\"\n  server-count: 1\nremote-control:\n  control-enable: no\n\
             zone:\n  name: example\n  zonefile: zone\n",
            self.port
        );
        fs::write(folder.join("conf"), config)?;
        let log = File::create(folder.join("log"))?;
        let daemon = Command::new(program)
            .current_dir(folder)
            .args(["-d", "-c", "conf"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let daemon = self.daemon.insert(daemon);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let up = process::poll(START_LIMIT, || match daemon.try_wait() {
            Ok(Some(status)) => Some(Err(io::Error::other(format!("it ended: {status}")))),
            Ok(None) => answers(address).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        });
        up.unwrap_or_else(|| Err(io::Error::other("it gives no answer")))
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            process::signal("TERM", &daemon.id().to_string());
            if !matches!(wait(&mut daemon, STOP_LIMIT), Ok(Some(_))) {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
        }
        // Its helpers end after it.
        process::clear(self.folder.path());
    }
}

fn write_zone(folder: &Path, records: &str) -> io::Result<()> {
    let zone = format!(
        "$ORIGIN example.\n$TTL 300\n@ SOA ns.example. hostmaster.example. 1 3600 600 86400 60\n@ NS ns.example.\n\
         ns A 127.0.0.1\n{records}\n"
    );
    fs::write(folder.join("zone"), zone)
}

/// Whether a name server there has records of the zone.
fn answers(server: SocketAddr) -> bool {
    // "SOA of example.", by hand: one question, class IN (RFC 1035 §4.1).
    const QUESTION: &[u8] = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x07example\0\0\x06\0\x01";
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else { return false };
    let mut answer = [0; 512];
    socket.set_read_timeout(Some(Duration::from_millis(200))).is_ok()
        && socket.connect(server).is_ok()
        && socket.send(QUESTION).is_ok()
        // The low half of the fourth octet is the response code, 0 for an answer.
        && socket.recv(&mut answer).is_ok_and(|n| n > QUESTION.len() && answer[3] & 0xf == 0)
}
