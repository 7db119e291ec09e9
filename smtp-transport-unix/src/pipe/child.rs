//! A running program as a byte stream, and the task that sees it to its end.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smtp_core::channel::ChannelInfo;
use smtp_core::stream::{ByteStream, CloseCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};

/// How long the end of the program's output waits for the program's own end, which tells whether it failed. A program
/// may close its output and go on.
const PATIENCE: Duration = Duration::from_millis(300);

/// How much of standard error is kept for the error message, in octets.
const SAID_MAX: usize = 512;

/// A program's standard input and output.
pub(super) struct ChildStream {
    /// Gone once this side has finished: dropping it is what closes a pipe.
    input: Option<ChildStdin>,
    output: ChildStdout,
    facts: ChannelInfo,
    ended: Option<oneshot::Receiver<Ended>>,
    patience: Option<Pin<Box<Sleep>>>,
    /// Sent to kill the program; dropped to let it end by itself.
    kill: Option<oneshot::Sender<()>>,
}

/// How a program ended.
struct Ended {
    status: io::Result<ExitStatus>,
    said: String,
}

impl ChildStream {
    pub(super) fn new(mut child: Child, facts: ChannelInfo, grace: Duration) -> io::Result<Self> {
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("it has no standard input and output"));
        };
        let (kill, killed) = oneshot::channel();
        let (report, ended) = oneshot::channel();
        let name = facts.peer.to_string();
        tokio::spawn(async move {
            let ended = supervise(child, errors, killed, grace).await;
            match &ended.status {
                Ok(status) => tracing::debug!(program = name, %status, said = ended.said, "program ended"),
                Err(error) => tracing::warn!(program = name, %error, "program lost"),
            }
            // Nobody listens any more if the stream is gone.
            let _ = report.send(ended);
        });
        Ok(Self { input: Some(input), output, facts, ended: Some(ended), patience: None, kill: Some(kill) })
    }

    /// The program's output is at its end. If the program failed, that is told once, in place of the end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(Ok(())) };
        let result = match Pin::new(ended).poll(cx) {
            Poll::Ready(Ok(ended)) => ended.explain(&self.facts),
            Poll::Ready(Err(_)) => Ok(()),
            Poll::Pending => {
                let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                ready!(patience.as_mut().poll(cx));
                Ok(())
            }
        };
        self.ended = None;
        self.patience = None;
        Poll::Ready(result)
    }
}

impl Ended {
    fn explain(self, facts: &ChannelInfo) -> io::Result<()> {
        let how = match self.status {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => format!("ended with {status}"),
            Err(error) => format!("was lost: {error}"),
        };
        let said = self.said.trim();
        let colon = if said.is_empty() { "" } else { ": " };
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} {how}{colon}{said}", facts.peer)))
    }
}

/// Waits for the program to end; once its stream is gone, no longer than `grace`.
async fn supervise(mut child: Child, mut errors: ChildStderr, killed: oneshot::Receiver<()>, grace: Duration) -> Ended {
    let mut said = Vec::new();
    let mut hurry = pin!(async move {
        // An error means that the stream is gone without having been aborted.
        if killed.await.is_err() {
            sleep(grace).await;
        }
    });
    let mut hurried = false;
    let mut open = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            more = listen(&mut errors, &mut said), if open => open = more,
            () = &mut hurry, if !hurried => {
                hurried = true;
                // It can only fail if the program has ended, which the next turn finds out.
                let _ = child.start_kill();
            }
        }
    };
    // Programs that this one has started may hold its standard error open for ever.
    let rest = async { while open && listen(&mut errors, &mut said).await {} };
    let _ = timeout(PATIENCE / 3, rest).await;
    Ended { status, said: String::from_utf8_lossy(&said).into_owned() }
}

/// Takes what the program has to say, and keeps the last of it; false when there will be no more.
async fn listen(errors: &mut ChildStderr, said: &mut Vec<u8>) -> bool {
    let mut words = [0; SAID_MAX];
    let Ok(n @ 1..) = errors.read(&mut words).await else { return false };
    said.extend_from_slice(words.get(..n).unwrap_or_default());
    said.drain(..said.len().saturating_sub(SAID_MAX));
    true
}

impl AsyncRead for ChildStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.output).poll_read(cx, buf))?;
        if buf.filled().len() == before && buf.remaining() > 0 { self.poll_end(cx) } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncWrite for ChildStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(cx, octets),
            None => Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "this side has finished"))),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().map_or(Poll::Ready(Ok(())), |input| Pin::new(input).poll_flush(cx))
    }

    /// The pipe keeps what is in it for the program to read.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = self.as_mut().poll_flush(cx);
        if done.is_ready() {
            self.input = None;
        }
        done
    }
}

impl ByteStream for ChildStream {
    fn info(&self) -> ChannelInfo {
        self.facts.clone()
    }

    /// Kills the program: the end of its input alone could look like a message that is complete.
    fn abort(mut self: Box<Self>, _: CloseCode) {
        if let Some(kill) = self.kill.take() {
            // It has ended if nobody listens.
            let _ = kill.send(());
        }
    }
}

impl fmt::Debug for ChildStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildStream").field("program", &self.facts.peer).finish_non_exhaustive()
    }
}
