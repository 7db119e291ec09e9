//! Who takes responsibility for a message, and on what ground: the types that stand between content and a 2yz.
//!
//! No 2yz leaves after content without a [`Receipt`]. Every receipt consumes a [`Complete`], which only reading the
//! body to its end yields, and names its claim. So a delivery that forgets to store, or stores half a message, does
//! not compile or cannot answer 250:
//!
//! ```compile_fail
//! # use smtp_core::acceptance::{Complete, Receipt};
//! let receipt = Receipt::stored(Complete { _private: () }); // only the end of a body makes one
//! ```
//! ```compile_fail
//! # use smtp_core::{acceptance::Outcome, types::Reply};
//! let yes = Outcome::all(Ok(Reply::fixed(250, (2, 0, 0), "fine")), 1); // a reply is not a receipt
//! ```
//! ```compile_fail
//! # use smtp_core::acceptance::{Complete, Receipt};
//! fn twice(complete: Complete) -> [Receipt; 2] {
//!     [Receipt::stored(complete), Receipt::discarded(complete)] // one body, one claim
//! }
//! ```

use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;

use crate::types::{AcceptedReply, EnhancedCode, Refusal, Reply};

/// Proof that a message's content was read to its end, whole and well formed.
#[derive(Debug)]
pub struct Complete {
    _private: (),
}

impl Complete {
    #[cfg(feature = "std")]
    pub(crate) const fn new() -> Self {
        Self { _private: () }
    }
}

/// On what ground a message was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is on stable storage: it survives a power cut.
    Stored,
    /// The next hop answered 2yz; here is its reply.
    Relayed(AcceptedReply),
    /// It was thrown away on purpose, as a test sink does.
    Discarded,
}

/// What the sender asked for and a relay could not pass on, because the next hop does not offer it. Somebody may have to
/// tell the sender: a "relayed" notice in the place of a "delivered" one (RFC 3461 §5.2.2, RFC 2852 §4.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Omitted {
    /// A notice of success was asked for (NOTIFY=SUCCESS), and nobody further on will send it.
    pub dsn: bool,
    /// A deadline was set (BY, mode N), and nobody further on watches it.
    pub deliver_by: bool,
    /// The message has a priority (MT-PRIORITY), and nobody further on knows.
    pub priority: bool,
}

impl Omitted {
    /// Nothing.
    pub const NOTHING: Self = Self { dsn: false, deliver_by: false, priority: false };
    /// A notice of success.
    pub const DSN: Self = Self { dsn: true, ..Self::NOTHING };
    /// A deadline.
    pub const DELIVER_BY: Self = Self { deliver_by: true, ..Self::NOTHING };
    /// A priority.
    pub const PRIORITY: Self = Self { priority: true, ..Self::NOTHING };

    /// This and `other`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            dsn: self.dsn || other.dsn,
            deliver_by: self.deliver_by || other.deliver_by,
            priority: self.priority || other.priority,
        }
    }
}

/// An acceptance, with its ground and the text for the 250.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    claim: Claim,
    text: Option<Cow<'static, str>>,
    omitted: Omitted,
}

impl Receipt {
    /// The message is on stable storage. Whoever calls this promises that it survives a power cut.
    #[must_use]
    pub fn stored(complete: Complete) -> Self {
        Self::of(complete, Claim::Stored)
    }

    /// The next hop took it and said so.
    #[must_use]
    pub fn relayed(complete: Complete, reply: AcceptedReply) -> Self {
        Self::of(complete, Claim::Relayed(reply))
    }

    /// The message was thrown away on purpose.
    #[must_use]
    pub fn discarded(complete: Complete) -> Self {
        Self::of(complete, Claim::Discarded)
    }

    fn of(complete: Complete, claim: Claim) -> Self {
        let Complete { _private: () } = complete;
        Self { claim, text: None, omitted: Omitted::NOTHING }
    }

    /// A receipt for another recipient of the same content, whom the next hop took with a reply of its own.
    #[must_use]
    pub fn relayed_too(&self, reply: AcceptedReply) -> Self {
        Self { claim: Claim::Relayed(reply), text: None, omitted: Omitted::NOTHING }
    }

    /// The same, with what the next hop was not told.
    #[must_use]
    pub const fn omitting(mut self, omitted: Omitted) -> Self {
        self.omitted = omitted;
        self
    }

    /// What the sender asked for and the next hop was not told.
    #[must_use]
    pub const fn omitted(&self) -> Omitted {
        self.omitted
    }

    /// The same with a text for the reply, such as `queued as 42`.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// On what ground.
    #[must_use]
    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The reply that tells the sender.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let fallback = match &self.claim {
            Claim::Stored => "message stored",
            Claim::Relayed(_) => "message relayed",
            Claim::Discarded => "message accepted and discarded",
        };
        let text = self.text.clone().unwrap_or(Cow::Borrowed(fallback));
        Reply::new(crate::types::Code::of(250), Some(EnhancedCode::of(2, 0, 0)), text)
    }
}

/// What a delivery says of each recipient, in the order of the envelope. Partial failure is a normal result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    All(Result<Receipt, Refusal>, usize),
    Each(Vec<Result<Receipt, Refusal>>),
}

impl Outcome {
    /// The same for all `recipients`.
    #[must_use]
    pub const fn all(result: Result<Receipt, Refusal>, recipients: usize) -> Self {
        Self(Kind::All(result, recipients))
    }

    /// One result for each recipient, in the order of the envelope.
    #[must_use]
    pub const fn each(results: Vec<Result<Receipt, Refusal>>) -> Self {
        Self(Kind::Each(results))
    }

    /// How many recipients it speaks of.
    #[must_use]
    pub const fn len(&self) -> usize {
        match &self.0 {
            Kind::All(_, n) => *n,
            Kind::Each(results) => results.len(),
        }
    }

    /// True if it speaks of no recipient.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one refusal that all got, if there is no more to say.
    #[must_use]
    pub fn common_refusal(&self) -> Option<&Refusal> {
        let mut results = self.iter();
        let first = results.next()?.as_ref().err()?;
        results.all(|result| result.as_ref() == Err(first)).then_some(first)
    }

    /// The result of each recipient, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Result<Receipt, Refusal>> {
        (0..self.len()).filter_map(|i| match &self.0 {
            Kind::All(result, _) => Some(result),
            Kind::Each(results) => results.get(i),
        })
    }

    /// The results, one for each recipient, given away.
    #[must_use]
    pub fn into_results(self) -> Vec<Result<Receipt, Refusal>> {
        match self.0 {
            Kind::All(result, n) => vec![result; n],
            Kind::Each(results) => results,
        }
    }

    /// The one answer that plain SMTP has room for.
    ///
    /// All alike: that one. Mixed: a refusal, because only the sender can still act. It is made transient, since a
    /// second copy to those that took it is better than none for those that did not (RFC 5321 §4.2.5 has one reply
    /// for all; RFC 1047 prefers duplicates to loss).
    ///
    /// # Errors
    /// The refusal, if any recipient was refused.
    pub fn single(&self) -> Result<&Receipt, Refusal> {
        let (mut receipt, mut refusal, mut mixed, mut transient) = (None, None, false, None);
        for result in self.iter() {
            match result {
                Ok(r) => {
                    mixed |= refusal.is_some();
                    receipt = receipt.or(Some(r));
                }
                Err(r) => {
                    mixed |= receipt.is_some();
                    refusal = refusal.or(Some(r));
                    if r.is_transient() {
                        transient = transient.or(Some(r));
                    }
                }
            }
        }
        match (receipt, refusal) {
            (Some(receipt), None) => Ok(receipt),
            (_, Some(refusal)) if mixed => Err(transient.cloned().unwrap_or_else(|| {
                Refusal::new(451, (4, 3, 0), alloc::format!("not every recipient could be served: {refusal}"))
            })),
            // A recipient that may still be served outweighs one that never will.
            (_, Some(refusal)) => Err(transient.unwrap_or(refusal).clone()),
            (None, None) => Err(Refusal::fixed(451, (4, 3, 0), "no recipient was served")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yes() -> Result<Receipt, Refusal> {
        Ok(Receipt::stored(Complete::new()))
    }

    fn no(code: u16) -> Result<Receipt, Refusal> {
        Err(Refusal::new(code, (u8::try_from(code / 100).unwrap(), 0, 0), "no"))
    }

    #[test]
    fn alike_is_passed_on_and_mixed_is_asked_again() {
        assert!(Outcome::all(yes(), 3).single().is_ok());
        assert_eq!(Outcome::each(vec![no(550), no(550)]).single().unwrap_err().reply().code().get(), 550);
        assert_eq!(Outcome::each(vec![yes(), no(550)]).single().unwrap_err().reply().code().get(), 451);
        assert_eq!(Outcome::each(vec![no(550), yes()]).single().unwrap_err().reply().code().get(), 451);
        assert_eq!(Outcome::each(vec![yes(), no(452)]).single().unwrap_err().reply().code().get(), 452);
        assert_eq!(Outcome::each(vec![no(550), no(452)]).single().unwrap_err().reply().code().get(), 452);
    }

    #[test]
    fn an_outcome_about_nobody_is_no_acceptance() {
        assert!(Outcome::each(vec![]).single().is_err());
        assert!(Outcome::all(yes(), 0).single().is_err());
    }
}
