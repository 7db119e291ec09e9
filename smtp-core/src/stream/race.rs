//! Happy Eyeballs (RFC 8305): several ways to one server, not waiting long for one that does not answer.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use std::net::IpAddr;

use tokio::time::{Instant, sleep};

/// Alternates between the families, beginning with that of the first address, and keeps the order within each
/// (RFC 8305 §4, with a First Address Family Count of 1).
pub(super) fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let mut first = addresses.iter().filter(|ip| ip.is_ipv6() == first_is_v6);
    let mut second = addresses.iter().filter(|ip| ip.is_ipv6() != first_is_v6);
    let mut out = Vec::with_capacity(addresses.len());
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return out;
        }
        out.extend(pair.into_iter().flatten());
    }
}

/// Runs `attempt` on one way after the other: the next begins when one has failed, or after `stagger` without an
/// answer. The first success wins; the others are dropped, and with them their sockets (RFC 8305 §5). What an attempt
/// comprises decides what the winner has shown: an open port, or a handshake with a server that speaks the protocol.
///
/// # Errors
/// Every failure, in the order of their coming, if all have failed.
pub async fn race<W: Copy, T, E, A>(
    ways: &[W],
    stagger: Duration,
    mut attempt: impl FnMut(W) -> A,
) -> Result<T, Vec<(W, E)>>
where
    A: Future<Output = Result<T, E>>,
{
    let mut waiting = ways.iter().copied().peekable();
    let mut running = Vec::new();
    let mut failures = Vec::new();
    let mut head_start = pin!(sleep(stagger));
    let mut begin_now = true;
    poll_fn(|cx| {
        loop {
            let begin = begin_now || (waiting.peek().is_some() && head_start.as_mut().poll(cx).is_ready());
            if begin && let Some(way) = waiting.next() {
                running.push((way, Box::pin(attempt(way))));
                head_start.as_mut().reset(Instant::now() + stagger);
            }
            begin_now = false;
            let mut index = 0;
            while let Some((way, future)) = running.get_mut(index) {
                match future.as_mut().poll(cx) {
                    Poll::Ready(Ok(done)) => return Poll::Ready(Ok(done)),
                    Poll::Ready(Err(error)) => {
                        failures.push((*way, error));
                        drop(running.swap_remove(index));
                        begin_now = true;
                    }
                    Poll::Pending => index += 1,
                }
            }
            if running.is_empty() && waiting.peek().is_none() {
                return Poll::Ready(Err(core::mem::take(&mut failures)));
            }
            // Once more after a begin too: the timer that was reset has to be polled, or it wakes nobody.
            if !begin && !begin_now {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate() {
        let mixed = ips(&["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"]);
        let expected = ips(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"]);
        assert_eq!(interleave(&mixed), expected);
        let v4_first = ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert_eq!(interleave(&v4_first), ips(&["192.0.2.1", "2001:db8::1", "192.0.2.2"]));
        assert_eq!(interleave(&[]), ips(&[]));
    }

    /// Runs a race over scripted addresses; the port says which: how long it takes, and whether it works. Gives the
    /// winner's port or the failures', the time it took, and when each attempt began.
    async fn run(script: &[(u64, bool)]) -> (Result<u16, Vec<u16>>, u128, Vec<u128>) {
        let start = Instant::now();
        let begun = Mutex::new(Vec::new());
        let addresses: Vec<SocketAddr> =
            (0..script.len()).map(|i| SocketAddr::new([192, 0, 2, 1].into(), u16::try_from(i).unwrap())).collect();
        let result = race(&addresses, Duration::from_millis(250), |address| {
            begun.lock().unwrap().push(start.elapsed().as_millis());
            let (takes, works) = script[usize::from(address.port())];
            async move {
                sleep(Duration::from_millis(takes)).await;
                if works { Ok(address.port()) } else { Err(io::Error::other("scripted")) }
            }
        })
        .await;
        let result = result.map_err(|failures| failures.iter().map(|(address, _)| address.port()).collect());
        (result, start.elapsed().as_millis(), begun.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_answer_wins() {
        const NEVER: u64 = 1_000_000;
        // An answer in time: nobody else is bothered.
        assert_eq!(run(&[(100, true), (1, true)]).await, (Ok(0), 100, vec![0]));
        // A black hole costs 250 ms, not its timeout.
        assert_eq!(run(&[(NEVER, true), (20, true)]).await, (Ok(1), 270, vec![0, 250]));
        assert_eq!(run(&[(NEVER, true), (NEVER, true), (20, true)]).await, (Ok(2), 520, vec![0, 250, 500]));
        // A refusal costs nothing.
        assert_eq!(run(&[(1, false), (20, true)]).await, (Ok(1), 21, vec![0, 1]));
        // A slow one still wins over one that was begun later and is slower.
        assert_eq!(run(&[(300, true), (300, true)]).await, (Ok(0), 300, vec![0, 250]));
        // A refusal while another is under way starts the next at once.
        assert_eq!(run(&[(NEVER, true), (10, false), (10, true)]).await, (Ok(2), 270, vec![0, 250, 260]));
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_told() {
        assert_eq!(run(&[(5, false), (5, false), (5, false)]).await, (Err(vec![0, 1, 2]), 15, vec![0, 5, 10]));
        assert_eq!(run(&[(400, false), (5, false)]).await, (Err(vec![1, 0]), 400, vec![0, 250]));
        assert_eq!(run(&[]).await, (Err(vec![]), 0, vec![]));
    }
}
