//! Octets to types and back, in both directions.
//!
//! Nothing here keeps a dialogue; that is [`session`](crate::session). Decoders work on the read buffer in place and
//! never copy it; encoders append to an output buffer. Every command encoder writes exactly one CRLF, last.

mod command;
mod data;
mod law;
mod line;
mod reply;
#[cfg(test)]
mod round_trip;

pub use command::{CommandError, decode_command, decode_response, encode_command};
pub use data::{Content, DataDecoder, DataEncoder, canonical};
pub use law::{BadLine, LineLaw};
pub use line::{LineDecoder, LineError, LineStep};
pub use reply::{ReplyDecoder, ReplyError, encode_reply};
