//! A program and its arguments, with places for what the envelope says.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use smtp_core::types::{ForwardPath, Refusal, ReversePath};

/// A program by its full path, and its arguments. No shell is involved.
///
/// The text is cut into words as a shell does it, with blanks and quotes and nothing else: no variables, no patterns, no
/// redirection. In a word, `{user}`, `{tag}`, `{domain}`, `{recipient}` and `{sender}` stand for the recipient's local part
/// without its tag, the tag, the domain, the whole address as it was written, and the reverse-path (nothing if it is
/// null). `{{` and `}}` are braces. A word stays one argument, whatever is put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    text: String,
    program: String,
    arguments: Vec<Vec<Piece>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    User,
    Tag,
    Domain,
    Recipient,
    Sender,
}

/// Why a text is no [`Invocation`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvocationError {
    /// Quotes are not closed.
    #[error("a command is words, and a quote or backslash has no end")]
    Words,
    /// There is nothing.
    #[error("a command is missing behind the |")]
    Missing,
    /// The program has no full path.
    #[error("{0:?}: a program is named by its full path, such as /usr/bin/procmail")]
    Path(String),
    /// A placeholder that is none.
    #[error(
        "{0:?}: what can be put in is {{user}}, {{tag}}, {{domain}}, {{recipient}}, {{sender}}; braces are doubled: {{{{ and }}}}"
    )]
    Placeholder(String),
    /// More than 100 words or 4,096 octets.
    #[error("a command has up to 100 words and 4,096 octets")]
    Long,
}

impl Invocation {
    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        Path::new(&self.program)
    }

    /// The arguments for one recipient; `separator` is what stands before a tag.
    ///
    /// # Errors
    /// 550 5.1.3 for a local part that begins with `-`, and for an argument that begins with `-` because of what was put
    /// into it: programs would take it for an option.
    pub fn arguments(
        &self,
        to: &ForwardPath,
        from: &ReversePath,
        separator: Option<char>,
    ) -> Result<Vec<String>, Refusal> {
        let (local, domain, recipient) = match to {
            ForwardPath::Postmaster => ("postmaster".into(), "", "postmaster"),
            ForwardPath::Mailbox(mailbox) => (mailbox.local_name(), mailbox.host(), mailbox.as_str()),
        };
        let (user, tag) = match separator.and_then(|c| local.split_once(c)) {
            Some((user, tag)) if !user.is_empty() => (user, tag),
            _ => (&*local, ""),
        };
        let sender = from.mailbox().map_or("", |mailbox| mailbox.as_str());
        let refused = || Refusal::fixed(550, (5, 1, 3), "no mail for programs here to or from names that begin with -");
        if local.starts_with('-') {
            return Err(refused());
        }
        let argument = |pieces: &Vec<Piece>| {
            let put = |piece: &Piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::User => user.to_owned(),
                Piece::Tag => tag.to_owned(),
                Piece::Domain => domain.to_owned(),
                Piece::Recipient => recipient.to_owned(),
                Piece::Sender => sender.to_owned(),
            };
            let argument: String = pieces.iter().map(put).collect();
            let own = matches!(pieces.first(), Some(Piece::Text(text)) if text.starts_with('-'));
            // A NUL cannot be part of an argument; no address holds one.
            if argument.starts_with('-') && !own || argument.contains('\0') { Err(refused()) } else { Ok(argument) }
        };
        self.arguments.iter().map(argument).collect()
    }
}

impl FromStr for Invocation {
    type Err = InvocationError;

    fn from_str(text: &str) -> Result<Self, InvocationError> {
        let mut words = shlex::split(text).ok_or(InvocationError::Words)?;
        if words.len() > 100 || text.len() > 4_096 {
            return Err(InvocationError::Long);
        }
        if words.is_empty() {
            return Err(InvocationError::Missing);
        }
        let arguments = words.split_off(1);
        let program = words.pop().unwrap_or_default();
        if !program.starts_with('/') || program.contains('\0') {
            return Err(InvocationError::Path(program));
        }
        let arguments = arguments.iter().map(|word| pieces(word)).collect::<Result<_, _>>()?;
        Ok(Self { text: text.trim().to_owned(), program, arguments })
    }
}

fn pieces(word: &str) -> Result<Vec<Piece>, InvocationError> {
    let wrong = || InvocationError::Placeholder(word.to_owned());
    let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), word);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
            text.push_str(from.get(..1).unwrap_or_default());
            rest = after;
            continue;
        }
        let (name, after) = from.strip_prefix('{').and_then(|from| from.split_once('}')).ok_or_else(wrong)?;
        let piece = match name {
            "user" => Piece::User,
            "tag" => Piece::Tag,
            "domain" => Piece::Domain,
            "recipient" => Piece::Recipient,
            "sender" => Piece::Sender,
            _ => return Err(wrong()),
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(piece);
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

impl fmt::Display for Invocation {
    /// As it reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smtp_core::types::{LocalPart, Mailbox};

    fn arguments(command: &str, to: &str, from: &str) -> Result<Vec<String>, String> {
        let invocation: Invocation = command.parse().unwrap();
        assert_eq!(invocation.to_string().parse(), Ok(invocation.clone()));
        let arguments = invocation.arguments(&to.parse().unwrap(), &from.parse().unwrap(), Some('+'));
        arguments.map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn each_word_is_one_argument() {
        let words = arguments(
            "/bin/x -f {sender} --to='a b {user}' {tag}-{domain} {{x}} \"\" $HOME `id` ; > *",
            "<\"a b;\\\"c+t g\"@x.example>",
            "<jo@y.example>",
        );
        let expected =
            ["-f", "jo@y.example", "--to=a b a b;\"c", "t g-x.example", "{x}", "", "$HOME", "`id`", ";", ">", "*"];
        assert_eq!(words.unwrap(), expected);
        assert_eq!(arguments("/bin/x {user} {tag} {sender}", "<postmaster>", "<>").unwrap(), ["postmaster", "", ""]);
        assert_eq!(arguments("/bin/x {recipient}", "<\"a b\"@x>", "<>").unwrap(), ["\"a b\"@x"]);
    }

    #[test]
    fn no_name_becomes_an_option() {
        for (command, to, from) in [
            ("/bin/x", "<-oQ/tmp@x.example>", "<>"),
            ("/bin/x {user}", "<\"-x y\"@x.example>", "<>"),
            ("/bin/x {tag}", "<jo+-x@x.example>", "<>"),
            ("/bin/x {tag}{user}", "<jo+-x@x.example>", "<>"),
            ("/bin/x {sender}", "<jo@x.example>", "<-OQueueDirectory=/tmp@y.example>"),
            ("/bin/x {tag}{sender}", "<jo@x.example>", "<-X/tmp/x@y.example>"),
        ] {
            assert!(arguments(command, to, from).unwrap_err().starts_with("550 5.1.3"), "{command} {to} {from}");
        }
        assert_eq!(arguments("/bin/x -f{sender}", "<jo@x>", "<-x@y>").unwrap(), ["-f-x@y"]);
    }

    #[test]
    fn what_is_no_command_is_told() {
        for (text, part) in [
            ("", "missing"),
            ("x y", "full path"),
            ("/bin/x 'a", "no end"),
            ("/bin/x {home}", "{user}"),
            ("/bin/x {user", "doubled"),
            ("/bin/x }", "doubled"),
        ] {
            assert!(text.parse::<Invocation>().unwrap_err().to_string().contains(part), "{text}");
        }
        assert_eq!("/bin/x ".repeat(101).parse::<Invocation>(), Err(InvocationError::Long));
    }

    proptest! {
        #[test]
        fn names_arrive_unchanged_or_not_at_all(name in "[^\\p{Cc}+]{1,40}") {
            let mailbox = Mailbox::from_parts(&LocalPart::unquoted(&name).unwrap(), &"x.example".parse().unwrap());
            let invocation: Invocation = "/bin/x {user} --a={user}".parse().unwrap();
            match invocation.arguments(&mailbox.into(), &ReversePath::Null, Some('+')) {
                Ok(arguments) => prop_assert_eq!(arguments, [name.clone(), format!("--a={name}")]),
                Err(_) => prop_assert!(name.starts_with('-')),
            }
        }
    }
}
