//! Two ways to one server, and whoever is there first.

mod memory;

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use smtp_core::stream::{
    Address, BoxFuture, ConnectError, ConnectStep, Connection, Connector, Discover, Target, TlsMode, TlsPolicy, race,
};
use tokio::time::Instant;

use self::memory::Memory;

/// Settings of a [`RacingConnector`].
#[derive(Debug, Clone)]
pub struct RacingOptions {
    /// How long the other way has for itself until the usual one is tried beside it, looking it up included. Default:
    /// 250 ms (RFC 8305 §8).
    pub head_start: Duration,
    /// How long the other way is not tried to a host where it has lost. It doubles each time. Default: 5 min.
    pub first_pause: Duration,
    /// What it grows to. Default: 24 h.
    pub longest_pause: Duration,
    /// How many hosts are remembered; those that may be tried again first are forgotten first. Default: 4,096.
    pub max_hosts: usize,
}

impl Default for RacingOptions {
    fn default() -> Self {
        Self {
            head_start: Duration::from_millis(250),
            first_pause: Duration::from_secs(5 * 60),
            longest_pause: Duration::from_secs(24 * 60 * 60),
            max_hosts: 4096,
        }
    }
}

/// A connector with two ways to a server: another transport, where the server is found to have it, and the usual one
/// (RFC 8305, one layer up).
///
/// Only setting up is raced. The other way begins at once, the usual one after [`RacingOptions::head_start`], or as
/// soon as the other has failed or turns out not to exist. The first that stands wins; the loser is dropped, before
/// anything of SMTP was said on it. A way that is blocked costs the head start once, and is then left alone for a while.
///
/// Both ways get the same policy, so that the loss of one never lowers what is asked of TLS: a server that is reached
/// over the usual way shows the same certificate, or is not reached. With STARTTLS the usual way stands when its
/// channel does, since the rest is SMTP; with implicit TLS, when TLS does. Under [`TlsMode::None`] there is no race: a
/// transport that is worth looking for has TLS.
///
/// A connection that is handed out before its handshake is complete, to carry early data, has won at once and is not
/// raced: what is sent on it would be sent twice. If its handshake fails, the next attempt finds that out first, and
/// takes the usual way.
pub struct RacingConnector {
    other: Box<dyn Connector>,
    usual: Box<dyn Connector>,
    discovery: Box<dyn Discover>,
    options: RacingOptions,
    memory: Mutex<Memory>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Other,
    Usual,
}

impl RacingConnector {
    /// Takes `other` to where `discovery` says that a server can be reached in that way, and `usual` to the target
    /// itself.
    #[must_use]
    pub fn new(other: impl Connector, usual: impl Connector, discovery: impl Discover, options: RacingOptions) -> Self {
        Self {
            other: Box::new(other),
            usual: Box::new(usual),
            discovery: Box::new(discovery),
            memory: Mutex::new(Memory::new(&options)),
            options,
        }
    }

    /// The other way, from looking for it to a connection that meets the policy. `tried` is set once there was one.
    async fn other_way(
        &self,
        target: &Target,
        policy: &TlsPolicy,
        tried: &AtomicBool,
    ) -> Result<Box<dyn Connection>, Option<ConnectError>> {
        let (found, policy) = match self.discovery.discover(target, policy).await {
            Ok(found) => found.ok_or(None)?,
            Err(error) => {
                tracing::debug!(target = %target.address, %error, "no telling whether there is another way to it");
                return Err(None);
            }
        };
        tried.store(true, Ordering::Relaxed);
        self.other.connect(&found, &policy).await.map_err(|error| {
            tracing::debug!(target = %target.address, %error, "the other way to it failed");
            Some(error)
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Connector for RacingConnector {
    /// # Errors
    /// The usual way's, if there is no way: it is the one that has to be there.
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        if policy.mode == TlsMode::None || !self.memory().may_try(target, Instant::now()) {
            return self.usual.connect(target, policy).await;
        }
        let tried = AtomicBool::new(false);
        type Attempt<'a> = BoxFuture<'a, Result<(Way, Box<dyn Connection>), Option<ConnectError>>>;
        let noted = &tried;
        let attempt = |way| -> Attempt<'_> {
            Box::pin(async move {
                let connection = match way {
                    Way::Other => self.other_way(target, policy, noted).await,
                    Way::Usual => self.usual.connect(target, policy).await.map_err(Some),
                };
                Ok((way, connection?))
            })
        };
        // The policy is one for both.
        let won = race(&[Way::Other, Way::Usual], self.options.head_start, attempt).await;
        let tried = tried.into_inner();
        match won {
            Ok((Way::Other, connection)) => {
                //
                self.memory().won(target, connection.confirmed(), Instant::now());
                Ok(connection)
            }
            Ok((Way::Usual, connection)) => {
                if tried {
                    //
                    let pause = self.memory().lost(target, Instant::now());
                    tracing::debug!(target = %target.address, ?pause, "the other way to it lost; not tried again for a while");
                }
                Ok(connection)
            }
            Err(failures) => {
                let usual = failures.into_iter().find_map(|(way, error)| error.filter(|_| way == Way::Usual));
                // The race is over only when both have failed, and the usual way does not fail without an error.
                Err(usual.unwrap_or_else(|| nowhere(&target.address)))
            }
        }
    }
}

fn nowhere(address: &Address) -> ConnectError {
    let error = io::Error::from(io::ErrorKind::HostUnreachable);
    ConnectError::transient(address, ConnectStep::Connect, error)
}

impl fmt::Debug for RacingConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RacingConnector").field("options", &self.options).finish_non_exhaustive()
    }
}
