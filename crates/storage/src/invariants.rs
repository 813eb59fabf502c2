//! What always holds of positions, as predicates. The code that rests on one of them checks it as it goes; the simulation
//! checks the same ones from outside, on what it finds in the store.

use crate::{Error, ErrorKind, Position};

/// Frames become visible in the order of their positions, each once.
pub fn goes_on(last: Position, next: Position) -> bool {
    next > last
}

/// In a table's log the positions of one writer only grow, so that no row is committed twice.
pub fn commit_goes_on(committed: Option<i64>, next: i64) -> bool {
    committed.is_none_or(|committed| committed < next)
}

/// Rows of the frames `first ..= last` lie wholly within a commit that reaches `committed`, or wholly beyond it: hot rows and
/// the snapshot never show the same row, and together show each.
pub fn is_undivided(first: Position, last: Position, committed: Position) -> bool {
    first <= last && (last <= committed || committed < first)
}

/// Rows leave memory, and frames leave the log, once they are committed and not before.
pub fn may_go(position: Position, committed: Position) -> bool {
    position <= committed
}

/// What is told where one of these does not hold: nothing is to be done on top of it.
pub(crate) fn broken(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("an invariant is broken, please report this: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_on_and_batches_are_whole() {
        assert!(goes_on(0, 1) && goes_on(3, 7) && !goes_on(3, 3) && !goes_on(3, 2));
        assert!(commit_goes_on(None, 1) && commit_goes_on(Some(1), 2) && !commit_goes_on(Some(2), 2));
        assert!(is_undivided(4, 6, 3) && is_undivided(4, 6, 6) && is_undivided(4, 4, 9));
        assert!(!is_undivided(4, 6, 4) && !is_undivided(4, 6, 5) && !is_undivided(6, 4, 9));
        assert!(may_go(3, 3) && !may_go(4, 3));
    }
}
