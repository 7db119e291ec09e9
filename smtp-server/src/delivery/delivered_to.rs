//! `Delivered-To`, which final delivery writes, and by which it knows mail that it has delivered before.

use smtp_core::types::Mailbox;

use crate::name;

/// How much of a line is looked at: the longest address and the name of the field fit in.
const LINE_MAX: usize = 600;
/// How many fields are kept; what has more of them has been refused for its `Received` fields.
const FIELDS_MAX: usize = 200;

const NAME: &[u8] = b"delivered-to:";

/// The `Delivered-To` fields of a message that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct DeliveredTo {
    /// The start of the current line.
    line: Vec<u8>,
    past_header: bool,
    addresses: Vec<Mailbox>,
}

impl DeliveredTo {
    /// Looks at the next piece.
    pub(crate) fn read(&mut self, mut data: &[u8]) {
        while !self.past_header && !data.is_empty() {
            let end = memchr::memchr(b'\n', data);
            let (line, rest) = data.split_at(end.map_or(data.len(), |i| i + 1));
            let room = LINE_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(line.get(..room.min(line.len())).unwrap_or_default());
            if end.is_some() {
                self.end_line();
            }
            data = rest;
        }
    }

    fn end_line(&mut self) {
        match self.line.split_at_checked(NAME.len()) {
            Some((name, value)) if name.eq_ignore_ascii_case(NAME) && self.addresses.len() < FIELDS_MAX => {
                let mailbox = std::str::from_utf8(value).ok().and_then(|value| Mailbox::new(value.trim()).ok());
                self.addresses.extend(mailbox);
            }
            _ => self.past_header = matches!(&*self.line, b"\r\n" | b"\n"),
        }
        self.line.clear();
    }

    /// True if it was delivered to this address before.
    pub(crate) fn has(&self, address: &str) -> bool {
        !self.addresses.is_empty()
            && Mailbox::new(address).is_ok_and(|own| self.addresses.iter().any(|seen| name::same_mailbox(seen, &own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_header_are_seen_at_every_split() {
        let header = "Delivered-To: Jo+tag@Example.org\r\nX-Delivered-To: no@x\r\nDELIVERED-TO:<no@x>\r\n\
                      delivered-to: \"a b\"@x\r\nSubject: x\r\n\r\nDelivered-To: body@x\r\n";
        for piece in 1..header.len() {
            let mut seen = DeliveredTo::default();
            header.as_bytes().chunks(piece).for_each(|data| seen.read(data));
            assert!(seen.has("jo+TAG@example.org") && seen.has("\"a b\"@X"), "pieces of {piece}");
            assert!(!seen.has("jo@example.org") && !seen.has("no@x") && !seen.has("body@x"));
        }
        let mut seen = DeliveredTo::default();
        seen.read(format!("Delivered-To: {}@x\n", "a".repeat(9_000)).as_bytes());
        assert!(seen.line.len() <= LINE_MAX && seen.addresses.is_empty());
    }
}
