//! The sessions that a server remembers for resumption.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashlink::LinkedHashMap;
use rustls::server::StoresServerSessions;

/// The last so many sessions, by the name that the client has for each. That of rustls looks through all of them to take
/// one out, which every resumption in TLS 1.3 does; here that costs the same however many there are.
pub(crate) struct Sessions {
    most: usize,
    known: Mutex<LinkedHashMap<Vec<u8>, Vec<u8>>>,
}

impl Sessions {
    /// Remembers up to `most`; after that the oldest goes when one comes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, LinkedHashMap<Vec<u8>, Vec<u8>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, name: Vec<u8>, session: Vec<u8>) -> bool {
        let mut known = self.known();
        known.insert(name, session);
        if known.len() > self.most {
            known.pop_front();
        }
        true
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.known().get(name).cloned()
    }

    fn take(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.known().remove(name)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for Sessions {
    /// Never the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_what_was_taken_is_gone() {
        let sessions = Sessions::new(2);
        let put = |name: u8| assert!(sessions.put(vec![name], vec![name, name]));
        put(1);
        put(2);
        // To look at one makes it no younger: a session shall not live for ever by being used.
        assert_eq!(sessions.get(&[1]), Some(vec![1, 1]));
        put(3);
        assert_eq!(sessions.get(&[1]), None);
        assert_eq!(sessions.take(&[2]), Some(vec![2, 2]));
        assert_eq!(sessions.take(&[2]), None);
        put(4);
        assert_eq!(sessions.get(&[3]), Some(vec![3, 3]));
        assert_eq!(sessions.get(&[4]), Some(vec![4, 4]));
    }
}
