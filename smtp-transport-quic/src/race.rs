//! Happy Eyeballs (RFC 8305): both address families, not waiting long for one that does not answer. With QUIC an
//! attempt is a whole handshake, so that the winner is a server that speaks the protocol and not only an open port.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Alternates between the families, beginning with that of the first address, and keeps the order within each
/// (RFC 8305 §4, with a First Address Family Count of 1).
pub(crate) fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
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

/// Runs `attempt` on one address after the other: the next begins when one has failed, or after `stagger` without an
/// answer. The first success wins; the others are dropped.
///
/// # Errors
/// Every failure, in the order of their coming, if all have failed.
pub(crate) async fn race<T, E, A>(
    addresses: &[SocketAddr],
    stagger: Duration,
    mut attempt: impl FnMut(SocketAddr) -> A,
) -> Result<T, Vec<(SocketAddr, E)>>
where
    A: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.iter().copied().peekable();
    let mut running = Vec::new();
    let mut failures = Vec::new();
    let mut head_start = pin!(sleep(stagger));
    let mut begin_now = true;
    poll_fn(|cx| {
        loop {
            let begin = begin_now || (waiting.peek().is_some() && head_start.as_mut().poll(cx).is_ready());
            if begin && let Some(address) = waiting.next() {
                running.push((address, Box::pin(attempt(address))));
                head_start.as_mut().reset(Instant::now() + stagger);
            }
            begin_now = false;
            let mut index = 0;
            while let Some((address, future)) = running.get_mut(index) {
                match future.as_mut().poll(cx) {
                    Poll::Ready(Ok(done)) => return Poll::Ready(Ok(done)),
                    Poll::Ready(Err(error)) => {
                        failures.push((*address, error));
                        drop(running.swap_remove(index));
                        begin_now = true;
                    }
                    Poll::Pending => index += 1,
                }
            }
            if running.is_empty() && waiting.peek().is_none() {
                return Poll::Ready(Err(std::mem::take(&mut failures)));
            }
            // Once more after a begin too: the timer that was reset has to be polled, or it wakes nobody.
            if !begin && !begin_now {
                return Poll::Pending;
            }
        }
    })
    .await
}
