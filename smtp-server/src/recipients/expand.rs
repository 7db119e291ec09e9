//! From the address that was written to, by way of aliases, to the addresses that get the mail.

use std::collections::HashSet;

use smtp_core::types::{ForwardPath, Mailbox};

use super::aliases::{Alias, AliasError, Aliases, Meaning, Target};
use super::mailboxes::{Found, Mailboxes};
use crate::delivery::Invocation;
use crate::name;

/// How many aliases may stand for one another in a row.
const DEPTH_MAX: usize = 10;
/// How many addresses one may come to, those on the way included.
const ADDRESSES_MAX: usize = 1_000;

/// Why an address cannot be expanded. [`Mailboxes::with_aliases`] finds it out beforehand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// Aliases go round in circles.
    #[error("it stands for itself, by way of line {0}")]
    Circle(usize),
    /// More than 10 aliases in a row.
    #[error("more than {DEPTH_MAX} aliases in a row")]
    TooDeep,
    /// More than 1,000 addresses.
    #[error("more than {ADDRESSES_MAX} addresses")]
    TooMany,
    /// A target of a local domain that is neither mailbox nor alias.
    #[error("{0} is no mailbox here, and no alias")]
    Nobody(String),
}

/// An alias whose mail does not end in a mailbox here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// Where the alias stands in its file, from 1.
    pub line: usize,
    /// The address, or the command with its `|`.
    pub to: String,
}

impl Mailboxes {
    /// These, with aliases. Call it last: all of them are checked against the domains and mailboxes that there are.
    ///
    /// # Errors
    /// [`AliasError::Line`] for an alias in a domain that is not local, one that goes round in circles, one of more than
    /// 10 in a row or 1,000 addresses, a target that is no mailbox, and for `@domain` where every local part is a mailbox.
    pub fn with_aliases(mut self, aliases: Aliases) -> Result<Self, AliasError> {
        if aliases.has_rest() && !self.is_listed() {
            let line =
                aliases.in_domains().filter(|(domain, alias)| is_rest(&aliases, domain, alias)).map(|(_, a)| a.line);
            let why = "every name is a mailbox of its own already; with a list of mailboxes an alias takes the rest";
            return Err(AliasError::at(line.min().unwrap_or(1), why));
        }
        self.set_aliases(aliases);
        let everywhere = self.aliases().everywhere();
        let everywhere = everywhere.flat_map(|alias| self.local_domains().map(move |domain| (domain, alias)));
        for (domain, alias) in self.aliases().in_domains().chain(everywhere) {
            if !self.local_domains().any(|local| local == domain) {
                return Err(AliasError::at(alias.line, format!("{domain} is not a local domain")));
            }
            Walk::new(&self)
                .alias(domain, alias, None)
                .map_err(|why| AliasError::at(alias.line, format!("in {domain}: {why}")))?;
        }
        Ok(self)
    }

    /// The addresses that mail to this one goes to, each once: of mailboxes here, of programs, and elsewhere. An address
    /// that is no alias goes to itself.
    ///
    /// # Errors
    /// [`ExpandError`], which the checks of [`Mailboxes::with_aliases`] leave no room for.
    pub fn expand(&self, to: &ForwardPath) -> Result<Vec<ForwardPath>, ExpandError> {
        if !self.is_alias(to) {
            return Ok(vec![to.clone()]);
        }
        let mut walk = Walk::new(self);
        walk.address(to.clone())?;
        Ok(walk.out)
    }

    /// True if the address stands for others.
    #[must_use]
    pub fn is_alias(&self, to: &ForwardPath) -> bool {
        !self.aliases().is_empty()
            && matches!(self.lookup(to), Some((_, Found::Alias(alias))) if matches!(alias.meaning, Meaning::Addresses(_)))
    }

    /// The programs that aliases stand for.
    pub fn programs(&self) -> impl Iterator<Item = &Invocation> {
        self.aliases().all().filter_map(|alias| match &alias.meaning {
            Meaning::Program(invocation) => Some(&**invocation),
            Meaning::Addresses(_) => None,
        })
    }

    /// The first alias whose mail goes elsewhere or to a program, for which there has to be a queue.
    #[must_use]
    pub fn elsewhere(&self) -> Option<Elsewhere> {
        let found = self.aliases().all().filter_map(|alias| {
            let to = match &alias.meaning {
                Meaning::Program(invocation) => format!("|{invocation}"),
                Meaning::Addresses(targets) => targets.iter().find_map(|target| match target {
                    Target::Mailbox(mailbox) if !self.is_local(&mailbox.clone().into()) => Some(mailbox.to_string()),
                    Target::Mailbox(_) | Target::Here(_) => None,
                })?,
            };
            Some(Elsewhere { line: alias.line, to })
        });
        found.min_by_key(|elsewhere| elsewhere.line)
    }
}

fn is_rest(aliases: &Aliases, domain: &str, alias: &Alias) -> bool {
    aliases.rest(domain).is_some_and(|rest| rest.line == alias.line)
}

/// One expansion under way.
struct Walk<'a> {
    mailboxes: &'a Mailboxes,
    /// The aliases that led here, each by its domain and line.
    path: Vec<(Box<str>, usize)>,
    /// Those that have been followed.
    followed: HashSet<(Box<str>, usize)>,
    /// What is in `out`, as it compares.
    seen: HashSet<String>,
    out: Vec<ForwardPath>,
}

impl<'a> Walk<'a> {
    fn new(mailboxes: &'a Mailboxes) -> Self {
        Self { mailboxes, path: Vec::new(), followed: HashSet::new(), seen: HashSet::new(), out: Vec::new() }
    }

    fn address(&mut self, to: ForwardPath) -> Result<(), ExpandError> {
        match self.mailboxes.lookup(&to) {
            Some((domain, Found::Alias(alias))) => self.alias(domain, alias, Some(to)),
            Some((_, Found::Nobody)) => Err(nobody(&to)),
            Some((_, Found::Mailbox(_))) | None => self.put(to),
        }
    }

    /// Follows an alias that was come to by the address `to`; `None` where it is only checked.
    fn alias(&mut self, domain: &str, alias: &Alias, to: Option<ForwardPath>) -> Result<(), ExpandError> {
        let Meaning::Addresses(targets) = &alias.meaning else { return to.map_or(Ok(()), |to| self.put(to)) };
        let key = (Box::from(domain), alias.line);
        if self.path.last() == Some(&key) {
            // Among its own targets it is the mailbox.
            return match to {
                Some(to) if self.mailboxes.place_of(&to).is_none() => Err(nobody(&to)),
                Some(to) => self.put(to),
                None => Ok(()),
            };
        }
        if self.path.contains(&key) {
            return Err(ExpandError::Circle(alias.line));
        }
        if self.path.len() >= DEPTH_MAX {
            return Err(ExpandError::TooDeep);
        }
        if !self.followed.insert(key.clone()) {
            return Ok(());
        }
        self.path.push(key);
        for target in targets {
            let mailbox = match target {
                Target::Mailbox(mailbox) => mailbox.clone(),
                Target::Here(local) => {
                    let text = format!("{local}@{domain}");
                    Mailbox::new(&text).map_err(|_| ExpandError::Nobody(text))?
                }
            };
            self.address(mailbox.into())?;
        }
        self.path.pop();
        Ok(())
    }

    fn put(&mut self, to: ForwardPath) -> Result<(), ExpandError> {
        if self.seen.insert(as_it_compares(&to, self.mailboxes)) {
            if self.seen.len() + self.followed.len() > ADDRESSES_MAX {
                return Err(ExpandError::TooMany);
            }
            self.out.push(to);
        }
        Ok(())
    }
}

/// Two addresses are one if this is the same. A local part elsewhere is nobody's business here, nor is its case.
pub(crate) fn as_it_compares(to: &ForwardPath, mailboxes: &Mailboxes) -> String {
    let ForwardPath::Mailbox(mailbox) = to else { return "postmaster".into() };
    let host = name::domain(mailbox.host()).unwrap_or_else(|| mailbox.host().into());
    match mailboxes.is_local(to) {
        true => format!("{}@{host}", mailbox.local_name().to_lowercase()),
        false => format!("{}@{host}", mailbox.local_part()),
    }
}

fn nobody(to: &ForwardPath) -> ExpandError {
    ExpandError::Nobody(to.mailbox().map_or_else(|| "postmaster".into(), ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ask, rcpt, remote_session};
    use smtp_core::service::Verdict;
    use std::fmt::Write as _;

    fn listed(list: &[&str]) -> Mailboxes {
        let list: Vec<Mailbox> = list.iter().map(|mailbox| mailbox.parse().unwrap()).collect();
        let mailboxes = Mailboxes::new(&"example.org".parse().unwrap()).unwrap();
        let mailboxes = mailboxes.and(&"two.example".parse().unwrap()).unwrap().only(&list).unwrap();
        mailboxes.with_separator(Some('+')).unwrap()
    }

    fn with(text: &str) -> Result<Mailboxes, AliasError> {
        listed(&["jo@example.org", "amy@example.org", "amy@two.example"]).with_aliases(Aliases::parse(text).unwrap())
    }

    fn expanded(mailboxes: &Mailboxes, to: &str) -> Vec<String> {
        let all = mailboxes.expand(&to.parse().unwrap()).unwrap();
        all.iter().map(|to| to.mailbox().map_or("postmaster".into(), ToString::to_string)).collect()
    }

    const FILE: &str = "
postmaster: amy
staff: jo@example.org, amy, x@elsewhere.example, JO@EXAMPLE.org
all: staff, amy, x@elsewhere.example, X@elsewhere.example, run
jo@example.org: jo, jo+copy, jo@elsewhere.example
@two.example: staff
run: |/bin/cat {user}
";

    #[tokio::test]
    async fn aliases_lead_to_addresses_each_once() {
        let mut mailboxes = with(FILE).unwrap();
        let jo = ["jo@example.org", "jo+copy@example.org", "jo@elsewhere.example"];
        assert_eq!(expanded(&mailboxes, "<Jo@example.org>"), jo);
        assert_eq!(expanded(&mailboxes, "<jo+x@example.org>"), jo, "a tag is not passed on");
        let staff = [&jo[..], &["amy@example.org", "x@elsewhere.example"]].concat();
        assert_eq!(expanded(&mailboxes, "<staff@example.org>"), staff);
        let all = [&staff[..], &["X@elsewhere.example", "run@example.org"]].concat();
        assert_eq!(expanded(&mailboxes, "<ALL+tag@example.org>"), all);
        assert_eq!(expanded(&mailboxes, "<postmaster>"), ["amy@example.org"]);
        assert_eq!(expanded(&mailboxes, "<Postmaster@two.example>"), ["amy@two.example"]);
        let rest = [&jo[..], &["amy@two.example", "x@elsewhere.example"]].concat();
        assert_eq!(expanded(&mailboxes, "<anybody@two.example>"), rest);
        // What is no alias is what it was.
        for to in ["run@example.org", "run+tag@example.org", "amy@two.example", "x@elsewhere.example"] {
            assert_eq!(expanded(&mailboxes, &format!("<{to}>")), [to]);
        }
        assert!(mailboxes.program_of(&"<run+tag@example.org>".parse().unwrap()).is_some());
        assert!(mailboxes.program_of(&"<amy@example.org>".parse().unwrap()).is_none());
        assert_eq!(mailboxes.elsewhere(), Some(Elsewhere { line: 3, to: "x@elsewhere.example".into() }));

        let session = remote_session("192.0.2.1:4000");
        for to in ["<staff@example.org>", "<anybody@two.example>", "<run+x@two.example>", "<postmaster>"] {
            assert_eq!(ask(&mut mailboxes, &session, rcpt(to)).await, Verdict::Proceed, "{to}");
        }
        assert_code!(ask(&mut mailboxes, &session, rcpt("<nobody@example.org>")).await, 550, "5.1.1");
        assert_code!(ask(&mut mailboxes, &session, rcpt("<x@elsewhere.example>")).await, 550, "5.7.1");
        // The mailbox of an alias that names itself, and none for the others.
        let place = |to: &str| mailboxes.place_of(&to.parse().unwrap()).map(|(_, user)| user);
        assert_eq!(place("<jo+copy@example.org>").as_deref(), Some("jo"));
        assert_eq!(place("<staff@example.org>"), None);
    }

    #[test]
    fn what_cannot_work_is_told_at_the_start() {
        for (text, part) in [
            ("a: b\nb: c\nc: a\n", "stands for itself"),
            ("a: a", "a@"),
            ("a: amy+x, nobody", "nobody@"),
            ("a: jo", "in two.example: jo@two.example is no mailbox"),
            ("a@example.org: jo@two.example", "jo@two.example is no mailbox"),
            ("a@other.example: jo", "other.example is not a local domain"),
            ("@other.example: jo@example.org", "not a local domain"),
            ("@example.org: someone", "someone@example.org is no mailbox"),
        ] {
            let error = with(text).map(drop).unwrap_err().to_string();
            assert!(error.starts_with("line ") && error.contains(part), "{text:?}: {error}");
        }
        let unlisted = Mailboxes::new(&"example.org".parse().unwrap()).unwrap();
        let rest = Aliases::parse("a: b\n@example.org: jo").unwrap();
        let error = unlisted.clone().with_aliases(rest).map(drop).unwrap_err().to_string();
        assert!(error.starts_with("line 2: every name is a mailbox"), "{error}");
        let itself = unlisted.with_aliases(Aliases::parse("a: a, b@x.example").unwrap()).unwrap();
        assert_eq!(expanded(&itself, "<a@example.org>"), ["a@example.org", "b@x.example"]);
    }

    #[test]
    fn depth_and_number_are_limited() {
        let chain = |n: usize| {
            (0..n).fold(String::new(), |mut text, i| {
                let _ = writeln!(text, "a{i}: {}", if i + 1 == n { "amy".into() } else { format!("a{}", i + 1) });
                text
            })
        };
        assert_eq!(expanded(&with(&chain(10)).unwrap(), "<a0@example.org>"), ["amy@example.org"]);
        assert!(with(&chain(11)).map(drop).unwrap_err().to_string().contains("more than 10 aliases in a row"));
        let wide = |n: usize| format!("a: {}", (0..n).map(|i| format!("u{i}@x.example")).collect::<Vec<_>>().join(","));
        assert_eq!(expanded(&with(&wide(999)).unwrap(), "<a@example.org>").len(), 999);
        assert!(with(&wide(1_000)).map(drop).unwrap_err().to_string().contains("more than 1000 addresses"));
    }
}
