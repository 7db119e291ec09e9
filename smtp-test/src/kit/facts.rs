//! What a channel says of itself, and TLS.

use std::future::poll_fn;

use smtp_core::channel::ChannelInfo;

use super::flow::{cannot, ping_pong, send};
use super::{Ends, Passed};

pub(super) async fn facts(mut ends: Ends) -> Result<Passed, String> {
    // What is known of TLS may grow until the handshake is complete.
    cannot("the client's handshake", poll_fn(|cx| ends.client.poll_confirmed(cx)).await)?;
    cannot("the server's handshake", poll_fn(|cx| ends.server.poll_confirmed(cx)).await)?;
    let (client, server) = (ends.client.info(), ends.server.info());
    for (side, info, again) in [("client", &client, ends.client.info()), ("server", &server, ends.server.info())] {
        if *info != again {
            return Err(format!("the {side}'s facts change though nothing has happened"));
        }
        if info.transport.is_empty() {
            return Err(format!("the {side}'s end does not name its transport"));
        }
        sane(side, info)?;
    }
    let agree = [
        ("which transport it is", client.transport == server.transport),
        ("who speaks first", client.client_speaks_first == server.client_speaks_first),
        ("whether TLS is up", client.tls.is_some() == server.tls.is_some()),
        ("which extensions are implied", client.implied == server.implied),
    ];
    match agree.iter().find(|(_, agree)| !agree) {
        None => Ok(Passed::Yes),
        Some((what, _)) => Err(format!("the two ends do not agree {what}")),
    }
}

fn sane(side: &str, info: &ChannelInfo) -> Result<(), String> {
    if info.tls.is_some() && !info.secure {
        return Err(format!("the {side}'s end is under TLS and says that it is not secure"));
    }
    if info.tls.is_some() && info.can_upgrade {
        return Err(format!("the {side}'s end is under TLS and says that it can be upgraded"));
    }
    Ok(())
}

pub(super) async fn confirmed(mut ends: Ends) -> Result<Passed, String> {
    cannot("the client's handshake", poll_fn(|cx| ends.client.poll_confirmed(cx)).await)?;
    cannot("the server's handshake", poll_fn(|cx| ends.server.poll_confirmed(cx)).await)?;
    Ok(Passed::Yes)
}

fn can_upgrade(ends: &Ends) -> bool {
    ends.client.info().can_upgrade && ends.server.info().can_upgrade
}

const NO_STARTTLS: Passed = Passed::NotHere("the channel cannot be upgraded");

pub(super) async fn upgrade(ends: Ends) -> Result<Passed, String> {
    if !can_upgrade(&ends) {
        return refuses_upgrade(ends).await;
    }
    let Ends { client, server, _keep } = ends;
    let (client, server) = tokio::join!(client.upgrade(), server.upgrade());
    let (client, server) = (cannot("the client's upgrade", client)?, cannot("the server's upgrade", server)?);
    for (side, info) in [("client", client.info()), ("server", server.info())] {
        if info.tls.is_none() {
            return Err(format!("the {side}'s end does not know that it is under TLS"));
        }
        sane(side, &info)?;
    }
    ping_pong(&mut Ends { client, server, _keep }).await?;
    Ok(Passed::Yes)
}

/// A channel that says it cannot be upgraded must not be.
async fn refuses_upgrade(ends: Ends) -> Result<Passed, String> {
    let Ends { client, server, _keep } = ends;
    for (side, io) in [("client", client), ("server", server)] {
        if !io.info().can_upgrade && io.upgrade().await.is_ok() {
            return Err(format!("the {side}'s end says that it cannot be upgraded, but was"));
        }
    }
    Ok(NO_STARTTLS)
}

/// Somebody in the middle sends a command in clear before the handshake. It must not come out behind it.
pub(super) async fn leftovers(ends: Ends) -> Result<Passed, String> {
    if !can_upgrade(&ends) {
        return Ok(NO_STARTTLS);
    }
    let Ends { mut client, server, _keep } = ends;
    let client = async move {
        // The server may be gone before it has all of that.
        if send(&mut client, b"NOOP\r\n").await.is_ok() {
            let _ = client.upgrade().await;
        }
    };
    let ((), server) = tokio::join!(client, server.upgrade());
    match server {
        Err(_) => Ok(Passed::Yes),
        Ok(_) => Err("the server's upgrade took clear text for a handshake".to_owned()),
    }
}
