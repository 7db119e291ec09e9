//! Mailboxes of local domains get mail here.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use smtp_core::channel::SessionInfo;
use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Command, Domain, ForwardPath, Invalid, Mailbox, Refusal};
use tower_service::Service;

use super::aliases::{Alias, Aliases, Meaning};
use super::quota::Quota;
use crate::delivery::Invocation;
use crate::name::{self, POSTMASTER};

/// Accepts the mailboxes of local domains, and nothing else.
///
/// - `postmaster` exists in every local domain and without one (RFC 5321 §4.5.1).
/// - With [`Mailboxes::with_separator`] mail to `jo+tag` is mail to `jo`, if there is no `jo+tag`.
/// - With [`Mailboxes::with_aliases`] an address can stand for others, or for a program.
/// - Without [`Mailboxes::only`] every other local part exists too, as long as it can be a folder name (up to 200
///   octets) and holds no `%`, `!` or `@`, which old relays took for a route: 550 5.7.1.
/// - An unknown mailbox of a local domain: 550 5.1.1.
/// - A domain of [`Mailboxes::relay_to`] gets mail from everybody; local parts that look like routes excepted, as above.
/// - Any other domain, address literals included: 550 5.7.1, unless [`Mailboxes::relay_for_authenticated`] or
///   [`Mailboxes::relay_for_processes`].
///
/// Domains compare without case and as A-labels (RFC 5890), local parts as the folder names that
/// [`Maildir`](crate::maildir::Maildir) gives them, so without case. With tags, aliases or quotas the Maildir has to know
/// of them: [`Maildir::for_mailboxes`](crate::maildir::Maildir::for_mailboxes). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailboxes(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    /// Each local domain with the folder names of its mailboxes.
    domains: HashMap<Box<str>, HashSet<Box<str>>>,
    /// The domain of a bare Postmaster.
    primary: Box<str>,
    /// What cuts a tag off.
    separator: Option<char>,
    aliases: Aliases,
    quota: Quota,
    /// By domain and folder name.
    quotas: HashMap<(Box<str>, Box<str>), Quota>,
    /// Domains that are not local and get mail all the same.
    relayed: HashSet<Box<str>>,
    listed: bool,
    relay_for_authenticated: bool,
    relay_for_processes: bool,
}

impl Mailboxes {
    /// The mailboxes of `primary`, the domain that a bare `<Postmaster>` belongs to.
    ///
    /// # Errors
    /// [`Invalid`] if the domain is no name under IDNA (RFC 5891).
    pub fn new(primary: &Domain) -> Result<Self, Invalid> {
        let inner = Inner {
            domains: HashMap::new(),
            primary: local_domain(primary)?,
            separator: None,
            aliases: Aliases::default(),
            quota: Quota::default(),
            quotas: HashMap::new(),
            relayed: HashSet::new(),
            listed: false,
            relay_for_authenticated: false,
            relay_for_processes: false,
        };
        Self(Arc::new(inner)).and(primary)
    }

    /// These, and those of `domain`.
    ///
    /// # Errors
    /// [`Invalid`] if the domain is no name under IDNA (RFC 5891).
    pub fn and(mut self, domain: &Domain) -> Result<Self, Invalid> {
        let domain = local_domain(domain)?;
        let inner = Arc::make_mut(&mut self.0);
        inner.domains.entry(domain).or_default().insert(POSTMASTER.into());
        Ok(self)
    }

    /// Of the local domains these mailboxes only, and `postmaster`. Called again, it adds more.
    ///
    /// # Errors
    /// [`Invalid`] for a mailbox outside the local domains, and for one that cannot be a folder name.
    pub fn only<'a>(mut self, mailboxes: impl IntoIterator<Item = &'a Mailbox>) -> Result<Self, Invalid> {
        const WHAT: &str = "local mailbox";
        let inner = Arc::make_mut(&mut self.0);
        inner.listed = true;
        for mailbox in mailboxes {
            let users = name::domain(mailbox.host())
                .and_then(|domain| inner.domains.get_mut(&*domain))
                .ok_or(Invalid::new(WHAT, "its domain has to be one of the local domains, and is not"))?;
            let local = mailbox.local_name();
            let folder = name::folder(&local)
                .ok_or(Invalid::new(WHAT, "its name has to fit into 200 octets on disk, and does not"))?;
            users.insert(folder.into());
        }
        Ok(self)
    }

    /// These, where `jo+tag` is the mailbox `jo` unless there is a mailbox or an alias of the whole name. Default: no
    /// separator.
    ///
    /// # Errors
    /// [`Invalid`] for a separator that is no printable ASCII character between words.
    pub fn with_separator(mut self, separator: Option<char>) -> Result<Self, Invalid> {
        if separator.is_some_and(|c| !c.is_ascii_punctuation() || ROUTE.contains(&c) || matches!(c, '"' | '\\' | '.')) {
            return Err(Invalid::new("separator", "one of #$&'*+-/=?^_`{|}~, such as +"));
        }
        Arc::make_mut(&mut self.0).separator = separator;
        Ok(self)
    }

    /// These, each with a quota of its own size. Default: none. It does not hold for `postmaster`.
    #[must_use]
    pub fn with_quota(mut self, quota: Quota) -> Self {
        Arc::make_mut(&mut self.0).quota = quota;
        self
    }

    /// These, with another quota for one mailbox.
    ///
    /// # Errors
    /// [`Invalid`] for what is no mailbox here.
    pub fn with_quota_of(mut self, mailbox: &Mailbox, quota: Quota) -> Result<Self, Invalid> {
        let place = self.place_of(&ForwardPath::from(mailbox.clone()));
        let (domain, user) = place.ok_or(Invalid::new("quota", "it is for a local mailbox, and this is none"))?;
        Arc::make_mut(&mut self.0).quotas.insert((domain, user), quota);
        Ok(self)
    }

    /// Whether a client that has authenticated may send to any domain, as on a submission port (RFC 6409). Default:
    /// false. An address alone never lets anyone relay, loopback included.
    #[must_use]
    pub fn relay_for_authenticated(mut self, relay: bool) -> Self {
        Arc::make_mut(&mut self.0).relay_for_authenticated = relay;
        self
    }

    /// Whether a process on this machine ([`Peer::is_process`](smtp_core::channel::Peer::is_process)) may send to any domain, as programs do that call
    /// `sendmail`. Default: false. Only for the stack of a Unix socket whose permissions say who may.
    #[must_use]
    pub fn relay_for_processes(mut self, relay: bool) -> Self {
        Arc::make_mut(&mut self.0).relay_for_processes = relay;
        self
    }

    /// These, and any mailbox of `domain`, which is not local: for a host that stands before another one, or in for it.
    ///
    /// # Errors
    /// [`Invalid`] if the domain is no name under IDNA (RFC 5891).
    pub fn relay_to(mut self, domain: &Domain) -> Result<Self, Invalid> {
        let domain =
            name::domain(domain.as_str()).ok_or(Invalid::new("relayed domain", "a name under IDNA (RFC 5891)"))?;
        Arc::make_mut(&mut self.0).relayed.insert(domain.into());
        Ok(self)
    }

    /// True if the address is one of a local domain, whether there is such a mailbox or not, or the bare Postmaster.
    #[must_use]
    pub fn is_local(&self, to: &ForwardPath) -> bool {
        let ForwardPath::Mailbox(mailbox) = to else { return true };
        name::domain(mailbox.host()).is_some_and(|domain| self.0.domains.contains_key(&*domain))
    }

    fn recipient(&self, to: &ForwardPath, session: &SessionInfo) -> Verdict {
        let ForwardPath::Mailbox(mailbox) = to else { return Verdict::Proceed };
        let domain = name::domain(mailbox.host());
        let local = mailbox.local_name();
        let Some(users) = domain.as_ref().and_then(|domain| self.0.domains.get(&**domain)) else {
            let relayed = domain.is_some_and(|domain| self.0.relayed.contains(&*domain));
            let process = session.channel.peer.is_process();
            return if self.0.relay_for_authenticated && session.user().is_some()
                || self.0.relay_for_processes && process
                || relayed && !local.contains(ROUTE)
            {
                Verdict::Proceed
            } else {
                relaying_denied()
            };
        };
        match self.found(domain.as_deref().unwrap_or_default(), users, &local) {
            Found::Nobody if !self.0.listed && local.contains(ROUTE) => relaying_denied(),
            Found::Nobody => no_mailbox(),
            Found::Mailbox(_) | Found::Alias(_) => Verdict::Proceed,
        }
    }

    /// What an address of a local domain is. The whole name goes before the one without its tag, and an alias before a
    /// mailbox.
    fn found(&self, domain: &str, users: &HashSet<Box<str>>, local: &str) -> Found<'_> {
        let inner = &*self.0;
        let Some(folder) = name::folder(local) else { return Found::Nobody };
        if let Some(alias) = inner.aliases.find(domain, &folder) {
            return Found::Alias(alias);
        }
        if users.contains(&*folder) {
            return Found::Mailbox(folder.into());
        }
        let base = self.untagged(local).and_then(name::folder);
        if let Some(base) = &base {
            if let Some(alias) = inner.aliases.find(domain, base) {
                return Found::Alias(alias);
            }
            if users.contains(&**base) {
                return Found::Mailbox((&**base).into());
            }
        }
        if let Some(alias) = inner.aliases.rest(domain) {
            return Found::Alias(alias);
        }
        if inner.listed || local.contains(ROUTE) {
            return Found::Nobody;
        }
        Found::Mailbox(base.unwrap_or(folder).into())
    }

    /// The name before the tag, if there is one.
    fn untagged<'a>(&self, local: &'a str) -> Option<&'a str> {
        let (base, _) = local.split_once(self.0.separator?)?;
        (!base.is_empty()).then_some(base)
    }

    /// What an address is; `None` if its domain is not local.
    pub(super) fn lookup(&self, to: &ForwardPath) -> Option<(&str, Found<'_>)> {
        let (host, local) = match to {
            ForwardPath::Postmaster => (&*self.0.primary, POSTMASTER.into()),
            ForwardPath::Mailbox(mailbox) => (mailbox.host(), mailbox.local_name()),
        };
        let (domain, users) = self.0.domains.get_key_value(&*name::domain(host)?)?;
        Some((domain, self.found(domain, users, &local)))
    }

    /// The folders of the mailbox that mail to this address is put into: domain and user. Aliases are past: what they
    /// stand for has been found already.
    pub(crate) fn place_of(&self, to: &ForwardPath) -> Option<(Box<str>, Box<str>)> {
        let (domain, found) = self.lookup(to)?;
        let user = match found {
            Found::Mailbox(folder) => folder,
            Found::Nobody => return None,
            // One that names itself.
            Found::Alias(_) => {
                let local = to.mailbox().map_or(POSTMASTER.into(), Mailbox::local_name);
                let users = self.0.domains.get(domain)?;
                let known = |name: &str| users.contains(name) || !self.0.listed && !local.contains(ROUTE);
                let base = self.untagged(&local).and_then(name::folder).filter(|base| known(base));
                let whole =
                    name::folder(&local).filter(|whole| users.contains(&**whole) || base.is_none() && known(whole));
                whole.or(base)?.into()
            }
        };
        Some((domain.into(), user))
    }

    /// The program that mail to this address is for, if it is for one.
    #[must_use]
    pub fn program_of(&self, to: &ForwardPath) -> Option<&Arc<Invocation>> {
        if self.0.aliases.is_empty() {
            return None;
        }
        match self.lookup(to)? {
            (_, Found::Alias(alias)) => match &alias.meaning {
                Meaning::Program(invocation) => Some(invocation),
                Meaning::Addresses(_) => None,
            },
            _ => None,
        }
    }

    /// What a mailbox may hold, by its folders.
    pub(crate) fn quota_of(&self, domain: &str, user: &str) -> Quota {
        match self.0.quotas.get(&(domain.into(), user.into())) {
            Some(quota) => *quota,
            None if user == POSTMASTER => Quota::default(),
            None => self.0.quota,
        }
    }

    /// The separator of tags.
    #[must_use]
    pub fn separator(&self) -> Option<char> {
        self.0.separator
    }

    pub(super) fn aliases(&self) -> &Aliases {
        &self.0.aliases
    }

    pub(super) fn set_aliases(&mut self, aliases: Aliases) {
        Arc::make_mut(&mut self.0).aliases = aliases;
    }

    pub(super) fn local_domains(&self) -> impl Iterator<Item = &str> {
        self.0.domains.keys().map(|domain| &**domain)
    }

    pub(super) fn is_listed(&self) -> bool {
        self.0.listed
    }
}

/// What an address of a local domain is.
pub(super) enum Found<'a> {
    /// A mailbox, by its folder.
    Mailbox(Box<str>),
    Alias(&'a Arc<Alias>),
    Nobody,
}

fn local_domain(domain: &Domain) -> Result<Box<str>, Invalid> {
    let name = name::domain(domain.as_str()).ok_or(Invalid::new("local domain", "a name under IDNA (RFC 5891)"))?;
    Ok(name.into())
}

/// What old relays took for a route in a local part.
const ROUTE: [char; 3] = ['%', '!', '@'];

fn relaying_denied() -> Verdict {
    Refusal::fixed(550, (5, 7, 1), "relaying denied").into()
}

fn no_mailbox() -> Verdict {
    Refusal::fixed(550, (5, 1, 1), "no such mailbox here").into()
}

impl Service<Request> for Mailboxes {
    type Response = Verdict;
    type Error = Infallible;
    type Future = Ready<Result<Verdict, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ready(Ok(match &request.command {
            Command::Rcpt(rcpt) => self.recipient(&rcpt.to, &request.session),
            _ => Verdict::Proceed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ask, authenticated, rcpt, remote_session};

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    fn two_domains() -> Mailboxes {
        Mailboxes::new(&domain("Example.org")).unwrap().and(&domain("bücher.example")).unwrap()
    }

    #[tokio::test]
    async fn a_relayed_domain_gets_mail_from_everybody_and_opens_nothing_else() {
        let stranger = remote_session("192.0.2.1:4000");
        let mut mailboxes = two_domains().relay_to(&domain("inside.example")).unwrap();
        assert_eq!(ask(&mut mailboxes, &stranger, rcpt("<jo@INSIDE.example>")).await, Verdict::Proceed);
        for to in [
            "<jo@sub.inside.example>",
            "<jo%x.example@inside.example>",
            "<x.example!jo@inside.example>",
            "<\"jo@x.example\"@inside.example>",
            "<jo@other.example>",
        ] {
            assert_code!(ask(&mut mailboxes, &stranger, rcpt(to)).await, 550, "5.7.1");
        }
        let local = |text: &str| mailboxes.is_local(&ForwardPath::from(text.parse::<Mailbox>().unwrap()));
        assert!(local("jo@EXAMPLE.org") && !local("jo@inside.example") && mailboxes.is_local(&ForwardPath::Postmaster));
    }

    #[tokio::test]
    async fn a_process_may_send_anywhere_where_that_was_said() {
        let peer = smtp_core::channel::Peer::Process { uid: 7, gid: 7, pid: None };
        let channel = smtp_core::channel::ChannelInfo::new("unix", peer);
        let process = Arc::new(SessionInfo::new(1, channel));
        // As one is seen from a user namespace.
        let unknown = Arc::new(SessionInfo::new(1, smtp_core::channel::ChannelInfo::memory("unknown local process")));
        let mut mailboxes = two_domains();
        assert_code!(ask(&mut mailboxes, &process, rcpt("<jo@other.example>")).await, 550, "5.7.1");
        let mut mailboxes = mailboxes.relay_for_processes(true);
        for process in [process, unknown] {
            assert_eq!(ask(&mut mailboxes, &process, rcpt("<jo@other.example>")).await, Verdict::Proceed);
        }
        let neighbour = remote_session("127.0.0.1:4000");
        assert_code!(ask(&mut mailboxes, &neighbour, rcpt("<jo@other.example>")).await, 550, "5.7.1");
    }

    #[tokio::test]
    async fn a_local_domain_is_known_in_any_spelling() {
        let session = remote_session("192.0.2.1:4000");
        let mut mailboxes = two_domains();
        for to in [
            "<a@example.org>",
            "<A@EXAMPLE.ORG>",
            "<a@bücher.example>",
            "<a@BÜCHER.example>",
            "<a@xn--bcher-kva.example>",
            "<\"a b\"@example.org>",
            "<@relay.example:a@example.org>",
        ] {
            assert_eq!(ask(&mut mailboxes, &session, rcpt(to)).await, Verdict::Proceed, "{to}");
        }
    }

    #[tokio::test]
    async fn classic_relay_probes_are_refused() {
        let session = remote_session("192.0.2.1:4000");
        let mut mailboxes = two_domains();
        for to in [
            "<a@other.example>",
            "<a@sub.example.org>",
            "<a@example.org.other.example>",
            "<a%other.example@example.org>",
            "<other.example!a@example.org>",
            "<\"a@other.example\"@example.org>",
            "<\"a%other.example\"@example.org>",
            "<@example.org:a@other.example>",
            "<@example.org,@example.org:a@other.example>",
            "<a@[192.0.2.7]>",
            "<a@[127.0.0.1]>",
            "<a%other.example@[127.0.0.1]>",
            "<a@localhost>",
            "<a@\u{ff0f}example.org>",
        ] {
            assert_code!(ask(&mut mailboxes, &session, rcpt(to)).await, 550, "5.7.1");
        }
    }

    #[tokio::test]
    async fn a_list_knows_its_mailboxes_and_postmaster() {
        let session = remote_session("192.0.2.1:4000");
        let list: Vec<Mailbox> = ["jo@example.org", "a%b@bücher.example"].map(|m| m.parse().unwrap()).into();
        let mut mailboxes = two_domains().only(&list).unwrap();
        for to in [
            "<Jo@example.org>",
            "<a%b@xn--bcher-kva.example>",
            "<postmaster>",
            "<PostMaster@example.org>",
            "<postmaster@BÜCHER.example>",
        ] {
            assert_eq!(ask(&mut mailboxes, &session, rcpt(to)).await, Verdict::Proceed, "{to}");
        }
        for to in [
            "<jo@bücher.example>",
            "<jo+tag@example.org>",
            "<+@example.org>",
            "<\"jo \"@example.org>",
            "<j@example.org>",
        ] {
            assert_code!(ask(&mut mailboxes, &session, rcpt(to)).await, 550, "5.1.1");
        }
    }

    #[tokio::test]
    async fn a_tag_is_cut_off_unless_the_whole_name_is_a_mailbox() {
        let session = remote_session("192.0.2.1:4000");
        let list: Vec<Mailbox> = ["jo@example.org", "a+b@example.org"].map(|m| m.parse().unwrap()).into();
        let mut mailboxes = two_domains().only(&list).unwrap().with_separator(Some('+')).unwrap();
        let place = |mailboxes: &Mailboxes, to: &str| {
            mailboxes.place_of(&to.parse().unwrap()).map(|(domain, user)| format!("{user}@{domain}"))
        };
        for (to, mailbox) in [
            ("<Jo+Tag@example.org>", "jo@example.org"),
            ("<jo+a+b@example.org>", "jo@example.org"),
            ("<jo+@example.org>", "jo@example.org"),
            ("<jo+x%y@example.org>", "jo@example.org"),
            ("<a+b@example.org>", "a+b@example.org"),
            ("<PostMaster+x@bücher.example>", "postmaster@xn--bcher-kva.example"),
            ("<postmaster>", "postmaster@example.org"),
        ] {
            assert_eq!(ask(&mut mailboxes, &session, rcpt(to)).await, Verdict::Proceed, "{to}");
            assert_eq!(place(&mailboxes, to).as_deref(), Some(mailbox), "{to}");
        }
        for to in ["<a@example.org>", "<a+c@example.org>", "<+jo@example.org>", "<jo-x@example.org>"] {
            assert_code!(ask(&mut mailboxes, &session, rcpt(to)).await, 550, "5.1.1");
            assert_eq!(place(&mailboxes, to), None, "{to}");
        }
        let all = two_domains().with_separator(Some('-')).unwrap();
        assert_eq!(place(&all, "<x-y+z@example.org>").as_deref(), Some("x@example.org"));
        assert_eq!(place(&all, "<-x@example.org>").as_deref(), Some("-x@example.org"));
        assert_eq!(place(&all, "<x%y-z@example.org>"), None);
        for bad in ['%', '!', '@', '.', 'x', '"', '\\', ' ', 'é', '\n'] {
            assert!(two_domains().with_separator(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_no_folder_is_no_mailbox() {
        let session = remote_session("192.0.2.1:4000");
        let long = format!("<{}@example.org>", "a".repeat(201));
        assert_code!(ask(&mut two_domains(), &session, rcpt(&long)).await, 550, "5.1.1");
        assert_code!(ask(&mut two_domains(), &session, rcpt("<\"\"@example.org>")).await, 550, "5.1.1");
    }

    #[tokio::test]
    async fn authenticated_clients_relay_only_where_it_is_switched_on() {
        let session = authenticated(&remote_session("192.0.2.1:4000"), "jo");
        let to = || rcpt("<a@other.example>");
        assert_code!(ask(&mut two_domains(), &session, to()).await, 550, "5.7.1");
        let mut relay = two_domains().relay_for_authenticated(true);
        assert_eq!(ask(&mut relay, &session, to()).await, Verdict::Proceed);
        assert_code!(ask(&mut relay, &remote_session("127.0.0.1:4000"), to()).await, 550, "5.7.1");
    }

    #[tokio::test]
    async fn everything_but_recipients_proceeds() {
        let session = remote_session("192.0.2.1:4000");
        for command in [Command::Connect, Command::Data, Command::Rset, Command::Vrfy("x".into()), Command::Quit] {
            assert_eq!(ask(&mut two_domains(), &session, command).await, Verdict::Proceed);
        }
    }

    #[test]
    fn a_list_cannot_name_strangers() {
        let stranger: Mailbox = "a@other.example".parse().unwrap();
        assert!(two_domains().only([&stranger]).is_err());
    }
}
