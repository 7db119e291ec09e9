//! One session on standard input and output.

mod ends;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use smtp_core::channel::ChannelInfo;
use smtp_core::stream::{ByteStream, CloseCode, Connection, Listener, Single};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use ends::{Ends, Input, Output};

/// Standard input and output as a listener that accepts one session: for inetd, for `ssh host program`, for a
/// systemd service with `StandardInput=socket`, and for a parent program with pipes.
///
/// If standard input is a TCP socket, as under `inetd nowait`, the peer is its other end, and the channel is not
/// secure; a Unix socket shows the process at its other end. Anything else is a pipe of this machine: who or what is
/// behind it, `ssh` for example, has to answer for it.
///
/// The second [`Listener::accept`] waits until the session is over, and then fails: that is how a server learns that
/// it is done.
pub struct Stdio {
    stream: Mutex<Option<StdioStream>>,
    facts: ChannelInfo,
    over: watch::Receiver<()>,
}

/// Standard input and output belong to the process, and can be given away once.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Stdio {
    /// Takes standard input and output over. Has to be called in a tokio runtime.
    ///
    /// In their place comes `/dev/null`, so that a stray `println!` cannot get into the session; so it does in that of
    /// standard error if that is the same socket, as inetd makes it.
    ///
    /// Sockets and pipes become non-blocking, also for other programs that share them. A terminal or a file is read
    /// and written by tokio's threads for blocking work, and a runtime that is dropped waits for a read under way.
    ///
    /// # Errors
    /// If they have been taken already, or the system does not let them be taken.
    pub fn take() -> io::Result<Self> {
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "standard input and output are in use already"));
        }
        Ok(Self::new(ends::take()?))
    }

    /// The same on other descriptors than those of the process: both ends of two pipes make a channel within one
    /// process. Has to be called in a tokio runtime. They become non-blocking, also for whoever shares them.
    ///
    /// # Errors
    /// If the system does not let them be used.
    pub fn on(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        Ok(Self::new(ends::on(input, output)?))
    }

    fn new(Ends { input, output, facts }: Ends) -> Self {
        let (alive, over) = watch::channel(());
        let stream = StdioStream { input, output: Some(output), facts: facts.clone(), _alive: alive };
        Self { stream: Mutex::new(Some(stream)), facts, over }
    }
}

#[async_trait]
impl Listener for Stdio {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stream) = stream {
            return Ok(Box::new(Single::new(stream)));
        }
        // Nothing is ever sent: it ends when the stream is gone.
        let _ = self.over.clone().changed().await;
        Err(io::Error::new(io::ErrorKind::NotConnected, "the one session of standard input is over"))
    }

    /// `pipe:`: whoever started this process is connected to it.
    fn url(&self) -> String {
        "pipe:".to_owned()
    }

    fn is_local(&self) -> bool {
        self.facts.peer.is_local()
    }
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdio").field("peer", &self.facts.peer).finish_non_exhaustive()
    }
}

/// What came in through standard input, and goes out through standard output.
struct StdioStream {
    input: Input,
    /// Gone once this side has finished: dropping it is what closes a pipe.
    output: Option<Output>,
    facts: ChannelInfo,
    _alive: watch::Sender<()>,
}

impl AsyncRead for StdioStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.input.poll_read(cx, buf)
    }
}

impl StdioStream {
    /// What is written to: the socket that is also read from, or an end of its own. None once this side has finished.
    fn output(&mut self) -> Option<Pin<&mut (dyn AsyncWrite + Unpin)>> {
        match &mut self.output {
            Some(Output::SameSocket) => self.input.socket().map(Pin::new),
            Some(Output::Own(output)) => Some(Pin::new(output)),
            None => None,
        }
    }
}

impl AsyncWrite for StdioStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.output().map_or_else(|| Poll::Ready(Err(finished())), |output| output.poll_write(cx, octets))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output().map_or(Poll::Ready(Ok(())), |output| output.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = self.output().map_or(Poll::Ready(Ok(())), |output| output.poll_shutdown(cx));
        if done.is_ready() {
            // The peer reads the end of a pipe when its last writer is gone.
            self.output = None;
        }
        done
    }
}

fn finished() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "this side has finished")
}

impl ByteStream for StdioStream {
    fn info(&self) -> ChannelInfo {
        self.facts.clone()
    }

    fn abort(self: Box<Self>, _: CloseCode) {
        self.input.abort();
    }
}
