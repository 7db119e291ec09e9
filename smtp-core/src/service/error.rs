//! From an error to the one reply that the peer gets.

use crate::types::Refusal;

/// The error that layers return.
pub type BoxError = Box<dyn core::error::Error + Send + Sync>;

/// What the peer is told when a service gave no answer.
///
/// Walks the error and its sources: a [`Refusal`] is itself; tower's `Overloaded` (load shed) is 421, which ends the
/// session; tower's `Elapsed` (a timeout) is 451 4.4.2; anything else is 451 4.3.0. The error's own text stays here:
/// it may say more than a stranger should know.
#[must_use]
pub fn reply_for(error: &BoxError) -> Refusal {
    let mut next: Option<&(dyn core::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = next {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return refusal.clone();
        }
        if error.is::<tower::load_shed::error::Overloaded>() {
            return Refusal::fixed(421, (4, 3, 2), "too busy; try again later");
        }
        if error.is::<tower::timeout::error::Elapsed>() {
            return Refusal::fixed(451, (4, 4, 2), "timed out here; try again later");
        }
        next = error.source();
    }
    Refusal::fixed(451, (4, 3, 0), "local error; try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] BoxError);

    #[test]
    fn the_refusal_is_found_behind_other_errors() {
        let refusal = Refusal::fixed(550, (5, 1, 1), "nobody");
        let error: BoxError = Box::new(Wrapped(Box::new(Wrapped(Box::new(refusal.clone())))));
        assert_eq!(reply_for(&error), refusal);
    }

    #[test]
    fn stock_errors_have_their_code_and_strangers_tell_nothing() {
        let shed: BoxError = Box::new(tower::load_shed::error::Overloaded::new());
        assert_eq!(reply_for(&shed).reply().code().get(), 421);
        let late: BoxError = Box::new(tower::timeout::error::Elapsed::new());
        assert_eq!(reply_for(&late).reply().code().get(), 451);
        let secret: BoxError = "password of the database is hunter2".into();
        assert!(!reply_for(&secret).to_string().contains("hunter2"));
    }
}
