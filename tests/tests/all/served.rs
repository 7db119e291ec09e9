//! Our server in this process, for what is no matter of the binary: who the peer is, what the protocol is.

use std::sync::Arc;
use std::time::Duration;

use smtp_core::channel::SessionInfo;
use smtp_core::driver;
use smtp_core::session::server::Config;
use smtp_core::stream::Listener;
use smtp_server::delivery::Recorded;
use smtp_server::{Mailboxes, Recorder, Server, Settings};
use tokio_util::sync::CancellationToken;

/// A server for `ours.test`, with `alice`, `bob` and `postmaster`; it ends when it is dropped.
pub(crate) struct Served {
    recorder: Recorder,
    stop: CancellationToken,
}

/// How long a message may take on its way through somebody else's program.
const PATIENCE: Duration = Duration::from_secs(30);

impl Served {
    pub(crate) fn on(listener: impl Listener, change: impl FnOnce(&mut Config)) -> Self {
        let recorder = Recorder::new();
        let mut config = Config::new("mx.ours.test".parse().unwrap()).promising(Recorder::PROMISES);
        change(&mut config);
        let mailboxes = Mailboxes::new(&"ours.test".parse().unwrap()).unwrap();
        let mailboxes = mailboxes.only(&["alice@ours.test", "bob@ours.test"].map(|a| a.parse().unwrap())).unwrap();
        let (stop, delivery) = (CancellationToken::new(), recorder.clone());
        let server = Server::new(Settings::new(driver::Settings::new(config)), move |_: &Arc<SessionInfo>| {
            (mailboxes.clone(), delivery.clone())
        });
        tokio::spawn(server.listen(listener).run(stop.clone()));
        Self { recorder, stop }
    }

    /// The messages, as soon as there are `count`.
    pub(crate) async fn messages(&self, count: usize) -> Vec<Recorded> {
        let messages = self.recorder.wait_for(count, PATIENCE).await;
        messages.unwrap_or_else(|fewer| panic!("{} of {count} messages", fewer.len()))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
