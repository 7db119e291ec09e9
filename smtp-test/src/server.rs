//! A server that follows a script, to test clients with.
//!
//! The same files as for a client, seen from the other side: what stands behind `C:` is expected, what stands behind
//! `S:` is sent. In a `C:` line `*` stands for any text; in an `S:` line it is sent as `any`, and `...` ends the reply.
//! Where that is the reply to the first EHLO, it offers the keywords that `NEEDS` names.
//!
//! ```
//! use smtp_test::scenario::Scenario;
//! use smtp_test::server::ScriptedServer;
//! use smtp_core::stream::{Connection, Connector, Target, TlsPolicy};
//! use smtp_core::types::Host;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let busy = Scenario::parse("busy", "S: 421 4.3.2 mx.example too busy\nS!\n")?;
//! let server = ScriptedServer::start(vec![busy]);
//!
//! // The client under test gets the connector.
//! let target = Target::host(Host::Domain("mx.example".parse()?), 25);
//! let mut io = server.connector().connect(&target, &TlsPolicy::NONE).await?.open().await?;
//! let mut said = String::new();
//! io.read_to_string(&mut said).await?;
//! assert_eq!(said, "421 4.3.2 mx.example too busy\r\n");
//!
//! server.finish().await?;
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use smtp_core::stream::{ByteStream, Listener};
use tokio::task::JoinHandle;

use crate::Side;
use crate::memory::{Knobs, MemoryConnector, MemoryListener};
use crate::recorder::Recorder;
use crate::scenario::{Got, Mismatch, Need, Pattern, Report, Scenario, Step, What};
use crate::talk::Talk;

/// How long a client is waited for at each step.
const WAIT: Duration = Duration::from_secs(30);

/// Plays the server of `scenario` on `io`.
///
/// # Errors
/// [`Mismatch`] if the client does not keep to it, or lets 30 s pass.
pub async fn play(scenario: &Scenario, io: Box<dyn ByteStream>) -> Result<Report, Mismatch> {
    let channel = io.info();
    if let Some(reason) = scenario.unmet(&channel) {
        return Ok(Report::Skipped(reason));
    }
    let (recorder, transcript) = Recorder::new(io, Side::Server);
    let mut talk = Talk::new(Box::new(recorder), WAIT);
    let offers = scenario.keywords().filter(|(need, _)| *need == Need::Offered).map(|(_, keyword)| keyword).collect();
    match play_steps(&mut talk, &scenario.steps_on(&channel), offers).await {
        Ok(()) => Ok(Report::Passed(transcript)),
        Err((step, got)) => Err(Mismatch::new(scenario, step, got, &transcript)),
    }
}

async fn play_steps<'a>(talk: &mut Talk, steps: &[&'a Step], mut offers: Vec<&str>) -> Result<(), (&'a Step, Got)> {
    let mut said = Vec::new();
    for (i, step) in steps.iter().copied().enumerate() {
        let at = |got| (step, got);
        match &step.what {
            What::ServerLine(pattern) | What::ServerMaybe(pattern) => {
                said.extend_from_slice(pattern.example().as_bytes());
                said.extend_from_slice(b"\r\n");
            }
            What::ServerRest { .. } => say_rest(&mut said, &mut offers, steps.get(i + 1).copied()),
            What::ServerRaw(octets) => said.extend_from_slice(octets),
            What::ClientLine(line) => {
                let got = talk.line().await.map_err(at)?;
                if !Pattern::of_client(line).matches(&got) {
                    return Err((step, Got::Octets(got)));
                }
            }
            What::ClientRaw(expected) => {
                let octets = talk.exact(expected.len()).await.map_err(at)?;
                if octets != *expected {
                    return Err((step, Got::Octets(octets)));
                }
            }
            What::ClientCloses => talk.end().await.map_err(at)?,
            What::ServerCloses | What::ServerClosesSomehow => talk.finish().await.map_err(at)?,
            What::Upgrade => talk.upgrade().await.map_err(at)?,
            What::Wait(time) => tokio::time::sleep(*time).await,
            What::Abort => talk.abort(),
        }
        // Replies that stand together leave together.
        if !said.is_empty() && !steps.get(i + 1).is_some_and(|next| next.what.is_said_by_server()) {
            talk.send(&std::mem::take(&mut said)).await.map_err(at)?;
        }
    }
    Ok(())
}

/// A reply whose rest the script leaves open: what it has to offer, and its end, unless its next line goes on with it.
fn say_rest(said: &mut Vec<u8>, offers: &mut Vec<&str>, next: Option<&Step>) {
    let goes_on = next.is_some_and(|next| matches!(&next.what, What::ServerLine(pattern) if pattern.is_within_reply()));
    let last =
        said.strip_suffix(b"\r\n").unwrap_or_default().rsplit(|octet| *octet == b'\n').next().unwrap_or_default();
    let (Some(code), Some(b'-')) = (last.get(..3), last.get(3)) else { return };
    let code = code.to_vec();
    if code == b"250" {
        for keyword in offers.drain(..) {
            said.extend_from_slice(format!("250-{keyword}\r\n").as_bytes());
        }
    }
    if !goes_on {
        said.extend_from_slice(&[&code[..], b" any\r\n"].concat());
    }
}

/// A server in memory that plays one script per stream, in this order.
#[derive(Debug)]
pub struct ScriptedServer {
    connector: MemoryConnector,
    playing: JoinHandle<Result<(), Mismatch>>,
}

impl ScriptedServer {
    /// Starts it on a friendly channel in clear. Has to be called in a tokio runtime.
    #[must_use]
    pub fn start(scripts: Vec<Scenario>) -> Self {
        Self::start_on(Knobs::default(), scripts)
    }

    /// Starts it on channels that behave like this.
    #[must_use]
    pub fn start_on(knobs: Knobs, scripts: Vec<Scenario>) -> Self {
        let listener = MemoryListener::new(knobs);
        let connector = listener.connector();
        let playing = tokio::spawn(async move {
            let mut scripts = scripts.into_iter().peekable();
            while scripts.peek().is_some() {
                let Ok(mut connection) = listener.accept().await else { break };
                while scripts.peek().is_some() {
                    let Ok(Some(io)) = connection.accept().await else { break };
                    if let Some(script) = scripts.next() {
                        let _ = play(&script, io).await?;
                    }
                }
            }
            Ok(())
        });
        Self { connector, playing }
    }

    /// What the client under test connects with.
    #[must_use]
    pub fn connector(&self) -> MemoryConnector {
        self.connector.clone()
    }

    /// Waits until all scripts have been played.
    ///
    /// # Errors
    /// The [`Mismatch`] of the first script that a client did not keep to.
    ///
    /// # Panics
    /// If not all of them were played within 30 s: the client has not come back.
    pub async fn finish(self) -> Result<(), Mismatch> {
        match tokio::time::timeout(WAIT, self.playing).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => panic!("the scripted server died: {error}"),
            Err(_) => panic!("scripts are left: the client did not connect as often as they want"),
        }
    }
}
