//! The text forms of addresses: `smtp+unix:///run/smtp.sock` and `pipe:ssh host smtpd -bs`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use smtp_core::stream::{Address, Target};

const UNIX: &str = "smtp+unix:";
const PIPE: &str = "pipe:";

/// The server at `smtp+unix:///run/smtp.sock`. Octets that a URL cannot have are written as `%20`.
///
/// # Errors
/// If it has another scheme, names a host, or has no absolute path.
///
/// ```
/// use smtp_transport_unix::unix_target;
/// assert_eq!(unix_target("smtp+unix:///run/my%20socket")?.address.to_string(), "/run/my socket");
/// assert!(unix_target("smtp+unix://host/run/socket").is_err());
/// # Ok::<(), smtp_transport_unix::UrlError>(())
/// ```
pub fn unix_target(url: &str) -> Result<Target, UrlError> {
    let rest = without_scheme(url, UNIX)?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if !path.starts_with('/') || path.len() == 1 {
        return Err(UrlError::NoPath);
    }
    Ok(Target { address: Address::Path(PathBuf::from(decode(path)?)), server_name: None })
}

/// The URL of a socket at `path`.
pub(crate) fn unix(path: &Path) -> String {
    let mut url = format!("{UNIX}//");
    for octet in path.as_os_str().as_bytes() {
        match octet {
            // The unreserved characters and the separators of a path (RFC 3986 §2.3, §3.3).
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => url.push(char::from(*octet)),
            _ => url.push_str(&format!("%{octet:02X}")),
        }
    }
    url
}

/// The words of a command: `pipe:ssh host smtpd%20-bs` has three.
pub(crate) fn words(url: &str) -> Result<Vec<OsString>, UrlError> {
    let rest = without_scheme(url, PIPE)?;
    let words = rest.split(' ').filter(|word| !word.is_empty()).map(decode).collect::<Result<Vec<_>, _>>()?;
    if words.is_empty() { Err(UrlError::NoProgram) } else { Ok(words) }
}

/// Schemes are compared without case (RFC 3986 §3.1).
fn without_scheme<'a>(url: &'a str, scheme: &'static str) -> Result<&'a str, UrlError> {
    match url.split_at_checked(scheme.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(scheme) => Ok(rest),
        _ => Err(UrlError::Scheme(scheme)),
    }
}

fn decode(text: &str) -> Result<OsString, UrlError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(UrlError::Escape);
                let octet = u8::try_from(digit()? * 16 + digit()?).map_err(|_| UrlError::Escape)?;
                // It would end a path, or an argument, for the system but not for us.
                if octet == 0 { return Err(UrlError::Escape) } else { octet }
            }
            // What follows would be a query or a fragment: neither has a meaning here, so it is a mistake.
            b'?' | b'#' => return Err(UrlError::Reserved(char::from(octet))),
            octet => octet,
        });
    }
    Ok(OsString::from_vec(octets))
}

/// Why a URL does not name a Unix socket or a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It begins with something else.
    #[error("it does not begin with `{0}`")]
    Scheme(&'static str),
    /// There is no absolute path, or a host before it.
    #[error("it has to name an absolute path after three slashes, as in smtp+unix:///run/smtp.sock")]
    NoPath,
    /// There is no program.
    #[error("it has to name a program, as in pipe:/usr/bin/ssh host smtpd -bs")]
    NoProgram,
    /// A `%` without two hexadecimal digits, or `%00`.
    #[error("a `%` has to be followed by two hexadecimal digits that are not 00")]
    Escape,
    /// A character that has to be written with `%`.
    #[error("`{0}` has to be written as %{n:02X}", n = u32::from(*.0))]
    Reserved(char),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_their_url() {
        for path in ["/run/smtp.sock", "/a b/ä?#%", "/x/../y", "/tab\there"] {
            let url = unix(Path::new(path));
            assert!(url.is_ascii(), "{url}");
            assert_eq!(unix_target(&url).unwrap().address, Address::Path(path.into()), "{url}");
        }
        let odd = PathBuf::from(OsString::from_vec(b"/\xff\xfe".to_vec()));
        assert_eq!(unix_target(&unix(&odd)).unwrap().address, Address::Path(odd));
        assert_eq!(unix_target("SMTP+UNIX:/run/x").unwrap().address, Address::Path("/run/x".into()));
    }

    #[test]
    fn what_names_no_socket_is_told_apart() {
        for (url, error) in [
            ("smtp://host", UrlError::Scheme(UNIX)),
            ("smtp+uni", UrlError::Scheme(UNIX)),
            ("smtp+unix", UrlError::Scheme(UNIX)),
            ("smtp+unix:", UrlError::NoPath),
            ("smtp+unix:///", UrlError::NoPath),
            ("smtp+unix://host/path", UrlError::NoPath),
            ("smtp+unix:relative", UrlError::NoPath),
            ("smtp+unix:///a%2", UrlError::Escape),
            ("smtp+unix:///a%zz", UrlError::Escape),
            ("smtp+unix:///a%00b", UrlError::Escape),
            ("smtp+unix:///a?b", UrlError::Reserved('?')),
        ] {
            assert_eq!(unix_target(url).unwrap_err(), error, "{url}");
        }
        assert_eq!(UrlError::Reserved('?').to_string(), "`?` has to be written as %3F");
    }

    #[test]
    fn commands_are_split_at_spaces_and_nowhere_else() {
        let words =
            |url: &str| words(url).map(|words| words.iter().map(|w| w.to_string_lossy().into_owned()).collect());
        let of = |list: &[&str]| Ok(list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words("pipe:ssh host  smtpd -bs"), of(&["ssh", "host", "smtpd", "-bs"]));
        assert_eq!(words("pipe:/a%20b 'x y' $HOME;"), of(&["/a b", "'x", "y'", "$HOME;"]));
        assert_eq!(words("pipe:"), Err(UrlError::NoProgram));
        assert_eq!(words("pipe: "), Err(UrlError::NoProgram));
        assert_eq!(words("ssh host"), Err(UrlError::Scheme(PIPE)));
    }
}
