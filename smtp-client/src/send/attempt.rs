//! What the server has said so far to one transaction.

use smtp_core::service::{Omitted, Outcome, Receipt};
use smtp_core::session::client::{Awaited, Event};
use smtp_core::types::{AcceptedReply, Refusal, Reply, Severity, Verb};

use crate::{Error, Step};

/// The replies to one transaction, as they come.
#[derive(Debug)]
pub(super) struct Attempt {
    recipients: Vec<Recipient>,
    /// Where the next reply to RCPT belongs.
    next_rcpt: usize,
    /// What ended the transaction for all who have no refusal of their own: a refused MAIL, DATA or chunk, a 421. The
    /// first such thing counts; what follows is its echo.
    stopped: Option<Refusal>,
    replies: usize,
    turned_away: bool,
    /// There is a reply to the content for each recipient: LMTP, or PRDR after its 353.
    each: bool,
    /// What the server was not told about the message, and about some of its recipients.
    omitted: Omitted,
    omitted_of: Vec<(usize, Omitted)>,
    /// The last octet of the content was queued.
    pub(super) ended: bool,
}

#[derive(Debug)]
enum Recipient {
    Unasked,
    Refused(Refusal),
    Accepted,
    Final(AcceptedReply),
}

impl Attempt {
    /// `lmtp`: one reply to the content for each recipient.
    pub(super) fn new(recipients: usize, lmtp: bool) -> Self {
        Self {
            recipients: core::iter::repeat_with(|| Recipient::Unasked).take(recipients).collect(),
            next_rcpt: 0,
            stopped: None,
            replies: 0,
            turned_away: false,
            each: lmtp,
            omitted: Omitted::NOTHING,
            omitted_of: Vec::new(),
            ended: false,
        }
    }

    /// An attempt whose `accepted` recipients were asked about before.
    pub(super) fn of_accepted(accepted: usize, lmtp: bool) -> Self {
        let mut attempt = Self::new(accepted, lmtp);
        attempt.recipients.fill_with(|| Recipient::Accepted);
        attempt
    }

    pub(super) fn refuse(&mut self, n: usize, refusal: &Refusal) {
        if let Some(recipient) = self.recipients.get_mut(n) {
            *recipient = Recipient::Refused(refusal.clone());
        }
    }

    pub(super) fn refuse_all(&mut self, refusal: &Refusal) {
        self.recipients.fill_with(|| Recipient::Refused(refusal.clone()));
    }

    /// Remembers what the server is not told.
    pub(super) fn omit(&mut self, all: Omitted, some: Vec<(usize, Omitted)>) {
        (self.omitted, self.omitted_of) = (all, some);
    }

    pub(super) fn is_refused(&self, n: usize) -> bool {
        matches!(self.recipients.get(n), Some(Recipient::Refused(_)))
    }

    /// Nobody is left to be asked about.
    pub(super) fn is_settled(&self) -> bool {
        !self.recipients.iter().any(|r| matches!(r, Recipient::Unasked | Recipient::Accepted))
    }

    pub(super) const fn answered(&self) -> bool {
        self.replies > 0
    }

    /// The server has refused somebody, so that there is an answer to pass on whatever comes.
    pub(super) fn some_refused(&self) -> bool {
        let refused = || self.recipients.iter().any(|r| matches!(r, Recipient::Refused(_)));
        self.answered() && (self.stopped.is_some() || refused())
    }

    /// A 421 came before anything else.
    pub(super) const fn turned_away(&self) -> bool {
        self.turned_away
    }

    /// Somebody was accepted, nothing has stopped the transaction, and the content is still to be sent.
    pub(super) fn wants_content(&self) -> bool {
        !self.ended && self.stopped.is_none() && self.recipients.iter().any(|r| matches!(r, Recipient::Accepted))
    }

    /// True if a refusal, which is also recorded, makes more content pointless.
    pub(super) const fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Somebody's message was taken.
    pub(super) fn has_delivered(&self) -> bool {
        self.recipients.iter().any(|r| matches!(r, Recipient::Final(_)))
    }

    /// Nothing was asked, as it turns out, and nothing sent.
    pub(super) fn forget(&mut self) {
        self.recipients.fill_with(|| Recipient::Unasked);
        (self.stopped, self.replies, self.ended) = (None, 0, false);
    }

    pub(super) fn record(&mut self, Event { to, reply }: Event) {
        self.replies += 1;
        if reply.code().get() == 421 {
            self.turned_away = self.replies == 1;
            // The server ends this session, not the one of whoever gave us the message: 421 must not travel on.
            let (subject, detail) = reply.enhanced().map_or((3, 2), |e| (e.subject(), e.detail()));
            let text = format!("next hop: {reply}");
            self.stop(Refusal::new(451, (4, subject, detail), text));
            return;
        }
        match to {
            Awaited::Command(Verb::Rcpt) => self.rcpt(reply),
            Awaited::Content => self.content(reply),
            // What an earlier transaction left cannot be cleared: that says nothing of this one.
            Awaited::Command(Verb::Rset) if reply.severity() != Severity::Success => {
                self.stop(Error::Refused { step: Step::Reset, reply }.refusal());
            }
            // MAIL, DATA, a chunk.
            Awaited::Command(_) | Awaited::Nothing => {
                if let Ok(refusal) = Refusal::try_from(reply) {
                    self.stop(refusal);
                }
            }
        }
    }

    fn rcpt(&mut self, reply: Reply) {
        while self.is_refused(self.next_rcpt) {
            self.next_rcpt += 1;
        }
        // Without a sender the reply to RCPT says nothing of the recipient.
        if let (None, Some(recipient)) = (&self.stopped, self.recipients.get_mut(self.next_rcpt)) {
            let reply = if self.next_rcpt > 0 { too_many(reply) } else { reply };
            *recipient = Refusal::try_from(reply).map_or(Recipient::Accepted, Recipient::Refused);
        }
        self.next_rcpt += 1;
    }

    fn content(&mut self, reply: Reply) {
        if reply.severity() == Severity::Continue {
            self.each = true;
            return;
        }
        // After a chunk that was refused the message cannot be whole, whatever is said to the last one.
        if self.stopped.is_some() {
            return;
        }
        let result = AcceptedReply::try_from(reply.clone()).map_err(|_| refusal_of(&reply));
        let one = if self.each { 1 } else { usize::MAX };
        let accepted = self.recipients.iter_mut().filter(|r| matches!(r, Recipient::Accepted));
        let mut meant = 0;
        for recipient in accepted.take(one) {
            meant += 1;
            *recipient = match &result {
                Ok(accepted) => Recipient::Final(accepted.clone()),
                Err(refusal) => Recipient::Refused(refusal.clone()),
            };
        }
        match result {
            Err(refusal) if !self.each => self.stop(refusal),
            // PRDR's last word is about the message as a whole: without it nobody has it.
            Err(refusal) if meant == 0 => {
                for recipient in self.recipients.iter_mut().filter(|r| matches!(r, Recipient::Final(_))) {
                    *recipient = Recipient::Refused(refusal.clone());
                }
            }
            Ok(_) | Err(_) => {}
        }
    }

    fn stop(&mut self, refusal: Refusal) {
        self.stopped.get_or_insert(refusal);
    }

    /// The channel broke when some had had their answer.
    pub(super) fn broke(&mut self, error: &Error) {
        self.stop(error.refusal());
    }

    /// The result of each recipient. `receipt` turns a reply into the proof that the content went out whole.
    pub(super) fn outcome(self, mut receipt: impl FnMut(AcceptedReply) -> Option<Receipt>) -> Outcome {
        let unanswered = self.stopped.unwrap_or_else(no_answer);
        let omitted_of = |n: usize| self.omitted_of.iter().find(|(place, _)| *place == n).map(|(_, omitted)| *omitted);
        let results = self.recipients.into_iter().enumerate().map(|(n, recipient)| match recipient {
            Recipient::Refused(refusal) => Err(refusal),
            Recipient::Unasked | Recipient::Accepted => Err(unanswered.clone()),
            Recipient::Final(reply) => {
                let omitted = self.omitted.and(omitted_of(n).unwrap_or_default());
                receipt(reply).map(|receipt| receipt.omitting(omitted)).ok_or_else(no_answer)
            }
        });
        Outcome::each(results.collect())
    }
}

/// RFC 821 had 552 for one recipient too many, and RFC 5321 §4.5.3.1.10 asks clients to take it for a 452, unless the
/// enhanced code shows that something else is meant.
fn too_many(reply: Reply) -> Reply {
    match reply.enhanced().map(|code| (code.subject(), code.detail())) {
        None | Some((5, 3)) if reply.code().get() == 552 => {
            Refusal::new(452, (4, 5, 3), format!("next hop: {reply}")).into_reply()
        }
        _ => reply,
    }
}

fn refusal_of(reply: &Reply) -> Refusal {
    Refusal::try_from(reply.clone()).unwrap_or_else(|_| no_answer())
}

fn no_answer() -> Refusal {
    Refusal::fixed(451, (4, 4, 2), "the next hop gave no answer")
}
