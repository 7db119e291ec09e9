//! Proof that the core does no I/O: this library has its own panic handler, so it does not build as soon as anything
//! it depends on links `std`, which brings one too.
#![no_std]

extern crate alloc;

use alloc::sync::Arc;

use smtp_core::channel::{ChannelInfo, SessionInfo};
use smtp_core::session::server::{Config, Session};
use smtp_core::types::Invalid;

/// A session, so that the state machine itself is linked and not only its types.
///
/// # Errors
/// [`Invalid`] if `hostname` is none.
pub fn session(hostname: &str) -> Result<Session, Invalid> {
    let config = Arc::new(Config::new(hostname.parse()?));
    Ok(Session::new(config, Arc::new(SessionInfo::new(1, ChannelInfo::memory("bare metal")))))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
