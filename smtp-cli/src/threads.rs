//! How many threads do the work.

use tokio::runtime::Builder;

use crate::exit::Failure;

/// How many there may be.
const MAX: usize = 256;

/// The runtime for as many threads as were asked for: one alone needs none of what several share.
///
/// # Errors
/// If they are too many, or none.
pub(crate) fn runtime(threads: usize) -> Result<Builder, Failure> {
    match threads {
        1 => Ok(Builder::new_current_thread()),
        2..=MAX => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads);
            Ok(builder)
        }
        _ => Err(Failure::usage(format!("--threads {threads}")).help(format!("from 1 to {MAX}"))),
    }
}
