//! More recipients than the server takes in one transaction, by its own word (LIMITS, RFC 9422): several transactions.

use bytes::Bytes;
use smtp_core::extension::TransactionLimits;
use smtp_core::types::{Envelope, Rcpt, Refusal};

use super::{Delivered, Failure, Outgoing, SendOptions, hold};
use crate::Connection;

impl Connection {
    /// One transaction for each group of recipients that the server takes at once.
    ///
    /// If the content cannot be had twice, or the server wants no more messages in this session, the rest is left:
    /// [`Delivered::left`].
    pub(super) async fn deliver_in_groups(
        &mut self,
        envelope: &Envelope,
        groups: Vec<Vec<usize>>,
        content: &mut Outgoing,
        options: &SendOptions,
        eager: bool,
    ) -> Result<Delivered, Failure> {
        if let Err(error) = hold(content, options.split_max, self.options.timeouts.source).await {
            return Err(Failure { error, answered: false, ended: false });
        }
        // A large message waits for its envelope's replies all the same.
        let small = |whole: &Bytes| whole.len() <= options.single_flight_max;
        let eager = eager && content.whole().is_some_and(small);
        let mut all = Delivered::nobody(envelope.recipients.len(), &left_over());
        let mut groups = groups.into_iter();
        for (round, group) in groups.by_ref().enumerate() {
            if round > 0 && (!content.rewind() || !self.is_usable() || self.has_done_its_share()) {
                all.left.extend(group);
                break;
            }
            let recipients = group.iter().filter_map(|n| envelope.recipients.get(*n)).cloned().collect();
            let part = Envelope { mail: envelope.mail.clone(), recipients };
            match self.deliver_one(&part, content, options, eager).await {
                Ok(done) => {
                    let turned_away = done.turned_away;
                    all.take(&group, done);
                    if round == 0 && turned_away {
                        all.turned_away = true;
                        return Ok(all);
                    }
                }
                Err(failure) if round == 0 => return Err(failure),
                // Some have their answer already: it must not be lost.
                Err(failure) => {
                    let refusal = failure.error.refusal();
                    all.take(&group, Delivered::nobody(group.len(), &refusal));
                    break;
                }
            }
        }
        all.left.extend(groups.flatten());
        Ok(all)
    }

    /// The server wants no more messages in this session (RFC 9422 §4.1).
    pub(crate) fn has_done_its_share(&self) -> bool {
        self.capabilities().limits().messages.is_some_and(|most| self.mails >= most)
    }
}

/// The recipients by their places, in groups that the server takes at once; `None` if it takes all.
pub(super) fn groups(limits: TransactionLimits, recipients: &[Rcpt]) -> Option<Vec<Vec<usize>>> {
    let most = |limit: Option<u32>| limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let (recipients_max, domains_max) = (most(limits.recipients), most(limits.recipient_domains));
    if recipients.len() <= recipients_max.min(domains_max) {
        return None;
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (n, rcpt) in recipients.iter().enumerate() {
        let domain = rcpt.to.mailbox().map_or("", |mailbox| mailbox.host());
        let fits = |group: &&mut Group<'_>| {
            let known = group.domains.iter().any(|known| known.eq_ignore_ascii_case(domain));
            group.places.len() < recipients_max && (known || group.domains.len() < domains_max)
        };
        let group = match groups.iter_mut().find(fits) {
            Some(group) => group,
            None => {
                groups.push(Group::default());
                let Some(group) = groups.last_mut() else { continue };
                group
            }
        };
        group.places.push(n);
        if domains_max < usize::MAX && !group.domains.iter().any(|known| known.eq_ignore_ascii_case(domain)) {
            group.domains.push(domain);
        }
    }
    (groups.len() > 1).then(|| groups.into_iter().map(|group| group.places).collect())
}

#[derive(Default)]
struct Group<'a> {
    places: Vec<usize>,
    domains: Vec<&'a str>,
}

fn left_over() -> Refusal {
    Refusal::fixed(452, (4, 5, 3), "the next hop takes no more recipients now; send the rest in another transaction")
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_core::types::Mailbox;

    fn split(limits: &str, recipients: &[&str]) -> Option<Vec<Vec<usize>>> {
        let recipients: Vec<Rcpt> = recipients.iter().map(|r| Rcpt::new(Mailbox::new(r).unwrap())).collect();
        groups(TransactionLimits::parse(limits), &recipients)
    }

    #[test]
    fn by_recipients_and_by_domains() {
        let five = ["a@x.test", "b@y.test", "c@X.test", "d@z.test", "e@y.test"];
        assert_eq!(split("", &five), None);
        assert_eq!(split("RCPTMAX=5", &five), None);
        assert_eq!(split("RCPTMAX=2", &five), Some(vec![vec![0, 1], vec![2, 3], vec![4]]));
        assert_eq!(split("RCPTDOMAINMAX=3", &five), None);
        assert_eq!(split("RCPTDOMAINMAX=1", &five), Some(vec![vec![0, 2], vec![1, 4], vec![3]]));
        assert_eq!(split("RCPTMAX=2 RCPTDOMAINMAX=2", &five), Some(vec![vec![0, 1], vec![2, 3], vec![4]]));
        assert_eq!(split("RCPTMAX=0", &five), None);
    }
}
