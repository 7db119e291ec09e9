//! Users in memory, with hashed passwords.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use async_trait::async_trait;
use smtp_core::types::{Secret, printable};
use tokio::sync::Semaphore;

use super::{Check, Users};

/// Users with Argon2id password hashes (RFC 9106), from a [file](UserList::from_file) or added one by one.
///
/// Names compare octet by octet. A check costs as much for a name that is not there: the password is then held
/// against another user's hash and the result thrown away. (Hashes of different cost in one list blur that; let one
/// tool with one setting make them all.)
///
/// Each check takes tens of milliseconds of a CPU and some 19 MiB, so it runs off the async threads, at most as many
/// at once as there are CPUs; beyond that the answer is [`Check::Unavailable`], which clients are told as 454.
pub struct UserList {
    users: HashMap<Box<str>, PasswordHash>,
    /// What unknown names are checked against: the first hash that came.
    stand_in: Option<PasswordHash>,
    hashing: Arc<Semaphore>,
}

impl Default for UserList {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { users: HashMap::new(), stand_in: None, hashing: Arc::new(Semaphore::new(cpus)) }
    }
}

impl UserList {
    /// No users.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These, and the user `name`, whose `password` is hashed here: tens of milliseconds.
    ///
    /// # Errors
    /// [`UserError`] for a name that cannot stand in a list or is there already, and if hashing fails.
    pub fn with(self, name: &str, password: &Secret) -> Result<Self, UserError> {
        let hash = hash_password(password)?;
        self.with_hash(name, &hash)
    }

    /// These, and the user `name` with a password hash in PHC form: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`.
    ///
    /// # Errors
    /// [`UserError`] for a name that cannot stand in a list or is there already, and for anything but a complete
    /// Argon2id hash.
    pub fn with_hash(mut self, name: &str, hash: &str) -> Result<Self, UserError> {
        if name.is_empty() || name.contains([':', '\0']) || name.chars().any(char::is_control) {
            return Err(UserError::Name);
        }
        let hash = PasswordHash::new(hash).map_err(|e| UserError::Hash(e.to_string()))?;
        if hash.algorithm.as_str() != "argon2id" {
            return Err(UserError::Hash(format!("{} is not argon2id", hash.algorithm)));
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(UserError::Hash("salt or hash is missing".into()));
        }
        Params::try_from(&hash).map_err(|e| UserError::Hash(e.to_string()))?;
        self.stand_in.get_or_insert_with(|| hash.clone());
        match self.users.insert(name.into(), hash) {
            None => Ok(self),
            Some(_) => Err(UserError::Twice(printable(name.as_bytes()))),
        }
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

impl fmt::Debug for UserList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserList").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Users for UserList {
    async fn verify(&self, name: &str, password: &Secret) -> Check {
        let known = self.users.get(name);
        let Some(hash) = known.or(self.stand_in.as_ref()).cloned() else { return Check::No };
        let known = known.is_some();
        let Ok(permit) = Arc::clone(&self.hashing).try_acquire_owned() else {
            tracing::warn!("more passwords to check than CPUs; answering 454");
            return Check::Unavailable;
        };
        let password = password.clone();
        let right = tokio::task::spawn_blocking(move || {
            // The permit goes where the work is: a session that breaks off does not make room for another.
            let _permit = permit;
            Argon2::default().verify_password(password.expose(), &hash).is_ok()
        });
        match right.await {
            Ok(right) if right && known => Check::Yes,
            Ok(_) => Check::No,
            Err(_) => Check::Unavailable,
        }
    }
}

/// Hashes a password for a user file: Argon2id with the default cost of the `argon2` crate (19 MiB, 2 passes, OWASP's
/// first choice) and a random salt, in PHC form. Takes tens of milliseconds.
///
/// # Errors
/// [`UserError::Hash`] if there is no randomness or no memory.
pub fn hash_password(password: &Secret) -> Result<String, UserError> {
    let hash = Argon2::default().hash_password(password.expose()).map_err(|e| UserError::Hash(e.to_string()))?;
    Ok(hash.to_string())
}

/// Why a user cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The name is empty, or holds `:` or a control character.
    #[error("a user's name is not empty and holds neither ':' nor control characters")]
    Name,
    /// The name is in the list already.
    #[error("the user {0} is there twice")]
    Twice(String),
    /// The password hash cannot be made or used.
    #[error("the password hash is not a complete Argon2id hash in PHC form: {0}")]
    Hash(String),
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// A hash that costs next to nothing.
    pub(in crate::auth) fn cheap_hash(password: &str) -> String {
        hash_with(password, 8, 1)
    }

    fn hash_with(password: &str, kibibytes: u32, passes: u32) -> String {
        let params = Params::new(kibibytes, passes, 1, None).unwrap();
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        argon2.hash_password(password.as_bytes()).unwrap().to_string()
    }

    async fn verify(users: &UserList, name: &str, password: &str) -> Check {
        users.verify(name, &Secret::new(password.as_bytes())).await
    }

    #[tokio::test]
    async fn the_right_password_of_the_right_user() {
        let users = UserList::new().with_hash("jo", &cheap_hash("right")).unwrap();
        let users = users.with_hash("al", &cheap_hash("other")).unwrap();
        assert_eq!(verify(&users, "jo", "right").await, Check::Yes);
        assert_eq!(verify(&users, "al", "other").await, Check::Yes);
        for (name, password) in [("jo", "other"), ("al", "right"), ("JO", "right"), ("eve", "right"), ("jo", "")] {
            assert_eq!(verify(&users, name, password).await, Check::No, "{name} {password}");
        }
        assert_eq!(verify(&UserList::new(), "jo", "right").await, Check::No);
    }

    #[tokio::test]
    async fn a_password_is_hashed_when_it_is_added() {
        let users = UserList::new().with("jo", &Secret::new(*b"right")).unwrap();
        assert_eq!(verify(&users, "jo", "right").await, Check::Yes);
        assert!(!format!("{users:?}").contains("jo"));
    }

    #[tokio::test]
    async fn an_unknown_user_costs_as_much_as_a_wrong_password() {
        // Some 10 ms each: a shortcut for unknown users would show as a ratio of a thousand.
        let users = UserList::new().with_hash("jo", &hash_with("right", 8 * 1024, 2)).unwrap();
        let mut best = [Duration::MAX; 2];
        // The best of several: on a busy machine any single one may be slow.
        for _ in 0..50 {
            for (i, name) in ["jo", "nobody"].into_iter().enumerate() {
                let start = Instant::now();
                assert_eq!(verify(&users, name, "wrong").await, Check::No);
                best[i] = best[i].min(start.elapsed());
            }
            if best[1] * 2 > best[0] && best[0] * 2 > best[1] {
                return;
            }
        }
        panic!("{best:?}");
    }

    #[tokio::test]
    async fn more_checks_than_cpus_are_put_off() {
        let mut users = UserList::new().with_hash("jo", &hash_with("right", 64 * 1024, 2)).unwrap();
        users.hashing = Arc::new(Semaphore::new(1));
        let users = Arc::new(users);
        let slow = tokio::spawn({
            let users = Arc::clone(&users);
            async move { verify(&users, "jo", "right").await }
        });
        tokio::task::yield_now().await;
        assert_eq!(verify(&users, "jo", "right").await, Check::Unavailable);
        assert_eq!(verify(&users, "nobody", "right").await, Check::Unavailable);
        assert_eq!(slow.await.unwrap(), Check::Yes);
        assert_eq!(verify(&users, "jo", "right").await, Check::Yes);
    }

    #[test]
    fn bad_entries_are_refused() {
        let hash = cheap_hash("right");
        let refuse = |name: &str, hash: &str| UserList::new().with_hash(name, hash).unwrap_err();
        assert_eq!(refuse("", &hash), UserError::Name);
        assert_eq!(refuse("a:b", &hash), UserError::Name);
        assert_eq!(refuse("a\nb", &hash), UserError::Name);
        for bad in [
            "",
            "right",
            "$argon2id$v=19$m=8,t=1,p=1",
            &hash.replace("argon2id", "argon2i"),
            &hash.replace("t=1", "t=0"),
        ] {
            assert!(matches!(refuse("jo", bad), UserError::Hash(_)), "{bad}");
        }
        let twice = UserList::new().with_hash("jo", &hash).unwrap().with_hash("jo", &hash).unwrap_err();
        assert_eq!(twice, UserError::Twice("jo".into()));
    }
}
