//! One user: all the ways to prove to be it, and the addresses it may send as.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use smtp_core::types::{Domain, Mailbox, Secret, printable};
use smtp_sasl::scram::{Hash, ITERATIONS, Keys};
use smtp_sasl::{NoRandomness, prepare, random};

use crate::name;

/// A user, as a [`UserList`](super::UserList) keeps it.
///
/// Its text form is a line of a user file: the name, a colon, and words in any order:
///
/// | word | what it is |
/// |---|---|
/// | `$argon2id$v=19$m=19456,t=2,p=1$…` | the password, for PLAIN and LOGIN |
/// | `SCRAM-SHA-256$65536:…`, `SCRAM-SHA-1$…` | the password's keys for SCRAM (RFC 5803) |
/// | `CRAM-MD5$…` | the password itself in base64, for CRAM-MD5: as good as in clear |
/// | `key=` and 64 hexadecimal digits | a client certificate's key, by the SHA-256 of its SubjectPublicKeyInfo |
/// | `cert=jo@example.org` | a client certificate, by a mail address in it |
/// | `uid=1000` | a local user of the system |
/// | `token=` and 64 hexadecimal digits | a token for OAUTHBEARER and XOAUTH2, by its SHA-256 |
/// | `jo@example.org`, `@example.org` | an address, or all those of a domain, that the user may send as |
///
/// The name `*` is nobody's: its password and keys are what unknown names are checked against, so that they cost the
/// same and, in SCRAM, have salts that stay.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    name: Box<str>,
    pub(super) hash: Option<PasswordHash>,
    scram: Vec<Keys>,
    pub(super) secret: Option<Secret>,
    pub(super) external: Vec<Proof>,
    /// The SHA-256 of the token.
    pub(super) token: Option<[u8; 32]>,
    sends_as: Vec<SendAs>,
}

/// What a channel may vouch for and that is proof of being a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Proof {
    Key([u8; 32]),
    Mailbox(Mailbox),
    Uid(u32),
}

/// Whom a user may send as.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendAs {
    /// One address.
    Mailbox(Mailbox),
    /// Every address of a domain.
    Domain(Domain),
}

/// The name of the entry that unknown names are checked against.
pub(super) const STAND_IN: &str = "*";

impl User {
    /// A user that has no way in yet.
    ///
    /// # Errors
    /// [`UserError::Name`].
    pub fn new(name: &str) -> Result<Self, UserError> {
        if name.is_empty() || name.trim() != name || name.contains(':') || name.starts_with('#') {
            return Err(UserError::Name);
        }
        if name.chars().any(char::is_control) {
            return Err(UserError::Name);
        }
        let (scram, external, sends_as) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { name: name.into(), hash: None, scram, secret: None, external, token: None, sends_as })
    }

    /// The entry for unknown names, with a password that nobody knows. Takes as long as [`User::with_password`].
    ///
    /// # Errors
    /// If there is no randomness or no memory.
    pub fn stand_in() -> Result<Self, UserError> {
        let password = STANDARD.encode(random::<24>()?);
        let user = Self::new(STAND_IN)?.with_password(&Secret::new(password.as_bytes()))?;
        user.with_keys(Hash::Sha1, &Secret::new(password))
    }

    /// The same with this password, for PLAIN, LOGIN and SCRAM-SHA-256; what there was of another one is gone. Hashes:
    /// some tens of milliseconds.
    ///
    /// # Errors
    /// [`UserError::Password`] for one that is empty or not UTF-8, [`UserError::Hash`] if there is no randomness or no
    /// memory.
    pub fn with_password(mut self, password: &Secret) -> Result<Self, UserError> {
        text(password)?;
        self.hash = Some(PasswordHash::new(&hash_password(password)?).map_err(|e| UserError::Hash(e.to_string()))?);
        self.scram.clear();
        self.secret = None;
        self.with_keys(Hash::Sha256, password)
    }

    /// The same with the keys of `password` for SCRAM with `hash`. A client that uses them proves a password that must
    /// be the one of [`User::with_password`]; that is the caller's to see to.
    ///
    /// # Errors
    /// As for [`User::with_password`].
    pub fn with_keys(mut self, hash: Hash, password: &Secret) -> Result<Self, UserError> {
        let keys = Keys::derive(hash, text(password)?, &random::<16>()?, ITERATIONS);
        self.scram.retain(|keys| keys.hash() != hash);
        self.scram.push(keys);
        Ok(self)
    }

    /// The same with the password itself, for CRAM-MD5. Whoever reads the file has it.
    ///
    /// # Errors
    /// [`UserError::Password`] for one that is empty or not UTF-8.
    pub fn with_secret(mut self, password: &Secret) -> Result<Self, UserError> {
        text(password)?;
        self.secret = Some(password.clone());
        Ok(self)
    }

    /// The same, known by a client certificate with this key: the SHA-256 of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn with_certificate_key(mut self, key: [u8; 32]) -> Self {
        self.external.push(Proof::Key(key));
        self
    }

    /// The same, known by a client certificate with this mail address in it.
    #[must_use]
    pub fn with_certificate_mailbox(mut self, mailbox: Mailbox) -> Self {
        self.external.push(Proof::Mailbox(mailbox));
        self
    }

    /// The same, known by this user id on a local socket.
    #[must_use]
    pub fn with_uid(mut self, uid: u32) -> Self {
        self.external.push(Proof::Uid(uid));
        self
    }

    /// The same with a new token, which nobody else has and which no list keeps: 256 random bits. One that there was
    /// before is gone.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn with_new_token(mut self) -> Result<(Self, Secret), UserError> {
        let token = Secret::new(URL_SAFE_NO_PAD.encode(random::<32>()?));
        self.token = Some(digest(&token));
        Ok((self, token))
    }

    /// The same without a token.
    #[must_use]
    pub fn without_token(mut self) -> Self {
        self.token = None;
        self
    }

    /// The same, who may also send as this.
    #[must_use]
    pub fn sending_as(mut self, who: SendAs) -> Self {
        self.sends_as.push(who);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom the user may send as, beside the address that is its name.
    #[must_use]
    pub fn sends_as(&self) -> &[SendAs] {
        &self.sends_as
    }

    /// The keys for SCRAM with `hash`, if there are.
    #[must_use]
    pub fn keys(&self, hash: Hash) -> Option<&Keys> {
        self.scram.iter().find(|keys| keys.hash() == hash)
    }

    /// The mechanisms that the user can log in by, the strongest first.
    #[must_use]
    pub fn mechanisms(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        names.extend(
            [Hash::Sha256, Hash::Sha1].into_iter().filter_map(|hash| Some(self.keys(hash)?.hash().mechanism(false))),
        );
        names.extend((!self.external.is_empty()).then_some("EXTERNAL"));
        names.extend(self.token.iter().flat_map(|_| ["OAUTHBEARER", "XOAUTH2"]));
        names.extend(self.hash.iter().flat_map(|_| ["PLAIN", "LOGIN"]));
        names.extend(self.secret.as_ref().map(|_| "CRAM-MD5"));
        names
    }

    pub(super) fn may_send_as(&self, mailbox: &Mailbox) -> bool {
        self.sends_as.iter().any(|allowed| match allowed {
            SendAs::Mailbox(own) => name::same_mailbox(own, mailbox),
            SendAs::Domain(domain) => name::same_domain(domain.as_str(), mailbox.host()),
        })
    }

    /// The line of a user file, without its end. Holds what must not be shown.
    #[must_use]
    pub fn expose(&self) -> String {
        let mut line = format!("{}:", self.name);
        let mut word = |word: fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = write!(line, " {word}");
        };
        if let Some(hash) = &self.hash {
            word(format_args!("{hash}"));
        }
        for keys in &self.scram {
            word(format_args!("{}", keys.expose()));
        }
        if let Some(secret) = &self.secret {
            word(format_args!("{CRAM_MD5}{}", STANDARD.encode(secret.expose())));
        }
        for proof in &self.external {
            match proof {
                Proof::Key(key) => word(format_args!("key={}", hex(key))),
                Proof::Mailbox(mailbox) => word(format_args!("cert={mailbox}")),
                Proof::Uid(uid) => word(format_args!("uid={uid}")),
            }
        }
        if let Some(token) = &self.token {
            word(format_args!("token={}", hex(token)));
        }
        for who in &self.sends_as {
            word(format_args!("{who}"));
        }
        line
    }

    /// Whether the line says again, when it is read, what the user is.
    ///
    /// # Errors
    /// [`UserError::Unwritable`] if it does not: an address has blanks in it, or reads as another word.
    pub fn check_line(&self) -> Result<(), UserError> {
        let same = |user: &Self| user.expose().parse::<Self>().as_ref() == Ok(user);
        if same(self) {
            return Ok(());
        }
        let alone = Self::new(&self.name)?;
        let address = self.sends_as.iter().find(|who| !same(&alone.clone().sending_as((*who).clone())));
        let mailbox = self.external.iter().find_map(|proof| match proof {
            Proof::Mailbox(mailbox) if !same(&alone.clone().with_certificate_mailbox(mailbox.clone())) => Some(mailbox),
            _ => None,
        });
        let what = address.map(ToString::to_string).or_else(|| mailbox.map(ToString::to_string));
        Err(UserError::Unwritable(printable(what.as_deref().unwrap_or(&self.name).as_bytes())))
    }

    fn read_word(&mut self, word: &str) -> Result<(), UserError> {
        if word.starts_with('$') {
            return once(self.hash.replace(complete_hash(word)?));
        }
        if word.starts_with("SCRAM-") {
            let keys: Keys = word.parse().map_err(|_| UserError::Word)?;
            if self.keys(keys.hash()).is_some() {
                return Err(UserError::Word);
            }
            self.scram.push(keys);
        } else if let Some(secret) = word.strip_prefix(CRAM_MD5) {
            let secret = STANDARD.decode(secret).map_err(|_| UserError::Word)?;
            once(self.secret.replace(Secret::new(secret)))?;
        } else if let Some(key) = word.strip_prefix("key=") {
            self.external.push(Proof::Key(unhex(key).ok_or(UserError::Word)?));
        } else if let Some(token) = word.strip_prefix("token=") {
            once(self.token.replace(unhex(token).ok_or(UserError::Word)?))?;
        } else if let Some(mailbox) = word.strip_prefix("cert=") {
            self.external.push(Proof::Mailbox(Mailbox::new(mailbox).map_err(|_| UserError::Word)?));
        } else if let Some(uid) = word.strip_prefix("uid=") {
            self.external.push(Proof::Uid(uid.parse().map_err(|_| UserError::Word)?));
        } else {
            self.sends_as.push(word.parse()?);
        }
        Ok(())
    }
}

/// What stands before a password in clear.
const CRAM_MD5: &str = "CRAM-MD5$";

impl FromStr for User {
    type Err = UserError;

    fn from_str(line: &str) -> Result<Self, UserError> {
        // Without ':' the line may be a bare password: none of it may appear in an error.
        let (name, words) = line.split_once(':').ok_or(UserError::Name)?;
        let mut user = Self::new(name.trim())?;
        words.split_whitespace().try_for_each(|word| user.read_word(word))?;
        Ok(user)
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("sends_as", &self.sends_as).finish_non_exhaustive()
    }
}

impl FromStr for SendAs {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        match text.strip_prefix('@') {
            Some(domain) => domain.parse().map(Self::Domain).map_err(|_| UserError::Word),
            None => Mailbox::new(text).map(Self::Mailbox).map_err(|_| UserError::Word),
        }
    }
}

impl fmt::Display for SendAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox(mailbox) => mailbox.fmt(f),
            Self::Domain(domain) => write!(f, "@{domain}"),
        }
    }
}

/// Hashes a password for a user file: Argon2id with the default cost of the `argon2` crate (19 MiB, 2 passes, OWASP's
/// first choice) and a random salt, in PHC form. Takes tens of milliseconds.
///
/// # Errors
/// [`UserError::Hash`] if there is no randomness or no memory.
pub fn hash_password(password: &Secret) -> Result<String, UserError> {
    let hash = Argon2::default().hash_password(&prepared(password)).map_err(|e| UserError::Hash(e.to_string()))?;
    Ok(hash.to_string())
}

/// By what a token is known. It is made of chance alone, so that a plain hash tells nobody what it is.
pub(super) fn digest(token: &Secret) -> [u8; 32] {
    Sha256::digest(token.expose()).into()
}

/// The octets of a password that are hashed: one spelling, where it is text.
pub(super) fn prepared(password: &Secret) -> Vec<u8> {
    match std::str::from_utf8(password.expose()) {
        Ok(text) => prepare(text).as_bytes().to_vec(),
        Err(_) => password.expose().to_vec(),
    }
}

fn text(password: &Secret) -> Result<&str, UserError> {
    let text = std::str::from_utf8(password.expose()).map_err(|_| UserError::Password)?;
    // PLAIN separates by NUL.
    if text.is_empty() || text.contains('\0') { Err(UserError::Password) } else { Ok(text) }
}

fn complete_hash(word: &str) -> Result<PasswordHash, UserError> {
    let hash = PasswordHash::new(word).map_err(|e| UserError::Hash(e.to_string()))?;
    if hash.algorithm.as_str() != "argon2id" {
        return Err(UserError::Hash(format!("{} is not argon2id", hash.algorithm)));
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(UserError::Hash("salt or hash is missing".into()));
    }
    Params::try_from(&hash).map_err(|e| UserError::Hash(e.to_string()))?;
    Ok(hash)
}

fn once<T>(earlier: Option<T>) -> Result<(), UserError> {
    if earlier.is_none() { Ok(()) } else { Err(UserError::Word) }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// 64 hexadecimal digits; `:` may stand between the pairs.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut octets = [0; 32];
    for (index, octet) in octets.iter_mut().enumerate() {
        *octet = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(octets)
}

/// Why a user cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The name is empty, has blanks around it, or holds `:` or a control character.
    #[error("a user's name is not empty, does not start with #, and holds neither ':' nor control characters")]
    Name,
    /// The name is in the list already.
    #[error("the user {0} is there twice")]
    Twice(String),
    /// Two users have the same certificate, uid or token.
    #[error("the certificate, uid or token of {0} is that of {1}, too")]
    Shared(String, String),
    /// The password hash cannot be made or used.
    #[error("the password hash is not a complete Argon2id hash in PHC form: {0}")]
    Hash(String),
    /// The password cannot be one.
    #[error("a password is not empty, is UTF-8, and holds no NUL")]
    Password,
    /// An address, or else the user of this name, has no form in a user file.
    #[error("{0} cannot stand in a user file: it has blanks in it, or would be read as something else than an address")]
    Unwritable(String),
    /// A word of the entry is wrong, or there twice. It is not shown: it may be a password.
    #[error(
        "a word behind the name is neither $argon2id$…, SCRAM-SHA-256$…, SCRAM-SHA-1$…, CRAM-MD5$…, key=…, cert=…, \
         uid=…, token=… nor an address, or is there twice"
    )]
    Word,
}

impl From<NoRandomness> for UserError {
    fn from(none: NoRandomness) -> Self {
        Self::Hash(none.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::cheap_hash;

    fn parse(line: &str) -> Result<User, UserError> {
        line.parse()
    }

    #[test]
    fn reads_what_it_writes() {
        let keys = Keys::derive(Hash::Sha256, "right", b"salt", 4096).expose();
        let sha1 = Keys::derive(Hash::Sha1, "right", b"salt", 4096).expose();
        let (hash, key) = (cheap_hash("right"), "0f".repeat(32));
        let line = format!(
            "jo: {hash} {keys} {sha1} CRAM-MD5$cmlnaHQ= key={key} cert=jo@example.org uid=1000 token={key} jo@example.org @example.com"
        );
        let user = parse(&line).unwrap();
        assert_eq!(user.expose(), line);
        let all = ["SCRAM-SHA-256", "SCRAM-SHA-1", "EXTERNAL", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN", "CRAM-MD5"];
        assert_eq!(user.mechanisms(), all);
        let shown = format!("{user:?}");
        assert!(!shown.contains("argon2") && !shown.contains("cmlnaHQ") && !shown.contains("SCRAM"), "{shown}");
        // As the files of old had it.
        assert_eq!(parse(&format!("jo:{hash}")).unwrap().mechanisms(), ["PLAIN", "LOGIN"]);
    }

    #[test]
    fn what_would_read_as_something_else_has_no_line() {
        let zeros = "0".repeat(64);
        for address in [
            "\"a b\"@example.org",
            "uid=5@example.org",
            "$x@example.org",
            "key=1@example.org",
            &format!("key={zeros}@example.org"),
            "cert=a@example.org",
            "token=a@example.org",
            "SCRAM-x@example.org",
            "CRAM-MD5$x@example.org",
        ] {
            let user = User::new("jo").unwrap().sending_as(SendAs::Mailbox(Mailbox::new(address).unwrap()));
            assert_eq!(user.check_line(), Err(UserError::Unwritable(address.into())));
        }
        let mailbox = |text| Mailbox::new(text).unwrap();
        let user = User::new("jo").unwrap().with_certificate_mailbox(mailbox("\"a b\"@example.org"));
        assert_eq!(user.check_line(), Err(UserError::Unwritable("\"a b\"@example.org".into())));
        for address in ["\"a@b\"@example.org", "scram-x@example.org", "a$b@example.org", "a=uid=5@[192.0.2.1]"] {
            let user = User::new("jo").unwrap().sending_as(SendAs::Mailbox(mailbox(address)));
            assert_eq!(user.with_certificate_mailbox(mailbox(address)).check_line(), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_password_is_for_all_but_cram_md5_and_replaces_what_was() {
        let password = Secret::new(*b"right");
        let user = User::new("jo").unwrap().with_secret(&Secret::new(*b"old")).unwrap();
        let user = user.with_uid(7).with_password(&password).unwrap();
        assert_eq!(user.mechanisms(), ["SCRAM-SHA-256", "EXTERNAL", "PLAIN", "LOGIN"]);
        assert_eq!(user.keys(Hash::Sha256).unwrap().iterations(), 65_536);
        assert!(!user.expose().contains("right"));
        assert_eq!(user.expose().parse(), Ok(user));
    }

    #[test]
    fn bad_entries_are_refused_and_show_nothing() {
        let hash = cheap_hash("right");
        for name in ["", " ", "a\tb", "#a"] {
            assert_eq!(parse(&format!("{name}:{hash}")).unwrap_err(), UserError::Name, "{name:?}");
        }
        assert_eq!(parse("hunter2").unwrap_err(), UserError::Name);
        for bad in [
            "$argon2id$v=19$m=8,t=1,p=1",
            &hash.replace("argon2id", "argon2i"),
            &hash.replace("t=1", "t=0"),
            "$1$salt$hash",
        ] {
            assert!(matches!(parse(&format!("jo: {bad}")), Err(UserError::Hash(_))), "{bad}");
        }
        let (keys, zeros) = (Keys::derive(Hash::Sha1, "x", b"salt", 4096).expose(), "0".repeat(63));
        for bad in [
            "hunter2",
            "SCRAM-SHA-256$hunter2",
            "CRAM-MD5$?",
            "key=12",
            "token=12",
            &format!("token={zeros}0 token={zeros}0"),
            &format!("key={zeros}x"),
            "cert=jo",
            "uid=jo",
            "uid=-1",
            "@",
            &format!("{hash} {hash}"),
            &format!("{keys} {keys}"),
        ] {
            let error = parse(&format!("jo: {bad}")).unwrap_err();
            assert!(error == UserError::Word && !error.to_string().contains("hunter2"), "{bad}");
        }
        for bad in [&b""[..], b"a\0b", b"\xff"] {
            let result = User::new("jo").unwrap().with_password(&Secret::new(bad));
            assert_eq!(result, Err(UserError::Password));
        }
    }
}
