//! One timer for a session, armed again and again.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that is moved far more often than it fires: moving it later costs a store, not a visit to the timer
/// wheel.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Fires `after` from now; whatever was set before is forgotten.
    pub(crate) fn arm(&mut self, after: Duration) {
        // A duration beyond what a clock holds is as good as none.
        self.deadline = Instant::now().checked_add(after);
    }

    /// Ready when the deadline has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                self.deadline = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::future::poll_fn;

    async fn is_pending(timer: &mut Timer) -> bool {
        poll_fn(|cx| Poll::Ready(timer.poll(cx).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_last_deadline_set() {
        let start = Instant::now();
        let mut timer = Timer::default();
        timer.arm(Duration::from_secs(10));
        assert!(is_pending(&mut timer).await);
        timer.arm(Duration::from_secs(30));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 30);
        timer.arm(Duration::from_secs(60));
        assert!(is_pending(&mut timer).await);
        timer.arm(Duration::from_secs(5));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 35);
    }
}
