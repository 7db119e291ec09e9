//! A NAT that can forget.

use std::collections::HashSet;

use crate::packet::{Layout, Port};

/// Rewrites the port of UDP packets from inside, and back. At first every port is its own; after [`Nat::rebind`] the
/// other side sees others, and what it still sends to the old ones gets nowhere: what a home router does that was
/// restarted. TCP passes untouched.
#[derive(Debug, Clone, Default)]
pub struct Nat {
    /// Outside is inside with these bits turned. Below 1024, so that no port becomes a privileged one.
    turned: u16,
    /// Outside ports in use since the last rebinding; at most 65,536.
    bound: HashSet<u16>,
}

impl Nat {
    /// Forgets all; the next packets of each port get another one, other than any `turn` below 1024 has given before.
    /// (0 gives every port itself.)
    pub fn rebind(&mut self, turn: u16) {
        self.turned = turn & 0x3ff;
        self.bound.clear();
    }

    /// A packet leaves.
    pub fn outbound(&mut self, packet: &mut [u8]) {
        if let Some((layout, port)) = udp_port(packet, Port::Source) {
            let outside = port ^ self.turned;
            self.bound.insert(outside);
            layout.set_udp_port(packet, Port::Source, outside);
        }
    }

    /// A packet comes; false if it is for a port that nobody inside has.
    #[must_use]
    pub fn inbound(&self, packet: &mut [u8]) -> bool {
        match udp_port(packet, Port::Destination) {
            Some((_, outside)) if !self.bound.contains(&outside) => false,
            Some((layout, outside)) => {
                layout.set_udp_port(packet, Port::Destination, outside ^ self.turned);
                true
            }
            None => true,
        }
    }
}

fn udp_port(packet: &[u8], port: Port) -> Option<(Layout, u16)> {
    let layout = Layout::of(packet).filter(Layout::is_udp)?;
    Some((layout, layout.port(packet, port)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp_packet;

    fn ports(packet: &[u8]) -> (u16, u16) {
        let layout = Layout::of(packet).unwrap();
        (layout.port(packet, Port::Source).unwrap(), layout.port(packet, Port::Destination).unwrap())
    }

    #[test]
    fn answers_find_back_until_the_nat_forgets() {
        let mut nat = Nat::default();
        let out = |nat: &mut Nat| {
            let mut packet = udp_packet(50, 50_000, 443);
            nat.outbound(&mut packet);
            ports(&packet).0
        };
        let back = |nat: &Nat, to| {
            let mut packet = udp_packet(50, 443, to);
            nat.inbound(&mut packet).then(|| ports(&packet).1)
        };
        assert_eq!(back(&nat, 50_000), None, "nobody has asked yet");
        assert_eq!(out(&mut nat), 50_000);
        assert_eq!(back(&nat, 50_000), Some(50_000));
        nat.rebind(5);
        assert_eq!(back(&nat, 50_000), None, "the old port is forgotten");
        let new = out(&mut nat);
        assert_ne!(new, 50_000);
        assert_eq!(back(&nat, new), Some(50_000));
        assert_eq!(back(&nat, 50_000), None);
    }
}
