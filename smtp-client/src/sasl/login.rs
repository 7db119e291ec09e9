//! LOGIN, which no RFC describes and many servers speak.

use async_trait::async_trait;
use smtp_core::types::Secret;

use super::{Credentials, Mechanism, SaslError};

/// LOGIN: the server asks for the user name, then for the password. How it words its questions does not matter:
/// servers differ. It has no way to act as another user.
#[derive(Debug)]
pub struct Login {
    answers: [Option<Secret>; 2],
}

impl Login {
    /// Its name.
    pub const NAME: &'static str = "LOGIN";

    /// The exchange for `credentials`.
    #[must_use]
    pub fn new(credentials: &Credentials) -> Self {
        let user = Secret::new(credentials.user().as_bytes());
        Self { answers: [Some(user), Some(credentials.secret().clone())] }
    }
}

#[async_trait]
impl Mechanism for Login {
    fn name(&self) -> &str {
        Self::NAME
    }

    async fn respond(&mut self, _: &[u8]) -> Result<Secret, SaslError> {
        self.answers
            .iter_mut()
            .find_map(Option::take)
            .ok_or(SaslError("LOGIN has two questions, and the server asks a third"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_answers_and_no_third() {
        let mut login = Login::new(&Credentials::new("jo", "pw").unwrap());
        assert!(login.initial().unwrap().is_none());
        assert_eq!(login.respond(b"Username:").await.unwrap().expose(), b"jo");
        assert_eq!(login.respond(b"Password:").await.unwrap().expose(), b"pw");
        assert!(login.respond(b"Password:").await.is_err());
    }
}
