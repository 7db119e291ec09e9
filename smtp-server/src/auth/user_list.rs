//! Users in memory.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use async_trait::async_trait;
use smtp_core::types::{Mailbox, Secret, printable};
use smtp_sasl::scram::{Hash, ITERATIONS, Keys};
use tokio::sync::Semaphore;

use super::user::{Proof, STAND_IN, digest, prepared};
use super::{
    Bearer, Check, Credential, ExternalUsers, ScramUsers, SecretUsers, Senders, TokenCheck, TokenVerifier, Unavailable,
    User, UserError, Users,
};

/// Users with Argon2id password hashes (RFC 9106), SCRAM keys and certificates, from a [file](UserList::from_file) or
/// added one by one.
///
/// Names compare octet by octet. A check costs as much for a name that is not there: the password is then held
/// against the hash of the entry `*`, or else of the first user, and the result thrown away. SCRAM shows such names
/// keys that are made from the same entry. (Hashes of different cost in one list blur that; let one tool with one
/// setting make them all.)
///
/// Each check of a password takes tens of milliseconds of a CPU and some 19 MiB, so it runs off the async threads, at
/// most as many at once as there are CPUs; beyond that the answer is [`Check::Unavailable`], which clients are told as
/// 454.
pub struct UserList {
    users: HashMap<Box<str>, User>,
    external: HashMap<Proof, Box<str>>,
    /// By the SHA-256 of the token.
    tokens: HashMap<[u8; 32], Box<str>>,
    /// What unknown names are checked against: the entry `*`, or the first with a password.
    stand_in: Option<User>,
    hashing: Arc<Semaphore>,
    #[cfg(test)]
    pub(super) work: Work,
}

/// What was done, to be compared.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Work {
    hashes: Arc<AtomicUsize>,
    decoys: AtomicUsize,
}

impl Default for UserList {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            users: HashMap::new(),
            external: HashMap::new(),
            tokens: HashMap::new(),
            stand_in: None,
            hashing: Arc::new(Semaphore::new(cpus)),
            #[cfg(test)]
            work: Work::default(),
        }
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
        self.and(User::new(name)?.with_password(password)?)
    }

    /// These, and `user`.
    ///
    /// # Errors
    /// [`UserError::Twice`] and [`UserError::Shared`].
    pub fn and(mut self, user: User) -> Result<Self, UserError> {
        let shown = |name: &str| printable(name.as_bytes());
        if user.name() == STAND_IN {
            let earlier = self.stand_in.replace(user);
            let twice = earlier.is_some_and(|earlier| earlier.name() == STAND_IN);
            return if twice { Err(UserError::Twice(STAND_IN.into())) } else { Ok(self) };
        }
        if self.users.contains_key(user.name()) {
            return Err(UserError::Twice(shown(user.name())));
        }
        for proof in &user.external {
            if let Some(other) = self.external.insert(proof.clone(), user.name().into())
                && &*other != user.name()
            {
                return Err(UserError::Shared(shown(&other), shown(user.name())));
            }
        }
        if let Some(token) = user.token
            && let Some(other) = self.tokens.insert(token, user.name().into())
        {
            return Err(UserError::Shared(shown(&other), shown(user.name())));
        }
        if self.stand_in.is_none() && user.hash.is_some() {
            self.stand_in = Some(user.clone());
        }
        self.users.insert(user.name().into(), user);
        Ok(self)
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

    /// The users, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// True if everybody who has a password has keys for SCRAM with `hash`, and somebody has. A client takes the
    /// strongest mechanism that it is shown, so one that only some can use locks the others out.
    #[must_use]
    pub fn has_keys(&self, hash: Hash) -> bool {
        let mut with_password = self.iter().filter(|user| user.hash.is_some()).peekable();
        with_password.peek().is_some() && with_password.all(|user| user.keys(hash).is_some())
    }

    /// True if somebody has a password.
    #[must_use]
    pub fn has_passwords(&self) -> bool {
        self.iter().any(|user| user.hash.is_some())
    }

    /// True if somebody is known by a certificate or a uid.
    #[must_use]
    pub fn has_external(&self) -> bool {
        !self.external.is_empty()
    }

    /// True if somebody has a token.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// True if every password is kept for CRAM-MD5 too, and there is one: as with [`UserList::has_keys`], many a client
    /// takes it before PLAIN.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        let mut with_password = self.iter().filter(|user| user.hash.is_some() || user.secret.is_some()).peekable();
        with_password.peek().is_some() && with_password.all(|user| user.secret.is_some())
    }

    /// Counts its checks together with those of `other`: it is going to take its place.
    pub(super) fn sharing_with(mut self, other: &Self) -> Self {
        self.hashing = Arc::clone(&other.hashing);
        self
    }

    /// What nobody knows and what stays as long as the file does.
    fn decoy(&self, hash: Hash, name: &str) -> Keys {
        #[cfg(test)]
        self.work.decoys.fetch_add(1, Ordering::Relaxed);
        let stand_in = self.stand_in.as_ref();
        let output = stand_in.and_then(|user| user.hash.as_ref()?.hash.as_ref());
        let secret = output.map_or(&[][..], |output| output.as_bytes());
        let iterations = stand_in.and_then(|user| user.keys(hash)).map_or(ITERATIONS, Keys::iterations);
        Keys::decoy(hash, secret, name, iterations)
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
        let known = self.users.get(name).and_then(|user| user.hash.as_ref());
        let stand_in = || self.stand_in.as_ref().and_then(|user| user.hash.as_ref());
        let Some(hash) = known.or_else(stand_in).cloned() else { return Check::No };
        let known = known.is_some();
        let Ok(permit) = Arc::clone(&self.hashing).try_acquire_owned() else {
            tracing::warn!("more passwords to check than CPUs; answering 454");
            return Check::Unavailable;
        };
        let password = password.clone();
        #[cfg(test)]
        let hashes = Arc::clone(&self.work.hashes);
        let right = tokio::task::spawn_blocking(move || {
            // The permit goes where the work is: a session that breaks off does not make room for another.
            let _permit = permit;
            #[cfg(test)]
            hashes.fetch_add(1, Ordering::Relaxed);
            Argon2::default().verify_password(&prepared(&password), &hash).is_ok()
        });
        match right.await {
            Ok(right) if right && known => Check::Yes,
            Ok(_) => Check::No,
            Err(_) => Check::Unavailable,
        }
    }
}

#[async_trait]
impl ScramUsers for UserList {
    async fn keys(&self, hash: Hash, name: &str) -> Result<Keys, Unavailable> {
        // Made for everybody, so that it costs everybody the same.
        let decoy = self.decoy(hash, name);
        Ok(self.users.get(name).and_then(|user| user.keys(hash)).cloned().unwrap_or(decoy))
    }
}

#[async_trait]
impl SecretUsers for UserList {
    async fn secret(&self, name: &str) -> Result<Option<Secret>, Unavailable> {
        Ok(self.users.get(name).and_then(|user| user.secret.clone()))
    }
}

#[async_trait]
impl ExternalUsers for UserList {
    async fn user_of(&self, credential: Credential<'_>) -> Result<Option<Box<str>>, Unavailable> {
        let proof = match credential {
            Credential::Key(key) => Proof::Key(*key),
            Credential::Uid(uid) => Proof::Uid(uid),
            Credential::Mailbox(text) => match Mailbox::new(text) {
                Ok(mailbox) => Proof::Mailbox(mailbox),
                Err(_) => return Ok(None),
            },
        };
        Ok(self.external.get(&proof).cloned())
    }
}

#[async_trait]
impl TokenVerifier for UserList {
    async fn owner(&self, bearer: &Bearer) -> TokenCheck {
        // What is looked up is a hash: how long that takes says nothing of the tokens that there are.
        self.tokens.get(&digest(&bearer.token)).cloned().map_or(TokenCheck::Invalid, TokenCheck::Valid)
    }
}

#[async_trait]
impl Senders for UserList {
    async fn may_send_as(&self, user: &str, mailbox: &Mailbox) -> Check {
        match self.users.get(user) {
            Some(user) if user.may_send_as(mailbox) => Check::Yes,
            Some(_) | None => Check::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{cheap_hash, hash_with};

    async fn verify(users: &UserList, name: &str, password: &str) -> Check {
        users.verify(name, &Secret::new(password.as_bytes())).await
    }

    fn list(lines: &[&str]) -> Result<UserList, UserError> {
        lines.iter().try_fold(UserList::new(), |list, line| list.and(line.parse()?))
    }

    fn user(name: &str, password: &str) -> String {
        let keys = Keys::derive(Hash::Sha256, password, b"salt", 4096).expose();
        format!("{name}: {} {keys}", cheap_hash(password))
    }

    #[tokio::test]
    async fn the_right_password_of_the_right_user() {
        let users = list(&[&user("jo", "right"), &user("al", "other"), "ci: uid=1000"]).unwrap();
        assert_eq!(verify(&users, "jo", "right").await, Check::Yes);
        assert_eq!(verify(&users, "al", "other").await, Check::Yes);
        for (name, password) in
            [("jo", "other"), ("al", "right"), ("JO", "right"), ("eve", "right"), ("jo", ""), ("ci", "right")]
        {
            assert_eq!(verify(&users, name, password).await, Check::No, "{name} {password}");
        }
        assert_eq!(verify(&UserList::new(), "jo", "right").await, Check::No);
    }

    #[tokio::test]
    async fn a_token_is_its_users_until_there_is_another() {
        let (jo, token) = User::new("jo").unwrap().with_new_token().unwrap();
        let (al, other) = User::new("al").unwrap().with_new_token().unwrap();
        let ask = async |users: &UserList, token: &Secret| users.owner(&Bearer::new("jo", token).unwrap()).await;
        let users = list(&[&jo.expose(), &al.expose()]).unwrap();
        assert!(users.has_tokens() && !users.has_passwords());
        assert_eq!(ask(&users, &token).await, TokenCheck::Valid("jo".into()));
        assert_eq!(ask(&users, &other).await, TokenCheck::Valid("al".into()), "the mechanism asks who it is to be");
        assert_eq!(ask(&users, &Secret::new(*b"guess")).await, TokenCheck::Invalid);
        let text = String::from_utf8(token.expose().to_vec()).unwrap();
        assert!(text.len() == 43 && !jo.expose().contains(&text), "{}", jo.expose());

        let (jo, new) = jo.with_new_token().unwrap();
        let users = list(&[&jo.expose()]).unwrap();
        assert_eq!(ask(&users, &token).await, TokenCheck::Invalid);
        assert_eq!(ask(&users, &new).await, TokenCheck::Valid("jo".into()));
        assert!(!list(&[&jo.clone().without_token().expose()]).unwrap().has_tokens());
        let twin = jo.expose().replacen("jo", "eve", 1);
        assert_eq!(list(&[&jo.expose(), &twin]).unwrap_err(), UserError::Shared("jo".into(), "eve".into()));
    }

    #[tokio::test]
    async fn a_password_is_hashed_when_it_is_added() {
        let users = UserList::new().with("jo", &Secret::new(*b"right")).unwrap();
        assert_eq!(verify(&users, "jo", "right").await, Check::Yes);
        assert!(!format!("{users:?}").contains("jo"));
        let same = UserList::new().with("jo", &Secret::new("\u{2168}")).unwrap();
        assert_eq!(verify(&same, "jo", "IX").await, Check::Yes, "one spelling");
    }

    #[tokio::test]
    async fn nobody_is_the_stand_in() {
        let users = list(&[&user("*", "right"), &user("jo", "right")]).unwrap();
        assert_eq!(users.len(), 1);
        assert_eq!(verify(&users, "*", "right").await, Check::No);
        let keys = users.keys(Hash::Sha256, "*").await.unwrap();
        assert_ne!(Some(&keys), user("*", "right").parse::<User>().unwrap().keys(Hash::Sha256));
        assert_eq!(list(&["*:", "*:"]).unwrap_err(), UserError::Twice("*".into()));
    }

    /// How much work a call makes. No clock is asked: a busy machine would answer anything.
    async fn work<T>(users: &UserList, call: impl Future<Output = T>) -> (usize, usize) {
        let now = || (users.work.hashes.load(Ordering::Relaxed), users.work.decoys.load(Ordering::Relaxed));
        let before = now();
        call.await;
        let after = now();
        (after.0 - before.0, after.1 - before.1)
    }

    #[tokio::test]
    async fn an_unknown_user_costs_as_much_as_a_wrong_password() {
        for lines in [vec![user("jo", "right")], vec![user("jo", "right"), user("*", "x")]] {
            let lines: Vec<&str> = lines.iter().map(String::as_str).chain(["ci: uid=1000"]).collect();
            let users = list(&lines).unwrap();
            for name in ["jo", "nobody", "ci", "*"] {
                assert_eq!(work(&users, verify(&users, name, "wrong")).await, (1, 0), "{name}");
                assert_eq!(work(&users, users.keys(Hash::Sha256, name)).await, (0, 1), "{name}");
            }
        }
    }

    #[tokio::test]
    async fn what_scram_shows_does_not_tell_who_exists() {
        let users = list(&[&user("*", "x"), &user("jo", "right")]).unwrap();
        let again = list(&[&user("jo", "right")]).unwrap();
        let (jo, nobody) =
            (users.keys(Hash::Sha256, "jo").await.unwrap(), users.keys(Hash::Sha256, "no").await.unwrap());
        assert_eq!(jo.iterations(), nobody.iterations());
        assert_eq!(nobody, users.keys(Hash::Sha256, "no").await.unwrap(), "a salt that stays");
        assert_ne!(nobody, users.keys(Hash::Sha256, "none").await.unwrap());
        assert_ne!(nobody, again.keys(Hash::Sha256, "no").await.unwrap(), "another file, another secret");
        assert!(users.has_keys(Hash::Sha256) && !users.has_keys(Hash::Sha1));
        let mixed = list(&[&user("jo", "right"), &format!("al: {}", cheap_hash("x"))]).unwrap();
        assert!(!mixed.has_keys(Hash::Sha256));
    }

    #[test]
    fn cram_md5_is_for_all_or_nobody() {
        let (jo, al) = (format!("{} CRAM-MD5$cmlnaHQ=", user("jo", "right")), user("al", "other"));
        assert!(list(&[&jo, "ci: uid=1000"]).unwrap().has_secrets());
        assert!(list(&["jo: CRAM-MD5$cmlnaHQ="]).unwrap().has_secrets());
        assert!(!list(&[&jo, &al]).unwrap().has_secrets(), "it would lock al out");
        assert!(!list(&["ci: uid=1000"]).unwrap().has_secrets());
        assert!(!UserList::new().has_secrets());
    }

    #[tokio::test]
    async fn more_checks_than_cpus_are_put_off() {
        let mut users = list(&[&format!("jo:{}", hash_with("right", 64 * 1024, 2))]).unwrap();
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

    #[tokio::test]
    async fn names_and_proofs_belong_to_one_user() {
        let jo = user("jo", "right");
        assert_eq!(list(&[&jo, &jo]).unwrap_err(), UserError::Twice("jo".into()));
        for proof in ["uid=7", "cert=jo@example.org", &format!("key={}", "07".repeat(32))] {
            let (one, two) = (format!("jo: {proof}"), format!("al: {proof}"));
            let shared = UserError::Shared("jo".into(), "al".into());
            assert_eq!(list(&[&one, &two]).unwrap_err(), shared);
        }
        let users = list(&["jo: cert=jo@EXAMPLE.org uid=7"]).unwrap();
        let of = async |credential| users.user_of(credential).await.unwrap();
        assert_eq!(of(Credential::Mailbox("jo@example.ORG")).await.as_deref(), Some("jo"));
        assert_eq!(of(Credential::Mailbox("JO@example.org")).await, None);
        assert_eq!(of(Credential::Mailbox("not an address")).await, None);
        assert_eq!(of(Credential::Uid(7)).await.as_deref(), Some("jo"));
        assert_eq!(of(Credential::Uid(8)).await, None);
    }

    #[tokio::test]
    async fn addresses_are_the_users_own() {
        let users = list(&["jo: jo@example.org @team.example"]).unwrap();
        for (user, mailbox, check) in [
            ("jo", "jo@example.org", Check::Yes),
            ("jo", "Jo@EXAMPLE.org", Check::Yes),
            ("jo", "anybody@team.example", Check::Yes),
            ("jo", "al@example.org", Check::No),
            ("jo", "jo@sub.team.example", Check::No),
            ("al", "jo@example.org", Check::No),
        ] {
            assert_eq!(users.may_send_as(user, &Mailbox::new(mailbox).unwrap()).await, check, "{user} {mailbox}");
        }
    }
}
