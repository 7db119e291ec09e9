//! Words that a matrix is made of.

/// An enumeration whose values have one name each: in files, on the command line, in tables.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident, $kind:literal { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::choice::NoSuchChoice;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.iter().copied().find(|choice| choice.name() == text);
                found.ok_or_else(|| $crate::choice::NoSuchChoice {
                    kind: $kind,
                    given: text.chars().take(40).collect(),
                    known: Self::ALL.iter().map(|choice| choice.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}
pub(crate) use choice;

/// A word that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no {kind}: there are {known}")]
pub struct NoSuchChoice {
    pub(crate) kind: &'static str,
    pub(crate) given: String,
    pub(crate) known: String,
}

choice! {
    /// What carries the session.
    Transport, "transport" {
        /// TCP in clear.
        Tcp = "tcp",
        /// TCP, and STARTTLS (RFC 3207).
        StartTls = "starttls",
        /// TCP, and TLS from the first octet (RFC 8314 §3.3).
        Tls = "tls",
        /// QUIC, by the project's own mapping.
        Quic = "quic",
        /// QUIC and STARTTLS, by the connector that races them: what a relay does with a host that offers both.
        Race = "race",
    }
}

impl Transport {
    /// True if TCP is below, whoever wins.
    #[must_use]
    pub const fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::StartTls | Self::Tls)
    }
}

choice! {
    /// What of an earlier session is used.
    Resumption, "resumption" {
        /// Nothing: a full handshake.
        None = "none",
        /// What the racing connector remembers of it: a way that has lost is not tried. A full handshake.
        Memory = "memory",
        /// A TLS ticket.
        Ticket = "ticket",
        /// A ticket, and the mail in the first flight (RFC 9001 §4.6.1), behind the server's gate.
        Early = "early",
    }
}

choice! {
    /// What waits for what.
    Dialogue, "dialogue" {
        /// Each command for the reply to the one before it.
        Lockstep = "lockstep",
        /// Groups of commands, as RFC 2920 allows them.
        Pipelined = "pipelined",
        /// Nothing for anything: EHLO is in the same flight as the mail. Only where the channel implies the extensions;
        /// a race that TCP wins goes on with groups.
        Flight = "flight",
    }
}

choice! {
    /// How the content travels.
    Transfer, "transfer" {
        /// DATA, which waits for its 354.
        Data = "data",
        /// BDAT (RFC 3030), with the envelope if the dialogue allows it.
        Bdat = "bdat",
    }
}

choice! {
    /// What several mails share.
    Spread, "spread" {
        /// One session has all of them, one after the other.
        Session = "session",
        /// One connection has all of them, each on a stream of its own.
        Streams = "streams",
        /// Each has its own connection.
        Connections = "connections",
    }
}

choice! {
    /// How QUIC's connection begins.
    Tuning, "tuning" {
        /// With the library's defaults: ten packets, and 333 ms assumed for the round trip time.
        Default = "default",
        /// With 32 packets and 100 ms.
        Tuned = "tuned",
    }
}

choice! {
    /// The congestion control of both sides.
    Congestion, "congestion control" {
        /// RFC 9438.
        Cubic = "cubic",
        /// BBR: the kernel's for TCP, quinn's experimental one for QUIC.
        Bbr = "bbr",
        /// RFC 5681 for TCP, RFC 9002 §7 for QUIC.
        Reno = "reno",
    }
}

choice! {
    /// Which stream's data goes first.
    Priority, "priority" {
        /// That of the earlier stream.
        Ordered = "ordered",
        /// All take turns.
        Fair = "fair",
    }
}

choice! {
    /// The key exchange of TLS.
    KeyExchange, "key exchange" {
        /// Elliptic curve alone.
        X25519 = "x25519",
        /// Elliptic curve and ML-KEM: what the programs use. The ClientHello takes two packets.
        Hybrid = "x25519mlkem768",
    }
}

choice! {
    /// Where an experiment runs.
    Ground, "ground" {
        /// In virtual time, in memory: no root, and the same every time.
        Simulation = "simulation",
        /// Between two network namespaces, with the kernel's sockets: needs root.
        Link = "link",
    }
}
