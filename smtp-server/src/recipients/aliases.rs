//! Aliases: addresses that stand for others, and the file that names them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smtp_core::types::{Domain, Mailbox};

use crate::delivery::{Invocation, InvocationError};
use crate::name;

/// The largest alias file, in octets.
const FILE_MAX: u64 = 1 << 20;

/// Which addresses stand for which others, as an alias file has it.
///
/// ```text
/// # A comment; a line that begins with a blank goes on with the one before it.
/// postmaster:        jo
/// info:              jo, amy@example.org,
///                    partner@elsewhere.example
/// jo:                jo, jo@elsewhere.example
/// sales@example.org: amy
/// @example.net:      jo@example.org
/// tickets:           |/usr/local/bin/ticket --from {sender} {user}
/// ```
///
/// A name without a domain holds in every local domain, and one with a domain goes before it. A target without a domain
/// is in the domain that was written to. `@domain` takes what nobody else in that domain does. An alias among its own
/// targets is the mailbox of that name. A command ([`Invocation`]) stands alone.
///
/// Names compare as mailboxes do: without case. A file has up to 1 MiB, and not everybody may write to it.
#[derive(Debug, Clone, Default)]
pub struct Aliases {
    /// By domain, then by the folder name of the local part.
    at: HashMap<Box<str>, HashMap<Box<str>, Arc<Alias>>>,
    /// In every domain, by the folder name of the local part.
    everywhere: HashMap<Box<str>, Arc<Alias>>,
    /// By domain: what takes the rest.
    rest: HashMap<Box<str>, Arc<Alias>>,
}

/// One alias.
#[derive(Debug)]
pub(super) struct Alias {
    /// Where it stands in the file, from 1.
    pub(super) line: usize,
    pub(super) meaning: Meaning,
}

/// What an alias stands for.
#[derive(Debug)]
pub(super) enum Meaning {
    Addresses(Vec<Target>),
    Program(Arc<Invocation>),
}

#[derive(Debug)]
pub(super) enum Target {
    /// A local part in its wire form, in the domain that was written to.
    Here(Box<str>),
    Mailbox(Mailbox),
}

/// Why aliases cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AliasError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line is wrong.
    #[error("line {line}: {why}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and the way out.
        why: String,
    },
}

impl AliasError {
    pub(super) fn at(line: usize, why: impl Into<String>) -> Self {
        Self::Line { line, why: why.into() }
    }
}

impl Aliases {
    /// Reads an alias file. Blocks while it reads.
    ///
    /// # Errors
    /// [`AliasError`], with the number of the line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, AliasError> {
        let path = path.as_ref();
        let text = read(path).map_err(|source| AliasError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads the text of an alias file.
    ///
    /// # Errors
    /// [`AliasError::Line`].
    pub fn parse(text: &str) -> Result<Self, AliasError> {
        let mut aliases = Self::default();
        let mut lines = text.lines().enumerate().filter(|(_, line)| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with('#')
        });
        let Some((mut number, first)) = lines.next() else { return Ok(aliases) };
        if first.starts_with([' ', '\t']) {
            return Err(AliasError::at(
                number + 1,
                "it begins with a blank and there is nothing before it to go on with",
            ));
        }
        let mut logical = first.to_owned();
        for (next, line) in lines {
            if line.starts_with([' ', '\t']) {
                logical.push(' ');
                logical.push_str(line.trim());
                continue;
            }
            aliases.add(number + 1, &logical)?;
            (number, logical) = (next, line.to_owned());
        }
        aliases.add(number + 1, &logical)?;
        Ok(aliases)
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at.is_empty() && self.everywhere.is_empty() && self.rest.is_empty()
    }

    fn add(&mut self, line: usize, text: &str) -> Result<(), AliasError> {
        let fault = |why: String| AliasError::at(line, why);
        if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\t') {
            return Err(fault(format!("a control character: {c:?}")));
        }
        let mut parts = outside_quotes(text, ':').into_iter();
        let (name, length) = match parts.next() {
            Some(name) if name.len() < text.len() => (name.trim(), name.len()),
            _ => return Err(fault(format!("{:?} is not `name: target, target`", text.trim()))),
        };
        let meaning = meaning(text.get(length + 1..).unwrap_or_default().trim()).map_err(fault)?;
        let alias = Arc::new(Alias { line, meaning });
        let known_domain = |host: &str| {
            let domain = Domain::new(host).map_err(|error| fault(format!("{name:?}: {error}")))?;
            name::domain(domain.as_str()).map(Box::from).ok_or_else(|| fault(format!("{name:?}: no domain")))
        };
        let folder = |mailbox: &Mailbox| {
            let folder = name::folder(&mailbox.local_name()).map(Box::from);
            folder.ok_or_else(|| fault(format!("{name:?}: a name has to fit into 200 octets on disk")))
        };
        let before = if let Some(host) = name.strip_prefix('@') {
            self.rest.insert(known_domain(host)?, alias)
        } else if outside_quotes(name, '@').len() > 1 {
            let mailbox = Mailbox::new(name).map_err(|error| fault(format!("{name:?}: {error}")))?;
            self.at.entry(known_domain(mailbox.host())?).or_default().insert(folder(&mailbox)?, alias)
        } else {
            self.everywhere.insert(folder(&bare(name).map_err(fault)?)?, alias)
        };
        match before {
            Some(other) => Err(fault(format!("{name:?} is in line {} already; write all targets there", other.line))),
            None => Ok(()),
        }
    }

    /// The alias of this name in this domain, the one that takes the rest left aside.
    pub(super) fn find(&self, domain: &str, folder: &str) -> Option<&Arc<Alias>> {
        self.at.get(domain).and_then(|names| names.get(folder)).or_else(|| self.everywhere.get(folder))
    }

    /// What takes the rest in this domain.
    pub(super) fn rest(&self, domain: &str) -> Option<&Arc<Alias>> {
        self.rest.get(domain)
    }

    /// Those that hold in one domain: its name and the alias.
    pub(super) fn in_domains(&self) -> impl Iterator<Item = (&str, &Arc<Alias>)> {
        let named = self.at.iter().flat_map(|(domain, names)| names.values().map(move |alias| (&**domain, alias)));
        named.chain(self.rest.iter().map(|(domain, alias)| (&**domain, alias)))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Alias>> {
        self.in_domains().map(|(_, alias)| alias).chain(self.everywhere())
    }

    /// Those that hold in every domain.
    pub(super) fn everywhere(&self) -> impl Iterator<Item = &Arc<Alias>> {
        self.everywhere.values()
    }

    /// True if an alias takes the rest of some domain.
    pub(super) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // It names programs that are run.
        if file.metadata()?.permissions().mode() & 0o002 != 0 {
            return Err(io::Error::other("everybody may write to it; chmod o-w it, and look at who has been there"));
        }
    }
    let mut text = String::new();
    if file.take(FILE_MAX + 1).read_to_string(&mut text)? as u64 > FILE_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

fn meaning(text: &str) -> Result<Meaning, String> {
    if let Some(command) = command(text) {
        return match command?.parse::<Invocation>() {
            Ok(invocation) => Ok(Meaning::Program(Arc::new(invocation))),
            Err(error @ InvocationError::Words) => {
                Err(format!("{error}; a command stands alone and to the end of the line"))
            }
            Err(error) => Err(error.to_string()),
        };
    }
    outside_quotes(text, ',')
        .into_iter()
        .map(|target| self::target(target.trim()))
        .collect::<Result<_, _>>()
        .map(Meaning::Addresses)
}

/// The command behind `|`, if it is one; quotes round the whole are taken off, as in `"|/bin/x 'a b'"`.
fn command(text: &str) -> Option<Result<String, String>> {
    if let Some(command) = text.strip_prefix('|') {
        return Some(Ok(command.to_owned()));
    }
    let inner = text.strip_prefix("\"|")?;
    let (mut command, mut rest) = (String::new(), inner.chars());
    loop {
        match rest.next() {
            Some('"') if rest.as_str().is_empty() => return Some(Ok(command)),
            Some('\\') => command.extend(rest.next()),
            Some('"') | None => {
                return Some(Err("a command stands alone: give it a name of its own, and name that".into()));
            }
            Some(c) => command.push(c),
        }
    }
}

fn target(text: &str) -> Result<Target, String> {
    match text.as_bytes() {
        [] => Err("a target is missing: `name: target, target`".into()),
        [b'|', ..] | [b'"', b'|', ..] => Err("a command stands alone: give it a name of its own, and name that".into()),
        [b'/', ..] | [b'"', b'/', ..] => {
            Err(format!("{text:?}: mail is not written to files; name a mailbox or a |command"))
        }
        [b':', ..] => Err(format!("{text:?}: other files are not included; write the addresses here")),
        [b'\\', ..] => Err(format!("{text:?}: leave out the backslash; an alias among its own targets is the mailbox")),
        _ if outside_quotes(text, '@').len() > 1 => {
            Mailbox::new(text).map(Target::Mailbox).map_err(|error| format!("{text:?}: {error}"))
        }
        _ => Ok(Target::Here(bare(text)?.local_part().into())),
    }
}

/// A local part as the mailbox of some domain.
fn bare(local: &str) -> Result<Mailbox, String> {
    Mailbox::new(&format!("{local}@x")).map_err(|error| format!("{local:?}: {error}"))
}

/// Cut where `separator` is, but for those in double quotes.
fn outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c: char| {
        let cut = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        cut
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn targets(aliases: &Aliases, domain: &str, name: &str) -> Vec<String> {
        match &aliases.find(domain, name).unwrap().meaning {
            Meaning::Program(invocation) => vec![format!("|{invocation}")],
            Meaning::Addresses(targets) => targets
                .iter()
                .map(|target| match target {
                    Target::Here(local) => local.to_string(),
                    Target::Mailbox(mailbox) => mailbox.to_string(),
                })
                .collect(),
        }
    }

    #[test]
    fn the_classic_form_is_read() {
        let aliases = Aliases::parse(
            "# comment\n\nPostmaster: jo\ninfo : jo , amy@x.example,\n  # in between\n\t\"a, b\"@x.example\nJo@Example.ORG: \
             bob\n\"a: b\": jo\n@x.example: jo\nrun: |/bin/cat -x, {user}\nold: \"|/bin/cat \\\"a b\\\" c\"\n",
        )
        .unwrap();
        assert_eq!(targets(&aliases, "x", "postmaster"), ["jo"]);
        assert_eq!(targets(&aliases, "x", "info"), ["jo", "amy@x.example", "\"a, b\"@x.example"]);
        assert_eq!(targets(&aliases, "example.org", "jo"), ["bob"]);
        assert_eq!(targets(&aliases, "x", "a%3A%20b"), ["jo"]);
        assert_eq!(targets(&aliases, "x", "run"), ["|/bin/cat -x, {user}"]);
        assert_eq!(targets(&aliases, "x", "old"), ["|/bin/cat \"a b\" c"]);
        assert!(aliases.find("other.example", "jo").is_none() && aliases.rest("x.example").is_some());
        assert!(Aliases::parse("\n# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, part) in [
            ("a: b\n\nnonsense\n", 3, "`name: target, target`"),
            (" a: b", 1, "nothing before it"),
            ("a:", 1, "target is missing"),
            ("a: b,, c", 1, "target is missing"),
            ("a: b,", 1, "target is missing"),
            ("a: b\n# x\nA: c", 3, "line 1 already"),
            ("a: b@", 1, "domain"),
            ("a@[127.0.0.1]: b", 1, "domain"),
            ("@: b", 1, "domain"),
            ("a b: c", 1, "a b"),
            ("a: \"b", 1, "quote"),
            ("a: /var/mail/a", 1, "not written to files"),
            ("a: :include:/x", 1, "not included"),
            ("a: \\a", 1, "leave out the backslash"),
            ("a: b, |/bin/x", 1, "stands alone"),
            ("a: \"|/bin/x\", b", 1, "stands alone"),
            ("a: |x", 1, "full path"),
            ("a: |", 1, "command"),
            ("a: |/bin/x {home}", 1, "{home}"),
            ("a: b\u{0}", 1, "control character"),
        ] {
            let error = Aliases::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line}: ")) && error.contains(part), "{text:?}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_everybody_may_write_to_or_that_is_too_large_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a: b\n").unwrap();
        assert!(Aliases::from_file(file.path()).is_ok());
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Aliases::from_file(file.path()).unwrap_err().to_string().contains("chmod o-w"));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(file.path(), "#".repeat((1 << 20) + 1)).unwrap();
        assert!(Aliases::from_file(file.path()).unwrap_err().to_string().contains("1 MiB"));
        assert!(Aliases::from_file("/nowhere/x").unwrap_err().to_string().starts_with("/nowhere/x: "));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[a@:,|\"\\\\ #\n\t./x]{0,60}") {
            let _ = Aliases::parse(&text);
        }
    }
}
