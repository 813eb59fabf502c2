//! How many connections a port has, and which one goes when there is no place for a new one.
//!
//! At the limit a connection that has never asked anything makes room, the oldest first; else the one that has been idle for
//! the longest time. So a crowd of silent connections keeps no sender out. Where all of them have requests under way, the new
//! one is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The connections of one port.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Numbers connections and the order in which they became idle.
    next: u64,
    seats: HashMap<u64, Place>,
    /// Who has never asked anything, and who has nothing under way: by the order in which they became so.
    silent: BTreeMap<u64, u64>,
    idle: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Place {
    /// Where it stands in `silent` or `idle`.
    order: u64,
    requests: usize,
    leave: Arc<Notify>,
}

/// One connection's place, given back on drop.
#[derive(Debug)]
pub(crate) struct Seat {
    connections: Arc<Connections>,
    id: u64,
    leave: Arc<Notify>,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Seat>);

impl Connections {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default() })
    }

    /// A place for a new connection, if need be that of one that does nothing; `None` where all are busy.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Arc<Seat>> {
        let mut state = self.state.lock();
        if state.seats.len() >= self.limit && !state.make_room() {
            return None;
        }
        let id = state.next_number();
        let leave = Arc::new(Notify::new());
        state.seats.insert(id, Place { order: id, requests: 0, leave: Arc::clone(&leave) });
        state.silent.insert(id, id);
        Some(Arc::new(Seat { connections: Arc::clone(self), id, leave }))
    }

    /// Sends one away that does nothing, if there is any.
    pub(crate) fn make_room(&self) {
        self.state.lock().make_room();
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn make_room(&mut self) -> bool {
        let Some((_, id)) = self.silent.pop_first().or_else(|| self.idle.pop_first()) else { return false };
        if let Some(place) = self.seats.remove(&id) {
            place.leave.notify_one();
        }
        true
    }

    fn begin(&mut self, id: u64) {
        let Some(place) = self.seats.get_mut(&id) else { return };
        place.requests += 1;
        if place.requests == 1 && self.idle.remove(&place.order).is_none() {
            self.silent.remove(&place.order);
        }
    }

    fn end(&mut self, id: u64) {
        let order = self.next_number();
        let Some(place) = self.seats.get_mut(&id) else { return };
        place.requests -= 1;
        if place.requests == 0 {
            place.order = order;
            self.idle.insert(order, id);
        }
    }

    fn leave(&mut self, id: u64) {
        if let Some(place) = self.seats.remove(&id) {
            self.idle.remove(&place.order);
            self.silent.remove(&place.order);
        }
    }
}

impl Seat {
    /// Waits until this connection has to make room.
    pub(crate) async fn must_leave(&self) {
        self.leave.notified().await;
    }

    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.connections.state.lock().begin(self.id);
        Busy(Arc::clone(self))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.state.lock().leave(self.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.connections.state.lock().end(self.0.id);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn has_to_leave(seat: &Seat) -> bool {
        seat.must_leave().now_or_never().is_some()
    }

    #[test]
    fn the_silent_leave_before_the_idle_and_the_busy_stay() {
        let connections = Connections::new(3);
        let enter = || connections.enter();
        let (busy, idle, silent) = (enter().expect("a place"), enter().expect("a place"), enter().expect("a place"));
        let _request = busy.begin();
        drop(idle.begin());
        let fourth = enter().expect("the silent one's place");
        assert!(has_to_leave(&silent) && !has_to_leave(&idle) && !has_to_leave(&busy));
        let _request_of_fourth = fourth.begin();
        let fifth = enter().expect("the idle one's place");
        assert!(has_to_leave(&idle) && !has_to_leave(&busy));
        let request_of_fifth = fifth.begin();
        assert!(enter().is_none(), "all are busy");
        drop(request_of_fifth);
        let sixth = enter().expect("the fifth's place");
        assert!(has_to_leave(&fifth));
        drop(sixth);
        drop((silent, idle, fifth));
        assert_eq!(connections.state.lock().seats.len(), 2);
    }

    #[test]
    fn the_longest_idle_leaves_first() {
        let connections = Connections::new(2);
        let (first, second) = (connections.enter().expect("a place"), connections.enter().expect("a place"));
        drop(first.begin());
        drop(second.begin());
        drop(first.begin());
        let _third = connections.enter().expect("a place");
        assert!(has_to_leave(&second) && !has_to_leave(&first));
    }

    #[test]
    fn requests_of_one_connection_count_together() {
        let connections = Connections::new(1);
        let seat = connections.enter().expect("a place");
        let (one, two) = (seat.begin(), seat.begin());
        drop(one);
        assert!(connections.enter().is_none());
        drop(two);
        assert!(connections.enter().is_some());
    }
}
