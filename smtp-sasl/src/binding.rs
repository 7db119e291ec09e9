//! Channel binding: a proof made inside TLS that holds for this TLS connection only (RFC 5056), so that somebody in
//! the middle, with a TLS connection to each side, cannot pass it on.

use smtp_core::channel::TlsInfo;

/// `tls-exporter` (RFC 9266), for TLS 1.3 and QUIC.
pub const EXPORTER: &str = "tls-exporter";
/// `tls-server-end-point` (RFC 5929 §4): a hash of the server's certificate.
pub const SERVER_END_POINT: &str = "tls-server-end-point";

/// The octets that the binding named `name` has on this channel; `None` if the channel has no such binding.
///
/// `tls-unique` is not among them: it is undefined for TLS 1.3 and was broken for TLS 1.2 by the triple handshake
/// (RFC 9266 §1).
#[must_use]
pub fn octets<'a>(tls: &'a TlsInfo, name: &str) -> Option<&'a [u8]> {
    match name {
        EXPORTER => tls.exporter.as_ref().map(<[u8; 32]>::as_slice),
        SERVER_END_POINT => tls.server_end_point.as_deref(),
        _ => None,
    }
}

/// The binding to use on this channel, its name and its octets: the exporter where there is one (RFC 9266 §3), else
/// the server's certificate.
#[must_use]
pub fn preferred(tls: &TlsInfo) -> Option<(&'static str, &[u8])> {
    [EXPORTER, SERVER_END_POINT].into_iter().find_map(|name| Some((name, octets(tls, name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exporter_comes_first_and_tls_unique_never() {
        let mut tls = TlsInfo::default();
        assert_eq!(preferred(&tls), None);
        tls.server_end_point = Some([7; 32].into());
        assert_eq!(preferred(&tls), Some(("tls-server-end-point", &[7; 32][..])));
        tls.exporter = Some([9; 32]);
        assert_eq!(preferred(&tls), Some(("tls-exporter", &[9; 32][..])));
        assert_eq!(octets(&tls, "tls-server-end-point"), Some(&[7; 32][..]));
        assert_eq!(octets(&tls, "tls-unique"), None);
    }
}
