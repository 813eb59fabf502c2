//! Which day's partition an event goes to.

/// Days a request may spread over beside the day of its arrival; events of further days go to that one.
const DATES_MAX: usize = 7;
/// How far before its arrival an event may lie, in days.
const DAYS_BEFORE_MAX: i64 = 400;
/// How far after its arrival an event may lie, in days.
const DAYS_AFTER_MAX: i64 = 1;
const DAY_NS: u64 = 86_400_000_000_000;

/// The days of one request.
#[derive(Debug)]
pub(crate) struct Dates {
    received_unix_nano: u64,
    named: Vec<i32>,
}

impl Dates {
    pub(crate) fn new(received_unix_nano: u64) -> Self {
        Self { received_unix_nano, named: Vec::with_capacity(DATES_MAX) }
    }

    /// The day of arrival.
    pub(crate) fn arrival(&self) -> i32 {
        (self.received_unix_nano / DAY_NS) as i32
    }

    /// The day of an event, where it lies near enough to its arrival and the request has not named too many.
    pub(crate) fn of(&mut self, unix_nano: u64) -> Option<i32> {
        let day = (unix_nano / DAY_NS) as i64;
        let arrival = i64::from(self.arrival());
        if !(arrival - DAYS_BEFORE_MAX..=arrival + DAYS_AFTER_MAX).contains(&day) {
            return None;
        }
        let day = day as i32;
        if !self.named.contains(&day) {
            if self.named.len() == DATES_MAX {
                return None;
            }
            self.named.push(day);
        }
        Some(day)
    }
}
