//! A server as the RFCs have it, in as few words as possible: what it answers to what, and what it delivers. Written
//! from RFC 5321, 3030, 4954 and 1870 without a look at the session.

use super::scenarios::Delivered;

/// Something a client does.
#[derive(Debug, Clone)]
pub enum Act {
    Ehlo,
    Helo,
    Lhlo,
    EhloWithoutName,
    Mail { from: &'static str, parameters: &'static str },
    MailWithoutBrackets,
    Rcpt(&'static str),
    RcptWithoutBrackets,
    Data(Content),
    DataWithArgument,
    Bdat { content: Content, last: bool },
    Rset,
    RsetWithArgument,
    Noop,
    Vrfy,
    Expn,
    Help,
    Quit,
    Unknown,
    Empty,
    TooLong,
    BareLf,
    StartTls,
    AuthPlain { right: bool },
    AuthLogin { right: bool },
    AuthCancelled,
    AuthNotBase64,
}

/// What stands in a message or a chunk.
#[derive(Debug, Clone, Copy)]
pub enum Content {
    Nothing,
    Text,
    Dots,
    Commands,
    BareLf,
    BareCr,
    /// A bare LF that looks like an end of data.
    Smuggled,
}

impl Content {
    const fn octets(self) -> &'static [u8] {
        match self {
            Self::Nothing => b"",
            Self::Text => b"text\r\nand more\r\n",
            Self::Dots => b".\r\n..\r\n.x\r\n",
            Self::Commands => b"QUIT\r\nRSET\r\nMAIL FROM:<evil@client.example>\r\nBDAT 5 LAST\r\nDATA\r\n",
            Self::BareLf => b"bare\nlf\r\n",
            Self::BareCr => b"bare\rcr\r\n",
            Self::Smuggled => b"x\n.\r\nMAIL FROM:<evil@client.example>\r\nRCPT TO:<bob@here.example>\r\nDATA\r\n",
        }
    }

    const fn is_bad(self) -> bool {
        matches!(self, Self::BareLf | Self::BareCr | Self::Smuggled)
    }

    /// With a dot before each line that begins with one, and the end.
    fn stuffed(self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut line_start = true;
        let octets = self.octets();
        for (i, octet) in octets.iter().enumerate() {
            if line_start && *octet == b'.' {
                out.push(b'.');
            }
            out.push(*octet);
            line_start = octets[..=i].ends_with(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        out
    }
}

/// The server. [`Model::act`] says what a client sends next, and what it hears.
#[derive(Debug, Default)]
pub struct Model {
    greeted: bool,
    extended: bool,
    authenticated: bool,
    sender: Option<&'static str>,
    recipients: Vec<&'static str>,
    /// The chunks of a message so far.
    chunks: Option<Vec<u8>>,
    /// A chunk was refused, and nothing has been done about it.
    refused: bool,
    errors: u32,
    failed_logins: u32,
    pub closed: bool,
    /// What the client sends.
    pub input: Vec<u8>,
    /// The codes it hears; where the RFCs leave a choice, all that are right.
    pub codes: Vec<&'static [u16]>,
    /// What is delivered.
    pub delivered: Vec<Delivered>,
}

const MAX_RECIPIENTS: usize = 5;
const MAX_ERRORS: u32 = 20;
const MAX_FAILED_LOGINS: u32 = 3;

impl Model {
    pub fn new() -> Self {
        Self { codes: vec![&[220]], ..Self::default() }
    }

    fn send(&mut self, line: &str) {
        self.input.extend_from_slice(line.as_bytes());
        self.input.extend_from_slice(b"\r\n");
    }

    fn hear(&mut self, codes: &'static [u16]) {
        self.codes.push(codes);
        if codes[0] >= 500 {
            self.errors += 1;
            if self.errors >= MAX_ERRORS {
                self.codes.push(&[421]);
                self.closed = true;
            }
        }
        self.closed |= matches!(codes[0], 221 | 421);
    }

    fn forget(&mut self) {
        self.sender = None;
        self.recipients.clear();
        self.chunks = None;
        self.refused = false;
    }

    fn deliver(&mut self, content: Vec<u8>) {
        let path = |path: &&str| match path.split_once(':') {
            // A source route is left out (RFC 5321 appendix C).
            Some((_, mailbox)) => format!("<{mailbox}"),
            None => (*path).to_owned(),
        };
        self.delivered.push(Delivered {
            from: self.sender.map(str::to_owned).unwrap_or_default(),
            to: self.recipients.iter().map(path).collect(),
            content,
        });
        self.errors = 0;
        self.hear(&[250]);
        self.forget();
    }

    /// No mail command is in order now, whatever it is.
    fn is_out_of_order(&self) -> bool {
        !self.greeted || self.refused || self.chunks.is_some()
    }

    pub fn act(&mut self, act: &Act) {
        if self.closed {
            return;
        }
        match act {
            Act::Ehlo => {
                self.send("EHLO client.example");
                self.hear(&[250]);
                self.forget();
                (self.greeted, self.extended) = (true, true);
            }
            Act::Helo => {
                self.send("HELO client.example");
                self.hear(&[250]);
                self.forget();
                (self.greeted, self.extended) = (true, false);
            }
            Act::Lhlo => self.line("LHLO client.example", &[500]),
            Act::EhloWithoutName => self.line("EHLO", &[501]),
            Act::Mail { from, parameters } => self.mail(from, parameters),
            Act::MailWithoutBrackets => self.line("MAIL FROM:user@client.example", &[501]),
            Act::Rcpt(to) => self.rcpt(to),
            Act::RcptWithoutBrackets => self.line("RCPT TO:alice@here.example", &[501]),
            Act::Data(content) => self.data(*content),
            Act::DataWithArgument => self.line("DATA now", &[501]),
            Act::Bdat { content, last } => self.bdat(*content, *last),
            Act::Rset => {
                self.line("RSET", &[250]);
                self.forget();
            }
            Act::RsetWithArgument => self.line("RSET now", &[501]),
            Act::Noop => self.line("NOOP", &[250]),
            Act::Vrfy if self.refused => self.line("VRFY alice", &[503]),
            Act::Vrfy => self.line("VRFY alice", &[252]),
            Act::Expn if self.refused => self.line("EXPN staff", &[503]),
            Act::Expn if self.authenticated => self.line("EXPN staff", &[250]),
            Act::Expn => self.line("EXPN staff", &[550]),
            Act::Help if self.refused => self.line("HELP", &[503]),
            Act::Help => self.line("HELP", &[214]),
            Act::Quit => self.line("QUIT", &[221]),
            // Unknown is unknown, but "not now" is true as well.
            Act::Unknown => self.line("FOO bar", &[500, 503]),
            Act::Empty => self.line("", &[500]),
            Act::TooLong => self.line(&format!("NOOP {}", "x".repeat(3_000)), &[500]),
            Act::BareLf => self.line("NOOP\nMAIL FROM:<evil@client.example>", &[500]),
            // The channel is secure without it.
            Act::StartTls => self.line("STARTTLS", &[503, 502, 500]),
            Act::AuthPlain { right } => {
                let response = if *right { "AHVzZXIAcGFzcw==" } else { "AHVzZXIAd3Jvbmc=" };
                match self.may_authenticate() {
                    false => self.line(&format!("AUTH PLAIN {response}"), &[503]),
                    true => self.login(&[format!("AUTH PLAIN {response}")], *right),
                }
            }
            Act::AuthLogin { right } => {
                let password = if *right { "cGFzcw==" } else { "d3Jvbmc=" };
                match self.may_authenticate() {
                    false => self.line("AUTH LOGIN", &[503]),
                    true => self.login(&["AUTH LOGIN".into(), "dXNlcg==".into(), password.into()], *right),
                }
            }
            Act::AuthCancelled => self.broken_login("*"),
            Act::AuthNotBase64 => self.broken_login("!!!"),
        }
    }

    fn line(&mut self, line: &str, codes: &'static [u16]) {
        self.send(line);
        self.hear(codes);
    }

    fn mail(&mut self, from: &'static str, parameters: &str) {
        self.send(&format!("MAIL FROM:{from}{parameters}"));
        let code: &[u16] = match parameters {
            _ if self.is_out_of_order() || self.sender.is_some() => &[503],
            "" => &[250],
            _ if !self.extended => &[555],
            " SIZE=100" | " BODY=8BITMIME" => &[250],
            " SIZE=1000001" => &[552],
            _ => &[555],
        };
        if code == [250] {
            self.sender = Some(from);
        }
        self.hear(code);
    }

    fn rcpt(&mut self, to: &'static str) {
        self.send(&format!("RCPT TO:{to}"));
        let code: &[u16] = match to {
            _ if self.is_out_of_order() || self.sender.is_none() => &[503],
            _ if self.recipients.len() == MAX_RECIPIENTS => &[452],
            "<nobody@here.example>" => &[550],
            "<x@elsewhere.example>" if !self.authenticated => &[550],
            _ => &[250],
        };
        if code == [250] {
            self.recipients.push(to);
        }
        self.hear(code);
    }

    fn data(&mut self, content: Content) {
        self.send("DATA");
        if self.is_out_of_order() || self.sender.is_none() {
            return self.hear(&[503]);
        }
        if self.recipients.is_empty() {
            return self.hear(&[554, 503]);
        }
        self.hear(&[354]);
        self.input.extend_from_slice(&content.stuffed());
        if content.is_bad() {
            self.forget();
            self.hear(&[554]);
        } else {
            self.deliver(content.octets().to_vec());
        }
    }

    fn bdat(&mut self, content: Content, last: bool) {
        let octets = content.octets();
        self.send(&format!("BDAT {}{}", octets.len(), if last { " LAST" } else { "" }));
        self.input.extend_from_slice(octets);
        if self.refused {
            return self.hear(&[503]);
        }
        if !self.greeted || self.recipients.is_empty() {
            self.hear(&[503]);
            // "The state resulting from this error is indeterminate. A RSET command MUST be sent" (RFC 3030 §2).
            return self.act(&Act::Rset);
        }
        if content.is_bad() {
            self.forget();
            self.refused = !last;
            return self.hear(&[554]);
        }
        let mut all = self.chunks.take().unwrap_or_default();
        all.extend_from_slice(octets);
        if last {
            self.deliver(all);
        } else {
            self.chunks = Some(all);
            self.hear(&[250]);
        }
    }

    fn may_authenticate(&self) -> bool {
        !self.is_out_of_order() && self.sender.is_none() && !self.authenticated
    }

    fn login(&mut self, lines: &[String], right: bool) {
        for (i, line) in lines.iter().enumerate() {
            self.send(line);
            if i + 1 < lines.len() {
                self.hear(&[334]);
            }
        }
        if right {
            self.authenticated = true;
            return self.hear(&[235]);
        }
        self.failed_logins += 1;
        self.hear(if self.failed_logins >= MAX_FAILED_LOGINS { &[421] } else { &[535] });
    }

    /// Begins an exchange and gives it up, or writes nonsense.
    fn broken_login(&mut self, response: &str) {
        if !self.may_authenticate() {
            return self.line("AUTH PLAIN", &[503]);
        }
        self.line("AUTH PLAIN", &[334]);
        self.line(response, &[501]);
    }
}
