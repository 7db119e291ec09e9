//! Users that can be exchanged while the server runs.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use smtp_core::types::{Mailbox, Secret};
use smtp_sasl::scram::{Hash, Keys};

use super::{
    Bearer, Check, Credential, ExternalUsers, ScramUsers, SecretUsers, Senders, TokenCheck, TokenVerifier, Unavailable,
    UserList, Users,
};

/// A [`UserList`] that another can take the place of: after a user file was read again. Exchanges that are under way
/// go on with the list they began with; the bound on checks at once holds over both.
#[derive(Debug, Default)]
pub struct SharedUsers(RwLock<Arc<UserList>>);

impl SharedUsers {
    /// These users for now.
    #[must_use]
    pub fn new(list: UserList) -> Self {
        Self(RwLock::new(Arc::new(list)))
    }

    /// Those of `list` from now on. What mechanisms are offered stays as it was.
    pub fn replace(&self, list: UserList) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(list.sharing_with(&current));
    }

    /// Those of now.
    #[must_use]
    pub fn list(&self) -> Arc<UserList> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Users for SharedUsers {
    async fn verify(&self, name: &str, password: &Secret) -> Check {
        self.list().verify(name, password).await
    }
}

#[async_trait]
impl ScramUsers for SharedUsers {
    async fn keys(&self, hash: Hash, name: &str) -> Result<Keys, Unavailable> {
        self.list().keys(hash, name).await
    }
}

#[async_trait]
impl SecretUsers for SharedUsers {
    async fn secret(&self, name: &str) -> Result<Option<Secret>, Unavailable> {
        self.list().secret(name).await
    }
}

#[async_trait]
impl ExternalUsers for SharedUsers {
    async fn user_of(&self, credential: Credential<'_>) -> Result<Option<Box<str>>, Unavailable> {
        self.list().user_of(credential).await
    }
}

#[async_trait]
impl TokenVerifier for SharedUsers {
    async fn owner(&self, bearer: &Bearer) -> TokenCheck {
        self.list().owner(bearer).await
    }
}

#[async_trait]
impl Senders for SharedUsers {
    async fn may_send_as(&self, user: &str, mailbox: &Mailbox) -> Check {
        self.list().may_send_as(user, mailbox).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::cheap_hash;

    fn list(name: &str) -> UserList {
        UserList::new().and(format!("{name}: {}", cheap_hash("right")).parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn those_who_left_are_out_and_those_who_came_are_in() {
        let (users, right) = (SharedUsers::new(list("jo")), Secret::new(*b"right"));
        assert_eq!(users.verify("jo", &right).await, Check::Yes);
        users.replace(list("al"));
        assert_eq!(users.verify("jo", &right).await, Check::No);
        assert_eq!(users.verify("al", &right).await, Check::Yes);
    }
}
