//! When a server tells its stream that it waits for the rest: TCP's acknowledgements depend on it, and each costs.

use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::stream::ByteStream;

/// Counts how often it is told that its session waits.
struct Counted(Plain<DuplexStream>, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl ByteStream for Counted {
    fn info(&self) -> ChannelInfo {
        self.0.info()
    }

    fn waits(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_rest_of_a_content_is_waited_for() {
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let (channel, count) = (ChannelInfo::memory("test"), Arc::new(AtomicUsize::new(0)));
    let info = Arc::new(SessionInfo::new(1, channel.clone()));
    let io = Box::new(Counted(Plain::new(theirs, channel), Arc::clone(&count)));
    let session = serve(io, info, accept_all(), record(&Taken::default()), Arc::new(settings()), Default::default());
    tokio::spawn(session);
    let mut said = [0; 1024];
    for (input, waits) in [
        ("EHLO c\r\n", false),
        ("MAIL FROM:<a@b>\r\n", false),
        ("RCPT TO:<c@d>\r\nDATA\r\n", false),
        ("the first of it\r\n", true),
        ("the rest\r\n.\r\n", false),
        ("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", false),
        ("all of it\r\n.\r\n", false),
        ("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 9 LAST\r\n", false),
        ("first", true),
        ("rest", false),
    ] {
        count.store(0, Ordering::SeqCst);
        ours.write_all(input.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(count.load(Ordering::SeqCst) > 0, waits, "{input}");
        if !waits {
            assert!(ours.read(&mut said).await.unwrap() > 0 || input.starts_with("MAIL"), "{input}");
        }
    }
}
