//! Octets on their way.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{sleep, timeout};

use super::{Ends, Passed};

/// A writer that has not moved for so long waits for its reader.
const STILL: Duration = Duration::from_millis(500);
/// More than any channel should take in without a reader, in octets.
const BOUND: usize = 64 << 20;

/// What is sent: octet number `n`, the same for all checks, without a short period.
pub(super) const fn octet(n: usize) -> u8 {
    let n = n as u64;
    (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

pub(super) fn octets(len: usize) -> Vec<u8> {
    (0..len).map(octet).collect()
}

/// Complains if `got` is not what was sent, or not all of it.
pub(super) fn compare(got: &[u8], len: usize) -> Result<(), String> {
    if let Some(at) = got.iter().enumerate().position(|(n, got)| *got != octet(n)) {
        return Err(format!("octet {at} is not the one that was sent"));
    }
    if got.len() != len {
        return Err(format!("{} octets of {len} arrived", got.len()));
    }
    Ok(())
}

/// An error in words.
pub(super) fn cannot<T>(what: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

pub(super) async fn send(io: &mut (impl AsyncWrite + Unpin), octets: &[u8]) -> Result<(), String> {
    cannot("writing", io.write_all(octets).await)?;
    cannot("flushing", io.flush().await)
}

pub(super) async fn receive(io: &mut (impl AsyncRead + Unpin), len: usize) -> Result<Vec<u8>, String> {
    let mut got = vec![0; len];
    cannot("reading", io.read_exact(&mut got).await)?;
    Ok(got)
}

/// Sends so many octets and sees them arrive. Both at the same time: a channel may hold as little as one octet.
pub(super) async fn pass(
    from: &mut (impl AsyncWrite + Unpin),
    to: &mut (impl AsyncRead + Unpin),
    len: usize,
) -> Result<(), String> {
    let all = octets(len);
    let ((), got) = tokio::try_join!(send(from, &all), receive(to, len))?;
    compare(&got, len)
}

/// A question and an answer, some times over: nothing else makes the octets move.
pub(super) async fn ping_pong(ends: &mut Ends) -> Result<(), String> {
    for n in 1..=20 {
        pass(&mut ends.client, &mut ends.server, n).await?;
        pass(&mut ends.server, &mut ends.client, n).await?;
    }
    Ok(())
}

pub(super) async fn flush(mut ends: Ends) -> Result<Passed, String> {
    ping_pong(&mut ends).await?;
    Ok(Passed::Yes)
}

pub(super) async fn nothing(mut ends: Ends) -> Result<Passed, String> {
    let n = cannot("writing nothing", ends.client.write(&[]).await)?;
    if n != 0 {
        return Err(format!("a write of nothing took {n} octets"));
    }
    send(&mut ends.client, b"x").await?;
    let n = cannot("reading into no room", ends.server.read(&mut []).await)?;
    if n != 0 {
        return Err(format!("a read into no room gave {n} octets"));
    }
    match receive(&mut ends.server, 1).await?.as_slice() {
        b"x" => Ok(Passed::Yes),
        other => Err(format!("after nothing came {other:?} instead of an x")),
    }
}

pub(super) async fn both_ways(ends: Ends) -> Result<Passed, String> {
    const LEN: usize = 1 << 20;
    async fn write(mut io: impl AsyncWrite + Unpin, all: &[u8]) -> Result<(), String> {
        send(&mut io, all).await?;
        cannot("closing", io.shutdown().await)
    }
    async fn read(mut io: impl AsyncRead + Unpin) -> Result<(), String> {
        let mut got = Vec::new();
        cannot("reading", io.read_to_end(&mut got).await)?;
        compare(&got, LEN)
    }
    let all = octets(LEN);
    let (client_read, client_write) = split(ends.client);
    let (server_read, server_write) = split(ends.server);
    tokio::try_join!(write(client_write, &all), read(server_read), write(server_write, &all), read(client_read))?;
    Ok(Passed::Yes)
}

pub(super) async fn octet_reads(mut ends: Ends) -> Result<Passed, String> {
    let all = octets(1_000);
    let reading = async {
        let mut got = Vec::new();
        for _ in 0..all.len() {
            got.extend(receive(&mut ends.server, 1).await?);
        }
        compare(&got, all.len())
    };
    tokio::try_join!(send(&mut ends.client, &all), reading)?;
    Ok(Passed::Yes)
}

pub(super) async fn wakes(ends: Ends) -> Result<Passed, String> {
    let Ends { mut client, mut server, _keep } = ends;
    // In a task of its own, which nothing else wakes.
    let reading = tokio::spawn(async move { receive(&mut server, 1).await });
    // Long enough for the reader to have found nothing.
    sleep(Duration::from_millis(50)).await;
    send(&mut client, &octets(1)).await?;
    let got = reading.await.map_err(|e| e.to_string())??;
    compare(&got, 1)?;
    Ok(Passed::Yes)
}

pub(super) async fn back_pressure(mut ends: Ends) -> Result<Passed, String> {
    let mut sent = 0;
    loop {
        let piece: Vec<u8> = (sent..sent + 16_384).map(octet).collect();
        match timeout(STILL, ends.client.write(&piece)).await {
            Ok(n) => sent += cannot("writing", n)?,
            Err(_) => break,
        }
        if sent > BOUND {
            return Err(format!("{sent} octets were taken though nobody reads"));
        }
    }
    // Once somebody reads, all of it arrives.
    let finish = async { cannot("closing", ends.client.shutdown().await) };
    let read = async {
        let mut got = Vec::new();
        cannot("reading", ends.server.read_to_end(&mut got).await)?;
        compare(&got, sent)
    };
    tokio::try_join!(finish, read)?;
    Ok(Passed::Yes)
}
