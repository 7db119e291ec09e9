//! An SMTP server as a tower stack.
//!
//! `smtp-core` speaks the protocol; a transport crate carries the octets; this crate accepts connections, decides who
//! may do what, and stores mail. A server is three choices: a **policy** that is asked about each command (layers round a
//! recipient policy), a **delivery** that takes each message (layers round a store, a queue or a client), and the
//! **listeners** to serve.
//!
//! ```
//! use smtp_server::{Mailboxes, ReceivedLayer, Server, Settings, SessionLimitLayer, Sink, TraceLayer};
//! use tokio_util::sync::CancellationToken;
//! use tower_layer::Layer;
//! # use smtp_core::{channel::ChannelInfo, driver, session::server::Config, stream::{Connection, Listener, Plain, Single}};
//! # use std::{io, sync::Mutex};
//! # struct Pipe(Mutex<Option<Single>>);
//! # #[async_trait::async_trait]
//! # impl Listener for Pipe {
//! #     async fn accept(&self) -> io::Result<Box<dyn Connection>> {
//! #         let one = self.0.lock().map_err(|_| io::ErrorKind::Other)?.take();
//! #         match one { Some(one) => Ok(Box::new(one)), None => std::future::pending().await }
//! #     }
//! #     fn url(&self) -> String { "pipe:".into() }
//! #     fn is_local(&self) -> bool { true }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut client, io) = tokio::io::duplex(4096);
//! # let listener = Pipe(Mutex::new(Some(Single::new(Plain::new(io, ChannelInfo::memory("doc"))))));
//! let domain = "example.org".parse()?;
//! let (mailboxes, sink, sessions) = (Mailboxes::new(&domain)?, Sink::new(), SessionLimitLayer::new());
//! let settings = Settings::new(driver::Settings::new(Config::new(domain.clone()).promising(Sink::PROMISES)));
//! let (received, counted) = (ReceivedLayer::new(&domain), sink.clone());
//! let server = Server::new(settings, move |_session| {
//!     (TraceLayer.layer(sessions.layer(mailboxes.clone())), received.layer(sink.clone()))
//! });
//! let stop = CancellationToken::new();
//! let serving = tokio::spawn(server.listen(listener).run(stop.clone()));
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # client.write_all(b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<jo@example.org>\r\nRCPT TO:<jo@example.com>\r\nDATA\r\n").await?;
//! # let mut said = String::new();
//! # while !said.contains("\r\n354 ") { said.push(char::from(client.read_u8().await?)); }
//! # assert!(said.contains("550 5.7.1 relaying denied"), "{said}");
//! # client.write_all(b"Subject: hi\r\n\r\n.\r\nQUIT\r\n").await?;
//! # client.read_to_string(&mut said).await?;
//! # assert!(said.contains("\r\n221 "), "{said}");
//! // … a client sends a message to jo@example.org, is told 550 for anybody else, and then:
//! stop.cancel();
//! assert_eq!((serving.await?.sessions, counted.messages()), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # The parts
//!
//! - [`recipients`]: who gets mail here. [`Mailboxes`] of local domains with their aliases, or [`AnyRecipient`] on this
//!   machine. One of them is at the bottom of every policy, so nothing becomes an open relay by leaving something out.
//! - [`policy`]: layers that see each command: log, session limits, TLS first, authentication first; and the services
//!   behind VRFY, EXPN, HELP, ETRN and RRVS.
//! - [`auth`]: AUTH with SCRAM, PLAIN, EXTERNAL, tokens and more; users with hashed passwords; whom they may send as;
//!   and brakes for guessers.
//! - [`delivery`]: layers that see each transaction (`Received`, aliases, loop check, log), [`Sink`], [`Recorder`], and
//!   mail for programs.
//! - [`maildir`]: the store. What it has acknowledged survives a power cut.
//! - [`server`]: the accept loop, limits on connections, and the drain.
//!
//! # The order of layers
//!
//! The first to see a command comes first: [`TraceLayer`], so that the log has refusals too; [`SessionLimitLayer`];
//! [`RequireTlsLayer`]; [`AuthLayer`]; [`RequireAuthLayer`]; [`SenderLayer`](auth::SenderLayer); [`EtrnLayer`],
//! [`ExpandLayer`], [`HelpLayer`]; [`RrvsLayer`]; [`VerifyLayer`]; the recipients. For deliveries: [`TraceDeliveryLayer`],
//! [`LoopLayer`] (it counts what others wrote), [`SubmissionLayer`], [`ReceivedLayer`], [`AliasLayer`], the store.

#[cfg(test)]
#[macro_use]
mod testing;

pub mod auth;
pub mod delivery;
mod lines;
#[cfg(unix)]
pub mod maildir;
mod name;
mod peer;
pub mod policy;
pub mod recipients;
pub mod server;

pub use auth::AuthLayer;
#[cfg(unix)]
pub use delivery::Program;
pub use delivery::{AliasLayer, LoopLayer, ReceivedLayer, Recorder, Sink, SubmissionLayer, TraceDeliveryLayer};
#[cfg(unix)]
pub use maildir::Maildir;
pub use policy::{
    EtrnLayer, ExpandLayer, HelpLayer, RequireAuthLayer, RequireTlsLayer, RrvsLayer, SessionLimitLayer, TraceLayer,
    VerifyLayer,
};
pub use recipients::{AnyRecipient, Mailboxes};
pub use server::{Server, Settings, Summary};
