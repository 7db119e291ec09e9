//! CRAM-MD5 (RFC 2195).

use core::fmt;

use async_trait::async_trait;
use smtp_core::types::Secret;
use smtp_sasl::cram_md5;

use super::{Credentials, Mechanism, SaslError};

/// CRAM-MD5, for servers that know nothing better. What travels can be guessed against, and the server proves nothing;
/// so it is never chosen unless it is [pinned](Credentials::pinned). It has no way to act as another user.
pub struct CramMd5 {
    user: Box<str>,
    password: Option<Secret>,
}

impl CramMd5 {
    /// Its name.
    pub const NAME: &'static str = "CRAM-MD5";

    /// The exchange for `credentials`.
    #[must_use]
    pub fn new(credentials: &Credentials) -> Self {
        Self { user: credentials.user().into(), password: Some(credentials.secret().clone()) }
    }
}

impl fmt::Debug for CramMd5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAME)
    }
}

#[async_trait]
impl Mechanism for CramMd5 {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    async fn respond(&mut self, challenge: &[u8]) -> Result<Secret, SaslError> {
        let password =
            self.password.take().ok_or(SaslError("CRAM-MD5 has one challenge, and the server has another"))?;
        Ok(cram_md5::response(&self.user, &password, challenge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_example_of_rfc_2195() {
        let mut mechanism = CramMd5::new(&Credentials::new("tim", "tanstaaftanstaaf").unwrap());
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        let response = mechanism.respond(challenge).await.unwrap();
        assert_eq!(response.expose(), b"tim b913a602c7eda7a495b4e6e7334d3890");
        assert!(mechanism.respond(challenge).await.is_err());
    }
}
