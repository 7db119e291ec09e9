//! HELP in words of one's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Code, Command, Refusal, Reply, status};
use tower_layer::Layer;

use super::{Decide, Deciding};

/// Answers HELP (RFC 5321 §4.1.1.8) with a text of the site's own, and with one for each topic that has one; 504 5.5.4
/// for other topics. Lines are separated by `\n`.
#[derive(Debug, Clone)]
pub struct HelpLayer(Arc<Texts>);

#[derive(Debug, Clone)]
struct Texts {
    general: String,
    topics: BTreeMap<String, String>,
}

impl HelpLayer {
    /// The text for HELP without a topic.
    #[must_use]
    pub fn new(general: impl Into<String>) -> Self {
        Self(Arc::new(Texts { general: general.into(), topics: BTreeMap::new() }))
    }

    /// With the text for a topic, which compares without ASCII case.
    #[must_use]
    pub fn topic(mut self, topic: &str, text: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).topics.insert(topic.to_ascii_uppercase(), text.into());
        self
    }

    fn answer(&self, topic: Option<&str>) -> Verdict {
        let text = match topic {
            None => Some(&self.0.general),
            Some(topic) => self.0.topics.get(&topic.to_ascii_uppercase()),
        };
        match (text, Code::new(214)) {
            (Some(text), Ok(code)) => {
                Verdict::Answer(Reply::new(code, Some(status::UNDEFINED.as_success()), text.clone()))
            }
            _ => Refusal::fixed(504, (5, 5, 4), "no help on that").into(),
        }
    }
}

impl Decide for HelpLayer {
    fn decide(&self, request: &Request) -> Option<Verdict> {
        match &request.command {
            Command::Help(topic) => Some(self.answer(topic.as_deref())),
            _ => None,
        }
    }
}

impl<S> Layer<S> for HelpLayer {
    type Service = Deciding<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Deciding::new(inner, self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::testing::{ask, remote_session};

    #[tokio::test]
    async fn topics_have_their_texts() {
        let layer = HelpLayer::new("call 555-1234\nor write").topic("size", "35 MiB");
        let mut policy = layer.layer(AnyRecipient::exposed());
        let session = remote_session("192.0.2.1:4000");
        for (topic, says) in [(None, "214 2.0.0 call 555-1234 / or write"), (Some("SIZE"), "214 2.0.0 35 MiB")] {
            let Verdict::Answer(reply) = ask(&mut policy, &session, Command::Help(topic.map(Into::into))).await else {
                panic!()
            };
            assert_eq!(reply.to_string(), says);
        }
        assert_code!(ask(&mut policy, &session, Command::Help(Some("x".into()))).await, 504, "5.5.4");
    }
}
