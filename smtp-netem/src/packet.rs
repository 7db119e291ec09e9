//! As much of IPv4, UDP and TCP as a link and a NAT have to know (RFC 791, 768, 9293).

use std::fmt;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where things are in an IPv4 packet that holds a first or only fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) protocol: u8,
    /// Where the transport's header begins; `None` in a later fragment, which has none.
    transport: Option<usize>,
}

/// A port's place in the transport's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Source,
    Destination,
}

impl Layout {
    /// `None` unless it is IPv4.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let header = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || header < 20 || packet.len() < header {
            return None;
        }
        let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
        Some(Self { protocol: *packet.get(9)?, transport: (fragment == 0).then_some(header) })
    }

    pub(crate) const fn is_udp(&self) -> bool {
        self.protocol == UDP
    }

    fn place(&self, port: Port) -> Option<usize> {
        let header = self.transport.filter(|_| matches!(self.protocol, TCP | UDP))?;
        Some(header + if port == Port::Source { 0 } else { 2 })
    }

    pub(crate) fn port(&self, packet: &[u8], port: Port) -> Option<u16> {
        let place = self.place(port)?;
        Some(u16::from_be_bytes([*packet.get(place)?, *packet.get(place + 1)?]))
    }

    /// Writes another port into a UDP packet, and the checksum that goes with it.
    pub(crate) fn set_udp_port(&self, packet: &mut [u8], port: Port, to: u16) {
        let (true, Some(old), Some(place), Some(header)) =
            (self.is_udp(), self.port(packet, port), self.place(port), self.transport)
        else {
            return;
        };
        let Some(sum) = packet.get(header + 6..header + 8) else { return };
        let sum = u16::from_be_bytes([sum[0], sum[1]]);
        // 0 says that there is no checksum; one that comes out as 0 is written as its twin (RFC 768).
        if sum != 0 {
            let new = match adjusted(sum, old, to) {
                0 => 0xffff,
                new => new,
            };
            packet[header + 6..header + 8].copy_from_slice(&new.to_be_bytes());
        }
        packet[place..place + 2].copy_from_slice(&to.to_be_bytes());
    }

    /// `tcp 50000 > 25 SA`, `udp 50000 > 443`.
    pub(crate) fn describe(&self, packet: &[u8]) -> String {
        let ports = self.port(packet, Port::Source).zip(self.port(packet, Port::Destination));
        match (self.protocol, ports) {
            (UDP, Some((from, to))) => format!("udp {from} > {to}"),
            (TCP, Some((from, to))) => {
                let flags = self.transport.and_then(|header| packet.get(header + 13)).copied().unwrap_or(0);
                format!("tcp {from} > {to} {}", Flags(flags))
            }
            (UDP | TCP, None) => "fragment".to_owned(),
            (1, _) => "icmp".to_owned(),
            (other, _) => format!("protocol {other}"),
        }
    }
}

/// RFC 1624 §3, eqn. 3.
fn adjusted(sum: u16, old: u16, new: u16) -> u16 {
    let mut total = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap_or(u16::MAX)
}

struct Flags(u8);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(0x02, "S"), (0x01, "F"), (0x04, "R"), (0x08, "P"), (0x10, "A")] {
            if self.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// An IPv4 packet with a UDP header, `octets` long in all (at least 28) and with zeros in it, to offer to a
/// [`Link`](crate::Link). The UDP checksum is right, the header's is left out.
#[must_use]
pub fn udp_packet(octets: usize, from: u16, to: u16) -> Vec<u8> {
    let octets = octets.clamp(28, 0xffff);
    let mut packet = vec![0; octets];
    let total = u16::try_from(octets).unwrap_or(u16::MAX);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[8..10].copy_from_slice(&[64, UDP]);
    packet[12..20].copy_from_slice(&[198, 18, 0, 1, 198, 18, 0, 2]);
    packet[20..22].copy_from_slice(&from.to_be_bytes());
    packet[22..24].copy_from_slice(&to.to_be_bytes());
    packet[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    let sum = udp_checksum(&packet);
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The checksum that belongs into a UDP packet with a header of 20 octets (RFC 768); what stands there does not count.
fn udp_checksum(packet: &[u8]) -> u16 {
    let length = u32::try_from(packet.len() - 20).unwrap_or(u32::MAX);
    let words = |octets: &[u8]| -> u32 {
        octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let mut total = words(&packet[12..26]) + words(&packet[28..]) + u32::from(UDP) + length;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    match !u16::try_from(total).unwrap_or(u16::MAX) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_written_over_keeps_the_checksum_right() {
        for (from, to, octets) in [(50_000, 443, 100), (1, 65_535, 29), (0xabcd, 0x1234, 1_500)] {
            let mut packet = udp_packet(octets, from, to);
            let layout = Layout::of(&packet).unwrap();
            for (port, new) in [(Port::Source, 1_024), (Port::Destination, 65_535), (Port::Source, 0)] {
                layout.set_udp_port(&mut packet, port, new);
                assert_eq!(layout.port(&packet, port), Some(new));
                assert_eq!(u16::from_be_bytes([packet[26], packet[27]]), udp_checksum(&packet), "{port:?} {new}");
            }
        }
    }

    #[test]
    fn a_missing_checksum_stays_missing() {
        let mut packet = udp_packet(40, 1_000, 2_000);
        packet[26..28].fill(0);
        Layout::of(&packet).unwrap().set_udp_port(&mut packet, Port::Source, 7);
        assert_eq!(packet[26..28], [0, 0]);
    }

    #[test]
    fn what_is_no_ipv4_or_has_no_ports_is_known() {
        let mut packet = udp_packet(40, 1_000, 2_000);
        assert_eq!(Layout::of(&packet[..19]), None);
        assert_eq!(Layout::of(&[]), None);
        packet[7] = 1;
        assert_eq!(Layout::of(&packet).unwrap().port(&packet, Port::Source), None);
        packet[0] = 0x65;
        assert_eq!(Layout::of(&packet), None);
    }
}
