//! What a service manager is told: that the server is up, reads its configuration again, or ends; and, where it asks to
//! be, that it is alive. Without one, which NOTIFY_SOCKET says, nobody is told anything.

use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// All listeners accept.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends that.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "there is no clock"),
    }
}

/// Sessions are being brought to an end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says so again and again that tasks still run, as often as the service manager wants (WatchdogSec=).
pub(super) fn keep_alive() {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut often = tokio::time::interval((patience / 2).max(Duration::from_millis(10)));
        loop {
            often.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    });
}
