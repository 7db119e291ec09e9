//! A notice that is owed as soon as a message is stored: that an alias was expanded (RFC 3461 §5.2.7.3 (c)).
//!
//! It is owed for a recipient like any other, which is stored in the same commit, and settled without asking anybody: so
//! it is as durable as all notices are, and made once.

use std::fmt;

use smtp_core::extension::Notify;
use smtp_core::types::{Invalid, Parameter, Rcpt};

use crate::job::Job;

/// Marks such a recipient. No extension has this keyword, so that no client can say it.
struct Expanded;

impl Parameter for Expanded {
    const KEYWORD: &'static str = "X-EXPANDED";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        if value.is_none() { Ok(Self) } else { Err(Invalid::new(Self::KEYWORD, "it stands alone")) }
    }

    fn write_value(&self, _: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}

/// The recipient for which the notice about `alias` is owed; `None` if it asks for none.
pub(crate) fn owed(alias: &Rcpt) -> Option<Rcpt> {
    if !alias.parameters.get::<Notify>()?.success {
        return None;
    }
    // Of this recipient nothing else is ever told.
    let only = Notify { success: true, ..Notify::NEVER };
    let parameters = alias.parameters.with(&only).and_then(|only| only.with(&Expanded)).ok()?;
    Some(Rcpt { to: alias.to.clone(), parameters })
}

/// True if all that there is to do is to write the notice, whatever next hop the job has by now.
pub(crate) fn is_job(job: &Job) -> bool {
    job.recipients.iter().any(|recipient| is_owed(&recipient.rcpt))
}

/// True if the recipient stands for a notice.
pub(crate) fn is_owed(rcpt: &Rcpt) -> bool {
    rcpt.parameters.get::<Expanded>().is_some()
}
