//! How a channel ends.

use std::time::Duration;

use smtp_core::stream::CloseCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::flow::{cannot, compare, octets, pass, receive, send};
use super::{Ends, Passed};

/// Reads to the end, and twice beyond: the end stays the end.
async fn read_out(io: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, String> {
    let mut got = Vec::new();
    cannot("reading", io.read_to_end(&mut got).await)?;
    for _ in 0..2 {
        match io.read(&mut [0; 8]).await {
            Ok(0) => {}
            Ok(n) => return Err(format!("{n} octets came behind the end")),
            Err(error) => return Err(format!("reading at the end: {error}")),
        }
    }
    Ok(got)
}

pub(super) async fn exact(mut ends: Ends) -> Result<Passed, String> {
    let few = async {
        send(&mut ends.client, &octets(3)).await?;
        cannot("closing", ends.client.shutdown().await)?;
        read_out(&mut ends.client).await
    };
    let many = async {
        compare(&read_out(&mut ends.server).await?, 3)?;
        send(&mut ends.server, &octets(100_001)).await?;
        cannot("closing", ends.server.shutdown().await)
    };
    let (got, ()) = tokio::try_join!(few, many)?;
    compare(&got, 100_001)?;
    Ok(Passed::Yes)
}

/// The client closes its side; the other goes on, both ways of time.
pub(super) async fn half_close(mut ends: Ends) -> Result<Passed, String> {
    let closing = async {
        send(&mut ends.client, &octets(3)).await?;
        cannot("closing", ends.client.shutdown().await)?;
        for _ in 0..5 {
            compare(&receive(&mut ends.client, 1_000).await?, 1_000)?;
        }
        read_out(&mut ends.client).await.map(|rest| rest.len())
    };
    let going_on = async {
        compare(&read_out(&mut ends.server).await?, 3)?;
        for _ in 0..5 {
            send(&mut ends.server, &octets(1_000)).await?;
            sleep(Duration::from_millis(2)).await;
        }
        cannot("closing", ends.server.shutdown().await)
    };
    match tokio::try_join!(closing, going_on)? {
        (0, ()) => Ok(Passed::Yes),
        (n, ()) => Err(format!("{n} octets too many came after this side was closed")),
    }
}

/// The trap of transports whose close does not wait: the server's last reply, dropped with the stream.
pub(super) async fn last_words(ends: Ends) -> Result<Passed, String> {
    const LEN: usize = 5_000;
    let Ends { mut client, mut server, _keep } = ends;
    let speaking = async move {
        send(&mut server, &octets(LEN)).await?;
        cannot("closing", server.shutdown().await)?;
        drop(server);
        Ok(())
    };
    let hearing = async {
        sleep(Duration::from_millis(50)).await;
        compare(&read_out(&mut client).await?, LEN)
    };
    tokio::try_join!(speaking, hearing)?;
    Ok(Passed::Yes)
}

pub(super) async fn abort(ends: Ends) -> Result<Passed, String> {
    let Ends { mut client, mut server, _keep } = ends;
    pass(&mut client, &mut server, 10).await?;
    client.abort(CloseCode::Cancelled);
    // An error is the honest answer; the end of the stream is what some channels can say at most.
    match server.read(&mut [0; 8]).await {
        Ok(0) | Err(_) => Ok(Passed::Yes),
        Ok(n) => Err(format!("{n} octets came that nobody sent")),
    }
}

pub(super) async fn gone(ends: Ends) -> Result<Passed, String> {
    let Ends { mut client, mut server, _keep } = ends;
    pass(&mut client, &mut server, 10).await?;
    drop(client);
    match server.read(&mut [0; 8]).await {
        Ok(0) | Err(_) => Ok(Passed::Yes),
        Ok(n) => Err(format!("{n} octets came that nobody sent")),
    }
}
