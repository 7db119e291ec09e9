//! LOGIN: name and password, each asked for. No RFC specifies it (an expired draft, draft-murchison-sasl-login, does);
//! clients that know nothing else still need it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::channel::SessionInfo;
use smtp_core::types::Secret;

use super::users::check;
use super::{Exchange, Mechanism, Step, Users};

/// LOGIN. An initial response is taken for the user's name, as many clients send it.
#[derive(Clone)]
pub struct Login(Arc<dyn Users>);

impl Login {
    /// LOGIN for these users.
    #[must_use]
    pub const fn new(users: Arc<dyn Users>) -> Self {
        Self(users)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Mechanism for Login {
    fn name(&self) -> &'static str {
        "LOGIN"
    }

    fn start(&self) -> Box<dyn Exchange> {
        Box::new(Attempt { users: Arc::clone(&self.0), name: None })
    }
}

struct Attempt {
    users: Arc<dyn Users>,
    name: Option<Secret>,
}

#[async_trait]
impl Exchange for Attempt {
    async fn step(&mut self, response: Option<Secret>, _: &SessionInfo) -> Step {
        let Some(response) = response else {
            return Step::Challenge(Bytes::from_static(b"Username:"));
        };
        match self.name.take() {
            None => {
                self.name = Some(response);
                Step::Challenge(Bytes::from_static(b"Password:"))
            }
            Some(name) => check(&self.users, name.expose(), response.expose()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{OneUser, begin};

    async fn answers(responses: &[Option<&str>]) -> Vec<Step> {
        let mut exchange = begin(&Login::new(OneUser::shared()));
        let mut steps = Vec::new();
        for response in responses {
            let response = response.map(|text| Secret::new(text.as_bytes()));
            steps.push(exchange.step(response, &SessionInfo::local("test")).await);
        }
        steps
    }

    fn ask(prompt: &'static str) -> Step {
        Step::Challenge(Bytes::from_static(prompt.as_bytes()))
    }

    #[tokio::test]
    async fn name_and_password_are_asked_for() {
        let jo = Step::Success { user: "jo".into() };
        assert_eq!(answers(&[None, Some("jo"), Some("right")]).await, [ask("Username:"), ask("Password:"), jo.clone()]);
        assert_eq!(answers(&[Some("jo"), Some("right")]).await, [ask("Password:"), jo]);
    }

    #[tokio::test]
    async fn wrong_unknown_and_empty_fail_alike() {
        for (name, password) in [("jo", "wrong"), ("nobody", "right"), ("jo", ""), ("", "right"), ("", "")] {
            assert_eq!(answers(&[Some(name), Some(password)]).await, [ask("Password:"), Step::Failed], "{name}");
        }
    }
}
