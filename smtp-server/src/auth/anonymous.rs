//! ANONYMOUS (RFC 4505).

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::channel::SessionInfo;
use smtp_core::session::server::Needs;
use smtp_core::types::Secret;

use super::{Exchange, Mechanism, Step};

/// ANONYMOUS: the client proves nothing and says who it is if it likes. The identity that comes of it gives no rights
/// ([`Identity::is_anonymous`](smtp_core::channel::Identity::is_anonymous)): mail is taken as from anybody else.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

/// The longest trace information, in characters (RFC 4505 §2).
const TRACE_MAX: usize = 255;

impl Mechanism for Anonymous {
    fn name(&self) -> &'static str {
        "ANONYMOUS"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn start(&self) -> Box<dyn Exchange> {
        Box::new(*self)
    }
}

#[async_trait]
impl Exchange for Anonymous {
    async fn step(&mut self, response: Option<Secret>, session: &SessionInfo) -> Step {
        let Some(response) = response else { return Step::Challenge(Bytes::new()) };
        let Ok(trace) = std::str::from_utf8(response.expose()) else { return Step::Malformed };
        if trace.chars().count() > TRACE_MAX || trace.contains('\0') {
            return Step::Malformed;
        }
        tracing::info!(session = session.id, trace = %crate::policy::safe(&trace), "ANONYMOUS");
        Step::Success { user: "anonymous".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::begin;

    #[tokio::test]
    async fn anybody_may_say_anything_short() {
        let session = SessionInfo::local("test");
        let nobody = Step::Success { user: "anonymous".into() };
        for trace in ["", "jo@example.org", "\u{1b}[2J"] {
            assert_eq!(begin(&Anonymous).step(Some(Secret::new(trace)), &session).await, nobody);
        }
        assert_eq!(begin(&Anonymous).step(None, &session).await, Step::Challenge(Bytes::new()));
        for trace in [&[b'x'; 256][..], b"\xff", b"a\0b"] {
            assert_eq!(begin(&Anonymous).step(Some(Secret::new(trace)), &session).await, Step::Malformed);
        }
    }
}
