//! What is sent: made by size, or read from files; one buffer each, shared by all messages.

use core::fmt;
use core::str::FromStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fastrand::Rng;
use smtp_core::wire::canonical;

/// The smallest message that is made, in octets: it has a header.
const SMALLEST: usize = 256;
/// The largest message, in octets.
const LARGEST: usize = 256 << 20;
/// How many different sizes there can be.
const SIZES_MAX: usize = 64;
/// How many files a corpus can have, and octets in all.
const FILES_MAX: usize = 10_000;
const OCTETS_MAX: u64 = 1 << 30;

/// Sizes of messages, and how often each comes: `4K`, or `4K:70,100K:25,1M:5`. Units are powers of 1,024.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(Vec<(usize, u32)>);

/// A text that says no sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sizes are 256 octets to 256M, each with how often it comes: 4K, or 4K:70,100K:25,1M:5 (at most 64)")]
pub struct SizesError;

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        let sizes = text.split(',').map(|one| weighed(one.trim())).collect::<Option<Vec<_>>>().ok_or(SizesError)?;
        if sizes.len() > SIZES_MAX { Err(SizesError) } else { Ok(Self(sizes)) }
    }
}

fn weighed(text: &str) -> Option<(usize, u32)> {
    let (size, weight) = match text.split_once(':') {
        Some((size, weight)) => (size, weight.parse().ok().filter(|weight| (1..=1_000_000).contains(weight))?),
        None => (text, 1),
    };
    let end = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at_checked(end)?;
    let factor: usize = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        _ => return None,
    };
    let octets = number.parse::<usize>().ok()?.checked_mul(factor)?;
    (SMALLEST..=LARGEST).contains(&octets).then_some((octets, weight))
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (size, weight)) in self.0.iter().enumerate() {
            write!(f, "{}{size}:{weight}", if n > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// Why there is nothing to send.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct ContentError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub source: io::Error,
}

/// One message.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) octets: Bytes,
    /// It needs 8BITMIME (RFC 6152).
    pub(crate) eight_bit: bool,
    weight: u32,
}

/// The messages that are sent.
#[derive(Debug, Clone)]
pub struct Content {
    items: Vec<Item>,
    weights: u32,
    about: String,
}

impl Content {
    /// Messages of these sizes, exact to the octet, of random letters in lines of 78 octets.
    ///
    /// # Errors
    /// None for sizes that were parsed.
    pub fn generated(sizes: &Sizes, seed: u64) -> Result<Self, SizesError> {
        let mut rng = Rng::with_seed(seed);
        let item = |(size, weight): &(usize, u32)| Item {
            octets: message(*size, &mut rng).into(),
            eight_bit: false,
            weight: *weight,
        };
        Self::of(sizes.0.iter().map(item).collect(), sizes.to_string()).ok_or(SizesError)
    }

    /// The messages in these files, and in the files that end with `.eml` in these folders, each as often as any other.
    /// Line ends become CRLF.
    ///
    /// # Errors
    /// If one cannot be read, there is none, or there are more than 10,000 files or 1 GiB.
    pub fn corpus(paths: &[PathBuf]) -> Result<Self, ContentError> {
        let fault = |path: &Path, source: io::Error| ContentError { path: path.to_owned(), source };
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                let found = messages_in(path).map_err(|error| fault(path, error))?;
                files.extend(found);
            } else {
                files.push(path.clone());
            }
        }
        let (mut items, mut left) = (Vec::new(), OCTETS_MAX);
        for file in &files {
            let mut text = Vec::new();
            let read = std::fs::File::open(file).and_then(|open| open.take(left + 1).read_to_end(&mut text));
            read.map_err(|error| fault(file, error))?;
            left = left
                .checked_sub(text.len() as u64)
                .filter(|_| items.len() < FILES_MAX)
                .ok_or_else(|| fault(file, io::Error::other("a corpus holds at most 10,000 files and 1 GiB")))?;
            let mut octets = canonical(&text);
            if !octets.ends_with(b"\r\n") {
                octets.extend_from_slice(b"\r\n");
            }
            let eight_bit = !octets.is_ascii();
            items.push(Item { octets: octets.into(), eight_bit, weight: 1 });
        }
        let about = format!("{} files", items.len());
        let nothing = || fault(paths.first().map_or(Path::new("."), |path| path), io::Error::other("no .eml file"));
        Self::of(items, about).ok_or_else(nothing)
    }

    fn of(items: Vec<Item>, about: String) -> Option<Self> {
        let weights = items.iter().try_fold(0_u32, |sum, item| sum.checked_add(item.weight))?;
        (weights > 0).then_some(Self { items, weights, about })
    }

    /// The next message to send.
    pub(crate) fn pick(&self, rng: &mut Rng) -> Option<&Item> {
        if let [only] = self.items.as_slice() {
            return Some(only);
        }
        let mut at = rng.u32(..self.weights);
        self.items.iter().find(|item| {
            let here = at < item.weight;
            at = at.saturating_sub(item.weight);
            here
        })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.about)
    }
}

fn messages_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("eml")) {
            files.push(path);
        }
    }
    // The order of a folder is chance.
    files.sort();
    Ok(files)
}

/// A message of exactly `size` octets.
fn message(size: usize, rng: &mut Rng) -> Vec<u8> {
    const HEADER: &[u8] =
        b"From: bench@sender.example\r\nTo: undisclosed-recipients:;\r\nSubject: a message of a load test\
        \r\nDate: Thu, 01 Jan 1970 00:00:00 +0000\r\n\r\n";
    const LINE: usize = 78;
    let mut message = Vec::with_capacity(size);
    message.extend_from_slice(HEADER);
    while message.len() < size {
        let left = size - message.len();
        // One octet is no line.
        let line = if left == LINE + 1 { LINE - 1 } else { left.min(LINE) };
        message.extend((2..line).map(|_| rng.lowercase() as u8));
        message.extend_from_slice(b"\r\n");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_weighed() {
        for (text, shown) in
            [("4K", "4096:1"), ("4K:70, 100k:25,1M:5", "4096:70,102400:25,1048576:5"), ("256", "256:1")]
        {
            assert_eq!(text.parse::<Sizes>().map(|sizes| sizes.to_string()), Ok(shown.to_owned()));
        }
        for bad in ["", "0", "255", "4K:", "4K:0", "4X", "1G", "257M", "-4K", "4K,,4K", "99999999999999999999"] {
            assert_eq!(bad.parse::<Sizes>(), Err(SizesError), "{bad}");
        }
    }

    #[test]
    fn a_message_has_its_size_and_its_lines() {
        for size in (SMALLEST..SMALLEST + 200).chain([4096, 102_400]) {
            let message = message(size, &mut Rng::with_seed(7));
            assert_eq!(message.len(), size);
            assert!(message.ends_with(b"\r\n"));
            assert_eq!(canonical(&message), message, "every line ends with CRLF");
            assert!(!message.windows(3).any(|octets| octets == b"\r\n."), "nothing has to be stuffed");
        }
    }

    #[test]
    fn the_distribution_is_kept_and_the_seed_decides() {
        let content = Content::generated(&"256:3,512:1".parse().unwrap(), 1).unwrap();
        let draw = |seed| {
            let mut rng = Rng::with_seed(seed);
            (0..10_000).map(|_| content.pick(&mut rng).unwrap().octets.len()).collect::<Vec<_>>()
        };
        let small = draw(1).iter().filter(|size| **size == 256).count();
        assert!((7_200..7_800).contains(&small), "{small} of 10,000 at 3 in 4");
        assert_eq!(draw(2), draw(2));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_corpus_is_a_folder_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("a.eml", "Subject: a\n\nx");
        put("b.EML", "Subject: b\r\n\r\n\u{fc}\r\n");
        put("c.txt", "no");
        let content = Content::corpus(&[folder.path().to_owned()]).unwrap();
        assert_eq!(content.to_string(), "2 files");
        assert_eq!(content.items[0].octets, "Subject: a\r\n\r\nx\r\n");
        assert_eq!(content.items.iter().map(|item| item.eight_bit).collect::<Vec<_>>(), [false, true]);
        let empty = tempfile::tempdir().unwrap();
        assert!(Content::corpus(&[empty.path().to_owned()]).unwrap_err().to_string().ends_with("no .eml file"));
        assert!(Content::corpus(&[empty.path().join("x")]).is_err());
    }
}
