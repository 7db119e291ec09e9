//! What the clients share.

use std::env::args;
use std::error::Error;
use std::future::Future;

/// Sessions that the clients send over at once.
pub const SESSIONS: usize = 20;

/// What can go wrong.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A message of 4 KiB.
pub fn content() -> Vec<u8> {
    let line = "x".repeat(62) + "\r\n";
    ("Subject: bench\r\n\r\n".to_owned() + &line.repeat(64)).into_bytes()
}

/// The argument at `place`, a number.
pub fn number<T: std::str::FromStr>(place: usize) -> Result<T, String> {
    let text = args().nth(place).ok_or("an argument is missing")?;
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// Runs `session(n)` 20 times at once, where the `n` add up to `messages`.
pub async fn in_sessions<F>(messages: usize, session: impl Fn(usize) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|n| tokio::spawn(session(messages / SESSIONS + usize::from(n < messages % SESSIONS))))
        .collect();
    for session in sessions {
        session.await??;
    }
    Ok(())
}
