//! Experiments that come with the crate.

/// Names, and the TOML of each.
pub const PRESETS: [(&str, &str); 6] = [
    ("one-mail", include_str!("../../lab/one-mail.toml")),
    ("twenty-mails", include_str!("../../lab/twenty-mails.toml")),
    ("early-data", include_str!("../../lab/early-data.toml")),
    ("loss", include_str!("../../lab/loss.toml")),
    ("link", include_str!("../../lab/link.toml")),
    ("tiny", include_str!("../../lab/tiny.toml")),
];
