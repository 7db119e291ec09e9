//! A peer that speaks for a client: XCLIENT and XFORWARD.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::Session;
use crate::channel::{ChannelInfo, Identity, Peer};
use crate::extension::{Attribute, Forwarded};
use crate::session::table::State;
use crate::types::{EhloName, Hello};

impl Session {
    /// The session starts over, as if the client that the peer speaks for had connected: the policy is asked about it,
    /// and greets it or not.
    pub(super) fn start_over_for(&mut self, client: Forwarded) {
        let client = client.over(self.claimed.as_deref());
        let info = Arc::make_mut(&mut self.info);
        info.hello = None;
        info.identity =
            client.value(Attribute::Login).map(|user| Identity { user: user.into(), mechanism: "XCLIENT".into() });
        info.client = Some(Box::new(client.clone()));
        claim(&client, &mut info.channel);
        self.claimed = Some(Box::new(client));
        self.extended = false;
        self.transaction = None;
        self.state = State::Opened;
    }

    /// What the peer claims about its client holds on the channel as it is now, too.
    pub(super) fn claim_again(&mut self) {
        if let Some(client) = &self.claimed {
            let info = Arc::make_mut(&mut self.info);
            claim(client, &mut info.channel);
            info.client = Some(client.clone());
        }
    }

    /// A greeting was accepted. The name is the client's, where the peer has told it.
    pub(super) fn greeted_by(&mut self, mut hello: Hello) {
        let claimed = self.claimed.as_ref().and_then(|client| client.value(Attribute::Helo));
        if let Some(Ok(name)) = claimed.map(EhloName::new) {
            hello.name = name;
        }
        Arc::make_mut(&mut self.info).hello = Some(hello);
    }

    /// XFORWARD is about one transaction.
    pub(super) fn forget_forwarded(&mut self) {
        if self.info.client != self.claimed {
            Arc::make_mut(&mut self.info).client = self.claimed.clone();
        }
    }
}

fn claim(client: &Forwarded, channel: &mut ChannelInfo) {
    if client.get(Attribute::Addr).is_some() || client.get(Attribute::Port).is_some() {
        let proxy = Box::new(channel.peer.of_channel().clone());
        channel.peer = Peer::Forwarded { address: client.source(), proxy };
    }
    if client.get(Attribute::DestAddr).is_some() {
        channel.local = client.destination();
    }
}
